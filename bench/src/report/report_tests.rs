//! One made-up comparison, in each of the forms in which it reaches somebody.

use std::collections::BTreeMap;
use std::path::Path;

use hdrhistogram::Histogram;

use super::document::{
    CloneRound, Contender, DiskProbe, Document, JobResult, Round, ServerUse, StepRound,
};
use super::figures::FIGURES;
use super::{page, text};
use crate::job::jobs;
use crate::machine::Machine;
use crate::stats::{Errors, Latency, Spread, latency_histogram};

fn latency(us: u64) -> Latency {
    let mut histogram: Histogram<u64> = latency_histogram();
    for step in 1..=1_000 {
        histogram.saturating_record(us * step);
    }
    Latency::from(&histogram)
}

/// A round of 2 s; `speed` is operations per millisecond.
fn round(speed: u64) -> Round {
    Round {
        seconds: 2.0,
        cut_short: false,
        operations: speed * 2_000,
        operations_per_second: speed as f64 * 1_000.0,
        per_second: vec![speed * 900, speed * 1_100],
        latency_us: latency(10_000 / speed),
        steps: Vec::new(),
        conflicts: 0,
        listed_bytes_per_second: 0.0,
        behind_us_max: 0.0,
        unsent: 0,
        server: Some(ServerUse {
            cpu_seconds_per_100k: 10.0 / speed as f64,
            cpu_percent: 50.0,
            rss_bytes_baseline: 10 << 20,
            rss_bytes_peak: 30 << 20,
            rss_bytes_above_baseline: 20 << 20,
            written_bytes_per_operation: 400.0,
            write_calls_per_operation: 0.5,
            flushes_per_operation: Some(0.05),
        }),
        generator_cpu_seconds_per_100k: 0.2,
        generator_cpu_percent: 10.0,
        errors: Errors::new(),
        first_error: None,
        clones: Vec::new(),
    }
}

fn contender(name: &str, rounds: Vec<Round>) -> Contender {
    Contender::new(name.to_owned(), "1.2.3".to_owned(), None, rounds)
}

fn comparison() -> Document {
    let spec = jobs(&["put-rand".to_owned()], &[]).unwrap().remove(0);
    let mut document = Document::new("compare", Machine::facts(Path::new("/")), 1, 2);
    document.disk_probe = Some(DiskProbe {
        write_4k_depth1_p50_us: 250.0,
        write_4k_depth1_p99_us: 900.0,
    });
    let ours = contender("keelson", vec![round(40), round(50)]);
    let theirs = contender("etcd", vec![round(10), round(10)]);
    document.jobs.push(JobResult::new(spec, vec![ours, theirs]));
    document
}

#[test]
fn ratios_pair_the_rounds() {
    let job = comparison().jobs.remove(0);
    let spread = |median, min, max| Spread { median, min, max };
    assert_eq!(job.ratio_spread["throughput_ratio"], spread(4.5, 4.0, 5.0));
    assert_eq!(job.ratios["throughput_ratio"], 4.5);
    assert!((job.ratios["cpu_per_op_ratio"] - 0.225).abs() < 1e-9);
    assert!(job.ratios["p99_ratio"] < 0.3, "{:?}", job.ratios);
    assert_eq!(
        job.servers[0].figures["operations_per_second"],
        spread(45_000.0, 40_000.0, 50_000.0)
    );
}

#[test]
fn a_round_that_was_cut_short_counts_only_if_alone() {
    let mut short = round(100);
    short.cut_short = true;
    let figures = |rounds| contender("keelson", rounds).figures["operations_per_second"].median;
    assert_eq!(figures(vec![round(10), short.clone()]), 10_000.0);
    assert_eq!(figures(vec![short.clone()]), 100_000.0);
    let spec = comparison().jobs.remove(0).spec;
    let job = |ours, theirs| {
        JobResult::new(
            spec.clone(),
            vec![contender("a", ours), contender("b", theirs)],
        )
    };
    let whole = job(vec![round(20), short.clone()], vec![round(10), round(10)]);
    assert_eq!(whole.ratios["throughput_ratio"], 2.0);
    let unpaired = job(vec![round(20), round(30)], vec![round(10)]);
    assert_eq!(
        unpaired.ratios["throughput_ratio"], 2.0,
        "the second round has no other"
    );
    let none = job(vec![short], Vec::new());
    assert_eq!(none.ratios, BTreeMap::new());
}

#[test]
fn json_comes_back_as_it_was() {
    let document = comparison();
    let json = serde_json::to_value(&document).unwrap();
    let job = &json["jobs"][0];
    for name in [
        "throughput_ratio",
        "cpu_per_op_ratio",
        "p50_ratio",
        "p99_ratio",
    ] {
        assert!(job[name].is_f64(), "{name} in {job}");
        assert!(job["ratio_spread"][name]["max"].is_f64(), "{name} in {job}");
    }
    for figure in FIGURES {
        assert!(
            job["servers"][1]["figures"][figure.name]["median"].is_f64(),
            "{}",
            figure.name
        );
    }
    let again = Document::from_json(&json.to_string()).unwrap();
    assert_eq!(serde_json::to_value(&again).unwrap(), json);

    let told = |text: &str| Document::from_json(text).unwrap_err().to_string();
    assert!(told("{\"format\": 2, \"jobs\": []}").contains("format 1"));
    assert!(told("{\"command\": \"idle\"}").contains("run"));
}

