//! What a client is told about watchers that never come to live, one case each.

use bytes::Bytes;
use keelson_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use keelson_storage::ids::Revision;
use prost::Message;

use super::{FanOut, OpenedAt, WatchSpec};
use crate::engine::message::{Ask, StreamKey};

const COMPACTED: i64 = 50;

struct Client {
    fanout: FanOut,
    stream: StreamKey,
}

impl Client {
    fn new() -> Self {
        let mut fanout = FanOut::new(1, 2, 1 << 20);
        let stream = fanout.open_stream();
        Self { fanout, stream }
    }

    /// Asks for a watcher on a store at revision 100, compacted at 50; what the client is answered.
    fn create(&mut self, request: WatchCreateRequest) -> Vec<WatchResponse> {
        let spec = WatchSpec::from(request);
        self.fanout.request_create(self.stream, spec);
        assert!(!self.fanout.takes_requests(self.stream), "one at a time");
        self.fanout.on_opened(OpenedAt {
            revision: Revision(100),
            published: Revision(100),
            compact_revision: Revision(COMPACTED),
            raft_term: 3,
        });
        self.read()
    }

    fn read(&mut self) -> Vec<WatchResponse> {
        let mut responses = Vec::new();
        while let Some(framed) = self.fanout.take_response(self.stream) {
            responses.push(WatchResponse::decode(&framed[5..]).expect("well formed"));
        }
        responses
    }
}

fn from(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from_static(b"k"),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

#[test]
fn g_w_10_a_watch_before_the_compact_revision_ends_at_once_and_keeps_its_id() {
    let mut client = Client::new();
    let answers = client.create(from(COMPACTED - 1));
    assert_eq!(answers.len(), 2);
    assert!(answers[0].created && !answers[0].canceled);
    assert!(answers[1].canceled && answers[1].compact_revision == COMPACTED);
    assert_eq!(
        client.create(from(0))[0].watch_id,
        1,
        "id 0 is in use still"
    );
    let wanted = WatchCreateRequest {
        watch_id: 1,
        ..from(0)
    };
    assert_eq!(client.create(wanted)[0].watch_id, -1, "and so is 1");
    client.fanout.cancel(client.stream, 0);
    assert!(client.read()[0].canceled, "ending it again is answered");
    client.fanout.cancel(client.stream, 0);
    assert!(client.read().is_empty(), "now it is unknown");
}

#[test]
fn g_w_10_negative_starts_and_empty_ranges_are_refused_with_etcds_words() {
    let mut client = Client::new();
    let refused = client.create(from(-1)).remove(0);
    assert_eq!((refused.watch_id, refused.canceled), (-1, true));
    assert!(refused.cancel_reason.contains("has been compacted"));
    let empty = WatchCreateRequest {
        range_end: Bytes::from_static(b"a"),
        ..from(0)
    };
    let refused = client.create(empty).remove(0);
    assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");
}

#[test]
fn a_core_without_watchers_tells_the_engine_so() {
    let mut client = Client::new();
    client.create(from(0));
    client.fanout.take_asks();
    client.fanout.close_stream(client.stream);
    assert!(matches!(client.fanout.take_asks()[..], [Ask::WatchIdle]));
}

#[test]
fn g_w_11_progress_waits_for_a_watch_in_the_future() {
    let mut client = Client::new();
    client.create(from(103));
    client.fanout.request_progress(client.stream);
    client.fanout.request_progress(client.stream);
    let marks = |asks: Vec<Ask>| {
        let mark = |ask: &&Ask| matches!(ask, Ask::Progress(_));
        asks.iter().filter(mark).count()
    };
    assert_eq!(marks(client.fanout.take_asks()), 1, "one mark at a time");
    client.fanout.on_progress(client.stream, Revision(100));
    assert!(client.read().is_empty());
    assert_eq!(marks(client.fanout.take_asks()), 1, "it was asked again");
    for (after, through) in [(100, 102), (102, 103)] {
        client.fanout.on_batch(&crate::engine::message::EventBatch {
            after: Revision(after),
            through: Revision(through),
            raft_term: 3,
            changes: Vec::new(),
        });
        let expected = usize::from(through == 103);
        let answers = client.read();
        assert_eq!(answers.len(), expected);
        assert!(answers.iter().all(|answer| answer.watch_id == -1));
    }
}
