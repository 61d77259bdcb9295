//! A member whose disk has no room for the next segment of its log.
//!
//! ```text
//!   the next segment cannot be made   the member lacks room. It says so to the others, again and again, and to its operator; what
//!                                     is left of the present segment is used up
//!   and the present one is full       nothing more becomes durable here until there is room; tried once a second:
//!                                     it accepts nothing, votes for nobody, and catches up when there is room. Nothing is
//!                                     applied here either, so its own clients' writes are refused with NOSPACE
//!   it leads others                   one that has room takes over
//! ```
//!
//! A cluster goes on as long as the voters that have room are a quorum. (etcd 3.5.1 ends when it cannot write its log, and the others
//! go on as well.) Nobody refuses anything for the sake of one disk then, and no alarm is raised: an alarm NOSPACE stops the writes of
//! all. When they are a quorum no more, every member that a client asks refuses puts, and the alarm is raised for each
//! voter that lacks room: what is left of the logs is for deletes and compactions (`admit.rs`). It stays until it is disarmed, as the one
//! for the quota of the database; the log itself goes on when there is room. Who decides alone is its own quorum.
//!
//! What one member says of its disk is believed for [`ROOM_BELIEVED_US`]: one that is not heard of is a matter of raft's.
//!
//! Nothing of the log is lost by all that, and nothing was acknowledged that is not durable on a quorum, so there is nothing
//! to end for: what was appended waits in memory, bounded as always. Who is told to end meanwhile ends with an error that says so.

use std::collections::BTreeMap;

use bytes::Bytes;
use keelson_consensus::replicate::Item;
use keelson_storage::ids::MemberId;
use keelson_storage::io::{Disk, DiskError};

use super::limits::{OFFICE_OFFERED_AGAIN_US, ROOM_BELIEVED_US, ROOM_TOLD_AGAIN_US};
use super::shard::Engine;

/// Kind of the server's own item: whether the sender lacks room, as one byte.
pub(super) const ROOM: u8 = 68;

/// What the members have said about their disks, and what was done about it.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Whether this member lacks room.
    is_lacking: bool,
    /// Whether it was said that nothing becomes durable any more.
    is_stuck: bool,
    /// When the others are told again.
    tell_at_us: u64,
    /// When the leadership is offered again.
    offers_at_us: u64,
    /// Others that lack room, and when they last said so.
    others: BTreeMap<MemberId, u64>,
}

impl<D: Disk> Engine<D> {
    /// Says so when this member begins to lack room, and when it has room again; gives the leadership away meanwhile.
    pub(super) fn advance_room(&mut self) {
        let is_lacking = matches!(self.wal.prepare_failure(), Some(DiskError::NoSpace { .. }));
        let shard = self.config.shard;
        if is_lacking != self.room.is_lacking {
            self.room.is_lacking = is_lacking;
            self.room.tell_at_us = 0;
            match is_lacking {
                true => tracing::error!(
                    %shard,
                    "the disk of this member is full: there is no room for the next segment of its log. The cluster goes on \
                     while the members that have room are a quorum; make room on the disk of the data directory"
                ),
                false => tracing::info!(%shard, "the disk has room for the log again"),
            }
        }
        self.review_stuck();
        if !is_lacking && self.room.others.is_empty() && self.room.tell_at_us != 0 {
            return;
        }
        let believed_from_us = self.now_us.saturating_sub(ROOM_BELIEVED_US);
        let others = &mut self.room.others;
        others.retain(|_, said_us| *said_us >= believed_from_us);
        self.tell_room(is_lacking);
        self.leave_office();
    }

    /// Says so when nothing more becomes durable, and when that is over.
    fn review_stuck(&mut self) {
        let (is_stuck, shard) = (self.wal.is_out_of_room(), self.config.shard);
        if is_stuck == std::mem::replace(&mut self.room.is_stuck, is_stuck) {
            return;
        }
        match is_stuck {
            true => tracing::error!(
                %shard,
                "the log needs its next segment and cannot make it: nothing more is written here until there is room on the disk of \
                 the data directory; what was acknowledged is safe"
            ),
            false => tracing::info!(%shard, "the log goes on"),
        }
    }

