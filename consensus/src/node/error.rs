//! Why a node refuses.

use keelson_storage::ids::{MemberId, RaftIndex};
use thiserror::Error;

use super::membership::MembershipError;
use crate::limits::{ENTRY_PAYLOAD_BYTES_MAX, READS_PENDING_MAX};

/// Why a proposal, a read or a message was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NodeError {
    /// The batch is larger than one entry may be; split it.
    #[error("entry of {payload_bytes} bytes is above the limit of {ENTRY_PAYLOAD_BYTES_MAX} bytes")]
    EntryTooLarge {
        /// Size of the refused payload.
        payload_bytes: usize,
    },
    /// Another member leads, or none does; ask that one, or wait.
    #[error("this member does not lead the group")]
    NotLeader,
    /// Nobody leads; wait.
    #[error("the group has no leader")]
    NoLeader,
    /// The leadership is being handed over; wait until [`Node::leader`](super::Node::leader) changes.
    #[error("the leadership is being handed over")]
    Transferring,
    /// A leader reads only after an entry of its own term is committed; try again.
    #[error("the leader has not committed an entry of its term yet")]
    NotReady,
    /// So many reads wait for an answer already.
    #[error("{READS_PENDING_MAX} reads wait for their index")]
    TooManyReads,
    /// The last change of the membership is not applied yet; try again.
    #[error("a change of the membership is on its way")]
    MembershipPending,
    /// The change makes no sense.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A peer sent what no sound peer sends. The message is dropped.
    #[error("message from member {from}: {problem}")]
    Message {
        /// Who sent it.
        from: MemberId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The leader knows that this member held entries durably which it does not hold: its disk was lost or
    /// replaced. It must not vote again under this id; stop it.
    #[error(
        "the leader knows of entry {known} in this member's log, which ends at {last}: the log was lost"
    )]
    LogLost {
        /// The entry.
        known: RaftIndex,
        /// The last one that is there.
        last: RaftIndex,
    },
}
