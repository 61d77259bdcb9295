//! The front of one core: its connections from adoption to close.
//!
//! Boot makes one [`Front`] per core, gives the engine core's front the listeners
//! ([`Front::accept`]) and every other front its arrival ring ([`Front::receive`]), and awaits [`Front::drain`]
//! when the process stops.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use std::os::fd::OwnedFd;
use std::task::Poll;

use bytes::BytesMut;
use keelson_proto::http2::PREFACE;

use super::call::Service;
use super::connection::{Connection, Order, Patience};
use super::http1::{self, HttpService};
use super::http2::{self, SpareBuffers};
use super::limits;
use super::listen::{self, ArrivalSeat, HandoverSeat, Listener, Role};
use super::observer::Observer;
use super::replies::{LiveCalls, UnsentGauge};
use super::socket::{ReceiveBuffer, Socket};
use crate::runtime::{self, Core, Latch, sleep, spawn, this_core, timeout};

/// What a front is told by the configuration.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    /// Largest request message: etcd's `--max-request-bytes` plus 512 KiB.
    pub message_bytes_max: usize,
    /// etcd's `--max-concurrent-streams`; cut to what the front bounds.
    pub max_concurrent_streams: u32,
    /// etcd's `--grpc-keepalive-interval`: silence after which a client is pinged. Zero turns pings off.
    pub keepalive_interval: Duration,
    /// etcd's `--grpc-keepalive-timeout`: a pinged client that stays silent this long is gone.
    pub keepalive_timeout: Duration,
}

