//! What the writer wrote, the reader reads: shapes of every kind, and random ones.

use std::fs::File;

use proptest::prelude::*;

use super::format::PageId;
use super::page::PageKind;
use super::{BoltError, BoltFile, BoltWriter};
use crate::limits::BOLT_PAGE_BYTES;

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Writes buckets into a file of the scratch folder and opens it.
fn written(folder: &tempfile::TempDir, buckets: &[(&str, &Entries)]) -> BoltFile {
    let path = folder.path().join("db");
    let file = File::create(&path).unwrap();
    let mut writer = BoltWriter::new(file, "db".to_owned()).unwrap();
    for (name, entries) in buckets {
        writer.begin_bucket(name.as_bytes());
        for (key, value) in *entries {
            writer.put(key, value).unwrap();
        }
        writer.end_bucket().unwrap();
    }
    let (_, bytes) = writer.finish().unwrap();
    let file = BoltFile::open(&path).unwrap();
    assert_eq!(file.used_bytes(), bytes);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
    file
}

fn read(file: &BoltFile, bucket: &str) -> Entries {
    let bucket = file.root().bucket(bucket.as_bytes()).unwrap().unwrap();
    let mut cursor = bucket.cursor();
    let mut entries = Vec::new();
    while let Some(entry) = cursor.peek().unwrap() {
        assert!(!entry.is_bucket);
        entries.push((entry.key.to_vec(), entry.value.to_vec()));
        cursor.advance();
    }
    assert_eq!(cursor.peek().unwrap(), None);
    entries
}

fn numbered(count: u32, value_bytes: usize) -> Entries {
    (0..count)
        .map(|number| {
            (
                number.to_be_bytes().to_vec(),
                vec![number as u8; value_bytes],
            )
        })
        .collect()
}

/// Every page of the file is reached once: what bbolt's own check asks for.
fn check_pages(file: &BoltFile) {
    fn walk(file: &BoltFile, id: PageId, reached: &mut Vec<u64>, depth: usize) -> usize {
        let page = file.read_page(id, Vec::new()).unwrap();
        let bytes = page_bytes_of(file, id);
        reached.extend(id.0..id.0 + bytes / u64::from(BOLT_PAGE_BYTES));
        match page.kind() {
            PageKind::Leaf => {
                for element in 0..page.count() {
                    let value = page.value(element);
                    if page.is_bucket(element) && value[..8] != [0; 8] {
                        let root = u64::from_le_bytes(value[..8].try_into().unwrap());
                        walk(file, PageId(root), reached, 0);
                    }
                }
                depth
            }
            PageKind::Branch => {
                assert!(page.count() >= 2, "page {id}");
                let depths: Vec<usize> = (0..page.count())
                    .map(|element| walk(file, page.child(element), reached, depth + 1))
                    .collect();
                assert!(depths.windows(2).all(|two| two[0] == two[1]), "page {id}");
                depths[0]
            }
        }
    }
    let mut reached = vec![0, 1, 2];
    let root = file.root();
    let mut cursor = root.cursor();
    cursor.seek(&[]).unwrap();
    walk(file, root.root_page_id().unwrap(), &mut reached, 0);
    reached.sort_unstable();
    let end = file.used_bytes() / u64::from(BOLT_PAGE_BYTES);
    assert_eq!(reached, (0..end).collect::<Vec<u64>>());
}

fn page_bytes_of(file: &BoltFile, id: PageId) -> u64 {
    file.read_page(id, Vec::new()).unwrap().into_bytes().len() as u64
}

#[test]
fn shapes_from_nothing_to_three_levels_come_back() {
    let folder = tempfile::tempdir().unwrap();
    for (count, value_bytes) in [
        (0, 0),
        (1, 0),
        (1, 700),
        (1, 2000),
        (40, 0),
        (60, 1),
        (90, 10),
        (300, 100),
        (3, 4000),
        (3, 4100),
        (70, 3000),
        (5, 100_000),
        (60_000, 40),
    ] {
        let entries = numbered(count, value_bytes);
        let other = numbered(count % 7, 20);
        let buckets = [("b", &entries), ("a", &other), ("c", &Entries::new())];
        let file = written(&folder, &buckets);
        assert_eq!(read(&file, "b"), entries, "{count} of {value_bytes}");
        assert_eq!(read(&file, "a"), other);
        assert_eq!(read(&file, "c"), Entries::new());
        assert!(file.root().bucket(b"d").unwrap().is_none());
        assert!(file.root().get(b"b").unwrap().is_none());
        check_pages(&file);
    }
}

#[test]
fn a_file_without_buckets_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(&folder, &[]);
    assert_eq!(file.root().cursor().peek().unwrap(), None);
    assert_eq!(file.root().last_key().unwrap(), None);
    assert!(file.has_freelist());
    check_pages(&file);
}

#[test]
fn many_buckets_make_a_root_of_several_pages() {
    let folder = tempfile::tempdir().unwrap();
    let entries = numbered(10, 80);
    let names: Vec<String> = (0..40)
        .map(|number| format!("bucket-{number:03}"))
        .collect();
    let buckets: Vec<(&str, &Entries)> = names.iter().map(|name| (&**name, &entries)).collect();
    let file = written(&folder, &buckets);
    for name in &names {
        assert_eq!(read(&file, name), entries);
    }
    check_pages(&file);
}

