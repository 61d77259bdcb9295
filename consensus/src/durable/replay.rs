//! Puts a log together again from the records of a lane, in lane order.
//!
//! A snapshot may stand for the log up to an entry. The lane need not hold what is before it any more, but
//! it may; those entries are looked at and not given out. What is known to be committed is given out at
//! once, so that a log of any length is read in bounded memory; what is not stays for the group.
//!
//! The records are those of everything this member ever appended, so parts of them do not count:
//!
//! - An entry at or before the last one read takes its place; those behind it are gone.
//! - A *log start* says that a snapshot took the place of the log. It counts if the snapshot of today is
//!   that one or a later one. Otherwise a crash came before the file counted, and the log before goes on.
//! - Where the entry at the snapshot's own index is of another term, the log behind it was another one.
//!
//! Invariants:
//! 1. What was given out is never replaced.
//! 2. Terms never decrease along the log, and none is above that of the newest hard state.

use std::collections::VecDeque;

use bytes::Bytes;
use keelson_storage::ids::{RaftIndex, Term};
use keelson_storage::wal::{RecordKind, WalRecord};
use thiserror::Error;

use super::record::{HARD_STATE_BYTES, decode_hard_state};
use crate::node::{Entry, EntryKind, HardState, LogKeep, Mark};

/// A log that is being read.
#[derive(Debug)]
pub struct Replay {
    hard_state: HardState,
    /// The newest term in the lane. The snapshot's hard state may be newer: that of the member that made it.
    lane_term: Term,
    /// The last entry that the snapshot stands for.
    snapshot: Mark,
    branch: Branch,
    /// The last entry read.
    last: Option<RaftIndex>,
    /// The newest hard state says nothing about the commit index: whoever wrote it was the only voter.
    commits_as_read: bool,
    /// The last entry given out, or the snapshot.
    released: Mark,
    /// Committed, to be taken.
    committed: VecDeque<Entry>,
    /// Behind `released`.
    tail: VecDeque<Entry>,
    keep: LogKeep,
    /// Given out, and kept for members that lag; `recent_start` is before the first.
    recent: VecDeque<Entry>,
    recent_bytes: u64,
    recent_start: Mark,
}

/// Where the records read so far stand to the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Branch {
    /// No entry was read yet.
    Unread,
    /// They have not reached its entry.
    Below,
    /// They go on behind it.
    On,
    /// They held another entry in its place.
    Off,
    /// They begin too far behind it, with this entry.
    Floating(RaftIndex),
}

/// A log as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedLog {
    /// The newest hard state; its commit index may be beyond the log.
    pub hard_state: HardState,
    /// What the first of `entries` follows.
    pub start: Mark,
    /// Entries that were given out and kept, and those that are not known to be committed.
    pub entries: Vec<Entry>,
    /// The last entry that was given out, or the snapshot's.
    pub applied: RaftIndex,
}

impl Default for Replay {
    fn default() -> Self {
        Self::after_snapshot(HardState::default(), Mark::default())
    }
}

impl Replay {
    /// A log that continues a snapshot, which stands for everything up to `snapshot`, and in which
    /// `hard_state` was the newest. Its commit index is of no interest: it knows nothing of this lane.
    #[must_use]
    pub fn after_snapshot(hard_state: HardState, snapshot: Mark) -> Self {
        Self {
            hard_state: HardState {
                commit: snapshot.index,
                ..hard_state
            },
            lane_term: Term(0),
            snapshot,
            branch: Branch::Unread,
            last: None,
            commits_as_read: false,
            released: snapshot,
            committed: VecDeque::new(),
            tail: VecDeque::new(),
            keep: LogKeep {
                entries: 0,
                bytes: 0,
            },
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_start: snapshot,
        }
    }

    /// Keeps the last of the entries it gives out, for members that lag.
    #[must_use]
    pub fn keeping(mut self, keep: LogKeep) -> Self {
        self.keep = keep;
        self
    }

