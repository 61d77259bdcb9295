//! Backups: a copy with another meta page, and damage of every piece of a file found by audit and survey.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::{
    AlarmMeta, Audit, Builder, BuilderConfig, LeaseMeta, SnapshotDamage, SnapshotError, Survey,
    VersionIn,
};
use super::*;
use crate::ids::{ClusterId, LeaseId};
use crate::io::{Disk, ReadOnlyDisk};
use crate::state::Member;

const NAME: &str = "00000007.snap";

fn meta() -> Meta {
    Meta {
        applied: Position {
            index: RaftIndex(900),
            term: Term(4),
            lease_time: LeaseTime(50_000),
        },
        hard_state: HardState {
            term: Term(5),
            vote: MemberId(9),
        },
        revision: Revision(601),
        compact_revision: Revision(3),
        horizon: Revision(2),
        changes_taken: 11,
        leases: vec![
            LeaseMeta {
                id: LeaseId(7),
                granted_ttl_seconds: 60,
                deadline: LeaseTime(51_000),
            },
            LeaseMeta {
                id: LeaseId(8),
                granted_ttl_seconds: 1,
                deadline: LeaseTime(99_000),
            },
        ],
        alarms: vec![AlarmMeta {
            alarm: 1,
            member: MemberId(9),
        }],
        cluster: cluster(9),
        auth: b"auth".to_vec(),
    }
}

fn cluster(member: u64) -> Cluster {
    let me = Member {
        id: member,
        name: "m".to_owned(),
        ..Member::default()
    };
    Cluster {
        cluster_id: ClusterId(member + 1),
        members: BTreeMap::from([(MemberId(member), me)]),
        ..Cluster::default()
    }
}

/// A file of some leaves, with shared and single blocks of values.
fn file() -> Vec<u8> {
    let config = BuilderConfig {
        page_bytes: 4096,
        values_run_bytes_max: 40_000,
        write_bytes: 8192,
    };
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    let mut builder = Builder::new(SnapshotSeq(7), config, Revision(2));
    for number in 0..600_i64 {
        let value = vec![
            number as u8;
            (number * 37 % 700) as usize + if number == 99 { 20_000 } else { 0 }
        ];
        let version = VersionIn {
            revision: Revision(number + 2),
            sub: 0,
            create_revision: Revision(number + 2),
            version: 1,
            lease: LeaseId(if number == 5 { 7 } else { 0 }),
            tombstone: false,
            value: &value,
            stays: None,
            origin: None,
        };
        builder.push_key(format!("/registry/{number:05}").as_bytes(), &[version]);
        while let Some(write) = builder.take_write() {
            bytes.extend_from_slice(write.buf.as_slice());
        }
    }
    let mut finish = builder.finish(meta());
    while !finish.step(100).unwrap() {}
    while let Some(write) = finish.take_write() {
        bytes.extend_from_slice(write.buf.as_slice());
    }
    let (_, superblock) = finish.into_snapshot(NAME);
    bytes[..SUPERBLOCK_BYTES].copy_from_slice(superblock.as_slice());
    bytes
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).unwrap();
}

fn load(folder: &Path) -> Result<Snapshot, SnapshotError> {
    let mut disk = ReadOnlyDisk::new(folder);
    let (file, entry) = Snapshot::newest_in(&mut disk)?.unwrap();
    Snapshot::load(&mut disk, file, &entry)
}

fn survey(folder: &Path) -> Survey {
    let mut disk = ReadOnlyDisk::new(folder);
    let entry = disk.list().unwrap().remove(0);
    let file = disk.open(&entry.name).unwrap();
    let mut read = 0;
    let survey = Survey::of(&mut disk, file, &entry, &mut |bytes, _| read += bytes);
    assert!(read <= entry.bytes);
    survey
}

fn run_bytes(snapshot: &Snapshot, leaf: u32) -> u64 {
    let run = snapshot.leaf_run(leaf).iter();
    run.map(|piece| piece.bytes).sum()
}

fn place(error: &SnapshotError) -> (u64, SnapshotDamage) {
    match error {
        SnapshotError::Damaged { offset, reason, .. } => (*offset, *reason),
        other => panic!("{other}"),
    }
}

