//! The raft log as records of a WAL lane: how it is written, how it is read back, and what must wait until
//! it is written.
//!
//! - [`Gate`]: no message leaves before what it depends on is durable.
//! - `record`: the payloads of the records that hold no commands.
//! - [`Replay`]: the log again, from the records that a crash left.
//!
//! Layout: `storage/FORMAT.md`.

mod gate;
mod record;
mod replay;

pub use gate::{Gate, Outgoing, ReadyNumber};
pub use record::{encode_hard_state, record_kind};
pub use replay::{Replay, ReplayError, ReplayedLog};
