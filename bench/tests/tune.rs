//! Auto-tune as its users start it, with a real server, on the disk of the build folder.
//!
//! The search needs a server: the one that `KEELSON_BENCH_SERVER` names, or the `keelson` beside the
//! tool, which a build of the whole workspace makes. Without either it says so on the terminal, past
//! the test harness's capture.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::Command;

use common::{BENCH, server};
use keelson_tuning::{Profile, ProfileKey};

const DISK: &str = env!("CARGO_TARGET_TMPDIR");

#[test]
fn a_quick_search_writes_a_profile_that_the_server_takes() {
    let Some(server) = server() else { return };
    let home = tempfile::tempdir_in(DISK).unwrap();
    let data_dir = home.path().join("data");
    fs::create_dir(&data_dir).unwrap();
    let file = home.path().join("tuned.toml");
    let tuned = Command::new(BENCH)
        .args(["tune", "--quick", "--rounds", "1", "--data-dir"])
        .arg(&data_dir)
        .arg("--keelson-path")
        .arg(&server)
        .arg("--output")
        .arg(&file)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&tuned.stderr).into_owned();
    assert!(tuned.status.success(), "{told}");
    let left: Vec<_> = fs::read_dir(&data_dir).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    let text = fs::read_to_string(&file).unwrap();
    let profile = Profile::parse("tuned.toml", &text).unwrap();
    let mut keys: Vec<String> = profile.values.iter().map(|value| value.flag()).collect();
    keys.sort();
    let searched = [
        "cores",
        "wal-depth",
        "wal-group-bytes-max",
        "wal-group-delay-us",
    ];
    assert_eq!(keys, searched, "{text}");
    for figure in ["puts/s", "IOPS", "Linux", "round(s)"] {
        assert!(text.contains(figure), "{figure} in {text}");
    }

    let shown = Command::new(&server)
        .args(["config", "show", "--output=json", "--profile"])
        .arg(&file)
        .output()
        .unwrap();
    let document = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.status.success(),
        "{document}{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    let from_file = format!("profile {}", file.display());
    assert_eq!(document.matches(&from_file).count(), searched.len() + 1);
    for value in &profile.values {
        if let ProfileKey::Setting(setting, number) = &value.key {
            let is_shown =
                document.contains(&setting.flag()) && document.contains(&format!("\"{number}\""));
            assert!(is_shown, "{} = {number} in {document}", setting.name());
        }
    }
}

#[test]
fn a_folder_that_is_not_there_is_an_error_in_words() {
    let home = tempfile::tempdir_in(DISK).unwrap();
    let output = Command::new(BENCH)
        .args(["tune", "--quick", "--data-dir"])
        .arg(home.path().join("absent"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("create it"), "{told}");
}
