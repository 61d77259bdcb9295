//! The gRPC methods: decode, validate, ask the engine, encode.
//!
//! ```text
//!   front (HTTP/2) --Call--> Api::serve --Ask--> engine ring ... Outbound ring --> pump
//!                                 ^------------------- reply slot ----------------'  |
//!   watch streams <---------------------- FanOut <----- batches, slices, marks ------'
//! ```
//!
//! A handler is a request, a channel end and a reply slot; it keeps no state of its own. One [`Api`]
//! per core, never shared with another.

mod cluster;
mod health;
mod http_service;
mod kv;
mod learner;
mod lease;
mod maintenance;
mod membership;
mod pump;
mod range_response;
mod snapshot;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_storage::mvcc::Record;
use keelson_storage::state::{Request, RequestLimits, Response};
use prost::Message;
use tonic::{Code, Status};

use crate::engine::client::{Answering, EngineClient};
use crate::engine::message::{Answer, Ask, StreamKey};
use crate::fanout::FanOut;
use crate::front::{self, Call, MethodTable, Observer, Service};
use crate::observe::{ClientApiVersion, CoreMetrics, METHODS, Method, Registry};
use crate::runtime::{Core, LocalEvent};

pub use http_service::HttpApi;
pub use membership::{changes as changes_of_main, follow_main};
pub use pump::{progress_notifier, pump, sweeper};

/// Metadata in which a client names the API level it speaks.
const CLIENT_API_VERSION: &str = "client-api-version";

static TABLE: LazyLock<MethodTable> = LazyLock::new(|| MethodTable::new(&METHODS));

/// Asked-at time of questions that may take as long as they need.
const NO_TIME_LIMIT: u64 = u64::MAX;

/// What the handlers must know of the configuration.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Cluster id in response headers.
    pub cluster_id: u64,
    /// Member id in response headers.
    pub member_id: u64,
    /// Largest request that may go into the log.
    pub request_bytes_max: usize,
    /// Limits that requests are validated against.
    pub limits: RequestLimits,
    /// Learners that there may be after one is added here.
    pub learners_max: u32,
    /// Smallest lease TTL that is granted.
    pub lease_ttl_seconds_min: i64,
    /// Time after which a client is told that its request timed out.
    pub request_timeout_ms: u64,
    /// How often idle watchers that asked for it are told their progress.
    pub progress_interval: std::time::Duration,
}

/// The handlers of one core.
pub struct Api {
    config: ApiConfig,
    core: Core,
    engine: EngineClient,
    metrics: Arc<CoreMetrics>,
    registry: Arc<Registry>,
    /// The handlers of `main` on this core; none where these are they.
    main: Option<Rc<Api>>,
    fanout: RefCell<FanOut>,
    /// Writers of watch streams, by stream, to wake when their queue has something.
    writers: RefCell<HashMap<StreamKey, LocalEvent>>,
    /// Watch questions for which the ring had no room.
    unsent: RefCell<VecDeque<Ask>>,
    lease_ids: Cell<u64>,
    /// Whether this member has no vote in the shard's group.
    is_learner: Cell<bool>,
    /// Backups that are being streamed.
    backups: Cell<usize>,
}

impl Api {
    /// The handlers of a shard on `core`, talking to its engine through `engine`. `main` are those of the shard that
    /// decides who belongs to the cluster, if it is another one.
    #[must_use]
    pub fn new(
        config: ApiConfig,
        core: Core,
        engine: EngineClient,
        registry: Arc<Registry>,
        main: Option<Rc<Api>>,
    ) -> Rc<Self> {
        let fragment_bytes =
            config.request_bytes_max + keelson_proto::limits::TRANSPORT_OVERHEAD_BYTES;
        let fanout = FanOut::new(config.cluster_id, config.member_id, fragment_bytes);
        Rc::new(Self {
            metrics: registry.core(core.index()).clone(),
            registry,
            main,
            config,
            core,
            engine,
            fanout: RefCell::new(fanout),
            writers: RefCell::default(),
            unsent: RefCell::default(),
            lease_ids: Cell::new(RandomState::new().hash_one(std::process::id())),
            is_learner: Cell::new(false),
            backups: Cell::new(0),
        })
    }

