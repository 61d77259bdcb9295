//! The process: cores, sockets, the engine between them and the state machine.
//!
//! ```text
//!   runtime  one pinned executor per core, rings and wake-ups between them
//!   front    sockets, HTTP/2, gRPC, HTTP/1.1
//! ```

pub mod front;
pub mod runtime;
