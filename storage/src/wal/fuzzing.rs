//! Lanes whose bytes anybody chose, behind checksums and chain values that match where that is asked for.
//!
//! ```text
//!   input:  flags u8 | segments: their content behind the header block, one behind the other
//! ```

use bytes::{Bytes, BytesMut};

use super::format::{
    self, BLOCK_BYTES, GROUP_HEADER_BYTES, GROUP_MAGIC, GroupHeader, LaneStart, RECORD_ALIGN_BYTES,
    RECORD_HEADER_BYTES, RecordKind, RecordMeta, SECTOR_BYTES, SegmentHeader,
};
use super::segment::name_of_slot;
use super::{Wal, WalConfig, WalRecord};
use crate::ids::{GroupSeq, LaneId, LeaseTime, Lsn, RaftIndex, SegmentSeq, ShardId, Term};
use crate::io::SimDisk;
use crate::limits::WAL_SEGMENT_BYTES_MIN;
use crate::recovery::{TailReport, read_lane};
use crate::state::{
    Command, CommandKind, Request, decode_entry, encode_entry, encode_wide_entry, entry_bytes,
};

const LANE: LaneId = LaneId(0);
const SEGMENT_BYTES: usize = WAL_SEGMENT_BYTES_MIN as usize;
const CONTENT_BYTES: usize = SEGMENT_BYTES - BLOCK_BYTES;
const SEGMENTS_MAX: usize = 3;
const NONCE: u64 = 0x6b65_656c_736f_6e21;

/// The segments were used before.
const RECYCLED: u8 = 1;
/// Checksums of group headers match, and groups are of this use of the segment.
const FIX_HEADERS: u8 = 2;
/// Records and chain match.
const FIX_RECORDS: u8 = 4;
/// Groups have the numbers that are due.
const FIX_NUMBERS: u8 = 8;
/// The headers of the segments are the input's, too, and nothing in them is made to match.
const RAW: u8 = 16;
/// Groups are aligned to sectors.
const SECTORS: u8 = 32;

/// A lane of anybody's choice: what is read is what is opened, and what a start leaves is sound.
pub fn lane(input: &[u8]) {
    let Some((flags, input)) = input.split_first() else {
        return;
    };
    let mut disk = SimDisk::new(1);
    if flags & RAW == 0 {
        let mut chain = Chain::default();
        for (number, content) in (1..).zip(input.chunks(CONTENT_BYTES).take(SEGMENTS_MAX)) {
            disk.edit(
                &name_of_slot(number),
                0,
                &segment(*flags, number, content, &mut chain),
            );
        }
    } else {
        for (number, content) in (1..).zip(input.chunks(SEGMENT_BYTES).take(SEGMENTS_MAX)) {
            disk.edit(&name_of_slot(number), 0, content);
        }
    }
    read(disk);
}

/// The payload of an entry of anybody's choice.
pub fn entry(input: &[u8]) {
    let payload = Bytes::copy_from_slice(input);
    let Ok((lease_time, commands)) = decode_entry(&payload) else {
        return;
    };
    for command in &commands {
        if let Ok(request) = command.request() {
            let again = Request::decode(command.kind, &request.encode_body());
            assert_eq!(again.as_ref(), Ok(&request));
        }
    }
    let [mut lean, mut wide] = [BytesMut::new(), BytesMut::new()];
    encode_entry(lease_time, &commands, &mut lean);
    assert_eq!(lean.len(), entry_bytes(&commands));
    encode_wide_entry(lease_time, &commands, &mut wide);
    assert!(
        lean == payload || wide == payload,
        "an entry has one form of each kind"
    );
}

/// Lanes with records of all sizes, and over several segments.
#[must_use]
pub fn lane_seeds() -> Vec<Vec<u8>> {
    let lanes = [
        vec![0, 10, 500],
        vec![9_000, 9_000, 9_000, 100],
        vec![5_000; 14],
    ];
    let mut seeds = Vec::new();
    for sizes in lanes {
        for alignment in [0, SECTORS] {
            let disk = written(&sizes, unit_of(alignment));
            let mut raw = vec![RAW];
            let mut content = vec![FIX_HEADERS | FIX_RECORDS | FIX_NUMBERS | alignment];
            for name in disk.names() {
                let file = disk.media(&name).expect("it is there");
                raw.extend_from_slice(file);
                content.extend_from_slice(&file[BLOCK_BYTES..]);
            }
            let recycled = [&[content[0] | RECYCLED], &content[1..]].concat();
            seeds.extend([raw, content, recycled]);
        }
    }
    seeds
}

