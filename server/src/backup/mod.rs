//! `keelson snapshot`: takes a backup of a running member, looks at one, makes a new cluster's data directory of one.
//!
//! ```text
//!   save     member --Maintenance.Snapshot--> FILE.part --hash is right, fsync--> FILE
//!   status   FILE --all checksums--> hash, revision, keys, size
//!   restore  FILE --all checksums--> DIR.restoring --fsync--> DIR
//!   import   etcd's data --by key--> DIR.restoring --fsync--> DIR
//!   export   FILE or DIR --by revision--> FILE.part, etcd's --fsync--> FILE
//! ```
//!
//! A backup is a snapshot file and 32 bytes of SHA-256 of it (`storage/FORMAT.md`), so it is verified without a server:
//! every page and every block of values has a checksum. Nothing half done is taken for a result: what is written gets its
//! name by a rename when it is complete and durable. An interrupt takes back what there is of it. A tool that is killed
//! leaves `FILE.part` or `DIR.restoring`, which nobody has locked any more: the next one that wants the same name takes it
//! over. What is locked belongs to a tool that runs, and what no tool leaves is somebody's: both are named, and not touched.

mod courtesy;
mod draft;
mod export;
mod file;
mod founding;
mod import;
mod interrupt;
mod migration_bar;
mod progress;
mod restore;
mod save;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use keelson_storage::io::give_way_at_disk;

use crate::config::HttpUrl;

pub use founding::Founding;
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
    /// Make a data directory of what an etcd held.
    Import(Import),
    /// Make a snapshot of etcd's.
    Export(Export),
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
    /// The cluster that begins with it.
    pub founding: Founding,
    /// Backups of shards beside `main`, by name.
    pub shards: Vec<(String, PathBuf)>,
    /// How far the revision is moved on, with everything before it compacted; 0 leaves both as they are.
    pub revision_bump: u64,
    /// Whether the hash at the end of the file may be missing or wrong.
    pub skip_hash_check: bool,
}

/// Data of an etcd to take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// A snapshot, a database file, or the data directory of a stopped member.
    pub source: PathBuf,
    /// The directory to make.
    pub data_dir: PathBuf,
    /// The cluster that begins with it.
    pub founding: Founding,
    /// Where the log of a data directory is, if not in it.
    pub wal_dir: Option<PathBuf>,
    /// Whether the hash at the end of the file may be missing or wrong.
    pub skip_hash_check: bool,
    /// Whether data is taken for which users count, though they do not here.
    pub without_auth: bool,
}

/// Data to hand over to an etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Where the snapshot goes.
    pub file: PathBuf,
    /// What is in it.
    pub source: ExportSource,
    /// Whether the hash at the end of a backup may be missing or wrong.
    pub skip_hash_check: bool,
}

/// What is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportSource {
    /// A backup.
    Backup(PathBuf),
    /// The data directory of a stopped member.
    DataDir {
        /// Where.
        path: PathBuf,
        /// Which shard; `main` if it is not said.
        shard: Option<String>,
    },
}

/// Does it.
///
/// # Errors
/// Why it could not be done. Nothing is left behind then.
pub fn run(command: &SnapshotCommand) -> anyhow::Result<ExitCode> {
    // A member on this machine goes before.
    crate::runtime::step_back();
    give_way_at_disk();
    match command {
        SnapshotCommand::Save(save) => save::save(save)?,
        SnapshotCommand::Status(status) => print!("{}", status::status(status)?),
        SnapshotCommand::Restore(restore) => print!("{}", restore::restore(restore)?),
        SnapshotCommand::Import(import) => print!("{}", import::import(import)?),
        SnapshotCommand::Export(export) => print!("{}", export::export(export)?),
    }
    Ok(ExitCode::SUCCESS)
}
