//! The lane on honest disks: batching, order of acknowledgement, switching, deadlines, poison.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::io::{IoMode, SimDisk, SimFault, UringDisk};
use crate::recovery::TailReport;
use crate::wal::model_tests::{LANE, Step, World, meta_of};

fn open_new(config: WalConfig) -> Wal<SimDisk> {
    Wal::open(SimDisk::new(9), LANE, config, |_, _| {
        panic!("a new lane is empty")
    })
    .unwrap()
    .0
}

fn settle(wal: &mut Wal<SimDisk>, now_us: u64) -> Lsn {
    let mut durable = wal.pump(now_us).unwrap();
    while wal.in_flight() > 0 {
        wal.disk_mut().wait().unwrap();
        durable = wal.pump(now_us).unwrap();
    }
    durable
}

/// A directory on the disk the test binary lies on: the system's temporary directory may be in memory.
fn scratch() -> tempfile::TempDir {
    let binary = std::env::current_exe().unwrap();
    tempfile::tempdir_in(binary.parent().unwrap()).unwrap()
}

#[test]
fn a_new_lane_is_empty_and_opens_again() {
    let wal = open_new(WalConfig {
        segment_bytes: 1 << 16,
        ..WalConfig::default()
    });
    assert_eq!(
        (wal.durable(), wal.next_lsn(), wal.first_lsn()),
        (Lsn(0), Lsn(1), Lsn(1))
    );
    let config = WalConfig {
        segment_bytes: 1 << 16,
        ..WalConfig::default()
    };
    let (_, report) = Wal::open(wal.into_disk().crash(), LANE, config, |_, _| {
        panic!("empty")
    })
    .unwrap();
    assert_eq!(
        (report.records, report.next_lsn, report.tail),
        (0, Lsn(1), TailReport::Clean)
    );
}

#[test]
fn an_idle_lane_writes_at_once_and_a_busy_one_gathers() {
    let mut wal = open_new(WalConfig {
        segment_bytes: 1 << 20,
        depth: 2,
        ..WalConfig::default()
    });
    wal.append(&meta_of(1), &[b"a"]).unwrap();
    wal.write_groups(); // a turn in which nothing completes
    assert_eq!(wal.in_flight(), 1, "nothing was in flight: written at once");
    wal.append(&meta_of(2), &[b"b"]).unwrap();
    wal.write_groups(); // a turn in which nothing completes
    assert_eq!(wal.in_flight(), 2, "depth allows a second");
    for i in 3..50 {
        wal.append(&meta_of(i), &[b"c"]).unwrap();
        wal.write_groups(); // a turn in which nothing completes
        assert_eq!(wal.in_flight(), 2, "the rest gathers");
    }
    assert_eq!(settle(&mut wal, 1), Lsn(49));
    assert_eq!(wal.counters().groups, 3, "47 records went in one group");
}

#[test]
fn a_gathering_delay_holds_the_second_group_but_never_the_first() {
    let config = WalConfig {
        segment_bytes: 1 << 20,
        group_delay_us: 500,
        ..WalConfig::default()
    };
    let mut wal = open_new(config);
    wal.pump(1_000).unwrap();
    wal.append(&meta_of(1), &[b"a"]).unwrap();
    wal.now_us = 1_000;
    wal.write_groups(); // a turn in which nothing completes
    assert_eq!(wal.in_flight(), 1);
    wal.append(&meta_of(2), &[b"b"]).unwrap();
    wal.write_groups(); // a turn in which nothing completes
    assert_eq!(wal.in_flight(), 1, "the second group gathers");
    assert!(wal.next_deadline_us().unwrap() <= 1_500);
    wal.now_us = 1_500;
    wal.write_groups(); // a turn in which nothing completes
    assert_eq!(wal.in_flight(), 2, "and goes when its time is up");
}

#[test]
fn a_group_is_closed_at_its_size_and_records_keep_their_order() {
    let config = WalConfig {
        segment_bytes: 1 << 20,
        group_bytes_max: 8192,
        ..WalConfig::default()
    };
    let mut world = World::new(config);
    let (mut wal, _) = world.open(SimDisk::new(4)).unwrap();
    let mut now_us = 0;
    for _ in 0..30 {
        world.take_step(&mut wal, &Step::Append(1_500), &mut now_us);
    }
    world.take_step(&mut wal, &Step::Flush, &mut now_us);
    // Five records of 1,536 bytes fit beside a group header in 8 KiB; the attest is one more group.
    assert_eq!(wal.counters().groups, 7);
    let disk = wal.into_disk().crash();
    world.reopen(disk);
}

