//! An etcd database that is open for reading: from a snapshot, a database file or a data directory.

use std::path::{Path, PathBuf};

use super::contents::{EtcdContents, EtcdMeta, entry_error};
use super::entry::{EtcdRevision, KeyEntry};
use super::error::{EtcdDbError, EtcdDbProblem};
use super::hash::{self, HASH_BYTES, HashProgress};
use super::schema::{KEY_BUCKET, META_BUCKET};
use super::wal_tail;
use crate::bbolt::{BoltFile, Bucket, Cursor, file_bytes, open_locked};
use crate::ids::{RaftIndex, Revision};

/// The revision of a store in which nothing was ever written.
const FIRST_REVISION: Revision = Revision(1);

/// How a database is opened.
#[derive(Clone, Debug, Default)]
pub struct EtcdDbOptions {
    /// Takes a file without its hash, and does not compare the hash of one that has it.
    pub skip_hash_check: bool,
    /// Where the log of a data directory is, if not in it.
    pub wal_dir: Option<PathBuf>,
}

/// What a database was opened from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdSource {
    /// A file from `etcdctl snapshot save`.
    Snapshot,
    /// A database file without a hash.
    File,
    /// The data directory of a member that is stopped.
    DataDir,
}

/// An etcd database, open for reading.
#[derive(Debug)]
pub struct EtcdDb {
    file: BoltFile,
    source: EtcdSource,
    meta: EtcdMeta,
}

impl EtcdDb {
    /// Opens a snapshot, a database file or a member's data directory. `progress` is told how far the
    /// check of the hash is.
    ///
    /// # Errors
    /// [`EtcdDbError`]: nothing of etcd's, damaged, in use, or behind its own log.
    pub fn open(
        path: &Path,
        options: &EtcdDbOptions,
        progress: &mut dyn FnMut(HashProgress),
    ) -> Result<Self, EtcdDbError> {
        if path.is_dir() {
            return Self::open_data_dir(path, options);
        }
        let name = path.display().to_string();
        let file = open_locked(path)?;
        let length = file_bytes(&file, &name)?;
        let has_hash = hash::has_hash(length);
        let bytes = if has_hash {
            length - HASH_BYTES
        } else {
            length
        };
        // What is no database at all is told first: a hash would not help it.
        let file = BoltFile::from_file(file, name, bytes)?;
        if !options.skip_hash_check {
            if !has_hash {
                let file = file.name().to_owned();
                return Err(EtcdDbError::MissingHash { file });
            }
            hash::verify_file(file.file(), file.name(), bytes, progress)?;
        }
        let source = if has_hash {
            EtcdSource::Snapshot
        } else {
            EtcdSource::File
        };
        Self::new(file, source)
    }

    /// What it was opened from.
    #[must_use]
    pub fn source(&self) -> EtcdSource {
        self.source
    }

