//! From a data directory to a serving engine: replay, election, and the first entries.
//!
//! The state is that of the newest snapshot and of the entries of the log behind it. A crash during any
//! of this leaves both as they were, or a log with more entries for the next start. Snapshot files that do
//! not count go when the replay has succeeded: until then one of them may be all there is ([`LostState`]).

use std::collections::VecDeque;
use std::sync::Arc;

use keelson_consensus::Node;
use keelson_consensus::durable::{Replay, ReplayError, ReplayedLog, encode_hard_state};
use keelson_consensus::node::{Membership, NodeConfig, Restored};
use keelson_storage::bugs::{self, Bug};
use keelson_storage::dir::MAIN_SHARD_ID;
use keelson_storage::ids::{ClusterId, LaneId, Lsn, MemberId, RaftIndex};
use keelson_storage::io::Disk;
use keelson_storage::mvcc::Record;
use keelson_storage::recovery::RecoveryReport;
use keelson_storage::snapshot::{SnapshotError, SnapshotStore};
use keelson_storage::state::{Cluster, Member, State};
use keelson_storage::wal::{RecordKind, WalConfig, WalRecord};

use super::apply::replay_committed;
use super::auto_compact::AutoCompact;
use super::checkpoint::Checkpoints;
use super::compare::Comparing;
use super::forward::Forwarding;
use super::group::Group;
use super::lane::{Lane, Need};
use super::late::Leaders;
use super::lease_clock::LeaseClock;
use super::limits::INITIAL_TICKS_LEFT;
use super::lost::LostState;
use super::newcomer::Newcomer;
use super::offline;
use super::read_log::open_beside;
use super::rejoin::Rejoin;
use super::sending::{Sending, snapshot_mark};
use super::shard::{Durations, Engine, EngineConfig, EngineError, EngineFacts, Port};
use super::shards::Shards;
use crate::runtime::Clock;

/// The directories of a member with one shard.
#[derive(Debug)]
pub struct Disks<D> {
    /// The WAL lane.
    pub lane: D,
    /// The snapshot files of the shard.
    pub snapshots: D,
}

/// A shard that is to be opened.
#[derive(Debug)]
pub struct ShardSeat<S> {
    /// Its snapshot files.
    pub snapshots: S,
    /// Its engine's configuration.
    pub config: EngineConfig,
    /// This member as the shard is to know it.
    pub member: Member,
    /// What is known of it before the lane is read.
    pub past: ShardPast,
}

/// What the data directory says about a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardPast {
    /// Nothing: it is, or was until now, the only one of its lane.
    Alone,
    /// It was never there.
    New,
    /// It was there, so it has a snapshot or a record in the lane.
    Known,
}

impl<S> ShardSeat<S> {
    /// Who this member is, and who belongs to its cluster, is as `main` knows it. A shard that is new founds its group with
    /// `main`'s members; one that holds nothing yet of a group that others founded learns from them.
    pub fn take_after<D: Disk>(&mut self, main: &Engine<D>) {
        (self.config.member, self.config.cluster) = main.identity();
        self.member.id = self.config.member.0;
        self.config.group.is_identity_certain = true;
        let known = &main.state.cluster().members;
        if known.is_empty() {
            return;
        }
        let of_main: Vec<Member> = known.values().cloned().collect();
        let group = &mut self.config.group;
        if self.past == ShardPast::New || !group.founding.is_empty() {
            let unserved = of_main.into_iter().map(|member| Member {
                client_urls: Vec::new(),
                ..member
            });
            group.founding = unserved.collect();
        } else {
            group.peers = of_main;
        }
    }
}

