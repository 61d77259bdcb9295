//! The ordered index of a layer in memory: a B+tree from key to [`History`] that knows what every
//! subtree adds to the number of live keys.
//!
//! The store changes it (one descent per put), selects walk it, and scrubbing removes the keys whose
//! last version went. "Live" means: the newest version is not a tombstone. What a key adds is 1 if it
//! is live here and was not in the layers below when it came here, -1 for the reverse, else 0. With
//! these sums the rank of a key costs one descent, so a count at the newest revision is two of them
//! in every layer.
//!
//! Invariants:
//! 1. Keys are unique and ascending; every key below `children[i]` is < `separators[i]` <= every key
//!    below `children[i + 1]`.
//! 2. Bit `i` of a leaf's `live` is set exactly if the newest version of its key `i` is live, bit `i`
//!    of `below` if it was live in the layers below, and `live[i]` of an inner node is the sum of
//!    what the keys below `children[i]` add.
//! 3. All leaves have the same depth; an inner node has two children or more.

use crate::mvcc::history::History;
use crate::mvcc::keys::Keys;

/// Keys of a leaf; one bit each in its live set.
const LEAF_KEYS_MAX: usize = 64;
/// Children of an inner node.
const INNER_CHILDREN_MAX: usize = 64;
/// A node that shrinks below this is rebalanced with a neighbour.
const NODE_MIN: usize = 16;
/// Two neighbours are merged if the result leaves this much room for growth.
const MERGED_MAX: usize = 48;

const _: () = assert!(
    LEAF_KEYS_MAX == u64::BITS as usize,
    "the live set has one bit per key"
);
const _: () = assert!(MERGED_MAX < LEAF_KEYS_MAX && MERGED_MAX < INNER_CHILDREN_MAX);
const _: () = assert!(
    MERGED_MAX / 2 >= NODE_MIN,
    "an even split of what does not merge is not small"
);

/// The ordered index of all keys.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Node,
    live: i64,
}

/// What a visit of [`Tree::upsert`] did to its key.
pub(crate) struct Upsert<T> {
    /// The history of a key that was not there.
    pub(crate) insert: Option<History>,
    /// Whether the key's newest version is live now.
    pub(crate) live: bool,
    /// Of a key that was not there: whether it is live in the layers below.
    pub(crate) live_below: bool,
    /// What the caller wants to know.
    pub(crate) output: T,
}

impl Tree {
    /// A tree without keys.
    pub(crate) fn new() -> Self {
        Self {
            root: Node::Leaf(Leaf::new()),
            live: 0,
        }
    }

    /// Drops the tree in parts, with `between` between two of them.
    pub(crate) fn take_apart(self, between: &mut impl FnMut()) {
        self.root.take_apart(between);
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// The history of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&History> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)],
                Node::Leaf(leaf) => {
                    let index = leaf.keys.search(key).ok()?;
                    return Some(&leaf.histories[index]);
                }
            }
        }
    }

    /// Visits the place of `key` in one descent. `write` changes the history it is given, or returns
    /// a new one to insert; without one, an absent key stays absent.
    pub(crate) fn upsert<T>(
        &mut self,
        key: &[u8],
        write: impl FnOnce(Option<&mut History>) -> Upsert<T>,
    ) -> T {
        let written = self.root.upsert(key, write, true);
        self.live += written.live_delta;
        if let Some(split) = written.split {
            let left = std::mem::replace(&mut self.root, Node::Leaf(Leaf::default()));
            let mut inner = Inner::with_first(left, self.live);
            inner.insert(0, split);
            self.root = Node::Inner(inner);
        }
        written.output
    }

    /// Visits an existing key and removes it if `visit` says so. Only a key that is live neither here nor
    /// below may go.
    pub(crate) fn remove_if(&mut self, key: &[u8], visit: impl FnOnce(&mut History) -> bool) {
        self.root.remove_if(key, visit);
        if let Node::Inner(inner) = &mut self.root
            && inner.children.len() == 1
        {
            let only = inner.children.pop().expect("one child is left");
            self.root = only;
        }
    }

    /// The keys of `[start, end)` in order; no `end` means to the last key.
    pub(crate) fn walk<'a>(&'a self, start: &[u8], end: Option<&'a [u8]>) -> Walk<'a> {
        Walk::new(&self.root, start, end)
    }

    /// What the keys in `[start, end)` add to the number of live keys.
    pub(crate) fn live_between(&self, start: &[u8], end: Option<&[u8]>) -> i64 {
        let until = end.map_or(self.live, |end| self.live_before(end));
        until - self.live_before(start)
    }

    /// What the keys less than `key` add.
    fn live_before(&self, key: &[u8]) -> i64 {
        let mut node = &self.root;
        let mut before = 0;
        loop {
            match node {
                Node::Inner(inner) => {
                    let index = inner.child_of(key);
                    before += inner.live[..index].iter().sum::<i64>();
                    node = &inner.children[index];
                }
                Node::Leaf(leaf) => {
                    let (Ok(index) | Err(index)) = leaf.keys.search(key);
                    return before + leaf.added(low_bits(index));
                }
            }
        }
    }
}

