//! One call's two directions.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use bytes::Bytes;
use tonic::Status;

use super::head::RequestHead;
use crate::front::messages::{Assembler, Message};

/// A stream that the client has opened and that has not ended on both sides.
pub(super) struct Stream {
    pub(super) head: Rc<RequestHead>,

    /// Cuts what comes into messages.
    pub(super) assembler: Assembler,
    /// Messages that their handler has not taken.
    pub(super) messages: VecDeque<Message>,
    /// Bytes that `messages` hold back from the windows.
    pub(super) held_bytes: usize,
    /// Bytes that the client may send.
    pub(super) receive_window: i64,
    /// Bytes taken that the client has not been told of.
    pub(super) receive_owed: u32,
    /// The client has sent everything.
    pub(super) received_all: bool,
    /// What is wrong with what came: there are no more messages.
    pub(super) fault: Option<Status>,
    /// The handler does not want what comes.
    pub(super) unread: bool,
    pub(super) reader: Option<Waker>,

    /// Bytes that the client takes.
    pub(super) send_window: i64,
    /// Response bytes behind the windows.
    pub(super) pending: VecDeque<Bytes>,
    /// The end, behind `pending`.
    pub(super) end: Option<Result<(), Status>>,
    pub(super) head_sent: bool,
    /// It stands in the session's queue of streams that wait for the connection.
    pub(super) queued: bool,
    /// Waits for room, or for the loss of the stream.
    pub(super) writer: Option<Waker>,
    /// The writer waits for room.
    pub(super) wants_room: bool,
}

impl Stream {
    pub(super) fn new(
        head: Rc<RequestHead>,
        assembler: Assembler,
        receive_window: i64,
        send_window: i64,
    ) -> Stream {
        Stream {
            head,
            assembler,
            messages: VecDeque::new(),
            held_bytes: 0,
            receive_window,
            receive_owed: 0,
            received_all: false,
            fault: None,
            unread: false,
            reader: None,
            send_window,
            pending: VecDeque::new(),
            end: None,
            head_sent: false,
            queued: false,
            writer: None,
            wants_room: false,
        }
    }

    /// True if the handler has said its last word.
    pub(super) fn is_answered(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

/// Stores the waker of the task that polls, without a clone if it is the one already there.
pub(super) fn register(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(held) if held.will_wake(waker) => {}
        _ => *place = Some(waker.clone()),
    }
}