/// Reads a lane once, opens the engines of the shards that it belongs to, and has each that alone decides elected. Blocks on
/// the disk: for start-up only. The first shard's state says whose data it is, if the configurations do not know for
/// certain.
///
/// # Errors
/// The lane or a snapshot cannot be used, or they do not belong together.
pub fn open_lane<D: Disk + Send>(
    (lane, disk): (LaneId, D),
    wal_config: WalConfig,
    seats: Vec<ShardSeat<D>>,
    clock: &impl Clock,
) -> Result<(Shards<D>, RecoveryReport), EngineError> {
    let mut replays = Vec::with_capacity(seats.len());
    for ShardSeat {
        snapshots,
        config,
        member,
        past,
    } in seats
    {
        let snapshots = SnapshotStore::open(snapshots, config.snapshots)?;
        let replayed = Replayed::new(snapshots, &config);
        let seat = ShardSeat {
            snapshots: (),
            config,
            member,
            past,
        };
        replays.push((replayed, seat));
    }
    let mut stranger = None;
    let (wal, report) = open_beside((lane, disk), wal_config, |lsn, record| {
        let mut replays = replays.iter_mut();
        match replays.find(|(_, seat)| seat.config.shard == record.shard) {
            Some((replayed, _)) => replayed.on_record(lsn, record),
            None => stranger = Some(record.shard),
        }
    })?;
    if let Some(shard) = stranger {
        return Err(EngineError::StrangeShard { lane, shard });
    }
    let needs = replays.iter().map(|(replayed, _)| Need {
        covered: Lsn(0),
        last: replayed.last_lsn,
    });
    let is_shared = replays.len() > 1;
    let ends = Lane::ends(wal, needs.collect());
    let mut engines: Vec<Engine<D>> = Vec::with_capacity(replays.len());
    let mut new = Vec::new();
    for ((mut replayed, mut seat), end) in replays.into_iter().zip(ends) {
        replayed.check_start(seat.past, report.first_lsn)?;
        if is_shared && replayed.last_lsn == Lsn(0) {
            new.push(engines.len());
        }
        if let Some(main) = engines
            .first()
            .filter(|first| first.shard() == MAIN_SHARD_ID)
        {
            seat.take_after(main);
        }
        engines.push(Engine::assemble(replayed, end, seat, clock.now_us())?);
    }
    let mut shards = Shards::of(engines);
    for place in &new {
        shards.engine(*place).write_first_record()?;
    }
    for place in 0..shards.count() {
        shards.engine(place).start_alone(clock)?;
    }
    if !new.is_empty() {
        shards.engine(0).close()?;
    }
    Ok((shards, report))
}

impl<D: Disk> Engine<D> {
    /// Opens the only shard of a lane.
    ///
    /// # Errors
    /// See [`open_lane`].
    pub fn open(
        disks: Disks<D>,
        wal_config: WalConfig,
        config: EngineConfig,
        member: Member,
        clock: &impl Clock,
    ) -> Result<(Self, RecoveryReport), EngineError>
    where
        D: Send,
    {
        let seat = ShardSeat {
            snapshots: disks.snapshots,
            config,
            member,
            past: ShardPast::Alone,
        };
        let lane = (LaneId(0), disks.lane);
        let (shards, report) = open_lane(lane, wal_config, vec![seat], clock)?;
        Ok((shards.into_only(), report))
    }

    /// An engine over what the replay found.
    fn assemble(
        replayed: Replayed<D>,
        wal: Lane<D>,
        seat: ShardSeat<()>,
        now_us: u64,
    ) -> Result<Self, EngineError> {
        let Replayed {
            replay,
            state,
            mut snapshots,
            applied_lsn,
            ..
        } = replayed;
        let config = seat.config.with_identity_of(&state);
        let explain = |error: ReplayError| LostState::explain(error.into(), snapshots.unfinished());
        let log = replay.finish().map_err(explain)?;
        snapshots.remove_leftovers();
        let mut engine = Self {
            node: restore_node(&config, &state, log),
            lease_clock: LeaseClock::resume(state.applied().lease_time, now_us),
            keep_alives: Default::default(),
            group: Group::new(seat.member, config.group.tick_us, now_us),
            forwarding: Forwarding::new(config.seed),
            leaders: Leaders::default(),
            spread: Default::default(),
            leader_moves: Vec::new(),
            quorum_reads: Default::default(),
            auto_compact: AutoCompact::new(config.auto_compact, now_us),
            ports: (0..config.cores).map(|_| Port::default()).collect(),
            scrub_pending: state.compact_revision() > state.scrubbed_revision(),
            scrub_at_us: 0,
            compacting_since_us: None,
            now_us,
            state,
            wal,
            sending: Sending::new(config.seed),
            receiving: None,
            rejoin: (config.group.rejoins).then(|| Rejoin::new(config.seed, now_us)),
            has_rejoined: false,
            newcomer: Newcomer::default(),
            room: Default::default(),
            mend_at_us: None,
            comparing: Comparing::new(config.compare, config.seed, now_us),
            snapshots,
            checkpoints: Checkpoints::new(now_us),
            logged: replayed.logged,
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
            config,
        };
        engine.review_alarms();
        Ok(engine)
    }

