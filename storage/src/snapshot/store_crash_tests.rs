//! Power loss at every step of building, switching and removing: one whole file is found, the older or the newer.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::store_model_tests::{
    build, build_borrowing, build_keys, check, generation_of, small_config,
};
use super::*;
use crate::io::{AlignedBuf, Disk, SimDisk};

/// What one life on a disk has been told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The newest generation that was reported durable.
    durable: u64,
    /// The newest one that was handed over to be made durable.
    committed: u64,
    /// Whether files borrow values of earlier ones.
    borrows: bool,
}

impl Told {
    fn nothing(seed: u64) -> Self {
        Self {
            borrows: seed % 2 == 1,
            ..Self::default()
        }
    }
}

/// Builds three files, gives one up, and reads from an older one while a newer one is current.
fn live(disk: &mut SimDisk, told: &mut Told) -> Result<(), SnapshotError> {
    let mut store = open_and_tidy(disk)?;
    build_next(&mut store, told)?;
    build_keys(&mut store)?;
    store.abort();
    let second = build_next(&mut store, told)?;
    build_next(&mut store, told)?;
    check(&mut store, &second)?;
    drop(second);
    for _ in 0..6 {
        store.wait()?;
    }
    Ok(())
}

fn build_next(
    store: &mut SnapshotStore<&mut SimDisk>,
    told: &mut Told,
) -> Result<Arc<Snapshot>, SnapshotError> {
    told.committed += 1;
    let snapshot = match told.borrows {
        true => build_borrowing(store)?,
        false => build(store)?,
    };
    told.durable += 1;
    assert_eq!(generation_of(&snapshot), told.durable);
    Ok(snapshot)
}

/// Opens a directory, and removes what does not count.
fn open_and_tidy(disk: &mut SimDisk) -> Result<SnapshotStore<&mut SimDisk>, SnapshotError> {
    let mut store = SnapshotStore::open(disk, small_config())?;
    store.remove_leftovers();
    for _ in 0..6 {
        store.wait()?;
    }
    Ok(store)
}

/// Opens what a crash left: one whole file that the life before allows, and nothing else.
fn open(disk: &mut SimDisk, told: Told) -> u64 {
    let mut store = open_and_tidy(&mut *disk).unwrap();
    let current = store.current().cloned();
    let generation = current.as_ref().map_or(0, |current| generation_of(current));
    assert!(
        (told.durable..=told.committed.max(told.durable)).contains(&generation),
        "{told:?}, found {generation}"
    );
    if let Some(current) = &current {
        check(&mut store, current).unwrap();
    }
    drop(store);
    let files = current.iter().flat_map(|current| current.value_files());
    let names: Vec<_> = files.map(|file| file.file_name()).collect();
    assert_eq!(disk.names(), names, "no leftovers");
    generation
}

fn submissions_of_a_life(seed: u64) -> u64 {
    let mut disk = SimDisk::new(seed);
    live(&mut disk, &mut Told::nothing(seed)).unwrap();
    disk.submitted()
}

#[test]
fn power_loss_at_every_submission_leaves_one_whole_file() {
    let (mut older, mut newer) = (0, 0);
    for seed in 0..12 {
        for at in 0..=submissions_of_a_life(seed) {
            let mut disk = SimDisk::new(seed);
            disk.power_off_at(at);
            let mut told = Told::nothing(seed);
            let outcome = live(&mut disk, &mut told);
            assert_eq!(outcome.is_err(), disk.is_powered_off());
            let mut disk = disk.crash();
            let found = open(&mut disk, told);
            older += u64::from(found < told.committed);
            newer += u64::from(found > told.durable);
            // Life goes on with what was found, and a second crash changes nothing.
            let mut store = open_and_tidy(&mut disk).unwrap();
            build(&mut store).unwrap();
            drop(store);
            let told = Told {
                durable: found + 1,
                committed: found + 1,
                ..told
            };
            open(&mut disk.crash(), told);
        }
    }
    assert!(older > 100 && newer > 5, "both were met: {older} {newer}");
}

#[test]
fn power_loss_while_leftovers_are_removed_changes_nothing() {
    let mut leftovers = 0;
    for seed in 0..40 {
        let mut disk = SimDisk::new(seed);
        let at = submissions_of_a_life(seed) * (seed % 10 + 3) / 13;
        disk.power_off_at(at);
        let mut told = Told::nothing(seed);
        live(&mut disk, &mut told).unwrap_err();
        let image = disk.crash();
        let found = open(&mut image.image(seed), told);
        for at in 0.. {
            let mut disk = image.image(seed * 100 + at);
            leftovers += u64::from(disk.names().len() > 1);
            disk.power_off_at(at);
            let done = open_and_tidy(&mut disk).is_ok();
            assert_eq!(open(&mut disk.crash(), told), found);
            if done {
                break;
            }
        }
    }
    assert!(leftovers > 20, "there was something to remove: {leftovers}");
}

/// The process died after the superblock had reached the disk's cache and before it was durable. What the next start
/// finds it makes durable, before it removes what the power loss after that would need.
#[test]
fn what_a_start_relies_on_is_durable() {
    for seed in 0..30 {
        let mut disk = SimDisk::new(seed);
        let mut told = Told::default();
        let mut store = SnapshotStore::open(&mut disk, small_config()).unwrap();
        for _ in 0..2 {
            build(&mut store).unwrap();
            told.durable += 1;
        }
        for _ in 0..6 {
            store.wait().unwrap();
        }
        drop(store);
        let name = disk.names().pop().unwrap();
        let superblock = disk.media(&name).unwrap()[..4096].to_vec();
        disk.edit(&name, 0, &[0; 4096]);
        let file = disk.open(&name).unwrap();
        let mut buf = AlignedBuf::with_capacity(4096);
        buf.extend_from_slice(&superblock);
        disk.submit_write(file, 0, buf, false, 0);
        let mut done = Vec::new();
        while done.is_empty() {
            disk.wait().unwrap();
            disk.reap(&mut done);
        }
        drop(open_and_tidy(&mut disk).unwrap());
        told.committed = told.durable;
        assert_eq!(open(&mut disk.crash(), told), told.durable);
    }
}
