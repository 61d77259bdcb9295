//! The bytes on disk: pinned by a golden file, and by the shape of every archive.

#![allow(clippy::unwrap_used)]

use super::borrowed::{ArchivedBorrowedPage, ArchivedLenderRow};
use super::changes::{ArchivedChanges, Changes};
use super::encode::Encoder;
use super::fixture::{BLOCK, Built, Model, SEQUENCE, TINY, finish, load, meta, push, read_back};
use super::format::{
    ArchivedLeafEntry, ArchivedPageEntry, ArchivedTable, Counters, PageEntry, PageReference,
    Superblock, SuperblockError,
};
use super::inner::ArchivedInner;
use super::keys::ArchivedKeys;
use super::leaf::ArchivedLeaf;
use super::meta::ArchivedMetaPage;
use super::version::VersionRef;
use super::*;
use crate::ids::{MemberId, Revision, SnapshotSeq};

/// A file of format 1 as version 0.1 of this code wrote it. It must load for ever; a change of the layout
/// adds a file and a version and leaves this one alone.
const GOLDEN: &[u8] = include_bytes!("golden/snapshot-v1.bin");

/// Three leaves; values in shared blocks, one in a block of its own, one without a place; tombstones; a
/// history; leases.
fn golden_model() -> Model {
    let mut model = Model::new();
    for i in 0..120u32 {
        let value = format!("{{\"number\": {i}}}").repeat((i % 3) as usize);
        let key = format!("/registry/pods/default/pod-{i:04}");
        model.change(key.as_bytes(), Some(value.into_bytes()), i % 10 == 9);
    }
    for i in (0..120u32).step_by(7) {
        let key = format!("/registry/pods/default/pod-{i:04}");
        model.change(
            key.as_bytes(),
            (i % 2 == 0).then(|| b"again".to_vec()),
            false,
        );
    }
    model.change(b"/large", Some(vec![0xa5; 17_000]), false);
    model.retained(20)
}

fn golden() -> Built {
    let model = golden_model();
    let mut builder = Builder::new(SEQUENCE, TINY, Revision(model.horizon));
    for (key, history) in &model.keys {
        push(&mut builder, key, history);
    }
    let mut file = vec![0; BLOCK];
    while let Some(write) = builder.take_write() {
        file.extend_from_slice(write.buf.as_slice());
    }
    finish(builder, meta(), file)
}

#[test]
fn the_layout_is_the_one_of_the_golden_file() {
    let written = golden().file;
    let first = written.iter().zip(GOLDEN).position(|(a, b)| a != b);
    assert_eq!(
        first, None,
        "the first byte that differs from the golden file"
    );
    assert_eq!(written.len(), GOLDEN.len());
}

#[test]
fn the_golden_file_loads() {
    let snapshot = load(GOLDEN).unwrap();
    assert_eq!(snapshot.sequence(), SnapshotSeq(7));
    assert_eq!(*snapshot.meta(), meta());
    assert_eq!(read_back(GOLDEN, &snapshot).keys, golden_model().keys);
    assert_eq!((snapshot.key_count(), snapshot.live_count()), (121, 112));
    assert_eq!(
        (snapshot.version_count(), snapshot.change_count()),
        (139, 119)
    );
    let key = snapshot.find(b"/registry/pods/default/pod-0014").unwrap();
    let rows = snapshot.rows(key);
    let newest = snapshot.version(VersionRef {
        leaf: key.leaf,
        row: rows.end - 1,
    });
    assert_eq!((rows.len(), newest.version, newest.value_bytes), (2, 2, 5));
}

/// A file of format 2: two members were removed.
const GOLDEN_2: &[u8] = include_bytes!("golden/snapshot-v2.bin");

fn golden_2() -> (Built, Meta) {
    let mut meta = meta();
    meta.cluster.removed = [MemberId(3), MemberId(u64::MAX)].into();
    let mut model = Model::new();
    model.change(b"key", Some(b"value".to_vec()), false);
    let mut builder = Builder::new(SEQUENCE, TINY, Revision(model.horizon));
    for (key, history) in &model.keys {
        push(&mut builder, key, history);
    }
    let mut file = vec![0; BLOCK];
    while let Some(write) = builder.take_write() {
        file.extend_from_slice(write.buf.as_slice());
    }
    meta.horizon = Revision(model.horizon);
    (finish(builder, meta.clone(), file), meta)
}

#[test]
fn removed_members_make_a_file_of_format_2() {
    let (built, meta) = golden_2();
    assert_eq!(built.file[12..16], [2, 0, 0, 0]);
    assert!(built.file == GOLDEN_2, "the bytes of the golden file");
    let snapshot = load(GOLDEN_2).unwrap();
    assert_eq!(*snapshot.meta(), meta);
}

