//! The rules of the house that a program can check, over every file that git knows.
//!
//! Each test is one rule and names every place that breaks it. Lists of exceptions are ratchets:
//! an entry that is no longer needed fails the test too, so a list can only shrink.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 1_000;
const FUNCTION_LINES_MAX: usize = 70;

/// Files over the limit of lines: (path).
const LONG_FILES: &[&str] = &[];

/// Functions over the limit of lines: (path, name).
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    (
        "server/src/cli/parse_tests.rs",
        "every_used_flag_changes_its_setting",
    ),
    (
        "server/src/cli/parse_tests.rs",
        "what_must_be_mended_is_said_in_one_sentence",
    ),
    (
        "server/src/cli/parse_tests.rs",
        "a_config_file_is_read_in_etcds_layout",
    ),
    (
        "server/src/front/front_tests.rs",
        "unary_calls_of_all_sizes_and_their_errors",
    ),
    (
        "server/src/front/http_tests.rs",
        "livez_and_readyz_run_their_checks",
    ),
    (
        "server/src/observe/registry_tests.rs",
        "cores_are_summed_and_labels_written_as_etcd_writes_them",
    ),
    ("storage/src/state/machine_tests.rs", "g_q_1_alarms_refuse"),
    ("storage/src/state/machine_tests.rs", "apply_is_total"),
    ("storage/src/state/txn_tests.rs", "g_kv_4_compares"),
    (
        "storage/src/state/txn_tests.rs",
        "g_kv_4_checks_come_before_execution",
    ),
    (
        "storage/src/state/validate_tests.rs",
        "g_kv_4_duplicate_keys",
    ),
];

/// Files that may name locks and read-modify-write atomics: (path, why it is not on the request
/// path).
const LOCK_FILES: &[(&str, &str)] = &[
    (
        "server/src/runtime/cores.rs",
        "one wake-up per batch between cores, and counters of rare events",
    ),
    (
        "server/src/runtime/ring.rs",
        "a sender that waits for room is told once",
    ),
    (
        "server/sim/src/disk.rs",
        "the world's handle of a disk stays while a thread reads the log from another",
    ),
    (
        "storage/src/mvcc/slab.rs",
        "versions are counted by the block and let go on any thread; a lock a block for those used again",
    ),
];

/// The names of the top level, dot-files aside.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "consensus",
    "proto",
    "server",
    "storage",
    "tuning",
];

/// Rooms whose code is input in, actions out: no files, sockets, clocks, threads, chance.
const SANS_IO: &[&str] = &["consensus/src/", "storage/src/mvcc/", "storage/src/state/"];

const SANS_IO_WORDS: &[&str] = &[
    "fs::",
    "net::",
    "thread::",
    "process::",
    "env::",
    "Instant",
    "SystemTime",
    "rand",
    "HashMap",
    "HashSet",
    "RandomState",
    "glommio",
    "tokio",
    "io_uring",
];

const LOCK_WORDS: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    ".fetch_add(",
    ".fetch_sub(",
    ".fetch_and(",
    ".fetch_or(",
    ".fetch_xor(",
    ".fetch_max(",
    ".fetch_min(",
    ".fetch_update(",
    ".swap(",
    ".compare_exchange(",
    ".compare_exchange_weak(",
];

/// A file that git knows.
struct Source {
    path: String,
    text: String,
    /// Lives where only tests live.
    is_test: bool,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Numbered lines without comments and without items under `#[cfg(test)]`.
    fn production_lines(&self) -> Vec<(usize, String)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut kept = Vec::new();
        let mut at = 0;
        while at < lines.len() {
            if lines[at].trim_start().starts_with("#[cfg(test)]") {
                at = item_end(&lines, at + 1) + 1;
                continue;
            }
            let code = without_comment(lines[at]);
            if !code.trim().is_empty() {
                kept.push((at + 1, code.to_owned()));
            }
            at += 1;
        }
        kept
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources() -> Vec<Source> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .expect("git is needed to list the repository");
    assert!(output.status.success(), "git ls-files: {output:?}");
    let names = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let mut sources: Vec<Source> = names
        .split_terminator('\0')
        // A file may be deleted and not yet committed; binary files have no lines to check.
        .filter_map(|path| Some((path, fs::read_to_string(root().join(path)).ok()?)))
        .map(|(path, text)| Source {
            path: path.to_owned(),
            text,
            is_test: false,
        })
        .collect();
    let test_modules: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let path = &source.path;
        let is_module = |module: &String| {
            path.strip_prefix(module.as_str())
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        source.is_test = path.contains("/tests/")
            || path.ends_with("_tests.rs")
            || test_modules.iter().any(is_module);
    }
    sources
}

