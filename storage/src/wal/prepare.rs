//! Gets the next segment ready while the lane writes the present one.
//!
//! The lane gives it a turn in every pump and its completions; it hands back a segment that is ready. A
//! trimmed file only needs a new header; a new file is created at its full size, filled with zeros in
//! small paced writes through the lane's own ring, flushed, and given its header last, durably.
//!
//! Invariants:
//! 1. A file with a sound header has been zeroed durably, or has been a segment before.
//! 2. A crash before the header leaves a file that starts with zeros and holds nothing else: recovery
//!    removes it.
//! 3. A failure before the header costs the file, not the lane: it is removed and tried again later. A
//!    failed header write is a failed write of the log.

use super::format::{BLOCK_BYTES, LaneStart, SegmentHeader};
use super::segment::{Segment, name_of_slot};
use crate::ids::{LaneId, SegmentSeq};
use crate::io::{AlignedBuf, Completion, Disk, DiskError};
use crate::limits::{WAL_BLOCK_BYTES, WAL_ZERO_BYTES};

/// Shortest time between two zero-filling writes while nothing is pressing.
const CHUNK_INTERVAL_US: u64 = 2_000;
/// How long after a failure the next attempt starts.
const RETRY_INTERVAL_US: u64 = 1_000_000;

/// Tokens of the preparer carry this bit, those of groups never do.
pub(super) const PREPARE_TOKEN: u64 = 1 << 63;
/// Completions of removals: nobody waits for them.
pub(super) const REMOVE_TOKEN: u64 = 1 << 62;

/// What the next segment will be, and how urgent it is.
pub(super) struct Wanted {
    pub(super) lane: LaneId,
    pub(super) sequence: SegmentSeq,
    pub(super) start: LaneStart,
    pub(super) segment_bytes: u64,
    pub(super) unit_bytes: u64,
    /// The lane waits for it.
    pub(super) urgent: bool,
    /// Used bytes of the present segment and its size.
    pub(super) used: (u64, u64),
    pub(super) now_us: u64,
}

#[derive(Debug)]
pub(super) struct Preparer {
    stage: Stage,
    slot_next: u64,
    zeros: Option<AlignedBuf>,
    last_chunk_us: u64,
    retry_at_us: u64,
    failure: Option<DiskError>,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Creating(Segment),
    Zeroing {
        segment: Segment,
        offset: u64,
        in_flight: bool,
    },
    Flushing(Segment),
    Heading(Segment),
    Discarding,
}

impl Preparer {
    pub(super) fn new(slot_max: u64) -> Self {
        Self {
            stage: Stage::Idle,
            slot_next: slot_max + 1,
            zeros: None,
            last_chunk_us: 0,
            retry_at_us: 0,
            failure: None,
        }
    }

    /// Why the last attempt failed; cleared when one succeeds.
    pub(super) fn failure(&self) -> Option<&DiskError> {
        self.failure.as_ref()
    }

    /// Reuses a file that is no longer needed: only the header is written.
    pub(super) fn recycle<D: Disk>(&mut self, disk: &mut D, old: Segment, wanted: &Wanted) {
        assert!(self.is_idle(), "one segment is prepared at a time");
        assert!(
            old.header.sequence < wanted.start.segment,
            "only a segment before the start of replay is recycled"
        );
        let header = SegmentHeader {
            generation: old.header.generation + 1,
            ..self.header(disk, wanted)
        };
        self.write_header(disk, Segment { header, ..old });
    }

