//! Damaged disks: every changed byte, lost write, misdirected write and missing file is reported, and
//! whatever opens holds exactly what was appended.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::format::{BLOCK_BYTES, SECTOR_BYTES};
use super::model_tests::{LANE, Step, World, unit};
use super::*;
use crate::ids::{LaneId, SegmentSeq};
use crate::io::{DiskError, SimDisk, SimFault};
use crate::recovery::TailReport;

fn config() -> WalConfig {
    config_of(4096)
}

fn config_of(unit_bytes: u64) -> WalConfig {
    WalConfig {
        unit_bytes,
        segment_bytes: 8 * 4096,
        depth: 2,
        group_bytes_max: 8192,
        spare_segments_max: 4,
        ..WalConfig::default()
    }
}

/// A lane of several segments; everything in it is durable, and attested but for the last, empty group.
fn written(seed: u64, recycle: bool) -> (World, SimDisk) {
    written_in(4096, seed, recycle)
}

/// The same in groups of another alignment.
fn written_in(unit_bytes: u64, seed: u64, recycle: bool) -> (World, SimDisk) {
    let mut world = World::new(config_of(unit_bytes));
    let mut script = Vec::new();
    for round in 0..40usize {
        script.extend([
            Step::Append(round * 97 % 2_500),
            Step::Append(round % 20),
            Step::Pump(10),
            Step::Pump(10),
        ]);
        if recycle && round % 8 == 7 {
            script.extend([Step::Flush, Step::Trim(255)]);
        }
    }
    script.push(Step::Flush);
    let mut disk = SimDisk::new(seed);
    disk.set_eager(true);
    world.live(&mut disk, &script).unwrap();
    assert_eq!(world.durable, 80);
    assert_eq!(world.recycled > 0, recycle);
    let disk = disk.crash();
    world.clone().reopen(disk.image(1));
    (world, disk)
}

/// Opens a damaged image: refused, or complete and right.
fn refused_or_complete(world: &World, disk: SimDisk) -> Option<WalError> {
    match world.clone().open(disk) {
        Ok(_) => None,
        Err(WalError::Disk(error)) => panic!("not the disk's fault: {error}"),
        Err(error) => Some(error),
    }
}

/// Segment files in use, by sequence, with the end of what was written in each.
fn used(disk: &SimDisk) -> Vec<(String, u64)> {
    let mut copy = disk.image(2);
    let scan = crate::recovery::scan::scan(&mut copy, LANE, &mut |_, _| ()).unwrap();
    let last = scan.read.len() - 1;
    let used = scan.read.iter().enumerate().map(|(i, read)| {
        let segment_end = end_of_groups(disk, &read.segment);
        let end = if i == last {
            scan.write_offset
        } else {
            segment_end
        };
        (read.segment.name.clone(), end)
    });
    used.collect()
}

/// The end of the seal.
fn end_of_groups(disk: &SimDisk, segment: &Segment) -> u64 {
    let media = disk.media(&segment.name).unwrap();
    let mut at = BLOCK_BYTES;
    while at < media.len() {
        match format::GroupHeader::view(&segment.header, &media[at..], (media.len() - at) as u64) {
            format::GroupHeaderView::Ours(header) => {
                at += header.group_bytes(&segment.header) as usize;
            }
            _ => break,
        }
    }
    at as u64
}

fn every_changed_byte_is_reported(unit_bytes: u64, recycle: bool) {
    let (world, disk) = written_in(unit_bytes, 11, recycle);
    let used = used(&disk);
    let last = used.len() - 1;
    assert!(last >= 2 || recycle);
    let mut checked = 0;
    for (index, (name, end)) in used.iter().enumerate() {
        // The very last group is empty and nothing attests it: it is looked at separately.
        let end = if index == last {
            end - unit_bytes
        } else {
            *end
        };
        for offset in (0..end).filter(|offset| offset % unit_bytes < 200 || offset % 11 == 0) {
            let mut damaged = disk.image(offset);
            damaged.flip(name, offset, 1 << (offset % 8));
            let error = refused_or_complete(&world, damaged);
            let error = error
                .unwrap_or_else(|| panic!("{name} byte {offset} was changed and nobody noticed"));
            if let WalError::Damaged { file, .. } = &error {
                assert!(file.ends_with(name.as_str()), "{error}");
            }
            checked += 1;
        }
    }
    assert!(checked > 3_000 || recycle, "{checked}");
}

