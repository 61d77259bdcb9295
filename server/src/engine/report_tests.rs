//! What the engine reports of checkpoints, also of those that fail.

use std::time::Duration;

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::PutRequest;
use keelson_storage::io::SimDisk;
use keelson_storage::state::Request;

use super::Engine;
use super::engine_tests::{disks, open};
use super::message::{Answer, Ask, Inbound, Outbound, Token};
use super::report::Reporter;
use crate::observe::CoreMetrics;
use crate::runtime::ManualClock;

fn ask(engine: &mut Engine<SimDisk>, clock: &ManualClock, ask: Ask) -> Result<Answer, ApiError> {
    let token = Token(1);
    engine.on_inbound(0, Inbound { token, ask });
    for _ in 0..10_000 {
        clock.advance_us(100);
        engine.step(clock).expect("the log works");
        if let Some(Outbound::Reply { result, .. }) = engine.take_reply(0) {
            return result;
        }
    }
    panic!("no answer");
}

fn put(engine: &mut Engine<SimDisk>, clock: &ManualClock) {
    let request = Request::Put(PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from(vec![7; 10_000]),
        ..PutRequest::default()
    });
    let body = request.encode_body();
    ask(engine, clock, Ask::Write { request, body }).expect("a put succeeds");
}

#[test]
fn checkpoints_are_counted_whatever_comes_of_them() {
    for capacity in [u64::MAX, 8192] {
        let clock = ManualClock::default();
        let mut disks = disks(1);
        disks.snapshots.set_capacity_bytes(capacity);
        let mut engine = open(disks, &clock);
        let metrics = CoreMetrics::new(0);
        let mut reporter = Reporter::new(Duration::from_secs(1));
        put(&mut engine, &clock);
        let answer = ask(&mut engine, &clock, Ask::Checkpoint);
        reporter.report(&mut engine, &metrics);
        // A second report adds nothing.
        reporter.report(&mut engine, &metrics);
        let snapshots = &metrics.snapshots;
        let (made, failed) = match answer {
            Ok(_) => (1, 0),
            Err(error) => {
                assert_eq!(error, ApiError::NoSpace);
                (0, 1)
            }
        };
        assert_eq!(made == 1, capacity == u64::MAX, "the disk has room or not");
        assert_eq!(snapshots.checkpoints.value(), made);
        assert_eq!(snapshots.checkpoints_failed.value(), failed);
        assert_eq!(snapshots.checkpoint.count(), made);
        assert_eq!(snapshots.save.count(), made);
        assert_eq!(snapshots.file_bytes.value() > 0, made == 1);
        assert_eq!(snapshots.memory_index_bytes.value() > 0, made == 1);
        assert!(
            snapshots.checkpoint_bytes.value() > 0,
            "bytes were written either way"
        );
    }
}