    /// Takes the next record. [`Replay::take_committed`] is to be called before the one after it.
    ///
    /// # Errors
    /// The records are no log.
    pub fn on_record(&mut self, record: WalRecord) -> Result<(), ReplayError> {
        let mark = Mark {
            index: record.index,
            term: record.term,
        };
        match record.kind {
            RecordKind::HardState => self.on_hard_state(record.payload)?,
            RecordKind::Entry => self.on_entry(mark, EntryKind::Commands, record.payload)?,
            RecordKind::Membership => self.on_entry(mark, EntryKind::Membership, record.payload)?,
            RecordKind::LogStart => self.on_log_start(mark)?,
        }
        self.release();
        Ok(())
    }

    /// The next committed entry.
    #[must_use]
    pub fn take_committed(&mut self) -> Option<Entry> {
        self.committed.pop_front()
    }

    /// This member is the only voter as of the last entry taken: what is on its disk is committed, up to
    /// and with the next entry that changes the membership. False if there was nothing.
    pub fn commit_as_sole_voter(&mut self) -> bool {
        let mut released = false;
        while let Some(entry) = self.tail.pop_front() {
            let changes = entry.kind == EntryKind::Membership;
            self.give_out(entry);
            released = true;
            if changes {
                break;
            }
        }
        released
    }

    /// What was read.
    ///
    /// # Errors
    /// The log ends before the snapshot does, or begins too far behind it.
    pub fn finish(self) -> Result<ReplayedLog, ReplayError> {
        assert!(
            self.committed.is_empty(),
            "committed entries are applied before the log is put together"
        );
        match (self.branch, self.last) {
            (Branch::Below, Some(last)) => {
                return Err(ReplayError::Gap {
                    expected: last.next(),
                    found: self.snapshot.index,
                });
            }
            (Branch::Floating(first), _) => {
                return Err(ReplayError::Begin {
                    snapshot: self.snapshot.index,
                    first,
                });
            }
            _ => {}
        }
        let commit = self.hard_state.commit.max(self.released.index);
        Ok(ReplayedLog {
            hard_state: HardState {
                commit,
                ..self.hard_state
            },
            start: self.recent_start,
            entries: self.recent.into_iter().chain(self.tail).collect(),
            applied: self.released.index,
        })
    }

    /// The last entry that the snapshot stands for.
    #[must_use]
    pub fn snapshot_index(&self) -> RaftIndex {
        self.snapshot.index
    }

    /// Whether any entry was read.
    #[must_use]
    pub fn has_entries(&self) -> bool {
        self.last.is_some()
    }

    /// Whether the lane held a vote, as that of a member does that was ever in touch with others.
    #[must_use]
    pub fn has_hard_state(&self) -> bool {
        self.lane_term > Term(0)
    }

    fn on_hard_state(&mut self, payload: Bytes) -> Result<(), ReplayError> {
        let payload_bytes = payload.len();
        let (state, has_commit) =
            decode_hard_state(payload).ok_or(ReplayError::HardState { payload_bytes })?;
        if state.term < self.lane_term {
            return Err(ReplayError::TermWentBack {
                from: self.lane_term,
                to: state.term,
            });
        }
        self.lane_term = state.term;
        self.commits_as_read = !has_commit;
        // It speaks of the entries before it. Those behind it may take the place of others.
        let there = self.last.unwrap_or_default();
        let commit = self.hard_state.commit.max(state.commit.min(there));
        if state.term >= self.hard_state.term {
            self.hard_state = state;
        }
        self.hard_state.commit = commit;
        Ok(())
    }

    fn on_log_start(&mut self, start: Mark) -> Result<(), ReplayError> {
        if start.index > self.snapshot.index {
            return Ok(());
        }
        self.check_not_given_out(start.index.next())?;
        self.tail.clear();
        self.last = Some(start.index);
        self.reach(start);
        Ok(())
    }

