//! A thread that probes, so that the tool can draw its progress line and hear Ctrl-C meanwhile.
//!
//! The thread tells of every run as it ends. A [`Session`] that is dropped stops its thread and waits
//! until the probe's file is removed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use super::cell::Cell;
use super::figures::Figures;
use super::plan::Plan;
use super::probe::{Pace, Probe};
use crate::stats::Latency;

/// Size of the file for a single quick run.
const QUICK_FILE_BYTES: u64 = 8 << 20;
/// Time before a run that is not measured, as a part of the measured time, and at most.
const RAMP_DIVISOR: u32 = 10;
const RAMP_MAX: Duration = Duration::from_millis(200);

/// What the thread tells.
pub enum News {
    /// The file is ready, or the run before has ended: this run begins.
    Begins(Cell),
    /// A run has ended, or was stopped after something was measured.
    Ended(Figures),
}

/// A running probe.
pub struct Session {
    news: mpsc::UnboundedReceiver<Result<News>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Session {
    /// Starts the runs of a plan.
    pub fn start(plan: &Plan) -> Result<Self> {
        let (tell, news) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, plan) = (stop.clone(), plan.clone());
        let work = move || {
            let runs = || -> Result<()> {
                let mut probe = Probe::create(&plan.directory, plan.file_bytes, stopped.clone())?;
                for cell in plan.cells {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    // Nobody listens once the session is being dropped.
                    let _ = tell.send(Ok(News::Begins(cell)));
                    if let Some(figures) = probe.run(cell, pace(plan.measured))? {
                        let _ = tell.send(Ok(News::Ended(figures)));
                    }
                }
                Ok(())
            };
            if let Err(error) = runs() {
                let _ = tell.send(Err(error));
            }
        };
        let thread = thread::Builder::new()
            .name("disk-probe".to_owned())
            .spawn(work)?;
        Ok(Self {
            news,
            stop,
            thread: Some(thread),
        })
    }

    /// The next piece of news; None after the last.
    pub async fn next(&mut self) -> Result<Option<News>> {
        self.news.recv().await.transpose()
    }

    /// Ends the present run now and starts no other; what was measured still comes.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and the news has ended without its figures.
            let _ = thread.join();
        }
    }
}

/// Latency of a durable 4 KiB write with nothing else in flight, written as the log writes: the least
/// that a lone request on this disk can take.
///
/// # Errors
/// The directory cannot be used, or the disk failed.
pub async fn probe_4k_depth1(directory: &Path, measured: Duration) -> Result<Latency> {
    let [figures] = probe_all(directory, QUICK_FILE_BYTES, [Cell::SMALLEST], measured).await?;
    Ok(figures.latency_us)
}

/// Bytes per second of durable 1 MiB writes, and of copies of 1 MiB, four in flight, over a file of that size.
///
/// # Errors
/// The directory cannot be used, or the disk failed.
pub async fn probe_sequential(
    directory: &Path,
    file_bytes: u64,
    measured: Duration,
) -> Result<(f64, f64)> {
    let cells = [Cell::SEQUENTIAL_WRITE, Cell::SEQUENTIAL_COPY];
    let [write, copy] = probe_all(directory, file_bytes, cells, measured).await?;
    Ok((write.bytes_per_second, copy.bytes_per_second))
}

async fn probe_all<const COUNT: usize>(
    directory: &Path,
    file_bytes: u64,
    cells: [Cell; COUNT],
    measured: Duration,
) -> Result<[Figures; COUNT]> {
    let mut session = Session::start(&Plan {
        name: "quick".to_owned(),
        directory: directory.to_path_buf(),
        file_bytes,
        cells: cells.to_vec(),
        measured,
    })?;
    let mut runs = Vec::new();
    while let Some(news) = session.next().await? {
        if let News::Ended(figures) = news {
            runs.push(figures);
        }
    }
    let runs = runs.try_into().ok();
    runs.context("the disk probe measured nothing in its time")
}

/// How long a run takes all in all.
pub fn run_time(measured: Duration) -> Duration {
    let pace = pace(measured);
    pace.ramp + pace.measured
}

fn pace(measured: Duration) -> Pace {
    Pace {
        ramp: (measured / RAMP_DIVISOR).min(RAMP_MAX),
        measured,
    }
}
