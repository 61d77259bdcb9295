//! The tree against `BTreeMap`, with keys chosen to be hard on shared prefixes and hints.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{LeaseId, Revision};
use crate::mvcc::record::Draft;

/// What is done to one key.
#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>),
    Delete(Vec<u8>),
    Remove(Vec<u8>),
    PutMany {
        prefix: Vec<u8>,
        count: u16,
        stride: u16,
    },
    /// Deletes all keys from a start on but every so many.
    DeleteFrom {
        start: Vec<u8>,
        keep: usize,
    },
    RemoveFrom {
        start: Vec<u8>,
        count: u16,
    },
    Check {
        start: Vec<u8>,
        end: Option<Vec<u8>>,
    },
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(0u8..3, 0..4),
        (0u16..400).prop_map(|n| format!("/registry/pods/ns-{:02}/{n:04}", n % 7).into_bytes()),
        (0u16..400).prop_map(|n| n.to_be_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..24),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => key().prop_map(Step::Put),
        2 => key().prop_map(Step::Delete),
        2 => key().prop_map(Step::Remove),
        2 => (key(), 1u16..400, 1u16..500)
            .prop_map(|(prefix, count, stride)| Step::PutMany { prefix, count, stride }),
        1 => (key(), 1usize..300).prop_map(|(start, keep)| Step::DeleteFrom { start, keep }),
        2 => (key(), 1u16..400).prop_map(|(start, count)| Step::RemoveFrom { start, count }),
        2 => (key(), proptest::option::of(key())).prop_map(|(start, end)| Step::Check { start, end }),
    ]
}

/// Whether a key is live in the layers below: as good as random, and always the same.
fn is_below(key: &[u8]) -> bool {
    key.iter().map(|byte| u32::from(*byte)).sum::<u32>() % 3 == 1
}

/// The tree, and next to it whether each of its keys is live.
struct Pair {
    tree: Tree,
    model: BTreeMap<Vec<u8>, bool>,
    revision: Revision,
}

impl Pair {
    fn write(&mut self, key: &[u8], live: bool) {
        self.revision = self.revision.next();
        let at = (self.revision, 0);
        let draft = if live {
            Draft::put(key, b"", at, self.revision, 1, LeaseId(0))
        } else {
            Draft::tombstone(key, at)
        };
        let record = draft.on_heap();
        let was_there = self.tree.upsert(key, |history| {
            let was_there = history.is_some();
            let insert = match history {
                Some(history) => {
                    history.push(record);
                    None
                }
                None => Some(History::One(record)),
            };
            Upsert {
                insert,
                live,
                live_below: is_below(key),
                output: was_there,
            }
        });
        assert_eq!(self.model.insert(key.to_vec(), live).is_some(), was_there);
    }

    /// Removes a key, which must not be live; one that is live below stays.
    fn remove(&mut self, key: &[u8]) {
        if is_below(key) {
            return;
        }
        if self.model.get(key) == Some(&true) {
            self.write(key, false);
        }
        let mut was_there = false;
        self.tree.remove_if(key, |_| {
            was_there = true;
            true
        });
        assert_eq!(self.model.remove(key).is_some(), was_there);
    }

