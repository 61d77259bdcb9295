//! A client's TCP socket behind the IO traits that h2 and hyper want.
//!
//! ```text
//!   h2 / hyper --poll_write--> gather buffer --end of turn--> one send(2)
//!              <--poll_read--- recv(2) straight into the protocol's buffer, budgeted per turn
//! ```
//!
//! h2 flushes whenever its 16 KiB frame buffer is full and around every larger DATA frame. Writing then would
//! cost a system call and a packet per response. So in [`FlushMode::EndOfTurn`] a flush does nothing, small
//! writes are gathered (one copy of at most [`WRITE_GATHER_BYTES`]), and the connection's task calls
//! [`SocketHandle::poll_flush_turn`] when it has nothing else to do. Writes that would not fit are sent at once
//! and together with what was gathered, without a copy.

use std::cell::{Cell, RefCell, RefMut};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_lite::io::{AsyncRead as _, AsyncWrite as _};
use glommio::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::limits::{READ_BYTES_PER_TURN, WRITE_BYTES_PER_TURN, WRITE_GATHER_BYTES};
use crate::runtime::this_core;

/// Gather buffers kept for reuse on a core.
const SPARE_BUFFER_COUNT_MAX: usize = 16;

/// Slices of one vectored write that are passed on; the rest waits for the next call.
const SLICE_COUNT_MAX: usize = 16;

/// When written bytes go to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlushMode {
    /// When the protocol flushes.
    OnFlush,
    /// When the connection's task calls `poll_flush_turn`.
    EndOfTurn,
}

/// Hears about the bytes that pass through a socket.
pub(super) trait Traffic {
    fn received(&self, count: usize);
    fn sent(&self, count: usize);
}

/// The socket as the protocol owns it.
pub(super) struct Socket<T>(Rc<Shared<T>>);

/// The socket as the connection's task sees it.
pub(super) struct SocketHandle<T>(Rc<Shared<T>>);

struct Shared<T> {
    stream: RefCell<TcpStream>,
    /// Bytes read before the protocol was known.
    unread: RefCell<Bytes>,
    gathered: RefCell<BytesMut>,
    spares: SpareBuffers,
    mode: Cell<FlushMode>,
    read_left: Cell<usize>,
    write_left: Cell<usize>,
    traffic: Rc<T>,
}

/// Gather buffers of a core that nobody uses: a connection holds one only while it has unsent bytes.
#[derive(Clone, Default)]
pub(super) struct SpareBuffers(Rc<RefCell<Vec<BytesMut>>>);

impl<T: Traffic> Socket<T> {
    pub(super) fn new(stream: TcpStream, traffic: Rc<T>, spares: SpareBuffers) -> Socket<T> {
        Socket(Rc::new(Shared {
            stream: RefCell::new(stream),
            unread: RefCell::default(),
            gathered: RefCell::default(),
            spares,
            mode: Cell::new(FlushMode::OnFlush),
            read_left: Cell::new(READ_BYTES_PER_TURN),
            write_left: Cell::new(WRITE_BYTES_PER_TURN),
            traffic,
        }))
    }

    pub(super) fn handle(&self) -> SocketHandle<T> {
        SocketHandle(self.0.clone())
    }
}

impl<T: Traffic> SocketHandle<T> {
    pub(super) fn set_mode(&self, mode: FlushMode) {
        self.0.mode.set(mode);
    }

    /// Puts bytes back that were read to find out the protocol.
    pub(super) fn unread(&self, bytes: Bytes) {
        let mut unread = self.0.unread.borrow_mut();
        assert!(unread.is_empty(), "bytes are put back once");
        *unread = bytes;
    }

    /// Renews the budgets. Called by the connection's task at the beginning of each poll.
    pub(super) fn begin_turn(&self) {
        self.0.read_left.set(READ_BYTES_PER_TURN);
        self.0.write_left.set(WRITE_BYTES_PER_TURN);
    }

    /// Sends what the turn gathered.
    pub(super) fn poll_flush_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush_gathered(cx)
    }
}

