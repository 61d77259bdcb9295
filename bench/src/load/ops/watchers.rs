//! Watchers: streams with many watches each, as clientv3 shares them out.

use std::ops::Range;

use super::super::net::Net;
use super::super::wire::{bytes_field_bytes, put_bytes, put_bytes_head};
use super::stamp::{WatchAnswer, read_watch};
use crate::grpc::{Event, Failure, Rpc};

/// Tokens of watch streams begin here; those below name a place.
pub const WATCH_TOKENS: u32 = 1 << 31;
/// Field numbers of WatchRequest and WatchCreateRequest.
const REQUEST_CREATE: u32 = 1;
const CREATE_KEY: u32 = 1;
const CREATE_RANGE_END: u32 = 2;

/// All watch streams of one worker.
pub struct Watchers {
    /// The ranges that the watches of each stream see.
    streams: Vec<Vec<Range<Vec<u8>>>>,
    /// Watches that are not confirmed yet.
    uncreated: usize,
    failure: Option<Failure>,
}

impl Watchers {
    /// Streams with these watches; they begin with the next revision.
    pub fn new(streams: Vec<Vec<Range<Vec<u8>>>>) -> Self {
        Self {
            uncreated: streams.iter().map(Vec::len).sum(),
            streams,
            failure: None,
        }
    }

    /// Opens the streams, one after the other over all connections.
    pub fn open(&self, net: &mut Net) {
        for (at, ranges) in self.streams.iter().enumerate() {
            let session = net.session(at);
            let stream = session.open(Rpc::Watch, WATCH_TOKENS + at as u32);
            for range in ranges {
                session.send(stream, |out| put_create(out, range));
            }
        }
    }

    /// Whether all watches are there.
    pub fn is_ready(&self) -> Result<bool, Failure> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(self.uncreated == 0),
        }
    }

    /// What made a watch end, if one has ended.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Takes what came on a watch stream, and hands on the value of each event. An error is to be
    /// counted: a watch has ended.
    pub fn on_event(
        &mut self,
        event: Event<'_>,
        on_value: impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        let failure = match event {
            Event::Message(message) => match read_watch(message, on_value) {
                Ok(WatchAnswer::Events) => return Ok(()),
                Ok(WatchAnswer::Created) => {
                    self.uncreated = self.uncreated.saturating_sub(1);
                    return Ok(());
                }
                Ok(WatchAnswer::Canceled) => Failure::Answer("the server canceled a watch"),
                Err(_) => Failure::Answer("not a WatchResponse"),
            },
            Event::Piece { .. } => unreachable!("whole messages were asked for"),
            Event::End(Ok(())) => Failure::Answer("the server ended a watch stream"),
            Event::End(Err(failure)) => failure,
        };
        self.failure = Some(failure.clone());
        Err(failure)
    }
}

/// Appends a WatchRequest that creates a watch.
fn put_create(out: &mut Vec<u8>, range: &Range<Vec<u8>>) {
    let create_bytes = bytes_field_bytes(range.start.len()) + bytes_field_bytes(range.end.len());
    put_bytes_head(out, REQUEST_CREATE, create_bytes);
    put_bytes(out, CREATE_KEY, &range.start);
    put_bytes(out, CREATE_RANGE_END, &range.end);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::etcdserverpb::{WatchRequest, WatchResponse, watch_request::RequestUnion};
    use prost::Message;

    use super::*;

    #[test]
    fn a_create_request_names_its_range() {
        let mut out = Vec::new();
        put_create(&mut out, &(b"bench/".to_vec()..b"bench0".to_vec()));
        let request = WatchRequest::decode(&out[..]).unwrap();
        let Some(RequestUnion::CreateRequest(create)) = request.request_union else {
            panic!("not a create request");
        };
        assert_eq!(&create.key[..], b"bench/");
        assert_eq!(&create.range_end[..], b"bench0");
    }

    #[test]
    fn watches_are_ready_when_all_are_confirmed() {
        let range = || b"a".to_vec()..b"b".to_vec();
        let mut watchers = Watchers::new(vec![vec![range(), range()]]);
        let created = WatchResponse {
            created: true,
            ..Default::default()
        };
        for is_ready in [false, true] {
            let message = created.encode_to_vec();
            watchers
                .on_event(Event::Message(&message), |_| panic!("no event"))
                .unwrap();
            assert_eq!(watchers.is_ready().unwrap(), is_ready);
        }
        let ended = watchers.on_event(Event::End(Ok(())), |_| {});
        assert!(ended.is_err() && watchers.is_ready().is_err());
    }
}
