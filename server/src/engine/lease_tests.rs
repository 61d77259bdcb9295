//! Leases in the engine, on a simulated disk: what a keep-alive promised holds, whatever happens next.

use std::collections::BTreeMap;

use keelson_proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, PutRequest};
use keelson_storage::ids::LeaseId;
use keelson_storage::io::SimDisk;
use keelson_storage::state::{Renewal, Request};
use proptest::prelude::*;

use super::Engine;
use super::engine_tests::{crash, disks, open, put};
use super::limits::{LEASE_CHECK_INTERVAL_US, LEASE_RENEW_AHEAD_MS, LEASE_TICK_INTERVAL_US};
use super::message::{Answer, Ask, Inbound, Outbound, Token};
use crate::runtime::ManualClock;

fn run_until_answered(engine: &mut Engine<SimDisk>, clock: &ManualClock) -> Answer {
    for _ in 0..1_000 {
        clock.advance_us(100);
        engine.step(clock).expect("the disk works");
        if let Some(Outbound::Reply { result, .. }) = engine.take_reply(0) {
            return result.expect("the request succeeds");
        }
    }
    panic!("no answer");
}

fn ask(engine: &mut Engine<SimDisk>, clock: &ManualClock, request: Request) -> Answer {
    let body = request.encode_body();
    send(engine, Ask::Write { request, body });
    run_until_answered(engine, clock)
}

fn send(engine: &mut Engine<SimDisk>, ask: Ask) {
    let token = Token(1);
    engine.on_inbound(0, Inbound { token, ask });
}

fn grant(engine: &mut Engine<SimDisk>, clock: &ManualClock, id: i64, ttl: i64) {
    let grant = Request::LeaseGrant(LeaseGrantRequest { ttl, id });
    ask(engine, clock, grant);
}

fn renewals(ids: &[i64]) -> Vec<Renewal> {
    let ids = ids.iter().map(|id| LeaseId(*id));
    ids.map(|id| Renewal { id, ttl_seconds: 0 }).collect()
}

/// The TTLs that keep-alives are answered.
fn keep_alive(engine: &mut Engine<SimDisk>, clock: &ManualClock, ids: &[i64]) -> Vec<i64> {
    send(engine, Ask::LeaseKeepAlive(renewals(ids)));
    ttls(ids, run_until_answered(engine, clock))
}

fn ttls(ids: &[i64], answer: Answer) -> Vec<i64> {
    let Answer::LeaseKeepAlive(header, renewals) = answer else {
        panic!("keep-alives are answered with theirs, not {answer:?}");
    };
    assert!(header.revision > 0);
    let answered = renewals.iter().map(|renewal| renewal.id.0);
    assert_eq!(answered.collect::<Vec<_>>(), ids, "in order");
    renewals.iter().map(|renewal| renewal.ttl_seconds).collect()
}

/// Lets time pass in turns of 10 ms.
fn wait_ms(engine: &mut Engine<SimDisk>, clock: &ManualClock, milliseconds: u64) {
    for _ in 0..milliseconds / 10 {
        clock.advance_us(10_000);
        engine.step(clock).expect("the disk works");
    }
}

fn lives(engine: &Engine<SimDisk>, id: i64) -> bool {
    engine.state().lease(LeaseId(id)).is_some()
}

#[test]
fn g_l_3_leases_keep_their_remaining_time_over_a_crash() {
    let clock = ManualClock::default();
    let mut engine = open(disks(5), &clock);
    let grant = Request::LeaseGrant(LeaseGrantRequest { ttl: 100, id: 7 });
    ask(&mut engine, &clock, grant);
    clock.advance_us(60_000_000);
    for _ in 0..20 {
        engine.step(&clock).expect("the disk works");
    }
    let mut engine = open(crash(engine), &clock);
    // While nobody serves, a lease does not age.
    clock.advance_us(1_000_000);
    engine.step(&clock).expect("the disk works");
    let lease = engine.state().lease(LeaseId(7)).expect("the lease lives");
    let left = lease.remaining_ttl_seconds(engine.lease_clock.now());
    assert!((38..=41).contains(&left), "{left} seconds left");
    assert_eq!(keep_alive(&mut engine, &clock, &[7]), [100]);
    clock.advance_us(60_000_000);
    engine.step(&clock).expect("the disk works");
    let engine = open(crash(engine), &clock);
    assert!(
        engine.state().lease(LeaseId(7)).is_some(),
        "renewed in time"
    );
}

#[test]
fn g_l_1_a_lease_that_ran_out_takes_its_keys_with_it_in_one_revision() {
    let clock = ManualClock::default();
    let mut engine = open(disks(6), &clock);
    let grant = Request::LeaseGrant(LeaseGrantRequest { ttl: 2, id: 7 });
    ask(&mut engine, &clock, grant);
    for number in 0..3 {
        let request = PutRequest {
            lease: 7,
            ..put(number, 1)
        };
        ask(&mut engine, &clock, Request::Put(request));
    }
    let before = engine.state().revision();
    for _ in 0..40 {
        clock.advance_us(100_000);
        engine.step(&clock).expect("the disk works");
    }
    assert_eq!(engine.state().revision(), before.next());
    assert_eq!(engine.state().key_count(), 0);
    assert!(engine.state().lease(LeaseId(7)).is_none());
}

