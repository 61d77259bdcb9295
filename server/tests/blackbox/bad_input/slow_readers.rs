//! Clients that ask for much and never read it.

use keelson_proto::etcdserverpb as pb;
use keelson_proto::mvccpb::KeyValue;
use tonic::Code;

use super::{a_moment, serves_others};
use crate::harness::{Clients, Server, ServerKind, WatchSession, accepted, heavy, shapes};

const MIB: u64 = 1 << 20;

/// The server's memory grew by less than that since; etcd copies a whole answer for every reader,
/// so only Keelson is held to it.
fn grew_less_than(server: &Server, before: u64, allowed: u64) {
    let grown = server.resident_bytes().saturating_sub(before);
    println!("memory grew by {} MiB", grown / MIB);
    if server.kind() == ServerKind::Keelson {
        assert!(grown < allowed, "memory grew by {} MiB", grown / MIB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_p_1_huge_ranges_that_nobody_reads() {
    const KEYS: usize = 48;
    const READERS: usize = 12;
    let _alone = heavy().await;
    let server = Server::start("slow-range").await;
    let clients = server.clients().await;
    for number in 0..KEYS {
        let value = vec![b'r'; MIB as usize];
        clients
            .put(shapes::put(format!("r/{number:02}"), value))
            .await;
    }
    let before = server.resident_bytes();
    let mut unread = Vec::new();
    for _ in 0..READERS {
        unread.push(UnreadCall::start(&server).await);
    }
    a_moment().await;
    serves_others(&server).await;
    // Answered whole they would take READERS times the data.
    grew_less_than(&server, before, (KEYS as u64 + 100) * MIB);
    let whole = clients.range(shapes::list("r/")).await;
    assert_eq!(whole.kvs.len(), KEYS);
    drop(unread);
    serves_others(&server).await;
}

/// A Range over `r/` whose answer is left in the server's hands.
struct UnreadCall {
    _response: h2::client::ResponseFuture,
    driver: tokio::task::JoinHandle<()>,
}

impl UnreadCall {
    async fn start(server: &Server) -> UnreadCall {
        let stream = tokio::net::TcpStream::connect(server.address())
            .await
            .expect("accepts");
        let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let driver = tokio::spawn(async move {
            // Ends when the test drops it.
            let _ = connection.await;
        });
        let request = http::Request::post(format!("{}/etcdserverpb.KV/Range", server.endpoint()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("the request is well formed");
        let (response, mut body) = send.send_request(request, false).expect("a stream opens");
        let message = prost::Message::encode_to_vec(&shapes::list("r/"));
        let frame = crate::harness::raw::frame(&message);
        body.send_data(bytes::Bytes::from(frame), true)
            .expect("a request is sent");
        UnreadCall {
            _response: response,
            driver,
        }
    }
}

impl Drop for UnreadCall {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A watch whose stream is open and not read.
struct UnreadWatch {
    responses: tonic::Streaming<pb::WatchResponse>,
    _requests: tokio::sync::mpsc::UnboundedSender<pb::WatchRequest>,
}

impl UnreadWatch {
    async fn start(server: &Server, create: pb::WatchCreateRequest) -> UnreadWatch {
        let clients = server.clients().await;
        let (requests, outbox) = tokio::sync::mpsc::unbounded_channel();
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        let first = pb::WatchRequest {
            request_union: Some(union),
        };
        requests.send(first).expect("the stream takes it");
        let outgoing = futures_util::stream::unfold(outbox, |mut outbox| async {
            let next: Option<pb::WatchRequest> = outbox.recv().await;
            next.map(|request| (request, outbox))
        });
        let mut responses = accepted(clients.watch.clone().watch(outgoing).await);
        let created = responses
            .message()
            .await
            .expect("an answer")
            .expect("created");
        assert!(created.created);
        UnreadWatch {
            responses,
            _requests: requests,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_w_12_watchers_that_never_read_delay_nobody_and_lose_nothing() {
    const SLOW: usize = 16;
    const WRITES: usize = 120;
    const VALUE_BYTES: usize = 256 << 10;
    let _alone = heavy().await;
    let server = Server::start("slow-watch").await;
    let clients = server.clients().await;
    let before = server.resident_bytes();
    let start = clients.revision().await + 1;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(UnreadWatch::start(&server, shapes::watch_prefix("w/")).await);
    }
    let mut healthy = clients.watch_session();
    let id = healthy.created(shapes::watch_prefix("w/")).await.watch_id;
    for turn in 0..WRITES {
        let value = vec![turn as u8; VALUE_BYTES];
        let revision = clients.put_key(format!("w/{:02}", turn % 10), value).await;
        let events = healthy.events(id, 1).await;
        let kv = events[0].kv.as_ref().expect("an event has a kv");
        assert_eq!(kv.mod_revision, revision, "a healthy watch is up to date");
    }
    // The history is 30 MiB; sixteen queues of it would be 480.
    grew_less_than(&server, before, 220 * MIB);
    // When they read at last, everything is there.
    let whole: Vec<KeyValue> = history(&clients, start, WRITES).await;
    for watch in &mut slow {
        let mut seen = Vec::new();
        while seen.len() < WRITES {
            let response = watch
                .responses
                .message()
                .await
                .expect("an answer")
                .expect("goes on");
            assert!(!response.canceled, "{response:?}");
            seen.extend(
                response
                    .events
                    .into_iter()
                    .map(|event| event.kv.expect("a kv")),
            );
        }
        assert_eq!(seen, whole);
    }
}

async fn history(clients: &Clients, start: i64, count: usize) -> Vec<KeyValue> {
    let mut session = WatchSession::open(clients.watch.clone(), &[]);
    let request = pb::WatchCreateRequest {
        start_revision: start,
        ..shapes::watch_prefix("w/")
    };
    let id = session.created(request).await.watch_id;
    let events = session.events(id, count).await;
    events
        .into_iter()
        .map(|event| event.kv.expect("a kv"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_w_12_a_watcher_overtaken_by_compaction_is_told() {
    const WRITES: usize = 120;
    let _alone = heavy().await;
    let server = Server::start("slow-compacted").await;
    let clients = server.clients().await;
    let mut slow = UnreadWatch::start(&server, shapes::watch("w")).await;
    let mut last = 0;
    for turn in 0..WRITES {
        last = clients.put_key("w", vec![turn as u8; 256 << 10]).await;
    }
    clients.compact(last).await;
    let old = clients
        .kv
        .clone()
        .range(shapes::get_at("w", last - 1))
        .await;
    assert_eq!(old.expect_err("compacted").code(), Code::OutOfRange);
    // Either it still gets every event in order, or it is told from where it can go on.
    let mut reached = last - WRITES as i64;
    while reached < last {
        let response = slow
            .responses
            .message()
            .await
            .expect("an answer")
            .expect("goes on");
        if response.canceled {
            assert_eq!(response.compact_revision, last);
            return;
        }
        for event in response.events {
            let revision = event.kv.expect("an event has a kv").mod_revision;
            assert_eq!(revision, reached + 1, "a gap in place of a cancel");
            reached = revision;
        }
    }
}
