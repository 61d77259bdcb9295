//! One HTTP/2 connection of a gRPC client: bytes in, events and bytes out.
//!
//! Whoever owns the socket hands what it read to [`Session::on_bytes`] and writes what gathers in
//! [`Session::out`]; calls are begun in between. Every call ends with one [`Event::End`], by the
//! server's word or, when the connection is lost, by [`Session::fail_all`].
//!
//! 1. `End(Ok)` means grpc-status 0 in the last header block of an answer that began with HTTP
//!    status 200, all messages whole, and exactly one message for a unary call.
//! 2. What breaks the rules of HTTP/2 is an error of the connection, never a panic; what only one
//!    answer gets wrong ends that call.
//! 3. DATA leaves only within the windows that the server grants, and new streams only within its
//!    limit. Our own windows are so large that they do not hold a server back.

use keelson_proto::http2::{
    ErrorCode, FRAME_HEAD_BYTES, FrameHead, FrameKind, INITIAL_WINDOW_BYTES, PREFACE, SettingId,
    WINDOW_BYTES_MAX, flags, put_setting, strip_padding,
};

use super::answers::{AnswerHeaders, Meaning};
use super::failure::Failure;
use super::requests::Rpc;
use super::sending::{FRAME_BYTES_DEFAULT, Sending};
use super::streams::{Delivery, Stream, Streams};

const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// A window is filled up when this part of it is used.
const WINDOW_REFILL_PART: u32 = 4;
const FRAME_BYTES_MAX: usize = 1 << 24;
const SETTING_BYTES: usize = 6;
const PRIORITY_BYTES: usize = 5;
const PING_BYTES: usize = 8;
/// Longest header block taken; an answer's are a hundred times shorter.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// More than this is not gathered for a server that does not read.
const OUT_BYTES_MAX: usize = 256 << 20;
const HTTP_OK: u16 = 200;
/// Streams that one connection opens in its life: a good part of all ids.
const STREAMS_OPENED_MAX: u32 = 1_000_000_000;

