//! The state of one HTTP/2 connection, and what its task and its handlers do with it.
//!
//! The task hands over what it has read ([`Session::on_bytes`]), begins the calls that came
//! ([`Session::take_opened`]), and sends what [`Session::output`] holds. Handlers take messages and give responses
//! by the number of their stream; a stream that is not there any more has been lost, or has ended. Whatever gives the
//! task something to send wakes it.
//!
//! # Invariants
//!
//! 1. `streams` holds exactly the streams that are open on at least one side; one that is gone never comes back.
//! 2. `unsent` counts the bytes of `out` and of every stream's `pending`.
//! 3. After [`Session::failure`] is set, no frame is taken in any more.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use keelson_proto::http2::{
    ErrorCode, FrameHead, FrameKind, INITIAL_WINDOW_BYTES, SettingId, flags, put_setting,
};
use tonic::Status;

use super::head::{Heads, RequestHead};
use super::outgoing::{Outgoing, SpareBuffers};
use super::send::ResponseFields;
use super::stream::{Stream, register};
use crate::front::limits;
use crate::front::replies::UnsentGauge;

/// A session as its task and its handlers share it.
pub(in crate::front) type SharedSession = Rc<RefCell<Session>>;

/// Opaque data of the ping that tells whether a client has seen the first GOAWAY.
pub(super) const DRAIN_PING: [u8; 8] = *b"draining";
/// Opaque data of the ping that looks for a sign of life.
const LIFE_PING: [u8; 8] = *b"keelson?";

/// The stream has been lost or has ended: nobody takes what is sent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::front) struct Ended;

/// The state of one connection.
pub(in crate::front) struct Session {
    pub(super) message_bytes_max: usize,
    pub(super) stream_count_max: usize,

    pub(super) heads: Heads,
    pub(super) streams: HashMap<u32, Stream, BuildHasherDefault<StreamHasher>>,
    /// The highest stream the client has opened.
    pub(super) newest: u32,
    pub(super) opened: VecDeque<(u32, Rc<RequestHead>)>,
    /// Handlers that have not ended, also of streams that the client has reset.
    pub(super) live_calls: usize,

    /// A frame that has not come whole.
    pub(super) partial_frame: Vec<u8>,
    /// A header block that goes on in further frames.
    pub(super) block: Option<(FrameHead, Vec<u8>)>,
    pub(super) settings_received: bool,
    pub(super) receive_window: i64,
    pub(super) receive_owed: u32,
    /// Bytes of messages that have not come whole, over all streams.
    pub(super) partial_message_bytes: usize,
    pub(super) pong_received: bool,

    pub(super) out: Outgoing,
    pub(super) fields: ResponseFields,
    pub(super) send_window: i64,
    /// The window that the client grants a new stream.
    pub(super) stream_send_window: i64,
    pub(super) frame_bytes_max: usize,
    /// Streams with bytes that wait for the connection's window or for room in `out`.
    pub(super) waiting: VecDeque<u32>,
    pub(super) unsent: UnsentGauge,
    pub(super) draining: Draining,
    failure: Option<ErrorCode>,
    task: Option<Waker>,
}

/// How far the end of the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draining {
    No,
    /// Told, but the client may have opened streams before it heard.
    Announced,
    /// No stream is taken any more.
    Last,
}

