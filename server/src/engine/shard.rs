//! The engine's state and its turn.

use std::collections::VecDeque;

use bytes::Bytes;
use keelson_consensus::Node;
use keelson_consensus::durable::ReplayError;
use keelson_consensus::limits::LOG_BEHIND_ENTRIES_MAX;
use keelson_consensus::node::NodeError;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::ResponseHeader;
use keelson_storage::ids::{ClusterId, LaneId, Lsn, MemberId, RaftIndex, Revision, ShardId, Term};
use keelson_storage::io::Disk;
use keelson_storage::snapshot::{SnapshotError, SnapshotStore, StoreConfig};
use keelson_storage::state::{CommandError, CommandKind, Member, Request, Response, State};
use keelson_storage::wal::{Wal, WalError};
use thiserror::Error;

use super::apply::Applying;
use super::auto_compact::AutoCompact;
use super::checkpoint::{CheckpointConfig, Checkpoints};
use super::compare::{CompareConfig, Comparing};
use super::forward::Forwarding;
use super::group::Group;
use super::keep_alive::KeepAlives;
use super::lane::Lane;
use super::late::Leaders;
use super::lease_clock::LeaseClock;
use super::lost::LostState;
use super::message::{Answer, Ask, CatchUp, CaughtUp, EventBatch, Inbound, Outbound, Token};
use super::move_leader::LeaderMove;
use super::newcomer::Newcomer;
use super::persist::Persisting;
use super::quorum_reads::QuorumReads;
use super::read::{RunningHash, RunningSelect};
use super::receiving::Receiving;
use super::rejoin::Rejoin;
use super::room::Room;
use super::sending::Sending;
use super::slices::Slices;
use super::spread::Spread;
use super::values::Loading;
use crate::config::AutoCompaction;
use crate::peer::PeerError;
use crate::runtime::Clock;

/// One shard: the keyspace, its log, and everybody who waits for an answer.
pub struct Engine<D: Disk> {
    pub(super) config: EngineConfig,
    pub(super) state: State,
    pub(super) node: Node,
    pub(super) wal: Lane<D>,
    pub(super) snapshots: SnapshotStore<D>,
    pub(super) checkpoints: Checkpoints,
    pub(super) sending: Sending,
    pub(super) receiving: Option<Receiving>,
    /// Set while this member has nothing that counts.
    pub(super) rejoin: Option<Rejoin>,
    pub(super) has_rejoined: bool,
    pub(super) newcomer: Newcomer,
    pub(super) room: Room,
    /// When this member next does something about its damaged snapshot, if it is.
    pub(super) mend_at_us: Option<u64>,
    pub(super) comparing: Comparing,
    pub(super) lease_clock: LeaseClock,
    pub(super) keep_alives: KeepAlives,
    pub(super) group: Group,
    pub(super) forwarding: Forwarding,
    pub(super) leaders: Leaders,
    pub(super) spread: Spread,
    pub(super) leader_moves: Vec<LeaderMove>,
    pub(super) quorum_reads: QuorumReads,
    pub(super) auto_compact: AutoCompact,
    pub(super) now_us: u64,
    pub(super) ports: Vec<Port>,

    /// Admitted commands that wait for the next entry.
    pub(super) queue: VecDeque<Queued>,
    pub(super) queued_bytes: usize,
    /// Records appended to the lane and not yet durable, in lane order.
    pub(super) persisting: VecDeque<(Lsn, Persisting)>,
    /// Commands of proposed entries, in log order.
    pub(super) proposed: VecDeque<Proposed>,
    /// Entries that are durable and not yet applied, each with its record's number.
    pub(super) logged: VecDeque<(RaftIndex, Lsn)>,
    /// The entry some of whose commands are applied: a command waits for a value.
    pub(super) applying: Option<Applying>,
    /// Reads that came meanwhile.
    pub(super) held_reads: VecDeque<(Origin, Ask)>,
    /// The record of the last entry that was applied.
    pub(super) applied_lsn: Lsn,
    pub(super) loads: Vec<Loading>,
    /// Blocks that had arrived when those who wait for values were last looked at.
    pub(super) reads_seen: u64,
    /// The next batch, while values of it are read.
    pub(super) warming: Option<EventBatch>,
    /// Slices of history some of whose values are read, for which core, and what it asked.
    pub(super) warming_slices: Vec<(usize, CatchUp, CaughtUp)>,
    /// Answers held until physical compaction has passed a revision.
    pub(super) awaiting_scrub: Vec<(Revision, Origin, Response)>,
    pub(super) selects: VecDeque<RunningSelect>,
    pub(super) hashes: VecDeque<RunningHash>,
    pub(super) catch_ups: VecDeque<(usize, CatchUp)>,
    pub(super) scrub_pending: bool,
    /// Not before.
    pub(super) scrub_at_us: u64,
    /// When the compaction was applied whose physical part is not done.
    pub(super) compacting_since_us: Option<u64>,
    pub(super) nospace_proposed: bool,
    pub(super) stopping: bool,
    pub(super) facts: EngineFacts,
    pub(super) durations: Durations,
}