/// Modules that a file declares under `#[cfg(test)]`, as paths without `.rs`.
fn test_modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let folder = match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    let lines: Vec<&str> = source.text.lines().collect();
    let declared = lines.windows(2).filter_map(|two| {
        let name = two[1].trim().strip_suffix(';')?.rsplit_once("mod ")?.1;
        (two[0].trim() == "#[cfg(test)]").then(|| format!("{folder}/{name}"))
    });
    declared.collect()
}

/// The last line of the item that begins at or after `start` (attributes first), as rustfmt lays
/// it out: a line of the same indent that begins with `}`, or a line that ends with `;`.
fn item_end(lines: &[&str], start: usize) -> usize {
    let mut first = start;
    while first < lines.len() && lines[first].trim_start().starts_with("#[") {
        first += 1;
    }
    let Some(head) = lines.get(first) else {
        return lines.len();
    };
    let indent = head.len() - head.trim_start().len();
    let mut is_open = false;
    for (at, line) in lines.iter().enumerate().skip(first) {
        let same_indent = line.len() - line.trim_start().len() == indent;
        let code = without_comment(line).trim_end();
        let is_one_line = at == first && code.ends_with('}');
        let closes = line.trim_start().starts_with('}') || (code.ends_with(';') && !is_open);
        if is_one_line || (same_indent && closes) {
            return at;
        }
        is_open |= code.ends_with('{');
    }
    lines.len()
}

fn without_comment(line: &str) -> &str {
    let mut from = 0;
    while let Some(found) = line[from..].find("//") {
        let at = from + found;
        // Not the two slashes of a URL.
        if !line[..at].ends_with(':') {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

/// Whether `word` stands in `line` as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && (word.ends_with(':') || !after.is_some_and(is_part))
    })
}

#[track_caller]
fn none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn the_top_level_is_as_agreed() {
    let found: BTreeSet<String> = sources()
        .iter()
        .filter_map(|source| source.path.split('/').next())
        .filter(|name| !name.starts_with('.'))
        .map(str::to_owned)
        .collect();
    let wanted: BTreeSet<String> = TOP_LEVEL.iter().map(|&name| name.to_owned()).collect();
    let strange: Vec<String> = found.symmetric_difference(&wanted).cloned().collect();
    none("strange or missing at the top level", &strange);
}

#[test]
fn files_are_short() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let lines = source.text.lines().count();
        let listed = LONG_FILES.contains(&source.path.as_str());
        if lines > FILE_LINES_MAX && !listed {
            offences.push(format!("{}: {lines} lines", source.path));
        }
        if lines <= FILE_LINES_MAX && listed {
            offences.push(format!(
                "{}: is short now, take it off the list",
                source.path
            ));
        }
    }
    none("files over 1,000 lines", &offences);
}

/// Every function of a file as rustfmt lays it out: name, first line, number of lines.
fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = without_comment(line);
        let Some((before, after)) = code.split_once("fn ") else {
            continue;
        };
        let is_head = before.split_whitespace().all(|word| {
            ["async", "const", "extern", "unsafe", "\"C\""].contains(&word)
                || word.starts_with("pub")
                || word.ends_with(')')
        });
        let name: String = after
            .chars()
            .take_while(|&letter| letter.is_alphanumeric() || letter == '_')
            .collect();
        if is_head && !name.is_empty() {
            found.push((name, at + 1, item_end(&lines, at) - at + 1));
        }
    }
    found
}

#[test]
fn functions_are_short() {
    let mut offences = Vec::new();
    let owned = |(path, name): &(&str, &str)| (path.to_string(), name.to_string());
    let mut listed: BTreeSet<_> = LONG_FUNCTIONS.iter().map(owned).collect();
    for source in sources().iter().filter(|source| source.is_rust()) {
        for (name, line, length) in functions(source) {
            let key = (source.path.clone(), name);
            if length > FUNCTION_LINES_MAX && !listed.remove(&key) {
                let name = key.1;
                offences.push(format!("{}:{line}: {name} has {length} lines", source.path));
            }
        }
    }
    for (path, name) in listed {
        offences.push(format!(
            "{path}: {name} is short now or gone, take it off the list"
        ));
    }
    none("functions over 70 lines", &offences);
}

