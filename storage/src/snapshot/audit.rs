//! Comparing a whole file with its checksums while it goes by.
//!
//! Whoever copies a file anyway, to a client or into a data directory, shows every byte of it to an [`Audit`]: the list of
//! all pieces of the file, each with the checksum that its parent has of it. Together they are the file without a gap,
//! the zeros that fill up blocks included, so no changed byte passes.
//!
//! An audit holds no pages: a copy of a large file does not keep the file's index in memory.

use std::cmp::min;

use super::error::{Affected, SnapshotDamage, SnapshotError, SnapshotPart};
use super::format::{SUPERBLOCK_BYTES, Superblock};
use super::snapshot::Snapshot;

/// What the bytes of a file must be, and how many have gone by.
#[derive(Debug)]
pub struct Audit {
    pieces: Vec<Piece>,
    /// The piece that goes by, and what has of it.
    current: usize,
    offset: u64,
    checksum: u32,
}

/// A place that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Where in the file the damaged piece begins.
    pub offset: u64,
    /// What is wrong with it.
    pub reason: SnapshotDamage,
    /// Whose page or values it is.
    leaf: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    end: u64,
    checksum: u32,
    /// None for the superblock.
    part: Option<SnapshotPart>,
    leaf: Option<u32>,
}

impl Audit {
    /// Of the image of a snapshot: of its file, if that has all of its values itself.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut list = List::default();
        let superblock = &snapshot.image_superblock();
        list.push(SUPERBLOCK_BYTES as u64, checksum_of(superblock), None, None);
        for leaf in 0..snapshot.leaf_count() {
            for block in snapshot.leaf_blocks(leaf) {
                let part = Some(SnapshotPart::Values);
                list.push(block.bytes.into(), block.checksum, part, Some(leaf));
            }
        }
        for leaf in 0..snapshot.leaf_count() {
            let page = snapshot.leaf_entry(leaf).page;
            let bytes = page.padded_bytes() as u64;
            list.push(bytes, page.checksum, Some(SnapshotPart::Leaf), Some(leaf));
        }
        // Of these pages only the content is at hand: it was compared with its checksum when it was read.
        let inners = snapshot.inners().iter().map(|page| page.blocks());
        for blocks in inners {
            list.push_blocks(blocks, SnapshotPart::Inner);
        }
        let changes = snapshot.changes().iter().map(|page| page.blocks());
        for blocks in changes {
            list.push_blocks(blocks, SnapshotPart::Changes);
        }
        for (page, part) in [
            (superblock.meta.entry, SnapshotPart::Meta),
            (superblock.table.entry, SnapshotPart::Table),
        ] {
            list.push(page.padded_bytes() as u64, page.checksum, Some(part), None);
        }
        assert_eq!(
            list.end, superblock.file_bytes,
            "the pieces are the whole file"
        );
        Self {
            pieces: list.pieces,
            current: 0,
            offset: 0,
            checksum: 0,
        }
    }

    /// Takes the next bytes of the file, at most up to its end.
    ///
    /// # Errors
    /// The first piece that is damaged. Nothing more may be taken then.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), Flaw> {
        while !bytes.is_empty() {
            let piece = self.pieces[self.current];
            let left = usize::try_from(piece.end - self.offset).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(min(left, bytes.len()));
            self.checksum = crc32c::crc32c_append(self.checksum, now);
            self.offset += now.len() as u64;
            bytes = later;
            if self.offset == piece.end {
                self.close(&piece)?;
            }
        }
        Ok(())
    }

    /// The file has ended.
    ///
    /// # Errors
    /// It did so too early.
    pub fn finish(self) -> Result<(), Flaw> {
        if self.current == self.pieces.len() {
            return Ok(());
        }
        Err(Flaw {
            offset: self.offset,
            reason: SnapshotDamage::Truncated,
            leaf: None,
        })
    }

    fn close(&mut self, piece: &Piece) -> Result<(), Flaw> {
        let checksum = std::mem::take(&mut self.checksum);
        if checksum == piece.checksum {
            self.current += 1;
            return Ok(());
        }
        let before = self.current.checked_sub(1);
        Err(Flaw {
            offset: before.map_or(0, |before| self.pieces[before].end),
            reason: piece
                .part
                .map_or(SnapshotDamage::Superblock, SnapshotDamage::Checksum),
            leaf: piece.leaf,
        })
    }
}

impl Snapshot {
    /// A flaw of this snapshot's file as an error, with what depends on the damaged place.
    #[must_use]
    pub fn damaged_by(&self, flaw: &Flaw) -> SnapshotError {
        let span = flaw.leaf.map(|leaf| self.span_of(leaf));
        let affected = match (flaw.reason, span) {
            (SnapshotDamage::Checksum(SnapshotPart::Values), Some((from, to))) => {
                Affected::Values { from, to }
            }
            (_, Some((from, to))) => Affected::Keys { from, to },
            (SnapshotDamage::Checksum(SnapshotPart::Changes), _) => Affected::History,
            _ => Affected::Everything,
        };
        let (file, offset) = self.place_of(flaw.offset);
        SnapshotError::Damaged {
            file,
            offset,
            reason: flaw.reason,
            affected,
        }
    }
}

/// Pieces, one behind the other.
#[derive(Debug, Default)]
struct List {
    pieces: Vec<Piece>,
    end: u64,
}

impl List {
    fn push(&mut self, bytes: u64, checksum: u32, part: Option<SnapshotPart>, leaf: Option<u32>) {
        self.end += bytes;
        self.pieces.push(Piece {
            end: self.end,
            checksum,
            part,
            leaf,
        });
    }

    fn push_blocks(&mut self, blocks: &[u8], part: SnapshotPart) {
        let checksum = crc32c::crc32c(blocks);
        self.push(blocks.len() as u64, checksum, Some(part), None);
    }
}

pub(super) fn checksum_of(superblock: &Superblock) -> u32 {
    let mut block = vec![0; SUPERBLOCK_BYTES];
    superblock.encode(&mut block);
    crc32c::crc32c(&block)
}
