//! What is written before anything is measured: puts, each a revision, or many keys to a transaction.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::job::{JobSpec, Setting, jobs};
use crate::load::{self, Load};
use crate::report::{PROGRESS_INTERVAL, fail_on_errors, progress};

/// Puts in turn, so many times over so many keys.
#[derive(Clone, Copy, Debug)]
pub struct PutsInTurn {
    pub puts: u64,
    pub key_count: u64,
    pub value_bytes: u64,
    pub in_flight: u64,
}

impl PutsInTurn {
    /// The shipped job that does it.
    pub fn job(self) -> Result<JobSpec> {
        let settings = [
            set("size", self.puts),
            set("runtime", 0),
            set("ramp_time", 0),
            set("key_count", self.key_count),
            set("value_bytes", self.value_bytes),
            set("iodepth", self.in_flight),
        ];
        shipped("put-seq", &settings)
    }
}

/// A shipped job with some keys set.
pub fn shipped(name: &str, settings: &[Setting]) -> Result<JobSpec> {
    Ok(jobs(&[name.to_owned()], settings)?.remove(0))
}

/// One key of a job.
pub fn set(word: &str, value: u64) -> Setting {
    Setting {
        word: word.to_owned(),
        value: value.to_string(),
        line: None,
    }
}

/// Runs a job of puts to its end. Seconds.
pub async fn put_in_turn(name: &str, address: SocketAddr, job: &JobSpec) -> Result<f64> {
    let puts = job.size.context("puts in turn are counted")?;
    let bar = progress(
        puts,
        "{msg} fills {bar:40} {human_pos} of {human_len} puts, {per_sec}, {eta} left",
    );
    bar.set_message(name.to_owned());
    let mut load = Load::connect(job, &[address]).await?;
    load.begin();
    let begun = Instant::now();
    let tally = loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, load.finish()).await {
            Ok(tally) => break tally?,
            Err(_) => bar.set_position(load.done()),
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    bar.finish_and_clear();
    fail_on_errors(name, &tally.errors, tally.first_error.as_deref())?;
    ensure!(
        tally.operations_total == puts,
        "{name}: {} of {puts} puts",
        tally.operations_total
    );
    Ok(seconds)
}

/// Writes the keys of a job that reads, many to a transaction. Seconds.
pub async fn fill(name: &str, address: SocketAddr, job: &JobSpec) -> Result<f64> {
    let bar = progress(
        job.key_count,
        "{msg} fills {bar:40} {human_pos} of {human_len} keys, {per_sec}, {eta} left",
    );
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(PROGRESS_INTERVAL);
    let begun = Instant::now();
    let filled = load::fill(job, &[address], |keys| bar.set_position(keys)).await;
    bar.finish_and_clear();
    filled.with_context(|| format!("cannot fill {name}"))?;
    Ok(begun.elapsed().as_secs_f64())
}
