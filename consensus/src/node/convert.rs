//! Our words for the `raft` crate's, and back. Bytes are moved, never parsed or copied.

use keelson_storage::ids::{MemberId, RaftIndex, Term};
use raft::eraftpb::{self, ConfChangeType, EntryType, MessageType};
use raft::{CAMPAIGN_TRANSFER, StateRole};

use super::entry::{Entry, EntryKind, HardState, Mark};
use super::membership::{Membership, MembershipChange};
use super::message::{Body, Message};

pub(super) fn entry_to_raft(entry: &Entry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry::default();
    out.set_entry_type(match entry.kind {
        EntryKind::Commands => EntryType::EntryNormal,
        EntryKind::Membership => EntryType::EntryConfChangeV2,
    });
    out.term = entry.term.0;
    out.index = entry.index.0;
    out.data = entry.payload.clone();
    out
}

pub(super) fn entry_from_raft(entry: eraftpb::Entry) -> Entry {
    Entry {
        term: Term(entry.term),
        index: RaftIndex(entry.index),
        kind: match entry.get_entry_type() {
            EntryType::EntryNormal => EntryKind::Commands,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Membership,
        },
        payload: entry.data,
    }
}

pub(super) fn hard_state_to_raft(state: HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term.0,
        vote: state.vote.0,
        commit: state.commit.0,
        ..Default::default()
    }
}

pub(super) fn hard_state_from_raft(state: &eraftpb::HardState) -> HardState {
    HardState {
        term: Term(state.term),
        vote: MemberId(state.vote),
        commit: RaftIndex(state.commit),
    }
}

pub(super) fn membership_to_raft(membership: &Membership) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: membership.voters.iter().map(|member| member.0).collect(),
        learners: membership.learners.iter().map(|member| member.0).collect(),
        ..Default::default()
    }
}

pub(super) fn membership_from_raft(state: &eraftpb::ConfState) -> Membership {
    let ids = |ids: &[u64]| ids.iter().copied().map(MemberId).collect();
    Membership {
        voters: ids(&state.voters),
        learners: ids(&state.learners),
    }
}

pub(super) fn change_to_raft(change: MembershipChange) -> eraftpb::ConfChangeV2 {
    let mut single = eraftpb::ConfChangeSingle::default();
    single.set_change_type(match change {
        MembershipChange::AddVoter(_) => ConfChangeType::AddNode,
        MembershipChange::AddLearner(_) => ConfChangeType::AddLearnerNode,
        MembershipChange::Remove(_) => ConfChangeType::RemoveNode,
    });
    single.node_id = change.member().0;
    let mut out = eraftpb::ConfChangeV2::default();
    out.set_changes(vec![single].into());
    out
}

pub(super) fn snapshot_to_raft(at: Mark, membership: &Membership) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot::default();
    let meta = out.mut_metadata();
    meta.index = at.index.0;
    meta.term = at.term.0;
    meta.set_conf_state(membership_to_raft(membership));
    out
}

pub(super) fn snapshot_mark(snapshot: &eraftpb::Snapshot) -> Mark {
    mark(snapshot.get_metadata().index, snapshot.get_metadata().term)
}

pub(super) fn mark(index: u64, term: u64) -> Mark {
    Mark {
        index: RaftIndex(index),
        term: Term(term),
    }
}

/// A message on its way out.
pub(super) fn message_from_raft(mut message: eraftpb::Message) -> Message {
    let context = message.take_context();
    let index = RaftIndex(message.index);
    let commit = RaftIndex(message.commit);
    let committed = mark(message.commit, message.commit_term);
    let body = match message.get_msg_type() {
        MessageType::MsgAppend => Body::Append {
            previous: mark(message.index, message.log_term),
            commit,
            entries: message
                .take_entries()
                .into_iter()
                .map(entry_from_raft)
                .collect(),
        },
        MessageType::MsgAppendResponse if message.reject => Body::AppendRejected {
            index,
            hint: mark(message.reject_hint, message.log_term),
            commit,
            wants_snapshot: RaftIndex(message.request_snapshot),
        },
        MessageType::MsgAppendResponse => Body::AppendAccepted { index, commit },
        MessageType::MsgHeartbeat => Body::Heartbeat { commit, context },
        MessageType::MsgHeartbeatResponse => Body::HeartbeatAnswer { commit, context },
        kind @ (MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) => {
            Body::RequestVote {
                pre: kind == MessageType::MsgRequestPreVote,
                transfer: context == CAMPAIGN_TRANSFER,
                last: mark(message.index, message.log_term),
                committed,
            }
        }
        kind @ (MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse) => {
            Body::Vote {
                pre: kind == MessageType::MsgRequestPreVoteResponse,
                granted: !message.reject,
                committed,
            }
        }
        MessageType::MsgSnapshot => {
            let snapshot = message.get_snapshot();
            Body::Snapshot {
                at: snapshot_mark(snapshot),
                membership: membership_from_raft(snapshot.get_metadata().get_conf_state()),
            }
        }
        MessageType::MsgTimeoutNow => Body::TimeoutNow,
        MessageType::MsgReadIndex => Body::ReadIndex {
            context: read_context(&mut message),
        },
        MessageType::MsgReadIndexResp => Body::ReadIndexAnswer {
            index,
            context: read_context(&mut message),
        },
        local @ (MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader) => {
            unreachable!("a node proposes and transfers only as leader, so {local:?} stays inside")
        }
    };
    let is_read = matches!(body, Body::ReadIndex { .. });
    Message {
        term: Term(if is_read { 0 } else { message.term }),
        body,
    }
}

