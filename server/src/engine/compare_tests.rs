//! Members that hold other data than the rest are found, named, and answer nothing.

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    AlarmMember, AlarmType, CompactionRequest, PutRequest, RangeRequest,
};
use keelson_storage::state::Request;

use super::CompareConfig;
use super::cluster_tests::{MEMBERS, Shape, World};
use super::message::{Ask, Inbound, Outbound, Token};

const EVERY_100_MS: CompareConfig = CompareConfig {
    interval_us: Some(100_000),
    after_compaction_us: None,
    at_start: false,
};

fn world(seed: u64, compare: CompareConfig) -> World {
    let shape = Shape {
        compare,
        ..Shape::LOG
    };
    let mut world = World::new(seed, shape);
    world.settle();
    for _ in 0..20 {
        world.write_somewhere();
        world.step();
    }
    world.settle();
    world
}

/// Something changes in one member's memory that no log says.
fn corrupt(world: &mut World, index: usize) {
    let engine = world.engines[index].as_mut().expect("it runs");
    let at = engine.state.applied();
    let put = Request::Put(PutRequest {
        key: Bytes::from_static(b"rogue"),
        ..PutRequest::default()
    });
    engine.state.apply(at, &put).expect("a put");
    // What comes now has other revisions there.
    for _ in 0..10 {
        world.write_at((index + 1) % MEMBERS);
        world.step();
    }
}

fn run(world: &mut World, steps: usize) {
    for _ in 0..steps {
        world.step();
    }
}

fn alarms(world: &World) -> Vec<Vec<AlarmMember>> {
    let engines = world.engines.iter().flatten();
    engines.map(|engine| engine.state().alarms()).collect()
}

/// What a member answers to a read of its own state.
fn read(world: &mut World, index: usize) -> Result<(), ApiError> {
    let engine = world.engines[index].as_mut().expect("it runs");
    let ask = Ask::Range(RangeRequest {
        key: Bytes::from_static(b"k"),
        serializable: true,
        ..RangeRequest::default()
    });
    let token = Token(u64::MAX - 1);
    engine.on_inbound(0, Inbound { token, ask });
    match engine.take_reply(0) {
        Some(Outbound::Reply { result, .. }) => result.map(|_| ()),
        other => panic!("a read is answered at once: {other:?}"),
    }
}

fn expect_alarm_for(world: &mut World, odd: usize) {
    let alarm = AlarmMember {
        member_id: 11 + odd as u64,
        alarm: AlarmType::Corrupt as i32,
    };
    assert_eq!(alarms(world), vec![vec![alarm]; MEMBERS]);
    for index in 0..MEMBERS {
        let expected = if index == odd {
            Err(ApiError::Corrupt)
        } else {
            Ok(())
        };
        assert_eq!(read(world, index), expected);
    }
}

#[test]
fn whoever_holds_other_data_than_the_majority_is_named_and_answers_nothing() {
    for odd in 0..MEMBERS {
        let mut world = world(60, EVERY_100_MS);
        run(&mut world, 1_000);
        assert_eq!(alarms(&world), vec![Vec::new(); MEMBERS], "all is well");
        corrupt(&mut world, odd);
        run(&mut world, 1_000);
        expect_alarm_for(&mut world, odd);
    }
}

#[test]
fn members_are_compared_after_a_compaction() {
    let after_compaction = CompareConfig {
        interval_us: None,
        after_compaction_us: Some(50_000),
        at_start: false,
    };
    let mut world = world(61, after_compaction);
    corrupt(&mut world, 1);
    run(&mut world, 1_000);
    assert_eq!(alarms(&world), vec![Vec::new(); MEMBERS]);
    let request = Request::Compact(CompactionRequest {
        revision: 5,
        physical: false,
    });
    let body = request.encode_body();
    let engine = world.engines[0].as_mut().expect("it runs");
    let ask = Ask::Write { request, body };
    let token = super::message::NO_TOKEN;
    engine.on_inbound(0, Inbound { token, ask });
    run(&mut world, 1_000);
    expect_alarm_for(&mut world, 1);
}

#[test]
fn a_member_that_starts_with_other_data_ends() {
    let at_start = CompareConfig {
        interval_us: None,
        after_compaction_us: None,
        at_start: true,
    };
    let mut world = world(62, at_start);
    run(&mut world, 1_000);
    assert!(world.engines.iter().all(Option::is_some), "all is well");
    world.crash(2);
    world.restart(2);
    corrupt(&mut world, 2);
    run(&mut world, 1_000);
    assert!(world.engines[2].is_none(), "it ended");
    assert_eq!(world.engines.iter().flatten().count(), MEMBERS - 1);
    world.restart(2);
    run(&mut world, 1_000);
    assert!(world.engines[2].is_some(), "its log was right");
}
