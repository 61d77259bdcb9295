//! Files that borrow values: their bytes, their images, and what a start does without a lender.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use super::borrowed::{BorrowedPage, Lender, RunPlaces};
use super::fixture::{
    BLOCK, Built, Entry, Model, SEQUENCE, TINY, load, meta, push, put, read_back,
};
use super::store_model_tests::{
    build_borrowing, check, generation_of, place_of, read, small_config,
};
use super::*;
use crate::ids::{LeaseId, Revision, SnapshotSeq};
use crate::io::{AlignedBuf, Disk, ReadOnlyDisk, SimDisk, Source};

/// A file of format 3, and the one that lends it values.
const GOLDEN_LENDER: &[u8] = include_bytes!("golden/snapshot-v3-lender.bin");
const GOLDEN: &[u8] = include_bytes!("golden/snapshot-v3.bin");

fn model() -> Model {
    let mut model = Model::new();
    for i in 0..200u32 {
        let value = format!("{{\"number\": {i}}}").repeat((i % 5) as usize);
        model.change(
            format!("/pods/pod-{i:04}").as_bytes(),
            Some(value.into()),
            false,
        );
    }
    model.change(b"/large", Some(vec![0xa5; 17_000]), false);
    model
}

/// What the borrower of `two_files` has: two versions more, of a key of its own.
fn borrower_model() -> Model {
    let mut model = model();
    model.change(b"/zz", Some(vec![0xa5; 17_000]), false);
    model.change(b"/zz", Some(b"own".to_vec()), false);
    model
}

/// A file of all keys; and one that borrows the values of its even leaves, copies the others, and has a leaf of which one
/// value stays and one does not.
fn two_files() -> (Built, Built) {
    let model = borrower_model();
    let lender = build(SnapshotSeq(5), |builder| {
        for (key, history) in model.keys.iter().filter(|(key, _)| *key != b"/zz") {
            push(builder, key, history);
        }
    });
    let large = lender.snapshot.find(b"/large").unwrap();
    let row = lender.snapshot.rows(large).start;
    let leaf = large.leaf;
    let stays = lender.snapshot.version(VersionRef { leaf, row }).place;
    let borrower = build(SEQUENCE, |builder| {
        builder.over(Arc::clone(&lender.snapshot));
        builder.borrow_from(lender.snapshot.value_files());
        for leaf in 0..lender.snapshot.leaf_count() {
            if leaf % 2 == 0 {
                builder.borrow_leaf(leaf).unwrap();
            } else {
                let run = super::fixture::run(&lender.file, &lender.snapshot, leaf);
                builder.copy_leaf(leaf, run).unwrap();
            }
        }
        let history = &model.keys[&b"/zz"[..]];
        let version = |entry: &Entry, stays: Option<ValuePlace>| VersionIn {
            revision: Revision(entry.revision),
            sub: entry.sub,
            create_revision: Revision(entry.create_revision),
            version: entry.version,
            lease: LeaseId(entry.lease),
            tombstone: false,
            value: if stays.is_some() { b"" } else { b"own" },
            stays,
            origin: None,
        };
        let versions = [version(&history[0], stays), version(&history[1], None)];
        builder.push_key(b"/zz", &versions);
    });
    (lender, borrower)
}

fn build(sequence: SnapshotSeq, fill: impl FnOnce(&mut Builder)) -> Built {
    let horizon = Revision(-1);
    let mut builder = Builder::new(sequence, TINY, horizon);
    fill(&mut builder);
    let mut file = vec![0; BLOCK];
    while let Some(write) = builder.take_write() {
        put(&mut file, &write);
    }
    let meta = Meta { horizon, ..meta() };
    super::fixture::finish(builder, meta, file)
}

/// A directory with both files.
fn folder(lender: &[u8], borrower: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("00000005.snap"), lender).unwrap();
    std::fs::write(folder.path().join("00000007.snap"), borrower).unwrap();
    folder
}

fn open(folder: &Path) -> Snapshot {
    let mut disk = ReadOnlyDisk::new(folder);
    let (file, entry) = Snapshot::newest_in(&mut disk).unwrap().unwrap();
    Snapshot::load(&mut disk, file, &entry).unwrap()
}

