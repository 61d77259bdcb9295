//! Power loss at every write boundary, again and again, against the model.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::model_tests::{LANE, Step, World, small_config, steps, unit};
use super::*;
use crate::io::{SimDisk, SimFault};
use crate::recovery::{TailReport, scan};

/// A fixed script that fills several segments, trims, rests and flushes.
fn busy_script() -> Vec<Step> {
    let mut script = Vec::new();
    for round in 0..100usize {
        script.push(Step::Append(100 + round * 37 % 3_000));
        script.push(Step::Append(round % 5));
        script.push(Step::Pump(round as u64 * 10));
        if round % 9 == 8 {
            script.push(Step::Pump(300_000));
        }
        if round % 20 == 19 {
            script.push(Step::Flush);
            script.push(Step::Trim(200));
        }
    }
    script
}

/// What a disk writes in place: the largest unit, and a sector.
const UNITS: [u64; 2] = [4096, 512];

fn busy_config(unit_bytes: u64) -> WalConfig {
    WalConfig {
        segment_bytes: 8 * 4096,
        depth: 3,
        group_bytes_max: 8192,
        unit_bytes,
        ..WalConfig::default()
    }
}

/// Submissions of a whole life on an honest disk.
fn submissions_of(unit_bytes: u64, script: &[Step], seed: u64) -> u64 {
    let mut disk = SimDisk::new(seed);
    let mut world = World::new(busy_config(unit_bytes));
    world.live(&mut disk, script).unwrap();
    disk.submitted()
}

#[test]
fn g_d_1_power_loss_at_every_submission_keeps_what_was_durable() {
    let script = busy_script();
    let mut boundaries = 0;
    for (seed, unit_bytes) in (0..8).flat_map(|seed| UNITS.map(|unit| (seed, unit))) {
        for at in 0..=submissions_of(unit_bytes, &script, seed) {
            boundaries += 1;
            let mut world = World::new(busy_config(unit_bytes));
            let image = world.live_and_crash(SimDisk::new(seed), &script, Some(at));
            // Appends go on, and a second start finds them too.
            let image = world.live_and_crash(image, &script[..40], None);
            world.reopen(image);
        }
    }
    assert!(
        boundaries > 1_000,
        "the script is long enough to matter: {boundaries}"
    );
}

/// On a disk that writes blocks in place, whole blocks are safe, and less is not: that is why the unit is what it is.
#[test]
fn g_d_1_an_interrupted_block_takes_nothing_durable_along() {
    let script = busy_script();
    let mut lost = [0; UNITS.len()];
    for (lost, unit_bytes) in lost.iter_mut().zip(UNITS) {
        for at in 0..=submissions_of(unit_bytes, &script, 3) {
            let mut disk = SimDisk::new(3);
            disk.set_block_bytes(4096);
            let mut world = World::new(busy_config(unit_bytes));
            let mut image = world.live_and_crash(disk, &script, Some(at));
            let is_whole = match scan::scan(&mut image, LANE, &mut |_, _| ()) {
                Ok(scan) => scan.next.lsn.0 > world.durable,
                Err(_) => false,
            };
            *lost += u32::from(!is_whole);
        }
    }
    assert_eq!(lost[0], 0);
    assert!(lost[1] > 5, "{lost:?}");
}

#[test]
fn g_d_1_power_loss_while_recovery_wipes_is_recovered_again() {
    let script = busy_script();
    let mut cuts = 0;
    for seed in 0..60 {
        let mut world = World::new(busy_config(UNITS[seed as usize % 2]));
        let at = 20 + seed % 45;
        let image = world.live_and_crash(SimDisk::new(seed), &script, Some(at));
        for at in 0.. {
            let mut disk = image.image(seed * 100 + at);
            disk.power_off_at(at);
            let scan = scan::scan(&mut disk, LANE, &mut |_, _| ()).unwrap();
            cuts += u64::from(matches!(scan.report.tail, TailReport::Cut { .. }));
            let done = startup::repair(&mut disk, &scan).is_ok();
            world.clone().reopen(disk.crash());
            if done {
                break;
            }
        }
    }
    assert!(cuts > 20, "torn tails were met: {cuts}");
}

#[test]
fn g_d_2_recovery_twice_in_a_row_says_the_same() {
    let script = busy_script();
    for seed in 0..40 {
        let mut world = World::new(busy_config(UNITS[seed as usize % 2]));
        let image = world.live_and_crash(SimDisk::new(seed), &script, Some(30 + seed));
        let (wal, first) = world.reopen(image);
        let (_, second) = world.reopen(wal.into_disk().crash());
        assert_eq!(
            (first.next_lsn, first.groups),
            (second.next_lsn, second.groups)
        );
        assert_ne!(second.tail, TailReport::New);
        assert!(
            !matches!(second.tail, TailReport::Cut { .. }),
            "what was wiped stays wiped: {second:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Several lives, each ended by power loss at its end or at a random submission.
    #[test]
    fn g_d_1_g_d_5_many_lives_against_the_model(
        config in small_config(),
        seed in any::<u64>(),
        lives in prop::collection::vec((steps(120), prop::option::weighted(0.7, 0..160u64), unit()), 1..7),
    ) {
        let mut world = World::new(config);
        let mut disk = SimDisk::new(seed);
        for (script, power_off_at, unit_bytes) in lives {
            // A segment keeps its unit; those begun later have another.
            world.config.unit_bytes = unit_bytes;
            disk = world.live_and_crash(disk, &script, power_off_at);
        }
        world.reopen(disk);
    }

    /// A failed write or flush, whatever it was for: nothing reported durable is lost, nothing is
    /// reported after it, and the lane opens again.
    #[test]
    fn g_d_6_failed_writes_lose_nothing_that_was_reported(
        config in small_config(),
        seed in any::<u64>(),
        script in steps(160),
        failures in prop::collection::vec((0..160u64, prop_oneof![Just(libc::EIO), Just(libc::ENOSPC)]), 1..4),
    ) {
        let mut world = World::new(config);
        let mut disk = SimDisk::new(seed);
        for (at, errno) in failures {
            disk.schedule_fault(at, SimFault::Fail(errno));
        }
        if let Err(error) = world.live(&mut disk, &script) {
            assert!(matches!(error, WalError::Disk(_)), "{error}");
        }
        let disk = world.live_and_crash(disk.crash(), &script, None);
        world.reopen(disk);
    }
}

#[test]
fn g_d_5_recycled_segments_never_bring_back_old_records() {
    let config = WalConfig {
        segment_bytes: 8 * 4096,
        spare_segments_max: 8,
        ..WalConfig::default()
    };
    let mut recycled = 0;
    for seed in 0..60 {
        let mut world = World::new(config.clone());
        let mut disk = SimDisk::new(seed);
        for life in 0..5 {
            world.config.unit_bytes = UNITS[(seed as usize + life / 2) % 2];
            // Equal sizes put old groups exactly where new ones are expected.
            let mut script = Vec::new();
            for round in 0..40 {
                script.extend([Step::Append(3_000), Step::Pump(1), Step::Pump(1)]);
                if round % 8 == 7 {
                    script.extend([Step::Flush, Step::Trim(255)]);
                }
            }
            script.truncate(70 + (seed as usize * 7 + life * 13) % 50);
            disk = world.live_and_crash(disk, &script, None);
        }
        recycled += world.recycled;
        world.reopen(disk);
    }
    assert!(recycled > 100, "segments were recycled: {recycled}");
}
