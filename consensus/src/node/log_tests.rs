//! The log in memory against a list of everything that was appended.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::node::EntryKind;

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry {
        term: Term(term),
        index: RaftIndex(index),
        kind: EntryKind::Commands,
        payload: Bytes::from(vec![0; bytes]),
    }
}

fn empty() -> Log {
    Log::new(Mark::default(), Vec::new(), None, Default::default())
}

proptest! {
    #[test]
    fn it_holds_what_a_list_holds(
        steps in proptest::collection::vec((0_u64..4, 1_u64..6, 0_usize..50, any::<bool>()), 1..80)
    ) {
        let mut log = empty();
        let mut model: Vec<Entry> = Vec::new();
        let (mut term, mut applied, mut dropped) = (1, 0, 0);
        let keep = LogKeep { entries: 5, bytes: 120 };
        for (back, count, bytes, compacts) in steps {
            if compacts {
                applied = model.len() as u64;
                log.compact(RaftIndex(applied), keep, None);
                let mut kept_bytes = 0;
                let kept = model.iter().rev().take(5).take_while(|entry| {
                    kept_bytes += entry.payload.len() as u64;
                    kept_bytes <= 120
                });
                dropped = dropped.max(model.len() - kept.count());
            }
            let back = back.min(model.len() as u64 - applied);
            term += u64::from(back > 0);
            model.truncate(model.len() - back as usize);
            let next = model.len() as u64 + 1;
            let new: Vec<_> = (next..next + count).map(|index| entry(index, term, bytes)).collect();
            model.extend(new.iter().cloned());
            log.append(new.into_iter());
            prop_assert_eq!(log.start().index.0 as usize, dropped);
            prop_assert_eq!(log.last(), model.last().unwrap().mark());
            for (at, expected) in model.iter().enumerate() {
                let index = RaftIndex(at as u64 + 1);
                let found = log.get(index);
                prop_assert_eq!(found, (at >= dropped).then_some(expected));
                if at + 1 >= dropped {
                    prop_assert_eq!(log.term_at(index), Some(expected.term));
                    let behind: u64 = model[at + 1..].iter().map(|e| e.payload.len() as u64).sum();
                    prop_assert_eq!(log.bytes_behind(index), behind);
                }
            }
        }
    }
}

#[test]
fn raft_gets_at_least_one_entry_and_not_many_bytes() {
    let mut log = empty();
    log.append((1..=9).map(|index| entry(index, 1, 10)));
    let read = |low, high, bytes: u64| {
        let entries = log.entries(low, high, bytes, GetEntriesContext::empty(false));
        entries.map(|entries| entries.len())
    };
    assert_eq!(read(2, 8, 0), Ok(1));
    assert_eq!(read(2, 8, 80), Ok(3));
    assert_eq!(read(2, 8, 1000), Ok(6));
    assert_eq!(read(0, 3, 1000), Err(StorageError::Compacted.into()));
    assert_eq!(read(2, 12, 1000), Err(StorageError::Unavailable.into()));
}

#[test]
fn a_snapshot_is_sent_only_if_the_log_goes_on_behind_it() {
    let mut log = empty();
    log.append((1..=9).map(|index| entry(index, 1, 10)));
    let none = LogKeep {
        entries: 0,
        bytes: 0,
    };
    log.compact(RaftIndex(6), none, None);
    assert!(log.snapshot(0, 2).is_err());
    assert!(log.wants_snapshot_file());
    let file = |index| SnapshotMark {
        at: super::convert::mark(index, 1),
        membership: Membership::of_voters([MemberId(1), MemberId(2)]),
    };
    log.on_snapshot_file(file(5));
    assert!(log.snapshot(0, 2).is_err());
    assert!(log.wants_snapshot_file());
    log.on_snapshot_file(file(6));
    assert!(!log.wants_snapshot_file());
    assert_eq!(log.snapshot(0, 2).unwrap().get_metadata().index, 6);
    // A member that joined since is not in it.
    assert!(log.snapshot(0, 3).is_err());
    assert!(log.wants_snapshot_file());
    log.on_snapshot_file(file(6));
    assert!(log.snapshot(7, 2).is_err());
    // An older one says nothing.
    log.on_snapshot_file(file(4));
    assert_eq!(log.snapshot(0, 2).unwrap().get_metadata().index, 6);
}

#[test]
fn what_a_member_lacks_stays_up_to_a_bound() {
    let mut log = empty();
    let none = LogKeep {
        entries: 0,
        bytes: 0,
    };
    let payload = Bytes::from(vec![0; 64 << 20]);
    let entries = (1..=6).map(|index| Entry {
        payload: payload.clone(),
        ..entry(index, 1, 0)
    });
    log.append(entries);
    log.compact(RaftIndex(4), none, Some(RaftIndex(1)));
    assert_eq!(log.start().index, RaftIndex(1));
    // Applied entries count, whatever comes after them.
    log.compact(RaftIndex(5), none, Some(RaftIndex(1)));
    assert_eq!(log.start().index, RaftIndex(1));
    log.compact(RaftIndex(6), none, Some(RaftIndex(1)));
    assert_eq!(log.start().index, RaftIndex(2), "more than 256 MiB");
    log.compact(RaftIndex(6), none, Some(RaftIndex(4)));
    assert_eq!(log.start().index, RaftIndex(4));
    log.compact(RaftIndex(6), none, None);
    assert_eq!(log.start().index, RaftIndex(6));
}
