//! The export: a snapshot that stock etcdutl restores.
//!
//! Changes come in the order of their revisions and go straight to the file; everything else follows at
//! the end, then the hash, for which the file is read once more. Until then the file is `NAME.part`.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::contents::EtcdContents;
use super::entry::{EtcdRevision, KeyValueRef};
use super::error::EtcdDbError;
use super::hash::{self, HashProgress};
use super::schema::KEY_BUCKET;
use crate::bbolt::{BoltError, BoltWriter};
use crate::io::PartFile;

/// An etcd snapshot under construction. Dropping it removes what there is of it.
///
/// For HashKV to agree, the history must be what etcd keeps. If the store was compacted at C, and `meta`
/// says so as scheduled and as finished, that is: every change above C, and of each key the newest one at
/// or below C, unless that one is a deletion.
#[derive(Debug)]
pub struct EtcdDbWriter {
    path: PathBuf,
    part: PartFile,
    writer: BoltWriter,
    entry_count: u64,
    /// An encoded message, kept for its buffer.
    message: Vec<u8>,
}

impl EtcdDbWriter {
    /// Begins a snapshot that will replace whatever is at `path`.
    ///
    /// # Errors
    /// [`EtcdDbError::Part`] if the unfinished file cannot be made, [`EtcdDbError::Bolt`] if it cannot be written.
    pub fn create(path: &Path) -> Result<Self, EtcdDbError> {
        let part = PartFile::claim(path)?;
        let name = part.path().display().to_string();
        let mut writer = BoltWriter::new(part.file()?, name)?;
        writer.begin_bucket(KEY_BUCKET.as_bytes());
        Ok(Self {
            path: path.to_path_buf(),
            part,
            writer,
            entry_count: 0,
            message: Vec::new(),
        })
    }

    /// Adds a version of a key, written at `revision`. Revisions come in ascending order.
    ///
    /// # Errors
    /// [`EtcdDbError::Bolt`] if it cannot be written.
    pub fn put(
        &mut self,
        revision: EtcdRevision,
        change: &KeyValueRef<'_>,
    ) -> Result<(), EtcdDbError> {
        assert_eq!(
            revision.main, change.mod_revision,
            "a version is stored under the revision that wrote it"
        );
        self.append(&revision.encode(), change)
    }

    /// Adds the deletion of a key at `revision`. Revisions come in ascending order.
    ///
    /// # Errors
    /// [`EtcdDbError::Bolt`] if it cannot be written.
    pub fn delete(&mut self, revision: EtcdRevision, key: &[u8]) -> Result<(), EtcdDbError> {
        let tombstone = KeyValueRef {
            key,
            ..KeyValueRef::default()
        };
        self.append(&revision.encode_tombstone(), &tombstone)
    }

    /// Adds everything else and the hash, makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`EtcdDbError::Bolt`] if it cannot be written.
    pub fn finish(
        self,
        contents: &EtcdContents,
        progress: &mut dyn FnMut(HashProgress),
    ) -> Result<EtcdDbSummary, EtcdDbError> {
        let Self {
            path,
            part,
            mut writer,
            entry_count,
            ..
        } = self;
        writer.end_bucket()?;
        for (name, bucket) in contents.buckets() {
            writer.begin_bucket(name.as_bytes());
            for (key, value) in &bucket {
                writer.put(key, value)?;
            }
            writer.end_bucket()?;
        }
        let (file, database_bytes) = writer.finish()?;
        let name = part.path().display().to_string();
        let sha256 = hash::hash_file(&file, &name, database_bytes, progress)?;
        file.write_all_at(&sha256, database_bytes)
            .and_then(|()| file.sync_all())
            .map_err(io_error("write", part.path()))?;
        part.complete(&path)?;
        Ok(EtcdDbSummary {
            file_bytes: database_bytes + sha256.len() as u64,
            entry_count,
            sha256,
        })
    }

    fn append(&mut self, key: &[u8], change: &KeyValueRef<'_>) -> Result<(), EtcdDbError> {
        assert!(!change.key.is_empty(), "etcd has no empty keys");
        self.message.clear();
        change.encode(&mut self.message);
        self.writer.put(key, &self.message)?;
        self.entry_count += 1;
        Ok(())
    }
}

/// A finished snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtcdDbSummary {
    /// Length of the file, the hash included.
    pub file_bytes: u64,
    /// Changes in it.
    pub entry_count: u64,
    /// The hash at its end.
    pub sha256: [u8; 32],
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> EtcdDbError {
    move |source| {
        EtcdDbError::Bolt(BoltError::Io {
            file: path.display().to_string(),
            action,
            source,
        })
    }
}
