//! The rules that hold between pages, checked when a file is loaded.
//!
//! Every page was compared with its checksum and its own rules before. What remains is whether the pages
//! belong together: so no reference leads nowhere, and no search goes astray.

use std::cmp::Ordering;

use super::error::SnapshotPart;
use super::format::Counters;
use super::inner::ArchivedInner;
use super::leaf::ArchivedLeaf;
use super::page::Page;
use super::snapshot::Parts;

/// The kind of page in which something is wrong.
pub(super) fn whole(parts: &Parts) -> Option<SnapshotPart> {
    let mut counters = Counters::default();
    let mut live = Vec::with_capacity(parts.leaves.len());
    for (leaf, entry) in &parts.leaves {
        let counts = leaf.counts();
        live.push(counts.live);
        counters.keys += counts.keys;
        counters.versions += counts.versions;
        counters.live += counts.live;
        counters.data_bytes += counts.data_bytes;
        counters.changes += leaf.changes_since(parts.meta.horizon.0);
        if leaf.run_blocks() != entry.run_blocks {
            return Some(SnapshotPart::Leaf);
        }
    }
    if !are_blocks_whole(parts) {
        return Some(SnapshotPart::Borrowed);
    }
    if !is_tree(&parts.inners, live) || !are_bounds_sound(parts) {
        return Some(SnapshotPart::Inner);
    }
    let changes: u64 = parts.changes.iter().map(|page| page.len() as u64).sum();
    if changes != counters.changes || !are_changes_sound(parts) {
        return Some(SnapshotPart::Changes);
    }
    (counters != parts.superblock.counters).then_some(SnapshotPart::Table)
}

/// Whether every block of values lies in one piece of its run: every piece ends where a block does.
fn are_blocks_whole(parts: &Parts) -> bool {
    (0..).zip(&parts.leaves).all(|(number, (leaf, _))| {
        let mut end = 0;
        let mut ends = (0..leaf.block_count()).map(|block| leaf.block_span(block).end);
        parts.places.of(number).iter().all(|piece| {
            end += piece.bytes;
            ends.any(|block_end| block_end == end)
        })
    })
}

/// Whether the inner pages form levels over the leaves, which have so many live keys.
fn is_tree(inners: &[Page<ArchivedInner>], leaf_live: Vec<u64>) -> bool {
    let mut children = leaf_live;
    let mut children_base = 0;
    let mut level = 1;
    let mut next = 0;
    while children.len() > 1 || (level == 1 && !children.is_empty()) {
        let level_base = next;
        let mut parents = Vec::new();
        let mut covered = 0;
        while covered < children.len() {
            let Some(page) = inners.get(next) else {
                return false;
            };
            let is_next = page.level() == level
                && page.first_child() as usize == children_base + covered
                && page.len() <= children.len() - covered;
            let matches = (0..page.len()).all(|child| {
                page.live_before(child + 1) - page.live_before(child) == children[covered + child]
            });
            if !is_next || !matches {
                return false;
            }
            covered += page.len();
            parents.push(page.live());
            next += 1;
        }
        if level > 1 && parents.len() >= children.len() {
            return false;
        }
        children = parents;
        children_base = level_base;
        level += 1;
    }
    next == inners.len()
}

/// Whether every bound separates its child from the child before; of pages that form a tree.
fn are_bounds_sound(parts: &Parts) -> bool {
    let mut bound = Vec::new();
    parts.inners.iter().all(|page| {
        (0..page.len()).all(|child| {
            bound.clear();
            page.bounds().append(child, &mut bound);
            let number = page.first_child() as usize + child;
            if page.level() == 1 {
                separates(parts, number, &bound)
            } else {
                parts.inners[number].bounds().compare(0, &bound) == Ordering::Equal
            }
        })
    })
}

fn separates(parts: &Parts, leaf: usize, bound: &[u8]) -> bool {
    let keys = |leaf: usize| parts.leaves[leaf].0.keys();
    let is_below = leaf == 0 || {
        let before: &ArchivedLeaf = &parts.leaves[leaf - 1].0;
        let last = before.keys().len() - 1;
        before.keys().compare(last, bound) == Ordering::Less
    };
    is_below && keys(leaf).compare(0, bound) != Ordering::Less
}

/// Whether every change is a row of a leaf, and every page but the last is full.
fn are_changes_sound(parts: &Parts) -> bool {
    let rows: Vec<usize> = parts
        .leaves
        .iter()
        .map(|(leaf, _)| leaf.row_count())
        .collect();
    let per_page = parts.changes_per_page as usize;
    let last = parts.changes.len().saturating_sub(1);
    parts.changes.iter().enumerate().all(|(index, page)| {
        let is_full = page.len() == per_page;
        let is_rest = index == last && (1..=per_page).contains(&page.len());
        (is_full || is_rest)
            && (0..page.len()).all(|change| {
                let at = page.get(change);
                rows.get(at.leaf as usize)
                    .is_some_and(|&rows| (at.row as usize) < rows)
            })
    })
}
