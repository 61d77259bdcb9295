//! Listening sockets, and the way of an accepted connection to its core.
//!
//! Sockets are bound before the cores start, so that a port in use stops the start with a clear error. The
//! engine's core accepts for all of them; [`placement`] says which core serves a connection, and one that goes
//! elsewhere travels there as a file descriptor through a ring.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;

use super::call::{Peer, Service};
use super::http1::HttpService;
use super::limits::{
    ACCEPT_BACKOFF, CONNECTION_COUNT_PER_CORE_MAX, FRESH_FOR, HANDOVER_COUNT_MAX, LISTEN_BACKLOG,
};
use super::server::Front;
use crate::runtime::placement::{self, CoreLoad};
use crate::runtime::{
    Acceptor, Core, CoreLink, Inbox, Outbox, RingReceiver, RingSender, monotonic_ms, ring, sleep,
    spawn, this_core,
};

/// Silence after which the kernel probes a client, time between probes, and their number: a client whose machine
/// vanished is noticed within two minutes.
const TCP_PROBE_AFTER_SECONDS: i32 = 30;
const TCP_PROBE_EVERY_SECONDS: i32 = 15;
const TCP_PROBE_COUNT: i32 = 6;

/// What a port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// gRPC over HTTP/2, and HTTP/1.1: a client URL.
    Client,
    /// HTTP/1.1 only: a metrics URL.
    HttpOnly,
}

/// A bound socket, not yet on a core.
pub struct Listener {
    socket: TcpListener,
    role: Role,
}

impl Listener {
    /// Binds and listens. SO_REUSEADDR is set, SO_REUSEPORT is not: a second server on the port is an error.
    ///
    /// # Errors
    /// The address is in use, not this machine's, or not permitted.
    pub fn bind(address: SocketAddr, role: Role) -> io::Result<Listener> {
        let socket = TcpListener::bind(address)?;
        // SAFETY: listen takes no pointers; on a listening socket it changes the backlog.
        if unsafe { libc::listen(socket.as_raw_fd(), LISTEN_BACKLOG) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Listener { socket, role })
    }

