//! What the store's tests build and compare with: generations of keys, each file with one more than the one before.
//!
//! The file of generation g holds the keys of generations 1 to g. All leaves of the file before are copied, so a build
//! reads runs and writes at the same time; or the values of two thirds of them are borrowed.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::ids::{LeaseId, Revision};
use crate::io::Disk;

/// Keys of one generation.
pub(super) const KEYS: u64 = 40;

/// Sizes so small that a few keys are many leaves, blocks and writes.
pub(super) const BUILDER: BuilderConfig = BuilderConfig {
    page_bytes: 4096,
    values_run_bytes_max: 20_000,
    write_bytes: 8192,
};

pub(super) fn small_config() -> StoreConfig {
    StoreConfig {
        cache_bytes_max: 40_000,
        keeps_written: false,
        writes_in_flight_max: 3,
        reads_in_flight_max: 4,
    }
}

pub(super) fn key(generation: u64, index: u64) -> Vec<u8> {
    format!("/registry/{generation:04}/{index:04}").into_bytes()
}

/// Some values are empty, some have a block of their own.
pub(super) fn value(generation: u64, index: u64) -> Vec<u8> {
    let bytes = match index % 13 {
        0 => 0,
        5 => 20_000,
        _ => 50 + (index * 131 + generation * 17) % 900,
    };
    let byte = |at: u64| (at * 7 + index * 3 + generation) as u8;
    (0..bytes).map(byte).collect()
}

/// Builds the file of the next generation to its end.
pub(super) fn build<D: Disk>(store: &mut SnapshotStore<D>) -> Result<Arc<Snapshot>, SnapshotError> {
    let finish = build_keys(store)?;
    end(store, finish)
}

/// The same, for a file that borrows.
pub(super) fn build_borrowing<D: Disk>(
    store: &mut SnapshotStore<D>,
) -> Result<Arc<Snapshot>, SnapshotError> {
    let finish = build_keys_with(store, |leaf, generation| {
        !(u64::from(leaf) + generation).is_multiple_of(3)
    })?;
    end(store, finish)
}

fn end<D: Disk>(
    store: &mut SnapshotStore<D>,
    mut finish: Finish,
) -> Result<Arc<Snapshot>, SnapshotError> {
    while !finish.step(7)? {
        give(store, || finish.take_write())?;
    }
    give(store, || finish.take_write())?;
    let sequence = store.sequence_of_draft().unwrap();
    let (snapshot, superblock) = finish.into_snapshot(&store.path_of(sequence));
    store.commit(snapshot, superblock);
    for _ in 0..1000 {
        if let Some(failure) = store.take_build_failure() {
            return Err(failure);
        }
        if let Some(snapshot) = store.committed() {
            return Ok(snapshot);
        }
        store.wait()?;
    }
    panic!("a commit ends");
}

/// Begins a file and gives it all its keys.
pub(super) fn build_keys<D: Disk>(store: &mut SnapshotStore<D>) -> Result<Finish, SnapshotError> {
    build_keys_with(store, |_, _| false)
}

/// The same; values of the leaves for which `borrows` says so stay where they are.
fn build_keys_with<D: Disk>(
    store: &mut SnapshotStore<D>,
    borrows: impl Fn(u32, u64) -> bool,
) -> Result<Finish, SnapshotError> {
    let sequence = store.begin();
    let current = store.current().cloned();
    let generation = current.as_ref().map_or(0, |c| generation_of(c)) + 1;
    let mut builder = Builder::new(sequence, BUILDER, Revision(-1));
    if let Some(current) = current {
        builder.over(Arc::clone(&current));
        builder.borrow_from(current.value_files());
        take_leaves(store, &mut builder, &current, |leaf| {
            borrows(leaf, generation)
        })?;
    }
    for index in 0..KEYS {
        let version = VersionIn {
            revision: Revision((generation * KEYS + index) as i64),
            sub: 0,
            create_revision: Revision(1),
            version: 1,
            lease: LeaseId(0),
            tombstone: false,
            value: &value(generation, index),
            stays: None,
            origin: None,
        };
        builder.push_key(&key(generation, index), &[version]);
        give(store, || builder.take_write())?;
        if let Some(buf) = store.take_buf() {
            builder.reuse(buf);
        }
    }
    Ok(builder.finish(Meta {
        revision: Revision(generation as i64),
        horizon: Revision(-1),
        ..Meta::default()
    }))
}

