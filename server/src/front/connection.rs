//! What the front knows about a connection besides its protocol: who it is, when it last did something, and what
//! is to be done about it.
//!
//! The sweep of a core (see `server.rs`) walks over its connections once a second, asks each
//! [`Connection::decide`] and pokes the connection's task when there is something to do. So 10,000 connections
//! cost one timer, and the request path costs a stamp of the core's coarse clock.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::call::Peer;
use super::listen::Role;
use super::observer::Observer;
use super::socket::Traffic;
use crate::runtime::{Core, LocalEvent};

/// A connection of this core.
pub(super) struct Connection {
    pub(super) peer: Rc<Peer>,
    pub(super) role: Role,
    pub(super) core: Core,
    pub(super) observer: Rc<dyn Observer>,
    phase: Cell<Phase>,
    /// Since when the connection is in its phase.
    phase_since_ms: Cell<u64>,
    received_ms: Cell<u64>,
    sent_ms: Cell<u64>,
    /// When the keepalive ping that has no answer yet was sent; 0 for none.
    pinged_ms: Cell<u64>,
    order: Cell<Option<Order>>,
    poke: LocalEvent,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first bytes have not said what it speaks, or HTTP/2 is being set up.
    Opening,
    /// HTTP/2: may be idle for any time.
    Http2,
    /// HTTP/1.1 between two requests, or reading a request.
    Http1Idle,
    /// HTTP/1.1 while a handler works on a request.
    Http1Busy,
}

/// What the connection's task is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Ask the client for a sign of life.
    Ping,
    /// Finish what is running and close.
    Drain,
    /// Close now.
    Close,
}

/// The limits that [`Connection::decide`] applies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) opening: Duration,
    pub(super) http1_idle: Duration,
    pub(super) ping_after: Duration,
    pub(super) ping_timeout: Duration,
}

impl Connection {
    pub(super) fn new(
        peer: Peer,
        role: Role,
        core: Core,
        observer: Rc<dyn Observer>,
    ) -> Connection {
        let now_ms = core.coarse_ms();
        Connection {
            peer: Rc::new(peer),
            role,
            core,
            observer,
            phase: Cell::new(Phase::Opening),
            phase_since_ms: Cell::new(now_ms),
            received_ms: Cell::new(now_ms),
            sent_ms: Cell::new(now_ms),
            pinged_ms: Cell::new(0),
            order: Cell::new(None),
            poke: LocalEvent::new(),
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.phase_since_ms.set(self.core.coarse_ms());
    }

    /// Gives the connection's task something to do; a weaker order never replaces a stronger one.
    pub(super) fn order(&self, order: Order) {
        if self.order.get() < Some(order) {
            self.order.set(Some(order));
            self.poke.notify();
        }
    }

    /// The order that waits, once.
    pub(super) fn take_order(&self) -> Option<Order> {
        self.order.take()
    }

    /// Notified when there is an order.
    pub(super) fn poke(&self) -> &LocalEvent {
        &self.poke
    }

    pub(super) fn ping_sent(&self) {
        self.pinged_ms.set(self.core.coarse_ms());
    }

    pub(super) fn pong_received(&self) {
        self.pinged_ms.set(0);
    }

    /// What is due at `now_ms`.
    pub(super) fn decide(&self, now_ms: u64, patience: &Patience) -> Option<Order> {
        let view = View {
            phase: self.phase.get(),
            phase_ms: now_ms.saturating_sub(self.phase_since_ms.get()),
            silent_ms: now_ms.saturating_sub(self.received_ms.get()),
            unsent_ms: now_ms.saturating_sub(self.sent_ms.get()),
            pinged_ms: match self.pinged_ms.get() {
                0 => None,
                // Any byte after the ping is a sign of life.
                at_ms if self.received_ms.get() > at_ms => None,
                at_ms => Some(now_ms.saturating_sub(at_ms)),
            },
            ping_outstanding: self.pinged_ms.get() != 0,
        };
        view.decide(patience)
    }
}

/// The ages a decision is made from.
#[derive(Clone, Copy, Debug)]
struct View {
    phase: Phase,
    phase_ms: u64,
    silent_ms: u64,
    unsent_ms: u64,
    /// Age of the ping that saw no sign of life since.
    pinged_ms: Option<u64>,
    ping_outstanding: bool,
}

impl View {
    fn decide(&self, patience: &Patience) -> Option<Order> {
        let over = |ms: u64, limit: Duration| u128::from(ms) > limit.as_millis();
        match self.phase {
            Phase::Opening => over(self.phase_ms, patience.opening).then_some(Order::Close),
            // Time since the phase began, not since the last byte: a client that sends its request head byte by
            // byte stays idle. A client that slowly takes a large response does not.
            Phase::Http1Idle => {
                let idle_ms = self.phase_ms.min(self.unsent_ms);
                over(idle_ms, patience.http1_idle).then_some(Order::Close)
            }
            Phase::Http1Busy => None,
            Phase::Http2 => match self.pinged_ms {
                Some(ms) => over(ms, patience.ping_timeout).then_some(Order::Close),
                // It spoke after the ping without answering it, and then fell silent.
                None if self.ping_outstanding => {
                    over(self.silent_ms, patience.ping_after + patience.ping_timeout)
                        .then_some(Order::Close)
                }
                None => over(self.silent_ms, patience.ping_after).then_some(Order::Ping),
            },
        }
    }
}

impl Traffic for Connection {
    fn received(&self, count: usize) {
        self.received_ms.set(self.core.coarse_ms());
        self.observer.bytes_received(count);
    }

