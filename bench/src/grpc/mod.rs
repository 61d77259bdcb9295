//! gRPC over plain TCP as a client speaks it, made for a load generator.
//!
//! ```text
//!   channel    one typed call after the other, for set-up and checks
//!      |
//!   session    one HTTP/2 connection: bytes in, events out; no socket, no clock
//!      |   \
//!   streams  requests  answers     what is open; header blocks written; header blocks read
//!      |
//!   body       messages out of DATA, whole or in pieces
//! ```
//!
//! The generator shares its CPU with the server it measures, so a request is one copy of a prepared
//! message into a buffer that leaves in one write with its neighbours, and an answer is read where
//! it lies. [`Session`] is that without IO: the load's event loop and [`Channel`] move its bytes.

mod answers;
mod body;
mod channel;
mod failure;
mod requests;
mod sending;
mod session;
mod streams;

pub use channel::Channel;
pub use failure::Failure;
pub use requests::Rpc;
pub use session::{Event, Session};
pub use streams::Delivery;

/// Compression flag (always 0 here) and length, in front of every message.
pub const PREFIX_BYTES: usize = 5;
