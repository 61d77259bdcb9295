//! The bytes on disk: pinned by a golden file, and decoded totally whatever they are.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::format::*;
use super::model_tests::{Step, World};
use super::*;
use crate::ids::{GroupSeq, LaneId, Lsn, RaftIndex, SegmentSeq, ShardId, Term};
use crate::io::SimDisk;

/// Segments of formats 1 and 2 as the first versions of this code that had them wrote them. They must open for
/// ever; a change of the layout adds a file and a version and leaves these alone.
const GOLDEN_V1: &[u8] = include_bytes!("golden/segment-v1.bin");
const GOLDEN: &[u8] = include_bytes!("golden/segment-v2.bin");
const GOLDEN_NAME: &str = "00000001.seg";

fn golden_config() -> WalConfig {
    WalConfig {
        segment_bytes: 8 * 4096,
        unit_bytes: 512,
        ..WalConfig::default()
    }
}

fn golden_steps() -> Vec<Step> {
    [
        Step::Append(11),
        Step::Append(0),
        Step::Pump(1),
        Step::Append(5_000),
        Step::Append(77),
        Step::Flush,
    ]
    .to_vec()
}

#[test]
fn the_layout_is_the_one_of_the_golden_file() {
    let mut disk = SimDisk::new(0x5eed);
    disk.set_eager(true);
    let mut world = World::new(golden_config());
    world.live(&mut disk, &golden_steps()).unwrap();
    let written = disk.media(GOLDEN_NAME).unwrap();
    let first = written.iter().zip(GOLDEN).position(|(a, b)| a != b);
    assert_eq!(
        first, None,
        "the first byte that differs from the golden file"
    );
    assert_eq!(written.len(), GOLDEN.len());
}

#[test]
fn the_golden_files_open_and_are_continued() {
    for golden in [GOLDEN_V1, GOLDEN] {
        let mut disk = SimDisk::new(1);
        disk.edit(GOLDEN_NAME, 0, golden);
        let wal = opens(disk);
        let mut world = World::new(golden_config());
        world.appended = [11, 0, 5_000, 77]
            .map(|bytes| vec![7; bytes].into())
            .to_vec();
        let mut wal = wal;
        let mut now_us = 0;
        for bytes in 0..60 {
            assert!(world.take_step(&mut wal, &Step::Append(bytes * 50), &mut now_us));
            assert!(world.take_step(&mut wal, &Step::Flush, &mut now_us));
        }
        assert!(wal.counters().segments_begun > 1, "segments of both units");
        let mut count = 0;
        let disk = wal.into_disk().crash();
        Wal::open(disk, LaneId(5), golden_config(), |_, _| count += 1).unwrap();
        assert_eq!(count, 64);
    }
}

fn opens(disk: SimDisk) -> Wal<SimDisk> {
    let mut seen = Vec::new();
    let (wal, report) = Wal::open(disk, LaneId(5), golden_config(), |lsn, record| {
        seen.push((lsn, record))
    })
    .unwrap();
    assert_eq!(
        (report.records, report.groups, report.next_lsn),
        (4, 3, Lsn(5))
    );
    let sizes: Vec<_> = seen
        .iter()
        .map(|(lsn, record)| (lsn.0, record.payload.len()))
        .collect();
    assert_eq!(sizes, [(1, 11), (2, 0), (3, 5_000), (4, 77)]);
    let first = &seen[0].1;
    assert_eq!(first.payload[..], *b"\x01\0\0\0\0\0\0\0\x01\x01\x01");
    assert_eq!(
        (first.kind, first.shard, first.term, first.index),
        (RecordKind::Entry, ShardId(1), Term(0), RaftIndex(2))
    );
    wal
}

