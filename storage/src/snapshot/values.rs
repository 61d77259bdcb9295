//! Values that are on disk: what is in memory, what is being read, what just came.
//!
//! Readers ask for a place. If its block is cached they have the value, as a slice of the block. Otherwise they want it,
//! and ask again when [`reads_done`](Values::reads_done) has grown. The store does the reading: it takes what is to be
//! read next and hands over what came of it.
//!
//! ```text
//!   cached? --no--> want --> queue --> next_read --> (disk) --> on_read --> cache
//!                                                                  \--> fresh: what the cache does not keep, failures
//! ```
//!
//! Invariants:
//! 1. A block is handed out only if its length and its checksum are those its leaf gives: the store compares them.
//! 2. What came of a read can be had in the turn in which it came and in the next one, however small the cache is: a
//!    reader that looks whenever `reads_done` has grown gets what it wanted, and a failure, exactly then.
//! 3. A block is read once at a time, whoever wants it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::cache::{BlockCache, BlockKey, BlockMap, Slot};
use super::error::SnapshotError;
use super::version::{BlockPlace, ValuePlace};
use crate::ids::SnapshotSeq;
use crate::io::AlignedBuf;
use crate::limits::SNAPSHOT_WANTED_MAX;

/// Blocks taken out per turn after the limit was lowered.
const SURPLUS_PER_TURN: usize = 64;

/// Values of the files that are open.
#[derive(Debug)]
pub(super) struct Values {
    cache: BlockCache,
    queue: VecDeque<BlockPlace>,
    /// Queued or being read.
    wanted: BlockMap<()>,
    in_flight: usize,
    in_flight_max: usize,
    fresh: Vec<Fresh>,
    turn: u64,
    reads_done: u64,
    pub(super) counters: ValueCounters,
}

/// What became of the values' reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueCounters {
    /// Values that were in memory when somebody asked; not those whose block was read for it.
    pub hits: u64,
    /// Blocks that came from the disk, sound.
    pub blocks_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Blocks that could not be read, or were damaged.
    pub blocks_failed: u64,
    /// Blocks that had to leave the cache.
    pub blocks_evicted: u64,
}

/// What came of a read and is not in the cache.
#[derive(Debug)]
struct Fresh {
    key: BlockKey,
    turn: u64,
    outcome: Result<Bytes, SnapshotError>,
}

impl Values {
    pub(super) fn new(cache_bytes_max: u64, in_flight_max: usize) -> Self {
        Self {
            cache: BlockCache::new(cache_bytes_max),
            queue: VecDeque::new(),
            wanted: BlockMap::default(),
            in_flight: 0,
            in_flight_max,
            fresh: Vec::new(),
            turn: 0,
            reads_done: 0,
            counters: ValueCounters::default(),
        }
    }

    /// A value whose block is in memory.
    pub(super) fn cached(&mut self, place: &ValuePlace) -> Option<Bytes> {
        let key = key_of(&place.block);
        let turn = self.turn;
        // Whoever waited for the block does not mark it: only use beyond that shows that it should stay.
        let mut is_hit = false;
        let marks = |came| {
            is_hit = !is_fresh(came, turn);
            is_hit
        };
        let block = match self.cache.get(key, marks) {
            Some(block) => block,
            None => self.fresh.iter().find_map(|fresh| fresh.block_of(key))?,
        };
        self.counters.hits += u64::from(is_hit);
        let start = place.start as usize;
        Some(block.slice(start..start + place.bytes as usize))
    }

    /// Why a value's block did not come.
    pub(super) fn failed(&self, place: &ValuePlace) -> Option<&SnapshotError> {
        let key = key_of(&place.block);
        let of_key = |fresh: &'_ &Fresh| fresh.key == key;
        self.fresh
            .iter()
            .filter(of_key)
            .find_map(|fresh| fresh.outcome.as_ref().err())
    }

    /// Has a value's block read, unless it is here or on its way. A failure before is forgotten. When too many are
    /// queued nothing happens, and the reader wants it again when `reads_done` has grown.
    pub(super) fn want(&mut self, place: &ValuePlace) {
        let key = key_of(&place.block);
        let is_here = self.cache.contains(key)
            || self.fresh.iter().any(|fresh| fresh.block_of(key).is_some())
            || self.wanted.contains_key(&key);
        if !is_here && self.queue.len() < SNAPSHOT_WANTED_MAX {
            self.fresh.retain(|fresh| fresh.key != key);
            self.wanted.insert(key, ());
            self.queue.push_back(place.block);
        }
    }

    /// Grows with every block that came or failed.
    pub(super) fn reads_done(&self) -> u64 {
        self.reads_done
    }

    /// A turn of the engine begins: what came in the last but one is no longer held.
    pub(super) fn begin_turn(&mut self) {
        self.turn += 1;
        let turn = self.turn;
        self.fresh.retain(|fresh| is_fresh(fresh.turn, turn));
        for _ in 0..SURPLUS_PER_TURN {
            match self.cache.evict_surplus() {
                Some(slot) => self.on_evicted(slot),
                None => break,
            }
        }
    }

    /// The block to read now, if there is one and not too many are being read.
    pub(super) fn next_read(&mut self) -> Option<BlockPlace> {
        if self.in_flight >= self.in_flight_max {
            return None;
        }
        let next = self.queue.pop_front()?;
        self.in_flight += 1;
        Some(next)
    }

