//! Finds out, before a directory is used, whether its filesystem can make a write durable the way the
//! log needs it, and says in words what is wrong when it cannot.
//!
//! The probe does what the log will do: one aligned O_DIRECT write with RWF_DSYNC, to a file it removes
//! again. A crash in between leaves that file, which the next probe overwrites and listings leave out.
//!
//! `keelson doctor` asks the same of a directory that is not used yet, and whether `io_uring` works.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use io_uring::{IoUring, Probe, opcode};

use super::{AlignedBuf, DiskError};
use crate::limits::{WAL_BLOCK_BYTES, WAL_RING_ENTRIES};

/// The probe's file.
pub(crate) const PROBE_NAME: &str = ".keelson-probe";

/// What the disk's ring is asked for, with the system calls' names.
const OPERATIONS: [(u8, &str); 6] = [
    (opcode::Read::CODE, "read"),
    (opcode::Write::CODE, "write"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::OpenAt::CODE, "openat"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::UnlinkAt::CODE, "unlinkat"),
];

/// Writes one block into a directory, which must exist, the way the log will, and removes it again.
///
/// # Errors
/// What is wrong with the directory or its filesystem, and what to change.
pub fn probe_directory(directory: &Path) -> Result<(), DiskError> {
    let location = directory.display().to_string();
    let file = File::open(directory).map_err(|e| DiskError::from_io("open", location, &e))?;
    probe_direct(directory, &file)
}

/// Why `io_uring` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel refused a ring or its first operation.
    #[error("io_uring ring {number}: {source}")]
    Refused {
        /// Which one, from 1 on; the last ones are those of [`UringDisk`](super::UringDisk).
        number: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's `io_uring` is too old.
    #[error("this kernel's io_uring has no {0}")]
    Missing(&'static str),
}

/// The rings of a member's own: one for the log's directory, one for the snapshots'.
const OWN_RINGS: [u32; 2] = [WAL_RING_ENTRIES; 2];

/// Sets up rings of these numbers of entries and a member's own, all at once as a member has them, and has
/// each do nothing once.
///
/// # Errors
/// What the kernel refused.
pub fn probe_rings(entries: impl IntoIterator<Item = u32>) -> Result<(), RingError> {
    let mut rings = Vec::new();
    for (index, entries) in entries.into_iter().chain(OWN_RINGS).enumerate() {
        let ring = nop(entries).map_err(|source| RingError::Refused {
            number: index + 1,
            source,
        })?;
        rings.push(ring);
    }
    let own_ring = rings.last().expect("a member's own ring is the last one");
    let mut known = Probe::new();
    let asked = own_ring.submitter().register_probe(&mut known);
    asked.map_err(|source| RingError::Refused {
        number: rings.len(),
        source,
    })?;
    match OPERATIONS
        .iter()
        .find(|(code, _)| !known.is_supported(*code))
    {
        Some((_, name)) => Err(RingError::Missing(name)),
        None => Ok(()),
    }
}

/// A ring that has done nothing once.
fn nop(entries: u32) -> io::Result<IoUring> {
    let mut ring = IoUring::new(entries)?;
    // SAFETY: the operation refers to no memory.
    unsafe {
        let entry = opcode::Nop::new().build();
        ring.submission().push(&entry).expect("a new ring has room");
    }
    ring.submit_and_wait(1)?;
    let done = ring.completion().next();
    match done.map(|done| done.result()) {
        Some(0) => Ok(ring),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes one block the way the log will and removes it again.
pub(super) fn probe_direct(directory: &Path, directory_file: &File) -> Result<(), DiskError> {
    let location = directory.display().to_string();
    let filesystem = filesystem_name(directory_file);
    let unsuitable = |problem| DiskError::Unsuitable {
        directory: location.clone(),
        filesystem: filesystem.0,
        problem,
    };
    if filesystem.1 {
        return Err(unsuitable("keeps files in memory only"));
    }
    let path = directory.join(PROBE_NAME);
    let fail = |operation: &'static str, e: &std::io::Error| {
        DiskError::from_io(operation, path.display().to_string(), e)
    };
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_DIRECT);
    let probe = match options.open(&path) {
        Ok(probe) => probe,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            // Linux creates the file before it refuses the flag.
            let _ = std::fs::remove_file(&path);
            return Err(unsuitable("refuses O_DIRECT"));
        }
        Err(e) => return Err(fail("probe creation", &e)),
    };
    let block = AlignedBuf::zeroed(WAL_BLOCK_BYTES as usize);
    let span = libc::iovec {
        iov_base: block.as_ptr().cast_mut().cast(),
        iov_len: block.len(),
    };
    // SAFETY: the iovec describes the live, aligned buffer, which pwritev2 only reads.
    let count =
        unsafe { libc::pwritev2(probe.as_raw_fd(), &raw const span, 1, 0, libc::RWF_DSYNC) };
    let error = std::io::Error::last_os_error();
    std::fs::remove_file(&path).map_err(|e| fail("probe removal", &e))?;
    if count == block.len() as isize {
        Ok(())
    } else if count < 0 && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) {
        Err(unsuitable("refuses aligned O_DIRECT writes with RWF_DSYNC"))
    } else if count < 0 {
        Err(fail("probe write", &error))
    } else {
        Err(unsuitable("cuts aligned 4 KiB writes short"))
    }
}

/// The filesystem's usual name, and whether it has no disk under it.
fn filesystem_name(directory: &File) -> (String, bool) {
    // SAFETY: an all-zero statfs is a valid value of that plain struct.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the pointer leads to a live struct of the right type.
    if unsafe { libc::fstatfs(directory.as_raw_fd(), &raw mut facts) } != 0 {
        return ("unknown".to_owned(), false);
    }
    let name = match facts.f_type as u64 & 0xffff_ffff {
        0x0102_1994 => return ("tmpfs".to_owned(), true),
        0x8584_58f6 => return ("ramfs".to_owned(), true),
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        other => return (format!("unrecognised (type {other:#x})"), false),
    };
    (name.to_owned(), false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rings_work_here_and_too_many_entries_are_refused() {
        probe_rings([32; 3]).unwrap();
        match probe_rings([1 << 30]).unwrap_err() {
            RingError::Refused { number: 1, source } => {
                assert_eq!(source.raw_os_error(), Some(libc::EINVAL));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let gone = scratch.path().join("gone");
        let text = probe_directory(&gone).unwrap_err().to_string();
        assert!(text.contains(&gone.display().to_string()), "{text}");
    }
}
