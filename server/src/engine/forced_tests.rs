//! A member that begins a cluster of its own because all others are lost: whatever it was, it decides alone, and nobody
//! else is left.

use bytes::Bytes;
use keelson_proto::etcdserverpb::PutRequest;
use keelson_storage::ids::MemberId;
use keelson_storage::io::SimDisk;
use keelson_storage::state::{Member, MemberAdd, Request};
use keelson_storage::wal::WalConfig;

use super::cluster_tests::{STEP_US, member};
use super::engine_tests::{config, crash, disks};
use super::message::{Answer, Ask, Inbound, Outbound, Token};
use super::{Disks, Engine, EngineConfig, GroupConfig};
use crate::runtime::ManualClock;

/// A member by its place, in a cluster that member 0 founded. `seed` is another one for every start.
pub(super) fn start(
    index: usize,
    disks: Disks<SimDisk>,
    (seed, forces_new_cluster): (u64, bool),
    clock: &ManualClock,
) -> Engine<SimDisk> {
    let founder = vec![Member {
        name: String::new(),
        client_urls: Vec::new(),
        ..member(0)
    }];
    let (founding, peers) = match index {
        0 => (founder, Vec::new()),
        _ => (Vec::new(), founder),
    };
    let config = EngineConfig {
        member: MemberId(11 + index as u64),
        group: GroupConfig {
            is_identity_certain: true,
            founding,
            peers,
            tick_us: 20_000,
            is_strict: false,
            forces_new_cluster,
            ..GroupConfig::default()
        },
        seed: seed * 100 + index as u64,
        cores: 1,
        ..config()
    };
    let wal = WalConfig {
        segment_bytes: 256 << 10,
        ..WalConfig::default()
    };
    let opened = Engine::open(disks, wal, config, member(index), clock);
    opened.expect("a sound disk opens").0
}

pub(super) fn add(index: usize, is_learner: bool) -> Request {
    Request::MemberAdd(MemberAdd {
        member: Some(Member {
            is_learner,
            name: String::new(),
            client_urls: Vec::new(),
            ..member(index)
        }),
        learners_max: 1,
    })
}

pub(super) fn put(key: &str) -> Request {
    Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..PutRequest::default()
    })
}

pub(super) fn ask(engine: &mut Engine<SimDisk>, request: Request) {
    let body = request.encode_body();
    let token = Token(1);
    let ask = Ask::Write { request, body };
    engine.on_inbound(0, Inbound { token, ask });
}

/// Two members for a while; what each says to the others is lost.
pub(super) fn run(pair: &mut [Engine<SimDisk>; 2], steps: usize, clock: &ManualClock) {
    for _ in 0..steps {
        clock.advance_us(STEP_US);
        for at in 0..2 {
            pair[at].step(clock).expect("the disk works");
            let from = pair[at].node().member();
            for (to, item) in pair[at].take_peer_items() {
                if pair[1 - at].node().member() == to {
                    pair[1 - at].on_peer(from, item).expect("a sound message");
                }
            }
        }
    }
}

/// It decides alone, nobody else is known, and a write is answered.
fn serves_alone(engine: &mut Engine<SimDisk>, clock: &ManualClock) {
    let me = engine.node().member();
    let known: Vec<_> = engine.state().cluster().members.values().collect();
    assert_eq!(known.len(), 1, "{known:?}");
    assert_eq!((known[0].id, known[0].is_learner), (me.0, false));
    assert!(engine.node().membership().is_sole_voter(me));
    while engine.take_reply(0).is_some() {}
    ask(engine, put("after"));
    for _ in 0..10 {
        clock.advance_us(STEP_US);
        engine.step(clock).expect("the disk works");
    }
    let reply = engine.take_reply(0);
    let is_done = |reply: &Outbound| matches!(reply, Outbound::Reply { result, .. } if matches!(result, Ok(Answer::Response(_))));
    assert!(reply.as_ref().is_some_and(is_done), "{reply:?}");
}

/// A learner or a voter beside member 0, and what is left on its disks.
fn second_of_two(is_learner: bool, clock: &ManualClock) -> Disks<SimDisk> {
    let mut first = start(0, disks(1), (1, false), clock);
    ask(&mut first, add(1, is_learner));
    let mut pair = [first, start(1, disks(2), (2, false), clock)];
    run(&mut pair, 1_000, clock);
    ask(&mut pair[0], put("before"));
    run(&mut pair, 1_000, clock);
    let [_, second] = pair;
    assert_eq!(second.state().cluster().members.len(), 2);
    let learners = &second.node().membership().learners;
    assert_eq!(learners.contains(&MemberId(12)), is_learner);
    assert_eq!(second.state().key_count(), 1);
    crash(second)
}

#[test]
fn g_r_3_a_member_that_is_forced_to_begin_a_new_cluster_decides_alone() {
    for is_learner in [true, false] {
        let clock = ManualClock::default();
        let disks = second_of_two(is_learner, &clock);
        let mut alone = start(1, disks, (3, true), &clock);
        serves_alone(&mut alone, &clock);
        assert_eq!(alone.state().key_count(), 2);
        // It stays so without the flag.
        let mut again = start(1, crash(alone), (4, false), &clock);
        serves_alone(&mut again, &clock);
    }
}

/// The old leader had just taken somebody in when it was lost, and nobody knows whether that counts.
#[test]
fn g_r_3_a_forced_cluster_does_not_wait_for_whom_its_last_entries_brought() {
    let clock = ManualClock::default();
    let mut first = start(0, disks(1), (1, false), &clock);
    ask(&mut first, add(1, false));
    let mut pair = [first, start(1, disks(2), (2, false), &clock)];
    run(&mut pair, 1_000, &clock);
    // The entry reaches the second member, and its commit index does not.
    ask(&mut pair[0], add(2, false));
    for _ in 0..5 {
        clock.advance_us(STEP_US);
        pair[0].step(&clock).expect("the disk works");
    }
    for (to, item) in pair[0].take_peer_items() {
        if to == MemberId(12) {
            let heard = pair[1].on_peer(MemberId(11), item);
            heard.expect("a sound message");
        }
    }
    for _ in 0..20 {
        pair[1].step(&clock).expect("the disk works");
    }
    let [_, second] = pair;
    assert_eq!(second.state().cluster().members.len(), 2);
    assert!(second.node().last() > second.node().committed());
    let mut alone = start(1, crash(second), (3, true), &clock);
    serves_alone(&mut alone, &clock);
    let removed = &alone.state().cluster().removed;
    assert_eq!(removed.len(), 2, "the new one as well");
}
