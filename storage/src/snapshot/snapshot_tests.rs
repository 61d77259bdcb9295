//! The snapshot against a sorted map of histories, just built and loaded.

#![allow(clippy::unwrap_used)]

use std::cmp::Ordering;
use std::sync::Arc;

use proptest::prelude::*;

use super::fixture::{
    BLOCK, Built, Model, SEQUENCE, TINY, any_key, any_model, finish, load, meta, push, put,
    read_back, run, versions,
};
use super::*;
use crate::ids::Revision;

/// A thousand keys with one to three versions each.
fn usual() -> Model {
    let mut model = Model::new();
    for round in 0..3u32 {
        for i in (0..1_000u32).filter(|i| (i + round) % 3 != 0 || round == 0) {
            let key = format!("/registry/things/{:05}", i * 7_919 % 10_007);
            let value = vec![i as u8; ((i * 37 + round) % 600) as usize];
            model.change(
                key.as_bytes(),
                (i % 11 != round).then_some(value),
                i % 5 == 0,
            );
        }
    }
    model
}

/// Everything the model answers, asked of the snapshot.
fn check(model: &Model, built: &Built, snapshot: &Snapshot) {
    assert_eq!(read_back(&built.file, snapshot).keys, model.keys);
    assert_eq!(snapshot.sequence(), SEQUENCE);
    assert_eq!(*snapshot.meta(), model.meta());
    assert_eq!(snapshot.file_bytes(), built.file.len() as u64);
    check_counters(model, snapshot);
    check_leaves(snapshot, &built.file);
    check_changes(model, snapshot);
    let mut asked: Vec<Vec<u8>> = model.keys.keys().cloned().collect();
    for key in model.keys.keys() {
        asked.push([key, &b"\0"[..]].concat());
        asked.push(key[..key.len() / 2].to_vec());
        asked.push(key[..key.len().saturating_sub(1)].to_vec());
        asked.push([&key[..key.len().saturating_sub(1)], &b"\xff"[..]].concat());
    }
    asked.push(vec![0xff; 40]);
    for key in &asked {
        check_key(model, snapshot, key);
    }
}

fn is_live(history: &[super::fixture::Entry]) -> bool {
    history.last().unwrap().value.is_some()
}

fn check_counters(model: &Model, snapshot: &Snapshot) {
    let histories = model.keys.values();
    let versions: usize = histories.clone().map(Vec::len).sum();
    let live = histories.filter(|history| is_live(history)).count();
    let data_bytes = model.keys.iter().flat_map(|(key, history)| {
        let value_bytes = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        history
            .iter()
            .map(move |entry| key.len() + value_bytes(&entry.value))
    });
    assert_eq!(snapshot.key_count(), model.keys.len() as u64);
    assert_eq!(snapshot.version_count(), versions as u64);
    assert_eq!(snapshot.live_count(), live as u64);
    assert_eq!(snapshot.data_bytes(), data_bytes.sum::<usize>() as u64);
}

/// Leaves and runs cover the file, and stay within their limits unless they have a single key.
fn check_leaves(snapshot: &Snapshot, file: &[u8]) {
    let mut end = BLOCK as u64;
    let mut index_bytes = 0;
    for leaf in 0..snapshot.leaf_count() {
        let (offset, bytes) = match snapshot.leaf_run(leaf) {
            [] => (end, 0),
            [run] => (run.offset, run.bytes),
            more => panic!("one piece in one file: {more:?}"),
        };
        assert_eq!(offset, end, "runs stand one behind the other");
        for block in snapshot.leaf_blocks(leaf) {
            assert_eq!(block.offset, end, "so do blocks");
            end += u64::from(block.bytes);
            let bytes = super::fixture::block(file, &block);
            snapshot.verify_block(block, bytes).unwrap();
        }
        assert_eq!(offset + bytes, end);
        index_bytes += snapshot.leaf_page_bytes(leaf);
        if snapshot.leaf_keys(leaf) > 1 {
            assert!(snapshot.leaf_page_bytes(leaf) <= TINY.page_bytes as u64);
            assert!(bytes <= TINY.values_run_bytes_max as u64);
        }
        let first = snapshot.leaf_first_key(leaf);
        let previous = snapshot.previous(first);
        assert_eq!(previous.is_some(), leaf > 0);
        assert_eq!(
            previous.and_then(|key| snapshot.next(key)).unwrap_or(first),
            first
        );
    }
    assert!(index_bytes <= snapshot.index_bytes());
}

