//! The front with real sockets: stock gRPC clients, raw HTTP/2, HTTP/1.1, and clients that misbehave.
//!
//! The service under test echoes. Clients run in a tokio runtime on the test's own thread; the server has its
//! cores as in production, only unpinned.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use ::http::{Request, Response, StatusCode};
use bytes::{Bytes, BytesMut};
use futures_lite::future::or;
use http_body_util::Full;
use keelson_proto::etcdserverpb::kv_client::KvClient;
use keelson_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_proto::etcdserverpb::watch_client::WatchClient;
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, ResponseHeader,
    SnapshotRequest, SnapshotResponse, TxnRequest, WatchRequest, WatchResponse,
};
use keelson_proto::mvccpb::KeyValue;
use keelson_storage::ids::CoreId;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::*;
use crate::runtime::{CoreLink, Cores, RuntimeConfig, sleep, start};

const PUT: u16 = 0;
const RANGE: u16 = 1;
const DELETE: u16 = 2;
const WATCH: u16 = 3;
const SNAPSHOT: u16 = 4;

static METHODS: [Method; 5] = [
    Method::new(PUT, "/etcdserverpb.KV/Put", MethodKind::Unary),
    Method::new(RANGE, "/etcdserverpb.KV/Range", MethodKind::Unary),
    Method::new(DELETE, "/etcdserverpb.KV/DeleteRange", MethodKind::Unary),
    Method::new(WATCH, "/etcdserverpb.Watch/Watch", MethodKind::Bidi),
    Method::new(
        SNAPSHOT,
        "/etcdserverpb.Maintenance/Snapshot",
        MethodKind::ServerStream,
    ),
];

/// Puts answer the pair they put; ranges answer `limit` bytes of value in slices; deletes fail with the key as
/// the message; watches echo each create request's key as an event-less response; snapshots stream
/// `SNAPSHOT_BLOB_COUNT` blobs.
struct Echo(MethodTable);

const SNAPSHOT_BLOB_COUNT: usize = 64;
const SNAPSHOT_BLOB_BYTES: usize = 256 << 10;

impl Service for Echo {
    fn route(&self, path: &str) -> Option<&'static Method> {
        self.0.route(path)
    }

    fn has_service(&self, service: &str) -> bool {
        self.0.has_service(service)
    }

    async fn serve(self: Rc<Self>, mut call: Call) {
        match call.method.index {
            PUT => {
                let answer = put(&mut call).await;
                call.reply.send_unary(answer);
            }
            RANGE => range(call).await,
            DELETE => {
                let answer = call.messages.unary().await.map(|bytes| {
                    DeleteRangeRequest::decode(bytes)
                        .map(|request| String::from_utf8_lossy(&request.key).into_owned())
                });
                let text = answer.unwrap().unwrap();
                call.reply
                    .send_unary::<DeleteRangeResponse>(Err(Status::failed_precondition(text)));
            }
            WATCH => watch(call).await,
            SNAPSHOT => snapshot(call).await,
            _ => unreachable!("the router knows {}", call.method.path),
        }
    }
}

async fn put(call: &mut Call) -> Result<PutResponse, Status> {
    let request = PutRequest::decode(call.messages.unary().await?)
        .map_err(|e| Status::internal(e.to_string()))?;
    if request.lease > 0 {
        sleep(Duration::from_millis(request.lease as u64)).await;
    }
    let prev_kv = KeyValue {
        key: request.key,
        value: request.value,
        ..KeyValue::default()
    };
    let revision = call.deadline.map_or(0, |at| {
        at.saturating_duration_since(Instant::now()).as_millis() as i64
    });
    let header = ResponseHeader {
        revision,
        ..ResponseHeader::default()
    };
    Ok(PutResponse {
        header: Some(header),
        prev_kv: Some(prev_kv),
    })
}