fn read_context(message: &mut eraftpb::Message) -> bytes::Bytes {
    message
        .take_entries()
        .into_iter()
        .next()
        .map(|entry| entry.data)
        .unwrap_or_default()
}

/// A message that came in. [`super::inbound`] has looked at it.
pub(super) fn message_to_raft(from: MemberId, to: MemberId, message: Message) -> eraftpb::Message {
    let mut out = eraftpb::Message {
        from: from.0,
        to: to.0,
        term: message.term.0,
        ..Default::default()
    };
    match message.body {
        Body::Append {
            previous,
            commit,
            entries,
        } => {
            out.set_msg_type(MessageType::MsgAppend);
            (out.index, out.log_term) = (previous.index.0, previous.term.0);
            out.commit = commit.0;
            let entries: Vec<_> = entries.iter().map(entry_to_raft).collect();
            out.set_entries(entries.into());
        }
        Body::AppendAccepted { index, commit } => {
            out.set_msg_type(MessageType::MsgAppendResponse);
            (out.index, out.commit) = (index.0, commit.0);
        }
        Body::AppendRejected {
            index,
            hint,
            commit,
            wants_snapshot,
        } => {
            out.set_msg_type(MessageType::MsgAppendResponse);
            out.reject = true;
            (out.index, out.commit) = (index.0, commit.0);
            (out.reject_hint, out.log_term) = (hint.index.0, hint.term.0);
            out.request_snapshot = wants_snapshot.0;
        }
        Body::Heartbeat { commit, context } => {
            out.set_msg_type(MessageType::MsgHeartbeat);
            (out.commit, out.context) = (commit.0, context);
        }
        Body::HeartbeatAnswer { commit, context } => {
            out.set_msg_type(MessageType::MsgHeartbeatResponse);
            (out.commit, out.context) = (commit.0, context);
        }
        body @ (Body::RequestVote { .. } | Body::Vote { .. }) => vote_to_raft(body, &mut out),
        Body::Snapshot { at, membership } => {
            out.set_msg_type(MessageType::MsgSnapshot);
            out.set_snapshot(snapshot_to_raft(at, &membership));
        }
        Body::TimeoutNow => out.set_msg_type(MessageType::MsgTimeoutNow),
        Body::ReadIndex { context } => {
            out.set_msg_type(MessageType::MsgReadIndex);
            out.set_entries(vec![entry_of(context)].into());
        }
        Body::ReadIndexAnswer { index, context } => {
            out.set_msg_type(MessageType::MsgReadIndexResp);
            out.index = index.0;
            out.set_entries(vec![entry_of(context)].into());
        }
    }
    out
}

fn vote_to_raft(body: Body, out: &mut eraftpb::Message) {
    match body {
        Body::RequestVote {
            pre,
            transfer,
            last,
            committed,
        } => {
            out.set_msg_type(if pre {
                MessageType::MsgRequestPreVote
            } else {
                MessageType::MsgRequestVote
            });
            if transfer {
                out.context = bytes::Bytes::from_static(CAMPAIGN_TRANSFER);
            }
            (out.index, out.log_term) = (last.index.0, last.term.0);
            (out.commit, out.commit_term) = (committed.index.0, committed.term.0);
        }
        Body::Vote {
            pre,
            granted,
            committed,
        } => {
            out.set_msg_type(if pre {
                MessageType::MsgRequestPreVoteResponse
            } else {
                MessageType::MsgRequestVoteResponse
            });
            out.reject = !granted;
            (out.commit, out.commit_term) = (committed.index.0, committed.term.0);
        }
        _ => unreachable!("only the two kinds above are given"),
    }
}

/// An entry that only carries `data`: a proposal, or the name of a read.
pub(super) fn entry_of(data: bytes::Bytes) -> eraftpb::Entry {
    eraftpb::Entry {
        data,
        ..Default::default()
    }
}

/// What a member is in its group at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

impl From<StateRole> for Role {
    fn from(role: StateRole) -> Self {
        match role {
            StateRole::Follower => Self::Follower,
            StateRole::PreCandidate => Self::PreCandidate,
            StateRole::Candidate => Self::Candidate,
            StateRole::Leader => Self::Leader,
        }
    }
}