    /// The handlers of the shard that decides who belongs to the cluster.
    fn authority(self: &Rc<Self>) -> &Rc<Self> {
        self.main.as_ref().unwrap_or(self)
    }

    fn ask(&self, ask: Ask) -> Answering<'_> {
        self.ask_at(ask, self.core.coarse_ms())
    }

    fn ask_without_limit(&self, ask: Ask) -> Answering<'_> {
        self.ask_at(ask, NO_TIME_LIMIT)
    }

    fn ask_at(&self, ask: Ask, asked_ms: u64) -> Answering<'_> {
        let answering = self.engine.ask(ask, asked_ms);
        if answering.is_refused() {
            self.metrics.runtime.refused.increment();
        }
        answering
    }

    /// Puts a validated write into the log; the response comes when it is applied.
    fn write(
        &self,
        request: Request,
        body: Bytes,
    ) -> impl Future<Output = Result<Response, ApiError>> + '_ {
        let asked_ms = self.core.coarse_ms();
        let asked = if body.len() > self.config.request_bytes_max {
            Err(ApiError::RequestTooLarge)
        } else {
            Ok(self.ask_at(Ask::Write { request, body }, asked_ms))
        };
        async move {
            match asked?.await {
                Ok(answer) => self.response(answer, Ask::LoadWritten).await,
                // Rare, so its future is not a part of every call's.
                Err(ApiError::Timeout) => Err(Box::pin(self.why_late(asked_ms)).await),
                Err(error) => Err(error),
            }
        }
    }

    /// What the client of a write hears whose time is up.
    async fn why_late(&self, asked_ms: u64) -> ApiError {
        let since_us = asked_ms * 1000;
        match self.ask(Ask::WhyLate { since_us }).await {
            Err(error) => error,
            Ok(other) => unreachable!("the reason is an error, not {other:?}"),
        }
    }

    /// The response in the engine's answer, with the values filled in that were on the disk, which `load` asks for.
    async fn response(
        &self,
        answer: Answer,
        load: fn(Vec<Record>) -> Ask,
    ) -> Result<Response, ApiError> {
        match answer {
            Answer::Response(response) => Ok(response),
            // Rare, so its future is not a part of every call's.
            Answer::Cold(cold) => Box::pin(self.fill(cold, load)).await,
            other => unreachable!("a write is answered with a response, not {other:?}"),
        }
    }

    async fn fill(
        &self,
        cold: Box<(Response, Vec<Record>)>,
        load: fn(Vec<Record>) -> Ask,
    ) -> Result<Response, ApiError> {
        let (mut response, records) = *cold;
        let records = self.load(load(records)).await?;
        response.fill(records.iter().map(|record| record.key_value().value));
        Ok(response)
    }

    /// Records with their values.
    async fn load(&self, load: Ask) -> Result<Vec<Record>, ApiError> {
        match self.ask_without_limit(load).await? {
            Answer::Loaded(records) => Ok(records),
            other => unreachable!("records are answered with records, not {other:?}"),
        }
    }

    /// A call's task is as large as the largest of these futures, so those of long calls are boxed.
    async fn dispatch(self: Rc<Self>, method: Method, call: Call) {
        if let Err(error) = learner::admits(&self, method) {
            return call.reply.finish(Err(error.into()));
        }
        match method {
            Method::KvRange => kv::range(&self, call).await,
            Method::KvRangeStream => Box::pin(kv::range_stream(&self, call)).await,
            Method::KvPut => unary(call, |body| kv::put(&self, body)).await,
            Method::KvDeleteRange => unary(call, |body| kv::delete_range(&self, body)).await,
            Method::KvTxn => unary(call, |body| kv::txn(&self, body)).await,
            Method::KvCompact => unary(call, |body| kv::compact(&self, body)).await,
            Method::WatchWatch => Box::pin(watch::serve(self, call)).await,
            Method::LeaseGrant => unary(call, |body| lease::grant(&self, body)).await,
            Method::LeaseRevoke => unary(call, |body| lease::revoke(&self, body)).await,
            Method::LeaseKeepAlive => Box::pin(lease::keep_alive(&self, call)).await,
            Method::LeaseTimeToLive => unary(call, |body| lease::time_to_live(&self, body)).await,
            Method::LeaseLeases => unary(call, |_| lease::leases(&self)).await,
            Method::ClusterMemberList => {
                unary(call, |body| cluster::member_list(&self, body)).await;
            }
            Method::ClusterMemberAdd => {
                unary(call, |body| cluster::member_add(self.authority(), body)).await
            }
            Method::ClusterMemberRemove => {
                unary(call, |body| cluster::member_remove(self.authority(), body)).await;
            }
            Method::ClusterMemberUpdate => {
                unary(call, |body| cluster::member_update(self.authority(), body)).await;
            }
            Method::ClusterMemberPromote => {
                unary(call, |body| cluster::member_promote(self.authority(), body)).await;
            }
            Method::MaintenanceAlarm => unary(call, |body| maintenance::alarm(&self, body)).await,
            Method::MaintenanceStatus => unary(call, |_| maintenance::status(&self)).await,
            Method::MaintenanceDefragment => unary(call, |_| maintenance::defragment(&self)).await,
            Method::MaintenanceHash => unary(call, |_| maintenance::hash(&self)).await,
            Method::MaintenanceHashKv => {
                unary(call, |body| maintenance::hash_kv(&self, body)).await;
            }
            Method::MaintenanceMoveLeader => {
                unary(call, |body| maintenance::move_leader(&self, body)).await;
            }
            Method::MaintenanceSnapshot => Box::pin(snapshot::serve(self, call)).await,
            Method::HealthCheck => unary(call, |body| health::check(&self, body)).await,
            Method::HealthWatch => Box::pin(health::watch(call)).await,
            later => {
                let text = format!(
                    "{} is not served by this version of Keelson",
                    later.row().path
                );
                call.reply.finish(Err(Status::unimplemented(text)));
            }
        }
    }
}

