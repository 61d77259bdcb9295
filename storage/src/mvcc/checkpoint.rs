//! Making the next snapshot out of the frozen layer and the last snapshot, a slice at a time.
//!
//! The engine begins one right after a freeze, reads the value runs that it asks for, gives it time, and
//! writes what it makes. Nothing here waits or does IO:
//!
//! ```text
//!   take_wanted --> (engine reads) --> on_run -\
//!   frozen layer ------------------------------> step --> take_write --> (engine writes)
//!   last snapshot's index ---------------------/
//! ```
//!
//! The leaves of the last snapshot are gone through in order. One to which no frozen key belongs, and of which
//! retention drops nothing, is taken as it is, unless it is small; any other is merged with the frozen keys and made anew.
//! Values stay in the files in which they are, block by block. They are read, and written again, only if their block is
//! small or has become mostly useless, or if their file may not lend any more because too much of it is useless
//! ([`Reuse`]). So every file goes at last. What of a leaf is to be read is found out some way ahead of the merge.
//!
//! Invariant: the keys of the new snapshot are those of the frozen layer and the last snapshot, each with
//! all versions of the horizon and later, and the newest one before it unless that is a tombstone.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{Revision, SnapshotSeq};
use crate::io::AlignedBuf;
use crate::limits::{
    SNAPSHOT_LENDERS_MAX, SNAPSHOT_RUNS_AHEAD_BYTES, SNAPSHOT_RUNS_AHEAD_MAX,
    SNAPSHOT_VALUE_BLOCK_BYTES,
};
use crate::mvcc::history::History;
use crate::mvcc::layers::Layer;
use crate::snapshot::{
    Builder, BuilderConfig, Finish, ImagePart, KeyRef, Lender, Meta, PageWrite, Snapshot,
    SnapshotError, VersionIn, VersionRef,
};

/// Leaves looked at per step, and how many are known at once.
const LEAVES_AHEAD_PER_STEP: usize = 64;
const LEAVES_AHEAD_MAX: usize = 4096;

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
    ahead: Ahead,
    /// Versions gone through, kept or not.
    versions_done: u64,
}

/// How much of the files in which values stay may be useless, in eighths of what the last snapshot holds. Where more is,
/// values are copied, and the files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse(Option<u64>);

impl Reuse {
    /// Any amount: for simulations, whose values are small.
    pub const ANY: Self = Self(Some(u64::MAX));
    /// Half as much: little is written.
    pub const MUCH: Self = Self(Some(4));
    /// An eighth: what is on the disk is hardly more than what is needed.
    pub const LITTLE: Self = Self(Some(1));
    /// No value stays.
    pub const NONE: Self = Self(None);

    fn useless_bytes_max(self, last: &Snapshot) -> Option<u64> {
        let eighth = last.image_bytes() / 8;
        self.0.map(|eighths| eighth.saturating_mul(eighths))
    }
}

/// A leaf of the last snapshot whose run, or parts of it, must be read.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The leaf.
    pub leaf: u32,
    /// What to read, one behind the other.
    pub parts: Vec<ImagePart>,
}

/// What becomes of a leaf.
#[derive(Clone, Debug)]
enum Fate {
    /// It is taken as it is, and all of its values stay.
    Stays,
    /// It is taken as it is; its values are copied.
    IsCopied,
    /// It is made anew. Of each of its blocks of values: none if it stays, else where in what was read it begins.
    IsMerged(Vec<Option<usize>>),
}

