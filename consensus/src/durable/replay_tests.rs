//! Logs read back: as they were written, behind a snapshot, with parts that do not count, and no logs.

use bytes::BytesMut;
use keelson_storage::ids::{MemberId, ShardId};

use super::super::encode_hard_state;
use super::*;

const OLD: Option<u64> = None;

fn record(kind: RecordKind, term: u64, index: u64, payload: Bytes) -> WalRecord {
    WalRecord {
        kind,
        shard: ShardId(0),
        term: Term(term),
        index: RaftIndex(index),
        payload,
    }
}

fn hard(term: u64, commit: Option<u64>) -> WalRecord {
    let state = HardState {
        term: Term(term),
        vote: MemberId(3),
        commit: RaftIndex(commit.unwrap_or(0)),
    };
    let mut payload = encode_hard_state(state);
    if commit.is_none() {
        payload.truncate(16);
    }
    record(RecordKind::HardState, term, 0, payload)
}

fn entry(term: u64, index: u64) -> WalRecord {
    let text = format!("{term}:{index}");
    record(
        RecordKind::Entry,
        term,
        index,
        Bytes::from(text.into_bytes()),
    )
}

fn log_start(term: u64, index: u64) -> WalRecord {
    record(RecordKind::LogStart, term, index, Bytes::new())
}

fn mark(index: u64, term: u64) -> Mark {
    Mark {
        index: RaftIndex(index),
        term: Term(term),
    }
}

fn behind(index: u64, term: u64) -> Replay {
    let state = HardState {
        term: Term(term),
        vote: MemberId(3),
        commit: RaftIndex(index),
    };
    Replay::after_snapshot(state, mark(index, term))
}

/// Feeds records; the marks of what was given out meanwhile.
fn read(replay: &mut Replay, records: Vec<WalRecord>) -> Result<Vec<Mark>, ReplayError> {
    let mut given_out = Vec::new();
    for record in records {
        replay.on_record(record)?;
        while let Some(entry) = replay.take_committed() {
            let text = format!("{}:{}", entry.term, entry.index);
            assert_eq!(entry.payload, text.as_bytes());
            given_out.push(entry.mark());
        }
    }
    Ok(given_out)
}

fn tail(replay: Replay) -> Vec<Mark> {
    let log = replay.finish().unwrap();
    log.entries.iter().map(Entry::mark).collect()
}

#[test]
fn a_log_reads_back_as_written() {
    let mut replay = Replay::default();
    let records = vec![
        hard(2, Some(0)),
        entry(2, 1),
        entry(2, 2),
        hard(3, Some(1)),
        entry(3, 3),
    ];
    assert_eq!(read(&mut replay, records).unwrap(), [mark(1, 2)]);
    let log = replay.finish().unwrap();
    assert_eq!(
        (log.hard_state.term, log.hard_state.vote),
        (Term(3), MemberId(3))
    );
    assert_eq!(log.hard_state.commit, RaftIndex(1));
    assert_eq!((log.start, log.applied), (mark(1, 2), RaftIndex(1)));
    assert_eq!(log.entries.len(), 2);
}

#[test]
fn a_commit_index_speaks_of_the_entries_before_it() {
    let mut replay = Replay::default();
    let records = vec![
        hard(1, Some(0)),
        entry(1, 1),
        entry(1, 2),
        entry(1, 3),
        // Written by one that knew the two below to be committed.
        hard(2, Some(1)),
        entry(2, 2),
        entry(2, 3),
    ];
    assert_eq!(read(&mut replay, records).unwrap(), [mark(1, 1)]);
    assert_eq!(
        read(&mut replay, vec![hard(2, Some(9)), entry(2, 4)]).unwrap(),
        [mark(2, 2), mark(3, 2)]
    );
    assert_eq!(tail(replay), [mark(4, 2)]);
}

#[test]
fn where_one_voter_wrote_without_commit_index_everything_is_committed() {
    let mut replay = Replay::default();
    let records = vec![hard(1, OLD), entry(1, 1), hard(2, OLD), entry(2, 2)];
    let given_out = read(&mut replay, records).unwrap();
    assert_eq!(given_out, [mark(1, 1), mark(2, 2)]);
    // A later version goes on in the same lane.
    let records = vec![hard(3, Some(2)), entry(3, 3), hard(3, Some(3))];
    assert_eq!(read(&mut replay, records).unwrap(), [mark(3, 3)]);
    assert!(tail(replay).is_empty());
}