/// Stream numbers are drawn by the client; a multiplication spreads them. They collide at will of a client that
/// wants it, which then pays with its own connection's time: the count of streams is bounded.
#[derive(Default)]
pub(super) struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("stream numbers are u32");
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Session {
    /// A session whose preface has been read; our own settings are in the output.
    pub(in crate::front) fn new(
        message_bytes_max: usize,
        stream_count_max: u32,
        unsent: UnsentGauge,
        spares: SpareBuffers,
    ) -> Session {
        let mut session = Session {
            message_bytes_max,
            stream_count_max: stream_count_max as usize,
            heads: Heads::new(),
            streams: HashMap::default(),
            newest: 0,
            opened: VecDeque::new(),
            live_calls: 0,
            partial_frame: Vec::new(),
            block: None,
            settings_received: false,
            receive_window: i64::from(limits::CONNECTION_WINDOW_BYTES),
            receive_owed: 0,
            partial_message_bytes: 0,
            pong_received: false,
            out: Outgoing::new(spares),
            fields: ResponseFields::default(),
            send_window: i64::from(INITIAL_WINDOW_BYTES),
            stream_send_window: i64::from(INITIAL_WINDOW_BYTES),
            frame_bytes_max: limits::FRAME_BYTES_MAX as usize,
            waiting: VecDeque::new(),
            unsent,
            draining: Draining::No,
            failure: None,
            task: None,
        };
        session.send_settings(stream_count_max);
        session
    }

    fn send_settings(&mut self, stream_count_max: u32) {
        let mut settings = Vec::new();
        let values = [
            (SettingId::MaxConcurrentStreams, stream_count_max),
            (SettingId::InitialWindowSize, limits::STREAM_WINDOW_BYTES),
            (SettingId::MaxFrameSize, limits::FRAME_BYTES_MAX),
            (SettingId::MaxHeaderListSize, limits::HEADER_LIST_BYTES_MAX),
        ];
        for (id, value) in values {
            put_setting(&mut settings, id, value);
        }
        self.frame(FrameKind::Settings, 0, 0, &settings);
        let grown = limits::CONNECTION_WINDOW_BYTES - INITIAL_WINDOW_BYTES;
        self.frame(FrameKind::WindowUpdate, 0, 0, &grown.to_be_bytes());
    }

    /// Streams that came since the last call.
    pub(in crate::front) fn take_opened(&mut self) -> Option<(u32, Rc<RequestHead>)> {
        self.opened.pop_front()
    }

    /// True once after an answer to [`ping`](Session::ping).
    pub(in crate::front) fn take_pong(&mut self) -> bool {
        std::mem::take(&mut self.pong_received)
    }

    /// Asks the client for a sign of life.
    pub(in crate::front) fn ping(&mut self) {
        self.frame(FrameKind::Ping, 0, 0, &LIFE_PING);
    }

    /// Begins the end: the client is told to open no more streams, and those that are open go on.
    pub(in crate::front) fn drain(&mut self) {
        if self.draining == Draining::No {
            self.draining = Draining::Announced;
            // The highest number: streams that are on their way are still taken.
            self.send_goaway(u32::MAX >> 1, ErrorCode::NoError);
            self.frame(FrameKind::Ping, 0, 0, &DRAIN_PING);
        }
    }

    /// The client has answered the ping behind the first GOAWAY.
    pub(super) fn end_drain(&mut self) {
        if self.draining == Draining::Announced {
            self.draining = Draining::Last;
            self.send_goaway(self.newest, ErrorCode::NoError);
        }
    }

    fn send_goaway(&mut self, last: u32, code: ErrorCode) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.to_be_bytes());
        payload[4..].copy_from_slice(&(code as u32).to_be_bytes());
        self.frame(FrameKind::GoAway, 0, 0, &payload);
    }

    /// Ends the connection for a fault of the client.
    pub(super) fn fail(&mut self, code: ErrorCode) {
        if self.failure.is_none() {
            self.send_goaway(self.newest, code);
            self.failure = Some(code);
        }
    }

    /// Why the connection must end, once its output is sent.
    pub(in crate::front) fn failure(&self) -> Option<ErrorCode> {
        self.failure
    }

    /// True if a drain is over.
    pub(in crate::front) fn is_drained(&self) -> bool {
        self.draining == Draining::Last && self.streams.is_empty()
    }

    /// True while the client must take something before it may ask for more: its own frames can make us answer.
    pub(in crate::front) fn is_choked(&self) -> bool {
        self.out.unsent_bytes() > limits::OUT_BYTES_CHOKED
    }

    /// The connection is gone: every handler finds its stream lost.
    pub(in crate::front) fn close(&mut self) {
        let numbers: Vec<u32> = self.streams.keys().copied().collect();
        for number in numbers {
            self.forget(number);
        }
        self.unsent.sent(self.out.unsent_bytes());
        self.out = Outgoing::default();
        self.failure.get_or_insert(ErrorCode::NoError);
    }

    /// What is to be sent.
    pub(super) fn output(&self) -> &Outgoing {
        &self.out
    }

    /// The socket has taken bytes of the output.
    pub(in crate::front) fn on_sent(&mut self, count: usize) {
        self.out.advance(count);
        self.unsent.sent(count);
        self.pump_waiting();
    }

    /// Has the next output wake this task.
    pub(in crate::front) fn register_task(&mut self, waker: &Waker) {
        register(&mut self.task, waker);
    }

    pub(super) fn wake_task(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// A handler begins.
    pub(in crate::front) fn begin_call(&mut self) {
        self.live_calls += 1;
    }

    /// A handler has ended.
    pub(in crate::front) fn end_call(&mut self) {
        self.live_calls -= 1;
    }

    /// The next message of a stream.
    pub(in crate::front) fn poll_message(
        &mut self,
        number: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Status>> {
        let Some(stream) = self.streams.get_mut(&number) else {
            return Poll::Ready(Err(Status::cancelled("context canceled")));
        };
        if let Some(message) = stream.messages.pop_front() {
            stream.held_bytes -= message.held_bytes;
            self.give_window(number, message.held_bytes);
            return Poll::Ready(Ok(Some(message.bytes)));
        }
        if let Some(fault) = stream.fault.take() {
            return Poll::Ready(Err(fault));
        }
        if stream.received_all {
            return Poll::Ready(Ok(None));
        }
        register(&mut stream.reader, cx.waker());
        Poll::Pending
    }

    /// The handler takes no more messages of a stream.
    pub(in crate::front) fn leave_unread(&mut self, number: u32) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.unread = true;
            stream.reader = None;
            stream.messages.clear();
            let held_bytes = std::mem::take(&mut stream.held_bytes);
            self.partial_message_bytes -= stream.assembler.clear();
            self.give_window(number, held_bytes);
        }
    }

    /// Ready when the stream is lost.
    pub(in crate::front) fn poll_lost(&mut self, number: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.streams.get_mut(&number) {
            Some(stream) => {
                register(&mut stream.writer, cx.waker());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Whether a stream is there.
    pub(in crate::front) fn is_open(&self, number: u32) -> bool {
        self.streams.contains_key(&number)
    }

    /// Tells the client that bytes have been taken, when they have come to something.
    pub(super) fn give_window(&mut self, number: u32, taken_bytes: usize) {
        let taken = u32::try_from(taken_bytes).expect("windows are smaller than 4 GiB");
        self.receive_owed += taken;
        if self.receive_owed >= limits::CONNECTION_WINDOW_BYTES / 2 {
            let owed = std::mem::take(&mut self.receive_owed);
            self.receive_window += i64::from(owed);
            self.frame(FrameKind::WindowUpdate, 0, 0, &owed.to_be_bytes());
        }
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        stream.receive_owed += taken;
        if stream.receive_owed >= limits::STREAM_WINDOW_BYTES / 2 && !stream.received_all {
            let owed = std::mem::take(&mut stream.receive_owed);
            stream.receive_window += i64::from(owed);
            self.frame(FrameKind::WindowUpdate, 0, number, &owed.to_be_bytes());
        }
    }

    /// Ends a stream from our side for a fault of the client.
    pub(super) fn reset(&mut self, number: u32, code: ErrorCode) {
        self.frame(
            FrameKind::RstStream,
            0,
            number,
            &(code as u32).to_be_bytes(),
        );
        self.forget(number);
    }

    /// Drops a stream; whoever waits for it finds it gone.
    pub(super) fn forget(&mut self, number: u32) {
        let Some(mut stream) = self.streams.remove(&number) else {
            return;
        };
        stream.wake_reader();
        stream.wake_writer();
        let pending: usize = stream.pending.iter().map(Bytes::len).sum();
        self.unsent.sent(pending);
        self.partial_message_bytes -= stream.assembler.clear();
        self.give_window(number, stream.held_bytes);
    }

    /// Puts a frame into the output.
    pub(super) fn frame(&mut self, kind: FrameKind, flag: u8, stream: u32, payload: &[u8]) {
        debug_assert!(flag == 0 || flag == flags::ACK);
        let payload_bytes = u32::try_from(payload.len()).expect("control frames are short");
        self.write(|out| out.frame(FrameHead::new(kind, flag, stream, payload_bytes), payload));
    }

    /// Writes to the output, counts it, and has it sent.
    pub(super) fn write<T>(&mut self, write: impl FnOnce(&mut Outgoing) -> T) -> T {
        let before = self.out.unsent_bytes();
        let result = write(&mut self.out);
        self.unsent.add(self.out.unsent_bytes() - before);
        self.wake_task();
        result
    }
}
