//! Bytes on their way to the socket, in order.
//!
//! Small things (heads of frames, header blocks, small messages) are written into one growing buffer; large chunks
//! are queued as they are and never copied.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use keelson_proto::http2::FrameHead;

/// Payloads up to this size are copied, larger ones are queued.
const COPY_BYTES_MAX: usize = 4 << 10;
/// A buffer that has grown beyond this is not kept.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// Buffers kept for reuse on a core.
const SPARE_COUNT_MAX: usize = 64;

/// Buffers of a core that nobody uses: a connection has one only while it has something to send.
#[derive(Clone, Default)]
pub(in crate::front) struct SpareBuffers(Rc<RefCell<Vec<Vec<u8>>>>);

impl SpareBuffers {
    fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spares = self.0.borrow_mut();
        if buffer.capacity() <= KEPT_BYTES_MAX && spares.len() < SPARE_COUNT_MAX {
            buffer.clear();
            spares.push(buffer);
        }
    }
}

/// What a connection has to send.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Before `tail`.
    parts: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// Bytes of `tail` that are sent. Above 0 only while there are no parts.
    tail_sent: usize,
    unsent_bytes: usize,
    spares: SpareBuffers,
}

impl Outgoing {
    /// Nothing to send, with its core's spare buffers.
    pub(super) fn new(spares: SpareBuffers) -> Outgoing {
        Outgoing {
            spares,
            ..Outgoing::default()
        }
    }

    /// Bytes that are not sent.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unsent_bytes == 0
    }

    /// Appends what `write` writes.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.tail.capacity() == 0 {
            self.tail = self.spares.take();
        }
        let before = self.tail.len();
        write(&mut self.tail);
        self.unsent_bytes += self.tail.len() - before;
    }

    /// Appends a frame.
    pub(super) fn frame(&mut self, head: FrameHead, payload: &[u8]) {
        debug_assert_eq!(head.payload_bytes as usize, payload.len());
        self.write(|out| {
            head.write(out);
            out.extend_from_slice(payload);
        });
    }

    /// Appends bytes, without a copy if they are many.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            return self.write(|out| out.extend_from_slice(&bytes));
        }
        let tail = std::mem::take(&mut self.tail);
        let tail_sent = std::mem::take(&mut self.tail_sent);
        if tail.len() > tail_sent {
            self.parts.push_back(Bytes::from(tail).slice(tail_sent..));
        }
        self.unsent_bytes += bytes.len();
        self.parts.push_back(bytes);
    }

    /// The first slices to send; how many were filled in.
    pub(super) fn slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for part in self.parts.iter().take(out.len()) {
            out[count] = IoSlice::new(part);
            count += 1;
        }
        if count < out.len() && self.tail.len() > self.tail_sent {
            out[count] = IoSlice::new(&self.tail[self.tail_sent..]);
            count += 1;
        }
        count
    }

    /// The socket has taken `count` bytes.
    pub(super) fn advance(&mut self, mut count: usize) {
        self.unsent_bytes -= count;
        while let Some(part) = self.parts.front_mut() {
            if count < part.len() {
                part.advance(count);
                return;
            }
            count -= part.len();
            self.parts.pop_front();
        }
        self.tail_sent += count;
        if self.tail_sent == self.tail.len() {
            self.tail_sent = 0;
            self.spares.give_back(std::mem::take(&mut self.tail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(out: &Outgoing) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = out.slices(&mut slices);
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn bytes_leave_in_order_however_they_are_cut() {
        let large = Bytes::from(vec![7; COPY_BYTES_MAX + 1]);
        for step in [1, 2, 3, 1_000, 10_000] {
            let mut out = Outgoing::default();
            let mut expected = Vec::new();
            out.write(|tail| tail.extend_from_slice(b"abc"));
            expected.extend_from_slice(b"abc");
            out.advance(1);
            out.push(large.clone());
            expected.extend_from_slice(&large);
            out.push(Bytes::from_static(b"small"));
            expected.extend_from_slice(b"small");
            let mut sent = vec![b'a'];
            while !out.is_empty() {
                let bytes = gathered(&out);
                assert_eq!(bytes.len(), out.unsent_bytes());
                let count = step.min(bytes.len());
                sent.extend_from_slice(&bytes[..count]);
                out.advance(count);
            }
            assert_eq!(sent, expected);
            assert!(gathered(&out).is_empty());
        }
    }

    #[test]
    fn a_buffer_goes_from_one_connection_to_the_next() {
        let spares = SpareBuffers::default();
        let (mut one, mut two) = (Outgoing::new(spares.clone()), Outgoing::new(spares.clone()));
        one.write(|tail| tail.extend_from_slice(b"first"));
        let at = one.tail.as_ptr();
        one.advance(5);
        assert_eq!(one.tail.capacity(), 0);
        two.write(|tail| tail.extend_from_slice(b"second"));
        assert_eq!(two.tail.as_ptr(), at);
        assert_eq!(gathered(&two), b"second");
    }
}
