//! The response side of a call: protobuf messages in, HEADERS, DATA and trailers out.
//!
//! Nothing here writes to a socket. Frames go into the session's output; the connection's task sends all of them when
//! the turn's handlers have run, in one system call.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tonic::{Code, Status};

use super::call::Method;
use super::http2::{Ended, SharedSession, prefix};
use super::observer::Observer;
use crate::runtime::{Latch, LatchWait};

pub use super::http2::encode_message;

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
    session: SharedSession,
    stream: u32,
    /// The call has been counted as handled.
    done: bool,
    /// Message bytes announced by `begin` and not yet sent.
    owed_bytes: u64,
    /// Prefix written by `begin`, waiting for the first chunk.
    prefix: Option<Bytes>,
    record: CallRecord,
    stop_wait: Option<LatchWait>,
}

/// What every call needs from its core.
pub(super) struct CallRecord {
    pub(super) method: &'static Method,
    pub(super) observer: Rc<dyn Observer>,
    pub(super) stopping: Latch,
    pub(super) live: LiveCalls,
}

impl Replies {
    pub(super) fn new(session: SharedSession, stream: u32, record: CallRecord) -> Replies {
        record.live.begin();
        session.borrow_mut().begin_call();
        record.observer.call_started(record.method);
        Replies {
            session,
            stream,
            done: false,
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
    pub fn send_unary<M: prost::Message>(mut self, result: Result<M, Status>) {
        match result {
            Ok(message) => {
                let sent = self.session.borrow_mut().send_unary(self.stream, &message);
                self.unary_sent(sent);
            }
            Err(status) => self.end(Err(status)),
        }
    }

    /// [`send_unary`](Replies::send_unary) with a message that is already encoded, prefix included
    /// ([`encode_message`]).
    pub fn send_unary_encoded(mut self, framed: Bytes) {
        let sent = self
            .session
            .borrow_mut()
            .send_unary_encoded(self.stream, framed);
        self.unary_sent(sent);
    }

    fn unary_sent(&mut self, sent: Result<(), Ended>) {
        if sent.is_ok() {
            self.record.observer.message_sent(self.record.method);
        }
        self.handled(sent, Code::Ok);
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

    /// Sends `message_count` messages that are already encoded, each with its prefix, one behind the other.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send_many(&mut self, framed: Bytes, message_count: usize) -> Result<(), Closed> {
        self.assert_nothing_owed();
        self.send_bytes(framed).await?;
        for _ in 0..message_count {
            self.record.observer.message_sent(self.record.method);
        }
        Ok(())
    }

    /// Sends the headers now instead of with the first message: a client may wait for them.
    ///
    /// # Errors
    /// The client is gone.
    pub fn send_headers(&mut self) -> Result<(), Closed> {
        let sent = self.session.borrow_mut().send_head(self.stream);
        sent.map_err(|Ended| self.abandon())
    }

    /// Begins a message of `message_bytes` bytes whose encoding follows in [`chunk`](Replies::chunk)s.
    ///
    /// # Panics
    /// When the message before has not been completed, or this one is larger than gRPC allows (4 GiB).
    pub fn begin(&mut self, message_bytes: u64) {
        self.assert_nothing_owed();
        self.prefix = Some(prefix(message_bytes));
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
        self.end(result);
    }

    /// Resolves when nobody wants the rest of this call any more, so that the handler can end. Dropping the
    /// future and calling again is fine.
    pub async fn closed(&mut self) -> Closed {
        poll_fn(|cx| self.poll_closed(cx)).await
    }

    /// [`closed`](Replies::closed) for hand-written futures.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        if self.done
            || self
                .session
                .borrow_mut()
                .poll_lost(self.stream, cx)
                .is_ready()
        {
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

    async fn send_bytes(&mut self, bytes: Bytes) -> Result<(), Closed> {
        let (session, stream) = (&self.session, self.stream);
        let room = poll_fn(|cx| session.borrow_mut().poll_room(stream, cx)).await;
        let sent = room.and_then(|()| self.session.borrow_mut().send_data(stream, bytes));
        sent.map_err(|Ended| self.abandon())
    }

    fn end(&mut self, result: Result<(), Status>) {
        if self.done {
            return;
        }
        let result = match result {
            Ok(()) if self.owed_bytes > 0 => {
                Err(Status::internal("the response message was not completed"))
            }
            other => other,
        };
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        let ended = self.session.borrow_mut().finish(self.stream, result);
        self.handled(ended, code);
    }

    /// The client is gone: nothing more is sent, and the call counts as cancelled.
    fn abandon(&mut self) -> Closed {
        self.handled(Err(Ended), Code::Cancelled);
        Closed::Gone
    }

    fn handled(&mut self, delivered: Result<(), Ended>, code: Code) {
        if !std::mem::replace(&mut self.done, true) {
            let code = delivered.map_or(Code::Cancelled, |()| code);
            self.record.observer.call_handled(self.record.method, code);
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if !self.done {
            let lost = !self.session.borrow().is_open(self.stream);
            if lost {
                self.abandon();
            } else {
                self.end(Err(Status::internal("the call ended without a status")));
            }
        }
        self.session.borrow_mut().end_call();
        self.record.live.end();
    }
}

/// gRPC's percent-encoding: everything but visible ASCII and space, and the percent sign.
pub(super) fn escape(text: &str) -> Bytes {
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

    pub(super) fn add(&self, count: usize) {
        self.connection.set(self.connection.get() + count);
        self.core.set(self.core.get() + count);
    }

    pub(super) fn sent(&self, count: usize) {
        self.connection.set(self.connection.get() - count);
        self.core.set(self.core.get() - count);
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
    fn unsent_bytes_are_counted_per_connection_and_per_core() {
        let core = UnsentGauge::default();
        let (one, two) = (core.for_connection(), core.for_connection());
        one.add(10);
        two.add(5);
        one.sent(4);
        let counts = (
            one.connection_bytes(),
            two.connection_bytes(),
            core.core_bytes(),
        );
        assert_eq!(counts, (6, 5, 11));
    }
}
