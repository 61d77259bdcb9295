//! Huge pages of this process's memory.

use std::io;

/// Has the kernel back this process's memory with pages of the usual size only, from now on.
///
/// A member's memory grows with every write. With transparent huge pages, every 2 MiB of it the kernel clears a
/// whole huge page while the write waits; on a virtual machine whose host hands out memory late that takes
/// milliseconds, which is the tail of the latency. Small pages cost more system time in all and less at a time.
///
/// # Errors
/// The kernel does not know the call.
pub fn forbid_huge_pages() -> io::Result<()> {
    // SAFETY: this prctl takes plain integers; the unused ones must be 0.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
