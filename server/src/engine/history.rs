//! What watchers get from the engine: new changes as batches, old ones as slices, and progress marks.
//!
//! The change log of the state machine is the only source. A core's place in it is one revision
//! ([`Port::published`](super::shard)), a late watcher's place is in its own question, so a slow
//! reader costs a cursor here and never a queue.

use std::sync::Arc;

use keelson_storage::ids::Revision;
use keelson_storage::io::Disk;
use keelson_storage::mvcc::Change;

use super::limits::{
    CATCH_UP_BYTES_MAX, CATCH_UP_CHANGES_MAX, CATCH_UPS_PER_TURN_MAX, PUBLISH_CHANGES_MAX,
};
use super::message::{CatchUp, CaughtUp, EventBatch, Outbound, StreamKey, key_in_range};
use super::shard::Engine;

impl<D: Disk> Engine<D> {
    /// Whether a core has changes to be told. The driver asks while the ring has room.
    #[must_use]
    pub fn has_news(&self, port: usize) -> bool {
        self.ports[port]
            .published
            .is_some_and(|published| published < self.state.revision())
    }

    /// The next batch for each core that stands where `port` stands: cores in step share one batch.
    pub fn publish(&mut self, port: usize) -> Option<Arc<EventBatch>> {
        let after = self.ports[port].published?;
        if after >= self.state.revision() {
            return None;
        }
        let (changes, through) = self.changes_after(after);
        Some(Arc::new(EventBatch {
            after,
            through,
            raft_term: self.node.term().0,
            changes,
        }))
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

    pub(super) fn advance_catch_ups(&mut self) {
        for _ in 0..CATCH_UPS_PER_TURN_MAX {
            let Some((port, ask)) = self.catch_ups.pop_front() else {
                return;
            };
            let slice = self.catch_up(&ask);
            self.ports[port].outbox.push_back(Outbound::CatchUp(slice));
        }
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
        let mut bytes = 0;
        let mut last = ask.from;
        slice.next = current.next().max(ask.from);
        for (seen, change) in self.state.changes().from(ask.from).enumerate() {
            let revision = change.record.revision;
            let full = seen >= CATCH_UP_CHANGES_MAX || bytes >= CATCH_UP_BYTES_MAX;
            if full && revision > last {
                slice.next = revision;
                break;
            }
            last = revision;
            if key_in_range(change.record.key(), &ask.key, &ask.range_end) {
                bytes += change.record.encoded().len();
                slice.changes.push(change.clone());
            }
        }
        slice
    }

    fn changes_after(&self, after: Revision) -> (Vec<Change>, Revision) {
        let mut changes: Vec<Change> = Vec::new();
        let mut through = after;
        for change in self.state.changes().from(after.next()) {
            let revision = change.record.revision;
            if changes.len() >= PUBLISH_CHANGES_MAX && revision > through {
                return (changes, through);
            }
            through = revision;
            changes.push(change.clone());
        }
        (changes, self.state.revision())
    }
}
