//! Reads every segment of a lane in order, hands out the records, and finds where the log ends.
//!
//! Start-up and the offline tools hand it a disk; it only reads. What must be repaired before the lane
//! may be written (blocks to wipe, half-prepared files to remove) is part of the answer, and carrying it
//! out any number of times, or half of it, leaves an answer that says the same: wiping only removes
//! groups that nothing attests, and never changes whether the group at the end is sound.
//!
//! Reading is sequential in large pieces; payloads are slices of those pieces. Once nobody has a slice of a piece any
//! more, its buffer is read into again.

use bytes::Bytes;

use super::plan::{self, Action, Attestation, BodyState, Ground, HeaderState};
use crate::ids::{GroupSeq, LaneId, Lsn, SegmentSeq};
use crate::io::{AlignedBuf, Disk, FileEntry, FileId, Pool};
use crate::limits::{WAL_BLOCK_BYTES, WAL_READ_BYTES};
use crate::wal::format::{
    self, BLOCK_BYTES, BodyError, FORMAT_VERSION, GroupHeader, GroupHeaderView, LaneStart,
    SegmentHeader, SegmentHeaderError, WalRecord,
};
use crate::wal::{DamageReason, Segment, WalError, slot_of_name};

/// What recovery found, for the log line and the metrics of start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments that held needed groups.
    pub segments: u64,
    /// Groups replayed.
    pub groups: u64,
    /// Records replayed.
    pub records: u64,
    /// Bytes read from the disk.
    pub bytes_read: u64,
    /// The first record replayed, if there was any.
    pub first_lsn: Lsn,
    /// The record that will be appended next.
    pub next_lsn: Lsn,
    /// How the log ended.
    pub tail: TailReport,
}

/// How a log ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailReport {
    /// There was no log.
    New,
    /// Behind the last group there was nothing.
    Clean,
    /// Behind the last sound group were the remains of writes that a crash interrupted; they were never
    /// reported durable and are wiped.
    Cut {
        /// Path of the segment file.
        file: String,
        /// Where the log now ends.
        offset: u64,
        /// Blocks that were not zero and are wiped.
        blocks_wiped: u64,
    },
}

/// A segment whose groups were replayed.
#[derive(Debug)]
pub(crate) struct ReadSegment {
    pub(crate) segment: Segment,
    pub(crate) start: LaneStart,
}

