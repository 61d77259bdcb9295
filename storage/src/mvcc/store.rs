//! The keys: layers, revisions, size.
//!
//! The state machine hands it puts and deletes between two calls of [`Store::commit`]; everything
//! between them belongs to one main revision. Reads inside that transaction see its changes. It hands
//! out records, changes and selections, and never looks at a clock or a file.
//!
//! Invariants:
//! 1. Every version is in its key's history and in the change log of its layer, as the same record.
//! 2. `revision` grows by one for every transaction that changed something, and by nothing else.
//! 3. `compact_revision` only grows; reads below it are refused. etcd starts it at -1, so that a
//!    compaction to revision 0 succeeds once.
//! 4. Nothing that a read at or above `min(compact_revision, pinned revisions)` needs is scrubbed.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::RangeRequest;

use crate::ids::{LeaseId, Revision};
use crate::mvcc::changes::Change;
use crate::mvcc::digest::Digest;
use crate::mvcc::history::History;
use crate::mvcc::layers::{Below, Found, Layer, LayerWalk, MemoryBytes, Versions};
use crate::mvcc::record::{Draft, Record};
use crate::mvcc::scrub::{Pin, Scrub};
use crate::mvcc::select::{Select, Selection, Span};
use crate::mvcc::tree::Upsert;
use crate::snapshot::Snapshot;

/// The keyspace of one shard.
#[derive(Debug)]
pub(crate) struct Store {
    pub(super) top: Layer,
    pub(super) below: Below,
    pub(super) scrub: Scrub,
    revision: Revision,
    compact_revision: Revision,
    /// Changes of the running transaction.
    pending: u32,
    /// Cold records with their values, for the command that is applied next.
    supplied: BTreeMap<(Revision, u32), Record>,
}

/// What a put did.
pub(crate) struct Written {
    /// The new version.
    pub(crate) record: Record,
    /// The live version it replaced, also if the same transaction wrote that one.
    pub(crate) old: Option<Record>,
}

impl Store {
    /// A store in which nothing was ever written.
    pub(crate) fn new() -> Self {
        Self {
            top: Layer::new(0),
            below: Below::default(),
            scrub: Scrub::new(Revision(-1), 0),
            revision: Revision(1),
            compact_revision: Revision(-1),
            pending: 0,
            supplied: BTreeMap::new(),
        }
    }

    /// The store as a snapshot has it.
    pub(crate) fn from_snapshot(snapshot: Arc<Snapshot>) -> Self {
        let meta = snapshot.meta();
        let changes = meta.changes_taken + snapshot.change_count();
        Self {
            top: Layer::new(changes),
            scrub: Scrub::new(meta.horizon, meta.changes_taken),
            revision: meta.revision,
            compact_revision: meta.compact_revision,
            below: Below {
                frozen: None,
                stored: Some(snapshot),
            },
            pending: 0,
            supplied: BTreeMap::new(),
        }
    }

    /// Ends the top layer: from here on a new one is written to. Returns the horizon of the snapshot to
    /// be made of what is below: all that a read at it or later needs must get into it, and all changes
    /// of `unpublished` and later.
    pub(crate) fn freeze(&mut self, unpublished: Option<Revision>) -> Revision {
        assert_eq!(self.pending, 0, "a transaction is not cut in two");
        assert!(self.below.frozen.is_none(), "one checkpoint runs at a time");
        let next = Layer::new(self.top.changes.next_ordinal());
        let frozen = std::mem::replace(&mut self.top, next);
        self.below.frozen = Some(Arc::new(frozen));
        self.scrub.on_frozen();
        Scrub::advance_horizon(self, unpublished)
    }

    /// Puts a snapshot in the place of what it was made of; returns the layer that is no longer needed.
    pub(crate) fn replace_below(&mut self, snapshot: Arc<Snapshot>) -> Option<Arc<Layer>> {
        let meta = snapshot.meta();
        assert_eq!(
            meta.changes_taken + snapshot.change_count(),
            self.top.changes.layer_start(),
            "a snapshot holds exactly what is below the top layer"
        );
        self.scrub.restart(meta.horizon, meta.changes_taken);
        self.below.stored = Some(snapshot);
        self.below.frozen.take()
    }

