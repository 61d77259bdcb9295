//! The change order: which version came when, as columns of places in the leaves.
//!
//! A builder meets the versions key by key. It gathers them in runs that it sorts when they are full, and
//! at the end the runs are merged in slices, so that no step of a build takes long.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use rkyv::{Archive, Serialize};

use super::version::VersionRef;
use crate::limits::SNAPSHOT_CHANGES_SORTED_AT_ONCE;

/// A page of changes, in the order of the archive.
#[derive(Debug, Default, Archive, Serialize)]
pub(super) struct Changes {
    leaves: Vec<u32>,
    rows: Vec<u32>,
}

/// One change on its way into its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub(super) revision: i64,
    pub(super) sub: u32,
    pub(super) leaf: u32,
    pub(super) row: u32,
}

/// The changes a builder has met.
#[derive(Debug, Default)]
pub(super) struct ChangeRuns {
    open: Vec<Change>,
    sorted: Vec<Vec<Change>>,
}

/// The merge of all runs.
#[derive(Debug)]
pub(super) struct ChangeMerge {
    runs: Vec<Run>,
    /// The order of the next change of every run that has one, and the run's number.
    heads: BinaryHeap<Reverse<u128>>,
}

#[derive(Debug)]
struct Run {
    changes: Vec<Change>,
    next: usize,
}

impl Changes {
    /// How many fit a page.
    pub(super) fn per_page(page_bytes: usize) -> usize {
        (page_bytes - size_of::<ArchivedChanges>()) / (2 * size_of::<u32>())
    }

    pub(super) fn len(&self) -> usize {
        self.leaves.len()
    }

    pub(super) fn push(&mut self, at: VersionRef) {
        self.leaves.push(at.leaf);
        self.rows.push(at.row);
    }

    pub(super) fn clear(&mut self) {
        self.leaves.clear();
        self.rows.clear();
    }
}

impl ChangeRuns {
    pub(super) fn push(&mut self, change: Change) {
        if self.open.capacity() == 0 {
            self.open.reserve_exact(SNAPSHOT_CHANGES_SORTED_AT_ONCE);
        }
        self.open.push(change);
        if self.open.len() == SNAPSHOT_CHANGES_SORTED_AT_ONCE {
            self.sort();
        }
    }

    fn sort(&mut self) {
        let mut run = std::mem::take(&mut self.open);
        run.sort_unstable();
        self.sorted.push(run);
    }

    pub(super) fn merge(mut self) -> ChangeMerge {
        if !self.open.is_empty() {
            self.sort();
        }
        let first = |(number, run): (usize, &Vec<Change>)| Reverse(run[0].order(number));
        let heads = self.sorted.iter().enumerate().map(first).collect();
        let runs = self.sorted.into_iter();
        ChangeMerge {
            runs: runs.map(|changes| Run { changes, next: 0 }).collect(),
            heads,
        }
    }
}

impl Change {
    pub(super) fn at(&self) -> VersionRef {
        VersionRef {
            leaf: self.leaf,
            row: self.row,
        }
    }

    /// A number that orders changes, and names the run of one.
    fn order(&self, run: usize) -> u128 {
        let revision = self.revision.cast_unsigned() ^ (1 << 63);
        u128::from(revision) << 64 | u128::from(self.sub) << 32 | run as u128
    }
}

impl ChangeMerge {
    /// The next change in order.
    pub(super) fn next(&mut self) -> Option<Change> {
        let mut head = self.heads.peek_mut()?;
        let number = head.0 as u32 as usize;
        let run = &mut self.runs[number];
        let change = run.changes[run.next];
        run.next += 1;
        match run.changes.get(run.next) {
            Some(after) => *head = Reverse(after.order(number)),
            None => {
                PeekMut::pop(head);
                run.changes = Vec::new();
            }
        }
        Some(change)
    }
}

impl ArchivedChanges {
    pub(super) fn len(&self) -> usize {
        self.leaves.len()
    }

    pub(super) fn get(&self, index: usize) -> VersionRef {
        VersionRef {
            leaf: self.leaves[index].to_native(),
            row: self.rows[index].to_native(),
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        self.leaves.len() == self.rows.len()
    }
}
