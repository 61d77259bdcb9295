//! The raft log as records of a WAL lane: how it is written, and how it is read back.
//!
//! Written: hard state and entries as records of their own kind. Read back after a restart: the newest
//! hard state counts; entries must continue each other without a gap. A crash leaves a prefix of what
//! was appended (the lane guarantees that), so there is nothing to repair here. Layout: `storage/FORMAT.md`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use keelson_storage::ids::{MemberId, RaftIndex, Term};
use thiserror::Error;

use crate::node::{Entry, HardState};

/// Encoded size of a hard state: term and vote.
const HARD_STATE_BYTES: usize = 16;

/// Payload of a hard-state record.
#[must_use]
pub fn encode_hard_state(state: HardState) -> Bytes {
    let mut out = BytesMut::with_capacity(HARD_STATE_BYTES);
    out.put_u64_le(state.term.0);
    out.put_u64_le(state.vote.0);
    out.freeze()
}

fn decode_hard_state(mut payload: Bytes) -> Result<HardState, ReplayError> {
    if payload.len() != HARD_STATE_BYTES {
        return Err(ReplayError::HardState {
            payload_bytes: payload.len(),
        });
    }
    Ok(HardState {
        term: Term(payload.get_u64_le()),
        vote: MemberId(payload.get_u64_le()),
    })
}

/// Puts the log together again from the records of a lane, in lane order.
///
/// A snapshot may stand for the log up to an entry. The lane need not hold what is before it any more,
/// but it may; those entries are looked at and not returned.
#[derive(Debug, Default)]
pub struct Replay {
    hard_state: HardState,
    /// The last entry that the snapshot stands for.
    snapshot_index: RaftIndex,
    /// The last entry read; `None` before the first.
    last_index: Option<RaftIndex>,
    last_term: Term,
}

impl Replay {
    /// A log that continues a snapshot, which stands for everything up to `index`, and in which
    /// `hard_state` was the newest.
    #[must_use]
    pub fn after_snapshot(hard_state: HardState, index: RaftIndex) -> Self {
        Self {
            hard_state,
            snapshot_index: index,
            ..Self::default()
        }
    }

    /// Takes a hard-state record.
    pub fn on_hard_state(&mut self, payload: Bytes) -> Result<(), ReplayError> {
        let state = decode_hard_state(payload)?;
        if state.term < self.hard_state.term && self.is_before_snapshot() {
            return Ok(());
        }
        if state.term < self.hard_state.term {
            return Err(ReplayError::TermWentBack {
                from: self.hard_state.term,
                to: state.term,
            });
        }
        self.hard_state = state;
        Ok(())
    }

    /// Takes an entry record and returns the entry if it is committed and not part of the snapshot. With
    /// one voting member every durable entry is committed.
    pub fn on_entry(
        &mut self,
        term: Term,
        index: RaftIndex,
        payload: Bytes,
    ) -> Result<Option<Entry>, ReplayError> {
        match self.last_index {
            Some(last) if index != last.next() => {
                return Err(ReplayError::Gap {
                    expected: last.next(),
                    found: index,
                });
            }
            None if index > self.snapshot_index.next() || index == RaftIndex(0) => {
                return Err(ReplayError::Begin {
                    snapshot: self.snapshot_index,
                    first: index,
                });
            }
            Some(_) | None => {}
        }
        if term < self.last_term || term > self.hard_state.term {
            return Err(ReplayError::EntryTerm {
                index,
                term,
                log: self.last_term,
                hard_state: self.hard_state.term,
            });
        }
        self.last_index = Some(index);
        self.last_term = term;
        let is_new = index > self.snapshot_index;
        Ok(is_new.then_some(Entry {
            term,
            index,
            payload,
        }))
    }

    /// The newest hard state and the last index read.
    ///
    /// # Errors
    /// The log ends before the snapshot does.
    pub fn finish(self) -> Result<(HardState, RaftIndex), ReplayError> {
        if let Some(last) = self.last_index
            && last < self.snapshot_index
        {
            return Err(ReplayError::Gap {
                expected: last.next(),
                found: self.snapshot_index,
            });
        }
        let last = self.last_index.unwrap_or(self.snapshot_index);
        Ok((self.hard_state, last))
    }

    /// The last entry that the snapshot stands for.
    #[must_use]
    pub fn snapshot_index(&self) -> RaftIndex {
        self.snapshot_index
    }

    /// Whether any entry was read.
    #[must_use]
    pub fn has_entries(&self) -> bool {
        self.last_index.is_some()
    }

    fn is_before_snapshot(&self) -> bool {
        self.last_index.unwrap_or_default() < self.snapshot_index
    }
}

