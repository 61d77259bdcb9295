//! The bytes of the lane: segment headers, group headers, records. Layouts are in `storage/FORMAT.md`.
//!
//! Everything here is a plain function of bytes: the writer encodes with it, recovery decodes with it,
//! and decoding is total, whatever the bytes.

use bytes::Bytes;

use crate::ids::{GroupSeq, LaneId, Lsn, RaftIndex, SegmentSeq, ShardId, Term};
use crate::limits::{
    WAL_BLOCK_BYTES, WAL_SEGMENT_BYTES_MAX, WAL_SEGMENT_BYTES_MIN, WAL_UNIT_BYTES_MIN,
};

/// Length of a segment header, and the largest unit that groups are aligned to.
pub const BLOCK_BYTES: usize = WAL_BLOCK_BYTES as usize;
/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// Version of the layout this code writes; it reads all before.
pub const FORMAT_VERSION: u32 = 2;
/// The last version whose groups are always aligned to whole blocks.
const FORMAT_VERSION_BLOCKS: u32 = 1;
/// Length of a group header.
pub const GROUP_HEADER_BYTES: usize = 128;
/// Length of a record header.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Records start on multiples of this.
pub const RECORD_ALIGN_BYTES: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"KEELSEGM";
pub(super) const GROUP_MAGIC: [u8; 4] = *b"KGRP";

const FLAG_SEAL: u16 = 1;
const KNOWN_FLAGS: u16 = FLAG_SEAL;

const _: () = assert!(GROUP_HEADER_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(
    GROUP_HEADER_BYTES <= SECTOR_BYTES,
    "a group header is never torn"
);
const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!((WAL_UNIT_BYTES_MIN as usize).is_multiple_of(SECTOR_BYTES));

/// What a record means to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A raft log entry.
    Entry = 1,
    /// A shard's vote, term and commit position.
    HardState = 2,
    /// A raft log entry that changes who belongs to the group.
    Membership = 3,
    /// A snapshot takes the place of the log before.
    LogStart = 4,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(RecordKind::Entry),
            2 => Some(RecordKind::HardState),
            3 => Some(RecordKind::Membership),
            4 => Some(RecordKind::LogStart),
            _ => None,
        }
    }
}

/// What every record says about its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMeta {
    /// What the payload is.
    pub kind: RecordKind,
    /// Whose it is.
    pub shard: ShardId,
    /// Raft term.
    pub term: Term,
    /// Raft index.
    pub index: RaftIndex,
}

/// One record as recovery hands it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalRecord {
    /// What the payload is.
    pub kind: RecordKind,
    /// Whose it is.
    pub shard: ShardId,
    /// Raft term.
    pub term: Term,
    /// Raft index.
    pub index: RaftIndex,
    /// A slice of the read buffer; holding on to it holds on to that buffer.
    pub payload: Bytes,
}

/// Where the replay of a lane starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneStart {
    /// The oldest segment still needed.
    pub segment: SegmentSeq,
    /// Its first group.
    pub group: GroupSeq,
    /// The first record of that group.
    pub lsn: Lsn,
    /// The chain value before it.
    pub chain: u32,
}

impl LaneStart {
    /// Of a lane nothing was written to.
    pub const NEW: Self = Self {
        segment: SegmentSeq(1),
        group: GroupSeq(1),
        lsn: Lsn(1),
        chain: 0,
    };
}

/// The first block of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Lane it belongs to.
    pub lane: LaneId,
    /// Its place in the lane.
    pub sequence: SegmentSeq,
    /// How often the file has been used; 1 means that it held zeros before.
    pub generation: u64,
    /// Drawn at random for this use of the file.
    pub nonce: u64,
    /// Length of the file.
    pub segment_bytes: u64,
    /// Where replay had to start when this header was written.
    pub start: LaneStart,
    /// Its groups start, and end, on multiples of this.
    pub unit_bytes: u64,
}

/// Why a segment header was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentHeaderError {
    /// Never written.
    Blank,
    /// Not a header, or one whose checksum or fields are wrong.
    Invalid,
    /// A sound header of this later version.
    Newer(u32),
}