/// The whole image, in pieces of some blocks.
fn image_of(snapshot: &Snapshot, piece_bytes: usize) -> Vec<u8> {
    let image = OpenImage::open(snapshot).unwrap();
    let mut buf = AlignedBuf::with_capacity(piece_bytes);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < image.bytes() {
        let left = image.bytes() as usize - bytes.len();
        let piece = left.min(piece_bytes);
        image.read(bytes.len() as u64, piece, &mut buf).unwrap();
        assert_eq!(buf.len(), piece, "no piece is short");
        bytes.extend_from_slice(buf.as_slice());
    }
    bytes
}

#[test]
fn a_borrower_is_small_and_its_image_is_a_file_with_everything() {
    let (lender, borrower) = two_files();
    assert_eq!(borrower.file[12..16], [3, 0, 0, 0]);
    assert!(borrower.file.len() < lender.file.len());
    let folder = folder(&lender.file, &borrower.file);
    let snapshot = open(folder.path());
    let even = (0..snapshot.leaf_count()).step_by(2);
    let pieces = even.flat_map(|leaf| snapshot.leaf_run(leaf));
    let lent = pieces.filter(|piece| piece.file == SnapshotSeq(5));
    let lent_bytes = lent.map(|piece| piece.bytes).sum();
    let expected = Lender {
        sequence: SnapshotSeq(5),
        file_bytes: lender.file.len() as u64,
        lent_bytes,
    };
    assert_eq!(snapshot.lenders(), [expected]);
    for blocks in [1, 2, 3, 1000] {
        let image = image_of(&snapshot, blocks * BLOCK);
        assert_eq!(image.len() as u64, snapshot.image_bytes());
        assert_eq!(image[12..16], [1, 0, 0, 0], "any version reads it");
        let mut audit = Audit::new(&snapshot);
        audit.take(&image).unwrap();
        audit.finish().unwrap();
        let copy = crc32c::crc32c(&image[..BLOCK]);
        assert_eq!(copy, snapshot.head_checksum());
        // Values are found by where they are in that one file.
        let mut disk = SimDisk::new(1);
        disk.edit("00000007.snap", 0, &image);
        let entry = disk.list().unwrap().remove(0);
        let file = disk.open(&entry.name).unwrap();
        let loaded = Snapshot::load(&mut disk, file, &entry).unwrap();
        assert!(loaded.lenders().is_empty());
        let values = read_back(&image, &loaded);
        assert_eq!(values.keys, borrower_model().keys);
    }
}

#[test]
fn a_file_without_lenders_is_its_own_image() {
    let (lender, _) = two_files();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("00000005.snap"), &lender.file).unwrap();
    let snapshot = open(folder.path());
    assert!(image_of(&snapshot, 3 * BLOCK) == lender.file);
}

#[test]
fn the_layout_is_the_one_of_the_golden_files() {
    let (lender, borrower) = two_files();
    assert!(lender.file == GOLDEN_LENDER, "the lender's bytes");
    assert!(borrower.file == GOLDEN, "the borrower's bytes");
    let folder = folder(GOLDEN_LENDER, GOLDEN);
    let image = image_of(&open(folder.path()), 2 * BLOCK);
    let loaded = {
        let mut disk = SimDisk::new(1);
        disk.edit("00000007.snap", 0, &image);
        let entry = disk.list().unwrap().remove(0);
        let file = disk.open(&entry.name).unwrap();
        Snapshot::load(&mut disk, file, &entry).unwrap()
    };
    assert_eq!(read_back(&image, &loaded).keys, borrower_model().keys);
}

#[test]
fn every_changed_byte_of_the_index_is_caught() {
    let (_, borrower) = two_files();
    let own_values = borrower.snapshot.as_lender().lent_bytes as usize;
    let index = BLOCK + own_values..borrower.file.len();
    for at in (0..BLOCK).step_by(7).chain(index.step_by(5)) {
        let mut file = borrower.file.clone();
        file[at] ^= 0x20;
        assert!(load(&file).is_err(), "byte {at}");
    }
}

fn places_of(borrower: &Snapshot) -> RunPlaces {
    let mut places = RunPlaces::default();
    for leaf in 0..borrower.leaf_count() {
        for piece in borrower.leaf_run(leaf) {
            match piece.file {
                SEQUENCE => places.push_piece(*piece),
                _ => places.push_lent(borrower.lenders()[0], *piece),
            }
        }
        places.end_leaf();
    }
    places
}

