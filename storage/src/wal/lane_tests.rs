//! The lane on honest disks: batching, order, switching, recycling, poison.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::ids::{LaneId, Lsn, RaftIndex, ShardId, Term};
use crate::io::{IoMode, SimDisk, UringDisk};

fn meta(index: u64) -> RecordMeta {
    RecordMeta {
        kind: RecordKind::Entry,
        shard: ShardId(3),
        term: Term(2),
        index: RaftIndex(index),
    }
}

#[test]
fn real_disk_round_trip() {
    let scratch = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let config = WalConfig {
        segment_bytes: 1 << 20,
        ..WalConfig::default()
    };
    let disk = UringDisk::open(scratch.path(), IoMode::Direct).unwrap();
    let (mut wal, _) = Wal::open(disk, LaneId(0), config.clone(), |_, _| panic!("new")).unwrap();
    for i in 1..=20_000u64 {
        let lsn = wal
            .append(&meta(i), &[&i.to_le_bytes(), &[7; 300]])
            .unwrap();
        assert_eq!(lsn, Lsn(i));
        if i % 10 == 0 {
            wal.pump(i).unwrap();
        }
    }
    assert_eq!(wal.flush_blocking().unwrap(), Lsn(20_000));
    println!("{:?}", wal.counters());
    drop(wal);
    let disk = UringDisk::open(scratch.path(), IoMode::Direct).unwrap();
    let mut next = 1;
    let (_wal, report) = Wal::open(disk, LaneId(0), config, |lsn, record| {
        assert_eq!(lsn, Lsn(next));
        assert_eq!(record.payload[..8], next.to_le_bytes());
        next += 1;
    })
    .unwrap();
    println!("{report:?}");
    assert_eq!(next, 20_001);
}

#[test]
fn sim_disk_round_trip() {
    let config = WalConfig {
        segment_bytes: 1 << 16,
        ..WalConfig::default()
    };
    let (mut wal, _) = Wal::open(SimDisk::new(1), LaneId(0), config.clone(), |_, _| {
        panic!("new")
    })
    .unwrap();
    for i in 1..=2_000u64 {
        wal.append(&meta(i), &[&i.to_le_bytes(), &[7; 300]])
            .unwrap();
        wal.pump(i).unwrap();
    }
    assert_eq!(wal.flush_blocking().unwrap(), Lsn(2_000));
    println!("{:?}", wal.counters());
    let mut next = 1;
    let (_wal, report) = Wal::open(wal.into_disk().crash(), LaneId(0), config, |lsn, record| {
        assert_eq!(lsn, Lsn(next));
        assert_eq!(record.payload[..8], next.to_le_bytes());
        next += 1;
    })
    .unwrap();
    println!("{report:?}");
    assert_eq!(next, 2_001);
}
