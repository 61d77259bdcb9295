//! What a peer may say. The `raft` crate takes many things for granted and panics where they do not hold;
//! here they are looked at first, so that a peer's mistake costs a message and not the process.

use keelson_storage::ids::{MemberId, RaftIndex, Term};
use raft::{ProgressState, RawNode, StateRole};

use super::convert;
use super::entry::Mark;
use super::error::NodeError;
use super::log::Log;
use super::message::{Body, Message};
use crate::limits::{
    APPEND_ENTRIES_MAX, ENTRY_PAYLOAD_BYTES_MAX, READ_CONTEXT_BYTES_MAX, READS_PENDING_MAX,
};

/// No index or term comes near it, so that sums do not overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// Whether a message makes sense in itself.
pub(super) fn check(from: MemberId, me: MemberId, message: &Message) -> Result<(), NodeError> {
    let problem = if from == MemberId(0) || from == me {
        Some("it has no sender")
    } else {
        problem_of(message)
    };
    match problem {
        Some(problem) => Err(NodeError::Message { from, problem }),
        None => Ok(()),
    }
}

fn problem_of(message: &Message) -> Option<&'static str> {
    let term = message.term;
    let is_read = matches!(message.body, Body::ReadIndex { .. });
    if is_read != (term == Term(0)) || term.0 >= NUMBER_MAX {
        return Some("its term is out of range");
    }
    let is_mark = |mark: &Mark| mark.index.0 < NUMBER_MAX && mark.term <= term;
    let is_sound = match &message.body {
        Body::Append {
            previous, commit, ..
        } => is_mark(previous) && commit.0 < NUMBER_MAX,
        Body::AppendAccepted { index, commit } => index.0 < NUMBER_MAX && commit.0 < NUMBER_MAX,
        Body::AppendRejected { index, hint, .. } => index.0 < NUMBER_MAX && is_mark(hint),
        Body::Heartbeat { commit, .. } | Body::HeartbeatAnswer { commit, .. } => {
            commit.0 < NUMBER_MAX
        }
        Body::RequestVote {
            last, committed, ..
        } => is_mark(last) && is_mark(committed),
        Body::Vote { committed, .. } => is_mark(committed),
        Body::Snapshot { at, membership } => {
            is_mark(at) && at.index > RaftIndex(0) && at.term > Term(0) && membership.is_sound()
        }
        Body::TimeoutNow => true,
        Body::ReadIndex { .. } => true,
        Body::ReadIndexAnswer { index, .. } => index.0 < NUMBER_MAX,
    };
    if !is_sound {
        return Some("an index, a term or the membership is out of range");
    }
    match &message.body {
        Body::Append {
            previous, entries, ..
        } => problem_of_entries(term, *previous, entries),
        Body::Heartbeat { context, .. }
        | Body::HeartbeatAnswer { context, .. }
        | Body::ReadIndex { context }
        | Body::ReadIndexAnswer { context, .. }
            if context.len() > READ_CONTEXT_BYTES_MAX =>
        {
            Some("the name of the read is too long")
        }
        _ => None,
    }
}

fn problem_of_entries(
    term: Term,
    previous: Mark,
    entries: &[super::entry::Entry],
) -> Option<&'static str> {
    if entries.len() > APPEND_ENTRIES_MAX {
        return Some("it has too many entries");
    }
    let mut last = previous;
    for entry in entries {
        if entry.index != last.index.next() || entry.term < last.term || entry.term > term {
            return Some("its entries do not follow each other");
        }
        if entry.payload.len() > ENTRY_PAYLOAD_BYTES_MAX {
            return Some("an entry is too large");
        }
        last = entry.mark();
    }
    None
}

/// Whether raft is to see a message, in the state it is in. May mend it.
pub(super) fn admit(
    raw: &mut RawNode<Log>,
    from: MemberId,
    message: &mut Message,
) -> Result<bool, NodeError> {
    let last = raw.raft.raft_log.last_index();
    let is_current = message.term.0 == raw.raft.term && raw.raft.state == StateRole::Leader;
    match &mut message.body {
        Body::Heartbeat { commit, .. } if message.term.0 >= raw.raft.term && commit.0 > last => {
            Err(NodeError::LogLost {
                known: *commit,
                last: RaftIndex(last),
            })
        }
        Body::AppendAccepted { index, .. } if is_current && index.0 > last => {
            Err(NodeError::Message {
                from,
                problem: "it accepts entries that do not exist",
            })
        }
        Body::AppendRejected {
            index,
            hint,
            wants_snapshot,
            ..
        } if is_current && *wants_snapshot == RaftIndex(0) => {
            Ok(keep_above_match(raw, from, index.0, hint))
        }
        Body::ReadIndex { .. } => Ok(raw.raft.pending_read_count() < READS_PENDING_MAX),
        _ => Ok(true),
    }
}

/// A rejection that was long on its way must not lead the leader below what the follower has accepted since
/// (the crate does not look, upstream #557). False if it says nothing new.
fn keep_above_match(raw: &mut RawNode<Log>, from: MemberId, index: u64, hint: &mut Mark) -> bool {
    let probe = match hint.term {
        Term(0) => hint.index.0,
        term => {
            let log = &raw.raft.raft_log;
            let hint_index = hint.index.0.min(log.last_index());
            log.find_conflict_by_term(hint_index, term.0).0
        }
    };
    let Some(progress) = raw.raft.mut_prs().get_mut(from.0) else {
        return true;
    };
    progress.recent_active = true;
    if progress.state == ProgressState::Replicate {
        return true;
    }
    if index <= progress.matched {
        return false;
    }
    if probe < progress.matched {
        *hint = convert::mark(progress.matched, 0);
    }
    true
}
