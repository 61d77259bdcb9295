//! Stamps in values, by which an event is known again and its way is timed.

use super::super::wire::{Fields, Malformed, Value, bytes_field};

/// Bytes of a stamp; values that are watched have at least these.
pub const STAMP_BYTES: usize = 24;

/// Field numbers of WatchResponse, Event and KeyValue.
const RESPONSE_CREATED: u32 = 3;
const RESPONSE_CANCELED: u32 = 4;
const RESPONSE_EVENTS: u32 = 11;
const EVENT_KV: u32 = 2;
const KV_VALUE: u32 = 5;

/// What a written value says about its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Whose value it is: other writers' events are not ours to time.
    pub writer: u64,
    /// When the write began.
    pub began: u64,
    /// The place that it was sent from.
    pub place: u32,
    /// Which write of the place it was.
    pub turn: u32,
}

/// What an answer on a watch stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchAnswer {
    Created,
    Canceled,
    /// With or without events.
    Events,
}

impl Stamp {
    /// Writes the stamp over the beginning of a value.
    pub fn write(self, value: &mut [u8]) {
        value[..8].copy_from_slice(&self.writer.to_le_bytes());
        value[8..16].copy_from_slice(&self.began.to_le_bytes());
        value[16..20].copy_from_slice(&self.place.to_le_bytes());
        value[20..STAMP_BYTES].copy_from_slice(&self.turn.to_le_bytes());
    }

    /// The stamp of one of the writer's own values.
    pub fn read(value: &[u8], writer: u64) -> Option<Self> {
        let stamp: &[u8; STAMP_BYTES] = value.first_chunk()?;
        let number = |at: usize| {
            let bytes = stamp[at..].first_chunk().expect("the stamp is longer");
            u64::from_le_bytes(*bytes)
        };
        let half = |at: usize| {
            let bytes = stamp[at..].first_chunk().expect("the stamp is longer");
            u32::from_le_bytes(*bytes)
        };
        (number(0) == writer).then(|| Self {
            writer,
            began: number(8),
            place: half(16),
            turn: half(20),
        })
    }
}

/// Reads a WatchResponse and hands on the value of each event; empty for a deletion.
pub fn read_watch(
    message: &[u8],
    mut on_value: impl FnMut(&[u8]),
) -> Result<WatchAnswer, Malformed> {
    let mut answer = WatchAnswer::Events;
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (RESPONSE_CREATED, Value::Number(1)) if answer == WatchAnswer::Events => {
                answer = WatchAnswer::Created;
            }
            // A watch that cannot be created is both.
            (RESPONSE_CANCELED, Value::Number(1)) => answer = WatchAnswer::Canceled,
            (RESPONSE_EVENTS, Value::Bytes(event)) => {
                let pair = bytes_field(event, EVENT_KV)?.ok_or(Malformed)?;
                on_value(bytes_field(pair, KV_VALUE)?.unwrap_or_default());
            }
            _ => {}
        }
    }
    Ok(answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use keelson_proto::mvccpb::{Event, KeyValue, event};
    use prost::Message;

    use super::*;

    fn event(value: &[u8]) -> Event {
        let is_delete = value.is_empty();
        let kind = match is_delete {
            true => event::EventType::Delete,
            false => event::EventType::Put,
        };
        Event {
            r#type: kind.into(),
            kv: Some(KeyValue {
                key: "k".into(),
                mod_revision: 7,
                value: value.to_vec().into(),
                lease: 5,
                ..Default::default()
            }),
            prev_kv: None,
        }
    }

    #[test]
    fn stamps_survive_in_events() {
        let stamp = Stamp {
            writer: 0xfeed_0000_0001,
            began: u64::MAX - 1,
            place: 3,
            turn: 70_000,
        };
        let mut value = vec![1; STAMP_BYTES + 10];
        stamp.write(&mut value);
        let response = WatchResponse {
            header: Some(ResponseHeader::default()),
            watch_id: 3,
            events: vec![event(&value), event(b""), event(b"foreign")],
            ..Default::default()
        };
        let bytes = response.encode_to_vec();
        let mut seen = Vec::new();
        let answer = read_watch(&bytes, |value| seen.push(Stamp::read(value, stamp.writer)));
        assert_eq!(answer, Ok(WatchAnswer::Events));
        assert_eq!(seen, [Some(stamp), None, None]);
        assert_eq!(Stamp::read(&value, 1), None);
        for end in 0..bytes.len() {
            // Whatever is cut off is an error or a shorter answer, and no panic.
            let _ = read_watch(&bytes[..end], |_| {});
        }
    }

    #[test]
    fn a_watch_that_is_refused_is_no_watch() {
        let mut response = WatchResponse {
            created: true,
            ..Default::default()
        };
        let read = |response: &WatchResponse| read_watch(&response.encode_to_vec(), |_| {});
        assert_eq!(read(&response), Ok(WatchAnswer::Created));
        response.canceled = true;
        assert_eq!(read(&response), Ok(WatchAnswer::Canceled));
    }
}
