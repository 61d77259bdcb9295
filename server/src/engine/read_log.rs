//! Reading a lane's log on one thread while another applies what was read.
//!
//! ```text
//!   reads, compares checksums, readies memory --records, in batches--> applies
//! ```

use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use keelson_storage::ids::{LaneId, Lsn};
use keelson_storage::io::Disk;
use keelson_storage::mvcc::ready_blocks;
use keelson_storage::recovery::RecoveryReport;
use keelson_storage::wal::{Wal, WalConfig, WalError, WalRecord};

/// Records and bytes after which a batch is handed over.
const BATCH_RECORDS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Batches on their way, and being put together. They bound what is read and not applied.
const BATCHES: usize = 16;
/// Blocks for versions that are ready: as much memory as the batches may have.
const READY_BLOCKS: usize = BATCHES;

/// Opens a lane as [`Wal::open`] does. `on_record` runs on the calling thread, in the order of the records; by then the
/// lane may be further on, or have failed.
pub(super) fn open_beside<D: Disk + Send>(
    (lane, disk): (LaneId, D),
    config: WalConfig,
    mut on_record: impl FnMut(Lsn, WalRecord),
) -> Result<(Wal<D>, RecoveryReport), WalError> {
    thread::scope(|scope| {
        let (hand_over, batches) = sync_channel::<Vec<(Lsn, WalRecord)>>(BATCHES);
        let reading = scope.spawn(move || {
            let mut batch = Vec::with_capacity(BATCH_RECORDS_MAX);
            let mut bytes = 0;
            let hand_over = |batch: &mut Vec<_>| {
                let full = std::mem::replace(batch, Vec::with_capacity(BATCH_RECORDS_MAX));
                // Who applies them is gone only if it panics.
                let _ = hand_over.send(full);
            };
            let opened = Wal::open(disk, lane, config, |lsn, record| {
                bytes += record.payload.len();
                batch.push((lsn, record));
                if batch.len() == BATCH_RECORDS_MAX || bytes >= BATCH_BYTES_MAX {
                    hand_over(&mut batch);
                    bytes = 0;
                    ready_blocks(READY_BLOCKS);
                }
            });
            hand_over(&mut batch);
            opened
        });
        for (lsn, record) in batches.iter().flatten() {
            on_record(lsn, record);
        }
        reading.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use keelson_storage::ids::{RaftIndex, ShardId, Term};
    use keelson_storage::io::SimDisk;
    use keelson_storage::wal::{RecordKind, RecordMeta};

    use super::*;

    const LANE: LaneId = LaneId(3);

    fn config() -> WalConfig {
        WalConfig {
            segment_bytes: 1 << 20,
            ..WalConfig::default()
        }
    }

    /// Of many lengths, up to more than a batch holds.
    fn payload(number: u64) -> Vec<u8> {
        let bytes = match number % 400 {
            399 => BATCH_BYTES_MAX + 100,
            other => 1 + other as usize * 7,
        };
        vec![(number % 251) as u8; bytes]
    }

    fn lane_of(records: u64) -> SimDisk {
        let (mut wal, _) = Wal::open(SimDisk::new(7), LANE, config(), |_, _| ()).unwrap();
        for number in 1..=records {
            let meta = RecordMeta {
                kind: RecordKind::Entry,
                shard: ShardId(1),
                term: Term(1),
                index: RaftIndex(number),
            };
            wal.append(&meta, &[&payload(number)]).unwrap();
            if number % 50 == 0 {
                wal.flush_blocking().unwrap();
            }
        }
        wal.flush_blocking().unwrap();
        wal.into_disk().crash()
    }

    #[test]
    fn records_come_in_order_and_keep_their_bytes_for_as_long_as_they_are_kept() {
        const RECORDS: u64 = 4_000;
        let mut kept: Vec<(u64, Bytes)> = Vec::new();
        let mut seen = 0;
        let (wal, report) = open_beside((LANE, lane_of(RECORDS)), config(), |lsn, record| {
            seen += 1;
            assert_eq!(lsn, Lsn(seen));
            assert_eq!(record.payload, payload(seen));
            if seen % 300 == 0 {
                kept.push((seen, record.payload));
            }
        })
        .unwrap();
        assert_eq!((seen, report.records), (RECORDS, RECORDS));
        assert_eq!(wal.next_lsn(), Lsn(RECORDS + 1));
        for (number, bytes) in kept {
            assert_eq!(bytes, payload(number));
        }
    }

    #[test]
    fn what_comes_before_damage_is_handed_out_and_the_damage_reported() {
        let mut disk = lane_of(2_000);
        let files = disk.list().unwrap();
        let (name, at) = (files[1].name.clone(), files[1].bytes / 2);
        disk.flip(&name, at, 1);
        let mut seen = 0;
        let opened = open_beside((LANE, disk), config(), |_, _| seen += 1);
        assert!(
            matches!(opened, Err(WalError::Damaged { .. })),
            "{opened:?}"
        );
        assert!((1..2_000).contains(&seen), "{seen}");
    }
}
