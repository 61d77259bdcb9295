//! A checkpoint of a member that nobody asks anything, beside the disk's own rate.
//!
//! ```text
//!   puts | rest | probe | SIGUSR1 ... until the member counts one more
//! ```
//!
//! Bytes and seconds are the member's own, by its metrics.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::disk;
use crate::job::JobSpec;
use crate::report::spinner;
use crate::scrape::{self, Checkpoints};
use crate::server::Server;
use crate::settle::settled;
use crate::upkeep::put_in_turn;

const PROBE_FILE_BYTES: u64 = 1 << 30;
const PROBE_TIME: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(300);

/// One checkpoint.
#[derive(Serialize)]
pub struct CheckpointFigures {
    /// Puts since the one before.
    pub puts: u64,
    pub bytes: f64,
    pub seconds: f64,
    pub bytes_per_second: f64,
    /// Durable writes of 1 MiB, four in flight, just before.
    pub probe_bytes_per_second: f64,
    pub probe_ratio: f64,
}

/// Puts, lets the member come to rest, and has it make a checkpoint. None if the server makes none,
/// or made one by itself while puts came.
pub async fn checkpoint(
    (name, server): (&str, &mut Server),
    parent: &Path,
    job: &JobSpec,
) -> Result<Option<CheckpointFigures>> {
    let address = server.address();
    if scrape::checkpoints(address).await?.is_none() {
        return Ok(None);
    }
    let puts = job.size.context("puts before a checkpoint are counted")?;
    let first = made_by(server).await?;
    put_in_turn(name, address, job).await?;
    let bar = spinner(format!("{name} comes to rest"));
    settled(|| server.usage()).await?;
    bar.set_message("disk probe");
    let probe = disk::probe_sequential(parent, PROBE_FILE_BYTES, PROBE_TIME).await;
    bar.finish_and_clear();
    let (probe_bytes_per_second, _) = probe?;

    let before = made_by(server).await?;
    if before.count != first.count {
        eprintln!(
            "{name} made a checkpoint while {puts} puts came; one of them at rest is not measured"
        );
        return Ok(None);
    }
    server.request_checkpoint();
    let bar = spinner(format!("{name} makes a checkpoint"));
    let begun = Instant::now();
    let after = loop {
        let now = made_by(server).await?;
        if now.count > before.count {
            break now;
        }
        ensure!(begun.elapsed() < WAIT_MAX, "{name} makes no checkpoint");
        tokio::time::sleep(LOOK_INTERVAL).await;
    };
    bar.finish_and_clear();
    let (bytes, seconds) = (after.bytes - before.bytes, after.seconds - before.seconds);
    let bytes_per_second = bytes / seconds;
    Ok(Some(CheckpointFigures {
        puts,
        bytes,
        seconds,
        bytes_per_second,
        probe_bytes_per_second,
        probe_ratio: bytes_per_second / probe_bytes_per_second,
    }))
}

async fn made_by(server: &Server) -> Result<Checkpoints> {
    let made = scrape::checkpoints(server.address()).await?;
    made.context("the server no longer tells of its checkpoints")
}