fn segment() -> SegmentHeader {
    SegmentHeader {
        lane: LaneId(3),
        sequence: SegmentSeq(9),
        generation: 2,
        nonce: 0x0123_4567_89ab_cdef,
        segment_bytes: 1 << 20,
        start: LaneStart {
            segment: SegmentSeq(4),
            group: GroupSeq(40),
            lsn: Lsn(400),
            chain: 77,
        },
        unit_bytes: 4096,
    }
}

/// A whole group of the given payloads.
fn group(payloads: &[Vec<u8>]) -> (GroupHeader, Vec<u8>) {
    let segment = segment();
    let mut bytes = vec![0; GROUP_HEADER_BYTES];
    for payload in payloads {
        let meta = RecordMeta {
            kind: RecordKind::Entry,
            shard: ShardId(1),
            term: Term(2),
            index: RaftIndex(3),
        };
        bytes.extend_from_slice(&encode_record_header(&meta, payload.len() as u32));
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGN_BYTES), 0);
    }
    let body_bytes = bytes.len() - GROUP_HEADER_BYTES;
    let chain = seal_records(chain_start(5, &segment), &mut bytes[GROUP_HEADER_BYTES..]);
    bytes.resize(group_bytes(body_bytes as u64, 4096) as usize, 0);
    let mut header = GroupHeader {
        sequence: GroupSeq(50),
        first_lsn: Lsn(500),
        record_count: payloads.len() as u32,
        body_bytes: body_bytes as u32,
        durable_group: GroupSeq(48),
        chain_in: 5,
        chain_out: 0,
        zero_sectors: zero_sectors(&bytes),
        seal: false,
    };
    header.chain_out = chain_after(&header, &segment, chain);
    header.encode(&segment, &mut bytes);
    (header, bytes)
}

#[test]
fn segment_headers_read_back_and_every_changed_byte_shows() {
    let mut block = vec![0; BLOCK_BYTES];
    segment().encode(&mut block);
    assert_eq!(SegmentHeader::decode(&block), Ok(segment()));
    for at in 0..BLOCK_BYTES {
        block[at] ^= 0x10;
        assert_eq!(
            SegmentHeader::decode(&block),
            Err(SegmentHeaderError::Invalid),
            "byte {at}"
        );
        block[at] ^= 0x10;
    }
    assert_eq!(
        SegmentHeader::decode(&[0; BLOCK_BYTES]),
        Err(SegmentHeaderError::Blank)
    );
    assert_eq!(
        SegmentHeader::decode(&block[..100]),
        Err(SegmentHeaderError::Invalid)
    );
}

#[test]
fn g_d_5_group_headers_belong_to_one_use_of_one_segment() {
    let (header, bytes) = group(&[vec![1; 100]]);
    assert_eq!(
        GroupHeader::view(&segment(), &bytes, 1 << 19),
        GroupHeaderView::Ours(header)
    );
    for other in [
        SegmentHeader {
            nonce: 1,
            ..segment()
        },
        SegmentHeader {
            generation: 3,
            ..segment()
        },
        SegmentHeader {
            sequence: SegmentSeq(10),
            ..segment()
        },
        SegmentHeader {
            lane: LaneId(4),
            ..segment()
        },
    ] {
        assert_eq!(
            GroupHeader::view(&other, &bytes, 1 << 19),
            GroupHeaderView::Stale
        );
    }
    assert_eq!(
        GroupHeader::view(&segment(), &bytes, 4095),
        GroupHeaderView::Garbage,
        "longer than what is left"
    );
    assert_eq!(
        GroupHeader::view(&segment(), &[0; 4096], 1 << 19),
        GroupHeaderView::Blank
    );
}

