//! Any bytes give entries or an error: never a panic, never without end, never keys out of order.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;

use super::{BoltError, BoltFile, BoltWriter, Bucket};

/// A file with buckets of every kind: empty, inline, one leaf, branches, overflow.
fn sound(path: &Path) -> Vec<u8> {
    let file = File::create(path).unwrap();
    let mut writer = BoltWriter::new(file, "db".to_owned()).unwrap();
    for (name, count, value_bytes) in [
        ("empty", 0, 0),
        ("inline", 5, 10),
        ("leaf", 60, 20),
        ("overflow", 6, 9000),
        ("tree", 6000, 60),
    ] {
        writer.begin_bucket(name.as_bytes());
        for number in 0..count {
            let key = format!("{number:06}");
            writer.put(key.as_bytes(), &vec![7; value_bytes]).unwrap();
        }
        writer.end_bucket().unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// Reads all there is; the answer is how many entries, and how the reading ended.
fn read_all(path: &Path) -> (usize, Result<(), BoltError>) {
    let mut entries = 0;
    let result = BoltFile::open(path).and_then(|file| read_bucket(&file.root(), 4, &mut entries));
    (entries, result)
}

fn read_bucket(bucket: &Bucket<'_>, depth: usize, entries: &mut usize) -> Result<(), BoltError> {
    let mut cursor = bucket.cursor();
    let mut last: Option<Vec<u8>> = None;
    loop {
        if cursor.peek().is_err() {
            // An error is no end, however often one asks.
            return cursor.peek().map(|_| panic!("the error is gone"));
        }
        let Some(entry) = cursor.peek()? else {
            break;
        };
        *entries += 1;
        assert!(*entries <= 100_000, "it does not end");
        assert!(last.as_deref().is_none_or(|last| last < entry.key));
        last = Some(entry.key.to_vec());
        if entry.is_bucket
            && depth > 0
            && let Some(child) = cursor.child_bucket()?
        {
            read_bucket(&child, depth - 1, entries)?;
        }
        cursor.advance();
    }
    if let Some(last) = bucket.last_key()? {
        let _ = bucket.get(&last)?;
    }
    Ok(())
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Where a page of the sound file is whose kind is `kind` and which has elements.
fn page_of_kind(bytes: &[u8], kind: u16) -> usize {
    let is_it = |page: &usize| {
        let header = &bytes[page * 4096..];
        header[8..10] == kind.to_le_bytes()
            && header[10..12] != [0, 0]
            && header[..8] == (*page as u64).to_le_bytes()
    };
    (0..bytes.len() / 4096).rev().find(is_it).unwrap()
}

#[test]
fn every_field_of_a_page_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let bytes = sound(&path);
    let (entries, result) = read_all(&path);
    result.unwrap();
    assert_eq!(entries, 5 + 6071);
    let branch = page_of_kind(&bytes, 1) as u64 * 4096;
    let root = (bytes.len() - 4096) as u64;
    let cases: [(u64, &[u8], &str); 12] = [
        (branch, &[0xff], "it says it is page"),
        (branch + 8, &[4], "kind 0x0004"),
        (branch + 8, &[0x10], "kind 0x0010"),
        (branch + 10, &[0, 0], "no elements"),
        (branch + 10, &[0xff, 0xff], "element"),
        (
            branch + 12,
            &[0xff, 0xff, 0xff, 0x7f],
            "behind the last page",
        ),
        (branch + 16, &[0xff, 0xff, 0xff, 0xff], "reaches outside"),
        (branch + 20, &[0, 0, 0, 0], "empty key"),
        (branch + 24, &[0xff; 8], "behind the last page"),
        (branch + 24 + 16, &[3, 0, 0, 0, 0, 0, 0, 0], "is damaged"),
        (root, &[1], "it says it is page"),
        (root + 8, &[1], "is damaged"),
    ];
    for (offset, damage, wanted) in cases {
        std::fs::write(&path, &bytes).unwrap();
        write_at(&path, offset, damage);
        let (_, result) = read_all(&path);
        let text = result.unwrap_err().to_string();
        assert!(text.contains(wanted), "{offset}: {text}");
    }
}

#[test]
fn pages_that_refer_to_each_other_in_a_circle_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let bytes = sound(&path);
    let branch = page_of_kind(&bytes, 1);
    // The first child of the branch is the branch itself.
    write_at(
        &path,
        branch as u64 * 4096 + 24,
        &(branch as u64).to_le_bytes(),
    );
    let (_, result) = read_all(&path);
    let text = result.unwrap_err().to_string();
    assert!(text.contains("pages deep"), "{text}");
    // All children of the branch are its first one.
    std::fs::write(&path, &bytes).unwrap();
    let first = &bytes[branch * 4096 + 24..][..8];
    let count = u16::from_le_bytes([bytes[branch * 4096 + 10], bytes[branch * 4096 + 11]]);
    for element in 1..u64::from(count) {
        write_at(&path, branch as u64 * 4096 + 24 + 16 * element, first);
    }
    let (_, result) = read_all(&path);
    let text = result.unwrap_err().to_string();
    assert!(text.contains("below the key its parent"), "{text}");
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let bytes = sound(&path);
    for length in (0..bytes.len()).step_by(1111) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(read_all(&path).1.is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mutated_files_never_panic_and_always_end(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<bool>(), any::<u8>(), any::<bool>()),
            1..20,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let mut bytes = sound(&path);
        let length = bytes.len();
        for (place, in_head, value, is_small) in changes {
            // Half of the changes hit the first bytes of a page, where its structure is.
            let at = place.index(length);
            let at = if in_head { at / 4096 * 4096 + at % 64 } else { at };
            bytes[at] = if is_small { value % 4 } else { value };
        }
        std::fs::write(&path, &bytes).unwrap();
        let (entries, _) = read_all(&path);
        prop_assert!(entries <= 20_000);
    }

    #[test]
    fn pages_swapped_or_copied_never_panic_and_always_end(
        moves in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()),
            1..6,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let mut bytes = sound(&path);
        let pages = bytes.len() / 4096;
        for (from, to, keep_number) in moves {
            let (from, to) = (from.index(pages) * 4096, to.index(pages - 3) * 4096 + 3 * 4096);
            bytes.copy_within(from..from + 4096, to);
            if keep_number {
                bytes[to..to + 8].copy_from_slice(&(to as u64 / 4096).to_le_bytes());
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let (entries, _) = read_all(&path);
        // Every bucket may have come to be the large one.
        prop_assert!(entries <= 100_000, "{entries} entries");
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(read_all(&path).1.is_err());
    }
}
