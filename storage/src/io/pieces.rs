//! Buffers that go round between who fills them and who empties them.
//!
//! Memory that was never used costs the kernel more than a read into it, so a copy of any length makes do with a few
//! buffers. Whoever has a [`Piece`] drops it when it is done with it, and the buffer is back where it came from.

use std::ops::{Deref, DerefMut};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::AlignedBuf;

/// A buffer on loan.
#[derive(Debug)]
pub struct Piece {
    /// None once it is on its way back.
    buf: Option<AlignedBuf>,
    home: Sender<AlignedBuf>,
}

const IS_HERE: &str = "a buffer goes back when its piece is dropped";

impl Piece {
    pub(super) fn new(buf: AlignedBuf, home: Sender<AlignedBuf>) -> Self {
        let buf = Some(buf);
        Self { buf, home }
    }
}

impl Deref for Piece {
    type Target = AlignedBuf;

    fn deref(&self) -> &AlignedBuf {
        self.buf.as_ref().expect(IS_HERE)
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut AlignedBuf {
        self.buf.as_mut().expect(IS_HERE)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(buf) = self.buf.take() {
            // At the end nobody wants it any more.
            let _ = self.home.send(buf);
        }
    }
}

/// A fixed number of buffers.
#[derive(Debug)]
pub struct Pool {
    home: Sender<AlignedBuf>,
    buffers: Receiver<AlignedBuf>,
}

impl Pool {
    /// Buffers of `bytes` each.
    #[must_use]
    pub fn new(count: usize, bytes: usize) -> Self {
        let (home, buffers) = channel();
        for _ in 0..count {
            home.send(AlignedBuf::with_capacity(bytes))
                .expect("the receiving end is right here");
        }
        Self { home, buffers }
    }

    /// An empty buffer; waits until there is one.
    #[must_use]
    pub fn take(&self) -> Piece {
        let mut buf = self.buffers.recv().expect("the pool sends to itself");
        buf.clear();
        Piece::new(buf, self.home.clone())
    }
}
