//! What an etcd database can refuse, by what the caller does about it.

use crate::bbolt::BoltError;
use crate::io::PartError;

/// An etcd database's error. Every one names the file.
#[derive(Debug, thiserror::Error)]
pub enum EtcdDbError {
    /// The file under it: unreadable, locked, foreign, cut off or damaged.
    #[error(transparent)]
    Bolt(#[from] BoltError),
    /// The unfinished file of an export.
    #[error(transparent)]
    Part(#[from] PartError),
    /// A database without the hash that a snapshot has.
    #[error(
        "{file}: snapshot missing hash but --skip-hash-check=false: a file copied from a data directory has none; \
         check where it comes from, and then skip the check"
    )]
    MissingHash {
        /// Path of the file.
        file: String,
    },
    /// A snapshot whose bytes are not the ones that were hashed.
    #[error("{file}: expected sha256 {expected}, got {found}: the snapshot is damaged")]
    WrongHash {
        /// Path of the file.
        file: String,
        /// The hash in the file, hexadecimal.
        expected: String,
        /// The hash of the file, hexadecimal.
        found: String,
    },
    /// A bbolt file of another program.
    #[error("{file} is a bbolt file, but not etcd's: it has no bucket {bucket:?}")]
    NotEtcd {
        /// Path of the file.
        file: String,
        /// What is missing.
        bucket: &'static str,
    },
    /// A directory without a database.
    #[error("{directory} is not etcd's data directory: it has no member/snap/db")]
    NoDatabase {
        /// Path of the directory.
        directory: String,
    },
    /// A data directory without its log.
    #[error(
        "{directory} holds no write-ahead log, so nobody can tell whether the database is complete: name the directory \
         of the log if etcd ran with --wal-dir, or else name the file member/snap/db itself, which takes it as it is"
    )]
    NoWal {
        /// Where it was looked for.
        directory: String,
    },
    /// The log has what the database has not.
    #[error(
        "{file} is behind its write-ahead log: it stands at index {database_index}, the log at {wal_index}, and \
         what was acknowledged in between would be lost. Start this etcd once more and stop it with SIGTERM, or take a \
         snapshot with etcdctl snapshot save"
    )]
    BehindWal {
        /// Path of the database.
        file: String,
        /// The last entry in the database.
        database_index: u64,
        /// The last entry, or snapshot, that is only in the log.
        wal_index: u64,
    },
    /// The log cannot be read.
    #[error("{file} is damaged at byte {offset}: {problem}")]
    Wal {
        /// Path of the log file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A stored entry that etcd would not have written.
    #[error("{file} is damaged: key {key} of bucket {bucket:?}: {problem}")]
    Entry {
        /// Path of the file.
        file: String,
        /// The bucket.
        bucket: &'static str,
        /// Its key, non-printable bytes escaped.
        key: String,
        /// What is wrong with it.
        problem: EtcdDbProblem,
    },
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdDbProblem {
    /// Not 17 or 18 bytes of a revision.
    #[error("it is not a revision")]
    Revision,
    /// Two entries with one revision.
    #[error("its revision is not above the one before")]
    Order,
    /// The value does not decode.
    #[error("its value is not a whole message")]
    Message,
    /// The value's own revisions contradict the key.
    #[error("its value belongs to another revision")]
    OtherRevision,
    /// A number of the wrong length.
    #[error("its value is not a number of eight bytes")]
    Number,
    /// JSON or text that is not.
    #[error("its value is not the text it should be")]
    Text,
    /// A member's id that is not hexadecimal.
    #[error("it is not a member's id")]
    MemberId,
    /// A lease stored under the id of another.
    #[error("its value is another lease")]
    OtherLease,
}
