//! The fan-out of one core.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::Revision;

use super::deliver::EventCache;
use super::encode::{self, Head, Shape};
use super::intervals::Intervals;
use super::limits::{ENDED_PER_STREAM_MAX, StreamBounds, WATCHERS_PER_CORE_MAX};
use super::slots::Slots;
use super::stream::{Mark, Stream};
use super::watcher::{Phase, WatchSpec, Watcher};
use crate::engine::message::{Ask, CatchUp, CaughtUp, EventBatch, StreamKey, WatcherKey};

/// Watch id of responses that concern no single watcher.
const NO_WATCH_ID: i64 = -1;

/// etcd's reasons for refusing a watcher.
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";

/// Who watches what on this core.
#[derive(Debug)]
pub struct FanOut {
    pub(super) head: Head,
    /// Responses of watchers that asked for fragments are split above this size.
    pub(super) fragment_bytes: usize,
    pub(super) bounds: StreamBounds,
    pub(super) streams: Slots<Stream>,
    pub(super) watchers: Slots<Watcher>,
    pub(super) by_key: HashMap<Bytes, Vec<u64>>,
    pub(super) by_range: Intervals,
    /// Watchers to create, in the order in which the engine answers.
    opening: VecDeque<(StreamKey, WatchSpec)>,
    /// Streams whose progress mark came before all their watchers were synced.
    progress_waiting: Vec<StreamKey>,
    asks: Vec<Ask>,
    ready: Vec<StreamKey>,
    pub(super) touched: Vec<u64>,
    pub(super) counts: FanOutCounts,
}

/// What the engine said when this core asked to open a watch.
#[derive(Clone, Copy, Debug)]
pub struct OpenedAt {
    /// Revision of the store.
    pub revision: Revision,
    /// Revision after which batches come to this core.
    pub published: Revision,
    /// Oldest revision that a watch may start from.
    pub compact_revision: Revision,
    /// Raft term.
    pub raft_term: u64,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FanOutCounts {
    /// Open watch streams.
    pub streams: usize,
    /// Watchers.
    pub watchers: usize,
    /// Watchers that are behind.
    pub late: usize,
    /// Events in streams that their clients have not taken.
    pub events_queued: usize,
    /// Events put into streams since the start.
    pub events_sent: u64,
}

impl FanOut {
    /// An empty fan-out of this member.
    #[must_use]
    pub fn new(cluster_id: u64, member_id: u64, fragment_bytes: usize) -> Self {
        Self {
            head: Head {
                cluster_id,
                member_id,
                revision: 0,
                raft_term: 0,
            },
            fragment_bytes,
            bounds: StreamBounds::default(),
            streams: Slots::default(),
            watchers: Slots::default(),
            by_key: HashMap::new(),
            by_range: Intervals::default(),
            opening: VecDeque::new(),
            progress_waiting: Vec::new(),
            asks: Vec::new(),
            ready: Vec::new(),
            touched: Vec::new(),
            counts: FanOutCounts::default(),
        }
    }

    /// Streams that are opened from now on hold so much.
    #[must_use]
    pub fn with_bounds(self, bounds: StreamBounds) -> Self {
        Self { bounds, ..self }
    }

    /// A client opened a watch stream.
    pub fn open_stream(&mut self) -> StreamKey {
        StreamKey(self.streams.insert(Stream::bounded(self.bounds)))
    }

    /// The stream is gone; its watchers go with it.
    pub fn close_stream(&mut self, stream: StreamKey) {
        if let Some(closed) = self.streams.remove(stream.0) {
            self.counts.events_queued -= closed.queued_events;
            for watcher in closed.watchers.into_values() {
                self.remove_watcher(watcher);
            }
            self.idle_if_unused();
        }
    }

    /// A client asks for a watcher. The engine is asked where the store is; the watcher comes to be, or
    /// is refused, when the answer arrives between the batches before and after it.
    pub fn request_create(&mut self, stream: StreamKey, spec: WatchSpec) {
        if let Some(held) = self.streams.get_mut(stream.0) {
            held.opening += 1;
            self.opening.push_back((stream, spec));
            self.asks.push(Ask::WatchOpen);
        }
    }

    /// The engine answers the oldest outstanding [`Ask::WatchOpen`].
    pub fn on_opened(&mut self, opened: OpenedAt) {
        let (stream, spec) = self
            .opening
            .pop_front()
            .expect("the engine answers only what was asked");
        self.observe(opened.published, opened.raft_term);
        if let Some(held) = self.streams.get_mut(stream.0) {
            held.opening -= 1;
            let head = self.head;
            self.head.revision = opened.revision.0;
            self.create(stream, spec, opened);
            self.head = head;
        }
        self.idle_if_unused();
    }

