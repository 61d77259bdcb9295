//! Every metric of the member: name, type, meaning, and where its value comes from.
//!
//! Names that begin with `etcd_`, `grpc_server_`, `os_fd_` and `process_` are etcd's, with etcd's
//! types, labels and buckets, so that its dashboards and alerts work unchanged; a metric is listed
//! only if a single member has something true to say under that name. Names that begin with
//! `keelson_` are our own. The list is in alphabetical order, as the page is.

use super::cells::{Counter, Gauge, Histogram};
use super::core_metrics::CoreMetrics;
use super::labelled;
use super::process::ProcessFacts;
use super::registry::Registry;
use super::text::{FamilyKind, Text};
use super::transfers;

/// One metric with all its series.
pub(super) struct Family {
    /// The name.
    pub(super) name: &'static str,
    /// The type.
    pub(super) kind: FamilyKind,
    /// One line of meaning.
    pub(super) help: &'static str,
    /// Where the values come from.
    pub(super) series: Series,
}

/// Where a metric's values come from.
pub(super) enum Series {
    /// The sum of a counter over the cores.
    Counter(fn(&CoreMetrics) -> &Counter),
    /// The sum of a gauge over the cores.
    Gauge(fn(&CoreMetrics) -> &Gauge),
    /// The sum of a histogram over the cores.
    Histogram(fn(&CoreMetrics) -> &Histogram),
    /// A counter of each core by itself, divided by the raw units in a shown one.
    CoreCounter(fn(&CoreMetrics) -> &Counter, f64),
    /// A gauge of each core by itself.
    CoreGauge(fn(&CoreMetrics) -> &Gauge),
    /// A fact about the process, left out when unknown.
    Process(fn(&ProcessFacts) -> Option<f64>),
    /// Series with labels of their own.
    Labelled(fn(&str, &Registry, &mut Text)),
}

const fn family(
    name: &'static str,
    kind: FamilyKind,
    help: &'static str,
    series: Series,
) -> Family {
    Family {
        name,
        kind,
        help,
        series,
    }
}

