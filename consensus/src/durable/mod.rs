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
#[derive(Debug, Default)]
pub struct Replay {
    hard_state: HardState,
    last_index: RaftIndex,
    last_term: Term,
}

impl Replay {
    /// Takes a hard-state record.
    pub fn on_hard_state(&mut self, payload: Bytes) -> Result<(), ReplayError> {
        let state = decode_hard_state(payload)?;
        if state.term < self.hard_state.term {
            return Err(ReplayError::TermWentBack {
                from: self.hard_state.term,
                to: state.term,
            });
        }
        self.hard_state = state;
        Ok(())
    }

    /// Takes an entry record and returns the entry if it is committed. With one voting member every
    /// durable entry is.
    pub fn on_entry(
        &mut self,
        term: Term,
        index: RaftIndex,
        payload: Bytes,
    ) -> Result<Entry, ReplayError> {
        if index != self.last_index.next() {
            return Err(ReplayError::Gap {
                expected: self.last_index.next(),
                found: index,
            });
        }
        if term < self.last_term || term > self.hard_state.term {
            return Err(ReplayError::EntryTerm {
                index,
                term,
                log: self.last_term,
                hard_state: self.hard_state.term,
            });
        }
        self.last_index = index;
        self.last_term = term;
        Ok(Entry {
            term,
            index,
            payload,
        })
    }

    /// The newest hard state and the last index read.
    #[must_use]
    pub fn finish(self) -> (HardState, RaftIndex) {
        (self.hard_state, self.last_index)
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
            .unwrap();
        assert_eq!(entry.payload, Bytes::from_static(b"a"));
        replay.on_hard_state(hard(3)).unwrap();
        replay
            .on_entry(Term(3), RaftIndex(2), Bytes::new())
            .unwrap();
        let (state, last) = replay.finish();
        assert_eq!((state.term, state.vote), (Term(3), MemberId(3)));
        assert_eq!(last, RaftIndex(2));
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
