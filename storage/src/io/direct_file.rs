//! Files as backups and offline tools need them: on any filesystem, and read or written once.
//!
//! A [`DirectFile`] is read, and a [`DirectWriter`] written, past the page cache where the filesystem can do that, because
//! what goes through them is large. A [`ReadOnlyDisk`] is the body of the [`Disk`] seam for tools: its blocking calls read, and nobody submits
//! anything to it.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::freeing;
use super::uring::list_directory;
use super::{
    AlignedBuf, Completion, Disk, DiskError, FileEntry, FileId, Source, assert_whole_blocks,
};
use crate::limits::WAL_BLOCK_BYTES;

/// A file that is only read.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    path: String,
}

impl DirectFile {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let (file, path) = open_direct(path, OpenOptions::new().read(true))?;
        Ok(Self { file, path })
    }

    /// Its length.
    pub fn bytes(&self) -> Result<u64, DiskError> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| DiskError::from_io("stat", self.path.clone(), &error))
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Lets go of it. If it was removed meanwhile and nobody else has it open, its blocks are freed, which takes its time; how
    /// many bytes.
    pub fn release(self) -> u64 {
        let is_removed = self.file.metadata().is_ok_and(|known| known.nlink() == 0);
        if !is_removed {
            return 0;
        }
        // Blocks are freed by who may write.
        let again = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let again = OpenOptions::new().write(true).open(again);
        drop(self.file);
        again.map_or(0, |again| freeing::free(&again))
    }

    /// Reads up to `bytes` (a multiple of the block) at `offset` (likewise) behind what is in `buf` (likewise); fewer at
    /// the end of the file.
    pub fn append(&self, offset: u64, bytes: usize, buf: &mut AlignedBuf) -> Result<(), DiskError> {
        assert_whole_blocks(offset, bytes);
        buf.reserve(bytes);
        let before = buf.len();
        let mut done = 0;
        while done < bytes {
            let room = &mut buf.as_spare_mut()[before + done..before + bytes];
            match self.file.read_at(room, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::from_io("read", self.path.clone(), &error)),
            }
            if !(done as u64).is_multiple_of(WAL_BLOCK_BYTES) {
                // A direct read stops inside a block only at the end of the file.
                break;
            }
        }
        buf.set_filled(before + done);
        Ok(())
    }
}

impl Source for DirectFile {
    fn read(&self, offset: u64, bytes: usize, buf: &mut AlignedBuf) -> Result<(), DiskError> {
        buf.clear();
        self.append(offset, bytes, buf)
    }
}

/// A file that exists, past the page cache where the filesystem can do that, and where it is.
fn open_direct(path: &Path, options: &mut OpenOptions) -> Result<(File, String), DiskError> {
    let mut open = |flags| options.custom_flags(flags).open(path);
    let file = match open(libc::O_DIRECT) {
        // The filesystem has no direct IO.
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(0),
        opened => opened,
    };
    let path = path.display().to_string();
    match file {
        Ok(file) => Ok((file, path)),
        Err(error) => Err(DiskError::from_io("open", path, &error)),
    }
}

/// A new file that is written past the page cache where the filesystem can do that.
#[derive(Debug)]
pub struct DirectWriter {
    file: File,
    path: String,
}

impl DirectWriter {
    /// Opens a file that exists, and is empty.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let (file, path) = open_direct(path, OpenOptions::new().write(true))?;
        Ok(Self { file, path })
    }

    /// Creates a file, which must not exist.
    pub fn create(path: &Path) -> Result<Self, DiskError> {
        let create = |flags| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            options.custom_flags(flags).open(path)
        };
        let file = match create(libc::O_DIRECT) {
            // The filesystem has no direct IO. It may have made the file before it found out.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let _ = std::fs::remove_file(path);
                create(0)
            }
            created => created,
        };
        let path = path.display().to_string();
        match file {
            Ok(file) => Ok(Self { file, path }),
            Err(error) => Err(DiskError::from_io("create", path, &error)),
        }
    }

    /// Writes the whole of `buf` (a multiple of the block) at `offset`.
    pub fn write(&self, offset: u64, buf: &AlignedBuf) -> Result<(), DiskError> {
        assert_whole_blocks(offset, buf.len());
        let written = self.file.write_all_at(buf.as_slice(), offset);
        written.map_err(|error| DiskError::from_io("write", self.path.clone(), &error))
    }

    /// Makes the file so long, as zeros, with its place on the disk: writes into it then only write. A filesystem that
    /// cannot do that lets it grow.
    pub fn reserve(&self, bytes: u64) -> Result<(), DiskError> {
        let Some(bytes) = i64::try_from(bytes).ok().filter(|&bytes| bytes > 0) else {
            return Ok(());
        };
        // SAFETY: the call takes numbers, and the descriptor is open for its whole length.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, bytes) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINTR) => Ok(()),
            _ => Err(DiskError::from_io("reserve", self.path.clone(), &error)),
        }
    }

    /// Cuts the file to a length: what was written behind it filled up a block.
    pub fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        let cut = self.file.set_len(bytes);
        cut.map_err(|error| DiskError::from_io("truncate", self.path.clone(), &error))
    }

    /// Makes everything written durable, and the length of the file.
    pub fn sync(&self) -> Result<(), DiskError> {
        let synced = self.file.sync_all();
        synced.map_err(|error| DiskError::from_io("sync", self.path.clone(), &error))
    }
}

