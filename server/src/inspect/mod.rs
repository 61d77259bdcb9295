//! `keelson inspect`: looks into the data directory of a stopped member, and changes nothing there.
//!
//! ```text
//!   verify          log and snapshot, every byte that has a checksum; all damage, not only the first
//!   dump-wal        the records of the log, with their commands
//!   dump-snapshot   the newest snapshot: facts, leases, members, versions of keys
//!   hash            what HashKV of the running member answers
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

use keelson_storage::dir::StoppedDir;

use line::Printer;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// Where.
    pub data_dir: PathBuf,
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
    let done = match inspect.task {
        Task::Verify => verify::verify(&dir, &mut out),
        Task::DumpWal => log::dump(&dir, &mut out),
        Task::DumpSnapshot { values } => snapshot::dump(&dir, values, &mut out),
        Task::Hash { revision } => hash::hash(&dir, revision, inspect.output),
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
}
