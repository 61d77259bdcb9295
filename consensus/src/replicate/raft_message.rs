//! A raft message as bytes.

use bytes::{BufMut, Bytes, BytesMut};
use keelson_storage::ids::{MemberId, RaftIndex, Term};

use super::error::FrameError;
use super::reader::Reader;
use crate::limits::{
    APPEND_ENTRIES_MAX, ENTRY_PAYLOAD_BYTES_MAX, MEMBERS_MAX, READ_CONTEXT_BYTES_MAX,
};
use crate::node::{Body, Entry, EntryKind, Mark, Membership, Message};

const APPEND: u8 = 1;
const APPEND_ACCEPTED: u8 = 2;
const APPEND_REJECTED: u8 = 3;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ANSWER: u8 = 5;
const REQUEST_VOTE: u8 = 6;
const VOTE: u8 = 7;
const SNAPSHOT: u8 = 8;
const TIMEOUT_NOW: u8 = 9;
const READ_INDEX: u8 = 10;
const READ_INDEX_ANSWER: u8 = 11;

/// Flags of a question for votes and of its answer.
const PRE: u8 = 1 << 0;
const TRANSFER: u8 = 1 << 1;
const GRANTED: u8 = 1 << 1;

const ENTRY_HEADER_BYTES: usize = 4 + 4 + 8;

/// The fixed part of every message: type, flags, a count, the term.
const MESSAGE_HEADER_BYTES: usize = 1 + 1 + 2 + 4 + 8;

/// Bytes that a message takes.
pub(super) fn encoded_len(message: &Message) -> usize {
    let body_bytes = match &message.body {
        Body::Append { entries, .. } => {
            24 + entries
                .iter()
                .map(|entry| ENTRY_HEADER_BYTES + entry.payload.len())
                .sum::<usize>()
        }
        Body::AppendAccepted { .. } => 16,
        Body::AppendRejected { .. } => 40,
        Body::Heartbeat { context, .. }
        | Body::HeartbeatAnswer { context, .. }
        | Body::ReadIndexAnswer { context, .. } => 8 + context.len(),
        Body::RequestVote { .. } => 32,
        Body::Vote { .. } => 16,
        Body::Snapshot { membership, .. } => 16 + membership_bytes(membership),
        Body::TimeoutNow => 0,
        Body::ReadIndex { context } => context.len(),
    };
    MESSAGE_HEADER_BYTES + body_bytes
}

pub(super) fn encode(message: &Message, out: &mut BytesMut) {
    let (kind, flags, count) = head_of(&message.body);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u16_le(0);
    out.put_u32_le(u32::try_from(count).expect("counts are bounded far below 2^32"));
    out.put_u64_le(message.term.0);
    put_body(&message.body, out);
}

/// Type, flags and count.
fn head_of(body: &Body) -> (u8, u8, usize) {
    let flags = |first: bool, second: bool| u8::from(first) | (u8::from(second) << 1);
    match body {
        Body::Append { entries, .. } => (APPEND, 0, entries.len()),
        Body::AppendAccepted { .. } => (APPEND_ACCEPTED, 0, 0),
        Body::AppendRejected { .. } => (APPEND_REJECTED, 0, 0),
        Body::Heartbeat { context, .. } => (HEARTBEAT, 0, context.len()),
        Body::HeartbeatAnswer { context, .. } => (HEARTBEAT_ANSWER, 0, context.len()),
        Body::RequestVote { pre, transfer, .. } => (REQUEST_VOTE, flags(*pre, *transfer), 0),
        Body::Vote { pre, granted, .. } => (VOTE, flags(*pre, *granted), 0),
        Body::Snapshot { .. } => (SNAPSHOT, 0, 0),
        Body::TimeoutNow => (TIMEOUT_NOW, 0, 0),
        Body::ReadIndex { context } => (READ_INDEX, 0, context.len()),
        Body::ReadIndexAnswer { context, .. } => (READ_INDEX_ANSWER, 0, context.len()),
    }
}

fn put_body(body: &Body, out: &mut BytesMut) {
    match body {
        Body::Append {
            previous,
            commit,
            entries,
        } => {
            put_mark(out, *previous);
            out.put_u64_le(commit.0);
            entries.iter().for_each(|entry| put_entry(out, entry));
        }
        Body::AppendAccepted { index, commit } => {
            out.put_u64_le(index.0);
            out.put_u64_le(commit.0);
        }
        Body::AppendRejected {
            index,
            hint,
            commit,
            wants_snapshot,
        } => {
            out.put_u64_le(index.0);
            put_mark(out, *hint);
            out.put_u64_le(commit.0);
            out.put_u64_le(wants_snapshot.0);
        }
        Body::Heartbeat { commit, context } | Body::HeartbeatAnswer { commit, context } => {
            out.put_u64_le(commit.0);
            out.put_slice(context);
        }
        Body::RequestVote {
            last, committed, ..
        } => {
            put_mark(out, *last);
            put_mark(out, *committed);
        }
        Body::Vote { committed, .. } => put_mark(out, *committed),
        Body::Snapshot { at, membership } => {
            put_mark(out, *at);
            put_membership(out, membership);
        }
        Body::TimeoutNow => {}
        Body::ReadIndex { context } => out.put_slice(context),
        Body::ReadIndexAnswer { index, context } => {
            out.put_u64_le(index.0);
            out.put_slice(context);
        }
    }
}

