//! The keys: every version that can still be read, in memory, in order.
//!
//! ```text
//!   put, delete          Store ---+--> tree     key -> history of versions, live counts per subtree
//!   commit, compact               +--> changes  every change since the compact revision, in order
//!   select               plan -> fetch -> count -> sort and cut, in steps at a pinned revision
//!   scrub                change log front -> histories: frees what no read can see any more
//!   hash                 HashKV, equal to etcd's
//! ```
//!
//! The state machine (`crate::state`) is the only caller; the engine sees what it hands out:
//! [`Record`], [`Change`], [`ChangeLog`], [`Select`], [`Selection`], [`HashScan`]. Everything here is
//! plain memory: no IO, no clock, no randomness. A record is shared (`Arc`) between its key's history,
//! the change log and whoever reads it, and is freed when the last of them lets go.

mod changes;
mod digest;
mod hash;
mod history;
mod keys;
mod record;
mod scrub;
mod select;
mod store;
mod tree;
mod warm;

pub use changes::{Change, ChangeLog};
pub use hash::{HashKvResult, HashScan};
pub use record::Record;
pub use select::{Select, Selection};

pub(crate) use digest::Digest;
pub(crate) use select::Span;
pub(crate) use store::Store;
pub(crate) use warm::fetch;
