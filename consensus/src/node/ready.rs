//! What comes out of a node for the disk and for readers.

use keelson_storage::ids::RaftIndex;

use super::entry::{Entry, HardState};
use super::log::SnapshotMark;
use crate::durable::ReadyNumber;

/// What must reach the disk, in this order: the log's new start, the hard state, the entries. All of it
/// must be durable when the number is reported to [`Node::on_persisted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What to report.
    pub number: ReadyNumber,
    /// A snapshot takes the place of the whole log. The file has arrived: note the start of the log
    /// durably, only then let the file count, take its state over, and report; give up a file of this
    /// member's own that is being written, for it is older. Such a ready has no entries, and no other follows
    /// before the report.
    pub snapshot: Option<SnapshotMark>,
    /// Changed term, vote or commit index.
    pub hard_state: Option<HardState>,
    /// New entries, in index order. The first one may be at or before an earlier entry: it and all behind
    /// it take the place of what was there.
    pub entries: Vec<Entry>,
}

/// Names a read of this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// An answer to [`Node::read_index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// Which read.
    pub id: ReadId,
    /// What must be applied before it is answered.
    pub index: RaftIndex,
}

/// What the next ready will hold.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    pub(super) snapshot: Option<(ReadyNumber, SnapshotMark)>,
    pub(super) entries: Vec<Entry>,
}