pub(super) fn decode(from: &mut Reader) -> Result<Message, FrameError> {
    let kind = from.u8()?;
    let flags = from.u8()?;
    from.zero(2)?;
    let count = from.u32()? as usize;
    let term = Term(from.u64()?);
    let flags_known = match kind {
        REQUEST_VOTE | VOTE => PRE | TRANSFER,
        _ => 0,
    };
    let is_counted = matches!(
        kind,
        APPEND | HEARTBEAT | HEARTBEAT_ANSWER | READ_INDEX | READ_INDEX_ANSWER
    );
    if flags & !flags_known != 0 || (count != 0 && !is_counted) {
        return Err(FrameError::Content("a reserved bit is set"));
    }
    let body = match kind {
        APPEND => decode_append(from, count)?,
        APPEND_ACCEPTED => Body::AppendAccepted {
            index: from.index()?,
            commit: from.index()?,
        },
        APPEND_REJECTED => Body::AppendRejected {
            index: from.index()?,
            hint: from.mark()?,
            commit: from.index()?,
            wants_snapshot: from.index()?,
        },
        HEARTBEAT => Body::Heartbeat {
            commit: from.index()?,
            context: context(from, count)?,
        },
        HEARTBEAT_ANSWER => Body::HeartbeatAnswer {
            commit: from.index()?,
            context: context(from, count)?,
        },
        REQUEST_VOTE => Body::RequestVote {
            pre: flags & PRE != 0,
            transfer: flags & TRANSFER != 0,
            last: from.mark()?,
            committed: from.mark()?,
        },
        VOTE => Body::Vote {
            pre: flags & PRE != 0,
            granted: flags & GRANTED != 0,
            committed: from.mark()?,
        },
        SNAPSHOT => Body::Snapshot {
            at: from.mark()?,
            membership: membership(from)?,
        },
        TIMEOUT_NOW => Body::TimeoutNow,
        READ_INDEX => Body::ReadIndex {
            context: context(from, count)?,
        },
        READ_INDEX_ANSWER => Body::ReadIndexAnswer {
            index: from.index()?,
            context: context(from, count)?,
        },
        _ => return Err(FrameError::Content("a raft message of an unknown type")),
    };
    Ok(Message { term, body })
}

fn decode_append(from: &mut Reader, count: usize) -> Result<Body, FrameError> {
    let previous = from.mark()?;
    let commit = from.index()?;
    if count > APPEND_ENTRIES_MAX {
        return Err(FrameError::Content("too many entries"));
    }
    from.may_hold(count, ENTRY_HEADER_BYTES)?;
    let last = previous.index.0.checked_add(count as u64);
    if last.is_none() {
        return Err(FrameError::Content("an index is out of range"));
    }
    let mut entries = Vec::with_capacity(count);
    for offset in 1..=count as u64 {
        let payload_bytes = from.u32()? as usize;
        let kind = match from.u8()? {
            0 => EntryKind::Commands,
            1 => EntryKind::Membership,
            _ => return Err(FrameError::Content("an entry of an unknown kind")),
        };
        from.zero(3)?;
        let term = Term(from.u64()?);
        if payload_bytes > ENTRY_PAYLOAD_BYTES_MAX {
            return Err(FrameError::Content("an entry is too large"));
        }
        entries.push(Entry {
            term,
            index: RaftIndex(previous.index.0 + offset),
            kind,
            payload: from.bytes(payload_bytes)?,
        });
    }
    Ok(Body::Append {
        previous,
        commit,
        entries,
    })
}

fn put_entry(out: &mut BytesMut, entry: &Entry) {
    let payload_bytes = u32::try_from(entry.payload.len()).expect("an entry is far below 4 GiB");
    out.put_u32_le(payload_bytes);
    out.put_u8(match entry.kind {
        EntryKind::Commands => 0,
        EntryKind::Membership => 1,
    });
    out.put_bytes(0, 3);
    out.put_u64_le(entry.term.0);
    out.put_slice(&entry.payload);
}

pub(super) fn put_mark(out: &mut BytesMut, mark: Mark) {
    out.put_u64_le(mark.index.0);
    out.put_u64_le(mark.term.0);
}

pub(super) fn membership_bytes(membership: &Membership) -> usize {
    8 + (membership.voters.len() + membership.learners.len()) * 8
}

pub(super) fn put_membership(out: &mut BytesMut, membership: &Membership) {
    for members in [&membership.voters, &membership.learners] {
        out.put_u32_le(u32::try_from(members.len()).expect("a group has few members"));
    }
    for member in membership.voters.iter().chain(&membership.learners) {
        out.put_u64_le(member.0);
    }
}

pub(super) fn membership(from: &mut Reader) -> Result<Membership, FrameError> {
    let voters = from.u32()? as usize;
    let learners = from.u32()? as usize;
    if voters > MEMBERS_MAX || learners > MEMBERS_MAX {
        return Err(FrameError::Content("too many members"));
    }
    let mut ids = |count: usize| {
        (0..count)
            .map(|_| from.member())
            .collect::<Result<Vec<_>, _>>()
    };
    let (voters, learners) = (ids(voters)?, ids(learners)?);
    let is_set = voters.is_sorted_by(|a, b| a < b) && learners.is_sorted_by(|a, b| a < b);
    let membership = Membership {
        voters: voters.into_iter().collect(),
        learners: learners.into_iter().collect(),
    };
    if !is_set || membership.contains(MemberId(0)) {
        return Err(FrameError::Content(
            "the members are not in order, or one has no id",
        ));
    }
    Ok(membership)
}

fn context(from: &mut Reader, count: usize) -> Result<Bytes, FrameError> {
    if count > READ_CONTEXT_BYTES_MAX {
        return Err(FrameError::Content("the name of a read is too long"));
    }
    // Small and kept for long: a slice would keep the frame.
    Ok(Bytes::copy_from_slice(&from.bytes(count)?))
}
