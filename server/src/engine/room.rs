//! A member whose disk has no room for the next segment of its log.
//!
//! ```text
//!   the next segment cannot be made   puts are refused, and the alarm NOSPACE is raised: what is left of the
//!                                     present one is for deletes and compactions (`admit.rs`)
//!   and the present one is full       nothing more becomes durable here until there is room; tried once a second
//!       leads others                  has another member lead: those who have room go on without it
//!       follows                       accepts nothing, votes for nobody, and catches up when there is room
//!       decides alone                 refuses every write with NOSPACE
//! ```
//!
//! Nothing of the log is lost by that, and nothing was acknowledged that is not durable, so there is nothing to end for:
//! what was appended waits in memory, bounded as always. (etcd 3.5.1 ends when it cannot write its log.) Who is told to end meanwhile
//! ends with an error that says so.

use keelson_storage::io::Disk;

use super::limits::OFFICE_OFFERED_AGAIN_US;
use super::shard::Engine;

/// What the member has said and done about it.
#[derive(Debug, Default)]
pub(super) struct Room {
    is_told: bool,
    /// When the leadership is offered again.
    offers_at_us: u64,
}

impl<D: Disk> Engine<D> {
    /// Says so when the log begins to wait for room, and when it goes on; gives the leadership away meanwhile.
    pub(super) fn advance_room(&mut self) {
        if !self.wal.is_out_of_room() {
            if std::mem::take(&mut self.room.is_told) {
                tracing::info!(shard = %self.config.shard, "the disk has room again: the log goes on");
            }
            return;
        }
        if !std::mem::replace(&mut self.room.is_told, true) {
            tracing::error!(
                shard = %self.config.shard,
                "the disk is full: the log needs its next segment and cannot make it. Nothing more is written here until there \
                 is room on the disk of the data directory; what was acknowledged is safe"
            );
        }
        if self.node.is_leader() && !self.is_alone() && self.now_us >= self.room.offers_at_us {
            self.room.offers_at_us = self.now_us + OFFICE_OFFERED_AGAIN_US;
            self.give_office_away();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keelson_proto::ApiError;
    use keelson_proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
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
