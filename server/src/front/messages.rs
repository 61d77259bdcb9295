//! The request side of a call: HTTP/2 DATA frames in, protobuf messages out.
//!
//! A gRPC message is a flag byte, a big-endian length and that many bytes, cut into DATA frames anywhere. The
//! [`Assembler`] of a stream copies each message once, out of what the socket brought into a buffer of its own. A
//! message that waits for its handler holds the client's windows back, so a handler that does not ask for messages
//! stops its client after one window.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tonic::Status;

use super::call::Method;
use super::http2::SharedSession;
use super::observer::Observer;

/// Flag byte and length.
pub const PREFIX_BYTES: usize = 5;

/// What the client sends on a call.
pub struct Messages {
    session: SharedSession,
    stream: u32,
    method: &'static Method,
    observer: Rc<dyn Observer>,
    ended: bool,
}

impl Messages {
    pub(super) fn new(
        session: SharedSession,
        stream: u32,
        method: &'static Method,
        observer: Rc<dyn Observer>,
    ) -> Messages {
        Messages {
            session,
            stream,
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
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let next = ready!(self.session.borrow_mut().poll_message(self.stream, cx));
        match &next {
            Ok(Some(_)) => self.observer.message_received(self.method),
            Ok(None) | Err(_) => self.ended = true,
        }
        Poll::Ready(next)
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
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.session.borrow_mut().leave_unread(self.stream);
    }
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) bytes: Bytes,
    /// Bytes of the chunk that completed it, prefix included: what it holds back from the windows. Those that came
    /// in earlier chunks were given back at once, or no message could be longer than a window.
    pub(super) held_bytes: usize,
}

/// Why a body is not a sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The flag byte says something else than "plain".
    Flag(u8),
    /// More bytes than a message may have.
    TooLong {
        message_bytes: usize,
        message_bytes_max: usize,
    },
}

/// Cuts messages out of a sequence of chunks. No IO.
#[derive(Default)]
pub(super) struct Assembler {
    /// The beginning of a prefix that spans chunks.
    prefix: Vec<u8>,
    /// Length of the message whose prefix has been read.
    message_bytes: Option<usize>,
    /// The beginning of a message that spans chunks.
    partial: Vec<u8>,
}

impl Assembler {
    /// Takes the next chunk whole, and hands over each message that it completes.
    ///
    /// # Errors
    /// The first message that cannot be taken; what follows it is lost.
    pub(super) fn feed(
        &mut self,
        mut chunk: &[u8],
        message_bytes_max: usize,
        mut on_message: impl FnMut(Message),
    ) -> Result<(), Refusal> {
        let mut unclaimed = chunk.len();
        while !chunk.is_empty() {
            let message_bytes = match self.message_bytes {
                Some(message_bytes) => message_bytes,
                None => match self.take_prefix(&mut chunk, message_bytes_max)? {
                    Some(message_bytes) => message_bytes,
                    None => return Ok(()),
                },
            };
            self.message_bytes = Some(message_bytes);
            // A message of no bytes is complete with its prefix, so it is not looked for in the next chunk.
            let missing = message_bytes - self.partial.len();
            if chunk.len() < missing {
                // Grows by doubling: a client that announces much and sends little holds little.
                self.partial.extend_from_slice(chunk);
                return Ok(());
            }
            let (end, rest) = chunk.split_at(missing);
            chunk = rest;
            let bytes = if self.partial.is_empty() {
                Bytes::copy_from_slice(end)
            } else {
                self.partial.extend_from_slice(end);
                Bytes::from(std::mem::take(&mut self.partial))
            };
            self.message_bytes = None;
            let held_bytes = unclaimed - chunk.len();
            unclaimed = chunk.len();
            on_message(Message { bytes, held_bytes });
        }
        Ok(())
    }

    /// True between two messages.
    pub(super) fn is_empty(&self) -> bool {
        self.prefix.is_empty() && self.message_bytes.is_none()
    }

    /// Bytes of a message that has not come whole.
    pub(super) fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Drops what has come of a message; how many bytes that was.
    pub(super) fn clear(&mut self) -> usize {
        let partial = std::mem::take(self).partial;
        partial.len()
    }

    fn take_prefix(
        &mut self,
        chunk: &mut &[u8],
        message_bytes_max: usize,
    ) -> Result<Option<usize>, Refusal> {
        let missing = PREFIX_BYTES - self.prefix.len();
        let (part, rest) = chunk.split_at(missing.min(chunk.len()));
        *chunk = rest;
        let [flag, length @ ..] = if part.len() == PREFIX_BYTES {
            part.try_into().expect("it has that length")
        } else {
            self.prefix.extend_from_slice(part);
            let Ok(prefix) = <[u8; PREFIX_BYTES]>::try_from(&self.prefix[..]) else {
                return Ok(None);
            };
            self.prefix.clear();
            prefix
        };
        let message_bytes = u32::from_be_bytes(length) as usize;
        if flag != 0 {
            return Err(Refusal::Flag(flag));
        }
        if message_bytes > message_bytes_max {
            return Err(Refusal::TooLong {
                message_bytes,
                message_bytes_max,
            });
        }
        Ok(Some(message_bytes))
    }
}

impl Refusal {
    /// The status to end the call with; `encoding` is its `grpc-encoding`.
    pub(super) fn status(self, encoding: Option<&[u8]>) -> Status {
        match self {
            Refusal::Flag(1) => match encoding {
                Some(encoding) if encoding != b"identity" && !encoding.is_empty() => {
                    not_installed(&String::from_utf8_lossy(encoding))
                }
                _ => Status::internal("grpc: compressed flag set with identity or empty encoding"),
            },
            Refusal::Flag(other) => {
                Status::internal(format!("grpc: received unexpected payload format {other}"))
            }
            Refusal::TooLong {
                message_bytes,
                message_bytes_max,
            } => Status::resource_exhausted(format!(
                "grpc: received message larger than max ({message_bytes} vs. {message_bytes_max})"
            )),
        }
    }
}

/// The status of a call in a compression the server does not have.
pub(super) fn not_installed(encoding: &str) -> Status {
    Status::unimplemented(format!(
        "grpc: Decompressor is not installed for grpc-encoding {encoding:?}"
    ))
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
