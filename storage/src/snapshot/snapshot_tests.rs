//! The snapshot against a sorted map of histories.

use std::collections::BTreeMap;

use super::*;
use crate::ids::{LeaseId, Revision, SnapshotSeq};
use crate::io::{AlignedBuf, Disk, SimDisk};

#[test]
fn basic() {
    let mut model: BTreeMap<Vec<u8>, Vec<(i64, Option<Vec<u8>>)>> = BTreeMap::new();
    let mut revision = 1;
    for round in 0..3 {
        for i in 0..2000u32 {
            if (i + round) % 3 == 0 {
                continue;
            }
            revision += 1;
            let value =
                ((i + round) % 5 != 0).then(|| vec![i as u8; ((i * 37 + round) % 700) as usize]);
            model
                .entry(format!("/registry/things/{:07}", i * 7919 % 10007).into_bytes())
                .or_default()
                .push((revision, value));
        }
    }
    let config = BuilderConfig {
        page_bytes: 4096,
        values_run_bytes_max: 20000,
        write_bytes: 8192,
    };
    let mut file = vec![0u8; 4096];
    let mut write = |w: PageWrite| {
        assert_eq!(w.offset, file.len() as u64);
        file.extend_from_slice(w.buf.as_slice());
    };
    let mut builder = Builder::new(SnapshotSeq(7), config, Revision(0));
    for (key, versions) in &model {
        let versions: Vec<_> = versions
            .iter()
            .map(|(revision, value)| VersionIn {
                revision: Revision(*revision),
                sub: 0,
                create_revision: Revision(1),
                version: 1,
                lease: LeaseId(0),
                tombstone: value.is_none(),
                value: value.as_deref().unwrap_or_default(),
            })
            .collect();
        builder.push_key(key, &versions);
        while let Some(w) = builder.take_write() {
            write(w);
        }
    }
    let mut finish = builder.finish(Meta {
        horizon: Revision(0),
        ..Meta::default()
    });
    while !finish.step(10) {}
    while let Some(w) = finish.take_write() {
        write(w);
    }
    let (built, superblock) = finish.into_snapshot("x");
    file[..4096].copy_from_slice(superblock.as_slice());
    assert_eq!(file.len() as u64, built.file_bytes());
    let mut disk = SimDisk::new(1);
    disk.set_eager(true);
    let id = disk.submit_create("a.snap", file.len() as u64, 0);
    disk.wait().unwrap();
    let mut done = Vec::new();
    disk.reap(&mut done);
    let mut buf = AlignedBuf::with_capacity(file.len());
    buf.extend_from_slice(&file);
    disk.submit_write(id, 0, buf, true, 1);
    disk.wait().unwrap();
    disk.reap(&mut done);
    let entry = disk.list().unwrap().remove(0);
    let loaded = Snapshot::load(&mut disk, id, &entry).unwrap();
    for snapshot in [&built, &loaded] {
        assert_eq!(snapshot.key_count(), model.len() as u64);
        let mut live = 0;
        let mut cursor = snapshot.cursor(b"");
        let mut order = BTreeMap::new();
        for (key, versions) in &model {
            let found = snapshot.find(key).unwrap();
            assert_eq!(cursor.current(), Some(found));
            cursor.advance();
            assert_eq!(snapshot.live_before(key), live);
            live += u64::from(versions.last().unwrap().1.is_some());
            let rows = snapshot.rows(found);
            assert_eq!(rows.len(), versions.len());
            for (row, (revision, value)) in rows.zip(versions) {
                let at = VersionRef {
                    leaf: found.leaf,
                    row,
                };
                let version = snapshot.version(at);
                assert_eq!(version.revision.0, *revision);
                order.insert(*revision, at);
                assert_eq!(version.tombstone, value.is_none());
                let value = value.clone().unwrap_or_default();
                if let Some(place) = version.place {
                    let block = place.block.offset as usize
                        ..place.block.offset as usize + place.block.bytes as usize;
                    snapshot
                        .verify_block(place.block, &file[block.clone()])
                        .unwrap();
                    let block = &file[block];
                    assert_eq!(
                        &block[place.start as usize..(place.start + place.bytes) as usize],
                        value
                    );
                } else {
                    assert!(value.is_empty());
                }
            }
        }
        assert_eq!(cursor.current(), None);
        assert_eq!(snapshot.live_count(), live);
        assert_eq!(snapshot.change_count(), order.len() as u64);
        for (i, (revision, at)) in order.iter().enumerate() {
            assert_eq!(snapshot.change(i as u64), *at);
            assert_eq!(snapshot.change_index_of(Revision(*revision)), i as u64);
        }
    }
}
