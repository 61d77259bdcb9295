//! Writing a whole file from front to back, for tools. Blocks.
//!
//! The first block stays blank until everything behind it is durable, as with every snapshot: a crash leaves
//! a file that does not count.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::builder::{Builder, BuilderConfig};
use super::error::SnapshotError;
use super::meta::Meta;
use super::snapshot::Snapshot;
use super::startup::file_name;
use super::version::VersionIn;
use crate::ids::{Revision, SnapshotSeq};
use crate::io::{DirectWriter, DiskError};
use crate::limits::SNAPSHOT_FINISH_BUDGET;

/// A file under construction.
#[derive(Debug)]
pub struct BulkFile {
    builder: Builder,
    target: DirectWriter,
    path: PathBuf,
}

impl BulkFile {
    /// Begins the file of a sequence number in a directory of snapshot files; there must be none.
    ///
    /// # Errors
    /// [`SnapshotError::Disk`] if the file cannot be made.
    pub fn create(
        directory: &Path,
        sequence: SnapshotSeq,
        config: BuilderConfig,
        horizon: Revision,
    ) -> Result<Self, SnapshotError> {
        let path = directory.join(file_name(sequence));
        Ok(Self {
            builder: Builder::new(sequence, config, horizon),
            target: DirectWriter::create(&path)?,
            path,
        })
    }

    /// Adds a key, as [`Builder::push_key`].
    ///
    /// # Errors
    /// [`SnapshotError::Disk`] if the file cannot be written.
    pub fn push_key(&mut self, key: &[u8], versions: &[VersionIn<'_>]) -> Result<(), DiskError> {
        self.builder.push_key(key, versions);
        while let Some(write) = self.builder.take_write() {
            self.target.write(write.offset, &write.buf)?;
            self.builder.reuse(write.buf);
        }
        Ok(())
    }

    /// Adds everything else and makes the file durable.
    ///
    /// # Errors
    /// [`SnapshotError::Disk`] if the file cannot be written.
    pub fn finish(self, meta: Meta) -> Result<Snapshot, SnapshotError> {
        let Self {
            builder,
            target,
            path,
        } = self;
        let mut finish = builder.finish(meta);
        loop {
            let is_complete = finish.step(SNAPSHOT_FINISH_BUDGET)?;
            while let Some(write) = finish.take_write() {
                target.write(write.offset, &write.buf)?;
            }
            if is_complete {
                break;
            }
        }
        target.sync()?;
        let name = path.display().to_string();
        let (snapshot, superblock) = finish.into_snapshot(&name);
        target.write(0, &superblock)?;
        target.sync()?;
        let directory = path.parent().expect("the file was put in one");
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| DiskError::from_io("sync the directory of", name, &error))?;
        Ok(snapshot)
    }
}
