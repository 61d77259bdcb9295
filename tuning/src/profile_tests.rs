//! The built-in profiles are sound, and wrong ones are explained.

use std::collections::BTreeSet;

use super::*;

fn error(text: &str) -> String {
    Profile::parse("my.toml", text).unwrap_err().to_string()
}

#[test]
fn every_built_in_profile_passes_every_check() {
    for (name, _) in PROFILES {
        let profile = Profile::built_in(name).unwrap();
        assert_eq!(profile.name, *name);
        assert!(!profile.values.is_empty(), "{name} sets nothing");
        assert!(!profile.summary.is_empty(), "{name} has no summary");
        assert!(profile.summary.len() <= 80, "{name}: a summary is short");
        let mut tuning = Tuning::default();
        profile.apply(&mut tuning);
        assert_eq!(tuning.check(), Ok(()), "{name}");
        assert!(!Profile::is_path(name), "{name} would be taken for a file");
    }
}

#[test]
fn every_file_in_the_folder_is_built_in() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let names: BTreeSet<String> = PROFILES
        .iter()
        .map(|(name, _)| format!("{name}.toml"))
        .collect();
    assert_eq!(files, names);
}

/// A value says why it is so in a comment above it; one that is the default all the same says that.
#[test]
fn every_value_of_a_built_in_profile_says_why() {
    for (name, text) in PROFILES {
        let lines: Vec<&str> = text.lines().collect();
        let profile = Profile::built_in(name).unwrap();
        for value in &profile.values {
            let above: Vec<&str> = lines[..value.line - 1]
                .iter()
                .rev()
                .take_while(|line| line.starts_with("# "))
                .copied()
                .collect();
            assert!(!above.is_empty(), "{name}:{}: no reason given", value.line);
            let is_default = match &value.key {
                ProfileKey::Cores(cores) => cores == "auto",
                ProfileKey::Setting(setting, number) => *number == setting.default,
            };
            let says_so = above.iter().any(|line| line.contains("default"));
            assert!(
                !is_default || says_so,
                "{name}:{}: the default, unexplained",
                value.line
            );
        }
    }
}

#[test]
fn values_keep_their_lines_and_their_order() {
    let text = "summary = \"mine\"\ncores = 2\n\n[runtime]\n# Why.\ndrain_ms = 0x10\n[wal]\ngroup-delay-us = 1_000\n";
    let profile = Profile::parse("my.toml", text).unwrap();
    assert_eq!((&*profile.name, &*profile.summary), ("my.toml", "mine"));
    let found: Vec<(String, String, usize)> = profile
        .values
        .iter()
        .map(|value| (value.flag(), value.text(), value.line))
        .collect();
    let wanted = [
        ("cores", "2", 2),
        ("runtime-drain-ms", "16", 6),
        ("wal-group-delay-us", "1000", 8),
    ];
    assert_eq!(
        found,
        wanted.map(|(flag, value, line)| (flag.to_owned(), value.to_owned(), line))
    );
    let mut tuning = Tuning::default();
    profile.apply(&mut tuning);
    assert_eq!(
        (tuning.runtime.drain_ms, tuning.wal.group_delay_us),
        (16, 1000)
    );
    assert!(Profile::parse("empty.toml", "").unwrap().values.is_empty());
}

#[test]
fn what_is_wrong_is_said_with_file_line_and_what_is_allowed() {
    for (text, message) in [
        (
            "# mine\n\n[wal]\ndepht = 1\n",
            "my.toml:4: unknown key wal.depht; allowed are depth, group_bytes_max, ",
        ),
        (
            "[nonsense]\nx = 1\n",
            "my.toml:1: unknown key nonsense; allowed are summary, cores, [wal], ",
        ),
        (
            "\nname = \"m1\"\n",
            "my.toml:2: unknown key name; allowed are summary, cores, [wal], ",
        ),
        (
            "[wal]\ndepth = 2\ngroup_bytes_max = 17\n",
            "my.toml:3: wal.group_bytes_max is 17, but must be between 4096 and 16777216",
        ),
        (
            "[wal]\ndepth = \"2\"\n",
            "my.toml:2: wal.depth must be a whole number between 1 and 16",
        ),
        (
            "[wal]\ndepth = -1\n",
            "my.toml:2: wal.depth must be a whole number between 1 and 16",
        ),
        (
            "wal = 3\n",
            "my.toml:1: wal is a section, write [wal] and its keys below",
        ),
        (
            "cores = [0, 1]\n",
            "my.toml:1: cores must be \"auto\", \"all\", a count such as 2, or a list such as \"0,2-3\"",
        ),
        (
            "summary = 1\n",
            "my.toml:1: summary must be one line of text",
        ),
        (
            "summary = \"\"\"\na\nb\"\"\"\n",
            "my.toml:1: summary must be one line of text",
        ),
    ] {
        assert!(error(text).starts_with(message), "{}", error(text));
    }
    for (text, part) in [
        ("cores = 1\n[wal\ndepth = 1\n", "my.toml:2: not TOML: "),
        (
            "[wal]\ndepth = 1\ndepth = 2\n",
            "my.toml:3: not TOML: duplicate key",
        ),
    ] {
        assert!(error(text).starts_with(part), "{}", error(text));
    }
}

#[test]
fn an_unknown_name_lists_the_names() {
    assert_eq!(
        Profile::built_in("nvm").unwrap_err().to_string(),
        "there is no profile \"nvm\"; the profiles are dev, nvme, cloud-disk, small-vm, many-watchers, kube-large, and a file of your own is named by a path with a slash or .toml at its end"
    );
}
