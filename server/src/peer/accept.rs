//! The connections that others dialled: told apart, let in or refused, read.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use futures_lite::future::or;
use keelson_consensus::limits::FRAME_BODY_BYTES_MAX;
use keelson_consensus::replicate::{
    FRAME_HEADER_BYTES, Frame, FrameError, FrameHeader, Hello, Refusal, frame_bytes,
};
use keelson_storage::ids::{CoreId, MemberId};

use super::assemble::Assembler;
use super::guests;
use super::handover::Arrival;
use super::hello::advice;
use super::http;
use super::limits::{
    ACCEPT_BACKOFF, ACCEPTED_COUNT_MAX, OPENING_FRAME_BYTES_MAX, READ_BYTES_PER_TURN,
    STRANGERS_TOLD_EVERY,
};
use super::link::{Link, hex, write_all};
use super::peers::Peers;
use crate::runtime::{
    Acceptor, LocalEvent, Socket, monotonic_ms, sleep, spawn, timeout, yield_now,
};

/// The connection on which a member's frames come.
pub(super) struct Accepted {
    pub(super) since_ms: u64,
    poke: LocalEvent,
    dismissed: Cell<bool>,
}

impl Accepted {
    /// Ends the connection; what it has read so far stays.
    pub(super) fn dismiss(&self) {
        self.dismissed.set(true);
        self.poke.notify();
    }

    /// There is room to read again.
    pub(super) fn poke(&self) {
        self.poke.notify();
    }
}

