//! Puts the process together: data directory, engine, listeners, cores; and takes it apart again.
//!
//! ```text
//!   config -> open data directory -> replay -> bind -> start cores -> serve ... signal -> drain -> exit
//! ```
//!
//! Everything that can fail because of the machine or the flags fails before the first core starts, with
//! one message. Invariant: the data directory's lock is held from before replay until after the last write.

mod identity;
mod rejoin;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use keelson_storage::dir::DataDir;
use keelson_storage::ids::{CoreId, LaneId, MemberId, ShardId};
use keelson_storage::io::{IoMode, UringDisk};
use keelson_storage::recovery::RecoveryReport;
use keelson_storage::snapshot::{BuilderConfig, StoreConfig};
use keelson_storage::state::RequestLimits;
use keelson_storage::wal::WalConfig;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use self::identity::{Identity, fetch_running};
use crate::config::{Config, HttpUrl, version};
use crate::engine::client::EngineClient;
use crate::engine::driver::{self, PortRings};
use crate::engine::limits::{INBOUND_RING_SLOTS, OUTBOUND_RING_SLOTS};
use crate::engine::message::{Inbound, Outbound};
use crate::engine::report::Reporter;
use crate::engine::{
    CheckpointConfig, CompareConfig, Disks, Engine, EngineConfig, EngineError, GroupConfig,
};
use crate::front::api::{Api, ApiConfig, HttpApi, RpcObserver, progress_notifier, pump, sweeper};
use crate::front::{ArrivalSeat, Front, FrontConfig, HandoverSeat, Listener, Role, handover};
use crate::observe::{Facts, Registry, log};
use crate::peer::{PeerConfig, Peers};
use crate::runtime::{
    self, Bell, Core, CoreLink, Cores, MonotonicClock, RingReceiver, RingSender, RuntimeConfig,
    Stopper, ring,
};

/// The core that runs the engine, by index.
const ENGINE_CORE: usize = 0;

/// Longer than any process runs.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Serves until the process is told to stop, or fails.
pub fn serve(config: &Config) -> anyhow::Result<()> {
    let started = Instant::now();
    raise_limits();
    if config.tuning.runtime.huge_pages == 0
        && let Err(error) = runtime::forbid_huge_pages()
    {
        tracing::warn!(%error, "huge pages stay as the system has them");
    }
    let identity = Identity::determine(config, fetch_running)?;
    let dir = DataDir::open(&config.data_dir)?;
    let online: Vec<u32> = runtime::available_cores()?
        .into_iter()
        .map(|core| u32::from(core.0))
        .collect();
    let cores = config.cores.resolve(&online)?;
    // A disk that cannot be used leaves a directory that is still nobody's.
    let disks = open_disks(config, &dir)?;
    let mut identity = identity.settle(&dir)?;
    let (mut engine, report) = rejoin::open(config, &dir, disks, &mut identity, cores.len())?;
    if engine.knows_nobody() {
        engine.learn_peers(identity::ask_again(config, fetch_running)?);
    }
    let identity = identity.found_in(&engine, &dir, config)?;
    let facts = Facts::new(config, identity.member.0);
    let registry = Arc::new(Registry::new(&cores, facts));
    log_opened(config, &dir, &identity, &report, started.elapsed());
    let Bound { listeners, peers } = bind(config)?;
    let signals = Signals::watch()?;
    let shared = Shared {
        registry,
        failure: Arc::new(OnceLock::new()),
        checkpoint: Arc::new(Bell::new()?),
        data_dir: config.data_dir.clone(),
    };
    let peers = PeerSeat {
        config: PeerConfig::new(
            identity.member,
            identity.cluster,
            CoreId(0),
            start_seed(identity.member),
        ),
        listeners: peers,
    };
    let running = start_cores(
        config,
        &identity,
        &cores,
        engine,
        (listeners, peers),
        &shared,
    )?;
    signals.obey(shared.checkpoint, running.stopper());
    log_serving(config);
    tell_supervisor(NotifyState::Ready);
    running.join()?;
    if let Some(error) = shared.failure.get() {
        rejoin::after_failure(config, &dir, error);
    }
    drop(dir);
    if let Some(error) = shared.failure.get() {
        bail!("the engine stopped, nothing more was acknowledged: {error}");
    }
    tracing::info!("stopped");
    Ok(())
}

