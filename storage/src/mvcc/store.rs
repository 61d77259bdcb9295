//! The keys: index, change log, revisions, size.
//!
//! The state machine hands it puts and deletes between two calls of [`Store::commit`]; everything
//! between them belongs to one main revision. Reads inside that transaction see its changes. It hands
//! out records, changes and selections, and never looks at a clock or a file.
//!
//! Invariants:
//! 1. Every change is in its key's history and in the change log, as the same record.
//! 2. `revision` grows by one for every transaction that changed something, and by nothing else.
//! 3. `compact_revision` only grows; reads below it are refused. etcd starts it at -1, so that a
//!    compaction to revision 0 succeeds once.
//! 4. Nothing that a read at or above `min(compact_revision, pinned revisions)` needs is scrubbed.

use std::ops::ControlFlow;
use std::sync::Arc;

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::RangeRequest;

use crate::ids::{LeaseId, Revision};
use crate::mvcc::changes::{Change, ChangeLog};
use crate::mvcc::digest::Digest;
use crate::mvcc::history::History;
use crate::mvcc::record::Record;
use crate::mvcc::scrub::{Pin, Scrub};
use crate::mvcc::select::{Select, Selection, Span};
use crate::mvcc::tree::{Tree, Upsert};

/// What one key costs beside its versions: its place in the index.
const KEY_OVERHEAD_BYTES: u64 = (size_of::<Box<[u8]>>() + size_of::<History>()) as u64;
/// What one change costs beside its record.
const CHANGE_OVERHEAD_BYTES: u64 = size_of::<Change>() as u64;

/// The keyspace of one shard.
#[derive(Debug)]
pub(crate) struct Store {
    pub(super) tree: Tree,
    pub(super) changes: ChangeLog,
    pub(super) scrub: Scrub,
    revision: Revision,
    compact_revision: Revision,
    /// Changes of the running transaction.
    pending: u32,
    size_bytes: u64,
}

/// What a put did.
pub(crate) struct Written {
    /// The new version.
    pub(crate) record: Arc<Record>,
    /// The live version it replaced, also if the same transaction wrote that one.
    pub(crate) old: Option<Arc<Record>>,
}

impl Store {
    /// A store in which nothing was ever written.
    pub(crate) fn new() -> Self {
        Self {
            tree: Tree::new(),
            changes: ChangeLog::default(),
            scrub: Scrub::new(),
            revision: Revision(1),
            compact_revision: Revision(-1),
            pending: 0,
            size_bytes: 0,
        }
    }

    /// The revision of the last committed transaction.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// What a read sees: `revision`, or the running transaction's once it changed something.
    pub(crate) fn read_revision(&self) -> Revision {
        if self.pending > 0 {
            self.revision.next()
        } else {
            self.revision
        }
    }

    /// The revision of the last compaction; -1 before the first.
    pub(crate) fn compact_revision(&self) -> Revision {
        self.compact_revision
    }

    /// Every change since the compact revision.
    pub(crate) fn changes(&self) -> &ChangeLog {
        &self.changes
    }

    /// Memory of keys, versions and changes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The number of keys that exist at the newest revision.
    pub(crate) fn key_count(&self) -> u64 {
        self.tree.live_between(&[], None)
    }

