//! Physical compaction, in slices, behind the logical one.
//!
//! A compaction takes effect at once by refusing older reads; the memory is freed here, whenever the
//! engine has time. Garbage is found without a walk over the keys: what a compaction to revision H
//! makes unreachable is always what a change at or below H replaced, or a tombstone at or below H, so
//! a scrub reads the change log from its front and visits only the keys of those changes.
//!
//! Running selects hold a [`Pin`]: versions that a read at the pinned revision sees stay, and so do
//! the changes after it. The pin ends when its owner drops it.
//!
//! Invariants:
//! 1. The horizon (`min(compact revision, pins)`) never goes back, because nothing below the compact
//!    revision can be pinned.
//! 2. A change at the horizon itself is scrubbed but stays in the log: a watch may start there.
//! 3. Scrubbing a change twice does no harm, so an interrupted slice is continued, not recorded.

use std::sync::{Arc, Weak};

use crate::ids::Revision;
use crate::mvcc::changes::Change;
use crate::mvcc::history::Pruned;
use crate::mvcc::store::Store;

/// Progress of physical compaction.
#[derive(Debug)]
pub(crate) struct Scrub {
    /// Everything at or below is done.
    revision: Revision,
    /// The horizon that is being worked towards.
    horizon: Revision,
    /// Changes of the horizon itself that are done already.
    boundary: usize,
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
            boundary: 0,
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
        if store.scrub.revision == horizon {
            return freed;
        }
        while budget > 0 {
            let Some((change, index)) = next_change(store, horizon) else {
                store.scrub.revision = horizon;
                return freed;
            };
            let key = change.record.key_bytes();
            let pruned = prune(store, &key, horizon, budget);
            freed.bytes += pruned.bytes;
            budget = budget.saturating_sub(pruned.records.max(1));
            if pruned.unfinished {
                continue;
            }
            match index {
                Some(_) => store.scrub.boundary += 1,
                None => {
                    store.changes.pop_first();
                    freed.bytes += Store::change_footprint_bytes();
                }
            }
        }
        freed.more = true;
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
        if horizon > self.horizon {
            self.horizon = horizon;
            self.boundary = 0;
        }
        horizon
    }
}

/// The next change to scrub; with its index if it stays in the log.
fn next_change(store: &Store, horizon: Revision) -> Option<(&Change, Option<usize>)> {
    let first = store.changes.first()?;
    if first.revision() < horizon {
        return Some((first, None));
    }
    let index = store.scrub.boundary;
    let change = store.changes.get(index)?;
    (change.revision() == horizon).then_some((change, Some(index)))
}

/// Frees what the key's readers at `horizon` and later cannot see.
fn prune(store: &mut Store, key: &[u8], horizon: Revision, budget: usize) -> Pruned {
    let mut pruned = Pruned::default();
    store.tree.remove_if(key, |history| {
        pruned = history.prune(horizon, budget);
        pruned.gone
    });
    if pruned.gone {
        pruned.bytes += Store::key_footprint_bytes(key);
    }
    pruned
}
