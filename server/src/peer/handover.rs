//! Connections on their way to the core whose shards they are for.
//!
//! The peer port is served on one core. A hello says for which core its link is; if that is another one with shards, the
//! connection goes there, with what was read of it, and is answered there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use keelson_storage::ids::CoreId;

use super::accept;
use super::limits::HANDOVER_COUNT_MAX;
use super::peers::Peers;
use crate::runtime::{CoreLink, Inbox, Outbox, RingReceiver, RingSender, ring, spawn};

/// A connection that has said hello.
pub(super) struct Arrival {
    pub(super) socket: OwnedFd,
    pub(super) address: SocketAddr,
    pub(super) hello: Bytes,
    /// What was read behind it.
    pub(super) rest: Bytes,
}

/// One core's ends of the rings between the core that listens and the others that have links.
#[derive(Default)]
pub struct PeerRoutes {
    to: Vec<(CoreId, RingSender<Arrival>)>,
    from: Option<RingReceiver<Arrival>>,
}

impl PeerRoutes {
    /// The ends of these cores, the first of which listens.
    #[must_use]
    pub fn between(links: &[CoreLink], cores: &[usize]) -> Vec<Self> {
        let mut routes: Vec<Self> = cores.iter().map(|_| Self::default()).collect();
        for (place, core) in cores.iter().enumerate().skip(1) {
            let (sender, receiver) = ring(HANDOVER_COUNT_MAX, &links[cores[0]], &links[*core]);
            let core = u16::try_from(*core).expect("there are fewer cores");
            routes[0].to.push((CoreId(core), sender));
            routes[place].from = Some(receiver);
        }
        routes
    }

    /// Serves what arrives, and hands back the ways to the other cores.
    pub(super) fn attach(self, peers: impl FnOnce(Ways) -> Peers) -> Peers {
        let ways = self.to.into_iter().map(|(core, to)| (core, to.attach()));
        let peers = peers(Ways(ways.collect()));
        if let Some(from) = self.from {
            let (serving, inbox) = (peers.clone(), from.attach());
            spawn(async move { receive(&serving, inbox).await });
        }
        peers
    }
}

/// The ways to the other cores.
#[derive(Default)]
pub(super) struct Ways(BTreeMap<CoreId, Outbox<Arrival>>);

impl Ways {
    pub(super) fn leads_to(&self, core: CoreId) -> bool {
        self.0.contains_key(&core)
    }

    /// Whether there was room; a connection that found none is closed, and its member dials again.
    pub(super) fn send(&mut self, core: CoreId, arrival: Arrival) -> bool {
        let Some(way) = self.0.get_mut(&core) else {
            return false;
        };
        let is_sent = way.push(arrival).is_ok();
        way.flush();
        is_sent
    }
}

async fn receive(peers: &Peers, mut inbox: Inbox<Arrival>) {
    loop {
        inbox.ready().await;
        while let Some(arrival) = inbox.pop() {
            let peers = peers.clone();
            spawn(async move { accept::serve_arrival(&peers, arrival).await });
        }
        if inbox.is_finished() {
            return;
        }
    }
}
