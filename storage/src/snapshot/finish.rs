//! The end of a build, in slices: inner pages, change pages, meta page, page table.
//!
//! The engine calls [`Finish::step`] until it says so, takes the writes meanwhile, and gets the snapshot
//! and the superblock, which it writes when everything else is durable.

use std::collections::VecDeque;

use rkyv::Serialize;

use super::borrowed::BorrowedPage;
use super::builder::Builder;
use super::changes::{ArchivedChanges, Changes};
use super::encode::Sink;
use super::error::SnapshotError;
use super::format::{FORMAT_VERSION_BORROWS, PageReference, SUPERBLOCK_BYTES, Superblock, Table};
use super::inner::{ArchivedInner, Inner, Level};
use super::meta::{Meta, MetaPage};
use super::moves::ChangeOrder;
use super::page::Blocks;
use super::pages::Pages;
use super::snapshot::{Parts, Snapshot};
use super::stream::PageWrite;
use crate::io::AlignedBuf;

/// Leaves that are settled in one step.
const LEAVES_PER_STEP: usize = 64;

/// A file whose keys are all there.
#[derive(Debug)]
pub struct Finish {
    builder: Builder,
    meta: Meta,
    stage: Stage,
    /// The level whose parents are being made, and their level's number.
    level: Level,
    level_number: u32,
    first: usize,
    parents: Level,
    /// Page numbers of the level's first node and of its first parent.
    children_base: usize,
    parents_base: usize,
    inner: Inner,
    inners: Pages<ArchivedInner>,
    order: ChangeOrder,
    changes_done: u64,
    change_page: Changes,
    changes_per_page: usize,
    changes: Pages<ArchivedChanges>,
    superblock: Superblock,
    /// Parts of the index that were not written yet.
    unwritten: VecDeque<Blocks>,
    /// How much of the first one was.
    written: usize,
    offset: u64,
}

/// What is made next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Leaves,
    Inners,
    Changes,
    Rest,
    Complete,
}

impl Finish {
    pub(super) fn new(mut builder: Builder, meta: Meta) -> Self {
        let config = builder.config;
        let changes = std::mem::take(&mut builder.changes);
        let moves = std::mem::take(&mut builder.moves);
        Self {
            meta,
            stage: Stage::Leaves,
            level: std::mem::take(&mut builder.level),
            level_number: 1,
            first: 0,
            parents: Level::default(),
            children_base: 0,
            parents_base: 0,
            inner: Inner::default(),
            inners: Pages::new(),
            order: ChangeOrder::new(moves, changes.merge(), builder.horizon),
            changes_done: 0,
            change_page: Changes::default(),
            changes_per_page: Changes::per_page(config.page_bytes),
            changes: Pages::new(),
            superblock: Superblock::default(),
            unwritten: VecDeque::new(),
            written: 0,
            offset: builder.values.end(),
            builder,
        }
    }

    /// Goes on, by about `budget` items; true when complete.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if a resident page of the snapshot that it is built over does not match its checksum.
    pub fn step(&mut self, budget: usize) -> Result<bool, SnapshotError> {
        let mut left = budget.max(1);
        while left > 0 && self.stage != Stage::Complete {
            left = left.saturating_sub(match self.stage {
                Stage::Leaves => self.step_leaves(),
                Stage::Inners => self.step_inner(),
                Stage::Changes => self.step_changes()?,
                Stage::Rest => self.step_rest(),
                Stage::Complete => 0,
            });
        }
        Ok(self.is_complete())
    }

    /// Whether [`step`](Self::step) has nothing left to do.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// The next write of the index. Its bytes are a copy: the index itself stays resident.
    pub fn take_write(&mut self) -> Option<PageWrite> {
        if let Some(write) = self.builder.values.take() {
            return Some(write);
        }
        self.unwritten.front()?;
        let mut buf = self.builder.values.buffer();
        while let Some(blocks) = self.unwritten.front()
            && buf.len() < self.builder.config.write_bytes
        {
            let rest = &blocks.as_slice()[self.written..];
            let room = self.builder.config.write_bytes - buf.len();
            let now = &rest[..rest.len().min(room)];
            buf.extend_from_slice(now);
            self.written += now.len();
            if now.len() == rest.len() {
                self.unwritten.pop_front();
                self.written = 0;
            }
        }
        let offset = self.offset;
        self.offset += buf.len() as u64;
        Some(PageWrite {
            offset,
            buf,
            has_values: false,
        })
    }

    /// Whether a buffer would be of use to [`reuse`](Self::reuse).
    #[must_use]
    pub fn wants_buf(&self) -> bool {
        self.builder.values.wants_buf()
    }

    /// Takes back the buffer of a write that is done, for the next one.
    pub fn reuse(&mut self, buf: AlignedBuf) {
        self.builder.values.reuse(buf);
    }

