//! Damaged files: every changed byte is caught by the load or by the block's checksum, nothing panics,
//! and the message names what is lost.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;

use super::fixture::{
    BLOCK, Built, Model, NAME, TINY, block, disk_with, load, load_from, read_back, run,
};
use super::format::{PageEntry, Superblock, Table};
use super::*;
use crate::ids::Revision;

/// A file with a few of everything.
fn small() -> Built {
    let mut model = Model::new();
    for i in 0..170u32 {
        let value = vec![i as u8; (i % 40) as usize];
        let key = format!("/registry/leases/{i:03}");
        model.change(key.as_bytes(), (i % 9 != 8).then_some(value), false);
    }
    model.change(b"/registry/leases/100", Some(b"again".to_vec()), false);
    let built = model.build(TINY);
    assert_eq!(built.snapshot.leaf_count(), 3);
    built
}

/// Where the parts of a file are.
struct Layout {
    values: Range<usize>,
    /// Pages of the table, and what they are.
    pages: Vec<(SnapshotPart, usize, PageEntry)>,
    meta: (usize, PageEntry),
    table: (usize, PageEntry),
}

fn layout(file: &[u8]) -> Layout {
    let superblock = Superblock::decode(&file[..BLOCK]).unwrap();
    let table = superblock.table.offset as usize;
    let bytes = superblock.table.entry.bytes as usize;
    let mut aligned = rkyv::util::AlignedVec::<16>::new();
    aligned.extend_from_slice(&file[table..table + bytes]);
    let content = rkyv::api::low::from_bytes::<Table, rkyv::rancor::Failure>(&aligned).unwrap();
    let mut offset = content.leaves_offset() as usize;
    let values = BLOCK..offset;
    let leaves = content
        .leaves
        .iter()
        .map(|leaf| (SnapshotPart::Leaf, leaf.page));
    let inners = content
        .inners
        .iter()
        .map(|page| (SnapshotPart::Inner, *page));
    let changes = content
        .changes
        .iter()
        .map(|page| (SnapshotPart::Changes, *page));
    let mut pages = Vec::new();
    for (part, page) in leaves.chain(inners).chain(changes) {
        pages.push((part, offset, page));
        offset += page.padded_bytes();
    }
    assert_eq!(offset as u64, superblock.meta.offset);
    Layout {
        values,
        pages,
        meta: (offset, superblock.meta.entry),
        table: (table, superblock.table.entry),
    }
}

impl Layout {
    /// The part a byte belongs to.
    fn part_of(&self, at: usize) -> Option<SnapshotPart> {
        let is_in =
            |offset: usize, page: &PageEntry| (offset..offset + page.padded_bytes()).contains(&at);
        let page = self
            .pages
            .iter()
            .find(|(_, offset, page)| is_in(*offset, page));
        match page {
            Some((part, ..)) => Some(*part),
            None if is_in(self.meta.0, &self.meta.1) => Some(SnapshotPart::Meta),
            None if is_in(self.table.0, &self.table.1) => Some(SnapshotPart::Table),
            None if self.values.contains(&at) => Some(SnapshotPart::Values),
            None => None,
        }
    }
}

/// Loads a file in which the byte at `at` was changed; checks what it says.
fn check_changed(
    built: &Built,
    layout: &Layout,
    at: usize,
    result: Result<Snapshot, SnapshotError>,
) {
    let part = layout.part_of(at);
    if part == Some(SnapshotPart::Values) {
        // Nobody looked at the values.
        result.unwrap();
        return;
    }
    let Err(SnapshotError::Damaged {
        offset,
        reason,
        affected,
        ..
    }) = result
    else {
        panic!("byte {at} of {part:?}: {result:?}");
    };
    let expected = match part {
        Some(part) => SnapshotDamage::Checksum(part),
        None => SnapshotDamage::Superblock,
    };
    assert_eq!(reason, expected, "byte {at}");
    assert!(
        (offset as usize..offset as usize + 2 * BLOCK).contains(&at),
        "byte {at}"
    );
    match (part, affected) {
        (Some(SnapshotPart::Leaf), Affected::Keys { from, to }) => {
            let (_, index) = leaf_at(layout, at);
            let first = built.snapshot.leaf_first_key(index);
            assert_ne!(
                built.snapshot.compare_key(first, &from),
                std::cmp::Ordering::Less
            );
            let next = (index + 1 < built.snapshot.leaf_count()).then_some(index + 1);
            assert_eq!(to.is_some(), next.is_some());
        }
        (Some(SnapshotPart::Changes), Affected::History) => {}
        (_, Affected::Everything) => assert_ne!(part, Some(SnapshotPart::Leaf)),
        (part, affected) => panic!("{part:?} {affected:?}"),
    }
}

