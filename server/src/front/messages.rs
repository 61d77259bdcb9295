//! The request side of a call: HTTP/2 DATA frames in, protobuf messages out.
//!
//! A gRPC message is a flag byte, a big-endian length and that many bytes, cut into DATA frames anywhere. A
//! message that lies within one DATA frame is sliced out of the read buffer; only one that spans frames is
//! copied together. Flow-control capacity goes back to the client as frames are taken, so a handler that does
//! not ask for messages stops its client after one window.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use tonic::Status;

use super::call::Method;
use super::limits::PARTIAL_BYTES_PER_CONNECTION_MAX;
use super::observer::Observer;

/// Flag byte and length.
pub const PREFIX_BYTES: usize = 5;

/// What the client sends on a call.
pub struct Messages {
    stream: RecvStream,
    assembler: Assembler,
    method: &'static Method,
    observer: Rc<dyn Observer>,
    ended: bool,
}

impl Messages {
    pub(super) fn new(
        stream: RecvStream,
        assembler: Assembler,
        method: &'static Method,
        observer: Rc<dyn Observer>,
    ) -> Messages {
        Messages {
            stream,
            assembler,
            method,
            observer,
            ended: false,
        }
    }

    /// The next message, or `None` when the client has sent its last. The future may be dropped and `next` called
    /// again: nothing is lost.
    ///
    /// # Errors
    /// The status to end the call with: the client went away (`Cancelled`), or broke the framing rules. After an
    /// error there are no more messages.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`next`](Messages::next) for hand-written futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match self.assembler.take() {
                Ok(Some(message)) => {
                    self.observer.message_received(self.method);
                    return Poll::Ready(Ok(Some(message)));
                }
                Ok(None) => {}
                Err(status) => return Poll::Ready(self.fail(status)),
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // Fails only when the stream is gone, which the next poll reports.
                    let _ = self.stream.flow_control().release_capacity(chunk.len());
                    self.assembler.feed(chunk);
                }
                Some(Err(error)) => return Poll::Ready(self.fail(lost(&error))),
                None if self.assembler.is_empty() => {
                    self.ended = true;
                    return Poll::Ready(Ok(None));
                }
                None => return Poll::Ready(self.fail(Status::internal("unexpected EOF"))),
            }
        }
    }

    /// The only message of a unary or server-streaming call.
    ///
    /// # Errors
    /// As [`next`](Messages::next), and when the client sent none.
    pub async fn unary(&mut self) -> Result<Bytes, Status> {
        self.next().await?.ok_or_else(|| {
            Status::internal(
                "cardinality violation: received no request message from non-client-streaming RPC",
            )
        })
    }

    fn fail<T>(&mut self, status: Status) -> Result<T, Status> {
        self.ended = true;
        Err(status)
    }
}

/// The status of a call whose request stream broke.
fn lost(error: &h2::Error) -> Status {
    match error.reason() {
        Some(reason) if !error.is_go_away() && reason != h2::Reason::CANCEL => {
            Status::internal(format!("the stream was reset by the client: {reason}"))
        }
        _ => Status::cancelled("context canceled"),
    }
}

/// Cuts messages out of a sequence of chunks. No IO.
pub(super) struct Assembler {
    /// What is left of the newest chunk.
    chunk: Bytes,
    /// Beginning of a prefix that spans chunks.
    prefix: Vec<u8>,
    /// Length of the message whose prefix has been read.
    message_bytes: Option<usize>,
    /// Beginning of a message that spans chunks.
    partial: BytesMut,
    message_bytes_max: usize,
    encoding: Option<String>,
    budget: PartialBudget,
}

/// Bytes of half-received messages of a connection, shared by its calls.
#[derive(Clone, Default)]
pub(super) struct PartialBudget(Rc<Cell<usize>>);

