//! A file that is being written, from its creation to the moment it counts: one that is built here, or one that another
//! member sends.
//!
//! ```text
//!   Creating --> Writing --(sealed, all completed)--> Flushing --> Flushed --(committed)--> Heading --> done
//! ```
//!
//! Invariants:
//! 1. The superblock is written, durably, after a flush that was submitted when every other write had completed.
//! 2. A crash before the superblock is durable leaves a file whose first block is blank, or no file: the next start
//!    removes it, when the log was replayed without it. The superblock fits one sector, so it is there as a whole or not at all.

use std::collections::VecDeque;
use std::sync::Arc;

use super::snapshot::Snapshot;
use super::stream::PageWrite;
use crate::ids::SnapshotSeq;
use crate::io::{AlignedBuf, FileId};

/// A file that does not count yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) sequence: SnapshotSeq,
    pub(super) file: FileId,
    stage: Stage,
    queue: VecDeque<PageWrite>,
    in_flight: usize,
    /// Where what is no values begins, as far as it was given.
    index_at: u64,
    /// All writes are given, but for the superblock's.
    sealed: bool,
    finish: Option<(Arc<Snapshot>, AlignedBuf)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Creating,
    Writing,
    Flushing,
    Flushed,
    Heading,
    Done,
}

/// What the disk is to do next.
#[derive(Debug)]
pub(super) enum Action {
    Write(PageWrite),
    Flush,
    /// Writes the superblock, durably.
    Head(AlignedBuf),
}

impl Draft {
    /// A file whose creation was submitted.
    pub(super) fn new(sequence: SnapshotSeq, file: FileId) -> Self {
        Self {
            sequence,
            file,
            stage: Stage::Creating,
            queue: VecDeque::new(),
            in_flight: 1,
            index_at: u64::MAX,
            sealed: false,
            finish: None,
        }
    }

    /// Writes given and not completed.
    pub(super) fn pending_writes(&self) -> usize {
        self.queue.len() + self.in_flight
    }

    /// Operations the disk has.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn write(&mut self, write: PageWrite) {
        assert!(!self.sealed, "the superblock is the last thing written");
        assert!(write.offset > 0, "the first block is the superblock's");
        if !write.has_values {
            self.index_at = self.index_at.min(write.offset);
        }
        self.queue.push_back(write);
    }

    /// Whether values were written there.
    pub(super) fn has_values_at(&self, offset: u64) -> bool {
        offset > 0 && offset < self.index_at
    }

    /// All writes are given.
    pub(super) fn seal(&mut self) {
        self.sealed = true;
    }

    /// Whether all that was written is durable, and only the superblock is missing.
    pub(super) fn is_flushed(&self) -> bool {
        self.stage == Stage::Flushed
    }

    pub(super) fn commit(&mut self, snapshot: Arc<Snapshot>, superblock: AlignedBuf) {
        assert!(self.finish.is_none(), "a file is committed once");
        self.seal();
        assert_eq!(
            snapshot.sequence(),
            self.sequence,
            "it is the snapshot of this file"
        );
        self.finish = Some((snapshot, superblock));
    }

    /// What to submit now; every action is answered by `on_done`.
    pub(super) fn next(&mut self, writes_max: usize) -> Option<Action> {
        let action = match self.stage {
            Stage::Writing if self.in_flight < writes_max && !self.queue.is_empty() => {
                Action::Write(self.queue.pop_front()?)
            }
            Stage::Writing if self.in_flight == 0 && self.queue.is_empty() && self.sealed => {
                self.stage = Stage::Flushing;
                Action::Flush
            }
            Stage::Flushed => {
                let (_, superblock) = self.finish.as_mut()?;
                self.stage = Stage::Heading;
                Action::Head(std::mem::replace(superblock, AlignedBuf::with_capacity(1)))
            }
            _ => return None,
        };
        self.in_flight += 1;
        Some(action)
    }

    /// Takes the news that one operation completed, well or not; the latter ends the draft.
    pub(super) fn on_done(&mut self) {
        self.in_flight -= 1;
        self.stage = match self.stage {
            Stage::Creating => Stage::Writing,
            Stage::Flushing => Stage::Flushed,
            Stage::Heading => Stage::Done,
            stage => stage,
        };
    }

    /// Whether it counts: all of it is durable.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// What it has become.
    pub(super) fn into_file(self) -> (FileId, Arc<Snapshot>) {
        assert!(self.is_done(), "the superblock is durable");
        let (snapshot, _) = self.finish.expect("only a committed file is done");
        (self.file, snapshot)
    }
}