/// A walk over the keys of a tree.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    /// The inner nodes above the current leaf, each with the child to visit next.
    path: Vec<(&'a Inner, usize)>,
    leaf: &'a Leaf,
    /// The next key of the leaf, and the first that is not in the range.
    next: usize,
    last: usize,
    end: Option<&'a [u8]>,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Node, start: &[u8], end: Option<&'a [u8]>) -> Self {
        let mut path = Vec::new();
        let mut node = root;
        loop {
            match node {
                Node::Inner(inner) => {
                    let index = inner.child_of(start);
                    path.push((inner, index + 1));
                    node = &inner.children[index];
                }
                Node::Leaf(leaf) => {
                    let (Ok(next) | Err(next)) = leaf.keys.search(start);
                    return Self {
                        path,
                        leaf,
                        next,
                        last: leaf.keys_before(end),
                        end,
                    };
                }
            }
        }
    }

    /// The key that comes next.
    pub(crate) fn peek(&mut self) -> Option<(&'a [u8], &'a History)> {
        while self.next >= self.last {
            // The range ends within this leaf, or this leaf is the last.
            if self.last < self.leaf.keys.len() || !self.next_leaf() {
                return None;
            }
        }
        Some((&self.leaf.keys[self.next], &self.leaf.histories[self.next]))
    }

    /// Passes the key that [`Walk::peek`] shows.
    pub(crate) fn advance(&mut self) {
        self.next += 1;
    }

    fn next_leaf(&mut self) -> bool {
        let mut node = loop {
            let Some((inner, index)) = self.path.last_mut() else {
                return false;
            };
            if let Some(child) = inner.children.get(*index) {
                *index += 1;
                break child;
            }
            self.path.pop();
        };
        while let Node::Inner(inner) = node {
            self.path.push((inner, 1));
            node = &inner.children[0];
        }
        let Node::Leaf(leaf) = node else {
            unreachable!("inner nodes were descended")
        };
        self.leaf = leaf;
        self.next = 0;
        self.last = leaf.keys_before(self.end);
        true
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (&'a [u8], &'a History);

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.peek()?;
        self.advance();
        Some(found)
    }
}

#[derive(Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

#[derive(Debug, Default)]
pub(super) struct Leaf {
    pub(super) keys: Keys,
    pub(super) histories: Vec<History>,
    live: u64,
    below: u64,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// One fewer than children.
    separators: Keys,
    children: Vec<Node>,
    live: Vec<i64>,
}

struct Split {
    separator: Box<[u8]>,
    right: Node,
    right_live: i64,
}

struct Written<T> {
    output: T,
    live_delta: i64,
    split: Option<Split>,
}

impl Node {
    fn take_apart(self, between: &mut impl FnMut()) {
        match self {
            Self::Leaf(leaf) => drop(leaf),
            Self::Inner(inner) => {
                for child in inner.children {
                    child.take_apart(between);
                    between();
                }
            }
        }
    }

    /// Keys of a leaf, children of an inner node.
    fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.keys.len(),
            Self::Inner(inner) => inner.children.len(),
        }
    }

    fn live(&self) -> i64 {
        match self {
            Self::Leaf(leaf) => leaf.added(u64::MAX),
            Self::Inner(inner) => inner.live.iter().sum(),
        }
    }

    fn upsert<T>(
        &mut self,
        key: &[u8],
        write: impl FnOnce(Option<&mut History>) -> Upsert<T>,
        rightmost: bool,
    ) -> Written<T> {
        match self {
            Self::Leaf(leaf) => leaf.upsert(key, write, rightmost),
            Self::Inner(inner) => {
                let index = inner.child_of(key);
                let rightmost = rightmost && index + 1 == inner.children.len();
                let mut written = inner.children[index].upsert(key, write, rightmost);
                inner.live[index] += written.live_delta;
                if let Some(split) = written.split.take() {
                    inner.insert(index, split);
                    written.split = inner.split_if_full();
                }
                written
            }
        }
    }

    fn remove_if(&mut self, key: &[u8], visit: impl FnOnce(&mut History) -> bool) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.remove_if(key, visit),
            Self::Inner(inner) => {
                let index = inner.child_of(key);
                let removed = inner.children[index].remove_if(key, visit);
                if removed && inner.children[index].len() < NODE_MIN {
                    inner.rebalance(index);
                }
                removed
            }
        }
    }
}

