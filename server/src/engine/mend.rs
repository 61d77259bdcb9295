//! Damage of the snapshot that is found while the member serves.
//!
//! The log is whole, and so is what is in memory; a block of values is not what was written. What is sound is served on, and
//! whoever needs that block is refused, or waits. Meanwhile the member asks the leader for a snapshot, whose state takes the
//! place of its own (`super::swap`). A leader hands over first. What a group of one has damaged nobody else has.

use keelson_storage::io::Disk;
use keelson_storage::snapshot::SnapshotError;

use super::limits::MEND_REPEAT_US;
use super::shard::Engine;

impl<D: Disk> Engine<D> {
    /// Whether what cannot be read comes from another member soon.
    pub(super) fn is_mended_by_others(&mut self, error: &SnapshotError) -> bool {
        let is_damaged = matches!(error, SnapshotError::Damaged { .. });
        if !is_damaged || self.is_alone() {
            return false;
        }
        if self.mend_at_us.is_none() {
            tracing::error!(%error, "the snapshot is damaged; another one is asked for");
            self.mend_at_us = Some(self.now_us);
        }
        true
    }

    /// Asks for a snapshot, or hands over so that it can.
    pub(super) fn advance_mending(&mut self) {
        if self.mend_at_us.is_none_or(|at_us| self.now_us < at_us) {
            return;
        }
        self.mend_at_us = Some(self.now_us + MEND_REPEAT_US);
        if self.node.is_leader() {
            self.give_office_away();
        } else {
            self.node.request_snapshot();
        }
    }

    pub(super) fn mending_deadline_us(&self) -> Option<u64> {
        self.mend_at_us
    }
}
