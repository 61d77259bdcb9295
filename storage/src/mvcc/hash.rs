//! HashKV: one number for the keyspace at a revision, the same on every member and the same as etcd's.
//!
//! The number is a CRC32C over the name of etcd's key bucket and then, in revision order, the stored
//! key and value of every version that counts. A stored key is the main revision, an underscore and
//! the sub revision, big-endian, and a `t` behind a tombstone's. What counts at revision R with the
//! compact revision C:
//!
//! - every change in (C, R], deletes included;
//! - at or below C, the versions that a read at R still sees. If R sees no key at all, etcd leaves
//!   nothing out, which after a finished compaction means the versions that a read at C sees.
//!
//! So physical compaction never changes the number, neither ours nor etcd's.
//!
//! A scan collects versions in steps; the checksum is computed by [`HashScan::finish`], which needs
//! nothing but the scan and the snapshot's file, and may run on another thread.

use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::ApiError;

use crate::ids::Revision;
use crate::mvcc::layers::Found;
use crate::mvcc::record::Record;
use crate::mvcc::scrub::Pin;
use crate::mvcc::store::Store;
use crate::snapshot::{Snapshot, ValuePlace, VersionRef};

const BUCKET_NAME: &[u8] = b"key";
const TOMBSTONE_MARK: &[u8] = b"t";

/// A hash that is computed in steps.
#[derive(Debug)]
pub struct HashScan {
    compact_revision: Revision,
    hash_revision: Revision,
    newest: Revision,
    stage: Stage,
    /// Seen at the hash revision and not newer than the compact revision.
    kept: Vec<Item>,
    /// Seen at the compact revision; collected only while nothing is seen at the hash revision.
    kept_if_nothing_is_seen: Vec<Item>,
    sees_a_key: bool,
    changed: Vec<Item>,
    /// The snapshots of the items: usually one, more if it was replaced during the scan.
    snapshots: Vec<Arc<Snapshot>>,
    _pin: Pin,
}

/// The answer to a HashKV request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKvResult {
    /// The number itself.
    pub hash: u32,
    /// The compact revision it was computed under; -1 before the first compaction.
    pub compact_revision: Revision,
    /// The revision it was computed at.
    pub hash_revision: Revision,
    /// The store's revision when the scan began: the header's.
    pub revision: Revision,
}

/// A version that counts: as small as can be, since there may be one for every key.
#[derive(Debug)]
enum Item {
    Memory(Record),
    /// Of which of the scan's snapshots.
    Stored(u32, VersionRef),
}

#[derive(Debug)]
enum Stage {
    Keys { cursor: Bytes },
    Changes { next: u64, end: u64 },
    Done,
}

impl HashScan {
    /// Plans the scan; revision 0 means the newest.
    pub(crate) fn begin(store: &mut Store, revision: i64) -> Result<Self, ApiError> {
        let (newest, compact_revision) = (store.revision(), store.compact_revision());
        if revision > 0 && revision < compact_revision.0 {
            return Err(ApiError::Compacted);
        }
        if revision > newest.0 {
            return Err(ApiError::FutureRev);
        }
        let hash_revision = if revision == 0 {
            newest
        } else {
            Revision(revision)
        };
        let mut scan = Self {
            compact_revision,
            hash_revision,
            newest,
            stage: Stage::Keys {
                cursor: Bytes::new(),
            },
            kept: Vec::new(),
            kept_if_nothing_is_seen: Vec::new(),
            sees_a_key: false,
            changed: Vec::new(),
            snapshots: Vec::new(),
            _pin: store.pin(compact_revision),
        };
        // Before the first compaction every version is a change after it.
        if compact_revision < Revision(1) {
            scan.begin_changes(store);
        }
        Ok(scan)
    }

    /// Visits at most `budget` keys or changes; true when all were visited.
    pub(crate) fn step(&mut self, store: &Store, budget: usize) -> bool {
        let budget = budget.max(1);
        match &self.stage {
            Stage::Keys { cursor } => {
                let cursor = cursor.clone();
                self.scan_keys(store, &cursor, budget);
            }
            Stage::Changes { next, end } => {
                let (next, end) = (*next, *end);
                let until = end.min(next.saturating_add(budget as u64));
                for change in store.changes_between(next, until) {
                    let item = item(&mut self.snapshots, change);
                    self.changed.push(item);
                }
                self.stage = if until == end {
                    Stage::Done
                } else {
                    Stage::Changes { next: until, end }
                };
            }
            Stage::Done => {}
        }
        matches!(self.stage, Stage::Done)
    }