/// How a connection ended that became no link, or was one.
enum End {
    /// As it should.
    Done,
    Socket(io::Error),
    Frame(FrameError),
    Silent,
    /// What was said in the hello, and why it is not enough.
    Refused(Hello, &'static str),
}

/// Accepts until the links are stopped.
pub(super) async fn accept(peers: &Peers, acceptor: &Acceptor) {
    let state = peers.state();
    let mut told_ms = 0;
    while !state.stopped.is_set() {
        let accepted = or(async { Some(acceptor.accept().await) }, async {
            state.stopped.wait().await;
            None
        });
        match accepted.await {
            None => return,
            Some(Ok((socket, address))) if state.accepted_count.get() < ACCEPTED_COUNT_MAX => {
                let peers = peers.clone();
                state.accepted_count.set(state.accepted_count.get() + 1);
                spawn(async move {
                    serve(&peers, socket, address).await;
                    let count = &peers.state().accepted_count;
                    count.set(count.get() - 1);
                });
            }
            Some(Ok(_)) => state.refused_connections.add(1),
            Some(Err(error)) => {
                if is_due(&mut told_ms) {
                    tracing::warn!(%error, "cannot accept connections on the peer port");
                }
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn serve(peers: &Peers, socket: OwnedFd, address: SocketAddr) {
    if let Err(error) = crate::front::set_options(&socket) {
        return tracing::debug!(%error, %address, "a connection to the peer port is gone already");
    }
    let end = open_and_read(peers, Socket::new(socket), address).await;
    tell(peers, address, end);
}

/// Serves a connection that said hello on the core that listens.
pub(super) async fn serve_arrival(peers: &Peers, arrival: Arrival) {
    let Arrival {
        socket,
        address,
        hello,
        rest,
    } = arrival;
    let end = read_on(peers, &Socket::new(socket), hello, &rest).await;
    tell(peers, address, end);
}

/// Tells the operator of an end that is not as it should be.
fn tell(peers: &Peers, address: SocketAddr, end: End) {
    let why = match end {
        End::Done => return,
        End::Socket(error) => return tracing::debug!(%error, %address, "a peer connection broke"),
        End::Frame(error) => error.to_string(),
        End::Silent => "it says nothing".to_owned(),
        End::Refused(hello, why) => {
            format!(
                "member {} of cluster {:x}: {why}",
                hex(hello.from),
                hello.cluster.0
            )
        }
    };
    let state = peers.state();
    state.refused_connections.add(1);
    let mut told_ms = state.strangers_told_ms.get();
    if is_due(&mut told_ms) {
        state.strangers_told_ms.set(told_ms);
        tracing::warn!(%address, %why, "a connection to the peer port is refused");
    }
}

/// Whether the log may hear of it again.
fn is_due(told_ms: &mut u64) -> bool {
    let now_ms = monotonic_ms();
    let is_due = *told_ms == 0 || u128::from(now_ms - *told_ms) >= STRANGERS_TOLD_EVERY.as_millis();
    if is_due {
        *told_ms = now_ms;
    }
    is_due
}

/// Finds out who is there within the time for it, and serves whoever it is.
async fn open_and_read(peers: &Peers, socket: Socket, address: SocketAddr) -> End {
    let limit = peers.config().opening_timeout;
    let mut first = [0; OPENING_FRAME_BYTES_MAX];
    let opening = async {
        let mut count = 0;
        let mut assembler = Assembler::new(OPENING_FRAME_BYTES_MAX);
        loop {
            let room = &mut first[count..];
            let received = poll_fn(|cx| socket.poll_recv(cx, room)).await;
            match received {
                // Whoever connects and goes looks whether the port is open.
                Ok(0) if count == 0 => return Err(End::Done),
                Ok(0) => return Err(End::Frame(FrameError::Content("it ends too early"))),
                Ok(more) => count += more,
                Err(error) => return Err(End::Socket(error)),
            }
            // A hello and a request differ in their first byte.
            if frame_bytes(&first[..count]).is_err() && first[0].is_ascii_uppercase() {
                return Ok((None, Bytes::copy_from_slice(&first[..count])));
            }
            let mut input = &first[count - received.unwrap_or(0)..count];
            match assembler.feed(&mut input) {
                Ok(Some(frame)) => return Ok((Some(frame), Bytes::copy_from_slice(input))),
                Ok(None) => {}
                Err(error) => return Err(End::Frame(error)),
            }
        }
    };
    match timeout(limit, opening).await {
        Err(_elapsed) => End::Silent,
        Ok(Err(end)) => end,
        Ok(Ok((None, begin))) => {
            http::serve(peers, socket, begin).await;
            End::Done
        }
        Ok(Ok((Some(hello), rest))) => match core_elsewhere(peers, &hello) {
            None => read_on(peers, &socket, hello, &rest).await,
            Some(core) => {
                let socket = match socket.duplicate() {
                    Ok(socket) => socket,
                    Err(error) => return End::Socket(error),
                };
                let arrival = Arrival {
                    socket,
                    address,
                    hello,
                    rest,
                };
                if !peers.state().ways.borrow_mut().send(core, arrival) {
                    tracing::debug!(%address, "a peer connection is closed: its core has no time for it");
                }
                End::Done
            }
        },
    }
}

/// The core that a hello is for, if it is another one that has links.
fn core_elsewhere(peers: &Peers, hello: &Bytes) -> Option<CoreId> {
    let core = Hello::decode(hello.clone()).ok()?.core;
    peers.state().ways.borrow().leads_to(core).then_some(core)
}

/// Answers a hello, and reads the frames of whoever is let in.
async fn read_on(peers: &Peers, socket: &Socket, hello: Bytes, rest: &Bytes) -> End {
    match answer(peers, socket, hello, peers.config().opening_timeout).await {
        Ok((link, accepted, version)) => {
            let member = link.member;
            let expected = peers.identity().header_from(member, version);
            let mut reading = Reading::new(&link, expected);
            let end = read_frames(peers, socket, &accepted, &mut reading, rest).await;
            forget(peers, member, &accepted);
            if matches!(end, End::Frame(_)) {
                link.bad_frames.add(1);
            }
            end
        }
        Err(end) => end,
    }
}

/// Answers a hello; the member, if it is let in.
async fn answer(
    peers: &Peers,
    socket: &Socket,
    hello: Bytes,
    limit: std::time::Duration,
) -> Result<(Rc<Link>, Rc<Accepted>, u16), End> {
    let hello = Hello::decode(hello).map_err(End::Frame)?;
    let link = peers.link(hello.from);
    let welcome = peers.identity().answer(&hello, link.is_some());
    let bytes = welcome.encode();
    match timeout(limit, write_all(socket, &bytes)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(End::Socket(error)),
        Err(_elapsed) => return Err(End::Silent),
    }
    match (welcome.answer, link) {
        (Ok(version), Some(link)) => {
            let accepted = Rc::new(Accepted {
                since_ms: monotonic_ms(),
                poke: LocalEvent::new(),
                dismissed: Cell::new(false),
            });
            let state = peers.state();
            if state.stopped.is_set() || peers.link(hello.from).is_none() {
                return Err(End::Done);
            }
            let former = state
                .accepted
                .borrow_mut()
                .insert(hello.from, accepted.clone());
            if let Some(former) = former {
                former.dismiss();
            }
            link.hurry();
            Ok((link, accepted, version))
        }
        (Err(refusal), _) => {
            if refusal == Refusal::NotAMember {
                guests::look_up(peers, hello.from);
            }
            // The other side reads the answer before it sees the end.
            socket.shut_down();
            let is_itself = hello.start == peers.identity().start;
            Err(End::Refused(hello, advice(refusal, is_itself)))
        }
        (Ok(_), None) => unreachable!("whoever is no member is refused"),
    }
}

fn forget(peers: &Peers, member: MemberId, accepted: &Rc<Accepted>) {
    let mut known = peers.state().accepted.borrow_mut();
    if known
        .get(&member)
        .is_some_and(|current| Rc::ptr_eq(current, accepted))
    {
        known.remove(&member);
    }
}

/// What is known of the frames of a connection.
struct Reading<'a> {
    link: &'a Link,
    expected: FrameHeader,
    assembler: Assembler,
}

impl<'a> Reading<'a> {
    fn new(link: &'a Link, expected: FrameHeader) -> Self {
        Self {
            link,
            expected,
            assembler: Assembler::new(FRAME_HEADER_BYTES + FRAME_BODY_BYTES_MAX),
        }
    }

    /// Passes on the frames that are whole with these bytes.
    fn on_bytes(&mut self, peers: &Peers, mut input: &[u8]) -> Result<(), FrameError> {
        while let Some(bytes) = self.assembler.feed(&mut input)? {
            let frame_bytes = bytes.len();
            let frame = Frame::decode(bytes)?;
            frame.check(&self.expected)?;
            self.expected.sequence += 1;
            if frame.header.sequence != self.expected.sequence {
                return Err(FrameError::Content("it is not the next frame of its link"));
            }
            self.link.received_frames.add(1);
            self.link.received_bytes.add(frame_bytes as u64);
            let inbox = &peers.state().inbox;
            inbox.put(self.link.member, frame.items, frame_bytes);
        }
        Ok(())
    }
}

/// Reads until the connection ends or is dismissed.
async fn read_frames(
    peers: &Peers,
    socket: &Socket,
    accepted: &Accepted,
    reading: &mut Reading<'_>,
    rest: &[u8],
) -> End {
    let state = peers.state();
    if let Err(error) = reading.on_bytes(peers, rest) {
        return End::Frame(error);
    }
    let mut turn_bytes = 0;
    while !accepted.dismissed.get() {
        if state.inbox.is_full() {
            accepted.poke.wait().await;
            continue;
        }
        let step = poll_fn(|cx| {
            if accepted.poke.poll_wait(cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            let mut room = state.receive.borrow_mut();
            match socket.poll_recv(cx, &mut room) {
                Poll::Ready(Ok(0)) => Poll::Ready(Err(End::Done)),
                Poll::Ready(Ok(count)) => {
                    let read = reading.on_bytes(peers, &room[..count]);
                    Poll::Ready(read.map(|()| Some(count)).map_err(End::Frame))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(End::Socket(error))),
                Poll::Pending => Poll::Pending,
            }
        });
        match step.await {
            Ok(None) => {}
            Ok(Some(count)) => turn_bytes += count,
            Err(end) => return end,
        }
        if turn_bytes >= READ_BYTES_PER_TURN {
            turn_bytes = 0;
            yield_now().await;
        }
    }
    End::Done
}
