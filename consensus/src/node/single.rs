//! A raft group with one voting member: it elects itself and commits what its own disk holds.
//!
//! The engine hands it payloads and durability reports; it hands on entries to persist and entries to
//! apply. A crash between any two steps leaves a log prefix, which [`Node::restore`] continues.

use std::collections::VecDeque;

use bytes::Bytes;
use keelson_storage::ids::{MemberId, RaftIndex, Term};
use thiserror::Error;

use crate::limits::{ENTRIES_UNCOMMITTED_MAX, ENTRY_PAYLOAD_BYTES_MAX};

const _: () = assert!(ENTRIES_UNCOMMITTED_MAX > 0);

/// The log of one shard and this member's part in it.
#[derive(Debug)]
pub struct Node {
    member: MemberId,
    hard_state: HardState,
    hard_state_persisted: bool,
    last: RaftIndex,
    persisted: RaftIndex,
    committed: RaftIndex,
    unsent: Ready,
    /// Entries not yet handed out as committed, oldest first.
    uncommitted: VecDeque<Entry>,
}

impl Node {
    /// A node whose log ends at `last`, all of it committed, with the newest durable hard state.
    /// A fresh member starts from `HardState::default()` and index 0.
    #[must_use]
    pub fn restore(member: MemberId, hard_state: HardState, last: RaftIndex) -> Self {
        Self {
            member,
            hard_state,
            hard_state_persisted: true,
            last,
            persisted: last,
            committed: last,
            unsent: Ready::default(),
            uncommitted: VecDeque::new(),
        }
    }

    /// Stands for election in the next term. With one voter the vote for itself wins as soon as it is
    /// durable; the empty entry that opens the term is appended, as raft demands.
    pub fn campaign(&mut self) -> Result<(), NodeError> {
        self.hard_state = HardState {
            term: self.hard_state.term.next(),
            vote: self.member,
        };
        self.hard_state_persisted = false;
        self.unsent.hard_state = Some(self.hard_state);
        self.propose(Bytes::new()).map(|_| ())
    }

    /// Appends an entry to the log. It is not committed, and must not be answered, until
    /// [`Node::take_committed`] returns it.
    pub fn propose(&mut self, payload: Bytes) -> Result<RaftIndex, NodeError> {
        if payload.len() > ENTRY_PAYLOAD_BYTES_MAX {
            return Err(NodeError::EntryTooLarge {
                payload_bytes: payload.len(),
            });
        }
        if self.hard_state.vote != self.member {
            return Err(NodeError::NotLeader);
        }
        self.last = self.last.next();
        let entry = Entry {
            term: self.hard_state.term,
            index: self.last,
            payload,
        };
        self.unsent.entries.push(entry.clone());
        self.uncommitted.push_back(entry);
        Ok(self.last)
    }

    /// What must be made durable, in this order: the hard state, then the entries.
    #[must_use]
    pub fn take_ready(&mut self) -> Ready {
        std::mem::take(&mut self.unsent)
    }

    /// The hard state of `term` is durable.
    pub fn on_hard_state_persisted(&mut self, term: Term) {
        assert!(
            term <= self.hard_state.term,
            "a term was persisted that was never entered: {term} > {}",
            self.hard_state.term
        );
        self.hard_state_persisted = term == self.hard_state.term;
        self.advance();
    }

    /// Every entry up to `index` is durable.
    pub fn on_persisted(&mut self, index: RaftIndex) {
        assert!(
            index <= self.last,
            "invariant 3: persisted {index} beyond the last entry {}",
            self.last
        );
        self.persisted = self.persisted.max(index);
        self.advance();
    }

    /// The next committed entry, in index order.
    pub fn take_committed(&mut self) -> Option<Entry> {
        let entry = self.uncommitted.front()?;
        if entry.index > self.committed {
            return None;
        }
        self.uncommitted.pop_front()
    }