    fn check(&self, start: &[u8], end: Option<&[u8]>) {
        let expected = self.model.iter().filter(|(key, _)| {
            key.as_slice() >= start && end.is_none_or(|end| key.as_slice() < end)
        });
        let mut added = 0;
        let mut walk = self.tree.walk(start, end);
        for (key, live) in expected {
            assert_eq!(walk.peek().map(|(found, _)| found), Some(key.as_slice()));
            let (_, history) = walk.next().unwrap();
            assert_eq!(history.newest().key(), key);
            added += i64::from(*live) - i64::from(is_below(key));
        }
        assert!(walk.next().is_none());
        if end.is_none_or(|end| start <= end) {
            assert_eq!(self.tree.live_between(start, end), added);
        }
        assert_eq!(
            self.tree.get(start).is_some(),
            self.model.contains_key(start)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equals_a_sorted_map(steps in proptest::collection::vec(step(), 1..60)) {
        let mut pair = Pair { tree: Tree::new(), model: BTreeMap::new(), revision: Revision(1) };
        for step in steps {
            match step {
                Step::Put(key) => pair.write(&key, true),
                Step::Delete(key) => {
                    if pair.model.contains_key(&key) {
                        pair.write(&key, false);
                    }
                }
                Step::Remove(key) => pair.remove(&key),
                Step::PutMany { prefix, count, stride } => {
                    for n in 0..count {
                        let mut key = prefix.clone();
                        key.extend(n.wrapping_mul(stride).to_be_bytes());
                        pair.write(&key, n % 5 != 0);
                    }
                }
                Step::DeleteFrom { start, keep } => {
                    let keys: Vec<_> = pair.model.range(start..).map(|(key, _)| key.clone()).collect();
                    for (index, key) in keys.iter().enumerate() {
                        pair.write(key, index % keep == 0);
                    }
                }
                Step::RemoveFrom { start, count } => {
                    let keys = pair.model.range(start..).take(usize::from(count));
                    let keys: Vec<_> = keys.map(|(key, _)| key.clone()).collect();
                    keys.iter().for_each(|key| pair.remove(key));
                }
                Step::Check { start, end } => pair.check(&start, end.as_deref()),
            }
            pair.tree.check_invariants();
        }
        pair.check(&[], None);
        let keys: Vec<_> = pair.model.keys().cloned().collect();
        keys.iter().for_each(|key| pair.remove(key));
        pair.tree.check_invariants();
        pair.check(&[], None);
    }
}

#[test]
fn ascending_keys_fill_their_leaves() {
    let mut pair = Pair {
        tree: Tree::new(),
        model: BTreeMap::new(),
        revision: Revision(1),
    };
    for n in 0..10_000u32 {
        pair.write(&n.to_be_bytes(), true);
    }
    pair.tree.check_invariants();
    let mut leaves = 0;
    let mut nodes = vec![&pair.tree.root];
    while let Some(node) = nodes.pop() {
        match node {
            Node::Leaf(_) => leaves += 1,
            Node::Inner(inner) => nodes.extend(&inner.children),
        }
    }
    assert_eq!(leaves, 10_000usize.div_ceil(LEAF_KEYS_MAX));
    // Between any two of them others have their turn when the tree is dropped.
    let mut turns = 0;
    pair.tree.take_apart(&mut || turns += 1);
    assert!(turns >= leaves, "{turns}");
}

impl Tree {
    /// Checks the invariants of the whole tree; a test's tool.
    pub(crate) fn check_invariants(&self) {
        let mut last: Option<Vec<u8>> = None;
        let (live, _) = self.root.check(None, None, &mut last);
        assert_eq!(live, self.live, "the total is that of the leaves");
    }
}

impl Node {
    fn check(
        &self,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
        last: &mut Option<Vec<u8>>,
    ) -> (i64, usize) {
        match self {
            Self::Leaf(leaf) => {
                assert_eq!(leaf.keys.len(), leaf.histories.len(), "one history per key");
                assert!(leaf.keys.len() <= LEAF_KEYS_MAX, "a leaf has room");
                leaf.keys.check_invariants();
                for (index, key) in leaf.keys.iter().enumerate() {
                    assert!(
                        last.as_deref().is_none_or(|last| last < key),
                        "ascending keys"
                    );
                    assert!(low.is_none_or(|low| low <= key), "not below the separator");
                    assert!(
                        high.is_none_or(|high| key < high),
                        "below the next separator"
                    );
                    *last = Some(key.to_vec());
                    let live = !leaf.histories[index].newest().tombstone;
                    assert_eq!(
                        leaf.live >> index & 1 == 1,
                        live,
                        "the bit tells the liveness"
                    );
                }
                assert_eq!(
                    (leaf.live | leaf.below) & !low_bits(leaf.keys.len()),
                    0,
                    "no bit beyond the keys"
                );
                (self.live(), 1)
            }
            Self::Inner(inner) => {
                let count = inner.children.len();
                assert!(
                    (2..=INNER_CHILDREN_MAX).contains(&count),
                    "two children or more"
                );
                assert_eq!(
                    inner.separators.len() + 1,
                    count,
                    "separators stand between children"
                );
                assert_eq!(inner.live.len(), count, "one live count per child");
                let mut depth = 0;
                for (index, child) in inner.children.iter().enumerate() {
                    let low = index
                        .checked_sub(1)
                        .map_or(low, |i| Some(&inner.separators[i]));
                    let high = inner.separators.get(index).or(high);
                    let (live, child_depth) = child.check(low, high, last);
                    assert_eq!(live, inner.live[index], "the live count is the child's");
                    assert!(index == 0 || depth == child_depth, "equal depth");
                    depth = child_depth;
                }
                (self.live(), depth + 1)
            }
        }
    }
}

#[test]
fn warming_takes_any_keys_of_any_tree() {
    let mut pair = Pair {
        tree: Tree::new(),
        model: BTreeMap::new(),
        revision: Revision(1),
    };
    let strange: [&[u8]; 4] = [b"", b"\xff\xff\xff\xff\xff", b"between", b"\0\0"];
    for round in 0..2000_u32 {
        let keys: Vec<_> = pair.model.keys().cloned().collect();
        let some = keys.iter().map(Vec::as_slice).step_by(17).take(40);
        pair.tree.warm(some.chain(strange));
        pair.write(&(round / 2).to_be_bytes(), true);
    }
    pair.tree.warm(std::iter::empty());
    pair.tree.check_invariants();
    pair.check(b"", None);
}
