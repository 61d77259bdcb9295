//! Key ranges and who watches them: a treap ordered by range, augmented with the largest end below.
//!
//! A stab with a key visits only subtrees whose largest end lies beyond the key, so it costs
//! O(log n + matches). Treap: Aragon and Seidel, "Randomized search trees" (1989); priorities come from
//! a counter through a fixed mixer, so runs repeat. Equal ranges share one node.

use std::cmp::Ordering;

use bytes::Bytes;

/// End of a range, exclusive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Keys below this one.
    Before(Bytes),
    /// Every key from the start on.
    Open,
}

/// A multimap from ranges to values.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    nodes: Vec<Node>,
    free: Vec<usize>,
    root: Option<usize>,
    inserted: u64,
}

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    max_end: End,
    priority: u64,
    left: Option<usize>,
    right: Option<usize>,
    values: Vec<usize>,
}

impl Intervals {
    /// Adds `value` under the range.
    pub(super) fn insert(&mut self, start: &Bytes, end: &End, value: usize) {
        self.root = Some(self.insert_below(self.root, start, end, value));
    }

    /// Removes `value` from the range; whether it was there.
    pub(super) fn remove(&mut self, start: &Bytes, end: &End, value: usize) -> bool {
        let Some(node) = self.find(start, end) else {
            return false;
        };
        let values = &mut self.nodes[node].values;
        let Some(at) = values.iter().position(|held| *held == value) else {
            return false;
        };
        values.swap_remove(at);
        if values.is_empty() {
            self.root = self.remove_below(self.root, start, end);
        }
        true
    }

    /// Calls `visit` with every value whose range holds `key`.
    pub(super) fn stab(&self, key: &[u8], visit: &mut impl FnMut(usize)) {
        self.stab_below(self.root, key, visit);
    }

    fn stab_below(&self, at: Option<usize>, key: &[u8], visit: &mut impl FnMut(usize)) {
        let Some(index) = at else { return };
        let node = &self.nodes[index];
        if !key_before(key, &node.max_end) {
            return;
        }
        self.stab_below(node.left, key, visit);
        if *key < node.start[..] {
            return;
        }
        if key_before(key, &node.end) {
            node.values.iter().for_each(|value| visit(*value));
        }
        self.stab_below(node.right, key, visit);
    }

    fn find(&self, start: &Bytes, end: &End) -> Option<usize> {
        let mut at = self.root;
        while let Some(index) = at {
            at = match self.compare(start, end, index) {
                Ordering::Equal => return Some(index),
                Ordering::Less => self.nodes[index].left,
                Ordering::Greater => self.nodes[index].right,
            };
        }
        None
    }

    fn insert_below(&mut self, at: Option<usize>, start: &Bytes, end: &End, value: usize) -> usize {
        let Some(index) = at else {
            return self.add_node(start, end, value);
        };
        match self.compare(start, end, index) {
            Ordering::Equal => {
                self.nodes[index].values.push(value);
                index
            }
            Ordering::Less => {
                let child = self.insert_below(self.nodes[index].left, start, end, value);
                self.nodes[index].left = Some(child);
                self.raise(index, child)
            }
            Ordering::Greater => {
                let child = self.insert_below(self.nodes[index].right, start, end, value);
                self.nodes[index].right = Some(child);
                self.raise(index, child)
            }
        }
    }

    /// Restores the heap order between a node and the child that was just changed.
    fn raise(&mut self, index: usize, child: usize) -> usize {
        let top = if self.nodes[child].priority > self.nodes[index].priority {
            self.rotate_up(index, child);
            child
        } else {
            index
        };
        self.update(index);
        self.update(top);
        top
    }

    fn rotate_up(&mut self, index: usize, child: usize) {
        if self.nodes[index].left == Some(child) {
            self.nodes[index].left = self.nodes[child].right;
            self.nodes[child].right = Some(index);
        } else {
            self.nodes[index].right = self.nodes[child].left;
            self.nodes[child].left = Some(index);
        }
    }

