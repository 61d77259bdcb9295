//! What the tests of this room share: a model, its file, and a disk with that file.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ids::{ClusterId, LeaseId, LeaseTime, MemberId, RaftIndex, Revision, SnapshotSeq, Term};
use crate::io::{Disk, SimDisk};
use crate::state::{Cluster, Member, Position};

pub(super) const NAME: &str = "00000007.snap";
pub(super) const SEQUENCE: SnapshotSeq = SnapshotSeq(7);
pub(super) const BLOCK: usize = 4096;

/// The smallest parts, so that little data makes a tree.
pub(super) const TINY: BuilderConfig = BuilderConfig {
    page_bytes: BLOCK,
    values_run_bytes_max: 5 * BLOCK,
    write_bytes: 2 * BLOCK,
};

/// One version as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) revision: i64,
    pub(super) sub: u32,
    pub(super) create_revision: i64,
    pub(super) version: i64,
    pub(super) lease: i64,
    /// `None` for a tombstone.
    pub(super) value: Option<Vec<u8>>,
}

/// All keys with all their versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) keys: BTreeMap<Vec<u8>, Vec<Entry>>,
    pub(super) revision: i64,
    pub(super) horizon: i64,
}

/// A finished file.
pub(super) struct Built {
    pub(super) file: Vec<u8>,
    pub(super) snapshot: Arc<Snapshot>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            horizon: -1,
            ..Self::default()
        }
    }

    /// Puts, or deletes without a value, at the next revision or as one more change of the last one.
    pub(super) fn change(&mut self, key: &[u8], value: Option<Vec<u8>>, same_revision: bool) {
        let history = self.keys.entry(key.to_vec()).or_default();
        let newest = history.last();
        let same = same_revision && newest.is_none_or(|newest| newest.revision < self.revision);
        self.revision += i64::from(!same);
        let live = newest.filter(|newest| newest.value.is_some());
        let is_put = value.is_some();
        let entry = Entry {
            revision: self.revision,
            // Unique within the revision, and not in the order of the keys.
            sub: history.len() as u32 * 1_000 + crc32c::crc32c(key) % 1_000,
            create_revision: match live {
                _ if !is_put => 0,
                Some(live) => live.create_revision,
                None => self.revision,
            },
            version: match live {
                _ if !is_put => 0,
                Some(live) => live.version + 1,
                None => 1,
            },
            lease: i64::from(is_put) * (self.revision % 5 / 4),
            value,
        };
        history.push(entry);
    }

    /// What retention leaves at a horizon.
    pub(super) fn retained(&self, horizon: i64) -> Self {
        let keys = self.keys.iter().filter_map(|(key, history)| {
            let below = history.iter().rev().find(|entry| entry.revision < horizon);
            let kept = history.iter().filter(|entry| {
                entry.revision >= horizon
                    || below.is_some_and(|below| *entry == below && below.value.is_some())
            });
            let kept: Vec<Entry> = kept.cloned().collect();
            (!kept.is_empty()).then(|| (key.clone(), kept))
        });
        Self {
            keys: keys.collect(),
            horizon,
            revision: self.revision,
        }
    }

    pub(super) fn meta(&self) -> Meta {
        Meta {
            horizon: Revision(self.horizon),
            ..meta()
        }
    }

    pub(super) fn build(&self, config: BuilderConfig) -> Built {
        let mut builder = Builder::new(SEQUENCE, config, Revision(self.horizon));
        let mut file = vec![0; BLOCK];
        for (key, history) in &self.keys {
            push(&mut builder, key, history);
            while let Some(write) = builder.take_write() {
                put(&mut file, &write);
                builder.reuse(write.buf);
            }
        }
        finish(builder, self.meta(), file)
    }
}

pub(super) fn push(builder: &mut Builder, key: &[u8], history: &[Entry]) {
    builder.push_key(key, &versions(history));
}

pub(super) fn versions(history: &[Entry]) -> Vec<VersionIn<'_>> {
    let versions = history.iter().map(|entry| VersionIn {
        revision: Revision(entry.revision),
        sub: entry.sub,
        create_revision: Revision(entry.create_revision),
        version: entry.version,
        lease: LeaseId(entry.lease),
        tombstone: entry.value.is_none(),
        value: entry.value.as_deref().unwrap_or_default(),
        stays: None,
        origin: None,
    });
    versions.collect()
}

