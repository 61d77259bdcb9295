//! Physical compaction, in slices, behind the logical one.
//!
//! A compaction takes effect at once by refusing older reads; memory is freed here, whenever the
//! engine has time. Garbage is found without a walk over the keys: what a compaction to revision H
//! makes unreachable is always what a change below H replaced, or a tombstone below H, so a scrub
//! passes those changes in order and visits only their keys. In the top layer it takes them off the
//! change log and frees what they replaced; the layers below do not change, so there it counts what
//! the next snapshot will leave out: what changes of the snapshot replaced in it, what changes of the
//! top layer replaced below, and tombstones that are kept because they hide a version below.
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
//! 4. When everything below the horizon was passed, and no checkpoint runs, size less garbage is what
//!    a snapshot would hold that were made now.

use std::sync::{Arc, Weak};

use crate::ids::Revision;
use crate::mvcc::history::Pruned;
use crate::mvcc::layers::{Found, Versions};
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
    /// What changes of the snapshot made unreachable in it.
    garbage_bytes: u64,
    /// What changes of the top layer made unreachable below it, and their tombstones that only hide.
    hidden_bytes: u64,
    /// The same of the changes of the frozen layer, as far as they were passed before it was frozen.
    frozen_hidden_bytes: u64,
    /// Versions found unreachable since the start.
    versions: u64,
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
            hidden_bytes: 0,
            frozen_hidden_bytes: 0,
            versions: 0,
        }
    }

    /// The top layer was frozen, and a new one is written to.
    pub(crate) fn on_frozen(&mut self) {
        self.frozen_hidden_bytes += std::mem::take(&mut self.hidden_bytes);
    }

    /// Goes through the layers below anew: they were replaced by one in which everything below
    /// `revision` is done.
    pub(crate) fn restart(&mut self, revision: Revision, next: u64) {
        self.revision = revision;
        self.next = next;
        self.garbage_bytes = 0;
        // What the top layer hides is in the new snapshot as it was below.
        self.frozen_hidden_bytes = 0;
    }

    /// What the next snapshot will leave out.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        self.garbage_bytes + self.hidden_bytes + self.frozen_hidden_bytes
    }

    /// Versions found unreachable since the start. Those of a snapshot are found again in the next one if a
    /// checkpoint began before.
    pub(crate) fn versions(&self) -> u64 {
        self.versions
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
                let (versions, bytes) = replaced(oldest);
                store.scrub.garbage_bytes += bytes;
                store.scrub.versions += versions;
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
fn scrub_top(store: &mut Store, record: &Record, horizon: Revision, budget: usize) -> Pruned {
    let mut pruned = Pruned::default();
    // Its history lost it, and all before it, to an earlier change.
    if record.has_left_history() {
        store.top.changes.pop_first();
        store.top.size_bytes -= record.footprint_bytes();
        return pruned;
    }
    let mut is_retained = false;
    let below_horizon = Revision(horizon.0 - 1);
    let Store {
        top, below, scrub, ..
    } = store;
    let below = (!below.is_empty()).then(|| below.versions(record.key()));
    let hides = below.as_ref().is_some_and(Versions::is_some);
    top.tree.remove_if(record.key(), |history| {
        pruned = history.prune(below_horizon, record.position(), hides, budget);
        is_retained = !pruned.gone
            && history
                .at(below_horizon)
                .is_some_and(|newest| newest.is_same(record));
        pruned.gone
    });
    top.size_bytes -= pruned.freed_bytes;
    scrub.versions += pruned.records as u64;
    // A tombstone stays behind the log only to hide something.
    scrub.hidden_bytes -= pruned.freed_tombstone_bytes;
    if pruned.unfinished {
        return pruned;
    }
    top.changes.pop_first();
    if !is_retained {
        top.size_bytes -= record.footprint_bytes();
    } else if record.tombstone {
        scrub.hidden_bytes += record.footprint_bytes();
    }
    if record.replaces_below {
        let replaced = below.and_then(|below| below.newest_live());
        let replaced = replaced.expect("what a change of the top layer replaced below stays there");
        scrub.hidden_bytes += replaced.footprint_bytes();
        scrub.versions += 1;
    }
    pruned
}

/// What a change of the snapshot made unreachable there: the version before it, and itself if it is a
/// deletion; how many, and their footprint. What a frozen layer holds is not looked at: it is about to be
/// replaced.
fn replaced(change: Found<'_>) -> (u64, u64) {
    let Found::Stored(snapshot, at) = change else {
        return (0, 0);
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
    garbage.fold((0, 0), |(versions, bytes), found| {
        (versions + 1, bytes + found.footprint_bytes())
    })
}
