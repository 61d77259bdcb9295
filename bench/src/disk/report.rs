//! A probe's result, as JSON and for a terminal.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cell::Way;
use super::figures::{Figures, Headline};
use super::plan::Plan;
use crate::report::{Table, number};

/// One probe and what it brought.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskResult {
    pub name: String,
    /// The folder that was measured in.
    pub directory: String,
    /// Bytes of the file that was written over.
    pub file_bytes: u64,
    /// Measured time that each run was to have.
    pub runtime_ms: u64,
    /// The figures that are quoted elsewhere.
    pub headline: Headline,
    pub runs: Vec<Figures>,
}

impl DiskResult {
    /// What the runs of a plan brought.
    pub fn new(plan: &Plan, runs: Vec<Figures>) -> Self {
        Self {
            name: plan.name.clone(),
            directory: plan.directory.display().to_string(),
            file_bytes: plan.file_bytes,
            runtime_ms: u64::try_from(plan.measured.as_millis()).unwrap_or(u64::MAX),
            headline: Headline::of(&runs),
            runs,
        }
    }

    /// The text for a terminal: a table for each way.
    pub fn text(&self) -> String {
        let mut out = format!(
            "{}: a file of {} MiB in {}, filled once and written over in turn, {} ms a run\n",
            self.name,
            self.file_bytes >> 20,
            self.directory,
            self.runtime_ms
        );
        for &way in Way::value_variants() {
            let runs: Vec<_> = self.runs.iter().filter(|run| run.cell.way == way).collect();
            if !runs.is_empty() {
                out += &format!("\n  {}: {}\n{}", way.name(), way.story(), table(&runs));
            }
        }
        out += LEGEND;
        out += &headline(&self.headline);
        out
    }
}

/// What the columns of a table mean.
const LEGEND: &str = "
  lat      us until the operation is durable; of a read, until it is done
  cpu      us of this process per operation, user and system; the kernel's own workers are not in it
  all      us that all CPUs were busy per operation: with those workers, and with whatever else ran;
           counted in clock ticks, so it is coarse
  MB       10^6 bytes
";

fn table(runs: &[&Figures]) -> String {
    let mut table = Table::default();
    let head = [
        "    bs", "iodepth", "IOPS", "MB/s", "lat p50", "p90", "p99", "p99.9", "p99.99", "max",
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
            format!("    {}", run.cell.block()),
            run.cell.iodepth.to_string(),
        ];
        table.row(first.into_iter().chain(rest.map(number)));
    }
    table.render()
}

fn headline(headline: &Headline) -> String {
    let megabytes = |rate: Option<f64>| rate.map(|rate| rate / 1e6);
    let lines = [
        (
            "a durable 4 KiB write alone (p50)",
            headline.write_4k_depth1_p50_us,
            "us",
        ),
        (
            "durable 1 MiB writes, 4 in flight",
            megabytes(headline.sequential_write_bytes_per_second),
            "MB/s",
        ),
        (
            "4 MiB reads, one after the other",
            megabytes(headline.sequential_read_bytes_per_second),
            "MB/s",
        ),
        (
            "copies of 1 MiB, 4 in flight",
            megabytes(headline.copy_bytes_per_second),
            "MB/s",
        ),
    ];
    let mut table = Table::default();
    for (name, value, unit) in lines {
        if let Some(value) = value {
            table.row([format!("  {name}"), number(value), unit.to_owned()]);
        }
    }
    match table.render() {
        empty if empty.is_empty() => empty,
        lines => format!("\n{lines}"),
    }
}
