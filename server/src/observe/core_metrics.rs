//! The cells of one core, by the room that writes them.
//!
//! Counting on the request path is an index and an add: methods are numbers, labels exist only at
//! scrape time. A cell that only the engine core sets (revision, leader, sizes) stays zero on the
//! other cores, so summing the cores gives its value.

use std::time::Duration;

use tonic::Code;

use super::cells::{Counter, Gauge, Histogram, Shape};
use super::rpc::{ClientApiVersion, Method};
use super::transfers::TransferMetrics;
use crate::front::MethodKind;

/// gRPC status codes, 0 to 16.
pub(super) const CODE_COUNT: usize = 17;

/// etcd's buckets for everything that waits for a disk.
const DISK_SHAPE: Shape = Shape::seconds(Duration::from_millis(1), 14);
/// Backups: 10 ms to about eleven minutes, as in etcd.
const BACKUP_SHAPE: Shape = Shape::seconds(Duration::from_millis(10), 17);
/// etcd's buckets for a defragmentation: 100 ms to about seven minutes.
const DEFRAG_SHAPE: Shape = Shape::seconds(Duration::from_millis(100), 13);
/// etcd's buckets for a slice of a compaction, and for all of one.
const COMPACTION_SLICE_SHAPE: Shape = Shape::milliseconds(Duration::from_millis(1), 13);
const COMPACTION_SHAPE: Shape = Shape::milliseconds(Duration::from_millis(100), 14);
/// etcd's buckets for apply and range.
const APPLY_SHAPE: Shape = Shape::seconds(Duration::from_micros(100), 20);
/// etcd's buckets for hashing.
const HASH_SHAPE: Shape = Shape::seconds(Duration::from_millis(10), 15);
/// Buckets fine enough for a disk that answers in microseconds.
const FLUSH_SHAPE: Shape = Shape::seconds(Duration::from_micros(16), 16);
/// etcd's buckets for lease TTLs: one second to about three months.
const TTL_SHAPE: Shape = Shape::plain(1, 24);

/// Everything one core counts. Written by that core, read by any.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreMetrics {
    /// The core's number, the `core` label.
    pub core: u32,
    /// gRPC calls.
    pub rpc: RpcMetrics,
    /// Client traffic.
    pub client: ClientMetrics,
    /// Leadership, proposals, apply.
    pub server: ServerMetrics,
    /// The log lane.
    pub disk: DiskMetrics,
    /// Snapshot files and the memory beside them.
    pub snapshots: SnapshotMetrics,
    /// Snapshots on their way between members.
    pub transfers: TransferMetrics,
    /// The key space.
    pub mvcc: MvccMetrics,
    /// Leases.
    pub lease: LeaseMetrics,
    /// Watches.
    pub watch: WatchMetrics,
    /// The executor and its rings.
    pub runtime: RuntimeMetrics,
    /// Health checks over HTTP.
    pub health: HealthMetrics,
}

impl CoreMetrics {
    /// All zero.
    pub fn new(core: u32) -> Self {
        Self {
            core,
            rpc: RpcMetrics::default(),
            client: ClientMetrics::default(),
            server: ServerMetrics::default(),
            disk: DiskMetrics::default(),
            snapshots: SnapshotMetrics::default(),
            transfers: TransferMetrics::default(),
            mvcc: MvccMetrics::default(),
            lease: LeaseMetrics::default(),
            watch: WatchMetrics::default(),
            runtime: RuntimeMetrics::default(),
            health: HealthMetrics::default(),
        }
    }

    /// A call of `method` began; counts the client's version as well.
    #[inline]
    pub fn rpc_started(&self, method: Method, version: ClientApiVersion) {
        self.rpc.started[method as usize].increment();
        let requests = match method.row().kind {
            MethodKind::Unary => &self.client.requests_unary,
            _ => &self.client.requests_stream,
        };
        requests[version.index()].increment();
    }

    /// A call of `method` received a message.
    #[inline]
    pub fn rpc_received(&self, method: Method, message_count: u64) {
        self.rpc.received[method as usize].add(message_count);
    }

    /// A call of `method` sent a message.
    #[inline]
    pub fn rpc_sent(&self, method: Method, message_count: u64) {
        self.rpc.sent[method as usize].add(message_count);
    }

    /// A call of `method` ended with `code`.
    #[inline]
    pub fn rpc_handled(&self, method: Method, code: Code) {
        self.rpc.handled[method as usize][code as usize].increment();
    }

    /// A command was applied.
    #[inline]
    pub fn applied(&self, op: ApplyOp, success: bool, took: Duration) {
        self.server.apply[op as usize][usize::from(success)].observe_duration(took);
    }
}