async fn range(mut call: Call) {
    let request = RangeRequest::decode(call.messages.unary().await.unwrap()).unwrap();
    let value_bytes = request.limit as usize;
    // What prost would write for one pair with a value of that length, but the value itself.
    let mut head = BytesMut::new();
    prost::encoding::encode_key(5, prost::encoding::WireType::LengthDelimited, &mut head);
    prost::encoding::encode_varint(value_bytes as u64, &mut head);
    let pair = head.split();
    prost::encoding::encode_key(2, prost::encoding::WireType::LengthDelimited, &mut head);
    prost::encoding::encode_varint((pair.len() + value_bytes) as u64, &mut head);
    head.extend_from_slice(&pair);
    call.reply.begin((head.len() + value_bytes) as u64);
    if call.reply.chunk(head.freeze()).await.is_err() {
        return;
    }
    let piece = Bytes::from(vec![b'v'; 100_000]);
    let mut left = value_bytes;
    while left > 0 {
        let slice = piece.slice(..left.min(piece.len()));
        left -= slice.len();
        if call.reply.chunk(slice).await.is_err() {
            return;
        }
    }
    call.reply.finish(Ok(()));
}

async fn watch(mut call: Call) {
    enum Event {
        Message(Result<Option<Bytes>, Status>),
        Closed(Closed),
    }
    call.reply.send_headers().ok();
    loop {
        let next = async { Event::Message(call.messages.next().await) };
        let closed = async { Event::Closed(call.reply.closed().await) };
        match or(next, closed).await {
            Event::Message(Ok(Some(bytes))) => {
                let request = WatchRequest::decode(bytes).unwrap();
                let cancel_reason = format!("{request:?}").len().to_string();
                let response = WatchResponse {
                    cancel_reason,
                    ..WatchResponse::default()
                };
                if call.reply.send(&response).await.is_err() {
                    return;
                }
            }
            Event::Message(Ok(None)) => return call.reply.finish(Ok(())),
            Event::Message(Err(_)) | Event::Closed(Closed::Gone) => return,
            Event::Closed(Closed::Stopping) => {
                return call.reply.finish(Err(Status::unavailable("stopping")));
            }
        }
    }
}

async fn snapshot(mut call: Call) {
    let blob = Bytes::from(vec![b's'; SNAPSHOT_BLOB_BYTES]);
    for left in (0..SNAPSHOT_BLOB_COUNT).rev() {
        let remaining_bytes = (left * SNAPSHOT_BLOB_BYTES) as u64;
        let part = SnapshotResponse {
            remaining_bytes,
            blob: blob.clone(),
            ..SnapshotResponse::default()
        };
        if call.reply.send(&part).await.is_err() {
            return;
        }
    }
    call.reply.finish(Ok(()));
}

struct Hello;

impl HttpService for Hello {
    async fn handle(&self, request: Request<Bytes>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/health" => Response::new(Full::from("{\"health\":\"true\"}")),
            "/echo" => Response::new(Full::from(request.into_body())),
            _ => Response::builder()
                .status(StatusCode::NOT_FOUND)
                .body(Full::default())
                .unwrap(),
        }
    }
}

/// Counts of what the observer saw, over all cores.
#[derive(Default)]
struct Seen {
    open: AtomicI64,
    started: AtomicI64,
    ok: AtomicI64,
    cancelled: AtomicI64,
    failed: AtomicI64,
    sent_messages: AtomicI64,
    received_messages: AtomicI64,
    unsent_peak: AtomicI64,
}

struct Counter(Arc<Seen>);

