//! The lane itself: records in, durable prefix out.
//!
//! The engine appends and pumps; recovery has read everything before the first append. Groups are
//! gathered in aligned buffers that travel to the disk and back, so a record is copied exactly once.
//! Checksums are computed when a group is written, because they depend on the segment it lands in.

mod facts;
#[cfg(test)]
#[path = "lane_tests.rs"]
mod lane_tests;

use std::collections::VecDeque;

use super::config::{WalConfig, WalCounters};
use super::error::WalError;
use super::format::{
    self, BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, LaneStart, RecordMeta, WalRecord,
};
use super::group::{InFlight, OpenGroup};
use super::prepare::{PREPARE_TOKEN, Preparer, REMOVE_TOKEN, Wanted};
use super::segment::Segment;
use super::startup::{first_segment, repair};
use crate::ids::{GroupSeq, LaneId, Lsn, SegmentSeq};
use crate::io::{AlignedBuf, Completion, Disk, DiskError};
use crate::limits::{
    WAL_BLOCK_BYTES, WAL_DEPTH_MAX, WAL_GROUP_BYTES_DEFAULT, WAL_LATENCY_SAMPLES_MAX,
    WAL_PENDING_BYTES_MAX,
};
use crate::recovery::RecoveryReport;
use crate::recovery::scan::{self, LaneScan, ReadSegment};

/// Buffers of more than this are not kept for reuse.
const POOLED_BYTES_MAX: usize = 2 * WAL_GROUP_BYTES_DEFAULT as usize;

/// One WAL stream over one disk directory.
#[derive(Debug)]
pub struct Wal<D: Disk> {
    disk: D,
    lane: LaneId,
    config: WalConfig,
    sealed: VecDeque<Sealed>,
    active: Active,
    prepared: VecDeque<Segment>,
    free: VecDeque<Segment>,
    /// Segments before this one are no longer needed according to a durable header.
    recorded_start: SegmentSeq,
    preparer: Preparer,
    waiting_for_segment: bool,
    open: OpenGroup,
    closed: VecDeque<OpenGroup>,
    in_flight: VecDeque<InFlight>,
    pool: Vec<AlignedBuf>,
    completions: Vec<Completion>,
    /// Place of the next group; `lsn` is the next one to be written, not the next to be appended.
    next: LaneStart,
    next_append: Lsn,
    durable_group: GroupSeq,
    durable: Lsn,
    /// The last group with records, and the highest group any written header calls durable.
    last_record_group: GroupSeq,
    attested: GroupSeq,
    quiet_since_us: u64,
    draining: bool,
    pending_bytes: u64,
    now_us: u64,
    poison: Option<DiskError>,
    latencies_us: Vec<u32>,
    counters: WalCounters,
}

impl<D: Disk> Wal<D> {
    /// Replays the lane in `disk`, repairs what a crash left, and gets ready to append. Blocks; creates
    /// and fills the first segment of a new lane.
    pub fn open(
        mut disk: D,
        lane: LaneId,
        config: WalConfig,
        mut on_record: impl FnMut(Lsn, WalRecord),
    ) -> Result<(Self, RecoveryReport), WalError> {
        config.check()?;
        let scan = scan::scan(&mut disk, lane, &mut on_record)?;
        repair(&mut disk, &scan)?;
        let report = scan.report.clone();
        Ok((Self::resume(disk, lane, config, scan)?, report))
    }