#[test]
fn the_readme_names_every_figure() {
    let mut expected = String::from("| In a table | In `figures` | As a ratio |\n|---|---|---|\n");
    for figure in FIGURES {
        expected += &format!(
            "| {} | `{}` | `{}` |\n",
            figure.label, figure.name, figure.ratio
        );
    }
    let readme = include_str!("../../README.md");
    assert!(
        readme.contains(&expected),
        "bench/README.md lacks\n{expected}"
    );
}

#[test]
fn the_example_in_the_readme_is_of_this_format() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("<summary>An example").unwrap();
    let (_, rest) = rest.split_once("```json\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let document = Document::from_json(example).unwrap();
    let again = serde_json::to_value(&document).unwrap();
    let example: serde_json::Value = serde_json::from_str(example).unwrap();
    assert!(
        again == example,
        "fields are missing or too many; complete is:
{again:#}"
    );
    let job = document.jobs[0].clone();
    let made = JobResult::new(job.spec, job.servers).ratios;
    let names = |ratios: &BTreeMap<String, f64>| ratios.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&job.ratios));
    assert!((made["throughput_ratio"] - job.ratios["throughput_ratio"]).abs() < 1e-3);
}

#[test]
fn the_text_tells_figures_ratios_and_errors() {
    let mut document = comparison();
    let text_of = |document: &Document| text(document);
    let told = text_of(&document);
    for part in [
        "put-rand: op=put, runtime=5s, ",
        "a durable 4 KiB write alone takes 250.0 us (p50)",
        "2 and 2 of 2 rounds",
        "4.50 (4.00 .. 5.00)",
        "RSS above baseline, MiB               20.00       20.00",
        "keelson errors: none",
    ] {
        assert!(told.contains(part), "{part:?} in\n{told}");
    }
    assert!(!told.contains("summary"), "one job needs none");
    document.jobs.push(document.jobs[0].clone());
    let errors = Errors::from([("Unavailable".to_owned(), 2)]);
    document.jobs[1].servers[1].rounds[1].errors = errors;
    document.interrupted = true;
    let told = text_of(&document);
    for part in [
        "etcd errors: 2 Unavailable",
        "summary: ratios of keelson over etcd",
        "interrupted: ",
    ] {
        assert!(told.contains(part), "{part:?} in\n{told}");
    }
}

#[test]
fn a_single_run_is_told_as_fio_would() {
    let mut document = comparison();
    document.command = "run".to_owned();
    let job = &mut document.jobs[0];
    job.servers.truncate(1);
    job.servers[0].rounds.truncate(1);
    let round = &mut job.servers[0].rounds[0];
    round.steps.push(StepRound {
        name: "create".to_owned(),
        is_operation: true,
        operations: 7,
        latency_us: latency(5),
    });
    round.clones.push(CloneRound {
        operations: 9,
        operations_per_second: 4.5,
        latency_us: latency(5),
        errors: Errors::new(),
    });
    round.unsent = 3;
    let told = text(&document);
    for part in [
        "  throughput : 40,000 ops/s, 80,000 ops; per second min 36,000, median 40,000, max 44,000",
        " 99.00th=[",
        "    create       : 7 ops; min ",
        "    clone 0      : 4.50 ops/s; ",
        "3 never sent",
        "  errors     : none",
        "RSS peak 30.00 MiB, 20.00 MiB above 10.00 MiB",
        "  generator  : CPU 0.2000 s per 100k ops",
    ] {
        assert!(told.contains(part), "{part:?} in\n{told}");
    }
}

#[test]
fn kinds_of_operations_are_told_beside_each_other() {
    let mut document = comparison();
    assert!(document.jobs[0].kinds().is_empty());
    let step = |name: &str, operations| StepRound {
        name: name.to_owned(),
        is_operation: true,
        operations,
        latency_us: match operations {
            0 => Latency::from(&latency_histogram()),
            us => latency(us),
        },
    };
    for (index, server) in document.jobs[0].servers.iter_mut().enumerate() {
        for round in &mut server.rounds {
            round.steps = vec![step("create", 1_000), step("delete", 0)];
            if index == 0 {
                round.steps.push(step("list", 5));
            }
        }
    }
    assert_eq!(document.jobs[0].kinds(), ["create", "list"]);
    let told = text(&document);
    assert!(
        told.contains("    create  500.2 / 990.2 (1,000)  500.2 / 990.2 (1,000)"),
        "{told}"
    );
    assert!(
        told.contains("    list          2.56 / 5.12 (5)                      -"),
        "{told}"
    );
    let page = page(&[("a.json".to_owned(), document)]).unwrap();
    assert!(page.contains("By kind of operation"));
}

#[test]
fn the_page_stands_by_itself() {
    let mut document = comparison();
    document
        .warnings
        .push("<script>alert(1)</script>".to_owned());
    let page = page(&[("a & b.json".to_owned(), document)]).unwrap();
    assert_eq!(page.matches("<svg").count(), 3, "bars, percentiles, course");
    for part in [
        "a &amp; b.json",
        "4.50 (4.00 .. 5.00)",
        "throughput, ops/s",
        "99.9",
        "--series-1",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for foreign in [
        "<script", "<link", "<img", "@import", "src=", "url(", "#0100", "#0101",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let without_names = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!without_names.contains("http"), "nothing is fetched");
}
