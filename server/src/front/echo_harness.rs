//! What the front's tests share: an echoing service on real cores, and clients in a tokio runtime.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use ::http::{Request, Response, StatusCode};
use bytes::{Bytes, BytesMut};
use futures_lite::future::or;
use http_body_util::Full;
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, ResponseHeader,
    SnapshotResponse, WatchRequest, WatchResponse,
};
use keelson_proto::mvccpb::KeyValue;
use keelson_storage::ids::CoreId;
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::*;
use crate::runtime::{CoreLink, Cores, RuntimeConfig, sleep, start};

pub(super) const PUT: u16 = 0;
pub(super) const RANGE: u16 = 1;
pub(super) const DELETE: u16 = 2;
pub(super) const WATCH: u16 = 3;
pub(super) const SNAPSHOT: u16 = 4;

pub(super) static METHODS: [Method; 5] = [
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
pub(super) struct Echo(MethodTable);

pub(super) const SNAPSHOT_BLOB_COUNT: usize = 64;
pub(super) const SNAPSHOT_BLOB_BYTES: usize = 256 << 10;

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

pub(super) async fn put(call: &mut Call) -> Result<PutResponse, Status> {
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

pub(super) async fn range(mut call: Call) {
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

pub(super) async fn watch(mut call: Call) {
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

pub(super) async fn snapshot(mut call: Call) {
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

pub(super) struct Hello;

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
pub(super) struct Seen {
    pub(super) open: AtomicI64,
    pub(super) started: AtomicI64,
    pub(super) ok: AtomicI64,
    pub(super) cancelled: AtomicI64,
    pub(super) failed: AtomicI64,
    pub(super) sent_messages: AtomicI64,
    pub(super) received_messages: AtomicI64,
    pub(super) unsent_peak: AtomicI64,
}

pub(super) struct Counter(Arc<Seen>);

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
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) metrics_address: SocketAddr,
    pub(super) cores: Option<Cores>,
    pub(super) seen: Arc<Seen>,
    pub(super) drained: std::sync::mpsc::Receiver<DrainReport>,
}

pub(super) struct Seat {
    pub(super) listeners: Option<(Vec<Listener>, HandoverSeat)>,
    pub(super) arrivals: Option<ArrivalSeat>,
}

pub(super) fn serve_on(core_count: u16, config: FrontConfig, drain_limit: Duration) -> Server {
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

pub(super) fn serve() -> Server {
    serve_on(1, FrontConfig::default(), Duration::from_secs(5))
}

impl Server {
    pub(super) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub(super) fn stop(mut self) -> DrainReport {
        let cores = self.cores.take().unwrap();
        cores.stopper().stop();
        cores.join().unwrap();
        self.drained.recv().unwrap()
    }
}

pub(super) fn clients<F: Future<Output = ()>>(work: F) {
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

pub(super) fn put_request(key: &str, value_bytes: usize) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::from(vec![b'x'; value_bytes]),
        ..PutRequest::default()
    }
}

pub(super) fn grpc_request(path: &str) -> Request<()> {
    Request::builder()
        .method("POST")
        .uri(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}