impl SegmentHeader {
    /// The checksum all records and group headers of this use of the file start from.
    #[must_use]
    pub fn seed(&self) -> u32 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sequence.0.to_le_bytes());
        crc32c::crc32c(&bytes)
    }

    /// True when the file held nothing but zeros before this use.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.generation == 1
    }

    /// Writes the header block.
    pub fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "a segment header is one block");
        block.fill(0);
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(block, 12, FORMAT_VERSION);
        put_u16(block, 16, self.lane.0);
        put_u64(block, 24, self.sequence.0);
        put_u64(block, 32, self.generation);
        put_u64(block, 40, self.nonce);
        put_u64(block, 48, self.segment_bytes);
        put_u64(block, 56, self.start.segment.0);
        put_u64(block, 64, self.start.group.0);
        put_u64(block, 72, self.start.lsn.0);
        put_u32(block, 80, self.start.chain);
        let unit_bytes = u32::try_from(self.unit_bytes).expect("a unit is a block at most");
        put_u32(block, 84, unit_bytes);
        let checksum = crc32c::crc32c(&block[12..]);
        put_u32(block, 8, checksum);
    }

    /// Reads a header block.
    pub fn decode(block: &[u8]) -> Result<Self, SegmentHeaderError> {
        if is_zero(block) {
            return Err(SegmentHeaderError::Blank);
        }
        if block.len() != BLOCK_BYTES
            || block[..8] != SEGMENT_MAGIC
            || get_u32(block, 8) != crc32c::crc32c(&block[12..])
        {
            return Err(SegmentHeaderError::Invalid);
        }
        let version = get_u32(block, 12);
        if version > FORMAT_VERSION {
            return Err(SegmentHeaderError::Newer(version));
        }
        let header = Self {
            lane: LaneId(get_u16(block, 16)),
            sequence: SegmentSeq(get_u64(block, 24)),
            generation: get_u64(block, 32),
            nonce: get_u64(block, 40),
            segment_bytes: get_u64(block, 48),
            start: LaneStart {
                segment: SegmentSeq(get_u64(block, 56)),
                group: GroupSeq(get_u64(block, 64)),
                lsn: Lsn(get_u64(block, 72)),
                chain: get_u32(block, 80),
            },
            unit_bytes: match version {
                FORMAT_VERSION_BLOCKS => WAL_BLOCK_BYTES,
                _ => u64::from(get_u32(block, 84)),
            },
        };
        let size_fits = (WAL_SEGMENT_BYTES_MIN..=WAL_SEGMENT_BYTES_MAX)
            .contains(&header.segment_bytes)
            && header.segment_bytes.is_multiple_of(WAL_BLOCK_BYTES);
        let numbered =
            header.sequence.0 >= 1 && header.generation >= 1 && header.start.segment.0 >= 1;
        let ordered = header.start.segment <= header.sequence;
        let aligned = is_unit(header.unit_bytes);
        if version == 0 || !size_fits || !numbered || !ordered || !aligned {
            return Err(SegmentHeaderError::Invalid);
        }
        Ok(header)
    }
}

/// The head of one group commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Its place in the lane.
    pub sequence: GroupSeq,
    /// Ordinal of its first record, or of the next one when it has none.
    pub first_lsn: Lsn,
    /// Records in it.
    pub record_count: u32,
    /// Bytes of the records, without the header and the zeros that fill the last block.
    pub body_bytes: u32,
    /// Every group up to this one was durable when this one was written.
    pub durable_group: GroupSeq,
    /// Chain value after the previous group.
    pub chain_in: u32,
    /// Chain value after this group's last record.
    pub chain_out: u32,
    /// Whole sectors after the first that hold only zeros.
    pub zero_sectors: u32,
    /// The last group of its segment: the log goes on in the next one.
    pub seal: bool,
}

/// What a block where a group header could be holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupHeaderView {
    /// Only zeros in the header's bytes.
    Blank,
    /// A header of this use of this segment.
    Ours(GroupHeader),
    /// A sound header of another segment or of an earlier use of this file.
    Stale,
    /// Anything else.
    Garbage,
}

impl GroupHeader {
    /// Bytes of the whole group on disk.
    #[must_use]
    pub fn group_bytes(&self, segment: &SegmentHeader) -> u64 {
        group_bytes(u64::from(self.body_bytes), segment.unit_bytes)
    }

