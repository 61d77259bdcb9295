//! The blocking steps between reading a lane and appending to it.
//!
//! A crash in the middle of them changes nothing that the next start decides: wiping only removes what
//! was to be wiped, and a half-prepared file is removed whole.

use super::config::WalConfig;
use super::format::LaneStart;
use super::prepare::{Preparer, REMOVE_TOKEN, Wanted};
use super::segment::Segment;
use crate::ids::LaneId;
use crate::io::{AlignedBuf, Disk, DiskError};
use crate::limits::WAL_ZERO_BYTES;
use crate::recovery::scan::LaneScan;

/// Wipes what must not be found, removes half-prepared files, and makes what was read durable: a group
/// that reached only the device's cache before the process died is not yet.
pub(super) fn repair<D: Disk>(disk: &mut D, scan: &LaneScan) -> Result<(), DiskError> {
    for file in &scan.unprepared {
        disk.submit_remove(*file, REMOVE_TOKEN);
        settle(disk, 1)?;
    }
    for range in &scan.dirty {
        let mut done = 0;
        while done < range.bytes {
            let bytes = (range.bytes - done).min(WAL_ZERO_BYTES as u64);
            disk.submit_write(
                range.file,
                range.offset + done,
                AlignedBuf::zeroed(bytes as usize),
                true,
                0,
            );
            settle(disk, 1)?;
            done += bytes;
        }
    }
    for read in scan.read.iter().rev().take(2) {
        disk.submit_flush(read.segment.file, 0);
        settle(disk, 1)?;
    }
    Ok(())
}

/// Waits for `count` completions.
fn settle<D: Disk>(disk: &mut D, count: usize) -> Result<(), DiskError> {
    let mut completions = Vec::with_capacity(count);
    while completions.len() < count {
        disk.wait()?;
        disk.reap(&mut completions);
    }
    completions
        .into_iter()
        .try_for_each(|completion| completion.result)
}

/// Creates the first segment of a new lane.
pub(super) fn first_segment<D: Disk>(
    disk: &mut D,
    preparer: &mut Preparer,
    lane: LaneId,
    config: &WalConfig,
) -> Result<Segment, DiskError> {
    let wanted = Wanted {
        lane,
        sequence: LaneStart::NEW.segment,
        start: LaneStart::NEW,
        segment_bytes: config.segment_bytes,
        unit_bytes: config.unit_bytes,
        urgent: true,
        used: (0, 1),
        now_us: 0,
    };
    let mut completions = Vec::new();
    loop {
        if let Some(cause) = preparer.failure() {
            return Err(cause.clone());
        }
        preparer.step(disk, &wanted);
        disk.wait()?;
        disk.reap(&mut completions);
        for completion in completions.drain(..) {
            if let Some(segment) = preparer.on_completion(disk, completion, 0)? {
                return Ok(segment);
            }
        }
    }
}
