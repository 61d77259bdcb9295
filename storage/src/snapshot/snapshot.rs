//! A finished file: its index, resident and searched where it lies, and where its values are.
//!
//! ```text
//!   key --> inner pages --> leaf page --> rows --> Version { .., place } --> (read the block) --> value
//!   n-th change --> page of changes --> row of a leaf
//! ```
//!
//! A snapshot never changes; whoever answers from it holds an `Arc` of it. References ([`KeyRef`],
//! [`VersionRef`]) are plain numbers that mean something in this snapshot only: giving it one of another
//! is our own mistake and may panic.
//!
//! Invariants: those of the pages, all checked before a snapshot exists, so that no read of it can fail.

use std::cmp::Ordering;
use std::ops::Range;

use super::borrowed::{Lender, RunPlaces};
use super::changes::ArchivedChanges;
use super::error::{Affected, SnapshotDamage, SnapshotError, SnapshotPart};
use super::format::{LeafEntry, PageEntry, SUPERBLOCK_BYTES, Superblock};
use super::image::{Image, ImagePart};
use super::inner::ArchivedInner;
use super::leaf::ArchivedLeaf;
use super::meta::Meta;
use super::page::Page;
use super::version::{BlockPlace, KeyRef, ValuePlace, Version, VersionRef};
use crate::ids::{LeaseId, Revision, SnapshotSeq};

/// The state in a file, as of one applied entry.
#[derive(Debug)]
pub struct Snapshot {
    file: String,
    superblock: Superblock,
    meta: Meta,
    leaves: Vec<LeafPage>,
    inners: Vec<Page<ArchivedInner>>,
    changes: Vec<Page<ArchivedChanges>>,
    change_entries: Vec<PageEntry>,
    changes_per_page: u64,
    index_bytes: u64,
    places: RunPlaces,
    image: Image,
}

/// A place among the keys.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    snapshot: &'a Snapshot,
    at: Option<KeyRef>,
}

/// What a snapshot is made of, built or loaded.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) file: String,
    pub(super) superblock: Superblock,
    pub(super) meta: Meta,
    pub(super) leaves: Vec<(Page<ArchivedLeaf>, LeafEntry)>,
    pub(super) inners: Vec<Page<ArchivedInner>>,
    pub(super) changes: Vec<Page<ArchivedChanges>>,
    pub(super) change_entries: Vec<PageEntry>,
    pub(super) changes_per_page: u32,
    /// Where the values of each leaf are.
    pub(super) places: RunPlaces,
}

#[derive(Debug)]
struct LeafPage {
    page: Page<ArchivedLeaf>,
    entry: LeafEntry,
    /// Where it is in the file.
    offset: u64,
}

impl Snapshot {
    pub(super) fn new(parts: Parts) -> Self {
        let entries = parts.leaves.iter().map(|(_, entry)| entry);
        let values: u64 = entries.map(LeafEntry::run_bytes).sum();
        let own_values = values - parts.places.borrowed_bytes();
        let index_offset = SUPERBLOCK_BYTES as u64 + own_values;
        let mut offset = index_offset;
        let mut image = Image::new();
        let mut leaves = Vec::with_capacity(parts.leaves.len());
        for (number, (page, entry)) in parts.leaves.into_iter().enumerate() {
            for piece in parts.places.of(number as u32) {
                image.push(*piece);
            }
            leaves.push(LeafPage {
                page,
                entry,
                offset,
            });
            offset += entry.page.padded_bytes() as u64;
        }
        let superblock = &parts.superblock;
        let index_end = superblock.meta.offset + superblock.meta.entry.padded_bytes() as u64;
        for (from, to) in [
            (index_offset, index_end),
            (superblock.table.offset, superblock.file_bytes),
        ] {
            image.push(ImagePart {
                file: superblock.sequence,
                offset: from,
                bytes: to - from,
            });
        }
        Self {
            places: parts.places,
            image,
            file: parts.file,
            meta: parts.meta,
            leaves,
            inners: parts.inners,
            changes: parts.changes,
            change_entries: parts.change_entries,
            changes_per_page: parts.changes_per_page.into(),
            index_bytes: parts.superblock.meta.offset - index_offset,
            superblock: parts.superblock,
        }
    }

