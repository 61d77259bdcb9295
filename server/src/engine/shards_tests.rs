//! Several shards over one lane, on simulated disks, with power failures.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};
use keelson_storage::ids::{LaneId, Lsn, ShardId};
use keelson_storage::io::SimDisk;
use keelson_storage::state::{Member, Request};
use keelson_storage::wal::{WalConfig, WalCounters};
use proptest::prelude::*;

use super::engine_tests::config;
use super::message::{Answer, Ask, Inbound, Outbound, Token};
use super::{
    CheckpointConfig, EngineConfig, EngineError, GroupConfig, ShardPast, ShardSeat, Shards,
    open_lane,
};
use crate::runtime::ManualClock;

const SHARDS: [ShardId; 3] = [ShardId(0), ShardId(7), ShardId(9)];
const TURN_US: u64 = 500;
/// So that segments are used up and trimmed all the time.
const SEGMENT_BYTES: u64 = 64 << 10;
const VALUE_BYTES: usize = 700;

fn member() -> Member {
    Member {
        id: 11,
        name: "m".to_owned(),
        ..Member::default()
    }
}

fn shard_config(shard: ShardId) -> EngineConfig {
    EngineConfig {
        shard,
        group: GroupConfig {
            founding: vec![member()],
            ..GroupConfig::default()
        },
        checkpoint: CheckpointConfig {
            commands: 40,
            log_bytes: (16 << 10, 128 << 10),
            ..config().checkpoint
        },
        seed: u64::from(shard.0) + 1,
        cores: 1,
        ..config()
    }
}

struct World {
    clock: ManualClock,
    shards: Shards<SimDisk>,
    next_token: u64,
    asked: Vec<BTreeMap<u64, Bytes>>,
    acknowledged: Vec<BTreeSet<Bytes>>,
}

fn open(
    (lane, snapshots): (SimDisk, Vec<SimDisk>),
    ids: &[ShardId],
    past: ShardPast,
    clock: &ManualClock,
) -> Result<Shards<SimDisk>, EngineError> {
    let seats = snapshots
        .into_iter()
        .zip(ids)
        .map(|(snapshots, shard)| ShardSeat {
            snapshots,
            config: shard_config(*shard),
            member: member(),
            past,
        });
    let wal = WalConfig {
        segment_bytes: SEGMENT_BYTES,
        ..WalConfig::default()
    };
    let lane = (LaneId(0), lane);
    Ok(open_lane(lane, wal, seats.collect(), clock)?.0)
}

