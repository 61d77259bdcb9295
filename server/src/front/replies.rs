//! The response side of a call: protobuf messages in, HEADERS, DATA and trailers out.
//!
//! Nothing here writes to a socket. Frames go into h2's queues; the connection's task writes all of them when
//! the turn's handlers have run, in one system call.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tonic::{Code, Status};

use super::call::Method;
use super::messages::PREFIX_BYTES;
use super::observer::Observer;
use crate::runtime::{Latch, LatchWait};

/// Why nothing more can be sent on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The client cancelled the call, or its connection is gone.
    #[error("the client is gone")]
    Gone,
    /// The server is stopping. Sending still works: end the call with a status.
    #[error("the server is stopping")]
    Stopping,
}

/// What the client gets on a call.
///
/// Ends with [`send_unary`](Replies::send_unary) or [`finish`](Replies::finish). Dropped without either, the call
/// ends with `Internal`.
pub struct Replies {
    stage: Stage,
    /// Message bytes announced by `begin` and not yet sent.
    owed_bytes: u64,
    /// Prefix written by `begin`, waiting for the first chunk.
    prefix: Option<Bytes>,
    record: CallRecord,
    stop_wait: Option<LatchWait>,
}

enum Stage {
    /// No headers sent.
    Ready(SendResponse<Payload>),
    /// Headers sent.
    Open(SendStream<Payload>),
    /// Trailers sent, or the client is gone.
    Done,
}

/// What every call needs from its connection and core.
pub(super) struct CallRecord {
    pub(super) method: &'static Method,
    pub(super) observer: Rc<dyn Observer>,
    pub(super) unsent: UnsentGauge,
    pub(super) stopping: Latch,
    pub(super) live: LiveCalls,
}

impl Replies {
    pub(super) fn new(respond: SendResponse<Payload>, record: CallRecord) -> Replies {
        record.live.begin();
        record.observer.call_started(record.method);
        Replies {
            stage: Stage::Ready(respond),
            owed_bytes: 0,
            prefix: None,
            record,
            stop_wait: None,
        }
    }

    /// Answers a unary call: headers, message and trailers, or trailers only.
    ///
    /// Never waits: what the client's window does not take yet is queued, and counts against the connection's
    /// limit of unsent bytes. For responses of many megabytes use [`begin`](Replies::begin).
    pub fn send_unary<M: prost::Message>(self, result: Result<M, Status>) {
        match result {
            Ok(message) => self.send_unary_encoded(encode_message(&message)),
            Err(status) => self.finish(Err(status)),
        }
    }

    /// [`send_unary`](Replies::send_unary) with a message that is already encoded, prefix included
    /// ([`encode_message`]).
    pub fn send_unary_encoded(mut self, framed: Bytes) {
        if self.open().is_ok()
            && let Stage::Open(stream) = &mut self.stage
        {
            // Refused only when the client has reset the stream, which `finish` finds too.
            let _ = stream.send_data(self.record.unsent.payload(framed), false);
            self.record.observer.message_sent(self.record.method);
        }
        self.finish(Ok(()));
    }