#[test]
fn keep_alives_of_a_lease_that_was_just_written_need_no_log() {
    let clock = ManualClock::default();
    let mut engine = open(disks(8), &clock);
    let ids: Vec<i64> = (1..=10).collect();
    for id in &ids {
        grant(&mut engine, &clock, *id, 5);
    }
    let asked = [&ids[..], &[99]].concat();
    let wanted = [&[5; 10][..], &[0]].concat();
    assert_eq!(keep_alive(&mut engine, &clock, &asked), wanted);
    let before = engine.facts().clone();
    for _ in 0..2_000 {
        clock.advance_us(1_000);
        send(&mut engine, Ask::LeaseKeepAlive(renewals(&asked)));
        engine.step(&clock).expect("the disk works");
        let Some(Outbound::Reply { result, .. }) = engine.take_reply(0) else {
            panic!("answered in the turn that saw it");
        };
        let answer = result.expect("keep-alives succeed");
        assert_eq!(ttls(&asked, answer), wanted);
    }
    let after = engine.facts();
    assert_eq!(after.leases_renewed - before.leases_renewed, 20_000);
    let written = after.commands_applied - before.commands_applied;
    // Every 250 ms, three leases a command.
    assert!((4..=40).contains(&written), "{written} commands");
    assert_eq!(after.proposals_failed, 0);
    wait_ms(&mut engine, &clock, 6_100);
    assert!(ids.iter().all(|id| !lives(&engine, *id)), "gone in time");
}

#[test]
fn g_l_3_what_memory_alone_answered_survives_a_crash() {
    for quiet_ms in [10, 200, 240, 260, 300, 490, 510, 2_900] {
        let clock = ManualClock::default();
        let mut engine = open(disks(quiet_ms), &clock);
        grant(&mut engine, &clock, 7, 3);
        keep_alive(&mut engine, &clock, &[7]);
        for _ in 0..3 {
            // Something else keeps the clock of the log going.
            wait_ms(&mut engine, &clock, quiet_ms);
            ask(&mut engine, &clock, Request::Put(put(1, 1)));
            assert_eq!(keep_alive(&mut engine, &clock, &[7]), [3]);
        }
        let mut engine = open(crash(engine), &clock);
        wait_ms(&mut engine, &clock, 2_990);
        assert!(lives(&engine, 7), "expired early after {quiet_ms} ms");
        wait_ms(&mut engine, &clock, 1_100);
        assert!(!lives(&engine, 7), "expired late after {quiet_ms} ms");
    }
}

#[test]
fn g_l_1_a_keep_alive_behind_an_expiry_is_not_told_that_the_lease_lives() {
    let clock = ManualClock::default();
    let mut engine = open(disks(9), &clock);
    grant(&mut engine, &clock, 7, 2);
    wait_ms(&mut engine, &clock, 1_900);
    clock.advance_us(600_000);
    engine.now_us += 600_100;
    engine.lease_clock.advance(engine.now_us);
    engine.upkeep();
    assert!(lives(&engine, 7), "its expiry is on the way only");
    assert_eq!(keep_alive(&mut engine, &clock, &[7]), [0]);
    assert!(!lives(&engine, 7));
}

#[test]
fn g_l_4_time_to_live_and_revocation_see_every_keep_alive() {
    let clock = ManualClock::default();
    let mut engine = open(disks(10), &clock);
    grant(&mut engine, &clock, 7, 10);
    let told = |engine: &mut Engine<SimDisk>| {
        let id = LeaseId(7);
        send(engine, Ask::LeaseTimeToLive { id, keys: false });
        match run_until_answered(engine, &clock) {
            Answer::LeaseTimeToLive(_, facts) => facts.map(|facts| facts.ttl_seconds),
            other => panic!("{other:?}"),
        }
    };
    wait_ms(&mut engine, &clock, 4_200);
    assert_eq!(told(&mut engine), Some(5));
    assert_eq!(keep_alive(&mut engine, &clock, &[7]), [10]);
    assert_eq!(told(&mut engine), Some(10), "not more than was granted");
    wait_ms(&mut engine, &clock, 300);
    keep_alive(&mut engine, &clock, &[7]);
    wait_ms(&mut engine, &clock, 900);
    assert_eq!(told(&mut engine), Some(9));
    keep_alive(&mut engine, &clock, &[7]);
    let revoke = Request::LeaseRevoke(LeaseRevokeRequest { id: 7 });
    ask(&mut engine, &clock, revoke);
    assert_eq!(told(&mut engine), None);
    assert_eq!(keep_alive(&mut engine, &clock, &[7, 7]), [0, 0]);
}

