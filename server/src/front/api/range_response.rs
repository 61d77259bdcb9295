//! `RangeResponse` written straight from records, in slices.
//!
//! A record holds its key-value pair in wire form, so a response is a header, a run of copies, and two
//! numbers. A large response is encoded one slice at a time as the client takes it: memory follows the
//! slice, not the response. A test decodes every shape with the generated type.

use std::pin::Pin;

use bytes::{BufMut, Bytes, BytesMut};
use keelson_proto::etcdserverpb::{self as pb, ResponseHeader};
use keelson_proto::limits::RESPONSE_BYTES_MAX;
use keelson_proto::mvccpb::KeyValue;
use keelson_storage::mvcc::{Record, Selection};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use tonic::Status;

use crate::front::{Closed, PREFIX_BYTES, Replies};

/// Tag of `RangeResponse.kvs`.
const KVS_TAG: u32 = 2;

/// Responses above this size are encoded and sent in slices of it.
const SLICE_BYTES: usize = 256 << 10;

/// Keys in the first message of a streamed range, as in etcd.
const STREAM_KEYS_FIRST: usize = 10;

/// Tag of `RangeStreamResponse.range_response`.
const RANGE_RESPONSE_TAG: u32 = 1;

/// The result of a range on its way to the client.
pub(super) struct RangeResponse {
    header: ResponseHeader,
    selection: Selection,
}

/// What one message carries of it.
struct Part {
    pairs: std::ops::Range<usize>,
    /// Everything else.
    head: pb::RangeResponse,
    /// The frame of a message around the response; empty for a response that is the message.
    around: Bytes,
    /// Size of the message, without the gRPC prefix.
    total: usize,
}

impl RangeResponse {
    pub(super) fn new(header: ResponseHeader, selection: Selection) -> Self {
        Self { header, selection }
    }

    /// Sends it as one message. A large one goes out in slices, as the client takes them: that is what the future is
    /// for.
    pub(super) fn send(self, mut reply: Replies) -> Option<Pin<Box<impl Future<Output = ()>>>> {
        let whole = self.part(0..self.selection.records.len(), self.head());
        let total = whole.total;
        if total > RESPONSE_BYTES_MAX {
            reply.finish(Err(Status::resource_exhausted(format!(
                "grpc: trying to send message larger than max ({total} vs. {RESPONSE_BYTES_MAX})"
            ))));
            return None;
        }
        if total <= SLICE_BYTES {
            reply.send_unary_encoded(self.encode_framed(&whole));
            return None;
        }
        Some(Box::pin(async move {
            if self.send_sliced(&mut reply, whole).await.is_ok() {
                reply.finish(Ok(()));
            }
        }))
    }

    /// Sends it as a stream of messages that merge to the same response: disjoint runs of pairs, and
    /// header, `more` and `count` in the last one. The runs grow and shrink so that a message is about
    /// `message_bytes`.
    pub(super) async fn stream(self, mut reply: Replies, message_bytes: usize) {
        let mut keys = STREAM_KEYS_FIRST;
        let mut next = 0;
        let count = self.selection.records.len();
        loop {
            let end = (next + keys).min(count);
            let last = end == count;
            let head = if last {
                self.head()
            } else {
                pb::RangeResponse::default()
            };
            let part = self.part(next..end, head).wrapped();
            let bytes = part.total;
            let sent = if bytes <= SLICE_BYTES {
                reply.send_raw(self.encode_framed(&part)).await
            } else {
                self.send_sliced(&mut reply, part).await
            };
            if sent.is_err() {
                return;
            }
            if last {
                return reply.finish(Ok(()));
            }
            next = end;
            if bytes * 2 <= message_bytes {
                keys *= 2;
            } else if bytes > message_bytes {
                keys = (keys / 2).max(1);
            }
        }
    }

    fn part(&self, pairs: std::ops::Range<usize>, head: pb::RangeResponse) -> Part {
        let kvs_bytes: usize = pairs
            .clone()
            .map(|at| kv_field_bytes(self.kv_bytes(at)))
            .sum();
        Part {
            total: head.encoded_len() + kvs_bytes,
            pairs,
            head,
            around: Bytes::new(),
        }
    }

