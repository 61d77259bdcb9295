//! The probe on a real disk, for moments: the directory of the test binary.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::*;

const SHORT: Pace = Pace {
    ramp: Duration::from_millis(5),
    measured: Duration::from_millis(60),
};

fn disk() -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    binary.parent().unwrap().to_owned()
}

#[test]
fn every_way_brings_figures_in_order_and_leaves_nothing() {
    let home = tempfile::tempdir_in(disk()).unwrap();
    let mut probe = Probe::create(home.path(), 1 << 20, Arc::default()).unwrap();
    for (way, bs_bytes, iodepth) in [
        (Way::Direct, 4 << 10, 1),
        (Way::Direct, 16 << 10, 4),
        (Way::Grouped, 4 << 10, 4),
        (Way::Read, 256 << 10, 1),
        (Way::Copy, 64 << 10, 4),
        (Way::Buffered, 4 << 10, 1),
    ] {
        let cell = Cell {
            way,
            bs_bytes,
            iodepth,
        };
        let run = probe.run(cell, SHORT).unwrap().expect("a run has figures");
        assert_eq!(run.cell, cell);
        let latency = &run.latency_us;
        let rising = [
            0.0,
            latency.min,
            latency.p50,
            latency.p90,
            latency.p95,
            latency.p99,
            latency.p999,
            latency.p9999,
            latency.max,
        ];
        assert!(rising.is_sorted() && latency.min > 0.0, "{run:?}");
        assert!(latency.mean >= latency.min && latency.mean <= latency.max);
        assert!(run.operations > 0 && run.iops > 0.0, "{run:?}");
        assert!(run.cpu_us_per_operation > 0.0, "{run:?}");
        assert!(run.machine_cpu_us_per_operation >= 0.0, "{run:?}");
        let rate = run.iops * bs_bytes as f64;
        assert!((run.bytes_per_second / rate - 1.0).abs() < 1e-9, "{run:?}");
    }
    drop(probe);
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_stopped_probe_ends_at_once() {
    let home = tempfile::tempdir_in(disk()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut probe = Probe::create(home.path(), 1 << 20, stop.clone()).unwrap();
    stop.store(true, Ordering::Relaxed);
    let pace = Pace {
        ramp: Duration::ZERO,
        measured: Duration::from_secs(600),
    };
    assert!(probe.run(Cell::SMALLEST, pace).unwrap().is_none());
}

#[test]
fn sizes_that_cannot_be_written_are_refused_in_words() {
    let home = tempfile::tempdir_in(disk()).unwrap();
    let refusal = Probe::create(home.path(), 1000, Arc::default())
        .err()
        .unwrap();
    assert!(
        refusal.to_string().contains("multiple of 4096"),
        "{refusal}"
    );
    let mut probe = Probe::create(home.path(), 1 << 20, Arc::default()).unwrap();
    for bs_bytes in [0, 100, 2 << 20] {
        let cell = Cell {
            bs_bytes,
            ..Cell::SMALLEST
        };
        let refusal = probe.run(cell, SHORT).unwrap_err();
        assert!(refusal.to_string().contains("bs is"), "{refusal}");
    }
}

#[test]
fn places_follow_each_other_and_start_again() {
    let mut places = Places::new(3, 10);
    let taken: Vec<u64> = (0..5).map(|_| places.next_offset()).collect();
    assert_eq!(taken, [0, 3, 6, 0, 3]);
}
