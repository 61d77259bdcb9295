//! `RangeResponse` written straight from records, in slices.
//!
//! A record holds its key-value pair in wire form, so a response is a header, a run of copies, and two
//! numbers. A large response is encoded one slice at a time as the client takes it: memory follows the
//! slice, not the response. A test decodes every shape with the generated type.

use std::pin::Pin;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{self as pb, ResponseHeader};
use keelson_proto::limits::RESPONSE_BYTES_MAX;
use keelson_storage::mvcc::{Record, Selection};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use tonic::Status;

use super::Api;
use crate::engine::message::Ask;
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

    /// Sends it as one message. A large one goes out in slices, as the client takes them, and so does one with values
    /// that are on the disk: that is what the future is for.
    pub(super) fn send(
        self,
        api: &Rc<Api>,
        mut reply: Replies,
    ) -> Option<Pin<Box<impl Future<Output = ()>>>> {
        let whole = self.part(0..self.selection.records.len(), self.head());
        let total = whole.total;
        if total > RESPONSE_BYTES_MAX {
            reply.finish(Err(Status::resource_exhausted(format!(
                "grpc: trying to send message larger than max ({total} vs. {RESPONSE_BYTES_MAX})"
            ))));
            return None;
        }
        if total <= SLICE_BYTES && !self.is_cold(&whole.pairs) {
            reply.send_unary_encoded(self.encode_framed(&whole));
            return None;
        }
        let api = Rc::clone(api);
        Some(Box::pin(async move {
            let sent = self.send_sliced(&api, &mut reply, whole).await;
            finish(reply, sent);
        }))
    }

    /// Sends it as a stream of messages that merge to the same response: disjoint runs of pairs, and
    /// header, `more` and `count` in the last one. The runs grow and shrink so that a message is about
    /// `message_bytes`.
    pub(super) async fn stream(self, api: &Api, mut reply: Replies, message_bytes: usize) {
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
            let sent = if bytes <= SLICE_BYTES && !self.is_cold(&part.pairs) {
                let sent = reply.send_raw(self.encode_framed(&part)).await;
                sent.map_err(Stopped::from)
            } else {
                self.send_sliced(api, &mut reply, part).await
            };
            if last || sent.is_err() {
                return finish(reply, sent);
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
        self.put_kvs(&self.selection.records[part.pairs.clone()], &mut out);
        put_message(&part.head, &mut out);
        out.freeze()
    }

    /// Sends a message in slices of about [`SLICE_BYTES`].
    async fn send_sliced(&self, api: &Api, reply: &mut Replies, part: Part) -> Result<(), Stopped> {
        reply.begin(part.total as u64);
        let mut out = BytesMut::from(part.around);
        let mut next = part.pairs.start;
        while next < part.pairs.end {
            let end = self.slice_end(next..part.pairs.end);
            out.reserve(SLICE_BYTES + self.kv_bytes(end - 1));
            if self.is_cold(&(next..end)) {
                let records = self.selection.records[next..end].to_vec();
                self.put_kvs(&api.load(Ask::Load(records)).await?, &mut out);
            } else {
                self.put_kvs(&self.selection.records[next..end], &mut out);
            }
            reply.chunk(out.split().freeze()).await?;
            next = end;
        }
        put_message(&part.head, &mut out);
        if out.is_empty() {
            return Ok(());
        }
        Ok(reply.chunk(out.freeze()).await?)
    }

    /// Whether values of these pairs have to be read from the disk.
    fn is_cold(&self, pairs: &std::ops::Range<usize>) -> bool {
        let mut records = self.selection.records[pairs.clone()].iter();
        !self.selection.keys_only && records.any(|record| record.place().is_some())
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

    fn put_kvs(&self, records: &[Record], out: &mut BytesMut) {
        for record in records {
            encode_key(KVS_TAG, WireType::LengthDelimited, out);
            if self.selection.keys_only {
                encode_varint(record.encoded_keys_only_len() as u64, out);
                record.encode_keys_only(out);
            } else {
                encode_varint(record.encoded_len() as u64, out);
                out.put_slice(record.encoded());
            }
        }
    }

    fn kv_bytes(&self, at: usize) -> usize {
        let record = &self.selection.records[at];
        if self.selection.keys_only {
            record.encoded_keys_only_len()
        } else {
            record.encoded_len()
        }
    }
}

/// Why a response ends before its time.
enum Stopped {
    /// The client has gone.
    Closed,
    /// A value cannot be had.
    Failed(ApiError),
}

impl From<Closed> for Stopped {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<ApiError> for Stopped {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

fn finish(reply: Replies, sent: Result<(), Stopped>) {
    match sent {
        Ok(()) => reply.finish(Ok(())),
        Err(Stopped::Closed) => {}
        Err(Stopped::Failed(error)) => reply.finish(Err(error.into())),
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
                ..selection.clone().into_response(&mut Vec::new())
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
