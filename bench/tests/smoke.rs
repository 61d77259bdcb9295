//! The tool as its users start it, on the disk of the build folder.
//!
//! The measuring tests need a server: the one that `KEELSON_BENCH_SERVER` names, or the `keelson`
//! beside the tool, which a build of the whole workspace makes. Without either they say so on the
//! terminal, past the test harness's capture. etcd is the one of `KEELSON_ETCD_BIN_DIR`, or is
//! fetched by the tool itself.

#![allow(clippy::unwrap_used)]

mod common;

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{BENCH, command, folder, json, only_child, server, text, wait_until_it_began};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const EXIT_INTERRUPTED: i32 = 130;
/// A second of load, no ramp.
const SHORT: [&str; 2] = ["--runtime=1s", "--ramp_time=0"];

/// A round has all figures, they are positive where they must be, and there was no error.
fn check_round(round: &Value) {
    assert!(round["operations"].as_u64().unwrap() > 0, "{round}");
    assert_eq!(round["errors"], serde_json::json!({}));
    for figure in ["operations_per_second", "generator_cpu_seconds_per_100k"] {
        assert!(round[figure].as_f64().unwrap() > 0.0, "{figure} in {round}");
    }
    for figure in ["rss_bytes_peak", "rss_bytes_baseline"] {
        let value = round["server"][figure].as_f64().unwrap();
        assert!(value > 0.0, "{figure} in {round}");
    }
    let latency = |name: &str| round["latency_us"][name].as_f64().unwrap();
    assert!(
        latency("p50") > 0.0 && latency("p50") <= latency("p9999"),
        "{round}"
    );
}