    fn on_entry(&mut self, at: Mark, kind: EntryKind, payload: Bytes) -> Result<(), ReplayError> {
        let follows = match self.last {
            Some(last) => at.index <= last.next(),
            None => true,
        };
        if !follows || at.index == RaftIndex(0) {
            let last = self.last.unwrap_or(self.snapshot.index);
            return Err(ReplayError::Gap {
                expected: last.next(),
                found: at.index,
            });
        }
        if at.term > self.hard_state.term {
            return Err(self.wrong_term(at, self.last_term()));
        }
        self.check_not_given_out(at.index)?;
        self.lane_term = self.lane_term.max(at.term);
        self.last = Some(at.index);
        if at.index <= self.snapshot.index {
            self.tail.clear();
            self.reach(at);
            return Ok(());
        }
        match self.branch {
            Branch::Unread if at.index == self.snapshot.index.next() => self.branch = Branch::On,
            Branch::Unread => self.branch = Branch::Floating(at.index),
            Branch::Below => unreachable!("an entry that follows one below the snapshot is in it"),
            Branch::On | Branch::Off | Branch::Floating(_) => {}
        }
        if self.branch != Branch::On {
            return Ok(());
        }
        while self.tail.back().is_some_and(|last| last.index >= at.index) {
            self.tail.pop_back();
        }
        let last_term = self.last_term();
        if at.term < last_term {
            return Err(self.wrong_term(at, last_term));
        }
        self.tail.push_back(Entry {
            term: at.term,
            index: at.index,
            kind,
            payload,
        });
        Ok(())
    }

    /// The log goes up to `at`, which is at or before the snapshot's entry.
    fn reach(&mut self, at: Mark) {
        self.branch = if at.index < self.snapshot.index {
            Branch::Below
        } else if at.term == self.snapshot.term {
            Branch::On
        } else {
            Branch::Off
        };
    }

    fn release(&mut self) {
        while let Some(entry) = self.tail.front()
            && (self.commits_as_read || entry.index <= self.hard_state.commit)
        {
            let entry = self
                .tail
                .pop_front()
                .expect("the front of the tail was just seen");
            self.give_out(entry);
        }
    }

    fn give_out(&mut self, entry: Entry) {
        self.released = entry.mark();
        if self.keep.entries > 0 {
            self.recent_bytes += entry.payload.len() as u64;
            self.recent.push_back(entry.clone());
        } else {
            self.recent_start = entry.mark();
        }
        while self.recent.len() > self.keep.entries || self.recent_bytes > self.keep.bytes {
            let Some(oldest) = self.recent.pop_front() else {
                break;
            };
            self.recent_bytes -= oldest.payload.len() as u64;
            self.recent_start = oldest.mark();
        }
        self.committed.push_back(entry);
    }

    fn check_not_given_out(&self, index: RaftIndex) -> Result<(), ReplayError> {
        let given_out = self.released.index > self.snapshot.index;
        if given_out && index <= self.released.index {
            return Err(ReplayError::Undercut {
                index,
                committed: self.released.index,
            });
        }
        Ok(())
    }

    fn last_term(&self) -> Term {
        self.tail
            .back()
            .map_or(self.released.term, |last| last.term)
    }

    fn wrong_term(&self, at: Mark, log: Term) -> ReplayError {
        ReplayError::EntryTerm {
            index: at.index,
            term: at.term,
            log,
            hard_state: self.hard_state.term,
        }
    }
}

/// The lane's records are intact but do not form a raft log.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReplayError {
    /// An index is missing.
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
    /// A committed entry is replaced.
    #[error(
        "log entry {index} comes again, but {committed} was committed; the data directory mixes logs"
    )]
    Undercut {
        /// Index of the entry.
        index: RaftIndex,
        /// The last one known to be committed.
        committed: RaftIndex,
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
#[path = "replay_tests.rs"]
mod tests;
