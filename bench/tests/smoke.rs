//! The tool as its users start it, on the disk of the build folder.
//!
//! The measuring test needs a server: the one that `KEELSON_BENCH_SERVER` names, or the `keelson`
//! beside the tool, which a build of the whole workspace makes. Without either it says so on the
//! terminal, past the test harness's capture.

#![allow(clippy::unwrap_used)]

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_keelson-bench");
const DISK: &str = env!("CARGO_TARGET_TMPDIR");

fn server() -> Option<PathBuf> {
    if let Some(named) = env::var_os("KEELSON_BENCH_SERVER") {
        return Some(named.into());
    }
    let built = Path::new(BENCH).with_file_name("keelson");
    if built.is_file() {
        return Some(built);
    }
    let mut terminal = std::io::stderr();
    writeln!(
        terminal,
        "NOT RUN: no server at {} nor in KEELSON_BENCH_SERVER",
        built.display()
    )
    .unwrap();
    None
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(BENCH)
        .args(arguments)
        .args(["--dir", DISK])
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_second_of_load_brings_every_figure() {
    let Some(server) = server() else { return };
    let path = server.to_str().unwrap();
    let short = [
        "--against",
        "none",
        "--seconds",
        "1",
        "--ramp-seconds",
        "0",
        "--rounds",
        "1",
    ];
    for op in ["put-rand", "range-point", "txn-update", "lease-keepalive"] {
        let mut arguments = vec![
            "compare",
            "--keelson-path",
            path,
            "--op",
            op,
            "--clients",
            "8",
        ];
        arguments.extend(short);
        arguments.extend(["--key-count", "500", "--output-format", "json"]);
        let output = bench(&arguments);
        assert!(output.status.success(), "{op}: {}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let round = &report["servers"][0]["rounds"][0];
        assert!(round["operations"].as_u64().unwrap() > 0, "{op}: {round}");
        assert_eq!(round["errors"], serde_json::json!({}), "{op}");
        let positive = [
            "operations_per_second",
            "server_cpu_seconds_per_100k",
            "generator_cpu_seconds_per_100k",
            "rss_bytes_peak",
        ];
        for figure in positive {
            assert!(
                round[figure].as_f64().unwrap() > 0.0,
                "{op}: {figure} in {round}"
            );
        }
        let latency = |name: &str| round["latency_us"][name].as_f64().unwrap();
        assert!(
            latency("p50") > 0.0 && latency("p50") <= latency("p999"),
            "{op}: {round}"
        );
    }
}

#[test]
fn replay_checks_what_it_finds() {
    let Some(server) = server() else { return };
    let path = server.to_str().unwrap();
    let short = ["--puts", "1000", "--key-count", "300", "--clients", "32"];
    let mut arguments = vec!["replay", "--keelson-path", path, "--output-format", "json"];
    arguments.extend(short);
    let output = bench(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let replay = &report["servers"][0];
    assert_eq!(
        (&replay["key_count"], &replay["revision"]),
        (&300.into(), &1001.into())
    );
    assert!(
        replay["data_bytes"].as_u64().unwrap() >= 256 * 1000,
        "{replay}"
    );
}

#[test]
fn a_server_that_does_not_serve_is_an_error_in_words() {
    let missing = bench(&["idle", "--keelson-path", "/nonexistent/keelson"]);
    assert!(!missing.status.success());
    assert!(
        text(&missing.stderr).contains("--keelson-path"),
        "{}",
        text(&missing.stderr)
    );

    let ended = bench(&["idle", "--keelson-path", "/bin/false"]);
    assert!(!ended.status.success());
    assert!(
        text(&ended.stderr).contains("ended by itself"),
        "{}",
        text(&ended.stderr)
    );
}
