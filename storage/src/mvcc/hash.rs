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
//! A scan collects shared records in steps; the checksum is computed by [`HashScan::finish`], which
//! needs nothing but the scan and may run on another thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::ApiError;

use crate::ids::Revision;
use crate::mvcc::record::Record;
use crate::mvcc::scrub::Pin;
use crate::mvcc::store::Store;

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
    kept: Vec<Arc<Record>>,
    /// Seen at the compact revision; collected only while nothing is seen at the hash revision.
    kept_if_nothing_is_seen: Vec<Arc<Record>>,
    sees_a_key: bool,
    changed: Vec<Arc<Record>>,
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
                let changes = store.changes.between(next, until);
                self.changed
                    .extend(changes.map(|change| Arc::clone(&change.record)));
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

    /// The checksum of what the steps collected.
    #[must_use]
    pub fn finish(mut self) -> HashKvResult {
        assert!(
            matches!(self.stage, Stage::Done),
            "only a complete scan is finished"
        );
        if !self.sees_a_key {
            self.kept = self.kept_if_nothing_is_seen;
        }
        self.kept.sort_unstable_by_key(|record| record.position());
        let mut hash = crc32c::crc32c(BUCKET_NAME);
        for record in self.kept.iter().chain(&self.changed) {
            let mut stored_key = [b'_'; 17];
            stored_key[..8].copy_from_slice(&record.revision.0.to_be_bytes());
            stored_key[9..].copy_from_slice(&u64::from(record.sub).to_be_bytes());
            hash = crc32c::crc32c_append(hash, &stored_key);
            if record.tombstone {
                hash = crc32c::crc32c_append(hash, TOMBSTONE_MARK);
            }
            hash = crc32c::crc32c_append(hash, record.stored());
        }
        HashKvResult {
            hash,
            compact_revision: self.compact_revision,
            hash_revision: self.hash_revision,
            revision: self.newest,
        }
    }

    fn scan_keys(&mut self, store: &Store, cursor: &Bytes, budget: usize) {
        let mut left = budget;
        let mut next = None;
        store.tree.walk(cursor, None, false, &mut |key, history| {
            if left == 0 {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            left -= 1;
            if let Some(record) = history.live_at(self.hash_revision) {
                self.sees_a_key = true;
                if record.revision <= self.compact_revision {
                    self.kept.push(Arc::clone(record));
                }
            }
            if !self.sees_a_key
                && let Some(record) = history.live_at(self.compact_revision.min(self.hash_revision))
            {
                self.kept_if_nothing_is_seen.push(Arc::clone(record));
            }
            ControlFlow::Continue(())
        });
        match next {
            Some(cursor) => self.stage = Stage::Keys { cursor },
            None => self.begin_changes(store),
        }
    }

    fn begin_changes(&mut self, store: &Store) {
        if self.sees_a_key {
            self.kept_if_nothing_is_seen = Vec::new();
        }
        let next = store.changes.ordinal_of(self.compact_revision.next());
        let end = store
            .changes
            .ordinal_of(self.hash_revision.next())
            .max(next);
        self.stage = Stage::Changes { next, end };
    }
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
