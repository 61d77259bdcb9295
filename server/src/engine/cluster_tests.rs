//! Three engines over simulated disks and a network of queues, in one thread, from a seed.
//!
//! Messages are delayed, lost and cut off between pairs; members crash and come back with what their disks kept.
//! Clients write to and read from any member. What was acknowledged must be there in the end, on all of them,
//! and a linearizable read must see what was acknowledged before it was asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use keelson_consensus::replicate::Item;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};
use keelson_storage::ids::MemberId;
use keelson_storage::io::SimDisk;
use keelson_storage::mvcc::Reuse;
use keelson_storage::state::{Member, Request};
use keelson_storage::wal::WalConfig;
use proptest::prelude::*;

use super::engine_tests::{config, crash, disks};
use super::forced_tests::{self, add, run, start as start_beside};
use super::message::{Answer, Ask, Inbound, NO_TOKEN, Outbound, Token};
use super::{CheckpointConfig, CompareConfig, Disks, Engine, EngineConfig, GroupConfig};
use crate::runtime::ManualClock;

pub(super) const MEMBERS: usize = 3;
pub(super) const STEP_US: u64 = 1_000;

/// What leads to snapshots, or does not.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Commands from one checkpoint to the next.
    pub(super) checkpoint_commands: u64,
    /// Entries that stay for members that lag.
    pub(super) log_keep_entries: usize,
    /// Whether a leader answers reads while its lease lasts.
    pub(super) lease_reads: bool,
    /// When members compare what they hold.
    pub(super) compare: CompareConfig,
}

impl Shape {
    /// Members that lag are fed from the log.
    pub(super) const LOG: Self = Self {
        checkpoint_commands: u64::MAX,
        log_keep_entries: 50_000,
        lease_reads: false,
        compare: CompareConfig {
            interval_us: None,
            after_compaction_us: None,
            at_start: false,
        },
    };

    /// They are soon behind it.
    pub(super) const SNAPSHOTS: Self = Self {
        checkpoint_commands: 10,
        log_keep_entries: 4,
        ..Self::LOG
    };
}

pub(super) fn member(index: usize) -> Member {
    Member {
        id: 11 + index as u64,
        name: format!("m{index}"),
        client_urls: vec![format!("http://m{index}:2379")],
        peer_urls: vec![format!("http://m{index}:2380")],
        is_learner: false,
    }
}

/// What founders know of each other: no names, no client URLs.
fn founding() -> Vec<Member> {
    (0..MEMBERS)
        .map(|index| Member {
            name: String::new(),
            client_urls: Vec::new(),
            ..member(index)
        })
        .collect()
}

fn start(
    disks: Disks<SimDisk>,
    index: usize,
    seed: u64,
    (shape, rejoins): (Shape, bool),
    clock: &ManualClock,
) -> Engine<SimDisk> {
    let (founding, peers) = if rejoins {
        (Vec::new(), founding())
    } else {
        (founding(), Vec::new())
    };
    let config = EngineConfig {
        member: MemberId(11 + index as u64),
        group: GroupConfig {
            is_identity_certain: true,
            founding,
            peers,
            rejoins,
            tick_us: 20_000,
            log_keep_entries: shape.log_keep_entries,
            lease_reads: shape.lease_reads,
            ..GroupConfig::default()
        },
        seed,
        cores: 1,
        compare: shape.compare,
        checkpoint: CheckpointConfig {
            commands: shape.checkpoint_commands,
            log_bytes: (0, u64::MAX),
            reuse: Reuse::ANY,
            ..config().checkpoint
        },
        ..config()
    };
    let wal = WalConfig {
        segment_bytes: 256 << 10,
        ..WalConfig::default()
    };
    Engine::open(disks, wal, config, member(index), clock)
        .expect("a sound disk opens")
        .0
}

/// A small generator: the test's own choices come from the seed alone.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

pub(super) enum Asked {
    Put {
        key: Bytes,
    },
    /// A read of everything, and what had been acknowledged when it was asked.
    Read {
        seen: BTreeSet<Bytes>,
    },
    /// A change of the leader.
    Move {
        to: usize,
    },
    /// Something else for the log.
    Other(Request),
}