/// gRPC calls, by method number.
#[derive(Debug)]
pub struct RpcMetrics {
    /// Calls begun.
    pub started: [Counter; Method::COUNT],
    /// Messages received.
    pub received: [Counter; Method::COUNT],
    /// Messages sent.
    pub sent: [Counter; Method::COUNT],
    /// Calls ended, by status code.
    pub handled: [[Counter; CODE_COUNT]; Method::COUNT],
}

impl Default for RpcMetrics {
    fn default() -> Self {
        Self {
            started: [const { Counter::new() }; Method::COUNT],
            received: [const { Counter::new() }; Method::COUNT],
            sent: [const { Counter::new() }; Method::COUNT],
            handled: [const { [const { Counter::new() }; CODE_COUNT] }; Method::COUNT],
        }
    }
}

/// Client traffic.
#[derive(Debug, Default)]
pub struct ClientMetrics {
    /// Bytes sent to clients.
    pub sent_bytes: Counter,
    /// Bytes received from clients.
    pub received_bytes: Counter,
    /// Unary requests by [`ClientApiVersion::index`].
    pub requests_unary: [Counter; ClientApiVersion::COUNT],
    /// Streams by [`ClientApiVersion::index`].
    pub requests_stream: [Counter; ClientApiVersion::COUNT],
    /// Connections open now.
    pub connections: Gauge,
    /// Connections accepted since the start.
    pub connections_accepted: Counter,
    /// Connections refused or cut because of a limit or because they broke the protocol.
    pub connections_refused: Counter,
}

impl ClientMetrics {
    /// Unary requests of all clients.
    #[must_use]
    pub fn unary_count(&self) -> u64 {
        self.requests_unary.iter().map(Counter::value).sum()
    }
}

/// What an applied command was, in the words of the `op` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ApplyOp {
    /// A put.
    Put,
    /// A range delete.
    DeleteRange,
    /// A transaction.
    Txn,
    /// A compaction.
    Compaction,
    /// A lease granted.
    LeaseGrant,
    /// A lease revoked or expired.
    LeaseRevoke,
    /// A lease renewed.
    LeaseRenew,
    /// An alarm raised or cleared.
    Alarm,
    /// Membership and other commands of the member itself.
    Cluster,
}

impl ApplyOp {
    /// Every op, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Put,
        Self::DeleteRange,
        Self::Txn,
        Self::Compaction,
        Self::LeaseGrant,
        Self::LeaseRevoke,
        Self::LeaseRenew,
        Self::Alarm,
        Self::Cluster,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Put => "Put",
            Self::DeleteRange => "DeleteRange",
            Self::Txn => "Txn",
            Self::Compaction => "Compaction",
            Self::LeaseGrant => "LeaseGrant",
            Self::LeaseRevoke => "LeaseRevoke",
            Self::LeaseRenew => "LeaseRenew",
            Self::Alarm => "Alarm",
            Self::Cluster => "ClusterMemberAttrSet",
        }
    }
}

/// Leadership, proposals, apply.
#[derive(Debug)]
pub struct ServerMetrics {
    /// 1 while a leader is known.
    pub has_leader: Gauge,
    /// 1 while this member leads.
    pub is_leader: Gauge,
    /// 1 while this member is a learner.
    pub is_learner: Gauge,
    /// Changes of leader seen.
    pub leader_changes: Counter,
    /// Index of the newest committed entry.
    pub proposals_committed: Gauge,
    /// Index of the newest applied entry.
    pub proposals_applied: Gauge,
    /// Proposals that wait for their commit.
    pub proposals_pending: Gauge,
    /// Proposals that failed.
    pub proposals_failed: Counter,
    /// Applied batches that took longer than `--warning-apply-duration`.
    pub slow_applies: Counter,
    /// Read-index rounds that took long.
    pub slow_read_indexes: Counter,
    /// Read-index rounds that failed.
    pub read_indexes_failed: Counter,
    /// Leases that expired.
    pub leases_expired: Counter,
    /// 1 while the member has a NOSPACE alarm.
    pub alarm_nospace: Gauge,
    /// 1 while the member's disk has no room for the next segment of its log.
    pub disk_full: Gauge,
    /// 1 while the member has a CORRUPT alarm.
    pub alarm_corrupt: Gauge,
    /// Apply durations by [`ApplyOp`], then failure and success.
    pub apply: [[Histogram; 2]; ApplyOp::ALL.len()],
    /// Range durations, failure and success.
    pub range: [Histogram; 2],
}

impl Default for ServerMetrics {
    fn default() -> Self {
        let pair = || [Histogram::new(APPLY_SHAPE), Histogram::new(APPLY_SHAPE)];
        Self {
            has_leader: Gauge::default(),
            is_leader: Gauge::default(),
            is_learner: Gauge::default(),
            leader_changes: Counter::default(),
            proposals_committed: Gauge::default(),
            proposals_applied: Gauge::default(),
            proposals_pending: Gauge::default(),
            proposals_failed: Counter::default(),
            slow_applies: Counter::default(),
            slow_read_indexes: Counter::default(),
            read_indexes_failed: Counter::default(),
            leases_expired: Counter::default(),
            alarm_nospace: Gauge::default(),
            disk_full: Gauge::default(),
            alarm_corrupt: Gauge::default(),
            apply: std::array::from_fn(|_| pair()),
            range: pair(),
        }
    }
}

