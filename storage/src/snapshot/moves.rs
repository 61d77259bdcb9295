//! The change order of a snapshot that is built over another one, its *base*.
//!
//! The base has its versions in order already, and most of those of the new snapshot are among them. So these are not
//! gathered and sorted anew: of each is noted where it went, and in the end the order of the base is gone through. Only
//! versions that are new are sorted (`changes.rs`).
//!
//! ```text
//!   order of the base --- where its versions went ---\
//!   new versions, sorted -----------------------------> order of the new snapshot
//! ```

use std::fmt;
use std::sync::Arc;

use super::changes::{Change, ChangeMerge, Changes};
use super::error::SnapshotError;
use super::snapshot::Snapshot;
use super::version::VersionRef;
use crate::ids::Revision;

const NOWHERE: VersionRef = VersionRef {
    leaf: u32::MAX,
    row: u32::MAX,
};

/// Where the versions of the base went.
#[derive(Default)]
pub(super) struct Moves {
    base: Option<Arc<Snapshot>>,
    /// By the leaves of the base.
    leaves: Vec<Moved>,
    /// By the rows of leaves that went row by row.
    rows: Vec<VersionRef>,
}

/// What became of a leaf of the base.
#[derive(Clone, Copy, Debug)]
enum Moved {
    /// None of its versions is there any more.
    Nowhere,
    /// It is this leaf now.
    Whole(u32),
    /// Its rows went each to its place; where those places begin.
    ByRow(usize),
}

/// The order of all changes, one after the other.
#[derive(Debug)]
pub(super) struct ChangeOrder {
    moves: Moves,
    /// The next change of the base: its page, and its place there.
    next: (usize, usize),
    /// Whether that page matched its checksum.
    is_verified: bool,
    /// The next version of the base that went somewhere: which one, and where it is now.
    moved: Option<(VersionRef, VersionRef)>,
    fresh: Option<Change>,
    merge: ChangeMerge,
    /// Whether all that is new came after all of the base. It nearly always did; and what the base has need not be looked
    /// at then.
    is_fresh_later: bool,
}

impl Moves {
    pub(super) fn over(base: Arc<Snapshot>) -> Self {
        Self {
            leaves: vec![Moved::Nowhere; base.leaf_count() as usize],
            rows: Vec::new(),
            base: Some(base),
        }
    }

    pub(super) fn base(&self) -> &Arc<Snapshot> {
        let base = self.base.as_ref();
        base.expect("leaves are taken out of a snapshot that is built over")
    }

    /// A leaf of the base is this one now.
    pub(super) fn move_leaf(&mut self, leaf: u32, to: u32) {
        self.leaves[leaf as usize] = Moved::Whole(to);
    }

    /// A version of the base, whose leaf is made anew, is this one now.
    pub(super) fn move_version(&mut self, from: VersionRef, to: VersionRef) {
        let start = match self.leaves[from.leaf as usize] {
            Moved::ByRow(start) => start,
            Moved::Nowhere => {
                let start = self.rows.len();
                let rows = self.base().leaf(from.leaf).row_count();
                self.rows.resize(start + rows, NOWHERE);
                self.leaves[from.leaf as usize] = Moved::ByRow(start);
                start
            }
            Moved::Whole(_) => unreachable!("a leaf is taken as it is, or made anew"),
        };
        self.rows[start + from.row as usize] = to;
    }

    fn of(&self, from: VersionRef) -> Option<VersionRef> {
        match self.leaves[from.leaf as usize] {
            Moved::Nowhere => None,
            Moved::Whole(leaf) => Some(VersionRef { leaf, ..from }),
            Moved::ByRow(start) => {
                Some(self.rows[start + from.row as usize]).filter(|to| *to != NOWHERE)
            }
        }
    }
}

impl ChangeOrder {
    /// The order from the horizon on, of what has moved and what is new.
    pub(super) fn new(moves: Moves, mut merge: ChangeMerge, horizon: Revision) -> Self {
        let mut next = (0, 0);
        let fresh = merge.next();
        let mut is_fresh_later = true;
        if let Some(base) = &moves.base {
            let index = base.change_index_of(horizon);
            let per_page = u64::from(base.changes_per_page());
            next = ((index / per_page) as usize, (index % per_page) as usize);
            if let (Some(newest), Some(fresh)) = (base.change_count().checked_sub(1), &fresh) {
                is_fresh_later = order_in(base, base.change(newest)) < (fresh.revision, fresh.sub);
            }
        }
        Self {
            moves,
            next,
            is_verified: false,
            moved: None,
            fresh,
            merge,
            is_fresh_later,
        }
    }

    /// Adds the next changes, as they are in the new snapshot, to a page until it has `full` of them; fewer at the end only.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if a resident page of the base does not match its checksum.
    pub(super) fn fill(&mut self, page: &mut Changes, full: usize) -> Result<(), SnapshotError> {
        while page.len() < full {
            if self.moved.is_none() && (self.is_fresh_later || self.fresh.is_none()) {
                self.each_moved(|_, to| {
                    page.push(to);
                    page.len() < full
                })?;
            }
            if page.len() < full {
                match self.next()? {
                    Some(at) => page.push(at),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// The next change.
    fn next(&mut self) -> Result<Option<VersionRef>, SnapshotError> {
        if self.moved.is_none() {
            let mut moved = None;
            self.each_moved(|from, to| {
                moved = Some((from, to));
                false
            })?;
            self.moved = moved;
        }
        let takes_moved = match (&self.moved, &self.fresh) {
            (None, _) => false,
            (Some(_), None) => true,
            // Were two alike in that, the first one by its key would come first, as when all are sorted.
            (Some((from, to)), Some(fresh)) => {
                let moved = (order_in(self.moves.base(), *from), *to);
                moved < ((fresh.revision, fresh.sub), fresh.at())
            }
        };
        Ok(if takes_moved {
            self.moved.take().map(|(_, to)| to)
        } else {
            let fresh = self.fresh.take();
            self.fresh = self.merge.next();
            fresh.map(|change| change.at())
        })
    }

    /// Goes through what of the base went somewhere, from what to what, as long as `goes_on` says so.
    fn each_moved(
        &mut self,
        mut goes_on: impl FnMut(VersionRef, VersionRef) -> bool,
    ) -> Result<(), SnapshotError> {
        let Some(base) = &self.moves.base else {
            return Ok(());
        };
        while let Some(page) = base.changes().get(self.next.0) {
            if !self.is_verified {
                base.verify_changes(self.next.0)?;
                self.is_verified = true;
            }
            while self.next.1 < page.len() {
                let from = page.get(self.next.1);
                self.next.1 += 1;
                if let Some(to) = self.moves.of(from)
                    && !goes_on(from, to)
                {
                    return Ok(());
                }
            }
            self.next = (self.next.0 + 1, 0);
            self.is_verified = false;
        }
        Ok(())
    }
}

fn order_in(snapshot: &Snapshot, at: VersionRef) -> (i64, u32) {
    let (leaf, row) = (snapshot.leaf(at.leaf), at.row as usize);
    (leaf.revision(row), leaf.sub(row))
}

impl fmt::Debug for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moves(of {} leaves)", self.leaves.len())
    }
}