/// A version with a value of one byte.
pub(super) fn version_at(revision: i64) -> VersionIn<'static> {
    VersionIn {
        revision: Revision(revision),
        sub: 0,
        create_revision: Revision(revision),
        version: 1,
        lease: LeaseId(0),
        tombstone: false,
        value: b"v",
        stays: None,
        origin: None,
    }
}

pub(super) fn finish(mut builder: Builder, meta: Meta, mut file: Vec<u8>) -> Built {
    while let Some(write) = builder.take_write() {
        put(&mut file, &write);
    }
    let mut finish = builder.finish(meta);
    let mut is_complete = false;
    while !is_complete {
        is_complete = finish.step(7).unwrap();
        while let Some(write) = finish.take_write() {
            put(&mut file, &write);
            finish.reuse(write.buf);
        }
    }
    let (snapshot, superblock) = finish.into_snapshot("directory/file");
    file[..BLOCK].copy_from_slice(superblock.as_slice());
    assert_eq!(file.len() as u64, snapshot.file_bytes());
    Built {
        file,
        snapshot: Arc::new(snapshot),
    }
}

/// Writes come one behind the other.
pub(super) fn put(file: &mut Vec<u8>, write: &PageWrite) {
    assert_eq!(write.offset, file.len() as u64, "writes leave no gap");
    assert!(
        write.buf.len().is_multiple_of(BLOCK),
        "and are whole blocks"
    );
    file.extend_from_slice(write.buf.as_slice());
}

pub(super) fn disk_with(file: &[u8]) -> SimDisk {
    let mut disk = SimDisk::new(1);
    disk.edit(NAME, 0, file);
    disk
}

pub(super) fn load_from(disk: &mut SimDisk) -> Result<Snapshot, SnapshotError> {
    let entry = disk.list().unwrap().remove(0);
    let file = disk.open(NAME).unwrap();
    Snapshot::load(disk, file, &entry)
}

pub(super) fn load(file: &[u8]) -> Result<Snapshot, SnapshotError> {
    load_from(&mut disk_with(file))
}

/// The value of a version, read as the store reads it.
pub(super) fn value(file: &[u8], snapshot: &Snapshot, version: &Version) -> Vec<u8> {
    let Some(place) = version.place else {
        assert_eq!(version.value_bytes, 0);
        return Vec::new();
    };
    assert_eq!(
        (place.block.file, place.bytes),
        (SEQUENCE, version.value_bytes)
    );
    let block = block(file, &place.block);
    snapshot.verify_block(place.block, block).unwrap();
    let start = place.start as usize;
    block[start..start + place.bytes as usize].to_vec()
}

pub(super) fn block<'a>(file: &'a [u8], place: &BlockPlace) -> &'a [u8] {
    let offset = place.offset as usize;
    &file[offset..offset + place.bytes as usize]
}

pub(super) fn run<'a>(file: &'a [u8], snapshot: &Snapshot, leaf: u32) -> &'a [u8] {
    let Some(place) = snapshot.leaf_run(leaf).first() else {
        return &[];
    };
    &file[place.offset as usize..(place.offset + place.bytes) as usize]
}

/// Everything a snapshot says, as a model; and that every way of asking says the same.
pub(super) fn read_back(file: &[u8], snapshot: &Snapshot) -> Model {
    let mut model = Model {
        keys: BTreeMap::new(),
        revision: snapshot.meta().revision.0,
        horizon: snapshot.meta().horizon.0,
    };
    let mut cursor = snapshot.cursor(b"");
    while let Some(at) = cursor.current() {
        let mut key = Vec::new();
        snapshot.append_key(at, &mut key);
        let history = snapshot.rows(at).map(|row| {
            let at_version = VersionRef { leaf: at.leaf, row };
            assert_eq!(snapshot.key_of(at_version), at);
            let version = snapshot.version(at_version);
            assert_eq!(snapshot.revision_of(at_version), version.revision);
            let value = value(file, snapshot, &version);
            assert!(!version.tombstone || value.is_empty());
            Entry {
                revision: version.revision.0,
                sub: version.sub,
                create_revision: version.create_revision.0,
                version: version.version,
                lease: version.lease.0,
                value: (!version.tombstone).then_some(value),
            }
        });
        model.keys.insert(key, history.collect());
        cursor.advance();
    }
    model
}

