//! The model the crash and damage tests check the lane against: a vector of everything appended.
//!
//! One [`World`] lives through many lives of a lane on one simulated disk. Whatever a life did, the next
//! opening must find all that was reported durable, nothing that was not appended, and no gap.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::ids::{LaneId, Lsn, RaftIndex, ShardId, Term};
use crate::io::{Disk, SimDisk};
use crate::recovery::RecoveryReport;

pub(crate) const LANE: LaneId = LaneId(5);

/// One step of a life.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Appends a record with that many payload bytes.
    Append(usize),
    /// One pump, with the clock that much later.
    Pump(u64),
    /// Waits until everything is durable.
    Flush,
    /// Trims through this share (of 256) of the durable records.
    Trim(u8),
}

pub(super) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..900usize).prop_map(Step::Append),
        2 => (2_000..9_000usize).prop_map(Step::Append),
        6 => (0..3_000u64).prop_map(Step::Pump),
        1 => Just(Step::Pump(300_000)),
        1 => Just(Step::Flush),
        1 => any::<u8>().prop_map(Step::Trim),
    ];
    prop::collection::vec(step, 1..count)
}

pub(super) fn small_config() -> impl Strategy<Value = WalConfig> {
    (
        8..20u64,
        1..4usize,
        1..5u64,
        prop_oneof![Just(0), Just(500)],
        0..3usize,
        unit(),
    )
        .prop_map(
            |(blocks, depth, group_blocks, group_delay_us, spare_segments_max, unit_bytes)| {
                WalConfig {
                    segment_bytes: blocks * 4096,
                    depth,
                    group_bytes_max: group_blocks * 4096,
                    group_delay_us,
                    spare_segments_max,
                    unit_bytes,
                    ..WalConfig::default()
                }
            },
        )
}

/// What groups are aligned to.
pub(super) fn unit() -> impl Strategy<Value = u64> {
    prop_oneof![Just(512), Just(1024), Just(2048), Just(4096)]
}

/// Appended records and what is known about them.
#[derive(Clone)]
pub(super) struct World {
    pub(super) config: WalConfig,
    /// Record `n` is at `n - 1`.
    pub(super) appended: Vec<Bytes>,
    pub(super) durable: u64,
    pub(super) trimmed: u64,
    pub(super) recycled: u64,
}

/// What a record number carries besides its payload.
pub(super) fn meta_of(lsn: u64) -> RecordMeta {
    RecordMeta {
        kind: if lsn.is_multiple_of(7) {
            RecordKind::HardState
        } else {
            RecordKind::Entry
        },
        shard: ShardId((lsn % 3) as u16),
        term: Term(lsn / 100),
        index: RaftIndex(lsn * 2),
    }
}

impl World {
    pub(super) fn new(config: WalConfig) -> Self {
        Self {
            config,
            appended: Vec::new(),
            durable: 0,
            trimmed: 0,
            recycled: 0,
        }
    }

    /// Opens the lane and checks every record against the model; `Err` only for what `open` refused.
    pub(super) fn open<D: Disk>(&mut self, disk: D) -> Result<(Wal<D>, RecoveryReport), WalError> {
        let mut expected: Option<u64> = None;
        let appended = &self.appended;
        let (wal, report) = Wal::open(disk, LANE, self.config.clone(), |lsn, record| {
            let number = expected.unwrap_or(lsn.0);
            assert_eq!(lsn.0, number, "records come without a gap");
            let payload = appended
                .get(number as usize - 1)
                .expect("only what was appended comes back");
            assert_eq!(
                &record.payload, payload,
                "record {number} is what was appended"
            );
            let meta = RecordMeta {
                kind: record.kind,
                shard: record.shard,
                term: record.term,
                index: record.index,
            };
            assert_eq!(meta, meta_of(number));
            expected = Some(number + 1);
        })?;
        let next = report.next_lsn.0;
        assert_eq!(expected.unwrap_or(report.first_lsn.0), next);
        assert!(
            report.first_lsn.0 <= self.trimmed + 1,
            "only what was trimmed may be missing at the front"
        );
        assert!(
            next > self.durable,
            "durable through {}, recovered before {next}",
            self.durable
        );
        assert_eq!(wal.next_lsn(), Lsn(next));
        self.appended.truncate(next as usize - 1);
        self.durable = next - 1;
        Ok((wal, report))
    }

