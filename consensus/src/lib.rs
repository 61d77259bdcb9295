//! Agreeing on order: which entries are in the log, at which index, and when they count.
//!
//! ```text
//!   server: propose(payload) --> node --> take_ready() --> durable::record_of_* --> WAL lane
//!   WAL lane: durable through lsn --> node.on_persisted() --> node.take_committed() --> apply
//! ```
//!
//! No sockets, no files, no clock: input goes in, actions come out. The group has one voting member
//! so far, so an entry is committed as soon as it is durable here; what changes with more members is
//! inside [`node`], behind the same calls.

pub mod bootstrap;
pub mod durable;
pub mod limits;
pub mod node;

pub use node::{Entry, HardState, Node, Ready};