#[test]
fn g_d_7_a_copy_has_the_same_keys_and_another_meta_page() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = file();
    write(folder.path(), NAME, &bytes);
    let old = load(folder.path()).unwrap();
    let mut new_meta = meta().for_new_cluster(cluster(20), 1000).unwrap();
    // Longer than the old one, so that the page table moves.
    new_meta.auth = vec![1; 9000];
    let transplant = old.with_meta(SnapshotSeq(1), &new_meta);
    assert_eq!(transplant.file_name, "00000001.snap");
    let mut copy = bytes[..transplant.kept_bytes as usize].to_vec();
    copy[..SUPERBLOCK_BYTES].copy_from_slice(transplant.superblock.as_slice());
    copy.extend_from_slice(transplant.tail.as_slice());
    let target = tempfile::tempdir().unwrap();
    write(target.path(), &transplant.file_name, &copy);
    let new = load(target.path()).unwrap();
    assert_eq!(new.meta(), &new_meta);
    assert_eq!(new.sequence(), SnapshotSeq(1));
    assert_eq!(new.file_bytes(), copy.len() as u64);
    assert_eq!(new.key_count(), old.key_count());
    let (mut ours, mut theirs) = (new.cursor(b""), old.cursor(b""));
    while let Some(key) = ours.current() {
        assert_eq!(theirs.current(), Some(key));
        for row in new.rows(key) {
            let at = super::super::VersionRef {
                leaf: key.leaf,
                row,
            };
            assert_eq!(new.version(at).revision, old.version(at).revision);
            let block = |snapshot: &Snapshot| {
                let place = snapshot.version(at).place?;
                Some((place.block.offset, place.block.checksum))
            };
            assert_eq!(block(&new), block(&old));
        }
        ours.advance();
        theirs.advance();
    }
    assert!(survey(target.path()).damages.is_empty());
    // The same meta page gives the same file.
    let same = old.with_meta(old.sequence(), old.meta());
    let end = same.kept_bytes as usize;
    assert_eq!(same.tail.as_slice(), &bytes[end..]);
    assert_eq!(same.superblock.as_slice(), &bytes[..SUPERBLOCK_BYTES]);
}

#[test]
fn g_d_7_what_a_new_cluster_takes_over() {
    let old = meta();
    let new = old.for_new_cluster(cluster(20), 0).unwrap();
    assert_eq!(
        (new.applied.index, new.applied.term),
        (RaftIndex(1), Term(1))
    );
    assert_eq!(new.applied.lease_time, old.applied.lease_time);
    let hard_state = (new.hard_state.term, new.hard_state.vote);
    assert_eq!(hard_state, (Term(1), MemberId(0)));
    assert_eq!(new.revision, old.revision);
    assert_eq!(new.compact_revision, old.compact_revision);
    assert_eq!(new.cluster, cluster(20));
    assert_eq!((&new.alarms, &new.auth), (&old.alarms, &old.auth));
    let deadlines: Vec<u64> = new.leases.iter().map(|lease| lease.deadline.0).collect();
    assert_eq!(deadlines, [50_000 + 60_000, 99_000]);

    let bumped = old.for_new_cluster(cluster(20), 1_000_000).unwrap();
    assert_eq!(bumped.revision, Revision(1_000_601));
    assert_eq!(bumped.compact_revision, Revision(1_000_601));
    assert_eq!(bumped.horizon, old.horizon);
    assert_eq!(old.for_new_cluster(cluster(20), i64::MAX as u64), None);
    assert_eq!(old.for_new_cluster(cluster(20), u64::MAX), None);
}

