//! A member that has forgotten what it promised: its disk was damaged, so votes and entries may be lost.
//!
//! It keeps its name and its place among the voters, so it must not do anything that a forgotten promise forbids.
//! `PROTOCOL.md`, section 10, has the rules and why they are enough; whoever drives the node keeps the first three:
//!
//! 1. It hands the node no message and no tick, so nobody is voted for, nothing is accepted, no read is confirmed.
//! 2. It hears from every other voter, after its start, in which term that one is, and waits for a leader whose term is none
//!    of those behind.
//! 3. It asks that leader for a snapshot that reaches the leader's last entry as of then, with [`rejoin_request`].
//! 4. That snapshot is the first thing its raft hears of ([`Node::rejoin`]): with it, durably, come the leader's term and a
//!    vote for the leader in it.

use keelson_storage::ids::{MemberId, RaftIndex, Term};

use super::entry::Mark;
use super::error::NodeError;
use super::group::Node;
use super::membership::Membership;
use super::message::{Body, Message};

/// What a leader is told so that it sends a snapshot that reaches `last`.
#[must_use]
pub fn rejoin_request(term: Term, last: RaftIndex) -> Message {
    let hint = Mark {
        index: last,
        term: Term(0),
    };
    Message {
        term,
        body: Body::AppendRejected {
            // Not below what the leader takes for accepted here, or it would not listen.
            index: last,
            hint,
            commit: RaftIndex(0),
            wants_snapshot: last,
        },
    }
}

impl Node {
    /// Takes the snapshot with which a member begins that has forgotten everything. Its file has arrived.
    ///
    /// # Errors
    /// The snapshot makes no sense.
    ///
    /// # Panics
    /// If the node has entries.
    pub fn rejoin(
        &mut self,
        leader: MemberId,
        term: Term,
        at: Mark,
        membership: Membership,
    ) -> Result<(), NodeError> {
        assert!(
            self.last() == RaftIndex(0),
            "who begins anew has no entries, and this one ends at {}",
            self.last()
        );
        if term < self.term() {
            return Ok(());
        }
        let raft = &mut self.raw.raft;
        raft.become_follower(term.0, leader.0);
        // It may have voted in this term. The only member for which that can have mattered is the one that won.
        raft.vote = leader.0;
        let body = Body::Snapshot { at, membership };
        self.on_message(leader, Message { term, body })
    }
}