/// What the server did to one call.
pub enum Event<'a> {
    /// A whole message.
    Message(&'a [u8]),
    /// Some bytes of a message, in order.
    Piece { bytes: &'a [u8], is_last: bool },
    /// Nothing more comes.
    End(Result<(), Failure>),
}

/// One connection without its socket.
pub struct Session {
    sending: Sending,
    streams: Streams,
    opened: u32,
    answers: AnswerHeaders,
    /// The server's first frame was there.
    has_settings: bool,
    is_going_away: bool,
    /// Received since the last WINDOW_UPDATE for the connection.
    received_bytes: u32,
    /// A header block that CONTINUATION frames complete.
    cut_block: Option<CutBlock>,
}

struct CutBlock {
    head: FrameHead,
    block: Vec<u8>,
}

impl Session {
    /// A connection to `host:port` whose first bytes are ready to be sent.
    pub fn new(authority: String) -> Self {
        let mut sending = Sending::new(authority);
        let out = &mut sending.out;
        out.extend_from_slice(PREFACE);
        let settings_bytes = 2 * SETTING_BYTES as u32;
        FrameHead::new(FrameKind::Settings, 0, 0, settings_bytes).write(out);
        put_setting(out, SettingId::EnablePush, 0);
        put_setting(out, SettingId::InitialWindowSize, STREAM_WINDOW_BYTES);
        put_window_update(out, 0, CONNECTION_WINDOW_BYTES - INITIAL_WINDOW_BYTES);
        Self {
            sending,
            streams: Streams::new(),
            opened: 0,
            answers: AnswerHeaders::default(),
            has_settings: false,
            is_going_away: false,
            received_bytes: 0,
            cut_block: None,
        }
    }

    /// False if no new call may begin: the server is going away, or all stream ids are used.
    pub fn is_usable(&self) -> bool {
        !self.is_going_away && self.opened < STREAMS_OPENED_MAX
    }

    /// Bytes that wait to be written.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.sending.out
    }

    /// Begins a call of one request, which `write` appends. Its events carry the token.
    pub fn call(
        &mut self,
        rpc: Rpc,
        token: u32,
        delivery: Delivery,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.opened += 1;
        self.sending
            .call(&mut self.streams, rpc, token, delivery, write);
    }

    /// Opens a stream for any number of requests, and returns its id.
    pub fn open(&mut self, rpc: Rpc, token: u32) -> u32 {
        self.opened += 1;
        self.sending
            .open(&mut self.streams, rpc, token, Delivery::Messages)
    }

    /// Sends one request on an open stream.
    pub fn send(&mut self, stream: u32, write: impl FnOnce(&mut Vec<u8>)) {
        self.sending.send(&mut self.streams, stream, false, write);
    }

    /// Takes what was read and returns how much of it was used; the rest, less than a frame, is to
    /// be handed in again with what follows it.
    ///
    /// # Errors
    /// The connection is of no further use; [`Session::fail_all`] ends its calls.
    pub fn on_bytes(
        &mut self,
        bytes: &[u8],
        mut on_event: impl FnMut(u32, Event<'_>),
    ) -> Result<usize, Failure> {
        let mut used = 0;
        while let Some(head) = bytes[used..].first_chunk::<FRAME_HEAD_BYTES>() {
            let head = FrameHead::parse(head);
            let payload_bytes = head.payload_bytes as usize;
            if payload_bytes > FRAME_BYTES_DEFAULT {
                return Err(Failure::protocol(
                    ErrorCode::FrameSizeError,
                    "a frame longer than allowed",
                ));
            }
            let begin = used + FRAME_HEAD_BYTES;
            let Some(payload) = bytes.get(begin..begin + payload_bytes) else {
                break;
            };
            used = begin + payload_bytes;
            self.on_frame(head, payload, &mut on_event)?;
        }
        if self.sending.out.len() > OUT_BYTES_MAX {
            return Err(Failure::Transport("the server does not read".to_owned()));
        }
        Ok(used)
    }

    /// Ends every call that is under way.
    pub fn fail_all(&mut self, failure: &Failure, mut on_event: impl FnMut(u32, Event<'_>)) {
        self.is_going_away = true;
        let mut ended = self.sending.take_unopened();
        let ids: Vec<u32> = self.streams.iter_mut().map(|stream| stream.id).collect();
        for id in ids {
            ended.extend(self.streams.close(id).map(|stream| stream.token));
        }
        for token in ended {
            on_event(token, Event::End(Err(failure.clone())));
        }
    }

    fn on_frame(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        on_event: &mut impl FnMut(u32, Event<'_>),
    ) -> Result<(), Failure> {
        let kind = FrameKind::of(head.kind);
        if !self.has_settings && kind != Some(FrameKind::Settings) {
            return Err(violation("the first frame is not SETTINGS"));
        }
        if self.cut_block.is_some() && kind != Some(FrameKind::Continuation) {
            return Err(violation("a header block is interrupted"));
        }
        match kind {
            Some(FrameKind::Data) => self.on_data(head, payload, on_event),
            Some(FrameKind::Headers) => self.on_headers(head, payload, on_event),
            Some(FrameKind::Continuation) => self.on_continuation(head, payload, on_event),
            Some(FrameKind::RstStream) => self.on_reset(head, payload, on_event),
            Some(FrameKind::Settings) => self.on_settings(head, payload),
            Some(FrameKind::Ping) => self.on_ping(head, payload),
            Some(FrameKind::GoAway) => self.on_go_away(head, payload, on_event),
            Some(FrameKind::WindowUpdate) => self.on_window_update(head, payload),
            Some(FrameKind::PushPromise) => Err(violation("a push that was forbidden")),
            Some(FrameKind::Priority) | None => Ok(()),
        }
    }

    fn on_data(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        on_event: &mut impl FnMut(u32, Event<'_>),
    ) -> Result<(), Failure> {
        let data =
            strip_padding(head, payload).ok_or_else(|| violation("more padding than payload"))?;
        self.received_bytes += head.payload_bytes;
        if self.received_bytes > CONNECTION_WINDOW_BYTES / WINDOW_REFILL_PART {
            put_window_update(&mut self.sending.out, 0, self.received_bytes);
            self.received_bytes = 0;
        }
        let Some(stream) = self.streams.get(head.stream) else {
            return self.check_opened(head);
        };
        if !stream.has_headers {
            return Err(violation("DATA before HEADERS"));
        }
        let (token, delivery) = (stream.token, stream.delivery);
        let taken = stream
            .body
            .take(data, delivery, |event| on_event(token, event));
        if let Err(failure) = taken {
            self.give_up(head.stream, failure, on_event);
        } else if head.has(flags::END_STREAM) {
            self.end(head.stream, Err(Failure::Answer("no trailers")), on_event);
        } else {
            stream.received_bytes += head.payload_bytes;
            if stream.received_bytes > STREAM_WINDOW_BYTES / WINDOW_REFILL_PART {
                let bytes = std::mem::take(&mut stream.received_bytes);
                put_window_update(&mut self.sending.out, head.stream, bytes);
            }
        }
        Ok(())
    }

    fn on_headers(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        on_event: &mut impl FnMut(u32, Event<'_>),
    ) -> Result<(), Failure> {
        let mut block =
            strip_padding(head, payload).ok_or_else(|| violation("more padding than payload"))?;
        if head.has(flags::PRIORITY) {
            block = block.get(PRIORITY_BYTES..).ok_or_else(|| {
                Failure::protocol(ErrorCode::FrameSizeError, "HEADERS without their priority")
            })?;
        }
        if head.has(flags::END_HEADERS) {
            return self.on_block(head, block, on_event);
        }
        self.cut_block = Some(CutBlock {
            head,
            block: block.to_vec(),
        });
        Ok(())
    }

    fn on_continuation(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        on_event: &mut impl FnMut(u32, Event<'_>),
    ) -> Result<(), Failure> {
        let Some(mut cut) = self.cut_block.take() else {
            return Err(violation("CONTINUATION of nothing"));
        };
        if head.stream != cut.head.stream {
            return Err(violation("CONTINUATION of another stream"));
        }
        cut.block.extend_from_slice(payload);
        if cut.block.len() > BLOCK_BYTES_MAX {
            return Err(Failure::protocol(
                ErrorCode::EnhanceYourCalm,
                "a header block without end",
            ));
        }
        if head.has(flags::END_HEADERS) {
            return self.on_block(cut.head, &cut.block, on_event);
        }
        self.cut_block = Some(cut);
        Ok(())
    }

    /// A whole header block. It is read even if nobody waits for it: it may change the table.
    fn on_block(
        &mut self,
        head: FrameHead,
        block: &[u8],
        on_event: &mut impl FnMut(u32, Event<'_>),
    ) -> Result<(), Failure> {
        let meaning = self.answers.read(block).map_err(|_| {
            Failure::protocol(ErrorCode::CompressionError, "a header block out of step")
        })?;
        let Some(stream) = self.streams.get(head.stream) else {
            return self.check_opened(head);
        };
        let is_first = !stream.has_headers;
        if is_first && meaning.http_status.is_some_and(|code| code < HTTP_OK) {
            // An interim answer: the real one follows.
            return Ok(());
        }
        if is_first && meaning.http_status != Some(HTTP_OK) {
            self.give_up(head.stream, http_failure(&meaning), on_event);
        } else if head.has(flags::END_STREAM) {
            let outcome = meaning.outcome().and_then(|()| check_body(stream));
            self.end(head.stream, outcome, on_event);
        } else if is_first {
            stream.has_headers = true;
        } else {
            self.give_up(
                head.stream,
                Failure::Answer("headers amid the body"),
                on_event,
            );
        }
        Ok(())
    }

    fn on_reset(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        on_event: &mut impl FnMut(u32, Event<'_>),
    ) -> Result<(), Failure> {
        let code = u32::from_be_bytes(fixed(payload)?);
        match self.streams.close(head.stream) {
            Some(stream) => {
                on_event(stream.token, Event::End(Err(Failure::reset(code))));
                self.sending.send_waiting(&mut self.streams);
                Ok(())
            }
            None => self.check_opened(head),
        }
    }

    fn on_settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Failure> {
        if head.stream != 0 {
            return Err(violation("SETTINGS of a stream"));
        }
        self.has_settings = true;
        if head.has(flags::ACK) {
            return fixed::<0>(payload).map(|_| ());
        }
        let (settings, rest) = payload.as_chunks::<SETTING_BYTES>();
        fixed::<0>(rest)?;
        for &[id0, id1, v0, v1, v2, v3] in settings {
            let id = u16::from_be_bytes([id0, id1]);
            self.on_setting(id, u32::from_be_bytes([v0, v1, v2, v3]))?;
        }
        FrameHead::new(FrameKind::Settings, flags::ACK, 0, 0).write(&mut self.sending.out);
        self.sending.send_waiting(&mut self.streams);
        Ok(())
    }

    fn on_setting(&mut self, id: u16, value: u32) -> Result<(), Failure> {
        let is = |known: SettingId| id == known as u16;
        if is(SettingId::HeaderTableSize) {
            self.sending.headers.on_table_size(value);
        } else if is(SettingId::MaxConcurrentStreams) {
            self.sending.streams_max = value as usize;
        } else if is(SettingId::InitialWindowSize) {
            if !self.sending.set_initial_window(&mut self.streams, value) {
                return Err(Failure::protocol(
                    ErrorCode::FlowControlError,
                    "SETTINGS make a window too large",
                ));
            }
        } else if is(SettingId::MaxFrameSize) {
            let bytes = value as usize;
            if !(FRAME_BYTES_DEFAULT..FRAME_BYTES_MAX).contains(&bytes) {
                return Err(violation("an impossible SETTINGS_MAX_FRAME_SIZE"));
            }
            self.sending.frame_bytes_max = bytes;
        }
        Ok(())
    }

    fn on_ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Failure> {
        let opaque: [u8; PING_BYTES] = fixed(payload)?;
        if head.stream != 0 {
            return Err(violation("PING of a stream"));
        }
        if !head.has(flags::ACK) {
            let out = &mut self.sending.out;
            FrameHead::new(FrameKind::Ping, flags::ACK, 0, PING_BYTES as u32).write(out);
            out.extend_from_slice(&opaque);
        }
        Ok(())
    }

    /// Calls that the server has taken up still get their answers; others must go elsewhere.
    fn on_go_away(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        on_event: &mut impl FnMut(u32, Event<'_>),
    ) -> Result<(), Failure> {
        let Some(&last) = payload.first_chunk::<4>() else {
            return Err(Failure::protocol(
                ErrorCode::FrameSizeError,
                "a short GOAWAY",
            ));
        };
        if head.stream != 0 {
            return Err(violation("GOAWAY of a stream"));
        }
        self.is_going_away = true;
        let last = u32::from_be_bytes(last) & WINDOW_BYTES_MAX;
        let mut ended = self.sending.take_unopened();
        let ids: Vec<u32> = self
            .streams
            .iter_mut()
            .map(|stream| stream.id)
            .filter(|&id| id > last)
            .collect();
        for id in ids {
            ended.extend(self.streams.close(id).map(|stream| stream.token));
        }
        let failure = Failure::Transport("the server is going away".to_owned());
        for token in ended {
            on_event(token, Event::End(Err(failure.clone())));
        }
        Ok(())
    }

    fn on_window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Failure> {
        let bytes = u32::from_be_bytes(fixed(payload)?) & WINDOW_BYTES_MAX;
        if bytes == 0 {
            return Err(violation("WINDOW_UPDATE by nothing"));
        }
        let is_valid = if head.stream == 0 {
            self.sending.grant(bytes)
        } else {
            match self.streams.get(head.stream) {
                Some(stream) => {
                    stream.send_window += i64::from(bytes);
                    stream.send_window <= i64::from(WINDOW_BYTES_MAX)
                }
                None => return self.check_opened(head),
            }
        };
        if !is_valid {
            return Err(Failure::protocol(
                ErrorCode::FlowControlError,
                "WINDOW_UPDATE makes a window too large",
            ));
        }
        self.sending.send_waiting(&mut self.streams);
        Ok(())
    }

    /// Frames of a stream that has ended are late; of one that never was, a fault.
    fn check_opened(&self, head: FrameHead) -> Result<(), Failure> {
        if self.streams.has_opened(head.stream) {
            Ok(())
        } else {
            Err(violation("a frame of a stream that was never opened"))
        }
    }

    /// The server has ended a stream.
    fn end(
        &mut self,
        id: u32,
        outcome: Result<(), Failure>,
        on_event: &mut impl FnMut(u32, Event<'_>),
    ) {
        let Some(stream) = self.streams.close(id) else {
            return;
        };
        let (token, is_half_closed) = (stream.token, stream.is_half_closed);
        if !is_half_closed {
            put_reset(&mut self.sending.out, id, ErrorCode::Cancel);
        }
        self.sending.send_waiting(&mut self.streams);
        on_event(token, Event::End(outcome));
    }

    /// Ends a stream on which the server goes on with what makes no sense.
    fn give_up(&mut self, id: u32, failure: Failure, on_event: &mut impl FnMut(u32, Event<'_>)) {
        if let Some(stream) = self.streams.get(id) {
            // One reset is enough.
            stream.is_half_closed = true;
            put_reset(&mut self.sending.out, id, ErrorCode::Cancel);
        }
        self.end(id, Err(failure), on_event);
    }
}

/// The rule that a good end has of a body.
fn check_body(stream: &Stream) -> Result<(), Failure> {
    if !stream.body.is_whole() {
        return Err(Failure::Answer("half a message"));
    }
    match (stream.delivery, stream.body.message_count) {
        (Delivery::Unary, 0) => Err(Failure::Answer("no message")),
        (Delivery::Unary, 2..) => Err(Failure::Answer("more than one message")),
        _ => Ok(()),
    }
}

fn http_failure(meaning: &Meaning) -> Failure {
    match meaning.outcome() {
        Err(status @ Failure::Status { .. }) => status,
        _ => Failure::Answer("an HTTP status other than 200"),
    }
}

fn violation(what: &'static str) -> Failure {
    Failure::protocol(ErrorCode::ProtocolError, what)
}

/// A payload of the one length that its frame can have.
fn fixed<const N: usize>(payload: &[u8]) -> Result<[u8; N], Failure> {
    payload.try_into().map_err(|_| {
        Failure::protocol(ErrorCode::FrameSizeError, "a frame of an impossible length")
    })
}

fn put_window_update(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    FrameHead::new(FrameKind::WindowUpdate, 0, stream, 4).write(out);
    out.extend_from_slice(&bytes.to_be_bytes());
}

fn put_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    FrameHead::new(FrameKind::RstStream, 0, stream, 4).write(out);
    out.extend_from_slice(&(code as u32).to_be_bytes());
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