    /// The snapshot as it would be loaded from `file` (a path, for messages), and its superblock, which
    /// belongs at offset 0 once all writes are durable.
    #[must_use]
    pub fn into_snapshot(self, file: &str) -> (Snapshot, AlignedBuf) {
        assert_eq!(self.stage, Stage::Complete, "step has returned true");
        assert!(self.unwritten.is_empty(), "all writes are taken");
        let mut block = AlignedBuf::zeroed(SUPERBLOCK_BYTES);
        self.superblock.encode(block.as_mut_slice());
        let entries = self.builder.leaf_entries();
        let places = self.builder.places().clone();
        let leaves = self.builder.leaves.into_pages().into_iter();
        let change_entries = self.changes.entries().to_vec();
        let snapshot = Snapshot::new(Parts {
            file: file.to_owned(),
            superblock: self.superblock,
            meta: self.meta,
            leaves: leaves.zip(entries).collect(),
            inners: self.inners.into_pages(),
            changes: self.changes.into_pages(),
            change_entries,
            changes_per_page: self.changes_per_page as u32,
            places,
        });
        (snapshot, block)
    }

    /// Some leaves: those of pieces of which too little is of use get another place.
    fn step_leaves(&mut self) -> usize {
        if self.builder.leaves.settle(LEAVES_PER_STEP) {
            self.unwritten.append(&mut self.builder.leaves.blocks());
            self.stage = Stage::Inners;
        }
        LEAVES_PER_STEP
    }

    /// One inner page.
    fn step_inner(&mut self) -> usize {
        let count = self.level.len();
        if count == 0 || (count == 1 && self.level_number > 1) {
            self.inners.settle(usize::MAX);
            self.unwritten.append(&mut self.inners.blocks());
            self.stage = Stage::Changes;
            return 1;
        }
        let page_bytes = self.builder.config.page_bytes;
        let end = self
            .level
            .parent(self.first, self.level_number, page_bytes, &mut self.inner);
        self.inner.set_first_child(self.children_base + self.first);
        self.parents
            .push(self.level.bounds.get(self.first), self.inner.live());
        let (blocks, entry) = self.builder.encoder.encode(&self.inner);
        self.inners.push(blocks, entry);
        let made = end - self.first;
        self.first = end;
        if end == count {
            self.level = std::mem::take(&mut self.parents);
            self.level_number += 1;
            self.first = 0;
            self.children_base = self.parents_base;
            self.parents_base = self.inners.len();
        }
        made
    }

    /// One page of changes.
    fn step_changes(&mut self) -> Result<usize, SnapshotError> {
        self.order
            .fill(&mut self.change_page, self.changes_per_page)?;
        let made = self.change_page.len();
        self.changes_done += made as u64;
        if made > 0 {
            let (blocks, entry) = self.builder.encoder.encode(&self.change_page);
            self.changes.push(blocks, entry);
            self.change_page.clear();
        }
        if made < self.changes_per_page {
            assert_eq!(
                self.changes_done, self.builder.counters.changes,
                "every version from the horizon on is a change"
            );
            self.changes.settle(usize::MAX);
            self.unwritten.append(&mut self.changes.blocks());
            self.stage = Stage::Rest;
        }
        Ok(made.max(1))
    }

    /// Meta page, page of borrowed runs, and table.
    fn step_rest(&mut self) -> usize {
        let blocks = self.unwritten.iter();
        let unwritten: usize = blocks.map(|blocks| blocks.as_slice().len()).sum();
        let meta_offset = self.offset + (unwritten - self.written) as u64;
        let mut end = meta_offset;
        let meta = self.add_last_page(&MetaPage::new(&self.meta), &mut end);
        let places = self.builder.places();
        let borrowed = (!places.lenders().is_empty()).then(|| BorrowedPage::new(places));
        let borrowed = borrowed.map(|page| self.add_last_page(&page, &mut end));
        let table = Table {
            leaves: self.builder.leaf_entries(),
            inners: self.inners.entries().to_vec(),
            changes: self.changes.entries().to_vec(),
            changes_per_page: self.changes_per_page as u32,
        };
        let items = table.leaves.len() + table.inners.len() + table.changes.len();
        let table = self.add_last_page(&table, &mut end);
        self.superblock = Superblock {
            format_version: borrowed.map_or(self.meta.format_version(), |_| FORMAT_VERSION_BORROWS),
            sequence: self.builder.sequence,
            file_bytes: end,
            table,
            meta,
            borrowed,
            counters: self.builder.counters,
        };
        self.stage = Stage::Complete;
        items
    }

    /// Adds a page that begins at `end` and moves that on.
    fn add_last_page<T>(&mut self, value: &T, end: &mut u64) -> PageReference
    where
        T: for<'a> Serialize<Sink<'a>>,
    {
        let (blocks, entry) = self.builder.encoder.encode(value);
        let mut piece = AlignedBuf::with_capacity(blocks.len());
        piece.extend_from_slice(blocks);
        self.unwritten.push_back(Blocks::all_of(piece));
        let offset = *end;
        *end += entry.padded_bytes() as u64;
        PageReference { offset, entry }
    }
}
