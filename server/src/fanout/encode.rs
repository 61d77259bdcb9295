//! Watch responses as gRPC messages, written by hand around parts that are already encoded.
//!
//! A record holds its `mvccpb.KeyValue` in wire form, so an event is a few tags around one or two
//! copies. Field numbers are those of `WatchResponse` and `Event`; a test decodes every shape with the
//! generated types.

use bytes::{BufMut, Bytes, BytesMut};
use keelson_storage::mvcc::Change;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// gRPC's prefix of a message: compression flag and length.
pub(super) const PREFIX_BYTES: usize = 5;

const EVENTS_TAG: u32 = 11;

/// Fields of a response that are the same for all watchers of a member at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) revision: i64,
    pub(super) raft_term: u64,
}

/// The fields of a response around its events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape<'a> {
    pub(super) watch_id: i64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compact_revision: i64,
    pub(super) cancel_reason: &'a str,
    pub(super) fragment: bool,
}

/// One event in wire form, with its tag and length: what `WatchResponse.events` repeats.
pub(super) fn event(change: &Change, with_prev: bool) -> Bytes {
    let kv = change.record.encoded();
    let prev = change.prev.as_ref().filter(|_| with_prev);
    let mut body_bytes = message_len(2, kv.len());
    if change.record.tombstone {
        body_bytes += 2;
    }
    if let Some(prev) = prev {
        body_bytes += message_len(3, prev.encoded().len());
    }
    let mut out = BytesMut::with_capacity(message_len(EVENTS_TAG, body_bytes));
    put_message_head(&mut out, EVENTS_TAG, body_bytes);
    if change.record.tombstone {
        put_varint(&mut out, 1, 1);
    }
    put_message_head(&mut out, 2, kv.len());
    out.put_slice(kv);
    if let Some(prev) = prev {
        put_message_head(&mut out, 3, prev.encoded().len());
        out.put_slice(prev.encoded());
    }
    out.freeze()
}

/// Encoded size of a response with events of `event_bytes` in all, without the gRPC prefix.
pub(super) fn response_bytes(head: &Head, shape: &Shape<'_>, event_bytes: usize) -> usize {
    let head_bytes = head_bytes(head);
    message_len(1, head_bytes)
        + varint_len(2, shape.watch_id as u64)
        + varint_len(3, u64::from(shape.created))
        + varint_len(4, u64::from(shape.canceled))
        + varint_len(5, shape.compact_revision as u64)
        + string_len(6, shape.cancel_reason)
        + varint_len(7, u64::from(shape.fragment))
        + event_bytes
}

/// A whole response as one gRPC message.
pub(super) fn response(head: &Head, shape: &Shape<'_>, events: &[Bytes]) -> Bytes {
    let event_bytes = events.iter().map(Bytes::len).sum();
    let body_bytes = response_bytes(head, shape, event_bytes);
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + body_bytes);
    out.put_u8(0);
    out.put_u32(u32::try_from(body_bytes).unwrap_or(u32::MAX));
    put_message_head(&mut out, 1, head_bytes(head));
    put_varint(&mut out, 1, head.cluster_id);
    put_varint(&mut out, 2, head.member_id);
    put_varint(&mut out, 3, head.revision as u64);
    put_varint(&mut out, 4, head.raft_term);
    put_varint(&mut out, 2, shape.watch_id as u64);
    put_varint(&mut out, 3, u64::from(shape.created));
    put_varint(&mut out, 4, u64::from(shape.canceled));
    put_varint(&mut out, 5, shape.compact_revision as u64);
    if !shape.cancel_reason.is_empty() {
        put_message_head(&mut out, 6, shape.cancel_reason.len());
        out.put_slice(shape.cancel_reason.as_bytes());
    }
    put_varint(&mut out, 7, u64::from(shape.fragment));
    for event in events {
        out.put_slice(event);
    }
    out.freeze()
}

fn head_bytes(head: &Head) -> usize {
    varint_len(1, head.cluster_id)
        + varint_len(2, head.member_id)
        + varint_len(3, head.revision as u64)
        + varint_len(4, head.raft_term)
}

