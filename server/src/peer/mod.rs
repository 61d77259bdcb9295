//! The links to the other members.
//!
//! ```text
//!   engine: send(to, shard, item) .. flush() --> outbox --> link      dials the member, says hello, writes frames
//!           take() <-- inbox <----------------------------- accepted  hears a hello, welcomes or refuses, reads frames
//!                                                           http      GET /members, GET /version on the same port
//!   boot:   fetch_members(urls)                             fetch     asks a member who belongs to its cluster
//!                                                           guests    who is new, and not known here yet
//! ```
//!
//! Every member dials every other one and writes its frames on the connection that it dialled; it reads frames
//! from those that it accepted. So a pair of members has two connections, each with frames in one direction and
//! a hello and its welcome in front of them. The bytes are those of [`keelson_consensus::replicate`].
//!
//! Every core with engines has its own links; the port is served on the first of them, which hands connections for another
//! core over (`handover`). The engines call and are never called; they learn from
//! [`Peers::event`] that there is something to take.
//!
//! # Invariants
//!
//! 1. Frames of a connection arrive in order and at most once: each has the number after its predecessor's, or
//!    the connection is closed.
//! 2. Nothing of a frame goes on before all of it was checked: checksum, version, cluster, sender, receiver.
//! 3. A member has one accepted connection. A new one takes the place of the old, whose rest is not read.
//! 4. What waits is bounded by bytes: towards a member by dropping what comes on top, from members by not reading.
//!    What is dropped or was on its way when a link broke is told as [`Heard::Unreachable`].
//! 5. Nobody but a member of this cluster gets further than its hello: one that this member knows, or that those
//!    know whom it knows.
//!
//! Nothing here touches a disk, so a crash leaves nothing behind.

mod accept;
mod assemble;
mod error;
mod facts;
mod fetch;
mod guests;
mod handover;
mod hello;
mod http;
mod inbox;
pub mod limits;
mod link;
mod outbox;
mod peers;

#[cfg(test)]
mod peer_tests;

pub use error::PeerError;
pub use facts::PeerFacts;
pub use fetch::{Found, fetch_members};
pub use handover::PeerRoutes;
pub use inbox::Heard;
pub use peers::{PeerConfig, Peers};