impl<T: Traffic> Shared<T> {
    fn poll_read(&self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut unread = self.unread.borrow_mut();
        if !unread.is_empty() {
            let count = unread.len().min(out.remaining());
            out.put_slice(&unread.split_to(count));
            return Poll::Ready(Ok(()));
        }
        drop(unread);
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.read_left.get() == 0 {
            // The others first.
            this_core().wake_next_turn(cx);
            return Poll::Pending;
        }
        // SAFETY: the slice covers exactly the unfilled part, and glommio hands it to recv(2), which only writes
        // to it. Nothing reads the bytes before `assume_init` below says how many were written.
        let room = unsafe {
            let room: &mut [MaybeUninit<u8>] = out.unfilled_mut();
            &mut *(std::ptr::from_mut(room) as *mut [u8])
        };
        let count = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, room))?;
        // SAFETY: recv(2) wrote `count` bytes to the beginning of the unfilled part.
        unsafe { out.assume_init(count) };
        out.advance(count);
        self.read_left
            .set(self.read_left.get().saturating_sub(count));
        if count > 0 {
            self.traffic.received(count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let slices = &slices[..slices.len().min(SLICE_COUNT_MAX)];
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut gathered = self.gathered.borrow_mut();
        if gathered.len() + offered <= WRITE_GATHER_BYTES {
            if gathered.capacity() == 0 {
                *gathered = self.spares.take();
            }
            slices
                .iter()
                .for_each(|slice| gathered.extend_from_slice(slice));
            return Poll::Ready(Ok(offered));
        }
        loop {
            let from_gathered = gathered.len();
            let sent = ready!(self.poll_send(cx, &gathered, slices))?;
            gathered.advance(sent.min(from_gathered));
            if sent > from_gathered {
                return Poll::Ready(Ok(sent - from_gathered));
            }
        }
    }

    /// One system call for the gathered bytes and the slices after them.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        gathered: &[u8],
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.write_left.get() == 0 {
            this_core().wake_next_turn(cx);
            return Poll::Pending;
        }
        let mut stream = self.stream.borrow_mut();
        let mut all = [IoSlice::new(&[]); SLICE_COUNT_MAX + 1];
        all[0] = IoSlice::new(gathered);
        all[1..=slices.len()].copy_from_slice(slices);
        let sent = match send_slices(stream.as_raw_fd(), &all[..=slices.len()]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // glommio tries once more and then waits for the socket to take bytes again.
                let first = if gathered.is_empty() {
                    &slices[0]
                } else {
                    gathered
                };
                ready!(Pin::new(&mut *stream).poll_write(cx, first))?
            }
            other => other?,
        };
        self.count_sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush_gathered(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.gathered.borrow_mut();
        if gathered.capacity() == 0 {
            return Poll::Ready(Ok(()));
        }
        while !gathered.is_empty() {
            if self.write_left.get() == 0 {
                this_core().wake_next_turn(cx);
                return Poll::Pending;
            }
            let sent = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &gathered))?;
            gathered.advance(sent);
            self.count_sent(sent);
        }
        self.spares.give_back(gathered);
        Poll::Ready(Ok(()))
    }

    fn count_sent(&self, count: usize) {
        self.write_left
            .set(self.write_left.get().saturating_sub(count));
        self.traffic.sent(count);
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.mode.get() {
            FlushMode::OnFlush => self.poll_flush_gathered(cx),
            FlushMode::EndOfTurn => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_gathered(cx))?;
        // "Not connected" means that the other side was faster.
        match ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_close(cx)) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}

impl SpareBuffers {
    fn take(&self) -> BytesMut {
        self.0
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| BytesMut::with_capacity(WRITE_GATHER_BYTES))
    }

    fn give_back(&self, mut buffer: RefMut<'_, BytesMut>) {
        let mut buffer = std::mem::take(&mut *buffer);
        let mut spares = self.0.borrow_mut();
        // `advance` has moved the start; `reserve` gets the front back without copying, as nothing is left.
        buffer.clear();
        buffer.reserve(WRITE_GATHER_BYTES);
        if spares.len() < SPARE_BUFFER_COUNT_MAX {
            spares.push(buffer);
        }
    }
}

/// sendmsg(2) without waiting. glommio has no vectored send.
fn send_slices(socket: RawFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: an all-zero msghdr is valid: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len();
    // SAFETY: IoSlice has the layout of iovec and the slices outlive the call; sendmsg only reads them. The
    // descriptor belongs to the stream the caller holds.
    let sent = unsafe {
        libc::sendmsg(
            socket,
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(sent as usize)
    }
}

impl<T: Traffic> AsyncRead for Socket<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, out)
    }
}

impl<T: Traffic> AsyncWrite for Socket<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}

impl<T: Traffic> hyper::rt::Read for Socket<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: the cursor's unfilled part is written only through `read`, which never un-initializes a byte.
        let mut read = unsafe { ReadBuf::uninit(out.as_mut()) };
        ready!(self.0.poll_read(cx, &mut read))?;
        let count = read.filled().len();
        // SAFETY: `read` covers the cursor's unfilled part from its beginning and has filled `count` bytes.
        unsafe { out.advance(count) };
        Poll::Ready(Ok(()))
    }
}

impl<T: Traffic> hyper::rt::Write for Socket<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}
