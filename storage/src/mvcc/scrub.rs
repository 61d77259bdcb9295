//! Physical compaction, in slices, behind the logical one.
//!
//! A compaction takes effect at once by refusing older reads; the memory is freed here, whenever the
//! engine has time. Garbage is found without a walk over the keys: what a compaction to revision H
//! makes unreachable is always what a change below H replaced, or a tombstone below H, so a scrub
//! takes those changes off the front of the change log and visits only their keys.
//!
//! The changes of H itself stay in the log, because a watch may start there and wants to know what
//! they replaced; so what they replaced stays as well, until the next compaction.
//!
//! Running selects hold a [`Pin`]: versions that a read at the pinned revision sees stay, and so do
//! the changes after it. The pin ends when its owner drops it.
//!
//! Invariants:
//! 1. The horizon (`min(compact revision, pins)`) never goes back, because nothing below the compact
//!    revision can be pinned.
//! 2. No change at or above the horizon is taken off the log, and no version that a read at the
//!    horizon or later sees is taken out of its history.
//! 3. A version is counted in the store's size as long as its history or the change log holds it.

use std::sync::{Arc, Weak};

use crate::ids::Revision;
use crate::mvcc::history::Pruned;
use crate::mvcc::record::Record;
use crate::mvcc::store::Store;

/// Progress of physical compaction.
#[derive(Debug)]
pub(crate) struct Scrub {
    /// Everything below is done.
    revision: Revision,
    /// What is being worked towards.
    horizon: Revision,
    pins: Vec<(Revision, Weak<()>)>,
}

/// Keeps one revision readable for as long as it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    _held: Arc<()>,
}

/// What a slice freed.
pub(crate) struct Freed {
    pub(crate) bytes: u64,
    pub(crate) more: bool,
}

impl Scrub {
    pub(crate) fn new() -> Self {
        Self {
            revision: Revision(-1),
            horizon: Revision(-1),
            pins: Vec::new(),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn pin(&mut self, revision: Revision) -> Pin {
        self.pins.retain(|(_, held)| held.strong_count() > 0);
        let held = Arc::new(());
        self.pins.push((revision, Arc::downgrade(&held)));
        Pin { _held: held }
    }

    /// Works through at most about `budget` changes and versions.
    pub(crate) fn step(store: &mut Store, budget: usize) -> Freed {
        let mut freed = Freed {
            bytes: 0,
            more: false,
        };
        let mut budget = budget.max(1);
        let horizon = store.scrub.advance_horizon(store.compact_revision());
        while store.scrub.revision < horizon {
            let oldest = store
                .changes
                .first()
                .filter(|change| change.revision() < horizon);
            let Some(oldest) = oldest else {
                store.scrub.revision = horizon;
                break;
            };
            if budget == 0 {
                freed.more = true;
                break;
            }
            let record = Arc::clone(&oldest.record);
            let (pruned, is_retained) = prune(store, &record, horizon, budget);
            freed.bytes += pruned.freed_bytes;
            budget = budget.saturating_sub(pruned.records.max(1));
            if !pruned.unfinished {
                store.changes.pop_first();
                freed.bytes += Store::change_footprint_bytes();
                freed.bytes += if is_retained {
                    0
                } else {
                    record.footprint_bytes()
                };
            }
        }
        freed
    }

    fn advance_horizon(&mut self, compact_revision: Revision) -> Revision {
        self.pins.retain(|(_, held)| held.strong_count() > 0);
        let pinned = self.pins.iter().map(|(revision, _)| *revision).min();
        let horizon = pinned.map_or(compact_revision, |pinned| pinned.min(compact_revision));
        assert!(
            horizon >= self.horizon,
            "nothing below the horizon can be pinned: {horizon}"
        );
        self.horizon = horizon;
        horizon
    }
}

/// Prunes the history of the key that the oldest change, `record`, belongs to. Also tells whether the
/// history still holds that version.
fn prune(
    store: &mut Store,
    record: &Arc<Record>,
    horizon: Revision,
    budget: usize,
) -> (Pruned, bool) {
    let mut pruned = Pruned::default();
    let mut is_retained = false;
    let below_horizon = Revision(horizon.0 - 1);
    store.tree.remove_if(record.key(), |history| {
        pruned = history.prune(below_horizon, record.position(), budget);
        is_retained = !pruned.gone
            && history
                .at(below_horizon)
                .is_some_and(|newest| Arc::ptr_eq(newest, record));
        pruned.gone
    });
    if pruned.gone {
        pruned.freed_bytes += Store::key_footprint_bytes(record.key());
    }
    (pruned, is_retained)
}