impl Leaf {
    fn new() -> Self {
        Self {
            keys: Keys::with_capacity(LEAF_KEYS_MAX),
            histories: Vec::with_capacity(LEAF_KEYS_MAX),
            live: 0,
            below: 0,
        }
    }

    fn upsert<T>(
        &mut self,
        key: &[u8],
        write: impl FnOnce(Option<&mut History>) -> Upsert<T>,
        rightmost: bool,
    ) -> Written<T> {
        match self.keys.search(key) {
            Ok(index) => {
                let Upsert { live, output, .. } = write(Some(&mut self.histories[index]));
                let bit = 1 << index;
                let was_live = self.live & bit != 0;
                self.live = if live {
                    self.live | bit
                } else {
                    self.live & !bit
                };
                let live_delta = i64::from(live) - i64::from(was_live);
                Written {
                    output,
                    live_delta,
                    split: None,
                }
            }
            Err(index) => {
                let Upsert {
                    insert,
                    live,
                    live_below,
                    output,
                } = write(None);
                let Some(history) = insert else {
                    return Written {
                        output,
                        live_delta: 0,
                        split: None,
                    };
                };
                let split = self.insert(index, key, history, (live, live_below), rightmost);
                Written {
                    output,
                    live_delta: i64::from(live) - i64::from(live_below),
                    split,
                }
            }
        }
    }

    fn insert(
        &mut self,
        index: usize,
        key: &[u8],
        history: History,
        live: (bool, bool),
        rightmost: bool,
    ) -> Option<Split> {
        if self.keys.len() < LEAF_KEYS_MAX {
            self.insert_here(index, key, history, live);
            return None;
        }
        // Keys that arrive in ascending order fill their leaves: only the newcomer moves on.
        let appends = rightmost && index == self.keys.len();
        let middle = if appends { index } else { self.keys.len() / 2 };
        let mut right = self.split_off(middle);
        if index > middle || appends {
            right.insert_here(index - middle, key, history, live);
        } else {
            self.insert_here(index, key, history, live);
        }
        let last = self.keys.last().expect("half of a full leaf");
        let separator = shortest_separator(last, &right.keys[0]);
        let right = Node::Leaf(right);
        Some(Split {
            separator,
            right_live: right.live(),
            right,
        })
    }

    fn insert_here(&mut self, index: usize, key: &[u8], history: History, live: (bool, bool)) {
        self.keys.insert(index, Box::from(key));
        self.histories.insert(index, history);
        let (live, below) = live;
        self.live = insert_bit(self.live, index, live);
        self.below = insert_bit(self.below, index, below);
    }

    fn split_off(&mut self, middle: usize) -> Self {
        let mut right = Self::new();
        right.keys = self.keys.split_off(middle, LEAF_KEYS_MAX);
        right.histories.extend(self.histories.drain(middle..));
        if middle < LEAF_KEYS_MAX {
            right.live = self.live >> middle;
            right.below = self.below >> middle;
        }
        self.live &= low_bits(middle);
        self.below &= low_bits(middle);
        right
    }

    fn append(&mut self, mut right: Self) {
        let count = self.keys.len();
        assert!(
            count + right.keys.len() <= LEAF_KEYS_MAX,
            "merged leaves fit into one"
        );
        if !right.keys.is_empty() {
            self.live |= right.live << count;
            self.below |= right.below << count;
        }
        self.keys.append(right.keys);
        self.histories.append(&mut right.histories);
    }

    fn remove_if(&mut self, key: &[u8], visit: impl FnOnce(&mut History) -> bool) -> bool {
        let Ok(index) = self.keys.search(key) else {
            return false;
        };
        if !visit(&mut self.histories[index]) {
            return false;
        }
        assert_eq!(
            (self.live | self.below) >> index & 1,
            0,
            "only a key that is live nowhere may be removed"
        );
        self.keys.remove(index);
        self.histories.remove(index);
        self.live = remove_bit(self.live, index);
        self.below = remove_bit(self.below, index);
        true
    }

    /// The index of the first key that is not less than `end`.
    fn keys_before(&self, end: Option<&[u8]>) -> usize {
        match end {
            None => self.keys.len(),
            Some(end) if self.keys.last().is_some_and(|last| last < end) => self.keys.len(),
            Some(end) => match self.keys.search(end) {
                Ok(index) | Err(index) => index,
            },
        }
    }

    /// What the keys of a set add to the number of live keys.
    fn added(&self, keys: u64) -> i64 {
        let count = |bits: u64| i64::from((bits & keys).count_ones());
        count(self.live) - count(self.below)
    }
}