/// What the engine must know about the process it runs in.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Which shard this is.
    pub shard: ShardId,
    /// This member, if the data directory does not know better.
    pub member: MemberId,
    /// Its cluster, likewise.
    pub cluster: ClusterId,
    /// Its raft group.
    pub group: GroupConfig,
    /// Everything random comes from it; it differs between members and between starts.
    pub seed: u64,
    /// Size of the database at which NOSPACE is raised; `None` disables the quota.
    pub quota_bytes: Option<u64>,
    /// Automatic compaction.
    pub auto_compact: AutoCompaction,
    /// Groups the lane keeps in flight; while so many are, commands gather for the next entry.
    pub wal_depth: usize,
    /// When checkpoints are made, and how fast.
    pub checkpoint: CheckpointConfig,
    /// When members compare what they hold.
    pub compare: CompareConfig,
    /// What the snapshot files may take of memory and disk at once.
    pub snapshots: StoreConfig,
    /// Bytes for keys, metadata and values in memory.
    pub memory_budget_bytes: u64,
    /// How much it does at a time.
    pub slices: Slices,
    /// Front cores that will ask.
    pub cores: usize,
    /// Version answered by `Status`.
    pub api_version: String,
    /// Storage version answered by `Status`.
    pub storage_version: String,
}

/// How a member takes part in its cluster.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Whether the member's and the cluster's id are certain. If not, the only member of the state is this one.
    pub is_identity_certain: bool,
    /// The founding members, this one among them, all without client URLs: the same on each. Empty for a member
    /// that joins; then it waits for the leader of the cluster.
    pub founding: Vec<Member>,
    /// The members of the cluster that this one joins, as one of them told, until the state knows them.
    pub peers: Vec<Member>,
    /// Time of a tick, which is the interval of heartbeats, in microseconds.
    pub tick_us: u64,
    /// Ticks without a leader before an election.
    pub election_ticks: usize,
    /// Whether a start takes all but one of them as passed, if the member is not alone.
    pub advances_ticks: bool,
    /// Whether a leader answers reads while its lease lasts, without asking the others.
    pub lease_reads: bool,
    /// Whether changes of the membership that put the quorum at risk are refused.
    pub is_strict: bool,
    /// Entries of the log that stay in memory for members that lag.
    pub log_keep_entries: usize,
    /// Whether all other members are dropped at the start.
    pub forces_new_cluster: bool,
    /// Whether this member's data was damaged: its directories are empty, and `peers` are the members of its cluster.
    pub rejoins: bool,
    /// The shard's place among several: it prefers the voter of the same place as its leader.
    pub spread_rank: Option<usize>,
}

impl Default for GroupConfig {
    /// What etcd's defaults are.
    fn default() -> Self {
        Self {
            is_identity_certain: false,
            founding: Vec::new(),
            peers: Vec::new(),
            tick_us: 100_000,
            election_ticks: 10,
            advances_ticks: true,
            lease_reads: false,
            is_strict: true,
            log_keep_entries: LOG_BEHIND_ENTRIES_MAX,
            forces_new_cluster: false,
            rejoins: false,
            spread_rank: None,
        }
    }
}

/// One front core as the engine sees it.
#[derive(Debug, Default)]
pub(super) struct Port {
    /// Replies that wait for a place in the ring. Bounded by the requests a core may have out.
    pub(super) outbox: VecDeque<Outbound>,
    /// Last revision published to this core; `None` while it has no watcher.
    pub(super) published: Option<Revision>,
}

/// Who waits for the answer of a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// A request of a front core.
    Front { port: usize, token: Token },
    /// The engine itself: expiry, ticks, alarms, compaction, bootstrap.
    Engine,
    /// Another member, which answers its client itself.
    Peer(MemberId),
}

/// An admitted command.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) origin: Origin,
    /// Of a command that was forwarded to this member; 0 for its own.
    pub(super) request_id: u64,
    /// When it came.
    pub(super) since_us: u64,
    pub(super) request: Request,
    pub(super) body: Bytes,
}

