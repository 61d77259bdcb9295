//! The engine and the fan-out of its cores in one thread, over a simulated disk, driven at random.
//!
//! Messages between engine and cores wait in queues of the test's own, so every delay between the two
//! happens; slices and queues are tiny (see `limits.rs`). What clients received is compared with the
//! filtered history, and after a crash with what was acknowledged.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use keelson_proto::etcdserverpb::request_op::Request as Op;
use keelson_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchResponse,
};
use keelson_storage::ids::{ClusterId, MemberId, Revision, ShardId};
use keelson_storage::io::{Disk, SimDisk};
use keelson_storage::mvcc::Reuse;
use keelson_storage::snapshot::{BuilderConfig, StoreConfig};
use keelson_storage::state::{Member, Request, Response};
use keelson_storage::wal::WalConfig;
use proptest::prelude::*;
use prost::Message;

use super::limits::MEMORY_VERSIONS_BYTES_MIN;
use super::message::{Answer, Ask, Inbound, NO_TOKEN, Outbound, StreamKey, Token, key_in_range};
use super::{CheckpointConfig, Disks, Engine, EngineConfig, EngineError, GroupConfig, Slices};
use crate::config::AutoCompaction;
use crate::fanout::{FanOut, OpenedAt, WatchSpec};
use crate::runtime::ManualClock;

const CORES: usize = 2;

fn me() -> Member {
    Member {
        id: 11,
        name: "m".to_owned(),
        ..Member::default()
    }
}

pub(super) fn config() -> EngineConfig {
    EngineConfig {
        shard: ShardId(0),
        member: MemberId(11),
        cluster: ClusterId(22),
        group: GroupConfig {
            founding: vec![me()],
            ..GroupConfig::default()
        },
        seed: 7,
        quota_bytes: None,
        auto_compact: AutoCompaction::Off,
        checkpoint: CheckpointConfig {
            commands: 20,
            log_bytes: (1, 1 << 20),
            interval_us: None,
            bytes_per_second: 1 << 30,
            reuse: Reuse::NONE,
            builder: BuilderConfig {
                page_bytes: 4096,
                values_run_bytes_max: 1,
                ..BuilderConfig::default()
            },
        },
        compare: Default::default(),
        snapshots: StoreConfig {
            cache_bytes_max: 4096,
            ..StoreConfig::default()
        },
        memory_budget_bytes: 1 << 20,
        slices: Slices::default(),
        wal_depth: 2,
        cores: CORES,
        api_version: "3.6.0".to_owned(),
        storage_version: "3.6.0".to_owned(),
    }
}

pub(super) fn disks(seed: u64) -> Disks<SimDisk> {
    Disks {
        lane: SimDisk::new(seed),
        snapshots: SimDisk::new(!seed),
    }
}

/// What is left on the disks of an engine when the power fails.
pub(super) fn crash(engine: Engine<SimDisk>) -> Disks<SimDisk> {
    Disks {
        lane: engine.wal.into_disk().crash(),
        snapshots: engine.snapshots.into_disk().crash(),
    }
}

pub(super) fn open(disks: Disks<SimDisk>, clock: &ManualClock) -> Engine<SimDisk> {
    try_open(disks, clock).expect("a sound disk opens")
}

pub(super) fn try_open<D: Disk + Send>(
    disks: Disks<D>,
    clock: &ManualClock,
) -> Result<Engine<D>, EngineError> {
    open_with(disks, config(), 256 << 10, clock)
}

fn open_with<D: Disk + Send>(
    disks: Disks<D>,
    config: EngineConfig,
    segment_bytes: u64,
    clock: &ManualClock,
) -> Result<Engine<D>, EngineError> {
    let member = me();
    let wal = WalConfig {
        segment_bytes,
        ..WalConfig::default()
    };
    Ok(Engine::open(disks, wal, config, member, clock)?.0)
}

/// One event as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    revision: i64,
    key: Bytes,
    tombstone: bool,
    prev: Option<Bytes>,
}