fn check_changes(model: &Model, snapshot: &Snapshot) {
    let entries = model.keys.iter().flat_map(|(key, history)| {
        let of_key = history
            .iter()
            .map(move |entry| (entry.revision, entry.sub, key));
        of_key.filter(|(revision, ..)| *revision >= model.horizon)
    });
    let mut changes: Vec<_> = entries.collect();
    changes.sort();
    assert_eq!(snapshot.change_count(), changes.len() as u64);
    for (index, (revision, sub, key)) in (0..).zip(&changes) {
        let at = snapshot.change(index);
        let version = snapshot.version(at);
        assert_eq!((version.revision.0, version.sub), (*revision, *sub));
        assert_eq!(
            snapshot.compare_key(snapshot.key_of(at), key),
            Ordering::Equal
        );
    }
    for revision in -2..=model.revision + 1 {
        let expected = changes.partition_point(|change| change.0 < revision);
        assert_eq!(
            snapshot.change_index_of(Revision(revision)),
            expected as u64
        );
    }
}

fn check_key(model: &Model, snapshot: &Snapshot, key: &[u8]) {
    let found = snapshot.find(key);
    assert_eq!(found.is_some(), model.keys.contains_key(key));
    let next = model.keys.range(key.to_vec()..).next();
    let at = snapshot.seek(key);
    assert_eq!(snapshot.cursor(key).current(), at);
    assert_eq!(at.is_some(), next.is_some());
    if let (Some(at), Some((next, history))) = (at, next) {
        assert_eq!(snapshot.compare_key(at, next), Ordering::Equal);
        assert_eq!(snapshot.compare_key(at, key), next.as_slice().cmp(key));
        assert_eq!(snapshot.is_live(at), is_live(history));
        assert_eq!(found.unwrap_or(at), at);
    }
    let last_below = model.keys.range(..key.to_vec()).next_back();
    let before = match at {
        Some(at) => snapshot.previous(at),
        None => snapshot.last(),
    };
    let is_same = |at| snapshot.compare_key(at, last_below.unwrap().0) == Ordering::Equal;
    assert_eq!(before.is_some(), last_below.is_some());
    assert!(before.is_none_or(is_same));
    let below = model.keys.range(..key.to_vec());
    let live = below.filter(|(_, history)| is_live(history)).count();
    assert_eq!(snapshot.live_before(key), live as u64);
}