impl Assembler {
    /// `encoding` is the call's `grpc-encoding` unless that is `identity`.
    pub(super) fn new(
        message_bytes_max: usize,
        encoding: Option<String>,
        budget: PartialBudget,
    ) -> Assembler {
        Assembler {
            chunk: Bytes::new(),
            prefix: Vec::new(),
            message_bytes: None,
            partial: BytesMut::new(),
            message_bytes_max,
            encoding,
            budget,
        }
    }

    /// Adds the next chunk; the one before must have been used up by [`take`](Assembler::take).
    pub(super) fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// True between two messages.
    pub(super) fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.prefix.is_empty() && self.message_bytes.is_none()
    }

    /// The next message if it is complete; otherwise uses up the chunk.
    pub(super) fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let message_bytes = match self.message_bytes {
            Some(message_bytes) => message_bytes,
            None => match self.take_prefix()? {
                Some(message_bytes) => message_bytes,
                None => return Ok(None),
            },
        };
        if self.partial.is_empty() && self.chunk.len() >= message_bytes {
            self.message_bytes = None;
            return Ok(Some(self.chunk.split_to(message_bytes)));
        }
        let missing = message_bytes - self.partial.len();
        let part = self.chunk.split_to(missing.min(self.chunk.len()));
        self.budget.take(part.len())?;
        // Grows by doubling: a client that announces much and sends little holds little.
        self.partial.extend_from_slice(&part);
        if self.partial.len() < message_bytes {
            return Ok(None);
        }
        self.budget.give_back(message_bytes);
        self.message_bytes = None;
        Ok(Some(std::mem::take(&mut self.partial).freeze()))
    }

    fn take_prefix(&mut self) -> Result<Option<usize>, Status> {
        let prefix: [u8; PREFIX_BYTES] =
            if self.prefix.is_empty() && self.chunk.len() >= PREFIX_BYTES {
                let mut prefix = [0; PREFIX_BYTES];
                self.chunk.copy_to_slice(&mut prefix);
                prefix
            } else {
                let missing = PREFIX_BYTES - self.prefix.len();
                let part = self.chunk.split_to(missing.min(self.chunk.len()));
                self.prefix.extend_from_slice(&part);
                let Ok(prefix) = self.prefix.as_slice().try_into() else {
                    return Ok(None);
                };
                self.prefix.clear();
                prefix
            };
        let [flag, length @ ..] = prefix;
        let message_bytes = u32::from_be_bytes(length) as usize;
        self.check_flag(flag)?;
        if message_bytes > self.message_bytes_max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({message_bytes} vs. {})",
                self.message_bytes_max
            )));
        }
        self.message_bytes = Some(message_bytes);
        Ok(Some(message_bytes))
    }

    fn check_flag(&self, flag: u8) -> Result<(), Status> {
        match (flag, &self.encoding) {
            (0, _) => Ok(()),
            (1, None) => Err(Status::internal(
                "grpc: compressed flag set with identity or empty encoding",
            )),
            (1, Some(encoding)) => Err(not_installed(encoding)),
            (other, _) => Err(Status::internal(format!(
                "grpc: received unexpected payload format {other}"
            ))),
        }
    }
}

impl Drop for Assembler {
    fn drop(&mut self) {
        self.budget.give_back(self.partial.len());
    }
}

/// The status of a call in a compression the server does not have.
pub(super) fn not_installed(encoding: &str) -> Status {
    Status::unimplemented(format!(
        "grpc: Decompressor is not installed for grpc-encoding {encoding:?}"
    ))
}

impl PartialBudget {
    fn take(&self, count: usize) -> Result<(), Status> {
        let used = self.0.get() + count;
        if used > PARTIAL_BYTES_PER_CONNECTION_MAX {
            return Err(Status::resource_exhausted("etcdserver: too many requests"));
        }
        self.0.set(used);
        Ok(())
    }

    fn give_back(&self, count: usize) {
        self.0.set(self.0.get() - count);
    }
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