    /// Whether the engine may propose another entry now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.uncommitted.len() < ENTRIES_UNCOMMITTED_MAX
    }

    /// Whether this member leads and its term is durable, so that reads of the applied state are
    /// linearizable and proposals can commit.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.hard_state.vote == self.member && self.hard_state_persisted
    }

    /// The leader this member knows of.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        self.is_leader().then_some(self.member)
    }

    /// The index that the applied state must have reached for a read that arrives now.
    #[must_use]
    pub fn read_index(&self) -> Option<RaftIndex> {
        self.is_leader().then_some(self.committed)
    }

    /// The newest hard state.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Index of the last committed entry.
    #[must_use]
    pub fn committed(&self) -> RaftIndex {
        self.committed
    }

    /// Index of the last entry in the log.
    #[must_use]
    pub fn last(&self) -> RaftIndex {
        self.last
    }

    fn advance(&mut self) {
        if self.hard_state_persisted {
            self.committed = self.committed.max(self.persisted);
        }
        assert!(
            self.committed <= self.persisted,
            "invariant 3: committed {} beyond persisted {}",
            self.committed,
            self.persisted
        );
    }
}

/// One log entry: a batch of commands, or empty for the entry that opens a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term in which it was proposed.
    pub term: Term,
    /// Position in the log.
    pub index: RaftIndex,
    /// Encoded batch (`keelson_storage::state::encode_entry`), or empty.
    pub payload: Bytes,
}

/// What raft must never forget: the newest term and whom this member voted for in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Newest term seen.
    pub term: Term,
    /// Vote in that term; member 0 means none.
    pub vote: MemberId,
}

/// What must reach the disk next.
#[derive(Debug, Default)]
pub struct Ready {
    /// Changed term and vote.
    pub hard_state: Option<HardState>,
    /// New entries, in index order.
    pub entries: Vec<Entry>,
}

/// Why a proposal was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NodeError {
    /// The batch is larger than one entry may be; split it.
    #[error("entry of {payload_bytes} bytes is above the limit of {ENTRY_PAYLOAD_BYTES_MAX} bytes")]
    EntryTooLarge {
        /// Size of the refused payload.
        payload_bytes: usize,
    },
    /// Another member leads, or none does.
    #[error("this member does not lead the group")]
    NotLeader,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: MemberId = MemberId(7);

    fn fresh() -> Node {
        Node::restore(ME, HardState::default(), RaftIndex(0))
    }

    #[test]
    fn g_d_1_nothing_commits_before_it_is_durable() {
        let mut node = fresh();
        node.campaign().unwrap();
        let index = node.propose(Bytes::from_static(b"x")).unwrap();
        assert_eq!(node.take_ready().entries.len(), 2);
        assert!(node.take_committed().is_none());
        node.on_hard_state_persisted(Term(1));
        assert!(node.take_committed().is_none());
        node.on_persisted(RaftIndex(1));
        assert_eq!(node.take_committed().unwrap().index, RaftIndex(1));
        assert!(node.take_committed().is_none());
        node.on_persisted(index);
        assert_eq!(
            node.take_committed().unwrap().payload,
            Bytes::from_static(b"x")
        );
    }

    #[test]
    fn g_r_1_term_and_vote_are_durable_before_anything_commits() {
        let mut node = fresh();
        node.campaign().unwrap();
        node.on_persisted(RaftIndex(1));
        assert!(node.take_committed().is_none());
        assert!(!node.is_leader());
        assert_eq!(node.read_index(), None);
        node.on_hard_state_persisted(Term(1));
        assert!(node.take_committed().is_some());
        assert_eq!(node.leader(), Some(ME));
    }

    #[test]
    fn each_restart_enters_a_new_term_and_continues_the_log() {
        let state = HardState {
            term: Term(4),
            vote: ME,
        };
        let mut node = Node::restore(ME, state, RaftIndex(9));
        node.campaign().unwrap();
        let ready = node.take_ready();
        assert_eq!(ready.hard_state.unwrap().term, Term(5));
        assert_eq!(ready.entries[0].index, RaftIndex(10));
        assert_eq!(ready.entries[0].term, Term(5));
    }

    #[test]
    fn oversized_entries_are_refused() {
        let mut node = fresh();
        node.campaign().unwrap();
        let payload = Bytes::from(vec![0; ENTRY_PAYLOAD_BYTES_MAX + 1]);
        assert!(matches!(
            node.propose(payload),
            Err(NodeError::EntryTooLarge { .. })
        ));
        assert_eq!(node.last(), RaftIndex(1));
    }

    #[test]
    fn a_node_that_never_campaigned_refuses_proposals() {
        assert_eq!(fresh().propose(Bytes::new()), Err(NodeError::NotLeader));
    }
}
