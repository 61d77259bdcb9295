//! The engine's figures, carried into its core's metrics after each turn.
//!
//! The engine counts in plain numbers; counters in the metrics grow by the difference. Only the engine's
//! core calls this, so every cell keeps one writer.

use std::time::{Duration, SystemTime};

use keelson_proto::etcdserverpb::AlarmType;
use keelson_storage::io::Disk;
use keelson_storage::snapshot::StoreCounters;
use keelson_storage::state::CommandKind;
use keelson_storage::wal::WalCounters;

use super::shard::{Durations, Engine, EngineFacts};
use crate::observe::{ApplyOp, CoreMetrics};

/// What was carried over last.
#[derive(Debug)]
pub struct Reporter {
    facts: EngineFacts,
    wal: WalCounters,
    snapshots: StoreCounters,
    compacted_versions: u64,
    latencies_us: Vec<u32>,
    durations: Durations,
    /// Entries that take longer than this to apply are counted as slow.
    slow_apply_us: u64,
    /// Whether this member led.
    led: bool,
    /// Whether a snapshot was on its way.
    had_transfers: bool,
}

impl Reporter {
    /// A reporter that has carried nothing over yet.
    #[must_use]
    pub fn new(slow_apply: Duration) -> Self {
        Self {
            facts: EngineFacts::default(),
            wal: WalCounters::default(),
            snapshots: StoreCounters::default(),
            compacted_versions: 0,
            latencies_us: Vec::new(),
            durations: Durations::default(),
            slow_apply_us: slow_apply.as_micros() as u64,
            led: false,
            had_transfers: false,
        }
    }

    /// Carries over what changed since the last call.
    pub fn report<D: Disk>(&mut self, engine: &mut Engine<D>, metrics: &CoreMetrics) {
        self.report_wal(engine, metrics);
        self.report_snapshots(engine, metrics);
        self.report_durations(engine, metrics);
        self.report_counters(engine.facts(), metrics);
        self.report_transfers(engine, metrics);
        report_gauges(engine, metrics);
        let leads = engine.node().is_leader();
        if leads && !self.led {
            metrics.server.leader_changes.increment();
        }
        self.led = leads;
        self.facts = engine.facts().clone();
    }

    fn report_wal<D: Disk>(&mut self, engine: &mut Engine<D>, metrics: &CoreMetrics) {
        self.latencies_us.clear();
        engine.take_wal_latencies_us(&mut self.latencies_us);
        for latency_us in &self.latencies_us {
            let took = Duration::from_micros(u64::from(*latency_us));
            metrics.disk.wal_fsync.observe_duration(took);
            metrics.disk.wal_flush.observe_duration(took);
        }
        let counters = engine.wal().counters();
        let disk = &metrics.disk;
        disk.wal_write_bytes.set(counters.bytes_written);
        disk.wal_groups.add(counters.groups - self.wal.groups);
        disk.wal_entries.add(counters.records - self.wal.records);
        let recycled = counters.segments_recycled - self.wal.segments_recycled;
        disk.wal_segments_recycled.add(recycled);
        disk.wal_groups_in_flight
            .set(engine.wal().in_flight() as u64);
        self.wal = counters.clone();
    }

    fn report_snapshots<D: Disk>(&mut self, engine: &Engine<D>, metrics: &CoreMetrics) {
        let (now, last) = (engine.snapshots().counters(), &self.snapshots);
        let snapshots = &metrics.snapshots;
        let written = now.bytes_written - last.bytes_written;
        snapshots.checkpoint_bytes.add(written);
        let hits = now.values.hits - last.values.hits;
        snapshots.value_cache_hits.add(hits);
        let read = now.values.blocks_read - last.values.blocks_read;
        let failed = now.values.blocks_failed - last.values.blocks_failed;
        snapshots.value_cache_misses.add(read + failed);
        snapshots.value_cache_bytes.set(now.cache_bytes);
        snapshots.file_bytes.set(engine.snapshots().file_bytes());
        let memory = engine.state().memory_bytes();
        snapshots.memory_versions_bytes.set(memory.versions());
        snapshots.memory_index_bytes.set(memory.index);
        self.snapshots = now;
        let compacted = engine.state().scrubbed_versions();
        // It begins anew with another member's snapshot.
        let found = compacted.saturating_sub(self.compacted_versions);
        metrics.mvcc.compacted_versions.add(found);
        self.compacted_versions = compacted;
    }

    fn report_durations<D: Disk>(&mut self, engine: &mut Engine<D>, metrics: &CoreMetrics) {
        engine.take_durations(&mut self.durations);
        for (kind, succeeded, took_us) in self.durations.commands.drain(..) {
            metrics.applied(op_of(kind), succeeded, Duration::from_micros(took_us));
        }
        for took_us in self.durations.entries.drain(..) {
            let took = Duration::from_micros(took_us);
            metrics.disk.backend_commit.observe_duration(took);
            if took_us > self.slow_apply_us {
                metrics.server.slow_applies.increment();
            }
        }
        for took_us in self.durations.checkpoints.drain(..) {
            let took = Duration::from_micros(took_us);
            metrics.snapshots.checkpoint.observe_duration(took);
            metrics.snapshots.save.observe_duration(took);
        }
        let mvcc = &metrics.mvcc;
        for took_us in self.durations.scrub_slices.drain(..) {
            let took = Duration::from_micros(took_us);
            mvcc.compaction_slice.observe_duration(took);
        }
        for took_us in self.durations.compactions.drain(..) {
            let took = Duration::from_micros(took_us);
            mvcc.compaction.observe_duration(took);
            mvcc.compacted_at_seconds.set(unix_seconds());
        }
        for end in self.durations.transfers.drain(..) {
            let cells = match end.is_received {
                true => metrics.transfers.received_from(end.member),
                false => metrics.transfers.sent_to(end.member),
            };
            if let Some(cells) = cells {
                cells.ended(end.arrived, Duration::from_micros(end.took_us));
            }
        }
    }

