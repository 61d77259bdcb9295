//! Builds a snapshot file from keys in order: values stream out, leaf pages gather in memory.
//!
//! ```text
//!   push_key, copy_leaf --> values --> take_write          (while building)
//!                       \-> leaf pages, bounds, changes --> Finish --> take_write --> Snapshot + superblock
//! ```
//!
//! Nothing here does IO, and the same input gives the same bytes.
//!
//! Invariants:
//! 1. Keys come in ascending order, each once, with all its versions, oldest first.
//! 2. Writes leave in ascending offsets without gaps; the superblock comes last, from
//!    [`Finish::into_snapshot`](super::Finish::into_snapshot).

use std::sync::Arc;

use super::borrowed::{Lender, RunPlaces};
use super::changes::{Change, ChangeRuns};
use super::encode::Encoder;
use super::error::SnapshotError;
use super::finish::Finish;
use super::format::{Counters, LeafEntry, SUPERBLOCK_BYTES};
use super::image::ImagePart;
use super::inner::Level;
use super::keys::common_bytes;
use super::leaf::{ArchivedLeaf, LeafBuilder};
use super::meta::Meta;
use super::moves::Moves;
use super::pages::Pages;
use super::snapshot::Snapshot;
use super::stream::{PageWrite, ValueStream};
use super::version::{VersionIn, VersionRef};
use crate::ids::{Revision, SnapshotSeq};
use crate::io::AlignedBuf;
use crate::limits::{
    SNAPSHOT_BLOCK_BYTES, SNAPSHOT_PAGE_BYTES_DEFAULT, SNAPSHOT_RUN_BYTES_DEFAULT,
    SNAPSHOT_WRITE_BYTES_DEFAULT,
};

/// Sizes of the parts of a file. Any may be read, whatever it was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuilderConfig {
    /// A page is closed before it would exceed this; a multiple of 4 KiB.
    pub page_bytes: usize,
    /// A leaf is closed before its values would exceed this.
    pub values_run_bytes_max: usize,
    /// Length of one write; a multiple of 4 KiB.
    pub write_bytes: usize,
}

impl BuilderConfig {
    /// Whether a leaf is worth keeping as it is. Small ones would pile up from file to file.
    #[must_use]
    pub fn is_large(&self, from: &Snapshot, leaf: u32) -> bool {
        let entry = from.leaf_entry(leaf);
        2 * entry.page.padded_bytes() >= self.page_bytes
            || 2 * entry.run_bytes() >= self.values_run_bytes_max as u64
    }
}

impl Default for BuilderConfig {
    fn default() -> Self {
        Self {
            page_bytes: SNAPSHOT_PAGE_BYTES_DEFAULT,
            values_run_bytes_max: SNAPSHOT_RUN_BYTES_DEFAULT,
            write_bytes: SNAPSHOT_WRITE_BYTES_DEFAULT,
        }
    }
}

/// A file that is being built.
#[derive(Debug)]
pub struct Builder {
    pub(super) sequence: SnapshotSeq,
    pub(super) config: BuilderConfig,
    pub(super) horizon: Revision,
    pub(super) encoder: Encoder,
    pub(super) values: ValueStream,
    pub(super) leaves: Pages<ArchivedLeaf>,
    run_blocks: Vec<u32>,
    places: RunPlaces,
    /// Files that values may stay in.
    lenders: Vec<Lender>,
    pub(super) level: Level,
    pub(super) moves: Moves,
    pub(super) changes: ChangeRuns,
    pub(super) counters: Counters,
    /// The open leaf, and the live keys in it.
    leaf: LeafBuilder,
    leaf_live: u64,
    /// The newest key, and the last one of the last closed leaf.
    last_key: Vec<u8>,
    closed_key: Vec<u8>,
}

impl Builder {
    /// A file without keys.
    #[must_use]
    pub fn new(sequence: SnapshotSeq, config: BuilderConfig, horizon: Revision) -> Self {
        let is_whole = |bytes: usize| bytes > 0 && bytes.is_multiple_of(SNAPSHOT_BLOCK_BYTES);
        assert!(is_whole(config.page_bytes), "pages are whole blocks");
        assert!(is_whole(config.write_bytes), "writes are whole blocks");
        Self {
            sequence,
            config,
            horizon,
            encoder: Encoder::new(),
            values: ValueStream::new(SUPERBLOCK_BYTES as u64, config.write_bytes),
            leaves: Pages::new(),
            run_blocks: Vec::new(),
            places: RunPlaces::default(),
            lenders: Vec::new(),
            level: Level::default(),
            moves: Moves::default(),
            changes: ChangeRuns::default(),
            counters: Counters::default(),
            leaf: LeafBuilder::default(),
            leaf_live: 0,
            last_key: Vec::new(),
            closed_key: Vec::new(),
        }
    }

