//! The frame of a snapshot file: its superblock, and the table of its pages. Layouts are in
//! `storage/FORMAT.md`.
//!
//! ```text
//!   superblock --checksum--> page table --checksum--> every page --checksum--> every block of values
//!              --checksum--> meta page
//! ```
//!
//! Every part follows the one before without a gap, so the table holds lengths, and places follow.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::SnapshotSeq;
use crate::limits::{SNAPSHOT_BLOCK_BYTES, SNAPSHOT_PAGE_BYTES_MAX};

/// Newest version of the layout.
pub const FORMAT_VERSION: u32 = FORMAT_VERSION_BORROWS;
/// Oldest version of the layout; a file that needs nothing newer is written as of this one.
pub const FORMAT_VERSION_MIN: u32 = 1;
/// Since this version the meta page may have rows of members that were removed.
pub(super) const FORMAT_VERSION_REMOVED: u32 = 2;
/// Since this version a file may borrow values from earlier ones.
pub(super) const FORMAT_VERSION_BORROWS: u32 = 3;
/// Length of the superblock, and where the values begin.
pub(super) const SUPERBLOCK_BYTES: usize = SNAPSHOT_BLOCK_BYTES;

pub(super) const MAGIC: [u8; 8] = *b"KEELSNAP";
/// Where the checksum's coverage begins.
pub(super) const COVERED_OFFSET: usize = 12;
const USED_BYTES: usize = 120;
/// Where the reference to the page of borrowed runs is; zeros if there is none.
const BORROWED_OFFSET: usize = 104;

/// A superblock is never torn: what it uses fits the first sector.
const _: () = assert!(USED_BYTES <= 512);

/// The first block of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Of the file.
    pub(super) format_version: u32,
    pub(super) sequence: SnapshotSeq,
    pub(super) file_bytes: u64,
    pub(super) table: PageReference,
    pub(super) meta: PageReference,
    /// Which values other files have; none if this one has all.
    pub(super) borrowed: Option<PageReference>,
    pub(super) counters: Counters,
}

/// Where a page is that is not in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageReference {
    pub(super) offset: u64,
    pub(super) entry: PageEntry,
}

/// Totals of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) keys: u64,
    pub(super) versions: u64,
    pub(super) live: u64,
    /// Bytes of key and value over all versions.
    pub(super) data_bytes: u64,
    pub(super) changes: u64,
}

/// Why a superblock was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SuperblockError {
    /// All zeros.
    Blank,
    Damaged,
    Newer(u32),
}

/// The page table, in the order of the archive.
#[derive(Debug, Default, Archive, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) leaves: Vec<LeafEntry>,
    pub(super) inners: Vec<PageEntry>,
    pub(super) changes: Vec<PageEntry>,
    pub(super) changes_per_page: u32,
}

/// A page, as its parent knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct PageEntry {
    /// Length of the archive, without the zeros that fill up the last block.
    pub(super) bytes: u32,
    /// crc32c of all blocks of the page.
    pub(super) checksum: u32,
}

/// A leaf page and its run of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct LeafEntry {
    pub(super) page: PageEntry,
    /// Length of the run in blocks of 4 KiB.
    pub(super) run_blocks: u32,
}

impl PageEntry {
    /// Of an archive of `bytes` bytes, filled up to whole blocks.
    pub(super) fn new(blocks: &[u8], bytes: u32) -> Self {
        Self {
            bytes,
            checksum: crc32c::crc32c(blocks),
        }
    }

    /// Length in the file.
    pub(super) fn padded_bytes(&self) -> usize {
        (self.bytes as usize).next_multiple_of(SNAPSHOT_BLOCK_BYTES)
    }

    pub(super) fn is_sound(&self) -> bool {
        (1..=SNAPSHOT_PAGE_BYTES_MAX).contains(&(self.bytes as usize))
    }
}

impl LeafEntry {
    pub(super) fn run_bytes(&self) -> u64 {
        u64::from(self.run_blocks) * SNAPSHOT_BLOCK_BYTES as u64
    }
}

impl Table {
    /// Where the first leaf page is: behind the values. Like all places here that is one in a file that has all of its
    /// values itself.
    pub(super) fn leaves_offset(&self) -> u64 {
        let runs = self.leaves.iter().map(LeafEntry::run_bytes);
        end_of(SUPERBLOCK_BYTES as u64, runs)
    }

    /// Where the first inner page is.
    pub(super) fn inners_offset(&self) -> u64 {
        let pages = self.leaves.iter().map(|leaf| &leaf.page);
        end_of(self.leaves_offset(), pages.map(padded))
    }

    /// Where the first page of changes is.
    pub(super) fn changes_offset(&self) -> u64 {
        end_of(self.inners_offset(), self.inners.iter().map(padded))
    }

    /// Where the meta page is.
    pub(super) fn meta_offset(&self) -> u64 {
        end_of(self.changes_offset(), self.changes.iter().map(padded))
    }

