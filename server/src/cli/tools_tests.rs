//! Profiles and `keelson config`: which value counts, where it comes from, and how it is shown.

use serde_json::Value;

use super::super::{CliError, Invocation, parse};
use super::*;
use crate::config::{Config, CoreSelection, Standing, all_flags};

/// Files that the tests can name.
const FILES: &[(&str, &str)] = &[
    (
        "my.toml",
        "cores = 1\n[wal]\ndepth = 7\ngroup_delay_us = 70\n",
    ),
    ("wrong.toml", "cores = 1\n[wal]\ndepht = 7\n"),
    ("cores.toml", "cores = \"none\"\n"),
    ("k.yml", "profile: my.toml\nwal:\n  depth: 9\n"),
];

fn read(path: &str) -> Result<String, String> {
    let file = FILES.iter().find(|(name, _)| *name == path);
    file.map(|(_, text)| (*text).to_owned())
        .ok_or_else(|| "the test has no such file".to_owned())
}

fn invoke(arguments: &str, environment: &[(&str, &str)]) -> Result<Invocation, CliError> {
    let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    let environment: Vec<(String, String)> = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    parse(&arguments, &environment, read)
}

fn printed(arguments: &str, environment: &[(&str, &str)]) -> String {
    match invoke(arguments, environment) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("{arguments} prints: {other:?}"),
    }
}

fn served(arguments: &str, environment: &[(&str, &str)]) -> (Config, Vec<String>) {
    match invoke(arguments, environment) {
        Ok(Invocation::Serve(serve)) => {
            let notices = serve.notices.into_iter().map(|notice| notice.text);
            (serve.config, notices.collect())
        }
        other => panic!("{arguments} serves: {other:?}"),
    }
}

fn error(arguments: &str) -> String {
    match invoke(arguments, &[]) {
        Err(error) => error.to_string(),
        Ok(invocation) => panic!("{arguments} should not work: {invocation:?}"),
    }
}

/// Value and places of a setting, as JSON has them.
fn found(document: &str, name: &str) -> (String, Vec<String>) {
    let document: Value = serde_json::from_str(document).unwrap();
    let settings = document["settings"].as_array().unwrap();
    let setting = settings.iter().find(|row| row["name"] == name).unwrap();
    let places = setting["from"].as_array().unwrap();
    (
        setting["value"].as_str().unwrap().to_owned(),
        places
            .iter()
            .map(|place| place.as_str().unwrap().to_owned())
            .collect(),
    )
}

#[test]
fn flags_come_before_the_environment_and_both_before_the_profile() {
    let variables = [("KEELSON_WAL_DEPTH", "5"), ("KEELSON_PROFILE", "my.toml")];
    for (arguments, variables, depth, delay, cores) in [
        ("", &[][..], 4, 0, CoreSelection::Auto),
        ("--profile=my.toml", &[], 7, 70, CoreSelection::Count(1)),
        ("", &variables, 5, 70, CoreSelection::Count(1)),
        ("--wal-depth 3", &variables, 3, 70, CoreSelection::Count(1)),
        (
            "--cores=0-1",
            &variables,
            5,
            70,
            CoreSelection::List(vec![0, 1]),
        ),
        (
            "--profile= --wal-depth=3",
            &variables,
            3,
            0,
            CoreSelection::Auto,
        ),
        (
            "--config-file=k.yml",
            &variables,
            9,
            70,
            CoreSelection::Count(1),
        ),
        (
            "--config-file=k.yml --profile=nvme",
            &[],
            9,
            70,
            CoreSelection::Count(1),
        ),
    ] {
        let (config, _) = served(arguments, variables);
        let wal = &config.tuning.wal;
        assert_eq!(
            (wal.depth, wal.group_delay_us),
            (depth, delay),
            "{arguments}"
        );
        assert_eq!(config.cores, cores, "{arguments}");
    }
}

#[test]
fn the_log_says_what_a_profile_sets_and_what_a_config_file_puts_aside() {
    let (_, notices) = served("--profile=my.toml --wal-depth=3", &[]);
    assert_eq!(
        notices,
        ["profile my.toml sets cores=1 wal-group-delay-us=70"]
    );
    let (_, notices) = served("--profile=nvme --config-file=k.yml", &[]);
    assert_eq!(
        notices,
        [
            "the configuration comes from k.yml",
            "a config file is given, so these are left aside: --profile",
            "profile my.toml sets cores=1 wal-group-delay-us=70",
        ]
    );
}

