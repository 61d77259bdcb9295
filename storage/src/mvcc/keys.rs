//! The sorted keys of one tree node, searched without touching most of them.
//!
//! Keys of a node are near each other, so they share a prefix. Behind it, the next four bytes of every
//! key stand in one dense array of hints: a search reads that array and then only the keys with the
//! hint of the searched one, of which there is seldom more than one and in inner nodes mostly none.
//!
//! Invariants:
//! 1. Keys are unique and ascending, and all of them begin with `prefix`.
//! 2. `hints[i]` is the big-endian number of the four bytes of `keys[i]` behind the prefix, with
//!    zeros behind its end. So hints ascend too, but not strictly.

use std::cmp::Ordering;
use std::ops::Index;

use super::warm::fetch;

/// Hints in a cache line.
const HINTS_PER_LINE: usize = 16;

/// A sorted set of keys with room for a node's worth of them.
#[derive(Debug, Default)]
pub(super) struct Keys {
    prefix: Box<[u8]>,
    hints: Vec<u32>,
    keys: Vec<Box<[u8]>>,
}

impl Keys {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            prefix: Box::default(),
            hints: Vec::with_capacity(capacity),
            keys: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    #[cfg(test)]
    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        self.keys.get(index).map(|key| &**key)
    }

    pub(super) fn last(&self) -> Option<&[u8]> {
        self.keys.last().map(|key| &**key)
    }

    /// The index of a key, or the index it would be inserted at.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let hint = hint(key, self.prefix.len());
        let start = self.guess_by(hint);
        let run = self.hints[start..]
            .iter()
            .take_while(|&&other| other == hint)
            .count();
        let run = &self.keys[start..start + run];
        // A key that is found needs no look at the prefix, nor one that is not a look at other keys: most searches
        // read the memory of one key, or of none.
        match run.binary_search_by(|probe| (**probe).cmp(key)) {
            Ok(at) => Ok(start + at),
            Err(at) => Err(match self.beside(key) {
                None => start + at,
                Some(Ordering::Less) => 0,
                Some(_) => self.keys.len(),
            }),
        }
    }

    /// Whether a key is below or above all that begin with the shared prefix; `None` if it begins with it too.
    fn beside(&self, key: &[u8]) -> Option<Ordering> {
        let length = key.len().min(self.prefix.len());
        match key[..length].cmp(&self.prefix[..length]) {
            Ordering::Equal if length == self.prefix.len() => None,
            Ordering::Equal => Some(Ordering::Less),
            ordering => Some(ordering),
        }
    }

    fn guess_by(&self, hint: u32) -> usize {
        self.hints.partition_point(|&other| other < hint)
    }

    /// Where a key most likely is, going by the hints alone.
    pub(super) fn guess(&self, key: &[u8]) -> usize {
        self.guess_by(hint(key, self.prefix.len()))
    }

    /// Asks for the memory that [`guess`](Keys::guess) reads.
    pub(super) fn fetch_hints(&self) {
        self.hints.iter().step_by(HINTS_PER_LINE).for_each(fetch);
    }

    /// Asks for the place of a key, which [`fetch_key`](Keys::fetch_key) reads.
    pub(super) fn fetch_place(&self, index: usize) {
        self.keys.get(index).into_iter().for_each(fetch);
    }

    /// Asks for a key.
    pub(super) fn fetch_key(&self, index: usize) {
        let first = self.keys.get(index).and_then(|key| key.first());
        first.into_iter().for_each(fetch);
    }

    pub(super) fn insert(&mut self, index: usize, key: Box<[u8]>) {
        if self.keys.is_empty() {
            self.prefix = key.clone();
        }
        let common = common_bytes(&key, &self.prefix);
        if common < self.prefix.len() {
            self.share(common);
        }
        self.hints.insert(index, hint(&key, self.prefix.len()));
        self.keys.insert(index, key);
    }

    pub(super) fn remove(&mut self, index: usize) -> Box<[u8]> {
        self.hints.remove(index);
        self.keys.remove(index)
    }

    pub(super) fn push(&mut self, key: Box<[u8]>) {
        self.insert(self.keys.len(), key);
    }

    pub(super) fn pop(&mut self) -> Option<Box<[u8]>> {
        self.hints.pop();
        self.keys.pop()
    }

    /// Moves the keys from an index on into a set of their own.
    pub(super) fn split_off(&mut self, index: usize, capacity: usize) -> Self {
        let mut right = Self::with_capacity(capacity);
        right.keys.extend(self.keys.drain(index..));
        self.hints.truncate(index);
        right.share_again();
        self.share_again();
        right
    }

    /// Moves all keys of a set that is above this one into this one.
    pub(super) fn append(&mut self, mut right: Self) {
        self.keys.append(&mut right.keys);
        self.share_again();
    }

    /// Finds out how much is shared.
    fn share_again(&mut self) {
        if let (Some(first), Some(last)) = (self.keys.first(), self.keys.last()) {
            self.share(common_bytes(first, last));
        }
    }

    fn share(&mut self, shared: usize) {
        self.prefix = self
            .keys
            .first()
            .map_or_else(Box::default, |key| Box::from(&key[..shared]));
        self.hints.clear();
        self.hints
            .extend(self.keys.iter().map(|key| hint(key, shared)));
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| &**key)
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.hints.len(), self.keys.len(), "one hint per key");
        assert!(
            self.keys.is_sorted_by(|left, right| left < right),
            "ascending keys"
        );
        for (key, &found) in self.keys.iter().zip(&self.hints) {
            assert!(key.starts_with(&self.prefix), "the prefix is shared");
            let expected = hint(key, self.prefix.len());
            assert_eq!(found, expected, "the hint is the key's");
        }
    }
}

impl Index<usize> for Keys {
    type Output = [u8];

    fn index(&self, index: usize) -> &[u8] {
        &self.keys[index]
    }
}

fn common_bytes(left: &[u8], right: &[u8]) -> usize {
    let length = left.len().min(right.len());
    let mut chunks = left.chunks_exact(8).zip(right.chunks_exact(8));
    let mut common = 0;
    for (left, right) in &mut chunks {
        if left != right {
            break;
        }
        common += 8;
    }
    common
        + left[common..length]
            .iter()
            .zip(&right[common..length])
            .take_while(|(a, b)| a == b)
            .count()
}

/// The four bytes behind the first `shared`.
fn hint(key: &[u8], shared: usize) -> u32 {
    let rest = key.get(shared..).unwrap_or_default();
    match rest.first_chunk::<4>() {
        Some(bytes) => u32::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 4];
            bytes[..rest.len()].copy_from_slice(rest);
            u32::from_be_bytes(bytes)
        }
    }
}