fn raise_limits() {
    match runtime::raise_open_files() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

fn open_disks(config: &Config, dir: &DataDir) -> anyhow::Result<Disks<UringDisk>> {
    let lane = dir.lane_path(LaneId(0))?;
    let mode = if config.unsafe_no_fsync {
        tracing::warn!(
            "--unsafe-no-fsync: acknowledged writes are lost when the machine stops; \
             use it for throw-away data only"
        );
        IoMode::UnsafeBuffered
    } else {
        IoMode::Direct
    };
    Ok(Disks {
        lane: UringDisk::open(&lane, mode)?,
        snapshots: UringDisk::open(&dir.snapshots_path(ShardId(0))?, mode)?,
    })
}

fn open_engine(
    config: &Config,
    disks: Disks<UringDisk>,
    identity: &Identity,
    cores: usize,
) -> anyhow::Result<(Engine<UringDisk>, RecoveryReport)> {
    let wal = &config.tuning.wal;
    let wal_config = WalConfig {
        segment_bytes: wal.segment_bytes,
        depth: wal.depth as usize,
        group_bytes_max: wal.group_bytes_max,
        group_delay_us: wal.group_delay_us,
        spare_segments_max: wal.spare_segments_max as usize,
        attest_delay_us: wal.attest_delay_us,
    };
    let engine_config = EngineConfig {
        shard: ShardId(0),
        member: identity.member,
        cluster: identity.cluster,
        group: group_config(config, identity),
        seed: start_seed(identity.member),
        quota_bytes: config.quota_backend_bytes,
        auto_compact: config.auto_compaction,
        checkpoint: checkpoint_config(config),
        compare: CompareConfig {
            interval_us: config.corrupt_check_time.map(micros),
            after_compaction_us: config
                .feature_gates
                .enabled("CompactHashCheck")
                .then(|| micros(config.compact_hash_check_time)),
            at_start: config.feature_gates.enabled("InitialCorruptCheck"),
        },
        snapshots: StoreConfig {
            cache_bytes_max: config.tuning.storage.memory_budget_bytes,
            keeps_written: true,
            ..StoreConfig::default()
        },
        memory_budget_bytes: config.tuning.storage.memory_budget_bytes,
        wal_depth: wal_config.depth,
        cores,
        api_version: version::API.to_owned(),
        storage_version: version::STORAGE.to_owned(),
    };
    Ok(Engine::open(
        disks,
        wal_config,
        engine_config,
        identity.me.clone(),
        &MonotonicClock,
    )?)
}

/// A number that another member, or another start of this one, does not have.
fn start_seed(member: MemberId) -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = since_epoch.unwrap_or_default().as_millis() as u64;
    // Half of it ends up in request ids, so both parts are in the lower half too.
    member.0 ^ (member.0 >> 32) ^ now_ms
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn group_config(config: &Config, identity: &Identity) -> GroupConfig {
    GroupConfig {
        is_identity_certain: identity.is_certain,
        founding: identity.founding.clone(),
        peers: identity.peers.clone(),
        tick_us: config.heartbeat_interval.as_micros() as u64,
        election_ticks: config.election_ticks(),
        advances_ticks: config.initial_election_tick_advance,
        is_strict: config.strict_reconfig_check,
        log_keep_entries: usize::try_from(config.snapshot_catchup_entries).unwrap_or(usize::MAX),
        forces_new_cluster: config.force_new_cluster,
        rejoins: identity.rejoins,
    }
}

fn checkpoint_config(config: &Config) -> CheckpointConfig {
    let tuning = &config.tuning.checkpoint;
    CheckpointConfig {
        commands: config.snapshot_count,
        log_bytes: (tuning.log_bytes_min, tuning.log_bytes_max),
        interval_us: (tuning.interval_seconds > 0).then(|| tuning.interval_seconds * 1_000_000),
        bytes_per_second: tuning.bytes_per_second,
        builder: BuilderConfig {
            page_bytes: tuning.page_bytes as usize,
            ..BuilderConfig::default()
        },
    }
}

/// The bound sockets.
struct Bound {
    /// For clients, and for metrics.
    listeners: Vec<Listener>,
    /// For other members.
    peers: Vec<TcpListener>,
}

fn bind(config: &Config) -> anyhow::Result<Bound> {
    let cannot = |address, flag| {
        format!("cannot listen on {address}: stop what uses the port, or change {flag}")
    };
    let client = config.client_addresses().into_iter();
    let metrics = config.metrics_addresses().into_iter();
    let wanted = client
        .map(|address| (address, Role::Client, "--listen-client-urls"))
        .chain(metrics.map(|address| (address, Role::HttpOnly, "--listen-metrics-urls")));
    let listeners = wanted.map(|(address, role, flag)| {
        Listener::bind(address, role).with_context(|| cannot(address, flag))
    });
    let listeners = listeners.collect::<anyhow::Result<_>>()?;
    let peers = config.peer_addresses().into_iter().map(|address| {
        TcpListener::bind(address).with_context(|| cannot(address, "--listen-peer-urls"))
    });
    Ok(Bound {
        listeners,
        peers: peers.collect::<anyhow::Result<_>>()?,
    })
}

/// What a core is given when it starts.
struct Seat {
    engine: Option<EngineSeat>,
    arrivals: Option<ArrivalSeat>,
    to_engine: RingSender<Inbound>,
    from_engine: RingReceiver<Outbound>,
}

/// What only the engine's core is given.
struct EngineSeat {
    engine: Engine<UringDisk>,
    ports: Vec<(RingReceiver<Inbound>, RingSender<Outbound>)>,
    listeners: Vec<Listener>,
    peers: PeerSeat,
    handover: HandoverSeat,
}

/// What the links to the other members begin with.
struct PeerSeat {
    config: PeerConfig,
    listeners: Vec<TcpListener>,
}

/// What the cores share with the rest of the process.
#[derive(Clone)]
struct Shared {
    registry: Arc<Registry>,
    /// Set by the engine if it fails.
    failure: Arc<OnceLock<EngineError>>,
    /// Rung for a checkpoint.
    checkpoint: Arc<Bell>,
    data_dir: PathBuf,
}

/// What every core needs to know.
#[derive(Clone)]
struct CorePlan {
    api: ApiConfig,
    front: FrontConfig,
    drain_limit: Duration,
    slow_apply: Duration,
    shared: Shared,
}

fn start_cores(
    config: &Config,
    identity: &Identity,
    cores: &[u32],
    engine: Engine<UringDisk>,
    (listeners, peers): (Vec<Listener>, PeerSeat),
    shared: &Shared,
) -> anyhow::Result<Cores> {
    let core_ids: Vec<CoreId> = cores.iter().map(|core| CoreId(*core as u16)).collect();
    let plan = CorePlan {
        api: api_config(config, identity),
        front: FrontConfig {
            message_bytes_max: config.max_receive_bytes() as usize,
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_interval: config.grpc_keepalive_interval.unwrap_or_default(),
            keepalive_timeout: config.grpc_keepalive_timeout.unwrap_or(FOREVER),
        },
        drain_limit: Duration::from_millis(config.tuning.runtime.drain_ms),
        slow_apply: config.warning_apply_duration,
        shared: shared.clone(),
    };
    let runtime = &config.tuning.runtime;
    let runtime_config = RuntimeConfig {
        heartbeat: Duration::from_millis(runtime.heartbeat_ms),
        stall_after: Duration::from_millis(runtime.stall_ms),
        ring_entries: runtime.uring_entries as u32,
        ..RuntimeConfig::default()
    };
    let seats = |links: &[CoreLink]| make_seats(links, engine, listeners, peers);
    let main = move |core: Core, seat: Seat| run_core(plan.clone(), core, seat);
    Ok(runtime::start(&core_ids, &runtime_config, seats, main)?)
}

fn api_config(config: &Config, identity: &Identity) -> ApiConfig {
    let election_seconds = config.election_timeout.as_secs_f64();
    ApiConfig {
        cluster_id: identity.cluster.0,
        member_id: identity.member.0,
        request_bytes_max: config.max_request_bytes as usize,
        limits: RequestLimits {
            txn_ops_max: config.max_txn_ops as usize,
        },
        learners_max: config.max_learners,
        lease_ttl_seconds_min: (election_seconds * 1.5).ceil() as i64,
        request_timeout_ms: config.request_timeout().as_millis() as u64,
        progress_interval: config.watch_progress_notify_interval,
    }
}

fn make_seats(
    links: &[CoreLink],
    engine: Engine<UringDisk>,
    listeners: Vec<Listener>,
    peers: PeerSeat,
) -> Vec<Seat> {
    let (handover, arrivals) = handover(links, ENGINE_CORE);
    let mut ports = Vec::with_capacity(links.len());
    let mut seats = Vec::with_capacity(links.len());
    for (link, arrivals) in links.iter().zip(arrivals) {
        let engine_link = &links[ENGINE_CORE];
        let (to_engine, inbound) = ring(INBOUND_RING_SLOTS, link, engine_link);
        let (outbound, from_engine) = ring(OUTBOUND_RING_SLOTS, engine_link, link);
        ports.push((inbound, outbound));
        seats.push(Seat {
            engine: None,
            arrivals,
            to_engine,
            from_engine,
        });
    }
    seats[ENGINE_CORE].engine = Some(EngineSeat {
        engine,
        ports,
        listeners,
        peers,
        handover,
    });
    seats
}

/// The life of a core: serve until told to stop, drain, and let the engine finish what is proposed.
async fn run_core(plan: CorePlan, core: Core, seat: Seat) {
    let client = EngineClient::new(seat.to_engine.attach());
    let api = Api::new(
        plan.api.clone(),
        core.clone(),
        client,
        plan.shared.registry.clone(),
    );
    let metrics = plan.shared.registry.core(core.index()).clone();
    let bell_answered = api.clone();
    let front = Front::new(
        plan.front.clone(),
        api.clone(),
        Rc::new(HttpApi(api.clone())),
        Rc::new(RpcObserver(metrics)),
    );
    runtime::spawn(pump(api.clone(), seat.from_engine.attach()));
    runtime::spawn(sweeper(api.clone()));
    runtime::spawn(progress_notifier(api));
    if let Some(arrivals) = seat.arrivals {
        front.receive(arrivals);
    }
    let Some(engine) = seat.engine else {
        core.stopping().wait().await;
        front.drain(plan.drain_limit).await;
        return;
    };
    let watched = plan.shared.checkpoint.watch(move || {
        runtime::spawn(bell_answered.clone().request_checkpoint());
    });
    if let Err(error) = watched {
        tracing::warn!(%error, "SIGUSR1 will not make checkpoints");
    }
    front.accept(engine.listeners, engine.handover);
    let ports = engine
        .ports
        .into_iter()
        .map(|(inbox, outbox)| PortRings {
            inbox: inbox.attach(),
            outbox: outbox.attach(),
        })
        .collect();
    let run = EngineRun {
        engine: engine.engine,
        ports,
        peers: engine.peers,
        drained: runtime::Latch::new(),
        ended: runtime::Latch::new(),
    };
    let (drained, ended) = (run.drained.clone(), run.ended.clone());
    let drain_limit = plan.drain_limit;
    runtime::spawn(run.run(core.clone(), plan));
    futures_lite::future::or(core.stopping().wait(), ended.wait()).await;
    if !ended.is_set() {
        front.drain(drain_limit).await;
        drained.set();
        ended.wait().await;
    }
}

/// The engine's task.
struct EngineRun {
    engine: Engine<UringDisk>,
    ports: Vec<PortRings>,
    peers: PeerSeat,
    /// Set when the front has drained: the engine finishes what is proposed and ends.
    drained: runtime::Latch,
    /// Set when the engine has ended.
    ended: runtime::Latch,
}

impl EngineRun {
    /// Runs the engine to its end. If it fails, the process must not go on as if it could acknowledge:
    /// the failure is handed to `serve` and all cores are stopped.
    async fn run(self, core: Core, plan: CorePlan) {
        let metrics = plan.shared.registry.core(ENGINE_CORE).clone();
        let mut reporter = Reporter::new(plan.slow_apply);
        let data_dir = plan.shared.data_dir.clone();
        let observe = |engine: &mut Engine<UringDisk>| {
            reporter.report(engine, &metrics);
            if engine.take_rejoined() {
                rejoin::finish(&data_dir);
            }
        };
        let ended = match Peers::start(self.peers.config, self.peers.listeners) {
            Ok(peers) => {
                let (engine, ports, drained) = (self.engine, self.ports, self.drained);
                driver::run(engine, ports, peers, MonotonicClock, drained, observe).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::error!(%error, "the engine failed; the process ends");
            plan.shared
                .failure
                .set(error)
                .expect("the engine runs, and fails, once");
            core.stop_all();
        }
        self.ended.set();
    }
}

/// The signals that mean something, caught from before the cores start.
struct Signals(signal_hook::iterator::Signals);

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        let signals = [SIGTERM, SIGINT, SIGUSR1];
        let signals = signal_hook::iterator::Signals::new(signals)?;
        Ok(Self(signals))
    }

    /// SIGUSR1 asks for a checkpoint. The first SIGTERM or SIGINT stops the cores in order; a second one
    /// ends the process at once.
    fn obey(mut self, checkpoint: Arc<Bell>, stopper: Stopper) {
        std::thread::spawn(move || {
            let mut is_stopping = false;
            for signal in self.0.forever() {
                if signal == SIGUSR1 {
                    checkpoint.ring();
                    continue;
                }
                if is_stopping {
                    std::process::exit(1);
                }
                is_stopping = true;
                tracing::info!(signal, "stopping");
                tell_supervisor(NotifyState::Stopping);
                stopper.stop();
            }
        });
    }
}

fn log_opened(
    config: &Config,
    dir: &DataDir,
    identity: &Identity,
    report: &RecoveryReport,
    took: Duration,
) {
    tracing::info!(
        name = config.name,
        data_dir = %absolute(dir.path()),
        member_id = format!("{:x}", identity.member.0),
        cluster_id = format!("{:x}", identity.cluster.0),
        records = report.records,
        bytes_read = report.bytes_read,
        took_ms = took.as_millis() as u64,
        tail = ?report.tail,
        "data directory opened"
    );
}

fn log_serving(config: &Config) {
    tracing::info!(
        client_urls = HttpUrl::join(&config.listen_client_urls),
        metrics_urls = HttpUrl::join(&config.listen_metrics_urls),
        data_dir = %absolute(&config.data_dir),
        version = version::KEELSON,
        api_version = version::API,
        "{}",
        log::READY
    );
}

/// Tells systemd, or whatever else started this process and set `NOTIFY_SOCKET`, as etcd does.
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the supervisor could not be told");
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).map_or_else(
        |_| path.display().to_string(),
        |path| path.display().to_string(),
    )
}
