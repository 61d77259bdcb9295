//! What a run knows about the state both servers are in.

use keelson_proto::etcdserverpb as pb;

use super::step::{Call, Outcome};

/// Where a watch lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchKey {
    /// Which of the run's watch streams.
    pub stream: usize,
    /// Its id there.
    pub watch_id: i64,
}

/// A watch that both servers have created.
#[derive(Debug, Clone)]
pub struct ActiveWatch {
    /// Where it lives.
    pub at: WatchKey,
    /// How it was asked for.
    pub request: pb::WatchCreateRequest,
    /// It starts exactly at the compact revision of that moment.
    pub starts_at_compaction: bool,
}

impl ActiveWatch {
    /// No event can pass the filters.
    pub fn is_blind(&self) -> bool {
        self.request.filters.contains(&0) && self.request.filters.contains(&1)
    }

    /// Puts do not pass the filters.
    pub fn wants_deletes_only(&self) -> bool {
        self.request.filters.contains(&0)
    }
}

/// The common state.
#[derive(Debug, Clone)]
pub struct World {
    /// The store's revision.
    pub revision: i64,
    /// The last accepted compaction; 0 if there was none.
    pub compact_revision: i64,
    /// Watches that deliver.
    pub watches: Vec<ActiveWatch>,
}

impl World {
    /// An empty store.
    pub fn new() -> World {
        World {
            revision: 1,
            compact_revision: 0,
            watches: Vec::new(),
        }
    }

    /// Learns from an answer that both servers gave.
    pub fn observe(&mut self, call: &Call, outcome: &Outcome) {
        if let Some(revision) = outcome.revision() {
            assert!(
                revision >= self.revision,
                "the revision fell from {} to {revision} at {call:?}",
                self.revision,
            );
            self.revision = revision;
        }
        if let (Call::Compact(request), Outcome::Compact(_)) = (call, outcome) {
            self.compact_revision = request.revision;
        }
    }

    /// Whether a progress request on this stream is due an answer soon.
    pub fn can_report_progress(&self, stream: usize) -> bool {
        let mut here = self
            .watches
            .iter()
            .filter(|watch| watch.at.stream == stream)
            .peekable();
        let is_used = here.peek().is_some();
        is_used && here.all(|watch| watch.request.start_revision <= self.revision)
    }
}