fn new_disks(seed: u64) -> (SimDisk, Vec<SimDisk>) {
    let snapshots = SHARDS
        .iter()
        .map(|shard| SimDisk::new(seed ^ u64::from(shard.0) << 20));
    (SimDisk::new(!seed), snapshots.collect())
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = ManualClock::default();
        let shards = open(new_disks(seed), &SHARDS, ShardPast::New, &clock);
        Self {
            clock,
            shards: shards.expect("new disks open"),
            next_token: 0,
            asked: vec![BTreeMap::new(); SHARDS.len()],
            acknowledged: vec![BTreeSet::new(); SHARDS.len()],
        }
    }

    fn put(&mut self, place: usize) {
        self.next_token += 1;
        let token = self.next_token;
        let key = Bytes::from(format!("{token:06}"));
        let put = Request::Put(PutRequest {
            key: key.clone(),
            value: vec![b'v'; VALUE_BYTES].into(),
            ..PutRequest::default()
        });
        let body = put.encode_body();
        self.asked[place].insert(token, key);
        let ask = Ask::Write { request: put, body };
        let token = Token(token);
        let engine = self.shards.engine(place);
        engine.on_inbound(0, Inbound { token, ask });
    }

    fn turn(&mut self) {
        self.clock.advance_us(TURN_US);
        self.shards.turn(&self.clock).expect("sound disks");
        for place in 0..SHARDS.len() {
            let engine = self.shards.engine(place);
            engine.pump_snapshots().expect("a sound disk");
            while let Some(reply) = engine.take_reply(0) {
                let Outbound::Reply { token, result } = reply else {
                    continue;
                };
                if let (Some(key), Ok(_)) = (self.asked[place].remove(&token.0), result) {
                    self.acknowledged[place].insert(key);
                }
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.turn();
            if self.asked.iter().all(BTreeMap::is_empty) {
                return;
            }
        }
        panic!("writes are not answered: {:?}", self.asked);
    }

    fn crash(mut self) -> Self {
        let (lane, snapshots) = self.shards.into_disks();
        let snapshots = snapshots.into_iter().map(SimDisk::crash).collect();
        let disks = (lane.crash(), snapshots);
        self.shards =
            open(disks, &SHARDS, ShardPast::Known, &self.clock).expect("what is left opens");
        self.asked = vec![BTreeMap::new(); SHARDS.len()];
        self
    }

    fn keys(&mut self, place: usize) -> BTreeSet<Bytes> {
        let ask = Ask::Range(RangeRequest {
            key: Bytes::from_static(&[0]),
            range_end: Bytes::from_static(&[0]),
            ..RangeRequest::default()
        });
        let token = Token(u64::MAX - 1);
        self.shards
            .engine(place)
            .on_inbound(0, Inbound { token, ask });
        for _ in 0..10_000 {
            let engine = self.shards.engine(place);
            while let Some(reply) = engine.take_reply(0) {
                if let Outbound::Reply {
                    result: Ok(Answer::Range(_, selection)),
                    ..
                } = reply
                {
                    let records = selection.records.iter();
                    return records
                        .map(|record| Bytes::copy_from_slice(record.key()))
                        .collect();
                }
            }
            self.shards.turn(&self.clock).expect("sound disks");
        }
        panic!("a range is not answered");
    }

    fn check(&mut self) {
        for place in 0..SHARDS.len() {
            let keys = self.keys(place);
            let lost: Vec<_> = self.acknowledged[place].difference(&keys).collect();
            assert!(lost.is_empty(), "shard {place} lost {lost:?}");
            let others = (0..SHARDS.len()).filter(|other| *other != place);
            for other in others {
                let strange: Vec<_> = self.acknowledged[other].intersection(&keys).collect();
                assert!(
                    strange.is_empty(),
                    "shard {place} has {strange:?} of {other}"
                );
            }
            let revision = self.shards.engine(place).state().revision().0;
            assert_eq!(
                revision,
                1 + keys.len() as i64,
                "revisions are a shard's own"
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Turns(usize),
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        // The last shard is hardly ever written to.
        12 => (0..2usize).prop_map(Step::Put),
        1 => Just(Step::Put(2)),
        6 => (1..4usize).prop_map(Step::Turns),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn g_d_1_no_shard_loses_what_it_acknowledged_on_a_lane_that_is_shared_and_trimmed(
        seed: u64,
        steps in steps(),
    ) {
        let mut world = World::new(seed);
        for step in steps {
            match step {
                Step::Put(place) => world.put(place),
                Step::Turns(count) => (0..count).for_each(|_| world.turn()),
                Step::Crash => {
                    world = world.crash();
                    world.check();
                }
            }
        }
        world.settle();
        world.check();
        world.crash().check();
    }
}

#[test]
fn what_all_shards_say_in_a_turn_is_one_flush() {
    let mut world = World::new(1);
    world.settle();
    // Neither what a rest attests nor what ends a segment is a group of records.
    let groups = |now: &WalCounters| now.groups - now.attests - now.segments_begun;
    let before = world.shards.engine(0).wal().counters().clone();
    for round in 0..20 {
        for place in 0..SHARDS.len() {
            world.put(place);
        }
        world.settle();
        let now = world.shards.engine(0).wal().counters().clone();
        assert!(now.records - before.records >= 3 * (round + 1));
        assert_eq!(
            groups(&now) - groups(&before),
            round + 1,
            "one group for three shards"
        );
    }
}

#[test]
fn a_shard_at_rest_does_not_keep_the_log_of_the_others() {
    let mut world = World::new(2);
    world.put(2);
    world.settle();
    let first = |world: &mut World| world.shards.engine(0).wal().first_lsn();
    assert_eq!(first(&mut world), Lsn(1));
    for _ in 0..200 {
        for _ in 0..8 {
            world.put(0);
        }
        world.settle();
    }
    assert!(first(&mut world) > Lsn(30), "{:?}", first(&mut world));
    let files = world.shards.engine(0).wal().counters().segments_recycled;
    assert!(files > 0, "segments are used again");
    let mut world = world.crash();
    world.check();
    assert_eq!(world.keys(2).len(), 1);
}

#[test]
fn a_group_that_was_never_founded_does_not_keep_the_log_of_the_others() {
    let clock = ManualClock::default();
    let (lane, snapshots) = new_disks(3);
    let seats = snapshots.into_iter().zip(SHARDS).map(|(snapshots, shard)| {
        let mut config = shard_config(shard);
        if shard == SHARDS[2] {
            // Two others of three never come.
            config.group.founding = vec![
                Member { id: 12, ..member() },
                Member { id: 13, ..member() },
                member(),
            ];
        }
        ShardSeat {
            snapshots,
            config,
            member: member(),
            past: ShardPast::Known,
        }
    });
    let mut seats: Vec<_> = seats.collect();
    seats.iter_mut().for_each(|seat| seat.past = ShardPast::New);
    let wal = WalConfig {
        segment_bytes: SEGMENT_BYTES,
        ..WalConfig::default()
    };
    // The second place is not `main`, so that the third founds its group by itself.
    seats.swap(0, 1);
    let (shards, _) = open_lane((LaneId(0), lane), wal, seats, &clock).expect("new disks open");
    let mut world = World {
        shards,
        clock,
        ..World::new(4)
    };
    for _ in 0..200 {
        for _ in 0..8 {
            world.put(0);
        }
        world.settle();
    }
    let first = world.shards.engine(0).wal().first_lsn();
    assert!(first > Lsn(30), "{first:?}");
    assert!(world.shards.engine(2).node().leader().is_none());
}

#[test]
fn a_shard_that_vanished_or_was_never_configured_stops_the_start() {
    let mut world = World::new(5);
    for place in 0..SHARDS.len() {
        world.put(place);
    }
    world.settle();
    let clock = world.clock.clone();
    let (lane, mut snapshots) = world.shards.into_disks();
    let lane = lane.crash();
    snapshots.truncate(2);
    let error = open((lane, snapshots), &SHARDS[..2], ShardPast::Known, &clock);
    let error = error.err().expect("records of nobody");
    assert!(
        matches!(error, EngineError::StrangeShard { shard, .. } if shard == SHARDS[2]),
        "{error}"
    );

    let mut world = World::new(6);
    world.settle();
    let (lane, _) = world.shards.into_disks();
    let (_, mut snapshots) = new_disks(6);
    snapshots.push(SimDisk::new(0));
    let ids = [SHARDS[0], SHARDS[1], SHARDS[2], ShardId(10)];
    let error = open((lane.crash(), snapshots), &ids, ShardPast::Known, &clock);
    let error = error.err().expect("a shard that was there has no record");
    assert!(matches!(error, EngineError::LostState(_)), "{error}");
}
