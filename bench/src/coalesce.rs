//! One write(2) for all the requests of a connection that are ready together.
//!
//! `h2` hands each DATA frame above 256 bytes to the socket by itself: a system call a request. So
//! `h2` gets a [`Socket`] that only gathers, and [`drive`], which polls the connection, writes what
//! was gathered when `h2` has no more. Requests of clients that one read woke leave in one write.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// More than this is not gathered before some of it has been written.
const GATHERED_BYTES_MAX: usize = 256 << 10;

/// A socket whose writes wait for [`Socket::poll_write_gathered`]; clones share it.
#[derive(Clone)]
pub struct Socket(Rc<RefCell<Gathering>>);

struct Gathering {
    stream: TcpStream,
    gathered: BytesMut,
    /// A write was refused because too much is gathered.
    refused: bool,
}

impl Socket {
    /// Takes over a connected stream.
    pub fn new(stream: TcpStream) -> Self {
        Self(Rc::new(RefCell::new(Gathering {
            stream,
            gathered: BytesMut::new(),
            refused: false,
        })))
    }

    fn poll_write_gathered(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Gathering {
            stream,
            gathered,
            refused,
        } = &mut *self.0.borrow_mut();
        while !gathered.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            gathered.advance(written);
            if std::mem::take(refused) {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Runs a connection on its socket to the end.
pub async fn drive(mut connection: Connection<Socket, Bytes>, socket: Socket) {
    poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx).map(|_| ());
        // After a failed write the next read fails too, and h2 tells every open stream.
        let _ = socket.poll_write_gathered(cx);
        ended
    })
    .await;
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut gathering = self.0.borrow_mut();
        if gathering.gathered.len() >= GATHERED_BYTES_MAX {
            // The driver writes right after this and wakes itself.
            gathering.refused = true;
            return Poll::Pending;
        }
        gathering.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_gathered(cx))?;
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}
