//! The WAL lane: one engine core's stream of records on disk.
//!
//! ```text
//!   append -> open group -> (batching rule) -> one aligned durable write -> contiguous durable prefix
//!                                                   |
//!   segment 7 [hdr|group|group|group|seal]   segment 8 [hdr|group|group|......]   segment 9 [hdr|zeros]
//! ```
//!
//! The engine appends records and calls [`Wal::pump`] once per loop turn; pump takes completions, decides
//! which groups may be written now, and returns the position through which everything is durable. A
//! preparer keeps the next segment ready, so the switch is only a change of offset.
//!
//! Invariants:
//! 1. The position pump returns never covers a record whose group, or any group before it, is not durable.
//! 2. A group states in its header which groups were durable when it was written; recovery relies on it.
//! 3. Groups are written at strictly rising places; no place is written twice within one use of a segment
//!    unless recovery wiped it before.
//! 4. After the first failed write or flush nothing is written and nothing is reported any more.
//! 5. The next segment's header is durable before the seal of the present one is written, and the live
//!    segments are always an unbroken run of sequence numbers.
//!
//! A crash at any point leaves a run of sound groups, followed by at most the groups in flight, each with
//! any subset of its sectors; `recovery` tells that from damage. Layout: `storage/FORMAT.md`.

mod config;
mod error;
pub mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod group;
mod lane;
mod prepare;
mod segment;
mod startup;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod model_tests;

pub use config::{WalConfig, WalCounters};
pub use error::{DamageReason, WalError};
pub use format::{RecordKind, RecordMeta, WalRecord};
pub use lane::Wal;
pub(crate) use segment::{Segment, slot_of_name};
