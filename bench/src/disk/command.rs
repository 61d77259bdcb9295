//! `disk`: runs a plan, with a progress line, and shows what it brought.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cell::{Cell, Way};
use super::figures::Figures;
use super::plan::Plan;
use super::report::DiskResult;
use super::session::{News, Session, probe_4k_depth1, run_time};
use crate::cli::DiskOptions;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::outcome::{Ending, deliver};
use crate::report::{DiskProbe, Document, PROGRESS_INTERVAL, progress};

/// How long a disk is measured to be quoted beside other results.
const QUOTE_TIME: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn run(options: &DiskOptions, interrupt: &Interrupt) -> Result<Ending> {
    let mut cells = Cell::matrix(&options.way, &options.bs, &options.iodepth);
    let last_direct = cells.iter().rposition(|cell| cell.way == Way::Direct);
    if let Some(at) = last_direct.filter(|_| !cells.contains(&Cell::SEQUENTIAL_WRITE)) {
        cells.insert(at + 1, Cell::SEQUENTIAL_WRITE);
    }
    let plan = Plan {
        name: "disk".to_owned(),
        directory: options.directory()?,
        file_bytes: options.size,
        cells,
        measured: options.runtime,
    };
    let mut document = Document::new("disk", Machine::facts(&plan.directory), 0, 1);
    let outcome = match measure(&plan, interrupt).await {
        Ok(result) => {
            document.disk.extend(result);
            Ok(())
        }
        Err(error) => Err(error),
    };
    deliver(document, &options.output, outcome, interrupt)
}

/// Measures a lone 4 KiB write and puts it into a document, beside the figures of the servers whose
/// data lies in the same folder. Where that cannot be measured, the document says so.
pub async fn quote(document: &mut Document, directory: &Path, interrupt: &Interrupt) {
    match interrupt.or(probe_4k_depth1(directory, QUOTE_TIME)).await {
        Some(Ok(latency)) => {
            document.disk_probe = Some(DiskProbe {
                write_4k_depth1_p50_us: latency.p50,
                write_4k_depth1_p99_us: latency.p99,
            });
        }
        Some(Err(error)) => document.warnings.push(format!("no disk probe: {error:#}")),
        None => {}
    }
}

/// Runs a plan until its end or until Ctrl-C. None if nothing was measured until then.
pub async fn measure(plan: &Plan, interrupt: &Interrupt) -> Result<Option<DiskResult>> {
    let mut session = Session::start(plan)?;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let run_millis = millis(run_time(plan.measured));
    let bar = progress(
        run_millis * plan.cells.len() as u64,
        "{msg:48} {bar:30} {percent:>3}%, {eta} left",
    );
    bar.set_message(format!("{}: fills its file", plan.name));
    let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
    let (mut begun, mut since) = (0, Instant::now());
    let mut runs: Vec<Figures> = Vec::new();
    loop {
        tokio::select! {
            news = session.next() => match news? {
                Some(News::Begins(cell)) => {
                    let (way, block, depth) = (cell.way.name(), cell.block(), cell.iodepth);
                    bar.set_message(format!("{}: {way} {block} x {depth}", plan.name));
                    (begun, since) = (begun + 1, Instant::now());
                }
                Some(News::Ended(figures)) => runs.push(figures),
                None => break,
            },
            _ = tick.tick() => {
                let within = if begun > 0 { millis(since.elapsed()).min(run_millis) } else { 0 };
                bar.set_position(u64::max(begun, 1) * run_millis - run_millis + within);
                if interrupt.is_set() {
                    session.stop();
                }
            },
        }
    }
    bar.finish_and_clear();
    Ok((!runs.is_empty()).then(|| DiskResult::new(plan, runs)))
}
