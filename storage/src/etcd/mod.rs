//! etcd's own databases and snapshots: what migration reads and writes.
//!
//! The import asks [`EtcdDb`] for everything an etcd held, in etcd's terms; the export hands
//! [`EtcdDbWriter`] the same. Neither knows our own snapshot format.
//!
//! ```text
//!   bucket           key                                  value
//!   key              main i64 BE | '_' | sub i64 BE [| 't']   mvccpb.KeyValue; 't' marks a tombstone
//!   meta             consistent_index, term               u64 BE
//!                    scheduledCompactRev, finishedCompactRev  as a key of "key", 17 bytes
//!                    confState                            JSON
//!                    storageVersion (3.6 on)              "3.6.0"
//!   lease            id i64 BE                            leasepb.Lease
//!   alarm            etcdserverpb.AlarmMember             nothing
//!   auth             authEnabled                          1 or 0, one byte
//!                    authRevision                         u64 BE
//!   authUsers        name                                 authpb.User
//!   authRoles        name                                 authpb.Role
//!   members          id, hexadecimal                      JSON
//!   members_removed  id, hexadecimal                      "removed"
//!   cluster          clusterVersion, downgrade            "3.5.0", JSON
//! ```
//!
//! A file from `etcdctl snapshot save` is such a database, to the end of its pages, followed by the
//! SHA-256 of all that. A file's length says whether it has one: a database is a multiple of 512 bytes.
//!
//! Invariants of reading:
//! 1. Nothing is written, and an etcd that runs on the file is noticed by its lock.
//! 2. A data directory is refused if its log holds changes that its database does not: etcd writes the
//!    database some time after it answered, so these would be lost. A database file named by itself is
//!    taken as it is.
//! 3. Entries come in strictly rising order of their revisions, and each was checked: its message is
//!    whole and its revision is the one it is stored under.
//! 4. Any bytes give content or an error, as in `bbolt`.
//!
//! Invariants of writing:
//! 5. Messages are encoded field by field as etcd does it, so HashKV, which hashes stored bytes, agrees.
//! 6. The file has another name until it is complete and durable; a crash leaves only `NAME.part`.

mod contents;
mod db;
mod entry;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hash;
mod schema;
mod wal_tail;
mod writer;

#[cfg(test)]
mod contents_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod wal_tail_tests;

pub use contents::{
    EtcdAuth, EtcdCluster, EtcdContents, EtcdLease, EtcdMember, EtcdMeta, NamedMessage,
};
pub use db::{EtcdDb, EtcdDbOptions, EtcdSource, KeyEntries};
pub use entry::{EtcdRevision, KeyEntry, KeyValueRef};
pub use error::{EtcdDbError, EtcdDbProblem};
pub use hash::HashProgress;
pub use writer::{EtcdDbSummary, EtcdDbWriter};