fn message_len(tag: u32, body_bytes: usize) -> usize {
    key_len(tag) + encoded_len_varint(body_bytes as u64) + body_bytes
}

fn string_len(tag: u32, text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        message_len(tag, text.len())
    }
}

/// proto3 leaves zero values out.
fn varint_len(tag: u32, value: u64) -> usize {
    if value == 0 {
        0
    } else {
        key_len(tag) + encoded_len_varint(value)
    }
}

fn put_varint(out: &mut BytesMut, tag: u32, value: u64) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn put_message_head(out: &mut BytesMut, tag: u32, body_bytes: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(body_bytes as u64, out);
}

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::WatchResponse;
    use keelson_storage::state::{Position, Request, State};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// A store in which key "k" was put twice and deleted: a create, an update, a delete.
    fn changes() -> Vec<Change> {
        let mut state = State::new();
        let put = |value: &'static [u8]| {
            Request::Put(keelson_proto::etcdserverpb::PutRequest {
                key: Bytes::from_static(b"k"),
                value: Bytes::from_static(value),
                ..Default::default()
            })
        };
        let delete = Request::DeleteRange(keelson_proto::etcdserverpb::DeleteRangeRequest {
            key: Bytes::from_static(b"k"),
            ..Default::default()
        });
        for request in [put(b"one"), put(b"two"), delete] {
            state
                .apply(Position::default(), &request)
                .expect("puts and deletes succeed");
        }
        let from = keelson_storage::ids::Revision(1);
        let changes = state.changes_from(from);
        changes.map(|change| change.change()).collect()
    }

    proptest! {
        #[test]
        fn responses_decode_to_what_was_meant(
            ids in any::<(u64, u64, i64, u64)>(),
            watch_id in any::<i64>(),
            flags in any::<(bool, bool, bool, bool)>(),
            compact_revision in any::<i64>(),
            cancel_reason in "[a-z ]{0,300}",
            take in 0usize..4,
        ) {
            let (cluster_id, member_id, revision, raft_term) = ids;
            let (created, canceled, fragment, with_prev) = flags;
            let head = Head { cluster_id, member_id, revision, raft_term };
            let reason: &str = &cancel_reason;
            let shape = Shape { watch_id, created, canceled, compact_revision, cancel_reason: reason, fragment };
            let changes = changes();
            let events: Vec<Bytes> = changes[..take].iter().map(|change| event(change, with_prev)).collect();
            let framed = response(&head, &shape, &events);
            prop_assert_eq!(framed.len() - PREFIX_BYTES,
                response_bytes(&head, &shape, events.iter().map(Bytes::len).sum()));
            prop_assert_eq!(&framed[..PREFIX_BYTES - 4], &[0u8]);
            let decoded = WatchResponse::decode(&framed[PREFIX_BYTES..]).expect("well formed");
            let header = decoded.header.expect("a header");
            prop_assert_eq!((header.cluster_id, header.member_id, header.revision, header.raft_term), ids);
            prop_assert_eq!((decoded.watch_id, decoded.compact_revision), (watch_id, compact_revision));
            prop_assert_eq!((decoded.created, decoded.canceled, decoded.fragment), (created, canceled, fragment));
            prop_assert_eq!(&decoded.cancel_reason, &cancel_reason);
            prop_assert_eq!(decoded.events.len(), take);
            for (event, change) in decoded.events.iter().zip(&changes) {
                prop_assert_eq!(event.r#type == 1, change.record.tombstone);
                let kv = event.kv.as_ref().expect("an event has its key");
                prop_assert_eq!(kv.mod_revision, change.record.revision.0);
                prop_assert_eq!(&kv.value[..], change.record.value());
                let prev = change.prev.as_ref().filter(|_| with_prev);
                prop_assert_eq!(event.prev_kv.as_ref().map(|prev| prev.value.clone()),
                    prev.map(|prev| Bytes::copy_from_slice(prev.value())));
            }
        }
    }
}
