//! Checkpoints that leave values where they are: what they write, what is on the disk, and what can be read.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::etcdserverpb::{CompactionRequest, PutRequest};

use super::*;
use crate::ids::{LeaseTime, RaftIndex, Revision, SnapshotSeq, Term};
use crate::mvcc::{Checkpoint, Progress, Reuse, Wanted};
use crate::snapshot::{BuilderConfig, HardState, ImagePart, Snapshot, VersionRef};

const KEYS: u64 = 400;
const VALUE_BYTES: usize = 3000;

/// A state, its files, and what it must hold.
struct World {
    state: State,
    files: BTreeMap<SnapshotSeq, Vec<u8>>,
    last: SnapshotSeq,
    index: u64,
    random: u64,
    /// Of each revision, its key and value.
    puts: BTreeMap<i64, (u64, Bytes)>,
}

impl World {
    fn new() -> Self {
        Self {
            state: State::new(),
            files: BTreeMap::new(),
            last: SnapshotSeq(0),
            index: 0,
            random: 1,
            puts: BTreeMap::new(),
        }
    }

    fn random(&mut self) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.random >> 33
    }

    fn apply(&mut self, request: &Request) {
        self.index += 1;
        let at = Position {
            index: RaftIndex(self.index),
            term: Term(1),
            lease_time: LeaseTime(0),
        };
        self.state.on_entry(at);
        self.state.apply(at, request).unwrap();
    }

    fn put(&mut self, key: u64) {
        let bytes = VALUE_BYTES / 2 + self.random() as usize % VALUE_BYTES;
        let value = Bytes::from(vec![self.random() as u8; bytes]);
        self.apply(&Request::Put(PutRequest {
            key: format!("/registry/{key:05}").into(),
            value: value.clone(),
            ..PutRequest::default()
        }));
        self.puts.insert(self.state.revision().0, (key, value));
    }

    fn compact(&mut self, revision: i64) {
        self.apply(&Request::Compact(CompactionRequest {
            revision,
            physical: false,
        }));
    }

    /// Makes a checkpoint; how many bytes it wrote.
    fn checkpoint(&mut self, reuse: Reuse) -> u64 {
        let meta = self.state.freeze(HardState::default(), None);
        self.last = self.last.next();
        let last = self.state.snapshot().cloned();
        let frozen = Arc::clone(self.state.frozen().unwrap());
        let config = BuilderConfig {
            values_run_bytes_max: 200_000,
            ..BuilderConfig::default()
        };
        let mut job = Checkpoint::new(self.last, config, meta, frozen, last, reuse);
        let mut file = vec![0; 4096];
        loop {
            let progress = job.step(50).unwrap();
            while let Some(Wanted { leaf, parts }) = job.take_wanted() {
                let read = |part: &ImagePart| {
                    let file = &self.files[&part.file];
                    &file[part.offset as usize..(part.offset + part.bytes) as usize]
                };
                let run: Vec<u8> = parts.iter().flat_map(read).copied().collect();
                job.on_run(leaf, run.into());
            }
            while let Some(write) = job.take_write() {
                assert_eq!(file.len() as u64, write.offset);
                file.extend_from_slice(write.buf.as_slice());
            }
            if progress == Progress::Complete {
                break;
            }
        }
        let (snapshot, superblock) = job.into_snapshot("directory/file");
        file[..4096].copy_from_slice(superblock.as_slice());
        let written = file.len() as u64;
        self.files.insert(self.last, file);
        // Files that are of no use any more go, as a store has them go.
        let needed: Vec<_> = snapshot.value_files().map(|file| file.sequence).collect();
        self.files.retain(|sequence, _| needed.contains(sequence));
        self.state.replace_frozen(Arc::new(snapshot));
        written
    }

    fn file_bytes(&self) -> u64 {
        self.files.values().map(|file| file.len() as u64).sum()
    }

    fn image_bytes(&self) -> u64 {
        self.state.snapshot().unwrap().image_bytes()
    }

    /// Every version that the snapshot has is what was put; it has the newest one of every key.
    fn check(&self) {
        let snapshot = self.state.snapshot().unwrap();
        let mut cursor = snapshot.cursor(b"");
        let mut newest = BTreeMap::new();
        let mut versions = 0;
        while let Some(key) = cursor.current() {
            for row in snapshot.rows(key) {
                let at = VersionRef {
                    leaf: key.leaf,
                    row,
                };
                let version = snapshot.version(at);
                let (number, value) = &self.puts[&version.revision.0];
                assert_eq!(*self.value(snapshot, at), value[..], "{}", version.revision);
                newest.insert(*number, version.revision.0);
                versions += 1;
            }
            cursor.advance();
        }
        let mut expected = BTreeMap::new();
        for (revision, (key, _)) in &self.puts {
            expected.insert(*key, *revision);
        }
        assert_eq!(newest, expected);
        assert_eq!(versions, snapshot.version_count());
    }

    fn value(&self, snapshot: &Snapshot, at: VersionRef) -> &[u8] {
        let place = snapshot.version(at).place.unwrap();
        let start = place.block.offset as usize;
        let block = &self.files[&place.block.file][start..start + place.block.bytes as usize];
        snapshot.verify_block(place.block, block).unwrap();
        let start = place.start as usize;
        &block[start..start + place.bytes as usize]
    }
}

