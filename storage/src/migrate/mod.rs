//! Moving a whole keyspace between etcd and here, both ways, offline.
//!
//! ```text
//!   import   EtcdDb, by revision --> sort by key      --> snapshot::Builder --> NNNNNNNN.snap
//!   export   State, by key       --> sort by revision --> EtcdDbWriter      --> a snapshot of etcd's
//! ```
//!
//! etcd stores its history in the order of revisions and we store ours in the order of keys, so either way
//! everything is sorted. That is done in bounded memory: what does not fit is written to one scratch file in
//! sorted runs, which are merged. Every file is read and written front to back, whatever its size.
//!
//! What is taken over: every change above the compact revision C, of each key the newest change at or below
//! C unless it is a deletion, the revision and C themselves, leases with what is left of them, alarms, users
//! and roles. This is what etcd keeps and what HashKV is computed over, so it agrees on both sides. Our own
//! files may hold one more version per key at exactly the horizon; an export leaves it out.
//!
//! What is not: members and cluster, which whoever founds a cluster with the data says anew, and the raft
//! log. The caller must have refused or replayed a log that the file behind it does not contain.
//!
//! What a crash leaves: of an import, a snapshot file with a blank first block, which does not count; of an
//! export, `NAME.part`. The scratch file has no name, so it ends with the process.

use std::ops::ControlFlow;

mod auth;
mod error;
mod export;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod import;
mod retention;
mod row;
mod sort;

#[cfg(test)]
mod migrate_tests;

pub use auth::{decode_auth, encode_auth};
pub use error::MigrateError;
pub use export::{ExportOptions, ExportSummary, export};
pub use import::{ImportOptions, ImportSummary, import};

/// Hears how far a migration has come, and says whether it goes on.
pub type Progress<'a> = dyn FnMut(MigrateProgress) -> ControlFlow<()> + 'a;

/// How far a step of a migration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrateProgress {
    /// Which step.
    pub step: MigrateStep,
    /// How much of it is done, roughly.
    pub done_bytes: u64,
    /// How much there is, roughly.
    pub total_bytes: u64,
}

/// The steps of a migration, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrateStep {
    /// The source is read and sorted.
    Read,
    /// The target is written.
    Write,
    /// The hash at the end of the target is computed.
    Hash,
}

fn report(progress: &mut Progress<'_>, now: MigrateProgress) -> Result<(), MigrateError> {
    match progress(now) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(MigrateError::Interrupted),
    }
}