    /// The file's place among those of its shard.
    #[must_use]
    pub fn sequence(&self) -> SnapshotSeq {
        self.superblock.sequence
    }

    /// Everything but the keys.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Length of the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.superblock.file_bytes
    }

    /// Length of the pages that are resident.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.index_bytes
    }

    /// Keys, live or not.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.superblock.counters.keys
    }

    /// Versions of all keys, tombstones included.
    #[must_use]
    pub fn version_count(&self) -> u64 {
        self.superblock.counters.versions
    }

    /// Keys whose newest version is not a tombstone.
    #[must_use]
    pub fn live_count(&self) -> u64 {
        self.superblock.counters.live
    }

    /// Bytes of key and value, over all versions.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.superblock.counters.data_bytes
    }

    /// A key, if it is there, live or not.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<KeyRef> {
        let (leaf, _) = self.descend(key)?;
        let slot = self.leaf(leaf).keys().search(key).ok()?;
        Some(KeyRef {
            leaf,
            slot: slot as u32,
        })
    }

    /// The first key that is not below `key`.
    #[must_use]
    pub fn seek(&self, key: &[u8]) -> Option<KeyRef> {
        let (leaf, _) = self.descend(key)?;
        let keys = self.leaf(leaf).keys();
        let (Ok(slot) | Err(slot)) = keys.search(key);
        if slot < keys.len() {
            let slot = slot as u32;
            return Some(KeyRef { leaf, slot });
        }
        self.first_of(leaf + 1)
    }

    /// The key behind a key.
    #[must_use]
    pub fn next(&self, key: KeyRef) -> Option<KeyRef> {
        if key.slot + 1 < self.leaf_keys(key.leaf) {
            let slot = key.slot + 1;
            return Some(KeyRef { slot, ..key });
        }
        self.first_of(key.leaf + 1)
    }

    /// The key before a key.
    #[must_use]
    pub fn previous(&self, key: KeyRef) -> Option<KeyRef> {
        if let Some(slot) = key.slot.checked_sub(1) {
            return Some(KeyRef { slot, ..key });
        }
        let leaf = key.leaf.checked_sub(1)?;
        let slot = self.leaf_keys(leaf) - 1;
        Some(KeyRef { leaf, slot })
    }

    /// The last key.
    #[must_use]
    pub fn last(&self) -> Option<KeyRef> {
        let leaf = self.leaf_count().checked_sub(1)?;
        let slot = self.leaf_keys(leaf) - 1;
        Some(KeyRef { leaf, slot })
    }

    /// A cursor at the first key that is not below `start`.
    #[must_use]
    pub fn cursor(&self, start: &[u8]) -> Cursor<'_> {
        Cursor {
            snapshot: self,
            at: self.seek(start),
        }
    }

    /// How many live keys are below `key`.
    #[must_use]
    pub fn live_before(&self, key: &[u8]) -> u64 {
        let Some((leaf, before)) = self.descend(key) else {
            return 0;
        };
        let leaf = self.leaf(leaf);
        let (Ok(slot) | Err(slot)) = leaf.keys().search(key);
        before + leaf.live_before(slot) as u64
    }

    /// How a key stands to another one.
    #[must_use]
    pub fn compare_key(&self, key: KeyRef, other: &[u8]) -> Ordering {
        self.leaf(key.leaf).keys().compare(key.slot as usize, other)
    }

    /// Appends the bytes of a key.
    pub fn append_key(&self, key: KeyRef, out: &mut Vec<u8>) {
        self.leaf(key.leaf).keys().append(key.slot as usize, out);
    }

    /// Whether a key's newest version is not a tombstone.
    #[must_use]
    pub fn is_live(&self, key: KeyRef) -> bool {
        self.leaf(key.leaf).is_live(key.slot as usize)
    }

    /// The rows of a key's versions in its leaf, oldest first; not empty.
    #[must_use]
    pub fn rows(&self, key: KeyRef) -> Range<u32> {
        self.leaf(key.leaf).rows(key.slot as usize)
    }

    /// A version, and where its value is.
    #[must_use]
    pub fn version(&self, at: VersionRef) -> Version {
        let leaf = self.leaf(at.leaf);
        let row = at.row as usize;
        let value_bytes = leaf.value_bytes(row);
        let place = (value_bytes > 0).then(|| {
            let (block, start) = leaf.value_place(row);
            ValuePlace {
                block: self.block(at.leaf, block),
                start,
                bytes: value_bytes,
            }
        });
        Version {
            revision: Revision(leaf.revision(row)),
            sub: leaf.sub(row),
            create_revision: Revision(leaf.create_revision(row)),
            version: leaf.version(row),
            lease: LeaseId(leaf.lease(row)),
            tombstone: leaf.is_tombstone(row),
            value_bytes,
            place,
        }
    }

    /// The main revision that wrote a version.
    #[must_use]
    pub fn revision_of(&self, at: VersionRef) -> Revision {
        Revision(self.leaf(at.leaf).revision(at.row as usize))
    }

    /// The key that a version belongs to.
    #[must_use]
    pub fn key_of(&self, at: VersionRef) -> KeyRef {
        let slot = self.leaf(at.leaf).slot_of(at.row as usize) as u32;
        KeyRef {
            leaf: at.leaf,
            slot,
        }
    }

    /// Versions from the horizon on.
    #[must_use]
    pub fn change_count(&self) -> u64 {
        self.superblock.counters.changes
    }

    /// The version that came `index`-th, from 0, in order of revision and sub.
    #[must_use]
    pub fn change(&self, index: u64) -> VersionRef {
        let page = &self.changes[(index / self.changes_per_page) as usize];
        page.get((index % self.changes_per_page) as usize)
    }

    /// The first change from a revision on; [`change_count`](Self::change_count) if there is none.
    #[must_use]
    pub fn change_index_of(&self, revision: Revision) -> u64 {
        let (mut low, mut high) = (0, self.change_count());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.revision_of(self.change(middle)) < revision {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Leaves, in order of their keys.
    #[must_use]
    pub fn leaf_count(&self) -> u32 {
        self.leaves.len() as u32
    }

    /// The first key of a leaf.
    #[must_use]
    pub fn leaf_first_key(&self, leaf: u32) -> KeyRef {
        KeyRef { leaf, slot: 0 }
    }

    /// The leaf to which a key belongs, whether it is there or not; none if there are no leaves.
    #[must_use]
    pub fn leaf_of(&self, key: &[u8]) -> Option<u32> {
        Some(self.descend(key)?.0)
    }

    /// From which key on keys belong to a leaf; to the first one belong those before, too. `None` behind the last leaf.
    #[must_use]
    pub fn leaf_bound(&self, leaf: u32) -> Option<Vec<u8>> {
        if leaf >= self.leaf_count() {
            return None;
        }
        let is_before =
            |page: &Page<ArchivedInner>| page.level() == 1 && page.first_child() <= leaf;
        let parent = self.inners.partition_point(is_before) - 1;
        let parent = &self.inners[parent];
        let mut bound = Vec::new();
        let child = leaf - parent.first_child();
        parent.bounds().append(child as usize, &mut bound);
        Some(bound)
    }

    /// Keys of a leaf; not zero.
    #[must_use]
    pub fn leaf_keys(&self, leaf: u32) -> u32 {
        self.leaf(leaf).keys().len() as u32
    }

    /// Where the leaf's values are, piece by piece. Offsets and bytes are multiples of 4 KiB.
    #[must_use]
    pub fn leaf_run(&self, leaf: u32) -> &[ImagePart] {
        self.places.of(leaf)
    }

    /// Earlier files that have some of the values, by their sequence.
    #[must_use]
    pub fn lenders(&self) -> &[Lender] {
        self.places.lenders()
    }

    /// Whether a file has some of the values.
    #[must_use]
    pub fn borrows_from(&self, sequence: SnapshotSeq) -> bool {
        let mut lenders = self.lenders().iter();
        lenders.any(|lender| lender.sequence == sequence)
    }

    /// All files that have values: its lenders and its own, as if it were one.
    pub fn value_files(&self) -> impl Iterator<Item = Lender> + '_ {
        self.lenders().iter().copied().chain([self.as_lender()])
    }

    /// Its own file, as one that lends all the values that it has.
    pub(super) fn as_lender(&self) -> Lender {
        let index_offset = self.superblock.meta.offset - self.index_bytes;
        Lender {
            sequence: self.sequence(),
            file_bytes: self.file_bytes(),
            lent_bytes: index_offset - SUPERBLOCK_BYTES as u64,
        }
    }

    /// Length of the leaf's page in the file.
    #[must_use]
    pub fn leaf_page_bytes(&self, leaf: u32) -> u64 {
        self.leaf_entry(leaf).page.padded_bytes() as u64
    }

    /// The smallest horizon at which retention drops something of the leaf; `i64::MAX` if none does.
    #[must_use]
    pub fn leaf_droppable_at(&self, leaf: u32) -> Revision {
        Revision(self.leaf(leaf).droppable_at())
    }

    /// The leaf's blocks of values, one behind the other: together its run.
    pub fn leaf_blocks(&self, leaf: u32) -> impl Iterator<Item = BlockPlace> + '_ {
        (0..self.leaf(leaf).block_count()).map(move |block| self.block(leaf, block))
    }

    /// Compares a block of values that was read with its checksum.
    pub fn verify_block(&self, block: BlockPlace, bytes: &[u8]) -> Result<(), SnapshotError> {
        if block.holds(bytes) {
            Ok(())
        } else {
            Err(self.damaged_block(block))
        }
    }

    /// A block of values as damage, with the keys that depend on it.
    pub(super) fn damaged_block(&self, block: BlockPlace) -> SnapshotError {
        let affected = match self.leaf_of_block(block) {
            Some(leaf) => {
                let (from, to) = self.span_of(leaf);
                Affected::Values { from, to }
            }
            None => Affected::Everything,
        };
        SnapshotError::Damaged {
            file: self.path_beside(block.file),
            offset: block.offset,
            reason: SnapshotDamage::Checksum(SnapshotPart::Values),
            affected,
        }
    }

    /// The leaf whose value a block is. Looks at all of them.
    pub(super) fn leaf_of_block(&self, block: BlockPlace) -> Option<u32> {
        let has_it = |piece: &ImagePart| {
            let span = piece.offset..piece.offset + piece.bytes;
            piece.file == block.file && span.contains(&block.offset)
        };
        (0..self.leaf_count()).find(|leaf| self.leaf_run(*leaf).iter().any(has_it))
    }

    /// Lets some pages go, of a snapshot that nobody will ask any more; true when few are left.
    pub(super) fn shed(&mut self, pages: usize) -> bool {
        let leaves = self.leaves.len();
        self.leaves.truncate(leaves.saturating_sub(pages));
        if leaves == 0 {
            self.changes
                .truncate(self.changes.len().saturating_sub(pages));
        }
        self.leaves.is_empty() && self.changes.is_empty()
    }

    pub(super) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    pub(super) fn inners(&self) -> &[Page<ArchivedInner>] {
        &self.inners
    }

    pub(super) fn changes(&self) -> &[Page<ArchivedChanges>] {
        &self.changes
    }

    #[cfg(test)]
    pub(super) fn change_entries_mut(&mut self) -> &mut [PageEntry] {
        &mut self.change_entries
    }

    pub(super) fn change_entries(&self) -> &[PageEntry] {
        &self.change_entries
    }

    pub(super) fn changes_per_page(&self) -> u32 {
        u32::try_from(self.changes_per_page).expect("it came from 32 bits")
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn leaf(&self, leaf: u32) -> &ArchivedLeaf {
        &self.leaves[leaf as usize].page
    }

    pub(super) fn leaf_entry(&self, leaf: u32) -> &LeafEntry {
        &self.leaves[leaf as usize].entry
    }

    /// A leaf with the memory in which it lies.
    pub(super) fn leaf_page(&self, leaf: u32) -> &Page<ArchivedLeaf> {
        &self.leaves[leaf as usize].page
    }

    /// Compares a resident leaf page with its checksum.
    pub(super) fn verify_page(&self, leaf: u32) -> Result<(), SnapshotError> {
        let LeafPage { entry, offset, .. } = &self.leaves[leaf as usize];
        if crc32c::crc32c(self.leaf_page(leaf).blocks()) != entry.page.checksum {
            let (from, to) = self.span_of(leaf);
            return Err(SnapshotError::Damaged {
                file: self.file.clone(),
                offset: *offset,
                reason: SnapshotDamage::Checksum(SnapshotPart::Leaf),
                affected: Affected::Keys { from, to },
            });
        }
        Ok(())
    }

    /// Compares a resident page of changes with its checksum.
    pub(super) fn verify_changes(&self, page: usize) -> Result<(), SnapshotError> {
        let later = &self.change_entries[page..];
        if crc32c::crc32c(self.changes[page].blocks()) == later[0].checksum {
            return Ok(());
        }
        let later: usize = later.iter().map(PageEntry::padded_bytes).sum();
        Err(SnapshotError::Damaged {
            file: self.file.clone(),
            offset: self.superblock.meta.offset - later as u64,
            reason: SnapshotDamage::Checksum(SnapshotPart::Changes),
            affected: Affected::History,
        })
    }

    /// The leaf that has a key, if any has, and the live keys in the leaves before. Asks for the memory of
    /// the leaf's beginning.
    fn descend(&self, key: &[u8]) -> Option<(u32, u64)> {
        let mut page = self.inners.last()?;
        let mut live = 0;
        loop {
            let child = page.child_of(key);
            live += page.live_before(child);
            let number = page.first_child() + child as u32;
            if page.level() == 1 {
                self.leaves[number as usize].page.fetch();
                return Some((number, live));
            }
            page = &self.inners[number as usize];
        }
    }

    fn first_of(&self, leaf: u32) -> Option<KeyRef> {
        (leaf < self.leaf_count()).then_some(KeyRef { leaf, slot: 0 })
    }

    fn block(&self, leaf: u32, block: usize) -> BlockPlace {
        let page = self.leaf(leaf);
        let span = page.block_span(block);
        let mut start = span.start;
        let pieces = self.leaf_run(leaf).iter();
        let mut pieces = pieces.skip_while(|piece| {
            let is_before = piece.bytes <= start;
            start -= u64::from(is_before) * piece.bytes;
            is_before
        });
        let piece = pieces
            .next()
            .expect("the pieces of a run hold all of its blocks");
        BlockPlace {
            file: piece.file,
            offset: piece.offset + start,
            bytes: (span.end - span.start) as u32,
            checksum: page.block_checksum(block),
        }
    }

    /// The first key of a leaf, and of the next one.
    pub(super) fn span_of(&self, leaf: u32) -> (Vec<u8>, Option<Vec<u8>>) {
        let key = |leaf: u32| {
            let mut key = Vec::new();
            self.append_key(self.first_of(leaf)?, &mut key);
            Some(key)
        };
        (key(leaf).unwrap_or_default(), key(leaf + 1))
    }
}

impl Cursor<'_> {
    /// Where it is; nowhere behind the last key.
    #[must_use]
    pub fn current(&self) -> Option<KeyRef> {
        self.at
    }

    /// Moves to the next key.
    pub fn advance(&mut self) {
        self.at = self.at.and_then(|at| self.snapshot.next(at));
    }
}
