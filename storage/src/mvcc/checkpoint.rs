//! Making the next snapshot out of the frozen layer and the last snapshot, a slice at a time.
//!
//! The engine begins one right after a freeze, reads the value runs that it asks for, gives it time, and
//! writes what it makes. Nothing here waits or does IO:
//!
//! ```text
//!   (engine reads, leaf by leaf) --> on_run --\
//!   frozen layer ------------------------------> step --> take_write --> (engine writes)
//!   last snapshot's index ---------------------/
//! ```
//!
//! The leaves of the last snapshot are gone through in order. One between whose first key and the next
//! leaf's the frozen layer has nothing, and of which retention drops nothing, is copied as it is, with
//! its run of values, unless it is small; any other is merged with the frozen keys and made anew.
//!
//! Invariant: the keys of the new snapshot are those of the frozen layer and the last snapshot, each with
//! all versions of the horizon and later, and the newest one before it unless that is a tombstone.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{Revision, SnapshotSeq};
use crate::io::AlignedBuf;
use crate::mvcc::history::History;
use crate::mvcc::layers::Layer;
use crate::snapshot::{
    Builder, BuilderConfig, Finish, KeyRef, Meta, PageWrite, Snapshot, SnapshotError, VersionIn,
    VersionRef,
};

/// A snapshot in the making.
#[derive(Debug)]
pub struct Checkpoint {
    stage: Stage,
    horizon: Revision,
    frozen: Arc<Layer>,
    last: Option<Arc<Snapshot>>,
    /// The leaf of the last snapshot that is being gone through, and its next key.
    leaf: u32,
    slot: u32,
    /// Whether that leaf is being merged: its run was checked.
    merging: bool,
    /// Frozen keys before this one are in the new snapshot.
    cursor: Vec<u8>,
    /// The run of `leaf`, once it was read, and of leaves after it.
    runs: VecDeque<(u32, Bytes)>,
    /// Versions gone through, kept or not.
    versions_done: u64,
}

/// What a slice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do.
    Working,
    /// The next run has to be read first.
    NeedsRun,
    /// Nothing is left but to take the writes.
    Complete,
}

#[derive(Debug)]
enum Stage {
    Keys(Box<Builder>, Box<Meta>),
    Index(Box<Finish>),
    /// Between two stages.
    Moving,
}

impl Checkpoint {
    /// Begins a snapshot of `frozen`, as it was when `meta` was made, over `last`.
    #[must_use]
    pub fn new(
        sequence: SnapshotSeq,
        config: BuilderConfig,
        meta: Meta,
        frozen: Arc<Layer>,
        last: Option<Arc<Snapshot>>,
    ) -> Self {
        let horizon = meta.horizon;
        let builder = Builder::new(sequence, config, horizon);
        Self {
            stage: Stage::Keys(Box::new(builder), Box::new(meta)),
            horizon,
            frozen,
            last,
            leaf: 0,
            slot: 0,
            merging: false,
            cursor: Vec::new(),
            runs: VecDeque::new(),
            versions_done: 0,
        }
    }

    /// How much of the frozen layer and the last snapshot was gone through, from 0 to 1.
    #[must_use]
    pub fn progress(&self) -> f64 {
        let stored = self.last.as_ref().map_or(0, |last| last.version_count());
        let versions = stored + self.frozen.changes.length();
        (self.versions_done as f64 / versions.max(1) as f64).min(1.0)
    }

    /// Runs that were handed over and are not used up.
    #[must_use]
    pub fn runs_held(&self) -> usize {
        self.runs.len()
    }

    /// A run of the last snapshot was read. They come leaf by leaf, all of them.
    pub fn on_run(&mut self, leaf: u32, run: Bytes) {
        self.runs.push_back((leaf, run));
    }

    /// Goes through about `budget` versions more.
    ///
    /// # Errors
    /// A value block of the last snapshot is damaged. The checkpoint cannot go on.
    pub fn step(&mut self, budget: usize) -> Result<Progress, SnapshotError> {
        match &mut self.stage {
            Stage::Keys(..) => self.step_keys(budget),
            Stage::Index(finish) => Ok(if finish.step(budget) {
                Progress::Complete
            } else {
                Progress::Working
            }),
            Stage::Moving => unreachable!("a stage is never left in between"),
        }
    }

