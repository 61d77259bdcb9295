//! What goes to the server: requests, within the limits that it sets.
//!
//! A request that the windows allow is written straight into the connection's buffer. One that they
//! do not allow yet waits, in order, and moves on when the server grants more. The order is kept
//! over streams too: a server grants windows by reading, whatever the other streams do, so waiting
//! behind another stream ends.

use std::collections::VecDeque;

use keelson_proto::http2::{
    FRAME_HEAD_BYTES, FrameHead, FrameKind, INITIAL_WINDOW_BYTES, WINDOW_BYTES_MAX, flags,
};

use super::PREFIX_BYTES;
use super::requests::{RequestHeaders, Rpc};
use super::streams::{Delivery, Streams};

/// The longest payload until SETTINGS say otherwise, and the least that they may say.
pub const FRAME_BYTES_DEFAULT: usize = 16_384;
const HEADROOM_BYTES: usize = FRAME_HEAD_BYTES + PREFIX_BYTES;

/// The sending half of a connection.
pub struct Sending {
    /// To be written to the socket.
    pub out: Vec<u8>,
    pub headers: RequestHeaders,
    /// What the connection may still send; flow control holds for DATA only.
    window: i64,
    /// The window that new streams begin with.
    initial_window: i64,
    pub frame_bytes_max: usize,
    pub streams_max: usize,
    waiting: VecDeque<Waiting>,
}

/// A message that could not leave at once.
struct Waiting {
    target: Target,
    /// Prefix and message.
    bytes: Vec<u8>,
    sent_bytes: usize,
    is_last: bool,
}

enum Target {
    /// A stream that is not open yet.
    New(Rpc, u32, Delivery),
    Open(u32),
}

impl Sending {
    /// Nothing to send yet.
    pub fn new(authority: String) -> Self {
        Self {
            out: Vec::new(),
            headers: RequestHeaders::new(authority),
            window: i64::from(INITIAL_WINDOW_BYTES),
            initial_window: i64::from(INITIAL_WINDOW_BYTES),
            frame_bytes_max: FRAME_BYTES_DEFAULT,
            // RFC 9113 knows no limit until SETTINGS say one.
            streams_max: usize::MAX,
            waiting: VecDeque::new(),
        }
    }

    /// Appends one request that ends its side of a new stream.
    pub fn call(
        &mut self,
        streams: &mut Streams,
        rpc: Rpc,
        token: u32,
        delivery: Delivery,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.waiting.is_empty() && streams.open() < self.streams_max {
            let id = self.open(streams, rpc, token, delivery);
            self.send(streams, id, true, write);
            return;
        }
        let mut bytes = vec![0; PREFIX_BYTES];
        write(&mut bytes);
        set_prefix(&mut bytes);
        self.waiting.push_back(Waiting {
            target: Target::New(rpc, token, delivery),
            bytes,
            sent_bytes: 0,
            is_last: true,
        });
    }

    /// Opens a stream.
    pub fn open(&mut self, streams: &mut Streams, rpc: Rpc, token: u32, delivery: Delivery) -> u32 {
        let stream = streams
            .open_next(token, delivery, self.initial_window)
            .expect("a connection that is short of ids is not usable, and callers ask that first");
        let id = stream.id;
        let begin = self.out.len();
        self.out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
        self.headers.write(rpc, &mut self.out);
        let block_bytes = self.out.len() - begin - FRAME_HEAD_BYTES;
        let head = FrameHead::new(
            FrameKind::Headers,
            flags::END_HEADERS,
            id,
            block_bytes as u32,
        );
        self.out[begin..][..FRAME_HEAD_BYTES].copy_from_slice(&head.to_bytes());
        id
    }