/// What a client knows of one of its watchers.
#[derive(Debug)]
struct WatchModel {
    spec: WatchSpec,
    /// Revision in the answer that created it.
    created_at: i64,
    seen: Vec<Seen>,
    ended: bool,
}

#[derive(Debug, Default)]
struct StreamModel {
    /// Specs sent and not yet answered.
    asked: VecDeque<WatchSpec>,
    watches: BTreeMap<i64, WatchModel>,
    progress: i64,
}

struct Core {
    fanout: FanOut,
    from_engine: VecDeque<Outbound>,
    streams: Vec<(StreamKey, StreamModel)>,
}

struct World {
    engine: Engine<SimDisk>,
    clock: ManualClock,
    cores: Vec<Core>,
    history: Vec<Seen>,
    /// The value of every key.
    values: BTreeMap<Bytes, Bytes>,
    compacted: i64,
    next_token: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = ManualClock::default();
        let engine = open(disks(seed), &clock);
        let cores = (0..CORES)
            .map(|_| Core {
                fanout: FanOut::new(22, 11, 400),
                from_engine: VecDeque::new(),
                streams: Vec::new(),
            })
            .collect();
        Self {
            engine,
            clock,
            cores,
            history: Vec::new(),
            values: BTreeMap::new(),
            compacted: 0,
            next_token: 0,
        }
    }

    fn write(&mut self, request: Request) {
        self.next_token += 1;
        let body = request.encode_body();
        let inbound = Inbound {
            token: Token(self.next_token),
            ask: Ask::Write { request, body },
        };
        self.engine.on_inbound(0, inbound);
    }

    fn step(&mut self) {
        self.clock.advance_us(300);
        self.engine.step(&self.clock).expect("the disk works");
        let known = self.history.last().map_or(1, |seen| seen.revision);
        for change in self.engine.state().changes_from(Revision(known + 1)) {
            let record = change.change().record;
            let key = Bytes::copy_from_slice(record.key());
            let value = Bytes::copy_from_slice(record.value());
            let prev = self.values.remove(&key);
            if !record.tombstone {
                self.values.insert(key.clone(), value);
            }
            self.history.push(Seen {
                revision: record.revision.0,
                key,
                tombstone: record.tombstone,
                prev,
            });
        }
        self.compacted = self.engine.state().compact_revision().0;
        for port in 0..CORES {
            while let Some(reply) = self.engine.take_reply(port) {
                self.cores[port].from_engine.push_back(reply);
            }
            let batch = self.engine.publish(port);
            if let Some(batch) = batch.expect("no value is damaged") {
                self.engine.on_published(port, &batch);
                self.cores[port]
                    .from_engine
                    .push_back(Outbound::Batch(batch));
            }
        }
    }

    /// Delivers up to `count` messages to a core, and the core's questions to the engine.
    fn deliver(&mut self, port: usize, count: usize) {
        let core = &mut self.cores[port];
        for _ in 0..count {
            let Some(message) = core.from_engine.pop_front() else {
                break;
            };
            match message {
                Outbound::Reply { .. } => {}
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
                Outbound::Leap { .. } => unreachable!("no other member sends a snapshot"),
                Outbound::Learner(_) => {}
                Outbound::Progress { stream, revision } => {
                    core.fanout.on_progress(stream, revision);
                }
            }
        }
        for ask in core.fanout.take_asks() {
            let inbound = Inbound {
                token: NO_TOKEN,
                ask,
            };
            self.engine.on_inbound(port, inbound);
        }
    }

    /// The clients of a core read up to `count` responses from each of their streams.
    fn read(&mut self, port: usize, count: usize) {
        let core = &mut self.cores[port];
        for (key, model) in &mut core.streams {
            for _ in 0..count {
                let Some(framed) = core.fanout.take_response(*key) else {
                    break;
                };
                let response =
                    WatchResponse::decode(&framed[5..]).expect("responses are well formed");
                model.on_response(response, &self.history);
            }
        }
        self.deliver(port, 0);
    }

    fn settle(&mut self) {
        for _ in 0..2_000 {
            self.step();
            for port in 0..CORES {
                self.deliver(port, usize::MAX);
                self.read(port, usize::MAX);
            }
        }
    }
}

