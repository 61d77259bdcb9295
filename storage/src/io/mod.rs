//! The Disk seam: everything the storage engine asks of a disk, with one real and one simulated body.
//!
//! A [`Disk`] is one directory of flat files. Start-up and the offline tools use its blocking calls;
//! the running lane uses the asynchronous ones only, so the executor thread never waits for a disk:
//!
//! ```text
//!   submit_* (queue) --> kick (one syscall) --> device --> reap (never blocks)
//!                                                  \--> eventfd (wakes the executor)
//! ```
//!
//! Two kinds of files live on it: those that get their full length when they are created and never change it (segments
//! of the log), and those that are created empty and grow with what is written to them (snapshots).
//!
//! [`UringDisk`] is the body that ships: O_DIRECT files and synced writes on an `io_uring` ring of its own.
//! [`SimDisk`] is the body of the tests: one seed decides completion order, torn sectors and lost writes.
//! [`ReadOnlyDisk`] is the body of the offline tools.
//!
//! Invariants both bodies keep:
//! 1. A durable write whose completion is `Ok` survives power loss, and so does every byte that was
//!    completed before a flush was submitted and whose flush completed `Ok`.
//! 2. A write that has not completed may, after power loss, have changed any subset of its 512-byte
//!    sectors, each as a whole, and nothing else.
//! 3. Completions arrive in any order. Nothing is retried below this seam.
//! 4. A flush makes the length of a file durable with its content. After power loss, a file that grew since is at
//!    least as long as the last byte that is durable, and what lies between surviving bytes reads as zeros.

mod aligned;
mod direct_file;
mod durable;
mod freeing;
mod part_file;
mod pieces;
mod probe;
mod read_ahead;
mod sim;
mod sim_file;
#[cfg(test)]
mod sim_tests;
mod uring;
mod uring_step;
#[cfg(test)]
mod uring_tests;
mod write_behind;

use std::os::fd::RawFd;

use crate::limits::{WAL_BLOCK_BYTES, WAL_UNIT_BYTES_MIN};

pub use aligned::AlignedBuf;
pub use direct_file::{DirectFile, DirectWriter, ReadOnlyDisk};
pub use part_file::{PartError, PartFile};
pub use pieces::{Piece, Pool};
pub(crate) use probe::PROBE_NAME;
pub use probe::{RingError, probe_directory, probe_rings};
pub use read_ahead::{ReadAhead, Source};
pub use sim::{SimDisk, SimFault};
pub use uring::{IoMode, UringDisk};
pub use write_behind::WriteBehind;

/// Lets whoever waits for this CPU go first. A thread that computes for long does so every tenth of a millisecond or so: the
/// kernel's own threads, which end what the disk has done, would else wait for its tick.
pub fn give_way() {
    std::thread::yield_now();
}

/// Lets everybody else's reads and writes go before those of the calling thread, and of threads that it starts. A request
/// that has waited for long gets its turn all the same. Where the disk's scheduler knows no such thing nothing changes.
pub fn give_way_at_disk() {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: the call takes numbers, and 0 is the calling thread.
    let _unknown_is_no_harm =
        unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
}

/// What a thread computes on before it gives way: a tenth of a millisecond's work with a hash.
pub const SLICE_BYTES: usize = 128 << 10;

/// An open file of one [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(crate) u32);

/// One file of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Name inside the directory.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// False for anything that is not a plain file.
    pub is_file: bool,
}

/// The outcome of one submitted operation.
#[derive(Debug)]
pub struct Completion {
    /// The number the submitter gave.
    pub token: u64,
    /// Whether the operation did all it was asked to.
    pub result: Result<(), DiskError>,
    /// The buffer of a read, which holds what was read, or of a write, handed back for reuse.
    pub buf: Option<AlignedBuf>,
}

/// What a disk can refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The filesystem is full, or the process is over its quota.
    #[error("no space left on the device: {operation} of {file}")]
    NoSpace {
        /// What was tried.
        operation: &'static str,
        /// Path of the file.
        file: String,
    },
    /// The directory lies where a write cannot be made durable the way the log needs it.
    #[error(
        "{directory} is on a {filesystem} filesystem, which {problem}: put the data directory on a local disk with \
         ext4 or xfs, or start with --unsafe-no-fsync if the data may be lost"
    )]
    Unsuitable {
        /// The directory.
        directory: String,
        /// Name of the filesystem type.
        filesystem: String,
        /// What it cannot do.
        problem: &'static str,
    },
    /// The operating system refused; the text is its own.
    #[error("{operation} of {file} failed: {}", std::io::Error::from_raw_os_error(*errno))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Path of the file.
        file: String,
        /// The system's error number.
        errno: i32,
    },
    /// The device took fewer bytes than it was given.
    #[error("short {operation} of {file} at byte {offset}: {done} of {asked} bytes")]
    Short {
        /// What was tried.
        operation: &'static str,
        /// Path of the file.
        file: String,
        /// Where in the file.
        offset: u64,
        /// Bytes done.
        done: u64,
        /// Bytes asked for.
        asked: u64,
    },
}