impl Queued {
    /// One of this member's own.
    pub(super) fn new(origin: Origin, request: Request, body: Bytes, now_us: u64) -> Self {
        Self {
            origin,
            request_id: 0,
            since_us: now_us,
            request,
            body,
        }
    }
}

/// The commands of one proposed entry.
#[derive(Debug)]
pub(super) struct Proposed {
    pub(super) index: RaftIndex,
    pub(super) term: Term,
    pub(super) lease_time: keelson_storage::ids::LeaseTime,
    pub(super) payload_bytes: usize,
    pub(super) commands: Vec<(Origin, Request)>,
}

/// What the driver should do after a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// There is more to do now; run another turn soon.
    pub busy: bool,
    /// Otherwise the latest time for the next turn, in microseconds of the same clock.
    pub wake_at_us: Option<u64>,
}

/// Counters and figures for metrics, owned by the engine's core.
#[derive(Clone, Debug, Default)]
pub struct EngineFacts {
    /// Proposals refused since the start.
    pub proposals_failed: u64,
    /// Puts applied, also inside transactions.
    pub puts: u64,
    /// Delete ranges applied, also inside transactions.
    pub deletes: u64,
    /// Transactions applied.
    pub txns: u64,
    /// Ranges answered.
    pub ranges: u64,
    /// Bytes of keys and values put.
    pub put_bytes: u64,
    /// Leases granted.
    pub leases_granted: u64,
    /// Leases renewed.
    pub leases_renewed: u64,
    /// Leases revoked by clients or expiry.
    pub leases_revoked: u64,
    /// Leases expired.
    pub leases_expired: u64,
    /// Commands applied.
    pub commands_applied: u64,
    /// Checkpoints that became durable.
    pub checkpoints: u64,
    /// Checkpoints that failed.
    pub checkpoints_failed: u64,
    /// Snapshots that arrived at other members.
    pub snapshots_sent: u64,
    /// Snapshots that did not arrive there.
    pub snapshots_unsent: u64,
    /// Snapshots of other members whose state this one took over.
    pub snapshots_received: u64,
    /// Those of them that took the place of a damaged one.
    pub snapshots_mended: u64,
}

/// How long applying took, since it was last drained.
#[derive(Debug, Default)]
pub struct Durations {
    /// Each command: what it was, whether it succeeded, microseconds.
    pub commands: Vec<(CommandKind, bool, u64)>,
    /// Each committed entry, in microseconds.
    pub entries: Vec<u64>,
    /// Each checkpoint, from its beginning until it was durable, in microseconds.
    pub checkpoints: Vec<u64>,
    /// Each slice of a physical compaction, in microseconds.
    pub scrub_slices: Vec<u64>,
    /// Each physical compaction, in microseconds.
    pub compactions: Vec<u64>,
    /// Each snapshot that was sent or received, or should have been.
    pub transfers: Vec<TransferEnd>,
}

/// A snapshot's way between two members has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferEnd {
    /// The other one.
    pub member: MemberId,
    /// Whether it came from there.
    pub is_received: bool,
    /// Whether it arrived.
    pub arrived: bool,
    /// Microseconds since it was offered.
    pub took_us: u64,
}

/// Why the engine stops.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The lane failed; nothing more may be acknowledged.
    #[error("write-ahead log: {0}")]
    Wal(#[from] WalError),
    /// The snapshot failed, or is damaged.
    #[error("snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The lane's records are no log.
    #[error("raft log: {0}")]
    Replay(#[from] ReplayError),
    /// The lane holds records of a shard that is not configured.
    #[error(
        "the log of {lane} holds records of shard {shard}, which is not configured there: configure the shards that this data \
         directory had when it was last used"
    )]
    StrangeShard {
        /// The lane.
        lane: LaneId,
        /// The id of the shard, which is made of its name.
        shard: ShardId,
    },
    /// What the log stands on is not there.
    #[error(transparent)]
    LostState(#[from] LostState),
    /// The lane's completions cannot be waited for.
    #[error("waiting for the disk: {0}")]
    DiskEvents(#[source] std::io::Error),
    /// An entry holds bytes that are no commands.
    #[error("log entry {index}: {source}")]
    Command {
        /// Index of the entry.
        index: RaftIndex,
        /// What is wrong with it.
        source: CommandError,
    },
    /// Another member, or an operator, removed this one.
    #[error(
        "this member was removed from the cluster and will not serve again; to come back it joins as a new member, \
         with an empty data directory, after etcdctl member add"
    )]
    Removed,
    /// The majority of the members holds something else at the same revision.
    #[error(
        "the other members hold other data than this one at revision {revision}: its data is not to be trusted. Keep a \
         copy of the data directory, remove the member with etcdctl member remove, empty its data directory and add it again"
    )]
    Inconsistent {
        /// Where they were compared.
        revision: Revision,
    },
    /// The other members cannot be listened to.
    #[error(transparent)]
    Peers(#[from] PeerError),
    /// A proposal that the engine itself sealed was refused.
    #[error("raft: {0}")]
    Node(#[from] NodeError),
}

impl EngineError {
    /// Whether this member's disk does not have what was written to it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Wal(error) => {
                matches!(
                    error,
                    WalError::Damaged { .. } | WalError::MissingSegment { .. }
                )
            }
            Self::Snapshot(error) => matches!(error, SnapshotError::Damaged { .. }),
            Self::LostState(_) | Self::Replay(_) => true,
            Self::Node(error) => matches!(error, NodeError::LogLost { .. }),
            _ => false,
        }
    }
}