    /// Whether it knows its group from the start, and need not learn of it from others.
    #[must_use]
    pub fn founds(&self) -> bool {
        !self.config.group.founding.is_empty()
    }

    /// Whether it must be told who belongs to its cluster: it joined one, and was stopped before it heard of the
    /// foundation.
    #[must_use]
    pub fn knows_nobody(&self) -> bool {
        self.known_members().is_empty()
    }

    /// Who belongs to the cluster that it joins, as one of them told.
    pub fn learn_peers(&mut self, peers: Vec<Member>) {
        self.config.group.peers = peers;
    }

    /// A shard of several that has no record in the lane yet gets one: a hard state that says nothing. By it a later
    /// start sees that nothing was lost.
    pub(super) fn write_first_record(&mut self) -> Result<Lsn, EngineError> {
        let state = self.node.hard_state();
        let payload = encode_hard_state(state);
        self.append(RecordKind::HardState, state.term, RaftIndex(0), &payload)
    }

    /// A member that alone decides is in office when it serves, and the log knows who is who.
    fn start_alone(&mut self, clock: &impl Clock) -> Result<(), EngineError> {
        self.review_membership();
        if !self.is_alone() {
            self.skip_ticks();
            return Ok(());
        }
        self.node.campaign();
        // The entry that opens the term, then those that found the cluster or describe this member.
        for _ in 0..2 {
            self.advance_group();
            self.seal()?;
            let through = self.wal.flush_blocking()?;
            self.on_durable(through);
            self.apply_committed(clock)?;
        }
        Ok(())
    }

    /// A start counts as silence of a leader for nearly as long as an election takes: if there is one, it speaks within a
    /// tick. Not with leases, which count the time that this member has really run.
    fn skip_ticks(&mut self) {
        let group = &self.config.group;
        if group.advances_ticks && !group.lease_reads {
            for _ in 0..group.election_ticks.saturating_sub(INITIAL_TICKS_LEFT) {
                self.node.tick();
            }
        }
    }
}

impl EngineConfig {
    /// A directory that holds a member keeps its identity, whatever the flags that found clusters say
    /// now; so does etcd.
    fn with_identity_of(mut self, state: &State) -> Self {
        let cluster = state.cluster();
        if cluster.cluster_id == ClusterId(0) {
            return self;
        }
        self.cluster = cluster.cluster_id;
        let is_certain = self.group.is_identity_certain;
        if let (false, 1, Some(only)) = (
            is_certain,
            cluster.members.len(),
            cluster.members.keys().next(),
        ) {
            self.member = *only;
        }
        self
    }
}

/// What the snapshot and the lane's records add up to.
struct Replayed<D: Disk> {
    replay: Replay,
    state: State,
    snapshots: SnapshotStore<D>,
    /// The record of the last entry that was applied.
    applied_lsn: Lsn,
    /// Entries that are not known to be committed, each with its record's number.
    logged: VecDeque<(RaftIndex, Lsn)>,
    /// The last record of this shard.
    last_lsn: Lsn,
    /// This member, if that is certain, and how many found the cluster.
    me: Option<MemberId>,
    founders: usize,
    /// The first record that made no sense; nothing after it is applied.
    error: Option<EngineError>,
}

impl<D: Disk> Replayed<D> {
    fn new(snapshots: SnapshotStore<D>, config: &EngineConfig) -> Self {
        let (mut replay, state) = match snapshots.current() {
            None => (Replay::default(), State::new()),
            Some(snapshot) => (
                offline::replay_behind(Some(snapshot)),
                State::from_snapshot(Arc::clone(snapshot)),
            ),
        };
        // Other members may need what this one has applied. Who did not found the cluster has joined others.
        if config.group.founding.len() != 1 || state.cluster().members.len() > 1 {
            replay = replay.keeping(node_config(config).keep);
        }
        Self {
            replay,
            state,
            snapshots,
            applied_lsn: Lsn(0),
            logged: VecDeque::new(),
            last_lsn: Lsn(0),
            me: config.group.is_identity_certain.then_some(config.member),
            founders: config.group.founding.len(),
            error: None,
        }
    }