    /// The path of the file, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.file.name()
    }

    /// Bytes of the database, its unused pages included and the hash not.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.file.used_bytes()
    }

    /// Positions in the log and in the history.
    #[must_use]
    pub fn meta(&self) -> &EtcdMeta {
        &self.meta
    }

    /// The store's revision, as etcd would answer with it after a start.
    ///
    /// # Errors
    /// [`EtcdDbError`] if the last entry is damaged or cannot be read.
    pub fn revision(&self) -> Result<Revision, EtcdDbError> {
        let compacted = self.meta.compact_revision().unwrap_or(FIRST_REVISION);
        let last = match self.key_bucket()?.last_key()? {
            Some(key) => {
                let Some((revision, _)) = EtcdRevision::decode(&key) else {
                    let problem = EtcdDbProblem::Revision;
                    return Err(entry_error(&self.file, KEY_BUCKET, &key, problem));
                };
                revision.main
            }
            None => FIRST_REVISION,
        };
        Ok(last.max(compacted).max(FIRST_REVISION))
    }

    /// All buckets but that of the keys.
    ///
    /// # Errors
    /// [`EtcdDbError`] if one is damaged or cannot be read.
    pub fn contents(&self) -> Result<EtcdContents, EtcdDbError> {
        EtcdContents::read(&self.file)
    }

    /// The history of all keys, oldest change first. Below the compact revision it holds what etcd kept,
    /// and after an interrupted compaction more than that.
    ///
    /// # Errors
    /// [`EtcdDbError`] if the bucket is damaged or cannot be read.
    pub fn entries(&self) -> Result<KeyEntries<'_>, EtcdDbError> {
        Ok(KeyEntries {
            file: &self.file,
            cursor: self.key_bucket()?.cursor(),
            is_on_last: false,
            last: None,
        })
    }

    fn open_data_dir(path: &Path, options: &EtcdDbOptions) -> Result<Self, EtcdDbError> {
        let database = path.join("member").join("snap").join("db");
        if !database.is_file() {
            return Err(EtcdDbError::NoDatabase {
                directory: path.display().to_string(),
            });
        }
        // The lock is held from here on, so the log cannot grow while it is read.
        let file = BoltFile::open(&database)?;
        let db = Self::new(file, EtcdSource::DataDir)?;
        let wal_dir = match &options.wal_dir {
            Some(wal_dir) => wal_dir.clone(),
            None => path.join("member").join("wal"),
        };
        let database_index = db.meta.consistent_index.unwrap_or(RaftIndex(0));
        match wal_tail::last_missing(&wal_dir, database_index)? {
            None => Ok(db),
            Some(wal_index) => Err(EtcdDbError::BehindWal {
                file: db.file.name().to_owned(),
                database_index: database_index.0,
                wal_index: wal_index.0,
            }),
        }
    }

    fn new(file: BoltFile, source: EtcdSource) -> Result<Self, EtcdDbError> {
        for bucket in [KEY_BUCKET, META_BUCKET] {
            if file.root().bucket(bucket.as_bytes())?.is_none() {
                let file = file.name().to_owned();
                return Err(EtcdDbError::NotEtcd { file, bucket });
            }
        }
        let meta = EtcdMeta::read(&file)?;
        Ok(Self { file, source, meta })
    }

    fn key_bucket(&self) -> Result<Bucket<'_>, EtcdDbError> {
        let bucket = self.file.root().bucket(KEY_BUCKET.as_bytes())?;
        bucket.ok_or_else(|| EtcdDbError::NotEtcd {
            file: self.file.name().to_owned(),
            bucket: KEY_BUCKET,
        })
    }
}

/// The history of all keys, read one entry at a time.
#[derive(Debug)]
pub struct KeyEntries<'d> {
    file: &'d BoltFile,
    cursor: Cursor<'d>,
    /// Whether the cursor still stands on the entry handed out last.
    is_on_last: bool,
    /// That entry.
    last: Option<EtcdRevision>,
}

impl KeyEntries<'_> {
    /// The next entry; `None` behind the last. After an error every further call fails, too.
    ///
    /// # Errors
    /// [`EtcdDbError`] if it is damaged or cannot be read.
    pub fn next_entry(&mut self) -> Result<Option<KeyEntry<'_>>, EtcdDbError> {
        if self.is_on_last {
            self.cursor.advance();
            self.is_on_last = false;
        }
        let Some(stored) = self.cursor.peek()? else {
            return Ok(None);
        };
        let decoded = KeyEntry::decode(stored.key, stored.value);
        let damaged = |problem| entry_error(self.file, KEY_BUCKET, stored.key, problem);
        let entry = decoded.map_err(damaged)?;
        if self.last.is_some_and(|last| entry.revision <= last) {
            return Err(damaged(EtcdDbProblem::Order));
        }
        self.last = Some(entry.revision);
        self.is_on_last = true;
        Ok(Some(entry))
    }
}
