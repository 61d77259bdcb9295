//! Every change of the keyspace in revision order, and the state at any revision.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

use super::Violation;

/// The revision of an empty keyspace.
pub(super) const FIRST_REVISION: i64 = 1;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of a key")]
pub struct Event {
    pub revision: i64,
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub is_delete: bool,
}

/// All changes.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    events: Vec<Event>,
    /// Where the events of a revision begin, by revision after the first.
    starts: Vec<usize>,
    /// Places in `events`, by key.
    by_key: BTreeMap<Bytes, Vec<usize>>,
    /// What was seen before its turn, by revision.
    early: BTreeMap<i64, Vec<Event>>,
}

impl EventLog {
    /// Adds the changes of the next revision, and of those after it that were seen early.
    ///
    /// # Errors
    /// A gap, no change at all, or fields that do not follow from what the key was before.
    pub fn push(&mut self, events: Vec<Event>) -> Result<(), Violation> {
        self.push_one(events)?;
        while let Some(events) = self.early.remove(&(self.revision() + 1)) {
            self.push_one(events)?;
        }
        Ok(())
    }

    /// Keeps the changes of a later revision, until those before it are there. Where a snapshot ends a member may tell what
    /// follows before those who had no snapshot have told what is in it.
    ///
    /// # Errors
    /// They are not what another member has at this revision.
    pub fn push_early(&mut self, revision: i64, events: Vec<Event>) -> Result<(), Violation> {
        match self.early.entry(revision) {
            Entry::Occupied(entry) if *entry.get() != events => {
                let what = format!("revision {revision} is {events:?} and {:?}", entry.get());
                Err(Violation::new("G-R-7", what))
            }
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(entry) => {
                entry.insert(events);
                Ok(())
            }
        }
    }

    /// A revision that was seen although one before it never was.
    #[must_use]
    pub fn orphan(&self) -> Option<i64> {
        self.early.keys().next().copied()
    }

    fn push_one(&mut self, events: Vec<Event>) -> Result<(), Violation> {
        let revision = self.revision() + 1;
        if events.is_empty() {
            return Err(Violation::new(
                "G-KV-2",
                format!("revision {revision} changes nothing"),
            ));
        }
        let start = self.events.len();
        for event in events {
            self.check_fields(revision, &event)?;
            let place = self.events.len();
            self.by_key
                .entry(event.key.clone())
                .or_default()
                .push(place);
            self.events.push(event);
        }
        self.starts.push(start);
        Ok(())
    }

    fn check_fields(&self, revision: i64, event: &Event) -> Result<(), Violation> {
        let before = self.newest(&event.key);
        let (create_revision, version) = match before {
            _ if event.is_delete => (0, 0),
            Some(before) => (before.create_revision, before.version + 1),
            None => (revision, 1),
        };
        let is_right = event.revision == revision
            && event.create_revision == create_revision
            && event.version == version
            && !(event.is_delete && before.is_none());
        if is_right {
            return Ok(());
        }
        Err(Violation::new(
            "G-KV-3",
            format!("{event:?} follows {before:?} at revision {revision}"),
        ))
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        FIRST_REVISION + self.starts.len() as i64
    }

    /// All changes.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The changes of a revision, in their order.
    #[must_use]
    pub fn at(&self, revision: i64) -> &[Event] {
        let index = revision - FIRST_REVISION - 1;
        let Some(start) = usize::try_from(index)
            .ok()
            .and_then(|index| self.starts.get(index))
        else {
            return &[];
        };
        let end = self.starts.get(index as usize + 1);
        &self.events[*start..end.copied().unwrap_or(self.events.len())]
    }

    /// What a key was at a revision, if it existed.
    #[must_use]
    pub fn key_at(&self, key: &[u8], revision: i64) -> Option<&Event> {
        let places = self.by_key.get(key)?;
        let count = places.partition_point(|place| self.events[*place].revision <= revision);
        let last = &self.events[*places.get(count.checked_sub(1)?)?];
        (!last.is_delete).then_some(last)
    }

    /// The keys of a range that existed at a revision, in order.
    pub fn range_at<'a>(
        &'a self,
        key: &'a [u8],
        range_end: &'a [u8],
        revision: i64,
    ) -> impl Iterator<Item = &'a Event> {
        let from = self.by_key.range(Bytes::copy_from_slice(key)..);
        from.map(|(key, _)| key)
            .take_while(move |found| is_in_range(found, key, range_end))
            .filter_map(move |key| self.key_at(key, revision))
    }

    fn newest(&self, key: &[u8]) -> Option<&Event> {
        let last = &self.events[*self.by_key.get(key)?.last()?];
        (!last.is_delete).then_some(last)
    }
}

/// Whether a key is in a range with etcd's special ends.
pub(super) fn is_in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}