    /// The client cancels a watcher. Unknown ids are ignored, as in etcd.
    pub fn cancel(&mut self, stream: StreamKey, id: i64) {
        let Some(held) = self.streams.get_mut(stream.0) else {
            return;
        };
        if let Some(watcher) = held.watchers.remove(&id) {
            self.remove_watcher(watcher);
        } else if !held.ended.remove(&id) {
            return;
        }
        let shape = Shape {
            watch_id: id,
            canceled: true,
            ..Shape::default()
        };
        self.control(stream, &shape);
        self.ask_for_history(stream);
        self.retry_progress();
        self.idle_if_unused();
    }

    /// The client asks for progress of all watchers of its stream.
    pub fn request_progress(&mut self, stream: StreamKey) {
        let Some(held) = self.streams.get_mut(stream.0) else {
            return;
        };
        match held.mark {
            Mark::Idle => {
                held.mark = Mark::Asked;
                self.asks.push(Ask::Progress(stream));
            }
            Mark::Asked | Mark::AskedAgain => held.mark = Mark::AskedAgain,
        }
    }

    /// A batch of changes reached this core.
    pub fn on_batch(&mut self, batch: &EventBatch) {
        assert!(
            batch.after.0 <= self.head.revision,
            "invariant 1: a batch after {} follows revision {}",
            batch.after,
            self.head.revision
        );
        self.observe(batch.through, batch.raft_term);
        self.match_changes(&batch.changes);
        let cache = EventCache::new(&batch.changes);
        let mut touched = std::mem::take(&mut self.touched);
        for watcher in touched.drain(..) {
            self.deliver_live(watcher, &cache);
        }
        self.touched = touched;
        self.retry_progress();
    }

    /// A slice of history for one watcher reached this core.
    pub fn on_caught_up(&mut self, slice: &CaughtUp) {
        let Some(watcher) = self.watchers.get_mut(slice.watcher.0) else {
            return;
        };
        let (stream, id) = (StreamKey(watcher.stream), watcher.id);
        if let Some(compacted) = slice.compacted {
            self.drop_watcher(stream, id);
            self.cancel_compacted(stream, id, compacted);
            self.retry_progress();
            return self.idle_if_unused();
        }
        if let Some(held) = self.streams.get_mut(stream.0) {
            held.asked = false;
        }
        let revision = self.head.revision;
        self.head.revision = revision.max(slice.current.0);
        let cache = EventCache::new(&slice.changes);
        let matched: Vec<usize> = (0..slice.changes.len())
            .filter(|index| watcher.spec.wants(&slice.changes[*index]))
            .collect();
        self.send_events(slice.watcher.0, &cache, &matched);
        self.head.revision = revision;
        let live = slice.next > slice.current;
        let watcher = self
            .watchers
            .get_mut(slice.watcher.0)
            .expect("sending events removes no watcher");
        if live {
            watcher.phase = Phase::Live { from: slice.next };
            self.counts.late -= 1;
            self.retry_progress();
        } else {
            watcher.phase = Phase::Late {
                cursor: slice.next,
                asked: false,
            };
            self.wait_for_room(stream, slice.watcher.0);
        }
        self.ask_for_history(stream);
    }

    /// The engine has a later state, without batches for what lies between: whoever has started looks for itself what
    /// there was, or hears that it is compacted.
    pub fn on_leap(&mut self, revision: Revision, raft_term: u64) {
        let told = Revision(self.head.revision);
        self.observe(revision, raft_term);
        let keys: Vec<u64> = self.watchers.keys().collect();
        for key in keys {
            let Some(watcher) = self.watchers.get_mut(key) else {
                continue;
            };
            let Phase::Live { from } = watcher.phase else {
                continue;
            };
            let cursor = from.max(told.next());
            if cursor > revision {
                continue;
            }
            watcher.phase = Phase::Late {
                cursor,
                asked: false,
            };
            let stream = StreamKey(watcher.stream);
            self.counts.late += 1;
            self.wait_for_room(stream, key);
            self.ask_for_history(stream);
        }
    }

    /// The engine marks that everything up to `revision` was sent to this core.
    pub fn on_progress(&mut self, stream: StreamKey, revision: Revision) {
        assert!(
            revision.0 <= self.head.revision,
            "invariant 3: progress {revision} ahead of revision {}",
            self.head.revision
        );
        if !self.answer_progress(stream) && !self.progress_waiting.contains(&stream) {
            self.progress_waiting.push(stream);
        }
        if let Some(held) = self.streams.get_mut(stream.0) {
            let again = held.mark == Mark::AskedAgain;
            held.mark = Mark::Idle;
            if again {
                self.request_progress(stream);
            }
        }
    }

