//! A leaf page: keys, the rows of their versions, and where in the leaf's run each value is.
//!
//! The builder fills a [`LeafBuilder`], which closes by the sizes it would get; a loaded or built page is
//! read through [`ArchivedLeaf`]. A leaf holds no absolute place, so that leaf and run can be copied into
//! another file as they are.
//!
//! Invariants, checked when a page is loaded:
//! 1. `version_ends` is strictly ascending: every key has a row. The rows of a key are in order of
//!    revision and sub.
//! 2. A column has one number per row, or a single one that holds for all rows.
//! 3. A row with `value_bytes` has its value inside an existing block; a tombstone has none.
//! 4. Rows of a key differ in revision or sub. So those two columns have a number per row, unless every key has
//!    just one row.
//! 5. `droppable_at` is the smallest horizon at which retention drops a row, or `i64::MAX`.

use std::ops::Range;

use rkyv::{Archive, Serialize};

use super::keys::{KeyList, Keys};
use super::stream::ValueStream;
use super::version::{BlockPlace, VersionIn};
use crate::limits::{SNAPSHOT_BLOCK_BYTES, SNAPSHOT_VALUE_BLOCK_BYTES};

/// Columns of a row, in the order of [`Row::differs_from`]: bytes of one number.
const COLUMN_BYTES: [usize; 9] = [8, 4, 8, 8, 8, 1, 4, 2, 4];
/// Vectors in a leaf, each of which may begin behind up to seven bytes of filling.
const VECTORS: usize = 16;
const FILLING_BYTES: usize = 7 * VECTORS;

/// A leaf page's content, in the order of the archive.
#[derive(Debug, Default, Archive, Serialize)]
pub(super) struct Leaf {
    droppable_at: i64,
    keys: Keys,
    version_ends: Vec<u32>,
    revisions: Vec<i64>,
    subs: Vec<u32>,
    create_revisions: Vec<i64>,
    versions: Vec<i64>,
    leases: Vec<i64>,
    tombstones: Vec<u8>,
    value_blocks: Vec<u32>,
    value_starts: Vec<u16>,
    value_bytes: Vec<u32>,
    block_ends: Vec<u32>,
    block_checksums: Vec<u32>,
}

/// What the whole of a leaf adds to the file's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeafCounts {
    pub(super) keys: u64,
    pub(super) versions: u64,
    pub(super) live: u64,
    pub(super) data_bytes: u64,
}

/// The leaf that is being filled.
#[derive(Debug, Default)]
pub(super) struct LeafBuilder {
    leaf: Leaf,
    keys: KeyList,
    shape: Shape,
    first_row: Row,
    /// The rows of the key that is being added.
    rows: Vec<Row>,
    /// The open block of values.
    block: Vec<u8>,
    /// Blocks of values that stay where they are. In the rows, their numbers begin with [`STAYS`] until the leaf is closed:
    /// they stand behind the blocks that are made here, however many those become.
    stays: Vec<BlockPlace>,
}

/// The highest bit of a block's number.
const STAYS: u32 = 1 << 31;

/// One version, as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    revision: i64,
    sub: u32,
    create_revision: i64,
    version: i64,
    lease: i64,
    tombstone: u8,
    block: u32,
    start: u16,
    bytes: u32,
}

/// How much room a leaf takes; computed before anything is added, because a leaf never gives up a key.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    keys: usize,
    key_bytes: usize,
    shared: usize,
    rows: usize,
    /// Columns with more than one number.
    varied: u16,
    packing: Packing,
    /// Blocks that stay where they are, and their length.
    stays: usize,
    stays_bytes: usize,
}

/// Which block a value goes into.
#[derive(Clone, Copy, Debug, Default)]
struct Packing {
    /// Closed blocks.
    blocks: usize,
    /// Their length.
    closed_bytes: usize,
    open_bytes: usize,
}

