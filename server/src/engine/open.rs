//! From a data directory to a serving engine: replay, election, and the first entries.
//!
//! The state is that of the newest snapshot and of the entries of the log behind it. A crash during any
//! of this leaves both as they were, or a log with more entries for the next start. Snapshot files that do
//! not count go when the replay has succeeded: until then one of them may be all there is ([`LostState`]).

use std::sync::Arc;

use keelson_consensus::Node;
use keelson_consensus::durable::Replay;
use keelson_consensus::node::HardState;
use keelson_storage::ids::{LaneId, Lsn};
use keelson_storage::io::Disk;
use keelson_storage::mvcc::Record;
use keelson_storage::recovery::RecoveryReport;
use keelson_storage::snapshot::{SnapshotError, SnapshotStore};
use keelson_storage::state::{ClusterInit, Member, MemberPublish, Request, State};
use keelson_storage::wal::{RecordKind, Wal, WalConfig, WalRecord};

use super::apply::replay_entry;
use super::auto_compact::AutoCompact;
use super::checkpoint::Checkpoints;
use super::lease_clock::LeaseClock;
use super::lost::LostState;
use super::shard::{Durations, Engine, EngineConfig, EngineError, EngineFacts, Port};
use crate::runtime::Clock;

/// The directories of a member.
#[derive(Debug)]
pub struct Disks<D> {
    /// The WAL lane.
    pub lane: D,
    /// The snapshot files of the shard.
    pub snapshots: D,
}

impl<D: Disk> Engine<D> {
    /// Opens the snapshot, replays the lane behind it, wins the election of the one-member group and makes sure that the log
    /// knows the cluster and this member as `member` describes it. Blocks on the disk: for start-up only.
    pub fn open(
        disks: Disks<D>,
        wal_config: WalConfig,
        config: EngineConfig,
        member: Member,
        clock: &impl Clock,
    ) -> Result<(Self, RecoveryReport), EngineError> {
        let snapshots = SnapshotStore::open(disks.snapshots, config.snapshots)?;
        let mut replayed = Replayed::new(snapshots);
        let (wal, report) = Wal::open(disks.lane, LaneId(0), wal_config, |lsn, record| {
            replayed.on_record(lsn, record);
        })?;
        let Replayed {
            replay,
            state,
            mut snapshots,
            applied_lsn,
            error,
        } = replayed;
        let config = config.with_identity_of(&state);
        let unfinished = snapshots.unfinished();
        if let Some(error) = error {
            return Err(LostState::explain(error, unfinished));
        }
        LostState::check_empty(&replay, report.first_lsn, unfinished)?;
        let (hard_state, last) = replay.finish()?;
        snapshots.remove_leftovers();
        let now_us = clock.now_us();
        let mut engine = Self {
            node: Node::restore(config.member, hard_state, last),
            lease_clock: LeaseClock::resume(state.applied().lease_time, now_us),
            keep_alives: Default::default(),
            auto_compact: AutoCompact::new(config.auto_compact, now_us),
            ports: (0..config.cores).map(|_| Port::default()).collect(),
            scrub_pending: state.compact_revision() > state.scrubbed_revision(),
            now_us,
            config,
            state,
            wal,
            snapshots,
            checkpoints: Checkpoints::new(now_us),
            logged: Default::default(),
            applying: None,
            held_reads: Default::default(),
            applied_lsn,
            loads: Vec::new(),
            reads_seen: 0,
            warming: None,
            warming_slices: Vec::new(),
            queue: Default::default(),
            queued_bytes: 0,
            persisting: Default::default(),
            proposed: Default::default(),
            awaiting_scrub: Vec::new(),
            selects: Default::default(),
            hashes: Default::default(),
            catch_ups: Default::default(),
            nospace_proposed: false,
            stopping: false,
            facts: EngineFacts::default(),
            durations: Durations::default(),
        };
        engine.take_office(member, clock)?;
        Ok((engine, report))
    }

    /// Campaigns and writes down who is who.
    fn take_office(&mut self, me: Member, clock: &impl Clock) -> Result<(), EngineError> {
        self.node.campaign()?;
        match self.state.cluster().members.get(&self.config.member) {
            None => self.queue_own(Request::ClusterInit(ClusterInit {
                cluster_id: self.config.cluster.0,
                members: vec![me],
            })),
            Some(known) if known.name != me.name || known.client_urls != me.client_urls => {
                self.queue_own(Request::MemberPublish(MemberPublish {
                    member_id: self.config.member.0,
                    name: me.name,
                    client_urls: me.client_urls,
                }));
            }
            Some(_) => {}
        }
        self.seal()?;
        let through = self.wal.flush_blocking()?;
        self.on_durable(through);
        self.apply_committed(clock)
    }
}

impl EngineConfig {
    /// A directory that holds a member keeps its identity, whatever the flags that found clusters say
    /// now; so does etcd.
    fn with_identity_of(mut self, state: &State) -> Self {
        let cluster = state.cluster();
        if let Some(found) = cluster.members.keys().next() {
            self.member = *found;
            self.cluster = cluster.cluster_id;
        }
        self
    }
}

/// What the snapshot and the lane's records add up to.
struct Replayed<D: Disk> {
    replay: Replay,
    state: State,
    snapshots: SnapshotStore<D>,
    /// The last record of an entry.
    applied_lsn: Lsn,
    /// The first record that made no sense; nothing after it is applied.
    error: Option<EngineError>,
}

impl<D: Disk> Replayed<D> {
    fn new(snapshots: SnapshotStore<D>) -> Self {
        let (replay, state) = match snapshots.current() {
            None => (Replay::default(), State::new()),
            Some(snapshot) => {
                let meta = snapshot.meta();
                let hard_state = HardState {
                    term: meta.hard_state.term,
                    vote: meta.hard_state.vote,
                };
                (
                    Replay::after_snapshot(hard_state, meta.applied.index),
                    State::from_snapshot(Arc::clone(snapshot)),
                )
            }
        };
        Self {
            replay,
            state,
            snapshots,
            applied_lsn: Lsn(0),
            error: None,
        }
    }

    fn on_record(&mut self, lsn: Lsn, record: WalRecord) {
        if self.error.is_none() {
            self.error = self.apply(lsn, record).err();
        }
    }

    fn apply(&mut self, lsn: Lsn, record: WalRecord) -> Result<(), EngineError> {
        match record.kind {
            RecordKind::HardState => self.replay.on_hard_state(record.payload)?,
            RecordKind::Entry => {
                let entry = self
                    .replay
                    .on_entry(record.term, record.index, record.payload)?;
                self.applied_lsn = lsn;
                if let Some(entry) = entry {
                    let snapshots = &mut self.snapshots;
                    replay_entry(&mut self.state, &entry, |record| load(snapshots, record))?;
                }
            }
        }
        Ok(())
    }
}

/// The whole of a cold record. Blocks.
fn load<D: Disk>(
    snapshots: &mut SnapshotStore<D>,
    record: Arc<Record>,
) -> Result<Arc<Record>, SnapshotError> {
    let Some(place) = record.place() else {
        return Ok(record);
    };
    loop {
        if let Some(value) = snapshots.cached(place) {
            return Ok(Arc::new(record.with_value(&value)));
        }
        if let Some(error) = snapshots.failed(place) {
            return Err(error.clone());
        }
        snapshots.want(place);
        snapshots.wait()?;
    }
}