    /// Takes what came of a read: a block that was compared with its checksum, or why there is none.
    pub(super) fn on_read(&mut self, place: &BlockPlace, read: Result<AlignedBuf, SnapshotError>) {
        let key = key_of(place);
        let was_wanted = self.wanted.remove(&key).is_some();
        assert!(was_wanted, "only what is wanted is read: {key:?}");
        self.in_flight -= 1;
        self.reads_done += 1;
        match read {
            Ok(buf) => self.keep(key, Bytes::from_owner(buf)),
            Err(error) => {
                self.counters.blocks_failed += 1;
                self.hold(key, self.turn, Err(error));
            }
        }
    }

    /// Whether a block of that file is queued or being read.
    pub(super) fn is_reading(&self, file: SnapshotSeq) -> bool {
        self.wanted.keys().any(|key| key.file == file)
    }

    /// Files before this one have no value of the current snapshot: the cache is for blocks of others.
    pub(super) fn set_oldest(&mut self, file: SnapshotSeq) {
        self.cache.set_oldest(file);
    }

    /// Another limit of the cache, which it comes down to within some turns.
    pub(super) fn set_cache_bytes_max(&mut self, bytes: u64) {
        self.cache.set_bytes_max(bytes);
    }

    /// Bytes of the cached blocks.
    pub(super) fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    fn keep(&mut self, key: BlockKey, block: Bytes) {
        self.counters.blocks_read += 1;
        self.counters.bytes_read += block.len() as u64;
        if self.cache.takes(block.len()) {
            while let Some(slot) = self.cache.evict_for(block.len()) {
                self.on_evicted(slot);
            }
            self.cache.insert(key, block, self.turn);
        } else {
            self.hold(key, self.turn, Ok(block));
        }
    }

    fn hold(&mut self, key: BlockKey, turn: u64, outcome: Result<Bytes, SnapshotError>) {
        self.fresh.push(Fresh { key, turn, outcome });
    }

    fn on_evicted(&mut self, slot: Slot) {
        self.counters.blocks_evicted += 1;
        if is_fresh(slot.turn, self.turn) {
            self.hold(slot.key, slot.turn, Ok(slot.block));
        }
    }
}

impl Fresh {
    fn block_of(&self, key: BlockKey) -> Option<&Bytes> {
        self.outcome.as_ref().ok().filter(|_| self.key == key)
    }
}

fn key_of(block: &BlockPlace) -> BlockKey {
    BlockKey {
        file: block.file,
        offset: block.offset,
    }
}

/// Whether what came in one turn is held in another.
fn is_fresh(came: u64, turn: u64) -> bool {
    turn <= came + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place(block: u64) -> ValuePlace {
        let block = BlockPlace {
            file: SnapshotSeq(1),
            offset: block * 4096,
            bytes: 4096,
            checksum: 0,
        };
        ValuePlace {
            block,
            start: 10,
            bytes: 20,
        }
    }

    fn complete(values: &mut Values) -> Option<u64> {
        let block = values.next_read()?;
        values.on_read(&block, Ok(AlignedBuf::zeroed(4096)));
        Some(block.offset / 4096)
    }

    #[test]
    fn the_queue_has_an_end_and_who_comes_again_is_served() {
        let mut values = Values::new(0, 1);
        let all = SNAPSHOT_WANTED_MAX as u64 + 10;
        for block in 0..all {
            values.want(&place(block));
            values.want(&place(block));
        }
        assert!(values.is_reading(SnapshotSeq(1)) && !values.is_reading(SnapshotSeq(2)));
        let mut served = 0;
        while let Some(block) = complete(&mut values) {
            assert_eq!(block, served, "in the order they were wanted, and once");
            served += 1;
        }
        assert_eq!(served, SNAPSHOT_WANTED_MAX as u64);
        assert_eq!(values.reads_done(), served);
        values.want(&place(all - 1));
        assert_eq!(complete(&mut values), Some(all - 1));
        assert!(!values.is_reading(SnapshotSeq(1)));
    }

    #[test]
    fn what_came_is_there_in_its_turn_and_the_next_whatever_the_cache_keeps() {
        // No room at all, and room for four blocks: more come at once.
        for cache_bytes in [0, 4 * (4096 + 128)] {
            let mut values = Values::new(cache_bytes, 16);
            for block in 0..10 {
                values.want(&place(block));
            }
            values.begin_turn();
            while complete(&mut values).is_some() {}
            for _ in 0..2 {
                for block in 0..10 {
                    assert_eq!(values.cached(&place(block)).unwrap(), [0; 20][..]);
                }
                values.begin_turn();
            }
            let kept = (0..10).filter(|block| values.cached(&place(*block)).is_some());
            assert_eq!(kept.count() as u64, cache_bytes / 4096);
        }
    }

    /// A scan wants many blocks once; what was used before, again and again, outlasts it.
    #[test]
    fn a_scan_does_not_drive_out_what_is_used() {
        let mut values = Values::new(8 * (4096 + 128), 4);
        for _ in 0..3 {
            values.want(&place(0));
            complete(&mut values);
            values.begin_turn();
            values.begin_turn();
            values.cached(&place(0)).unwrap();
        }
        for block in 1..100 {
            values.want(&place(block));
            complete(&mut values);
            assert!(values.cached(&place(block)).is_some());
            values.begin_turn();
            values.begin_turn();
            if block % 3 == 0 {
                assert!(values.cached(&place(0)).is_some(), "after {block}");
            }
        }
    }
}
