//! All retained versions of one key, oldest first.
//!
//! Most keys have exactly one version between two compactions, so that case costs no allocation of
//! its own. A history is never empty: the tree drops the key together with its last version.

use std::collections::VecDeque;

use crate::ids::Revision;
use crate::mvcc::record::Record;

/// The versions of one key in the order of their revisions.
#[derive(Debug)]
pub(crate) enum History {
    /// The key's only version.
    One(Record),
    /// Two versions or more. Boxed, so that the common case stays at two words.
    #[allow(
        clippy::box_collection,
        reason = "the index holds one of these per key"
    )]
    Many(Box<VecDeque<Record>>),
}

/// What [`History::prune`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    /// Versions taken out.
    pub(crate) records: usize,
    /// Memory of those that nothing else holds.
    pub(crate) freed_bytes: u64,
    /// The part of it that was of tombstones.
    pub(crate) freed_tombstone_bytes: u64,
    /// Nothing is left: the key goes.
    pub(crate) gone: bool,
    /// The budget ended before the work did.
    pub(crate) unfinished: bool,
}

impl Pruned {
    fn take(&mut self, record: &Record, freed_bytes: u64) {
        record.leave_history();
        self.records += 1;
        self.freed_bytes += freed_bytes;
        if record.tombstone {
            self.freed_tombstone_bytes += freed_bytes;
        }
    }
}

impl History {
    /// The newest version, which may be a tombstone.
    pub(crate) fn newest(&self) -> &Record {
        match self {
            Self::One(record) => record,
            Self::Many(records) => records.back().expect("a history is never empty"),
        }
    }

    /// The version a read at `revision` sees, which may be a tombstone.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Record> {
        let newest = self.newest();
        if newest.revision <= revision {
            return Some(newest);
        }
        match self {
            Self::One(_) => None,
            Self::Many(records) => {
                let after = records.partition_point(|record| record.revision <= revision);
                after.checked_sub(1).map(|index| &records[index])
            }
        }
    }

    /// All versions, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        let (one, many) = match self {
            Self::One(record) => (Some(record), None),
            Self::Many(records) => (None, Some(records.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Adds the version that is now the newest.
    pub(crate) fn push(&mut self, record: Record) {
        debug_assert!(
            self.newest().position() < record.position(),
            "versions arrive in order: {:?} after {:?}",
            record.position(),
            self.newest().position()
        );
        match self {
            Self::Many(records) => records.push_back(record),
            Self::One(first) => {
                let first = first.clone();
                *self = Self::Many(Box::new(VecDeque::from([first, record])));
            }
        }
    }

    /// Takes out at most `budget` of the versions that no read at `horizon` or later can see:
    /// everything at or below it but the newest, and that one too if it is a tombstone and does not
    /// hide a version of a layer below. The change log still holds the versions from `logged` on.
    pub(crate) fn prune(
        &mut self,
        horizon: Revision,
        logged: (Revision, u32),
        hides: bool,
        budget: usize,
    ) -> Pruned {
        let freed_bytes = |record: &Record| {
            if record.position() < logged {
                record.footprint_bytes()
            } else {
                0
            }
        };
        let mut pruned = Pruned::default();
        match self {
            Self::One(record) => {
                if record.tombstone && !hides && record.revision <= horizon {
                    pruned.take(record, freed_bytes(record));
                    pruned.gone = true;
                }
            }
            Self::Many(records) => {
                let seen = records.partition_point(|record| record.revision <= horizon);
                let Some(newest_seen) = seen.checked_sub(1) else {
                    return pruned;
                };
                let newest_goes = records[newest_seen].tombstone && !hides;
                let garbage = newest_seen + usize::from(newest_goes);
                let taken = garbage.min(budget);
                pruned.unfinished = taken < garbage;
                for record in records.drain(..taken) {
                    pruned.take(&record, freed_bytes(&record));
                }
                pruned.gone = records.is_empty();
                if records.len() == 1 {
                    let last = records.pop_front().expect("one is left");
                    *self = Self::One(last);
                }
            }
        }
        pruned
    }
}
