//! Responses out: heads, messages and trailers become frames, as the client's windows allow.
//!
//! What the windows do not take waits in its stream. A stream that waits for its own window is pumped when that
//! grows; one that waits for the connection's, or for room in the output, stands in a queue and takes its turn.

use std::task::{Context, Poll};

use bytes::Bytes;
use keelson_proto::http2::hpack::{
    self, index, put_indexed, put_inserted, put_literal, put_new_inserted, put_new_literal,
};
use keelson_proto::http2::{ErrorCode, FrameHead, FrameKind, flags};
use prost::Message;
use tonic::{Code, Status};

use super::session::{Ended, Session};
use super::stream::register;
use crate::front::limits;
use crate::front::messages::PREFIX_BYTES;
use crate::front::replies::escape;

/// What our two repeated fields take in the client's table: text and 32 bytes each.
const TABLE_BYTES_NEEDED: usize = 32 + 12 + 16 + 32 + 11 + 1;
/// A trailer block longer than a frame does not exist.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// The header blocks of responses, and which fields the client's table holds.
pub(super) struct ResponseFields {
    /// What the client grants.
    table_bytes_max: usize,
    /// Smallest and last size that the next block must tell.
    resize: Option<(usize, usize)>,
    insertions: usize,
    content_type: Option<usize>,
    status_ok: Option<usize>,
}

impl Default for ResponseFields {
    fn default() -> ResponseFields {
        ResponseFields {
            table_bytes_max: hpack::TABLE_BYTES_DEFAULT,
            resize: None,
            insertions: 0,
            content_type: None,
            status_ok: None,
        }
    }
}

impl ResponseFields {
    /// The client has changed the size of its table; we use no more than the default.
    pub(super) fn on_table_bytes_max(&mut self, bytes_max: usize) {
        let bytes_max = bytes_max.min(hpack::TABLE_BYTES_DEFAULT);
        if bytes_max == self.table_bytes_max {
            return;
        }
        let smallest = self
            .resize
            .map_or(bytes_max, |(smallest, _)| smallest.min(bytes_max));
        self.resize = Some((smallest, bytes_max));
        self.table_bytes_max = bytes_max;
        if smallest < TABLE_BYTES_NEEDED {
            self.content_type = None;
            self.status_ok = None;
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((smallest, last)) = self.resize.take() {
            hpack::put_table_size(out, smallest);
            if last != smallest {
                hpack::put_table_size(out, last);
            }
        }
    }

    /// Response headers.
    fn put_head(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        put_indexed(out, index::STATUS_200);
        self.put_content_type(out);
    }

    fn put_content_type(&mut self, out: &mut Vec<u8>) {
        const VALUE: &[u8] = b"application/grpc";
        match self.content_type {
            Some(at) => put_indexed(out, self.index_of(at)),
            None if self.table_bytes_max < TABLE_BYTES_NEEDED => {
                put_literal(out, index::CONTENT_TYPE, VALUE);
            }
            None => {
                put_inserted(out, index::CONTENT_TYPE, VALUE);
                self.content_type = Some(self.insertions);
                self.insertions += 1;
            }
        }
    }

    /// The trailers of a call.
    fn put_end(&mut self, end: &Result<(), Status>, out: &mut Vec<u8>) {
        const STATUS: &[u8] = b"grpc-status";
        self.begin(out);
        let status = match end {
            Ok(()) => return self.put_status_ok(out),
            Err(status) => status,
        };
        if status.code() == Code::Ok {
            return self.put_status_ok(out);
        }
        put_new_literal(out, STATUS, (status.code() as i32).to_string().as_bytes());
        let message = escape(status.message());
        let cut = message.len().min(MESSAGE_BYTES_MAX);
        put_new_literal(out, b"grpc-message", &message[..cut]);
    }

    fn put_status_ok(&mut self, out: &mut Vec<u8>) {
        match self.status_ok {
            Some(at) => put_indexed(out, self.index_of(at)),
            None if self.table_bytes_max < TABLE_BYTES_NEEDED => {
                put_new_literal(out, b"grpc-status", b"0");
            }
            None => {
                put_new_inserted(out, b"grpc-status", b"0");
                self.status_ok = Some(self.insertions);
                self.insertions += 1;
            }
        }
    }

    /// The index of the entry that was inserted as the `at`th.
    fn index_of(&self, at: usize) -> usize {
        index::DYNAMIC + (self.insertions - 1 - at)
    }
}

impl Session {
    /// Answers a unary call with one message. In the usual case, where the windows take it, the message is encoded
    /// where it is sent from.
    pub(in crate::front) fn send_unary(
        &mut self,
        number: u32,
        message: &impl Message,
    ) -> Result<(), Ended> {
        let message_bytes = message.encoded_len();
        let framed_bytes = PREFIX_BYTES + message_bytes;
        if !self.takes_at_once(number, framed_bytes) {
            self.send_data(number, encode_message(message))?;
            return self.finish(number, Ok(()));
        }
        self.write_unary(number, framed_bytes, |out| {
            put_prefix(message_bytes, out);
            message.encode(out).expect("a Vec grows as needed");
        });
        Ok(())
    }