/// A meta page with something in every field.
pub(super) fn meta() -> Meta {
    let member = |id: u64, name: &str| Member {
        id,
        name: name.to_owned(),
        peer_urls: vec![format!("http://10.0.0.{id}:2380")],
        client_urls: vec![format!("http://10.0.0.{id}:2379"), "unix://x".to_owned()],
        is_learner: id == 2,
    };
    let lease = |id| LeaseMeta {
        id: LeaseId(id),
        granted_ttl_seconds: 60 + id,
        deadline: LeaseTime(1_000_000 + id.cast_unsigned()),
    };
    Meta {
        applied: Position {
            index: RaftIndex(1_001),
            term: Term(3),
            lease_time: LeaseTime(77_000),
        },
        hard_state: HardState {
            term: Term(4),
            vote: MemberId(2),
        },
        revision: Revision(900),
        compact_revision: Revision(20),
        horizon: Revision(20),
        changes_taken: 17,
        leases: vec![lease(1), lease(0x7000_0000_0000_0001)],
        alarms: vec![AlarmMeta {
            alarm: 1,
            member: MemberId(2),
        }],
        cluster: Cluster {
            cluster_id: ClusterId(0xc1),
            members: [(MemberId(1), member(1, "a")), (MemberId(2), member(2, ""))].into(),
            removed: [].into(),
        },
        auth: b"auth".to_vec(),
    }
}

/// Keys that share much, keys that share nothing, the empty key, and huge ones.
pub(super) fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let shared = (0usize..4, 0u16..300).prop_map(|(prefix, number)| {
        let prefix = ["/registry/pods/default/", "/registry/", "/a", ""][prefix];
        format!("{prefix}{number:03}").into_bytes()
    });
    let long = (any::<bool>(), prop::collection::vec(0u8..3, 0..6)).prop_map(|(longer, end)| {
        let mut key = vec![b'l'; if longer { 700 } else { 300 }];
        key.extend(end);
        key
    });
    let huge = (1usize..4).prop_map(|n| vec![b'h'; n * 3_000]);
    prop_oneof![
        12 => shared,
        6 => prop::collection::vec(0u8..3, 0..7),
        2 => prop::collection::vec(any::<u8>(), 0..12),
        2 => long,
        1 => huge,
    ]
}

/// Values of every kind of place: none, shared blocks, around the limits, blocks of their own.
pub(super) fn any_value() -> impl Strategy<Value = Option<Vec<u8>>> {
    let limit = crate::limits::SNAPSHOT_VALUE_BLOCK_BYTES;
    let bytes = prop_oneof![
        3 => Just(0usize),
        20 => 1usize..300,
        3 => 4_090usize..4_100,
        2 => limit - 2..limit + 3,
        1 => 2 * limit - 1..2 * limit + 2,
        1 => 40_000usize..60_000,
    ];
    let value = (bytes, any::<u8>()).prop_map(|(bytes, seed)| {
        (0..bytes)
            .map(|i| seed.wrapping_add(i as u8 % 251))
            .collect()
    });
    prop_oneof![4 => value.prop_map(Some), 1 => Just(None)]
}

pub(super) fn any_model(changes_max: usize) -> impl Strategy<Value = Model> {
    let change = (any_key(), any_value(), any::<bool>());
    let hot = (any_key(), 0..150usize);
    (prop::collection::vec(change, 0..changes_max), hot).prop_map(|(changes, (hot, count))| {
        let mut model = Model::new();
        for (key, value, same_revision) in changes {
            model.change(&key, value, same_revision);
        }
        for i in 0..count {
            model.change(&hot, (i % 7 != 6).then(|| vec![i as u8; i]), false);
        }
        model
    })
}
