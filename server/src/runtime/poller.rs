//! What a core waits for: its sockets, and the eventfds by which other cores and the log reach it.
//!
//! ```text
//!   Socket::poll_recv -> recv(2) ... nothing there: wait for the poller
//!   turns.rs: nothing to run -> turn(limit): one io_uring_enter hands over requests and waits for news
//!   poller: completions of all that got something -> their tasks
//! ```
//!
//! glommio would poll every socket through its own ring with one request per wait, each completion of which interrupts
//! the core; and to sleep it enters its three rings eight times. Here everything a core waits for stands in one ring of
//! the core's own. Sockets have polls that stay armed; the ring runs its completions only when the core asks for them
//! (IORING_SETUP_DEFER_TASKRUN), so a burst over many sockets is one system call, and sleeping is the same call with a
//! time limit. Kernels without that flag get the same ring without it.
//!
//! # Invariants
//!
//! 1. A poll reports every change after it was armed, so whoever has seen "nothing there" since the last report need
//!    not ask again before the next. (`readable` and `writable` say whether asking makes sense.)
//! 2. A slot is used anew only when the kernel has told the end of every request that names it.
//! 3. A socket that is dropped is closed at one of the next turns: its poll, which keeps it open, is removed.
//! 4. Memory that a request reads into is never freed, because a poller is not: the watch of its core's eventfd holds
//!    the core, and the core the poller. Only tests see cores go.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::core::this_core;
use super::eventfd::Watch;

/// Completions that wait for us, for each entry of the submission ring; the kernel keeps what does not fit.
const COMPLETIONS_PER_ENTRY: u32 = 4;
/// Requests wait this long at most for an entry that something else makes necessary.
const HAND_OVER_WITHIN_US: u64 = 100;
/// News of a turn; the rest is the next turn's. So the log gets what the first clients sent while the core still reads
/// what the others did, and a burst becomes groups that follow each other instead of one that all wait for.
const NEWS_PER_TURN_MAX: usize = 3;

/// What a completion's user data says besides the slot.
const KIND_BITS: u32 = 2;
const KIND_READ: u64 = 0;
const KIND_WRITE: u64 = 1;
const KIND_REMOVE: u64 = 2;

/// The sockets and eventfds of one core.
#[derive(Clone)]
pub(super) struct Poller(Rc<State>);

struct State {
    ring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    /// When the oldest request was queued that the kernel has not seen; 0 for none.
    queued_at_us: Cell<u64>,
    /// Time of the turn, see [`Poller::turn`].
    now_us: Cell<u64>,
}

#[derive(Default)]
struct Slots {
    places: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Slot {
    user: Option<User>,
    /// Requests whose end has not been told.
    armed: u32,
}

#[derive(Clone)]
enum User {
    Socket(Rc<Source>),
    EventFd(Rc<Watched>),
}

/// What is known of one socket.
#[derive(Default)]
struct Source {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The other side has sent its last byte, or the connection is broken. Its end is then read behind those bytes,
    /// and no report comes any more.
    ending: Cell<bool>,
    /// The standing poll for bytes is armed.
    polls_read: Cell<bool>,
    polls_write: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

/// An eventfd and who hears of it.
struct Watched {
    fd: OwnedFd,
    /// Where the kernel puts the counter.
    count: Cell<u64>,
    on_ready: RefCell<Box<dyn FnMut(u64) -> Watch>>,
}

/// A source's place among those of its core.
struct Seat {
    poller: Poller,
    slot: usize,
    source: Rc<Source>,
}

/// A connected socket of this core. Its calls never block.
pub struct Socket {
    fd: OwnedFd,
    seat: Seat,
}

/// A listening socket of this core.
pub struct Acceptor {
    listener: TcpListener,
    seat: Seat,
}

impl Poller {
    /// Makes the ring of the calling core.
    pub(super) fn new(submission_entries: u32) -> io::Result<Poller> {
        Ok(Poller(Rc::new(State {
            ring: RefCell::new(build_ring(submission_entries)?),
            slots: RefCell::default(),
            queued_at_us: Cell::new(0),
            now_us: Cell::new(1),
        })))
    }

