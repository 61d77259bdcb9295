//! `maintain`, `backup` and `memory` as their users start them, with little data, and writes that settle.
//!
//! Servers are found as in the other measuring tests; see `common`. etcd is the one of
//! `KEELSON_ETCD_BIN_DIR`, or is fetched by the tool itself.

#![allow(clippy::unwrap_used)]

mod common;

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{command, folder, json, only_child, server, text, wait_until_it_began};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const EXIT_INTERRUPTED: i32 = 130;
/// Puts that are short.
const PUTS: [&str; 4] = [
    "--runtime=500ms",
    "--ramp_time=0",
    "--iodepth=8",
    "--key_count=200",
];

/// What the command printed, which has every field that the README shows.
fn with_json(command: &mut Command) -> Value {
    let document = json(&command.arg("--output-format=json").output().unwrap());
    let examples = include_str!("../README.md").split("```json\n").skip(1);
    let examples = examples.filter_map(|rest| rest.split_once("```"));
    let name = document["command"].as_str().unwrap();
    for (example, _) in examples {
        let example: Value = serde_json::from_str(example).unwrap();
        if let Some(example) = example.get(name) {
            has_fields_of(&document[name], example, name);
        }
    }
    document
}

/// The first element of an array stands for all of them; null stands for anything.
fn has_fields_of(real: &Value, example: &Value, place: &str) {
    match example {
        Value::Object(fields) => {
            for (name, field) in fields {
                let found = real.get(name);
                let place = format!("{place}.{name}");
                has_fields_of(found.unwrap_or_else(|| panic!("no {place}")), field, &place);
            }
        }
        Value::Array(elements) => has_fields_of(&real[0], &elements[0], place),
        Value::Null => {}
        example => assert_eq!(example.is_number(), real.is_number(), "{place}: {real}"),
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

/// The names of the elements of an array.
fn names(array: &Value) -> Vec<&str> {
    let elements = array.as_array().unwrap().iter();
    elements
        .map(|element| element["name"].as_str().unwrap())
        .collect()
}

fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_default();
    assert!(number > 0.0, "{value}");
    number
}

/// Puts were answered, timed, and without an error.
fn check_stretch(stretch: &Value) {
    positive(&stretch["operations_per_second"]);
    positive(&stretch["work_seconds"]);
    let latency = &stretch["latency_us"];
    assert!(positive(&latency["p50"]) <= positive(&latency["max"]));
    assert_eq!(stretch["errors"], serde_json::json!({}));
}

#[test]
fn maintenance_is_measured_on_both_servers() {
    let Some(server) = server() else { return };
    let dir = folder();
    let mut maintain = command("maintain", &server, dir.path());
    maintain
        .args(["--rounds=1", "--revisions=2000", "--defrags=2"])
        .args(PUTS);
    if let Some(etcd) = env::var_os("KEELSON_ETCD_BIN_DIR") {
        maintain
            .arg("--etcd-path")
            .arg(Path::new(&etcd).join("etcd"));
    }
    let document = with_json(&mut maintain);
    let result = &document["maintain"][0];
    assert_eq!(names(&result["servers"]), ["keelson", "etcd"]);
    for server in result["servers"].as_array().unwrap() {
        let round = &server["rounds"][0];
        let stretches = &round["stretches"];
        assert_eq!(
            names(stretches),
            ["quiet", "compaction", "defrag", "during"]
        );
        let stretches = stretches.as_array().unwrap();
        stretches.iter().for_each(check_stretch);
        let puts = |at: usize| stretches[at]["operations"].as_u64().unwrap();
        assert_eq!(puts(3), puts(1) + puts(2), "{round}");
        assert!(positive(&round["versions_compacted"]) >= 2000.0);
        positive(&round["compaction_seconds"]);
        assert_eq!(round["defrag_seconds"].as_array().unwrap().len(), 2);
        positive(&server["ratios"]["p99_ratio"]["median"]);
    }
    assert!(is_empty(dir.path()), "nothing is left behind");
}

#[test]
fn maintenance_at_once_is_one_stretch() {
    let Some(server) = server() else { return };
    let dir = folder();
    let output = command("maintain", &server, dir.path())
        .args(["--rounds=1", "--revisions=500", "--defrags=1"])
        .args(["--at-once", "--against=none"])
        .args(PUTS)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    for part in ["at once", "during / quiet", "p99 us", "errors: none"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn every_step_of_a_backup_has_its_rate_and_its_cost() {
    let Some(server) = server() else { return };
    let dir = folder();
    let mut backup = command("backup", &server, dir.path());
    backup.args(["--data-bytes=4m"]).args(PUTS);
    let document = with_json(&mut backup);
    let result = &document["backup"][0];
    assert_eq!(result["key_count"], 4096);
    let steps = &result["steps"];
    let moving = ["checkpoint", "save", "restore"];
    let alone = ["quiet", "without save", "without restore"];
    let beside = [
        "quiet",
        "save beside puts",
        "without save",
        "restore beside puts",
        "without restore",
    ];
    assert_eq!(names(steps), [&moving[..], &beside].concat());
    for step in steps.as_array().unwrap() {
        let (transfer, puts) = (&step["transfer"], &step["puts"]);
        if !transfer.is_null() {
            assert!(positive(&transfer["bytes"]) > f64::from(4 << 20), "{step}");
            positive(&transfer["probe_ratio"]);
            positive(&transfer["copy_ratio"]);
        }
        if !puts.is_null() {
            check_stretch(puts);
        }
        let name = step["name"].as_str().unwrap();
        assert_eq!(transfer.is_null(), alone.contains(&name));
        assert_eq!(puts.is_null(), moving.contains(&name));
    }
    for ratio in [
        "checkpoint_probe_ratio",
        "save_probe_ratio",
        "restore_probe_ratio",
        "restore_copy_ratio",
        "save_beside_puts_p99_ratio",
        "without_save_p99_ratio",
        "save_beside_puts_p99_without_ratio",
        "restore_beside_puts_p99_without_ratio",
    ] {
        positive(&result["ratios"][ratio]["median"]);
    }
    assert!(is_empty(dir.path()), "nothing is left behind");
}

#[test]
fn every_phase_shows_its_memory() {
    let Some(server) = server() else { return };
    let dir = folder();
    let mut memory = command("memory", &server, dir.path());
    memory.args(["--data-bytes=8m", "--memory-budget=4m", "--runtime=500ms"]);
    let document = with_json(&mut memory);
    let result = &document["memory"][0];
    let phases = &result["phases"];
    assert_eq!(
        names(phases),
        ["fill", "rest", "single keys", "list", "watch"]
    );
    for phase in phases.as_array().unwrap() {
        let peak = positive(&phase["rss_bytes_peak"]);
        assert!(peak >= positive(&phase["rss_bytes"]), "{phase}");
        assert!(peak <= positive(&result["rss_bytes_peak"]), "{phase}");
        if phase["name"] != "rest" {
            positive(&phase["keys_per_second"]);
        }
    }
    assert_eq!(phases[3]["keys"], 8192);
    assert!(is_empty(dir.path()), "nothing is left behind");
}

#[test]
fn writes_that_settle_count_to_the_end() {
    let Some(server) = server() else { return };
    let dir = folder();
    let mut run = command("run", &server, dir.path());
    run.args(["put-rand-long", "--size=2000", "--key_count=100"]);
    let document = with_json(&mut run);
    let job = &document["jobs"][0];
    assert_eq!(job["spec"]["settle"], true);
    let round = &job["servers"][0]["rounds"][0];
    assert_eq!(round["operations"], 2000);
    let written = positive(&round["server"]["written_bytes_per_operation"]);
    assert!(written > 256.0, "more than the values: {written}");
}

#[test]
fn ctrl_c_leaves_nothing_running_and_nothing_on_the_disk() {
    let Some(server) = server() else { return };
    let dir = folder();
    let child = command("maintain", &server, dir.path())
        .args(["--revisions=100000000", "--against=none"])
        .arg("--output-format=json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until_it_began(dir.path());
    // The disk probe comes first, in the folder too.
    thread::sleep(Duration::from_secs(4));
    let server_pid = only_child(&child);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(EXIT_INTERRUPTED),
        "{}",
        text(&output.stderr)
    );
    assert!(!Path::new(&format!("/proc/{server_pid}")).exists());
    assert!(is_empty(dir.path()), "nothing is left behind");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["interrupted"], true);
}
