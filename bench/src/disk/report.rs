//! How a probe's figures reach a reader: a table for each way, or JSON.

use serde::Serialize;

use super::cell::Way;
use super::figures::{Figures, Headline};
use super::plan::Plan;
use crate::machine::Machine;
use crate::report::{Table, number};

/// The result as JSON; `bench/README.md` explains the fields.
#[derive(Serialize)]
pub struct Report {
    command: &'static str,
    machine: Machine,
    directory: String,
    /// Bytes of the file that is written over.
    size_bytes: u64,
    /// Asked for; each run has its own.
    runtime_seconds: f64,
    /// True if Ctrl-C cut it short: the last run may be shorter, later ones are missing.
    pub interrupted: bool,
    runs: Vec<Figures>,
    headline: Headline,
}

impl Report {
    /// What the runs of a plan brought.
    pub fn new(plan: &Plan, machine: Machine, runs: Vec<Figures>, interrupted: bool) -> Self {
        Self {
            command: "disk",
            machine,
            directory: plan.directory.display().to_string(),
            size_bytes: plan.file_bytes,
            runtime_seconds: plan.measured.as_secs_f64(),
            interrupted,
            headline: Headline::of(&runs),
            runs,
        }
    }

    /// The text for a terminal.
    pub fn text(&self) -> String {
        text(self)
    }
}

fn text(report: &Report) -> String {
    let mut out = format!("{}\n", report.machine);
    out += &format!(
        "probe    {} MiB in {}, filled once and written over in turn, {} s a run\n",
        report.size_bytes >> 20,
        report.directory,
        report.runtime_seconds
    );
    for way in [Way::Direct, Way::Grouped, Way::Read, Way::Buffered] {
        let runs: Vec<_> = report
            .runs
            .iter()
            .filter(|run| run.cell.way == way)
            .collect();
        if !runs.is_empty() {
            out += &format!("\n{}: {}\n{}", way.name(), way.story(), table(&runs));
        }
    }
    out += "\nlat is in us, until the operation is durable; cpu is this process, all is every CPU's busy \
            time with the\nkernel's workers and all else that ran, both in us per operation; MB is 10^6 bytes\n";
    out += &headline(&report.headline);
    if report.interrupted {
        out += "interrupted: the last run is shorter, later ones are missing\n";
    }
    out
}

fn table(runs: &[&Figures]) -> String {
    let mut table = Table::default();
    let head = [
        "  bs", "iodepth", "IOPS", "MB/s", "lat p50", "p90", "p99", "p99.9", "p99.99", "max",
        "cpu", "all",
    ];
    table.row(head.map(str::to_owned));
    for run in runs {
        let latency = &run.latency_us;
        let rest = [
            run.iops,
            run.bytes_per_second / 1e6,
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.p9999,
            latency.max,
            run.cpu_us_per_operation,
            run.machine_cpu_us_per_operation,
        ];
        let first = [
            format!("  {}k", run.cell.bs_bytes >> 10),
            run.cell.iodepth.to_string(),
        ];
        table.row(first.into_iter().chain(rest.map(number)));
    }
    table.render()
}

fn headline(headline: &Headline) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: Option<f64>, unit: &str| {
        if let Some(value) = value {
            out += &format!("{name:<36} {} {unit}\n", number(value));
        }
    };
    let megabytes = |rate: Option<f64>| rate.map(|rate| rate / 1e6);
    line(
        "durable 4 KiB write, 1 in flight, p50",
        headline.write_4k_depth1_p50_us,
        "us",
    );
    line(
        "durable 1 MiB writes, 4 in flight",
        megabytes(headline.sequential_write_bytes_per_second),
        "MB/s",
    );
    line(
        "4 MiB reads, 1 in flight",
        megabytes(headline.sequential_read_bytes_per_second),
        "MB/s",
    );
    out
}
