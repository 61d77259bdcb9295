//! One member: its disks, which stay, and its process, which comes and goes.
//!
//! A process is an engine and the fan-outs of its front cores, joined by the queues that are rings in production. A
//! turn of it does what the driver does: take what has come, step, hand out what was made.

use std::collections::{BTreeSet, VecDeque};

use keelson_consensus::replicate::Item;
use keelson_proto::ApiError;
use keelson_server::config::AutoCompaction;
use keelson_server::engine::message::{Answer, Ask, Inbound, NO_TOKEN, Outbound, Token};
use keelson_server::engine::{
    CheckpointConfig, CompareConfig, Engine, EngineConfig, EngineError, GroupConfig, ShardPast,
    ShardSeat, Shards, Slices, open_lane,
};
use keelson_server::fanout::limits::StreamBounds;
use keelson_server::fanout::{FanOut, OpenedAt};
use keelson_server::runtime::{Clock, ManualClock};
use keelson_storage::ids::{ClusterId, LaneId, MemberId};
use keelson_storage::mvcc::{Change, Reuse};
use keelson_storage::recovery::TailReport;
use keelson_storage::snapshot::{BuilderConfig, StoreConfig};
use keelson_storage::state::Member as Description;
use keelson_storage::wal::WalConfig;

use crate::company::shard_at;
use crate::dice::Dice;
use crate::disk::SharedDisk;
use crate::options::Options;

/// Front cores of a member.
pub const CORES: usize = 2;
/// The port behind them, on which every change is recorded.
const RECORDER: usize = CORES;
/// The cluster.
pub const CLUSTER: ClusterId = ClusterId(22);

/// Watch responses are split above this, if the client wants that.
const FRAGMENT_BYTES: usize = 400;

/// What an engine does at a time, in a part of the runs.
const TINY: Slices = Slices {
    select_keys: 3,
    catch_up_changes: 5,
    catch_up_bytes: 200,
    publish_changes: 4,
    scrub: 3,
    scrub_idle: 5,
    values_wanted: 2,
    checkpoint_versions: 3,
    snapshot_piece_bytes: 16 << 10,
};
/// How much waits in a stream then.
const TINY_STREAMS: StreamBounds = StreamBounds {
    bytes_max: 600,
    bytes_low: 300,
    response_bytes: 150,
};

/// A member, running or not.
#[derive(Debug)]
pub struct Member {
    /// Who.
    pub id: MemberId,
    /// Its disks.
    pub lane: SharedDisk,
    /// Those of each shard's snapshots.
    pub snapshots: Vec<SharedDisk>,
    /// Whether the shards were there before.
    pub knows_shards: bool,
    /// How often it was started.
    pub starts: u64,
    /// Its process.
    pub running: Option<Running>,
    /// When its process goes on that stands still.
    pub paused_until_us: u64,
    /// When its log's disk takes writes again that is stuck.
    pub stuck_until_us: u64,
    /// When somebody starts it again.
    pub restart_at_us: u64,
    /// When its process, which was told to stop, ends; `u64::MAX` if it was not.
    pub stop_at_us: u64,
    /// It was removed from the cluster and ended.
    pub is_removed: bool,
    /// The term in which it is in office.
    pub office: Option<u64>,
    /// Who founded the cluster, if this member was among them.
    pub founding: Vec<Description>,
    /// Whom it was told of when it joined.
    pub peers: Vec<Description>,
    /// Its data was damaged: it begins with nothing, whenever it starts.
    pub has_forgotten: bool,
}