/// A directory of files that are only read.
#[derive(Debug)]
pub struct ReadOnlyDisk {
    directory: PathBuf,
    location: String,
    files: Vec<DirectFile>,
}

impl ReadOnlyDisk {
    /// A directory; it is looked at when it is used.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            location: directory.display().to_string(),
            files: Vec::new(),
        }
    }
}

impl Disk for ReadOnlyDisk {
    fn location(&self) -> &str {
        &self.location
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        list_directory(&self.directory)
    }

    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        let file = DirectFile::open(&self.directory.join(name))?;
        self.files.push(file);
        let number = self.files.len() - 1;
        Ok(FileId(
            u32::try_from(number).expect("files are far fewer than 2^32"),
        ))
    }

    fn read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
        buf: &mut AlignedBuf,
    ) -> Result<(), DiskError> {
        self.files[file.0 as usize].read(offset, bytes, buf)
    }

    fn entropy(&mut self) -> u64 {
        unreachable!("what is only read needs no chance")
    }

    fn submit_create(&mut self, _: &str, _: u64, _: u64) -> FileId {
        unreachable!("{NOTHING_IS_SUBMITTED}")
    }

    fn submit_read(&mut self, _: FileId, _: u64, _: usize, _: AlignedBuf, _: u64) {
        unreachable!("{NOTHING_IS_SUBMITTED}")
    }

    fn submit_write(&mut self, _: FileId, _: u64, _: AlignedBuf, _: bool, _: u64) {
        unreachable!("{NOTHING_IS_SUBMITTED}")
    }

    fn submit_flush(&mut self, _: FileId, _: u64) {
        unreachable!("{NOTHING_IS_SUBMITTED}")
    }

    fn submit_remove(&mut self, _: FileId, _: u64) {
        unreachable!("{NOTHING_IS_SUBMITTED}")
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn reap(&mut self, _: &mut Vec<Completion>) {}

    fn wait(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn event_fd(&self) -> Option<RawFd> {
        None
    }
}

const NOTHING_IS_SUBMITTED: &str = "tools use the blocking calls of a disk, which only read";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_is_to_its_last_byte() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..10_032_u32).map(|byte| byte as u8).collect();
        std::fs::write(folder.path().join("a"), &content).unwrap();
        let mut disk = ReadOnlyDisk::new(folder.path());
        assert_eq!(disk.list().unwrap()[0].bytes, 10_032);
        let file = disk.open("a").unwrap();
        let mut buf = AlignedBuf::with_capacity(4096);
        for (offset, bytes) in [(0, 4096), (4096, 8192), (8192, 4096), (12_288, 4096)] {
            disk.read(file, offset, bytes, &mut buf).unwrap();
            let start = content.len().min(offset as usize);
            let end = content.len().min(offset as usize + bytes);
            assert_eq!(buf.as_slice(), &content[start..end]);
        }
    }

    #[test]
    fn a_new_file_is_written_and_an_old_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let writer = DirectWriter::create(&path).unwrap();
        let mut buf = AlignedBuf::zeroed(4096);
        buf.as_mut_slice().fill(7);
        writer.write(8192, &buf).unwrap();
        writer.write(0, &buf).unwrap();
        writer.sync().unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len(), 12_288);
        let sum: u64 = content.iter().map(|&byte| u64::from(byte)).sum();
        assert_eq!(sum, 7 * 8192);
        writer.truncate(12_000).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content[..12_000]);
        DirectWriter::create(&path).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap().len(), 12_000);
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let error = DirectFile::open(Path::new("/no/such/file")).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