    /// Tells the others, once or, while it lacks room, again and again.
    fn tell_room(&mut self, is_lacking: bool) {
        if self.now_us < self.room.tell_at_us || (!is_lacking && self.room.tell_at_us != 0) {
            return;
        }
        self.room.tell_at_us = self.now_us + ROOM_TOLD_AGAIN_US;
        let membership = self.node.membership();
        let everybody = membership.voters.iter().chain(&membership.learners);
        let others: Vec<_> = everybody
            .copied()
            .filter(|id| *id != self.config.member)
            .collect();
        for to in others {
            let body = Bytes::copy_from_slice(&[u8::from(is_lacking)]);
            self.group_send(to, Item::Server { kind: ROOM, body });
        }
    }

    /// Has a member lead that has room, if there is one.
    fn leave_office(&mut self) {
        let is_due = self.room.is_lacking && self.node.is_leader() && !self.is_alone();
        if is_due && self.now_us >= self.room.offers_at_us {
            self.room.offers_at_us = self.now_us + OFFICE_OFFERED_AGAIN_US;
            self.give_office_away();
        }
    }

    /// Another member says whether its disk has room.
    pub(super) fn on_room(&mut self, from: MemberId, body: &[u8]) {
        match body {
            [1] => {
                if self.room.others.insert(from, self.now_us).is_none() {
                    tracing::warn!(member = %from, shard = %self.config.shard, "the disk of another member is full");
                }
            }
            _ => {
                self.room.others.remove(&from);
            }
        }
    }

    /// Whether a member, as far as is known here, has no room for the next segment of its log.
    #[must_use]
    pub fn lacks_room(&self, member: MemberId) -> bool {
        match member == self.config.member {
            true => self.room.is_lacking,
            false => self.room.others.contains_key(&member),
        }
    }