impl DiskError {
    pub(crate) fn from_errno(operation: &'static str, file: String, errno: i32) -> Self {
        if errno == libc::ENOSPC || errno == libc::EDQUOT {
            DiskError::NoSpace { operation, file }
        } else {
            DiskError::Io {
                operation,
                file,
                errno,
            }
        }
    }

    pub(crate) fn from_io(operation: &'static str, file: String, error: &std::io::Error) -> Self {
        Self::from_errno(operation, file, error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Writes of a [`Disk`] cover whole units.
fn assert_whole_units(offset: u64, bytes: usize) {
    assert!(
        offset.is_multiple_of(WAL_UNIT_BYTES_MIN),
        "a write starts on a unit: {offset}"
    );
    assert!(
        (bytes as u64).is_multiple_of(WAL_UNIT_BYTES_MIN),
        "a write covers whole units: {bytes}"
    );
}

/// Reads, and what is written as a stream, cover whole blocks.
fn assert_whole_blocks(offset: u64, bytes: usize) {
    assert!(
        offset.is_multiple_of(WAL_BLOCK_BYTES),
        "an operation starts on a block: {offset}"
    );
    assert!(
        (bytes as u64).is_multiple_of(WAL_BLOCK_BYTES),
        "an operation covers whole blocks: {bytes}"
    );
}

/// One directory of files on one device.
pub trait Disk {
    /// Path of the directory, for messages.
    fn location(&self) -> &str;

    /// Every entry of the directory, sorted by name. Blocks.
    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError>;

    /// Opens an existing file. Blocks.
    fn open(&mut self, name: &str) -> Result<FileId, DiskError>;

    /// Reads up to `bytes` (a multiple of the block) at `offset` (likewise) into `buf`, replacing its
    /// content; fewer at the end of the file. Blocks.
    fn read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: &mut AlignedBuf,
    ) -> Result<(), DiskError>;

    /// A number nobody outside can guess.
    fn entropy(&mut self) -> u64;

    /// Creates a file of `bytes` bytes that reads as zeros; completes when the file and its name would
    /// survive power loss. The id is valid for other operations after the completion.
    fn submit_create(&mut self, name: &str, bytes: u64, token: u64) -> FileId;

    /// Reads as [`read`](Disk::read) does, into a buffer that the completion hands back. What a read sees of a write
    /// that is in flight with it is not defined.
    fn submit_read(&mut self, file: FileId, offset: u64, bytes: usize, buf: AlignedBuf, token: u64);

    /// Writes the whole of `buf` (a multiple of 512, and of what the disk takes) at `offset` (likewise); a file that ends before grows. A `durable`
    /// write completes when it would survive power loss.
    fn submit_write(
        &mut self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        durable: bool,
        token: u64,
    );

    /// Makes every write of the file completed so far durable, and its length.
    fn submit_flush(&mut self, file: FileId, token: u64);

    /// Removes a file and forgets its id; no other operation of that file may be in flight.
    fn submit_remove(&mut self, file: FileId, token: u64);

    /// Hands everything queued to the device.
    fn kick(&mut self) -> Result<(), DiskError>;

    /// Appends what has completed. Never blocks.
    fn reap(&mut self, out: &mut Vec<Completion>);

    /// Hands everything queued to the device and blocks until at least one completion can be reaped;
    /// returns at once when nothing is in flight.
    fn wait(&mut self) -> Result<(), DiskError>;

    /// An eventfd (blocking mode) that counts up whenever something completes.
    fn event_fd(&self) -> Option<RawFd>;
}

/// A borrowed disk: whoever lent it still has it when opening a lane fails.
impl<D: Disk> Disk for &mut D {
    fn location(&self) -> &str {
        (**self).location()
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        (**self).list()
    }

    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        (**self).open(name)
    }

    fn read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: &mut AlignedBuf,
    ) -> Result<(), DiskError> {
        (**self).read(file, offset, bytes, buf)
    }

    fn entropy(&mut self) -> u64 {
        (**self).entropy()
    }

    fn submit_create(&mut self, name: &str, bytes: u64, token: u64) -> FileId {
        (**self).submit_create(name, bytes, token)
    }

    fn submit_read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: AlignedBuf,
        token: u64,
    ) {
        (**self).submit_read(file, offset, bytes, buf, token);
    }

    fn submit_write(
        &mut self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        durable: bool,
        token: u64,
    ) {
        (**self).submit_write(file, offset, buf, durable, token);
    }

    fn submit_flush(&mut self, file: FileId, token: u64) {
        (**self).submit_flush(file, token);
    }

    fn submit_remove(&mut self, file: FileId, token: u64) {
        (**self).submit_remove(file, token);
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        (**self).kick()
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        (**self).reap(out);
    }

    fn wait(&mut self) -> Result<(), DiskError> {
        (**self).wait()
    }

    fn event_fd(&self) -> Option<RawFd> {
        (**self).event_fd()
    }
}