    /// Sends one message of a stream, waiting for the client's window.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send<M: prost::Message>(&mut self, message: &M) -> Result<(), Closed> {
        self.send_raw(encode_message(message)).await
    }

    /// Sends one message that is already encoded, prefix included ([`encode_message`]).
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send_raw(&mut self, framed: Bytes) -> Result<(), Closed> {
        self.assert_nothing_owed();
        self.send_bytes(framed).await?;
        self.record.observer.message_sent(self.record.method);
        Ok(())
    }

    /// Sends the headers now instead of with the first message: a client may wait for them.
    ///
    /// # Errors
    /// The client is gone.
    pub fn send_headers(&mut self) -> Result<(), Closed> {
        self.open().map(|_| ())
    }

    /// Begins a message of `message_bytes` bytes whose encoding follows in [`chunk`](Replies::chunk)s.
    ///
    /// # Panics
    /// When the message before has not been completed, or this one is larger than gRPC allows (4 GiB).
    pub fn begin(&mut self, message_bytes: u64) {
        self.assert_nothing_owed();
        let length = u32::try_from(message_bytes).expect("a gRPC message has less than 4 GiB");
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
        prefix.put_u8(0);
        prefix.put_u32(length);
        self.prefix = Some(prefix.freeze());
        self.owed_bytes = message_bytes;
    }

    /// Sends the next bytes of the message begun, waiting for the client's window: memory follows the chunk.
    /// An empty message needs one empty chunk.
    ///
    /// # Errors
    /// The client is gone.
    ///
    /// # Panics
    /// When the chunks are longer than announced.
    pub async fn chunk(&mut self, chunk: Bytes) -> Result<(), Closed> {
        let owed_bytes = self.owed_bytes.checked_sub(chunk.len() as u64);
        self.owed_bytes = owed_bytes.expect("the chunks of a message are as long as announced");
        if let Some(prefix) = self.prefix.take() {
            self.send_bytes(prefix).await?;
        }
        self.send_bytes(chunk).await?;
        if self.owed_bytes == 0 {
            self.record.observer.message_sent(self.record.method);
        }
        Ok(())
    }

    /// Ends the call.
    pub fn finish(mut self, result: Result<(), Status>) {
        let status = result.err().unwrap_or_else(|| Status::ok(""));
        self.end(&status);
    }

    /// Resolves when nobody wants the rest of this call any more, so that the handler can end. Dropping the
    /// future and calling again is fine.
    pub async fn closed(&mut self) -> Closed {
        poll_fn(|cx| self.poll_closed(cx)).await
    }

    /// [`closed`](Replies::closed) for hand-written futures.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        let reset = match &mut self.stage {
            Stage::Ready(respond) => respond.poll_reset(cx).is_ready(),
            Stage::Open(stream) => stream.poll_reset(cx).is_ready(),
            Stage::Done => true,
        };
        if reset {
            return Poll::Ready(Closed::Gone);
        }
        let stopping = &self.record.stopping;
        let wait = self.stop_wait.get_or_insert_with(|| stopping.wait());
        ready!(Pin::new(wait).poll(cx));
        Poll::Ready(Closed::Stopping)
    }

    /// The call's method.
    #[must_use]
    pub fn method(&self) -> &'static Method {
        self.record.method
    }

    fn assert_nothing_owed(&self) {
        assert!(
            self.owed_bytes == 0 && self.prefix.is_none(),
            "the message before is complete; {} bytes are missing",
            self.owed_bytes
        );
    }

    /// Sends the headers if they are not out yet.
    fn open(&mut self) -> Result<&mut SendStream<Payload>, Closed> {
        if let Stage::Ready(respond) = &mut self.stage {
            match respond.send_response(response_head(HeaderMap::with_capacity(2)), false) {
                Ok(stream) => self.stage = Stage::Open(stream),
                Err(_) => self.abandon(),
            }
        }
        match &mut self.stage {
            Stage::Open(stream) => Ok(stream),
            _ => Err(Closed::Gone),
        }
    }

    async fn send_bytes(&mut self, mut bytes: Bytes) -> Result<(), Closed> {
        let unsent = self.record.unsent.clone();
        let sent = async {
            let stream = self.open()?;
            while !bytes.is_empty() {
                stream.reserve_capacity(bytes.len());
                let mut capacity = stream.capacity();
                if capacity == 0 {
                    // `None` and errors both mean that the stream or its connection has ended.
                    capacity = poll_fn(|cx| stream.poll_capacity(cx))
                        .await
                        .and_then(Result::ok)
                        .ok_or(Closed::Gone)?;
                }
                let part = bytes.split_to(capacity.min(bytes.len()));
                stream
                    .send_data(unsent.payload(part), false)
                    .map_err(|_| Closed::Gone)?;
            }
            Ok(())
        };
        let sent = sent.await;
        if sent.is_err() {
            self.abandon();
        }
        sent
    }

    fn end(&mut self, status: &Status) {
        let code = status.code();
        let delivered = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Done => return,
            Stage::Ready(mut respond) => {
                let head = response_head(trailers(status));
                respond.send_response(head, true).is_ok()
            }
            Stage::Open(mut stream) => {
                let incomplete = self.owed_bytes > 0 && code == Code::Ok;
                let cut = Status::internal("the response message was not completed");
                stream
                    .send_trailers(trailers(if incomplete { &cut } else { status }))
                    .is_ok()
            }
        };
        self.record
            .handled(if delivered { code } else { Code::Cancelled });
    }

    /// The client is gone: nothing more is sent, and the call counts as cancelled.
    fn abandon(&mut self) {
        if !matches!(std::mem::replace(&mut self.stage, Stage::Done), Stage::Done) {
            self.record.handled(Code::Cancelled);
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Done) {
            let gone = match &mut self.stage {
                Stage::Open(stream) => {
                    let mut cx = Context::from_waker(std::task::Waker::noop());
                    stream.poll_reset(&mut cx).is_ready()
                }
                _ => false,
            };
            if gone {
                self.abandon();
            } else {
                self.end(&Status::internal("the call ended without a status"));
            }
        }
        self.record.live.end();
    }
}

impl CallRecord {
    fn handled(&self, code: Code) {
        self.observer.call_handled(self.method, code);
    }
}