#[test]
fn long_keys_make_branches_with_overflow() {
    let folder = tempfile::tempdir().unwrap();
    for count in 2..12 {
        let entries: Entries = (0..count)
            .map(|number: u8| ([vec![number], vec![7; 30_000]].concat(), vec![number]))
            .collect();
        let file = written(&folder, &[("k", &entries)]);
        assert_eq!(read(&file, "k"), entries);
        check_pages(&file);
    }
}

#[test]
fn a_large_entry_shares_its_last_page() {
    let folder = tempfile::tempdir().unwrap();
    let mut entries = numbered(40, 20);
    entries[10].1 = vec![1; 3 * BOLT_PAGE_BYTES as usize + 100];
    let file = written(&folder, &[("k", &entries)]);
    assert_eq!(read(&file, "k"), entries);
    // Two meta pages, the freelist, leaves of one and four and one page at most, a branch, the root.
    assert!(file.used_bytes() <= 11 * u64::from(BOLT_PAGE_BYTES));
}

#[test]
fn seeking_finds_the_first_key_that_is_not_below() {
    let folder = tempfile::tempdir().unwrap();
    let entries: Entries = (0..20_000_u32)
        .map(|number| ((number * 2).to_be_bytes().to_vec(), vec![1; 30]))
        .collect();
    let file = written(&folder, &[("k", &entries)]);
    let bucket = file.root().bucket(b"k").unwrap().unwrap();
    let mut cursor = bucket.cursor();
    for wanted in (0..39_999_u32).step_by(37) {
        cursor.seek(&wanted.to_be_bytes()).unwrap();
        let found = cursor.peek().unwrap().unwrap().key.to_vec();
        assert_eq!(found, (wanted.next_multiple_of(2)).to_be_bytes());
        let value = bucket.get(&wanted.to_be_bytes()).unwrap();
        assert_eq!(value.is_some(), wanted.is_multiple_of(2));
    }
    cursor.seek(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(cursor.peek().unwrap(), None);
    let last = bucket.last_key().unwrap().unwrap();
    assert_eq!(last, 39_998_u32.to_be_bytes());
}

#[test]
fn the_older_meta_page_counts_if_the_newer_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let entries = numbered(300, 30);
    let path = folder.path().join("db");
    drop(written(&folder, &[("k", &entries)]));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(read(&BoltFile::open(&path).unwrap(), "k"), entries);
    bytes[4096 + 30] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = BoltFile::open(&path).unwrap_err();
    assert!(matches!(error, BoltError::NoMeta { .. }), "{error}");
}

#[test]
fn other_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    drop(written(&folder, &[("k", &numbered(300, 30))]));
    let sound = std::fs::read(&path).unwrap();
    let error_of = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        BoltFile::open(&path).unwrap_err()
    };
    for foreign in [&b""[..], b"hello", &[0; 100_000], &sound[4095..]] {
        assert!(matches!(error_of(foreign), BoltError::Foreign { .. }));
    }
    for bytes in [8192, sound.len() - 1, sound.len() / 2] {
        let error = error_of(&sound[..bytes]);
        assert!(matches!(error, BoltError::Truncated { .. }), "{error}");
    }
    let mut swapped = sound.clone();
    for page in [0, 4096] {
        swapped[page + 16..page + 20].reverse();
    }
    let error = error_of(&swapped);
    assert!(error.to_string().contains("big-endian"), "{error}");
    let error = BoltFile::open(folder.path()).unwrap_err();
    assert!(matches!(error, BoltError::Io { .. }), "{error}");
}

#[test]
fn a_file_that_somebody_writes_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    drop(written(&folder, &[]));
    let owner = File::open(&path).unwrap();
    owner.lock().unwrap();
    let error = BoltFile::open(&path).unwrap_err();
    assert!(matches!(error, BoltError::Locked { .. }), "{error}");
    owner.unlock().unwrap();
    let first = BoltFile::open(&path).unwrap();
    BoltFile::open(&path).unwrap();
    assert!(owner.try_lock().is_err());
    drop(first);
}

#[test]
#[should_panic(expected = "keys come in ascending order")]
fn a_key_out_of_order_is_our_own_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let entries = vec![(vec![2], vec![]), (vec![1], vec![])];
    written(&folder, &[("k", &entries)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_entries_come_back(
        entries in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..60),
            (0_usize..6000, any::<u8>()),
            0..300,
        ),
        small_percent in 0_usize..100,
    ) {
        let entries: Entries = entries
            .into_iter()
            .map(|(key, (bytes, fill))| {
                let is_small = usize::from(fill) % 100 < small_percent;
                (key, vec![fill; if is_small { bytes % 50 } else { bytes }])
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = written(&folder, &[("k", &entries)]);
        prop_assert_eq!(read(&file, "k"), entries);
        check_pages(&file);
    }
}
