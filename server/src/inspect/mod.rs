//! `keelson inspect`: looks into the data directory of a stopped member, and changes nothing there.
//!
//! ```text
//!   verify          logs and snapshots of all shards, every byte that has a checksum; all damage, not only the first
//!   dump-wal        the records of all logs, with their commands
//!   dump-snapshot   a shard's newest snapshot: facts, leases, members, versions of keys
//!   hash            what HashKV of the running member answers for a shard
//! ```
//!
//! The directory's lock is held meanwhile, so a running member is refused, and none can start. Files are read through
//! [`ReadOnlyDisk`](keelson_storage::io::ReadOnlyDisk), which cannot write.

mod hash;
mod line;
mod log;
mod snapshot;
mod verify;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use keelson_storage::dir::{MAIN_SHARD, StoppedDir, StoppedShard};

use line::Printer;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// Where.
    pub data_dir: PathBuf,
    /// Which shard, for tasks that are about one; `main` if it is not said.
    pub shard: Option<String>,
    /// How to write what is found.
    pub output: DumpOutput,
    /// What.
    pub task: Task,
}

/// How what is found is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpOutput {
    /// Lines for people.
    Simple,
    /// A JSON object per line.
    Json,
}

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Everything, for damage.
    Verify,
    /// The log.
    DumpWal,
    /// The snapshot.
    DumpSnapshot {
        /// Whether values are printed too.
        values: bool,
    },
    /// The keys, as one number.
    Hash {
        /// At which revision; 0 for the newest.
        revision: i64,
    },
}

/// Does it. The exit code tells whether anything is damaged.
///
/// # Errors
/// Why it could not be done.
pub fn run(inspect: &Inspect) -> anyhow::Result<ExitCode> {
    let dir = StoppedDir::open(&inspect.data_dir)?;
    let mut out = Printer::new(inspect.output);
    let shard = || chosen_shard(&dir, inspect.shard.as_deref());
    let done = match inspect.task {
        Task::Verify => verify::verify(&dir, &mut out),
        Task::DumpWal => log::dump(&dir, &mut out),
        Task::DumpSnapshot { values } => snapshot::dump((&dir, &shard()?), values, &mut out),
        Task::Hash { revision } => hash::hash((&dir, &shard()?), revision, inspect.output),
    };
    let done = done.and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match done {
        // Whoever reads has enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

/// The shard that a tool looks at. Where it was not named and there are several, whoever reads is told that it is not all.
///
/// # Errors
/// There is no such shard.
pub(crate) fn chosen_shard(dir: &StoppedDir, name: Option<&str>) -> anyhow::Result<StoppedShard> {
    let shard = dir.shard(name.unwrap_or(MAIN_SHARD))?;
    let all = dir.shards()?;
    if name.is_none() && all.len() > 1 {
        let others = all.iter().filter(|other| other.shard != shard.shard);
        let others: Vec<&str> = others.map(|other| other.name.as_str()).collect();
        eprintln!(
            "note: this is the shard {}; the data directory also has {}, which --shard names",
            shard.name,
            others.join(", ")
        );
    }
    Ok(shard)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
}
