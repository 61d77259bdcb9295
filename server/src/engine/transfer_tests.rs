//! Members that lag behind the log get a snapshot, whatever interrupts it.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use keelson_consensus::replicate::Item;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, WatchCreateRequest, WatchResponse,
};
use keelson_storage::ids::MemberId;
use keelson_storage::state::Request;
use prost::Message;

use super::cluster_tests::{Censor, MEMBERS, Shape, World};
use super::message::{Answer, Ask, Inbound, NO_TOKEN, Outbound, StreamKey, Token};
use crate::fanout::{FanOut, OpenedAt, WatchSpec};

/// Which member leads.
pub(super) fn leader(world: &World) -> usize {
    let engines = world.engines.iter().flatten();
    let leader = engines.filter_map(|engine| engine.node().leader()).next();
    (leader.expect("somebody leads").0 - 11) as usize
}

fn follower(world: &World) -> usize {
    (leader(world) + 1) % MEMBERS
}

/// Writes on members that run.
fn write(world: &mut World, count: usize) {
    let before = world.acknowledged.len();
    for _ in 0..20 * count {
        if world.acknowledged.len() >= before + count {
            break;
        }
        world.write_somewhere();
        for _ in 0..5 {
            world.step();
        }
    }
    assert!(world.acknowledged.len() >= before + count, "writes go on");
}

/// A follower that has been away for so long that the log is gone.
fn left_behind(seed: u64) -> (World, usize) {
    let mut world = World::new(seed, Shape::SNAPSHOTS);
    world.settle();
    write(&mut world, 12);
    let away = follower(&world);
    world.crash(away);
    write(&mut world, 40);
    (world, away)
}

#[test]
fn a_member_behind_the_log_gets_a_snapshot_twice_in_a_row() {
    let (mut world, away) = left_behind(1);
    for turn in 1..=2 {
        world.settle();
        world.check();
        assert_eq!(world.received, turn, "by a file, and one of them");
        // It stays so when it starts again, and the next snapshot of its own follows.
        world.crash(away);
        world.restart(away);
        world.settle();
        world.check();
        assert_eq!(world.received, turn);
        write(&mut world, 30);
        world.settle();
        world.crash(away);
        write(&mut world, 40);
    }
}

/// What comes while a snapshot is made and sent is kept until the member has it, though the log would have forgotten it.
#[test]
fn one_snapshot_is_enough_while_writes_go_on() {
    for seed in 1..=8 {
        let (mut world, away) = left_behind(seed);
        world.restart(away);
        let applied = |world: &World, index: usize| {
            let engine = world.engines[index].as_ref().expect("it runs");
            engine.state().applied().index.0
        };
        let mut writes = 0;
        while world.received == 0 || applied(&world, away) + 4 < applied(&world, leader(&world)) {
            write(&mut world, 2);
            writes += 2;
            assert!(writes < 500, "seed {seed}: it never catches up");
        }
        write(&mut world, 50);
        assert_eq!(world.received, 1, "seed {seed}");
        world.settle();
        world.check();
    }
}

/// Runs until the member that was away has everything, whatever happens meanwhile.
fn recovers(world: &mut World) {
    world.settle();
    world.censor = None;
    write(world, 5);
    world.settle();
    world.check();
}

/// Whether an item belongs to a transfer.
fn is_of_transfer(item: &Item) -> bool {
    matches!(
        item,
        Item::SnapshotOffer(_) | Item::SnapshotData { .. } | Item::SnapshotAck { .. }
    )
}

/// Counts the items of transfers, and loses the one with this number.
fn lose(number: u64) -> (Rc<Cell<u64>>, Censor) {
    let seen = Rc::new(Cell::new(0));
    let counted = Rc::clone(&seen);
    let censor = move |_, _, item: &Item| {
        if !is_of_transfer(item) {
            return true;
        }
        let at = counted.get();
        counted.set(at + 1);
        at != number
    };
    (seen, Box::new(censor))
}

#[test]
fn any_message_of_a_transfer_may_be_lost() {
    for number in 0.. {
        let (mut world, _) = left_behind(2);
        let (seen, censor) = lose(number);
        world.censor = Some(censor);
        recovers(&mut world);
        assert!(world.received >= 1);
        if seen.get() <= number {
            assert!(number > 10, "a transfer has many messages: {number}");
            break;
        }
    }
}

#[test]
fn a_crash_of_either_side_at_any_message_is_survived() {
    for number in 0.. {
        let mut is_over = false;
        for crashes_sender in [false, true] {
            let (mut world, away) = left_behind(3);
            let (seen, censor) = lose(u64::MAX);
            world.censor = Some(censor);
            world.restart(away);
            for _ in 0..3_000 {
                world.step();
                if seen.get() > number {
                    break;
                }
            }
            is_over |= seen.get() <= number;
            let victim = if crashes_sender { leader(&world) } else { away };
            world.crash(victim);
            for _ in 0..20 {
                world.step();
            }
            recovers(&mut world);
        }
        if is_over {
            assert!(number > 10, "a transfer has many messages: {number}");
            break;
        }
    }
}