fn take_leaves<D: Disk>(
    store: &mut SnapshotStore<D>,
    builder: &mut Builder,
    from: &Snapshot,
    borrows: impl Fn(u32) -> bool,
) -> Result<(), SnapshotError> {
    let (mut asked, mut copied, mut waits) = (0, 0, 0);
    while copied < from.leaf_count() {
        while asked < from.leaf_count() && asked < copied + 5 {
            if !borrows(asked) {
                store.read_run(asked, from.leaf_run(asked));
            }
            asked += 1;
        }
        if borrows(copied) {
            builder.borrow_leaf(copied)?;
            copied += 1;
            continue;
        }
        match store.take_run() {
            Some(run) => {
                let (leaf, bytes) = run?;
                assert_eq!(leaf, copied, "runs come in order");
                builder.copy_leaf(leaf, &bytes)?;
                copied += 1;
            }
            None => {
                waits += 1;
                assert!(waits < 10_000, "runs come");
                store.wait()?;
            }
        }
        give(store, || builder.take_write())?;
    }
    Ok(())
}

/// Gives the store what there is to write, at its pace.
pub(super) fn give<D: Disk>(
    store: &mut SnapshotStore<D>,
    mut next: impl FnMut() -> Option<PageWrite>,
) -> Result<(), SnapshotError> {
    loop {
        if let Some(failure) = store.take_build_failure() {
            return Err(failure);
        }
        if !store.may_write() {
            store.wait()?;
        } else if let Some(write) = next() {
            store.write(write);
        } else {
            return Ok(());
        }
    }
}

pub(super) fn generation_of(snapshot: &Snapshot) -> u64 {
    snapshot.meta().revision.0 as u64
}

/// Where a value is; nowhere if it is empty.
pub(super) fn place_of(snapshot: &Snapshot, generation: u64, index: u64) -> Option<ValuePlace> {
    let found = snapshot.find(&key(generation, index)).unwrap();
    let row = snapshot.rows(found).start;
    let at = VersionRef {
        leaf: found.leaf,
        row,
    };
    snapshot.version(at).place
}

/// Waits for a value.
pub(super) fn read<D: Disk>(
    store: &mut SnapshotStore<D>,
    place: &ValuePlace,
) -> Result<Bytes, SnapshotError> {
    let mut seen = None;
    for _ in 0..10_000 {
        if let Some(value) = store.cached(place) {
            return Ok(value);
        }
        if seen.is_some()
            && let Some(error) = store.failed(place)
        {
            return Err(error.clone());
        }
        if seen != Some(store.reads_done()) {
            seen = Some(store.reads_done());
            store.want(place);
        }
        store.wait()?;
    }
    panic!("a read ends");
}

/// Compares a whole snapshot with the model, values included.
pub(super) fn check<D: Disk>(
    store: &mut SnapshotStore<D>,
    snapshot: &Snapshot,
) -> Result<(), SnapshotError> {
    let generations = generation_of(snapshot);
    assert_eq!(snapshot.key_count(), generations * KEYS);
    for generation in 1..=generations {
        for index in 0..KEYS {
            let wanted = value(generation, index);
            let found = match place_of(snapshot, generation, index) {
                Some(place) => read(store, &place)?,
                None => Bytes::new(),
            };
            assert_eq!(found, wanted, "value {generation}/{index}");
        }
    }
    Ok(())
}