    /// [`send_unary`](Session::send_unary) with a message that is encoded, prefix included.
    pub(in crate::front) fn send_unary_encoded(
        &mut self,
        number: u32,
        framed: Bytes,
    ) -> Result<(), Ended> {
        if !self.takes_at_once(number, framed.len()) {
            self.send_data(number, framed)?;
            return self.finish(number, Ok(()));
        }
        self.write_unary(number, framed.len(), |out| out.extend_from_slice(&framed));
        Ok(())
    }

    /// Whether a first and only message fits one frame and all windows.
    fn takes_at_once(&self, number: u32, framed_bytes: usize) -> bool {
        let stream = self.streams.get(&number);
        stream.is_some_and(|stream| {
            let window = stream.send_window.min(self.send_window);
            framed_bytes <= self.frame_bytes_max
                && framed_bytes as i64 <= window
                && stream.pending.is_empty()
                && !stream.head_sent
                && self.has_room()
        })
    }

    /// Head, message and trailers in one go.
    fn write_unary(&mut self, number: u32, framed_bytes: usize, put: impl FnOnce(&mut Vec<u8>)) {
        self.send_window -= framed_bytes as i64;
        let fields = &mut self.fields;
        let before = self.out.unsent_bytes();
        self.out.write(|out| {
            put_block(out, number, 0, |out| fields.put_head(out));
            FrameHead::new(FrameKind::Data, 0, number, framed_bytes as u32).write(out);
            put(out);
            put_block(out, number, flags::END_STREAM, |out| {
                fields.put_end(&Ok(()), out)
            });
        });
        self.unsent.add(self.out.unsent_bytes() - before);
        self.wake_task();
        self.close_stream(number);
    }

    /// Sends the response's headers if they are not sent.
    pub(in crate::front) fn send_head(&mut self, number: u32) -> Result<(), Ended> {
        let stream = self.streams.get_mut(&number).ok_or(Ended)?;
        if !std::mem::replace(&mut stream.head_sent, true) {
            self.write_block(number, 0, |fields, out| fields.put_head(out));
        }
        Ok(())
    }

    /// Queues bytes of the response's body, and sends what the windows take.
    pub(in crate::front) fn send_data(&mut self, number: u32, bytes: Bytes) -> Result<(), Ended> {
        self.send_head(number)?;
        let stream = self.streams.get_mut(&number).ok_or(Ended)?;
        assert!(!stream.is_answered(), "nothing is sent behind the end");
        if !bytes.is_empty() {
            self.unsent.add(bytes.len());
            stream.pending.push_back(bytes);
            self.pump(number);
        }
        Ok(())
    }