impl Service for Api {
    fn route(&self, path: &str) -> Option<&'static front::Method> {
        TABLE.route(path)
    }

    fn has_service(&self, service: &str) -> bool {
        TABLE.has_service(service)
    }

    fn serve(self: Rc<Self>, call: Call) -> impl Future<Output = ()> + 'static {
        let version = ClientApiVersion::from_metadata(call.head.get(CLIENT_API_VERSION));
        let method = Method::from_index(call.method.index);
        self.metrics.rpc_started(method, version);
        self.dispatch(method, call)
    }
}

/// Carries the transport's events of a core into its metrics.
pub struct RpcObserver(pub Arc<CoreMetrics>);

impl Observer for RpcObserver {
    fn connection_opened(&self) {
        self.0.client.connections_accepted.increment();
        self.0.client.connections.add(1);
    }

    fn connection_closed(&self) {
        self.0.client.connections.subtract(1);
    }

    fn connection_refused(&self) {
        self.0.client.connections_refused.increment();
    }

    fn bytes_received(&self, count: usize) {
        self.0.client.received_bytes.add(count as u64);
    }

    fn bytes_sent(&self, count: usize) {
        self.0.client.sent_bytes.add(count as u64);
    }

    fn call_handled(&self, method: &'static front::Method, code: Code) {
        self.0.rpc_handled(Method::from_index(method.index), code);
    }

    fn message_received(&self, method: &'static front::Method) {
        self.0.rpc_received(Method::from_index(method.index), 1);
    }

    fn message_sent(&self, method: &'static front::Method) {
        self.0.rpc_sent(Method::from_index(method.index), 1);
    }
}

/// Serves a method of one request and one response.
async fn unary<M: Message, F: Future<Output = Result<M, Status>>>(
    mut call: Call,
    handle: impl FnOnce(Bytes) -> F,
) {
    let result = match call.messages.unary().await {
        Ok(body) => handle(body).await,
        Err(status) => Err(status),
    };
    call.reply.send_unary(result);
}

/// Decodes a request; the bytes fields of the result are slices of `body`.
fn decode<M: Message + Default>(body: &Bytes) -> Result<M, Status> {
    M::decode(body.clone())
        .map_err(|error| Status::internal(format!("grpc: error unmarshalling request: {error}")))
}