#[test]
fn a_file_without_removed_members_is_one_of_format_1_and_later_formats_are_refused() {
    assert_eq!(golden().file[12..16], [1, 0, 0, 0]);
    for (version, expected) in [
        (0, SuperblockError::Damaged),
        (4, SuperblockError::Newer(4)),
    ] {
        let mut block = [0; BLOCK];
        let odd = Superblock {
            format_version: version,
            ..superblock()
        };
        odd.encode(&mut block);
        assert_eq!(Superblock::decode(&block), Err(expected));
    }
}

#[test]
fn archives_have_the_sizes_that_the_format_says() {
    fn shape<T>() -> (usize, usize) {
        (size_of::<T>(), align_of::<T>())
    }
    assert_eq!(shape::<ArchivedKeys>(), (32, 4));
    assert_eq!(shape::<ArchivedLeaf>(), (136, 8));
    assert_eq!(shape::<ArchivedInner>(), (48, 4));
    assert_eq!(shape::<ArchivedChanges>(), (16, 4));
    assert_eq!(shape::<ArchivedPageEntry>(), (8, 4));
    assert_eq!(shape::<ArchivedLeafEntry>(), (12, 4));
    assert_eq!(shape::<ArchivedTable>(), (28, 4));
    assert_eq!(shape::<ArchivedBorrowedPage>(), (40, 4));
    assert_eq!(shape::<ArchivedLenderRow>(), (16, 8));
    assert_eq!(shape::<ArchivedMetaPage>(), (112, 8));
    assert_eq!(shape::<rkyv::Archived<usize>>(), (4, 4));
    assert_eq!(shape::<rkyv::Archived<u64>>(), (8, 8));
    assert_eq!(shape::<rkyv::Archived<Vec<u64>>>(), (8, 4));
}

/// Endianness, pointer width and the place of the root, which rkyv's features decide.
#[test]
fn an_archive_is_little_endian_with_32_bit_pointers_and_its_root_last() {
    let mut changes = Changes::default();
    for (leaf, row) in [(1, 0x0102_0304), (2, 5)] {
        changes.push(VersionRef { leaf, row });
    }
    let mut encoder = Encoder::new();
    let (blocks, entry) = encoder.encode(&changes);
    let expected: [u32; 8] = [
        1,
        2,
        0x0102_0304,
        5,
        (-16i32).cast_unsigned(),
        2,
        (-16i32).cast_unsigned(),
        2,
    ];
    let expected: Vec<u8> = expected
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    assert_eq!(blocks[..32], expected);
    assert_eq!(blocks.len(), BLOCK);
    assert_eq!(blocks[32..], [0; BLOCK - 32]);
    assert_eq!((entry.bytes, entry.checksum), (32, crc32c::crc32c(blocks)));
}

fn superblock() -> Superblock {
    Superblock {
        format_version: 1,
        sequence: SnapshotSeq(0x0102_0304_0506_0708),
        file_bytes: 5 * 4096,
        table: PageReference {
            offset: 3 * 4096,
            entry: PageEntry {
                bytes: 4097,
                checksum: 0x1111_1111,
            },
        },
        meta: PageReference {
            offset: 2 * 4096,
            entry: PageEntry {
                bytes: 9,
                checksum: 0x2222_2222,
            },
        },
        borrowed: None,
        counters: Counters {
            keys: 21,
            versions: 22,
            live: 23,
            data_bytes: 24,
            changes: 25,
        },
    }
}

#[test]
fn a_superblock_stands_where_the_format_says() {
    let mut block = [1; BLOCK];
    superblock().encode(&mut block);
    assert_eq!(Superblock::decode(&block), Ok(superblock()));
    let words = |range: std::ops::Range<usize>| -> Vec<u64> {
        let words = block[range].chunks_exact(8);
        words
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect()
    };
    assert_eq!(block[..8], *b"KEELSNAP");
    assert_eq!(block[8..12], crc32c::crc32c(&block[12..]).to_le_bytes());
    assert_eq!(block[12..16], [1, 0, 0, 0]);
    assert_eq!(
        words(16..104),
        [
            0x0102_0304_0506_0708,
            5 * 4096,
            3 * 4096,
            0x1111_1111 << 32 | 4097,
            2 * 4096,
            0x2222_2222 << 32 | 9,
            21,
            22,
            23,
            24,
            25,
        ]
    );
    assert_eq!(block[104..], [0; BLOCK - 104]);
}

#[test]
fn a_superblock_whose_parts_do_not_meet_is_damaged() {
    let check = |change: fn(&mut Superblock)| {
        let mut superblock = superblock();
        change(&mut superblock);
        let mut block = [0; BLOCK];
        superblock.encode(&mut block);
        assert_eq!(Superblock::decode(&block), Err(SuperblockError::Damaged));
    };
    check(|superblock| superblock.file_bytes += 4096);
    check(|superblock| superblock.table.entry.bytes = 0);
    check(|superblock| superblock.table.offset += 4096);
    check(|superblock| superblock.meta.offset = 0);
    check(|superblock| superblock.meta.offset += 1);
    check(|superblock| superblock.meta.entry.bytes = u32::MAX);
    check(|superblock| superblock.meta.offset = u64::MAX - 4095);
}