fn leaf_at(layout: &Layout, at: usize) -> (usize, u32) {
    let pages = layout.pages.iter().enumerate();
    let (index, (_, offset, _)) = pages.take_while(|(_, page)| page.1 <= at).last().unwrap();
    (*offset, index as u32)
}

#[test]
fn every_changed_byte_is_caught() {
    let built = small();
    let layout = layout(&built.file);
    let mut disk = disk_with(&built.file);
    for at in 0..built.file.len() {
        for mask in [0x01, 0x80] {
            disk.flip(NAME, at as u64, mask);
            check_changed(&built, &layout, at, load_from(&mut disk));
            disk.flip(NAME, at as u64, mask);
        }
    }
    assert_eq!(
        read_back(&built.file, &load_from(&mut disk).unwrap()),
        read_back(&built.file, &built.snapshot)
    );
}

#[test]
fn every_changed_byte_of_a_value_is_caught_when_its_block_is_read() {
    let built = small();
    let snapshot = &built.snapshot;
    let layout = layout(&built.file);
    let mut file = built.file.clone();
    for at in layout.values {
        for mask in [0x01, 0x80] {
            file[at] ^= mask;
            let mut caught = 0;
            for leaf in 0..snapshot.leaf_count() {
                let holds_it = snapshot.leaf_blocks(leaf).any(|place| {
                    let is_here = (place.offset..place.offset + u64::from(place.bytes))
                        .contains(&(at as u64));
                    let result = snapshot.verify_block(place, block(&file, &place));
                    assert_eq!(result.is_err(), is_here);
                    is_here
                });
                let mut builder = Builder::new(fixture::SEQUENCE, TINY, Revision(-1));
                builder.over(Arc::clone(snapshot));
                let result = builder.copy_leaf(leaf, run(&file, snapshot, leaf));
                assert_eq!(result.is_err(), holds_it, "a copy carries no damage on");
                caught += usize::from(holds_it);
            }
            assert_eq!(caught, 1, "byte {at}");
            file[at] ^= mask;
        }
    }
}

#[test]
fn blocks_that_were_lost_or_went_elsewhere_are_caught() {
    let built = small();
    let layout = layout(&built.file);
    let blocks = built.file.len() / BLOCK;
    let part = |block: usize| layout.part_of(block * BLOCK);
    for victim in 0..blocks {
        let mut zeroed = built.file.clone();
        zeroed[victim * BLOCK..(victim + 1) * BLOCK].fill(0);
        let result = load(&zeroed);
        match part(victim) {
            None => assert!(matches!(result, Err(SnapshotError::Unfinished { .. }))),
            Some(SnapshotPart::Values) => assert!(result.is_ok()),
            Some(_) => assert!(matches!(result, Err(SnapshotError::Damaged { .. }))),
        }
        for source in (0..blocks).filter(|&source| source != victim) {
            let mut misdirected = built.file.clone();
            misdirected.copy_within(source * BLOCK..(source + 1) * BLOCK, victim * BLOCK);
            let result = load(&misdirected);
            match part(victim) {
                Some(SnapshotPart::Values) => assert!(result.is_ok()),
                _ => assert!(matches!(result, Err(SnapshotError::Damaged { .. }))),
            }
        }
    }
}

#[test]
fn a_file_that_was_cut_short_is_damaged() {
    let built = small();
    for blocks in 0..built.file.len() / BLOCK {
        let result = load(&built.file[..blocks * BLOCK]);
        let Err(SnapshotError::Damaged { reason, .. }) = result else {
            panic!("{blocks} blocks: {result:?}");
        };
        assert_eq!(reason, SnapshotDamage::Truncated);
    }
    let longer = [&built.file[..], &[0; BLOCK]].concat();
    assert!(load(&longer).is_ok(), "room behind the end is no damage");
}

#[test]
fn the_message_names_file_place_and_keys() {
    let built = small();
    let (_, offset, _) = layout(&built.file).pages[1];
    let mut file = built.file.clone();
    file[offset + 5] ^= 4;
    let message = load(&file).unwrap_err().to_string();
    assert!(message.contains("00000007.snap"), "{message}");
    assert!(message.contains(&format!("byte {offset}")), "{message}");
    assert!(
        message.contains("the leaf page does not match its checksum"),
        "{message}"
    );
    assert!(
        message.contains("the keys from \"/registry/leases/0"),
        "{message}"
    );
    assert!(message.contains("keelson snapshot restore"), "{message}");

    let place = built.snapshot.leaf_blocks(2).next().unwrap();
    let error = built
        .snapshot
        .verify_block(place, b"")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("values of the keys from \"/registry/leases/"),
        "{error}"
    );
    assert!(error.contains("to the last one"), "{error}");
}

