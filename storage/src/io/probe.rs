//! Finds out, before a directory is used, whether its filesystem can make a write durable the way the
//! log needs it, and says in words what is wrong when it cannot.
//!
//! The probe does what the log will do: one aligned O_DIRECT write with RWF_DSYNC, to a file it removes
//! again. A crash in between leaves that file, which the next probe overwrites and listings leave out.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{AlignedBuf, DiskError};
use crate::limits::WAL_BLOCK_BYTES;

/// The probe's file.
pub(super) const PROBE_NAME: &str = ".keelson-probe";

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