#[test]
fn g_d_1_the_durable_prefix_waits_for_the_slowest_group() {
    for seed in 0..50 {
        let config = WalConfig {
            segment_bytes: 1 << 20,
            depth: 4,
            group_bytes_max: 4096,
            ..WalConfig::default()
        };
        let (mut wal, _) = Wal::open(SimDisk::new(seed), LANE, config, |_, _| ()).unwrap();
        for i in 1..=4 {
            wal.append(&meta_of(i), &[&[1; 3_000]]).unwrap();
        }
        let mut durable = Lsn(0);
        while durable < Lsn(4) {
            durable = wal.pump(0).unwrap();
            let undone = wal
                .in_flight
                .iter()
                .position(|group| !group.done)
                .unwrap_or(wal.in_flight.len());
            assert_eq!(undone, 0, "what is done at the front was reported");
            wal.disk_mut().wait().unwrap();
        }
    }
}

#[test]
fn segments_are_prepared_ahead_and_the_switch_does_not_wait() {
    let config = WalConfig {
        segment_bytes: 16 * 4096,
        ..WalConfig::default()
    };
    let mut wal = open_new(config);
    for i in 1..=400u64 {
        wal.append(&meta_of(i), &[&[1; 900]]).unwrap();
        settle(&mut wal, i * 1_000);
    }
    assert!(wal.counters().segments_begun > 20, "{:?}", wal.counters());
    assert!(wal.counters().segment_waits <= 1, "{:?}", wal.counters());
}

#[test]
fn trimmed_segments_are_recycled_and_the_surplus_removed() {
    let config = WalConfig {
        segment_bytes: 8 * 4096,
        spare_segments_max: 2,
        ..WalConfig::default()
    };
    let mut wal = open_new(config.clone());
    let mut freed = 0;
    for i in 1..=400u64 {
        wal.append(&meta_of(i), &[&[1; 900]]).unwrap();
        settle(&mut wal, i * 1_000);
        if i % 100 == 0 {
            assert_eq!(
                wal.trim(Lsn(wal.first_lsn().0 - 1)),
                0,
                "a segment that is partly covered stays"
            );
            freed += wal.trim(Lsn(i));
            assert!(
                wal.first_lsn() > Lsn(i - 8),
                "whole segments before it are free"
            );
        }
    }
    assert!(freed > 40, "{freed}");
    wal.flush_blocking().unwrap();
    assert!(wal.counters().segments_recycled > 5, "{:?}", wal.counters());
    let first = wal.first_lsn();
    let disk = wal.into_disk().crash();
    assert!(
        disk.names().len() < 30,
        "the surplus was removed: {:?}",
        disk.names()
    );
    let mut seen = Vec::new();
    let (wal, report) = Wal::open(disk, LANE, config, |lsn, _| seen.push(lsn)).unwrap();
    assert!(report.first_lsn <= first);
    assert_eq!(seen.last(), Some(&Lsn(400)));
    assert_eq!(wal.first_lsn(), report.first_lsn);
}

#[test]
fn a_resting_lane_attests_its_last_group_once() {
    let mut wal = open_new(WalConfig {
        segment_bytes: 1 << 20,
        ..WalConfig::default()
    });
    wal.append(&meta_of(1), &[b"a"]).unwrap();
    settle(&mut wal, 10);
    assert_eq!(wal.counters().attests, 0);
    while let Some(deadline) = wal.next_deadline_us() {
        assert!(deadline < 10_000_000, "the lane comes to rest");
        settle(&mut wal, deadline);
    }
    assert_eq!(wal.counters().attests, 1);
    assert_eq!(wal.attested, wal.last_record_group);
    // The last group of an earlier life is attested as well.
    let config = WalConfig {
        segment_bytes: 1 << 20,
        ..WalConfig::default()
    };
    let (mut again, _) = Wal::open(wal.into_disk().crash(), LANE, config, |_, _| ()).unwrap();
    settle(&mut again, 1_000_000);
    assert_eq!(again.counters().attests, 0, "it was attested before");
}