/// All of them, in alphabetical order.
pub(super) const FAMILIES: &[Family] = {
    use FamilyKind::{Counter as C, Gauge as G, Histogram as H};
    use Series::{CoreCounter, CoreGauge, Counter, Gauge, Histogram, Labelled, Process};
    &[
        family(
            "etcd_cluster_version",
            G,
            "The cluster version as a label; the value is 1.",
            Labelled(labelled::cluster_version),
        ),
        family(
            "etcd_debugging_lease_granted_total",
            C,
            "Leases granted.",
            Counter(|m| &m.lease.granted),
        ),
        family(
            "etcd_debugging_lease_renewed_total",
            C,
            "Leases renewed.",
            Counter(|m| &m.lease.renewed),
        ),
        family(
            "etcd_debugging_lease_revoked_total",
            C,
            "Leases revoked, expired ones included.",
            Counter(|m| &m.lease.revoked),
        ),
        family(
            "etcd_debugging_lease_ttl_total",
            H,
            "TTLs of granted and renewed leases, in seconds.",
            Histogram(|m| &m.lease.ttl),
        ),
        family(
            "etcd_debugging_mvcc_compact_revision",
            G,
            "The revision of the last compaction.",
            Gauge(|m| &m.mvcc.compact_revision),
        ),
        family(
            "etcd_debugging_mvcc_current_revision",
            G,
            "The newest revision.",
            Gauge(|m| &m.mvcc.current_revision),
        ),
        family(
            "etcd_debugging_mvcc_db_compaction_keys_total",
            C,
            "Versions that compactions have found unreachable.",
            Counter(|m| &m.mvcc.compacted_versions),
        ),
        family(
            "etcd_debugging_mvcc_db_compaction_last",
            G,
            "Unix time of the end of the last compaction; 0 before the first.",
            Gauge(|m| &m.mvcc.compacted_at_seconds),
        ),
        family(
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            H,
            "Time of one slice of a compaction, in which nothing else is served.",
            Histogram(|m| &m.mvcc.compaction_slice),
        ),
        family(
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            H,
            "Time from a compaction until everything it made unreachable is found.",
            Histogram(|m| &m.mvcc.compaction),
        ),
        family(
            "etcd_debugging_mvcc_events_total",
            C,
            "Watch events sent.",
            Counter(|m| &m.watch.events),
        ),
        family(
            "etcd_debugging_mvcc_keys_total",
            G,
            "Live keys.",
            Gauge(|m| &m.mvcc.keys),
        ),
        family(
            "etcd_debugging_mvcc_pending_events_total",
            G,
            "Watch events queued for clients and not yet taken by their connection.",
            Gauge(|m| &m.watch.pending_events),
        ),
        family(
            "etcd_debugging_mvcc_slow_watcher_total",
            G,
            "Watchers that are behind and catch up from history.",
            Gauge(|m| &m.watch.slow_watchers),
        ),
        family(
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            G,
            "Bytes of keys and values in all puts since the start.",
            Gauge(|m| &m.mvcc.put_bytes),
        ),
        family(
            "etcd_debugging_mvcc_watch_stream_total",
            G,
            "Open watch streams.",
            Gauge(|m| &m.watch.streams),
        ),
        family(
            "etcd_debugging_mvcc_watcher_total",
            G,
            "Open watchers.",
            Gauge(|m| &m.watch.watchers),
        ),
        family(
            "etcd_debugging_server_alarms",
            G,
            "1 for each alarm that is active on the member in the label.",
            Labelled(labelled::alarms),
        ),
        family(
            "etcd_debugging_server_lease_expired_total",
            C,
            "Leases that expired.",
            Counter(|m| &m.server.leases_expired),
        ),
        family(
            "etcd_debugging_snap_save_total_duration_seconds",
            H,
            "Time from the beginning of a checkpoint until its snapshot file is durable.",
            Histogram(|m| &m.snapshots.save),
        ),
        family(
            "etcd_disk_backend_commit_duration_seconds",
            H,
            "Time to apply one durable batch to the state; there is no second database file to commit to.",
            Histogram(|m| &m.disk.backend_commit),
        ),
        family(
            "etcd_disk_backend_defrag_duration_seconds",
            H,
            "Time to answer a request to defragment: it is a checkpoint, and blocks nobody.",
            Histogram(|m| &m.disk.backend_defrag),
        ),
        family(
            "etcd_disk_backend_snapshot_duration_seconds",
            H,
            "Time to stream a backup to a client, from its first byte to its last.",
            Histogram(|m| &m.disk.backend_snapshot),
        ),
        family(
            "etcd_disk_defrag_inflight",
            G,
            "Requests to defragment that wait for their checkpoint.",
            Gauge(|m| &m.disk.defrags_in_flight),
        ),
        family(
            "etcd_disk_wal_fsync_duration_seconds",
            H,
            "Time until a group commit of the log is durable: one write and its flush.",
            Histogram(|m| &m.disk.wal_fsync),
        ),
        family(
            "etcd_disk_wal_write_bytes_total",
            G,
            "Bytes written to the log, padding to whole blocks included.",
            Gauge(|m| &m.disk.wal_write_bytes),
        ),
        family(
            "etcd_mvcc_db_open_read_transactions",
            G,
            "Reads that hold their revision open.",
            Gauge(|m| &m.mvcc.open_reads),
        ),
        family(
            "etcd_mvcc_db_total_size_in_bytes",
            G,
            "Bytes that the key space takes, history included; what the quota is measured against.",
            Gauge(|m| &m.mvcc.db_total_bytes),
        ),
        family(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            G,
            "The part of the key space's bytes that is in use.",
            Gauge(|m| &m.mvcc.db_in_use_bytes),
        ),
        family(
            "etcd_mvcc_delete_total",
            C,
            "Deletes, those in transactions included.",
            Counter(|m| &m.mvcc.deletes),
        ),
        family(
            "etcd_mvcc_hash_duration_seconds",
            H,
            "Time to hash the whole store.",
            Histogram(|m| &m.mvcc.hash),
        ),
        family(
            "etcd_mvcc_hash_rev_duration_seconds",
            H,
            "Time to hash the store up to a revision.",
            Histogram(|m| &m.mvcc.hash_revision),
        ),
        family(
            "etcd_mvcc_put_total",
            C,
            "Puts, those in transactions included.",
            Counter(|m| &m.mvcc.puts),
        ),
        family(
            "etcd_mvcc_range_total",
            C,
            "Ranges, those in transactions included.",
            Counter(|m| &m.mvcc.ranges),
        ),
        family(
            "etcd_mvcc_txn_total",
            C,
            "Transactions.",
            Counter(|m| &m.mvcc.txns),
        ),
        family(
            "etcd_network_client_grpc_received_bytes_total",
            C,
            "Bytes received from clients.",
            Counter(|m| &m.client.received_bytes),
        ),
        family(
            "etcd_network_client_grpc_sent_bytes_total",
            C,
            "Bytes sent to clients.",
            Counter(|m| &m.client.sent_bytes),
        ),
        family(
            "etcd_network_snapshot_receive_failures",
            C,
            "Snapshots that did not arrive, from another member, by its id.",
            Labelled(transfers::receive_failures),
        ),
        family(
            "etcd_network_snapshot_receive_inflights_total",
            G,
            "Snapshots on their way, from another member, by its id.",
            Labelled(transfers::receive_inflights),
        ),
        family(
            "etcd_network_snapshot_receive_success",
            C,
            "Snapshots that arrived, from another member, by its id.",
            Labelled(transfers::receive_success),
        ),
        family(
            "etcd_network_snapshot_receive_total_duration_seconds",
            H,
            "Time from the offer of a snapshot until it had arrived, from another member, by its id.",
            Labelled(transfers::receive_durations),
        ),
        family(
            "etcd_network_snapshot_send_failures",
            C,
            "Snapshots that did not arrive, to another member, by its id.",
            Labelled(transfers::send_failures),
        ),
        family(
            "etcd_network_snapshot_send_inflights_total",
            G,
            "Snapshots on their way, to another member, by its id.",
            Labelled(transfers::send_inflights),
        ),
        family(
            "etcd_network_snapshot_send_success",
            C,
            "Snapshots that arrived, to another member, by its id.",
            Labelled(transfers::send_success),
        ),
        family(
            "etcd_network_snapshot_send_total_duration_seconds",
            H,
            "Time from the offer of a snapshot until it had arrived, to another member, by its id.",
            Labelled(transfers::send_durations),
        ),
        family(
            "etcd_server_apply_duration_seconds",
            H,
            "Time to apply one command, by what it does and whether it succeeded.",
            Labelled(labelled::apply_durations),
        ),
        family(
            "etcd_server_client_requests_total",
            C,
            "Client requests by the API version that the client names.",
            Labelled(labelled::client_requests),
        ),
        family(
            "etcd_server_feature_enabled",
            G,
            "1 for a feature gate that is on, 0 for one that is off.",
            Labelled(labelled::features),
        ),
        family(
            "etcd_server_has_leader",
            G,
            "1 while the member knows a leader.",
            Gauge(|m| &m.server.has_leader),
        ),
        family(
            "etcd_server_health_failures",
            C,
            "Answers of /health that reported ill health.",
            Counter(|m| &m.health.failures),
        ),
        family(
            "etcd_server_health_success",
            C,
            "Answers of /health that reported good health.",
            Counter(|m| &m.health.success),
        ),
        family(
            "etcd_server_healthcheck",
            G,
            "The last result of each check of /livez and /readyz: 1 is good.",
            Labelled(labelled::health_last),
        ),
        family(
            "etcd_server_healthchecks_total",
            C,
            "Results of the checks of /livez and /readyz.",
            Labelled(labelled::health_counts),
        ),
        family(
            "etcd_server_id",
            G,
            "The member id in hexadecimal as a label; the value is 1.",
            Labelled(labelled::server_id),
        ),
        family(
            "etcd_server_is_leader",
            G,
            "1 while the member leads.",
            Gauge(|m| &m.server.is_leader),
        ),
        family(
            "etcd_server_is_learner",
            G,
            "1 while the member is a learner.",
            Gauge(|m| &m.server.is_learner),
        ),
        family(
            "etcd_server_leader_changes_seen_total",
            C,
            "Changes of leader seen.",
            Counter(|m| &m.server.leader_changes),
        ),
        family(
            "etcd_server_proposals_applied_total",
            G,
            "Index of the newest applied log entry.",
            Gauge(|m| &m.server.proposals_applied),
        ),
        family(
            "etcd_server_proposals_committed_total",
            G,
            "Index of the newest committed log entry.",
            Gauge(|m| &m.server.proposals_committed),
        ),
        family(
            "etcd_server_proposals_failed_total",
            C,
            "Proposals that failed.",
            Counter(|m| &m.server.proposals_failed),
        ),
        family(
            "etcd_server_proposals_pending",
            G,
            "Proposals that wait for their commit.",
            Gauge(|m| &m.server.proposals_pending),
        ),
        family(
            "etcd_server_quota_backend_bytes",
            G,
            "The quota in bytes; 0 when it is switched off.",
            Labelled(labelled::quota),
        ),
        family(
            "etcd_server_range_duration_seconds",
            H,
            "Time to answer a range, by whether it succeeded.",
            Labelled(labelled::range_durations),
        ),
        family(
            "etcd_server_read_indexes_failed_total",
            C,
            "Rounds to confirm leadership for reads that failed.",
            Counter(|m| &m.server.read_indexes_failed),
        ),
        family(
            "etcd_server_slow_apply_total",
            C,
            "Batches that took longer to apply than --warning-apply-duration.",
            Counter(|m| &m.server.slow_applies),
        ),
        family(
            "etcd_server_slow_read_indexes_total",
            C,
            "Rounds to confirm leadership for reads that took long.",
            Counter(|m| &m.server.slow_read_indexes),
        ),
        family(
            "etcd_server_version",
            G,
            "The API level that the member reports as a label; the value is 1.",
            Labelled(labelled::server_version),
        ),
        family(
            "grpc_server_handled_total",
            C,
            "RPCs that ended, by status code.",
            Labelled(labelled::rpc_handled),
        ),
        family(
            "grpc_server_msg_received_total",
            C,
            "Messages received in RPCs.",
            Labelled(labelled::rpc_received),
        ),
        family(
            "grpc_server_msg_sent_total",
            C,
            "Messages sent in RPCs.",
            Labelled(labelled::rpc_sent),
        ),
        family(
            "grpc_server_started_total",
            C,
            "RPCs that began.",
            Labelled(labelled::rpc_started),
        ),
        family(
            "keelson_build_info",
            G,
            "Keelson's version as a label; the value is 1.",
            Labelled(labelled::build_info),
        ),
        family(
            "keelson_checkpoint_bytes_total",
            C,
            "Bytes written to snapshot files, finished or not.",
            Counter(|m| &m.snapshots.checkpoint_bytes),
        ),
        family(
            "keelson_checkpoint_duration_seconds",
            H,
            "Time from the beginning of a checkpoint until it is durable.",
            Histogram(|m| &m.snapshots.checkpoint),
        ),
        family(
            "keelson_checkpoint_failed_total",
            C,
            "Checkpoints that failed; they are tried again.",
            Counter(|m| &m.snapshots.checkpoints_failed),
        ),
        family(
            "keelson_checkpoint_file_bytes",
            G,
            "Bytes of the snapshot files in use.",
            Gauge(|m| &m.snapshots.file_bytes),
        ),
        family(
            "keelson_checkpoint_total",
            C,
            "Checkpoints that became durable.",
            Counter(|m| &m.snapshots.checkpoints),
        ),
        family(
            "keelson_client_connections",
            G,
            "Open client connections of each core.",
            CoreGauge(|m| &m.client.connections),
        ),
        family(
            "keelson_client_connections_accepted_total",
            C,
            "Client connections accepted by each core.",
            CoreCounter(|m| &m.client.connections_accepted, 1.0),
        ),
        family(
            "keelson_client_connections_refused_total",
            C,
            "Client connections refused, or cut for a limit or a broken protocol.",
            CoreCounter(|m| &m.client.connections_refused, 1.0),
        ),
        family(
            "keelson_core_busy_permille",
            G,
            "Share of its time that each core was busy lately.",
            CoreGauge(|m| &m.runtime.busy_permille),
        ),
        family(
            "keelson_core_stalls_total",
            C,
            "Times that a core missed its heartbeat by more than runtime.stall_ms.",
            CoreCounter(|m| &m.runtime.stalls, 1.0),
        ),
        family(
            "keelson_core_wakeups_total",
            C,
            "Times that each core was woken by another thread.",
            CoreCounter(|m| &m.runtime.wakeups, 1.0),
        ),
        family(
            "keelson_disk_full",
            G,
            "1 while the member's disk has no room for the next segment of its log.",
            Gauge(|m| &m.server.disk_full),
        ),
        family(
            "keelson_memory_index_bytes",
            G,
            "Memory of the index of the snapshot.",
            Gauge(|m| &m.snapshots.memory_index_bytes),
        ),
        family(
            "keelson_memory_versions_bytes",
            G,
            "Memory of the versions that no snapshot holds, roughly.",
            Gauge(|m| &m.snapshots.memory_versions_bytes),
        ),
        family(
            "keelson_requests_refused_total",
            C,
            "Requests refused because a limit was reached.",
            CoreCounter(|m| &m.runtime.refused, 1.0),
        ),
        family(
            "keelson_value_cache_bytes",
            G,
            "Bytes of blocks of values in memory.",
            Gauge(|m| &m.snapshots.value_cache_bytes),
        ),
        family(
            "keelson_value_cache_hits_total",
            C,
            "Values of the snapshot that were in memory when they were asked for.",
            Counter(|m| &m.snapshots.value_cache_hits),
        ),
        family(
            "keelson_value_cache_misses_total",
            C,
            "Blocks of values that were read from the disk because they were not in memory.",
            Counter(|m| &m.snapshots.value_cache_misses),
        ),
        family(
            "keelson_wal_commands_total",
            C,
            "Commands in durable group commits.",
            Counter(|m| &m.disk.wal_commands),
        ),
        family(
            "keelson_wal_entries_total",
            C,
            "Log entries in durable group commits.",
            Counter(|m| &m.disk.wal_entries),
        ),
        family(
            "keelson_wal_flush_duration_seconds",
            H,
            "Time until a group commit is durable, in buckets fine enough for a fast disk.",
            Histogram(|m| &m.disk.wal_flush),
        ),
        family(
            "keelson_wal_groups_in_flight",
            G,
            "Group commits that the disk is working on.",
            Gauge(|m| &m.disk.wal_groups_in_flight),
        ),
        family(
            "keelson_wal_groups_total",
            C,
            "Group commits made durable.",
            Counter(|m| &m.disk.wal_groups),
        ),
        family(
            "keelson_wal_segments_recycled_total",
            C,
            "Log segments taken into use again.",
            Counter(|m| &m.disk.wal_segments_recycled),
        ),
        family(
            "os_fd_limit",
            G,
            "Most file descriptors that may be open.",
            Process(|p| p.fds_max.map(|count| count as f64)),
        ),
        family(
            "os_fd_used",
            G,
            "Open file descriptors.",
            Process(|p| p.fds_open.map(|count| count as f64)),
        ),
        family(
            "process_cpu_seconds_total",
            C,
            "CPU time in user and kernel mode.",
            Process(|p| p.cpu_seconds),
        ),
        family(
            "process_max_fds",
            G,
            "Most file descriptors that may be open.",
            Process(|p| p.fds_max.map(|count| count as f64)),
        ),
        family(
            "process_open_fds",
            G,
            "Open file descriptors.",
            Process(|p| p.fds_open.map(|count| count as f64)),
        ),
        family(
            "process_resident_memory_bytes",
            G,
            "Resident memory.",
            Process(|p| p.resident_bytes.map(|bytes| bytes as f64)),
        ),
        family(
            "process_start_time_seconds",
            G,
            "Unix time of the process's start.",
            Process(|p| p.start_seconds),
        ),
        family(
            "process_virtual_memory_bytes",
            G,
            "Address space.",
            Process(|p| p.virtual_bytes.map(|bytes| bytes as f64)),
        ),
    ]
};

/// The names of all metrics, in the order of the page.
pub fn metric_names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.name)
}
