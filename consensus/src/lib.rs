//! Agreeing on order: which entries are in the log, at which index, and when they count.
//!
//! ```text
//!   server: propose(payload) --> node --> take_ready() --> WAL lane --> node.on_persisted(number)
//!           node.take_messages() --> peers --> node.on_message()
//!           node.take_committed() --> apply --> node.on_applied()
//! ```
//!
//! No sockets, no files, no clock: input goes in, actions come out.

pub mod bootstrap;
pub mod durable;
pub mod limits;
pub mod node;
pub mod replicate;

pub use node::{Entry, HardState, Node, Ready};