impl Inner {
    fn with_capacity() -> Self {
        Self {
            separators: Keys::with_capacity(INNER_CHILDREN_MAX),
            children: Vec::with_capacity(INNER_CHILDREN_MAX),
            live: Vec::with_capacity(INNER_CHILDREN_MAX),
        }
    }

    fn with_first(child: Node, live: i64) -> Self {
        let mut inner = Self::with_capacity();
        inner.children.push(child);
        inner.live.push(live);
        inner
    }

    pub(super) fn child(&self, key: &[u8]) -> &Node {
        &self.children[self.child_of(key)]
    }

    /// The child whose span holds `key`.
    fn child_of(&self, key: &[u8]) -> usize {
        match self.separators.search(key) {
            Ok(index) => index + 1,
            Err(index) => index,
        }
    }

    /// Puts the right half of the split child `index` beside it. The child's live count still covers
    /// both halves.
    fn insert(&mut self, index: usize, split: Split) {
        self.live[index] -= split.right_live;
        self.separators.insert(index, split.separator);
        self.children.insert(index + 1, split.right);
        self.live.insert(index + 1, split.right_live);
    }

    fn split_if_full(&mut self) -> Option<Split> {
        if self.children.len() < INNER_CHILDREN_MAX {
            return None;
        }
        let (separator, right) = self.split_off(self.children.len() / 2);
        let right = Node::Inner(right);
        Some(Split {
            separator,
            right_live: right.live(),
            right,
        })
    }

    fn split_off(&mut self, middle: usize) -> (Box<[u8]>, Self) {
        let mut right = Self::with_capacity();
        right.children.extend(self.children.drain(middle..));
        right.live.extend(self.live.drain(middle..));
        right.separators = self.separators.split_off(middle, INNER_CHILDREN_MAX);
        let separator = self.separators.pop().expect("the one between the halves");
        (separator, right)
    }

    fn append(&mut self, separator: Box<[u8]>, mut right: Self) {
        self.separators.push(separator);
        self.separators.append(right.separators);
        self.children.append(&mut right.children);
        self.live.append(&mut right.live);
    }

    /// Merges the small child `index` with a neighbour, or evens the two out.
    fn rebalance(&mut self, index: usize) {
        if self.children.len() < 2 {
            return;
        }
        let left = index.saturating_sub(1);
        let right_node = self.children.remove(left + 1);
        let separator = self.separators.remove(left);
        self.live.remove(left + 1);
        let total = self.children[left].len() + right_node.len();
        let split = match (&mut self.children[left], right_node) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                if total <= MERGED_MAX {
                    left.append(right);
                    None
                } else {
                    Some(even_leaves(left, right))
                }
            }
            (Node::Inner(left), Node::Inner(right)) => {
                left.append(separator, right);
                (total > MERGED_MAX).then(|| {
                    let (separator, right) = left.split_off(total / 2);
                    let right = Node::Inner(right);
                    Split {
                        separator,
                        right_live: right.live(),
                        right,
                    }
                })
            }
            _ => unreachable!("neighbours have the same depth"),
        };
        self.live[left] = self.children[left].live();
        if let Some(split) = split {
            self.live[left] += split.right_live;
            self.insert(left, split);
        }
    }
}

/// Moves keys between two neighbours until both hold half.
fn even_leaves(left: &mut Leaf, mut right: Leaf) -> Split {
    let half = (left.keys.len() + right.keys.len()) / 2;
    let right = if left.keys.len() > half {
        let mut moved = left.split_off(half);
        moved.append(right);
        moved
    } else {
        let rest = right.split_off(half - left.keys.len());
        left.append(right);
        rest
    };
    let last = left
        .keys
        .last()
        .expect("half of more than a leaf's minimum");
    let separator = shortest_separator(last, &right.keys[0]);
    let right = Node::Leaf(right);
    Split {
        separator,
        right_live: right.live(),
        right,
    }
}

/// The shortest key that is greater than `left` and not greater than `right`.
fn shortest_separator(left: &[u8], right: &[u8]) -> Box<[u8]> {
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    Box::from(&right[..right.len().min(common + 1)])
}

/// A set of the lowest `count` bits.
fn low_bits(count: usize) -> u64 {
    if count >= u64::BITS as usize {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

fn insert_bit(bits: u64, index: usize, bit: bool) -> u64 {
    let low = bits & low_bits(index);
    let high = bits & !low_bits(index);
    low | u64::from(bit) << index | high << 1
}

fn remove_bit(bits: u64, index: usize) -> u64 {
    let low = bits & low_bits(index);
    let high = bits & !low_bits(index + 1);
    low | high >> 1
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
