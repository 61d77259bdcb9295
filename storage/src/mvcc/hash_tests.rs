//! HashKV against numbers that a real etcd 3.5.1 gave for the same requests.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::ids::LeaseId;
use crate::mvcc::Span;

fn put(store: &mut Store, key: &str, value: &str, lease: i64) {
    store.put(key.as_bytes(), Some(value.as_bytes()), Some(LeaseId(lease)));
}

fn delete(store: &mut Store, key: &'static str, range_end: &'static str) {
    let span = Span::new(
        &Bytes::from_static(key.as_bytes()),
        &Bytes::from_static(range_end.as_bytes()),
    );
    for record in store.live(&span) {
        store.delete(record.key());
    }
}

fn hash(store: &mut Store, revision: i64, budget: usize) -> HashKvResult {
    let mut scan = HashScan::begin(store, revision).unwrap();
    while !scan.step(store, budget) {}
    scan.finish(no_values).unwrap()
}

/// For stores whose values are all in memory.
fn no_values(_: &Arc<Snapshot>, place: &ValuePlace) -> Result<Bytes, ValuePlace> {
    Err(*place)
}

/// Checks the number at a revision, with steps of several sizes and before, during and after
/// scrubbing.
fn check(store: &mut Store, revision: i64, golden: u32) {
    let hash_revision = if revision == 0 {
        store.revision()
    } else {
        Revision(revision)
    };
    let expected = HashKvResult {
        hash: golden,
        compact_revision: store.compact_revision(),
        hash_revision,
        revision: store.revision(),
    };
    for budget in [1, 2, usize::MAX] {
        assert_eq!(hash(store, revision, budget), expected);
        store.scrub(1, None);
    }
    while store.scrub(1, None) {}
    assert_eq!(hash(store, revision, 3), expected);
    store.check_invariants();
}

#[test]
fn g_c_2_equals_etcd() {
    let mut store = Store::new();
    let store = &mut store;
    check(store, 0, 0x40a4_756d);
    for (key, value, lease) in [("a", "1", 0), ("b", "22", 7), ("a", "3", 0)] {
        put(store, key, value, lease);
        store.commit();
    }
    check(store, 0, 0x6b5b_a99e);
    check(store, 3, 0x6646_d4e7);
    put(store, "c", "c1", 0);
    delete(store, "a", "b");
    put(store, "d", "", 0);
    store.commit();
    put(store, "a", "again", 0);
    store.commit();
    check(store, 5, 0xa61b_a65d);
    check(store, 0, 0x50b9_01a8);
    store.compact(Revision(5)).unwrap();
    check(store, 6, 0x433f_0fbb);
    put(store, "c", "c2", 0);
    store.commit();
    delete(store, "d", "");
    store.commit();
    check(store, 6, 0x433f_0fbb);
    check(store, 7, 0x4eaf_ed38);
    check(store, 0, 0x53bd_a8c1);
    store.compact(Revision(8)).unwrap();
    put(store, "e", &"\u{e9}".repeat(100), 0);
    store.commit();
    check(store, 0, 0xfa33_9677);
    // From here on, some revisions see no key at all.
    delete(store, "a", "\0");
    store.commit();
    check(store, 0, 0x602f_e5cf);
    check(store, 9, 0xfa33_9677);
    store.compact(Revision(10)).unwrap();
    put(store, "z", "", 0);
    store.commit();
    check(store, 0, 0x3d32_ab20);
    delete(store, "z", "");
    store.commit();
    check(store, 0, 0x2401_c320);
    store.compact(Revision(11)).unwrap();
    check(store, 0, 0x2401_c320);
}

#[test]
fn g_c_2_revisions_are_checked() {
    let mut store = Store::new();
    for value in ["1", "2", "3"] {
        put(&mut store, "a", value, 0);
        store.commit();
    }
    store.compact(Revision(3)).unwrap();
    let mut begin = |revision| HashScan::begin(&mut store, revision).map(|scan| scan.hash_revision);
    assert_eq!(begin(2).unwrap_err(), ApiError::Compacted);
    assert_eq!(begin(3).unwrap(), Revision(3));
    assert_eq!(begin(4).unwrap(), Revision(4));
    assert_eq!(begin(5).unwrap_err(), ApiError::FutureRev);
    // A negative revision is no error in etcd; nothing but the bucket's name is hashed.
    assert_eq!(hash(&mut store, -1, 1).hash, crc32c::crc32c(b"key"));
}

/// Writes, compactions and scrubs between the steps of a scan do not change its result.
#[test]
fn g_c_2_a_scan_is_pinned() {
    let mut store = Store::new();
    for n in 0..200 {
        put(&mut store, &format!("k{:02}", n % 50), &n.to_string(), 0);
        store.commit();
    }
    store.compact(Revision(100)).unwrap();
    let expected = hash(&mut store, 150, usize::MAX);
    let mut scan = HashScan::begin(&mut store, 150).unwrap();
    let mut n = 0;
    while !scan.step(&store, 7) {
        n += 1;
        put(&mut store, &format!("k{:02}", n * 13 % 60), "new", 0);
        delete(&mut store, "k07", "");
        store.commit();
        if n == 3 {
            store.compact(store.revision()).unwrap();
        }
        while store.scrub(10, None) {}
    }
    let result = scan.finish(no_values).unwrap();
    assert_eq!(
        (result.hash, result.compact_revision),
        (expected.hash, expected.compact_revision)
    );
    while store.scrub(10, None) {}
    assert_eq!(store.scrubbed_revision(), store.compact_revision());
    store.check_invariants();
}
