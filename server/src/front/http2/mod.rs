//! HTTP/2, cut to what gRPC needs of a server.
//!
//! ```text
//!   driver    a connection's task: socket -> session -> calls; what the turn wrote -> one send(2)
//!   session   the protocol's state and its verbs: streams, windows, orders. No IO
//!   receive   frames in
//!   send      responses -> frames out, as the windows allow
//!   stream    one call's two directions
//!   head      header blocks -> request heads, with a memory for the ones that repeat
//!   outgoing  bytes on their way to the socket
//! ```
//!
//! Why not a library: HTTP/2 was over half of a request's CPU. Frames are parsed where recv(2) put them, a message
//! is copied once, into the buffer it lives in; a unary response is written as three frames straight into the
//! connection's buffer, and a header block that repeats, which with gRPC is nearly every one, is looked up instead
//! of decoded.
//!
//! # Invariants
//!
//! 1. Every queue is bounded: what a client may send by the windows we announce, what it has not taken by the
//!    windows it announces and by `OUT_BYTES_MAX`, its answers to control frames by not reading on.
//! 2. A broken rule of the protocol ends the stream or the connection as RFC 9113 says, and never the process.
//! 3. The header compression stays in step: every header block is decoded, also of streams that are refused.

mod driver;
mod head;
mod outgoing;
mod receive;
mod send;
mod session;
#[cfg(test)]
mod session_tests;
mod stream;

pub(super) use driver::serve;
pub use head::RequestHead;
pub(super) use outgoing::SpareBuffers;
pub use send::encode_message;
pub(super) use send::prefix;
pub(super) use session::{Ended, SharedSession};