/// Keys are overwritten here and there, and their history is compacted, for a long time.
#[test]
fn values_that_do_not_change_are_not_written_again_and_files_do_not_pile_up() {
    let mut world = World::new();
    for key in 0..KEYS {
        world.put(key);
    }
    world.checkpoint(Reuse::MUCH);
    let (mut written, mut images) = (0, 0);
    for round in 0..60 {
        for _ in 0..20 {
            let key = world.random() % KEYS;
            world.put(key);
        }
        if round % 3 == 2 {
            let revision = world.state.revision().0;
            world.compact(revision - 30);
        }
        written += world.checkpoint(Reuse::MUCH);
        images += world.image_bytes();
        world.check();
        let bound = world.image_bytes() * 5 / 2;
        assert!(
            world.file_bytes() <= bound,
            "{} of {bound}",
            world.file_bytes()
        );
        assert!(world.state.snapshot().unwrap().lenders().len() <= 8);
    }
    assert!(
        written * 5 < images * 2,
        "{written} written, {images} if all had been"
    );
    // Hardly anything useless is left where that is asked for, and then nothing but the index is written.
    world.checkpoint(Reuse::LITTLE);
    world.check();
    assert!(world.file_bytes() <= world.image_bytes() * 5 / 4);
    let before = world.file_bytes();
    let written = world.checkpoint(Reuse::LITTLE);
    assert!(written < before / 10, "{written} of {before}");
    world.check();
    // And one file where no value may stay.
    world.checkpoint(Reuse::NONE);
    assert_eq!(world.files.len(), 1);
    assert_eq!(world.file_bytes(), world.image_bytes());
    world.check();
}

/// A key that grows splits its leaf, and the values of both halves stay where they are.
#[test]
fn values_stay_when_their_leaf_is_split_or_joined() {
    let mut world = World::new();
    for key in 0..KEYS {
        world.put(2 * key);
    }
    world.checkpoint(Reuse::ANY);
    let leaves = world.state.snapshot().unwrap().leaf_count();
    for key in 0..KEYS / 2 {
        world.put(2 * key + 1);
    }
    let written = world.checkpoint(Reuse::ANY);
    world.check();
    assert!(world.state.snapshot().unwrap().leaf_count() > leaves);
    assert!(written < world.image_bytes() / 2);
    let revision = world.state.revision().0;
    for key in 0..KEYS {
        world.put(2 * key);
    }
    world.compact(revision);
    world.checkpoint(Reuse::ANY);
    world.check();
    assert_eq!(world.state.compact_revision(), Revision(revision));
}