/// One run of blocks to zero.
#[derive(Debug)]
pub(crate) struct DirtyRange {
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Everything the writer needs to go on.
#[derive(Debug)]
pub(crate) struct LaneScan {
    /// Read segments in order; the last one is where appending goes on. Empty for a new lane.
    pub(crate) read: Vec<ReadSegment>,
    /// Offset behind the last sound group in the last read segment.
    pub(crate) write_offset: u64,
    /// Segments prepared and not begun, in order.
    pub(crate) prepared: Vec<Segment>,
    /// Segments no longer needed.
    pub(crate) free: Vec<Segment>,
    /// Files whose preparation never finished.
    pub(crate) unprepared: Vec<FileId>,
    /// What to zero before the first append.
    pub(crate) dirty: Vec<DirtyRange>,
    /// Where the next group goes on.
    pub(crate) next: LaneStart,
    /// The last group that held records, and the highest one that a header calls durable.
    pub(crate) last_record_group: GroupSeq,
    pub(crate) attested: GroupSeq,
    pub(crate) slot_max: u64,
    pub(crate) report: RecoveryReport,
}

/// Reads a lane and changes nothing: for offline tools. Records come in their order, up to the first damage.
///
/// # Errors
/// Those with which [`Wal::open`](crate::wal::Wal::open) would refuse the lane.
pub fn read_lane<D: Disk>(
    disk: &mut D,
    lane: LaneId,
    mut on_record: impl FnMut(Lsn, WalRecord),
) -> Result<RecoveryReport, WalError> {
    Ok(scan(disk, lane, &mut on_record)?.report)
}

/// Reads the lane.
pub(crate) fn scan<D: Disk>(
    disk: &mut D,
    lane: LaneId,
    on_record: &mut dyn FnMut(Lsn, WalRecord),
) -> Result<LaneScan, WalError> {
    let mut files = find_segments(disk, lane)?;
    let mut scan = LaneScan {
        read: Vec::new(),
        write_offset: WAL_BLOCK_BYTES,
        prepared: Vec::new(),
        free: Vec::new(),
        unprepared: std::mem::take(&mut files.unprepared),
        dirty: Vec::new(),
        next: LaneStart::NEW,
        last_record_group: GroupSeq(0),
        attested: GroupSeq(0),
        slot_max: files.slot_max,
        report: RecoveryReport {
            segments: 0,
            groups: 0,
            records: 0,
            bytes_read: files.bytes_read,
            first_lsn: Lsn(1),
            next_lsn: Lsn(1),
            tail: TailReport::New,
        },
    };
    let Some(newest) = files.segments.last() else {
        return Ok(scan);
    };
    scan.next = newest.header.start;
    scan.report.first_lsn = scan.next.lsn;
    let first = scan.next.segment;
    let (free, live): (Vec<_>, Vec<_>) = files
        .segments
        .into_iter()
        .partition(|s| s.header.sequence < first);
    scan.free = free;
    check_contiguous(disk, lane, first, &live)?;
    let mut reader = Reader {
        disk,
        on_record,
        scan,
        window: Bytes::new(),
        window_offset: 0,
        buffers: Pool::new(0, 0),
    };
    reader.walk(live)?;
    let mut scan = reader.scan;
    scan.report.next_lsn = scan.next.lsn;
    Ok(scan)
}

struct FoundSegments {
    segments: Vec<Segment>,
    unprepared: Vec<FileId>,
    slot_max: u64,
    bytes_read: u64,
}

/// Opens every file of the directory and reads its header block; the result is sorted by sequence.
fn find_segments<D: Disk>(disk: &mut D, lane: LaneId) -> Result<FoundSegments, WalError> {
    let mut found = FoundSegments {
        segments: Vec::new(),
        unprepared: Vec::new(),
        slot_max: 0,
        bytes_read: 0,
    };
    for entry in disk.list()? {
        let path = format!("{}/{}", disk.location(), entry.name);
        let slot = slot_of_name(&entry.name).filter(|_| entry.is_file);
        let slot = slot.ok_or_else(|| WalError::ForeignFile {
            file: path.clone(),
            problem: "it is not a segment of a write-ahead log",
        })?;
        found.slot_max = found.slot_max.max(slot);
        match open_segment(disk, lane, entry, &path)? {
            Opened::Segment(segment) => found.segments.push(segment),
            Opened::Unprepared(file) => found.unprepared.push(file),
        }
        found.bytes_read += WAL_BLOCK_BYTES;
    }
    found
        .segments
        .sort_by_key(|segment| segment.header.sequence);
    for pair in found.segments.windows(2) {
        if pair[0].header.sequence == pair[1].header.sequence {
            let file = format!("{}/{}", disk.location(), pair[1].name);
            let lsn = pair[1].header.start.lsn;
            return Err(WalError::Damaged {
                file,
                offset: 0,
                reason: DamageReason::DuplicateSegment,
                lsn,
            });
        }
    }
    Ok(found)
}

enum Opened {
    Segment(Segment),
    Unprepared(FileId),
}

fn open_segment<D: Disk>(
    disk: &mut D,
    lane: LaneId,
    entry: FileEntry,
    path: &str,
) -> Result<Opened, WalError> {
    let file = disk.open(&entry.name)?;
    let mut block = AlignedBuf::with_capacity(BLOCK_BYTES);
    disk.read(file, 0, BLOCK_BYTES, &mut block)?;
    let damaged = |offset, reason| WalError::Damaged {
        file: path.to_owned(),
        offset,
        reason,
        lsn: Lsn(1),
    };
    match SegmentHeader::decode(block.as_slice()) {
        Ok(header) if header.lane != lane => Err(WalError::ForeignFile {
            file: path.to_owned(),
            problem: "it is a segment of another lane",
        }),
        Ok(header) if entry.bytes < header.segment_bytes => {
            Err(damaged(entry.bytes, DamageReason::Truncated))
        }
        Ok(header) => Ok(Opened::Segment(Segment {
            file,
            name: entry.name,
            header,
        })),
        Err(SegmentHeaderError::Newer(version)) => Err(WalError::NewerFormat {
            file: path.to_owned(),
            found: format!("{version}"),
            known: FORMAT_VERSION,
        }),
        Err(SegmentHeaderError::Invalid) => Err(damaged(0, DamageReason::SegmentHeader)),
        Err(SegmentHeaderError::Blank) => match first_nonzero(disk, file, entry.bytes)? {
            Some(offset) => Err(damaged(offset, DamageReason::BlankHeader)),
            None => Ok(Opened::Unprepared(file)),
        },
    }
}

fn first_nonzero<D: Disk>(
    disk: &mut D,
    file: FileId,
    file_bytes: u64,
) -> Result<Option<u64>, WalError> {
    let mut piece = AlignedBuf::with_capacity(WAL_READ_BYTES);
    let mut offset = 0;
    while offset < file_bytes {
        disk.read(file, offset, WAL_READ_BYTES, &mut piece)?;
        if let Some(at) = piece.as_slice().iter().position(|byte| *byte != 0) {
            return Ok(Some(offset + at as u64));
        }
        if piece.is_empty() {
            break;
        }
        offset += piece.len() as u64;
    }
    Ok(None)
}

fn check_contiguous<D: Disk>(
    disk: &D,
    lane: LaneId,
    first: SegmentSeq,
    live: &[Segment],
) -> Result<(), WalError> {
    let mut expected = first;
    for segment in live {
        if segment.header.sequence != expected {
            return Err(WalError::MissingSegment {
                directory: disk.location().to_owned(),
                lane,
                sequence: expected,
            });
        }
        expected = expected.next();
    }
    Ok(())
}

struct Reader<'a, D: Disk> {
    disk: &'a mut D,
    on_record: &'a mut dyn FnMut(Lsn, WalRecord),
    scan: LaneScan,
    /// What was read last of the present segment.
    window: Bytes,
    window_offset: u64,
    /// New memory would cost more than the reads themselves.
    buffers: Pool,
}