    /// The live version of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.tree
            .get(key)
            .map(History::newest)
            .filter(|record| !record.tombstone)
    }

    /// Brings what puts to `keys` will touch into the cache.
    pub(crate) fn warm<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        self.tree.warm(keys);
    }

    /// Writes a version. `None` for the value or the lease keeps what the key has now; a key that
    /// does not exist has an empty value and no lease.
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        lease: Option<LeaseId>,
    ) -> Written {
        let at = (self.revision.next(), self.pending);
        let written = self.tree.upsert(key, |history| {
            let newest = history.as_deref().map(History::newest);
            let old = newest.filter(|newest| !newest.tombstone).map(Arc::clone);
            let record = Arc::new(next_version(key, value, lease, at, old.as_deref()));
            let prev = history
                .as_deref()
                .and_then(|history| prev_of(&record, history));
            let insert = append(history, &record);
            let written = Written {
                record: Arc::clone(&record),
                old,
            };
            Upsert {
                live: true,
                output: (written, Change { record, prev }, insert.is_some()),
                insert,
            }
        });
        let (written, change, is_new_key) = written;
        if is_new_key {
            self.size_bytes += key.len() as u64 + KEY_OVERHEAD_BYTES;
        }
        self.push(change);
        written
    }

    /// Deletes a key; returns the live version it had, or nothing if there was none.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Option<Arc<Record>> {
        let at = (self.revision.next(), self.pending);
        let deleted = self.tree.upsert(key, |history| {
            let live = history
                .as_deref()
                .map(History::newest)
                .filter(|newest| !newest.tombstone);
            let Some(old) = live.map(Arc::clone) else {
                return Upsert {
                    insert: None,
                    live: false,
                    output: None,
                };
            };
            let record = Arc::new(Record::tombstone(key, at));
            let prev = history
                .as_deref()
                .and_then(|history| prev_of(&record, history));
            append(history, &record);
            Upsert {
                insert: None,
                live: false,
                output: Some((old, Change { record, prev })),
            }
        });
        let (old, change) = deleted?;
        self.push(change);
        Some(old)
    }

    /// The live versions of a span, in key order.
    pub(crate) fn live(&self, span: &Span) -> Vec<Arc<Record>> {
        let mut records = Vec::new();
        self.visit_live(span, |record| {
            records.push(Arc::clone(record));
            ControlFlow::Continue(())
        });
        records
    }

    /// Visits the live versions of a span in key order.
    pub(crate) fn visit_live(
        &self,
        span: &Span,
        mut visit: impl FnMut(&Arc<Record>) -> ControlFlow<()>,
    ) {
        match span {
            Span::Key(key) => {
                if let Some(record) = self.get(key) {
                    let _ends_either_way = visit(record);
                }
            }
            Span::Range { start, end } => {
                self.tree
                    .walk(start, end.as_deref(), true, &mut |_, history| {
                        visit(history.newest())
                    });
            }
        }
    }

    /// Ends a transaction; its changes, if any, become the next revision.
    pub(crate) fn commit(&mut self) {
        self.revision = self.read_revision();
        self.pending = 0;
    }

    /// Refuses reads below `revision` from now on. What they would need is scrubbed later.
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<(), ApiError> {
        if revision <= self.compact_revision {
            return Err(ApiError::Compacted);
        }
        if revision > self.revision {
            return Err(ApiError::FutureRev);
        }
        self.compact_revision = revision;
        Ok(())
    }

    /// Answers a request whole.
    pub(crate) fn select(&self, request: &RangeRequest) -> Result<Selection, ApiError> {
        let mut select = Select::begin(self, request)?;
        loop {
            if let Some(selection) = select.step(self, usize::MAX) {
                return Ok(selection);
            }
        }
    }

    /// Starts to answer a request in steps; what it needs is safe from scrubbing until it is dropped.
    pub(crate) fn select_begin(&mut self, request: &RangeRequest) -> Result<Select, ApiError> {
        let select = Select::begin(self, request)?;
        let pin = self.pin(select.revision());
        Ok(select.pinned(pin))
    }

    /// Keeps everything that a read at `revision` needs until the pin is dropped.
    pub(crate) fn pin(&mut self, revision: Revision) -> Pin {
        assert!(
            revision >= self.scrub.revision(),
            "what is scrubbed cannot be pinned: {revision}"
        );
        self.scrub.pin(revision)
    }

    /// Frees what no read needs any more, at most about `budget` changes and versions of it. True if
    /// another call would find more to do right now.
    pub(crate) fn scrub(&mut self, budget: usize) -> bool {
        let freed = Scrub::step(self, budget);
        self.size_bytes -= freed.bytes;
        freed.more
    }

    /// The revision up to which everything is scrubbed; see [`Store::scrub`].
    pub(crate) fn scrubbed_revision(&self) -> Revision {
        self.scrub.revision()
    }

    /// Mixes in everything that can be read. What is unreachable but not scrubbed does not count.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        let compact_revision = self.compact_revision;
        digest.signed(self.revision.0);
        digest.signed(compact_revision.0);
        self.tree.walk(&[], None, false, &mut |_, history| {
            let oldest_seen = history
                .live_at(compact_revision)
                .map(|record| record.position());
            let visible = history.iter().filter(|record| {
                record.revision > compact_revision || Some(record.position()) == oldest_seen
            });
            for record in visible {
                digest.number(u64::from(record.sub));
                digest.bytes(record.encoded());
            }
            ControlFlow::Continue(())
        });
        for change in self.changes.from(compact_revision) {
            digest.bytes(change.record.encoded());
            digest.signed(change.prev.as_ref().map_or(0, |prev| prev.revision.0));
        }
    }

    /// Checks invariants 1 and 4, the index's own, and that the size is what is there; a test's tool.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        use std::collections::BTreeMap;

        self.tree.check_invariants();
        let mut held = BTreeMap::new();
        let mut size_bytes = 0;
        self.tree.walk(&[], None, false, &mut |key, history| {
            size_bytes += Self::key_footprint_bytes(key);
            assert!(
                history.iter().all(|record| record.key() == key),
                "a history is of one key"
            );
            if self.scrub.revision() == self.compact_revision {
                let below = |record: &&Arc<Record>| record.revision < self.compact_revision;
                let kept = history.iter().filter(below).collect::<Vec<_>>();
                assert!(kept.len() <= 1, "older versions are scrubbed");
                assert!(
                    !kept.iter().any(|record| record.tombstone),
                    "so are tombstones"
                );
            }
            held.extend(
                history
                    .iter()
                    .map(|record| (record.position(), Arc::clone(record))),
            );
            ControlFlow::Continue(())
        });
        for change in self.changes.from(Revision(i64::MIN)) {
            size_bytes += CHANGE_OVERHEAD_BYTES;
            let record = held
                .entry(change.record.position())
                .or_insert_with(|| Arc::clone(&change.record));
            assert!(
                Arc::ptr_eq(record, &change.record),
                "history and log share a record"
            );
        }
        size_bytes += held
            .values()
            .map(|record| record.footprint_bytes())
            .sum::<u64>();
        assert_eq!(
            self.size_bytes, size_bytes,
            "the size is that of keys, versions and changes"
        );
    }

    /// The memory a removed key gives back beside its versions.
    pub(super) fn key_footprint_bytes(key: &[u8]) -> u64 {
        key.len() as u64 + KEY_OVERHEAD_BYTES
    }

    /// The memory a dropped change gives back beside its record.
    pub(super) fn change_footprint_bytes() -> u64 {
        CHANGE_OVERHEAD_BYTES
    }

    fn push(&mut self, change: Change) {
        self.size_bytes += change.record.footprint_bytes() + CHANGE_OVERHEAD_BYTES;
        self.changes.push(change);
        self.pending = self
            .pending
            .checked_add(1)
            .expect("fewer changes in a transaction than a request has bytes");
    }
}

/// The version that a put writes over `old`.
fn next_version(
    key: &[u8],
    value: Option<&[u8]>,
    lease: Option<LeaseId>,
    at: (Revision, u32),
    old: Option<&Record>,
) -> Record {
    let create_revision = old.map_or(at.0, |old| old.create_revision);
    let version = old.map_or(1, |old| old.version + 1);
    let value = value.or(old.map(Record::value)).unwrap_or_default();
    let lease = lease.or(old.map(|old| old.lease)).unwrap_or_default();
    Record::put(key, value, at, create_revision, version, lease)
}

/// What a watch reports as the version before `record`: the live version at the revision before.
fn prev_of(record: &Record, history: &History) -> Option<Arc<Record>> {
    let is_create = !record.tombstone && record.create_revision == record.revision;
    if is_create {
        return None;
    }
    history
        .live_at(Revision(record.revision.0 - 1))
        .map(Arc::clone)
}

/// Adds a version to its history; returns the new history of a key that has none.
fn append(history: Option<&mut History>, record: &Arc<Record>) -> Option<History> {
    match history {
        Some(history) => {
            history.push(Arc::clone(record));
            None
        }
        None => Some(History::One(Arc::clone(record))),
    }
}
