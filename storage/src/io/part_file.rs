//! A file that gets its name when it is complete: until then it is `NAME.part`, claimed by a lock.
//!
//! ```text
//!   claim: NAME.part made, or taken over --> written --> complete: NAME
//!                                       \--> dropped: removed
//! ```
//!
//! What a crash leaves: `NAME.part`, which nobody has locked. The next one who wants the name takes it over, if it holds
//! what an unfinished backup holds. What somebody else has locked, or put there, is not touched.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::DiskError;
use crate::limits::SNAPSHOT_BLOCK_BYTES;
use crate::snapshot::FileKind;

const SUFFIX: &str = ".part";
/// How often a part that another one takes away at that very moment is looked for again.
const ATTEMPTS_MAX: u32 = 16;

/// An unfinished file; removed unless it gets its name.
#[derive(Debug)]
pub struct PartFile {
    path: PathBuf,
    /// Open for both, and held for its lock.
    file: File,
    is_done: bool,
}

/// Why there is no unfinished file.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// Another process writes it.
    #[error("{path} is being written by another process: wait for it, or choose another name")]
    Busy {
        /// The file.
        path: String,
    },
    /// What is there is not ours.
    #[error("{path} is in the way, and is nothing that an unfinished backup leaves: move it away")]
    Foreign {
        /// The file.
        path: String,
    },
    /// The operating system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl PartFile {
    /// Makes the unfinished file of `target`, which is empty then. One that is there, and that nobody writes, is taken
    /// over.
    pub fn claim(target: &Path) -> Result<Self, PartError> {
        let mut path = target.as_os_str().to_owned();
        path.push(SUFFIX);
        let path = PathBuf::from(path);
        for _ in 0..ATTEMPTS_MAX {
            if let Some(file) = lock(&path)? {
                check_ours(&file, &path)?;
                file.set_len(0).map_err(io_error("truncate", &path))?;
                let is_done = false;
                return Ok(Self {
                    path,
                    file,
                    is_done,
                });
            }
        }
        Err(busy(&path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to be written and read.
    pub fn file(&self) -> Result<File, PartError> {
        let file = self.file.try_clone();
        Ok(file.map_err(io_error("open", &self.path))?)
    }

    /// Gives it its name, for good. Its content is durable already.
    pub fn complete(mut self, target: &Path) -> Result<(), PartError> {
        std::fs::rename(&self.path, target).map_err(io_error("rename", &self.path))?;
        self.is_done = true;
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(synced.map_err(io_error("sync", folder))?)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_done {
            // One that cannot be removed is taken over by the next who wants its name.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The file at `path`, locked; `None` if it has been taken away from there meanwhile.
fn lock(path: &Path) -> Result<Option<File>, PartError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(foreign(path)),
        Err(error) if error.kind() == ErrorKind::IsADirectory => return Err(foreign(path)),
        Err(error) => return Err(io_error("create", path)(error).into()),
    };
    let metadata = file.metadata().map_err(io_error("stat", path))?;
    if !metadata.is_file() {
        return Err(foreign(path));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy(path)),
        Err(TryLockError::Error(error)) => return Err(io_error("lock", path)(error).into()),
    }
    let is_there = std::fs::symlink_metadata(path)
        .is_ok_and(|there| (there.dev(), there.ino()) == (metadata.dev(), metadata.ino()));
    Ok(is_there.then_some(file))
}

/// A backup of ours begins as a snapshot, and one of etcd's with a blank page until the end.
fn check_ours(file: &File, path: &Path) -> Result<(), PartError> {
    let mut first = Vec::with_capacity(SNAPSHOT_BLOCK_BYTES);
    file.take(SNAPSHOT_BLOCK_BYTES as u64)
        .read_to_end(&mut first)
        .map_err(io_error("read", path))?;
    match FileKind::of(&first) {
        FileKind::Snapshot | FileKind::Blank | FileKind::Etcd => Ok(()),
        FileKind::Unknown => Err(foreign(path)),
    }
}

fn busy(path: &Path) -> PartError {
    let path = path.display().to_string();
    PartError::Busy { path }
}

fn foreign(path: &Path) -> PartError {
    let path = path.display().to_string();
    PartError::Foreign { path }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DiskError {
    let file = path.display().to_string();
    move |error| DiskError::from_io(operation, file, &error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_complete_and_leaves_nothing_otherwise() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("backup");
        let part = scratch.path().join("backup.part");
        let claimed = PartFile::claim(&target).unwrap();
        assert_eq!(claimed.path(), part);
        claimed.file().unwrap().write_all(b"half").unwrap();
        drop(claimed);
        assert!(!part.exists() && !target.exists());
        let claimed = PartFile::claim(&target).unwrap();
        claimed.file().unwrap().write_all(b"whole").unwrap();
        claimed.complete(&target).unwrap();
        assert!(!part.exists());
        assert_eq!(std::fs::read(&target).unwrap(), b"whole");
    }

    #[test]
    fn what_a_killed_one_left_is_taken_over_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("backup");
        let part = scratch.path().join("backup.part");
        let blank_page = [&[0; 4096][..], b"keys"].concat();
        for left in [&b""[..], b"KEELSNAP and more", &blank_page] {
            std::fs::write(&part, left).unwrap();
            let claimed = PartFile::claim(&target).unwrap();
            let bytes = claimed.file().unwrap().metadata().unwrap().len();
            assert_eq!(bytes, 0, "it begins anew");
            let error = PartFile::claim(&target).unwrap_err();
            assert!(matches!(error, PartError::Busy { .. }), "{error}");
        }
        std::fs::write(&part, b"a letter").unwrap();
        let error = PartFile::claim(&target).unwrap_err();
        assert!(matches!(error, PartError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read(&part).unwrap(), b"a letter");
        std::fs::remove_file(&part).unwrap();
        std::fs::create_dir(&part).unwrap();
        let error = PartFile::claim(&target).unwrap_err();
        assert!(matches!(error, PartError::Foreign { .. }), "{error}");
        std::fs::remove_dir(&part).unwrap();
        let other = scratch.path().join("other");
        std::fs::write(&other, b"").unwrap();
        std::os::unix::fs::symlink(&other, &part).unwrap();
        let error = PartFile::claim(&target).unwrap_err();
        assert!(matches!(error, PartError::Foreign { .. }), "{error}");
    }
}