    /// Hands over requests and wakes whom the news concerns. With a limit it waits that long for news if there are
    /// none; without, it enters the kernel only if there is a reason to.
    pub(super) fn turn(&self, now_us: u64, limit: Option<Duration>) {
        self.0.now_us.set(now_us);
        let has_news = !self.0.ring.borrow_mut().completion().is_empty();
        let mut entered = true;
        if limit.is_some() && !has_news {
            self.enter(limit);
        } else if self.is_handover_due() || !has_news && self.has_kept_back() {
            self.enter(None);
        } else {
            entered = false;
        }
        let mut taken = 0;
        loop {
            let mut is_news = false;
            while taken < NEWS_PER_TURN_MAX {
                let entry = self.0.ring.borrow_mut().completion().next();
                let Some(entry) = entry else { break };
                self.on_completion(&entry);
                is_news = true;
                taken += 1;
            }
            if taken == NEWS_PER_TURN_MAX {
                return;
            }
            // The kernel runs a few completions at a time, and says when it has kept some back. It may say so when it
            // has not, if it gave a completion away before it came to saying it; only the next one takes that back.
            if entered && !is_news || !self.has_kept_back() {
                return;
            }
            self.enter(None);
            entered = true;
        }
    }

    fn has_kept_back(&self) -> bool {
        let mut ring = self.0.ring.borrow_mut();
        let submission = ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Requests are in no hurry: most come just before the core waits, which hands them over in the same call.
    fn is_handover_due(&self) -> bool {
        let queued_at_us = self.0.queued_at_us.get();
        queued_at_us != 0 && self.0.now_us.get() >= queued_at_us + HAND_OVER_WITHIN_US
    }

    fn enter(&self, limit: Option<Duration>) {
        let mut ring = self.0.ring.borrow_mut();
        let entered = match limit {
            // Runs what the kernel has kept back as well.
            None => ring.submit(),
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                let args = types::SubmitArgs::new().timespec(&limit);
                ring.submitter().submit_with_args(1, &args)
            }
        };
        match entered.as_ref().map_err(io::Error::raw_os_error) {
            Ok(_) | Err(Some(libc::ETIME)) => {}
            // Interrupted, out of memory for a moment, or completions must be taken first: the rest goes next turn.
            Err(Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            Err(_) => panic!("the ring of a core: {entered:?}"),
        }
        if ring.submission().is_empty() {
            self.0.queued_at_us.set(0);
        }
    }

    fn on_completion(&self, entry: &cqueue::Entry) {
        let slot = (entry.user_data() >> KIND_BITS) as usize;
        let kind = entry.user_data() & ((1 << KIND_BITS) - 1);
        let ended = !cqueue::more(entry.flags());
        let user = {
            let mut slots = self.0.slots.borrow_mut();
            let place = &mut slots.places[slot];
            if ended {
                place.armed -= 1;
            }
            let (user, armed) = (place.user.clone(), place.armed);
            if user.is_none() && armed == 0 {
                slots.free.push(slot);
            }
            user
        };
        match user {
            Some(User::Socket(source)) => source.on_event(kind, entry.result(), ended),
            Some(User::EventFd(watched)) => self.on_count(slot, &watched, entry.result()),
            None => {}
        }
    }

    /// Calls `on_ready` with the counter's value each time `fd`, a blocking eventfd, is above 0.
    pub(super) fn watch(&self, fd: OwnedFd, on_ready: Box<dyn FnMut(u64) -> Watch>) {
        let watched = Rc::new(Watched {
            fd,
            count: Cell::new(0),
            on_ready: RefCell::new(on_ready),
        });
        let slot = self.add(User::EventFd(watched.clone()));
        self.read_count(slot, &watched);
    }

    fn read_count(&self, slot: usize, watched: &Watched) {
        let fd = types::Fd(watched.fd.as_raw_fd());
        let read = opcode::Read::new(fd, watched.count.as_ptr().cast(), size_of::<u64>() as u32);
        self.push(slot, KIND_READ, read.build());
    }

    fn on_count(&self, slot: usize, watched: &Watched, result: i32) {
        let wanted = match result {
            8 => watched.on_ready.borrow_mut()(watched.count.get()),
            _ if result == -libc::EINTR || result == -libc::EAGAIN => Watch::Continue,
            _ => {
                let error = io::Error::from_raw_os_error(-result);
                tracing::error!(%error, "reading an eventfd failed; its signals are no longer seen");
                Watch::Done
            }
        };
        match wanted {
            Watch::Continue => self.read_count(slot, watched),
            Watch::Done => self.remove(slot),
        }
    }

    fn seat(&self) -> Seat {
        let source = Rc::new(Source {
            readable: Cell::new(true),
            writable: Cell::new(true),
            ..Source::default()
        });
        Seat {
            slot: self.add(User::Socket(source.clone())),
            poller: self.clone(),
            source,
        }
    }

    fn add(&self, user: User) -> usize {
        let mut slots = self.0.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.places.push(Slot::default());
            slots.places.len() - 1
        });
        slots.places[slot].user = Some(user);
        slot
    }

