//! The keys: every version that can still be read, in order.
//!
//! ```text
//!   put, delete          Store --> top layer --+--> tree     key -> history of versions, live counts
//!   commit, compact                            +--> changes  every change, in order
//!   get, walk, count     top layer + frozen layer + snapshot (crate::snapshot), merged
//!   select               plan -> fetch -> count -> sort and cut, in steps at a pinned revision
//!   scrub                changes -> histories: frees what no read can see any more
//!   hash                 HashKV, equal to etcd's
//!   checkpoint           freeze the top layer; frozen layer + snapshot -> next snapshot
//! ```
//!
//! The state machine (`crate::state`) is the only caller; the engine sees what it hands out:
//! [`Record`], [`Change`], [`Select`], [`Selection`], [`HashScan`], [`Checkpoint`]. Everything here is
//! plain memory: no IO, no clock, no randomness. A record is shared between its key's history,
//! the change log and whoever reads it. It lies in the memory of its layer (`slab`), which goes in blocks.

mod changes;
mod checkpoint;
mod digest;
mod hash;
mod history;
mod keys;
mod layers;
mod record;
mod scrub;
mod select;
mod slab;
mod store;
mod tree;
mod warm;

pub use changes::Change;
pub use checkpoint::{Checkpoint, Progress, Reuse, Wanted};
pub use hash::{HashKvResult, HashScan};
pub use layers::{Layer, MemoryBytes};
pub use record::{Record, Version, is_absent};
pub use select::{Select, Selection};
pub use slab::ready_blocks;

pub(crate) use digest::Digest;
pub(crate) use layers::Found;
pub(crate) use select::Span;
pub(crate) use store::Store;
pub(crate) use warm::fetch;
