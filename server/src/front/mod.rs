//! The front: sockets and protocols on one side, calls on the other.
//!
//! ```text
//!   listen      bind, accept on the engine's core, place, hand over
//!   server      a core's connections: adopt, tell protocols apart, sweep, drain
//!   connection  age and orders of one connection
//!   socket      a client's socket: counted, rationed, and behind hyper's IO traits
//!   http2       our own HTTP/2: frames -> calls, responses -> frames
//!   messages    DATA frames -> request messages          \
//!   replies     response messages -> HEADERS, DATA, trailers  the two halves of a call
//!   call        Method, Service, Call: what a handler sees /
//!   http1       hyper: HTTP/1.1
//!   http        health, version, metrics: what is answered
//!   api         the gRPC methods
//!   observer    what the transport tells the metrics
//!   limits      every bound, with its reason
//! ```
//!
//! A handler gets a [`Call`] and owes it an end. Everything on this side of [`Service`] and [`HttpService`] knows
//! nothing of etcd but two texts; everything on the other side knows nothing of sockets.
//!
//! # Invariants
//!
//! 1. Every queue is bounded by `limits`, or counted against a bound that refuses new calls.
//! 2. A connection that does not read, or does not speak, costs its own memory and nobody's time.
//! 3. No task is cancelled (the runtime's story, fault 2): connection tasks end on an order, handlers on `Closed`.

pub mod api;
mod call;
mod connection;
#[cfg(test)]
mod echo_harness_tests;
#[cfg(test)]
mod front_hostile_tests;
#[cfg(test)]
mod front_tests;
pub mod http;
mod http1;
mod http2;
pub mod limits;
mod listen;
mod messages;
mod observer;
mod replies;
mod server;
mod socket;

pub use call::{Call, Method, MethodKind, MethodTable, Peer, Service};
pub use http1::HttpService;
pub use http2::RequestHead;
pub(crate) use listen::set_options;
pub use listen::{Arrival, ArrivalSeat, HandoverSeat, Listener, Role, handover};
pub use messages::Messages;
pub use messages::PREFIX_BYTES;
pub use observer::{NoObserver, Observer};
pub use replies::{Closed, Replies, encode_message};
pub use server::{DrainReport, Front, FrontConfig, FrontStats};
pub(crate) use socket::{Http1Socket, Socket as RationedSocket, Traffic};
