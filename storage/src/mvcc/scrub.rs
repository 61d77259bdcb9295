//! Physical compaction, in slices, behind the logical one.
//!
//! A compaction takes effect at once by refusing older reads; memory is freed here, whenever the
//! engine has time. Garbage is found without a walk over the keys: what a compaction to revision H
//! makes unreachable is always what a change below H replaced, or a tombstone below H, so a scrub
//! passes those changes in order and visits only their keys. In the top layer it takes them off the
//! change log and frees what they replaced; the layers below do not change, so there it counts what
//! the next snapshot will leave out.
//!
//! The changes of H itself stay in the log, because a watch may start there and wants to know what
//! they replaced; so what they replaced stays as well, until the next compaction.
//!
//! Running selects hold a [`Pin`]: versions that a read at the pinned revision sees stay, and so do
//! the changes after it. The pin ends when its owner drops it.
//!
//! Invariants:
//! 1. The horizon (`min(compact revision, pins, changes not published)`) never goes back: nothing
//!    below the compact revision can be pinned, and what is published stays so.
//! 2. No change at or above the horizon is taken off the log, and no version that a read at the
//!    horizon or later sees is taken out of its history.
//! 3. A version is counted in its layer's size as long as its history or the change log holds it.

use std::sync::{Arc, Weak};

use crate::ids::Revision;
use crate::mvcc::history::Pruned;
use crate::mvcc::layers::Found;
use crate::mvcc::record::Record;
use crate::mvcc::store::Store;
use crate::snapshot::VersionRef;

/// Progress of physical compaction.
#[derive(Debug)]
pub(crate) struct Scrub {
    /// Everything below is done.
    revision: Revision,
    /// What is being worked towards.
    horizon: Revision,
    pins: Vec<(Revision, Weak<()>)>,
    /// Lasting number of the first change that was not passed.
    next: u64,
    /// What was found unreachable in the layers below.
    garbage_bytes: u64,
}

/// Keeps one revision readable for as long as it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    _held: Arc<()>,
}

impl Scrub {
    /// Everything below `revision` is done; `next` is the lasting number of the first change since.
    pub(crate) fn new(revision: Revision, next: u64) -> Self {
        Self {
            revision,
            horizon: revision,
            pins: Vec::new(),
            next,
            garbage_bytes: 0,
        }
    }

    /// Goes through the layers below anew: they were replaced by one in which everything below
    /// `revision` is done.
    pub(crate) fn restart(&mut self, revision: Revision, next: u64) {
        self.revision = revision;
        self.next = next;
        self.garbage_bytes = 0;
    }

    /// What the next snapshot will leave out.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        self.garbage_bytes
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

    /// Works through at most about `budget` changes and versions. True if there is more to do now.
    pub(crate) fn step(store: &mut Store, budget: usize, unpublished: Option<Revision>) -> bool {
        let mut budget = budget.max(1);
        let horizon = Self::advance_horizon(store, unpublished);
        while store.scrub.revision < horizon {
            let is_in_top = store.scrub.next >= store.top.changes.layer_start();
            if is_in_top {
                // After a restart, those that were taken off before.
                store.scrub.next = store.scrub.next.max(store.top.changes.first_ordinal());
            }
            let next = store.scrub.next;
            let oldest = store
                .change(next)
                .filter(|change| change.revision() < horizon);
            let Some(oldest) = oldest else {
                store.scrub.revision = horizon;
                break;
            };
            if budget == 0 {
                return true;
            }
            if is_in_top {
                let record = oldest.record();
                let pruned = scrub_top(store, &record, horizon, budget);
                budget = budget.saturating_sub(pruned.records.max(1));
                if pruned.unfinished {
                    continue;
                }
            } else {
                let garbage_bytes = replaced_bytes(oldest);
                store.scrub.garbage_bytes += garbage_bytes;
                budget -= 1;
            }
            store.scrub.next = next + 1;
        }
        false
    }

    /// Moves the horizon up to the compact revision, the oldest pin, or the first unpublished change.
    pub(crate) fn advance_horizon(store: &mut Store, unpublished: Option<Revision>) -> Revision {
        let compact_revision = store.compact_revision();
        let scrub = &mut store.scrub;
        scrub.pins.retain(|(_, held)| held.strong_count() > 0);
        let pinned = scrub.pins.iter().map(|(revision, _)| *revision).min();
        let bounds = [Some(compact_revision), pinned, unpublished];
        let horizon = bounds.into_iter().flatten().min().unwrap_or_default();
        assert!(
            horizon >= scrub.horizon,
            "nothing below the horizon can be pinned or is unpublished: {horizon}"
        );
        scrub.horizon = horizon;
        horizon
    }
}

/// Takes the oldest change, `record`, off the log of the top layer and frees what it replaced there.
fn scrub_top(store: &mut Store, record: &Arc<Record>, horizon: Revision, budget: usize) -> Pruned {
    let mut pruned = Pruned::default();
    // Only the log and the caller hold it: its history lost it, and all before it, to an earlier change.
    if Arc::strong_count(record) == 2 {
        store.top.changes.pop_first();
        store.top.size_bytes -= record.footprint_bytes();
        return pruned;
    }
    let mut is_retained = false;
    let below_horizon = Revision(horizon.0 - 1);
    let Store { top, below, .. } = store;
    let hides = !below.is_empty() && below.versions(record.key()).is_some();
    top.tree.remove_if(record.key(), |history| {
        pruned = history.prune(below_horizon, record.position(), hides, budget);
        is_retained = !pruned.gone
            && history
                .at(below_horizon)
                .is_some_and(|newest| Arc::ptr_eq(newest, record));
        pruned.gone
    });
    top.size_bytes -= pruned.freed_bytes;
    if !pruned.unfinished {
        top.changes.pop_first();
        if !is_retained {
            top.size_bytes -= record.footprint_bytes();
        }
    }
    pruned
}

/// Footprint of what a change of the snapshot made unreachable there: the version before it, and itself
/// if it is a deletion. What a frozen layer holds is not looked at: it is about to be replaced.
fn replaced_bytes(change: Found<'_>) -> u64 {
    let Found::Stored(snapshot, at) = change else {
        return 0;
    };
    let is_first = snapshot.rows(snapshot.key_of(at)).start == at.row;
    let before = (!is_first).then(|| {
        let row = at.row - 1;
        Found::Stored(snapshot, VersionRef { row, ..at })
    });
    // A deletion was counted when it was passed itself.
    let before = before.filter(|before| !before.is_tombstone());
    let itself = change.is_tombstone().then_some(change);
    let garbage = before.into_iter().chain(itself);
    garbage.map(Found::footprint_bytes).sum()
}