/// How a segment's walk ended.
enum SegmentEnd {
    Sealed,
    Stopped {
        offset: u64,
        header: HeaderState,
        body: BodyState,
    },
}

impl<D: Disk> Reader<'_, D> {
    fn walk(&mut self, live: Vec<Segment>) -> Result<(), WalError> {
        let last = live.last().map(|segment| segment.header.sequence);
        let mut rest = live.into_iter();
        while let Some(segment) = rest.next() {
            self.scan.next.segment = segment.header.sequence;
            let start = self.scan.next;
            let end = self.walk_segment(&segment)?;
            self.scan.report.segments += 1;
            self.scan.read.push(ReadSegment { segment, start });
            match end {
                SegmentEnd::Sealed if Some(self.scan.next.segment) == last => {
                    let lane = self.last_read().header.lane;
                    let directory = self.disk.location().to_owned();
                    let sequence = self.scan.next.segment.next();
                    return Err(WalError::MissingSegment {
                        directory,
                        lane,
                        sequence,
                    });
                }
                SegmentEnd::Sealed => {}
                SegmentEnd::Stopped {
                    offset,
                    header,
                    body,
                } => {
                    self.scan.prepared = rest.collect();
                    return self.stop(offset, header, body);
                }
            }
        }
        unreachable!("a walk ends at a stop or at a missing segment")
    }

    fn last_read(&self) -> Segment {
        self.scan
            .read
            .last()
            .expect("a segment was read")
            .segment
            .clone()
    }

    fn walk_segment(&mut self, segment: &Segment) -> Result<SegmentEnd, WalError> {
        self.window = Bytes::new();
        let mut offset = WAL_BLOCK_BYTES;
        loop {
            if offset >= segment.header.segment_bytes {
                // The writer always leaves room for the seal, so a sound group cannot end here.
                return Err(self.damaged(segment, offset, DamageReason::Misplaced));
            }
            let bytes_left = segment.header.segment_bytes - offset;
            let block = self.view(segment, offset, segment.header.unit_bytes)?;
            let stopped = |header, body| {
                Ok(SegmentEnd::Stopped {
                    offset,
                    header,
                    body,
                })
            };
            let header = match GroupHeader::view(&segment.header, &block, bytes_left) {
                GroupHeaderView::Ours(header) => header,
                GroupHeaderView::Blank => return stopped(HeaderState::Blank, BodyState::Unread),
                GroupHeaderView::Garbage => {
                    return stopped(HeaderState::Garbage, BodyState::Unread);
                }
                GroupHeaderView::Stale => return stopped(HeaderState::Stale, BodyState::Unread),
            };
            let next = &self.scan.next;
            if header.sequence != next.group
                || header.first_lsn != next.lsn
                || header.chain_in != next.chain
            {
                return stopped(HeaderState::Other, BodyState::Unread);
            }
            let group_bytes = header.group_bytes(&segment.header);
            let group = self.view(segment, offset, group_bytes)?;
            if let Some(body) = self.take_group(segment, &header, &group, offset)? {
                return stopped(HeaderState::Ours, body);
            }
            offset += group_bytes;
            self.scan.write_offset = offset;
            if header.seal {
                return Ok(SegmentEnd::Sealed);
            }
        }
    }

    /// Hands out a sound group's records; a bad body's state otherwise.
    fn take_group(
        &mut self,
        segment: &Segment,
        header: &GroupHeader,
        group: &Bytes,
        offset: u64,
    ) -> Result<Option<BodyState>, WalError> {
        let mut lsn = header.first_lsn;
        let on_record = &mut *self.on_record;
        let read = format::read_body(&segment.header, header, group, |meta, payload| {
            let payload = group.slice(payload);
            let record = WalRecord {
                kind: meta.kind,
                shard: meta.shard,
                term: meta.term,
                index: meta.index,
                payload,
            };
            on_record(lsn, record);
            lsn = lsn.next();
        });
        match read {
            Ok(()) => {
                self.scan.attested = header.durable_group;
                if header.record_count > 0 {
                    self.scan.last_record_group = header.sequence;
                }
                self.scan.report.groups += 1;
                self.scan.report.records += u64::from(header.record_count);
                self.scan.next.group = header.sequence.next();
                self.scan.next.lsn = lsn;
                self.scan.next.chain = header.chain_out;
                Ok(None)
            }
            Err(BodyError::UnknownKind(kind)) => Err(WalError::NewerFormat {
                file: self.path(segment),
                found: format!("{FORMAT_VERSION} with record kind {kind} at byte {offset}"),
                known: FORMAT_VERSION,
            }),
            Err(BodyError::Checksum) if !segment.header.is_fresh() => Ok(Some(BodyState::Unclear)),
            Err(BodyError::Checksum) if format::zero_sectors(group) > header.zero_sectors => {
                Ok(Some(BodyState::Holes))
            }
            Err(BodyError::Checksum) => Ok(Some(BodyState::Complete)),
        }
    }

    /// Decides at the first place without a sound group, and notes what must be wiped.
    fn stop(&mut self, offset: u64, header: HeaderState, body: BodyState) -> Result<(), WalError> {
        let segment = self.last_read();
        let expected = self.scan.next.group;
        let mut attestation = self.look_behind(&segment, offset, expected)?;
        for later in self.scan.prepared.clone() {
            attestation = strongest(
                attestation,
                self.look_behind(&later, WAL_BLOCK_BYTES, expected)?,
            );
        }
        let ground = if segment.header.is_fresh() {
            Ground::Fresh
        } else {
            Ground::Recycled
        };
        let cut = match plan::decide(header, body, attestation, ground) {
            Action::Accept => unreachable!("a sound group does not stop the walk"),
            Action::End => !self.scan.dirty.is_empty(),
            Action::Cut => true,
            Action::Damage(reason) => return Err(self.damaged(&segment, offset, reason)),
        };
        self.scan.write_offset = offset;
        let blocks_wiped = self
            .scan
            .dirty
            .iter()
            .map(|range| range.bytes.div_ceil(WAL_BLOCK_BYTES))
            .sum();
        self.scan.report.tail = match cut {
            true => TailReport::Cut {
                file: self.path(&segment),
                offset,
                blocks_wiped,
            },
            false => TailReport::Clean,
        };
        Ok(())
    }

    /// Looks at every unit from `offset` on for groups behind the expected one, and collects what a new
    /// group must not find: anything but zeros in a fresh segment, our own groups in a recycled one.
    fn look_behind(
        &mut self,
        segment: &Segment,
        offset: u64,
        expected: GroupSeq,
    ) -> Result<Attestation, WalError> {
        let mut attestation = Attestation::Silent;
        let mut at = offset;
        let (unit, end) = (segment.header.unit_bytes, segment.header.segment_bytes);
        self.window = Bytes::new();
        while at < end {
            let block = self.view(segment, at, unit)?;
            let mut wipe = segment.header.is_fresh() && !format::is_zero(&block);
            if let GroupHeaderView::Ours(header) =
                GroupHeader::view(&segment.header, &block, end - at)
            {
                wipe = true;
                if header.durable_group >= expected {
                    attestation = Attestation::Durable;
                } else if header.sequence > expected {
                    attestation = strongest(attestation, Attestation::InFlight);
                }
            }
            if wipe {
                self.mark_dirty(segment.file, at, unit);
            }
            at += unit;
        }
        Ok(attestation)
    }

    fn mark_dirty(&mut self, file: FileId, offset: u64, unit: u64) {
        match self.scan.dirty.last_mut() {
            Some(range) if range.file == file && range.offset + range.bytes == offset => {
                range.bytes += unit;
            }
            _ => self.scan.dirty.push(DirtyRange {
                file,
                offset,
                bytes: unit,
            }),
        }
    }

    /// `bytes` of the segment from `offset`, which must lie inside it.
    fn view(&mut self, segment: &Segment, offset: u64, bytes: u64) -> Result<Bytes, WalError> {
        let window_end = self.window_offset + self.window.len() as u64;
        if offset < self.window_offset || offset + bytes > window_end || self.window.is_empty() {
            // Reads are of whole blocks, also where groups are not.
            let from = offset / WAL_BLOCK_BYTES * WAL_BLOCK_BYTES;
            let want = (offset + bytes - from)
                .next_multiple_of(WAL_BLOCK_BYTES)
                .max(WAL_READ_BYTES as u64)
                .min(segment.header.segment_bytes - from);
            // What was read before goes back first, if nobody kept a record of it.
            self.window = Bytes::new();
            let mut buf = self.buffers.take_or_make(want as usize);
            self.disk
                .read(segment.file, from, want as usize, &mut buf)?;
            self.scan.report.bytes_read += buf.len() as u64;
            if (buf.len() as u64) < want {
                return Err(self.damaged(
                    segment,
                    from + buf.len() as u64,
                    DamageReason::Truncated,
                ));
            }
            self.window = Bytes::from_owner(buf);
            self.window_offset = from;
        }
        let start = (offset - self.window_offset) as usize;
        Ok(self.window.slice(start..start + bytes as usize))
    }

    fn path(&self, segment: &Segment) -> String {
        format!("{}/{}", self.disk.location(), segment.name)
    }

    fn damaged(&self, segment: &Segment, offset: u64, reason: DamageReason) -> WalError {
        WalError::Damaged {
            file: self.path(segment),
            offset,
            reason,
            lsn: self.scan.next.lsn,
        }
    }
}

fn strongest(a: Attestation, b: Attestation) -> Attestation {
    match (a, b) {
        (Attestation::Durable, _) | (_, Attestation::Durable) => Attestation::Durable,
        (Attestation::InFlight, _) | (_, Attestation::InFlight) => Attestation::InFlight,
        (Attestation::Silent, Attestation::Silent) => Attestation::Silent,
    }
}