#[test]
fn a_record_kind_of_a_later_version_is_told_from_damage() {
    let segment = segment();
    let (mut header, mut bytes) = group(&[vec![1; 100], vec![2; 5]]);
    bytes[GROUP_HEADER_BYTES + 8] = 200;
    let end = GROUP_HEADER_BYTES + header.body_bytes as usize;
    assert_eq!(
        read_body(&segment, &header, &bytes, |_, _| ()),
        Err(BodyError::Checksum)
    );
    let chain = seal_records(
        chain_start(header.chain_in, &segment),
        &mut bytes[GROUP_HEADER_BYTES..end],
    );
    header.chain_out = chain_after(&header, &segment, chain);
    assert_eq!(
        read_body(&segment, &header, &bytes, |_, _| ()),
        Err(BodyError::UnknownKind(200))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn groups_read_back(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3_000), 0..8)) {
        let (header, bytes) = group(&payloads);
        prop_assert_eq!(GroupHeader::view(&segment(), &bytes, bytes.len() as u64), GroupHeaderView::Ours(header));
        let mut read = Vec::new();
        read_body(&segment(), &header, &bytes, |meta, payload| {
            assert_eq!(meta.index, RaftIndex(3));
            read.push(bytes[payload].to_vec());
        }).unwrap();
        prop_assert_eq!(read, payloads);
    }

    #[test]
    fn g_d_3_a_changed_group_is_never_read(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 1..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
    ) {
        let (header, sound) = group(&payloads);
        let mut bytes = sound.clone();
        for (at, mask) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        prop_assume!(bytes != sound);
        let view = GroupHeader::view(&segment(), &bytes, bytes.len() as u64);
        if view == GroupHeaderView::Ours(header) {
            let result = read_body(&segment(), &header, &bytes, |_, _| panic!("nothing of a bad group is handed out"));
            prop_assert_eq!(result, Err(BodyError::Checksum));
        } else {
            prop_assert_eq!(view, GroupHeaderView::Garbage);
        }
    }

    /// Decoders are total: hostile headers over hostile bytes.
    #[test]
    fn decoders_take_any_bytes(
        mut bytes in prop::collection::vec(any::<u8>(), 0..3 * 4096),
        sizes in (any::<u32>(), any::<u32>(), any::<u32>()),
        bytes_left in any::<u64>(),
        small in any::<bool>(),
    ) {
        let _ = SegmentHeader::decode(&bytes);
        bytes.resize(bytes.len().next_multiple_of(4096).max(4096), 0);
        let _ = SegmentHeader::decode(&bytes[..4096]);
        let _ = GroupHeader::view(&segment(), &bytes, bytes_left);
        let room = (bytes.len() - GROUP_HEADER_BYTES) as u32;
        let (sound, _) = group(&[vec![1; 10]]);
        let header = GroupHeader {
            record_count: sizes.0,
            body_bytes: if small { room.saturating_sub(sizes.1 % 4096) } else { sizes.1 },
            zero_sectors: sizes.2,
            ..sound
        };
        let _ = read_body(&segment(), &header, &bytes, |_, _| ());
        // A sound header around hostile fields, as a hostile disk could hold.
        let mut forged = bytes.clone();
        header.encode(&segment(), &mut forged);
        let _ = GroupHeader::view(&segment(), &forged, bytes_left);
    }

    /// A whole file of hostile bytes behind a sound header.
    #[test]
    fn opening_takes_any_file(
        start in 0..8 * 4096usize,
        noise in prop::collection::vec(any::<u8>(), 1..9_000),
        header_kept in any::<bool>(),
    ) {
        let mut file = GOLDEN.to_vec();
        let start = if header_kept { start.max(4096) } else { start };
        let end = (start + noise.len()).min(file.len());
        file[start..end].copy_from_slice(&noise[..end - start]);
        let mut disk = SimDisk::new(1);
        disk.edit(GOLDEN_NAME, 0, &file);
        let mut count = 0;
        let opened = Wal::open(disk, LaneId(5), golden_config(), |_, _| count += 1);
        prop_assert!(count <= 4);
        if let Err(error) = opened {
            prop_assert!(matches!(error, WalError::Damaged { .. } | WalError::ForeignFile { .. }), "{}", error);
        }
    }
}
