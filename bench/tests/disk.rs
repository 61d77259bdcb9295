//! The disk probe as its users start it, on the disk of the build folder.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_keelson-bench");
const DISK: &str = env!("CARGO_TARGET_TMPDIR");
/// A folder in memory that every Linux has.
const MEMORY: &str = "/dev/shm";

fn probe(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BENCH);
    command.arg("disk").arg("--dir").arg(directory);
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)))
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn every_run_has_its_figures_in_both_formats() {
    let home = tempfile::tempdir_in(DISK).unwrap();
    let short = [
        "--runtime",
        "50ms",
        "--size",
        "4m",
        "--bs",
        "4k,16k",
        "--iodepth",
        "1,2",
    ];
    let mut with_json = short.to_vec();
    with_json.extend(["--output-format", "json"]);
    let output = probe(home.path(), &with_json).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = json(&output);
    let result = &report["disk"][0];
    let runs = result["runs"].as_array().unwrap();
    // Two sizes at two depths in two ways, both sizes through the page cache; sequential writes, reads and copies.
    assert_eq!(runs.len(), 2 * 2 * 2 + 2 + 3, "{report}");
    for run in runs {
        for figure in [
            "iops",
            "bytes_per_second",
            "cpu_us_per_operation",
            "seconds",
        ] {
            assert!(run[figure].as_f64().unwrap() > 0.0, "{figure} in {run}");
        }
        let latency = |name: &str| run["latency_us"][name].as_f64().unwrap();
        assert!(
            latency("p50") > 0.0 && latency("p50") <= latency("p9999"),
            "{run}"
        );
    }
    let headline = result["headline"].as_object().unwrap();
    assert!(
        headline
            .values()
            .all(|figure| figure.as_f64().unwrap() > 0.0),
        "{headline:?}"
    );
    assert_eq!(report["interrupted"], false);
    assert!(report["machine"]["kernel"].is_string());

    let output = probe(home.path(), &short).output().unwrap();
    let table = text(&output.stdout);
    for part in [
        "direct:",
        "grouped:",
        "copy:",
        "buffered:",
        "IOPS",
        "p99.99",
        "Linux",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
    assert!(is_empty(home.path()), "nothing stays behind");
}

#[test]
fn an_interrupted_probe_shows_what_it_has_and_cleans_up() {
    let home = tempfile::tempdir_in(DISK).unwrap();
    let arguments = [
        "--runtime",
        "1000s",
        "--size",
        "4m",
        "--output-format",
        "json",
    ];
    let child = probe(home.path(), &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The probe's folder shows that the tool listens to signals; a run has begun soon after.
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_empty(home.path()) {
        assert!(Instant::now() < deadline, "the probe did not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(1_500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let report = json(&output);
    assert_eq!(report["interrupted"], true);
    assert_eq!(
        report["disk"][0]["runs"].as_array().unwrap().len(),
        1,
        "{report}"
    );
    assert!(report["disk"][0]["runs"][0]["seconds"].as_f64().unwrap() < 100.0);
    assert!(is_empty(home.path()), "nothing stays behind");
}

#[test]
fn a_folder_in_memory_is_refused_in_words() {
    let home = tempfile::tempdir_in(MEMORY).unwrap();
    let output = probe(home.path(), &["--runtime", "50ms"]).output().unwrap();
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert!(
        error.contains("tmpfs") && error.contains("memory only"),
        "{error}"
    );
    assert!(is_empty(home.path()), "nothing stays behind");
}
