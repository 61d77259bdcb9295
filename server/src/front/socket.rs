//! A client's socket, counted and rationed, and behind hyper's IO traits for HTTP/1.1.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};

use super::limits::{READ_BYTES_PER_TURN, RECEIVE_BYTES, WRITE_BYTES_PER_TURN};
use crate::runtime::{self, this_core};

/// Slices of one vectored write that are passed on; the rest waits for the next call.
pub(super) const SLICE_COUNT_MAX: usize = 64;

/// Hears about the bytes that pass through a socket.
pub(crate) trait Traffic {
    fn received(&self, count: usize);
    fn sent(&self, count: usize);
}

/// A socket with budgets for what one turn may read and write.
pub(crate) struct Socket<T> {
    inner: runtime::Socket,
    /// Bytes read before the protocol was known.
    unread: RefCell<Bytes>,
    read_left: Cell<usize>,
    write_left: Cell<usize>,
    traffic: Rc<T>,
}

/// Where a core's connections receive: what came is taken out before the next one receives.
#[derive(Clone)]
pub(super) struct ReceiveBuffer(Rc<RefCell<Box<[u8]>>>);

impl Default for ReceiveBuffer {
    fn default() -> ReceiveBuffer {
        ReceiveBuffer(Rc::new(RefCell::new(
            vec![0; RECEIVE_BYTES].into_boxed_slice(),
        )))
    }
}

impl ReceiveBuffer {
    /// Lends the buffer.
    pub(super) fn borrow(&self) -> std::cell::RefMut<'_, Box<[u8]>> {
        self.0.borrow_mut()
    }
}

impl<T: Traffic> Socket<T> {
    pub(crate) fn new(inner: runtime::Socket, traffic: Rc<T>) -> Socket<T> {
        Socket {
            inner,
            unread: RefCell::default(),
            read_left: Cell::new(READ_BYTES_PER_TURN),
            write_left: Cell::new(WRITE_BYTES_PER_TURN),
            traffic,
        }
    }

    /// Puts bytes back that were read to find out the protocol.
    pub(crate) fn unread(&self, bytes: Bytes) {
        let mut unread = self.unread.borrow_mut();
        assert!(unread.is_empty(), "bytes are put back once");
        *unread = bytes;
    }

    /// Renews the budgets. Called by the connection's task at the beginning of each poll.
    pub(crate) fn begin_turn(&self) {
        self.read_left.set(READ_BYTES_PER_TURN);
        self.write_left.set(WRITE_BYTES_PER_TURN);
    }

    /// Receives; 0 is the end of the stream.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut unread = self.unread.borrow_mut();
        if !unread.is_empty() {
            let count = unread.len().min(room.len());
            unread.copy_to_slice(&mut room[..count]);
            return Poll::Ready(Ok(count));
        }
        if self.read_left.get() == 0 {
            // The others first.
            this_core().wake_next_turn(cx);
            return Poll::Pending;
        }
        let count = ready!(self.inner.poll_recv(cx, room))?;
        self.read_left
            .set(self.read_left.get().saturating_sub(count));
        if count > 0 {
            self.traffic.received(count);
        }
        Poll::Ready(Ok(count))
    }

    /// Sends what the kernel takes.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.write_left.get() == 0 {
            this_core().wake_next_turn(cx);
            return Poll::Pending;
        }
        let slices = &slices[..slices.len().min(SLICE_COUNT_MAX)];
        let count = ready!(self.inner.poll_send(cx, slices))?;
        self.write_left
            .set(self.write_left.get().saturating_sub(count));
        self.traffic.sent(count);
        Poll::Ready(Ok(count))
    }
}

/// The socket of an HTTP/1.1 connection, as hyper and the connection's task share it.
pub(crate) struct Http1Socket<T>(pub(crate) Rc<Socket<T>>);

impl<T: Traffic> hyper::rt::Read for Http1Socket<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Requests of HTTP/1.1 are few and short: a copy through the stack is cheaper than a proof.
        let mut room = [0; 4 << 10];
        let wanted = room.len().min(out.remaining());
        let count = ready!(self.0.poll_recv(cx, &mut room[..wanted]))?;
        out.put_slice(&room[..count]);
        Poll::Ready(Ok(()))
    }
}

impl<T: Traffic> hyper::rt::Write for Http1Socket<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.inner.shut_down();
        Poll::Ready(Ok(()))
    }
}