/// A process.
pub struct Running {
    /// The engines of its shards; most is asked of the first one.
    pub shards: Shards<SharedDisk>,
    /// The last entries that were recorded of the others.
    pub company_seen: Vec<u64>,
    /// Which of them are whole again, of a member that began anew.
    whole: Vec<bool>,
    /// Its front cores.
    pub cores: Vec<Core>,
    /// When it next has something to do.
    pub wake_us: u64,
    /// When it began.
    pub began_us: u64,
    /// When another member's snapshot last took the place of its state.
    pub swapped_us: Option<u64>,
    /// Whether its last turn put another member's snapshot in the place of a damaged one.
    pub is_mended: bool,
    /// The newest revision of which all changes were recorded.
    pub revision_seen: i64,
    /// The last entry that was recorded.
    pub index_seen: u64,
    /// The last entry of its log, when it was last looked at.
    pub last_seen: u64,
    /// The leases that it had.
    pub leases: BTreeSet<i64>,
    /// What clients and watches ask at its next turn.
    asks: Vec<(usize, Inbound)>,
    /// What is asked of other shards.
    company_asks: Vec<(usize, Inbound)>,
    /// What other members said to it since its last turn.
    pub heard: Vec<(usize, MemberId, Item)>,
    /// When its cores next look for idle watchers.
    pub notify_at_us: u64,
    clock: ManualClock,
    clocked_us: u64,
    drift: Drift,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("began_us", &self.began_us)
            .finish_non_exhaustive()
    }
}

/// A front core.
#[derive(Debug)]
pub struct Core {
    /// Who watches what on it.
    pub fanout: FanOut,
    from_engine: VecDeque<Outbound>,
}

/// How a clock runs.
#[derive(Clone, Copy, Debug)]
struct Drift {
    permille: u64,
    is_fast: bool,
}

/// What a turn brought.
#[derive(Debug, Default)]
pub struct TurnResult {
    /// For other members' shards, by their places.
    pub items: Vec<(usize, MemberId, Item)>,
    /// New changes.
    pub changes: Vec<Change>,
    /// For clients.
    pub replies: Vec<(Token, Result<Answer, ApiError>)>,
    /// Those of other shards.
    pub company_replies: Vec<(usize, Token, Result<Answer, ApiError>)>,
}

/// How others describe a member.
#[must_use]
pub fn description(id: MemberId) -> Description {
    Description {
        id: id.0,
        name: format!("m{}", id.0),
        client_urls: vec![format!("http://m{}:2379", id.0)],
        peer_urls: vec![format!("http://m{}:2380", id.0)],
        is_learner: false,
    }
}

/// How a member is described that was added and has not started.
#[must_use]
pub fn joining(id: MemberId) -> Description {
    Description {
        name: String::new(),
        client_urls: Vec::new(),
        is_learner: true,
        ..description(id)
    }
}

/// What founders know of each other: no names, no client URLs.
#[must_use]
pub fn founder(id: MemberId) -> Description {
    Description {
        is_learner: false,
        ..joining(id)
    }
}

impl Member {
    /// A member that was never started.
    #[must_use]
    pub fn new(id: MemberId, shards: usize, dice: &mut Dice) -> Self {
        Self {
            id,
            lane: SharedDisk::new(dice.seed()),
            snapshots: (0..shards).map(|_| SharedDisk::new(dice.seed())).collect(),
            knows_shards: false,
            starts: 0,
            running: None,
            paused_until_us: 0,
            stuck_until_us: 0,
            restart_at_us: 0,
            stop_at_us: u64::MAX,
            is_removed: false,
            office: None,
            founding: Vec::new(),
            peers: Vec::new(),
            has_forgotten: false,
        }
    }

    /// Its disks are empty, and it has heard who belongs to the cluster.
    pub fn begin_anew(&mut self, known: Vec<Description>, dice: &mut Dice) {
        self.lane = SharedDisk::new(dice.seed());
        for snapshots in &mut self.snapshots {
            *snapshots = SharedDisk::new(dice.seed());
        }
        self.founding.clear();
        self.peers = known;
    }

