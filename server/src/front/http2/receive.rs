//! Frames in: what each does to the session.
//!
//! The rules are RFC 9113's. A rule that concerns a stream resets it, one that concerns the connection ends it; both
//! are told with the RFC's code.

use std::rc::Rc;

use keelson_proto::http2::{
    ErrorCode, FRAME_HEAD_BYTES, FrameHead, FrameKind, SettingId, WINDOW_BYTES_MAX, flags,
    strip_padding,
};

use super::head::{HeadError, RequestHead};
use super::session::{DRAIN_PING, Draining, Session};
use super::stream::Stream;
use crate::front::limits;
use crate::front::messages::Assembler;

/// Bytes of the priority that may stand before a header block.
const PRIORITY_BYTES: usize = 5;
/// Bytes of one parameter of SETTINGS.
const SETTING_BYTES: usize = 6;

impl Session {
    /// Takes in what the socket brought, whole frames and the beginning of one.
    pub(in crate::front) fn on_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.failure().is_none() {
            if self.partial_frame.is_empty() {
                let whole = self.on_frames(bytes);
                self.partial_frame.extend_from_slice(&bytes[whole..]);
                return;
            }
            // Just as much as the frame lacks; what follows is taken where it lies.
            let missing = match self.partial_frame.first_chunk() {
                Some(head) => {
                    FRAME_HEAD_BYTES + FrameHead::parse(head).payload_bytes as usize
                        - self.partial_frame.len()
                }
                None => FRAME_HEAD_BYTES - self.partial_frame.len(),
            };
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial_frame.extend_from_slice(part);
            bytes = rest;
            let frame = std::mem::take(&mut self.partial_frame);
            if self.on_frames(&frame) < frame.len() {
                self.partial_frame = frame;
            }
        }
    }

    /// Takes in the whole frames at the beginning of `bytes`; how many bytes they are.
    fn on_frames(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(head) = bytes[at..].first_chunk() {
            let head = FrameHead::parse(head);
            if head.payload_bytes > limits::FRAME_BYTES_MAX {
                self.fail(ErrorCode::FrameSizeError);
                return at;
            }
            let end = at + FRAME_HEAD_BYTES + head.payload_bytes as usize;
            let Some(payload) = bytes.get(at + FRAME_HEAD_BYTES..end) else {
                break;
            };
            if let Err(code) = self.on_frame(head, payload) {
                self.fail(code);
            }
            if self.failure().is_some() {
                return at;
            }
            at = end;
        }
        at
    }

    fn on_frame(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        let kind = FrameKind::of(head.kind);
        let goes_on = self.block.is_some();
        if goes_on != (kind == Some(FrameKind::Continuation)) {
            return Err(ErrorCode::ProtocolError);
        }
        if !self.settings_received && kind != Some(FrameKind::Settings) {
            return Err(ErrorCode::ProtocolError);
        }
        match kind {
            Some(FrameKind::Data) => self.on_data(head, payload),
            Some(FrameKind::Headers) => self.on_headers(head, payload),
            Some(FrameKind::Continuation) => self.on_continuation(head, payload),
            Some(FrameKind::RstStream) => self.on_reset(head, payload),
            Some(FrameKind::Settings) => self.on_settings(head, payload),
            Some(FrameKind::Ping) => self.on_ping(head, payload),
            Some(FrameKind::WindowUpdate) => self.on_window_update(head, payload),
            // A client never pushes.
            Some(FrameKind::PushPromise) => Err(ErrorCode::ProtocolError),
            Some(FrameKind::GoAway) if head.stream != 0 => Err(ErrorCode::ProtocolError),
            // The client opens no more streams, and closes when it is done.
            Some(FrameKind::GoAway | FrameKind::Priority) | None => Ok(()),
        }
    }

    fn on_data(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        self.check_known(head.stream)?;
        let counted = i64::from(head.payload_bytes);
        self.receive_window -= counted;
        if self.receive_window < 0 {
            return Err(ErrorCode::FlowControlError);
        }
        let data = strip_padding(head, payload).ok_or(ErrorCode::ProtocolError)?;
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            // Sent before the client heard that the stream is over.
            self.give_window(head.stream, payload.len());
            return Ok(());
        };
        stream.receive_window -= counted;
        let fault = if stream.received_all {
            Some(ErrorCode::StreamClosed)
        } else if stream.receive_window < 0 {
            Some(ErrorCode::FlowControlError)
        } else {
            None
        };
        if let Some(code) = fault {
            self.give_window(head.stream, payload.len());
            self.reset(head.stream, code);
            return Ok(());
        }
        let held_bytes = self.feed(head.stream, data);
        // Messages that wait for their handler hold the windows back; everything else is taken.
        self.give_window(head.stream, payload.len() - held_bytes);
        if head.has(flags::END_STREAM) {
            self.on_received_all(head.stream);
        }
        Ok(())
    }

    /// Cuts messages out of a stream's bytes; how many of the bytes belong to messages that wait for their handler.
    fn feed(&mut self, number: u32, data: &[u8]) -> usize {
        let Some(stream) = self.streams.get_mut(&number) else {
            return 0;
        };
        if stream.unread || stream.fault.is_some() || data.is_empty() {
            return 0;
        }
        let partial_before = stream.assembler.partial_bytes();
        let mut held_bytes = 0;
        let messages = &mut stream.messages;
        let fed = stream
            .assembler
            .feed(data, self.message_bytes_max, |message| {
                held_bytes += message.held_bytes;
                messages.push_back(message);
            });
        stream.held_bytes += held_bytes;
        self.partial_message_bytes += stream.assembler.partial_bytes();
        self.partial_message_bytes -= partial_before;
        if let Err(refusal) = fed {
            stream.fault = Some(refusal.status(stream.head.get("grpc-encoding")));
        } else if self.partial_message_bytes > limits::PARTIAL_BYTES_PER_CONNECTION_MAX {
            stream.fault = Some(tonic::Status::resource_exhausted(
                "etcdserver: too many requests",
            ));
        }
        if stream.fault.is_some() {
            self.partial_message_bytes -= stream.assembler.clear();
        }
        stream.wake_reader();
        held_bytes
    }

    fn on_received_all(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        stream.received_all = true;
        if !stream.assembler.is_empty() && stream.fault.is_none() {
            stream.fault = Some(tonic::Status::internal("unexpected EOF"));
        }
        stream.wake_reader();
    }

    fn on_headers(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        if head.stream.is_multiple_of(2) {
            return Err(ErrorCode::ProtocolError);
        }
        let mut block = strip_padding(head, payload).ok_or(ErrorCode::ProtocolError)?;
        if head.has(flags::PRIORITY) {
            block = block
                .get(PRIORITY_BYTES..)
                .ok_or(ErrorCode::FrameSizeError)?;
        }
        if head.has(flags::END_HEADERS) {
            self.on_block(head, block)
        } else {
            self.block = Some((head, block.to_vec()));
            Ok(())
        }
    }

    fn on_continuation(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        let (first, mut block) = self.block.take().ok_or(ErrorCode::ProtocolError)?;
        if head.stream != first.stream {
            return Err(ErrorCode::ProtocolError);
        }
        // An empty one brings nothing and could come forever.
        let is_idle = payload.is_empty() && !head.has(flags::END_HEADERS);
        if is_idle || block.len() + payload.len() > limits::HEADER_LIST_BYTES_MAX as usize {
            return Err(ErrorCode::EnhanceYourCalm);
        }
        block.extend_from_slice(payload);
        if head.has(flags::END_HEADERS) {
            self.on_block(first, &block)
        } else {
            self.block = Some((first, block));
            Ok(())
        }
    }

    /// A whole header block: a new stream, or the end of one.
    fn on_block(&mut self, head: FrameHead, block: &[u8]) -> Result<(), ErrorCode> {
        if head.stream > self.newest {
            return self.on_open(head, block);
        }
        let skipped = self.heads.skip(block);
        skipped.map_err(|_| ErrorCode::CompressionError)?;
        if let Some(stream) = self.streams.get(&head.stream) {
            if stream.received_all {
                self.reset(head.stream, ErrorCode::StreamClosed);
            } else if head.has(flags::END_STREAM) {
                self.on_received_all(head.stream);
            } else {
                self.reset(head.stream, ErrorCode::ProtocolError);
            }
        }
        Ok(())
    }

    fn on_open(&mut self, head: FrameHead, block: &[u8]) -> Result<(), ErrorCode> {
        let decoded = self.heads.decode(block);
        if self.draining == Draining::Last {
            // The client knows; it will try elsewhere.
            return match decoded {
                Err(HeadError::Compression(_)) => Err(ErrorCode::CompressionError),
                _ => Ok(()),
            };
        }
        self.newest = head.stream;
        match decoded {
            Err(HeadError::Compression(_)) => Err(ErrorCode::CompressionError),
            Err(HeadError::Malformed) => {
                self.reset(head.stream, ErrorCode::ProtocolError);
                Ok(())
            }
            Err(HeadError::TooLarge) => {
                self.refuse_head(head.stream);
                Ok(())
            }
            // Calls of streams that were reset count as long as their handlers run.
            Ok(_) if self.live_calls + self.opened.len() >= self.stream_count_max => {
                self.reset(head.stream, ErrorCode::RefusedStream);
                Ok(())
            }
            Ok(request) => {
                self.open(head, request);
                Ok(())
            }
        }
    }

    fn open(&mut self, head: FrameHead, request: Rc<RequestHead>) {
        let mut stream = Stream::new(
            request.clone(),
            Assembler::default(),
            i64::from(limits::STREAM_WINDOW_BYTES),
            self.stream_send_window,
        );
        stream.received_all = head.has(flags::END_STREAM);
        self.streams.insert(head.stream, stream);
        self.opened.push_back((head.stream, request));
    }

    fn on_reset(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        if payload.len() != 4 {
            return Err(ErrorCode::FrameSizeError);
        }
        self.check_known(head.stream)?;
        self.forget(head.stream);
        Ok(())
    }

    fn on_settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        if head.stream != 0 {
            return Err(ErrorCode::ProtocolError);
        }
        if head.has(flags::ACK) {
            let is_empty = payload.is_empty();
            return is_empty.then_some(()).ok_or(ErrorCode::FrameSizeError);
        }
        if !payload.len().is_multiple_of(SETTING_BYTES) {
            return Err(ErrorCode::FrameSizeError);
        }
        for setting in payload.chunks_exact(SETTING_BYTES) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            self.on_setting(id, value)?;
        }
        self.settings_received = true;
        self.frame(FrameKind::Settings, flags::ACK, 0, &[]);
        Ok(())
    }

    fn on_setting(&mut self, id: u16, value: u32) -> Result<(), ErrorCode> {
        const TABLE: u16 = SettingId::HeaderTableSize as u16;
        const PUSH: u16 = SettingId::EnablePush as u16;
        const WINDOW: u16 = SettingId::InitialWindowSize as u16;
        const FRAME: u16 = SettingId::MaxFrameSize as u16;
        match id {
            TABLE => self.fields.on_table_bytes_max(value as usize),
            PUSH if value > 1 => return Err(ErrorCode::ProtocolError),
            WINDOW if value > WINDOW_BYTES_MAX => return Err(ErrorCode::FlowControlError),
            WINDOW => return self.on_initial_window(i64::from(value)),
            FRAME if !(1 << 14..1 << 24).contains(&value) => return Err(ErrorCode::ProtocolError),
            // Ours are no longer than what every peer takes.
            _ => {}
        }
        Ok(())
    }

    /// The window of new streams changes, and with it that of every open one.
    fn on_initial_window(&mut self, window: i64) -> Result<(), ErrorCode> {
        let change = window - self.stream_send_window;
        self.stream_send_window = window;
        for stream in self.streams.values_mut() {
            stream.send_window += change;
            if stream.send_window > i64::from(WINDOW_BYTES_MAX) {
                return Err(ErrorCode::FlowControlError);
            }
        }
        if change > 0 {
            let blocked = self
                .streams
                .iter()
                .filter(|(_, stream)| !stream.pending.is_empty());
            let blocked: Vec<u32> = blocked.map(|(&number, _)| number).collect();
            for number in blocked {
                self.pump(number);
            }
        }
        Ok(())
    }

    fn on_ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        if head.stream != 0 {
            return Err(ErrorCode::ProtocolError);
        }
        if payload.len() != 8 {
            return Err(ErrorCode::FrameSizeError);
        }
        if !head.has(flags::ACK) {
            self.frame(FrameKind::Ping, flags::ACK, 0, payload);
        } else if payload == DRAIN_PING {
            self.end_drain();
        } else {
            self.pong_received = true;
        }
        Ok(())
    }

    fn on_window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        let increment = payload.try_into().map_err(|_| ErrorCode::FrameSizeError)?;
        let increment = i64::from(u32::from_be_bytes(increment) & WINDOW_BYTES_MAX);
        if head.stream == 0 {
            self.send_window += increment;
            if increment == 0 {
                return Err(ErrorCode::ProtocolError);
            }
            if self.send_window > i64::from(WINDOW_BYTES_MAX) {
                return Err(ErrorCode::FlowControlError);
            }
            self.pump_waiting();
            return Ok(());
        }
        self.check_known(head.stream)?;
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            return Ok(());
        };
        stream.send_window += increment;
        if increment == 0 {
            self.reset(head.stream, ErrorCode::ProtocolError);
        } else if stream.send_window > i64::from(WINDOW_BYTES_MAX) {
            self.reset(head.stream, ErrorCode::FlowControlError);
        } else {
            self.pump(head.stream);
        }
        Ok(())
    }

    /// Frames for streams that were never opened end the connection.
    fn check_known(&self, number: u32) -> Result<(), ErrorCode> {
        if number == 0 || number.is_multiple_of(2) || number > self.newest {
            return Err(ErrorCode::ProtocolError);
        }
        Ok(())
    }
}