    /// A whole message, gRPC prefix included.
    fn encode_framed(&self, part: &Part) -> Bytes {
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + part.total);
        out.put_u8(0);
        out.put_u32(u32::try_from(part.total).expect("the caller has few bytes to encode"));
        out.put_slice(&part.around);
        self.put_kvs(part.pairs.clone(), &mut out);
        put_message(&part.head, &mut out);
        out.freeze()
    }

    /// Sends a message in slices of about [`SLICE_BYTES`].
    async fn send_sliced(&self, reply: &mut Replies, part: Part) -> Result<(), Closed> {
        reply.begin(part.total as u64);
        let mut out = BytesMut::from(part.around);
        let mut next = part.pairs.start;
        while next < part.pairs.end {
            let end = self.slice_end(next..part.pairs.end);
            out.reserve(SLICE_BYTES + self.kv_bytes(end - 1));
            self.put_kvs(next..end, &mut out);
            reply.chunk(out.split().freeze()).await?;
            next = end;
        }
        put_message(&part.head, &mut out);
        if out.is_empty() {
            return Ok(());
        }
        reply.chunk(out.freeze()).await
    }

    /// Everything but the pairs.
    fn head(&self) -> pb::RangeResponse {
        pb::RangeResponse {
            header: Some(self.header),
            kvs: Vec::new(),
            more: self.selection.more,
            count: self.selection.count,
        }
    }

    fn slice_end(&self, pairs: std::ops::Range<usize>) -> usize {
        let mut bytes = 0;
        let mut end = pairs.start;
        while end < pairs.end && bytes < SLICE_BYTES {
            bytes += kv_field_bytes(self.kv_bytes(end));
            end += 1;
        }
        end
    }

    fn put_kvs(&self, range: std::ops::Range<usize>, out: &mut BytesMut) {
        for at in range {
            encode_key(KVS_TAG, WireType::LengthDelimited, out);
            encode_varint(self.kv_bytes(at) as u64, out);
            if self.selection.keys_only {
                put_message(&self.key_value(at), out);
            } else {
                out.put_slice(self.selection.records[at].encoded());
            }
        }
    }

    fn kv_bytes(&self, at: usize) -> usize {
        if self.selection.keys_only {
            self.key_value(at).encoded_len()
        } else {
            self.selection.records[at].encoded().len()
        }
    }

    fn key_value(&self, at: usize) -> KeyValue {
        let record: &Record = &self.selection.records[at];
        let mut kv = record.key_value();
        if self.selection.keys_only {
            kv.value = Default::default();
        }
        kv
    }
}

impl Part {
    /// The same as a message of a stream.
    fn wrapped(self) -> Part {
        let mut around = BytesMut::new();
        encode_key(RANGE_RESPONSE_TAG, WireType::LengthDelimited, &mut around);
        encode_varint(self.total as u64, &mut around);
        Part {
            total: around.len() + self.total,
            around: around.freeze(),
            ..self
        }
    }
}

fn kv_field_bytes(kv_bytes: usize) -> usize {
    key_len(KVS_TAG) + encoded_len_varint(kv_bytes as u64) + kv_bytes
}

/// Field order does not matter in protobuf, so the pairs may stand before the header.
fn put_message(message: &impl Message, out: &mut BytesMut) {
    message
        .encode(out)
        .expect("a BytesMut grows as needed, so encoding cannot run out of room");
}

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};
    use keelson_storage::state::{Position, Request, State};

    use super::*;

    #[test]
    fn responses_decode_to_the_selection() {
        let mut state = State::new();
        for number in 0..300u32 {
            let put = PutRequest {
                key: Bytes::from(format!("key-{number:03}")),
                value: Bytes::from(vec![b'v'; number as usize]),
                ..PutRequest::default()
            };
            state
                .apply(Position::default(), &Request::Put(put))
                .expect("a put succeeds");
        }
        let header = ResponseHeader {
            cluster_id: 1,
            member_id: 2,
            revision: 301,
            raft_term: 4,
        };
        for (limit, keys_only, count_only) in [
            (0, false, false),
            (7, false, false),
            (0, true, false),
            (0, false, true),
        ] {
            let range = RangeRequest {
                key: Bytes::from_static(b"key"),
                range_end: Bytes::from_static(b"kez"),
                limit,
                keys_only,
                count_only,
                ..RangeRequest::default()
            };
            let selection = state.select(&range).expect("a range succeeds");
            let wanted = pb::RangeResponse {
                header: Some(header),
                ..selection.clone().into_response()
            };
            let response = RangeResponse::new(header, selection);
            let pairs = 0..response.selection.records.len();
            let part = response.part(pairs.clone(), response.head());
            let framed = response.encode_framed(&part);
            assert_eq!(framed.len(), PREFIX_BYTES + part.total);
            let decoded = pb::RangeResponse::decode(&framed[PREFIX_BYTES..]).expect("well formed");
            assert_eq!(decoded, wanted);
            let framed = response.encode_framed(&part.wrapped());
            let decoded =
                pb::RangeStreamResponse::decode(&framed[PREFIX_BYTES..]).expect("well formed");
            assert_eq!(decoded.range_response, Some(wanted));
        }
    }
}