/// Every built-in profile fits the other settings at their defaults.
#[test]
fn every_profile_makes_a_configuration() {
    for (name, _) in PROFILES {
        let (config, _) = served(&format!("--profile={name}"), &[]);
        assert_eq!(config.profile.as_deref(), Some(*name));
        let mut plain = config.clone();
        plain.profile = None;
        assert_ne!(plain, Config::default(), "{name} changes nothing");
    }
}

#[test]
fn a_profile_that_cannot_be_used_is_explained() {
    for (arguments, message) in [
        (
            "--profile=fast",
            "there is no profile \"fast\"; the profiles are dev, nvme, ",
        ),
        (
            "--profile=./gone.toml",
            "invalid value \"./gone.toml\" for --profile: cannot read the file: the test has no such file",
        ),
        (
            "--profile=wrong.toml",
            "wrong.toml:3: unknown key wal.depht; allowed are depth, ",
        ),
        (
            "--profile=cores.toml",
            "invalid value \"none\" for cores in profile cores.toml: expected auto, all, a count",
        ),
        ("config profile fast", "there is no profile \"fast\"; "),
    ] {
        let text = error(arguments);
        assert!(text.starts_with(message), "{arguments}: {text}");
    }
}

#[test]
fn every_setting_says_where_it_comes_from() {
    let variables = [
        ("KEELSON_PROFILE", "my.toml"),
        ("ETCD_MAX_TXN_OPS", "9"),
        ("ETCD_WAL_DIR", ""),
    ];
    let flags = "config show --output=json --wal-depth=3 --data-dir= --snapshot-count=5 \
                 --experimental-watch-progress-notify-interval=5ms \
                 --experimental-initial-corrupt-check --feature-gates=CompactHashCheck=true";
    let document = printed(flags, &variables);
    let gates = "CompactHashCheck=true,FastLeaseKeepAlive=true,InitialCorruptCheck=true,\
                 LeaseCheckpoint=false,LeaseCheckpointPersist=false,PriorityRequest=false,\
                 SetMemberLocalAddr=false,StopGRPCServiceOnDefrag=false,\
                 TxnModeWriteWithSharedBuffer=true";
    for (name, value, places) in [
        ("wal-depth", "3", &["flag --wal-depth"][..]),
        ("wal-group-delay-us", "70", &["profile my.toml"]),
        ("wal-segment-bytes", "67108864", &["default"]),
        ("cores", "1", &["profile my.toml"]),
        ("profile", "my.toml", &["environment KEELSON_PROFILE"]),
        ("max-txn-ops", "9", &["environment ETCD_MAX_TXN_OPS"]),
        ("data-dir", "default.keelson", &["default"]),
        ("quota-backend-bytes", "2147483648", &["default"]),
        ("snapshot-count", "5", &["flag --snapshot-count"]),
        ("wal-dir", "", &["default"]),
        (
            "watch-progress-notify-interval",
            "100ms",
            &["flag --experimental-watch-progress-notify-interval"],
        ),
        (
            "feature-gates",
            gates,
            &[
                "flag --experimental-initial-corrupt-check",
                "flag --feature-gates",
            ],
        ),
    ] {
        let expected = (
            value.to_owned(),
            places.iter().map(ToString::to_string).collect(),
        );
        assert_eq!(found(&document, name), expected, "{name}");
    }
    let document: Value = serde_json::from_str(&document).unwrap();
    let notices = document["notices"].as_array().unwrap();
    assert!(
        notices
            .iter()
            .any(|text| text.as_str().unwrap().starts_with("profile my.toml sets ")),
        "{notices:?}"
    );
    let document = printed("config show --config-file=k.yml --output json", &[]);
    for (name, value, place) in [
        ("config-file", "k.yml", "flag --config-file"),
        ("profile", "my.toml", "config file k.yml"),
        ("wal-depth", "9", "config file k.yml"),
        ("wal-group-delay-us", "70", "profile my.toml"),
    ] {
        let expected = (value.to_owned(), vec![place.to_owned()]);
        assert_eq!(found(&document, name), expected, "{name}");
    }
}

#[test]
fn every_flag_of_today_is_shown_in_every_format() {
    let text = printed("config show", &[]);
    let json = printed("config show --output=json", &[]);
    let yaml = printed("config show --output=yaml", &[]);
    let mut count = 0;
    for flag in all_flags() {
        if matches!(
            flag.standing,
            Standing::Renamed(_) | Standing::Gate(_) | Standing::Ignored
        ) {
            continue;
        }
        if text.contains(&format!("\n  {} ", flag.name)) {
            count += 1;
            found(&json, flag.name);
            let key = match flag.standing {
                Standing::Tuning(row) => row.key,
                _ => flag.name,
            };
            assert!(yaml.contains(&format!("{key}: ")), "{}", flag.name);
        } else {
            // Of another release.
            assert!(
                matches!(flag.standing, Standing::Idle(_) | Standing::Later(_)),
                "{}",
                flag.name
            );
        }
    }
    assert!(count > 100, "{count}");
    assert!(text.starts_with("Member:\n  name "), "{text}");
}

