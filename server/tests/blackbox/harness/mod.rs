//! What every black-box test stands on: server processes, clients, real etcd's binaries.
//!
//! `Server` owns one child process and its data directory; `Clients` holds the generated gRPC
//! clients on one connection; `WatchSession` is one watch stream; `etcd` fetches etcd 3.5.1 once
//! per target folder. `heavy` serializes the tests that would disturb each other.

mod clients;
mod etcd;
mod etcdctl;
mod launch;
mod ports;
mod server;
mod wait;
mod watch_session;

pub use clients::{Clients, Failure, accepted, failure, refused, revision_of};
pub use etcd::etcd_binaries;
pub use etcdctl::Etcdctl;
pub use launch::{heavy, raise_open_files};
pub use ports::free_port;
pub use server::{Server, ServerKind, ServerOptions};
pub use wait::{DEADLINE, eventually};
pub use watch_session::WatchSession;

pub mod http;
pub mod raw;
pub mod shapes;

/// Leaves a test early when the server under test is real etcd: the rule it checks is Keelson's
/// alone, or newer than etcd 3.5.1. The reason is printed.
macro_rules! ours_only {
    ($reason:literal) => {
        if $crate::harness::ServerKind::under_test() == $crate::harness::ServerKind::Etcd {
            println!("skipped against etcd 3.5.1: {}", $reason);
            return;
        }
    };
}
pub(crate) use ours_only;