/// Under checksums that match: what breaks the rules is refused, and never leads to a panic.
#[test]
fn places_that_break_the_rules_are_refused() {
    let (_, borrower) = two_files();
    let leaves: Vec<_> = (0..borrower.snapshot.leaf_count())
        .map(|leaf| *borrower.snapshot.leaf_entry(leaf))
        .collect();
    let sound = places_of(&borrower.snapshot);
    let accepted = |places: &RunPlaces| BorrowedPage::new(places).into_places(SEQUENCE, &leaves);
    assert_eq!(accepted(&sound), Some(sound.clone()));
    type Break<'a> = (&'a str, &'a dyn Fn(&mut RunPlaces));
    let breaks: [Break<'_>; 9] = [
        ("no lender", &|places| places.parts_mut().2.clear()),
        ("a lender too many", &|places| {
            let lenders = places.parts_mut().2;
            let more = Lender {
                sequence: SnapshotSeq(6),
                ..lenders[0]
            };
            lenders.push(more);
        }),
        ("a lender that is newer", &|places| {
            let (pieces, _, lenders) = places.parts_mut();
            lenders[0].sequence = SnapshotSeq(10);
            for piece in pieces.iter_mut().filter(|piece| piece.file != SEQUENCE) {
                piece.file = SnapshotSeq(10);
            }
        }),
        ("a piece beyond the lender's end", &|places| {
            places.parts_mut().2[0].file_bytes = BLOCK as u64;
        }),
        ("a piece in the lender's superblock", &|places| {
            places.parts_mut().0[0].offset = 0;
        }),
        ("a gap between own pieces", &|places| {
            places.parts_mut().0[1].offset += BLOCK as u64;
        }),
        ("a piece without a block", &|places| {
            let (pieces, ends, _) = places.parts_mut();
            pieces.insert(
                0,
                ImagePart {
                    bytes: 0,
                    ..pieces[0]
                },
            );
            ends.iter_mut().for_each(|end| *end += 1);
        }),
        ("a piece too few", &|places| {
            let (pieces, ends, _) = places.parts_mut();
            pieces.pop();
            *ends.last_mut().unwrap() -= 1;
        }),
        ("a leaf too few", &|places| {
            places.parts_mut().1.pop();
        }),
    ];
    for (what, change) in breaks {
        let mut places = sound.clone();
        change(&mut places);
        assert_eq!(accepted(&places), None, "{what}");
    }
}

#[test]
fn without_its_lender_or_a_part_of_it_a_file_is_refused_and_nothing_is_removed() {
    let (lender, borrower) = two_files();
    let short = &lender.file[..lender.file.len() - BLOCK];
    for (given, says) in [
        (
            None,
            "the file is missing, and a newer one has values in it",
        ),
        (Some(short), "the file was cut short"),
    ] {
        let mut disk = SimDisk::new(1);
        if let Some(lender) = given {
            disk.edit("00000005.snap", 0, lender);
        }
        disk.edit("00000006.snap", 0, &lender.file);
        disk.edit("00000007.snap", 0, &borrower.file);
        let before = disk.names();
        let error = SnapshotStore::open(&mut disk, small_config()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("00000005.snap") && text.contains(says),
            "{text}"
        );
        assert_eq!(disk.names(), before);
        let entry = disk.list().unwrap().pop().unwrap();
        let file = disk.open(&entry.name).unwrap();
        let survey = Survey::of(&mut disk, file, &entry, &mut |_, _| {});
        assert!(!survey.damages.is_empty(), "{says}");
    }
}

#[test]
fn a_damaged_block_of_a_lender_is_found_by_whoever_reads_it() {
    let (mut lender, borrower) = two_files();
    let run = borrower.snapshot.leaf_run(2)[0];
    assert_eq!(run.file, SnapshotSeq(5));
    lender.file[run.offset as usize + 3] ^= 1;
    let folder = folder(&lender.file, &borrower.file);
    let mut disk = ReadOnlyDisk::new(folder.path());
    let (file, entry) = Snapshot::newest_in(&mut disk).unwrap().unwrap();
    let mut read = (0, 0);
    let survey = Survey::of(&mut disk, file, &entry, &mut |bytes, total| {
        read = (read.0 + bytes, total);
    });
    assert_eq!(read.0, read.1, "all of it was read");
    let says = survey.damages[0].to_string();
    assert_eq!(survey.damages.len(), 1);
    assert!(
        says.contains("00000005.snap") && says.contains("block of values"),
        "{says}"
    );
    let snapshot = survey.snapshot.unwrap();
    let image = image_of(&snapshot, 4 * BLOCK);
    let flaw = Audit::new(&snapshot).take(&image).unwrap_err();
    let of_image = snapshot.damaged_by(&flaw).to_string();
    let place = |text: &str| text.split(". ").next().map(str::to_owned);
    assert_eq!(place(&of_image), place(&says), "the same place");
}

