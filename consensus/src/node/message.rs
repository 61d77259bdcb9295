//! What members of a group tell each other.
//!
//! Our own words for raft's messages: [`crate::replicate`] turns them into bytes and back, and the engine
//! looks into them where it has to act (a snapshot to send). Entries hold slices of what was received.

use bytes::Bytes;
use keelson_storage::ids::{RaftIndex, Term};

use super::entry::{Entry, Mark};
use super::membership::Membership;

/// A message between two members of a group. Sender and receiver travel beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term, or the one it asks for; 0 in [`Body::ReadIndex`], which knows no term.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The leader's entries that follow `previous`, without a gap; none if only the commit index is news.
    Append {
        /// The entry before the first one.
        previous: Mark,
        /// What the leader knows to be committed.
        commit: RaftIndex,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// Everything up to `index` is as the leader has it, and durable.
    AppendAccepted {
        /// The last such entry.
        index: RaftIndex,
        /// What the sender knows to be committed.
        commit: RaftIndex,
    },
    /// The entry `previous` of an append is not there.
    AppendRejected {
        /// Where it should have been.
        index: RaftIndex,
        /// The best place to try next.
        hint: Mark,
        /// What the sender knows to be committed.
        commit: RaftIndex,
        /// Not 0: the sender wants a snapshot that reaches this entry.
        wants_snapshot: RaftIndex,
    },
    /// The leader is there.
    Heartbeat {
        /// What is committed and, as the leader knows, durable at the receiver.
        commit: RaftIndex,
        /// The newest read that waits for answers; empty for none.
        context: Bytes,
    },
    /// The follower is there, and follows.
    HeartbeatAnswer {
        /// What the sender knows to be committed.
        commit: RaftIndex,
        /// As it came.
        context: Bytes,
    },
    /// The sender stands for election.
    RequestVote {
        /// Only to hear whether it would win.
        pre: bool,
        /// The leader asked for it: followers need not wait until they miss the leader.
        transfer: bool,
        /// The last entry of the sender's log.
        last: Mark,
        /// The last entry that the sender knows to be committed.
        committed: Mark,
    },
    /// The answer.
    Vote {
        /// To which question.
        pre: bool,
        /// Yes or no.
        granted: bool,
        /// The last entry that the sender knows to be committed; zeros if granted.
        committed: Mark,
    },
    /// What the receiver needs is not in the leader's log any more: a snapshot file takes its place. To be
    /// handed to [`Node::on_message`](super::Node::on_message) when the file has arrived.
    Snapshot {
        /// The last entry in the snapshot.
        at: Mark,
        /// Who belongs to the group as of that entry.
        membership: Membership,
    },
    /// The leader hands over: stand for election at once.
    TimeoutNow,
    /// A follower asks which entry a read must have seen.
    ReadIndex {
        /// Names the read.
        context: Bytes,
    },
    /// The answer.
    ReadIndexAnswer {
        /// The entry.
        index: RaftIndex,
        /// As it came.
        context: Bytes,
    },
}