#[test]
fn a_sole_voter_takes_the_rest_up_to_the_next_change_of_the_membership() {
    let mut replay = Replay::default();
    let change = WalRecord {
        kind: RecordKind::Membership,
        ..entry(1, 2)
    };
    read(
        &mut replay,
        vec![hard(1, Some(0)), entry(1, 1), change, entry(1, 3)],
    )
    .unwrap();
    assert!(replay.commit_as_sole_voter());
    assert_eq!(replay.take_committed().unwrap().index, RaftIndex(1));
    let entry = replay.take_committed().unwrap();
    assert_eq!(entry.kind, EntryKind::Membership);
    assert!(replay.take_committed().is_none());
    assert!(replay.commit_as_sole_voter());
    assert_eq!(replay.take_committed().unwrap().index, RaftIndex(3));
    assert!(!replay.commit_as_sole_voter());
}

#[test]
fn a_later_leader_replaces_what_was_not_committed() {
    let mut replay = Replay::default();
    let records = vec![
        hard(2, Some(0)),
        entry(1, 1),
        entry(2, 2),
        entry(2, 3),
        hard(4, Some(1)),
        // The new leader's entry may be of an older term than the one it replaces.
        entry(1, 2),
        entry(4, 3),
        hard(5, Some(1)),
        entry(2, 2),
    ];
    assert_eq!(read(&mut replay, records).unwrap(), [mark(1, 1)]);
    assert_eq!(tail(replay), [mark(2, 2)]);
}

#[test]
fn what_was_committed_is_never_replaced() {
    let mut replay = Replay::default();
    let records = vec![
        hard(1, Some(0)),
        entry(1, 1),
        entry(1, 2),
        hard(1, Some(2)),
        entry(1, 3),
    ];
    read(&mut replay, records).unwrap();
    read(&mut replay, vec![entry(1, 3)]).unwrap();
    assert_eq!(
        read(&mut replay, vec![entry(1, 2)]),
        Err(ReplayError::Undercut {
            index: RaftIndex(2),
            committed: RaftIndex(2)
        })
    );
}

#[test]
fn a_log_continues_a_snapshot() {
    // Nothing is left of the log, or nothing came after the snapshot.
    let log = behind(7, 4).finish().unwrap();
    assert_eq!((log.start, log.applied), (mark(7, 4), RaftIndex(7)));
    assert_eq!(log.hard_state.term, Term(4));
    let mut covered = behind(7, 4);
    let records = vec![hard(2, Some(0)), entry(2, 6), entry(4, 7), entry(4, 8)];
    assert_eq!(read(&mut covered, records), Ok(vec![]));
    assert!(read(&mut covered, vec![hard(3, Some(0))]).is_err());
    assert_eq!(tail(covered), [mark(8, 4)]);
    // The first record is the one behind the snapshot's.
    let mut next = behind(7, 4);
    read(&mut next, vec![entry(4, 8), hard(4, Some(8))]).unwrap();
    assert_eq!(next.finish().unwrap().applied, RaftIndex(8));
    // What lies between is missing.
    let mut far = behind(7, 4);
    read(&mut far, vec![entry(4, 9)]).unwrap();
    let late = ReplayError::Begin {
        snapshot: RaftIndex(7),
        first: RaftIndex(9),
    };
    assert_eq!(far.finish(), Err(late));
    let mut short = behind(7, 4);
    read(&mut short, vec![entry(2, 5)]).unwrap();
    assert!(matches!(short.finish(), Err(ReplayError::Gap { .. })));
}

