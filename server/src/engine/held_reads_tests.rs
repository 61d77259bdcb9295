//! Reads that come while a command waits for a value from the disk, and what others commit meanwhile.

use std::collections::VecDeque;

use bytes::Bytes;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::{Compare, TxnRequest};
use keelson_storage::ids::MemberId;
use keelson_storage::state::Request;

use super::cluster_tests::{Asked, MEMBERS, Shape, World};
use super::message::{Ask, Inbound, NO_TOKEN};

/// A command whose outcome depends on the value of a key.
fn compare(key: &Bytes) -> Inbound {
    let request = Request::Txn(TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Value as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::Value(Bytes::from_static(b"value"))),
            ..Compare::default()
        }],
        ..TxnRequest::default()
    });
    let body = request.encode_body();
    Inbound {
        token: NO_TOKEN,
        ask: Ask::Write { request, body },
    }
}

/// The leader's place, and another member's that has started anew, so that its values are on its disk.
fn leader_and_follower(world: &mut World) -> (usize, usize) {
    world.settle();
    for _ in 0..40 {
        world.write_somewhere();
        world.step();
    }
    world.settle();
    let follower = (0..MEMBERS).find(|index| {
        let engine = world.engines[*index].as_ref().expect("nobody crashed");
        !engine.node().is_leader()
    });
    let follower = follower.expect("one of three leads");
    world.crash(follower);
    world.restart(follower);
    world.settle();
    let engine = world.engines[follower].as_ref().expect("it was restarted");
    let leader = engine.node().leader().expect("the group has settled");
    (follower, (leader.0 - MemberId(11).0) as usize)
}

/// The simulator's seeds 1128, 1434 and 1892: a read that was held back while a command was applied was answered from the
/// state as it was then, without asking whether others had committed more.
#[test]
fn g_kv_1_a_read_held_while_a_command_is_applied_sees_what_others_committed_meanwhile() {
    let mut world = World::new(23, Shape::SNAPSHOTS);
    let (follower, leader) = leader_and_follower(&mut world);
    let keys: VecDeque<Bytes> = world.acknowledged.iter().cloned().collect();
    let mut keys = keys.into_iter();
    let is_applying = |world: &World| {
        let engine = world.engines[follower].as_ref();
        engine.is_some_and(|engine| engine.applying.is_some())
    };
    // A command of which the follower waits for the value, and then it stands still and hears nothing.
    while !is_applying(&world) {
        let key = keys.next().expect("a value is on the disk only");
        let engine = world.engines[leader].as_mut().expect("it runs");
        engine.on_inbound(0, compare(&key));
        for _ in 0..60 {
            if !is_applying(&world) {
                world.step();
            }
        }
    }
    world.still.insert(follower);
    for other in (0..MEMBERS).filter(|other| *other != follower) {
        world.cut.insert((follower, other));
        world.cut.insert((other, follower));
    }
    let before = world.acknowledged.len();
    world.write_at(leader);
    for _ in 0..100 {
        world.step();
    }
    assert_eq!(world.acknowledged.len(), before + 1, "two of three commit");

    // A read that must see it is held back, and asks for its index as soon as the command is applied.
    let seen = world.acknowledged.clone();
    world.ask(follower, Asked::Read { seen });
    let engine = world.engines[follower].as_ref().expect("it runs");
    assert_eq!(engine.held_reads.len(), 1);
    world.still.clear();
    for _ in 0..50 {
        world.step();
    }
    assert!(!is_applying(&world), "the value has come");
    assert_eq!(world.reads, 0, "nobody has told it the index yet");
    world.settle();
    // The question was lost, and is asked again after a while.
    for _ in 0..1_000 {
        world.step();
    }
    assert_eq!(world.reads, 1);
}
