//! The layers of the keyspace, and reading through them.
//!
//! ```text
//!   top      index and change log in memory: everything written since the last freeze
//!   frozen   the same, no longer written to, while a checkpoint makes a snapshot of it
//!   stored   the newest snapshot file: its index searched in place, its values on the disk
//! ```
//!
//! A key's versions are those of the stored layer, then the frozen one's, then the top's; every layer's
//! are newer than all of the layers below it. The store writes to the top and reads through all three.
//!
//! Invariants:
//! 1. Every version of a layer is newer than every version of the layers below it.
//! 2. A tombstone stays in its layer as long as a layer below holds versions of its key.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use crate::ids::Revision;
use crate::mvcc::changes::ChangeLog;
use crate::mvcc::history::History;
use crate::mvcc::record::{Record, footprint_bytes};
use crate::mvcc::select::Span;
use crate::mvcc::slab::Slab;
use crate::mvcc::tree::{Tree, Walk};
use crate::snapshot::{Cursor, KeyRef, Snapshot, VersionRef};

/// What a version takes of memory beside itself: in the index and in the log.
const VERSION_MEMORY_BYTES: u64 = 128;

/// One layer in memory.
#[derive(Debug)]
pub struct Layer {
    pub(crate) tree: Tree,
    pub(crate) changes: ChangeLog,
    /// Where its versions lie.
    pub(crate) slab: Slab,
    /// Footprint of the versions it holds.
    pub(crate) size_bytes: u64,
}

/// What the layers take of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBytes {
    /// Versions since the last freeze.
    pub top: u64,
    /// Versions of which a snapshot is being made.
    pub frozen: u64,
    /// The index of the newest snapshot.
    pub index: u64,
}

impl MemoryBytes {
    /// Versions that no snapshot holds.
    #[must_use]
    pub fn versions(&self) -> u64 {
        self.top + self.frozen
    }
}

/// The layers below the one that is written to.
#[derive(Debug, Default)]
pub(crate) struct Below {
    pub(crate) frozen: Option<Arc<Layer>>,
    pub(crate) stored: Option<Arc<Snapshot>>,
}

/// A version, wherever it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'a> {
    Memory(&'a Record),
    Stored(&'a Arc<Snapshot>, VersionRef),
}

/// All versions of one key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Versions<'a> {
    top: Option<&'a History>,
    frozen: Option<&'a History>,
    stored: Option<(&'a Arc<Snapshot>, KeyRef)>,
}

/// A walk over the keys of all layers.
#[derive(Debug)]
pub(crate) struct LayerWalk<'a> {
    top: Walk<'a>,
    frozen: Option<Walk<'a>>,
    stored: Option<(&'a Arc<Snapshot>, Cursor<'a>)>,
    end: Option<&'a [u8]>,
    /// The key of a version that only the stored layer has.
    key: Vec<u8>,
}

impl Layer {
    /// An empty layer above `changes_below` changes.
    pub(crate) fn new(changes_below: u64) -> Self {
        Self {
            tree: Tree::new(),
            changes: ChangeLog::after(changes_below),
            slab: Slab::default(),
            size_bytes: 0,
        }
    }

    /// Drops the layer in parts, with `between` between two of them: there may be millions of versions in it, and
    /// whoever computes that long has to let others have the CPU.
    pub fn take_apart(self, mut between: impl FnMut()) {
        let Self {
            tree,
            changes,
            slab: _,
            size_bytes: _,
        } = self;
        changes.take_apart(&mut between);
        tree.take_apart(&mut between);
    }

    /// What it takes of memory, roughly: index and log have their part.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.slab.held_bytes() + self.changes.length() * VERSION_MEMORY_BYTES
    }

    /// All versions of a key; see [`Below::versions`].
    pub(crate) fn versions<'a>(&'a self, below: &'a Below, key: &[u8]) -> Option<Versions<'a>> {
        let top = self.tree.get(key);
        let versions = Versions {
            top,
            ..below.versions(key)
        };
        versions.is_some().then_some(versions)
    }

    /// The keys of `[start, end)` of this layer and those below, in order.
    pub(crate) fn walk<'a>(
        &'a self,
        below: &'a Below,
        start: &[u8],
        end: Option<&'a [u8]>,
    ) -> LayerWalk<'a> {
        LayerWalk {
            top: self.tree.walk(start, end),
            frozen: below
                .frozen
                .as_ref()
                .map(|frozen| frozen.tree.walk(start, end)),
            stored: below
                .stored
                .as_ref()
                .map(|stored| (stored, stored.cursor(start))),
            end,
            key: Vec::new(),
        }
    }
}