/// Files go when no snapshot that is current or held has a value in them, and not before.
#[test]
fn lenders_stay_as_long_as_a_snapshot_needs_them() {
    for seed in 0..10 {
        let mut store = SnapshotStore::open(SimDisk::new(seed), small_config()).unwrap();
        for _ in 0..3 {
            build_borrowing(&mut store).unwrap();
        }
        let held = store.current().cloned().unwrap();
        assert!(!held.lenders().is_empty());
        for _ in 0..4 {
            build_borrowing(&mut store).unwrap();
        }
        let current = store.current().cloned().unwrap();
        check(&mut store, &held).unwrap();
        check(&mut store, &current).unwrap();
        let needed = |store: &SnapshotStore<SimDisk>, held: &[&Snapshot]| {
            let mut names: Vec<_> = held
                .iter()
                .flat_map(|snapshot| snapshot.value_files())
                .map(|file| file.file_name())
                .collect();
            names.sort();
            names.dedup();
            let bytes: u64 = store.file_bytes();
            (names, bytes)
        };
        settle(&mut store);
        let (names, _) = needed(&store, &[&held, &current]);
        assert_eq!(store.disk_mut().names(), names);
        drop(held);
        settle(&mut store);
        let (names, bytes) = needed(&store, &[&current]);
        assert_eq!(store.disk_mut().names(), names);
        let files = current.value_files().map(|file| file.file_bytes);
        assert_eq!(bytes, files.sum::<u64>());
        // The next start finds the same.
        let mut disk = store.into_disk();
        let mut store = SnapshotStore::open(&mut disk, small_config()).unwrap();
        store.remove_leftovers();
        for _ in 0..6 {
            store.wait().unwrap();
        }
        let found = store.current().cloned().unwrap();
        assert_eq!(generation_of(&found), 7);
        check(&mut store, &found).unwrap();
        drop(store);
        assert_eq!(disk.names(), names);
    }
}

/// Pieces for another member are those of the image, also where they reach over several files.
#[test]
fn pieces_are_put_together_from_several_files() {
    let mut store = SnapshotStore::open(SimDisk::new(3), small_config()).unwrap();
    for _ in 0..4 {
        build_borrowing(&mut store).unwrap();
    }
    let snapshot = store.current().cloned().unwrap();
    assert!(snapshot.lenders().len() > 1);
    let total = snapshot.image_bytes();
    for blocks in [1, 5, 100_000] {
        let mut audit = Audit::new(&snapshot);
        let mut offset = 0;
        while offset < total {
            let bytes = (blocks * BLOCK as u64).min(total - offset);
            store.read_piece(&snapshot, offset, bytes as usize, offset);
            let piece = loop {
                match store.take_piece() {
                    Some((number, piece)) => {
                        assert_eq!(number, offset);
                        break piece.unwrap();
                    }
                    None => store.wait().unwrap(),
                }
            };
            assert_eq!(piece.len() as u64, bytes);
            audit.take(&piece).unwrap();
            offset += bytes;
        }
        audit.finish().unwrap();
    }
}

/// What was in memory before a file borrowed it is still there afterwards.
#[test]
fn borrowed_values_stay_in_the_cache() {
    let config = StoreConfig {
        cache_bytes_max: 1 << 20,
        ..small_config()
    };
    let mut store = SnapshotStore::open(SimDisk::new(5), config).unwrap();
    let first = build_borrowing(&mut store).unwrap();
    let place = place_of(&first, 1, 1).unwrap();
    read(&mut store, &place).unwrap();
    drop(first);
    let second = build_borrowing(&mut store).unwrap();
    assert_eq!(place_of(&second, 1, 1), Some(place), "of the first leaf");
    assert!(store.cached(&place).is_some());
}

fn settle(store: &mut SnapshotStore<SimDisk>) {
    for _ in 0..8 {
        store.wait().unwrap();
    }
}
