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

#[test]
fn reads_replace_the_buffer_and_end_with_the_file() {
    let (mut disk, file) = with_file(1, 3 * 4096);
    disk.submit_write(file, 4096, filled(7, 4096), false, 1);
    drain(&mut disk);
    disk.submit_read(file, 0, 8192, filled(9, 512), 2);
    disk.submit_read(file, 8192, 8192, AlignedBuf::with_capacity(8192), 3);
    disk.submit_read(file, 1 << 20, 4096, filled(9, 4096), 4);
    let mut done = drain(&mut disk);
    done.sort_by_key(|completion| completion.token);
    let bufs: Vec<_> = done.into_iter().map(|c| c.buf.unwrap()).collect();
    assert_eq!(bufs[0].as_slice(), [vec![0; 4096], vec![7; 4096]].concat());
    assert_eq!((bufs[1].len(), bufs[2].len()), (4096, 0));
}

#[test]
fn faults_befall_reads_too() {
    let (mut disk, file) = with_file(1, 1 << 16);
    disk.submit_write(file, 0, filled(5, 1 << 16), true, 0);
    drain(&mut disk);
    disk.submit_write(file, 8192, filled(6, 4096), true, 0);
    drain(&mut disk);
    let first = disk.submitted();
    let faults = [
        SimFault::Fail(libc::EIO),
        SimFault::Lose,
        SimFault::Misdirect(8192),
        SimFault::Damage { at: 3, mask: 0x10 },
    ];
    for (token, fault) in faults.into_iter().enumerate() {
        disk.schedule_fault(first + token as u64, fault);
        disk.submit_read(file, 0, 4096, filled(1, 4096), token as u64);
    }
    let mut done = drain(&mut disk);
    done.sort_by_key(|completion| completion.token);
    assert!(done.iter().all(|completion| completion.buf.is_some()));
    let results: Vec<_> = done.iter().map(|c| c.result.is_ok()).collect();
    assert_eq!(results, [false, true, true, true]);
    let content = |index: usize| done[index].buf.as_ref().unwrap().as_slice();
    assert_eq!(content(1), [1; 4096], "nothing was read");
    assert_eq!(content(2), [6; 4096], "something else was read");
    let wrong: Vec<_> = (0..4096).filter(|i| content(3)[*i] != 5).collect();
    assert_eq!((wrong, content(3)[3]), (vec![3], 0x15));
    assert!(disk.media("f").unwrap()[..4096].iter().all(|b| *b == 5));
}

#[test]
fn a_write_can_be_damaged_on_its_way() {
    let (mut disk, file) = with_file(1, 8192);
    disk.schedule_fault(disk.submitted(), SimFault::Damage { at: 5000, mask: 1 });
    disk.submit_write(file, 4096, filled(2, 4096), true, 1);
    assert!(drain(&mut disk)[0].result.is_ok());
    assert_eq!(disk.media("f").unwrap()[5000], 3);
}

#[test]
fn a_file_that_grew_ends_with_its_last_surviving_sector() {
    let (mut shorter, mut holes) = (0, 0);
    for seed in 0..60 {
        let (mut disk, file) = with_file(seed, 0);
        disk.submit_write(file, 4096, filled(1, 4096), false, 1);
        drain(&mut disk);
        disk.submit_flush(file, 2);
        drain(&mut disk);
        disk.submit_write(file, 8192, filled(2, 8192), false, 3);
        drain(&mut disk);
        let length = disk.list().unwrap()[0].bytes;
        assert_eq!(length, 16_384, "whoever lives sees the whole length");
        let mut after = disk.crash();
        let media = after.media("f").unwrap().to_vec();
        assert!(media.len() >= 8192 && media.len().is_multiple_of(512));
        assert!(media[..4096].iter().all(|byte| *byte == 0));
        assert!(media[4096..8192].iter().all(|byte| *byte == 1));
        let kept: Vec<u8> = media[8192..].chunks(512).map(|s| s[0]).collect();
        assert!(kept.last().is_none_or(|last| *last == 2));
        assert_eq!(after.list().unwrap()[0].bytes, media.len() as u64);
        shorter += u32::from(kept.len() < 16);
        holes += u32::from(kept.contains(&0));
    }
    assert!(shorter > 10 && holes > 30, "{shorter} {holes}");
}

#[test]
fn growth_is_refused_on_a_full_disk_and_names_are_taken_once() {
    let mut disk = SimDisk::new(1);
    disk.set_capacity_bytes(8192);
    let file = disk.submit_create("a", 0, 0);
    drain(&mut disk);
    disk.submit_write(file, 0, filled(1, 8192), false, 1);
    assert!(drain(&mut disk)[0].result.is_ok());
    disk.submit_write(file, 8192, filled(1, 4096), false, 2);
    let refused = drain(&mut disk).remove(0);
    assert!(matches!(refused.result, Err(DiskError::NoSpace { .. })));
    assert_eq!(refused.buf.map(|buf| buf.len()), Some(4096));
    disk.submit_write(file, 0, filled(2, 8192), false, 3);
    disk.submit_create("a", 0, 4);
    let mut done = drain(&mut disk);
    done.sort_by_key(|completion| completion.token);
    assert!(done[0].result.is_ok(), "no growth, no refusal");
    let taken = done[1].result.clone().unwrap_err();
    assert!(
        matches!(
            taken,
            DiskError::Io {
                errno: libc::EEXIST,
                operation: "create",
                ..
            }
        ),
        "{taken}"
    );
    disk.submit_remove(file, 5);
    drain(&mut disk);
    let again = disk.submit_create("b", 8192, 6);
    assert!(
        drain(&mut disk)[0].result.is_ok(),
        "the space is free again"
    );
    disk.submit_remove(again, 7);
    drain(&mut disk);
    assert_eq!(disk.names(), Vec::<String>::new());
}

#[test]
fn reads_in_flight_vanish_with_the_power() {
    let (mut disk, file) = with_file(1, 4096);
    disk.submit_read(file, 0, 4096, AlignedBuf::with_capacity(4096), 1);
    let mut after = disk.crash();
    assert!(drain(&mut after).is_empty());
    assert_eq!(after.media("f").unwrap(), [0; 4096]);
}