/// Every block of the file is covered, its filling too.
#[test]
fn g_d_7_an_audit_and_a_survey_find_a_changed_byte_in_every_block() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = file();
    write(folder.path(), NAME, &bytes);
    let snapshot = load(folder.path()).unwrap();
    let audit = |bytes: &[u8], piece: usize| {
        let mut audit = Audit::new(&snapshot);
        let taken = bytes.chunks(piece).try_for_each(|chunk| audit.take(chunk));
        taken.and_then(|()| audit.finish())
    };
    for piece in [1000, 4096, bytes.len()] {
        assert_eq!(audit(&bytes, piece), Ok(()));
    }
    let whole = survey(folder.path());
    assert!(whole.damages.is_empty(), "{:?}", whole.damages);
    assert_eq!(whole.snapshot.unwrap().key_count(), 600);
    let parts: Vec<u64> = (0..snapshot.leaf_count())
        .map(|leaf| run_bytes(&snapshot, leaf))
        .collect();
    assert_eq!(whole.value_bytes, parts.iter().sum::<u64>());
    for (number, block) in (0..bytes.len()).step_by(4096).enumerate() {
        let mut damaged = bytes.clone();
        let at = block + number * 131 % 4096;
        damaged[at] ^= 1 << (number % 8);
        let flaw = audit(&damaged, 5000).unwrap_err();
        assert!(flaw.offset <= at as u64, "byte {at}: {flaw:?}");
        let error = snapshot.damaged_by(&flaw);
        assert_eq!(place(&error), (flaw.offset, flaw.reason), "byte {at}");
        write(folder.path(), NAME, &damaged);
        let found = survey(folder.path());
        assert_eq!(found.damages.len(), 1, "byte {at}: {:?}", found.damages);
        assert_eq!(place(&found.damages[0]), place(&error), "byte {at}");
    }
    let short = audit(&bytes[..bytes.len() - 1], 4096).unwrap_err();
    assert_eq!(short.reason.to_string(), "the file was cut short");
}

#[test]
fn g_d_7_a_survey_goes_on_behind_a_damage() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = file();
    write(folder.path(), NAME, &bytes);
    let snapshot = load(folder.path()).unwrap();
    let leaves = snapshot.leaf_count();
    let run = |leaf| snapshot.leaf_run(leaf)[0].offset as usize;
    // A block of values of a sound leaf, a leaf with its run, and a page of changes.
    bytes[run(0)] ^= 1;
    bytes[run(2)] ^= 1;
    let leaf_page = {
        let values: u64 = (0..leaves).map(|leaf| run_bytes(&snapshot, leaf)).sum();
        let before: u64 = (0..2).map(|leaf| snapshot.leaf_page_bytes(leaf)).sum();
        (SUPERBLOCK_BYTES as u64 + values + before) as usize
    };
    bytes[leaf_page] ^= 1;
    let end = snapshot.superblock().meta.offset as usize;
    bytes[end - 4096] ^= 1;
    write(folder.path(), NAME, &bytes);
    let found = survey(folder.path());
    assert!(found.snapshot.is_none());
    let texts: Vec<String> = found.damages.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:#?}");
    assert!(texts[0].contains("the order of past changes"), "{texts:#?}");
    assert!(
        texts[1].contains("the leaf page does not match"),
        "{texts:#?}"
    );
    assert!(
        texts[1].contains("the keys from \"/registry/0"),
        "{texts:#?}"
    );
    assert!(texts[2].contains("values of the keys from"), "{texts:#?}");
}

#[test]
fn g_d_7_files_are_told_apart_by_their_first_block() {
    let bytes = file();
    assert_eq!(FileKind::of(&bytes[..4096]), FileKind::Snapshot);
    assert_eq!(
        Snapshot::file_bytes_by(&bytes[..4096]),
        Some(bytes.len() as u64)
    );
    let mut damaged = bytes[..4096].to_vec();
    damaged[60] ^= 1;
    assert_eq!(FileKind::of(&damaged), FileKind::Snapshot);
    assert_eq!(Snapshot::file_bytes_by(&damaged), None);
    assert_eq!(FileKind::of(&[0; 4096]), FileKind::Blank);
    assert_eq!(FileKind::of(b""), FileKind::Blank);
    let mut bolt = vec![0; 4096];
    bolt[10] = 4;
    bolt[16..20].copy_from_slice(&[0xed, 0xda, 0x0c, 0xed]);
    assert_eq!(FileKind::of(&bolt), FileKind::Etcd);
    assert_eq!(FileKind::of(b"#!/bin/sh\n"), FileKind::Unknown);
}