#[test]
fn g_d_2_a_group_recovered_without_attest_is_attested_by_the_next_life() {
    let config = WalConfig {
        segment_bytes: 1 << 16,
        ..WalConfig::default()
    };
    let mut wal = open_new(config.clone());
    wal.append(&meta_of(1), &[b"a"]).unwrap();
    settle(&mut wal, 10);
    let (mut wal, report) = Wal::open(wal.into_disk().crash(), LANE, config, |_, _| ()).unwrap();
    assert_eq!(report.records, 1);
    settle(&mut wal, 1_000_000);
    assert_eq!(wal.counters().attests, 1);
}

#[test]
fn records_too_large_and_too_many_are_refused_and_nothing_is_lost() {
    let config = WalConfig {
        segment_bytes: 1 << 16,
        ..WalConfig::default()
    };
    let mut wal = open_new(config);
    let max = wal.payload_bytes_max();
    let big = vec![1; max as usize + 1];
    let error = wal.append(&meta_of(1), &[&big]).unwrap_err();
    assert!(
        matches!(error, WalError::RecordTooLarge { bytes, max: m } if bytes == max + 1 && m == max),
        "{error}"
    );
    let lsn = wal.append(&meta_of(1), &[&big[1..]]).unwrap();
    assert_eq!(
        wal.flush_blocking().unwrap(),
        lsn,
        "the largest record fits a segment"
    );

    let error = loop {
        match wal.append(&meta_of(2), &[&big[1..]]) {
            Ok(_) => assert!(wal.pending_bytes() <= WAL_PENDING_BYTES_MAX),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, WalError::Backlogged { .. }), "{error}");
    assert_eq!(wal.flush_blocking().unwrap().next(), wal.next_lsn());
    assert_eq!(wal.pending_bytes(), 0);
    wal.append(&meta_of(3), &[b"again"]).unwrap();
}

#[test]
fn g_d_6_the_first_failed_write_poisons_the_lane_for_good() {
    let mut disk = SimDisk::new(2);
    let config = WalConfig {
        segment_bytes: 1 << 16,
        depth: 1,
        ..WalConfig::default()
    };
    Wal::open(&mut disk, LANE, config.clone(), |_, _| ())
        .map(|_| ())
        .unwrap();
    let (mut wal, _) = Wal::open(disk, LANE, config, |_, _| ()).unwrap();
    wal.append(&meta_of(1), &[b"good"]).unwrap();
    assert_eq!(settle(&mut wal, 0), Lsn(1));
    wal.append(&meta_of(2), &[b"bad"]).unwrap();
    let next = wal.disk_mut().submitted();
    for submission in next..next + 3 {
        wal.disk_mut()
            .schedule_fault(submission, SimFault::Fail(libc::EIO));
    }
    let error = loop {
        match wal.pump(0) {
            Ok(durable) => assert_eq!(durable, Lsn(1), "a failed group is never reported"),
            Err(error) => break error,
        }
        wal.disk_mut().wait().unwrap();
    };
    assert!(
        matches!(
            &error,
            WalError::Poisoned {
                cause: DiskError::Io {
                    errno: libc::EIO,
                    ..
                }
            }
        ),
        "{error}"
    );
    for _ in 0..3 {
        assert_eq!(wal.pump(1).unwrap_err(), error);
        assert_eq!(wal.append(&meta_of(3), &[b"x"]).unwrap_err(), error);
        assert_eq!(wal.flush_blocking().unwrap_err(), error);
    }
    assert_eq!(wal.durable(), Lsn(1));
}

#[test]
fn latencies_are_bounded_and_drained() {
    let mut wal = open_new(WalConfig {
        segment_bytes: 1 << 20,
        ..WalConfig::default()
    });
    wal.disk_mut().set_eager(true);
    for i in 1..=WAL_LATENCY_SAMPLES_MAX as u64 + 10 {
        wal.append(&meta_of(i), &[b"a"]).unwrap();
        wal.pump(i * 7).unwrap();
        wal.pump(i * 7 + 3).unwrap();
    }
    let mut latencies = Vec::new();
    wal.take_latencies_us(&mut latencies);
    assert_eq!(latencies.len(), WAL_LATENCY_SAMPLES_MAX);
    assert!(latencies.iter().all(|latency| *latency == 3));
    let samples = latencies.len() as u64 + wal.counters().latencies_dropped;
    assert_eq!(samples, wal.counters().groups, "one sample a group");
}