#[test]
fn the_reader_of_functions_can_count() {
    let text = [
        "impl X {",
        "    pub(crate) async fn long(",
        "        &self,",
        "    ) {",
        "        if x {",
        "        }",
        "    }",
        "",
        "    fn short(&self);",
        "}",
        "",
        "fn one() {}",
        "fn text() -> &str {",
        "    \"",
        "two lines\";",
        "}",
    ];
    let source = Source {
        path: "x.rs".to_owned(),
        text: text.join("\n"),
        is_test: false,
    };
    let wanted = [
        ("long", 2, 6),
        ("short", 9, 1),
        ("one", 12, 1),
        ("text", 13, 4),
    ];
    let found = functions(&source);
    let found: Vec<_> = found
        .iter()
        .map(|(name, line, length)| (&**name, *line, *length))
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn locks_are_only_where_they_are_allowed() {
    let mut offences = Vec::new();
    let mut unused: BTreeSet<&str> = LOCK_FILES.iter().map(|(path, _)| *path).collect();
    for source in sources() {
        let checked = source.is_rust() && source.path.contains("/src/") && !source.is_test;
        if !checked {
            continue;
        }
        let allowed = LOCK_FILES.iter().any(|(path, _)| *path == source.path);
        for (line, code) in source.production_lines() {
            let names = |word: &&&str| match word.strip_prefix('.') {
                Some("swap(") => code.contains(**word) && code.contains("Ordering::"),
                Some(_) => code.contains(**word),
                None => has_word(&code, word),
            };
            let Some(word) = LOCK_WORDS.iter().find(names) else {
                continue;
            };
            unused.remove(source.path.as_str());
            if !allowed {
                offences.push(format!("{}:{line}: {word}", source.path));
            }
        }
    }
    offences.extend(
        unused
            .iter()
            .map(|path| format!("{path}: needs no lock, take it off")),
    );
    none(
        "locks and read-modify-write atomics outside the list",
        &offences,
    );
}

#[test]
fn unsafe_blocks_are_proved() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = without_comment(line);
            if !has_word(code, "unsafe") || !(code.contains("{") || code.contains("impl")) {
                continue;
            }
            if code.contains("fn ") || code.contains('"') {
                continue;
            }
            // The proof stands right above, at most the head of the statement in between.
            let above = &lines[at.saturating_sub(12)..at];
            let proof = above
                .iter()
                .rev()
                .skip_while(|line| !line.trim_start().starts_with("//"))
                .take_while(|line| line.trim_start().starts_with("//"))
                .any(|line| line.contains("SAFETY:"));
            if !proof {
                offences.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    none("unsafe without a SAFETY comment", &offences);
}

#[test]
fn logic_names_no_io_no_clock_no_chance() {
    let mut offences = Vec::new();
    for source in sources() {
        let checked = source.is_rust()
            && SANS_IO.iter().any(|room| source.path.starts_with(room))
            && !source.is_test;
        if !checked {
            continue;
        }
        for (line, code) in source.production_lines() {
            for word in SANS_IO_WORDS.iter().filter(|word| has_word(&code, word)) {
                offences.push(format!("{}:{line}: {word}", source.path));
            }
        }
    }
    none("IO, clocks or chance in pure logic", &offences);
}

#[test]
fn nothing_unwraps_outside_tests() {
    let mut offences = Vec::new();
    for source in sources() {
        if !source.is_rust() || source.is_test {
            continue;
        }
        for (line, code) in source.production_lines() {
            if code.contains(".unwrap()") {
                offences.push(format!("{}:{line}: {}", source.path, code.trim()));
            }
        }
    }
    none(
        "unwrap() outside tests: expect(\"why this holds\")",
        &offences,
    );
}

#[test]
fn every_module_begins_with_its_story() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let story = source
            .text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("//! "));
        if story.is_none_or(|story| story.split_whitespace().count() < 3) {
            offences.push(source.path.clone());
        }
    }
    none("files that do not begin with //! and a sentence", &offences);
}

#[test]
fn no_file_is_named_after_nothing() {
    let vague = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        ["utils.rs", "util.rs", "common.rs", "helpers.rs", "misc.rs"].contains(&name)
    };
    let offences: Vec<String> = sources()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| vague(path))
        .collect();
    none("files named after nothing", &offences);
}

#[test]
fn nothing_is_left_for_later_and_no_machine_is_named() {
    // Put together here, so that this file does not break its own rule.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("for ", "now"),
        concat!("place", "holder"),
        concat!("stu", "b"),
    ];
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/fa", "rm/"),
    ];
    let checked = [".rs", ".md", ".toml", ".proto", ".sh", ".py"];
    let mut offences = Vec::new();
    for source in sources() {
        if !checked.iter().any(|ending| source.path.ends_with(ending)) {
            continue;
        }
        for (at, line) in source.text.lines().enumerate() {
            let word = words.iter().find(|word| has_word(line, word));
            let place = places.iter().find(|place| line.contains(*place));
            if let Some(found) = word.or(place) {
                offences.push(format!("{}:{}: {found}", source.path, at + 1));
            }
        }
    }
    none("left for later, or a path of one machine", &offences);
}