#[test]
fn a_later_format_is_refused_as_such() {
    let built = small();
    let mut file = built.file.clone();
    file[12..16].copy_from_slice(&4u32.to_le_bytes());
    seal_superblock(&mut file);
    let result = load(&file);
    assert!(
        matches!(
            result,
            Err(SnapshotError::NewerFormat {
                found: 4,
                known: 3,
                ..
            })
        ),
        "{result:?}"
    );
}

fn seal_superblock(file: &mut [u8]) {
    let checksum = crc32c::crc32c(&file[12..BLOCK]);
    file[8..12].copy_from_slice(&checksum.to_le_bytes());
}

/// Makes the checksums above a page right again, after its bytes were changed.
fn seal(file: &mut [u8], layout: &Layout, part: SnapshotPart, offset: usize, entry: &PageEntry) {
    let checksum = crc32c::crc32c(&file[offset..offset + entry.padded_bytes()]);
    let (table, table_entry) = layout.table;
    let table_bytes = table..table + table_entry.padded_bytes();
    match part {
        SnapshotPart::Meta => file[60..64].copy_from_slice(&checksum.to_le_bytes()),
        SnapshotPart::Table => {}
        _ => {
            let known = entry.checksum.to_le_bytes();
            let slots = file[table_bytes.clone()].chunks_exact(4);
            let slot = slots
                .enumerate()
                .find(|(_, slot)| **slot == known)
                .unwrap()
                .0;
            let at = table + 4 * slot;
            file[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    let checksum = crc32c::crc32c(&file[table_bytes]);
    file[44..48].copy_from_slice(&checksum.to_le_bytes());
    seal_superblock(file);
}

/// Asks a snapshot everything, whatever the answers are.
fn ask_everything(snapshot: &Snapshot) {
    let mut cursor = snapshot.cursor(b"");
    let mut key = Vec::new();
    let mut live = 0;
    while let Some(at) = cursor.current() {
        key.clear();
        snapshot.append_key(at, &mut key);
        assert_eq!(snapshot.live_before(&key), live);
        live += u64::from(snapshot.is_live(at));
        assert_eq!(snapshot.find(&key), Some(at));
        for row in snapshot.rows(at) {
            let version = VersionRef { leaf: at.leaf, row };
            black_box(snapshot.version(version));
            assert_eq!(snapshot.key_of(version), at);
        }
        cursor.advance();
    }
    for leaf in 0..snapshot.leaf_count() {
        snapshot.leaf_blocks(leaf).for_each(drop);
        black_box(snapshot.leaf_droppable_at(leaf));
    }
    for index in 0..snapshot.change_count() {
        black_box(snapshot.version(snapshot.change(index)));
    }
    black_box(snapshot.change_index_of(Revision(50)));
    assert_eq!(snapshot.live_count(), live);
}

/// A page's part, where its bytes change and to what.
fn any_edit() -> impl Strategy<Value = (usize, Vec<(bool, usize, u8)>)> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(1)];
    let change = (any::<bool>(), any::<usize>(), byte);
    (any::<usize>(), prop::collection::vec(change, 1..4))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// Whatever stands under checksums that match: refused, or answered without a panic.
    #[test]
    fn content_that_was_never_written_is_refused_or_harmless((page, edits) in any_edit()) {
        let built = small();
        let layout = layout(&built.file);
        let mut file = built.file.clone();
        let mut targets = layout.pages.clone();
        targets.push((SnapshotPart::Meta, layout.meta.0, layout.meta.1));
        targets.push((SnapshotPart::Table, layout.table.0, layout.table.1));
        let (part, offset, entry) = targets[page % targets.len()];
        let bytes = entry.bytes as usize;
        for (is_near_root, at, byte) in edits {
            // Half of the changes go where the pointers are.
            let at = if is_near_root { bytes - 1 - at % bytes.min(150) } else { at % bytes };
            file[offset + at] = byte;
        }
        seal(&mut file, &layout, part, offset, &entry);
        match load(&file) {
            Ok(snapshot) => ask_everything(&snapshot),
            Err(SnapshotError::Damaged { .. }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn superblocks_that_were_never_written_are_refused_or_harmless(
        edits in prop::collection::vec((12usize..110, any::<u8>()), 1..5),
    ) {
        let mut file = small().file;
        for (at, byte) in edits {
            file[at] = byte;
        }
        seal_superblock(&mut file);
        if let Ok(snapshot) = load(&file) {
            ask_everything(&snapshot);
        }
    }

    #[test]
    fn arbitrary_blocks_are_no_superblock(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        length in prop_oneof![Just(BLOCK), 0..2 * BLOCK],
    ) {
        let mut block = bytes;
        block.resize(length, 0);
        prop_assert!(Superblock::decode(&block).is_err());
    }
}
