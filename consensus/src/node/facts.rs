//! What can be seen of a node.

use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{MemberId, RaftIndex, Term};
use raft::{ProgressState, StateRole};

use super::convert::{self, Role};
use super::entry::HardState;
use super::group::Node;
use super::membership::Membership;
use crate::limits::{ENTRIES_UNCOMMITTED_MAX, UNCOMMITTED_BYTES_MAX};

/// How far another member is, as the leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Who.
    pub member: MemberId,
    /// Up to here its log is durable and equal to the leader's.
    pub matched: RaftIndex,
    /// What it is sent next.
    pub next: RaftIndex,
    /// How it is fed.
    pub feed: Feed,
    /// It was heard of since the last check of the quorum.
    pub is_active: bool,
    /// It has no vote.
    pub is_learner: bool,
}

/// How a member is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// One message at a time, to learn where its log ends.
    Probe,
    /// As fast as it answers.
    Replicate,
    /// It is waiting for the snapshot that reaches this entry.
    Snapshot(RaftIndex),
}

impl Node {
    /// Whether the engine may propose another entry now. Not while the leadership is being handed over.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let hands_over = self.raw.raft.lead_transferee.is_some();
        if hands_over && !bugs::is_on(Bug::ProposeWhileHandingOver) {
            return false;
        }
        let last = self.raw.raft.raft_log.last_index();
        let waiting = last - self.handed.0;
        if waiting == 0 {
            return true;
        }
        let unstable_bytes = self.raw.raft.raft_log.unstable.entries_size as u64;
        waiting < ENTRIES_UNCOMMITTED_MAX as u64
            && self.log().bytes_behind(self.handed) + unstable_bytes < UNCOMMITTED_BYTES_MAX
    }

    /// Whether this member leads and its term is durable.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader && self.gate.is_vote_durable()
    }

    /// The leader this member knows of.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        let leader = MemberId(self.raw.raft.leader_id);
        let is_me = leader == self.config.member;
        (leader != MemberId(0) && (!is_me || self.is_leader())).then_some(leader)
    }

    /// To whom the leadership is being handed over.
    #[must_use]
    pub fn transferring_to(&self) -> Option<MemberId> {
        self.raw.raft.lead_transferee.map(MemberId)
    }

    /// What this member is at the moment.
    #[must_use]
    pub fn role(&self) -> Role {
        self.raw.raft.state.into()
    }

    /// Who this is.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.config.member
    }

    /// Who belongs to the group.
    #[must_use]
    pub fn membership(&self) -> Membership {
        convert::membership_from_raft(&self.raw.raft.prs().conf().to_conf_state())
    }

    /// How far the other members are; empty unless this one leads.
    #[must_use]
    pub fn progress(&self) -> Vec<PeerProgress> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let membership = self.membership();
        let mut peers: Vec<_> = raft
            .prs()
            .iter()
            .filter(|(id, _)| **id != self.config.member.0)
            .map(|(id, progress)| PeerProgress {
                member: MemberId(*id),
                matched: RaftIndex(progress.matched),
                next: RaftIndex(progress.next_idx),
                feed: match progress.state {
                    ProgressState::Probe => Feed::Probe,
                    ProgressState::Replicate => Feed::Replicate,
                    ProgressState::Snapshot => Feed::Snapshot(RaftIndex(progress.pending_snapshot)),
                },
                is_active: progress.recent_active,
                is_learner: membership.learners.contains(&MemberId(*id)),
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.member);
        peers
    }

    /// Whether a snapshot takes the place of the log at the moment: from its message until it is durable.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.unsent.snapshot.is_some() || self.installing.is_some()
    }

    /// The newest hard state.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        convert::hard_state_from_raft(&self.raw.raft.hard_state())
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// Index of the last committed entry.
    #[must_use]
    pub fn committed(&self) -> RaftIndex {
        RaftIndex(self.raw.raft.raft_log.committed)
    }

    /// Index of the last entry that is durable here. A snapshot file must not reach further.
    #[must_use]
    pub fn persisted(&self) -> RaftIndex {
        RaftIndex(self.raw.raft.raft_log.persisted)
    }

    /// Index of the last entry in the log.
    #[must_use]
    pub fn last(&self) -> RaftIndex {
        RaftIndex(self.raw.raft.raft_log.last_index())
    }

    /// Index of the first entry in memory.
    #[must_use]
    pub fn first(&self) -> RaftIndex {
        self.log().start().index.next()
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("member", &self.config.member)
            .field("role", &self.role())
            .field("hard_state", &self.hard_state())
            .field("applied", &self.applied)
            .field("persisted", &self.persisted())
            .field("last", &self.last())
            .finish_non_exhaustive()
    }
}