/// The log lane.
#[derive(Debug)]
pub struct DiskMetrics {
    /// Time from handing a group commit to the disk until it is durable.
    pub wal_fsync: Histogram,
    /// The same time in buckets fine enough for a fast disk.
    pub wal_flush: Histogram,
    /// Bytes written to the log, padding included.
    pub wal_write_bytes: Gauge,
    /// Group commits made durable.
    pub wal_groups: Counter,
    /// Entries in them.
    pub wal_entries: Counter,
    /// Commands in them.
    pub wal_commands: Counter,
    /// Group commits in flight now.
    pub wal_groups_in_flight: Gauge,
    /// Segments taken into use again.
    pub wal_segments_recycled: Counter,
    /// Time to apply one durable batch to the state in memory, which is where etcd commits to its
    /// database file.
    pub backend_commit: Histogram,
    /// Time to stream one backup.
    pub backend_snapshot: Histogram,
    /// Time from a request to defragment to the checkpoint that answers it.
    pub backend_defrag: Histogram,
    /// Requests to defragment that wait for their checkpoint.
    pub defrags_in_flight: Gauge,
}

/// Snapshot files: how they are made, and what of their values is in memory.
#[derive(Debug)]
pub struct SnapshotMetrics {
    /// Checkpoints that became durable.
    pub checkpoints: Counter,
    /// Checkpoints that failed and were tried again.
    pub checkpoints_failed: Counter,
    /// Bytes written to snapshot files, finished or not.
    pub checkpoint_bytes: Counter,
    /// Time from the beginning of a checkpoint until it is durable.
    pub checkpoint: Histogram,
    /// The same in etcd's buckets for saving a snapshot.
    pub save: Histogram,
    /// Bytes of the files that are in use.
    pub file_bytes: Gauge,
    /// Bytes of blocks of values in memory.
    pub value_cache_bytes: Gauge,
    /// Values that were in memory when they were asked for.
    pub value_cache_hits: Counter,
    /// Blocks of values that were read because they were not.
    pub value_cache_misses: Counter,
    /// Memory of the versions that no snapshot holds, roughly.
    pub memory_versions_bytes: Gauge,
    /// Memory of the snapshot's index.
    pub memory_index_bytes: Gauge,
}

impl Default for SnapshotMetrics {
    fn default() -> Self {
        Self {
            checkpoints: Counter::default(),
            checkpoints_failed: Counter::default(),
            checkpoint_bytes: Counter::default(),
            checkpoint: Histogram::new(BACKUP_SHAPE),
            save: Histogram::new(DISK_SHAPE),
            file_bytes: Gauge::default(),
            value_cache_bytes: Gauge::default(),
            value_cache_hits: Counter::default(),
            value_cache_misses: Counter::default(),
            memory_versions_bytes: Gauge::default(),
            memory_index_bytes: Gauge::default(),
        }
    }
}

impl Default for DiskMetrics {
    fn default() -> Self {
        Self {
            wal_fsync: Histogram::new(DISK_SHAPE),
            wal_flush: Histogram::new(FLUSH_SHAPE),
            wal_write_bytes: Gauge::default(),
            wal_groups: Counter::default(),
            wal_entries: Counter::default(),
            wal_commands: Counter::default(),
            wal_groups_in_flight: Gauge::default(),
            wal_segments_recycled: Counter::default(),
            backend_commit: Histogram::new(DISK_SHAPE),
            backend_snapshot: Histogram::new(BACKUP_SHAPE),
            backend_defrag: Histogram::new(DEFRAG_SHAPE),
            defrags_in_flight: Gauge::default(),
        }
    }
}

impl DiskMetrics {
    /// A group commit became durable.
    #[inline]
    pub fn flushed(&self, took: Duration, written_bytes: u64, entries: u64, commands: u64) {
        self.wal_fsync.observe_duration(took);
        self.wal_flush.observe_duration(took);
        self.wal_write_bytes.add(written_bytes);
        self.wal_groups.increment();
        self.wal_entries.add(entries);
        self.wal_commands.add(commands);
    }
}

