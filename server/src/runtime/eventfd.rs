//! An eventfd read through a core's own io_uring ring.
//!
//! An eventfd is how anything outside a core reaches it while it sleeps: another core (`cores.rs`), or the
//! WAL's ring, which signals completions through one. glommio has no call for it, but its plain file read
//! works: the kernel arms a poll when the counter is 0 and completes the read when somebody adds to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use glommio::io::BufferedFile;

use super::core::spawn;

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
/// Signals between two calls are added up by the kernel, so one call may stand for many. The descriptor is
/// duplicated; closing the caller's does not end the watch. `O_NONBLOCK` is cleared on it, because io_uring
/// answers a read of a non-blocking descriptor with EAGAIN instead of waiting. A read that fails is logged and
/// ends the watch: it means that the descriptor is not an eventfd.
///
/// # Errors
/// The descriptor cannot be duplicated.
pub fn watch_eventfd(
    fd: BorrowedFd<'_>,
    on_ready: impl FnMut(u64) -> Watch + 'static,
) -> io::Result<()> {
    let mut reader = EventFdReader::new(fd)?;
    let mut on_ready = on_ready;
    // A task of its own: the read's future pushes a clone of the task's waker at every poll, so nothing but
    // the read may wake this task (fault 3).
    spawn(async move {
        loop {
            match reader.read().await {
                Ok(count) => {
                    if on_ready(count) == Watch::Done {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "reading an eventfd failed; its signals are no longer seen");
                    break;
                }
            }
        }
    });
    Ok(())
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

/// The reading side, bound to this core.
pub(super) struct EventFdReader(BufferedFile);

impl EventFdReader {
    pub(super) fn new(fd: BorrowedFd<'_>) -> io::Result<EventFdReader> {
        let own = fd.as_fd().try_clone_to_owned()?;
        // SAFETY: F_GETFL and F_SETFL take and return plain integers.
        unsafe {
            let flags = libc::fcntl(own.as_raw_fd(), libc::F_GETFL);
            if flags < 0
                || libc::fcntl(own.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) < 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: ownership of the duplicate moves into the file, which closes it.
        Ok(EventFdReader(unsafe {
            BufferedFile::from_raw_fd(own.into_raw_fd())
        }))
    }

    /// Waits until the counter is above 0, returns it and sets it to 0.
    pub(super) async fn read(&mut self) -> io::Result<u64> {
        loop {
            match self.0.read_at(0, 8).await {
                Ok(bytes) => {
                    let bytes = <[u8; 8]>::try_from(&bytes[..])
                        .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
                    return Ok(u64::from_ne_bytes(bytes));
                }
                Err(error) => {
                    let error = io::Error::from(error);
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}