    /// Starts its process; how its log ended.
    ///
    /// # Errors
    /// As an engine's start.
    pub fn start(
        &mut self,
        options: &Options,
        now_us: u64,
        dice: &mut Dice,
    ) -> Result<TailReport, EngineError> {
        self.starts += 1;
        let clock = ManualClock::default();
        clock.advance_us(dice.below(1 << 40));
        let wal = WalConfig {
            segment_bytes: options.segment_bytes,
            // Segments of both units stand one behind the other.
            unit_bytes: if self.starts.is_multiple_of(2) {
                512
            } else {
                4096
            },
            ..WalConfig::default()
        };
        let seats = (0..self.snapshots.len()).map(|place| self.seat(place, options));
        let lane = (LaneId(0), self.lane.clone());
        let (shards, report) = open_lane(lane, wal, seats.collect(), &clock)?;
        self.knows_shards = true;
        let engine = first(&shards);
        let drift = Drift {
            permille: dice.below(options.drift_permille + 1),
            is_fast: dice.chance(500),
        };
        let bounds = match options.is_tiny {
            true => TINY_STREAMS,
            false => StreamBounds::default(),
        };
        let core = || Core {
            fanout: FanOut::new(CLUSTER.0, self.id.0, FRAGMENT_BYTES).with_bounds(bounds),
            from_engine: VecDeque::new(),
        };
        self.running = Some(Running {
            revision_seen: engine.state().revision().0,
            index_seen: 0,
            last_seen: 0,
            leases: lease_ids(engine),
            company_seen: vec![0; self.snapshots.len() - 1],
            whole: vec![!self.has_forgotten; self.snapshots.len()],
            shards,
            cores: (0..CORES).map(|_| core()).collect(),
            wake_us: now_us,
            began_us: now_us,
            swapped_us: None,
            is_mended: false,
            asks: vec![(
                RECORDER,
                Inbound {
                    token: NO_TOKEN,
                    ask: Ask::WatchOpen,
                },
            )],
            company_asks: Vec::new(),
            heard: Vec::new(),
            notify_at_us: now_us,
            clock,
            clocked_us: now_us,
            drift,
        });
        self.paused_until_us = 0;
        self.stop_at_us = u64::MAX;
        Ok(report.tail)
    }

    /// As `boot/shards.rs` opens them.
    fn seat(&self, place: usize, options: &Options) -> ShardSeat<SharedDisk> {
        let past = match self.snapshots.len() {
            1 => ShardPast::Alone,
            _ if self.knows_shards && !self.has_forgotten => ShardPast::Known,
            _ => ShardPast::New,
        };
        ShardSeat {
            snapshots: self.snapshots[place].clone(),
            config: self.config(options, place),
            member: description(self.id),
            past,
        }
    }

    /// All of its disks.
    pub fn disks(&self) -> impl Iterator<Item = &SharedDisk> {
        std::iter::once(&self.lane).chain(&self.snapshots)
    }

    fn config(&self, options: &Options, place: usize) -> EngineConfig {
        EngineConfig {
            shard: shard_at(place),
            member: self.id,
            cluster: CLUSTER,
            group: GroupConfig {
                is_identity_certain: true,
                founding: self.founding.clone(),
                peers: self.peers.clone(),
                rejoins: self.has_forgotten,
                lease_reads: options.lease_reads,
                tick_us: options.tick_us,
                log_keep_entries: options.log_keep_entries,
                ..GroupConfig::default()
            },
            seed: self.id.0 << 16 | self.starts,
            quota_bytes: None,
            auto_compact: AutoCompaction::Off,
            wal_depth: 2,
            checkpoint: CheckpointConfig {
                commands: options.checkpoint_commands.unwrap_or(u64::MAX),
                log_bytes: match options.checkpoint_commands {
                    Some(_) => (1, 1 << 20),
                    None => (u64::MAX, u64::MAX),
                },
                interval_us: None,
                bytes_per_second: 1 << 30,
                reuse: Reuse::ANY,
                builder: BuilderConfig {
                    page_bytes: 4096,
                    values_run_bytes_max: 1,
                    ..BuilderConfig::default()
                },
            },
            snapshots: StoreConfig {
                cache_bytes_max: 4096,
                ..StoreConfig::default()
            },
            memory_budget_bytes: 1 << 20,
            slices: match options.is_tiny {
                true => TINY,
                false => Slices::default(),
            },
            cores: CORES + 1,
            // The world compares states itself.
            compare: CompareConfig {
                interval_us: None,
                after_compaction_us: None,
                at_start: false,
            },
            api_version: "3.6.0".to_owned(),
            storage_version: "3.6.0".to_owned(),
        }
    }