#[test]
fn g_l_5_many_leases_are_kept_alive_and_let_go() {
    let clock = ManualClock::default();
    let mut engine = open(disks(11), &clock);
    let ids: Vec<i64> = (1..=2_000).collect();
    for id in &ids {
        grant(&mut engine, &clock, *id, 2);
    }
    for round in 0..15 {
        wait_ms(
            &mut engine,
            &clock,
            if round % 3 == 0 { 1_500 } else { 100 },
        );
        let answers = keep_alive(&mut engine, &clock, &ids);
        assert!(answers.iter().all(|ttl| *ttl == 2), "round {round}");
    }
    wait_ms(&mut engine, &clock, 1_990);
    assert!(ids.iter().all(|id| lives(&engine, *id)));
    wait_ms(&mut engine, &clock, 4_000);
    assert_eq!(engine.state().lease_ids().len(), 0);
}

#[test]
fn a_stopping_engine_refuses_keep_alives() {
    let clock = ManualClock::default();
    let mut engine = open(disks(12), &clock);
    grant(&mut engine, &clock, 7, 10);
    keep_alive(&mut engine, &clock, &[7]);
    engine.stop();
    send(&mut engine, Ask::LeaseKeepAlive(renewals(&[7])));
    engine.step(&clock).expect("the disk works");
    let Some(Outbound::Reply { result, .. }) = engine.take_reply(0) else {
        panic!("refused at once");
    };
    assert_eq!(result.err(), Some(keelson_proto::ApiError::Stopped));
}

#[derive(Clone, Debug)]
enum Step {
    Grant(i64, i64),
    KeepAlive(Vec<i64>),
    Put(u8),
    Wait(u64),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1i64..5, 1i64..4).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        12 => proptest::collection::vec(1i64..5, 1..4).prop_map(Step::KeepAlive),
        2 => (0u8..3).prop_map(Step::Put),
        8 => (1u64..60).prop_map(|tens| Step::Wait(tens * 10)),
        2 => (60u64..250).prop_map(|tens| Step::Wait(tens * 10)),
        1 => Just(Step::Crash),
    ]
}

/// When a lease must still live and when it must be gone, on the client's clock.
#[derive(Clone, Copy, Debug)]
struct Promise {
    ttl_seconds: i64,
    until_us: u64,
    gone_us: u64,
}

struct World {
    engine: Engine<SimDisk>,
    clock: ManualClock,
    promises: BTreeMap<i64, Promise>,
}

impl World {
    fn promise(&mut self, id: i64, ttl_seconds: i64, asked_us: u64) {
        const SLACK_US: u64 = 100_000;
        let ttl_us = ttl_seconds as u64 * 1_000_000;
        let late_us = LEASE_RENEW_AHEAD_MS * 1_000 + LEASE_CHECK_INTERVAL_US + SLACK_US;
        let promise = Promise {
            ttl_seconds,
            until_us: asked_us + ttl_us,
            gone_us: now_us(&self.clock) + ttl_us + late_us,
        };
        self.promises.insert(id, promise);
    }

    fn perform(&mut self, step: Step) {
        let asked_us = now_us(&self.clock);
        match step {
            Step::Grant(id, ttl) if !lives(&self.engine, id) => {
                grant(&mut self.engine, &self.clock, id, ttl);
                self.promise(id, ttl, asked_us);
            }
            Step::Grant(..) => {}
            Step::KeepAlive(ids) => {
                let answers = keep_alive(&mut self.engine, &self.clock, &ids);
                for (id, ttl) in ids.into_iter().zip(answers) {
                    if ttl == 0 {
                        assert!(!lives(&self.engine, id), "told that {id} is gone");
                    } else {
                        assert_eq!(ttl, self.promises[&id].ttl_seconds);
                        self.promise(id, ttl, asked_us);
                    }
                }
            }
            Step::Put(number) => {
                ask(&mut self.engine, &self.clock, Request::Put(put(number, 1)));
            }
            Step::Wait(milliseconds) => wait_ms(&mut self.engine, &self.clock, milliseconds),
            Step::Crash => {
                let fresh = open(disks(0), &self.clock);
                let crashed = std::mem::replace(&mut self.engine, fresh);
                self.engine = open(crash(crashed), &self.clock);
                for promise in self.promises.values_mut() {
                    promise.gone_us += LEASE_TICK_INTERVAL_US + LEASE_CHECK_INTERVAL_US;
                }
            }
        }
    }

    fn check(&self) {
        let now_us = now_us(&self.clock);
        for (id, promise) in &self.promises {
            let lives = lives(&self.engine, *id);
            assert!(
                lives || now_us >= promise.until_us,
                "{id} expired early: {promise:?} at {now_us}"
            );
            assert!(
                !lives || now_us < promise.gone_us,
                "{id} expired late: {promise:?} at {now_us}"
            );
        }
    }
}

fn now_us(clock: &ManualClock) -> u64 {
    crate::runtime::Clock::now_us(clock)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// G-L-1, G-L-3: no lease goes before its last answered keep-alive said so, or much later.
    #[test]
    fn g_l_1_leases_live_as_long_as_promised(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 10..120),
    ) {
        let clock = ManualClock::default();
        let engine = open(disks(seed), &clock);
        let mut world = World { engine, clock, promises: BTreeMap::new() };
        for step in steps {
            world.perform(step);
            world.check();
        }
    }
}