    /// A lane that goes on where the scan ended.
    fn resume(
        mut disk: D,
        lane: LaneId,
        config: WalConfig,
        scan: LaneScan,
    ) -> Result<Self, DiskError> {
        let LaneScan {
            mut read,
            write_offset,
            prepared,
            free,
            next,
            last_record_group,
            attested,
            slot_max,
            ..
        } = scan;
        let mut preparer = Preparer::new(slot_max);
        let active = match read.pop() {
            Some(last) => Active {
                segment: last.segment,
                start: last.start,
                offset: write_offset,
            },
            None => {
                let segment = first_segment(&mut disk, &mut preparer, lane, &config)?;
                Active {
                    segment,
                    start: LaneStart::NEW,
                    offset: WAL_BLOCK_BYTES,
                }
            }
        };
        let sealed = sealed_segments(read, active.start);
        let newest = prepared.last().unwrap_or(&active.segment);
        let durable_group = GroupSeq(next.group.0 - 1);
        Ok(Self {
            recorded_start: newest.header.start.segment,
            disk,
            lane,
            sealed,
            prepared: prepared.into(),
            free: free.into(),
            preparer,
            waiting_for_segment: false,
            open: OpenGroup::new(AlignedBuf::with_capacity(BLOCK_BYTES), next.lsn),
            closed: VecDeque::new(),
            in_flight: VecDeque::new(),
            pool: Vec::new(),
            completions: Vec::new(),
            next: LaneStart {
                segment: active.segment.header.sequence,
                ..next
            },
            active,
            next_append: next.lsn,
            durable_group,
            durable: Lsn(next.lsn.0 - 1),
            last_record_group,
            attested,
            quiet_since_us: 0,
            draining: false,
            pending_bytes: 0,
            now_us: 0,
            poison: None,
            latencies_us: Vec::new(),
            counters: WalCounters::default(),
            config,
        })
    }

    /// Adds a record, given in pieces, to the open group; it is durable once `pump` returns its number.
    pub fn append(&mut self, meta: &RecordMeta, payload: &[&[u8]]) -> Result<Lsn, WalError> {
        self.check_poison()?;
        let bytes: u64 = payload.iter().map(|piece| piece.len() as u64).sum();
        let max = self.config.payload_bytes_max();
        if bytes > max {
            return Err(WalError::RecordTooLarge { bytes, max });
        }
        let record_bytes = format::record_bytes(bytes);
        if self.pending_bytes + record_bytes > WAL_PENDING_BYTES_MAX {
            return Err(WalError::Backlogged {
                pending: self.pending_bytes,
                max: WAL_PENDING_BYTES_MAX,
            });
        }
        let group_max = self
            .config
            .group_bytes_max
            .min(self.config.group_capacity_bytes());
        if self.open.record_count > 0 && self.open.bytes_with(record_bytes) > group_max {
            self.close_group();
        }
        let payload_bytes = u32::try_from(bytes).expect("payloads are bounded below 4 GiB");
        self.open.push(meta, payload_bytes, payload);
        self.pending_bytes += record_bytes;
        self.counters.payload_bytes += bytes;
        let lsn = self.next_append;
        self.next_append = lsn.next();
        Ok(lsn)
    }

    /// Takes completions, writes what the batching rule allows, keeps the next segment coming; returns the
    /// number of the last record of the durable prefix (0 before the first). Never blocks. `now_us` is any
    /// clock that does not go backwards.
    pub fn pump(&mut self, now_us: u64) -> Result<Lsn, WalError> {
        self.check_poison()?;
        self.now_us = self.now_us.max(now_us);
        match self.turn() {
            Ok(()) => Ok(self.durable),
            Err(cause) => {
                self.poison = Some(cause.clone());
                Err(WalError::Poisoned { cause })
            }
        }
    }

    /// Makes everything appended durable, and attested, before it returns. Blocks; for shutdown and tests. Does not wait for
    /// room on the disk.
    pub fn flush_blocking(&mut self) -> Result<Lsn, WalError> {
        self.draining = true;
        let result = loop {
            let durable = match self.pump(self.now_us) {
                Ok(durable) => durable,
                Err(error) => break Err(error),
            };
            // An attest is worth waiting for, but not worth a failure when the disk is full.
            if self.is_idle() && (!self.wants_attest() || self.preparer.failure().is_some()) {
                break Ok(durable);
            }
            if self.is_out_of_room()
                && let Some(cause) = self.preparer.failure().cloned()
            {
                break Err(WalError::NoRoom { cause });
            }
            if let Err(cause) = self.disk.wait() {
                self.poison = Some(cause.clone());
                break Err(WalError::Poisoned { cause });
            }
        };
        self.draining = false;
        result
    }