    /// Ends its process as a power failure does.
    pub fn crash(&mut self) {
        self.running = None;
        self.stop_at_us = u64::MAX;
        self.stuck_until_us = 0;
        self.disks().for_each(SharedDisk::crash);
    }

    /// When its process next has something to do.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        let running = self.running.as_ref()?;
        let disk_us = self.disks().filter_map(SharedDisk::pending).min();
        let next_us = running.wake_us.min(disk_us.unwrap_or(u64::MAX));
        Some(next_us.max(self.paused_until_us))
    }
}

impl Running {
    /// The engine of the first shard.
    #[must_use]
    pub fn engine(&self) -> &Engine<SharedDisk> {
        first(&self.shards)
    }

    /// All of its shards hand over, and end when they are drained.
    pub fn stop(&mut self) {
        for place in 0..self.shards.count() {
            self.shards.engine(place).stop();
        }
    }

    /// Whether all shards of a member that began anew have become whole, the last one since this was last asked.
    pub fn take_rejoined(&mut self) -> bool {
        let were_all = self.whole.iter().all(|whole| *whole);
        for place in 0..self.shards.count() {
            self.whole[place] |= self.shards.engine(place).take_rejoined();
        }
        !were_all && self.whole.iter().all(|whole| *whole)
    }

    /// Asks another shard at the next turn, which is due at once.
    pub fn ask_shard(&mut self, place: usize, token: Token, ask: Ask, now_us: u64) {
        self.company_asks.push((place, Inbound { token, ask }));
        self.wake_us = self.wake_us.min(now_us);
    }

    /// Its clock jumps forward.
    pub fn jump_clock(&mut self, by_us: u64) {
        self.clock.advance_us(by_us);
    }

    /// Asks at the next turn, which is due at once.
    pub fn ask(&mut self, port: usize, token: Token, ask: Ask, now_us: u64) {
        self.asks.push((port, Inbound { token, ask }));
        self.wake_us = self.wake_us.min(now_us);
    }

    /// One turn.
    ///
    /// # Errors
    /// The engine's, which ends the process.
    pub fn turn(&mut self, now_us: u64, dice: &mut Dice) -> Result<TurnResult, EngineError> {
        self.run_clock(now_us);
        for (port, inbound) in std::mem::take(&mut self.asks) {
            self.shards.engine(0).on_inbound(port, inbound);
        }
        for (place, inbound) in std::mem::take(&mut self.company_asks) {
            self.shards.engine(place).on_inbound(0, inbound);
        }
        for (place, from, item) in std::mem::take(&mut self.heard) {
            self.shards.engine(place).on_peer(from, item)?;
        }
        let before = self.engine().facts();
        let (received, mended) = (before.snapshots_received, before.snapshots_mended);
        let activity = self.shards.turn(&self.clock)?;
        let after = self.engine().facts();
        let (is_swapped, is_mended) = (
            after.snapshots_received > received,
            after.snapshots_mended > mended,
        );
        if is_swapped {
            self.swapped_us = Some(now_us);
        }
        self.is_mended = is_mended;
        let mut result = TurnResult::default();
        for place in 0..self.shards.count() {
            let items = self.shards.engine(place).take_peer_items();
            let items = items.into_iter().map(|(to, item)| (place, to, item));
            result.items.extend(items);
        }
        self.turn_company(&mut result)?;
        let mut is_busy = activity.busy;
        for port in 0..self.cores.len() {
            while let Some(reply) = self.shards.engine(0).take_reply(port) {
                self.cores[port].from_engine.push_back(reply);
            }
            while self.engine().has_news(port) {
                let Some(batch) = self.shards.engine(0).publish(port)? else {
                    break;
                };
                self.shards.engine(0).on_published(port, &batch);
                self.cores[port]
                    .from_engine
                    .push_back(Outbound::Batch(batch));
            }
            let count = match dice.chance(200) {
                true => dice.index(4),
                false => usize::MAX,
            };
            is_busy |= self.deliver(port, count, &mut result);
        }
        // Its first answer says that it is open.
        while self.shards.engine(0).take_reply(RECORDER).is_some() {}
        while let Some(batch) = self.shards.engine(0).publish(RECORDER)? {
            self.shards.engine(0).on_published(RECORDER, &batch);
            self.revision_seen = batch.through.0;
            result.changes.extend(batch.changes.iter().cloned());
        }
        is_busy |= self.engine().has_news(RECORDER);
        self.shards.engine(0).pump_snapshots()?;
        drop(self.shards.engine(0).take_discarded());
        let local_us = self.clock.now_us();
        self.wake_us = match activity.wake_at_us {
            _ if is_busy => now_us + 1 + dice.below(50),
            None => u64::MAX,
            Some(at_us) => now_us + at_us.saturating_sub(local_us).max(1),
        };
        Ok(result)
    }