    /// The layer of which a snapshot is made.
    pub(crate) fn frozen(&self) -> Option<&Arc<Layer>> {
        self.below.frozen.as_ref()
    }

    /// The newest snapshot file.
    pub(crate) fn stored(&self) -> Option<&Arc<Snapshot>> {
        self.below.stored.as_ref()
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

    /// The changes of `revision` and later, oldest first.
    pub(crate) fn changes_from(&self, revision: Revision) -> impl Iterator<Item = Found<'_>> {
        self.changes_between(self.change_ordinal_of(revision), u64::MAX)
    }

    /// Retained changes from `ordinal` up to but not including `end`.
    pub(crate) fn changes_between(
        &self,
        ordinal: u64,
        end: u64,
    ) -> impl Iterator<Item = Found<'_>> {
        let first = ordinal.max(self.first_change_ordinal());
        (first..end.min(self.next_change_ordinal())).filter_map(|ordinal| self.change(ordinal))
    }

    /// The change with a lasting number.
    pub(super) fn change(&self, ordinal: u64) -> Option<Found<'_>> {
        if ordinal >= self.top.changes.layer_start() {
            return self.top.changes.get(ordinal).map(Found::Memory);
        }
        self.below.change(ordinal)
    }

    /// The lasting number of the first change of `revision` or later.
    pub(crate) fn change_ordinal_of(&self, revision: Revision) -> u64 {
        self.below
            .ordinal_of(revision)
            .unwrap_or_else(|| self.top.changes.ordinal_of(revision))
    }

    /// The lasting number of the change that comes next.
    pub(crate) fn next_change_ordinal(&self) -> u64 {
        self.top.changes.next_ordinal()
    }

    fn first_change_ordinal(&self) -> u64 {
        match (&self.below.stored, &self.below.frozen) {
            (Some(stored), _) => stored.meta().changes_taken,
            (None, Some(frozen)) => frozen.changes.first_ordinal(),
            (None, None) => self.top.changes.first_ordinal(),
        }
    }

    /// A change with what a watch reports as the version before it: the live version at the revision
    /// before.
    pub(crate) fn change_with_prev(&self, found: Found<'_>) -> Change {
        let record = found.record();
        let is_create = !record.tombstone && record.create_revision == record.revision;
        let prev = if is_create {
            None
        } else {
            self.versions(record.key())
                .and_then(|versions| versions.live_at(Revision(record.revision.0 - 1)))
                .map(Found::record)
        };
        Change { record, prev }
    }

    /// What keys and versions add up to, those included that a compaction made unreachable and that
    /// are not freed yet.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.top.size_bytes + self.below.size_bytes()
    }

    /// What the layers take of memory, roughly.
    pub(crate) fn memory_bytes(&self) -> MemoryBytes {
        let Below { frozen, stored } = &self.below;
        MemoryBytes {
            top: self.top.memory_bytes(),
            frozen: frozen.as_ref().map_or(0, |frozen| frozen.memory_bytes()),
            index: stored.as_ref().map_or(0, |stored| stored.index_bytes()),
        }
    }

    /// The same without what the next snapshot will leave out, as far as it was found.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.size_bytes() - self.scrub.garbage_bytes()
    }

    /// The number of keys that exist at the newest revision.
    pub(crate) fn key_count(&self) -> u64 {
        self.live_between(&[], None)
    }

    /// The number of keys in `[start, end)` that exist at the newest revision.
    pub(crate) fn live_between(&self, start: &[u8], end: Option<&[u8]>) -> u64 {
        let live = self.below.live_between(start, end) + self.top.tree.live_between(start, end);
        // The ends of a span may be in the wrong order.
        live.max(0).cast_unsigned()
    }

    /// All versions of a key.
    pub(crate) fn versions(&self, key: &[u8]) -> Option<Versions<'_>> {
        self.top.versions(&self.below, key)
    }

    /// The keys of `[start, end)` in order.
    pub(crate) fn walk<'a>(&'a self, start: &[u8], end: Option<&'a [u8]>) -> LayerWalk<'a> {
        self.top.walk(&self.below, start, end)
    }

    /// Whether a key is live.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.versions(key)
            .is_some_and(|versions| versions.newest_live().is_some())
    }

    /// Gives the values of cold records to the command that is applied next.
    pub(crate) fn supply(&mut self, records: impl IntoIterator<Item = Record>) {
        let records = records.into_iter();
        self.supplied = records.map(|record| (record.position(), record)).collect();
    }

    /// A version as a record, with its value if that is in memory or was supplied.
    pub(crate) fn record_of(&self, found: Found<'_>) -> Record {
        record_of(&self.supplied, found)
    }

    /// Brings what puts to `keys` will touch into the cache.
    pub(crate) fn warm<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        self.top.tree.warm(keys);
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
        let Self {
            top,
            below,
            supplied,
            ..
        } = self;
        let Layer { tree, slab, .. } = top;
        let written = tree.upsert(key, |history| {
            let mut live_below = false;
            let old = match history.as_deref().map(History::newest) {
                Some(newest) => Some(newest).filter(|newest| !newest.tombstone).cloned(),
                None if below.is_empty() => None,
                None => {
                    let old = below.versions(key).newest_live();
                    live_below = old.is_some();
                    old.map(|old| record_of(supplied, old))
                }
            };
            let next = next_version(key, value, lease, at, old.as_ref());
            let record = next.replacing_below(live_below).in_slab(slab);
            Upsert {
                insert: append(history, &record),
                live: true,
                live_below,
                output: Written { record, old },
            }
        });
        self.push(&written.record);
        written
    }

    /// Deletes a key; returns the live version it had, or nothing if there was none.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Option<Record> {
        let at = (self.revision.next(), self.pending);
        let Self { top, below, .. } = self;
        let Layer { tree, slab, .. } = top;
        let (old, record) = tree.upsert(key, |history| {
            let is_below = history.is_none();
            let old = match history.as_deref().map(History::newest) {
                Some(newest) => Some(newest).filter(|newest| !newest.tombstone).cloned(),
                None if below.is_empty() => None,
                None => below.versions(key).newest_live().map(Found::record),
            };
            let Some(old) = old else {
                return Upsert {
                    insert: None,
                    live: false,
                    live_below: false,
                    output: None,
                };
            };
            let tombstone = Draft::tombstone(key, at).replacing_below(is_below);
            let record = tombstone.in_slab(slab);
            Upsert {
                insert: append(history, &record),
                live: false,
                live_below: is_below,
                output: Some((old, record)),
            }
        })?;
        self.push(&record);
        Some(old)
    }

    /// The live versions of a span, in key order.
    pub(crate) fn live(&self, span: &Span) -> Vec<Record> {
        self.walk_live(span).collect()
    }

    /// The live versions of a span in key order, one after the other.
    pub(crate) fn walk_live<'a>(
        &'a self,
        span: &'a Span,
    ) -> impl Iterator<Item = Record> + use<'a> {
        let (one, mut walk) = match span {
            Span::Key(key) => (self.versions(key), None),
            Span::Range { start, end } => (None, Some(self.walk(start, end.as_deref()))),
        };
        let mut one = one.into_iter();
        std::iter::from_fn(move || {
            loop {
                let versions = match &mut walk {
                    Some(walk) => walk.next()?.1,
                    None => one.next()?,
                };
                if let Some(found) = versions.newest_live() {
                    return Some(self.record_of(found));
                }
            }
        })
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
            assert!(
                select.unsorted().is_none(),
                "values that decide about an order are supplied"
            );
        }
    }

    /// The cold records that a request puts in order by their values.
    pub(crate) fn cold_to_sort(&self, request: &RangeRequest) -> Vec<Record> {
        let Ok(mut select) = Select::begin(self, request) else {
            return Vec::new();
        };
        while select.step(self, usize::MAX).is_none() {
            if let Some(unsorted) = select.unsorted() {
                let cold = unsorted.iter().filter(|record| record.place().is_some());
                return cold.cloned().collect();
            }
        }
        Vec::new()
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

    /// Frees what no read needs any more, at most about `budget` changes and versions of it; changes
    /// of `unpublished` and later stay whatever was compacted. True if another call would find more to
    /// do right now.
    pub(crate) fn scrub(&mut self, budget: usize, unpublished: Option<Revision>) -> bool {
        Scrub::step(self, budget, unpublished)
    }

    /// Versions found unreachable so far.
    pub(crate) fn scrubbed_versions(&self) -> u64 {
        self.scrub.versions()
    }

    /// The revision up to which everything is scrubbed; see [`Store::scrub`].
    pub(crate) fn scrubbed_revision(&self) -> Revision {
        self.scrub.revision()
    }

    /// Mixes in everything that can be read. What is unreachable but not scrubbed does not count.
    /// `load` reads the values of cold records.
    pub(crate) fn digest(&self, digest: &mut Digest, load: &mut dyn FnMut(Record) -> Record) {
        let compact_revision = self.compact_revision;
        digest.signed(self.revision.0);
        digest.signed(compact_revision.0);
        let mut walk = self.walk(&[], None);
        while let Some((_, versions)) = walk.next() {
            let oldest_seen = versions.live_at(compact_revision).map(Found::position);
            let visible = versions.iter().filter(|found| {
                found.revision() > compact_revision || Some(found.position()) == oldest_seen
            });
            for found in visible {
                let record = load(found.record());
                digest.number(u64::from(record.sub));
                digest.bytes(record.encoded());
            }
        }
        for found in self.changes_from(compact_revision) {
            let change = self.change_with_prev(found);
            digest.bytes(load(change.record).encoded());
            digest.signed(change.prev.as_ref().map_or(0, |prev| prev.revision.0));
        }
    }

    /// Checks invariants 1 and 4, the index's own, and that the size of the top layer is what is there;
    /// a test's tool.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.top.tree.check_invariants();
        let is_scrubbed = self.scrub.revision() == self.compact_revision;
        let mut held = BTreeMap::new();
        for (key, history) in self.top.tree.walk(&[], None) {
            assert!(
                history.iter().all(|record| record.key() == key),
                "a history is of one key"
            );
            if is_scrubbed {
                let below = |record: &&Record| record.revision < self.compact_revision;
                let kept = history.iter().filter(below).collect::<Vec<_>>();
                assert!(kept.len() <= 1, "older versions are scrubbed");
                assert!(
                    !kept.iter().any(|record| record.tombstone)
                        || self.below.versions(key).is_some(),
                    "so are tombstones"
                );
            }
            let records = history.iter();
            held.extend(records.map(|record| (record.position(), record.clone())));
        }
        let logged = self.top.changes.first_ordinal()..self.next_change_ordinal();
        for logged in logged.filter_map(|ordinal| self.top.changes.get(ordinal)) {
            let record = held
                .entry(logged.position())
                .or_insert_with(|| logged.clone());
            assert!(record.is_same(logged), "history and log share a record");
        }
        let size_bytes = held
            .values()
            .map(|record| record.footprint_bytes())
            .sum::<u64>();
        assert_eq!(
            self.top.size_bytes, size_bytes,
            "the size is that of the versions"
        );
    }

    fn push(&mut self, record: &Record) {
        self.top.size_bytes += record.footprint_bytes();
        self.top.changes.push(record.clone());
        self.pending = self
            .pending
            .checked_add(1)
            .expect("fewer changes in a transaction than a request has bytes");
    }
}

fn record_of(supplied: &BTreeMap<(Revision, u32), Record>, found: Found<'_>) -> Record {
    if !supplied.is_empty()
        && let Some(record) = supplied.get(&found.position())
    {
        return record.clone();
    }
    found.record()
}

/// The version that a put writes over `old`.
fn next_version<'a>(
    key: &'a [u8],
    value: Option<&'a [u8]>,
    lease: Option<LeaseId>,
    at: (Revision, u32),
    old: Option<&'a Record>,
) -> Draft<'a> {
    let create_revision = old.map_or(at.0, |old| old.create_revision);
    let version = old.map_or(1, |old| old.version + 1);
    let value = value.unwrap_or_else(|| old.map(|old| old.value()).unwrap_or_default());
    let lease = lease.or(old.map(|old| old.lease)).unwrap_or_default();
    Draft::put(key, value, at, create_revision, version, lease)
}

/// Adds a version to its history; returns the new history of a key that has none.
fn append(history: Option<&mut History>, record: &Record) -> Option<History> {
    match history {
        Some(history) => {
            history.push(record.clone());
            None
        }
        None => Some(History::One(record.clone())),
    }
}
