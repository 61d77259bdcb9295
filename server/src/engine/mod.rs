//! The owner of a shard: its state and its log, on one core, and the lane, which it may share.
//!
//! ```text
//!  on_ask -> admit -> queue -> seal (propose) -> WAL lane -> durable -> commit -> apply -> reply
//!                \-> reads, watch history                                    \-> publish
//! ```
//!
//! [`Engine`] is a plain struct: questions and a time go in, steps run to completion, answers are taken
//! out. It owns its [`Disk`](keelson_storage::io::Disk) through the WAL and reads no clock, so a
//! simulator can run it with simulated bodies of both. [`driver`] is the loop that runs it on an
//! executor, between the rings of the front cores. Several shards of a core are [`Shards`]. [`client`] is a front's end of those rings.
//!
//! Invariants:
//! 1. A write is answered only after its entry is durable, committed and applied. A keep-alive is answered
//!    only if the applied state covers it.
//! 2. Batches to a core cover consecutive revisions; a reply that tells a revision leaves after nothing
//!    that a watcher of that core has yet to see below the batches already sent.
//! 3. Nothing here awaits: a precondition checked at the top of a step still holds at its end.

mod admit;
mod apply;
mod auto_compact;
mod build;
mod checkpoint;
pub mod client;
mod compare;
pub mod driver;
mod forward;
mod group;
mod history;
mod keep_alive;
mod lane;
mod late;
mod lease_clock;
pub mod limits;
mod lost;
mod mend;
pub mod message;
mod move_leader;
mod newcomer;
pub(crate) mod offline;
mod open;
mod persist;
mod quorum_reads;
mod read;
mod read_log;
mod receiving;
pub mod reconfigure;
mod rejoin;
pub mod report;
mod room;
mod sending;
mod shard;
mod shards;
mod slices;
mod spread;
mod swap;
mod values;
mod verify;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod compare_tests;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod forced_tests;
#[cfg(test)]
mod held_reads_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod lost_tests;
#[cfg(test)]
mod report_tests;
#[cfg(test)]
mod shards_tests;
#[cfg(test)]
mod spread_tests;
#[cfg(test)]
mod transfer_tests;

pub use checkpoint::{CheckpointConfig, Discarded};
pub use compare::CompareConfig;
pub use lost::LostState;
pub use open::{Disks, ShardPast, ShardSeat, open_lane};
pub use shard::{Activity, Durations, Engine, EngineConfig, EngineError, EngineFacts, GroupConfig};
pub use shards::Shards;
pub use slices::Slices;
