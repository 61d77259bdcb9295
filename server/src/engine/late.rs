//! What the clients of commands under way hear when the leader is lost: etcd's words.
//!
//! Whether a command that was on its way to a lost leader is in the log, is known when its successor's log is: what the old
//! leader had made of it and the successor does not have, is never committed. One that met no lost leader takes as long as
//! it takes, and at the end of its time its client hears what may have been the reason.
//!
//! ```text
//!   own, replaced by an entry of a later term     possibly due to previous leader failure, at once (`apply.rs`)
//!   forwarded, and a later term has begun here    the same, an election timeout later: its leader may live, refuse it for
//!                                                 certain, and then it goes to the successor (`forward.rs`)
//!   its time is up                                the same, if it came shortly before the present leader was known;
//!                                                 possibly due to connection lost, if the link to the leader is younger than
//!                                                 it, or the leader's to a quorum; else it timed out
//! ```
//!
//! etcd waits until the time is up in every case. Each of these errors leaves open whether the command took effect: a leader
//! that was only slow may lead once more, and then propose it.
//!
//! Reads are not lost with a leader. etcd refuses those under way (`etcdserver: leader changed`) and its clients ask again;
//! here the new leader is asked for them (`quorum_reads.rs`).

use keelson_proto::ApiError;
use keelson_storage::ids::{MemberId, Term};
use keelson_storage::io::Disk;

use super::limits::LEADER_FAIL_ELECTIONS;
use super::shard::{Engine, Origin};

/// What this member has seen of leaders.
#[derive(Debug, Default)]
pub(super) struct Leaders {
    /// The last one.
    known: Option<MemberId>,
    /// When it was first known to lead.
    elected_us: Option<u64>,
    /// Term of the last entry that was applied.
    applied_term: Term,
    /// Forwarded commands of terms before this one are given up at this time.
    lost: Option<(Term, u64)>,
}

impl<D: Disk> Engine<D> {
    /// Looks who leads and which terms have begun, once a turn.
    pub(super) fn review_leaders(&mut self) {
        let leader = self.node.leader();
        let term = self.state.applied().term;
        let leaders = &mut self.leaders;
        if leader != leaders.known {
            leaders.known = leader;
            if leader.is_some() {
                leaders.elected_us = Some(self.now_us);
            }
        }
        if term > leaders.applied_term {
            leaders.applied_term = term;
            let group = &self.config.group;
            let grace_us = group.tick_us * group.election_ticks as u64;
            leaders.lost = Some((term, self.now_us + grace_us));
        }
    }

    /// Tells the clients of commands that went to a lost leader.
    pub(super) fn give_lost_up(&mut self) {
        let Some((term, at_us)) = self.leaders.lost else {
            return;
        };
        if self.now_us < at_us {
            return;
        }
        self.leaders.lost = None;
        for origin in self.take_forwarded_before(term) {
            self.facts.proposals_failed += 1;
            if let Origin::Engine = origin {
                // If it was the alarm, it is still due.
                self.nospace_proposed = false;
            }
            self.reply(origin, Err(ApiError::TimeoutDueToLeaderFail));
        }
    }