#[test]
fn g_d_3_every_changed_byte_of_the_attested_log_is_reported() {
    every_changed_byte_is_reported(4096, false);
    every_changed_byte_is_reported(512, false);
}

#[test]
fn g_d_3_every_changed_byte_is_reported_in_recycled_segments_too() {
    every_changed_byte_is_reported(4096, true);
    every_changed_byte_is_reported(512, true);
}

#[test]
fn g_d_3_zeroed_and_swapped_blocks_are_reported() {
    let (world, disk) = written(12, false);
    let used = used(&disk);
    let (last_name, last_end) = used.last().unwrap().clone();
    for (name, end) in &used {
        for block in 0..end / 4096 {
            if *name == last_name && block == last_end / 4096 - 1 {
                continue;
            }
            let offset = block * 4096;
            let mut zeroed = disk.image(block);
            zeroed.edit(name, offset, &[0; BLOCK_BYTES]);
            refused_or_complete(&world, zeroed).expect("a zeroed block is noticed");
            let mut sector = disk.image(block);
            if disk.media(name).unwrap()[offset as usize..][..SECTOR_BYTES] != [0; SECTOR_BYTES] {
                sector.edit(name, offset, &[0; SECTOR_BYTES]);
                refused_or_complete(&world, sector).expect("a zeroed sector is noticed");
            }
            let mut moved = disk.image(block);
            let other = disk.media(&used[0].0).unwrap()[4096..8192].to_vec();
            if (name, offset) != (&used[0].0, 4096) {
                moved.edit(name, offset, &other);
                refused_or_complete(&world, moved).expect("a block of another place is noticed");
            }
        }
    }
}

#[test]
fn g_d_3_changes_behind_the_log_lose_nothing() {
    let (world, disk) = written(13, false);
    let (name, end) = used(&disk).last().unwrap().clone();
    for offset in (end..8 * 4096).step_by(61) {
        let mut damaged = disk.image(offset);
        damaged.flip(&name, offset, 0x55);
        let (_, report) = world.clone().reopen(damaged);
        assert!(
            matches!(
                report.tail,
                TailReport::Cut {
                    blocks_wiped: 1,
                    ..
                }
            ),
            "{report:?}"
        );
    }
}

#[test]
fn g_d_3_lost_writes_are_reported_once_attested() {
    let mut reported = 0;
    for at in 0..60 {
        let mut world = World::new(config());
        let mut disk = SimDisk::new(7);
        disk.set_eager(true);
        disk.schedule_fault(at, SimFault::Lose);
        let mut script: Vec<Step> = (0..30)
            .flat_map(|i| [Step::Append(i * 90), Step::Pump(5), Step::Pump(5)])
            .collect();
        script.push(Step::Flush);
        match world.live(&mut disk, &script) {
            Ok(()) => reported += u64::from(refused_or_complete(&world, disk.crash()).is_some()),
            Err(error) => panic!("a lying disk shows only later: {error}"),
        }
    }
    assert!(reported > 25, "{reported}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A write that lands elsewhere in its file: refused, or everything is there all the same.
    #[test]
    fn g_d_3_misdirected_writes_never_give_wrong_records(
        at in 0..90u64,
        place in 0..56u64,
        seed in any::<u64>(),
        unit_bytes in unit(),
    ) {
        let mut world = World::new(config_of(unit_bytes));
        let mut disk = SimDisk::new(seed);
        disk.schedule_fault(at, SimFault::Misdirect(place * 512 / unit_bytes * unit_bytes));
        let mut script: Vec<Step> = (0..30).flat_map(|i| [Step::Append(i * 90), Step::Pump(5), Step::Pump(5)]).collect();
        script.push(Step::Flush);
        world.live(&mut disk, &script).unwrap();
        refused_or_complete(&world, disk.crash());
    }

    /// Any number of random changes anywhere: never a panic, never a wrong record.
    #[test]
    fn g_d_3_random_damage_never_gives_wrong_records(
        seed in 0..4u64,
        recycle in any::<bool>(),
        unit_bytes in prop_oneof![Just(512), Just(4096)],
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..8 * 4096u64, 1..255u8, 1..600usize), 1..5),
    ) {
        let (world, mut disk) = written_in(unit_bytes, seed, recycle);
        let names = disk.names();
        for (file, offset, mask, bytes) in changes {
            let name = &names[file.index(names.len())];
            for offset in offset..(offset + bytes as u64).min(8 * 4096) {
                disk.flip(name, offset, mask);
            }
        }
        // Damage that takes the unattested end along may cut it; what is left must still be right.
        let mut world = World { durable: 0, ..world };
        if let Err(error) = world.open(disk) {
            prop_assert!(!matches!(error, WalError::Disk(_)), "{}", error);
        }
    }
}

