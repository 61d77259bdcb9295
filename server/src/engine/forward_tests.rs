//! What clients of any member see of a change of the leader, and of what the leader says.

use keelson_proto::etcdserverpb::{MemberPromoteRequest, MemberRemoveRequest};
use keelson_storage::state::{Member, MemberAdd};

use super::*;
use crate::engine::cluster_tests::{Asked, MEMBERS, Shape, World};
use crate::runtime::Clock;

impl World {
    fn leader(&self) -> usize {
        let engines = self.engines.iter().flatten();
        let mut leads = engines.filter(|engine| engine.node().is_leader());
        let leader = leads.next().expect("somebody leads").node().member();
        (leader.0 - 11) as usize
    }

    fn run(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    /// Until a member knows that nobody leads.
    fn run_until_leaderless(&mut self, index: usize) {
        let knows_one = |engine: &Option<_>| {
            let engine: &Engine<_> = engine.as_ref().expect("it runs");
            engine.node().leader().is_some()
        };
        while knows_one(&self.engines[index]) {
            self.step();
        }
    }

    /// What comes of a request at a member.
    fn answer_of(&mut self, index: usize, request: Request) -> Result<(), ApiError> {
        self.ask(index, Asked::Other(request));
        self.run(300);
        self.answers.pop().expect("the request was answered")
    }
}

fn change(request: Result<u64, u64>) -> Request {
    match request {
        Ok(id) => Request::MemberAdd(MemberAdd {
            member: Some(Member {
                id,
                peer_urls: vec![format!("http://x{id}:2380")],
                ..Member::default()
            }),
            learners_max: 1,
        }),
        Err(id) => Request::MemberRemove(MemberRemoveRequest { id }),
    }
}

#[test]
fn g_r_3_nobody_sees_a_planned_change_of_the_leader() {
    for seed in 1..=20 {
        let mut world = World::new(seed, Shape::LOG);
        world.settle();
        let mut asked = 0;
        for round in 0..10 {
            let to = round % MEMBERS;
            (0..MEMBERS).for_each(|index| world.ask(index, Asked::Move { to }));
            for _ in 0..80 {
                (0..MEMBERS).for_each(|index| world.write_at(index));
                asked += MEMBERS;
                world.read_somewhere();
                world.step();
            }
        }
        world.settle();
        world.run(100);
        world.check();
        assert_eq!(world.moves, 10);
        assert_eq!(world.refused, [], "seed {seed}");
        assert_eq!(world.acknowledged.len(), asked, "seed {seed}");
    }
}

#[test]
fn g_r_3_nobody_sees_that_a_leader_ends_in_order() {
    for seed in 1..=20 {
        let mut world = World::new(seed, Shape::LOG);
        world.settle();
        let mut asked = 0;
        for _ in 0..MEMBERS {
            let leader = world.leader();
            let engine = world.engines[leader].as_mut();
            engine.expect("it leads").stop();
            for _ in 0..150 {
                for other in (0..MEMBERS).filter(|other| *other != leader) {
                    world.write_at(other);
                    asked += 1;
                }
                world.step();
            }
            world.crash(leader);
            world.restart(leader);
            world.run(150);
        }
        world.settle();
        world.check();
        assert_eq!(world.refused, [], "seed {seed}");
        assert_eq!(world.acknowledged.len(), asked, "seed {seed}");
    }
}

#[test]
fn what_the_leader_says_reaches_the_client_of_another_member() {
    let mut world = World::new(9, Shape::LOG);
    world.settle();
    let leader = world.leader();
    let (near, far) = ((leader + 1) % MEMBERS, (leader + 2) % MEMBERS);
    let id = |index: usize| 11 + index as u64;
    // The state's word: nobody, and no learner.
    let nobody = world.answer_of(near, change(Err(99)));
    assert_eq!(nobody, Err(ApiError::MemberNotFound));
    let promote = Request::MemberPromote(MemberPromoteRequest { id: id(far) });
    let voter = world.answer_of(near, promote);
    assert_eq!(voter, Err(ApiError::MemberNotLearner));
    // The leader's: one is not there.
    world.crash(far);
    world.run(500);
    let unhealthy = world.answer_of(near, change(Err(id(near))));
    assert_eq!(unhealthy, Err(ApiError::Unhealthy));
    let unhealthy = world.answer_of(near, change(Ok(50)));
    assert_eq!(unhealthy, Err(ApiError::Unhealthy));
    world.restart(far);
    world.settle();
    // A learner that has nothing.
    let learner = Request::MemberAdd(MemberAdd {
        member: Some(Member {
            id: 60,
            is_learner: true,
            peer_urls: vec!["http://x60:2380".to_owned()],
            ..Member::default()
        }),
        learners_max: 1,
    });
    assert_eq!(world.answer_of(near, learner), Ok(()));
    let promote = Request::MemberPromote(MemberPromoteRequest { id: 60 });
    let lags = world.answer_of(near, promote);
    assert_eq!(lags, Err(ApiError::LearnerNotReady));
    assert_eq!(world.answer_of(near, change(Err(60))), Ok(()));
}

#[test]
fn a_change_waits_until_all_links_have_been_open_for_long_enough() {
    let mut world = World::new(9, Shape::LOG);
    world.settle();
    let leader = world.leader();
    let others: Vec<usize> = (0..MEMBERS).filter(|other| *other != leader).collect();
    let learner = |id: u64| {
        let add = MemberAdd {
            member: Some(Member {
                id,
                is_learner: true,
                peer_urls: vec![format!("http://x{id}:2380")],
                ..Member::default()
            }),
            learners_max: 9,
        };
        Request::MemberAdd(add)
    };
    let open = |world: &mut World, links: &[usize]| {
        let now_us = world.clock.now_us();
        let ids = links.iter().map(|other| MemberId(11 + *other as u64));
        let engine = world.engines[leader].as_mut().expect("it leads");
        engine.on_links(ids.map(|id| (id, now_us)).collect());
    };
    open(&mut world, &others);
    let fresh = world.answer_of(leader, learner(60));
    assert_eq!(fresh, Err(ApiError::Unhealthy));
    world.run(5_000);
    assert_eq!(world.answer_of(leader, learner(60)), Ok(()));
    // Its messages arrive, but there is no way to it.
    open(&mut world, &others[1..]);
    world.run(5_000);
    let deaf = world.answer_of(leader, learner(61));
    assert_eq!(deaf, Err(ApiError::Unhealthy));
}

#[test]
fn two_changes_at_once_from_two_members_are_both_answered() {
    let mut world = World::new(9, Shape::LOG);
    world.settle();
    let leader = world.leader();
    let others = [(leader + 1) % MEMBERS, (leader + 2) % MEMBERS];
    for (id, index) in (50..).zip(others) {
        world.ask(index, Asked::Other(change(Ok(id))));
    }
    world.run(300);
    assert_eq!(world.answers.len(), 2, "{:?}", world.answers);
    assert!(world.answers.contains(&Ok(())));
}

#[test]
fn a_write_waits_for_a_leader_and_hears_after_a_while_that_there_is_none() {
    let mut world = World::new(4, Shape::LOG);
    world.settle();
    let leader = world.leader();
    let (near, far) = ((leader + 1) % MEMBERS, (leader + 2) % MEMBERS);
    world.crash(leader);
    world.crash(far);
    // Long enough to know that nobody leads, and for the patience of a few elections.
    world.run(2_000);
    world.write_at(near);
    world.run(10);
    assert_eq!(world.refused, [ApiError::NoLeader], "nobody waits any more");
    world.restart(far);
    world.run(2_000);
    world.crash(far);
    // It was just there: the write waits, and is taken when somebody leads again.
    world.run_until_leaderless(near);
    world.write_at(near);
    world.run(100);
    assert_eq!(world.refused.len(), 1);
    world.restart(far);
    world.run(1_000);
    assert_eq!(world.acknowledged.len(), 1);
    // Nobody comes: it hears so.
    world.crash(far);
    world.run_until_leaderless(near);
    world.write_at(near);
    world.run(2_000);
    assert_eq!(world.refused, [ApiError::NoLeader; 2]);
}

/// Nothing is sent where there is no link, and that is not the end of it.
#[test]
fn a_command_that_found_no_link_waits_for_one() {
    let mut world = World::new(6, Shape::LOG);
    world.settle();
    let near = (world.leader() + 1) % MEMBERS;
    world.write_at(near);
    let engine = world.engines[near].as_mut().expect("it runs");
    engine.step(&world.clock).expect("the disk works");
    let items = engine.take_peer_items();
    let forwards = items
        .iter()
        .filter(|(_, item)| matches!(item, Item::Forward(_)));
    assert_eq!(forwards.count(), 1);
    for (to, item) in &items {
        engine.on_unsent(*to, item);
    }
    world.run(200);
    assert_eq!(world.refused, []);
    assert_eq!(world.acknowledged.len(), 1);
    world.check();
}

#[test]
fn every_refusal_says_the_same_to_the_client_as_at_the_leader() {
    for error in [
        ApiError::TooManyRequests,
        ApiError::NoSpace,
        ApiError::Unhealthy,
        ApiError::MemberNotEnoughStarted,
        ApiError::LearnerNotReady,
    ] {
        assert_eq!(error_of(refusal_of(error)), Some(error));
    }
    // Another member may take these.
    for error in [ApiError::NoLeader, ApiError::Stopped] {
        assert_eq!(error_of(refusal_of(error)), None);
    }
}
