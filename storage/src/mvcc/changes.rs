//! The change log of a layer in memory: the versions it holds in revision order.
//!
//! Watches that catch up read a slice of it, counts at an older revision are computed by undoing it,
//! and physical compaction walks it to find what became garbage. With the changes of the layers below
//! it keeps every change with a revision at or above the compact revision (a watch opened exactly
//! there still sees them), and scrubbing takes the older ones off its front.
//!
//! Invariant: changes are in strictly rising (revision, sub) order, without a hole.

use std::collections::VecDeque;

use crate::ids::Revision;
use crate::mvcc::record::Record;

/// Changes that share one buffer.
const CHUNK_CHANGES: usize = 4_096;

/// One change of one key, as a watch sees it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The new version; a tombstone for a delete.
    pub record: Record,
    /// The key's version at the revision before; none if the key did not exist then, and none for a
    /// create.
    pub prev: Option<Record>,
}

/// Every retained change, in revision order.
#[derive(Debug, Default)]
pub(crate) struct ChangeLog {
    /// The changes in chunks, so that a long log never moves to a larger buffer. All but the first
    /// and the last hold `CHUNK_CHANGES`; none is empty.
    chunks: VecDeque<VecDeque<Record>>,
    length: usize,
    /// Changes taken off the front so far: `taken + index` names a change for good.
    taken: u64,
    /// What `taken` was when the log began.
    start: u64,
}

impl ChangeLog {
    /// A log whose first change comes after `taken` others.
    pub(crate) fn after(taken: u64) -> Self {
        Self {
            taken,
            start: taken,
            ..Self::default()
        }
    }

    /// Drops the log in parts, with `between` between two of them.
    pub(crate) fn take_apart(self, between: &mut impl FnMut()) {
        for chunk in self.chunks {
            drop(chunk);
            between();
        }
    }

    /// The newest change.
    pub(crate) fn last(&self) -> Option<&Record> {
        self.chunks.back()?.back()
    }

    /// Adds the newest change.
    pub(crate) fn push(&mut self, change: Record) {
        debug_assert!(
            self.last()
                .is_none_or(|last| last.position() < change.position()),
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
    pub(crate) fn pop_first(&mut self) -> Option<Record> {
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

    /// The lasting name of the oldest retained change.
    pub(crate) fn first_ordinal(&self) -> u64 {
        self.taken
    }

    /// The lasting name of the first change of this log, retained or not.
    pub(crate) fn layer_start(&self) -> u64 {
        self.start
    }

    /// The change with this name, if it is retained.
    pub(crate) fn get(&self, ordinal: u64) -> Option<&Record> {
        let index = usize::try_from(ordinal.checked_sub(self.taken)?).ok()?;
        (index < self.length).then(|| self.at(index))
    }

    /// Changes that are retained.
    pub(crate) fn length(&self) -> u64 {
        self.length as u64
    }

    /// The lasting name of the change that comes next.
    pub(crate) fn next_ordinal(&self) -> u64 {
        self.taken + self.length as u64
    }

    fn at(&self, index: usize) -> &Record {
        let first = self.chunks.front().map_or(0, VecDeque::len);
        match index.checked_sub(first) {
            None => &self.chunks[0][index],
            Some(behind) => &self.chunks[1 + behind / CHUNK_CHANGES][behind % CHUNK_CHANGES],
        }
    }

    /// The index of the first change of `revision` or later: a search that doubles its step from the
    /// newest change on, then halves it.
    fn index_of(&self, revision: Revision) -> usize {
        let is_before = |index: usize| self.at(index).revision < revision;
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
    use crate::mvcc::record::Draft;

    /// Three changes to a revision; the log is cut at every place around the borders of its chunks.
    #[test]
    fn every_change_is_found() {
        const BELOW: u64 = 7;
        let count = CHUNK_CHANGES * 2 + 100;
        let revision = |index: usize| Revision(2 + index as i64 / 3);
        let mut log = ChangeLog::after(BELOW);
        for index in 0..count {
            let at = (revision(index), index as u32 % 3);
            log.push(Draft::tombstone(b"k", at).on_heap());
        }
        let ordinal = |index: usize| BELOW + index as u64;
        for taken in 0..count {
            assert_eq!(
                (log.first_ordinal(), log.next_ordinal()),
                (ordinal(taken), ordinal(count))
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
                assert_eq!(log.ordinal_of(revision(index)), ordinal(start));
                let found = log.get(ordinal(index)).unwrap();
                assert_eq!(found.position(), (revision(index), index as u32 % 3));
            }
            assert_eq!(log.ordinal_of(revision(count - 1).next()), ordinal(count));
            assert_eq!(log.ordinal_of(Revision(0)), ordinal(taken));
            assert!(log.get(ordinal(taken) - 1).is_none() && log.get(ordinal(count)).is_none());
            let change = log.pop_first().unwrap();
            assert_eq!(change.position(), (revision(taken), taken as u32 % 3));
        }
        assert!(log.pop_first().is_none());
        assert_eq!(
            (log.layer_start(), log.first_ordinal()),
            (BELOW, ordinal(count))
        );
    }
}
