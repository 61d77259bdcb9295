//! What a log consists of, and what raft must never forget.

use bytes::Bytes;
use keelson_storage::ids::{MemberId, RaftIndex, Term};

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term in which it was proposed.
    pub term: Term,
    /// Position in the log.
    pub index: RaftIndex,
    /// What it carries.
    pub kind: EntryKind,
    /// Encoded batch (`keelson_storage::state::encode_entry`), or empty.
    pub payload: Bytes,
}

impl Entry {
    /// Where it is.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            index: self.index,
            term: self.term,
        }
    }
}

/// What an entry carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// A batch of commands, or nothing: the entry that opens a term.
    #[default]
    Commands,
    /// A batch of the one command that changes who belongs to the group.
    Membership,
}

/// A place in the log, and the term of the entry there: two logs that agree about both agree about
/// everything before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Where.
    pub index: RaftIndex,
    /// The entry's term; 0 before the first entry.
    pub term: Term,
}

/// What a member writes down beside the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Newest term seen.
    pub term: Term,
    /// Vote in that term; member 0 means none.
    pub vote: MemberId,
    /// An entry that is known to be committed, and all before it. Raft may forget it; who reads the log
    /// after a restart applies that far without asking anybody.
    pub commit: RaftIndex,
}
