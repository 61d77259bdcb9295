//! `disk`: runs a plan and shows what it brought.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::cell::Cell;
use super::figures::Figures;
use super::plan::Plan;
use super::report::Report;
use super::session::{News, Session, run_time};
use crate::cli::{DiskOptions, OutputFormat};
use crate::machine::Machine;
use crate::report::{PROGRESS_INTERVAL, print_json, progress};

/// Runs the command. None if it was interrupted; what was measured has been shown.
pub async fn run(options: &DiskOptions) -> Result<Option<()>> {
    let plan = Plan {
        directory: options.directory()?,
        file_bytes: options.size,
        cells: Cell::matrix(&options.way, &options.bs, &options.iodepth),
        measured: Duration::from_secs_f64(options.runtime),
    };
    let report = measure(&plan).await?;
    match options.output_format {
        OutputFormat::Json => print_json(&report)?,
        OutputFormat::Text => print!("{}", report.text()),
    }
    Ok((!report.interrupted).then_some(()))
}

/// Runs a plan until its end or until SIGINT or SIGTERM comes.
pub async fn measure(plan: &Plan) -> Result<Report> {
    let machine = Machine::facts(&plan.directory);
    // Listened to from before the first file is made.
    let signals = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ];
    let session = Session::start(plan)?;
    let (runs, interrupted) = gather(session, signals, plan).await?;
    Ok(Report::new(plan, machine, runs, interrupted))
}

/// Draws the progress line until the last run has ended; tells whether a signal cut it short.
async fn gather(
    mut session: Session,
    [mut interrupt, mut terminate]: [Signal; 2],
    plan: &Plan,
) -> Result<(Vec<Figures>, bool)> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let run_millis = millis(run_time(plan.measured));
    let bar = progress(
        run_millis * plan.cells.len() as u64,
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