    /// Whether what was read is all there was.
    fn check_start(&mut self, past: ShardPast, first_lsn: Lsn) -> Result<(), EngineError> {
        let unfinished = self.snapshots.unfinished();
        if let Some(error) = self.error.take() {
            return Err(LostState::explain(error, unfinished));
        }
        let is_begun = match past {
            ShardPast::Alone => first_lsn > Lsn(1),
            ShardPast::New => false,
            ShardPast::Known => self.last_lsn == Lsn(0),
        };
        let is_whole = first_lsn == Lsn(1);
        let past = (is_begun, is_whole);
        Ok(LostState::check_empty(&self.replay, past, unfinished)?)
    }

    fn on_record(&mut self, lsn: Lsn, record: WalRecord) {
        self.last_lsn = lsn;
        if self.error.is_none() {
            self.error = self.apply(lsn, record).err();
        }
    }

    fn apply(&mut self, lsn: Lsn, record: WalRecord) -> Result<(), EngineError> {
        if matches!(record.kind, RecordKind::Entry | RecordKind::Membership) {
            self.logged.push_back((record.index, lsn));
        }
        self.replay.on_record(record)?;
        let snapshots = &mut self.snapshots;
        let (me, founders) = (self.me, self.founders);
        let decides_alone = |state: &State| decides_alone(state, me, founders);
        let (replay, state) = (&mut self.replay, &mut self.state);
        replay_committed(replay, state, decides_alone, |record| {
            load(snapshots, record)
        })?;
        let applied = self.state.applied().index;
        while let Some((index, lsn)) = self.logged.front().copied()
            && index <= applied
        {
            self.applied_lsn = lsn;
            self.logged.pop_front();
        }
        Ok(())
    }
}

/// Whether nobody else has a say in what is committed, as the state has it that was reached: before the cluster is
/// founded it is its founders who decide.
fn decides_alone(state: &State, me: Option<MemberId>, founders: usize) -> bool {
    let mut voters = state.cluster().voters();
    match (voters.next(), voters.next()) {
        (None, _) => founders <= 1,
        (Some(only), None) => me.is_none_or(|me| me.0 == only.id),
        (Some(_), Some(_)) => false,
    }
}

/// The group as the log left it.
fn restore_node(config: &EngineConfig, state: &State, log: ReplayedLog) -> Node {
    let membership = if config.group.forces_new_cluster {
        Membership::of_voters([config.member])
    } else {
        membership(state, &config.group.founding)
    };
    let restored = Restored {
        hard_state: log.hard_state,
        start: log.start,
        entries: log.entries,
        applied: log.applied,
        membership,
        snapshot: state.snapshot().and_then(|file| snapshot_mark(file)),
    };
    Node::restore(node_config(config), restored)
}

fn node_config(config: &EngineConfig) -> NodeConfig {
    let mut node_config = NodeConfig::new(config.member, config.seed);
    node_config.election_ticks = config.group.election_ticks;
    node_config.lease_reads = config.group.lease_reads;
    node_config.keep.entries = config.group.log_keep_entries;
    node_config
}

/// Who belongs to the group: before the entry that founds the cluster, the founding members.
fn membership(state: &State, founding: &[Member]) -> Membership {
    let forgets = bugs::is_on(Bug::ForgetMembershipChange) && !founding.is_empty();
    let known = membership_of(state.cluster()).filter(|_| !forgets);
    known.unwrap_or_else(|| group_of(founding.iter()))
}

/// Who belongs to the group of a cluster that was founded.
pub(super) fn membership_of(cluster: &Cluster) -> Option<Membership> {
    let known = &cluster.members;
    (!known.is_empty()).then(|| group_of(known.values()))
}

fn group_of<'m>(members: impl Iterator<Item = &'m Member>) -> Membership {
    let mut membership = Membership::default();
    for member in members {
        let ids = match member.is_learner {
            true => &mut membership.learners,
            false => &mut membership.voters,
        };
        ids.insert(MemberId(member.id));
    }
    membership
}

/// The whole of a cold record. Blocks.
fn load<D: Disk>(
    snapshots: &mut SnapshotStore<D>,
    record: Record,
) -> Result<Record, SnapshotError> {
    let Some(place) = record.place() else {
        return Ok(record);
    };
    loop {
        if let Some(value) = snapshots.cached(place) {
            return Ok(record.with_value(&value));
        }
        if let Some(error) = snapshots.failed(place) {
            return Err(error.clone());
        }
        snapshots.want(place);
        snapshots.wait()?;
    }
}
