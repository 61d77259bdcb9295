//! How a lane writes, and the bounds of every choice; and what it counts.

use super::error::WalError;
use super::format::{GROUP_HEADER_BYTES, RECORD_ALIGN_BYTES, RECORD_HEADER_BYTES, is_unit};
use crate::limits::{
    WAL_BLOCK_BYTES, WAL_DEPTH_DEFAULT, WAL_DEPTH_MAX, WAL_GROUP_BYTES_DEFAULT,
    WAL_GROUP_BYTES_MAX, WAL_GROUP_DELAY_US_MAX, WAL_RECORD_PAYLOAD_BYTES_MAX,
    WAL_SEGMENT_BYTES_DEFAULT, WAL_SEGMENT_BYTES_MAX, WAL_SEGMENT_BYTES_MIN,
    WAL_SPARE_SEGMENTS_DEFAULT,
};

/// How long a lane rests before it writes down that its last group is durable.
const ATTEST_DELAY_US: u64 = 200_000;

/// How a lane writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// Length of new segment files; a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// Groups in new segments start, and end, on multiples of this: a power of two from 512 to 4096. It must not be
    /// smaller than what the disk writes in place, unless no power loss interrupts it; see `storage/FORMAT.md`.
    pub unit_bytes: u64,
    /// Groups in flight.
    pub depth: usize,
    /// A group is closed when it has gathered this much.
    pub group_bytes_max: u64,
    /// How long a group may gather while another one is in flight and depth would allow writing it.
    pub group_delay_us: u64,
    /// Trimmed segments kept for recycling.
    pub spare_segments_max: usize,
    /// After this much rest the lane writes an empty group, which attests that the last one is durable;
    /// until then, damage to the last group of a recycled segment cannot be told from a torn write.
    pub attest_delay_us: u64,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: WAL_SEGMENT_BYTES_DEFAULT,
            unit_bytes: WAL_BLOCK_BYTES,
            depth: WAL_DEPTH_DEFAULT,
            group_bytes_max: WAL_GROUP_BYTES_DEFAULT,
            group_delay_us: 0,
            spare_segments_max: WAL_SPARE_SEGMENTS_DEFAULT,
            attest_delay_us: ATTEST_DELAY_US,
        }
    }
}

impl WalConfig {
    /// Checks every bound.
    pub fn check(&self) -> Result<(), WalError> {
        let segment_fits =
            (WAL_SEGMENT_BYTES_MIN..=WAL_SEGMENT_BYTES_MAX).contains(&self.segment_bytes);
        if !segment_fits || !self.segment_bytes.is_multiple_of(WAL_BLOCK_BYTES) {
            return Err(WalError::Config(
                "wal.segment_bytes must be a multiple of 4096 from 32 KiB to 1 GiB",
            ));
        }
        if !is_unit(self.unit_bytes) {
            return Err(WalError::Config(
                "wal.unit_bytes must be 512, 1024, 2048 or 4096",
            ));
        }
        if !(1..=WAL_DEPTH_MAX).contains(&self.depth) {
            return Err(WalError::Config("wal.depth must be from 1 to 16"));
        }
        if !(WAL_BLOCK_BYTES..=WAL_GROUP_BYTES_MAX).contains(&self.group_bytes_max) {
            return Err(WalError::Config(
                "wal.group_bytes_max must be from 4 KiB to 16 MiB",
            ));
        }
        if self.group_delay_us > WAL_GROUP_DELAY_US_MAX {
            return Err(WalError::Config(
                "wal.group_delay_us must be at most 100,000",
            ));
        }
        Ok(())
    }

    /// Largest group: what a segment holds beside its header block and its seal.
    pub(super) fn group_capacity_bytes(&self) -> u64 {
        self.segment_bytes - 2 * WAL_BLOCK_BYTES
    }

    /// Largest payload of one record.
    #[must_use]
    pub fn payload_bytes_max(&self) -> u64 {
        let overhead = (GROUP_HEADER_BYTES + RECORD_HEADER_BYTES + RECORD_ALIGN_BYTES) as u64;
        (self.group_capacity_bytes() - overhead).min(WAL_RECORD_PAYLOAD_BYTES_MAX)
    }
}

/// What a lane has done since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalCounters {
    /// Groups made durable, empty ones included.
    pub groups: u64,
    /// Records made durable.
    pub records: u64,
    /// Bytes written as groups.
    pub bytes_written: u64,
    /// Payload bytes appended.
    pub payload_bytes: u64,
    /// Segments begun.
    pub segments_begun: u64,
    /// Times the lane had to wait for a segment to be prepared.
    pub segment_waits: u64,
    /// Files zero-filled for use as a segment.
    pub segments_filled: u64,
    /// Files used again.
    pub segments_recycled: u64,
    /// Preparations that failed and will be tried again.
    pub prepare_failures: u64,
    /// Empty groups written to attest the one before.
    pub attests: u64,
    /// Latency samples lost because nobody drained them.
    pub latencies_dropped: u64,
}