impl Observer for Counter {
    fn connection_opened(&self) {
        self.0.open.fetch_add(1, Ordering::Relaxed);
    }
    fn connection_closed(&self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
    fn call_started(&self, _method: &'static Method) {
        self.0.started.fetch_add(1, Ordering::Relaxed);
    }
    fn call_handled(&self, _method: &'static Method, code: Code) {
        let counter = match code {
            Code::Ok => &self.0.ok,
            Code::Cancelled => &self.0.cancelled,
            _ => &self.0.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    fn message_received(&self, _method: &'static Method) {
        self.0.received_messages.fetch_add(1, Ordering::Relaxed);
    }
    fn message_sent(&self, _method: &'static Method) {
        self.0.sent_messages.fetch_add(1, Ordering::Relaxed);
    }
}

/// A running server.
struct Server {
    address: SocketAddr,
    metrics_address: SocketAddr,
    cores: Option<Cores>,
    seen: Arc<Seen>,
    drained: std::sync::mpsc::Receiver<DrainReport>,
}

struct Seat {
    listeners: Option<(Vec<Listener>, HandoverSeat)>,
    arrivals: Option<ArrivalSeat>,
}

fn serve_on(core_count: u16, config: FrontConfig, drain_limit: Duration) -> Server {
    crate::runtime::raise_open_files().unwrap();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = vec![
        Listener::bind(local, Role::Client).unwrap(),
        Listener::bind(local, Role::HttpOnly).unwrap(),
    ];
    let (address, metrics_address) = (
        listeners[0].local_address().unwrap(),
        listeners[1].local_address().unwrap(),
    );
    let seen = Arc::new(Seen::default());
    let (report, drained) = std::sync::mpsc::channel();
    let ids: Vec<CoreId> = (0..core_count).map(CoreId).collect();
    let seats = |links: &[CoreLink]| {
        let (sender, receivers) = handover(links, 0);
        let mut listening = Some((listeners, sender));
        receivers
            .into_iter()
            .map(|arrivals| Seat {
                listeners: listening.take(),
                arrivals,
            })
            .collect()
    };
    let observed = seen.clone();
    let main = move |core: crate::runtime::Core, seat: Seat| {
        let (config, seen, report) = (config.clone(), observed.clone(), report.clone());
        async move {
            let service = Rc::new(Echo(MethodTable::new(&METHODS)));
            let front = Front::new(
                config,
                service,
                Rc::new(Hello),
                Rc::new(Counter(seen.clone())),
            );
            if let Some((listeners, sender)) = seat.listeners {
                front.accept(listeners, sender);
            }
            if let Some(arrivals) = seat.arrivals {
                front.receive(arrivals);
            }
            let watched = front.clone();
            let stopping = core.stopping().clone();
            crate::runtime::spawn(async move {
                while !stopping.is_set() {
                    seen.unsent_peak
                        .fetch_max(watched.stats().unsent_bytes as i64, Ordering::Relaxed);
                    sleep(Duration::from_millis(5)).await;
                }
            });
            core.stopping().wait().await;
            report.send(front.drain(drain_limit).await).unwrap();
        }
    };
    let runtime = RuntimeConfig {
        pin: false,
        ..RuntimeConfig::default()
    };
    let cores = start(&ids, &runtime, seats, main).unwrap();
    Server {
        address,
        metrics_address,
        cores: Some(cores),
        seen,
        drained,
    }
}

fn serve() -> Server {
    serve_on(1, FrontConfig::default(), Duration::from_secs(5))
}

impl Server {
    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    fn stop(mut self) -> DrainReport {
        let cores = self.cores.take().unwrap();
        cores.stopper().stop();
        cores.join().unwrap();
        self.drained.recv().unwrap()
    }
}

fn clients<F: Future<Output = ()>>(work: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), work)
            .await
            .expect("the test hangs")
    });
}

fn put_request(key: &str, value_bytes: usize) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::from(vec![b'x'; value_bytes]),
        ..PutRequest::default()
    }
}