#[test]
fn configurations_out_of_bounds_are_refused() {
    let good = WalConfig::default();
    assert!(good.check().is_ok());
    for bad in [
        WalConfig {
            segment_bytes: 4096,
            ..good.clone()
        },
        WalConfig {
            segment_bytes: (1 << 20) + 512,
            ..good.clone()
        },
        WalConfig {
            segment_bytes: 2 << 30,
            ..good.clone()
        },
        WalConfig {
            depth: 0,
            ..good.clone()
        },
        WalConfig {
            depth: 17,
            ..good.clone()
        },
        WalConfig {
            group_bytes_max: 100,
            ..good.clone()
        },
        WalConfig {
            group_delay_us: 1_000_000,
            ..good.clone()
        },
    ] {
        assert!(matches!(bad.check(), Err(WalError::Config(_))), "{bad:?}");
    }
}

#[test]
fn another_segment_size_takes_over_with_the_next_segment() {
    let small = WalConfig {
        segment_bytes: 8 * 4096,
        ..WalConfig::default()
    };
    let large = WalConfig {
        segment_bytes: 64 * 4096,
        ..WalConfig::default()
    };
    let mut world = World::new(small.clone());
    let mut disk = SimDisk::new(21);
    let fill: Vec<Step> = (0..60)
        .flat_map(|_| [Step::Append(3_000), Step::Pump(1_000), Step::Pump(1_000)])
        .collect();
    for config in [small.clone(), large.clone(), small, large] {
        world.config = config;
        disk = world.live_and_crash(disk, &fill, None);
        disk = world.live_and_crash(
            disk,
            &[Step::Append(100_000), Step::Flush, Step::Trim(200)],
            None,
        );
    }
    world.reopen(disk);
}

#[test]
fn g_d_1_a_real_disk_keeps_everything_over_several_segments() {
    let scratch = scratch();
    let config = WalConfig {
        segment_bytes: 1 << 20,
        ..WalConfig::default()
    };
    let open = || UringDisk::open(scratch.path(), IoMode::Direct).unwrap();
    let mut world = World::new(config);
    let mut now_us = 0;
    for life in 0..3 {
        let (mut wal, report) = world.open(open()).unwrap();
        assert_eq!(report.tail == TailReport::New, life == 0);
        for i in 0..3_000usize {
            world.take_step(&mut wal, &Step::Append(i % 700), &mut now_us);
            if i % 10 == 0 {
                world.take_step(&mut wal, &Step::Pump(100), &mut now_us);
            }
        }
        world.take_step(&mut wal, &Step::Flush, &mut now_us);
        world.take_step(&mut wal, &Step::Trim(100), &mut now_us);
        world.take_step(&mut wal, &Step::Append(5), &mut now_us);
        if life == 1 {
            // Dropped with writes in flight, as a process that ends in a hurry.
            world.take_step(&mut wal, &Step::Pump(1), &mut now_us);
        }
    }
    let (wal, _) = world.open(open()).unwrap();
    assert!(wal.active.segment.header.sequence > SegmentSeq(3));
}

#[test]
fn the_event_descriptor_counts_completions() {
    let scratch = scratch();
    let disk = UringDisk::open(scratch.path(), IoMode::Direct).unwrap();
    let config = WalConfig {
        segment_bytes: 1 << 16,
        ..WalConfig::default()
    };
    let (mut wal, _) = Wal::open(disk, LANE, config, |_, _| ()).unwrap();
    wal.append(&meta_of(1), &[b"a"]).unwrap();
    wal.pump(0).unwrap();
    let mut poll = libc::pollfd {
        fd: wal.event_fd().unwrap(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live pollfd is passed with its count.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 5_000) };
    assert_eq!(
        ready, 1,
        "the descriptor becomes readable without anybody entering the ring"
    );
}
