//! The load generator: a job's requests over gRPC, in a closed or an open loop.
//!
//! ```text
//!   run        Load: threads started, let go, asked for their tallies; fill: keys written ahead
//!    |
//!   worker     one thread: one epoll loop over its connections
//!    |     \
//!   net    ops          sockets; what is asked, and what an answer must hold
//!           |
//!   flow   tally        when the next operation may begin; what was seen
//!
//!   keys, wire          keys and values; protobuf written and read in place
//! ```
//!
//! A worker is a plain thread with non-blocking sockets. In each turn of its loop it reads what has
//! arrived, lets the operations that this frees begin anew, and writes once to each connection, so
//! what a request costs beside the system calls is a copy into a buffer and a look at the answer.
//!
//! 1. Throughput counts the answers that arrived inside the measured window; latency is recorded
//!    for every operation that began inside it (in an open loop: was due inside it), so a stall at
//!    the end is not lost.
//! 2. An answer that is missing, empty or an error is counted by code and never as an operation.
//! 3. A client whose connection broke stops; the others go on.

mod clock;
mod flow;
mod keys;
mod net;
mod ops;
mod run;
mod tally;
mod wire;
mod worker;

pub use keys::key_range;
pub use ops::{WatchAnswer, read_watch};
pub use run::{Load, fill};
pub use tally::Tally;

#[cfg(test)]
mod load_tests;