impl StreamModel {
    fn on_response(&mut self, response: WatchResponse, history: &[Seen]) {
        let revision = response
            .header
            .expect("every response has a header")
            .revision;
        if response.created {
            let spec = self.asked.pop_front().expect("one answer per request");
            assert!(!response.canceled, "nothing is refused here");
            let model = WatchModel {
                spec,
                created_at: revision,
                seen: Vec::new(),
                ended: false,
            };
            assert!(self.watches.insert(response.watch_id, model).is_none());
        } else if response.canceled {
            self.watches
                .get_mut(&response.watch_id)
                .expect("a watch was created before it ends")
                .ended = true;
        } else if response.events.is_empty() {
            self.on_progress(response.watch_id, revision, history);
        } else {
            self.on_events(response, revision);
        }
    }

    /// G-W: everything up to the revision was delivered before, to every live watcher it speaks for.
    fn on_progress(&mut self, id: i64, revision: i64, history: &[Seen]) {
        for (watch_id, watch) in &self.watches {
            if !watch.ended && (id == -1 || id == *watch_id) {
                assert_eq!(
                    watch.seen.len(),
                    watch.wanted(history, revision).len(),
                    "progress to {revision} came ahead of events of watch {watch_id}"
                );
            }
        }
        assert!(id != -1 || revision >= self.progress, "progress went back");
        self.progress = self.progress.max(revision);
    }

    fn on_events(&mut self, response: WatchResponse, revision: i64) {
        let watch = self
            .watches
            .get_mut(&response.watch_id)
            .expect("events follow the answer that created the watch");
        assert!(!watch.ended, "events after the end");
        for event in response.events {
            let tombstone = event.r#type == 1;
            let kv = event.kv.expect("an event has its key");
            assert!(
                kv.mod_revision <= revision,
                "an event newer than its header"
            );
            watch.seen.push(Seen {
                revision: kv.mod_revision,
                key: kv.key,
                tombstone,
                prev: event.prev_kv.map(|prev| prev.value),
            });
        }
    }
}

impl WatchModel {
    /// What it should have seen when everything up to `through` is delivered.
    fn wanted(&self, history: &[Seen], through: i64) -> Vec<Seen> {
        let from = match self.spec.start_revision {
            0 => self.created_at + 1,
            start => start,
        };
        history
            .iter()
            .filter(|seen| (from..=through).contains(&seen.revision))
            .filter(|seen| key_in_range(&seen.key, &self.spec.key, &self.spec.range_end))
            .filter(|seen| {
                !(if seen.tombstone {
                    self.spec.no_delete
                } else {
                    self.spec.no_put
                })
            })
            .map(|seen| Seen {
                prev: seen.prev.clone().filter(|_| self.spec.prev_kv),
                ..seen.clone()
            })
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8, u8),
    Txn(Vec<u8>),
    Compact(u8),
    OpenStream(usize),
    Watch {
        core: usize,
        stream: usize,
        key: u8,
        end: Option<u8>,
        back: i64,
        bits: u8,
    },
    Cancel(usize, usize, i64),
    Progress(usize, usize),
    Interval(usize),
    Engine,
    Deliver(usize, usize),
    Read(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let core = 0..CORES;
    prop_oneof![
        6 => (0u8..6, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (0u8..6, 0u8..7).prop_map(|(from, to)| Step::Delete(from, to)),
        2 => proptest::collection::vec(0u8..6, 1..6).prop_map(Step::Txn),
        1 => (0u8..12).prop_map(Step::Compact),
        1 => core.clone().prop_map(Step::OpenStream),
        3 => (core.clone(), 0usize..3, 0u8..6, proptest::option::of(0u8..8), -3i64..15, any::<u8>())
            .prop_map(|(core, stream, key, end, back, bits)| Step::Watch { core, stream, key, end, back, bits }),
        1 => (core.clone(), 0usize..3, 0i64..6).prop_map(|(core, stream, id)| Step::Cancel(core, stream, id)),
        2 => (core.clone(), 0usize..3).prop_map(|(core, stream)| Step::Progress(core, stream)),
        1 => core.clone().prop_map(Step::Interval),
        8 => Just(Step::Engine),
        6 => (core.clone(), 1usize..5).prop_map(|(core, count)| Step::Deliver(core, count)),
        4 => (core, 1usize..4).prop_map(|(core, count)| Step::Read(core, count)),
    ]
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'a' + number])
}

