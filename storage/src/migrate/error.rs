//! Why a migration did not take place.

use crate::etcd::{EtcdDbError, EtcdRevision};
use crate::io::DiskError;
use crate::snapshot::SnapshotError;

/// A migration's error. Nothing that counts was left behind.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The file on etcd's side.
    #[error(transparent)]
    Etcd(#[from] EtcdDbError),
    /// The file on our side.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The scratch file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Users and roles count in the source, and would not here.
    #[error(
        "{file}: authentication is enabled in it, and this version does not check who a client is: everybody who can \
         connect could read and write all keys. If that is right, say so with --without-auth: users and roles are kept, \
         and authentication is off"
    )]
    AuthEnabled {
        /// Path of the source.
        file: String,
    },
    /// A request with more changes than a request can have.
    #[error("{file}: change {}_{} has a place in its request that no request has room for", at.main.0, at.sub)]
    Sub {
        /// Path of the source.
        file: String,
        /// Which change.
        at: EtcdRevision,
    },
    /// Whoever asked for it does not want it any more.
    #[error("interrupted")]
    Interrupted,
    /// The content of the auth store does not decode.
    #[error(
        "the users and roles in {file} cannot be read: they were written by a later version, or are damaged"
    )]
    Auth {
        /// Path of the source.
        file: String,
    },
}
