//! Fetching what a group of commands will touch before they run.
//!
//! A put into a keyspace that is larger than the CPU's caches waits five or six times for memory, each time for an
//! address that the last wait brought. The keys of one log entry are known together, so their paths are walked side
//! by side, a step at a time: every step asks for the memory that the next one reads, and while one key's is on its
//! way the others are looked at. Nothing is changed, and a wrong guess costs nothing but the guess.

use super::history::History;
use super::tree::{Leaf, Node, Tree};

/// Keys walked side by side: about as many as a CPU has reads under way.
const WIDTH: usize = 16;

impl Tree {
    /// Brings the paths of `keys` into the cache.
    pub(crate) fn warm<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            self.warm_some(keys.by_ref().take(WIDTH));
        }
    }

    fn warm_some<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let mut paths = [(&[][..], self.root()); WIDTH];
        let mut count = 0;
        for (path, key) in paths.iter_mut().zip(keys) {
            path.0 = key;
            count += 1;
        }
        let paths = &mut paths[..count];
        // All leaves are equally deep.
        while matches!(paths[0].1, Node::Inner(_)) {
            for (key, node) in &mut *paths {
                if let Node::Inner(inner) = node {
                    *node = inner.child(key);
                    fetch(*node);
                }
            }
        }
        let leaves = paths.iter().map(|(key, node)| match node {
            Node::Leaf(leaf) => (*key, leaf),
            Node::Inner(_) => unreachable!("all leaves have the same depth"),
        });
        leaves.clone().for_each(|(_, leaf)| leaf.keys.fetch_hints());
        let places = leaves.map(|(key, leaf): (_, &Leaf)| (leaf, leaf.keys.guess(key)));
        for (leaf, index) in places.clone() {
            leaf.keys.fetch_place(index);
            leaf.histories.get(index).into_iter().for_each(fetch);
        }
        for (leaf, index) in places.clone() {
            leaf.keys.fetch_key(index);
            match leaf.histories.get(index) {
                Some(History::One(record)) => fetch(&**record),
                Some(History::Many(records)) => fetch(&**records),
                None => {}
            }
        }
        let many = places.filter_map(|(leaf, index)| match leaf.histories.get(index)? {
            History::Many(records) => Some(records),
            History::One(_) => None,
        });
        many.clone()
            .filter_map(|records| records.back())
            .for_each(fetch);
        many.filter_map(|records| records.back())
            .for_each(|record| fetch(&**record));
    }
}

/// Asks for the memory of a value, its first two cache lines at most.
pub(crate) fn fetch<T>(value: &T) {
    const LINE_BYTES: usize = 64;
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(value).cast::<i8>();
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(first);
            if size_of::<T>() > LINE_BYTES {
                _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(LINE_BYTES));
            }
        }
    }
}
