//! Snapshot files that look unfinished: those of a crash go, and the one that the log stands on never does.

use bytes::Bytes;
use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};
use keelson_storage::ids::SnapshotSeq;
use keelson_storage::io::SimDisk;
use keelson_storage::state::Request;

use super::engine_tests::{crash, disks, open, try_open};
use super::message::{Ask, Inbound, Outbound, Token};
use super::{Disks, Engine, EngineError};
use crate::runtime::ManualClock;

const SUPERBLOCK_BYTES: usize = 4096;
/// A value of this many bytes fills a segment of these tests with a few others.
const LARGE_BYTES: usize = 40_000;

fn answered(engine: &mut Engine<SimDisk>, clock: &ManualClock, ask: Ask) {
    let token = Token(1);
    engine.on_inbound(0, Inbound { token, ask });
    for _ in 0..10_000 {
        clock.advance_us(100);
        engine.step(clock).expect("the disk works");
        if let Some(Outbound::Reply { result, .. }) = engine.take_reply(0) {
            result.expect("the request succeeds");
            return;
        }
    }
    panic!("no answer");
}

fn put(engine: &mut Engine<SimDisk>, clock: &ManualClock, number: usize, value_bytes: usize) {
    let request = Request::Put(PutRequest {
        key: Bytes::from(format!("k{number:03}")),
        value: Bytes::from(vec![7; value_bytes]),
        ..PutRequest::default()
    });
    let body = request.encode_body();
    answered(engine, clock, Ask::Write { request, body });
}

fn rest(engine: &mut Engine<SimDisk>, clock: &ManualClock) {
    for _ in 0..200 {
        clock.advance_us(10_000);
        engine.step(clock).expect("the disk works");
    }
}

fn key_count(engine: &Engine<SimDisk>) -> usize {
    let range = RangeRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        ..RangeRequest::default()
    };
    engine
        .state()
        .select(&range)
        .expect("a range")
        .records
        .len()
}

/// Checkpoints of 40 keys, one after the other, and a log that was trimmed for them.
fn trimmed(clock: &ManualClock) -> Disks<SimDisk> {
    let mut engine = open(disks(3), clock);
    for number in 0..40 {
        put(&mut engine, clock, number, LARGE_BYTES);
        if number % 10 == 9 {
            answered(&mut engine, clock, Ask::Checkpoint);
        }
    }
    rest(&mut engine, clock);
    assert!(
        engine.wal().counters().segments_recycled > 0,
        "it was trimmed"
    );
    assert_eq!(key_count(&engine), 40);
    crash(engine)
}

/// Zeros over the superblock of the newest snapshot, whose name and superblock are returned.
fn lose_superblock(disk: &mut SimDisk) -> (String, Vec<u8>) {
    let name = disk.names().pop().expect("there is a snapshot");
    let whole = disk.media(&name).expect("it has content");
    let superblock = whole[..SUPERBLOCK_BYTES].to_vec();
    disk.edit(&name, 0, &[0; SUPERBLOCK_BYTES]);
    (name, superblock)
}

/// A start on these disks is refused, says why, and leaves every file as it is.
fn refused(disks: &mut Disks<SimDisk>, clock: &ManualClock) -> String {
    let files = |disks: &Disks<SimDisk>| -> Vec<(String, Vec<u8>)> {
        let names = disks.snapshots.names().into_iter();
        let read = |name: String| {
            let content = disks.snapshots.media(&name).expect("it is there").to_vec();
            (name, content)
        };
        names.map(read).collect()
    };
    let before = files(disks);
    let borrowed = Disks {
        lane: &mut disks.lane,
        snapshots: &mut disks.snapshots,
    };
    let opened = try_open(borrowed, clock).map(|_| ());
    let error = opened.expect_err("the state is not there");
    assert!(matches!(error, EngineError::LostState(_)), "{error}");
    assert!(files(disks) == before, "nothing was touched");
    error.to_string()
}

#[test]
fn a_snapshot_without_its_superblock_stays_while_the_log_needs_it() {
    let clock = ManualClock::default();
    let mut disks = trimmed(&clock);
    let (name, superblock) = lose_superblock(&mut disks.snapshots);
    let path = format!("simulated/{name} looks as if it was never finished");
    // The second start says the same as the first.
    for _ in 0..2 {
        let says = refused(&mut disks, &clock);
        for part in [
            path.as_str(),
            "the log begins at entry",
            "there is no snapshot",
            "keelson snapshot restore",
        ] {
            assert!(says.contains(part), "{says}");
        }
    }
    // Without the file there is nothing to point at.
    let whole = disks.snapshots.media(&name).expect("it stayed").to_vec();
    disks.snapshots.delete(&name);
    assert!(!refused(&mut disks, &clock).contains(&name));
    // What was lost is put back.
    disks.snapshots.edit(&name, 0, &whole);
    disks.snapshots.edit(&name, 0, &superblock);
    assert_eq!(key_count(&open(disks, &clock)), 40);
}

#[test]
fn an_older_snapshot_does_not_stand_for_a_newer_one_that_was_lost() {
    let clock = ManualClock::default();
    let mut engine = open(disks(4), &clock);
    put(&mut engine, &clock, 0, 1);
    answered(&mut engine, &clock, Ask::Checkpoint);
    let name = engine.snapshots().path_of(SnapshotSeq(1));
    let name = name.rsplit('/').next().expect("a name").to_owned();
    let older = crash(engine).snapshots;
    let older = older.media(&name).expect("it is there").to_vec();
    let mut disks = trimmed(&clock);
    let (newest, _) = lose_superblock(&mut disks.snapshots);
    disks.snapshots.edit(&name, 0, &older);
    let says = refused(&mut disks, &clock);
    assert!(says.contains("the newest snapshot ends at entry"), "{says}");
    assert!(says.contains(&newest) && !says.contains(&name), "{says}");
}

#[test]
fn a_log_without_entries_does_not_make_a_member_new() {
    let clock = ManualClock::default();
    let mut disks = trimmed(&clock);
    // As a restore leaves it: a snapshot and no log yet.
    disks.lane = SimDisk::new(5);
    let (name, superblock) = lose_superblock(&mut disks.snapshots);
    let says = refused(&mut disks, &clock);
    assert!(
        says.contains("the log is empty") && says.contains(&name),
        "{says}"
    );
    disks.snapshots.edit(&name, 0, &superblock);
    assert_eq!(key_count(&open(disks, &clock)), 40);
}

#[test]
fn what_a_crash_left_goes_when_the_log_was_replayed() {
    let clock = ManualClock::default();
    let mut engine = open(disks(6), &clock);
    for number in 0..5 {
        put(&mut engine, &clock, number, 100);
    }
    answered(&mut engine, &clock, Ask::Checkpoint);
    put(&mut engine, &clock, 5, 100);
    let mut disks = crash(engine);
    // Nothing was trimmed yet, so the log does without this one; the other two were never finished.
    lose_superblock(&mut disks.snapshots);
    disks.snapshots.edit("00000007.snap", 0, &[]);
    disks.snapshots.edit("00000008.snap", 0, &[0; 8192]);
    let mut engine = open(disks, &clock);
    assert_eq!(key_count(&engine), 6);
    rest(&mut engine, &clock);
    assert_eq!(engine.snapshots().counters().files_removed, 3);
    answered(&mut engine, &clock, Ask::Checkpoint);
    let disks = crash(engine);
    assert_eq!(disks.snapshots.names(), ["00000009.snap"]);
    assert_eq!(key_count(&open(disks, &clock)), 6);
}