    fn remove(&self, slot: usize) {
        let user = {
            let mut slots = self.0.slots.borrow_mut();
            let place = &mut slots.places[slot];
            let user = place.user.take().expect("a user leaves once");
            if place.armed == 0 {
                slots.free.push(slot);
                return;
            }
            user
        };
        let User::Socket(source) = user else {
            unreachable!("an eventfd leaves between two reads");
        };
        let polls = [
            (source.polls_read.get(), KIND_READ),
            (source.polls_write.get(), KIND_WRITE),
        ];
        for (armed, kind) in polls {
            if armed {
                let remove = opcode::PollRemove::new(user_data(slot, kind)).build();
                self.push(slot, KIND_REMOVE, remove);
            }
        }
    }

    /// Queues a request of a slot.
    fn push(&self, slot: usize, kind: u64, entry: squeue::Entry) {
        let entry = entry.user_data(user_data(slot, kind));
        self.0.slots.borrow_mut().places[slot].armed += 1;
        loop {
            // SAFETY: an entry names a descriptor, a user data of this room, or memory of a slot, which is never freed
            // (invariant 4); a poll's descriptor stays open until its removal, which `Seat::drop` asks for.
            let pushed = unsafe { self.0.ring.borrow_mut().submission().push(&entry) };
            if pushed.is_ok() {
                break;
            }
            self.enter(None);
        }
        if self.0.queued_at_us.get() == 0 {
            self.0.queued_at_us.set(self.0.now_us.get());
        }
    }
}

impl Source {
    fn on_event(&self, kind: u64, mask: i32, ended: bool) {
        let (flag, polls, waiter) = match kind {
            KIND_READ => (&self.readable, &self.polls_read, &self.reader),
            KIND_WRITE => (&self.writable, &self.polls_write, &self.writer),
            _ => return,
        };
        flag.set(true);
        if mask < 0 || mask & i32::from(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0 {
            self.ending.set(true);
        }
        if ended {
            polls.set(false);
        }
        // The waker leaves the cell before it is called.
        let waker = waiter.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wait<T>(&self, cx: &Context<'_>, kind: u64) -> Poll<T> {
        let waiter = match kind {
            KIND_READ => &self.reader,
            _ => &self.writer,
        };
        let mut waiter = waiter.borrow_mut();
        match &*waiter {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waiter = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Seat {
    fn arm_read(&self, fd: BorrowedFd<'_>) {
        if !self.source.polls_read.replace(true) {
            let mask = (libc::POLLIN | libc::POLLRDHUP) as u32;
            let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), mask).multi(true);
            self.poller.push(self.slot, KIND_READ, poll.build());
        }
    }

    fn arm_write(&self, fd: BorrowedFd<'_>) {
        if !self.source.polls_write.replace(true) {
            let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLOUT as u32);
            self.poller.push(self.slot, KIND_WRITE, poll.build());
        }
    }

    /// Asks `attempt` until it has an answer, or until there is none before the poll tells of news.
    fn poll_read<T>(
        &self,
        cx: &Context<'_>,
        fd: BorrowedFd<'_>,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            if !self.source.readable.get() {
                return self.source.wait(cx, KIND_READ);
            }
            // Armed before the socket is asked, so that nothing that comes afterwards is missed.
            self.arm_read(fd);
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.source.readable.set(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => return Poll::Ready(answer),
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.poller.remove(self.slot);
    }
}

impl Socket {
    /// Takes over a connected socket on the core that will serve it.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Socket {
        let seat = this_core().poller().seat();
        Socket { fd, seat }
    }

    /// Receives into `room`; 0 is the end of the stream.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_recv(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let source = &self.seat.source;
        self.seat.poll_read(cx, self.fd.as_fd(), || {
            // SAFETY: the slice is writable for its length through the call.
            let received = result(unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    room.as_mut_ptr().cast(),
                    room.len(),
                    libc::MSG_DONTWAIT,
                )
            });
            // Less than there was room for: the socket is empty, and the poll will tell of more.
            if let Ok(count) = received
                && count < room.len()
                && count > 0
                && !source.ending.get()
            {
                source.readable.set(false);
            }
            received
        })
    }

    /// Sends what the kernel takes of the slices.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_send(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let source = &self.seat.source;
        loop {
            if !source.writable.get() {
                return source.wait(cx, KIND_WRITE);
            }
            match self.send(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    source.writable.set(false);
                    self.seat.arm_write(self.fd.as_fd());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// The same connection once more, to be served on another core when this one is dropped.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Tells the other side that nothing more comes. One that has gone already is none to tell.
    pub fn shut_down(&self) {
        // SAFETY: shutdown takes no pointers.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_WR) };
    }

    /// The kernel's smoothed time for a packet to the other side and back.
    #[must_use]
    pub fn round_trip_us(&self) -> Option<u32> {
        // SAFETY: all-zero is a valid tcp_info: numbers only.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut info_bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the kernel writes at most so many bytes as it is told there are, and how many it wrote.
        let failed = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut info_bytes,
            )
        };
        (failed == 0).then_some(info.tcpi_rtt)
    }

    fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: an all-zero msghdr is valid: no address, no control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = slices.as_ptr().cast_mut().cast();
        message.msg_iovlen = slices.len();
        // SAFETY: IoSlice has the layout of iovec and the slices outlive the call; sendmsg only reads them.
        result(unsafe {
            libc::sendmsg(
                self.fd.as_raw_fd(),
                &raw const message,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        })
    }
}

impl Acceptor {
    /// Takes over a listening socket on the core that will accept from it.
    ///
    /// # Errors
    /// The system call fails.
    pub fn new(listener: TcpListener) -> io::Result<Acceptor> {
        listener.set_nonblocking(true)?;
        let seat = this_core().poller().seat();
        Ok(Acceptor { listener, seat })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// That of accept(2): one connection is gone already, or the process is short of something.
    pub async fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let (stream, peer) = poll_fn(|cx| {
            self.seat
                .poll_read(cx, self.listener.as_fd(), || self.listener.accept())
        })
        .await?;
        Ok((stream.into(), peer))
    }
}

fn build_ring(submission_entries: u32) -> io::Result<IoUring> {
    let mut plain = IoUring::builder();
    plain.setup_cqsize(COMPLETIONS_PER_ENTRY * submission_entries);
    let mut deferred = plain.clone();
    deferred
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    match deferred.build(submission_entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::info!(
                "this kernel cannot defer completions (6.1 can): sockets will cost some CPU more"
            );
            plain.build(submission_entries)
        }
        built => built,
    }
}

const fn user_data(slot: usize, kind: u64) -> u64 {
    (slot as u64) << KIND_BITS | kind
}

fn result(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