/// The lane's records are intact but do not form a raft log.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReplayError {
    /// An index is missing or repeated.
    #[error("log entry {found} follows where {expected} is due; the data directory mixes logs")]
    Gap {
        /// Index that should come next.
        expected: RaftIndex,
        /// Index found.
        found: RaftIndex,
    },
    /// The log does not go back to where the snapshot ends.
    #[error("the log begins at entry {first}, and the snapshot ends at entry {snapshot}")]
    Begin {
        /// The last entry the snapshot stands for; 0 without one.
        snapshot: RaftIndex,
        /// The first entry read.
        first: RaftIndex,
    },
    /// A hard state of an older term follows a newer one.
    #[error("raft term goes back from {from} to {to}; the data directory mixes logs")]
    TermWentBack {
        /// Newest term before.
        from: Term,
        /// Term found.
        to: Term,
    },
    /// An entry's term does not fit the log before it or the vote that allowed it.
    #[error(
        "log entry {index} has term {term}, but the log was at {log} and the vote at {hard_state}"
    )]
    EntryTerm {
        /// Index of the entry.
        index: RaftIndex,
        /// Its term.
        term: Term,
        /// Term of the entry before it.
        log: Term,
        /// Term of the newest hard state.
        hard_state: Term,
    },
    /// A hard-state record of the wrong size.
    #[error("hard-state record of {payload_bytes} bytes, {HARD_STATE_BYTES} expected")]
    HardState {
        /// Size found.
        payload_bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hard(term: u64) -> Bytes {
        encode_hard_state(HardState {
            term: Term(term),
            vote: MemberId(3),
        })
    }

    #[test]
    fn a_log_reads_back_as_written() {
        let mut replay = Replay::default();
        replay.on_hard_state(hard(2)).unwrap();
        let entry = replay
            .on_entry(Term(2), RaftIndex(1), Bytes::from_static(b"a"))
            .unwrap()
            .unwrap();
        assert_eq!(entry.payload, Bytes::from_static(b"a"));
        replay.on_hard_state(hard(3)).unwrap();
        replay
            .on_entry(Term(3), RaftIndex(2), Bytes::new())
            .unwrap();
        let (state, last) = replay.finish().unwrap();
        assert_eq!((state.term, state.vote), (Term(3), MemberId(3)));
        assert_eq!(last, RaftIndex(2));
    }

    #[test]
    fn a_log_continues_a_snapshot() {
        let state = HardState {
            term: Term(4),
            vote: MemberId(3),
        };
        let replay = || Replay::after_snapshot(state, RaftIndex(7));
        let entry = |replay: &mut Replay, term, index| {
            let entry = replay.on_entry(Term(term), RaftIndex(index), Bytes::new());
            entry.map(|entry| entry.map(|entry| entry.index.0))
        };
        // Nothing is left of the log, or nothing came after the snapshot.
        assert_eq!(replay().finish().unwrap(), (state, RaftIndex(7)));
        let mut covered = replay();
        covered.on_hard_state(hard(2)).unwrap();
        assert_eq!(entry(&mut covered, 2, 6), Ok(None));
        assert_eq!(entry(&mut covered, 4, 7), Ok(None));
        assert_eq!(entry(&mut covered, 4, 8), Ok(Some(8)));
        assert!(covered.on_hard_state(hard(3)).is_err());
        assert_eq!(covered.finish().unwrap(), (state, RaftIndex(8)));
        // What lies between is missing.
        let late = ReplayError::Begin {
            snapshot: RaftIndex(7),
            first: RaftIndex(9),
        };
        assert_eq!(entry(&mut replay(), 4, 9), Err(late));
        assert!(!replay().has_entries());
        let mut short = replay();
        assert_eq!(entry(&mut short, 2, 5), Ok(None));
        assert!(short.finish().is_err());
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let mut replay = Replay::default();
        assert!(matches!(
            replay.on_entry(Term(1), RaftIndex(1), Bytes::new()),
            Err(ReplayError::EntryTerm { .. })
        ));
        replay.on_hard_state(hard(2)).unwrap();
        assert!(matches!(
            replay.on_entry(Term(2), RaftIndex(2), Bytes::new()),
            Err(ReplayError::Begin { .. })
        ));
        replay
            .on_entry(Term(2), RaftIndex(1), Bytes::new())
            .unwrap();
        assert!(matches!(
            replay.on_entry(Term(2), RaftIndex(3), Bytes::new()),
            Err(ReplayError::Gap { .. })
        ));
        assert!(matches!(
            replay.on_hard_state(hard(1)),
            Err(ReplayError::TermWentBack { .. })
        ));
        assert!(matches!(
            replay.on_hard_state(Bytes::from_static(b"short")),
            Err(ReplayError::HardState { payload_bytes: 5 })
        ));
    }
}
