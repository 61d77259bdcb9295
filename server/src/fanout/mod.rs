//! Watch fan-out of one front core: who watches what, and what each of them has seen.
//!
//! ```text
//!   engine --batches, slices, progress marks--> FanOut --responses--> streams --> clients
//!   FanOut --catch-up questions--> engine
//! ```
//!
//! [`FanOut`] is a plain struct without IO: the shell in `front/api/watch.rs` feeds it from the ring and
//! from the gRPC streams, and sends what it puts into the streams' queues.
//!
//! Invariants (the watch properties of the guarantees):
//! 1. A live watcher has been sent every matching change up to [`FanOut::revision`]; a late one has a
//!    cursor and has been sent every matching change below it.
//! 2. A change is put into a stream at most once per watcher, in revision order, and all changes of
//!    a revision are in one response (unless the watcher asked for fragments).
//! 3. A progress response with revision R is put into a stream behind every event up to R, and only if
//!    every watcher it speaks for is live and has started.
//! 4. A stream holds a bounded number of bytes; beyond that its watchers become late.

mod deliver;
mod encode;
mod hub;
#[cfg(test)]
mod hub_tests;
mod intervals;
pub mod limits;
mod slots;
mod stream;
mod watcher;

pub use hub::{FanOut, FanOutCounts, OpenedAt};
pub use watcher::WatchSpec;