/// Whether an item, from and to the members of these places, passes.
pub(super) type Censor = Box<dyn FnMut(usize, usize, &Item) -> bool>;

pub(super) struct World {
    pub(super) clock: ManualClock,
    pub(super) dice: Dice,
    shape: Shape,
    pub(super) engines: Vec<Option<Engine<SimDisk>>>,
    pub(super) kept: Vec<Option<Disks<SimDisk>>>,
    wire: VecDeque<(u64, usize, usize, Item)>,
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) loss_percent: u64,
    /// Members whose processes stand still.
    pub(super) still: BTreeSet<usize>,
    now_us: u64,
    asked: Vec<BTreeMap<u64, Asked>>,
    pub(super) acknowledged: BTreeSet<Bytes>,
    next_token: u64,
    /// Reads that were answered.
    pub(super) reads: u64,
    pub(super) moves: u64,
    /// What puts and reads were refused with.
    pub(super) refused: Vec<ApiError>,
    /// What came of other requests.
    pub(super) answers: Vec<Result<(), ApiError>>,
    starts: u64,
    /// Members whose disks were damaged, until they are whole again.
    pub(super) rejoining: BTreeSet<usize>,
    /// Snapshots taken over, by all engines that ever ran.
    pub(super) received: u64,
    /// What an engine says to a core beside replies, if somebody wants to know.
    pub(super) told: Option<(usize, VecDeque<Outbound>)>,
    /// Sees every item before it is sent; false loses it.
    pub(super) censor: Option<Censor>,
}