impl Below {
    /// The versions of a key in these layers, perhaps none.
    pub(crate) fn versions(&self, key: &[u8]) -> Versions<'_> {
        let stored = self.stored.as_ref();
        Versions {
            top: None,
            frozen: self.frozen.as_ref().and_then(|frozen| frozen.tree.get(key)),
            stored: stored.and_then(|stored| Some((stored, stored.find(key)?))),
        }
    }

    /// Whether there is nothing below.
    pub(crate) fn is_empty(&self) -> bool {
        self.frozen.is_none() && self.stored.is_none()
    }

    /// The number of live keys in `[start, end)`, as these layers have it.
    pub(crate) fn live_between(&self, start: &[u8], end: Option<&[u8]>) -> i64 {
        let stored = self.stored.as_ref().map_or(0, |stored| {
            let until = end.map_or(stored.live_count(), |end| stored.live_before(end));
            until.cast_signed() - stored.live_before(start).cast_signed()
        });
        let frozen = self
            .frozen
            .as_ref()
            .map_or(0, |frozen| frozen.tree.live_between(start, end));
        stored + frozen
    }

    /// Footprint of the versions in these layers.
    pub(crate) fn size_bytes(&self) -> u64 {
        let stored = self.stored.as_ref().map_or(0, |stored| {
            footprint_bytes(stored.data_bytes(), stored.version_count())
        });
        stored + self.frozen.as_ref().map_or(0, |frozen| frozen.size_bytes)
    }

    /// The change with a lasting number.
    pub(crate) fn change(&self, ordinal: u64) -> Option<Found<'_>> {
        if let Some(frozen) = &self.frozen
            && ordinal >= frozen.changes.first_ordinal()
        {
            return frozen.changes.get(ordinal).map(Found::Memory);
        }
        let stored = self.stored.as_ref()?;
        let index = ordinal.checked_sub(stored.meta().changes_taken)?;
        (index < stored.change_count()).then(|| Found::Stored(stored, stored.change(index)))
    }

    /// The lasting number of the first change of `revision` or later; `None` if it is not here.
    pub(crate) fn ordinal_of(&self, revision: Revision) -> Option<u64> {
        let stored = self.stored.as_ref().and_then(|stored| {
            let index = stored.change_index_of(revision);
            (index < stored.change_count()).then(|| stored.meta().changes_taken + index)
        });
        stored.or_else(|| {
            let changes = &self.frozen.as_ref()?.changes;
            let ordinal = changes.ordinal_of(revision);
            (ordinal < changes.next_ordinal()).then_some(ordinal)
        })
    }
}

impl<'a> Found<'a> {
    pub(crate) fn revision(self) -> Revision {
        match self {
            Self::Memory(record) => record.revision,
            Self::Stored(snapshot, at) => snapshot.revision_of(at),
        }
    }

    pub(crate) fn position(self) -> (Revision, u32) {
        match self {
            Self::Memory(record) => record.position(),
            Self::Stored(snapshot, at) => {
                let version = snapshot.version(at);
                (version.revision, version.sub)
            }
        }
    }

    pub(crate) fn is_tombstone(self) -> bool {
        match self {
            Self::Memory(record) => record.tombstone,
            Self::Stored(snapshot, at) => snapshot.version(at).tombstone,
        }
    }

    pub(crate) fn create_revision(self) -> Revision {
        match self {
            Self::Memory(record) => record.create_revision,
            Self::Stored(snapshot, at) => snapshot.version(at).create_revision,
        }
    }

    /// How this version, as a change, moved the number of keys.
    pub(crate) fn count_delta(self) -> i64 {
        let (tombstone, version) = match self {
            Self::Memory(record) => (record.tombstone, record.version),
            Self::Stored(snapshot, at) => {
                let version = snapshot.version(at);
                (version.tombstone, version.version)
            }
        };
        match (tombstone, version) {
            (true, _) => -1,
            (false, 1) => 1,
            (false, _) => 0,
        }
    }

    pub(crate) fn footprint_bytes(self) -> u64 {
        match self {
            Self::Memory(record) => record.footprint_bytes(),
            Self::Stored(snapshot, at) => {
                let key = snapshot.key_bytes(snapshot.key_of(at));
                footprint_bytes(
                    u64::from(key) + u64::from(snapshot.version(at).value_bytes),
                    1,
                )
            }
        }
    }

    pub(crate) fn key(self) -> Cow<'a, [u8]> {
        match self {
            Self::Memory(record) => Cow::Borrowed(record.key()),
            Self::Stored(snapshot, at) => {
                let mut key = Vec::new();
                snapshot.append_key(snapshot.key_of(at), &mut key);
                Cow::Owned(key)
            }
        }
    }

    /// Whether its key lies in a span.
    pub(crate) fn is_in(self, span: &Span) -> bool {
        match self {
            Self::Memory(record) => span.contains(record.key()),
            Self::Stored(snapshot, at) => {
                let key = snapshot.key_of(at);
                span.contains_by(|other| snapshot.compare_key(key, other))
            }
        }
    }

    /// The version as a record, cold if its value is on the disk.
    pub(crate) fn record(self) -> Record {
        match self {
            Self::Memory(record) => record.clone(),
            Self::Stored(snapshot, at) => Record::stored(snapshot, at),
        }
    }
}