/// Entries with commands of every kind.
#[must_use]
pub fn entry_seeds() -> Vec<Vec<u8>> {
    let bodies: [&[u8]; 4] = [
        b"",
        b"\x0a\x01k\x12\x05value",
        b"\x08\x07",
        b"\x10\x05\x18\x01",
    ];
    let commands: Vec<Command> = CommandKind::ALL
        .iter()
        .flat_map(|kind| bodies.map(|body| Command::new(*kind, 7, Bytes::from_static(body))))
        .map(|command| Command {
            user: Bytes::from_static(b"root"),
            ..command
        })
        .collect();
    let mut seeds = Vec::new();
    for commands in [&[], &commands[..3], &commands] {
        let [mut lean, mut wide] = [BytesMut::new(), BytesMut::new()];
        encode_entry(LeaseTime(77), commands, &mut lean);
        encode_wide_entry(LeaseTime(77), commands, &mut wide);
        seeds.extend([lean.to_vec(), wide.to_vec()]);
    }
    seeds
}

/// Reads a lane, opens it, and opens what that leaves.
fn read(disk: SimDisk) {
    let mut read = Vec::new();
    let mut image = disk.image(2);
    let report = read_lane(&mut image, LANE, |lsn, record| read.push((lsn, record)));
    for (_, record) in &read {
        decode(record);
    }
    let (opened, outcome) = open(&mut image);
    assert_eq!(report.is_ok(), outcome.is_ok(), "{report:?} {outcome:?}");
    assert_eq!(read, opened, "a start sees what a tool sees");
    let Ok(report) = report else {
        return;
    };
    assert_eq!(report.records, read.len() as u64);
    let (again, outcome) = open(&mut image.crash());
    let tail = outcome.expect("what a start leaves is sound");
    assert_eq!(again, read, "a start changes no record");
    assert_eq!(tail, TailReport::Clean);
}

fn open(disk: &mut SimDisk) -> (Vec<(Lsn, WalRecord)>, Result<TailReport, String>) {
    let config = WalConfig {
        segment_bytes: WAL_SEGMENT_BYTES_MIN,
        ..WalConfig::default()
    };
    let mut records = Vec::new();
    let opened = Wal::open(disk, LANE, config, |lsn, record| {
        records.push((lsn, record));
    });
    let outcome = opened.map(|(_, report)| report.tail);
    (records, outcome.map_err(|error| error.to_string()))
}

fn decode(record: &WalRecord) {
    if record.kind == RecordKind::Entry && !record.payload.is_empty() {
        let commands = decode_entry(&record.payload).map(|(_, commands)| commands);
        for command in commands.into_iter().flatten() {
            let _decodes_or_not = command.request();
        }
    }
}

fn unit_of(flags: u8) -> u64 {
    if flags & SECTORS == 0 {
        BLOCK_BYTES as u64
    } else {
        SECTOR_BYTES as u64
    }
}

/// What the groups so far add up to.
struct Chain {
    next: LaneStart,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            next: LaneStart::NEW,
        }
    }
}

/// A segment with this content, made to match as the flags say.
fn segment(flags: u8, number: u64, content: &[u8], chain: &mut Chain) -> Vec<u8> {
    let header = SegmentHeader {
        lane: LANE,
        sequence: SegmentSeq(number),
        generation: 1 + u64::from(flags & RECYCLED),
        nonce: NONCE + number,
        segment_bytes: WAL_SEGMENT_BYTES_MIN,
        start: LaneStart::NEW,
        unit_bytes: unit_of(flags),
    };
    let mut file = vec![0; SEGMENT_BYTES];
    header.encode(&mut file[..BLOCK_BYTES]);
    file[BLOCK_BYTES..BLOCK_BYTES + content.len()].copy_from_slice(content);
    if flags & FIX_HEADERS != 0 {
        let mut offset = BLOCK_BYTES;
        while offset < SEGMENT_BYTES {
            offset += fix_group(flags, &header, &mut file[offset..], chain);
        }
    }
    file
}

