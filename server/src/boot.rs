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
mod seats;
mod shards;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use keelson_storage::dir::DataDir;
use keelson_storage::ids::CoreId;
use keelson_storage::recovery::RecoveryReport;
use keelson_storage::state::RequestLimits;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use self::identity::{Identity, fetch_running};
use self::rejoin::Rejoining;
use self::seats::{CorePlan, Seat, Shared, make_seats, run_core};
use self::shards::{CoreShards, ShardPlan, start_seed};
use crate::config::{Config, HttpUrl, version};
use crate::front::api::ApiConfig;
use crate::front::{FrontConfig, Listener, Role};
use crate::observe::{Facts, Registry, log};
use crate::peer::PeerConfig;
use crate::runtime::{self, Bell, Core, CoreLink, Cores, RuntimeConfig, Stopper};

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
    let mut plans = shards::plan(config, &dir, cores.len())?;
    // A disk that cannot be used leaves a directory that is still nobody's.
    let disks = shards::open_disks(config, &dir, &plans)?;
    let mut identity = identity.settle(&dir)?;
    let (mut opened, report) =
        rejoin::open(config, &dir, disks, &mut plans, &mut identity, cores.len())?;
    learn_peers(config, &mut opened)?;
    let main = opened[0].shards.engine(0);
    let identity = identity.found_in(main, &dir, config)?;
    shards::note(&dir, &plans)?;
    let facts = Facts::new(config, identity.member.0);
    let registries = plans
        .iter()
        .map(|_| Arc::new(Registry::new(&cores, facts.clone())));
    let shared = Shared {
        registries: registries.collect(),
        failure: Arc::new(OnceLock::new()),
        checkpoint: Arc::new(Bell::new()?),
        rejoining: Arc::new(Rejoining::new(&config.data_dir, plans.len())),
    };
    log_opened(config, &dir, &identity, &report, started.elapsed());
    let bound = bind(config, &plans)?;
    let signals = Signals::watch()?;
    let running = start_cores(config, &identity, &cores, opened, bound, &shared)?;
    signals.obey(shared.checkpoint, running.stopper());
    log_serving(config, &plans);
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

/// A member that joins a cluster, and was stopped before it heard of the foundation of a shard, asks again.
fn learn_peers(config: &Config, opened: &mut [CoreShards]) -> anyhow::Result<()> {
    let mut told = None;
    for core in opened {
        for place in 0..core.shards.count() {
            let engine = core.shards.engine(place);
            if engine.knows_nobody() {
                let peers = match told.clone() {
                    Some(peers) => peers,
                    None => identity::ask_again(config, fetch_running)?,
                };
                engine.learn_peers(peers.clone());
                told = Some(peers);
            }
        }
    }
    Ok(())
}

fn raise_limits() {
    match runtime::raise_open_files() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// The bound sockets.
struct Bound {
    /// For clients of each shard, and for metrics.
    listeners: Vec<Vec<Listener>>,
    /// For other members.
    peers: Vec<TcpListener>,
}

fn bind(config: &Config, plans: &[ShardPlan]) -> anyhow::Result<Bound> {
    let cannot = |address, flag| {
        format!("cannot listen on {address}: stop what uses the port, or change {flag}")
    };
    let listen = |address: SocketAddr, role, flag| {
        Listener::bind(address, role).with_context(|| cannot(address, flag))
    };
    let mut listeners = Vec::with_capacity(plans.len());
    for (place, plan) in plans.iter().enumerate() {
        let flag = if place == 0 {
            "--listen-client-urls"
        } else {
            "--shards"
        };
        let client = plan.addresses.iter();
        let own = client.map(|address| listen(*address, Role::Client, flag));
        listeners.push(own.collect::<anyhow::Result<Vec<_>>>()?);
    }
    for address in config.metrics_addresses() {
        let metrics = listen(address, Role::HttpOnly, "--listen-metrics-urls")?;
        listeners[0].push(metrics);
    }
    let peers = config.peer_addresses().into_iter().map(|address| {
        TcpListener::bind(address).with_context(|| cannot(address, "--listen-peer-urls"))
    });
    Ok(Bound {
        listeners,
        peers: peers.collect::<anyhow::Result<_>>()?,
    })
}

fn start_cores(
    config: &Config,
    identity: &Identity,
    cores: &[u32],
    opened: Vec<CoreShards>,
    bound: Bound,
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
    let (member, cluster) = (identity.member, identity.cluster);
    let start = start_seed(member);
    let peers = move |core: usize| {
        let core = CoreId(u16::try_from(core).expect("there are fewer cores"));
        PeerConfig::new(member, cluster, core, start)
    };
    let seats = |links: &[CoreLink]| make_seats(links, opened, bound.listeners, peers, bound.peers);
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

fn log_serving(config: &Config, plans: &[ShardPlan]) {
    for plan in plans.iter().skip(1) {
        tracing::info!(
            shard = plan.name,
            shard_id = plan.shard.0,
            core = plan.core,
            addresses = ?plan.addresses,
            "serving a shard"
        );
    }
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
