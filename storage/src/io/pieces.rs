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

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
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

/// A fixed number of buffers, and those that were made for who cannot wait.
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

    /// An empty buffer that is back, or a new one of `bytes`: for whoever cannot wait, since others may keep theirs.
    #[must_use]
    pub fn take_or_make(&self, bytes: usize) -> Piece {
        let back = self.buffers.try_recv().ok();
        let mut buf = back.unwrap_or_else(|| AlignedBuf::with_capacity(bytes));
        buf.clear();
        Piece::new(buf, self.home.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_taken_again_once_it_is_back() {
        let pool = Pool::new(0, 0);
        let mut first = pool.take_or_make(8192);
        first.extend_from_slice(b"kept");
        let memory = first.as_slice().as_ptr();
        let second = pool.take_or_make(4096);
        assert_ne!(second.as_slice().as_ptr(), memory);
        assert_eq!(first.as_slice(), b"kept");
        drop(first);
        let again = pool.take_or_make(4096);
        assert_eq!(again.as_slice().as_ptr(), memory);
        assert!(again.is_empty());
        assert_eq!((again.capacity(), second.capacity()), (8192, 4096));
    }
}
