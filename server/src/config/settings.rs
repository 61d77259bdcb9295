//! The configuration itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use keelson_consensus::limits::ENTRY_PAYLOAD_BYTES_MAX;
use keelson_storage::limits::WAL_RECORD_PAYLOAD_BYTES_MAX;
use keelson_tuning::Tuning;

use super::cluster::{ClusterMember, ClusterState};
use super::compaction::AutoCompaction;
use super::cores::CoreSelection;
use super::features::FeatureGates;
use super::shards::ShardConfig;
use super::url::HttpUrl;
use crate::engine::limits::entry_payload_bytes_max;

/// The quota when `--quota-backend-bytes` is 0.
pub(super) const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
/// A quota above this earns a warning.
pub(super) const QUOTA_BYTES_SENSIBLE: u64 = 8 << 30;
/// A request limit above this earns a warning.
pub(super) const REQUEST_BYTES_SENSIBLE: u64 = 10 << 20;
/// What a message may hold on top of the largest request.
pub(super) const REQUEST_OVERHEAD_BYTES: u64 = 512 << 10;
/// The largest request that may be configured: with its envelope it fits into one record of the log.
pub(super) const REQUEST_BYTES_MAX: u64 = 15 << 20;
/// The longest election timeout.
pub(super) const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
/// The shortest interval of watch progress notifications.
pub(super) const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

const _: () = assert!(QUOTA_BYTES_DEFAULT < QUOTA_BYTES_SENSIBLE);
const _: () = assert!(REQUEST_BYTES_SENSIBLE < REQUEST_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX + REQUEST_OVERHEAD_BYTES <= u32::MAX as u64);
const _: () = assert!(
    entry_payload_bytes_max(REQUEST_BYTES_MAX as usize) as u64 <= WAL_RECORD_PAYLOAD_BYTES_MAX
);
const _: () =
    assert!(entry_payload_bytes_max(REQUEST_BYTES_MAX as usize) <= ENTRY_PAYLOAD_BYTES_MAX);

/// Everything a member is told at its start. Built by [`super::assemble`], which checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `--name`: this member's name.
    pub name: String,
    /// `--data-dir`: where the data lives; `<name>.keelson` in the working directory by default.
    pub data_dir: PathBuf,
    /// `--listen-client-urls`: where clients are served; at least one, all of them can be bound.
    pub listen_client_urls: Vec<HttpUrl>,
    /// `--advertise-client-urls`: what `MemberList` says; at least one.
    pub advertise_client_urls: Vec<HttpUrl>,
    /// `--listen-metrics-urls`: further listeners for metrics and health only; often none.
    pub listen_metrics_urls: Vec<HttpUrl>,
    /// `--listen-peer-urls`: where peers are served.
    pub listen_peer_urls: Vec<HttpUrl>,
    /// `--initial-advertise-peer-urls`: the peer URLs that `MemberList` says; the member's and the
    /// cluster's ids are made from them.
    pub initial_advertise_peer_urls: Vec<HttpUrl>,
    /// `--initial-cluster`: all members, this one among them, with the URLs above.
    pub initial_cluster: Vec<ClusterMember>,
    /// `--initial-cluster-state`. With `Existing` and an empty directory, which start-up alone knows, a member
    /// joins the cluster that runs.
    pub initial_cluster_state: ClusterState,
    /// `--initial-cluster-token`: goes into the ids.
    pub initial_cluster_token: String,
    /// `--strict-reconfig-check`: whether changes of the membership are refused that put the quorum at risk.
    pub strict_reconfig_check: bool,
    /// `--max-learners`: how many there may be after one was added here.
    pub max_learners: u32,
    /// `--force-new-cluster`: drop all other members.
    pub force_new_cluster: bool,
    /// `--initial-election-tick-advance`: whether a start takes most of an election timeout as passed.
    pub initial_election_tick_advance: bool,
    /// `--heartbeat-interval`: a tick; bounds the election timeout.
    pub heartbeat_interval: Duration,
    /// `--election-timeout`; at least five heartbeats, at most 50 s.
    pub election_timeout: Duration,
    /// `--quota-backend-bytes`; `None` when switched off.
    pub quota_backend_bytes: Option<u64>,
    /// `--snapshot-count`.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`.
    pub snapshot_catchup_entries: u64,
    /// `--corrupt-check-time`; `None` never compares members.
    pub corrupt_check_time: Option<Duration>,
    /// `--compact-hash-check-time`, which counts with the gate CompactHashCheck.
    pub compact_hash_check_time: Duration,
    /// `--max-txn-ops`.
    pub max_txn_ops: u32,
    /// `--max-request-bytes`; a message may be 512 KiB larger.
    pub max_request_bytes: u32,
    /// `--max-concurrent-streams`, per connection.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`; `None` never pings.
    pub grpc_keepalive_interval: Option<Duration>,
    /// `--grpc-keepalive-timeout`; `None` waits for ever.
    pub grpc_keepalive_timeout: Option<Duration>,
    /// `--watch-progress-notify-interval`; at least 100 ms.
    pub watch_progress_notify_interval: Duration,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// `--warning-apply-duration`.
    pub warning_apply_duration: Duration,
    /// `--feature-gates`.
    pub feature_gates: FeatureGates,
    /// `--log-level`, `--log-format`, `--log-outputs`.
    pub log: LogConfig,
    /// `--unsafe-no-fsync`.
    pub unsafe_no_fsync: bool,
    /// `--profile`, whose values are among the others; `None` without one.
    pub profile: Option<String>,
    /// `--cores`; resolve it against [`crate::runtime::available_cores`].
    pub cores: CoreSelection,
    /// `--shards` and what goes with it: the shards beside `main`.
    pub shards: Vec<ShardConfig>,
    /// The tuning sections; they pass their own check.
    pub tuning: Tuning,
}

impl Config {
    /// Addresses to serve clients on, in the order of the URLs.
    pub fn client_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.listen_client_urls)
    }

    /// Addresses to serve metrics and health on.
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.listen_metrics_urls)
    }

    /// Addresses to serve peers on.
    pub fn peer_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.listen_peer_urls)
    }

    /// Ticks of a heartbeat in an election timeout, whole ones, as in etcd.
    pub fn election_ticks(&self) -> usize {
        (self.election_timeout.as_millis() / self.heartbeat_interval.as_millis()) as usize
    }

    /// The largest gRPC message to receive.
    pub fn max_receive_bytes(&self) -> u32 {
        self.max_request_bytes + REQUEST_OVERHEAD_BYTES as u32
    }

    /// How long a proposal may take before its client is told that it timed out: five seconds and
    /// two election timeouts, as in etcd.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }
}

impl Default for Config {
    /// What a member without flags, environment and file runs with.
    fn default() -> Self {
        super::assemble(&[])
            .expect("the defaults fit each other, which a test checks")
            .config
    }
}

fn addresses(urls: &[HttpUrl]) -> Vec<SocketAddr> {
    urls.iter()
        .map(|url| {
            url.listen_address()
                .expect("assembling checked that it can be listened on")
        })
        .collect()
}

/// How the process log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important line that is written.
    pub level: LogLevel,
    /// What a line looks like.
    pub format: LogFormat,
    /// Where lines go.
    pub output: LogOutput,
}

/// How important a line must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// What looks wrong.
    Warn,
    /// What is wrong.
    Error,
    /// Only the reason of a panic.
    Panic,
    /// Only the reason of an exit.
    Fatal,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, with etcd's keys.
    #[default]
    Json,
    /// For people.
    Console,
}

/// Where lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    #[default]
    Stderr,
    /// Standard output.
    Stdout,
}