impl<D: Disk> Engine<D> {
    /// Takes one message from a front core.
    pub fn on_inbound(&mut self, port: usize, inbound: Inbound) {
        let origin = Origin::Front {
            port,
            token: inbound.token,
        };
        match inbound.ask {
            Ask::Write { request, body } => self.admit(origin, request, body),
            Ask::LeaseKeepAlive(renewals) => self.keep_alives.on_asked(origin, renewals),
            Ask::CatchUp(catch_up) => self.catch_ups.push_back((port, catch_up)),
            Ask::Progress(stream) => self.mark_progress(port, stream),
            Ask::WatchOpen => self.ask_watch_open(port),
            Ask::WatchIdle => self.ports[port].published = None,
            Ask::Load(records) => self.load(origin, records, ApiError::Corrupt),
            Ask::LoadWritten(records) => self.load(origin, records, ApiError::Timeout),
            Ask::Checkpoint => self.request_checkpoint(origin),
            Ask::Defragment => self.request_defrag(origin),
            Ask::Rebuild => self.request_rebuild(origin),
            Ask::MoveLeader(to) => self.move_leader(origin, to),
            Ask::WhyLate { since_us } => self.reply(origin, Err(self.why_late(since_us))),
            // Everything committed is applied before a read looks at it.
            read if self.applying.is_some() => self.held_reads.push_back((origin, read)),
            read => self.take_read(origin, read),
        }
    }

    /// One turn: everything that can be done without waiting.
    pub fn step(&mut self, clock: &impl Clock) -> Result<Activity, EngineError> {
        self.begin_turn(clock)?;
        self.seal()?;
        self.end_turn(clock)
    }

    /// The part of a turn before anything is sealed.
    pub(super) fn begin_turn(&mut self, clock: &impl Clock) -> Result<(), EngineError> {
        let now_us = clock.now_us();
        self.now_us = now_us;
        self.lease_clock.advance(now_us);
        let durable = self.wal.pump(now_us)?;
        self.on_durable(durable);
        self.advance_group();
        self.advance_room();
        self.advance_rejoin();
        self.advance_mending();
        self.snapshots.pump()?;
        self.advance_receiving()
    }

    /// Has the lane know, for the other shards, what of this one waits and what is in flight.
    pub(super) fn note_company(&self) {
        let in_flight = self.in_flight_count();
        self.wal.note_company(self.queue.len(), in_flight);
    }

    /// The rest of it.
    pub(super) fn end_turn(&mut self, clock: &impl Clock) -> Result<Activity, EngineError> {
        // The disk has work while what it has done is applied.
        self.write()?;
        self.apply_committed(clock)?;
        self.review_newcomer();
        self.answer_keep_alives();
        self.advance_leader_moves();
        self.advance_quorum_reads();
        self.advance_reads();
        self.advance_loads();
        self.advance_catch_ups()?;
        self.advance_scrub(clock);
        self.advance_comparing()?;
        self.upkeep();
        self.seal()?;
        self.write()?;
        // Reads that arrive before the next turn find everything committed applied.
        self.apply_committed(clock)?;
        self.advance_sending();
        let checkpoint_goes_on = self.advance_checkpoint()?;
        let mut activity = self.activity();
        activity.busy |= checkpoint_goes_on;
        Ok(activity)
    }