    /// The progress interval has passed: watchers that want it and saw nothing are told how far they
    /// are.
    pub fn on_progress_interval(&mut self) {
        let keys: Vec<u64> = self.watchers.keys().collect();
        for key in keys {
            self.notify_idle(key);
        }
    }

    /// The next response of a stream, in order.
    pub fn take_response(&mut self, stream: StreamKey) -> Option<Bytes> {
        let (response, event_count) = self.streams.get_mut(stream.0)?.pop()?;
        self.counts.events_queued -= event_count;
        self.ask_for_history(stream);
        Some(response)
    }

    /// Whether the shell may read further requests from the stream's client.
    #[must_use]
    pub fn takes_requests(&self, stream: StreamKey) -> bool {
        self.streams
            .get(stream.0)
            .is_some_and(Stream::takes_requests)
    }

    /// Questions for the engine.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// Streams that were given responses since the last call; a stream may appear more than once.
    pub fn take_ready(&mut self) -> Vec<StreamKey> {
        std::mem::take(&mut self.ready)
    }

    /// Revision up to which live watchers of this core are served.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.head.revision)
    }

    /// Figures for metrics.
    #[must_use]
    pub fn counts(&self) -> FanOutCounts {
        FanOutCounts {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            ..self.counts
        }
    }

    fn observe(&mut self, revision: Revision, raft_term: u64) {
        self.head.revision = self.head.revision.max(revision.0);
        self.head.raft_term = raft_term;
    }

    fn create(&mut self, stream: StreamKey, spec: WatchSpec, opened: OpenedAt) {
        if spec.start_revision < 0 {
            return self.refuse(stream, ApiError::Compacted.message());
        }
        if spec.is_empty_range() {
            return self.refuse(stream, EMPTY_RANGE);
        }
        let ended = self
            .streams
            .get(stream.0)
            .map_or(0, |held| held.ended.len());
        if self.watchers.len() >= WATCHERS_PER_CORE_MAX || ended >= ENDED_PER_STREAM_MAX {
            return self.refuse(stream, ApiError::TooManyRequests.message());
        }
        let id = self
            .streams
            .get_mut(stream.0)
            .and_then(|held| held.assign_id(spec.watch_id));
        let Some(id) = id else {
            return self.refuse(stream, DUPLICATE_ID);
        };
        let shape = Shape {
            watch_id: id,
            created: true,
            ..Shape::default()
        };
        self.control(stream, &shape);
        let start = Revision(spec.start_revision);
        if start.0 != 0 && start < opened.compact_revision {
            return self.cancel_compacted(stream, id, opened.compact_revision);
        }
        self.register(stream, id, spec, start, opened.revision);
    }

    fn register(
        &mut self,
        stream: StreamKey,
        id: i64,
        spec: WatchSpec,
        start: Revision,
        current: Revision,
    ) {
        let phase = if start.0 == 0 || start > current {
            Phase::Live {
                from: start.max(current.next()),
            }
        } else {
            Phase::Late {
                cursor: match bugs::is_on(Bug::ResumeOneLate) {
                    true => start.next(),
                    false => start,
                },
                asked: false,
            }
        };
        let key = self.watchers.insert(Watcher {
            stream: stream.0,
            id,
            spec: spec.clone(),
            phase,
            idle: true,
            matched: Vec::new(),
        });
        match spec.end() {
            Some(end) => self.by_range.insert(&spec.key, &end, key as usize),
            None => self.by_key.entry(spec.key).or_default().push(key),
        }
        if let Some(held) = self.streams.get_mut(stream.0) {
            held.watchers.insert(id, key);
        }
        if matches!(phase, Phase::Late { .. }) {
            self.counts.late += 1;
            self.wait_for_room(stream, key);
            self.ask_for_history(stream);
        }
    }

    fn drop_watcher(&mut self, stream: StreamKey, id: i64) {
        if let Some(key) = self
            .streams
            .get_mut(stream.0)
            .and_then(|held| held.watchers.remove(&id))
        {
            self.remove_watcher(key);
        }
    }