    /// Why a command that came at this time may not have been answered in time.
    pub(super) fn why_late(&self, since_us: u64) -> ApiError {
        let group = &self.config.group;
        let before_us = group.tick_us * group.election_ticks as u64 * LEADER_FAIL_ELECTIONS;
        let met_the_change = self
            .leaders
            .elected_us
            .is_some_and(|elected_us| since_us < elected_us && elected_us < since_us + before_us);
        if met_the_change {
            return ApiError::TimeoutDueToLeaderFail;
        }
        let me = self.config.member;
        let is_connected = match self.node.leader() {
            None => true,
            Some(leader) if leader == me => {
                let members = self.state.cluster().members.keys();
                let count = members.len();
                let connected = members.filter(|id| self.is_connected_since(**id, since_us));
                connected.count() > count / 2
            }
            Some(leader) => self.is_connected_since(leader, since_us),
        };
        match is_connected {
            true => ApiError::Timeout,
            false => ApiError::TimeoutDueToConnectionLost,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::engine::cluster_tests::{Asked, MEMBERS, Shape, World};
    use crate::runtime::Clock;

    fn id(index: usize) -> MemberId {
        MemberId(11 + index as u64)
    }

    fn leader_of(world: &World) -> usize {
        let mut engines = world.engines.iter().flatten();
        let leads = engines.position(|engine| engine.node().is_leader());
        leads.expect("somebody leads")
    }

    #[test]
    fn g_r_3_a_command_that_went_to_a_lost_leader_is_given_up_when_there_is_another() {
        for seed in 1..=10 {
            let mut world = World::new(seed, Shape::LOG);
            world.settle();
            let leader = leader_of(&world);
            let near = (leader + 1) % MEMBERS;
            world.write_at(near);
            let engine = world.engines[near].as_mut().expect("it runs");
            engine.step(&world.clock).expect("the disk works");
            // What it sent is lost with the leader.
            assert!(!engine.take_peer_items().is_empty());
            world.crash(leader);
            let mut steps = 0;
            while world.refused.is_empty() {
                world.step();
                steps += 1;
                assert!(steps < 2_000, "a few elections");
            }
            assert_eq!(world.refused, [ApiError::TimeoutDueToLeaderFail]);
            // One that comes now finds the new leader.
            world.write_at(near);
            for _ in 0..300 {
                world.step();
            }
            assert_eq!(world.refused.len(), 1, "seed {seed}");
            assert_eq!(world.acknowledged.len(), 1, "seed {seed}");
            world.restart(leader);
            world.settle();
            world.check();
        }
    }

    #[test]
    fn what_is_late_has_etcds_reasons() {
        let mut world = World::new(3, Shape::LOG);
        world.settle();
        let leader = leader_of(&world);
        let near = (leader + 1) % MEMBERS;
        for _ in 0..1_000 {
            world.step();
        }
        let now_us = world.clock.now_us();
        let engine = world.engines[near].as_mut().expect("it runs");
        assert!(
            engine
                .leaders
                .elected_us
                .is_some_and(|at_us| at_us < now_us)
        );
        let elected_us = now_us - 100;
        engine.leaders.elected_us = Some(elected_us);
        // Two election timeouts of 200 ms.
        for (since_us, why) in [
            (elected_us + 1, ApiError::Timeout),
            (elected_us - 1, ApiError::TimeoutDueToLeaderFail),
            (elected_us - 400_000, ApiError::Timeout),
        ] {
            assert_eq!(engine.why_late(since_us), why, "{since_us}");
        }
        let links = |indexes: &[usize]| -> BTreeMap<MemberId, u64> {
            indexes.iter().map(|index| (id(*index), now_us)).collect()
        };
        let lost = ApiError::TimeoutDueToConnectionLost;
        // Younger than the command, and older.
        engine.on_links(links(&[leader]));
        assert_eq!(engine.why_late(now_us - 1), lost);
        assert_eq!(engine.why_late(now_us + 1), ApiError::Timeout);
        engine.on_links(links(&[]));
        assert_eq!(engine.why_late(now_us + 1), lost);
        // A leader needs a quorum.
        let far = (leader + 2) % MEMBERS;
        let engine = world.engines[leader].as_mut().expect("it leads");
        for (connected, why) in [(&[][..], lost), (&[far][..], ApiError::Timeout)] {
            engine.on_links(links(connected));
            assert_eq!(engine.why_late(now_us + 1), why, "{connected:?}");
        }
    }

    #[test]
    fn a_read_that_nobody_can_answer_times_out() {
        let mut world = World::new(8, Shape::LOG);
        world.settle();
        let leader = leader_of(&world);
        for lost in (0..MEMBERS).filter(|index| *index != leader) {
            world.crash(lost);
        }
        let asked_us = world.clock.now_us();
        let seen = BTreeSet::new();
        world.ask(leader, Asked::Read { seen });
        while world.refused.is_empty() {
            world.step();
            assert!(world.clock.now_us() < asked_us + 10_000_000, "it ends");
        }
        assert_eq!(world.refused, [ApiError::Timeout]);
        // Five seconds and two election timeouts.
        assert!(world.clock.now_us() >= asked_us + 5_400_000);
    }
}