    /// Whether the numbers can be those of a file with these totals.
    pub(super) fn is_sound(&self, superblock: &Superblock) -> bool {
        let leaves = self.leaves.iter().map(|leaf| &leaf.page);
        let mut pages = leaves.chain(&self.inners).chain(&self.changes);
        let change_pages = match self.changes_per_page {
            0 => return false,
            per_page => superblock.counters.changes.div_ceil(per_page.into()),
        };
        pages.all(PageEntry::is_sound)
            && self.leaves.is_empty() == self.inners.is_empty()
            && self.changes.len() as u64 == change_pages
    }
}

impl Superblock {
    pub(super) fn encode(&self, out: &mut [u8]) {
        assert_eq!(out.len(), SUPERBLOCK_BYTES, "a superblock is one block");
        out.fill(0);
        out[..8].copy_from_slice(&MAGIC);
        put_u32(out, 12, self.format_version);
        put_u64(out, 16, self.sequence.0);
        put_u64(out, 24, self.file_bytes);
        let borrowed = self.borrowed.iter().map(|page| (BORROWED_OFFSET, page));
        for (at, page) in [(32, &self.table), (48, &self.meta)]
            .into_iter()
            .chain(borrowed)
        {
            put_u64(out, at, page.offset);
            put_u32(out, at + 8, page.entry.bytes);
            put_u32(out, at + 12, page.entry.checksum);
        }
        for (index, counter) in self.counters.in_order().into_iter().enumerate() {
            put_u64(out, 64 + 8 * index, counter);
        }
        let checksum = crc32c::crc32c(&out[COVERED_OFFSET..]);
        put_u32(out, 8, checksum);
    }

    pub(super) fn decode(block: &[u8]) -> Result<Self, SuperblockError> {
        if block.len() != SUPERBLOCK_BYTES {
            return Err(SuperblockError::Damaged);
        }
        if block.iter().all(|&byte| byte == 0) {
            return Err(SuperblockError::Blank);
        }
        if block[..8] != MAGIC || get_u32(block, 8) != crc32c::crc32c(&block[COVERED_OFFSET..]) {
            return Err(SuperblockError::Damaged);
        }
        let format_version = get_u32(block, 12);
        match format_version {
            FORMAT_VERSION_MIN..=FORMAT_VERSION => {}
            version if version > FORMAT_VERSION => return Err(SuperblockError::Newer(version)),
            _ => return Err(SuperblockError::Damaged),
        }
        let page = |at| PageReference {
            offset: get_u64(block, at),
            entry: PageEntry {
                bytes: get_u32(block, at + 8),
                checksum: get_u32(block, at + 12),
            },
        };
        let superblock = Self {
            format_version,
            sequence: SnapshotSeq(get_u64(block, 16)),
            file_bytes: get_u64(block, 24),
            table: page(32),
            meta: page(48),
            borrowed: Some(page(BORROWED_OFFSET)).filter(|page| *page != PageReference::default()),
            counters: Counters {
                keys: get_u64(block, 64),
                versions: get_u64(block, 72),
                live: get_u64(block, 80),
                data_bytes: get_u64(block, 88),
                changes: get_u64(block, 96),
            },
        };
        if superblock.is_sound() {
            Ok(superblock)
        } else {
            Err(SuperblockError::Damaged)
        }
    }

    /// Whether a block begins as a superblock does, sound or not.
    pub(super) fn has_magic(block: &[u8]) -> bool {
        block.starts_with(&MAGIC)
    }

    /// Whether meta page, page of borrowed runs and table end the file, one behind the other.
    fn is_sound(&self) -> bool {
        let end = |page: &PageReference| page.offset.checked_add(page.entry.padded_bytes() as u64);
        let behind_meta = self.borrowed.as_ref().unwrap_or(&self.table);
        self.meta.entry.is_sound()
            && self.table.entry.is_sound()
            && self.borrowed.is_none_or(|page| {
                self.format_version >= FORMAT_VERSION_BORROWS
                    && page.entry.is_sound()
                    && end(&page) == Some(self.table.offset)
            })
            && self.meta.offset >= SUPERBLOCK_BYTES as u64
            && self.meta.offset.is_multiple_of(SNAPSHOT_BLOCK_BYTES as u64)
            && end(&self.meta) == Some(behind_meta.offset)
            && end(&self.table) == Some(self.file_bytes)
    }
}

impl Counters {
    fn in_order(&self) -> [u64; 5] {
        [
            self.keys,
            self.versions,
            self.live,
            self.data_bytes,
            self.changes,
        ]
    }
}

fn padded(page: &PageEntry) -> u64 {
    page.padded_bytes() as u64
}

/// Where parts of these lengths end. Numbers that no file can have give a place that no file has.
fn end_of(start: u64, lengths: impl Iterator<Item = u64>) -> u64 {
    lengths.fold(start, u64::saturating_add)
}

fn put_u32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes[at..].first_chunk().expect("the block is longer");
    u32::from_le_bytes(*bytes)
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes[at..].first_chunk().expect("the block is longer");
    u64::from_le_bytes(*bytes)
}