/// The disks of the receiver lose power at a certain submission.
fn power_fails(lane: Option<u64>, snapshots: Option<u64>, seed: u64) -> bool {
    let (mut world, away) = left_behind(seed);
    let disks = world.kept[away].as_mut().expect("it is away");
    for (disk, at) in [(&mut disks.lane, lane), (&mut disks.snapshots, snapshots)] {
        if let Some(at) = at {
            let submitted = disk.submitted();
            disk.power_off_at(submitted + at);
        }
    }
    let is_off = try_restart(&mut world, away);
    recovers(&mut world);
    is_off
}

/// Whether the power failed before the member had everything.
fn try_restart(world: &mut World, away: usize) -> bool {
    world.restart(away);
    for _ in 0..5_000 {
        world.step();
        if world.engines[away].is_none() {
            return true;
        }
        if world.received > 0 {
            return false;
        }
    }
    false
}

#[test]
fn g_d_4_power_loss_at_any_write_of_an_install_is_survived() {
    for seed in 4..6 {
        for at in 10.. {
            // What a start itself writes is another test's matter.
            if !power_fails(None, Some(at), seed) {
                break;
            }
        }
        for at in 10.. {
            if !power_fails(Some(at), None, seed) {
                break;
            }
        }
    }
}

#[test]
fn g_d_3_a_member_whose_disks_are_damaged_gets_everything_from_the_others() {
    for seed in 40..44 {
        let mut world = World::new(seed, Shape::SNAPSHOTS);
        world.settle();
        write(&mut world, 20);
        // Twice in a row, and the leader as well.
        for victim in [follower(&world), leader(&world)] {
            world.damage(victim);
            write(&mut world, 5);
            world.settle();
            assert!(world.rejoining.is_empty());
            world.check();
        }
    }
}

#[test]
fn g_d_3_who_begins_anew_does_nothing_while_one_of_the_others_is_silent() {
    let mut world = World::new(45, Shape::SNAPSHOTS);
    world.settle();
    write(&mut world, 20);
    let victim = follower(&world);
    let leader = leader(&world);
    world.damage(victim);
    // The leader alone is no majority, and the member must not help it to one.
    world.crash(MEMBERS - victim - leader);
    world.restart(victim);
    let acknowledged = world.acknowledged.len();
    for _ in 0..2_000 {
        world.write_at(leader);
        world.step();
    }
    assert_eq!(world.acknowledged.len(), acknowledged);
    assert!(world.rejoining.contains(&victim));
    let engine = world.engines[victim].as_ref().expect("it runs");
    assert!(engine.is_rejoining());
    assert_eq!(engine.node().last().0, 0);
    recovers(&mut world);
    assert!(world.rejoining.is_empty());
}

#[test]
fn g_d_3_a_damaged_value_is_found_by_the_next_defragmentation_and_mended_by_another_member() {
    for seed in 50..54 {
        let mut world = World::new(seed, Shape::SNAPSHOTS);
        world.settle();
        write(&mut world, 30);
        world.settle();
        let victim = if seed % 2 == 0 {
            follower(&world)
        } else {
            leader(&world)
        };
        damage_first_values(&mut world, victim);
        world.settle();
        let received = world.received;
        let engine = world.engines[victim].as_mut().expect("it runs");
        let (token, ask) = (NO_TOKEN, Ask::Defragment);
        engine.on_inbound(0, Inbound { token, ask });
        for _ in 0..20 {
            write(&mut world, 5);
            if world.received > received {
                break;
            }
        }
        world.settle();
        assert!(world.received > received, "it got another snapshot");
        world.check();
    }
}

/// A cluster of which a follower's values are damaged on its disk.
fn damaged(seed: u64) -> (World, usize) {
    let mut world = World::new(seed, Shape::SNAPSHOTS);
    world.settle();
    write(&mut world, 30);
    world.settle();
    let victim = follower(&world);
    damage_first_values(&mut world, victim);
    world.settle();
    (world, victim)
}

/// The simulator's seed 939: a slice of history that waited for the damaged value was kept over the snapshot that mended
/// it, and had another snapshot fetched at once, for ever; and its watcher got nothing more.
#[test]
fn g_d_3_a_watcher_that_waits_for_a_damaged_value_gets_it_from_one_snapshot() {
    let (mut world, victim) = damaged(55);
    let received = world.received;
    world.told = Some((victim, VecDeque::new()));
    let mut client = Client::from_revision(1);
    for turn in 0..4_000 {
        if turn % 40 == 0 {
            world.write_somewhere();
        }
        world.step();
        client.turn(&mut world, victim);
    }
    assert!(world.received > received, "the damage is found and mended");
    assert!(
        world.received <= received + 2,
        "{} snapshots for one damaged value",
        world.received - received
    );
    for key in &world.acknowledged {
        let seen = client.seen.get(key);
        assert_eq!(seen.map(Vec::len), Some(1), "{key:?}");
    }
}

