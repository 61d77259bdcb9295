//! What watchers get from the engine: new changes as batches, old ones as slices, and progress marks.
//!
//! The change log of the state machine is the only source. A core's place in it is one revision
//! ([`Port::published`](super::shard)), a late watcher's place is in its own question, so a slow
//! reader costs a cursor here and never a queue.

use std::sync::Arc;

use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::Revision;
use keelson_storage::io::Disk;
use keelson_storage::mvcc::Change;
use keelson_storage::mvcc::Record;
use keelson_storage::snapshot::SnapshotError;

use super::limits::CATCH_UPS_PER_TURN_MAX;
use super::message::{CatchUp, CaughtUp, EventBatch, Outbound, StreamKey, key_in_range};
use super::shard::{Engine, EngineError};

impl<D: Disk> Engine<D> {
    /// Whether a core has changes to be told. The driver asks while the ring has room.
    #[must_use]
    pub fn has_news(&self, port: usize) -> bool {
        self.ports[port]
            .published
            .is_some_and(|published| published < self.state.revision())
    }

    /// The next batch for each core that stands where `port` stands: cores in step share one batch. None
    /// also while values of it are read.
    ///
    /// # Errors
    /// A value of the batch cannot be read: a watch would have a hole.
    pub fn publish(&mut self, port: usize) -> Result<Option<Arc<EventBatch>>, EngineError> {
        let after = self.ports[port].published;
        let Some(after) = after.filter(|after| *after < self.state.revision()) else {
            return Ok(None);
        };
        let warming = self.warming.take().filter(|batch| batch.after == after);
        let mut batch = warming.unwrap_or_else(|| self.batch_after(after));
        if self.may_leave(&mut batch.changes)? {
            return Ok(Some(Arc::new(batch)));
        }
        self.warming = Some(batch);
        Ok(None)
    }

    /// The oldest revision that a core with watchers was not told of, if there is one.
    pub(super) fn unpublished(&self) -> Option<Revision> {
        let published = self.ports.iter().filter_map(|port| port.published);
        published
            .min()
            .filter(|oldest| *oldest < self.state.revision())
            .map(Revision::next)
    }

    /// A core took this batch.
    pub fn on_published(&mut self, port: usize, batch: &EventBatch) {
        if self.ports[port].published == Some(batch.after) {
            self.ports[port].published = Some(batch.through);
        }
    }

    /// The revision a core was told last, if it has watchers.
    #[must_use]
    pub fn published(&self, port: usize) -> Option<Revision> {
        self.ports[port].published
    }

    pub(super) fn open_watch(&mut self, port: usize) {
        let revision = self.state.revision();
        let published = *self.ports[port].published.get_or_insert(revision);
        self.ports[port].outbox.push_back(Outbound::WatchOpened {
            revision,
            published,
            compact_revision: self.state.compact_revision(),
            raft_term: self.node.term().0,
        });
    }

    /// Progress up to the last revision published to the core: everything before this mark in the ring
    /// carries the events. A core that is behind gets its batches first (invariant 2).
    pub(super) fn mark_progress(&mut self, port: usize, stream: StreamKey) {
        // A core without watchers has nothing to report on, but its stream waits for the mark.
        let revision = self.ports[port].published.unwrap_or_default();
        self.ports[port]
            .outbox
            .push_back(Outbound::Progress { stream, revision });
    }

    pub(super) fn advance_catch_ups(&mut self) -> Result<(), EngineError> {
        let mut slices = std::mem::take(&mut self.warming_slices);
        for _ in 0..CATCH_UPS_PER_TURN_MAX {
            let Some((port, ask)) = self.catch_ups.pop_front() else {
                break;
            };
            let slice = self.catch_up(&ask);
            slices.push((port, ask, slice));
        }
        for (port, ask, mut slice) in slices {
            if self.may_leave(&mut slice.changes)? {
                // While it waited for the disk, batches may have left that its watcher, still late, did not take.
                if !bugs::is_on(Bug::StaleSlice) {
                    slice.current = self.state.revision();
                }
                self.ports[port].outbox.push_back(Outbound::CatchUp(slice));
            } else {
                self.warming_slices.push((port, ask, slice));
            }
        }
        Ok(())
    }

    /// Whether all values of the changes are there. What is damaged is waited for, if others have it.
    fn may_leave(&mut self, changes: &mut [Change]) -> Result<bool, EngineError> {
        match self.warm_changes(changes) {
            Ok(is_whole) => Ok(is_whole),
            Err(error) if self.is_mended_by_others(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn warm_changes(&mut self, changes: &mut [Change]) -> Result<bool, SnapshotError> {
        let records = changes.iter_mut().flat_map(|change| {
            let prev: Option<&mut Record> = change.prev.as_mut();
            std::iter::once(&mut change.record).chain(prev)
        });
        self.warm(records)
    }

    fn catch_up(&self, ask: &CatchUp) -> CaughtUp {
        let current = self.state.revision();
        let mut slice = CaughtUp {
            watcher: ask.watcher,
            changes: Vec::new(),
            next: ask.from,
            current,
            raft_term: self.node.term().0,
            compacted: None,
        };
        if ask.from < self.state.compact_revision() {
            slice.compacted = Some(self.state.compact_revision());
            return slice;
        }
        let most = self.config.slices;
        let mut bytes = 0;
        let mut last = ask.from;
        slice.next = current.next().max(ask.from);
        for (seen, change) in self.state.changes_from(ask.from).enumerate() {
            let revision = change.revision();
            let full = seen >= most.catch_up_changes || bytes >= most.catch_up_bytes;
            if full && revision > last {
                slice.next = revision;
                break;
            }
            last = revision;
            if bugs::is_on(Bug::DropTombstoneAtCompactRevision)
                && revision == self.state.compact_revision()
                && change.change().record.tombstone
            {
                continue;
            }
            if key_in_range(&change.key(), &ask.key, &ask.range_end) {
                bytes += change.bytes() as usize;
                slice.changes.push(change.change());
            }
        }
        slice
    }

    fn batch_after(&self, after: Revision) -> EventBatch {
        let mut batch = EventBatch {
            after,
            through: after,
            raft_term: self.node.term().0,
            changes: Vec::new(),
        };
        let most = self.config.slices.publish_changes;
        for change in self.state.changes_from(after.next()) {
            let revision = change.revision();
            if batch.changes.len() >= most && revision > batch.through {
                return batch;
            }
            batch.through = revision;
            batch.changes.push(change.change());
        }
        batch.through = self.state.revision();
        batch
    }
}
