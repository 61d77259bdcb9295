//! The raft group of one shard, seen from the engine.
//!
//! ```text
//!   payloads, messages, ticks --> Node --> take_ready() ----> write-ahead log --> on_persisted(number)
//!                                      --> take_messages() -> other members       (what waited may leave)
//!                                      --> take_committed() > state ------------> on_applied(index)
//! ```
//!
//! Inside is the `raft` crate's node; nothing outside this folder names that crate. Input goes in, output
//! comes out: no clock, no chance but the seed's, no files, no sockets.
//!
//! Invariants, cited by the assertions:
//! 1. Entry indexes are contiguous; terms never decrease along the log.
//! 2. An entry is given out by [`Node::take_ready`] before it may be reported durable, and may be replaced
//!    afterwards only by an entry of another leader at its place or before, and only while it is not
//!    committed.
//! 3. `applied <= handed out <= committed <= last`. What is committed need not be durable here: it is
//!    durable on a majority.
//! 4. No message leaves that depends on what is not durable ([`crate::durable::Gate`]).
//!
//! A crash between any two steps leaves on disk what was reported durable, or more: a prefix of what was
//! given out. [`Node::restore`] goes on from there.

mod config;
mod convert;
mod entry;
mod error;
mod facts;
mod group;
mod inbound;
mod lease;
mod log;
mod membership;
mod message;
mod outbox;
mod pump;
mod ready;
mod rejoin;
mod repair;
mod timeout;

#[cfg(test)]
mod cluster;

pub use config::{NodeConfig, Restored};
pub use convert::Role;
pub use entry::{Entry, EntryKind, HardState, Mark};
pub use error::NodeError;
pub use facts::{Feed, PeerProgress};
pub use group::Node;
pub use log::{LogKeep, SnapshotMark};
pub use membership::{Membership, MembershipChange, MembershipError};
pub use message::{Body, Message};
pub use ready::{ReadId, ReadState, Ready};
pub use rejoin::rejoin_request;