impl World {
    pub(super) fn new(seed: u64, shape: Shape) -> Self {
        let clock = ManualClock::default();
        let mut world = Self {
            clock,
            dice: Dice(seed | 1),
            shape,
            engines: Vec::new(),
            kept: (0..MEMBERS).map(|_| None).collect(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            loss_percent: 0,
            still: BTreeSet::new(),
            now_us: 0,
            asked: (0..MEMBERS).map(|_| BTreeMap::new()).collect(),
            acknowledged: BTreeSet::new(),
            next_token: 0,
            reads: 0,
            moves: 0,
            refused: Vec::new(),
            answers: Vec::new(),
            starts: 0,
            rejoining: BTreeSet::new(),
            received: 0,
            told: None,
            censor: None,
        };
        for index in 0..MEMBERS {
            let disks = disks(seed.wrapping_add(index as u64));
            let engine = world.start(index, disks);
            world.engines.push(Some(engine));
        }
        world
    }

    fn start(&mut self, index: usize, disks: Disks<SimDisk>) -> Engine<SimDisk> {
        self.starts += 1;
        let seed = self.starts * 100 + index as u64;
        let rejoins = self.rejoining.contains(&index);
        start(disks, index, seed, (self.shape, rejoins), &self.clock)
    }

    pub(super) fn ask(&mut self, index: usize, asked: Asked) {
        let Some(engine) = &mut self.engines[index] else {
            return;
        };
        self.next_token += 1;
        let ask = match &asked {
            Asked::Put { key } => {
                let request = Request::Put(PutRequest {
                    key: key.clone(),
                    value: Bytes::from_static(b"value"),
                    ..PutRequest::default()
                });
                let body = request.encode_body();
                Ask::Write { request, body }
            }
            Asked::Other(request) => Ask::Write {
                request: request.clone(),
                body: request.encode_body(),
            },
            Asked::Move { to } => Ask::MoveLeader(MemberId(11 + *to as u64)),
            Asked::Read { .. } => Ask::Range(RangeRequest {
                key: Bytes::from_static(b"k"),
                range_end: Bytes::from_static(b"l"),
                ..RangeRequest::default()
            }),
        };
        self.asked[index].insert(self.next_token, asked);
        let token = Token(self.next_token);
        engine.on_inbound(0, Inbound { token, ask });
    }

    pub(super) fn step(&mut self) {
        self.now_us += STEP_US;
        self.clock.advance_us(STEP_US);
        let due: Vec<_> = {
            let now_us = self.now_us;
            let (due, later) = std::mem::take(&mut self.wire)
                .into_iter()
                .partition(|(at_us, ..)| *at_us <= now_us);
            self.wire = later;
            let due: VecDeque<_> = due;
            due.into()
        };
        for (_, from, to, item) in due {
            // Members that were only added do not run.
            if let Some(Some(engine)) = self.engines.get_mut(to) {
                let from = MemberId(11 + from as u64);
                engine.on_peer(from, item).expect("a sound message");
            }
        }
        let awake = (0..MEMBERS).filter(|index| !self.still.contains(index));
        for index in awake.collect::<Vec<_>>() {
            self.step_one(index);
        }
    }

    fn step_one(&mut self, index: usize) {
        let Some(engine) = &mut self.engines[index] else {
            return;
        };
        let received = engine.facts().snapshots_received;
        let stepped = engine.step(&self.clock);
        self.received += engine.facts().snapshots_received - received;
        if engine.take_rejoined() {
            self.rejoining.remove(&index);
        }
        if stepped.is_err() {
            // Its power failed.
            return self.crash(index);
        }
        if let Some((_, told)) = self.told.as_mut().filter(|(member, _)| *member == index) {
            while let Some(reply) = engine.take_reply(0) {
                told.push_back(reply);
            }
            if let Some(batch) = engine.publish(0).expect("no value is damaged") {
                engine.on_published(0, &batch);
                told.push_back(Outbound::Batch(batch));
            }
        }
        drop(engine.take_discarded());
        let items = engine.take_peer_items();
        let mut replies = Vec::new();
        while let Some(reply) = engine.take_reply(0) {
            replies.push(reply);
        }
        for (to, item) in items {
            let to = (to.0 - 11) as usize;
            let is_lost = self.dice.roll(100) < self.loss_percent;
            let is_lost = is_lost
                || self
                    .censor
                    .as_mut()
                    .is_some_and(|passes| !passes(index, to, &item));
            if !is_lost && !self.cut.contains(&(index, to)) {
                let delay_us = self.dice.roll(5) * STEP_US;
                self.wire
                    .push_back((self.now_us + delay_us, index, to, item));
            }
        }
        for reply in replies {
            self.on_reply(index, reply);
        }
    }

    fn on_reply(&mut self, index: usize, reply: Outbound) {
        let Outbound::Reply { token, result } = reply else {
            return;
        };
        if token == NO_TOKEN {
            return;
        }
        let asked = self.asked[index].remove(&token.0);
        match (
            asked.expect("only what was asked is answered, and once"),
            result,
        ) {
            (Asked::Put { key }, Ok(_)) => {
                self.acknowledged.insert(key);
            }
            (Asked::Read { seen }, Ok(Answer::Range(_, selection))) => {
                let keys = selection.records.iter();
                let found: BTreeSet<Bytes> = keys
                    .map(|record| Bytes::copy_from_slice(record.key()))
                    .collect();
                let missing: Vec<_> = seen.difference(&found).collect();
                assert!(
                    missing.is_empty(),
                    "a read at member {index} missed {missing:?}"
                );
                self.reads += 1;
            }
            (Asked::Move { to }, Ok(Answer::LeaderMoved(_))) => {
                let node = self.engines[index].as_ref().map(Engine::node);
                let leader = node.and_then(|node| node.leader());
                assert_eq!(leader, Some(MemberId(11 + to as u64)));
                self.moves += 1;
            }
            (Asked::Other(_), result) => self.answers.push(result.map(|_| ())),
            (Asked::Move { .. }, Err(_)) => {}
            (_, Err(error)) => self.refused.push(error),
            (_, Ok(other)) => panic!("not the answer to what was asked: {other:?}"),
        }
    }

    pub(super) fn crash(&mut self, index: usize) {
        if let Some(engine) = self.engines[index].take() {
            self.kept[index] = Some(crash(engine));
            self.asked[index].clear();
        }
    }

    pub(super) fn restart(&mut self, index: usize) {
        if let Some(mut disks) = self.kept[index].take() {
            if self.rejoining.contains(&index) {
                // Whatever is there does not count.
                disks = super::engine_tests::disks(self.dice.roll(u64::MAX));
            }
            let engine = self.start(index, disks);
            self.engines[index] = Some(engine);
        }
    }

    /// The disks of a member turn out to be damaged.
    pub(super) fn damage(&mut self, index: usize) {
        self.crash(index);
        self.rejoining.insert(index);
    }

    pub(super) fn write_somewhere(&mut self) {
        let index = self.dice.roll(MEMBERS as u64) as usize;
        self.write_at(index);
    }

    pub(super) fn write_at(&mut self, index: usize) {
        let key = Bytes::from(format!("k{:06}", self.next_token));
        self.ask(index, Asked::Put { key });
    }

    pub(super) fn read_somewhere(&mut self) {
        let index = self.dice.roll(MEMBERS as u64) as usize;
        let seen = self.acknowledged.clone();
        self.ask(index, Asked::Read { seen });
    }

    /// Until somebody is in office whom all follow, and nothing is on its way.
    pub(super) fn settle(&mut self) {
        self.cut.clear();
        self.loss_percent = 0;
        (0..MEMBERS).for_each(|index| self.restart(index));
        for _ in 0..20_000 {
            self.step();
            let engines: Vec<_> = self.engines.iter().flatten().collect();
            let applied = engines.iter().map(|engine| engine.state().applied().index);
            let all: BTreeSet<_> = applied.collect();
            let leaders: BTreeSet<_> = engines
                .iter()
                .map(|engine| engine.node().leader())
                .collect();
            let knows_all = engines.iter().all(|engine| {
                let members = &engine.state().cluster().members;
                members.len() == MEMBERS && members.values().all(|member| !member.name.is_empty())
            });
            let is_forward =
                |item: &Item| matches!(item, Item::Forward(_) | Item::ForwardRefused { .. });
            let is_idle = engines.iter().all(|engine| engine.pending_count() == 0)
                && !self.wire.iter().any(|(.., item)| is_forward(item));
            if all.len() == 1
                && leaders.len() == 1
                && !leaders.contains(&None)
                && is_idle
                && knows_all
            {
                return;
            }
        }
        for engine in self.engines.iter().flatten() {
            let (node, applied) = (engine.node(), engine.state().applied());
            println!(
                "{}: leader {:?} term {} last {} committed {} applied {applied:?} pending {} progress {:?}",
                node.member(),
                node.leader(),
                node.term(),
                node.last(),
                node.committed(),
                engine.pending_count(),
                node.progress(),
            );
        }
        panic!("the group does not settle");
    }

    pub(super) fn check(&mut self) {
        let mut contents = Vec::new();
        for engine in self.engines.iter_mut().flatten() {
            let request = RangeRequest {
                key: Bytes::from_static(b"k"),
                range_end: Bytes::from_static(b"l"),
                ..RangeRequest::default()
            };
            let state = &mut engine.state;
            let mut select = state.select_begin(&request).expect("a sound request");
            let found = state.select_step(&mut select, usize::MAX);
            let records = found.expect("one step is enough").records;
            let keys: Vec<_> = records
                .iter()
                .map(|record| (Bytes::copy_from_slice(record.key()), record.revision))
                .collect();
            for record in &records {
                assert_eq!(record.version, 1, "{:?} was put twice", record.key());
            }
            for key in &self.acknowledged {
                assert!(
                    keys.iter().any(|(found, _)| found == key),
                    "{key:?} is lost"
                );
            }
            contents.push((state.revision(), keys));
        }
        contents.dedup();
        assert_eq!(contents.len(), 1, "all members have the same");
    }
}

#[test]
fn g_r_3_three_members_serve_wherever_a_client_asks() {
    let mut world = World::new(3, Shape::LOG);
    world.settle();
    for _ in 0..200 {
        world.write_somewhere();
        world.read_somewhere();
        world.step();
    }
    world.settle();
    for _ in 0..2_000 {
        world.step();
    }
    world.check();
    assert_eq!(world.acknowledged.len(), 200);
    assert_eq!(world.reads, 200);
}

/// The simulator's seed 47: whoever led before the cluster was founded, and was alone with its first entry, took that
/// for committed when it started again.
#[test]
fn g_r_1_a_start_before_the_foundation_commits_nothing_alone() {
    let mut world = World::new(47, Shape::LOG);
    // Whoever stands first gets its vote, and then nobody hears of its entry.
    let leader = loop {
        world.step();
        let leads = |engine: &Option<Engine<SimDisk>>| {
            engine
                .as_ref()
                .is_some_and(|engine| engine.node().is_leader())
        };
        if let Some(index) = world.engines.iter().position(leads) {
            break index;
        }
    };
    world.wire.clear();
    for other in (0..MEMBERS).filter(|other| *other != leader) {
        world.cut.insert((leader, other));
    }
    for _ in 0..40 {
        world.step_one(leader);
    }
    world.crash(leader);
    world.restart(leader);
    let engine = world.engines[leader].as_ref().expect("it was just started");
    assert!(engine.node().last().0 > 0, "its entry is on its disk");
    assert_eq!(
        engine.state().applied().index.0,
        0,
        "and nobody else has it"
    );
}

/// The simulator's seed 347: a leader that alone decides did not tick, so a learner that started again never heard of
/// it.
#[test]
fn g_r_3_a_learner_of_a_lone_voter_finds_its_leader_again() {
    let clock = ManualClock::default();
    let mut leader = start_beside(0, disks(1), (1, false), &clock);
    forced_tests::ask(&mut leader, add(1, true));
    let mut pair = [leader, start_beside(1, disks(2), (2, false), &clock)];
    run(&mut pair, 2_000, &clock);
    assert_eq!(pair[1].node().leader(), Some(MemberId(11)));
    let [mut leader, learner] = pair;
    leader.on_unreachable(MemberId(12));
    let again = start_beside(1, crash(learner), (3, false), &clock);
    let mut pair = [leader, again];
    run(&mut pair, 2_000, &clock);
    assert_eq!(pair[1].node().leader(), Some(MemberId(11)));
}

#[test]
fn g_r_3_the_leadership_moves_under_load_to_whom_it_is_asked_for() {
    let mut world = World::new(5, Shape::LOG);
    world.settle();
    for round in 0..12 {
        let to = round % MEMBERS;
        (0..MEMBERS).for_each(|index| world.ask(index, Asked::Move { to }));
        for _ in 0..100 {
            world.write_somewhere();
            world.read_somewhere();
            world.step();
        }
        world.settle();
    }
    world.check();
    // Only who leads is answered with success, and each round has one of them.
    assert_eq!(world.moves, 12);
    assert!(
        world.acknowledged.len() > 600,
        "{}",
        world.acknowledged.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn g_r_3_g_d_1_acknowledged_writes_survive_crashes_and_cuts(seed in any::<u64>()) {
        let shape = if seed % 2 == 0 { Shape::LOG } else { Shape::SNAPSHOTS };
        let shape = Shape { lease_reads: seed % 3 == 0, ..shape };
        let mut world = World::new(seed, shape);
        world.settle();
        for _ in 0..40 {
            match world.dice.roll(9) {
                // Never a second one before the first is whole: the others hold what it has lost.
                8 if world.rejoining.is_empty() => {
                    let index = world.dice.roll(MEMBERS as u64) as usize;
                    world.damage(index);
                }
                0 => {
                    let index = world.dice.roll(MEMBERS as u64) as usize;
                    world.crash(index);
                }
                1 | 2 => {
                    let index = world.dice.roll(MEMBERS as u64) as usize;
                    world.restart(index);
                }
                3 => {
                    let pair = (world.dice.roll(3) as usize, world.dice.roll(3) as usize);
                    world.cut.insert(pair);
                }
                4 => world.cut.clear(),
                5 => world.loss_percent = world.dice.roll(30),
                _ => {}
            }
            for _ in 0..world.dice.roll(120) {
                if world.dice.roll(3) == 0 {
                    world.write_somewhere();
                }
                if world.dice.roll(6) == 0 {
                    world.read_somewhere();
                }
                world.step();
            }
        }
        world.settle();
        for _ in 0..1_000 {
            world.step();
        }
        world.check();
        // And it serves on.
        let before = world.acknowledged.len();
        for _ in 0..10 {
            world.write_somewhere();
            world.step();
        }
        world.settle();
        world.check();
        prop_assert_eq!(world.acknowledged.len(), before + 10);
    }
}
