//! `disk`: runs the probe and shows what it brought.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::cell::{Cell, Way};
use super::figures::{Figures, Headline};
use super::session::{News, Session, run_time};
use crate::cli::{DiskOptions, OutputFormat};
use crate::machine::Machine;
use crate::report::{PROGRESS_INTERVAL, Table, number, print_json, progress};

/// The result as JSON; `bench/README.md` explains the fields.
#[derive(Serialize)]
struct Report {
    command: &'static str,
    machine: Machine,
    directory: String,
    /// Bytes of the file that is written over.
    size_bytes: u64,
    /// Asked for; each run has its own.
    runtime_seconds: f64,
    /// True if Ctrl-C cut it short: the last run may be shorter, later ones are missing.
    interrupted: bool,
    runs: Vec<Figures>,
    headline: Headline,
}

/// Runs the command. None if it was interrupted; what was measured has been shown.
pub async fn run(options: &DiskOptions) -> Result<Option<()>> {
    let directory = options.directory()?;
    let measured = Duration::from_secs_f64(options.runtime);
    let cells = Cell::matrix(&options.way, &options.bs, &options.iodepth);
    let machine = Machine::facts(&directory);
    // Listened to from before the first file is made.
    let signals = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ];
    let session = Session::start(&directory, options.size, cells.clone(), measured)?;
    let (runs, interrupted) = gather(session, signals, cells.len(), measured).await?;
    let report = Report {
        command: "disk",
        machine,
        directory: directory.display().to_string(),
        size_bytes: options.size,
        runtime_seconds: options.runtime,
        interrupted,
        headline: Headline::of(&runs),
        runs,
    };
    match options.output_format {
        OutputFormat::Json => print_json(&report)?,
        OutputFormat::Text => print!("{}", text(&report)),
    }
    Ok((!interrupted).then_some(()))
}

/// Draws the progress line until the last run has ended; tells whether a signal cut it short.
async fn gather(
    mut session: Session,
    [mut interrupt, mut terminate]: [Signal; 2],
    cell_count: usize,
    measured: Duration,
) -> Result<(Vec<Figures>, bool)> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let run_millis = millis(run_time(measured));
    let bar = progress(
        run_millis * cell_count as u64,
        "{msg:24} {bar:40} {percent}%, {eta} left",
    );
    bar.set_message("filling the file");
    let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
    let (mut begun, mut since) = (0, Instant::now());
    let (mut runs, mut interrupted) = (Vec::new(), false);
    loop {
        tokio::select! {
            news = session.next() => match news? {
                Some(News::Begins(cell)) => {
                    let kib = cell.bs_bytes >> 10;
                    bar.set_message(format!("{} {kib}k x {}", cell.way.name(), cell.iodepth));
                    (begun, since) = (begun + 1, Instant::now());
                }
                Some(News::Ended(figures)) => runs.push(figures),
                None => break,
            },
            _ = tick.tick() => if begun > 0 {
                let within = millis(since.elapsed()).min(run_millis);
                bar.set_position((begun - 1) * run_millis + within);
            },
            _ = interrupt.recv() => interrupted = true,
            _ = terminate.recv() => interrupted = true,
        }
        if interrupted {
            session.stop();
        }
    }
    bar.finish_and_clear();
    Ok((runs, interrupted))
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