    /// Ready when the client has taken what was queued on the stream, so that more may be.
    pub(in crate::front) fn poll_room(
        &mut self,
        number: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ended>> {
        let Some(stream) = self.streams.get_mut(&number) else {
            return Poll::Ready(Err(Ended));
        };
        if stream.pending.is_empty() && self.out.unsent_bytes() < limits::OUT_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        register(&mut stream.writer, cx.waker());
        stream.wants_room = true;
        if stream.pending.is_empty() && !std::mem::replace(&mut stream.queued, true) {
            self.waiting.push_back(number);
        }
        Poll::Pending
    }

    /// Ends the response.
    pub(in crate::front) fn finish(
        &mut self,
        number: u32,
        end: Result<(), Status>,
    ) -> Result<(), Ended> {
        let stream = self.streams.get_mut(&number).ok_or(Ended)?;
        assert!(!stream.is_answered(), "a response ends once");
        stream.end = Some(end);
        if stream.pending.is_empty() {
            self.write_end(number);
        }
        Ok(())
    }

    /// Answers with an HTTP status, for a request that is no call.
    pub(in crate::front) fn respond_http(&mut self, number: u32, http_status: u16, status: Status) {
        self.write_block(number, flags::END_STREAM, |fields, out| {
            fields.begin(out);
            put_literal(out, index::STATUS_200, http_status.to_string().as_bytes());
            fields.put_content_type(out);
            fields.put_end(&Err(status), out);
        });
        self.close_stream(number);
    }

    /// Answers a request whose header list is too long.
    pub(super) fn refuse_head(&mut self, number: u32) {
        const TOO_LARGE: &[u8] = b"431";
        self.write_block(number, flags::END_STREAM, |fields, out| {
            fields.begin(out);
            put_literal(out, index::STATUS_200, TOO_LARGE);
        });
        self.reset(number, ErrorCode::NoError);
    }

    /// Trailers, in one block with the head if that is not out: gRPC's trailers-only response.
    fn write_end(&mut self, number: u32) {
        let stream = self
            .streams
            .get_mut(&number)
            .expect("its end is written once");
        let end = stream.end.clone().expect("it has been given");
        let head_sent = std::mem::replace(&mut stream.head_sent, true);
        self.write_block(number, flags::END_STREAM, |fields, out| {
            if !head_sent {
                fields.put_head(out);
            }
            fields.put_end(&end, out);
        });
        self.close_stream(number);
    }

    /// Our side has ended. A client that has not is told that the rest is not wanted.
    fn close_stream(&mut self, number: u32) {
        let received_all = self
            .streams
            .get(&number)
            .is_none_or(|stream| stream.received_all);
        if received_all {
            self.forget(number);
        } else {
            self.reset(number, ErrorCode::NoError);
        }
    }

    fn write_block(
        &mut self,
        number: u32,
        flag: u8,
        put: impl FnOnce(&mut ResponseFields, &mut Vec<u8>),
    ) {
        let fields = &mut self.fields;
        let before = self.out.unsent_bytes();
        self.out
            .write(|out| put_block(out, number, flag, |out| put(fields, out)));
        self.unsent.add(self.out.unsent_bytes() - before);
        self.wake_task();
    }

    fn has_room(&self) -> bool {
        self.out.unsent_bytes() < limits::OUT_BYTES_MAX
    }

    /// Sends what the windows take of one stream.
    pub(super) fn pump(&mut self, number: u32) {
        while let Some(stream) = self.streams.get_mut(&number) {
            let Some(chunk) = stream.pending.front_mut() else {
                break;
            };
            let has_room = self.out.unsent_bytes() < limits::OUT_BYTES_MAX;
            if self.send_window <= 0 || !has_room {
                if !std::mem::replace(&mut stream.queued, true) {
                    self.waiting.push_back(number);
                }
                return;
            }
            let window = self.send_window.min(stream.send_window);
            if window <= 0 {
                return;
            }
            let count = chunk.len().min(self.frame_bytes_max).min(window as usize);
            let part = chunk.split_to(count);
            if chunk.is_empty() {
                stream.pending.pop_front();
            }
            stream.send_window -= count as i64;
            self.send_window -= count as i64;
            // From the stream's queue to the output: only the head is new.
            self.unsent.sent(count);
            self.write(|out| {
                let head = FrameHead::new(FrameKind::Data, 0, number, count as u32);
                out.write(|tail| head.write(tail));
                out.push(part);
            });
        }
        if let Some(stream) = self.streams.get_mut(&number) {
            if stream.is_answered() {
                self.write_end(number);
            } else if std::mem::take(&mut stream.wants_room) {
                stream.wake_writer();
            }
        }
    }

    /// Lets the streams that wait for the connection go on, each in its turn.
    pub(super) fn pump_waiting(&mut self) {
        while self.send_window > 0 && self.has_room() {
            let Some(number) = self.waiting.pop_front() else {
                return;
            };
            if let Some(stream) = self.streams.get_mut(&number) {
                stream.queued = false;
                self.pump(number);
            }
        }
    }
}

/// Writes a HEADERS frame around a block.
fn put_block(out: &mut Vec<u8>, number: u32, flag: u8, put: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    FrameHead::new(FrameKind::Headers, flags::END_HEADERS | flag, number, 0).write(out);
    let from = out.len();
    put(out);
    let block_bytes = u32::try_from(out.len() - from).expect("our header blocks are short");
    out[at..at + 3].copy_from_slice(&block_bytes.to_be_bytes()[1..]);
}

fn put_prefix(message_bytes: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(message_bytes).expect("a gRPC message has less than 4 GiB");
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
}

/// Encodes a message with its gRPC prefix into one buffer of exactly its size.
#[must_use]
pub fn encode_message<M: Message>(message: &M) -> Bytes {
    let message_bytes = message.encoded_len();
    let mut framed = Vec::with_capacity(PREFIX_BYTES + message_bytes);
    put_prefix(message_bytes, &mut framed);
    message.encode(&mut framed).expect("a Vec grows as needed");
    Bytes::from(framed)
}

/// The prefix of a message whose bytes follow.
pub(in crate::front) fn prefix(message_bytes: u64) -> Bytes {
    let message_bytes = usize::try_from(message_bytes).expect("a gRPC message has less than 4 GiB");
    let mut prefix = Vec::with_capacity(PREFIX_BYTES);
    put_prefix(message_bytes, &mut prefix);
    Bytes::from(prefix)
}