/// The leaves of the last snapshot from the one that is gone through up to `next`.
#[derive(Debug)]
struct Ahead {
    /// Files that values may stay in.
    lenders: Vec<SnapshotSeq>,
    config: BuilderConfig,
    /// What becomes of each.
    fates: VecDeque<Fate>,
    next: u32,
    /// The first leaf from there on that gets frozen keys; above all leaves if none does. None before it was looked for.
    changed: Option<u32>,
    /// What is to be read, and was not taken yet.
    wanted: VecDeque<Wanted>,
    /// Runs, and their bytes, that were or will be wanted and are not used up.
    runs: usize,
    bytes: u64,
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
        reuse: Reuse,
    ) -> Self {
        let horizon = meta.horizon;
        let lenders = last
            .as_ref()
            .map_or_else(Vec::new, |last| lenders_of(last, reuse));
        let mut builder = Builder::new(sequence, config, horizon);
        builder.borrow_from(lenders.iter().copied());
        if let Some(last) = &last {
            builder.over(Arc::clone(last));
        }
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
            ahead: Ahead {
                lenders: lenders.iter().map(|lender| lender.sequence).collect(),
                config,
                fates: VecDeque::new(),
                next: 0,
                changed: None,
                wanted: VecDeque::new(),
                runs: 0,
                bytes: 0,
            },
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

    /// What is to be read next. No more than [`SNAPSHOT_RUNS_AHEAD_MAX`] are wanted and not used up.
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        self.ahead.wanted.pop_front()
    }

    /// What was wanted of a leaf was read. It comes in the order in which it was wanted.
    pub fn on_run(&mut self, leaf: u32, run: Bytes) {
        self.runs.push_back((leaf, run));
    }

    /// Goes through about `budget` versions more.
    ///
    /// # Errors
    /// A value block of the last snapshot is damaged. The checkpoint cannot go on.
    pub fn step(&mut self, budget: usize) -> Result<Progress, SnapshotError> {
        match &mut self.stage {
            Stage::Keys(..) => {
                self.look_ahead();
                self.step_keys(budget)
            }
            Stage::Index(finish) => Ok(if finish.step(budget)? {
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

    /// Whether it can go on although its writes are not taken: they are made when they are taken, of what stays in memory.
    #[must_use]
    pub fn may_run_ahead(&self) -> bool {
        match &self.stage {
            Stage::Index(finish) => !finish.is_complete(),
            Stage::Keys(..) | Stage::Moving => false,
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
        let stored = self.last.as_deref().filter(|_| self.leaf < leaf_count);
        let fate = self.ahead.fates.front();
        let needs_run = stored.is_some() && !matches!(fate, Some(Fate::Stays));
        let run = self.runs.front().filter(|(leaf, _)| *leaf == self.leaf);
        if needs_run && run.is_none() {
            return Ok(Progress::NeedsRun);
        }
        let run = run.map_or(&[][..], |(_, run)| run);
        let until = stored.and_then(|last| last.leaf_bound(self.leaf + 1));
        let is_through = match (stored, fate) {
            (_, Some(Fate::Stays)) => {
                self.versions_done += builder.borrow_leaf(self.leaf)?;
                true
            }
            (_, Some(Fate::IsCopied)) => {
                self.versions_done += builder.copy_leaf(self.leaf, run)?;
                true
            }
            (stored, fate) => {
                let source = match (stored, fate) {
                    (Some(last), Some(Fate::IsMerged(blocks))) => Some(Source {
                        last,
                        leaf: self.leaf,
                        run,
                        blocks,
                    }),
                    _ => None,
                };
                if !std::mem::replace(&mut self.merging, true) {
                    source.as_ref().map_or(Ok(()), Source::verify)?;
                }
                let mut slice = Slice {
                    frozen: &self.frozen,
                    builder,
                    horizon: self.horizon,
                    left: budget.max(1),
                    done: 0,
                };
                let place = (&mut self.slot, &mut self.cursor);
                let is_through = slice.merge(source, place, until.as_deref());
                self.versions_done += slice.done;
                is_through
            }
        };
        if is_through {
            if self.leaf + 1 < leaf_count {
                self.next_leaf(until);
            } else {
                self.end_keys();
            }
        }
        Ok(Progress::Working)
    }

    fn end_keys(&mut self) {
        let Stage::Keys(builder, meta) = std::mem::replace(&mut self.stage, Stage::Moving) else {
            unreachable!("the keys were merged")
        };
        self.stage = Stage::Index(Box::new(builder.finish(*meta)));
        self.runs.clear();
    }

    /// Finds out of some more leaves what becomes of them.
    fn look_ahead(&mut self) {
        let Some(last) = &self.last else {
            return;
        };
        let ahead = &mut self.ahead;
        for _ in 0..LEAVES_AHEAD_PER_STEP {
            let is_enough = ahead.runs >= SNAPSHOT_RUNS_AHEAD_MAX
                || ahead.bytes >= SNAPSHOT_RUNS_AHEAD_BYTES
                || ahead.fates.len() >= LEAVES_AHEAD_MAX;
            if ahead.next == last.leaf_count() || is_enough {
                break;
            }
            let leaf = ahead.next;
            if ahead.changed.is_none_or(|changed| changed < leaf) {
                let changed = first_changed(&self.frozen, last, leaf);
                ahead.changed = Some(changed.unwrap_or(u32::MAX));
            }
            let is_taken = ahead.changed != Some(leaf)
                && ahead.config.is_large(last, leaf)
                && self.horizon < last.leaf_droppable_at(leaf);
            ahead.next += 1;
            ahead.add(last, leaf, is_taken, self.horizon);
        }
    }

    fn next_leaf(&mut self, bound: Option<Vec<u8>>) {
        let fate = self.ahead.fates.pop_front();
        if !matches!(fate, Some(Fate::Stays))
            && let Some((_, run)) = self.runs.pop_front()
        {
            self.ahead.runs -= 1;
            self.ahead.bytes -= run.len() as u64;
        }
        self.leaf += 1;
        self.slot = 0;
        self.merging = false;
        if let Some(bound) = bound {
            self.cursor = bound;
        }
    }
}

impl Ahead {
    /// The next leaf, which is taken as it is or made anew.
    fn add(&mut self, last: &Snapshot, leaf: u32, is_taken: bool, horizon: Revision) {
        let run = last.leaf_run(leaf);
        let may_stay = |file: SnapshotSeq| self.lenders.contains(&file);
        if is_taken && run.iter().all(|piece| may_stay(piece.file)) {
            return self.fates.push_back(Fate::Stays);
        }
        let (fate, parts) = if is_taken {
            (Fate::IsCopied, run.to_vec())
        } else {
            let mut parts: Vec<ImagePart> = Vec::new();
            let mut read = 0;
            let used = last.leaf_used_bytes(leaf, horizon);
            let blocks = last.leaf_blocks(leaf).zip(used).map(|(block, used)| {
                // Small blocks, and those that are mostly useless, are packed anew.
                let bytes = block.bytes as usize;
                let is_full = 2 * used.min(bytes) >= bytes.max(SNAPSHOT_VALUE_BLOCK_BYTES);
                if is_full && may_stay(block.file) {
                    return None;
                }
                let start = read;
                read += bytes;
                match parts.last_mut() {
                    Some(part) if part.is_followed_by(&block.into()) => part.bytes += bytes as u64,
                    _ => parts.push(block.into()),
                }
                Some(start)
            });
            (Fate::IsMerged(blocks.collect()), parts)
        };
        self.fates.push_back(fate);
        self.runs += 1;
        self.bytes += parts.iter().map(|part| part.bytes).sum::<u64>();
        self.wanted.push_back(Wanted { leaf, parts });
    }
}

/// One leaf of the last snapshot with those of its values that do not stay where they are.
#[derive(Clone, Copy)]
struct Source<'a> {
    last: &'a Snapshot,
    leaf: u32,
    run: &'a [u8],
    /// As in [`Fate::IsMerged`].
    blocks: &'a [Option<usize>],
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
    /// Merges frozen keys before `until` with those of a leaf; true when there are no more of either.
    fn merge(
        &mut self,
        source: Option<Source<'_>>,
        (slot, cursor): (&mut u32, &mut Vec<u8>),
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

    /// Compares what was read with its checksums.
    fn verify(&self) -> Result<(), SnapshotError> {
        for (block, start) in self.last.leaf_blocks(self.leaf).zip(self.blocks) {
            if let Some(start) = *start {
                let bytes = &self.run[start..start + block.bytes as usize];
                self.last.verify_block(block, bytes)?;
            }
        }
        Ok(())
    }

    /// Adds the versions of a key, oldest first.
    fn versions(&self, slot: u32, out: &mut Vec<VersionIn<'a>>) {
        for row in self.last.rows(self.key(slot)) {
            let at = VersionRef {
                leaf: self.leaf,
                row,
            };
            let version = self.last.version(at);
            let read = self
                .last
                .block_of_value(at)
                .and_then(|block| self.blocks[block]);
            let (value, stays) = match (version.place, read) {
                (Some(place), Some(block)) => {
                    let start = block + place.start as usize;
                    (&self.run[start..start + place.bytes as usize], None)
                }
                (stays, _) => (&[][..], stays),
            };
            out.push(VersionIn {
                revision: version.revision,
                sub: version.sub,
                create_revision: version.create_revision,
                version: version.version,
                lease: version.lease,
                tombstone: version.tombstone,
                value,
                stays,
                origin: Some(at),
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
        stays: None,
        origin: None,
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

/// The files that may lend a snapshot's successor values: those with the most of use, as long as what is useless in all of
/// them is within bounds.
fn lenders_of(last: &Snapshot, reuse: Reuse) -> Vec<Lender> {
    let Some(mut left) = reuse.useless_bytes_max(last) else {
        return Vec::new();
    };
    let mut lenders: Vec<Lender> = last.value_files().collect();
    lenders.sort_by_key(|lender| Reverse(lender.lent_bytes));
    lenders.truncate(SNAPSHOT_LENDERS_MAX);
    lenders.retain(|lender| {
        let useless = lender.file_bytes.saturating_sub(lender.lent_bytes);
        let fits = lender.lent_bytes > 0 && useless <= left;
        left -= if fits { useless } else { 0 };
        fits
    });
    lenders
}

/// The first leaf from this one on to which frozen keys belong.
fn first_changed(frozen: &Layer, last: &Snapshot, leaf: u32) -> Option<u32> {
    let bound = (leaf > 0).then(|| last.leaf_bound(leaf)).flatten();
    let mut walk = frozen.tree.walk(&bound.unwrap_or_default(), None);
    let (key, _) = walk.peek()?;
    last.leaf_of(key)
}
