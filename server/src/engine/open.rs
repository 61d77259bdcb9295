//! From a data directory to a serving engine: replay, election, and the first entries.
//!
//! Until a snapshot file exists the log is the database, so replay applies every entry of the lane. A
//! crash during any of this leaves the lane as it was, or with entries that the next start replays.

use keelson_consensus::durable::Replay;
use keelson_consensus::{Entry, Node};
use keelson_storage::ids::{LaneId, RaftIndex};
use keelson_storage::io::Disk;
use keelson_storage::recovery::RecoveryReport;
use keelson_storage::state::{ClusterInit, Member, MemberPublish, Request, State};
use keelson_storage::wal::{RecordKind, Wal, WalConfig, WalRecord};

use super::apply::replay_entry;
use super::auto_compact::AutoCompact;
use super::lease_clock::LeaseClock;
use super::shard::{Durations, Engine, EngineConfig, EngineError, EngineFacts, Port};
use crate::runtime::Clock;

impl<D: Disk> Engine<D> {
    /// Opens the lane, replays it, wins the election of the one-member group and makes sure that the log
    /// knows the cluster and this member as `member` describes it. Blocks on the disk: for start-up only.
    pub fn open(
        disk: D,
        wal_config: WalConfig,
        config: EngineConfig,
        member: Member,
        clock: &impl Clock,
    ) -> Result<(Self, RecoveryReport), EngineError> {
        let mut replayed = Replayed::default();
        let (wal, report) = Wal::open(disk, LaneId(0), wal_config, |_, record| {
            replayed.on_record(record);
        })?;
        let Replayed {
            replay,
            state,
            error,
        } = replayed;
        let config = config.with_identity_of(&state);
        if let Some(error) = error {
            return Err(error);
        }
        let (hard_state, last) = replay.finish();
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

/// What the lane's records add up to.
struct Replayed {
    replay: Replay,
    state: State,
    /// The first record that made no sense; nothing after it is applied.
    error: Option<EngineError>,
}

impl Default for Replayed {
    fn default() -> Self {
        Self {
            replay: Replay::default(),
            state: State::new(),
            error: None,
        }
    }
}

impl Replayed {
    fn on_record(&mut self, record: WalRecord) {
        if self.error.is_none() {
            self.error = self.apply(record).err();
        }
    }

    fn apply(&mut self, record: WalRecord) -> Result<(), EngineError> {
        match record.kind {
            RecordKind::HardState => self.replay.on_hard_state(record.payload)?,
            RecordKind::Entry => {
                let entry: Entry =
                    self.replay
                        .on_entry(record.term, record.index, record.payload)?;
                assert!(
                    entry.index > RaftIndex(0),
                    "replay yields entries from index 1 on"
                );
                replay_entry(&mut self.state, &entry, &mut EngineFacts::default())?;
            }
        }
        Ok(())
    }
}
