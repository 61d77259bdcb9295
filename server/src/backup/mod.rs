//! `keelson snapshot`: takes a backup of a running member, looks at one, makes a new cluster's data directory of one.
//!
//! ```text
//!   save     member --Maintenance.Snapshot--> FILE.part --hash is right, fsync--> FILE
//!   status   FILE --all checksums--> hash, revision, keys, size
//!   restore  FILE --all checksums--> DIR.restoring --fsync--> DIR
//! ```
//!
//! A backup is a snapshot file and 32 bytes of SHA-256 of it (`storage/FORMAT.md`), so it is verified without a server:
//! every page and every block of values has a checksum. Nothing half done is taken for a result: what is written gets its
//! name by a rename when it is complete and durable. A tool that is killed leaves `FILE.part`, which the next one
//! overwrites, or `DIR.restoring`, which the next one names and refuses to touch.

mod file;
mod progress;
mod restore;
mod save;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::HttpUrl;

pub(crate) use progress::bytes_bar;

/// What `keelson snapshot` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotCommand {
    /// Take a backup.
    Save(Save),
    /// Look at one.
    Status(Status),
    /// Make a data directory of one.
    Restore(Restore),
}

/// A backup to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    /// Where it goes.
    pub file: PathBuf,
    /// Of whom.
    pub endpoint: HttpUrl,
    /// How long to wait for a connection.
    pub dial_timeout: Duration,
}

/// A backup to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it is.
    pub file: PathBuf,
    /// How to write what is found.
    pub output: StatusOutput,
}

/// How the status of a backup is written, as etcdutl does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusOutput {
    /// Columns with commas.
    Simple,
    /// One object.
    Json,
    /// A table with lines.
    Table,
}

/// A data directory to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The backup.
    pub file: PathBuf,
    /// The directory.
    pub data_dir: PathBuf,
    /// The member's name.
    pub name: String,
    /// Goes into the ids.
    pub cluster_token: String,
    /// The member's peer URLs, which go into the ids too; the cluster is this member alone.
    pub peer_urls: Vec<HttpUrl>,
    /// How far the revision is moved on, with everything before it compacted; 0 leaves both as they are.
    pub revision_bump: u64,
    /// Whether the hash at the end of the file may be missing or wrong.
    pub skip_hash_check: bool,
}

/// Does it.
///
/// # Errors
/// Why it could not be done. Nothing is left behind then.
pub fn run(command: &SnapshotCommand) -> anyhow::Result<ExitCode> {
    match command {
        SnapshotCommand::Save(save) => save::save(save)?,
        SnapshotCommand::Status(status) => print!("{}", status::status(status)?),
        SnapshotCommand::Restore(restore) => print!("{}", restore::restore(restore)?),
    }
    Ok(ExitCode::SUCCESS)
}
