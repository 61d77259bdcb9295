//! eventfds: how anything outside a core reaches it while it sleeps.
//!
//! Another core (`cores.rs`) and the WAL's ring signal through one. The core's poller has a read of each in its ring:
//! the kernel completes it when somebody adds to the counter.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::core::this_core;

/// What the callback of [`watch_eventfd`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Call again when the counter is above 0 again.
    Continue,
    /// Stop watching.
    Done,
}

/// Calls `on_ready` on this core with the counter's value each time `fd` (an eventfd) becomes readable.
///
/// Signals between two calls are added up by the kernel, so one call may stand for many. It is called between the
/// turns of tasks: it notifies, and leaves work to a task. The descriptor is duplicated; closing the caller's does not
/// end the watch. `O_NONBLOCK` is cleared on it, because io_uring answers a read of a non-blocking descriptor with
/// EAGAIN instead of waiting. A read that fails is logged and ends the watch: it means that the descriptor is not an
/// eventfd.
///
/// # Errors
/// The descriptor cannot be duplicated.
pub fn watch_eventfd(
    fd: BorrowedFd<'_>,
    on_ready: impl FnMut(u64) -> Watch + 'static,
) -> io::Result<()> {
    let own = fd.try_clone_to_owned()?;
    // SAFETY: F_GETFL and F_SETFL take and return plain integers.
    unsafe {
        let flags = libc::fcntl(own.as_raw_fd(), libc::F_GETFL);
        let blocking = flags & !libc::O_NONBLOCK;
        if flags < 0 || libc::fcntl(own.as_raw_fd(), libc::F_SETFL, blocking) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    this_core().poller().watch(own, Box::new(on_ready));
    Ok(())
}

/// How a thread that is no core wakes a task of one: it rings, the core [watches](Bell::watch).
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A bell that was not rung.
    ///
    /// # Errors
    /// The process has no descriptor for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self(create()?))
    }

    /// Rings. Several rings before the core looks are heard as one.
    pub fn ring(&self) {
        signal(&self.0);
    }

    /// Calls `on_ring` on this core whenever the bell was rung, as [`watch_eventfd`] does.
    ///
    /// # Errors
    /// See [`watch_eventfd`].
    pub fn watch(&self, mut on_ring: impl FnMut() + 'static) -> io::Result<()> {
        watch_eventfd(self.0.as_fd(), move |_| {
            on_ring();
            Watch::Continue
        })
    }
}

/// Makes an eventfd with counter 0, blocking (see [`watch_eventfd`]).
pub(super) fn create() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers; the result is checked below.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds 1 to the counter. It cannot overflow in practice and the call does not block below 2^64 - 2.
pub(super) fn signal(fd: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the buffer is 8 readable bytes, as an eventfd wants, and the descriptor is open while borrowed.
    let written = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    assert_eq!(
        written,
        8,
        "writing an eventfd: {}",
        io::Error::last_os_error()
    );
}
