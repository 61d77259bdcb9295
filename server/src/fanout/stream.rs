//! One watch stream: the responses that wait for its client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::limits::{STREAM_CONTROLS_MAX, StreamBounds};

/// A client's watch stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Responses with the number of events in each.
    queue: VecDeque<(Bytes, usize)>,
    queued_bytes: usize,
    pub(super) queued_events: usize,
    /// Watchers by the id the client knows them by.
    pub(super) watchers: BTreeMap<i64, u64>,
    pub(super) next_id: i64,
    /// Ids of watchers that compaction ended and the client has not cancelled yet: taken, as in etcd.
    pub(super) ended: BTreeSet<i64>,
    /// Watchers that wait for room.
    pub(super) late: VecDeque<u64>,
    /// A slice of history for one of them is on its way.
    pub(super) asked: bool,
    /// Whether a progress mark is on its way.
    pub(super) mark: Mark,
    /// Watchers whose creation waits for the engine.
    pub(super) opening: usize,
    bounds: StreamBounds,
}

/// The progress mark of a stream. One is on its way at a time, however often the client asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mark {
    /// None was asked for.
    #[default]
    Idle,
    /// One is on its way.
    Asked,
    /// One is on its way, and the client has asked again since.
    AskedAgain,
}

impl Stream {
    pub(super) fn bounded(bounds: StreamBounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, response: Bytes, event_count: usize) {
        self.queued_bytes += response.len();
        self.queued_events += event_count;
        self.queue.push_back((response, event_count));
    }

    /// The next response and the number of events in it.
    pub(super) fn pop(&mut self) -> Option<(Bytes, usize)> {
        let (response, event_count) = self.queue.pop_front()?;
        self.queued_bytes -= response.len();
        self.queued_events -= event_count;
        Some((response, event_count))
    }

    pub(super) fn is_full(&self) -> bool {
        self.queued_bytes >= self.bounds.bytes_max
    }

    pub(super) fn has_room_for_history(&self) -> bool {
        self.queued_bytes < self.bounds.bytes_low
    }

    /// Whether the client's next request may be looked at: requests of a stream take effect in order.
    pub(super) fn takes_requests(&self) -> bool {
        self.opening == 0 && self.queue.len() < STREAM_CONTROLS_MAX && !self.is_full()
    }

    /// The id for a new watcher: the wanted one, or the next free one. `None` if it is taken.
    pub(super) fn assign_id(&mut self, wanted: i64) -> Option<i64> {
        if wanted != 0 {
            return (!self.is_taken(wanted)).then_some(wanted);
        }
        while self.is_taken(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }

    fn is_taken(&self, id: i64) -> bool {
        self.watchers.contains_key(&id) || self.ended.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_up_from_zero_around_those_the_client_chose() {
        let mut stream = Stream::default();
        for (wanted, given) in [(0, 0), (2, 2), (0, 1), (0, 3)] {
            let id = stream.assign_id(wanted).unwrap();
            assert_eq!(id, given);
            stream.watchers.insert(id, 0);
        }
        assert_eq!(stream.assign_id(2), None);
    }
}