    /// Leaves, and versions that [say so](VersionIn::origin), are taken out of this snapshot.
    pub fn over(&mut self, base: Arc<Snapshot>) {
        let horizon = base.meta().horizon;
        assert!(
            horizon <= self.horizon,
            "what was dropped does not come back: {horizon} is the horizon of what {} is built over",
            self.horizon
        );
        self.moves = Moves::over(base);
    }

    /// Values may stay in these files, of the same directory.
    pub fn borrow_from(&mut self, lenders: impl IntoIterator<Item = Lender>) {
        self.lenders = lenders.into_iter().collect();
    }

    /// Adds a key with its versions, oldest first: what retention at the horizon leaves of it.
    pub fn push_key(&mut self, key: &[u8], versions: &[VersionIn<'_>]) {
        self.check_order(key);
        check_versions(versions);
        let limits = (self.config.page_bytes, self.config.values_run_bytes_max);
        if !self.leaf.try_push(key, versions, limits, &mut self.values) {
            self.close_leaf();
            let fits = self.leaf.try_push(key, versions, limits, &mut self.values);
            assert!(fits, "an empty leaf takes any key");
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.count(key, versions);
    }

    /// Adds all keys of a leaf of the snapshot that it is built [over](Self::over), given the bytes of its run. They must
    /// come behind those that were added before, and nothing of them may be droppable at the horizon. Returns how many
    /// versions that are.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if a block or the resident page does not match its checksum; nothing was
    /// added then.
    pub fn copy_leaf(&mut self, leaf: u32, run: &[u8]) -> Result<u64, SnapshotError> {
        let from = Arc::clone(self.moves.base());
        from.verify_page(leaf)?;
        from.verify_run(leaf, run)?;
        self.close_leaf();
        self.values.append(run);
        self.push_own(run.len() as u64);
        Ok(self.take_leaf(&from, leaf))
    }

    /// The same, of a leaf whose values stay in the files in which they are; they [may](Self::borrow_from).
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if the resident page does not match its checksum; nothing was added then.
    pub fn borrow_leaf(&mut self, leaf: u32) -> Result<u64, SnapshotError> {
        let from = Arc::clone(self.moves.base());
        from.verify_page(leaf)?;
        self.close_leaf();
        for piece in from.leaf_run(leaf) {
            self.places
                .push_lent(lender_of(&self.lenders, piece.file), *piece);
        }
        Ok(self.take_leaf(&from, leaf))
    }

    /// The last `bytes` bytes of values are in the run of the leaf that is being added.
    fn push_own(&mut self, bytes: u64) {
        self.places.push_piece(ImagePart {
            file: self.sequence,
            offset: self.values.end() - bytes,
            bytes,
        });
    }

    /// Adds a leaf as it is, whose run was added; the open one was closed. Returns how many versions it has.
    fn take_leaf(&mut self, from: &Snapshot, leaf: u32) -> u64 {
        let page = from.leaf(leaf);
        let entry = *from.leaf_entry(leaf);
        assert!(
            page.droppable_at() > self.horizon.0,
            "what retention drops is not copied: {} is the horizon, and {} drops something",
            self.horizon,
            page.droppable_at()
        );
        let (first, last) = (0, page.keys().len() - 1);
        let mut key = Vec::new();
        page.keys().append(first, &mut key);
        self.check_order(&key);
        self.moves.move_leaf(leaf, self.leaves.len() as u32);
        let counts = page.counts();
        let bound = bound(&self.closed_key, &key, self.level.is_empty());
        self.level.push(bound, counts.live);
        self.run_blocks.push(entry.run_blocks);
        self.places.end_leaf();
        self.counters.keys += counts.keys;
        self.counters.versions += counts.versions;
        self.counters.live += counts.live;
        self.counters.data_bytes += counts.data_bytes;
        self.counters.changes += page.changes_since(self.horizon.0);
        self.leaves.share(from.leaf_page(leaf), entry.page);
        self.last_key.clear();
        page.keys().append(last, &mut self.last_key);
        self.closed_key.clone_from(&self.last_key);
        counts.versions
    }

    /// The next write that is ready. Values leave while the file is built.
    pub fn take_write(&mut self) -> Option<PageWrite> {
        self.values.take()
    }

    /// Whether a buffer would be of use to [`reuse`](Self::reuse).
    #[must_use]
    pub fn wants_buf(&self) -> bool {
        self.values.wants_buf()
    }

    /// Takes back the buffer of a write that is done, for the next one.
    pub fn reuse(&mut self, buf: AlignedBuf) {
        self.values.reuse(buf);
    }

    /// No more keys: what is left is the index, and everything that is not keys.
    #[must_use]
    pub fn finish(mut self, meta: Meta) -> Finish {
        assert_eq!(
            meta.horizon, self.horizon,
            "what was built is what the meta page says"
        );
        self.close_leaf();
        self.values.close();
        Finish::new(self, meta)
    }

    fn check_order(&self, key: &[u8]) {
        assert!(
            self.counters.keys == 0 || *self.last_key < *key,
            "keys come in ascending order: {} after {}",
            key.escape_ascii(),
            self.last_key.escape_ascii()
        );
    }

    fn count(&mut self, key: &[u8], versions: &[VersionIn<'_>]) {
        let newest = versions.last().expect("checked not to be empty");
        let is_live = u64::from(!newest.tombstone);
        self.leaf_live += is_live;
        self.counters.keys += 1;
        self.counters.live += is_live;
        self.counters.versions += versions.len() as u64;
        let first_row = self.leaf.rows() - versions.len();
        for (index, version) in versions.iter().enumerate() {
            self.counters.data_bytes += (key.len() + version.value_bytes()) as u64;
            if version.revision >= self.horizon {
                self.counters.changes += 1;
                let (leaf, row) = (self.leaves.len() as u32, (first_row + index) as u32);
                match version.origin {
                    Some(from) => self.moves.move_version(from, VersionRef { leaf, row }),
                    None => self.changes.push(Change {
                        revision: version.revision.0,
                        sub: version.sub,
                        leaf,
                        row,
                    }),
                }
            }
        }
    }

    fn close_leaf(&mut self) {
        if self.leaf.is_empty() {
            return;
        }
        let live = std::mem::take(&mut self.leaf_live);
        let (content, own_blocks) = self.leaf.close(&mut self.values);
        let (blocks, entry) = self.encoder.encode(content);
        self.leaves.push(blocks, entry);
        let first_key = self.leaf.first_key();
        let bound = bound(&self.closed_key, first_key, self.level.is_empty());
        self.level.push(bound, live);
        let mut run_bytes = u64::from(own_blocks) * SNAPSHOT_BLOCK_BYTES as u64;
        self.push_own(run_bytes);
        for block in self.leaf.stays() {
            let bytes = u64::from(block.bytes);
            run_bytes += bytes;
            let lender = lender_of(&self.lenders, block.file);
            self.places.push_lent(lender, (*block).into());
        }
        self.places.end_leaf();
        self.run_blocks
            .push((run_bytes / SNAPSHOT_BLOCK_BYTES as u64) as u32);
        self.leaf.clear();
        self.closed_key.clone_from(&self.last_key);
    }

    /// Where the values of all leaves are.
    pub(super) fn places(&self) -> &RunPlaces {
        &self.places
    }

    pub(super) fn leaf_entries(&self) -> Vec<LeafEntry> {
        let pages = self.leaves.entries().iter().zip(&self.run_blocks);
        pages
            .map(|(&page, &run_blocks)| LeafEntry { page, run_blocks })
            .collect()
    }
}

fn lender_of(lenders: &[Lender], sequence: SnapshotSeq) -> Lender {
    let found = lenders.iter().find(|lender| lender.sequence == sequence);
    *found.expect("values stay only in files that may lend them")
}

/// What bounds a leaf from below: the shortest key that is above all keys before, for the first leaf its
/// first key.
fn bound<'a>(key_before: &[u8], first_key: &'a [u8], is_first: bool) -> &'a [u8] {
    if is_first {
        first_key
    } else {
        &first_key[..common_bytes(key_before, first_key) + 1]
    }
}

fn check_versions(versions: &[VersionIn<'_>]) {
    assert!(!versions.is_empty(), "a key has a version");
    for version in versions {
        assert!(
            !version.tombstone || version.value_bytes() == 0,
            "a tombstone has no value"
        );
    }
    for two in versions.windows(2) {
        assert!(
            (two[0].revision, two[0].sub) < (two[1].revision, two[1].sub),
            "versions come oldest first: {} before {}",
            two[0].revision,
            two[1].revision
        );
    }
}