    fn sent(&self, count: usize) {
        self.sent_ms.set(self.core.coarse_ms());
        self.observer.bytes_sent(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        opening: Duration::from_secs(20),
        http1_idle: Duration::from_secs(60),
        ping_after: Duration::from_secs(7200),
        ping_timeout: Duration::from_secs(20),
    };

    fn view(phase: Phase) -> View {
        View {
            phase,
            phase_ms: 0,
            silent_ms: 0,
            unsent_ms: 0,
            pinged_ms: None,
            ping_outstanding: false,
        }
    }

    #[test]
    fn a_connection_that_never_says_what_it_speaks_is_closed() {
        assert_eq!(
            View {
                phase_ms: 19_000,
                ..view(Phase::Opening)
            }
            .decide(&PATIENCE),
            None
        );
        let late = View {
            phase_ms: 21_000,
            silent_ms: 0,
            ..view(Phase::Opening)
        };
        assert_eq!(late.decide(&PATIENCE), Some(Order::Close));
    }

    #[test]
    fn http1_is_closed_when_it_neither_asks_nor_listens() {
        let loris = View {
            phase_ms: 61_000,
            unsent_ms: 61_000,
            ..view(Phase::Http1Idle)
        };
        assert_eq!(loris.decide(&PATIENCE), Some(Order::Close));
        let slow_reader = View {
            phase_ms: 300_000,
            unsent_ms: 5_000,
            ..view(Phase::Http1Idle)
        };
        assert_eq!(slow_reader.decide(&PATIENCE), None);
        let slow_handler = View {
            phase_ms: 300_000,
            unsent_ms: 300_000,
            ..view(Phase::Http1Busy)
        };
        assert_eq!(slow_handler.decide(&PATIENCE), None);
    }

    #[test]
    fn a_silent_http2_client_is_pinged_and_then_closed() {
        let idle = View {
            phase_ms: 8_000_000,
            silent_ms: 7_100_000,
            ..view(Phase::Http2)
        };
        assert_eq!(idle.decide(&PATIENCE), None);
        let silent = View {
            silent_ms: 7_201_000,
            ..idle
        };
        assert_eq!(silent.decide(&PATIENCE), Some(Order::Ping));
        let waiting = View {
            pinged_ms: Some(19_000),
            ping_outstanding: true,
            ..silent
        };
        assert_eq!(waiting.decide(&PATIENCE), None);
        let dead = View {
            pinged_ms: Some(21_000),
            ..waiting
        };
        assert_eq!(dead.decide(&PATIENCE), Some(Order::Close));
        let alive = View {
            pinged_ms: None,
            silent_ms: 10,
            ..waiting
        };
        assert_eq!(alive.decide(&PATIENCE), None);
        let silent_again = View {
            silent_ms: 7_221_000,
            ..alive
        };
        assert_eq!(silent_again.decide(&PATIENCE), Some(Order::Close));
    }
}