    /// The address it is bound to; tells the port when 0 was asked for.
    ///
    /// # Errors
    /// The system call fails.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection on its way to the core that will serve it.
pub struct Arrival {
    socket: OwnedFd,
    peer: SocketAddr,
    role: Role,
}

/// The sending ends of the engine core's handover rings, by core.
pub struct HandoverSeat(Vec<Option<RingSender<Arrival>>>);

/// The receiving end on a core that does not accept itself.
pub struct ArrivalSeat(RingReceiver<Arrival>);

/// Makes the rings on which the core at index `engine` hands connections to the others. One seat for the engine's
/// core; for the others one seat each, at their index.
#[must_use]
pub fn handover(links: &[CoreLink], engine: usize) -> (HandoverSeat, Vec<Option<ArrivalSeat>>) {
    let mut senders = Vec::with_capacity(links.len());
    let mut receivers = Vec::with_capacity(links.len());
    for (index, link) in links.iter().enumerate() {
        if index == engine {
            senders.push(None);
            receivers.push(None);
        } else {
            let (sender, receiver) = ring(HANDOVER_COUNT_MAX, &links[engine], link);
            senders.push(Some(sender));
            receivers.push(Some(ArrivalSeat(receiver)));
        }
    }
    (HandoverSeat(senders), receivers)
}

/// Serves what arrives from the accepting core, until that core is gone.
pub(super) async fn receive<S: Service, H: HttpService>(front: Front<S, H>, seat: ArrivalSeat) {
    let mut inbox: Inbox<Arrival> = seat.0.attach();
    loop {
        inbox.ready().await;
        while let Some(arrival) = inbox.pop() {
            front.adopt(arrival.socket, arrival.peer, arrival.role);
        }
        if inbox.is_finished() {
            return;
        }
    }
}

/// Accepts from all `listeners` and places the connections, until the core is stopping.
pub(super) fn accept_all<S: Service, H: HttpService>(
    front: &Front<S, H>,
    listeners: Vec<Listener>,
    seat: HandoverSeat,
) {
    let placer = Rc::new(RefCell::new(Placer::new(&this_core(), seat)));
    for listener in listeners {
        let (front, placer) = (front.clone(), placer.clone());
        spawn(async move { accept(front, listener, placer).await });
    }
}

async fn accept<S: Service, H: HttpService>(
    front: Front<S, H>,
    listener: Listener,
    placer: Rc<RefCell<Placer>>,
) {
    let role = listener.role;
    let socket = match Acceptor::new(listener.socket) {
        Ok(socket) => socket,
        Err(error) => {
            return tracing::error!(%error, "a listening socket cannot be served");
        }
    };
    let mut failures = AcceptFailures::default();
    let stopping = front.stopping().clone();
    while !stopping.is_set() {
        let accepted = async { Some(socket.accept().await) };
        let stopped = async {
            stopping.wait().await;
            None
        };
        match or(accepted, stopped).await {
            None => return,
            Some(Ok((socket, peer))) => {
                failures.clear();
                place(&front, &placer, Arrival { socket, peer, role });
            }
            Some(Err(error)) => {
                if failures.report(&error) {
                    tracing::warn!(%error, "cannot accept connections; clients wait until there is room");
                }
                if is_shortage(&error) {
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

fn place<S: Service, H: HttpService>(
    front: &Front<S, H>,
    placer: &RefCell<Placer>,
    arrival: Arrival,
) {
    let mut placer = placer.borrow_mut();
    let Some(index) = placer.choose() else {
        return front.refuse_connection();
    };
    if index == placer.own_index {
        return front.adopt(arrival.socket, arrival.peer, arrival.role);
    }
    if let Err(arrival) = placer.hand_over(index, arrival) {
        // The other core is behind with adopting; this one still has time to accept, so it serves.
        front.adopt(arrival.socket, arrival.peer, arrival.role);
    }
}

/// Applies the placement rule with the connections placed a moment ago.
struct Placer {
    own_index: usize,
    core: Core,
    outboxes: Vec<Option<Outbox<Arrival>>>,
    /// Core and time of each recent placement, oldest first.
    fresh: VecDeque<(usize, u64)>,
}

impl Placer {
    fn new(core: &Core, seat: HandoverSeat) -> Placer {
        Placer {
            own_index: core.index(),
            core: core.clone(),
            outboxes: seat
                .0
                .into_iter()
                .map(|sender| sender.map(RingSender::attach))
                .collect(),
            fresh: VecDeque::new(),
        }
    }

    fn choose(&mut self) -> Option<usize> {
        let now_ms = monotonic_ms();
        let fresh_ms = FRESH_FOR.as_millis() as u64;
        while self
            .fresh
            .front()
            .is_some_and(|&(_, at_ms)| at_ms + fresh_ms < now_ms)
        {
            self.fresh.pop_front();
        }
        let mut loads: Vec<CoreLoad> = self.core.links().iter().map(CoreLink::load).collect();
        for &(index, _) in &self.fresh {
            loads[index].fresh_count += 1;
        }
        let index = placement::choose(self.own_index, &loads, CONNECTION_COUNT_PER_CORE_MAX)?;
        self.fresh.push_back((index, now_ms));
        Some(index)
    }

    fn hand_over(&mut self, index: usize, arrival: Arrival) -> Result<(), Arrival> {
        let Some(outbox) = &mut self.outboxes[index] else {
            return Err(arrival);
        };
        outbox.push(arrival)?;
        outbox.flush();
        Ok(())
    }
}

/// Keeps repeated failures from filling the log.
#[derive(Default)]
struct AcceptFailures {
    last_kind: Option<i32>,
    reported_ms: u64,
}

impl AcceptFailures {
    /// True when this failure is news: another kind than the last, or the last report is ten seconds old.
    fn report(&mut self, error: &io::Error) -> bool {
        const AGAIN_AFTER: Duration = Duration::from_secs(10);
        let now_ms = monotonic_ms();
        let is_news = self.last_kind != error.raw_os_error()
            || u128::from(now_ms - self.reported_ms) >= AGAIN_AFTER.as_millis();
        if is_news {
            self.last_kind = error.raw_os_error();
            self.reported_ms = now_ms;
        }
        is_news
    }

    fn clear(&mut self) {
        self.last_kind = None;
    }
}

/// Errors that pass when something is freed; all others concern one connection that is gone already.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EINVAL | libc::EBADF
        )
    )
}

/// Options of a connection: answers leave at once, and vanished clients are noticed.
pub(crate) fn set_options(socket: &OwnedFd) -> io::Result<()> {
    let set = |level: i32, option: i32, value: i32| {
        // SAFETY: the value is an int that lives through the call, with its size.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(
        libc::IPPROTO_TCP,
        libc::TCP_KEEPIDLE,
        TCP_PROBE_AFTER_SECONDS,
    )?;
    set(
        libc::IPPROTO_TCP,
        libc::TCP_KEEPINTVL,
        TCP_PROBE_EVERY_SECONDS,
    )?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, TCP_PROBE_COUNT)
}

/// A [`Peer`] for an address.
pub(super) fn peer(address: SocketAddr) -> Peer {
    Peer { address }
}