    /// Snapshots on their way. Looked at only where one is, or was when this was last called.
    fn report_transfers<D: Disk>(&mut self, engine: &Engine<D>, metrics: &CoreMetrics) {
        let transfers = &metrics.transfers;
        let sender = engine.snapshot_sender();
        let is_under_way = sender.is_some() || engine.snapshots_in_sending() > 0;
        if !is_under_way && !self.had_transfers {
            return;
        }
        self.had_transfers = is_under_way;
        transfers.clear_inflights();
        let sent = engine.snapshot_receivers();
        let sent = sent.filter_map(|member| transfers.sent_to(member));
        let received = sender.and_then(|member| transfers.received_from(member));
        sent.chain(received)
            .for_each(|cells| cells.inflights.set(1));
    }

    fn report_counters(&self, now: &EngineFacts, metrics: &CoreMetrics) {
        let last = &self.facts;
        let (mvcc, lease, server) = (&metrics.mvcc, &metrics.lease, &metrics.server);
        mvcc.puts.add(now.puts - last.puts);
        mvcc.deletes.add(now.deletes - last.deletes);
        mvcc.txns.add(now.txns - last.txns);
        mvcc.ranges.add(now.ranges - last.ranges);
        mvcc.put_bytes.set(now.put_bytes);
        lease.granted.add(now.leases_granted - last.leases_granted);
        lease.renewed.add(now.leases_renewed - last.leases_renewed);
        lease.revoked.add(now.leases_revoked - last.leases_revoked);
        let expired = now.leases_expired - last.leases_expired;
        server.leases_expired.add(expired);
        let failed = now.proposals_failed - last.proposals_failed;
        server.proposals_failed.add(failed);
        let commands = now.commands_applied - last.commands_applied;
        metrics.disk.wal_commands.add(commands);
        let snapshots = &metrics.snapshots;
        let checkpoints = now.checkpoints - last.checkpoints;
        snapshots.checkpoints.add(checkpoints);
        let failed = now.checkpoints_failed - last.checkpoints_failed;
        snapshots.checkpoints_failed.add(failed);
    }
}

fn unix_seconds() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.map_or(0, |since_epoch| since_epoch.as_secs())
}

fn op_of(kind: CommandKind) -> ApplyOp {
    match kind {
        CommandKind::Put => ApplyOp::Put,
        CommandKind::DeleteRange => ApplyOp::DeleteRange,
        CommandKind::Txn => ApplyOp::Txn,
        CommandKind::Compact => ApplyOp::Compaction,
        CommandKind::LeaseGrant => ApplyOp::LeaseGrant,
        CommandKind::LeaseRevoke | CommandKind::LeaseExpire => ApplyOp::LeaseRevoke,
        CommandKind::LeaseRenew | CommandKind::LeaseRenewMany => ApplyOp::LeaseRenew,
        CommandKind::Alarm => ApplyOp::Alarm,
        CommandKind::Tick
        | CommandKind::ClusterInit
        | CommandKind::MemberPublish
        | CommandKind::MemberAdd
        | CommandKind::MemberRemove
        | CommandKind::MemberUpdate
        | CommandKind::MemberPromote => ApplyOp::Cluster,
    }
}

fn report_gauges<D: Disk>(engine: &Engine<D>, metrics: &CoreMetrics) {
    let (state, node) = (engine.state(), engine.node());
    let server = &metrics.server;
    server.has_leader.set(u64::from(node.leader().is_some()));
    server.is_leader.set(u64::from(node.is_leader()));
    server.is_learner.set(u64::from(engine.is_learner()));
    server.proposals_committed.set(node.committed().0);
    server.proposals_applied.set(state.applied().index.0);
    server.proposals_pending.set(engine.pending_count() as u64);
    let raised = |kind: AlarmType| {
        let alarms = state.alarms();
        u64::from(alarms.iter().any(|alarm| alarm.alarm == kind as i32))
    };
    server.alarm_nospace.set(raised(AlarmType::Nospace));
    let me = engine.identity().0;
    server.disk_full.set(u64::from(engine.lacks_room(me)));
    server.alarm_corrupt.set(raised(AlarmType::Corrupt));
    let mvcc = &metrics.mvcc;
    mvcc.open_reads.set(engine.open_reads_count() as u64);
    mvcc.db_total_bytes.set(engine.db_bytes());
    mvcc.db_in_use_bytes.set(engine.db_in_use_bytes());
    mvcc.keys.set(state.key_count());
    mvcc.current_revision.set(state.revision().0 as u64);
    mvcc.compact_revision
        .set(state.compact_revision().0.max(0) as u64);
}
