//! A page of the search tree above the leaves.
//!
//! The children of a page are neighbours in the file, so their numbers follow from the first one's.
//!
//! Invariants, checked when a file is loaded:
//! 1. `bounds` has one key per child, which is above all keys of the child before and not above any of
//!    the child's own. (It is the shortest such key, but for the very first child, whose first key it is.)
//! 2. `live_ends[i]` is the number of live keys in the children up to and including i.
//! 3. The pages of level 1 have the leaves for children, in order; those of every other level the pages
//!    of the level below. The last page is alone on its level: the root.

use rkyv::{Archive, Serialize};

use super::keys::{ArchivedKeys, KeyList, Keys};

/// An inner page's content, in the order of the archive.
#[derive(Debug, Default, Archive, Serialize)]
pub(super) struct Inner {
    level: u32,
    first_child: u32,
    bounds: Keys,
    live_ends: Vec<u64>,
}

/// The nodes of one level that have no parents yet.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub(super) bounds: KeyList,
    pub(super) live: Vec<u64>,
}

impl Level {
    pub(super) fn push(&mut self, bound: &[u8], live: u64) {
        self.bounds.push(bound);
        self.live.push(live);
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Lays out the parent of the nodes from `first` on, as many of them as fit a page, but at least two
    /// where there are two, so that every level is shorter than the one below. Returns the first node
    /// behind them.
    pub(super) fn parent(
        &self,
        first: usize,
        level: u32,
        page_bytes: usize,
        out: &mut Inner,
    ) -> usize {
        let mut end = first;
        let mut key_bytes = 0;
        while end < self.len() {
            let bound = self.bounds.get(end);
            key_bytes += bound.len();
            let count = end + 1 - first;
            let shared = super::keys::common_bytes(self.bounds.get(first), bound);
            let bytes = Keys::page_bytes(count, key_bytes, shared) + count * 8 + FIXED_BYTES;
            if bytes > page_bytes && count > 2 {
                break;
            }
            end += 1;
        }
        out.level = level;
        self.bounds.lay_out(first..end, &mut out.bounds);
        out.live_ends.clear();
        let mut live = 0;
        for child in &self.live[first..end] {
            live += child;
            out.live_ends.push(live);
        }
        end
    }
}

const FIXED_BYTES: usize = size_of::<ArchivedInner>() + 16;

impl Inner {
    pub(super) fn set_first_child(&mut self, number: usize) {
        self.first_child = u32::try_from(number).expect("pages are numbered in 32 bits");
    }

    pub(super) fn live(&self) -> u64 {
        self.live_ends.last().copied().unwrap_or(0)
    }
}

impl ArchivedInner {
    pub(super) fn level(&self) -> u32 {
        self.level.to_native()
    }

    pub(super) fn first_child(&self) -> u32 {
        self.first_child.to_native()
    }

    pub(super) fn len(&self) -> usize {
        self.live_ends.len()
    }

    pub(super) fn bounds(&self) -> &ArchivedKeys {
        &self.bounds
    }

    /// Which child has `key`, if any has.
    pub(super) fn child_of(&self, key: &[u8]) -> usize {
        match self.bounds.search(key) {
            Ok(child) => child,
            Err(above) => above.saturating_sub(1),
        }
    }

    /// Live keys in the children before.
    pub(super) fn live_before(&self, child: usize) -> u64 {
        match child {
            0 => 0,
            _ => self.live_ends[child - 1].to_native(),
        }
    }

    pub(super) fn live(&self) -> u64 {
        self.live_before(self.len())
    }

    pub(super) fn is_sound(&self) -> bool {
        self.bounds.is_sound()
            && self.bounds.len() == self.len()
            && self.live_ends.windows(2).all(|two| two[0] <= two[1])
    }
}