    /// One life: opens and takes the steps until one fails.
    pub(super) fn live(&mut self, disk: &mut SimDisk, steps: &[Step]) -> Result<(), WalError> {
        let (mut wal, _) = self.open(disk)?;
        let mut now_us = 0;
        for step in steps {
            if !self.take_step(&mut wal, step, &mut now_us) {
                break;
            }
        }
        self.recycled += wal.counters().segments_recycled;
        Ok(())
    }

    /// One life that ends with power loss, at submission `power_off_at` or else after the last step; what
    /// the next life finds. Power may fail while the lane is being opened, too; nothing else may.
    pub(super) fn live_and_crash(
        &mut self,
        mut disk: SimDisk,
        steps: &[Step],
        power_off_at: Option<u64>,
    ) -> SimDisk {
        if let Some(at) = power_off_at {
            disk.power_off_at(at);
        }
        if let Err(error) = self.live(&mut disk, steps) {
            assert!(
                matches!(error, WalError::Disk(_)),
                "a crash is never damage: {error}"
            );
            assert!(
                disk.is_powered_off(),
                "an honest disk fails only without power: {error}"
            );
        }
        disk.crash()
    }

    /// Opens what a crash left, which must succeed.
    pub(super) fn reopen(&mut self, disk: SimDisk) -> (Wal<SimDisk>, RecoveryReport) {
        self.open(disk)
            .unwrap_or_else(|error| panic!("a crash is never damage: {error}"))
    }

    /// False once the lane is poisoned.
    pub(super) fn take_step<D: Disk>(
        &mut self,
        wal: &mut Wal<D>,
        step: &Step,
        now_us: &mut u64,
    ) -> bool {
        match step {
            Step::Append(bytes) => {
                let lsn = self.appended.len() as u64 + 1;
                let mut payload = vec![lsn as u8; (*bytes).min(wal.payload_bytes_max() as usize)];
                let tag = payload.len().min(8);
                payload[..tag].copy_from_slice(&lsn.to_le_bytes()[..tag]);
                let (front, back) = payload.split_at(payload.len() / 3);
                match wal.append(&meta_of(lsn), &[front, back]) {
                    Ok(given) => assert_eq!(given, Lsn(lsn)),
                    Err(WalError::Poisoned { .. }) => return false,
                    Err(other) => panic!("append: {other}"),
                }
                self.appended.push(payload.into());
            }
            Step::Pump(later_us) => {
                *now_us += later_us;
                match wal.pump(*now_us) {
                    Ok(durable) => self.on_durable(durable),
                    Err(WalError::Poisoned { .. }) => return false,
                    Err(other) => panic!("pump: {other}"),
                }
            }
            Step::Flush => match wal.flush_blocking() {
                Ok(durable) => {
                    assert_eq!(durable.0, self.appended.len() as u64);
                    self.on_durable(durable);
                }
                Err(WalError::Poisoned { .. }) => return false,
                // It goes on when there is room.
                Err(WalError::NoRoom { .. }) => {}
                Err(other) => panic!("flush: {other}"),
            },
            Step::Trim(share) => {
                let through = self.durable * u64::from(*share) / 256;
                wal.trim(Lsn(through));
                assert!(
                    wal.first_lsn().0 <= self.trimmed.max(through) + 1,
                    "trim keeps what is not covered"
                );
                self.trimmed = self.trimmed.max(through);
            }
        }
        true
    }

    fn on_durable(&mut self, durable: Lsn) {
        assert!(
            durable.0 >= self.durable,
            "the durable prefix never shrinks"
        );
        assert!(
            durable.0 <= self.appended.len() as u64,
            "only what was appended can be durable"
        );
        self.durable = durable.0;
    }
}
