//! A state that is nowhere: the log does not go back to where the newest snapshot ends.
//!
//! The log is trimmed only after a snapshot that covers what goes was durable, so that snapshot's file was lost since,
//! or its superblock was, and then the file looks like one that was never finished. Every start, and every tool that
//! puts the state together, asks here before it takes what there is for all there was. Nothing is removed.

use std::fmt;

use keelson_consensus::durable::{Replay, ReplayError};
use keelson_storage::ids::RaftIndex;

use super::shard::EngineError;

/// What is missing, and where it may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostState {
    /// The last entry that the newest snapshot stands for; 0 without one.
    snapshot: RaftIndex,
    /// The first entry of the log, if there is any.
    first: Option<RaftIndex>,
    /// Snapshot files that look unfinished.
    unfinished: Vec<String>,
}

impl LostState {
    /// Makes of an error in the log's beginning one that says where the rest may have been.
    pub(crate) fn explain(error: EngineError, unfinished: &[String]) -> EngineError {
        match error {
            EngineError::Replay(ReplayError::Begin { snapshot, first }) => {
                let lost = Self {
                    snapshot,
                    first: Some(first),
                    unfinished: unfinished.to_vec(),
                };
                lost.into()
            }
            other => other,
        }
    }

    /// Checks a log without entries. One that `is_begun`, because what it began with was trimmed, stands on a snapshot. And
    /// nothing begins a snapshot file before there is an entry, unless the file came from another member: then there is a
    /// term, and the lane `is_whole`, for nothing was trimmed.
    ///
    /// # Errors
    /// The snapshot that the log stands on is not there, or may be one of those that look unfinished.
    pub(crate) fn check_empty(
        replay: &Replay,
        (is_begun, is_whole): (bool, bool),
        unfinished: &[String],
    ) -> Result<(), LostState> {
        let stands_on_nothing = replay.snapshot_index() == RaftIndex(0) && is_begun;
        let may_be_received = replay.has_hard_state() && is_whole;
        let is_clear = unfinished.is_empty() || may_be_received;
        if replay.has_entries() || (is_clear && !stands_on_nothing) {
            return Ok(());
        }
        Err(Self {
            snapshot: replay.snapshot_index(),
            first: None,
            unfinished: unfinished.to_vec(),
        })
    }
}

impl std::error::Error for LostState {}

impl fmt::Display for LostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            Some(first) => write!(f, "the log begins at entry {first}, and ")?,
            None => f.write_str("the log is empty, and ")?,
        }
        match self.snapshot {
            RaftIndex(0) => f.write_str("there is no snapshot of what was before. ")?,
            last => write!(f, "the newest snapshot ends at entry {last}. ")?,
        }
        for file in &self.unfinished {
            write!(
                f,
                "{file} looks as if it was never finished: if the disk has lost its first block, it is the snapshot \
                 that is missing. "
            )?;
        }
        f.write_str(
            "Nothing was removed. Keep a copy of the data directory and look into the disk. A member of a cluster: \
             remove it, empty its data directory and add it again. A single member: restore from a backup into an \
             empty data directory, with `keelson snapshot restore`",
        )
    }
}