    /// The next write of the new file.
    pub fn take_write(&mut self) -> Option<PageWrite> {
        match &mut self.stage {
            Stage::Keys(builder, _) => builder.take_write(),
            Stage::Index(finish) => finish.take_write(),
            Stage::Moving => None,
        }
    }

    /// Whether it has use for a buffer.
    #[must_use]
    pub fn wants_buf(&self) -> bool {
        match &self.stage {
            Stage::Keys(builder, _) => builder.wants_buf(),
            Stage::Index(finish) => finish.wants_buf(),
            Stage::Moving => false,
        }
    }

    /// A buffer of a write that is done, to be filled again.
    pub fn reuse(&mut self, buf: AlignedBuf) {
        match &mut self.stage {
            Stage::Keys(builder, _) => builder.reuse(buf),
            Stage::Index(finish) => finish.reuse(buf),
            Stage::Moving => {}
        }
    }

    /// The new snapshot in `file`, a path, and its superblock, which is written last. Only when
    /// [`Progress::Complete`] was reached and all writes are taken.
    #[must_use]
    pub fn into_snapshot(self, file: &str) -> (Snapshot, AlignedBuf) {
        match self.stage {
            Stage::Index(finish) => finish.into_snapshot(file),
            _ => unreachable!("a checkpoint is complete before it is used"),
        }
    }

    fn step_keys(&mut self, budget: usize) -> Result<Progress, SnapshotError> {
        let Stage::Keys(builder, _) = &mut self.stage else {
            unreachable!("only the keys are merged")
        };
        let leaf_count = self.last.as_ref().map_or(0, |last| last.leaf_count());
        if self.leaf < leaf_count && self.runs.front().is_none_or(|(leaf, _)| *leaf != self.leaf) {
            return Ok(Progress::NeedsRun);
        }
        let mut slice = Slice {
            frozen: &self.frozen,
            builder,
            horizon: self.horizon,
            left: budget.max(1),
            done: 0,
        };
        let stored = self.last.as_deref().filter(|_| self.leaf < leaf_count);
        let until = stored.and_then(|last| next_first_key(last, self.leaf));
        if !self.merging
            && let Some(last) = stored
        {
            let run = &self.runs[0].1[..];
            if slice.may_copy(last, self.leaf, &self.cursor, until.as_deref()) {
                self.versions_done += slice.builder.copy_leaf(last, self.leaf, run)?;
                self.next_leaf(until);
                return Ok(Progress::Working);
            }
            last.verify_run(self.leaf, run)?;
            self.merging = true;
        }
        let source = stored.map(|last| Source {
            last,
            leaf: self.leaf,
            run: &self.runs[0].1[..],
        });
        let is_through = slice.merge(source, &mut self.slot, &mut self.cursor, until.as_deref());
        self.versions_done += slice.done;
        if !is_through {
            return Ok(Progress::Working);
        }
        if self.leaf + 1 < leaf_count {
            self.next_leaf(until);
            return Ok(Progress::Working);
        }
        let Stage::Keys(builder, meta) = std::mem::replace(&mut self.stage, Stage::Moving) else {
            unreachable!("the keys were merged")
        };
        self.stage = Stage::Index(Box::new(builder.finish(*meta)));
        self.runs.clear();
        Ok(Progress::Working)
    }

    fn next_leaf(&mut self, first_key: Option<Vec<u8>>) {
        self.runs.pop_front();
        self.leaf += 1;
        self.slot = 0;
        self.merging = false;
        if let Some(first_key) = first_key {
            self.cursor = first_key;
        }
    }
}

/// One leaf of the last snapshot with its values.
struct Source<'a> {
    last: &'a Snapshot,
    leaf: u32,
    run: &'a [u8],
}

/// What one step works with.
struct Slice<'a> {
    frozen: &'a Layer,
    builder: &'a mut Builder,
    horizon: Revision,
    left: usize,
    done: u64,
}

