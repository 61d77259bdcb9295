//! Sockets of a core: which of them can be read or written.
//!
//! ```text
//!   Socket::poll_recv -> recv(2) ... nothing there: wait for the poller
//!   kernel: bytes came -> the poller's ring has work -> its eventfd -> the poller's task
//!   poller: one io_uring_enter -> completions of all sockets that got something -> their tasks
//! ```
//!
//! glommio polls every socket through its own ring with one request per wait; each completion interrupts the thread
//! that runs the core, in the middle of whatever it does, and costs a request anew. Here every socket stands in one
//! ring of the core's own with a poll that stays armed, and that ring runs its completions only when the core asks for
//! them (IORING_SETUP_DEFER_TASKRUN): a burst over many sockets is one eventfd signal and one system call.
//! Kernels without that flag get the same ring without it.
//!
//! # Invariants
//!
//! 1. A poll reports every change after it was armed, so whoever has seen "nothing there" since the last report need
//!    not ask again before the next. (`readable` and `writable` say whether asking makes sense.)
//! 2. A slot is used anew only when the kernel has told the end of every request that names it.
//! 3. A socket that is dropped is closed at the next turn: its poll, which keeps it open, is removed.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::core::{Core, spawn, this_core};
use super::event::LocalEvent;
use super::eventfd::{self, EventFdReader};

/// Requests handed to the kernel at a time; more are handed over in several goes.
const SUBMISSION_ENTRIES: u32 = 256;
/// Completions that wait for us; the kernel keeps what does not fit.
const COMPLETION_ENTRIES: u32 = 4_096;
/// `IORING_ENTER_GETEVENTS`: run what waits to be completed.
const GET_EVENTS: u32 = 1;

/// What a completion's user data says besides the slot.
const KIND_BITS: u32 = 2;
const KIND_READ: u64 = 0;
const KIND_WRITE: u64 = 1;
const KIND_REMOVE: u64 = 2;

/// The sockets of one core.
#[derive(Clone)]
pub(super) struct Poller(Rc<State>);

struct State {
    ring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    /// Requests wait to be handed to the kernel.
    wanted: LocalEvent,
    unsubmitted: Cell<bool>,
}

#[derive(Default)]
struct Slots {
    places: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Slot {
    source: Option<Rc<Source>>,
    /// Requests whose end has not been told.
    armed: u32,
}

/// What is known of one socket.
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

/// A connected socket of this core. Its calls never block.
pub struct Socket {
    fd: OwnedFd,
    poller: Poller,
    slot: usize,
    source: Rc<Source>,
}

impl Poller {
    /// Makes the ring of the calling core and starts the tasks that look after it.
    pub(super) fn start() -> io::Result<Poller> {
        let ring = build_ring()?;
        let event = eventfd::create()?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let mut reader = EventFdReader::new(event.as_fd())?;
        let poller = Poller(Rc::new(State {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            wanted: LocalEvent::new(),
            unsubmitted: Cell::new(false),
        }));
        let own = poller.clone();
        spawn(async move {
            loop {
                if let Err(error) = reader.read().await {
                    panic!("reading the eventfd of a core's sockets: {error}");
                }
                own.turn();
            }
        });
        let own = poller.clone();
        // Requests of one turn go to the kernel together: this task runs behind those that made them.
        spawn(async move {
            loop {
                own.0.wanted.wait().await;
                own.turn();
            }
        });
        Ok(poller)
    }

    /// Hands over requests and wakes the tasks of sockets with news.
    fn turn(&self) {
        loop {
            self.enter();
            loop {
                let entry = self.0.ring.borrow_mut().completion().next();
                let Some(entry) = entry else { break };
                self.on_completion(&entry);
            }
            // The kernel runs a few completions at a time, and says when it has kept some back.
            let more = {
                let mut ring = self.0.ring.borrow_mut();
                let submission = ring.submission();
                submission.taskrun() || submission.cq_overflow()
            };
            if !more && !self.0.unsubmitted.get() {
                return;
            }
        }
    }