#[test]
fn a_log_that_the_snapshot_contradicts_does_not_count() {
    // A crash came between the log start and the file, or the file and what follows.
    let old = || vec![hard(5, Some(2)), entry(5, 6), entry(5, 7), entry(5, 8)];
    let mut replay = behind(7, 4);
    read(&mut replay, old()).unwrap();
    assert_eq!(tail(replay), []);
    let mut replay = behind(7, 4);
    read(&mut replay, old()).unwrap();
    let records = vec![log_start(4, 7), hard(6, Some(2)), entry(6, 8), entry(6, 9)];
    read(&mut replay, records).unwrap();
    assert_eq!(tail(replay), [mark(8, 6), mark(9, 6)]);
    // Behind it an entry of the other log is replaced: that is the other log still.
    let mut replay = behind(7, 4);
    read(&mut replay, old()).unwrap();
    read(&mut replay, vec![hard(6, Some(2)), entry(6, 8)]).unwrap();
    assert_eq!(tail(replay), []);
    // The log itself was mended before the snapshot was made of it.
    let mut replay = behind(7, 4);
    read(&mut replay, old()).unwrap();
    read(&mut replay, vec![entry(4, 7), entry(5, 8)]).unwrap();
    assert_eq!(tail(replay), [mark(8, 5)]);
    // Its beginning was trimmed away.
    let mut replay = behind(7, 4);
    read(&mut replay, vec![entry(4, 12), entry(4, 13)]).unwrap();
    read(&mut replay, vec![log_start(4, 7), entry(4, 8)]).unwrap();
    assert_eq!(tail(replay), [mark(8, 4)]);
}

#[test]
fn a_log_start_whose_file_never_counted_is_passed_over() {
    let mut replay = behind(2, 1);
    let records = vec![
        hard(3, Some(2)),
        entry(1, 2),
        entry(3, 3),
        entry(3, 4),
        log_start(3, 9),
        hard(4, Some(2)),
        entry(4, 5),
    ];
    read(&mut replay, records).unwrap();
    assert_eq!(tail(replay), [mark(3, 3), mark(4, 3), mark(5, 4)]);
    // A later snapshot covers all of it.
    let mut replay = behind(12, 4);
    let records = vec![
        hard(4, Some(2)),
        entry(3, 3),
        log_start(3, 9),
        entry(4, 4),
        entry(4, 5),
    ];
    read(&mut replay, records).unwrap();
    assert!(replay.finish().is_err(), "entries 6 to 12 are missing");
    let mut replay = behind(12, 4);
    let records = vec![
        log_start(3, 9),
        entry(4, 10),
        entry(4, 11),
        entry(4, 12),
        entry(4, 13),
    ];
    read(&mut replay, records).unwrap();
    assert_eq!(tail(replay), [mark(13, 4)]);
}

#[test]
fn some_of_what_was_given_out_is_kept() {
    let mut replay = Replay::default().keeping(LogKeep {
        entries: 3,
        bytes: 1 << 20,
    });
    replay.on_record(hard(1, Some(0))).unwrap();
    read(&mut replay, (1..=7).map(|index| entry(1, index)).collect()).unwrap();
    assert_eq!(read(&mut replay, vec![hard(1, Some(5))]).unwrap().len(), 5);
    let log = replay.finish().unwrap();
    assert_eq!((log.start, log.applied), (mark(2, 1), RaftIndex(5)));
    let indexes: Vec<_> = log.entries.iter().map(|entry| entry.index.0).collect();
    assert_eq!(indexes, [3, 4, 5, 6, 7]);
}

#[test]
fn what_is_no_log_is_refused() {
    let mut replay = Replay::default();
    assert!(matches!(
        replay.on_record(entry(1, 1)),
        Err(ReplayError::EntryTerm { .. })
    ));
    replay.on_record(hard(2, Some(0))).unwrap();
    replay.on_record(entry(2, 1)).unwrap();
    assert!(matches!(
        replay.on_record(entry(2, 3)),
        Err(ReplayError::Gap { .. })
    ));
    assert!(matches!(
        replay.on_record(entry(1, 2)),
        Err(ReplayError::EntryTerm { .. })
    ));
    assert!(matches!(
        replay.on_record(hard(1, Some(0))),
        Err(ReplayError::TermWentBack { .. })
    ));
    let short = record(RecordKind::HardState, 2, 0, Bytes::from_static(b"short"));
    assert!(matches!(
        replay.on_record(short),
        Err(ReplayError::HardState { payload_bytes: 5 })
    ));
}

#[test]
fn the_bytes_of_a_hard_state_are_fixed() {
    let state = HardState {
        term: Term(0x0102),
        vote: MemberId(0x0304),
        commit: RaftIndex(0x0506),
    };
    let mut expected = BytesMut::new();
    for low in [[2, 1], [4, 3], [6, 5]] {
        expected.extend_from_slice(&low);
        expected.extend_from_slice(&[0; 6]);
    }
    assert_eq!(encode_hard_state(state), expected.freeze());
}
