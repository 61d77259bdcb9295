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

/// Changes that share one buffer.
const CHUNK_CHANGES: usize = 4_096;

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
    /// The changes in chunks, so that a long log never moves to a larger buffer. All but the first
    /// and the last hold `CHUNK_CHANGES`; none is empty.
    chunks: VecDeque<VecDeque<Change>>,
    length: usize,
    /// Changes taken off the front so far: `taken + index` names a change for good.
    taken: u64,
}

impl ChangeLog {
    /// The oldest retained change.
    #[must_use]
    pub fn first(&self) -> Option<&Change> {
        self.chunks.front()?.front()
    }

    /// The newest change.
    #[must_use]
    pub fn last(&self) -> Option<&Change> {
        self.chunks.back()?.back()
    }

    /// The number of retained changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no change is retained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The changes of `revision` and later, oldest first. Finding the start takes a few looks for a
    /// recent revision and a binary search for an old one.
    pub fn from(
        &self,
        revision: Revision,
    ) -> impl DoubleEndedIterator<Item = &Change> + ExactSizeIterator {
        self.range(self.index_of(revision), self.length)
    }

    /// Adds the newest change.
    pub(crate) fn push(&mut self, change: Change) {
        debug_assert!(
            self.last()
                .is_none_or(|last| last.record.position() < change.record.position()),
            "changes arrive in order"
        );
        match self.chunks.back_mut() {
            // The first chunk may be short at its front; what is behind it is counted in full.
            Some(last) if last.len() < CHUNK_CHANGES => last.push_back(change),
            _ => {
                let mut chunk = VecDeque::with_capacity(CHUNK_CHANGES);
                chunk.push_back(change);
                self.chunks.push_back(chunk);
            }
        }
        self.length += 1;
    }

    /// Takes the oldest change off.
    pub(crate) fn pop_first(&mut self) -> Option<Change> {
        let first = self.chunks.front_mut()?;
        let change = first.pop_front()?;
        if first.is_empty() {
            self.chunks.pop_front();
        }
        self.length -= 1;
        self.taken += 1;
        Some(change)
    }

    /// The lasting name of the first change of `revision` or later.
    pub(crate) fn ordinal_of(&self, revision: Revision) -> u64 {
        self.taken + self.index_of(revision) as u64
    }

    /// The lasting name of the change that comes next.
    pub(crate) fn next_ordinal(&self) -> u64 {
        self.taken + self.length as u64
    }

    /// Retained changes from `ordinal` up to but not including `end`.
    pub(crate) fn between(&self, ordinal: u64, end: u64) -> impl Iterator<Item = &Change> {
        let index = |ordinal: u64| {
            let index = usize::try_from(ordinal.saturating_sub(self.taken)).unwrap_or(usize::MAX);
            index.min(self.length)
        };
        self.range(index(ordinal), index(end))
    }

    fn range(
        &self,
        start: usize,
        end: usize,
    ) -> impl DoubleEndedIterator<Item = &Change> + ExactSizeIterator {
        (start..end.max(start)).map(|index| self.at(index))
    }

    fn at(&self, index: usize) -> &Change {
        let first = self.chunks.front().map_or(0, VecDeque::len);
        match index.checked_sub(first) {
            None => &self.chunks[0][index],
            Some(behind) => &self.chunks[1 + behind / CHUNK_CHANGES][behind % CHUNK_CHANGES],
        }
    }

    /// The index of the first change of `revision` or later: a search that doubles its step from the
    /// newest change on, then halves it.
    fn index_of(&self, revision: Revision) -> usize {
        let is_before = |index: usize| self.at(index).revision() < revision;
        let mut high = self.length;
        let mut step = 1;
        let mut low = loop {
            let Some(probe) = high.checked_sub(step) else {
                break 0;
            };
            if is_before(probe) {
                break probe + 1;
            }
            high = probe;
            step *= 2;
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if is_before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Three changes to a revision; the log is cut at every place around the borders of its chunks.
    #[test]
    fn every_change_is_found() {
        let count = CHUNK_CHANGES * 2 + 100;
        let revision = |index: usize| Revision(2 + index as i64 / 3);
        let mut log = ChangeLog::default();
        for index in 0..count {
            let record = Arc::new(Record::tombstone(b"k", (revision(index), index as u32 % 3)));
            log.push(Change { record, prev: None });
        }
        for taken in 0..count {
            assert_eq!(
                (log.len(), log.next_ordinal()),
                (count - taken, count as u64)
            );
            let borders = [
                taken,
                taken + 1,
                CHUNK_CHANGES,
                CHUNK_CHANGES * 2,
                count - 1,
            ];
            for index in borders
                .into_iter()
                .filter(|index| (taken..count).contains(index))
            {
                let start = (index / 3 * 3).max(taken);
                assert_eq!(log.ordinal_of(revision(index)), start as u64);
                let mut changes = log.from(revision(index));
                assert_eq!(changes.len(), count - start);
                assert_eq!(changes.next().unwrap().revision(), revision(index));
                let between: Vec<_> = log.between(index as u64, index as u64 + 1).collect();
                assert_eq!(between.len(), 1);
                assert_eq!(
                    between[0].record.position(),
                    (revision(index), index as u32 % 3)
                );
            }
            assert_eq!(log.from(revision(count - 1).next()).len(), 0);
            assert_eq!(log.from(Revision(0)).len(), count - taken);
            assert_eq!(log.first().unwrap().revision(), revision(taken));
            let change = log.pop_first().unwrap();
            assert_eq!(
                change.record.position(),
                (revision(taken), taken as u32 % 3)
            );
        }
        assert!(log.is_empty() && log.pop_first().is_none());
        assert_eq!(log.from(Revision(0)).len(), 0);
    }
}