    /// Appends one message to an open stream.
    pub fn send(
        &mut self,
        streams: &mut Streams,
        id: u32,
        is_last: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(stream) = streams.get(id) else {
            // It has ended, and its end tells the caller.
            return;
        };
        let begin = self.out.len();
        self.out.extend_from_slice(&[0; HEADROOM_BYTES]);
        write(&mut self.out);
        let framed = &mut self.out[begin..];
        set_prefix(&mut framed[FRAME_HEAD_BYTES..]);
        let data_bytes = framed.len() - FRAME_HEAD_BYTES;
        let room = self.window.min(stream.send_window);
        if data_bytes <= self.frame_bytes_max
            && data_bytes as i64 <= room
            && self.waiting.is_empty()
        {
            let flag = if is_last { flags::END_STREAM } else { 0 };
            let head = FrameHead::new(FrameKind::Data, flag, id, data_bytes as u32);
            framed[..FRAME_HEAD_BYTES].copy_from_slice(&head.to_bytes());
            self.window -= data_bytes as i64;
            stream.send_window -= data_bytes as i64;
            stream.is_half_closed = is_last;
            return;
        }
        let bytes = self.out.split_off(begin + FRAME_HEAD_BYTES);
        self.out.truncate(begin);
        self.waiting.push_back(Waiting {
            target: Target::Open(id),
            bytes,
            sent_bytes: 0,
            is_last,
        });
        self.send_waiting(streams);
    }

    /// Sends what waits, as far as the server allows.
    pub fn send_waiting(&mut self, streams: &mut Streams) {
        while let Some(mut first) = self.waiting.pop_front() {
            let id = match first.target {
                Target::Open(id) => id,
                Target::New(rpc, token, delivery) => {
                    if streams.open() >= self.streams_max {
                        self.waiting.push_front(first);
                        return;
                    }
                    self.open(streams, rpc, token, delivery)
                }
            };
            first.target = Target::Open(id);
            if !self.send_frames(streams, id, &mut first) {
                self.waiting.push_front(first);
                return;
            }
        }
    }

    /// Sends one message in frames. False if some of it must wait.
    fn send_frames(&mut self, streams: &mut Streams, id: u32, message: &mut Waiting) -> bool {
        let Some(stream) = streams.get(id) else {
            // It has ended in the meantime.
            return true;
        };
        while message.sent_bytes < message.bytes.len() {
            let rest = &message.bytes[message.sent_bytes..];
            let room = self.window.min(stream.send_window);
            let Ok(room @ 1..) = usize::try_from(room) else {
                return false;
            };
            let part = &rest[..rest.len().min(room).min(self.frame_bytes_max)];
            let ends = message.is_last && part.len() == rest.len();
            let flag = if ends { flags::END_STREAM } else { 0 };
            FrameHead::new(FrameKind::Data, flag, id, part.len() as u32).write(&mut self.out);
            self.out.extend_from_slice(part);
            message.sent_bytes += part.len();
            self.window -= part.len() as i64;
            stream.send_window -= part.len() as i64;
            stream.is_half_closed = ends;
        }
        true
    }

    /// Takes a WINDOW_UPDATE for the connection. False if the window would be too large.
    pub fn grant(&mut self, bytes: u32) -> bool {
        self.window += i64::from(bytes);
        self.window <= i64::from(WINDOW_BYTES_MAX)
    }

    /// Takes SETTINGS_INITIAL_WINDOW_SIZE, which moves the windows of open streams too. False if
    /// one would be too large.
    pub fn set_initial_window(&mut self, streams: &mut Streams, bytes: u32) -> bool {
        let difference = i64::from(bytes) - self.initial_window;
        self.initial_window = i64::from(bytes);
        let mut is_valid = self.initial_window <= i64::from(WINDOW_BYTES_MAX);
        for stream in streams.iter_mut() {
            stream.send_window += difference;
            is_valid &= stream.send_window <= i64::from(WINDOW_BYTES_MAX);
        }
        is_valid
    }

    /// Gives up what waits for a stream that is not open, and tells its token.
    pub fn take_unopened(&mut self) -> Vec<u32> {
        let mut tokens = Vec::new();
        self.waiting.retain(|waiting| match waiting.target {
            Target::New(_, token, _) => {
                tokens.push(token);
                false
            }
            Target::Open(_) => true,
        });
        tokens
    }
}

/// Writes the length of a message in front of it.
fn set_prefix(framed: &mut [u8]) {
    let message_bytes = framed.len() - PREFIX_BYTES;
    let length = u32::try_from(message_bytes).expect("requests are far smaller than 4 GiB");
    framed[0] = 0;
    framed[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}