impl<'a> Versions<'a> {
    pub(crate) fn is_some(&self) -> bool {
        self.top.is_some() || self.frozen.is_some() || self.stored.is_some()
    }

    /// The newest version, which may be a tombstone; none only if there is no version at all.
    pub(crate) fn newest(&self) -> Option<Found<'a>> {
        let memory = self.top.or(self.frozen).map(History::newest);
        memory.map(Found::Memory).or_else(|| {
            let (snapshot, key) = self.stored?;
            let row = snapshot.rows(key).end - 1;
            Some(Found::Stored(
                snapshot,
                VersionRef {
                    leaf: key.leaf,
                    row,
                },
            ))
        })
    }

    /// The newest version, if it is live.
    pub(crate) fn newest_live(&self) -> Option<Found<'a>> {
        self.newest().filter(|found| !found.is_tombstone())
    }

    /// The version a read at `revision` sees, which may be a tombstone.
    pub(crate) fn at(&self, revision: Revision) -> Option<Found<'a>> {
        let in_memory = |history: Option<&'a History>| history?.at(revision).map(Found::Memory);
        in_memory(self.top)
            .or_else(|| in_memory(self.frozen))
            .or_else(|| {
                let (snapshot, key) = self.stored?;
                let at = |row| VersionRef {
                    leaf: key.leaf,
                    row,
                };
                let rows = snapshot.rows(key);
                let after = partition_point(rows.clone(), |row| {
                    snapshot.revision_of(at(row)) <= revision
                });
                (after > rows.start).then(|| Found::Stored(snapshot, at(after - 1)))
            })
    }

    /// The version a read at `revision` returns; none where the key did not exist then.
    pub(crate) fn live_at(&self, revision: Revision) -> Option<Found<'a>> {
        self.at(revision).filter(|found| !found.is_tombstone())
    }

    /// All versions, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Found<'a>> + use<'a> {
        let stored = self.stored.into_iter().flat_map(|(snapshot, key)| {
            let at = move |row| VersionRef {
                leaf: key.leaf,
                row,
            };
            snapshot
                .rows(key)
                .map(move |row| Found::Stored(snapshot, at(row)))
        });
        let memory = [self.frozen, self.top].into_iter().flatten();
        stored.chain(memory.flat_map(|history| history.iter().map(Found::Memory)))
    }
}

impl<'a> LayerWalk<'a> {
    /// The next key, and its versions.
    pub(crate) fn next(&mut self) -> Option<(&[u8], Versions<'a>)> {
        let top = self.top.peek();
        let frozen = self.frozen.as_mut().and_then(Walk::peek);
        let stored = self.peek_stored();
        let memory = match (top, frozen) {
            (Some((top, _)), Some((frozen, _))) => Some(top.min(frozen)),
            (Some((key, _)), None) | (None, Some((key, _))) => Some(key),
            (None, None) => None,
        };
        let (takes_memory, takes_stored) = match (memory, stored) {
            (None, None) => return None,
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some(memory), Some((snapshot, key))) => {
                let order = snapshot.compare_key(key, memory);
                (order != Ordering::Less, order != Ordering::Greater)
            }
        };
        let mut versions = Versions::default();
        if takes_stored {
            versions.stored = stored;
            let (_, cursor) = self.stored.as_mut().expect("it was just looked at");
            cursor.advance();
        }
        let Some(key) = memory.filter(|_| takes_memory) else {
            let (snapshot, key) = stored.expect("the only layer with another key");
            self.key.clear();
            snapshot.append_key(key, &mut self.key);
            return Some((&self.key, versions));
        };
        if let Some((found, history)) = top
            && found == key
        {
            versions.top = Some(history);
            self.top.advance();
        }
        if let (Some((found, history)), Some(frozen)) = (frozen, self.frozen.as_mut())
            && found == key
        {
            versions.frozen = Some(history);
            frozen.advance();
        }
        Some((key, versions))
    }

    fn peek_stored(&self) -> Option<(&'a Arc<Snapshot>, KeyRef)> {
        let (snapshot, cursor) = self.stored.as_ref()?;
        let key = cursor.current()?;
        let is_before_end = self
            .end
            .is_none_or(|end| snapshot.compare_key(key, end) == Ordering::Less);
        is_before_end.then_some((*snapshot, key))
    }
}

/// The first of `rows` for which `is_before` does not hold.
fn partition_point(rows: std::ops::Range<u32>, is_before: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (rows.start, rows.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