impl Slice<'_> {
    /// Whether nothing changes in a leaf, and it is large enough to stay as it is.
    fn may_copy(&self, last: &Snapshot, leaf: u32, cursor: &[u8], until: Option<&[u8]>) -> bool {
        self.horizon < last.leaf_droppable_at(leaf)
            && self.frozen.tree.walk(cursor, until).next().is_none()
            && self.builder.is_worth_copying(last, leaf)
    }

    /// Merges frozen keys before `until` with those of a leaf; true when there are no more of either.
    fn merge(
        &mut self,
        source: Option<Source<'_>>,
        slot: &mut u32,
        cursor: &mut Vec<u8>,
        until: Option<&[u8]>,
    ) -> bool {
        let mut versions = Vec::new();
        let mut stored_key = Vec::new();
        let start = std::mem::take(cursor);
        let mut walk = self.frozen.tree.walk(&start, until);
        loop {
            let memory = walk.peek();
            let stored = source.as_ref().filter(|source| *slot < source.key_count());
            if let Some(source) = stored {
                stored_key.clear();
                source.last.append_key(source.key(*slot), &mut stored_key);
            }
            let (takes_memory, takes_stored) = match (memory, stored) {
                (None, None) => return true,
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some((memory, _)), Some(_)) => (
                    memory <= stored_key.as_slice(),
                    stored_key.as_slice() <= memory,
                ),
            };
            if self.left == 0 {
                // Frozen keys before the next one are done; if there is none, the next slice finds that out
                // again from the last stored key.
                cursor.extend_from_slice(memory.map_or(&stored_key, |(key, _)| key));
                return false;
            }
            versions.clear();
            if let Some(source) = stored.filter(|_| takes_stored) {
                source.versions(*slot, &mut versions);
                *slot += 1;
            }
            let mut key = stored_key.as_slice();
            if let Some((found, history)) = memory.filter(|_| takes_memory) {
                key = found;
                versions_of(history, &mut versions);
                walk.advance();
            }
            self.left = self.left.saturating_sub(versions.len());
            self.done += versions.len() as u64;
            retain(&mut versions, self.horizon);
            if !versions.is_empty() {
                self.builder.push_key(key, &versions);
            }
        }
    }
}

impl<'a> Source<'a> {
    fn key_count(&self) -> u32 {
        self.last.leaf_keys(self.leaf)
    }

    fn key(&self, slot: u32) -> KeyRef {
        KeyRef {
            leaf: self.leaf,
            slot,
        }
    }

    /// Adds the versions of a key, oldest first.
    fn versions(&self, slot: u32, out: &mut Vec<VersionIn<'a>>) {
        let (run_offset, _) = self.last.leaf_run(self.leaf);
        for row in self.last.rows(self.key(slot)) {
            let version = self.last.version(VersionRef {
                leaf: self.leaf,
                row,
            });
            let value = version.place.map_or(&[][..], |place| {
                let start = (place.block.offset - run_offset) as usize + place.start as usize;
                &self.run[start..start + place.bytes as usize]
            });
            out.push(VersionIn {
                revision: version.revision,
                sub: version.sub,
                create_revision: version.create_revision,
                version: version.version,
                lease: version.lease,
                tombstone: version.tombstone,
                value,
            });
        }
    }
}

fn versions_of<'a>(history: &'a History, out: &mut Vec<VersionIn<'a>>) {
    out.extend(history.iter().map(|record| VersionIn {
        revision: record.revision,
        sub: record.sub,
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
        tombstone: record.tombstone,
        value: record.value(),
    }));
}

/// Leaves what a read at `horizon` or later, or a watch from there, needs.
fn retain(versions: &mut Vec<VersionIn<'_>>, horizon: Revision) {
    let before = versions.partition_point(|version| version.revision < horizon);
    if let Some(newest) = before.checked_sub(1) {
        let dropped = newest + usize::from(versions[newest].tombstone);
        versions.drain(..dropped);
    }
}

/// The first key of the leaf behind this one.
fn next_first_key(last: &Snapshot, leaf: u32) -> Option<Vec<u8>> {
    (leaf + 1 < last.leaf_count()).then(|| {
        let mut key = Vec::new();
        last.append_key(last.leaf_first_key(leaf + 1), &mut key);
        key
    })
}