    /// Starts or continues with a new file.
    pub(super) fn step<D: Disk>(&mut self, disk: &mut D, wanted: &Wanted) {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle if wanted.now_us < self.retry_at_us && self.failure.is_some() => {}
            Stage::Idle => {
                let header = self.header(disk, wanted);
                let name = name_of_slot(self.slot_next);
                self.slot_next += 1;
                let file = disk.submit_create(&name, header.segment_bytes, PREPARE_TOKEN);
                self.stage = Stage::Creating(Segment { file, name, header });
            }
            Stage::Zeroing {
                mut segment,
                offset,
                in_flight: false,
            } => {
                if offset == segment.header.segment_bytes {
                    // Replay may start later by now than when the file was created.
                    segment.header.start = wanted.start;
                    disk.submit_flush(segment.file, PREPARE_TOKEN);
                    self.stage = Stage::Flushing(segment);
                } else if self.is_chunk_due(offset, segment.header.segment_bytes, wanted) {
                    let bytes = (segment.header.segment_bytes - offset).min(WAL_ZERO_BYTES as u64);
                    let mut zeros = self
                        .zeros
                        .take()
                        .unwrap_or_else(|| AlignedBuf::zeroed(WAL_ZERO_BYTES));
                    // Nothing else was ever written to it.
                    zeros.set_filled(bytes as usize);
                    self.last_chunk_us = wanted.now_us;
                    disk.submit_write(segment.file, offset, zeros, false, PREPARE_TOKEN);
                    self.stage = Stage::Zeroing {
                        segment,
                        offset: offset + bytes,
                        in_flight: true,
                    };
                } else {
                    self.stage = Stage::Zeroing {
                        segment,
                        offset,
                        in_flight: false,
                    };
                }
            }
            waiting => self.stage = waiting,
        }
    }

    /// Takes a completion; hands back a segment when it is ready. An error is one of the log itself.
    pub(super) fn on_completion<D: Disk>(
        &mut self,
        disk: &mut D,
        completion: Completion,
        now_us: u64,
    ) -> Result<Option<Segment>, DiskError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        if let Err(error) = completion.result {
            match stage {
                Stage::Heading(_) => return Err(error),
                Stage::Creating(segment)
                | Stage::Zeroing { segment, .. }
                | Stage::Flushing(segment) => {
                    self.failure = Some(error);
                    self.retry_at_us = now_us.saturating_add(RETRY_INTERVAL_US);
                    disk.submit_remove(segment.file, PREPARE_TOKEN);
                    self.stage = Stage::Discarding;
                }
                // A file that cannot be removed is blank; the next start removes it.
                Stage::Discarding | Stage::Idle => {}
            }
            return Ok(None);
        }
        match stage {
            Stage::Creating(segment) => {
                self.stage = Stage::Zeroing {
                    segment,
                    offset: 0,
                    in_flight: false,
                };
            }
            Stage::Zeroing {
                segment, offset, ..
            } => {
                self.zeros = completion.buf;
                self.stage = Stage::Zeroing {
                    segment,
                    offset,
                    in_flight: false,
                };
            }
            Stage::Flushing(segment) => self.write_header(disk, segment),
            Stage::Heading(segment) => {
                self.failure = None;
                self.zeros = None;
                return Ok(Some(segment));
            }
            Stage::Discarding | Stage::Idle => {}
        }
        Ok(None)
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// When the next turn is due, if no completion brings it.
    pub(super) fn next_deadline_us(&self) -> Option<u64> {
        match self.stage {
            Stage::Zeroing {
                in_flight: false, ..
            } => Some(self.last_chunk_us.saturating_add(CHUNK_INTERVAL_US)),
            Stage::Idle if self.failure.is_some() => Some(self.retry_at_us),
            _ => None,
        }
    }

    /// Filling runs at its pace, but always twice as far ahead as the present segment is used.
    fn is_chunk_due(&self, offset: u64, segment_bytes: u64, wanted: &Wanted) -> bool {
        let (used, of) = wanted.used;
        let behind =
            u128::from(offset) * u128::from(of) < 2 * u128::from(used) * u128::from(segment_bytes);
        let paced = wanted.now_us >= self.last_chunk_us.saturating_add(CHUNK_INTERVAL_US);
        wanted.urgent || behind || paced
    }

    fn header<D: Disk>(&self, disk: &mut D, wanted: &Wanted) -> SegmentHeader {
        SegmentHeader {
            lane: wanted.lane,
            sequence: wanted.sequence,
            generation: 1,
            nonce: disk.entropy(),
            segment_bytes: wanted.segment_bytes,
            start: wanted.start,
            unit_bytes: wanted.unit_bytes,
        }
    }

    fn write_header<D: Disk>(&mut self, disk: &mut D, segment: Segment) {
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        segment.header.encode(block.as_mut_slice());
        assert!(
            segment.header.segment_bytes.is_multiple_of(WAL_BLOCK_BYTES),
            "a segment is whole blocks"
        );
        disk.submit_write(segment.file, 0, block, true, PREPARE_TOKEN);
        self.stage = Stage::Heading(segment);
    }
}
