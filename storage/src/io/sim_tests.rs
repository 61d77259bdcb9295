//! The simulated disk keeps the rules of the seam, and breaks them only when told to.

#![allow(clippy::unwrap_used)]

use super::*;

fn filled(byte: u8, bytes: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::with_capacity(bytes);
    buf.resize(bytes);
    buf.as_mut_slice().fill(byte);
    buf
}

fn drain(disk: &mut SimDisk) -> Vec<Completion> {
    let mut all = Vec::new();
    loop {
        let before = all.len();
        disk.wait().unwrap();
        disk.reap(&mut all);
        if all.len() == before {
            return all;
        }
    }
}

fn with_file(seed: u64, bytes: u64) -> (SimDisk, FileId) {
    let mut disk = SimDisk::new(seed);
    let file = disk.submit_create("f", bytes, 0);
    drain(&mut disk);
    (disk, file)
}

#[test]
fn durable_and_flushed_writes_survive_and_others_sector_by_sector() {
    let mut mixed = 0;
    for seed in 0..50 {
        let (mut disk, file) = with_file(seed, 3 * 8192);
        disk.submit_write(file, 0, filled(1, 8192), true, 1);
        disk.submit_write(file, 8192, filled(2, 8192), false, 2);
        drain(&mut disk);
        disk.submit_flush(file, 3);
        drain(&mut disk);
        disk.submit_write(file, 16_384, filled(3, 8192), false, 4);
        drain(&mut disk);
        let after = disk.crash();
        let media = after.media("f").unwrap();
        assert!(media[..8192].iter().all(|byte| *byte == 1));
        assert!(media[8192..16_384].iter().all(|byte| *byte == 2));
        let kept: Vec<u8> = media[16_384..]
            .chunks(512)
            .map(|sector| sector[0])
            .collect();
        assert!(
            media[16_384..]
                .chunks(512)
                .all(|sector| sector.iter().all(|byte| *byte == sector[0]))
        );
        mixed += u32::from(kept.contains(&0) && kept.contains(&3));
    }
    assert!(mixed > 30, "unflushed sectors go one by one: {mixed}");
}

#[test]
fn writes_in_flight_are_torn_and_never_reported() {
    let (mut torn, mut whole, mut nothing) = (0, 0, 0);
    for seed in 0..80 {
        let (mut disk, file) = with_file(seed, 8192);
        disk.submit_write(file, 0, filled(9, 8192), true, 1);
        let after = disk.crash();
        let sectors = after
            .media("f")
            .unwrap()
            .chunks(512)
            .filter(|sector| sector[0] == 9)
            .count();
        match sectors {
            0 => nothing += 1,
            16 => whole += 1,
            _ => torn += 1,
        }
    }
    assert!(
        torn > 10 && whole > 5 && nothing > 5,
        "{torn} {whole} {nothing}"
    );
}

#[test]
fn completions_come_in_any_order_and_the_same_for_the_same_seed() {
    let run = |seed| {
        let (mut disk, file) = with_file(seed, 1 << 16);
        for token in 0..8 {
            disk.submit_write(file, token * 4096, filled(1, 4096), true, token);
        }
        drain(&mut disk)
            .iter()
            .map(|completion| completion.token)
            .collect::<Vec<_>>()
    };
    assert_eq!(run(3), run(3));
    assert!((0..20).any(|seed| run(seed).windows(2).any(|pair| pair[0] > pair[1])));
}

#[test]
fn scheduled_faults_do_what_they_say() {
    let (mut disk, file) = with_file(1, 1 << 16);
    let first = disk.submitted();
    disk.schedule_fault(first, SimFault::Fail(libc::EIO));
    disk.schedule_fault(first + 1, SimFault::Lose);
    disk.schedule_fault(first + 2, SimFault::Misdirect(0));
    for token in 1..4 {
        disk.submit_write(file, token * 8192, filled(token as u8, 4096), true, token);
    }
    let mut results: Vec<_> = drain(&mut disk)
        .into_iter()
        .map(|c| (c.token, c.result.is_ok()))
        .collect();
    results.sort_unstable();
    assert_eq!(results, [(1, false), (2, true), (3, true)]);
    let media = disk.media("f").unwrap();
    assert_eq!((media[16_384], media[24_576], media[0]), (0, 0, 3));
}

#[test]
fn after_power_off_nothing_happens_any_more() {
    let (mut disk, file) = with_file(1, 8192);
    disk.power_off_at(disk.submitted());
    disk.submit_write(file, 0, filled(1, 4096), true, 1);
    assert!(disk.is_powered_off());
    assert!(disk.kick().is_err());
    assert!(disk.wait().is_err());
    assert!(disk.list().is_err());
    assert_eq!(disk.crash().media("f").unwrap()[0], 0);
}

#[test]
fn a_full_disk_refuses_files() {
    let mut disk = SimDisk::new(1);
    disk.set_capacity_bytes(10_000);
    disk.submit_create("a", 8192, 1);
    drain(&mut disk);
    disk.submit_create("b", 8192, 2);
    let done = drain(&mut disk);
    assert!(matches!(done[0].result, Err(DiskError::NoSpace { .. })));
    assert_eq!(disk.names(), ["a"]);
}