#[test]
fn unary_calls_of_all_sizes_and_their_errors() {
    let server = serve();
    clients(async {
        let channel = server.channel().await;
        let mut kv = KvClient::new(channel).max_decoding_message_size(64 << 20);
        for value_bytes in [0, 1, 255, 256, 1000, 16_384, 70_000, 1_500_000, 2_000_000] {
            let answer = kv
                .put(put_request("k", value_bytes))
                .await
                .unwrap()
                .into_inner();
            assert_eq!(answer.prev_kv.unwrap().value.len(), value_bytes);
        }
        // Responses in slices, far beyond every window.
        for value_bytes in [0, 10, 100_000, 8 << 20] {
            let request = RangeRequest {
                limit: value_bytes,
                ..RangeRequest::default()
            };
            let answer = kv.range(request).await.unwrap().into_inner();
            assert_eq!(answer.kvs[0].value.len() as i64, value_bytes);
        }
        // A status message that is not ASCII arrives percent-encoded and is decoded by the client.
        let key = Bytes::from("größe 100% \n kaputt");
        let error = kv
            .delete_range(DeleteRangeRequest {
                key,
                ..Default::default()
            })
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::FailedPrecondition, "größe 100% \n kaputt")
        );
        // Unknown method and unknown service, in grpc-go's words.
        let error = kv.txn(TxnRequest::default()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
        assert_eq!(
            error.message(),
            "unknown method Txn for service etcdserverpb.KV"
        );
        let mut lease =
            keelson_proto::etcdserverpb::lease_client::LeaseClient::new(server.channel().await);
        let error = lease
            .lease_leases(keelson_proto::etcdserverpb::LeaseLeasesRequest {})
            .await
            .unwrap_err();
        assert_eq!(error.message(), "unknown service etcdserverpb.Lease");
        // The deadline arrives.
        let mut request = tonic::Request::new(put_request("k", 1));
        request.set_timeout(Duration::from_secs(30));
        let left_ms = kv
            .put(request)
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision;
        assert!(
            (20_000..=30_000).contains(&left_ms),
            "{left_ms} ms left of 30 s"
        );
    });
    assert_eq!(server.seen.failed.load(Ordering::Relaxed), 1);
    assert_eq!(server.seen.ok.load(Ordering::Relaxed), 14);
    assert_eq!(server.seen.started.load(Ordering::Relaxed), 15);
    assert_eq!(server.seen.received_messages.load(Ordering::Relaxed), 15);
    assert_eq!(server.seen.sent_messages.load(Ordering::Relaxed), 14);
    let report = server.stop();
    assert_eq!(
        report,
        DrainReport {
            cut_connection_count: 0,
            cut_call_count: 0
        }
    );
}

#[test]
fn a_request_that_is_too_large_gets_etcds_status_and_others_go_on() {
    let server = serve();
    clients(async {
        let mut kv = KvClient::new(server.channel().await);
        let max = FrontConfig::default().message_bytes_max;
        let error = kv.put(put_request("k", max + 1)).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        let wanted = format!("({} vs. {max})", max + 1 + 3 + 5);
        assert_eq!(
            error.message(),
            format!("grpc: received message larger than max {wanted}")
        );
        kv.put(put_request("k", 10)).await.unwrap();
    });
    server.stop();
}