    /// Starts writing what was sealed.
    fn write(&mut self) -> Result<(), EngineError> {
        let durable = self.wal.pump(self.now_us)?;
        self.on_durable(durable);
        self.take_raft_messages();
        Ok(())
    }

    /// The next reply for a front core.
    pub fn take_reply(&mut self, port: usize) -> Option<Outbound> {
        self.ports[port].outbox.pop_front()
    }

    /// Puts a reply back that found no place in the ring.
    pub fn untake_reply(&mut self, port: usize, reply: Outbound) {
        self.ports[port].outbox.push_front(reply);
    }

    /// Begins an orderly end: the lease clock is written down, new proposals are refused.
    pub fn stop(&mut self) {
        if !self.stopping {
            if self.state.lease_next_deadline().is_some() {
                self.queue_own(Request::Tick);
            }
            self.hand_over();
            self.stopping = true;
        }
    }

    /// Leaves the lane with its last group attested, so that the next start can vouch for all of it.
    pub fn close(&mut self) -> Result<(), EngineError> {
        self.wal.flush_blocking()?;
        Ok(())
    }

    /// Whether everything proposed is durable, applied and answered.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        // A group may never commit what waits; its members keep it.
        let is_settled = self.queue.is_empty() && self.proposed.is_empty();
        // And there may be no room for it on the disk.
        let is_stuck = self.wal.is_out_of_room();
        (is_settled || is_stuck || !self.is_alone())
            && self.applying.is_none()
            && (self.wal.is_idle() || is_stuck)
            && self.ports.iter().all(|port| port.outbox.is_empty())
    }

    /// This member's id and its cluster's.
    #[must_use]
    pub fn identity(&self) -> (MemberId, ClusterId) {
        (self.config.member, self.config.cluster)
    }

    /// Read access to the applied state.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether the applied state is that behind an entry, and not within one that waits for a value.
    #[must_use]
    pub fn is_between_entries(&self) -> bool {
        self.applying.is_none()
    }

    /// Read access to the raft group.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Read access to the lane.
    #[must_use]
    pub fn wal(&self) -> &Wal<D> {
        &self.wal
    }

    /// Read access to the snapshot files.
    #[must_use]
    pub fn snapshots(&self) -> &SnapshotStore<D> {
        &self.snapshots
    }

    /// Hands over how long the lane's writes took since the last call.
    pub fn take_wal_latencies_us(&mut self, out: &mut Vec<u32>) {
        self.wal.take_latencies_us(out);
    }

    /// Counters since the start.
    #[must_use]
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Hands over how long applying took since the last call.
    pub fn take_durations(&mut self, out: &mut Durations) {
        out.commands.append(&mut self.durations.commands);
        out.entries.append(&mut self.durations.entries);
        out.checkpoints.append(&mut self.durations.checkpoints);
        out.scrub_slices.append(&mut self.durations.scrub_slices);
        out.compactions.append(&mut self.durations.compactions);
        out.transfers.append(&mut self.durations.transfers);
    }

    /// Commands waiting for an entry or for their entry to commit.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.queue.len()
            + self
                .proposed
                .iter()
                .map(|proposed| proposed.commands.len())
                .sum::<usize>()
    }

    pub(super) fn header(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.config.cluster.0,
            member_id: self.config.member.0,
            revision: self.state.revision().0,
            raft_term: self.node.term().0,
        }
    }

    pub(super) fn reply(&mut self, origin: Origin, result: Result<Answer, ApiError>) {
        if let Origin::Front { port, token } = origin {
            self.ports[port]
                .outbox
                .push_back(Outbound::Reply { token, result });
        }
    }

    fn activity(&self) -> Activity {
        let may_seal = !self.queue.is_empty() && self.may_seal();
        let busy = may_seal
            || !self.selects.is_empty()
            || !self.hashes.is_empty()
            || !self.catch_ups.is_empty()
            || self.is_scrub_due()
            || self.is_gathering();
        let upkeep = self.upkeep_deadline_us();
        let wal = self.wal.next_deadline_us();
        Activity {
            busy,
            wake_at_us: [
                upkeep,
                wal,
                self.checkpoint_deadline_us(),
                self.scrub_deadline_us(),
                self.sending_deadline_us(),
                self.receiving_deadline_us(),
                self.rejoin_deadline_us(),
                self.mending_deadline_us(),
                self.comparing_deadline_us(),
                self.group_deadline_us(),
                self.quorum_reads_deadline_us(),
                self.leader_moves_deadline_us(),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }
}
