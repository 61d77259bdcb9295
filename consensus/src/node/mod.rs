//! The raft group of one shard, seen from the engine.
//!
//! Invariants, cited by the assertions:
//! 1. Entry indexes are contiguous from 1; terms never decrease along the log.
//! 2. An entry is handed out by [`Node::take_ready`] exactly once, before it may be reported durable.
//! 3. `applied <= committed <= persisted <= last`.
//! 4. Nothing commits in a term whose hard state is not durable ("persist before speaking").

mod single;

pub use single::{Entry, HardState, Node, NodeError, Ready};
