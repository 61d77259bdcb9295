//! The watch streams of one server during a run: takes responses apart by watch, and checks what
//! must hold for any server at any moment.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_proto::etcdserverpb as pb;
use keelson_proto::mvccpb::Event;

use super::world::WatchKey;
use crate::harness::{Clients, DEADLINE, WatchSession, shapes};

/// An id that no run asks for.
const PROBE_ID: i64 = 1_000_000;

/// All watch streams of one server.
#[derive(Debug)]
pub struct Watches {
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    session: WatchSession,
    delivered: BTreeMap<i64, Delivered>,
    control: Vec<pb::WatchResponse>,
    progress_revision: i64,
}

/// What one watch has received and nobody has taken yet.
#[derive(Debug, Default)]
struct Delivered {
    events: Vec<Event>,
    last_revision: i64,
    in_fragments: bool,
}

impl Watches {
    /// Opens the streams.
    pub fn open(clients: &Clients, count: usize) -> Watches {
        let open = |_| Stream {
            session: clients.watch_session(),
            delivered: BTreeMap::new(),
            control: Vec::new(),
            progress_revision: 0,
        };
        Watches {
            streams: (0..count).map(open).collect(),
        }
    }

    /// Asks for a watch and returns the answers: `created`, and `canceled` if `ends_at_once`.
    pub async fn create(
        &mut self,
        stream: usize,
        request: pb::WatchCreateRequest,
        ends_at_once: bool,
    ) -> Vec<pb::WatchResponse> {
        let stream = &mut self.streams[stream];
        stream.session.create(request);
        while stream.control.is_empty() {
            stream.pump().await;
        }
        let refused = stream.control[0].canceled;
        while ends_at_once && !refused && stream.control.len() < 2 {
            stream.pump().await;
        }
        let answers = std::mem::take(&mut stream.control);
        if ends_at_once && !refused {
            stream.free_id(answers[0].watch_id).await;
        }
        if !ends_at_once && !refused {
            stream.delivered.entry(answers[0].watch_id).or_default();
        }
        answers
    }

    /// Ends a watch and returns the answer.
    pub async fn cancel(&mut self, at: WatchKey) -> Vec<pb::WatchResponse> {
        let stream = &mut self.streams[at.stream];
        stream.session.cancel(at.watch_id);
        while stream.control.is_empty() {
            stream.pump().await;
        }
        stream.delivered.remove(&at.watch_id);
        std::mem::take(&mut stream.control)
    }

    /// Asks to end a watch that does not exist; no answer is due.
    pub fn cancel_unknown(&mut self, at: WatchKey) {
        self.streams[at.stream].session.cancel(at.watch_id);
    }

    /// Asks for progress until the stream reports `revision`.
    pub async fn progress(&mut self, stream: usize, revision: i64) {
        let stream = &mut self.streams[stream];
        let start = std::time::Instant::now();
        while stream.progress_revision < revision {
            assert!(
                start.elapsed() < DEADLINE,
                "no progress report for {revision}"
            );
            stream.session.request_progress();
            if let Some(response) = stream.session.next_within(Duration::from_millis(100)).await {
                stream.take(response);
            }
        }
        assert_eq!(
            stream.progress_revision, revision,
            "progress ahead of the store"
        );
    }

    /// Takes what a watch delivered up to `revision`, waiting until it has come so far.
    pub async fn events_until(&mut self, at: WatchKey, revision: i64) -> Vec<Event> {
        let stream = &mut self.streams[at.stream];
        while stream.delivered[&at.watch_id].last_revision < revision {
            stream.pump().await;
        }
        let delivered = stream.delivered.get_mut(&at.watch_id).expect("just read");
        let split = delivered
            .events
            .partition_point(|event| mod_revision(event) <= revision);
        delivered.events.drain(..split).collect()
    }
}

impl Stream {
    /// Sees to it that an id is free after compaction ended its watch: see the table of
    /// exceptions. The answer, if there is one, comes before those to a watch made for this.
    async fn free_id(&mut self, watch_id: i64) {
        self.session.cancel(watch_id);
        self.session.create(pb::WatchCreateRequest {
            watch_id: PROBE_ID,
            ..shapes::watch("probe")
        });
        self.session.cancel(PROBE_ID);
        let is_end = |answer: &pb::WatchResponse| answer.canceled && answer.watch_id == PROBE_ID;
        while !self.control.iter().any(is_end) {
            self.pump().await;
        }
        self.control.clear();
    }

    async fn pump(&mut self) {
        let response = self.session.next().await;
        self.take(response);
    }

    fn take(&mut self, response: pb::WatchResponse) {
        if response.created || response.canceled {
            assert!(
                response.events.is_empty(),
                "control with events: {response:?}"
            );
            self.control.push(response);
            return;
        }
        let revision = response.header.as_ref().expect("a header").revision;
        if response.events.is_empty() {
            assert_eq!(response.watch_id, -1, "unasked progress: {response:?}");
            assert!(
                revision >= self.progress_revision,
                "progress fell: {response:?}"
            );
            self.progress_revision = revision;
            return;
        }
        let delivered = self.delivered.entry(response.watch_id).or_default();
        let first = mod_revision(&response.events[0]);
        // Ordered and atomic: a revision never goes on in the next response, but for fragments.
        assert!(
            first > delivered.last_revision
                || (delivered.in_fragments && first == delivered.last_revision),
            "events at {first} after {}: {response:?}",
            delivered.last_revision,
        );
        assert!(
            response.events.is_sorted_by_key(mod_revision),
            "events out of order: {response:?}",
        );
        let last = mod_revision(response.events.last().expect("not empty"));
        assert!(revision >= last, "header behind its events: {response:?}");
        delivered.last_revision = last;
        delivered.in_fragments = response.fragment;
        delivered.events.extend(response.events);
    }
}

fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().expect("an event has a kv").mod_revision
}