    /// Declares that a durable snapshot covers every record through `covered`: whole segments before it
    /// may be used again. Returns how many were freed.
    pub fn trim(&mut self, covered: Lsn) -> u64 {
        let covered = covered.min(self.durable);
        let mut freed = 0;
        while let Some(oldest) = self.sealed.front() {
            // `end` is where the next segment starts: all before it must be covered, and the seal durable.
            if oldest.end.lsn.0 - 1 > covered.0 || oldest.end.group.0 - 1 > self.durable_group.0 {
                break;
            }
            let oldest = self.sealed.pop_front().expect("the loop looked at it");
            self.free.push_back(oldest.segment);
            freed += 1;
        }
        freed
    }

    fn check_poison(&self) -> Result<(), WalError> {
        match &self.poison {
            Some(cause) => Err(WalError::Poisoned {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    fn turn(&mut self) -> Result<(), DiskError> {
        self.take_completions()?;
        self.write_groups();
        self.write_attest();
        self.prepare_next()?;
        self.disk.kick()
    }

    fn take_completions(&mut self) -> Result<(), DiskError> {
        let mut completions = std::mem::take(&mut self.completions);
        self.disk.reap(&mut completions);
        for completion in completions.drain(..) {
            if completion.token & PREPARE_TOKEN != 0 {
                self.on_prepare_completion(completion)?;
            } else if completion.token & REMOVE_TOKEN == 0 {
                self.on_group_completion(completion)?;
            }
        }
        self.completions = completions;
        while self.in_flight.front().is_some_and(|group| group.done) {
            let group = self.in_flight.pop_front().expect("the loop looked at it");
            assert_eq!(
                group.sequence,
                self.durable_group.next(),
                "groups become durable in order"
            );
            self.durable_group = group.sequence;
            self.durable = group.last_lsn;
            self.pending_bytes -= group.body_bytes;
            self.counters.groups += 1;
            self.counters.records += u64::from(group.record_count);
            self.counters.bytes_written += group.group_bytes;
            self.quiet_since_us = self.now_us;
        }
        Ok(())
    }

    fn on_group_completion(&mut self, completion: Completion) -> Result<(), DiskError> {
        completion.result?;
        let first = self
            .in_flight
            .front()
            .expect("a completed group was in flight")
            .sequence;
        let index = (completion.token - first.0) as usize;
        let group = &mut self.in_flight[index];
        assert_eq!(
            group.sequence.0, completion.token,
            "groups in flight have consecutive numbers"
        );
        assert!(!group.done, "a group completes once");
        group.done = true;
        let latency_us = self.now_us.saturating_sub(group.written_at_us);
        if self.latencies_us.len() < WAL_LATENCY_SAMPLES_MAX {
            self.latencies_us
                .push(u32::try_from(latency_us).unwrap_or(u32::MAX));
        } else {
            self.counters.latencies_dropped += 1;
        }
        if let Some(buf) = completion.buf {
            self.return_buf(buf);
        }
        Ok(())
    }

    fn on_prepare_completion(&mut self, completion: Completion) -> Result<(), DiskError> {
        let failed = completion.result.is_err();
        let ready = self
            .preparer
            .on_completion(&mut self.disk, completion, self.now_us)?;
        if failed {
            self.counters.prepare_failures += u64::from(self.preparer.failure().is_some());
        }
        if let Some(segment) = ready {
            if segment.header.is_fresh() {
                self.counters.segments_filled += 1;
            } else {
                self.counters.segments_recycled += 1;
            }
            self.recorded_start = segment.header.start.segment;
            self.prepared.push_back(segment);
            self.remove_surplus();
        }
        Ok(())
    }

    fn write_groups(&mut self) {
        if self.open.record_count > 0 && self.open.opened_at_us.is_none() {
            self.open.opened_at_us = Some(self.now_us);
        }
        let waited = std::mem::take(&mut self.waiting_for_segment);
        while self.in_flight.len() < self.config.depth {
            if self.closed.is_empty() {
                if !self.is_open_group_due() {
                    break;
                }
                self.close_group();
            }
            let group = self.closed.pop_front().expect("a group was just closed");
            if let Err(group) = self.write_group(group) {
                self.closed.push_front(group);
                self.waiting_for_segment = true;
                self.counters.segment_waits += u64::from(!waited);
                break;
            }
        }
    }

    fn is_open_group_due(&self) -> bool {
        let Some(opened_at_us) = self
            .open
            .opened_at_us
            .filter(|_| self.open.record_count > 0)
        else {
            return false;
        };
        let gathered = self.now_us >= opened_at_us.saturating_add(self.config.group_delay_us);
        self.in_flight.is_empty() || gathered || self.draining
    }

    /// After a rest, an empty group says that everything before it is durable.
    fn write_attest(&mut self) {
        let rested = self.now_us
            >= self
                .quiet_since_us
                .saturating_add(self.config.attest_delay_us);
        if self.is_idle() && self.wants_attest() && (rested || self.draining) {
            let buf = self.take_buf();
            match self.write_group(OpenGroup::new(buf, self.next_append)) {
                Ok(()) => self.counters.attests += 1,
                Err(group) => {
                    self.return_buf(group.buf);
                    self.waiting_for_segment = true;
                }
            }
        }
    }

    fn wants_attest(&self) -> bool {
        self.attested < self.last_record_group
    }

    fn prepare_next(&mut self) -> Result<(), DiskError> {
        if !self.prepared.is_empty() {
            return Ok(());
        }
        if self.waiting_for_segment
            && !self.closed.is_empty()
            && let Some(cause) = self.preparer.failure()
            && self.preparer.is_idle()
            && !matches!(cause, DiskError::NoSpace { .. })
        {
            return Err(cause.clone());
        }
        let wanted = Wanted {
            lane: self.lane,
            sequence: self.active.segment.header.sequence.next(),
            start: self.replay_start(),
            segment_bytes: self.config.segment_bytes,
            unit_bytes: self.config.unit_bytes,
            urgent: self.waiting_for_segment,
            used: (self.active.offset, self.active.segment.header.segment_bytes),
            now_us: self.now_us,
        };
        if self.preparer.is_idle() {
            let reusable = |s: &Segment| s.header.segment_bytes == self.config.segment_bytes;
            if let Some(old) = self
                .free
                .iter()
                .position(reusable)
                .and_then(|index| self.free.remove(index))
            {
                self.preparer.recycle(&mut self.disk, old, &wanted);
                return Ok(());
            }
        }
        self.preparer.step(&mut self.disk, &wanted);
        Ok(())
    }

    /// Removes trimmed files that are too many or of another size, once a durable header says that replay
    /// starts behind them.
    fn remove_surplus(&mut self) {
        let mut kept = 0;
        let free = std::mem::take(&mut self.free);
        for segment in free {
            let removable = segment.header.sequence < self.recorded_start;
            let wanted = segment.header.segment_bytes == self.config.segment_bytes;
            if removable && !(wanted && kept < self.config.spare_segments_max) {
                self.disk.submit_remove(segment.file, REMOVE_TOKEN);
            } else {
                kept += 1;
                self.free.push_back(segment);
            }
        }
    }

    fn replay_start(&self) -> LaneStart {
        self.sealed
            .front()
            .map_or(self.active.start, |oldest| oldest.start)
    }

    /// Writes a group where it fits; hands it back when it must wait for a segment.
    fn write_group(&mut self, group: OpenGroup) -> Result<(), OpenGroup> {
        // A segment always keeps a block for its seal.
        while self.active.offset + self.active.bytes_of(&group) + WAL_BLOCK_BYTES
            > self.active.segment.header.segment_bytes
        {
            let Some(segment) = self.prepared.pop_front() else {
                return Err(group);
            };
            let buf = self.take_buf();
            self.place_group(OpenGroup::new(buf, self.next.lsn), true);
            self.begin_segment(segment);
        }
        self.place_group(group, false);
        Ok(())
    }

    fn begin_segment(&mut self, segment: Segment) {
        assert_eq!(
            segment.header.sequence,
            self.active.segment.header.sequence.next(),
            "segments follow each other"
        );
        self.next.segment = segment.header.sequence;
        let begun = Active {
            segment,
            start: self.next,
            offset: WAL_BLOCK_BYTES,
        };
        let ended = std::mem::replace(&mut self.active, begun);
        self.sealed.push_back(Sealed {
            segment: ended.segment,
            start: ended.start,
            end: self.next,
        });
        self.counters.segments_begun += 1;
    }

    fn place_group(&mut self, mut group: OpenGroup, seal: bool) {
        let body_bytes = group.body_bytes();
        let bytes = self.active.bytes_of(&group);
        assert_eq!(
            group.first_lsn, self.next.lsn,
            "records are written in the order they were appended"
        );
        let segment = &self.active.segment.header;
        assert!(
            self.active.offset + bytes <= segment.segment_bytes,
            "a group stays inside its segment"
        );
        group.buf.resize(bytes as usize);
        let memory = group.buf.as_mut_slice();
        let body = GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + body_bytes as usize;
        let chain = format::seal_records(
            format::chain_start(self.next.chain, segment),
            &mut memory[body],
        );
        let mut header = GroupHeader {
            sequence: self.next.group,
            first_lsn: group.first_lsn,
            record_count: group.record_count,
            body_bytes: u32::try_from(body_bytes)
                .expect("a group fits its segment, which fits 32 bits"),
            durable_group: self.durable_group,
            chain_in: self.next.chain,
            chain_out: 0,
            zero_sectors: format::zero_sectors(memory),
            seal,
        };
        header.chain_out = format::chain_after(&header, segment, chain);
        header.encode(segment, memory);
        self.disk.submit_write(
            self.active.segment.file,
            self.active.offset,
            group.buf,
            true,
            header.sequence.0,
        );
        self.active.offset += bytes;
        let last_lsn = Lsn(group.first_lsn.0 + u64::from(group.record_count) - 1);
        self.in_flight.push_back(InFlight {
            sequence: header.sequence,
            last_lsn,
            record_count: group.record_count,
            body_bytes,
            group_bytes: bytes,
            written_at_us: self.now_us,
            done: false,
        });
        self.attested = self.durable_group;
        if group.record_count > 0 {
            self.last_record_group = header.sequence;
        }
        self.next.group = header.sequence.next();
        self.next.lsn = last_lsn.next();
        self.next.chain = header.chain_out;
    }

    fn close_group(&mut self) {
        let buf = self.take_buf();
        let open = OpenGroup::new(buf, self.next_append);
        self.closed
            .push_back(std::mem::replace(&mut self.open, open));
    }

    fn take_buf(&mut self) -> AlignedBuf {
        self.pool
            .pop()
            .unwrap_or_else(|| AlignedBuf::with_capacity(BLOCK_BYTES))
    }

    fn return_buf(&mut self, buf: AlignedBuf) {
        if self.pool.len() < WAL_DEPTH_MAX + 2 && buf.capacity() <= POOLED_BYTES_MAX {
            self.pool.push(buf);
        }
    }
}

/// A segment that is written to its end. `end` is where the next one starts.
#[derive(Debug)]
struct Sealed {
    segment: Segment,
    start: LaneStart,
    end: LaneStart,
}

/// The segment being written.
#[derive(Debug)]
struct Active {
    segment: Segment,
    start: LaneStart,
    offset: u64,
}

impl Active {
    /// What a group takes in this segment.
    fn bytes_of(&self, group: &OpenGroup) -> u64 {
        format::group_bytes(group.body_bytes(), self.segment.header.unit_bytes)
    }
}

/// Every read segment but the last, each with the place where the next one starts.
fn sealed_segments(read: Vec<ReadSegment>, active_start: LaneStart) -> VecDeque<Sealed> {
    let mut sealed = VecDeque::new();
    let mut end = active_start;
    for ReadSegment { segment, start } in read.into_iter().rev() {
        sealed.push_front(Sealed {
            segment,
            start,
            end,
        });
        end = start;
    }
    sealed
}
