//! What the records of a lane hold.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use keelson_storage::ids::{MemberId, RaftIndex, Term};
use keelson_storage::wal::RecordKind;

use crate::node::{EntryKind, HardState};

/// Encoded size of a hard state: term, vote, commit.
pub(super) const HARD_STATE_BYTES: usize = 24;

/// The same as it was written when a group had one voter: without commit.
pub(super) const HARD_STATE_BYTES_OLD: usize = 16;

/// Payload of a hard-state record.
#[must_use]
pub fn encode_hard_state(state: HardState) -> Bytes {
    let mut out = BytesMut::with_capacity(HARD_STATE_BYTES);
    out.put_u64_le(state.term.0);
    out.put_u64_le(state.vote.0);
    out.put_u64_le(state.commit.0);
    out.freeze()
}

/// The hard state of a record, and whether it says how far the log is committed. `None` if it is none.
pub(super) fn decode_hard_state(mut payload: Bytes) -> Option<(HardState, bool)> {
    let has_commit = match payload.len() {
        HARD_STATE_BYTES => true,
        HARD_STATE_BYTES_OLD => false,
        _ => return None,
    };
    let mut state = HardState {
        term: Term(payload.get_u64_le()),
        vote: MemberId(payload.get_u64_le()),
        commit: RaftIndex(0),
    };
    if has_commit {
        state.commit = RaftIndex(payload.get_u64_le());
    }
    Some((state, has_commit))
}

/// The kind of record an entry is written as.
#[must_use]
pub fn record_kind(kind: EntryKind) -> RecordKind {
    match kind {
        EntryKind::Commands => RecordKind::Entry,
        EntryKind::Membership => RecordKind::Membership,
    }
}