/// The key space.
#[derive(Debug)]
pub struct MvccMetrics {
    /// Memory that the key space takes, history included.
    pub db_total_bytes: Gauge,
    /// The part of it that is in use.
    pub db_in_use_bytes: Gauge,
    /// Reads that hold their revision open now.
    pub open_reads: Gauge,
    /// Puts, those in transactions included.
    pub puts: Counter,
    /// Deletes, those in transactions included.
    pub deletes: Counter,
    /// Ranges, those in transactions included.
    pub ranges: Counter,
    /// Transactions.
    pub txns: Counter,
    /// Keys and values of all puts, in bytes.
    pub put_bytes: Gauge,
    /// Live keys.
    pub keys: Gauge,
    /// The newest revision.
    pub current_revision: Gauge,
    /// The revision of the last compaction.
    pub compact_revision: Gauge,
    /// Versions that compactions have found unreachable.
    pub compacted_versions: Counter,
    /// Time of one slice of a physical compaction.
    pub compaction_slice: Histogram,
    /// Time from a compaction until everything it made unreachable is found.
    pub compaction: Histogram,
    /// Unix time of the end of the last one.
    pub compacted_at_seconds: Gauge,
    /// Time to hash the whole store.
    pub hash: Histogram,
    /// Time to hash the store up to a revision.
    pub hash_revision: Histogram,
}

impl Default for MvccMetrics {
    fn default() -> Self {
        Self {
            db_total_bytes: Gauge::default(),
            db_in_use_bytes: Gauge::default(),
            open_reads: Gauge::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            ranges: Counter::default(),
            txns: Counter::default(),
            put_bytes: Gauge::default(),
            keys: Gauge::default(),
            current_revision: Gauge::default(),
            compact_revision: Gauge::default(),
            compacted_versions: Counter::default(),
            compaction_slice: Histogram::new(COMPACTION_SLICE_SHAPE),
            compaction: Histogram::new(COMPACTION_SHAPE),
            compacted_at_seconds: Gauge::default(),
            hash: Histogram::new(HASH_SHAPE),
            hash_revision: Histogram::new(HASH_SHAPE),
        }
    }
}

/// Leases.
#[derive(Debug)]
pub struct LeaseMetrics {
    /// Leases granted.
    pub granted: Counter,
    /// Leases renewed.
    pub renewed: Counter,
    /// Leases revoked.
    pub revoked: Counter,
    /// TTLs of granted and renewed leases, in seconds.
    pub ttl: Histogram,
}

impl Default for LeaseMetrics {
    fn default() -> Self {
        Self {
            granted: Counter::default(),
            renewed: Counter::default(),
            revoked: Counter::default(),
            ttl: Histogram::new(TTL_SHAPE),
        }
    }
}

/// Watches.
#[derive(Debug, Default)]
pub struct WatchMetrics {
    /// Watches open now.
    pub watchers: Gauge,
    /// Watch streams open now.
    pub streams: Gauge,
    /// Watches that are behind and catch up from the change log.
    pub slow_watchers: Gauge,
    /// Events queued for clients and not yet taken by their connection.
    pub pending_events: Gauge,
    /// Events sent.
    pub events: Counter,
}

/// The executor and its rings.
#[derive(Debug, Default)]
pub struct RuntimeMetrics {
    /// Share of wall time the core was busy, averaged over a few hundred milliseconds.
    pub busy_permille: Gauge,
    /// Times that the watchdog found the core without a heartbeat for `runtime.stall_ms`.
    pub stalls: Counter,
    /// Times that another thread had to wake the core.
    pub wakeups: Counter,
    /// Requests refused because a limit was reached.
    pub refused: Counter,
}

/// A kind of health check, in the words of the `type` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CheckKind {
    /// `/livez`.
    Livez,
    /// `/readyz`.
    Readyz,
}

impl CheckKind {
    /// Both kinds, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Livez, Self::Readyz];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Livez => "livez",
            Self::Readyz => "readyz",
        }
    }
}

/// The checks that `/livez` and `/readyz` are made of; the index is the check's number.
pub const HEALTH_CHECK_NAMES: [&str; 4] = [
    "data_corruption",
    "serializable_read",
    "linearizable_read",
    "non_learner",
];

/// Health checks over HTTP.
#[derive(Debug, Default)]
pub struct HealthMetrics {
    /// `/health` answered with success.
    pub success: Counter,
    /// `/health` answered with failure.
    pub failures: Counter,
    /// Results of each check, failure and success, by [`CheckKind`] and check number.
    pub checks: [[[Counter; 2]; HEALTH_CHECK_NAMES.len()]; 2],
    /// The last run of each check on this core: twice its time plus one for success; 0 is never.
    pub last: [[Gauge; HEALTH_CHECK_NAMES.len()]; 2],
}

impl HealthMetrics {
    /// Counts one run of one check at `unix_ms`; of all cores' last runs the newest is shown.
    pub fn checked(&self, kind: CheckKind, check_index: usize, success: bool, unix_ms: u64) {
        self.checks[kind as usize][check_index][usize::from(success)].increment();
        self.last[kind as usize][check_index].set(unix_ms * 2 + u64::from(success));
    }
}