    fn remove_below(&mut self, at: Option<usize>, start: &Bytes, end: &End) -> Option<usize> {
        let index = at?;
        match self.compare(start, end, index) {
            Ordering::Less => {
                self.nodes[index].left = self.remove_below(self.nodes[index].left, start, end);
            }
            Ordering::Greater => {
                self.nodes[index].right = self.remove_below(self.nodes[index].right, start, end);
            }
            Ordering::Equal => {
                self.free.push(index);
                let (left, right) = (self.nodes[index].left, self.nodes[index].right);
                return self.join(left, right);
            }
        }
        self.update(index);
        Some(index)
    }

    /// Joins two treaps of which every range in `left` sorts before every range in `right`.
    fn join(&mut self, left: Option<usize>, right: Option<usize>) -> Option<usize> {
        let (Some(l), Some(r)) = (left, right) else {
            return left.or(right);
        };
        let top = if self.nodes[l].priority > self.nodes[r].priority {
            self.nodes[l].right = self.join(self.nodes[l].right, right);
            l
        } else {
            self.nodes[r].left = self.join(left, self.nodes[r].left);
            r
        };
        self.update(top);
        Some(top)
    }

    fn add_node(&mut self, start: &Bytes, end: &End, value: usize) -> usize {
        self.inserted += 1;
        let node = Node {
            start: start.clone(),
            end: end.clone(),
            max_end: end.clone(),
            priority: mix(self.inserted),
            left: None,
            right: None,
            values: vec![value],
        };
        match self.free.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    fn update(&mut self, index: usize) {
        let node = &self.nodes[index];
        let mut max_end = &node.end;
        for child in [node.left, node.right].into_iter().flatten() {
            max_end = max_end.max(&self.nodes[child].max_end);
        }
        let max_end = max_end.clone();
        self.nodes[index].max_end = max_end;
    }

    fn compare(&self, start: &Bytes, end: &End, index: usize) -> Ordering {
        let node = &self.nodes[index];
        start.cmp(&node.start).then_with(|| end.cmp(&node.end))
    }
}

fn key_before(key: &[u8], end: &End) -> bool {
    match end {
        End::Before(end) => *key < end[..],
        End::Open => true,
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = (u8, Option<u8>)> {
        (0u8..40, proptest::option::weighted(0.8, 0u8..40))
    }

    fn end_of(end: Option<u8>) -> End {
        end.map_or(End::Open, |end| End::Before(Bytes::from(vec![end])))
    }

    proptest! {
        #[test]
        fn stabs_equal_a_plain_list(
            steps in proptest::collection::vec((range(), any::<bool>()), 1..120),
            keys in proptest::collection::vec(0u8..42, 1..20),
        ) {
            let mut tree = Intervals::default();
            let mut list: Vec<(u8, Option<u8>, usize)> = Vec::new();
            for (value, ((start, end), remove)) in steps.into_iter().enumerate() {
                if remove && !list.is_empty() {
                    let (start, end, held) = list.swap_remove(value % list.len());
                    prop_assert!(tree.remove(&Bytes::from(vec![start]), &end_of(end), held));
                } else {
                    tree.insert(&Bytes::from(vec![start]), &end_of(end), value);
                    list.push((start, end, value));
                }
            }
            for key in keys {
                let mut found = Vec::new();
                tree.stab(&[key], &mut |value| found.push(value));
                found.sort_unstable();
                let mut wanted: Vec<usize> = list
                    .iter()
                    .filter(|(start, end, _)| *start <= key && end.is_none_or(|end| key < end))
                    .map(|(_, _, value)| *value)
                    .collect();
                wanted.sort_unstable();
                prop_assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn removing_what_is_absent_changes_nothing() {
        let mut tree = Intervals::default();
        let start = Bytes::from_static(b"a");
        assert!(!tree.remove(&start, &End::Open, 1));
        tree.insert(&start, &End::Open, 1);
        assert!(!tree.remove(&start, &End::Open, 2));
        assert!(tree.remove(&start, &End::Open, 1));
        tree.stab(b"a", &mut |_| panic!("the range is gone"));
    }
}
