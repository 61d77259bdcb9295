//! From changes to responses: who matches, what is encoded, how it is cut.

use std::cell::OnceCell;

use bytes::Bytes;
use keelson_storage::mvcc::Change;

use super::encode::{self, Shape};
use super::hub::FanOut;
use super::stream::Stream;
use super::watcher::Phase;
use crate::engine::message::StreamKey;

impl FanOut {
    /// Notes for every live watcher which of the changes it matches.
    pub(super) fn match_changes(&mut self, changes: &[Change]) {
        let Self {
            watchers,
            by_key,
            by_range,
            touched,
            ..
        } = self;
        for (index, change) in changes.iter().enumerate() {
            let mut note = |key: u64| {
                let Some(watcher) = watchers.get_mut(key) else {
                    return;
                };
                let from = match watcher.phase {
                    Phase::Live { from } => from,
                    Phase::Late { .. } => return,
                };
                if change.record.revision < from || !watcher.spec.wants(change) {
                    return;
                }
                if watcher.matched.is_empty() {
                    touched.push(key);
                }
                watcher.matched.push(index);
            };
            if let Some(keys) = by_key.get(change.record.key()) {
                keys.iter().for_each(|key| note(*key));
            }
            by_range.stab(change.record.key(), &mut |key| note(key as u64));
        }
    }

    pub(super) fn deliver_live(&mut self, key: u64, cache: &EventCache<'_>) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        let matched = std::mem::take(&mut watcher.matched);
        let stream = StreamKey(watcher.stream);
        if self.streams.get(stream.0).is_some_and(Stream::is_full) {
            watcher.phase = Phase::Late {
                cursor: cache.changes[matched[0]].record.revision,
                asked: false,
            };
            self.counts.late += 1;
            self.wait_for_room(stream, key);
        } else {
            self.send_events(key, cache, &matched);
        }
        if let Some(watcher) = self.watchers.get_mut(key) {
            watcher.matched = matched;
            watcher.matched.clear();
        }
    }

    /// Puts responses with these changes into the watcher's stream, whole revisions at a time.
    pub(super) fn send_events(&mut self, key: u64, cache: &EventCache<'_>, matched: &[usize]) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        if matched.is_empty() {
            return;
        }
        watcher.idle = false;
        let (id, stream) = (watcher.id, StreamKey(watcher.stream));
        let (prev_kv, fragment) = (watcher.spec.prev_kv, watcher.spec.fragment);
        let mut events = Vec::with_capacity(matched.len());
        let mut bytes = 0;
        let mut last = cache.changes[matched[0]].record.revision;
        for index in matched {
            let revision = cache.changes[*index].record.revision;
            if revision > last && bytes >= self.bounds.response_bytes {
                self.send_response(stream, id, fragment, &events, bytes);
                events.clear();
                bytes = 0;
            }
            last = revision;
            let event = cache.event(*index, prev_kv);
            bytes += event.len();
            events.push(event);
        }
        self.send_response(stream, id, fragment, &events, bytes);
    }

    fn send_response(
        &mut self,
        stream: StreamKey,
        watch_id: i64,
        fragment: bool,
        events: &[Bytes],
        event_bytes: usize,
    ) {
        self.counts.events_sent += events.len() as u64;
        let shape = Shape {
            watch_id,
            ..Shape::default()
        };
        let whole = encode::response_bytes(&self.head, &shape, event_bytes);
        if !fragment || whole < self.fragment_bytes || events.len() < 2 {
            let response = encode::response(&self.head, &shape, events);
            return self.push(stream, response, events.len());
        }
        let mut rest = events;
        while !rest.is_empty() {
            let count = self.fragment_len(&shape, rest);
            let (part, after) = rest.split_at(count);
            let shape = Shape {
                fragment: !after.is_empty(),
                ..shape
            };
            let response = encode::response(&self.head, &shape, part);
            self.push(stream, response, part.len());
            rest = after;
        }
    }

    /// How many of the events fit into one fragment; at least one.
    fn fragment_len(&self, shape: &Shape<'_>, events: &[Bytes]) -> usize {
        let shape = Shape {
            fragment: true,
            ..*shape
        };
        let mut bytes = 0;
        for (count, event) in events.iter().enumerate() {
            bytes += event.len();
            let size = encode::response_bytes(&self.head, &shape, bytes);
            if count > 0 && size >= self.fragment_bytes {
                return count;
            }
        }
        events.len()
    }
}

/// The events of some changes, each encoded at most once per form.
pub(super) struct EventCache<'a> {
    changes: &'a [Change],
    encoded: Vec<[OnceCell<Bytes>; 2]>,
}

impl<'a> EventCache<'a> {
    pub(super) fn new(changes: &'a [Change]) -> Self {
        let mut encoded = Vec::new();
        encoded.resize_with(changes.len(), Default::default);
        Self { changes, encoded }
    }

    fn event(&self, index: usize, with_prev: bool) -> Bytes {
        self.encoded[index][usize::from(with_prev)]
            .get_or_init(|| encode::event(&self.changes[index], with_prev))
            .clone()
    }
}
