//! The change log: every change of the keyspace in revision order.
//!
//! Watches that catch up read a slice of it, counts at an older revision are computed by undoing it,
//! and physical compaction walks it to find what became garbage. It keeps every change with a
//! revision at or above the compact revision (a watch opened exactly there still sees them), and
//! scrubbing takes the older ones off its front.
//!
//! Invariants:
//! 1. Changes are in strictly rising (revision, sub) order, without a hole.
//! 2. `prev` is the key's version before the change's revision and stays reachable as long as the
//!    change does, also after that version was compacted away.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::Revision;
use crate::mvcc::record::Record;

/// One change of one key, as a watch sees it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The new version; a tombstone for a delete.
    pub record: Arc<Record>,
    /// The key's version at the revision before; none if the key did not exist then, and none for a
    /// create.
    pub prev: Option<Arc<Record>>,
}

impl Change {
    /// The revision the change belongs to.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.record.revision
    }

    /// How the change moved the number of keys.
    pub(crate) fn count_delta(&self) -> i64 {
        match (self.record.tombstone, self.record.version) {
            (true, _) => -1,
            (false, 1) => 1,
            (false, _) => 0,
        }
    }
}

/// Every retained change, in revision order.
#[derive(Debug, Default)]
pub struct ChangeLog {
    changes: VecDeque<Change>,
    /// Changes taken off the front so far: `taken + index` names a change for good.
    taken: u64,
}

impl ChangeLog {
    /// The oldest retained change.
    #[must_use]
    pub fn first(&self) -> Option<&Change> {
        self.changes.front()
    }

    /// The newest change.
    #[must_use]
    pub fn last(&self) -> Option<&Change> {
        self.changes.back()
    }

    /// The number of retained changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether no change is retained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes of `revision` and later, oldest first. The start is found by binary search.
    pub fn from(
        &self,
        revision: Revision,
    ) -> impl DoubleEndedIterator<Item = &Change> + ExactSizeIterator {
        self.changes.range(self.index_of(revision)..)
    }

    /// Adds the newest change.
    pub(crate) fn push(&mut self, change: Change) {
        debug_assert!(
            self.last()
                .is_none_or(|last| last.record.position() < change.record.position()),
            "changes arrive in order"
        );
        self.changes.push_back(change);
    }

    /// Takes the oldest change off.
    pub(crate) fn pop_first(&mut self) -> Option<Change> {
        let change = self.changes.pop_front()?;
        self.taken += 1;
        Some(change)
    }

    /// The lasting name of the first change of `revision` or later.
    pub(crate) fn ordinal_of(&self, revision: Revision) -> u64 {
        self.taken + self.index_of(revision) as u64
    }

    /// The lasting name of the change that comes next.
    pub(crate) fn next_ordinal(&self) -> u64 {
        self.taken + self.changes.len() as u64
    }

    /// Retained changes from `ordinal` up to but not including `end`.
    pub(crate) fn between(&self, ordinal: u64, end: u64) -> impl Iterator<Item = &Change> {
        let index = |ordinal: u64| {
            let index = usize::try_from(ordinal.saturating_sub(self.taken)).unwrap_or(usize::MAX);
            index.min(self.changes.len())
        };
        let (start, end) = (index(ordinal), index(end));
        self.changes.range(start..end.max(start))
    }

    fn index_of(&self, revision: Revision) -> usize {
        self.changes
            .partition_point(|change| change.record.revision < revision)
    }
}