    /// The other shards' answers, and their snapshots.
    fn turn_company(&mut self, result: &mut TurnResult) -> Result<(), EngineError> {
        for place in 1..self.shards.count() {
            let engine = self.shards.engine(place);
            while let Some(outbound) = engine.take_reply(0) {
                if let Outbound::Reply {
                    token,
                    result: answer,
                } = outbound
                {
                    result.company_replies.push((place, token, answer));
                }
            }
            engine.pump_snapshots()?;
            drop(engine.take_discarded());
        }
        Ok(())
    }

    /// Gives a core up to `count` of the messages that wait for it, and the engine its questions. Whether there is
    /// more.
    fn deliver(&mut self, port: usize, count: usize, result: &mut TurnResult) -> bool {
        let core = &mut self.cores[port];
        for _ in 0..count {
            let Some(message) = core.from_engine.pop_front() else {
                break;
            };
            match message {
                Outbound::Reply {
                    token,
                    result: answer,
                } => result.replies.push((token, answer)),
                Outbound::Batch(batch) => core.fanout.on_batch(&batch),
                Outbound::WatchOpened {
                    revision,
                    published,
                    compact_revision,
                    raft_term,
                } => core.fanout.on_opened(OpenedAt {
                    revision,
                    published,
                    compact_revision,
                    raft_term,
                }),
                Outbound::CatchUp(slice) => core.fanout.on_caught_up(&slice),
                Outbound::Leap {
                    revision,
                    raft_term,
                } => core.fanout.on_leap(revision, raft_term),
                Outbound::Learner(_) => {}
                Outbound::Progress { stream, revision } => {
                    core.fanout.on_progress(stream, revision);
                }
            }
        }
        let has_asked = self.pass_questions(port);
        has_asked || !self.cores[port].from_engine.is_empty()
    }

    /// Has a fan-out's questions asked at the next turn; whether there were any.
    pub fn pass_questions(&mut self, port: usize) -> bool {
        let asks = self.cores[port].fanout.take_asks();
        let has_asked = !asks.is_empty();
        for ask in asks {
            let token = NO_TOKEN;
            self.asks.push((port, Inbound { token, ask }));
        }
        has_asked
    }

    fn run_clock(&mut self, now_us: u64) {
        let passed_us = now_us - self.clocked_us;
        let off_us = passed_us * self.drift.permille / 1000;
        let local_us = match self.drift.is_fast {
            true => passed_us + off_us,
            false => passed_us - off_us,
        };
        self.clock.advance_us(local_us);
        self.clocked_us = now_us;
    }
}

/// The engine of the first shard.
pub(crate) fn first(shards: &Shards<SharedDisk>) -> &Engine<SharedDisk> {
    shards.iter().next().expect("a member has a shard")
}

/// The leases of a member's state.
#[must_use]
pub fn lease_ids(engine: &Engine<SharedDisk>) -> BTreeSet<i64> {
    engine.state().lease_ids().map(|id| id.0).collect()
}