    /// All of them.
    pub(super) fn lacking_room(&self) -> impl Iterator<Item = MemberId> + '_ {
        let me = self.room.is_lacking.then_some(self.config.member);
        me.into_iter().chain(self.room.others.keys().copied())
    }

    /// Whether the voters that have room are no quorum.
    pub(super) fn is_quorum_short_of_room(&self) -> bool {
        if !self.room.is_lacking && self.room.others.is_empty() {
            return false;
        }
        let voters = self.node.membership().voters;
        let lacking = voters.iter().filter(|id| self.lacks_room(**id)).count();
        voters.len() - lacking < voters.len() / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keelson_proto::ApiError;
    use keelson_proto::etcdserverpb::alarm_request::AlarmAction;
    use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, DeleteRangeRequest, PutRequest};
    use keelson_storage::io::SimDisk;
    use keelson_storage::state::Request;

    use super::*;
    use crate::engine::cluster_tests::{Asked, MEMBERS, Shape, World};
    use crate::engine::engine_tests::{crash, disks, open};
    use crate::engine::message::{Ask, Inbound, Outbound, Token};
    use crate::runtime::ManualClock;

    /// Takes place in the log, and none in the database.
    fn delete() -> Request {
        Request::DeleteRange(DeleteRangeRequest {
            key: Bytes::from_static(b"nothing"),
            ..DeleteRangeRequest::default()
        })
    }

    fn put(key: &str) -> Request {
        Request::Put(PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            ..PutRequest::default()
        })
    }

    fn ask(engine: &mut Engine<SimDisk>, request: Request) {
        let body = request.encode_body();
        let token = Token(1);
        let ask = Ask::Write { request, body };
        engine.on_inbound(0, Inbound { token, ask });
    }

    fn step(engine: &mut Engine<SimDisk>, clock: &ManualClock) -> Vec<Result<(), ApiError>> {
        clock.advance_us(1_000);
        engine.step(clock).expect("the log waits and does not fail");
        let replies = std::iter::from_fn(|| engine.take_reply(0));
        let results = replies.filter_map(|reply| match reply {
            Outbound::Reply { result, .. } => Some(result.map(|_| ())),
            _ => None,
        });
        results.collect()
    }

    #[test]
    fn g_d_6_who_decides_alone_refuses_and_goes_on_when_there_is_room() {
        let clock = ManualClock::default();
        let mut engine = open(disks(3), &clock);
        ask(&mut engine, put("before"));
        while step(&mut engine, &clock).is_empty() {}
        engine.wal.disk_mut().set_capacity_bytes(0);
        let (mut asked, mut answered) = (0, 0);
        while !engine.wal.is_out_of_room() {
            ask(&mut engine, delete());
            asked += 1;
            answered += step(&mut engine, &clock).len();
            assert!(asked < 1_000, "it fills up");
        }
        ask(&mut engine, delete());
        assert_eq!(step(&mut engine, &clock), [Err(ApiError::NoSpace)]);
        // It ends if it is told to, and says why.
        engine.stop();
        assert!(engine.is_drained());
        let error = engine.close().expect_err("not all of it is durable");
        assert!(error.to_string().contains("the disk is full"), "{error}");
        engine.stopping = false;
        engine.wal.disk_mut().set_capacity_bytes(u64::MAX);
        for _ in 0..3_000 {
            answered += step(&mut engine, &clock).len();
        }
        assert!(!engine.wal.is_out_of_room());
        assert_eq!(answered, asked, "what waited is answered");
        let again = open(crash(engine), &clock);
        assert_eq!(again.state().key_count(), 1);
    }

    fn leader_of(world: &World) -> usize {
        let mut engines = world.engines.iter().flatten();
        let leads = engines.position(|engine| engine.node().is_leader());
        leads.expect("somebody leads")
    }

    fn engine(world: &mut World, index: usize) -> &mut Engine<SimDisk> {
        world.engines[index].as_mut().expect("it runs")
    }

    fn set_capacity(world: &mut World, index: usize, bytes: u64) {
        let disk = engine(world, index).wal.disk_mut();
        disk.set_capacity_bytes(bytes);
    }

    fn run(world: &mut World, steps: usize) {
        (0..steps).for_each(|_| world.step());
    }

    /// The members for which the alarm is raised, as every member knows it.
    fn alarms(world: &mut World) -> Vec<u64> {
        let of = |engine: &Engine<SimDisk>| -> Vec<u64> {
            let alarms = engine.state().alarms();
            alarms.iter().map(|alarm| alarm.member_id).collect()
        };
        let all: Vec<_> = world.engines.iter().flatten().map(of).collect();
        assert_eq!(all[0], all[1]);
        all[0].clone()
    }

    #[test]
    fn g_r_3_one_full_disk_stops_nobody_else_and_two_of_three_stop_puts() {
        let mut world = World::new(14, Shape::LOG);
        world.settle();
        let leader = leader_of(&world);
        let (full, other) = ((leader + 1) % MEMBERS, (leader + 2) % MEMBERS);
        set_capacity(&mut world, full, 0);
        let mut asked = 0;
        while !engine(&mut world, full).wal.is_out_of_room() {
            world.write_at(other);
            world.step();
            asked += 1;
            assert!(asked < 20_000, "it fills up");
        }
        // The cluster goes on without it, and everybody knows whose disk it is.
        for _ in 0..1_000 {
            world.write_at(other);
            world.write_at(leader);
            world.step();
            asked += 2;
        }
        run(&mut world, 300);
        assert_eq!((world.refused.len(), world.acknowledged.len()), (0, asked));
        let id = MemberId(11 + full as u64);
        for index in 0..MEMBERS {
            let engine = engine(&mut world, index);
            assert!(engine.lacks_room(id), "as member {index} knows");
            assert_eq!(engine.state().alarms(), []);
        }
        // Its own clients hear at once that it takes nothing.
        world.write_at(full);
        world.step();
        assert_eq!(world.refused, [ApiError::NoSpace]);

        // Without room on a second one the rest of the logs is for deletes.
        world.refused.clear();
        set_capacity(&mut world, other, 0);
        let mut tries = 0;
        while world.refused.is_empty() {
            world.write_at(leader);
            world.step();
            tries += 1;
            assert!(tries < 20_000, "it fills up");
        }
        run(&mut world, 300);
        assert!(
            world
                .refused
                .iter()
                .all(|error| *error == ApiError::NoSpace)
        );
        let stored = engine(&mut world, leader).state().alarms();
        let mut raised: Vec<u64> = stored.iter().map(|alarm| alarm.member_id).collect();
        raised.sort_unstable();
        let mut lacking = vec![11 + full as u64, 11 + other as u64];
        lacking.sort_unstable();
        assert_eq!(raised, lacking);
        world.ask(leader, Asked::Other(delete()));
        run(&mut world, 300);
        assert_eq!(world.answers, [Ok(())]);
        goes_on(&mut world, &[full, other], &lacking);
    }

    /// With room again it goes on by itself, and puts when the operator says so.
    fn goes_on(world: &mut World, places: &[usize], raised: &[u64]) {
        for index in places.iter().copied() {
            set_capacity(world, index, u64::MAX);
        }
        // For as long as a message of before is believed.
        run(world, 6_000);
        world.settle();
        assert_eq!(alarms(world).len(), 2);
        for index in 0..MEMBERS {
            let lacking: Vec<_> = engine(world, index).lacking_room().collect();
            assert_eq!(lacking, [], "as member {index} knows");
        }
        for member_id in raised.iter().copied() {
            let disarm = Request::Alarm(AlarmRequest {
                action: AlarmAction::Deactivate as i32,
                member_id,
                alarm: AlarmType::Nospace as i32,
            });
            world.ask(places[0], Asked::Other(disarm));
        }
        run(world, 300);
        let acknowledged = world.acknowledged.len();
        world.write_at(places[0]);
        run(world, 300);
        assert_eq!(world.acknowledged.len(), acknowledged + 1);
        world.check();
    }

    #[test]
    fn g_r_3_a_leader_without_room_has_another_one_lead() {
        let mut world = World::new(12, Shape::LOG);
        world.settle();
        let leads = |world: &World| {
            let engines = world.engines.iter().flatten();
            let mut places = engines.map(|engine| engine.node().is_leader());
            places.position(|leads| leads)
        };
        let full = leads(&world).expect("somebody leads");
        let engine = |world: &mut World| world.engines[full].take().expect("it runs");
        let mut held = engine(&mut world);
        held.wal.disk_mut().set_capacity_bytes(0);
        world.engines[full] = Some(held);
        let is_out = |world: &World| {
            let engine = world.engines[full].as_ref().expect("it runs");
            engine.wal.is_out_of_room()
        };
        let writer = (full + 1) % MEMBERS;
        for _ in 0..5_000 {
            world.ask(writer, Asked::Other(delete()));
            world.step();
        }
        assert!(is_out(&world), "its log is full");
        let leader = leads(&world).expect("somebody leads");
        assert_ne!(leader, full);
        let refused: Vec<_> = world.answers.iter().filter(|got| got.is_err()).collect();
        assert!(refused.is_empty(), "{refused:?}");
        let mut held = engine(&mut world);
        held.wal.disk_mut().set_capacity_bytes(u64::MAX);
        world.engines[full] = Some(held);
        world.settle();
        assert!(!is_out(&world));
        assert_eq!(world.answers.len(), 5_000);
        world.check();
    }
}