impl Default for FrontConfig {
    fn default() -> FrontConfig {
        FrontConfig {
            message_bytes_max: (1 << 20) + (1 << 19) + (1 << 19),
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Duration::from_secs(2 * 3600),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// The front of this core. Cheap to clone.
pub struct Front<S: Service, H: HttpService> {
    shared: Rc<FrontShared<S>>,
    http: Rc<H>,
}

impl<S: Service, H: HttpService> Clone for Front<S, H> {
    fn clone(&self) -> Self {
        Front {
            shared: self.shared.clone(),
            http: self.http.clone(),
        }
    }
}

/// What all connections of a core share.
pub(super) struct FrontShared<S: Service> {
    pub(super) config: FrontConfig,
    pub(super) service: Rc<S>,
    pub(super) observer: Rc<dyn Observer>,
    pub(super) unsent: UnsentGauge,
    pub(super) live: LiveCalls,
    /// Set when calls should come to an end.
    pub(super) stopping: Latch,
    core: Core,
    pub(super) spares: SpareBuffers,
    pub(super) receive_buffer: ReceiveBuffer,
    roster: RefCell<Roster>,
    sweeping: Cell<bool>,
}

/// Figures of a front, for metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontStats {
    /// Open connections.
    pub connection_count: usize,
    /// Calls that have not ended.
    pub call_count: usize,
    /// Response bytes that clients have not taken.
    pub unsent_bytes: usize,
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections closed by the time limit.
    pub cut_connection_count: usize,
    /// Calls that were still running then.
    pub cut_call_count: usize,
}

impl<S: Service, H: HttpService> Front<S, H> {
    /// Makes the front of the calling core.
    #[must_use]
    pub fn new(
        config: FrontConfig,
        service: Rc<S>,
        http: Rc<H>,
        observer: Rc<dyn Observer>,
    ) -> Front<S, H> {
        let shared = FrontShared {
            config,
            service,
            observer,
            unsent: UnsentGauge::default(),
            live: LiveCalls::default(),
            stopping: Latch::new(),
            core: this_core(),
            spares: SpareBuffers::default(),
            receive_buffer: ReceiveBuffer::default(),
            roster: RefCell::default(),
            sweeping: Cell::new(false),
        };
        Front {
            shared: Rc::new(shared),
            http,
        }
    }

    /// Accepts from `listeners` and places the connections on the cores. Returns at once. For the engine's core.
    pub fn accept(&self, listeners: Vec<Listener>, seat: HandoverSeat) {
        listen::accept_all(self, listeners, seat);
    }

    /// Serves the connections that the accepting core hands over. Returns at once. For every other core.
    pub fn receive(&self, seat: ArrivalSeat) {
        spawn(listen::receive(self.clone(), seat));
    }

    /// Set by [`drain`](Front::drain); streaming handlers see it through `Replies::closed`.
    #[must_use]
    pub fn stopping(&self) -> &Latch {
        &self.shared.stopping
    }

    /// The front's figures.
    #[must_use]
    pub fn stats(&self) -> FrontStats {
        FrontStats {
            connection_count: self.shared.roster.borrow().count,
            call_count: self.shared.live.count(),
            unsent_bytes: self.shared.unsent.core_bytes(),
        }
    }

    /// Stops: no new connections, GOAWAY on the open ones, running calls come to their end, and what is left when
    /// `limit` is over is cut.
    pub async fn drain(&self, limit: Duration) -> DrainReport {
        self.shared.stopping.set();
        self.shared.roster.borrow().order_all(Order::Drain);
        let all_gone = async {
            while self.stats().connection_count > 0 || self.stats().call_count > 0 {
                sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(limit, all_gone).await.is_ok() {
            return DrainReport {
                cut_connection_count: 0,
                cut_call_count: 0,
            };
        }
        let report = DrainReport {
            cut_connection_count: self.stats().connection_count,
            cut_call_count: self.stats().call_count,
        };
        self.shared.roster.borrow().order_all(Order::Close);
        let started = Instant::now();
        // Closing is a matter of one turn; handlers that never look at their call are left behind.
        while self.stats().connection_count > 0 && started.elapsed() < Duration::from_secs(1) {
            sleep(Duration::from_millis(1)).await;
        }
        report
    }

    /// Serves a connection on this core. Returns at once.
    pub(super) fn adopt(&self, stream: OwnedFd, peer: SocketAddr, role: Role) {
        let shared = &self.shared;
        if let Err(error) = listen::set_options(&stream) {
            // The client hung up while it was queued.
            tracing::debug!(%error, %peer, "a connection ended before it was served");
            return;
        }
        let connection = Connection::new(
            listen::peer(peer),
            role,
            shared.core.clone(),
            shared.observer.clone(),
        );
        let connection = Rc::new(connection);
        let place = shared.roster.borrow_mut().add(connection.clone());
        shared.core.connection_came();
        shared.observer.connection_opened();
        if shared.stopping.is_set() {
            connection.order(Order::Drain);
        }
        self.sweep_while_needed();
        let front = self.clone();
        spawn(async move {
            let socket = Socket::new(runtime::Socket::new(stream), connection.clone());
            front.serve(&connection, socket).await;
            front.shared.roster.borrow_mut().remove(place);
            front.shared.core.connection_went();
            front.shared.observer.connection_closed();
        });
    }

    /// Closes a connection that no core has room for.
    pub(super) fn refuse_connection(&self) {
        self.shared.observer.connection_refused();
        tracing::warn!("a connection is refused: every core has as many as it may have");
    }

    async fn serve(&self, connection: &Rc<Connection>, socket: Socket<Connection>) {
        let peer = connection.peer.address;
        match sniff(connection, &socket).await {
            Sniffed::Http2 if connection.role == Role::Client => {
                if let Err(error) = http2::serve(&self.shared, connection, socket).await {
                    tracing::debug!(%peer, %error, "connection ended");
                }
            }
            Sniffed::Http1 => {
                if let Err(error) = http1::serve(&self.http, connection, socket).await {
                    tracing::debug!(%peer, %error, "connection ended");
                }
            }
            Sniffed::Http2 | Sniffed::Nothing => {}
        }
    }

    /// One task per core looks after silent connections; it ends with the last of them, so that a core without
    /// clients has no timer but its heartbeat.
    fn sweep_while_needed(&self) {
        if self.shared.sweeping.replace(true) {
            return;
        }
        let front = self.clone();
        spawn(async move {
            let patience = front.patience();
            let period = limits::SWEEP_EVERY
                .min(patience.ping_after / 4)
                .min(patience.ping_timeout / 4);
            while front.stats().connection_count > 0 {
                sleep(period.max(Duration::from_millis(10))).await;
                front
                    .shared
                    .roster
                    .borrow()
                    .sweep(front.shared.core.coarse_ms(), &patience);
            }
            front.shared.sweeping.set(false);
        });
    }

    fn patience(&self) -> Patience {
        let config = &self.shared.config;
        let never = Duration::from_secs(u64::from(u32::MAX));
        Patience {
            opening: limits::OPENING_TIMEOUT,
            http1_idle: limits::HTTP1_IDLE_TIMEOUT,
            ping_after: if config.keepalive_interval.is_zero() {
                never
            } else {
                config.keepalive_interval
            },
            ping_timeout: config.keepalive_timeout.max(Duration::from_millis(100)),
        }
    }
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sniffed {
    Http2,
    /// Anything that is not HTTP/2; hyper answers what is not HTTP/1.1 either with 400.
    Http1,
    /// It closed, broke, or took too long.
    Nothing,
}

/// Reads until the first bytes say what the client speaks, and puts them back.
async fn sniff(connection: &Connection, socket: &Socket<Connection>) -> Sniffed {
    let mut seen = BytesMut::with_capacity(PREFACE.len());
    let verdict = std::future::poll_fn(|cx| {
        socket.begin_turn();
        loop {
            if connection.poke().poll_wait(cx).is_ready() {
                // Whatever the order: nothing is running that could be drained.
                let _ = connection.take_order();
                return Poll::Ready(Sniffed::Nothing);
            }
            let mut room = [0; PREFACE.len()];
            let missing = PREFACE.len() - seen.len();
            match socket.poll_recv(cx, &mut room[..missing]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_) | Ok(0)) => return Poll::Ready(Sniffed::Nothing),
                Poll::Ready(Ok(count)) => seen.extend_from_slice(&room[..count]),
            }
            if let Some(verdict) = judge(&seen) {
                return Poll::Ready(verdict);
            }
        }
    })
    .await;
    socket.unread(seen.freeze());
    verdict
}

/// What the bytes seen so far say, if they say it.
fn judge(seen: &[u8]) -> Option<Sniffed> {
    if !PREFACE.starts_with(seen) {
        Some(Sniffed::Http1)
    } else if seen == PREFACE {
        Some(Sniffed::Http2)
    } else {
        None
    }
}

/// The open connections of a core.
#[derive(Default)]
struct Roster {
    places: Vec<Option<Rc<Connection>>>,
    free: Vec<usize>,
    count: usize,
}

impl Roster {
    fn add(&mut self, connection: Rc<Connection>) -> usize {
        self.count += 1;
        match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(connection);
                place
            }
            None => {
                self.places.push(Some(connection));
                self.places.len() - 1
            }
        }
    }

    fn remove(&mut self, place: usize) {
        assert!(
            self.places[place].take().is_some(),
            "a connection leaves once"
        );
        self.free.push(place);
        self.count -= 1;
    }

    fn order_all(&self, order: Order) {
        self.places
            .iter()
            .flatten()
            .for_each(|connection| connection.order(order));
    }

    fn sweep(&self, now_ms: u64, patience: &Patience) {
        for connection in self.places.iter().flatten() {
            if let Some(order) = connection.decide(now_ms, patience) {
                connection.order(order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_told_from_everything_else_at_the_first_different_byte() {
        assert_eq!(judge(b"PRI * HTT"), None);
        assert_eq!(judge(PREFACE), Some(Sniffed::Http2));
        assert_eq!(judge(b"P"), None);
        assert_eq!(judge(b"PO"), Some(Sniffed::Http1));
        assert_eq!(judge(b"GET /health"), Some(Sniffed::Http1));
        assert_eq!(judge(&[0x16, 3, 1]), Some(Sniffed::Http1));
    }
}
