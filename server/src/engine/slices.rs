//! How much of what is large an engine does at a time.
//!
//! The figures are those of `limits.rs`. The simulator has some of its runs begin with tiny ones, so that what is rare in
//! production, such as a second slice, happens in them all the time.

use super::limits::{
    CATCH_UP_BYTES_MAX, CATCH_UP_CHANGES_MAX, CHECKPOINT_VERSIONS_PER_TURN, PUBLISH_CHANGES_MAX,
    SCRUB_PER_TURN, SCRUB_PER_TURN_IDLE, SELECT_KEYS_PER_STEP, SNAPSHOT_PIECE_BYTES,
    VALUES_WANTED_MAX,
};

/// What an engine does at a time. No answer and no byte on a disk depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// Keys looked at in one step of a range read.
    pub select_keys: usize,
    /// Changes looked at for one slice of history.
    pub catch_up_changes: usize,
    /// Bytes of matching changes in it.
    pub catch_up_bytes: usize,
    /// Changes in a batch for a core.
    pub publish_changes: usize,
    /// Versions that physical compaction looks at in a turn while commands come.
    pub scrub: usize,
    /// See `scrub`, while none comes.
    pub scrub_idle: usize,
    /// Missing values asked for at once.
    pub values_wanted: usize,
    /// Versions that a checkpoint goes through in a turn.
    pub checkpoint_versions: usize,
    /// Bytes of a snapshot file in one message; at most [`SNAPSHOT_PIECE_BYTES`], and whole blocks.
    pub snapshot_piece_bytes: u64,
}

impl Default for Slices {
    fn default() -> Self {
        Self {
            select_keys: SELECT_KEYS_PER_STEP,
            catch_up_changes: CATCH_UP_CHANGES_MAX,
            catch_up_bytes: CATCH_UP_BYTES_MAX,
            publish_changes: PUBLISH_CHANGES_MAX,
            scrub: SCRUB_PER_TURN,
            scrub_idle: SCRUB_PER_TURN_IDLE,
            values_wanted: VALUES_WANTED_MAX,
            checkpoint_versions: CHECKPOINT_VERSIONS_PER_TURN,
            snapshot_piece_bytes: SNAPSHOT_PIECE_BYTES,
        }
    }
}