    /// The checksum of what the steps collected. `read` gets a value from the snapshot's file.
    ///
    /// # Errors
    /// What `read` fails with.
    pub fn finish<E>(
        mut self,
        mut read: impl FnMut(&Arc<Snapshot>, &ValuePlace) -> Result<Bytes, E>,
    ) -> Result<HashKvResult, E> {
        assert!(
            matches!(self.stage, Stage::Done),
            "only a complete scan is finished"
        );
        if !self.sees_a_key {
            self.kept = self.kept_if_nothing_is_seen;
        }
        let snapshots = self.snapshots;
        self.kept
            .sort_unstable_by_key(|item| item.found(&snapshots).position());
        let mut hash = crc32c::crc32c(BUCKET_NAME);
        for item in self.kept.iter().chain(&self.changed) {
            let mut record = item.found(&snapshots).record();
            if let (Some(place), Some(snapshot)) = (record.place(), record.snapshot()) {
                let value = read(snapshot, place)?;
                record = record.with_value(&value);
            }
            hash = append(hash, &record);
        }
        Ok(HashKvResult {
            hash,
            compact_revision: self.compact_revision,
            hash_revision: self.hash_revision,
            revision: self.newest,
        })
    }

    fn scan_keys(&mut self, store: &Store, cursor: &Bytes, budget: usize) {
        let mut left = budget;
        let mut walk = store.walk(cursor, None);
        while let Some((key, versions)) = walk.next() {
            if left == 0 {
                let cursor = Bytes::copy_from_slice(key);
                self.stage = Stage::Keys { cursor };
                return;
            }
            left -= 1;
            if let Some(found) = versions.live_at(self.hash_revision) {
                self.sees_a_key = true;
                if found.revision() <= self.compact_revision {
                    let item = item(&mut self.snapshots, found);
                    self.kept.push(item);
                }
            }
            if !self.sees_a_key
                && let Some(found) = versions.live_at(self.compact_revision.min(self.hash_revision))
            {
                let item = item(&mut self.snapshots, found);
                self.kept_if_nothing_is_seen.push(item);
            }
        }
        self.begin_changes(store);
    }

    fn begin_changes(&mut self, store: &Store) {
        if self.sees_a_key {
            self.kept_if_nothing_is_seen = Vec::new();
        }
        let next = store.change_ordinal_of(self.compact_revision.next());
        let end = store.change_ordinal_of(self.hash_revision.next()).max(next);
        self.stage = Stage::Changes { next, end };
    }
}

impl Item {
    fn found<'a>(&'a self, snapshots: &'a [Arc<Snapshot>]) -> Found<'a> {
        match self {
            Self::Memory(record) => Found::Memory(record),
            Self::Stored(snapshot, at) => Found::Stored(&snapshots[*snapshot as usize], *at),
        }
    }
}

fn item(snapshots: &mut Vec<Arc<Snapshot>>, found: Found<'_>) -> Item {
    match found {
        Found::Memory(record) => Item::Memory(record.clone()),
        Found::Stored(snapshot, at) => {
            let is_known = |known: &Arc<Snapshot>| Arc::ptr_eq(known, snapshot);
            let index = snapshots.iter().position(is_known).unwrap_or_else(|| {
                snapshots.push(Arc::clone(snapshot));
                snapshots.len() - 1
            });
            Item::Stored(index as u32, at)
        }
    }
}

fn append(hash: u32, record: &Record) -> u32 {
    let mut stored_key = [b'_'; 17];
    stored_key[..8].copy_from_slice(&record.revision.0.to_be_bytes());
    stored_key[9..].copy_from_slice(&u64::from(record.sub).to_be_bytes());
    let mut hash = crc32c::crc32c_append(hash, &stored_key);
    if record.tombstone {
        hash = crc32c::crc32c_append(hash, TOMBSTONE_MARK);
    }
    crc32c::crc32c_append(hash, record.stored_bytes())
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