/// What is shown makes the same member: as flags, and as a config file.
#[test]
fn what_is_shown_makes_the_same_configuration() {
    for arguments in [
        "",
        "--profile=cloud-disk --cores=1-1",
        "--profile=many-watchers --name=m1 --quota-backend-bytes=-1 --auto-compaction-mode=revision \
         --auto-compaction-retention=1000 --log-level=warn --log-format=console --unsafe-no-fsync \
         --listen-client-urls=http://127.0.0.1:1,http://[::1]:2 \
         --advertise-client-urls=http://a:1,http://b:2 --listen-metrics-urls=http://127.0.0.1:3 \
         --grpc-keepalive-interval=0s --heartbeat-interval=50 --election-timeout=1500 \
         --initial-cluster-state=existing --auto-compaction-retention=90 \
         --feature-gates=AllAlpha=true --warning-apply-duration=1.5s --wal-depth=1",
        "--auto-compaction-retention=90m --log-outputs=stdout --max-txn-ops=1",
    ] {
        let (config, _) = served(arguments, &[]);
        let show = |output| printed(&format!("config show --output={output} {arguments}"), &[]);
        let document: Value = serde_json::from_str(&show("json")).unwrap();
        let flags: Vec<String> = document["settings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["effect"] == "used" && row["name"] != "config-file")
            .map(|row| {
                let (name, value) = (row["name"].as_str(), row["value"].as_str());
                format!("--{}={}", name.unwrap(), value.unwrap())
            })
            .collect();
        assert_eq!(served(&flags.join(" "), &[]).0, config, "{arguments}");

        let yaml = show("yaml");
        let read = |_: &str| Ok(yaml.clone());
        let again = parse(&["--config-file=shown.yml".to_owned()], &[], read);
        let Ok(Invocation::Serve(serve)) = again else {
            panic!("{yaml}: {again:?}");
        };
        assert_eq!(serve.config, config, "{yaml}");
    }
}

#[test]
fn profiles_and_their_document_are_printed() {
    let list = printed("config profiles", &[]);
    assert_eq!(list.lines().count(), PROFILES.len());
    for (name, text) in PROFILES {
        let summary = Profile::built_in(name).unwrap().summary;
        assert!(list.contains(&summary), "{name}");
        assert_eq!(printed(&format!("config profile {name}"), &[]), *text);
    }
    assert_eq!(printed("config defaults", &[]), defaults_document());
}

#[test]
fn the_doctor_looks_for_the_member_that_the_flags_describe() {
    let flags = "--profile=my.toml --data-dir=/d --unsafe-no-fsync";
    let Ok(Invocation::Doctor(doctor)) = invoke(&format!("doctor {flags} -output json"), &[])
    else {
        panic!("the doctor is asked");
    };
    let (config, notices) = served(flags, &[]);
    assert_eq!(doctor.config, config);
    assert_eq!(doctor.notices[0].text, notices[0]);
    assert_eq!(doctor.output, Output::Json);
    assert!(printed("doctor --help", &[]).starts_with("Usage:"));
}

#[test]
fn words_that_make_no_sense_are_named() {
    for (arguments, message) in [
        ("config", CONFIG_USAGE),
        ("config profile", CONFIG_USAGE),
        ("config frob", CONFIG_USAGE),
        (
            "config show now",
            "unexpected word \"now\" on the command line; --help shows the usage",
        ),
        (
            "version 2",
            "unexpected word \"2\" on the command line; --help shows the usage",
        ),
        (
            "config show --output=xml",
            "invalid value \"xml\" for --output: expected one of text, json, yaml",
        ),
        (
            "doctor --output=yaml",
            "invalid value \"yaml\" for --output: expected one of text, json",
        ),
        (
            "doctor me",
            "unexpected word \"me\" on the command line; --help shows the usage",
        ),
        ("config show --output", "--output needs a value"),
        (
            "config profiles --output=json",
            "unknown flag --output; --help lists all flags",
        ),
        (
            "config show --nmae=a",
            "unknown flag --nmae, did you mean --name; --help lists all flags",
        ),
    ] {
        assert_eq!(error(arguments), message, "{arguments}");
        assert_eq!(
            invoke(arguments, &[]).unwrap_err().exit_code(),
            2,
            "{arguments}"
        );
    }
    assert!(printed("config show --help", &[]).starts_with("Usage:"));
}