/// The simulator's seed 939: a delete that had taken effect, and whose old value was damaged, was refused like one that
/// had not.
#[test]
fn g_d_3_a_write_whose_old_value_is_damaged_is_not_said_to_have_failed() {
    let (mut world, victim) = damaged(56);
    world.told = Some((victim, VecDeque::new()));
    let request = Request::DeleteRange(DeleteRangeRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        prev_kv: true,
    });
    let body = request.encode_body();
    let deleted = answer(&mut world, victim, Ask::Write { request, body });
    let Ok(Answer::Cold(cold)) = deleted else {
        panic!("the old values are on the disk: {deleted:?}");
    };
    let records = cold.1;
    let loaded = answer(&mut world, victim, Ask::Load(records.clone()));
    assert!(matches!(loaded, Err(ApiError::Corrupt)), "{loaded:?}");
    let loaded = answer(&mut world, victim, Ask::LoadWritten(records));
    assert!(matches!(loaded, Err(ApiError::Timeout)), "{loaded:?}");
}

/// What a member that is watched answers.
fn answer(world: &mut World, member: usize, ask: Ask) -> Result<Answer, ApiError> {
    let token = Token(u64::MAX);
    let engine = world.engines[member].as_mut().expect("it runs");
    engine.on_inbound(0, Inbound { token, ask });
    for _ in 0..1_000 {
        world.step();
        let (_, told) = world.told.as_mut().expect("the member is watched");
        while let Some(message) = told.pop_front() {
            if let Outbound::Reply { token: to, result } = message
                && to == token
            {
                return result;
            }
        }
    }
    panic!("no answer");
}

/// A member crashes, and the first value of its newest snapshot is not what it was.
fn damage_first_values(world: &mut World, victim: usize) {
    world.crash(victim);
    let disk = &mut world.kept[victim].as_mut().expect("it is away").snapshots;
    let is_finished = |name: &String| {
        let content = disk.media(name).expect("it was listed");
        content.starts_with(b"KEELSNAP")
    };
    let newest = disk.names().into_iter().rfind(is_finished);
    let newest = newest.expect("it has a snapshot");
    // Values begin behind the superblock.
    disk.flip(&newest, 4096 + 2, 1);
}

struct Client {
    fanout: FanOut,
    stream: StreamKey,
    /// Keys with the revisions at which they were seen.
    seen: BTreeMap<Bytes, Vec<i64>>,
    compacted: Option<i64>,
}

impl Client {
    fn new() -> Self {
        Self::from_revision(0)
    }

    fn from_revision(start_revision: i64) -> Self {
        let mut fanout = FanOut::new(22, 11, 400);
        let stream = fanout.open_stream();
        let request = WatchCreateRequest {
            key: b"k".to_vec().into(),
            range_end: b"l".to_vec().into(),
            start_revision,
            ..WatchCreateRequest::default()
        };
        fanout.request_create(stream, WatchSpec::from(request));
        Self {
            fanout,
            stream,
            seen: BTreeMap::new(),
            compacted: None,
        }
    }

    /// Takes what the engine told the core, and asks what the core asks.
    fn turn(&mut self, world: &mut World, member: usize) {
        let (_, told) = world.told.as_mut().expect("the member is watched");
        for message in std::mem::take(told) {
            match message {
                Outbound::Batch(batch) => self.fanout.on_batch(&batch),
                Outbound::WatchOpened {
                    revision,
                    published,
                    compact_revision,
                    raft_term,
                } => self.fanout.on_opened(OpenedAt {
                    revision,
                    published,
                    compact_revision,
                    raft_term,
                }),
                Outbound::CatchUp(slice) => self.fanout.on_caught_up(&slice),
                Outbound::Leap {
                    revision,
                    raft_term,
                } => self.fanout.on_leap(revision, raft_term),
                Outbound::Learner(_) => {}
                Outbound::Progress { stream, revision } => {
                    self.fanout.on_progress(stream, revision);
                }
                Outbound::Reply { .. } => {}
            }
        }
        let engine = world.engines[member].as_mut().expect("it runs");
        for ask in self.fanout.take_asks() {
            let token = NO_TOKEN;
            engine.on_inbound(0, Inbound { token, ask });
        }
        while let Some(framed) = self.fanout.take_response(self.stream) {
            let response = WatchResponse::decode(&framed[5..]).expect("a response");
            if response.canceled {
                self.compacted = Some(response.compact_revision);
            }
            for event in response.events {
                let kv = event.kv.expect("an event has a key");
                let seen = self.seen.entry(kv.key).or_default();
                seen.push(kv.mod_revision);
            }
        }
    }
}

