//! A file that another member made, while it arrives.
//!
//! ```text
//!   pieces, in order --> written, all but the superblock --> flushed --> verified, every byte --> committed
//! ```
//!
//! Its content is taken as it is. Only the superblock is this member's own: it has the sequence of this directory. It is
//! kept in memory until the owner commits the file, so until then the file does not count, and a crash leaves one that the
//! next start removes.
//!
//! Invariant: what was taken is a prefix of the file. What has arrived is a prefix of that, and with the disk.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::audit::Audit;
use super::draft::Draft;
use super::error::SnapshotError;
use super::format::{SUPERBLOCK_BYTES, Superblock};
use super::snapshot::Snapshot;
use super::startup::file_name;
use super::stream::PageWrite;
use crate::io::{AlignedBuf, Disk, FileEntry, FileId, ReadOnlyDisk, give_way};
use crate::limits::{SNAPSHOT_BLOCK_BYTES, SNAPSHOT_READ_BYTES};

/// A file of which a part has come.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) draft: Draft,
    file_bytes: u64,
    /// With the sequence of this directory; none before the first piece.
    superblock: Option<Superblock>,
    /// Everything before it was taken.
    next: u64,
    /// Where the writes begin that have not completed.
    writing: BTreeSet<u64>,
    /// It was handed out to be verified.
    is_handed_out: bool,
}

/// A piece that does not belong to the file that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IncomingError {
    /// It does not begin or end on a block, or reaches beyond the end.
    #[error("a piece does not fit the file")]
    Misfit,
    /// The first block is no superblock that this version knows, or is that of another file.
    #[error("the first block is not the announced superblock")]
    Superblock,
}

impl Incoming {
    pub(super) fn new(draft: Draft, file_bytes: u64) -> Self {
        Self {
            draft,
            file_bytes,
            superblock: None,
            next: 0,
            writing: BTreeSet::new(),
            is_handed_out: false,
        }
    }

    /// Where the next piece begins.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Everything before it has been written.
    pub(super) fn arrived(&self) -> u64 {
        self.writing.first().copied().unwrap_or(self.next)
    }

    /// Takes the next piece.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), IncomingError> {
        let blocks = piece.len().is_multiple_of(SNAPSHOT_BLOCK_BYTES);
        let left = self.file_bytes - self.next;
        if piece.is_empty() || !blocks || piece.len() as u64 > left {
            return Err(IncomingError::Misfit);
        }
        let mut rest = piece;
        if self.next == 0 {
            let (head, behind) = piece.split_at(SUPERBLOCK_BYTES);
            let decoded = Superblock::decode(head).ok();
            let is_announced = |superblock: &Superblock| {
                superblock.file_bytes == self.file_bytes && superblock.borrowed.is_none()
            };
            let superblock = decoded.filter(is_announced);
            self.superblock = Some(Superblock {
                sequence: self.draft.sequence,
                ..superblock.ok_or(IncomingError::Superblock)?
            });
            rest = behind;
        }
        if !rest.is_empty() {
            let offset = self.next + (piece.len() - rest.len()) as u64;
            let mut buf = AlignedBuf::with_capacity(rest.len());
            buf.extend_from_slice(rest);
            self.writing.insert(offset);
            self.draft.write(PageWrite {
                offset,
                buf,
                has_values: true,
            });
        }
        self.next += piece.len() as u64;
        if self.next == self.file_bytes {
            self.draft.seal();
        }
        Ok(())
    }

    pub(super) fn on_written(&mut self, offset: u64) {
        self.writing.remove(&offset);
    }

    /// The file, once all of it but the superblock is durable; once.
    pub(super) fn hand_out(&mut self, directory: &str) -> Option<Unverified> {
        if self.is_handed_out || !self.draft.is_flushed() {
            return None;
        }
        self.is_handed_out = true;
        Some(Unverified {
            directory: directory.into(),
            file: self.draft.file,
            entry: FileEntry {
                name: file_name(self.draft.sequence),
                bytes: self.file_bytes,
                is_file: true,
            },
            superblock: self.superblock?,
        })
    }
}

/// A whole file on the disk, which may be anything.
#[derive(Clone, Debug)]
pub struct Unverified {
    directory: PathBuf,
    /// As the store knows it.
    file: FileId,
    entry: FileEntry,
    superblock: Superblock,
}

impl Unverified {
    /// Reads the file past the store and compares every byte of it with its checksum. Blocks: for a thread of its own.
    pub fn verify(&self) -> Result<Snapshot, SnapshotError> {
        let mut disk = ReadOnlyDisk::new(&self.directory);
        let file = disk.open(&self.entry.name)?;
        self.verify_with(&mut disk, file)
    }

    /// The same through the store's own disk.
    pub(super) fn verify_on<D: Disk>(&self, disk: &mut D) -> Result<Snapshot, SnapshotError> {
        self.verify_with(disk, self.file)
    }

    fn verify_with<D: Disk>(&self, disk: &mut D, file: FileId) -> Result<Snapshot, SnapshotError> {
        let snapshot = Snapshot::load_behind(disk, file, &self.entry, self.superblock)?;
        let mut audit = Audit::new(&snapshot);
        let mut buf = AlignedBuf::with_capacity(SNAPSHOT_READ_BYTES);
        let mut offset = SUPERBLOCK_BYTES as u64;
        let flaw = |flaw| snapshot.damaged_by(&flaw);
        audit.take(&self.head()).map_err(flaw)?;
        while offset < self.entry.bytes {
            let left = usize::try_from(self.entry.bytes - offset).unwrap_or(usize::MAX);
            let bytes = left.min(SNAPSHOT_READ_BYTES);
            disk.read(file, offset, bytes, &mut buf)?;
            if buf.is_empty() {
                break;
            }
            audit.take(buf.as_slice()).map_err(flaw)?;
            give_way();
            offset += buf.len() as u64;
        }
        audit.finish().map_err(flaw)?;
        Ok(snapshot)
    }

    fn head(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut head = [0; SUPERBLOCK_BYTES];
        self.superblock.encode(&mut head);
        head
    }
}

impl Snapshot {
    /// The first block of this snapshot's file.
    pub(super) fn head(&self) -> AlignedBuf {
        let mut head = AlignedBuf::zeroed(SUPERBLOCK_BYTES);
        self.superblock().encode(head.as_mut_slice());
        head
    }
}