    fn enter(&self) {
        self.0.unsubmitted.set(false);
        let mut ring = self.0.ring.borrow_mut();
        let count = u32::try_from(ring.submission().len()).expect("the queue is short");
        // SAFETY: every queued entry names a descriptor or a user data of this room and no memory; without a time
        // limit there is no argument to point at.
        let entered = unsafe {
            ring.submitter()
                .enter::<libc::sigset_t>(count, 0, GET_EVENTS, None)
        };
        match entered.as_ref().map_err(io::Error::raw_os_error) {
            Ok(&taken) if taken == count as usize => {}
            // Interrupted, out of memory for a moment, or completions must be taken first: the rest goes next turn.
            Ok(_) | Err(Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => self.0.wanted.notify(),
            Err(_) => panic!("the ring of a core's sockets: {entered:?}"),
        }
    }

    fn on_completion(&self, entry: &cqueue::Entry) {
        let slot = (entry.user_data() >> KIND_BITS) as usize;
        let kind = entry.user_data() & ((1 << KIND_BITS) - 1);
        let ended = !cqueue::more(entry.flags());
        let mut slots = self.0.slots.borrow_mut();
        let place = &mut slots.places[slot];
        if ended {
            place.armed -= 1;
        }
        match &place.source {
            Some(source) => source.on_event(kind, entry.result(), ended),
            None if place.armed == 0 => slots.free.push(slot),
            None => {}
        }
    }

    fn add(&self, source: Rc<Source>) -> usize {
        let mut slots = self.0.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.places.push(Slot::default());
            slots.places.len() - 1
        });
        slots.places[slot].source = Some(source);
        slot
    }

    fn remove(&self, slot: usize) {
        let (polls_read, polls_write) = {
            let mut slots = self.0.slots.borrow_mut();
            let place = &mut slots.places[slot];
            let source = place.source.take().expect("a socket leaves once");
            if place.armed == 0 {
                slots.free.push(slot);
                return;
            }
            (source.polls_read.get(), source.polls_write.get())
        };
        for (armed, kind) in [(polls_read, KIND_READ), (polls_write, KIND_WRITE)] {
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
            // SAFETY: see `enter`; a poll's descriptor stays open until its removal, which `Socket::drop` asks for.
            let pushed = unsafe { self.0.ring.borrow_mut().submission().push(&entry) };
            if pushed.is_ok() {
                break;
            }
            self.enter();
        }
        if !self.0.unsubmitted.replace(true) {
            self.0.wanted.notify();
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
}

impl Socket {
    /// Takes over a connected socket on the core that will serve it.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Socket {
        let core: Core = this_core();
        let source = Rc::new(Source {
            readable: Cell::new(true),
            writable: Cell::new(true),
            ending: Cell::new(false),
            polls_read: Cell::new(false),
            polls_write: Cell::new(false),
            reader: RefCell::default(),
            writer: RefCell::default(),
        });
        let poller = core.poller().clone();
        let slot = poller.add(source.clone());
        Socket {
            fd,
            poller,
            slot,
            source,
        }
    }

    /// Receives into `room`; 0 is the end of the stream.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_recv(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if !self.source.readable.get() {
                return self.wait(cx, KIND_READ);
            }
            // Armed before the socket is asked, so that nothing that comes afterwards is missed.
            self.arm_read();
            self.source.readable.set(false);
            // SAFETY: the slice is writable for its length through the call.
            let received = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    room.as_mut_ptr().cast(),
                    room.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            match result(received) {
                Ok(count) => {
                    // Less than there was room for: the socket is empty, and the poll will tell of more.
                    if count == room.len() || count == 0 || self.source.ending.get() {
                        self.source.readable.set(true);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.source.readable.set(true);
                }
                Err(error) => {
                    self.source.readable.set(true);
                    return Poll::Ready(Err(error));
                }
            }
        }
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
        loop {
            if !self.source.writable.get() {
                return self.wait(cx, KIND_WRITE);
            }
            match self.send(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.source.writable.set(false);
                    self.arm_write();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Tells the other side that nothing more comes. One that has gone already is none to tell.
    pub fn shut_down(&self) {
        // SAFETY: shutdown takes no pointers.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_WR) };
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

    fn wait<T>(&self, cx: &Context<'_>, kind: u64) -> Poll<T> {
        let waiter = match kind {
            KIND_READ => &self.source.reader,
            _ => &self.source.writer,
        };
        let mut waiter = waiter.borrow_mut();
        match &*waiter {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waiter = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn arm_read(&self) {
        if !self.source.polls_read.replace(true) {
            let mask = (libc::POLLIN | libc::POLLRDHUP) as u32;
            let poll = opcode::PollAdd::new(types::Fd(self.fd.as_raw_fd()), mask).multi(true);
            self.poller.push(self.slot, KIND_READ, poll.build());
        }
    }

    fn arm_write(&self) {
        if !self.source.polls_write.replace(true) {
            let poll = opcode::PollAdd::new(types::Fd(self.fd.as_raw_fd()), libc::POLLOUT as u32);
            self.poller.push(self.slot, KIND_WRITE, poll.build());
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.poller.remove(self.slot);
    }
}

fn build_ring() -> io::Result<IoUring> {
    let mut plain = IoUring::builder();
    plain.setup_cqsize(COMPLETION_ENTRIES);
    let mut deferred = plain.clone();
    deferred
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    match deferred.build(SUBMISSION_ENTRIES) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::info!(
                "this kernel cannot defer completions (6.1 can): sockets will cost some CPU more"
            );
            plain.build(SUBMISSION_ENTRIES)
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