    /// Writes the header at the front of a group.
    pub fn encode(&self, segment: &SegmentHeader, out: &mut [u8]) {
        let out = &mut out[..GROUP_HEADER_BYTES];
        out.fill(0);
        out[..4].copy_from_slice(&GROUP_MAGIC);
        put_u64(out, 8, segment.nonce);
        put_u32(out, 16, segment.seed());
        put_u16(out, 20, segment.lane.0);
        put_u16(out, 22, if self.seal { FLAG_SEAL } else { 0 });
        put_u64(out, 24, segment.sequence.0);
        put_u64(out, 32, self.sequence.0);
        put_u64(out, 40, self.first_lsn.0);
        put_u64(out, 48, self.durable_group.0);
        put_u32(out, 56, self.record_count);
        put_u32(out, 60, self.body_bytes);
        put_u32(out, 64, self.chain_in);
        put_u32(out, 68, self.chain_out);
        put_u32(out, 72, self.zero_sectors);
        let checksum = crc32c::crc32c(&out[8..]);
        put_u32(out, 4, checksum);
    }

    /// Looks at the first bytes of a block; `bytes_left` is what the segment holds from there on.
    #[must_use]
    pub fn view(segment: &SegmentHeader, block: &[u8], bytes_left: u64) -> GroupHeaderView {
        let Some(head) = block.get(..GROUP_HEADER_BYTES) else {
            return GroupHeaderView::Garbage;
        };
        if is_zero(head) {
            return GroupHeaderView::Blank;
        }
        if head[..4] != GROUP_MAGIC || get_u32(head, 4) != crc32c::crc32c(&head[8..]) {
            return GroupHeaderView::Garbage;
        }
        let ours = get_u64(head, 8) == segment.nonce
            && get_u32(head, 16) == segment.seed()
            && get_u16(head, 20) == segment.lane.0
            && get_u64(head, 24) == segment.sequence.0;
        if !ours {
            return GroupHeaderView::Stale;
        }
        let flags = get_u16(head, 22);
        let header = GroupHeader {
            sequence: GroupSeq(get_u64(head, 32)),
            first_lsn: Lsn(get_u64(head, 40)),
            durable_group: GroupSeq(get_u64(head, 48)),
            record_count: get_u32(head, 56),
            body_bytes: get_u32(head, 60),
            chain_in: get_u32(head, 64),
            chain_out: get_u32(head, 68),
            zero_sectors: get_u32(head, 72),
            seal: flags & FLAG_SEAL != 0,
        };
        let sane = flags & !KNOWN_FLAGS == 0
            && header.durable_group < header.sequence
            && header.group_bytes(segment) <= bytes_left
            && u64::from(header.record_count) * RECORD_HEADER_BYTES as u64
                <= u64::from(header.body_bytes)
            && header
                .first_lsn
                .0
                .checked_add(u64::from(header.record_count))
                .is_some()
            && header.sequence.0 < u64::MAX;
        if sane {
            GroupHeaderView::Ours(header)
        } else {
            GroupHeaderView::Garbage
        }
    }
}

/// Whether groups may be aligned to that.
#[must_use]
pub fn is_unit(bytes: u64) -> bool {
    bytes.is_power_of_two() && (WAL_UNIT_BYTES_MIN..=WAL_BLOCK_BYTES).contains(&bytes)
}

/// Bytes a group with that many record bytes takes in a segment of that unit.
#[must_use]
pub fn group_bytes(body_bytes: u64, unit_bytes: u64) -> u64 {
    (GROUP_HEADER_BYTES as u64 + body_bytes).next_multiple_of(unit_bytes)
}

/// Bytes a record with that payload takes in a group.
#[must_use]
pub fn record_bytes(payload_bytes: u64) -> u64 {
    (RECORD_HEADER_BYTES as u64 + payload_bytes).next_multiple_of(RECORD_ALIGN_BYTES as u64)
}

/// The chain value a group's first record continues.
#[must_use]
pub fn chain_start(chain_in: u32, segment: &SegmentHeader) -> u32 {
    crc32c::crc32c_append(chain_in, &segment.seed().to_le_bytes())
}

/// Writes a record header with an open checksum.
#[must_use]
pub fn encode_record_header(meta: &RecordMeta, payload_bytes: u32) -> [u8; RECORD_HEADER_BYTES] {
    let mut out = [0; RECORD_HEADER_BYTES];
    put_u32(&mut out, 4, payload_bytes);
    out[8] = meta.kind as u8;
    put_u16(&mut out, 10, meta.shard.0);
    put_u64(&mut out, 16, meta.term.0);
    put_u64(&mut out, 24, meta.index.0);
    out
}

