//! Giving the blocks of a removed file back bit by bit.
//!
//! A file that is removed gives all its blocks back at once, and where the filesystem tells the disk so (the mount option
//! `discard`), the disk has so much to do that durable writes wait for tens of milliseconds. So whoever has a removed
//! file open last frees a slice, has the journal commit it, and pauses, until nothing is left.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The fewest bytes freed at once, but at the end: a disk has about as much to do with less.
pub(super) const SLICE_BYTES_MIN: u64 = if cfg!(test) { 1 << 20 } else { 32 << 20 };
/// The most slices of a file: with the pauses they take half a minute.
const SLICES_MAX: u64 = 30;
/// The pause after each slice: few writes are to meet one.
pub(super) const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });
/// How a slice is freed, for fallocate.
pub(super) const PUNCH: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// How many bytes whoever holds a file has to free, if the file has no name any more and nobody else has it open.
pub(super) fn bytes_to_free(file: &File) -> Option<u64> {
    let metadata = file.metadata().ok()?;
    (metadata.nlink() == 0 && is_only_user(file)).then_some(metadata.len())
}

/// Bytes freed at once of a file with so many.
pub(super) fn slice_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(SLICES_MAX).max(SLICE_BYTES_MIN)
}

/// A write lease is given only to the only user of a file. It is not kept: nobody wants its signal.
fn is_only_user(file: &File) -> bool {
    let lease = |kind: libc::c_int| {
        // SAFETY: F_SETLEASE takes a number, and the descriptor is open for this call.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) == 0 }
    };
    lease(libc::F_WRLCK) && lease(libc::F_UNLCK)
}

/// Frees what a removed file has if nobody else has it open, and takes its time; how many bytes. What cannot be freed so
/// is freed when the file is closed.
pub(super) fn free(file: &File) -> u64 {
    let bytes = bytes_to_free(file).unwrap_or(0);
    let slice = slice_bytes(bytes);
    for offset in (0..bytes).step_by(slice as usize) {
        // SAFETY: the call takes numbers, and the descriptor is open for its whole length.
        let freed =
            unsafe { libc::fallocate(file.as_raw_fd(), PUNCH, offset as i64, slice as i64) };
        if freed != 0 || file.sync_all().is_err() {
            return offset;
        }
        std::thread::sleep(PAUSE);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::io::DirectFile;

    #[test]
    fn only_a_removed_file_that_nobody_else_reads_is_freed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 2 * SLICE_BYTES_MIN as usize + 5]).expect("a file");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(&path).expect("a file");
        assert_eq!(free(&file), 0);
        let blocks = |file: &File| file.metadata().expect("it is open").blocks();
        assert!(blocks(&file) > 0, "it has a name");
        let other = File::open(&path).expect("a file");
        std::fs::remove_file(&path).expect("a name");
        assert_eq!(free(&file), 0);
        assert!(blocks(&file) > 0, "somebody reads it");
        drop(other);
        assert_eq!(free(&file), 2 * SLICE_BYTES_MIN + 5);
        assert_eq!(blocks(&file), 0);
    }

    #[test]
    fn who_reads_a_removed_file_last_frees_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 10_000]).expect("a file");
        let open = || DirectFile::open(&path).expect("a file");
        let (first, last, named) = (open(), open(), open());
        assert_eq!(named.release(), 0, "it has a name");
        std::fs::remove_file(&path).expect("a name");
        assert_eq!(first.release(), 0, "somebody reads it");
        assert_eq!(last.release(), 10_000);
    }
}
