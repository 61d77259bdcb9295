//! Blocks of values in memory, bounded in bytes; what is used again stays.
//!
//! The CLOCK of Corbató (1968): a hand goes around the slots, takes the mark from a block that was used, and evicts one
//! that has none. Blocks come without a mark, so that a long scan passes through and leaves the marked ones alone.
//! Blocks of files older than all that are of use lose to all others, marked or not.
//!
//! Everything is decided by the order of the calls: nothing is random, and nothing depends on addresses.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;

use crate::ids::SnapshotSeq;

/// What a block in memory takes beside its bytes.
const OVERHEAD_BYTES: u64 = 128;

/// A block of values, named across the files that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BlockKey {
    pub(super) file: SnapshotSeq,
    pub(super) offset: u64,
}

/// A map from blocks, with a hash that is the same in every run.
pub(super) type BlockMap<V> = HashMap<BlockKey, V, BuildHasherDefault<BlockHasher>>;

/// The cache.
#[derive(Debug)]
pub(super) struct BlockCache {
    bytes_max: u64,
    bytes: u64,
    index: BlockMap<usize>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    hand: usize,
    /// Blocks of files before this one go first.
    oldest: SnapshotSeq,
}

/// A block in the cache.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: BlockKey,
    pub(super) block: Bytes,
    /// The turn in which it came.
    pub(super) turn: u64,
    used: bool,
}

impl BlockCache {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            index: BlockMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            oldest: SnapshotSeq(0),
        }
    }

    /// Bytes that its blocks take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn contains(&self, key: BlockKey) -> bool {
        self.index.contains_key(&key)
    }

    /// The block, if it is here; `marks` says whether this counts as use.
    pub(super) fn get(&mut self, key: BlockKey, marks: impl FnOnce(u64) -> bool) -> Option<&Bytes> {
        let place = *self.index.get(&key)?;
        let slot = self.slots[place]
            .as_mut()
            .expect("the index leads to filled slots");
        slot.used |= marks(slot.turn);
        Some(&slot.block)
    }

    /// Whether a block of that size may stay: one that is too large would drive out too many others.
    pub(super) fn takes(&self, block_bytes: usize) -> bool {
        charge(block_bytes) <= self.bytes_max / 4
    }

    /// Takes one block out if there is no room for so many more bytes; `None` once there is.
    pub(super) fn evict_for(&mut self, block_bytes: usize) -> Option<Slot> {
        if self.bytes + charge(block_bytes) > self.bytes_max {
            self.evict()
        } else {
            None
        }
    }

    /// Takes one block out if there are too many; `None` once there are not.
    pub(super) fn evict_surplus(&mut self) -> Option<Slot> {
        if self.bytes > self.bytes_max {
            self.evict()
        } else {
            None
        }
    }

    /// Adds a block that is not here, for which there is room.
    pub(super) fn insert(&mut self, key: BlockKey, block: Bytes, turn: u64) {
        self.bytes += charge(block.len());
        assert!(
            self.bytes <= self.bytes_max,
            "room was made before: {} > {}",
            self.bytes,
            self.bytes_max
        );
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let slot = Slot {
            key,
            block,
            turn,
            used: false,
        };
        self.slots[place] = Some(slot);
        let before = self.index.insert(key, place);
        assert!(before.is_none(), "a block is cached once: {key:?}");
    }

    /// From now on blocks of earlier files go first.
    pub(super) fn set_oldest(&mut self, oldest: SnapshotSeq) {
        self.oldest = oldest;
    }

    /// Another limit. Blocks that are too many are taken out by `evict_surplus`.
    pub(super) fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Goes around until a block has to go. Every block passed loses its mark, so two rounds are enough.
    fn evict(&mut self) -> Option<Slot> {
        if self.index.is_empty() {
            return None;
        }
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let oldest = self.oldest;
            let passed = self.slots[place].as_mut();
            if passed.is_none_or(|slot| std::mem::take(&mut slot.used) && slot.key.file >= oldest) {
                continue;
            }
            let slot = self.slots[place].take().expect("the loop looked at it");
            self.free.push(place);
            self.index.remove(&slot.key);
            self.bytes -= charge(slot.block.len());
            return Some(slot);
        }
    }
}

fn charge(block_bytes: usize) -> u64 {
    block_bytes as u64 + OVERHEAD_BYTES
}

/// A multiplication folded in half: offsets are our own, so nobody chooses them to collide.
#[derive(Debug, Default)]
pub(super) struct BlockHasher(u64);

impl Hasher for BlockHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BLOCK: usize = 4096;

    fn key(file: u64, block: u64) -> BlockKey {
        BlockKey {
            file: SnapshotSeq(file),
            offset: block * BLOCK as u64,
        }
    }

    fn room_for(blocks: usize) -> u64 {
        blocks as u64 * charge(BLOCK)
    }

    /// Adds a block and says which ones had to go.
    fn add(cache: &mut BlockCache, key: BlockKey) -> Vec<BlockKey> {
        let mut gone = Vec::new();
        while let Some(slot) = cache.evict_for(BLOCK) {
            gone.push(slot.key);
        }
        cache.insert(key, Bytes::from(vec![key.offset as u8; BLOCK]), 0);
        gone
    }

    #[test]
    fn it_never_holds_more_than_its_limit_and_keeps_what_is_used() {
        let mut cache = BlockCache::new(room_for(8));
        for block in 0..8 {
            assert_eq!(add(&mut cache, key(1, block)), []);
        }
        for round in 0..200u64 {
            assert!(cache.get(key(1, 3), |_| true).is_some(), "round {round}");
            assert!(cache.get(key(1, 5), |_| false).is_some() || round > 0);
            assert_eq!(add(&mut cache, key(1, 100 + round)).len(), 1);
            assert_eq!(cache.bytes(), room_for(8));
        }
        assert!(cache.contains(key(1, 3)), "it was used in every round");
        assert!(!cache.contains(key(1, 5)), "a look is no use");
        assert_eq!(cache.slots.len(), 8, "slots are used again");
    }

    #[test]
    fn blocks_of_older_files_go_first_even_if_they_are_marked() {
        let mut cache = BlockCache::new(room_for(6));
        for block in 0..3 {
            add(&mut cache, key(1, block));
            add(&mut cache, key(2, block));
            cache.get(key(1, block), |_| true).unwrap();
            cache.get(key(2, block), |_| true).unwrap();
        }
        cache.set_oldest(SnapshotSeq(2));
        let gone: Vec<_> = (10..13).flat_map(|b| add(&mut cache, key(2, b))).collect();
        assert_eq!(gone, [key(1, 0), key(1, 1), key(1, 2)]);
    }

    #[test]
    fn a_lower_limit_takes_blocks_out_one_by_one() {
        let mut cache = BlockCache::new(room_for(8));
        for block in 0..8 {
            add(&mut cache, key(1, block));
        }
        cache.set_bytes_max(room_for(5));
        let mut gone = 0;
        while cache.evict_surplus().is_some() {
            gone += 1;
        }
        assert_eq!((gone, cache.bytes()), (3, room_for(5)));
        cache.set_bytes_max(0);
        while cache.evict_surplus().is_some() {}
        assert_eq!((cache.bytes(), cache.evict_for(BLOCK).is_none()), (0, true));
    }

    #[test]
    fn a_block_larger_than_a_quarter_is_not_taken() {
        let cache = BlockCache::new(room_for(8));
        assert!(cache.takes(2 * BLOCK));
        assert!(!cache.takes(2 * BLOCK + 4096));
        assert!(!BlockCache::new(0).takes(BLOCK));
    }
}