pub(super) fn put(number: u8, value: u8) -> PutRequest {
    PutRequest {
        key: key(number),
        value: Bytes::from(vec![value; 20]),
        ..PutRequest::default()
    }
}

/// Twelve commands of some 400 bytes take a block and a quarter: the last three wait for the next group.
#[test]
fn commands_that_would_begin_a_block_are_left_to_the_next_group() {
    let mut world = World::new(9);
    world.settle();
    // The attest that follows a rest is a group, too.
    let written = |world: &World| {
        let counters = world.engine.wal.counters();
        counters.groups - counters.attests
    };
    let before = written(&world);
    for number in 0..12 {
        world.write(Request::Put(PutRequest {
            value: Bytes::from(vec![number; 400]),
            ..put(number, number)
        }));
    }
    world.step();
    let sealed: Vec<usize> = world
        .engine
        .proposed
        .iter()
        .map(|entry| entry.commands.len())
        .collect();
    assert_eq!((&sealed[..], world.engine.queue.len()), (&[9][..], 3));
    world.settle();
    assert_eq!(world.engine.state().revision(), Revision(13));
    assert_eq!(written(&world) - before, 2);

    // Fewer than four are not worth it, however much a block holds besides.
    for number in 0..3 {
        world.write(Request::Put(PutRequest {
            value: Bytes::from(vec![number; 1_500]),
            ..put(number, number)
        }));
    }
    world.step();
    assert!(world.engine.queue.is_empty());
    world.settle();
    assert_eq!(world.engine.state().revision(), Revision(16));
}

impl World {
    fn perform(&mut self, step: Step) {
        match step {
            Step::Put(number, value) => self.write(Request::Put(put(number, value))),
            Step::Delete(from, to) => self.write(Request::DeleteRange(DeleteRangeRequest {
                key: key(from),
                range_end: key(to),
                prev_kv: false,
            })),
            Step::Txn(mut numbers) => {
                numbers.sort_unstable();
                numbers.dedup();
                let success = numbers.into_iter().map(|number| RequestOp {
                    request: Some(Op::RequestPut(put(number, number))),
                });
                self.write(Request::Txn(TxnRequest {
                    success: success.collect(),
                    ..TxnRequest::default()
                }));
            }
            Step::Compact(back) => {
                let revision = self.engine.state().revision().0 - i64::from(back);
                self.write(Request::Compact(CompactionRequest {
                    revision,
                    physical: back % 2 == 0,
                }));
            }
            Step::OpenStream(core) => {
                let core = &mut self.cores[core];
                if core.streams.len() < 3 {
                    let stream = core.fanout.open_stream();
                    core.streams.push((stream, StreamModel::default()));
                }
            }
            Step::Watch {
                core,
                stream,
                key: number,
                end,
                back,
                bits,
            } => self.watch(core, stream, number, end, back, bits),
            Step::Cancel(core, stream, id) => {
                let core = &mut self.cores[core];
                if let Some((key, model)) = core.streams.get_mut(stream)
                    && model.watches.get(&id).is_some_and(|watch| !watch.ended)
                {
                    core.fanout.cancel(*key, id);
                }
            }
            Step::Progress(core, stream) => {
                let core = &mut self.cores[core];
                if let Some((key, _)) = core.streams.get(stream) {
                    core.fanout.request_progress(*key);
                }
            }
            Step::Interval(core) => self.cores[core].fanout.on_progress_interval(),
            Step::Engine => self.step(),
            Step::Deliver(core, count) => self.deliver(core, count),
            Step::Read(core, count) => self.read(core, count),
        }
    }