    fn remove_watcher(&mut self, key: u64) {
        let Some(watcher) = self.watchers.remove(key) else {
            return;
        };
        if let Phase::Late { asked, .. } = watcher.phase {
            self.counts.late -= 1;
            if asked && let Some(held) = self.streams.get_mut(watcher.stream) {
                held.asked = false;
            }
        }
        match watcher.spec.end() {
            Some(end) => {
                self.by_range.remove(&watcher.spec.key, &end, key as usize);
            }
            None => {
                if let Some(keys) = self.by_key.get_mut(&watcher.spec.key) {
                    keys.retain(|held| *held != key);
                    if keys.is_empty() {
                        self.by_key.remove(&watcher.spec.key);
                    }
                }
            }
        }
    }

    /// Without watchers, here or about to be, the engine need not send batches.
    fn idle_if_unused(&mut self) {
        if self.watchers.len() == 0 && self.opening.is_empty() {
            self.asks.push(Ask::WatchIdle);
        }
    }

    fn refuse(&mut self, stream: StreamKey, reason: &str) {
        let shape = Shape {
            watch_id: NO_WATCH_ID,
            created: true,
            canceled: true,
            cancel_reason: reason,
            ..Shape::default()
        };
        self.control(stream, &shape);
    }

    fn cancel_compacted(&mut self, stream: StreamKey, watch_id: i64, compacted: Revision) {
        if let Some(held) = self.streams.get_mut(stream.0) {
            held.ended.insert(watch_id);
        }
        let shape = Shape {
            watch_id,
            canceled: true,
            compact_revision: compacted.0,
            ..Shape::default()
        };
        // etcd leaves the revision out of this header.
        let head = Head {
            revision: 0,
            ..self.head
        };
        let response = encode::response(&head, &shape, &[]);
        self.push(stream, response, 0);
    }

    fn notify_idle(&mut self, key: u64) {
        let revision = Revision(self.head.revision);
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        if !watcher.spec.progress_notify {
            return;
        }
        let was_idle = std::mem::replace(&mut watcher.idle, true);
        if was_idle && watcher.is_synced(revision) {
            let shape = Shape {
                watch_id: watcher.id,
                ..Shape::default()
            };
            let stream = StreamKey(watcher.stream);
            self.control(stream, &shape);
        }
    }

    /// Answers a stream's progress request if all its watchers are synced (invariant 3); whether the
    /// matter is settled. A stream without watchers has nobody to speak for and gets no answer.
    fn answer_progress(&mut self, stream: StreamKey) -> bool {
        let revision = Revision(self.head.revision);
        let Some(held) = self.streams.get(stream.0) else {
            return true;
        };
        if held.watchers.is_empty() {
            return true;
        }
        let synced = held.watchers.values().all(|key| {
            self.watchers
                .get(*key)
                .is_some_and(|watcher| watcher.is_synced(revision))
        });
        if synced || bugs::is_on(Bug::ProgressAheadOfEvents) {
            let shape = Shape {
                watch_id: NO_WATCH_ID,
                ..Shape::default()
            };
            self.control(stream, &shape);
        }
        synced
    }

    fn retry_progress(&mut self) {
        let mut waiting = std::mem::take(&mut self.progress_waiting);
        waiting.retain(|stream| !self.answer_progress(*stream));
        self.progress_waiting = waiting;
    }

    fn control(&mut self, stream: StreamKey, shape: &Shape<'_>) {
        let response = encode::response(&self.head, shape, &[]);
        self.push(stream, response, 0);
    }

    pub(super) fn push(&mut self, stream: StreamKey, response: Bytes, event_count: usize) {
        if let Some(held) = self.streams.get_mut(stream.0) {
            self.counts.events_queued += event_count;
            held.push(response, event_count);
            self.ready.push(stream);
        }
    }

    pub(super) fn wait_for_room(&mut self, stream: StreamKey, key: u64) {
        if let Some(held) = self.streams.get_mut(stream.0) {
            held.late.push_back(key);
        }
    }

    /// Asks for the next slice of the stream's first late watcher if the stream has room. One slice at a
    /// time per stream keeps what is on its way bounded.
    fn ask_for_history(&mut self, stream: StreamKey) {
        let Some(held) = self.streams.get_mut(stream.0) else {
            return;
        };
        while !held.asked && held.has_room_for_history() {
            let Some(key) = held.late.pop_front() else {
                return;
            };
            let Some(watcher) = self.watchers.get_mut(key) else {
                continue;
            };
            let Phase::Late {
                cursor,
                asked: false,
            } = watcher.phase
            else {
                continue;
            };
            watcher.phase = Phase::Late {
                cursor,
                asked: true,
            };
            held.asked = true;
            self.asks.push(Ask::CatchUp(CatchUp {
                watcher: WatcherKey(key),
                from: cursor,
                key: watcher.spec.key.clone(),
                range_end: watcher.spec.range_end.clone(),
            }));
        }
    }
}