/// Makes the group at the beginning match, if there is one. Returns how far it reaches.
fn fix_group(flags: u8, segment: &SegmentHeader, group: &mut [u8], chain: &mut Chain) -> usize {
    if group[..GROUP_MAGIC.len()] != GROUP_MAGIC {
        return segment.unit_bytes as usize;
    }
    let u32_at = |at: usize| {
        let bytes = group[at..].first_chunk().expect("a header is longer");
        u32::from_le_bytes(*bytes)
    };
    let u64_at = |at: usize| {
        let bytes = group[at..].first_chunk().expect("a header is longer");
        u64::from_le_bytes(*bytes)
    };
    let mut header = GroupHeader {
        sequence: GroupSeq(u64_at(32)),
        first_lsn: Lsn(u64_at(40)),
        record_count: u32_at(56),
        body_bytes: u32_at(60),
        durable_group: GroupSeq(u64_at(48)),
        chain_in: u32_at(64),
        chain_out: u32_at(68),
        zero_sectors: u32_at(72),
        seal: group[22] & 1 != 0,
    };
    let bytes = header.group_bytes(segment) as usize;
    if flags & FIX_NUMBERS != 0 {
        header.sequence = chain.next.group;
        header.first_lsn = chain.next.lsn;
        header.chain_in = chain.next.chain;
    }
    if flags & FIX_RECORDS != 0 && bytes <= group.len() {
        fix_records(segment, &mut header, &mut group[..bytes]);
    }
    header.encode(segment, group);
    chain.next.group = GroupSeq(header.sequence.0.wrapping_add(1));
    chain.next.lsn = Lsn(header.first_lsn.0.wrapping_add(header.record_count.into()));
    chain.next.chain = header.chain_out;
    bytes.min(group.len())
}

/// Makes records follow each other without a gap, with the chain through them.
fn fix_records(segment: &SegmentHeader, header: &mut GroupHeader, group: &mut [u8]) {
    let end = GROUP_HEADER_BYTES + header.body_bytes as usize;
    group[end..].fill(0);
    let mut chain = format::chain_start(header.chain_in, segment);
    let mut offset = GROUP_HEADER_BYTES;
    header.record_count = 0;
    while offset + RECORD_HEADER_BYTES <= end {
        let record = &mut group[offset..end];
        let room = record.len() - RECORD_HEADER_BYTES;
        let bytes = record[4..].first_chunk().expect("a header is longer");
        let payload = (u32::from_le_bytes(*bytes) as usize).min(room);
        record[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
        record[9] = 0;
        record[12..16].fill(0);
        let end_of_record = RECORD_HEADER_BYTES + payload;
        let padded = end_of_record
            .next_multiple_of(RECORD_ALIGN_BYTES)
            .min(record.len());
        record[end_of_record..padded].fill(0);
        chain = crc32c::crc32c_append(chain, &record[4..end_of_record]);
        record[..4].copy_from_slice(&chain.to_le_bytes());
        header.record_count += 1;
        offset += padded;
    }
    header.zero_sectors = format::zero_sectors(group);
    header.chain_out = format::chain_after(header, segment, chain);
}

/// A lane with records of these sizes, closed in order.
fn written(sizes: &[usize], unit_bytes: u64) -> SimDisk {
    let config = WalConfig {
        segment_bytes: WAL_SEGMENT_BYTES_MIN,
        unit_bytes,
        ..WalConfig::default()
    };
    let mut disk = SimDisk::new(3);
    disk.set_eager(true);
    let opened = Wal::open(disk, LANE, config, |_, _| {});
    let (mut wal, _) = opened.expect("an empty directory is a new lane");
    for (index, bytes) in (1..).zip(sizes) {
        let meta = RecordMeta {
            kind: if index % 3 == 1 {
                RecordKind::HardState
            } else {
                RecordKind::Entry
            },
            shard: ShardId(0),
            term: Term(1),
            index: RaftIndex(index),
        };
        let payload = vec![index as u8; *bytes];
        wal.append(&meta, &[&payload]).expect("it fits a segment");
        wal.flush_blocking().expect("the disk works");
    }
    wal.into_disk()
}
