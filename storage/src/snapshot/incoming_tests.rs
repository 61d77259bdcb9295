//! A file goes from one directory to another: whole, or not at all.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;

use super::store_model_tests::{build, check, generation_of, small_config};
use super::*;
use crate::io::{Disk, SimDisk};

const PIECE_BYTES: usize = 12_288;

/// A directory with so many generations, and the pieces of its newest file.
fn sender(seed: u64, generations: u64) -> (Arc<Snapshot>, Vec<Bytes>) {
    let mut store = SnapshotStore::open(SimDisk::new(seed), small_config()).unwrap();
    let mut snapshot = build(&mut store).unwrap();
    for _ in 1..generations {
        snapshot = build(&mut store).unwrap();
    }
    let count = snapshot.file_bytes().div_ceil(PIECE_BYTES as u64);
    for number in 0..count {
        let offset = number * PIECE_BYTES as u64;
        let bytes = (snapshot.file_bytes() - offset).min(PIECE_BYTES as u64) as usize;
        store.read_piece(&snapshot, offset, bytes, number);
    }
    let mut pieces = vec![Bytes::new(); count as usize];
    let mut arrived = 0;
    while arrived < count {
        store.wait().unwrap();
        while let Some((number, piece)) = store.take_piece() {
            pieces[number as usize] = piece.unwrap();
            arrived += 1;
        }
    }
    (snapshot, pieces)
}

/// Receives a file up to the moment at which it counts.
fn receive<D: Disk>(
    store: &mut SnapshotStore<D>,
    pieces: &[Bytes],
) -> Result<Arc<Snapshot>, SnapshotError> {
    let file_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
    store.begin_incoming(file_bytes);
    let mut taken = 0;
    for piece in pieces {
        assert_eq!(store.incoming_next(), Some(taken));
        store.take_incoming(piece).expect("the pieces fit");
        taken += piece.len() as u64;
        store.pump()?;
    }
    let file = loop {
        if let Some(file) = store.flushed_incoming() {
            break file;
        }
        store.wait()?;
    };
    assert_eq!(store.incoming_arrived(), Some(file_bytes));
    let snapshot = Arc::new(store.verify_incoming(&file)?);
    store.commit_incoming(Arc::clone(&snapshot));
    drop(snapshot);
    for _ in 0..1000 {
        if let Some(snapshot) = store.received() {
            return Ok(snapshot);
        }
        store.wait()?;
    }
    panic!("a commit ends");
}

#[test]
fn a_file_is_the_same_in_another_directory_under_a_number_of_its_own() {
    let (sent, pieces) = sender(1, 3);
    let mut store = SnapshotStore::open(SimDisk::new(2), small_config()).unwrap();
    build(&mut store).unwrap();
    for sequence in 2..4 {
        // Twice in a row.
        let received = receive(&mut store, &pieces).unwrap();
        assert_eq!(received.sequence().0, sequence);
        assert_eq!(generation_of(&received), generation_of(&sent));
        assert_eq!(store.current().unwrap().sequence(), received.sequence());
        check(&mut store, &received).unwrap();
    }
    // And one of its own goes on from it.
    let next = build(&mut store).unwrap();
    assert_eq!(generation_of(&next), 4);
    check(&mut store, &next).unwrap();
    drop(next);
    let mut store = SnapshotStore::open(store.into_disk().crash(), small_config()).unwrap();
    let current = store.current().cloned().unwrap();
    assert_eq!(generation_of(&current), 4);
    check(&mut store, &current).unwrap();
}

#[test]
fn a_changed_byte_anywhere_is_found() {
    let (_, pieces) = sender(3, 1);
    let mut store = SnapshotStore::open(SimDisk::new(4), small_config()).unwrap();
    for (at, piece) in pieces.iter().enumerate() {
        for byte in [0, piece.len() / 2, piece.len() - 1] {
            if (at, byte) == (0, 0) {
                continue;
            }
            let mut changed = piece.to_vec();
            changed[byte] ^= 16;
            let mut pieces = pieces.clone();
            pieces[at] = changed.into();
            let error = receive(&mut store, &pieces).unwrap_err();
            assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
            store.abort_incoming();
        }
    }
    let received = receive(&mut store, &pieces).unwrap();
    check(&mut store, &received).unwrap();
}

#[test]
fn pieces_of_something_else_are_refused() {
    let (_, pieces) = sender(5, 1);
    let file_bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    let mut store = SnapshotStore::open(SimDisk::new(6), small_config()).unwrap();
    let mut refuse = |file_bytes: u64, piece: &[u8], why: IncomingError| {
        store.begin_incoming(file_bytes);
        assert_eq!(store.take_incoming(piece), Err(why));
        store.abort_incoming();
        store.pump().unwrap();
    };
    let mut changed = pieces[0].to_vec();
    changed[20] ^= 1;
    refuse(file_bytes, &changed, IncomingError::Superblock);
    refuse(file_bytes + 4096, &pieces[0], IncomingError::Superblock);
    refuse(file_bytes, &pieces[1], IncomingError::Superblock);
    refuse(file_bytes, &pieces[0][..100], IncomingError::Misfit);
    refuse(file_bytes, &[], IncomingError::Misfit);
    refuse(4096, &pieces[0], IncomingError::Misfit);
    assert_eq!(store.take_incoming(&pieces[0]), Err(IncomingError::Misfit));
}

#[test]
fn power_loss_at_any_moment_leaves_the_old_file_or_the_new_one() {
    let (_, pieces) = sender(7, 3);
    let mut outcomes = [0, 0];
    for seed in 0..3 {
        for at in 0.. {
            let mut store = SnapshotStore::open(SimDisk::new(seed), small_config()).unwrap();
            build(&mut store).unwrap();
            let submitted = store.disk_mut().submitted();
            store.disk_mut().power_off_at(submitted + at);
            let is_told = is_received_before_power_off(&mut store, &pieces);
            let is_off = store.disk_mut().is_powered_off();
            let disk = store.into_disk().crash();
            let mut store = SnapshotStore::open(disk, small_config()).unwrap();
            store.remove_leftovers();
            let current = store.current().cloned().unwrap();
            let generation = generation_of(&current);
            assert!(generation == 3 || (generation == 1 && !is_told));
            outcomes[usize::from(generation == 3)] += 1;
            check(&mut store, &current).unwrap();
            if !is_off {
                assert!(is_told);
                break;
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

/// Whether the file was said to count before the power failed.
fn is_received_before_power_off(store: &mut SnapshotStore<SimDisk>, pieces: &[Bytes]) -> bool {
    let file_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
    store.begin_incoming(file_bytes);
    for piece in pieces {
        store.take_incoming(piece).expect("the pieces fit");
        if store.pump().is_err() {
            return false;
        }
    }
    for _ in 0..1000 {
        if let Some(file) = store.flushed_incoming() {
            let Ok(snapshot) = store.verify_incoming(&file) else {
                return false;
            };
            store.commit_incoming(Arc::new(snapshot));
        }
        if store.received().is_some() {
            return true;
        }
        if store.wait().is_err() {
            return false;
        }
    }
    false
}