/// Encodes a message with its gRPC prefix into one buffer of exactly its size.
#[must_use]
pub fn encode_message<M: prost::Message>(message: &M) -> Bytes {
    let message_bytes = message.encoded_len();
    let length = u32::try_from(message_bytes).expect("a gRPC message has less than 4 GiB");
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message_bytes);
    framed.put_u8(0);
    framed.put_u32(length);
    message
        .encode(&mut framed)
        .expect("the buffer has the message's length");
    framed.freeze()
}

/// A complete answer without a body, for a call that is refused before it has a handler.
pub(super) fn refuse(mut respond: SendResponse<Payload>, status: &Status) {
    // The client may have gone away already.
    let _ = respond.send_response(response_head(trailers(status)), true);
}

fn response_head(mut headers: HeaderMap) -> Response<()> {
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    response
}

/// The headers that end a call: code and message. tonic's own conversion would also escape spaces, which every
/// client undoes but which makes traces and raw clients unreadable.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
    const ZERO: HeaderValue = HeaderValue::from_static("0");
    let mut headers = HeaderMap::with_capacity(2);
    if status.code() == Code::Ok {
        headers.insert(GRPC_STATUS, ZERO);
        return headers;
    }
    headers.insert(GRPC_STATUS, HeaderValue::from(status.code() as i32));
    let escaped = escape(status.message());
    headers.insert(
        GRPC_MESSAGE,
        HeaderValue::from_maybe_shared(escaped).expect("escaped text is visible ASCII"),
    );
    headers
}

/// gRPC's percent-encoding: everything but visible ASCII and space, and the percent sign.
fn escape(text: &str) -> Bytes {
    let mut escaped = BytesMut::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => escaped.put_u8(byte),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                escaped.put_slice(&[
                    b'%',
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                ]);
            }
        }
    }
    escaped.freeze()
}

/// Response bytes in h2's queues, counted until they are written or dropped.
pub(super) struct Payload {
    bytes: Bytes,
    gauge: UnsentGauge,
}

/// Counts unsent response bytes of a connection and of its core.
#[derive(Clone, Default)]
pub(super) struct UnsentGauge {
    connection: Rc<Cell<usize>>,
    core: Rc<Cell<usize>>,
}

impl UnsentGauge {
    /// The gauge of a new connection on the same core.
    pub(super) fn for_connection(&self) -> UnsentGauge {
        UnsentGauge {
            connection: Rc::default(),
            core: self.core.clone(),
        }
    }

    pub(super) fn connection_bytes(&self) -> usize {
        self.connection.get()
    }

    pub(super) fn core_bytes(&self) -> usize {
        self.core.get()
    }

    fn payload(&self, bytes: Bytes) -> Payload {
        self.connection.set(self.connection.get() + bytes.len());
        self.core.set(self.core.get() + bytes.len());
        Payload {
            bytes,
            gauge: self.clone(),
        }
    }

    fn sent(&self, count: usize) {
        self.connection.set(self.connection.get() - count);
        self.core.set(self.core.get() - count);
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.gauge.sent(count);
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.gauge.sent(self.bytes.len());
    }
}

/// Counts the calls of a core that have not ended.
#[derive(Clone, Default)]
pub(super) struct LiveCalls(Rc<Cell<usize>>);

impl LiveCalls {
    pub(super) fn count(&self) -> usize {
        self.0.get()
    }

    fn begin(&self) {
        self.0.set(self.0.get() + 1);
    }

    fn end(&self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_escaped_as_grpc_wants() {
        assert_eq!(escape("etcdserver: no leader"), "etcdserver: no leader");
        assert_eq!(escape("100%\n\u{fc}"), "100%25%0A%C3%BC");
    }

    #[test]
    fn an_ok_has_no_message() {
        assert_eq!(trailers(&Status::ok("")).len(), 1);
        let failed = trailers(&Status::not_found("x"));
        assert_eq!(
            (
                failed["grpc-status"].as_bytes(),
                failed["grpc-message"].as_bytes()
            ),
            (&b"5"[..], &b"x"[..])
        );
    }

    #[test]
    fn unsent_bytes_are_counted_until_written_or_dropped() {
        let core = UnsentGauge::default();
        let (one, two) = (core.for_connection(), core.for_connection());
        let mut first = one.payload(Bytes::from_static(b"0123456789"));
        let second = two.payload(Bytes::from_static(b"01234"));
        first.advance(4);
        assert_eq!(
            (
                one.connection_bytes(),
                two.connection_bytes(),
                core.core_bytes()
            ),
            (6, 5, 11)
        );
        drop(second);
        drop(first);
        assert_eq!((one.connection_bytes(), core.core_bytes()), (0, 0));
    }
}