#[test]
fn g_d_2_the_last_group_in_a_fresh_segment_torn_or_damaged() {
    // One group of many sectors, not attested: the lane is dropped without a flush.
    let mut world = World::new(WalConfig {
        segment_bytes: 16 * 4096,
        group_bytes_max: 4 * 4096,
        ..config()
    });
    let mut disk = SimDisk::new(3);
    disk.set_eager(true);
    let script = [
        Step::Append(500),
        Step::Pump(1),
        Step::Pump(1),
        Step::Append(12_000),
        Step::Pump(1),
        Step::Pump(1),
    ];
    world.live(&mut disk, &script).unwrap();
    assert_eq!(world.durable, 2);
    let (name, disk) = (disk.names()[0].clone(), disk.crash());
    let start = 2 * 4096;

    // Everything was written and one bit turned: the group may have been acknowledged.
    for offset in (start + 200..start + 12_000).step_by(97) {
        let mut rotten = disk.image(offset);
        rotten.flip(&name, offset, 4);
        let error = refused_or_complete(&world, rotten).expect("damage");
        assert!(
            matches!(
                error,
                WalError::Damaged {
                    reason: DamageReason::BodyComplete,
                    ..
                }
            ),
            "{error}"
        );
    }
    // A sector still holds the zeros from before: the write was torn.
    for sector in 1..(12_000 / SECTOR_BYTES as u64) {
        let mut torn = disk.image(sector);
        torn.edit(
            &name,
            start + sector * SECTOR_BYTES as u64,
            &[0; SECTOR_BYTES],
        );
        let mut world = World {
            durable: 1,
            ..world.clone()
        };
        let (_, report) = world.reopen(torn);
        assert_eq!(world.appended.len(), 1);
        assert!(matches!(report.tail, TailReport::Cut { .. }), "{report:?}");
    }
}

#[test]
fn g_d_2_zeros_in_a_payload_are_not_taken_for_a_torn_write() {
    let config = WalConfig {
        segment_bytes: 16 * 4096,
        ..config()
    };
    let mut disk = SimDisk::new(3);
    disk.set_eager(true);
    let (mut wal, _) = Wal::open(&mut disk, LANE, config.clone(), |_, _| ()).unwrap();
    wal.append(
        &super::model_tests::meta_of(1),
        &[&[1; 3_000], &[0; 9_000], &[2; 3_000]],
    )
    .unwrap();
    wal.pump(1).unwrap();
    assert_eq!(wal.pump(2).unwrap().0, 1);
    drop(wal);
    let (name, disk) = (disk.names()[0].clone(), disk.crash());
    let mut rotten = disk.image(1);
    rotten.flip(&name, 4096 + 1_000, 4);
    let error = Wal::open(rotten, LANE, config.clone(), |_, _| ()).unwrap_err();
    assert!(
        matches!(
            error,
            WalError::Damaged {
                reason: DamageReason::BodyComplete,
                ..
            }
        ),
        "{error}"
    );
    let mut torn = disk.image(1);
    torn.edit(&name, 4096 + 1_024, &[0; SECTOR_BYTES]);
    let (_, report) = Wal::open(torn, LANE, config, |_, _| ()).unwrap();
    assert!(matches!(report.tail, TailReport::Cut { .. }), "{report:?}");
}

