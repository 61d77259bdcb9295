//! What members say to each other over a link, as bytes.
//!
//! ```text
//!   link of a core with a member:  Hello -> <- Welcome,  then in both directions frames
//!   frame = header | item | item | ...        one a flush round, for all shards of the core
//!   item  = a raft message, forwarded commands, a piece of a snapshot file, ...
//! ```
//!
//! - [`FrameBuilder`] and [`Frame`]: frames, checked on both sides.
//! - [`Item`]: what is in them. What is read holds slices of the frame; entries are not copied.
//! - [`Hello`], [`Welcome`]: who is there, and in which version they talk.
//!
//! No bytes make a decoder panic or reserve more memory than they are long. Layout and rules: `PROTOCOL.md`.

mod error;
mod frame;
mod hello;
mod item;
mod raft_message;
mod reader;

#[cfg(test)]
mod frame_tests;

pub use error::FrameError;
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameBuilder, FrameHeader, frame_bytes};
pub use hello::{Hello, Refusal, VERSION_MAX, VERSION_MIN, Welcome, negotiate};
pub use item::{ForwardRefusal, Item, SnapshotAck, SnapshotOffer};