/// A member with a client that watches it, cut off until it needs a snapshot, and back again.
fn watched_over_a_snapshot(seed: u64, compacts: bool) -> (World, Client, usize) {
    let mut world = World::new(seed, Shape::SNAPSHOTS);
    world.settle();
    let away = follower(&world);
    world.told = Some((away, VecDeque::new()));
    let mut client = Client::new();
    client.turn(&mut world, away);
    for _ in 0..8 {
        write(&mut world, 1);
        client.turn(&mut world, away);
    }
    for other in (0..MEMBERS).filter(|other| *other != away) {
        world.cut.extend([(away, other), (other, away)]);
    }
    while world.acknowledged.len() < 60 {
        write_elsewhere(&mut world, away);
        client.turn(&mut world, away);
    }
    if compacts {
        let revision = world.engines[leader_but(&world, away)]
            .as_ref()
            .expect("it runs")
            .state()
            .revision();
        let request = Request::Compact(CompactionRequest {
            revision: revision.0 - 5,
            physical: false,
        });
        let body = request.encode_body();
        let at = leader_but(&world, away);
        let engine = world.engines[at].as_mut().expect("it runs");
        let token = NO_TOKEN;
        let ask = Ask::Write { request, body };
        engine.on_inbound(0, Inbound { token, ask });
        for _ in 0..40 {
            write_elsewhere(&mut world, away);
        }
    }
    world.cut.clear();
    let turns = |world: &mut World, client: &mut Client, count| {
        for _ in 0..count {
            world.step();
            client.turn(world, away);
        }
    };
    while world.received == 0 {
        turns(&mut world, &mut client, 1);
    }
    turns(&mut world, &mut client, 1_000);
    (world, client, away)
}

fn leader_but(world: &World, away: usize) -> usize {
    let others = world.engines.iter().enumerate();
    let mut others = others.filter(|(index, _)| *index != away);
    let leads = |engine: &&super::Engine<_>| engine.node().is_leader();
    let found = others.find(|(_, engine)| engine.as_ref().filter(leads).is_some());
    found.expect("somebody leads").0
}

fn write_elsewhere(world: &mut World, away: usize) {
    let at = (away + 1 + world.dice.roll(2) as usize) % MEMBERS;
    world.write_at(at);
    for _ in 0..5 {
        world.step();
    }
}

#[test]
fn g_w_15_a_watcher_sees_every_event_once_over_a_snapshot() {
    for seed in 10..14 {
        let (world, client, _) = watched_over_a_snapshot(seed, false);
        assert_eq!(client.compacted, None);
        for key in &world.acknowledged {
            let seen = client.seen.get(key);
            assert_eq!(seen.map(Vec::len), Some(1), "{key:?}");
        }
    }
}

#[test]
fn g_w_10_a_watcher_whose_history_a_snapshot_lacks_hears_that_it_is_compacted() {
    for seed in 20..23 {
        let (mut world, client, away) = watched_over_a_snapshot(seed, true);
        let engine = world.engines[away].as_ref().expect("it runs");
        let compacted = engine.state().compact_revision().0;
        assert!(compacted > 0);
        assert_eq!(client.compacted, Some(compacted));
        // What it saw before, it saw once.
        assert!(client.seen.values().all(|revisions| revisions.len() == 1));
        // A new watcher of that member sees what comes.
        let mut client = Client::new();
        client.turn(&mut world, away);
        world.step();
        client.turn(&mut world, away);
        write(&mut world, 6);
        for _ in 0..200 {
            world.step();
            client.turn(&mut world, away);
        }
        assert!(client.seen.len() >= 6);
    }
}

#[test]
fn who_leads_again_after_a_transfer_holds_the_file_no_more() {
    let (mut world, _) = left_behind(30);
    world.settle();
    for _ in 0..1_000 {
        world.step();
    }
    for engine in world.engines.iter().flatten() {
        assert_eq!(engine.snapshots_in_sending(), 0);
        assert!(!engine.is_receiving_snapshot());
        assert_eq!(engine.node().membership().voters.len(), MEMBERS);
        assert!(engine.known_members().contains_key(&MemberId(11)));
    }
    for engine in world.engines.into_iter().flatten() {
        let current = engine.snapshots.current().cloned().expect("there is one");
        let needed = current.value_files().map(|file| file.file_name());
        let needed: Vec<String> = needed.collect();
        drop(current);
        let names = engine.snapshots.into_disk().names();
        assert_eq!(
            names, needed,
            "files that lend nothing and unfinished ones are gone"
        );
    }
}