#[test]
fn g_d_2_a_torn_group_before_an_attesting_one_is_damage() {
    let (world, disk) = written(14, false);
    let first = used(&disk)[0].0.clone();
    let media = disk.media(&first).unwrap();
    let sectors = (4096 / 512..).filter(|sector| sector % 8 != 0);
    let mut full =
        sectors.filter(|sector| media[sector * 512..][..512].iter().any(|byte| *byte != 0));
    let offset = full.next().unwrap() as u64 * 512;
    let mut torn = disk.image(1);
    torn.edit(&first, offset, &[0; 512]);
    let error = refused_or_complete(&world, torn).expect("later groups prove it was durable");
    let text = error.to_string();
    assert!(
        matches!(
            error,
            WalError::Damaged {
                reason: DamageReason::BodyLost,
                ..
            }
        ),
        "{text}"
    );
    for part in [
        first.as_str(),
        "byte ",
        "restore from a backup",
        "remove it",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn g_d_8_missing_foreign_newer_and_short_files_are_refused() {
    let (world, disk) = written(15, false);
    let used = used(&disk);
    for (index, (name, _)) in used.iter().enumerate() {
        let mut missing = disk.image(1);
        missing.delete(name);
        let error = refused_or_complete(&world, missing).unwrap();
        let sequence = SegmentSeq(index as u64 + 1);
        assert!(
            matches!(&error, WalError::MissingSegment { sequence: s, .. } if *s == sequence),
            "{error}"
        );
        let mut short = disk.image(1);
        short.truncate(name, 5_000);
        let error = refused_or_complete(&world, short).unwrap();
        assert!(
            matches!(
                error,
                WalError::Damaged {
                    reason: DamageReason::Truncated,
                    ..
                }
            ),
            "{error}"
        );
    }

    let mut foreign = disk.image(1);
    foreign.edit("notes.txt", 0, b"mine");
    let error = refused_or_complete(&world, foreign).unwrap();
    assert!(matches!(error, WalError::ForeignFile { .. }), "{error}");

    let mut twice = disk.image(1);
    let copy = disk.media(&used[0].0).unwrap().to_vec();
    twice.edit("00000099.seg", 0, &copy);
    let error = refused_or_complete(&world, twice).unwrap();
    assert!(
        matches!(
            error,
            WalError::Damaged {
                reason: DamageReason::DuplicateSegment,
                ..
            }
        ),
        "{error}"
    );

    let error = Wal::open(disk.image(1), LaneId(6), config(), |_, _| ()).unwrap_err();
    assert!(matches!(error, WalError::ForeignFile { .. }), "{error}");

    let mut newer = disk.image(1);
    let mut header = disk.media(&used[0].0).unwrap()[..BLOCK_BYTES].to_vec();
    header[12..16].copy_from_slice(&3u32.to_le_bytes());
    let checksum = crc32c::crc32c(&header[12..]);
    header[8..12].copy_from_slice(&checksum.to_le_bytes());
    newer.edit(&used[0].0, 0, &header);
    let error = refused_or_complete(&world, newer).unwrap();
    assert!(
        matches!(&error, WalError::NewerFormat { found, .. } if found == "3"),
        "{error}"
    );
}

#[test]
fn g_d_6_a_full_disk_is_told_and_waited_for_when_nothing_fits() {
    let mut disk = SimDisk::new(5);
    disk.set_eager(true);
    disk.set_capacity_bytes(8 * 4096);
    let mut world = World::new(config());
    let (mut wal, _) = world.open(&mut disk).unwrap();
    let mut now_us = 0;
    for step in [
        Step::Append(900),
        Step::Pump(1),
        Step::Pump(1),
        Step::Pump(1),
    ] {
        assert!(world.take_step(&mut wal, &step, &mut now_us));
    }
    assert!(
        matches!(wal.prepare_failure(), Some(DiskError::NoSpace { .. })),
        "the next segment does not fit"
    );
    assert_eq!(world.durable, 1, "the present one still serves");
    let mut steps = 0;
    while !wal.is_out_of_room() {
        assert!(world.take_step(&mut wal, &Step::Append(900), &mut now_us));
        assert!(world.take_step(&mut wal, &Step::Pump(1), &mut now_us));
        steps += 1;
        assert!(steps < 100, "a full segment and no next one stop it");
    }
    let durable = world.durable;
    let error = wal.flush_blocking().unwrap_err();
    assert!(matches!(error, WalError::NoRoom { .. }), "{error}");
    // It stands still, however often it tries.
    for _ in 0..10 {
        assert!(world.take_step(&mut wal, &Step::Pump(1_000_000), &mut now_us));
    }
    assert!(wal.is_out_of_room());
    assert_eq!(world.durable, durable);
    // With room it goes on by itself, and all of it is there.
    wal.disk_mut().set_capacity_bytes(u64::MAX);
    for _ in 0..100 {
        assert!(world.take_step(&mut wal, &Step::Pump(1_000_000), &mut now_us));
    }
    assert!(wal.is_idle() && !wal.is_out_of_room());
    assert!(world.durable > durable);
    drop(wal);
    world.reopen(disk.crash());
}
