//! The written profile, read back by the server's own reader.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use keelson_tuning::{Profile, Tuning};

use super::super::knob::{Setup, Surroundings};
use super::super::verdict::{LoadFigures, judge};
use super::*;
use crate::disk::Plan;
use crate::server::Launch;

/// The machine facts are as long as they are; all else fits a terminal.
const LINE_CHARS_MAX: usize = 140;

fn settled(question: &'static str, labels: &[&str], rates: &[f64]) -> Settled {
    let trial = |rate: &f64| {
        vec![LoadFigures {
            operations_per_second: *rate,
            p50_us: 100.0,
            p99_us: 200.0,
            server_cpu_us_per_operation: 4.0,
        }]
    };
    Settled {
        question,
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        verdict: judge(&[rates.iter().map(trial).collect()], 0.03),
    }
}

/// A profile of a search that found these values, in a folder with a name that needs escapes.
fn written(setup: Setup, settled: Vec<Settled>, check: Option<Settled>) -> String {
    let machine = Machine::facts(Path::new("/"));
    let plan = Plan {
        name: "disk".to_owned(),
        directory: "/disk".into(),
        file_bytes: 1 << 20,
        cells: Vec::new(),
        measured: Duration::from_secs(1),
    };
    let probe = DiskResult::new(&plan, Vec::new());
    let origin = Origin {
        data_dir: "/a \"quoted\" \\ folder\nof two lines",
        machine: &machine,
        probe: &probe,
        written: "2026-01-01T00:00:00Z",
    };
    let (interrupt, _) = crate::interrupt::Interrupt::never();
    let search = Search {
        launch: Launch {
            name: "keelson".to_owned(),
            binary: "keelson".into(),
            flags: Vec::new(),
        },
        folder: Path::new("/disk"),
        loads: Vec::new(),
        rounds: 3,
        gain_min: 0.03,
        around: Surroundings {
            online: vec![0, 1],
            depth_useful_max: 4,
        },
        interrupt: &interrupt,
    };
    let found = Found {
        setup,
        settled,
        check,
        version: "1.2.3".to_owned(),
    };
    text(&origin, &search, &found)
}

#[test]
fn the_server_reads_what_is_written() {
    let mut tuning = Tuning::default();
    tuning.wal.depth = 4;
    tuning.wal.group_delay_us = 200;
    tuning.wal.group_bytes_max = 4 << 20;
    let setup = Setup {
        cores: vec![1, 0],
        tuning: tuning.clone(),
    };
    let depth = settled(Knob::Depth.name(), &["2", "4"], &[1_000.0, 2_000.0]);
    let check = settled("all of it", &["the defaults", "this profile"], &[1.0, 2.0]);
    let text = written(setup, vec![depth], Some(check));
    let profile = Profile::parse("tuned.toml", &text).unwrap();
    let mut applied = Tuning::default();
    profile.apply(&mut applied);
    assert_eq!(applied, tuning, "{text}");
    let cores: Vec<String> = profile
        .values
        .iter()
        .filter(|value| value.flag() == "cores")
        .map(|value| value.text())
        .collect();
    assert_eq!(cores, ["1,0"]);
    let longest = text.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(LINE_CHARS_MAX), "{text}");
    for part in [
        "keelson 1.2.3",
        "+100.0 %",
        "this profile",
        "4: better by more than the noise",
        "wal.group_bytes_max: nothing to choose here",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn defaults_are_called_so() {
    let setup = Setup {
        cores: vec![0, 1],
        tuning: Tuning::default(),
    };
    let text = written(setup, Vec::new(), None);
    assert!(text.contains("All of these are the defaults"), "{text}");
    let mut applied = Tuning::default();
    Profile::parse("tuned.toml", &text)
        .unwrap()
        .apply(&mut applied);
    assert_eq!(applied, Tuning::default());
}
