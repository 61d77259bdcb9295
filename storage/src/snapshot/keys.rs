//! The sorted keys of one page: how they are laid out, built and searched.
//!
//! Keys of a page are near each other, so they share a prefix, which is stored once. Behind it, the next
//! four bytes of every key stand in one dense column of hints: a search reads some of that column and
//! then mostly one key. The idea is that of the tree in memory (`mvcc::keys`).
//!
//! Invariants, checked when a page is loaded:
//! 1. Keys are unique and ascending, and all of them begin with `prefix`.
//! 2. `hints[i]` is the big-endian number of the four bytes of key i behind the prefix, with zeros
//!    behind its end. So hints ascend too, but not strictly.
//! 3. `suffixes` holds what is behind the prefix, key by key; key i ends at `ends[i]`.

use std::cmp::Ordering;

use rkyv::{Archive, Serialize};

/// Keys as a page holds them.
#[derive(Debug, Default, Archive, Serialize)]
pub(super) struct Keys {
    prefix: Vec<u8>,
    hints: Vec<u32>,
    ends: Vec<u32>,
    suffixes: Vec<u8>,
}

/// Whole keys in ascending order, until the page is closed and it is known what they share.
#[derive(Debug, Default)]
pub(super) struct KeyList {
    heap: Vec<u8>,
    ends: Vec<usize>,
}

impl KeyList {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1],
        };
        &self.heap[start..self.ends[index]]
    }

    pub(super) fn push(&mut self, key: &[u8]) {
        self.heap.extend_from_slice(key);
        self.ends.push(self.heap.len());
    }

    pub(super) fn clear(&mut self) {
        self.heap.clear();
        self.ends.clear();
    }

    /// How much the first key shares with `key`, which is not below any of them: all of them share it.
    pub(super) fn shared_with(&self, key: &[u8]) -> usize {
        if self.is_empty() {
            key.len()
        } else {
            common_bytes(self.get(0), key)
        }
    }

    /// Lays a range of the keys out.
    pub(super) fn lay_out(&self, range: std::ops::Range<usize>, out: &mut Keys) {
        out.prefix.clear();
        out.hints.clear();
        out.ends.clear();
        out.suffixes.clear();
        if range.is_empty() {
            return;
        }
        let shared = common_bytes(self.get(range.start), self.get(range.end - 1));
        out.prefix
            .extend_from_slice(&self.get(range.start)[..shared]);
        for index in range {
            let rest = &self.get(index)[shared..];
            out.hints.push(hint(rest));
            out.suffixes.extend_from_slice(rest);
            out.ends.push(
                u32::try_from(out.suffixes.len()).expect("the keys of a page are bounded by it"),
            );
        }
    }
}

impl Keys {
    /// Bytes that `count` keys take in a page, given how much they share and the sum of their lengths.
    pub(super) fn page_bytes(count: usize, key_bytes: usize, shared: usize) -> usize {
        shared + (key_bytes - shared * count) + count * 8
    }
}

impl ArchivedKeys {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What stands behind the prefix.
    pub(super) fn suffix(&self, index: usize) -> &[u8] {
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1].to_native() as usize,
        };
        &self.suffixes[start..self.ends[index].to_native() as usize]
    }

    pub(super) fn append(&self, index: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(self.suffix(index));
    }

    pub(super) fn key_bytes(&self, index: usize) -> usize {
        self.prefix.len() + self.suffix(index).len()
    }

    /// How the key `index` stands to `other`.
    pub(super) fn compare(&self, index: usize, other: &[u8]) -> Ordering {
        match self.beside(other) {
            Ok(rest) => self.suffix(index).cmp(rest),
            Err(ordering) => ordering.reverse(),
        }
    }

    /// The index of a key, or of the first key above it.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let rest = match self.beside(key) {
            Ok(rest) => rest,
            Err(Ordering::Less) => return Err(0),
            Err(_) => return Err(self.len()),
        };
        let wanted = hint(rest);
        let (mut low, mut high) = self.hinted(wanted);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.suffix(middle).cmp(rest) {
                Ordering::Equal => return Ok(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The keys with this hint.
    fn hinted(&self, wanted: u32) -> (usize, usize) {
        let hints = &self.hints[..];
        let low = hints.partition_point(|hint| hint.to_native() < wanted);
        let equal = hints[low..].partition_point(|hint| hint.to_native() == wanted);
        (low, low + equal)
    }

    /// The part of a key behind the prefix; or whether it is below or above all that begin with the prefix.
    fn beside<'a>(&self, key: &'a [u8]) -> Result<&'a [u8], Ordering> {
        key.strip_prefix(&*self.prefix)
            .ok_or_else(|| key.cmp(&self.prefix))
    }

    /// Whether the invariants hold and there are keys.
    pub(super) fn is_sound(&self) -> bool {
        let count = self.len();
        if count == 0 || self.hints.len() != count {
            return false;
        }
        let mut start = 0;
        for end in self.ends.iter() {
            if end.to_native() < start {
                return false;
            }
            start = end.to_native();
        }
        if start as usize != self.suffixes.len() {
            return false;
        }
        let hints_match = (0..count).all(|i| hint(self.suffix(i)) == self.hints[i].to_native());
        hints_match && (1..count).all(|i| self.suffix(i - 1) < self.suffix(i))
    }
}

/// How many bytes two keys begin with alike.
pub(super) fn common_bytes(left: &[u8], right: &[u8]) -> usize {
    let length = left.len().min(right.len());
    let mut common = 0;
    for (left, right) in left.chunks_exact(8).zip(right.chunks_exact(8)) {
        if left != right {
            break;
        }
        common += 8;
    }
    let rest = left[common..length].iter().zip(&right[common..length]);
    common + rest.take_while(|(a, b)| a == b).count()
}

/// The first four bytes as a big-endian number, with zeros behind the end.
fn hint(rest: &[u8]) -> u32 {
    match rest.first_chunk::<4>() {
        Some(bytes) => u32::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 4];
            bytes[..rest.len()].copy_from_slice(rest);
            u32::from_be_bytes(bytes)
        }
    }
}
