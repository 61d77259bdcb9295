//! Free TCP ports for server processes.
//!
//! Ports come from below the range that the kernel hands to outgoing connections, so that a port
//! found free here is not taken by a client socket before the server binds it. Each test process
//! starts at its own place in the range; a server that still loses the race is started again on
//! other ports by `Server::start`.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const PORT_FIRST: u32 = 10_000;
const PORT_COUNT: u32 = 20_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that nobody listens on at this moment.
pub fn free_port() -> u16 {
    let base = std::process::id().wrapping_mul(7_919);
    for _ in 0..PORT_COUNT {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + base.wrapping_add(turn) % PORT_COUNT;
        let port = u16::try_from(port).expect("the range ends below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!(
        "no free port between {PORT_FIRST} and {}",
        PORT_FIRST + PORT_COUNT
    );
}
