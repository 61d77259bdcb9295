//! Everything that was ever watched, and what it adds up to.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::mvccpb::{Event, KeyValue, event::EventType};

use super::writers::{Operation, Wish};

/// All changes, in revision order.
#[derive(Debug)]
pub struct History {
    /// Events of revision `index + 2`; the first change of a store makes revision 2.
    revisions: Vec<Vec<Event>>,
    state: BTreeMap<Bytes, KeyValue>,
    /// Where each value was written: revision and key.
    values: HashMap<Bytes, Vec<(i64, Bytes)>>,
    /// Where each key was deleted.
    deletes: HashMap<Bytes, Vec<i64>>,
}

const FIRST_CHANGE: i64 = 2;

impl History {
    /// Nothing happened yet.
    pub fn new() -> History {
        History {
            revisions: Vec::new(),
            state: BTreeMap::new(),
            values: HashMap::new(),
            deletes: HashMap::new(),
        }
    }

    /// The newest revision seen.
    pub fn last_revision(&self) -> i64 {
        self.revisions.len() as i64 + FIRST_CHANGE - 1
    }

    /// Adds what a watch delivered: no gap, no repeat, each revision whole.
    pub fn add(&mut self, response: pb::WatchResponse) {
        assert!(!response.canceled, "canceled: {response:?}");
        let mut at_once = None;
        for event in response.events {
            let kv = event.kv.as_ref().expect("an event has a kv");
            let revision = kv.mod_revision;
            if at_once != Some(revision) {
                assert_eq!(
                    revision,
                    self.last_revision() + 1,
                    "the watch left out or repeated revisions"
                );
                self.revisions.push(Vec::new());
                at_once = Some(revision);
            }
            let before = match event.r#type() {
                EventType::Put => {
                    let places = self.values.entry(kv.value.clone()).or_default();
                    places.push((revision, kv.key.clone()));
                    self.state.insert(kv.key.clone(), kv.clone())
                }
                EventType::Delete => {
                    self.deletes
                        .entry(kv.key.clone())
                        .or_default()
                        .push(revision);
                    self.state.remove(&kv.key)
                }
            };
            assert_eq!(event.prev_kv, before, "prev_kv at revision {revision}");
            self.revisions.last_mut().expect("pushed above").push(event);
        }
    }

    /// The keys that were there at a revision, in key order.
    pub fn state_at(&self, revision: i64) -> Vec<KeyValue> {
        if revision == self.last_revision() {
            return self.state.values().cloned().collect();
        }
        let count = usize::try_from(revision + 1 - FIRST_CHANGE).unwrap_or(0);
        let mut state = BTreeMap::new();
        for event in self.revisions[..count].iter().flatten() {
            let kv = event.kv.as_ref().expect("checked when added");
            match event.r#type() {
                EventType::Put => drop(state.insert(&kv.key, kv)),
                EventType::Delete => drop(state.remove(&kv.key)),
            }
        }
        state.into_values().cloned().collect()
    }

    /// At which revision an operation happened, if it did; panics if it happened in part or twice.
    pub fn revision_of(&self, operation: &Operation) -> Option<i64> {
        match &operation.wish {
            Wish::Put { key, token } => self.written(token, &[key]),
            Wish::Pair { hot, own, token } => self.written(token, &[hot, own]),
            Wish::Delete { key } | Wish::Revoke { key, .. } => {
                let deletes = self.deletes.get(key).map_or(&[][..], Vec::as_slice);
                assert!(
                    deletes.len() <= 1,
                    "deleted twice: {operation:?} at {deletes:?}"
                );
                deletes.first().copied()
            }
            Wish::Grant { .. } => None,
        }
    }

    /// Where a value was written, which must be all of `keys` at once or nowhere.
    fn written(&self, token: &Bytes, keys: &[&Bytes]) -> Option<i64> {
        let places = self.values.get(token)?;
        let revision = places[0].0;
        let whole = places.len() == keys.len()
            && places
                .iter()
                .all(|(at, key)| *at == revision && keys.contains(&key));
        assert!(whole, "{token:?} was written in part or twice: {places:?}");
        Some(revision)
    }
}