/// Says of versions of a key which ones of the snapshot they are.
fn find_origins(snapshot: &Snapshot, key: KeyRef, versions: &mut [VersionIn<'_>]) {
    for version in versions {
        let is_it = |at: &VersionRef| {
            let stored = snapshot.version(*at);
            (stored.revision, stored.sub) == (version.revision, version.sub)
        };
        let leaf = key.leaf;
        let mut rows = snapshot.rows(key).map(|row| VersionRef { leaf, row });
        version.origin = rows.find(is_it);
        assert!(version.origin.is_some(), "it is a version of the snapshot");
    }
}

/// Builds it again out of leaves of `built` that nothing changed and the keys of the others.
fn rebuild(model: &Model, built: &Built, copies: impl Fn(u32) -> bool) -> Built {
    let snapshot = &built.snapshot;
    let mut builder = Builder::new(SEQUENCE, TINY, Revision(model.horizon));
    builder.over(Arc::clone(snapshot));
    let mut file = vec![0; BLOCK];
    for leaf in 0..snapshot.leaf_count() {
        if copies(leaf) && snapshot.leaf_droppable_at(leaf).0 > model.horizon {
            let run = run(&built.file, snapshot, leaf);
            builder.copy_leaf(leaf, run).unwrap();
        } else {
            for slot in 0..snapshot.leaf_keys(leaf) {
                let mut key = Vec::new();
                snapshot.append_key(KeyRef { leaf, slot }, &mut key);
                if let Some(history) = model.keys.get(&key) {
                    let mut versions = versions(history);
                    // As if some of its keys were written anew.
                    if slot % 3 > 0 {
                        find_origins(snapshot, KeyRef { leaf, slot }, &mut versions);
                    }
                    builder.push_key(&key, &versions);
                }
            }
        }
        while let Some(write) = builder.take_write() {
            put(&mut file, &write);
        }
    }
    finish(builder, model.meta(), file)
}

#[test]
fn a_usual_file_answers_as_the_model() {
    let model = usual();
    let built = model.build(TINY);
    assert!(built.snapshot.leaf_count() > 20, "the tree has levels");
    check(&model, &built, &built.snapshot);
    check(&model, &built, &load(&built.file).unwrap());
}

#[test]
fn an_empty_file_has_no_keys() {
    let model = Model::new();
    let built = model.build(BuilderConfig::default());
    assert_eq!(built.file.len(), 3 * BLOCK);
    check(&model, &built, &built.snapshot);
    check(&model, &built, &load(&built.file).unwrap());
}

#[test]
fn the_same_keys_give_the_same_bytes() {
    let model = usual();
    let built = model.build(TINY);
    assert!(model.build(TINY).file == built.file);
    // The size of the writes is nothing that the file shows.
    let config = BuilderConfig {
        write_bytes: 16 * BLOCK,
        ..TINY
    };
    assert!(model.build(config).file == built.file);
}

#[test]
fn copied_leaves_are_those_that_were_encoded() {
    let model = usual();
    let built = model.build(TINY);
    let copied = rebuild(&model, &built, |_| true);
    assert!(copied.file == built.file, "byte for byte");
    let mixed = rebuild(&model, &built, |leaf| leaf % 3 > 0);
    check(&model, &mixed, &load(&mixed.file).unwrap());
}

#[test]
fn a_damaged_page_of_changes_is_not_carried_on() {
    let model = usual();
    let built = model.build(TINY);
    let pages = built.snapshot.changes().len();
    assert!(pages > 2);
    for page in 0..pages {
        let mut damaged = load(&built.file).unwrap();
        let offset = built.snapshot.superblock().meta.offset
            - (pages - page) as u64 * TINY.page_bytes as u64;
        damaged.change_entries_mut()[page].checksum ^= 1;
        let mut builder = Builder::new(SEQUENCE, TINY, Revision(model.horizon));
        builder.over(Arc::new(damaged));
        for leaf in 0..built.snapshot.leaf_count() {
            let run = run(&built.file, &built.snapshot, leaf);
            builder.copy_leaf(leaf, run).unwrap();
        }
        let result = builder.finish(model.meta()).step(usize::MAX);
        let is_it = |error: &SnapshotError| {
            let SnapshotError::Damaged {
                offset: at,
                reason: SnapshotDamage::Checksum(SnapshotPart::Changes),
                affected: Affected::History,
                ..
            } = error
            else {
                return false;
            };
            *at == offset
        };
        assert!(result.as_ref().is_err_and(is_it), "{page}: {result:?}");
    }
}

#[test]
#[should_panic(expected = "what was dropped does not come back")]
fn a_horizon_that_goes_back_is_our_own_mistake() {
    let built = usual().build(TINY);
    let mut builder = Builder::new(SEQUENCE, TINY, Revision(usual().horizon - 1));
    builder.over(built.snapshot);
}

#[test]
fn leaves_that_are_not_half_full_are_small() {
    let built = usual().build(TINY);
    let last = built.snapshot.leaf_count() - 1;
    assert!(TINY.is_large(&built.snapshot, last / 2));
    let larger = BuilderConfig {
        page_bytes: 8 * TINY.page_bytes,
        values_run_bytes_max: 8 * TINY.values_run_bytes_max,
        ..TINY
    };
    assert!(!larger.is_large(&built.snapshot, last / 2));
}

#[test]
fn retention_is_due_exactly_at_the_horizon_a_leaf_names() {
    let model = usual();
    let built = model.build(TINY);
    let mut due = 0;
    for leaf in 0..built.snapshot.leaf_count() {
        let keys = (0..built.snapshot.leaf_keys(leaf)).map(|slot| {
            let mut key = Vec::new();
            built.snapshot.append_key(KeyRef { leaf, slot }, &mut key);
            let history = model.keys[&key].clone();
            (key, history)
        });
        let of_leaf = Model {
            keys: keys.collect(),
            ..Model::new()
        };
        let droppable_at = built.snapshot.leaf_droppable_at(leaf).0;
        if droppable_at < i64::MAX {
            due += 1;
            assert!(of_leaf.retained(droppable_at).keys != of_leaf.keys);
            assert!(of_leaf.retained(droppable_at - 1).keys == of_leaf.keys);
        } else {
            assert!(of_leaf.retained(model.revision + 1).keys == of_leaf.keys);
        }
    }
    assert!(due > 10);
}

#[test]
fn a_key_with_many_versions_fills_a_page_of_its_own() {
    let mut model = Model::new();
    for i in 0..2_000usize {
        model.change(
            b"hot",
            (i % 100 != 99).then(|| vec![i as u8; i % 300]),
            false,
        );
        model.change(format!("other{i:04}").as_bytes(), Some(vec![1]), false);
    }
    let built = model.build(TINY);
    let hot = built.snapshot.find(b"hot").unwrap();
    assert_eq!(built.snapshot.leaf_keys(hot.leaf), 1);
    assert!(built.snapshot.leaf_page_bytes(hot.leaf) > 10 * BLOCK as u64);
    check(&model, &built, &load(&built.file).unwrap());
}

#[test]
fn values_of_many_blocks_come_back() {
    let mut model = Model::new();
    for (i, bytes) in [3_000_000usize, 1, 16_384, 16_385, 0, 1_048_577]
        .iter()
        .enumerate()
    {
        let value = (0..*bytes).map(|at| (at * 7 / 5) as u8).collect();
        model.change(format!("k{i}").as_bytes(), Some(value), false);
    }
    let built = model.build(BuilderConfig::default());
    let loaded = load(&built.file).unwrap();
    assert_eq!(read_back(&built.file, &loaded).keys, model.keys);
    // What is larger than a run has a leaf of its own; the rest shares one.
    assert_eq!(loaded.leaf_count(), 3);
}

#[test]
fn an_index_of_many_reads_and_a_page_larger_than_one_come_back() {
    let mut model = Model::new();
    for i in 0..120_000u32 {
        model.change(
            format!("/registry/{i:08}").as_bytes(),
            Some(Vec::new()),
            false,
        );
    }
    let huge = [&b"/registry/00050000"[..], &[b'x'; 5 << 20]].concat();
    model.change(&huge, Some(b"value".to_vec()), false);
    let built = model.build(BuilderConfig::default());
    let loaded = load(&built.file).unwrap();
    assert!(loaded.index_bytes() > 9 << 20);
    assert_eq!(read_back(&built.file, &loaded).keys, model.keys);
    assert_eq!(loaded.leaf_keys(loaded.find(&huge).unwrap().leaf), 1);
    for (index, key) in model.keys.keys().enumerate().step_by(997) {
        assert_eq!(loaded.live_before(key), index as u64);
    }
    let last = loaded.change(loaded.change_count() - 1);
    assert_eq!(Some(loaded.key_of(last)), loaded.find(&huge));
}

#[test]
fn slices_of_any_size_finish_the_same_file() {
    let model = usual();
    let expected = model.build(TINY).file;
    for budget in [0, 1, 100, usize::MAX] {
        let mut builder = Builder::new(SEQUENCE, TINY, Revision(model.horizon));
        for (key, history) in &model.keys {
            push(&mut builder, key, history);
        }
        let mut finish = builder.finish(model.meta());
        let mut steps = 1;
        while !finish.step(budget).unwrap() {
            steps += 1;
        }
        assert_eq!(steps == 1, budget == usize::MAX, "{steps} steps");
        let mut file = vec![0; BLOCK];
        while let Some(write) = finish.take_write() {
            assert!(write.buf.len() <= TINY.write_bytes);
            put(&mut file, &write);
        }
        let (_, superblock) = finish.into_snapshot("");
        file[..BLOCK].copy_from_slice(superblock.as_slice());
        assert!(file == expected);
    }
}

#[test]
fn the_meta_page_comes_back() {
    let mut builder = Builder::new(SEQUENCE, TINY, meta().horizon);
    builder.push_key(b"k", &[super::fixture::version_at(20)]);
    let built = finish(builder, meta(), vec![0; BLOCK]);
    assert_eq!(*load(&built.file).unwrap().meta(), meta());
}

#[test]
#[should_panic(expected = "keys come in ascending order")]
fn keys_out_of_order_are_our_own_mistake() {
    let mut builder = Builder::new(SEQUENCE, TINY, Revision(0));
    builder.push_key(b"b", &[super::fixture::version_at(1)]);
    builder.push_key(b"a", &[super::fixture::version_at(2)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_file_answers_as_the_model(model in any_model(250), horizon in 0i64..300) {
        let built = model.build(TINY);
        check(&model, &built, &built.snapshot);
        let loaded = load(&built.file).unwrap();
        check(&model, &built, &loaded);

        let copied = rebuild(&model, &built, |_| true);
        prop_assert!(copied.file == built.file);

        // The next file, after a compaction: leaves that have nothing to lose are copied.
        let retained = model.retained(horizon - 1);
        let next = rebuild(&retained, &built, |leaf| leaf % 4 > 0);
        check(&retained, &next, &next.snapshot);
        check(&retained, &next, &load(&next.file).unwrap());
    }

    #[test]
    fn keys_around_those_of_a_file_are_not_found(
        model in any_model(100),
        keys in prop::collection::vec(any_key(), 0..50),
    ) {
        let built = model.build(TINY);
        for key in &keys {
            check_key(&model, &built.snapshot, key);
        }
    }
}