/// Fills in the checksums of a whole body, from the chain value before it; returns the one after it.
pub fn seal_records(chain: u32, body: &mut [u8]) -> u32 {
    let mut chain = chain;
    let mut offset = 0;
    while offset < body.len() {
        let payload_bytes = get_u32(body, offset + 4) as usize;
        let end = offset + RECORD_HEADER_BYTES + payload_bytes;
        chain = crc32c::crc32c_append(chain, &body[offset + 4..end]);
        put_u32(body, offset, chain);
        offset = end.next_multiple_of(RECORD_ALIGN_BYTES);
    }
    chain
}

/// Why a body was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The bytes are not what was written.
    Checksum,
    /// The bytes are what was written, but by a later version: a record kind this code does not know.
    UnknownKind(u8),
}

/// Checks the group at the front of `group` (header, records and filling zeros: `group_bytes` of it) and
/// hands out each record's metadata and the place of its payload.
pub fn read_body(
    segment: &SegmentHeader,
    header: &GroupHeader,
    group: &[u8],
    mut on_record: impl FnMut(RecordMeta, std::ops::Range<usize>),
) -> Result<(), BodyError> {
    let body_end = GROUP_HEADER_BYTES + header.body_bytes as usize;
    if group.len() as u64 != header.group_bytes(segment) || !is_zero(&group[body_end..]) {
        return Err(BodyError::Checksum);
    }
    // The whole body is checked before the first record is handed out.
    let mut chain = chain_start(header.chain_in, segment);
    let mut unknown_kind = None;
    let mut count = 0u32;
    let mut offset = GROUP_HEADER_BYTES;
    while offset < body_end {
        let record = &group[offset..body_end];
        let end = record_end(record).ok_or(BodyError::Checksum)?;
        chain = crc32c::crc32c_append(chain, &record[4..end]);
        if get_u32(record, 0) != chain {
            return Err(BodyError::Checksum);
        }
        let padded = end.next_multiple_of(RECORD_ALIGN_BYTES);
        if padded > record.len() || !is_zero(&record[end..padded]) {
            return Err(BodyError::Checksum);
        }
        if RecordKind::from_byte(record[8]).is_none() {
            unknown_kind = unknown_kind.or(Some(record[8]));
        }
        count = count.saturating_add(1);
        offset += padded;
    }
    if count != header.record_count || chain_after(header, segment, chain) != header.chain_out {
        return Err(BodyError::Checksum);
    }
    if let Some(kind) = unknown_kind {
        return Err(BodyError::UnknownKind(kind));
    }
    let mut offset = GROUP_HEADER_BYTES;
    while offset < body_end {
        let record = &group[offset..body_end];
        let end = record_end(record).ok_or(BodyError::Checksum)?;
        let meta = RecordMeta {
            kind: RecordKind::from_byte(record[8]).ok_or(BodyError::Checksum)?,
            shard: ShardId(get_u16(record, 10)),
            term: Term(get_u64(record, 16)),
            index: RaftIndex(get_u64(record, 24)),
        };
        on_record(meta, offset + RECORD_HEADER_BYTES..offset + end);
        offset += end.next_multiple_of(RECORD_ALIGN_BYTES);
    }
    Ok(())
}

/// The chain value after a group: that of its last record, mixed with its place, so that an empty group
/// moves the chain as well.
#[must_use]
pub fn chain_after(header: &GroupHeader, segment: &SegmentHeader, records_chain: u32) -> u32 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&header.sequence.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&header.first_lsn.0.to_le_bytes());
    bytes[16..].copy_from_slice(&segment.seed().to_le_bytes());
    crc32c::crc32c_append(records_chain, &bytes)
}

fn record_end(record: &[u8]) -> Option<usize> {
    if record.len() < RECORD_HEADER_BYTES || record[9] != 0 || get_u32(record, 12) != 0 {
        return None;
    }
    let end = RECORD_HEADER_BYTES.checked_add(get_u32(record, 4) as usize)?;
    (end <= record.len()).then_some(end)
}

/// Sectors of a group after the first that hold only zeros.
#[must_use]
pub fn zero_sectors(group: &[u8]) -> u32 {
    let sectors = group.chunks(SECTOR_BYTES).skip(1);
    u32::try_from(sectors.filter(|sector| is_zero(sector)).count()).expect("a group fits 32 bits")
}

/// True when every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

fn put_u16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put_u32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes make a u16"))
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes make a u32"))
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(
        bytes[at..at + 8]
            .try_into()
            .expect("eight bytes make a u64"),
    )
}
