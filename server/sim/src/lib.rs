//! The simulator: whole members in one thread, and everything around them out of a seed.
//!
//! ```text
//!   options   what kind of run the seed stands for
//!   world     time, members, network, clients: what happens next
//!     member    an engine over simulated disks, with the fan-outs of its cores
//!     disk      slow, stuck, failing, lying; torn when the power fails
//!     wire      delays, loss, repetition, cuts
//!     clients, client    of keys and leases
//!     watcher            of watches
//!     operator           of the membership
//!     company            of the other shards of the core
//!     faults    what befalls
//!     observe   what is seen of members, and judged at once
//!     finish    what must come right afterwards, and is judged then
//!   check     the judges; they know nothing of all this
//!   trace     the digest, the last events, counts of rare ones
//!   run       seeds, one after the other or side by side
//! ```
//!
//! A run enters at the questions that a front hands to its engine, and leaves at the bytes of its answers. What is not
//! in it: sockets, gRPC, the glommio runtime, the real disk. Those have tests with real processes.
//!
//! Invariants:
//! 1. A run depends on its seed and nothing else: the same seed gives the same digest.
//! 2. A fault never takes more than the promises allow for, so a violation is always the product's.

pub mod check;
mod client;
mod clients;
mod company;
mod dice;
mod disk;
mod faults;
mod finish;
mod follow;
mod member;
mod observe;
mod operator;
mod options;
pub mod run;
mod trace;
mod watcher;
mod wire;
mod world;