    fn watch(
        &mut self,
        core: usize,
        stream: usize,
        number: u8,
        end: Option<u8>,
        back: i64,
        bits: u8,
    ) {
        let current = self.engine.state().revision().0;
        let start = current + 1 - back;
        let core = &mut self.cores[core];
        let Some((stream, model)) = core.streams.get_mut(stream) else {
            return;
        };
        if !core.fanout.takes_requests(*stream) {
            return;
        }
        let range_end = match end {
            None => Bytes::new(),
            Some(7) => Bytes::from_static(&[0]),
            Some(end) => key(end.max(number + 1)),
        };
        let spec = WatchSpec {
            key: key(number),
            range_end,
            no_put: bits & 0b11_0000 == 0b11_0000,
            no_delete: bits & 0b1100_0000 == 0b1100_0000,
            prev_kv: bits & 1 != 0,
            progress_notify: bits & 2 != 0,
            fragment: bits & 4 != 0,
            start_revision: if bits & 8 != 0 { 0 } else { start.max(1) },
            watch_id: 0,
        };
        core.fanout.request_create(*stream, spec.clone());
        model.asked.push_back(spec);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// G-W-1 to G-W-9, but for what leader changes add.
    #[test]
    fn g_w_watches_equal_filtered_history(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 20..250),
    ) {
        let mut world = World::new(seed);
        for step in steps {
            world.perform(step);
        }
        world.settle();
        let through = world.engine.state().revision().0;
        for core in &world.cores {
            for (_, stream) in &core.streams {
                prop_assert!(stream.asked.is_empty(), "every create is answered");
                for (id, watch) in &stream.watches {
                    let wanted = watch.wanted(&world.history, through);
                    if watch.ended {
                        prop_assert!(
                            wanted.starts_with(&watch.seen),
                            "watch {} saw {:?}, wanted a prefix of {:?}", id, watch.seen, wanted
                        );
                    } else {
                        prop_assert_eq!(&watch.seen, &wanted, "watch {}", id);
                    }
                }
            }
        }
        prop_assert!(world.engine.state().scrubbed_revision() >= world.engine.state().compact_revision());
    }

    /// G-D-1: what was acknowledged is there after a crash, and nothing that was never asked for.
    #[test]
    fn g_d_1_acknowledged_writes_survive_crashes(
        seed in any::<u64>(),
        rounds in proptest::collection::vec((1usize..40, 0usize..12), 1..5),
    ) {
        let clock = ManualClock::default();
        let mut engine = open(disks(seed), &clock);
        let mut acknowledged: BTreeMap<Bytes, i64> = BTreeMap::new();
        let mut asked = 0u64;
        let mut revision = 0;
        for (writes, turns) in rounds {
            let mut waiting = BTreeMap::new();
            for _ in 0..writes {
                asked += 1;
                let request = PutRequest {
                    key: Bytes::from(format!("k{asked}")),
                    value: Bytes::from(asked.to_le_bytes().to_vec()),
                    ..PutRequest::default()
                };
                waiting.insert(asked, request.key.clone());
                let request = Request::Put(request);
                let body = request.encode_body();
                engine.on_inbound(0, Inbound { token: Token(asked), ask: Ask::Write { request, body } });
                if asked.is_multiple_of(5) {
                    clock.advance_us(100);
                    engine.step(&clock).expect("the disk works");
                }
            }
            for _ in 0..turns {
                clock.advance_us(100);
                engine.step(&clock).expect("the disk works");
            }
            while let Some(message) = engine.take_reply(0) {
                let Outbound::Reply { token, result } = message else { continue };
                let Ok(Answer::Response(Response::Put(response))) = result else {
                    panic!("a put succeeds");
                };
                let at = response.header.expect("a header").revision;
                prop_assert!(at > revision, "revisions go up, also over crashes");
                revision = at;
                acknowledged.insert(waiting[&token.0].clone(), at);
            }
            engine = open(crash(engine), &clock);
            prop_assert!(engine.state().revision().0 >= revision, "no revision goes back");
            for (key, at) in &acknowledged {
                let range = RangeRequest { key: key.clone(), ..RangeRequest::default() };
                let found = engine.state().select(&range).expect("a get works");
                prop_assert_eq!(found.records.len(), 1, "{:?} was acknowledged", key);
                prop_assert_eq!(found.records[0].revision.0, *at);
            }
            let all = RangeRequest {
                key: Bytes::from_static(b"k"),
                range_end: Bytes::from_static(b"l"),
                ..RangeRequest::default()
            };
            let all = engine.state().select(&all).expect("a range works");
            prop_assert_eq!(all.records.len() as i64, engine.state().revision().0 - 1);
            revision = engine.state().revision().0;
        }
    }
}