#[test]
fn a_second_of_load_brings_every_figure() {
    let Some(server) = server() else { return };
    let dir = folder();
    let output = command("run", &server, dir.path())
        .args([
            "put-rand",
            "range-point",
            "lease-keepalive",
            "--output-format=json",
        ])
        .args(["--key_count=500", "--iodepth=8"])
        .args(SHORT)
        .output()
        .unwrap();
    let document = json(&output);
    assert_eq!(document["format"], 1);
    let jobs = document["jobs"].as_array().unwrap();
    let names: Vec<&str> = jobs
        .iter()
        .map(|job| job["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["put-rand", "range-point", "lease-keepalive"]);
    for job in jobs {
        check_round(&job["servers"][0]["rounds"][0]);
    }
    // CPU time comes in ticks, of which a slow disk's job may not use one.
    let cpu = |job: &Value| job["servers"][0]["rounds"][0]["server"]["cpu_percent"].as_f64();
    assert!(jobs.iter().filter_map(cpu).sum::<f64>() > 0.0, "{document}");
    assert_eq!(jobs[0]["spec"]["key_count"], 500);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn a_comparison_with_etcd_ends_in_ratios_and_a_page() {
    let Some(server) = server() else { return };
    let dir = folder();
    let result = dir.path().join("result.json");
    let mut compare = command("compare", &server, dir.path());
    compare
        .args(["put-rand", "--rounds=2", "--iodepth=8", "--output"])
        .arg(&result)
        .args(SHORT);
    if let Some(etcd) = env::var_os("KEELSON_ETCD_BIN_DIR") {
        compare
            .arg("--etcd-path")
            .arg(Path::new(&etcd).join("etcd"));
    }
    let output = compare.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    assert!(
        told.contains("machine  ") && told.contains("operations/s"),
        "{told}"
    );

    let document: Value = serde_json::from_str(&fs::read_to_string(&result).unwrap()).unwrap();
    let job = &document["jobs"][0];
    for server in job["servers"].as_array().unwrap() {
        let rounds = server["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 2, "{server}");
        rounds.iter().for_each(check_round);
    }
    for ratio in [
        "throughput_ratio",
        "cpu_per_op_ratio",
        "p50_ratio",
        "p99_ratio",
        "flushes_ratio",
    ] {
        assert!(job[ratio].as_f64().unwrap() >= 0.0, "{ratio} in {job}");
        assert!(
            job["ratio_spread"][ratio]["min"].is_f64(),
            "{ratio} in {job}"
        );
    }

    assert!(job["throughput_ratio"].as_f64().unwrap() > 0.0);
    assert!(
        document["disk_probe"]["write_4k_depth1_p50_us"]
            .as_f64()
            .unwrap()
            > 0.0
    );

    let page = dir.path().join("page.html");
    let report = Command::new(BENCH)
        .arg("report")
        .arg(&result)
        .arg("--output")
        .arg(&page)
        .output()
        .unwrap();
    assert!(report.status.success(), "{}", text(&report.stderr));
    let page = fs::read_to_string(&page).unwrap();
    assert!(page.contains("<svg") && page.contains("put-rand"));
}

#[test]
fn ctrl_c_shows_what_was_measured_and_stops_the_servers() {
    let Some(server) = server() else { return };
    // How long a server takes to start and the window to begin depends on the machine.
    for patience in [2, 5, 15, 45] {
        let dir = folder();
        let child = command("run", &server, dir.path())
            .args([
                "put-rand",
                "--ramp_time=0",
                "--runtime=10m",
                "--output-format=json",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until_it_began(dir.path());
        thread::sleep(Duration::from_secs(patience));
        let server_pid = only_child(&child);
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(EXIT_INTERRUPTED),
            "{}",
            text(&output.stderr)
        );
        assert!(
            !Path::new(&format!("/proc/{server_pid}")).exists(),
            "the server is stopped"
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "its files are removed"
        );
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["interrupted"], true);
        let Some(job) = document["jobs"].get(0) else {
            continue;
        };
        let round = &job["servers"][0]["rounds"][0];
        assert_eq!(round["cut_short"], true, "{round}");
        let seconds = round["seconds"].as_f64().unwrap();
        assert!(seconds > 0.0 && seconds < 60.0, "{round}");
        assert!(round["operations"].as_u64().unwrap() > 0, "{round}");
        return;
    }
    panic!("nothing was measured within the longest patience");
}

#[test]
fn bad_jobs_are_told_with_file_line_and_key() {
    let dir = folder();
    let file = dir.path().join("bad.fio");
    fs::write(
        &file,
        "[global]\nop=put\n[a]\niodpeth=3\nvalue_bytes=lots\n",
    )
    .unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(BENCH).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        text(&output.stderr)
    };
    let path = file.to_str().unwrap();
    assert_eq!(
        run(&["run", path]),
        format!("keelson-bench: {path}:4: unknown key iodpeth: did you mean iodepth?\n")
    );
    fs::write(&file, "[a]\nop=put\nvalue_bytes=lots\n").unwrap();
    assert_eq!(
        run(&["run", path]),
        format!("keelson-bench: {path}:3: value_bytes=lots: allowed is 0 to 1m bytes\n")
    );
    assert!(
        run(&["run", "put-random"]).contains("put-rand-1"),
        "the jobs there are"
    );
    assert!(run(&["compare", "disk"]).contains("drives no server"));
    assert!(run(&["compare", "put-rand", "--endpoints=h:1"]).contains("starts its servers itself"));
    assert!(
        run(&["run", "put-rand", "--iodpeth=3"]).contains("--iodepth"),
        "clap helps too"
    );
}

#[test]
fn the_jobs_and_keys_there_are_can_be_listed() {
    let told = |arguments: &[&str]| {
        let output = Command::new(BENCH)
            .arg("jobs")
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(told(&[]).contains("put-rand-1"));
    assert!(told(&["kube-1k-nodes"]).contains("nodes=1000"));
    assert!(told(&["--keys"]).contains("value_bytes, bs [256]"));
}

#[test]
fn replay_checks_what_it_finds() {
    let Some(server) = server() else { return };
    let dir = folder();
    let output = command("replay", &server, dir.path())
        .args(["--output-format", "json"])
        .args(["--puts", "1000", "--key-count", "300", "--clients", "32"])
        .output()
        .unwrap();
    let report = json(&output);
    let replay = &report["servers"][0];
    assert_eq!(
        (&replay["key_count"], &replay["revision"]),
        (&300.into(), &1001.into())
    );
    let memory = |name: &str| replay[name].as_u64().unwrap();
    assert!(0 < memory("rss_bytes_idle") && memory("rss_bytes_idle") <= memory("rss_bytes_peak"));
    assert!(
        replay["data_bytes"].as_u64().unwrap() >= 256 * 1000,
        "{replay}"
    );
}

#[test]
fn a_server_that_does_not_serve_is_an_error_in_words() {
    let dir = folder();
    let told = |arguments: &[&str], server: &str| {
        let (first, rest) = arguments.split_first().unwrap();
        let output = command(first, Path::new(server), dir.path())
            .args(rest)
            .output()
            .unwrap();
        assert!(!output.status.success());
        text(&output.stderr)
    };
    let missing = told(&["idle"], "/nonexistent/keelson");
    assert!(missing.contains("--keelson-path"), "{missing}");
    for arguments in [&["idle"][..], &["run", "put-rand"][..]] {
        let ended = told(arguments, "/bin/false");
        assert!(ended.contains("ended by itself"), "{ended}");
    }
    let nobody = told(
        &["run", "put-rand", "--endpoints=127.0.0.1:1"],
        "/bin/false",
    );
    assert!(nobody.contains("no server answers"), "{nobody}");
}