#[test]
fn streams_both_ways() {
    let server = serve();
    clients(async {
        let channel = server.channel().await;
        let mut watch = WatchClient::new(channel.clone());
        let (send, requests) = tokio::sync::mpsc::channel::<WatchRequest>(4);
        let requests = futures_util::stream::unfold(requests, |mut requests| async {
            requests.recv().await.map(|request| (request, requests))
        });
        let mut answers = watch.watch(requests).await.unwrap().into_inner();
        for _ in 0..1000 {
            send.send(WatchRequest::default()).await.unwrap();
            assert!(answers.message().await.unwrap().is_some());
        }
        drop(send);
        assert!(answers.message().await.unwrap().is_none());

        let mut maintenance = MaintenanceClient::new(channel);
        let mut parts = maintenance
            .snapshot(SnapshotRequest {})
            .await
            .unwrap()
            .into_inner();
        let mut bytes = 0;
        while let Some(part) = parts.message().await.unwrap() {
            bytes += part.blob.len();
        }
        assert_eq!(bytes, SNAPSHOT_BLOB_COUNT * SNAPSHOT_BLOB_BYTES);
        // Dropped half way: the handler notices.
        let mut parts = maintenance
            .snapshot(SnapshotRequest {})
            .await
            .unwrap()
            .into_inner();
        parts.message().await.unwrap();
        drop(parts);
        while server.seen.cancelled.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    server.stop();
}

#[test]
fn a_client_that_never_reads_costs_bounded_memory_and_delays_nobody() {
    let server = serve();
    clients(async {
        // Windows as large as the protocol allows, and nobody who takes the bytes off the socket.
        let socket = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(i32::MAX as u32)
            .initial_connection_window_size(i32::MAX as u32)
            .handshake::<_, Bytes>(socket)
            .await
            .unwrap();
        let mut connection = Box::pin(connection);
        let mut send = send;
        let mut streams = Vec::new();
        for _ in 0..200 {
            let request = grpc_request("/etcdserverpb.KV/Range");
            let (response, mut body) = send.send_request(request, false).unwrap();
            let message = RangeRequest {
                limit: 64 << 20,
                ..RangeRequest::default()
            };
            body.send_data(encode_message(&message), true).unwrap();
            streams.push(response);
        }
        // Long enough to send the requests; from then on the connection is not polled.
        let _ = tokio::time::timeout(Duration::from_millis(200), &mut connection).await;

        let mut kv = KvClient::new(server.channel().await);
        let started = Instant::now();
        for _ in 0..200 {
            kv.put(put_request("k", 100)).await.unwrap();
        }
        let each = started.elapsed() / 200;
        assert!(
            each < Duration::from_millis(50),
            "a put beside a client that does not read took {each:?}"
        );
        let peak = server.seen.unsent_peak.load(Ordering::Relaxed) as usize;
        // The frame that h2 has in hand comes on top.
        let bound = 200 * limits::STREAM_SEND_BUFFER_BYTES + 2 * limits::FRAME_BYTES_MAX as usize;
        assert!(peak <= bound, "{peak} bytes were queued");
        drop(streams);
        drop(connection);
    });
    server.stop();
}

fn grpc_request(path: &str) -> Request<()> {
    Request::builder()
        .method("POST")
        .uri(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

/// Sends one request whose body is `body` in pieces, and returns the HTTP status, gRPC status and message.
async fn raw_call(
    address: SocketAddr,
    request: Request<()>,
    pieces: &[&[u8]],
) -> (u16, Option<u16>, String) {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let (response, mut body) = send.send_request(request, false).unwrap();
    for piece in pieces {
        body.send_data(Bytes::copy_from_slice(piece), false)
            .unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Refused when the server has answered and closed the stream already.
    let _ = body.send_data(Bytes::new(), true);
    let response = response.await.unwrap();
    let (head, mut stream) = response.into_parts();
    let mut headers = head.headers;
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.unwrap();
        stream.flow_control().release_capacity(chunk.len()).unwrap();
    }
    if let Some(trailers) = stream.trailers().await.unwrap() {
        headers.extend(trailers);
    }
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let code = text("grpc-status").map(|code| code.parse().unwrap());
    drop(send);
    driver.abort();
    (
        head.status.as_u16(),
        code,
        text("grpc-message").unwrap_or_default(),
    )
}

#[test]
fn grpc_rules_are_kept_as_grpc_go_keeps_them() {
    let server = serve();
    clients(async {
        let framed = encode_message(&put_request("key", 300));
        let at = server.address;
        let put = || grpc_request("/etcdserverpb.KV/Put");
        // Cut anywhere, a message arrives whole.
        let all: Vec<&[u8]> = framed.chunks(1).collect();
        assert_eq!(
            raw_call(
                at,
                put(),
                &all[..50]
                    .iter()
                    .copied()
                    .chain([&framed[50..]])
                    .collect::<Vec<_>>()
            )
            .await
            .1,
            Some(0)
        );
        // A body that ends inside a message, and none at all.
        assert_eq!(raw_call(at, put(), &[&framed[..20]]).await.1, Some(13));
        assert_eq!(raw_call(at, put(), &[]).await.1, Some(13));
        // Compression is not offered.
        let mut gzip = put();
        gzip.headers_mut()
            .insert("grpc-encoding", "gzip".parse().unwrap());
        let answer = raw_call(at, gzip, &[&framed]).await;
        assert_eq!(
            (answer.1, answer.2.contains("Decompressor is not installed")),
            (Some(12), true)
        );
        let mut flagged = framed.to_vec();
        flagged[0] = 1;
        assert_eq!(raw_call(at, put(), &[&flagged]).await.1, Some(13));
        flagged[0] = 9;
        assert_eq!(raw_call(at, put(), &[&flagged]).await.1, Some(13));
        // Not gRPC.
        let mut json = put();
        json.headers_mut()
            .insert("content-type", "application/json".parse().unwrap());
        assert_eq!(raw_call(at, json, &[]).await.0, 415);
        let mut get = put();
        *get.method_mut() = ::http::Method::GET;
        assert_eq!(raw_call(at, get, &[]).await.0, 405);
        let answer = raw_call(at, grpc_request("/nothing"), &[]).await;
        assert_eq!((answer.0, answer.1), (200, Some(12)));
        let mut late = put();
        late.headers_mut()
            .insert("grpc-timeout", "soon".parse().unwrap());
        assert_eq!(raw_call(at, late, &[&framed]).await.1, Some(13));
    });
    server.stop();
}

#[test]
fn http1_on_the_same_port_and_alone_on_the_metrics_port() {
    let server = serve();
    clients(async {
        for address in [server.address, server.metrics_address] {
            let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
            // Two requests on one connection; the first byte alone must not decide the protocol.
            socket.write_all(b"P").await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            socket
                .write_all(b"OST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
                .await
                .unwrap();
            assert!(
                read_until(&mut socket, "hello")
                    .await
                    .starts_with("HTTP/1.1 200")
            );
            socket
                .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            read_until(&mut socket, "{\"health\":\"true\"}").await;
            socket
                .write_all(b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut rest = String::new();
            socket.read_to_string(&mut rest).await.unwrap();
            assert!(rest.starts_with("HTTP/1.1 404"), "{rest}");
        }
        let refused = Endpoint::from_shared(format!("http://{}", server.metrics_address))
            .unwrap()
            .connect()
            .await;
        if let Ok(channel) = refused {
            assert!(
                KvClient::new(channel)
                    .put(put_request("k", 1))
                    .await
                    .is_err()
            );
        }
    });
    server.stop();
}

async fn read_until(socket: &mut tokio::net::TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        let count = socket.read(&mut buffer).await.unwrap();
        assert!(
            count > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend_from_slice(&buffer[..count]);
        if String::from_utf8_lossy(&seen).ends_with(end) {
            return String::from_utf8_lossy(&seen).into_owned();
        }
    }
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let server = serve();
    clients(async {
        let mut kv = KvClient::new(server.channel().await);
        let mut garbage = vec![
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            b"\0\0\0\0".to_vec(),
            b"GET".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame at all, is it".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00".to_vec(),
            b"PRI * HTTP/2.0 nearly".to_vec(),
        ];
        garbage.extend((0..50_u32).map(|seed| {
            let mut state = seed.wrapping_mul(2_654_435_761) | 1;
            (0..5000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect()
        }));
        for bytes in garbage {
            let mut socket = tokio::net::TcpStream::connect(server.address)
                .await
                .unwrap();
            // Refused when the server has closed already.
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
            let mut answer = Vec::new();
            let ended =
                tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut answer)).await;
            assert!(
                ended.is_ok(),
                "not closed after {:?}",
                &bytes[..bytes.len().min(30)]
            );
            kv.put(put_request("k", 1)).await.unwrap();
        }
        while server.seen.open.load(Ordering::Relaxed) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    server.stop();
}

#[test]
fn a_silent_client_is_pinged_and_one_that_does_not_answer_is_closed() {
    let config = FrontConfig {
        keepalive_interval: Duration::from_millis(300),
        keepalive_timeout: Duration::from_millis(300),
        ..FrontConfig::default()
    };
    let server = serve_on(1, config, Duration::from_secs(5));
    clients(async {
        // This one answers pings, being driven.
        let mut kv = KvClient::new(server.channel().await);
        kv.put(put_request("k", 1)).await.unwrap();
        // This one has gone, without a FIN to tell: nobody drives it.
        let socket = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let (_send, connection) = h2::client::handshake::<_>(socket).await.unwrap();
        let mut connection = Box::pin(connection);
        let _ = tokio::time::timeout(Duration::from_millis(100), &mut connection).await;
        assert_eq!(server.seen.open.load(Ordering::Relaxed), 2);
        let started = Instant::now();
        while server.seen.open.load(Ordering::Relaxed) > 1 {
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "the dead connection is still open"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(started.elapsed() > Duration::from_millis(300));
        tokio::time::sleep(Duration::from_millis(1200)).await;
        kv.put(put_request("k", 1)).await.unwrap();
        assert_eq!(server.seen.open.load(Ordering::Relaxed), 1);
    });
    server.stop();
}

#[test]
fn clients_may_ping_as_often_as_etcdctl_and_kube_apiserver_do_and_more() {
    let server = serve();
    clients(async {
        let socket = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let (send, mut connection) = h2::client::handshake(socket).await.unwrap();
        let mut ping_pong = connection.ping_pong().unwrap();
        let driver = tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let (response, _body) = send
            .send_request(grpc_request("/etcdserverpb.Watch/Watch"), false)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        // 400 pings in a row: far more often than every two seconds.
        for _ in 0..400 {
            ping_pong.ping(h2::Ping::opaque()).await.unwrap();
        }
        let mut send = send.ready().await.expect("no GOAWAY");
        let (response, mut body) = send
            .send_request(grpc_request("/etcdserverpb.KV/Put"), false)
            .unwrap();
        body.send_data(encode_message(&put_request("k", 1)), true)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert!(!driver.is_finished());
        driver.abort();
    });
    server.stop();
}

#[test]
fn many_connections_over_two_cores() {
    let server = serve_on(2, FrontConfig::default(), Duration::from_secs(5));
    clients(async {
        let mut channels = Vec::new();
        for _ in 0..300 {
            channels.push(KvClient::new(server.channel().await));
        }
        let mut idle = Vec::new();
        for _ in 0..2000 {
            idle.push(
                tokio::net::TcpStream::connect(server.address)
                    .await
                    .unwrap(),
            );
        }
        for _ in 0..2 {
            for kv in &mut channels {
                kv.put(put_request("k", 10)).await.unwrap();
            }
        }
        assert_eq!(server.seen.open.load(Ordering::Relaxed), 2300);
        let counts: Vec<u32> = server
            .cores
            .as_ref()
            .unwrap()
            .links()
            .iter()
            .map(|link| link.stats().connection_count)
            .collect();
        assert!(counts.iter().all(|&count| count > 100), "{counts:?}");
        drop(idle);
        drop(channels);
        while server.seen.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    server.stop();
}

#[test]
fn stopping_finishes_running_calls_and_ends_streams() {
    let server = serve();
    clients(async {
        let channel = server.channel().await;
        let mut kv = KvClient::new(channel.clone());
        let slow = tokio::spawn(async move {
            let request = PutRequest {
                lease: 400,
                ..put_request("k", 10)
            };
            kv.put(request).await
        });
        let mut watch = WatchClient::new(channel);
        let requests = futures_util::stream::pending::<WatchRequest>();
        let mut answers = watch.watch(requests).await.unwrap().into_inner();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let address = server.address;
        let started = Instant::now();
        let stopped = tokio::task::spawn_blocking(move || server.stop());
        let ended = answers.message().await.unwrap_err();
        assert_eq!(
            (ended.code(), ended.message()),
            (Code::Unavailable, "stopping")
        );
        slow.await.unwrap().expect("a running call is finished");
        drop(answers);
        drop(watch);
        let report = stopped.await.unwrap();
        assert_eq!(
            report,
            DrainReport {
                cut_connection_count: 0,
                cut_call_count: 0
            }
        );
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    });
}

#[test]
fn stopping_cuts_what_does_not_end_in_time() {
    let server = serve_on(1, FrontConfig::default(), Duration::from_millis(200));
    clients(async {
        let mut kv = KvClient::new(server.channel().await);
        let slow = tokio::spawn(async move {
            let request = PutRequest {
                lease: 30_000,
                ..put_request("k", 10)
            };
            kv.put(request).await
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        let report = tokio::task::spawn_blocking(move || server.stop())
            .await
            .unwrap();
        assert_eq!(
            report,
            DrainReport {
                cut_connection_count: 1,
                cut_call_count: 1
            }
        );
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(slow.await.unwrap().is_err());
    });
}

#[test]
fn a_port_in_use_is_an_error() {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = Listener::bind(local, Role::Client).unwrap();
    let again = Listener::bind(first.local_address().unwrap(), Role::Client);
    assert_eq!(
        again.err().map(|error| error.kind()),
        Some(std::io::ErrorKind::AddrInUse)
    );
}