#[test]
fn a_data_directory_keeps_its_identity() {
    let clock = ManualClock::default();
    let engine = open(disks(7), &clock);
    let other = EngineConfig {
        cluster: ClusterId(23),
        ..config()
    };
    let disks = crash(engine);
    let wal = WalConfig {
        segment_bytes: 256 << 10,
        ..WalConfig::default()
    };
    let member = Member {
        id: 99,
        name: "renamed".to_owned(),
        ..Member::default()
    };
    let engine = Engine::open(disks, wal, other, member, &clock);
    let engine = engine.expect("founding flags do not matter any more").0;
    assert_eq!(engine.identity(), (MemberId(11), ClusterId(22)));
    let members = &engine.state().cluster().members;
    assert_eq!(members[&MemberId(11)].name, "renamed");
}

#[test]
fn commands_that_come_faster_than_checkpoints_wait_and_memory_stays_bounded() {
    flood(24 << 20);
    // Less than the least that versions may take.
    flood(4 << 20);
}

fn flood(budget_bytes: u64) {
    const VALUE_BYTES: usize = 16 << 10;
    let clock = ManualClock::default();
    let config = EngineConfig {
        checkpoint: CheckpointConfig {
            commands: u64::MAX,
            // Far less than what comes in.
            bytes_per_second: 1 << 20,
            builder: BuilderConfig::default(),
            ..config().checkpoint
        },
        memory_budget_bytes: budget_bytes,
        ..config()
    };
    let engine = open_with(disks(5), config, 4 << 20, &clock);
    let mut engine = engine.expect("a sound disk opens");
    let (mut asked, mut answered, mut held_back) = (0, 0, 0);
    for turn in 0.. {
        assert!(
            turn < 200_000,
            "commands wait for ever: {answered} answered"
        );
        if answered == 4000 {
            break;
        }
        for _ in 0..20.min(4000 - asked) {
            asked += 1;
            let request = Request::Put(PutRequest {
                key: Bytes::from(format!("k{asked}")),
                value: Bytes::from(vec![asked as u8; VALUE_BYTES]),
                ..PutRequest::default()
            });
            let body = request.encode_body();
            let ask = Ask::Write { request, body };
            let token = Token(asked);
            engine.on_inbound(0, Inbound { token, ask });
        }
        clock.advance_us(100);
        engine.step(&clock).expect("the disk works");
        held_back += u64::from(engine.is_held_back());
        let memory = engine.state().memory_bytes();
        let bound = budget_bytes + 2 * MEMORY_VERSIONS_BYTES_MIN;
        assert!(memory.versions() <= bound, "{memory:?}");
        while let Some(reply) = engine.take_reply(0) {
            let Outbound::Reply { result, .. } = reply else {
                panic!("nobody watches");
            };
            result.expect("nothing is refused");
            answered += 1;
        }
    }
    assert!(held_back > 0, "the writer was never faster than the disk");
    assert!(engine.checkpoints_completed() >= 3);
}
