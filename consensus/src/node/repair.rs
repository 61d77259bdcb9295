//! A member whose state is damaged asks for a snapshot although its log is whole.
//!
//! The snapshot takes the place of the whole log, so it must reach everything that this member ever accepted:
//! the leader may have counted on it. And it can only reach what is committed, for which this member may be
//! needed. So it first lets everything become committed that it has accepted, and accepts nothing new
//! meanwhile; only then does it ask.

use keelson_storage::ids::RaftIndex;
use raft::{INVALID_ID, INVALID_INDEX, StateRole};

use super::group::Node;
use super::message::{Body, Message};

impl Node {
    /// Asks the leader for a snapshot, again and again until one has arrived. A member that leads should hand
    /// over first.
    pub fn request_snapshot(&mut self) {
        self.wants_snapshot = true;
    }

    /// Whether it waits for one.
    #[must_use]
    pub fn is_waiting_for_snapshot(&self) -> bool {
        self.wants_snapshot
    }

    /// Leaves out of a message what would be new to the log.
    pub(super) fn accept_nothing_new(&self, message: &mut Message) {
        if let Body::Append {
            previous, entries, ..
        } = &mut message.body
            && self.wants_snapshot
            && previous.index >= self.last()
            && message.term == self.term()
            && self.ends_in_this_term()
        {
            entries.clear();
        }
    }

    /// Asks, if it is time to.
    pub(super) fn ask_for_snapshot(&mut self) {
        let raft = &self.raw.raft;
        let is_due = self.wants_snapshot
            && raft.pending_request_snapshot == INVALID_INDEX
            && raft.state == StateRole::Follower
            && raft.leader_id != INVALID_ID
            && self.last() == self.committed()
            && self.ends_in_this_term();
        if is_due {
            self.raw
                .request_snapshot()
                .expect("raft's conditions were checked");
        }
    }

    /// Raft takes a request only from a member that has an entry of the leader's term.
    fn ends_in_this_term(&self) -> bool {
        let last: RaftIndex = self.last();
        self.log().term_at(last) == Some(self.term())
    }
}