impl LeafBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> usize {
        self.shape.rows
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.keys.get(0)
    }

    /// Adds a key, unless the page or the run would become too large; an empty leaf takes any key.
    pub(super) fn try_push(
        &mut self,
        key: &[u8],
        versions: &[VersionIn<'_>],
        limits: (usize, usize),
        out: &mut ValueStream,
    ) -> bool {
        let after = self.shape_with(key, versions);
        let fits = after.page_bytes() <= limits.0 && after.run_bytes() <= limits.1;
        if !fits && !self.is_empty() {
            return false;
        }
        self.shape = after;
        self.keys.push(key);
        let leaf = &mut self.leaf;
        let droppable_at = droppable_at(self.rows.iter().map(|row| (row.revision, row.tombstone)));
        leaf.droppable_at = match self.keys.len() {
            1 => droppable_at,
            _ => leaf.droppable_at.min(droppable_at),
        };
        let rows = std::mem::take(&mut self.rows);
        for (row, version) in rows.iter().zip(versions) {
            self.leaf.push_row(row);
            if row.bytes > 0 && version.stays.is_none() {
                self.push_value(row, version.value, out);
            }
        }
        self.rows = rows;
        let rows = u32::try_from(after.rows).expect("the rows of a page are bounded by it");
        self.leaf.version_ends.push(rows);
        true
    }

    /// The shape with one more key, whose rows are left in `rows`.
    fn shape_with(&mut self, key: &[u8], versions: &[VersionIn<'_>]) -> Shape {
        let mut shape = self.shape;
        shape.keys += 1;
        shape.key_bytes += key.len();
        shape.shared = self.keys.shared_with(key);
        shape.rows += versions.len();
        self.rows.clear();
        // A key that did not fit before may have left some.
        self.stays.truncate(self.shape.stays);
        for version in versions {
            let row = match &version.stays {
                Some(place) => {
                    let block = self.number_of(&place.block, &mut shape);
                    Row::new(version, (block, place.start as u16))
                }
                None => Row::new(version, shape.packing.place(version.value.len())),
            };
            if self.shape.rows == 0 && self.rows.is_empty() {
                self.first_row = row;
            }
            shape.varied |= row.differs_from(&self.first_row);
            self.rows.push(row);
        }
        shape
    }

    /// The number of a block that stays where it is.
    fn number_of(&mut self, block: &BlockPlace, shape: &mut Shape) -> u32 {
        let known = self.stays.iter().rposition(|known| known == block);
        let index = known.unwrap_or_else(|| {
            self.stays.push(*block);
            shape.stays = self.stays.len();
            shape.stays_bytes += block.bytes as usize;
            self.stays.len() - 1
        });
        STAYS | index as u32
    }

    fn push_value(&mut self, row: &Row, value: &[u8], out: &mut ValueStream) {
        if row.block as usize > self.leaf.block_ends.len() {
            self.close_block(out);
        }
        assert_eq!(
            (row.block as usize, usize::from(row.start)),
            (self.leaf.block_ends.len(), self.block.len()),
            "a value goes where its row says"
        );
        self.block.extend_from_slice(value);
        if self.block.len() >= SNAPSHOT_VALUE_BLOCK_BYTES {
            self.close_block(out);
        }
    }

    fn close_block(&mut self, out: &mut ValueStream) {
        let bytes = self.block.len().next_multiple_of(SNAPSHOT_BLOCK_BYTES);
        self.block.resize(bytes, 0);
        let end = self.leaf.run_blocks() + (bytes / SNAPSHOT_BLOCK_BYTES) as u32;
        self.leaf.block_ends.push(end);
        self.leaf.block_checksums.push(crc32c::crc32c(&self.block));
        out.append(&self.block);
        self.block.clear();
    }

    /// Closes the leaf: what belongs into its page, and how many blocks of 4 KiB were added to the values. Call
    /// [`clear`](Self::clear) when it is there.
    pub(super) fn close(&mut self, out: &mut ValueStream) -> (&Leaf, u32) {
        if !self.block.is_empty() {
            self.close_block(out);
        }
        let own_blocks = self.leaf.run_blocks();
        self.leaf.add_blocks(&self.stays[..self.shape.stays]);
        self.leaf.narrow(self.shape.varied);
        self.keys.lay_out(0..self.keys.len(), &mut self.leaf.keys);
        (&self.leaf, own_blocks)
    }

    /// The blocks of the leaf that stay where they are, the last ones of its run.
    pub(super) fn stays(&self) -> &[BlockPlace] {
        &self.stays[..self.shape.stays]
    }

    pub(super) fn clear(&mut self) {
        self.leaf.clear();
        self.keys.clear();
        self.stays.clear();
        self.shape = Shape::default();
    }
}

impl Leaf {
    fn push_row(&mut self, row: &Row) {
        self.revisions.push(row.revision);
        self.subs.push(row.sub);
        self.create_revisions.push(row.create_revision);
        self.versions.push(row.version);
        self.leases.push(row.lease);
        self.tombstones.push(row.tombstone);
        self.value_blocks.push(row.block);
        self.value_starts.push(row.start);
        self.value_bytes.push(row.bytes);
    }

    /// Adds blocks behind those that are there, and gives rows whose values they have their numbers.
    fn add_blocks(&mut self, stays: &[BlockPlace]) {
        let before = self.block_ends.len() as u32;
        for number in &mut self.value_blocks {
            if *number & STAYS != 0 {
                *number = before + (*number & !STAYS);
            }
        }
        for block in stays {
            let end = self.run_blocks() + block.bytes / SNAPSHOT_BLOCK_BYTES as u32;
            self.block_ends.push(end);
            self.block_checksums.push(block.checksum);
        }
    }

    /// Keeps one number of every column that is the same in all rows.
    fn narrow(&mut self, varied: u16) {
        let rows = self.revisions.len();
        let length = |column: usize| match varied & (1 << column) {
            0 => 1,
            _ => rows,
        };
        self.revisions.truncate(length(0));
        self.subs.truncate(length(1));
        self.create_revisions.truncate(length(2));
        self.versions.truncate(length(3));
        self.leases.truncate(length(4));
        self.tombstones.truncate(length(5));
        self.value_blocks.truncate(length(6));
        self.value_starts.truncate(length(7));
        self.value_bytes.truncate(length(8));
    }

    fn run_blocks(&self) -> u32 {
        self.block_ends.last().copied().unwrap_or(0)
    }

    fn clear(&mut self) {
        self.version_ends.clear();
        self.revisions.clear();
        self.subs.clear();
        self.create_revisions.clear();
        self.versions.clear();
        self.leases.clear();
        self.tombstones.clear();
        self.value_blocks.clear();
        self.value_starts.clear();
        self.value_bytes.clear();
        self.block_ends.clear();
        self.block_checksums.clear();
    }
}

impl Row {
    fn new(version: &VersionIn<'_>, (block, start): (u32, u16)) -> Self {
        Self {
            revision: version.revision.0,
            sub: version.sub,
            create_revision: version.create_revision.0,
            version: version.version,
            lease: version.lease.0,
            tombstone: u8::from(version.tombstone),
            block,
            start,
            bytes: u32::try_from(version.value_bytes()).expect("a value is smaller than 4 GiB"),
        }
    }

    /// A bit for every column in which two rows differ.
    fn differs_from(&self, other: &Self) -> u16 {
        u16::from(self.revision != other.revision)
            | u16::from(self.sub != other.sub) << 1
            | u16::from(self.create_revision != other.create_revision) << 2
            | u16::from(self.version != other.version) << 3
            | u16::from(self.lease != other.lease) << 4
            | u16::from(self.tombstone != other.tombstone) << 5
            | u16::from(self.block != other.block) << 6
            | u16::from(self.start != other.start) << 7
            | u16::from(self.bytes != other.bytes) << 8
    }
}

impl Shape {
    fn page_bytes(&self) -> usize {
        let mut row_bytes = 0;
        let mut once_bytes = 0;
        for (column, bytes) in COLUMN_BYTES.iter().enumerate() {
            match self.varied & (1 << column) {
                0 => once_bytes += bytes,
                _ => row_bytes += bytes,
            }
        }
        size_of::<ArchivedLeaf>()
            + FILLING_BYTES
            + Keys::page_bytes(self.keys, self.key_bytes, self.shared)
            + self.keys * size_of::<u32>()
            + once_bytes
            + self.rows * row_bytes
            + (self.packing.blocks_closed() + self.stays) * 2 * size_of::<u32>()
    }

    fn run_bytes(&self) -> usize {
        self.packing.run_bytes() + self.stays_bytes
    }
}

impl Packing {
    /// The number of the value's block in the run and its start in the block.
    fn place(&mut self, bytes: usize) -> (u32, u16) {
        if bytes == 0 {
            return (0, 0);
        }
        if self.open_bytes > 0 && self.open_bytes + bytes > SNAPSHOT_VALUE_BLOCK_BYTES {
            self.close();
        }
        let place = (self.blocks as u32, self.open_bytes as u16);
        self.open_bytes += bytes;
        if self.open_bytes >= SNAPSHOT_VALUE_BLOCK_BYTES {
            self.close();
        }
        place
    }

    fn close(&mut self) {
        self.blocks += 1;
        self.closed_bytes += self.open_bytes.next_multiple_of(SNAPSHOT_BLOCK_BYTES);
        self.open_bytes = 0;
    }

    fn blocks_closed(&self) -> usize {
        self.blocks + usize::from(self.open_bytes > 0)
    }

    fn run_bytes(&self) -> usize {
        self.closed_bytes + self.open_bytes.next_multiple_of(SNAPSHOT_BLOCK_BYTES)
    }
}

/// The smallest horizon at which retention drops a version of a key; versions oldest first.
///
/// At a horizon H the versions from H on stay and the newest one below H, unless it is a tombstone. So the first one
/// goes when it is a tombstone below H, or when the second one is below H too.
fn droppable_at(mut versions: impl Iterator<Item = (i64, u8)>) -> i64 {
    match (versions.next(), versions.next()) {
        (Some((first, tombstone)), _) if tombstone != 0 => first.saturating_add(1),
        (_, Some((second, _))) => second.saturating_add(1),
        _ => i64::MAX,
    }
}

/// The number of a row in a column.
fn at<T: Copy>(column: &[T], row: usize) -> T {
    column[row.min(column.len() - 1)]
}

/// Reads, all of them total for rows and slots the leaf has.
impl ArchivedLeaf {
    pub(super) fn keys(&self) -> &super::keys::ArchivedKeys {
        &self.keys
    }

    pub(super) fn droppable_at(&self) -> i64 {
        self.droppable_at.to_native()
    }

    pub(super) fn row_count(&self) -> usize {
        self.version_ends
            .last()
            .map_or(0, |end| end.to_native() as usize)
    }

    /// The rows of a key, oldest first.
    pub(super) fn rows(&self, slot: usize) -> Range<u32> {
        let start = match slot {
            0 => 0,
            _ => self.version_ends[slot - 1].to_native(),
        };
        start..self.version_ends[slot].to_native()
    }

    /// The key a row belongs to.
    pub(super) fn slot_of(&self, row: usize) -> usize {
        self.version_ends
            .partition_point(|end| end.to_native() as usize <= row)
    }

    pub(super) fn is_live(&self, slot: usize) -> bool {
        !self.is_tombstone(self.version_ends[slot].to_native() as usize - 1)
    }

    /// Live keys among the first `slots`.
    pub(super) fn live_before(&self, slots: usize) -> usize {
        match &self.tombstones[..] {
            [0] => slots,
            _ => (0..slots).filter(|&slot| self.is_live(slot)).count(),
        }
    }

    pub(super) fn revision(&self, row: usize) -> i64 {
        at(&self.revisions, row).to_native()
    }

    /// Rows of this revision and later ones.
    pub(super) fn changes_since(&self, revision: i64) -> u64 {
        let is_since = |of_row: &&rkyv::rend::i64_le| of_row.to_native() >= revision;
        let count = self.revisions.iter().filter(is_since).count();
        match self.revisions.len() {
            1 => (count * self.row_count()) as u64,
            _ => count as u64,
        }
    }

    pub(super) fn sub(&self, row: usize) -> u32 {
        at(&self.subs, row).to_native()
    }

    pub(super) fn create_revision(&self, row: usize) -> i64 {
        at(&self.create_revisions, row).to_native()
    }

    pub(super) fn version(&self, row: usize) -> i64 {
        at(&self.versions, row).to_native()
    }

    pub(super) fn lease(&self, row: usize) -> i64 {
        at(&self.leases, row).to_native()
    }

    pub(super) fn is_tombstone(&self, row: usize) -> bool {
        at(&self.tombstones, row) != 0
    }

    pub(super) fn value_bytes(&self, row: usize) -> u32 {
        at(&self.value_bytes, row).to_native()
    }

    /// The block of a value and its start there; of a value that is not empty.
    pub(super) fn value_place(&self, row: usize) -> (usize, u32) {
        let block = at(&self.value_blocks, row).to_native() as usize;
        (block, at(&self.value_starts, row).to_native().into())
    }

    pub(super) fn block_count(&self) -> usize {
        self.block_ends.len()
    }

    /// Where in the run a block is, in bytes.
    pub(super) fn block_span(&self, block: usize) -> Range<u64> {
        let start = match block {
            0 => 0,
            _ => self.block_ends[block - 1].to_native(),
        };
        let end = self.block_ends[block].to_native();
        u64::from(start) * SNAPSHOT_BLOCK_BYTES as u64..u64::from(end) * SNAPSHOT_BLOCK_BYTES as u64
    }

    pub(super) fn block_checksum(&self, block: usize) -> u32 {
        self.block_checksums[block].to_native()
    }

    pub(super) fn run_blocks(&self) -> u32 {
        self.block_ends.last().map_or(0, |end| end.to_native())
    }

    /// What the leaf adds to the counters.
    pub(super) fn counts(&self) -> LeafCounts {
        let keys = self.keys.len();
        let rows = self.row_count();
        let value_bytes: u64 = match &self.value_bytes[..] {
            [all] => u64::from(all.to_native()) * rows as u64,
            each => each.iter().map(|bytes| u64::from(bytes.to_native())).sum(),
        };
        let key_bytes = if self.has_single_versions() {
            self.keys.all_key_bytes()
        } else {
            let of_slot = |slot| self.keys.key_bytes(slot) * self.rows(slot).len();
            (0..keys).map(of_slot).sum()
        };
        LeafCounts {
            keys: keys as u64,
            versions: rows as u64,
            live: self.live_before(keys) as u64,
            data_bytes: key_bytes as u64 + value_bytes,
        }
    }

    /// Whether every key has one version: most leaves are like that, and some sums are short then.
    fn has_single_versions(&self) -> bool {
        self.row_count() == self.keys.len()
    }

    /// Whether the invariants hold, so that no read of an existing row can fail.
    pub(super) fn is_sound(&self) -> bool {
        let rows = self.row_count();
        let is_ascending = |ends: &[rkyv::rend::u32_le]| {
            ends.first().is_none_or(|first| first.to_native() > 0)
                && ends.windows(2).all(|two| two[0] < two[1])
        };
        let is_column = |length: usize| length == 1 || length == rows;
        self.keys.is_sound()
            && self.version_ends.len() == self.keys.len()
            && is_ascending(&self.version_ends)
            && is_ascending(&self.block_ends)
            && self.block_checksums.len() == self.block_ends.len()
            && [
                self.revisions.len(),
                self.subs.len(),
                self.create_revisions.len(),
                self.versions.len(),
                self.leases.len(),
                self.tombstones.len(),
                self.value_blocks.len(),
                self.value_starts.len(),
                self.value_bytes.len(),
            ]
            .into_iter()
            .all(is_column)
            && self.are_rows_numbered()
            && self.are_blocks_sound()
            && (0..rows).all(|row| self.is_row_sound(row))
            && self.are_histories_sound()
    }

    /// Whether the page has a number for every row. The rows of a key differ in revision or sub, so only keys of a
    /// single row can share both; a page that says otherwise can name more rows than anybody could look at.
    fn are_rows_numbered(&self) -> bool {
        let rows = self.row_count();
        self.has_single_versions() || [self.revisions.len(), self.subs.len()].contains(&rows)
    }

    /// Whether the length of every block fits the number that carries it.
    fn are_blocks_sound(&self) -> bool {
        let spans = (0..self.block_count()).map(|block| self.block_span(block));
        spans
            .into_iter()
            .all(|span| span.end - span.start <= u64::from(u32::MAX))
    }

    fn is_row_sound(&self, row: usize) -> bool {
        let bytes = u64::from(self.value_bytes(row));
        if bytes == 0 {
            return true;
        }
        let (block, start) = self.value_place(row);
        if self.is_tombstone(row) || block >= self.block_count() {
            return false;
        }
        let span = self.block_span(block);
        u64::from(start) + bytes <= span.end - span.start
    }

    /// Whether rows are in order within their keys, and `droppable_at` is what they say.
    fn are_histories_sound(&self) -> bool {
        if self.has_single_versions() && self.tombstones[..] == [0] {
            return self.droppable_at() == i64::MAX;
        }
        let mut expected = i64::MAX;
        for slot in 0..self.keys.len() {
            let rows = self.rows(slot);
            let first = rows.start as usize;
            let versions = rows.clone().map(|row| {
                (
                    self.revision(row as usize),
                    u8::from(self.is_tombstone(row as usize)),
                )
            });
            expected = expected.min(droppable_at(versions));
            for row in first + 1..rows.end as usize {
                let before = (self.revision(row - 1), self.sub(row - 1));
                if before >= (self.revision(row), self.sub(row)) {
                    return false;
                }
            }
        }
        expected == self.droppable_at()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::io::AlignedBuf;
    use crate::snapshot::encode::Encoder;
    use crate::snapshot::page::Page;

    fn is_sound(leaf: &Leaf) -> bool {
        let mut encoder = Encoder::new();
        let (blocks, entry) = encoder.encode(leaf);
        let mut piece = AlignedBuf::with_capacity(blocks.len());
        piece.extend_from_slice(blocks);
        let page = Page::<ArchivedLeaf>::new(&Arc::new(piece), 0, entry.bytes);
        page.expect("what was encoded is an archive").is_sound()
    }

    /// A leaf of one key with a value.
    fn leaf() -> Leaf {
        let mut keys = KeyList::default();
        keys.push(b"key");
        let mut leaf = Leaf {
            droppable_at: i64::MAX,
            version_ends: vec![1],
            revisions: vec![7],
            subs: vec![0],
            create_revisions: vec![7],
            versions: vec![1],
            leases: vec![0],
            tombstones: vec![0],
            value_blocks: vec![0],
            value_starts: vec![0],
            value_bytes: vec![100],
            block_ends: vec![1],
            block_checksums: vec![0],
            ..Leaf::default()
        };
        keys.lay_out(0..1, &mut leaf.keys);
        leaf
    }

    /// There would be four billion rows to look at.
    #[test]
    fn more_rows_than_the_page_has_numbers_for_are_refused_at_once() {
        assert!(is_sound(&leaf()));
        let many = Leaf {
            version_ends: vec![u32::MAX],
            ..leaf()
        };
        assert!(!is_sound(&many));
    }

    #[test]
    fn a_block_that_is_longer_than_32_bits_is_refused() {
        let blocks = u32::MAX / SNAPSHOT_BLOCK_BYTES as u32;
        let of_blocks = |blocks| Leaf {
            block_ends: vec![blocks],
            ..leaf()
        };
        assert!(is_sound(&of_blocks(blocks)));
        assert!(!is_sound(&of_blocks(blocks + 1)));
    }

    #[test]
    fn the_smallest_horizon_that_drops_something() {
        let put = |revision| (revision, 0);
        let tombstone = |revision| (revision, 1);
        let at = |versions: &[(i64, u8)]| droppable_at(versions.iter().copied());
        assert_eq!(at(&[put(5)]), i64::MAX);
        assert_eq!(at(&[put(5), put(9)]), 10);
        assert_eq!(at(&[put(5), put(9), put(12)]), 10);
        assert_eq!(at(&[tombstone(5)]), 6);
        assert_eq!(at(&[tombstone(5), put(9)]), 6);
        assert_eq!(at(&[put(5), tombstone(9)]), 10);
    }
}
