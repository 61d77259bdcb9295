//! The engine's handle: who the members are, what goes to them and what came.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use keelson_consensus::replicate::Item;
use keelson_storage::ids::{ClusterId, CoreId, MemberId, ShardId};
use keelson_storage::state::Member;

use super::accept::{self, Accepted};
use super::error::PeerError;
use super::facts::{Count, PeerFacts};
use super::guests::Guests;
use super::handover::{PeerRoutes, Ways};
use super::hello::Identity;
use super::inbox::{Heard, Inbox};
use super::limits;
use super::link::{Link, hex};
use super::outbox::Dropped;
use crate::runtime::{Acceptor, Latch, LocalEvent, monotonic_ms, spawn};

/// Who this member is, and what bounds its links.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// This member.
    pub me: MemberId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Where the shards of these links live: members talk only if both say the same.
    pub core: CoreId,
    /// Drawn when the process started. Pauses take their chance from it too.
    pub start: u64,
    /// Bytes that wait to be written to a member.
    pub queue_bytes_max: usize,
    /// Bytes that wait to be taken by the engine.
    pub inbox_bytes_max: usize,
    /// The first pause before a member is dialled again.
    pub backoff_min: Duration,
    /// The longest.
    pub backoff_max: Duration,
    /// The pause after a refusal.
    pub refused_retry: Duration,
    /// Time for a connection to become a link.
    pub opening_timeout: Duration,
    /// A link that takes nothing for so long is closed.
    pub write_stalled_max: Duration,
}

impl PeerConfig {
    /// With the bounds of [`limits`].
    #[must_use]
    pub fn new(me: MemberId, cluster: ClusterId, core: CoreId, start: u64) -> Self {
        Self {
            me,
            cluster,
            core,
            start,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            inbox_bytes_max: limits::INBOX_BYTES_MAX,
            backoff_min: limits::BACKOFF_MIN,
            backoff_max: limits::BACKOFF_MAX,
            refused_retry: limits::REFUSED_RETRY,
            opening_timeout: limits::OPENING_TIMEOUT,
            write_stalled_max: limits::WRITE_STALLED_MAX,
        }
    }
}

/// The links of one core. Cheap to clone; stays on its core.
#[derive(Clone)]
pub struct Peers(Rc<State>);

pub(super) struct State {
    config: PeerConfig,
    identity: Identity,
    /// Everybody, this member included, as the state machine has them.
    members: RefCell<BTreeMap<MemberId, Member>>,
    pub(super) guests: Guests,
    links: RefCell<BTreeMap<MemberId, Rc<Link>>>,
    pub(super) accepted: RefCell<BTreeMap<MemberId, Rc<Accepted>>>,
    pub(super) accepted_count: Cell<usize>,
    pub(super) ways: RefCell<Ways>,
    pub(super) refused_connections: Count,
    pub(super) strangers_told_ms: Cell<u64>,
    pub(super) inbox: Inbox,
    /// Members with news that the engine has not taken.
    news: RefCell<VecDeque<MemberId>>,
    pub(super) receive: RefCell<Box<[u8]>>,
    pub(super) stopped: Latch,
    is_let_go: Cell<bool>,
}

impl Peers {
    /// The links of the only core that has any. See [`start_routed`](Self::start_routed).
    ///
    /// # Errors
    /// A socket cannot be served.
    pub fn start(config: PeerConfig, listeners: Vec<TcpListener>) -> Result<Self, PeerError> {
        Self::start_routed(config, listeners, PeerRoutes::default())
    }

    /// Serves the listening sockets on this core, and what comes by way of another. Nobody is dialled, and nobody is let in, before
    /// [`set_members`](Self::set_members).
    ///
    /// # Errors
    /// A socket cannot be served.
    pub fn start_routed(
        config: PeerConfig,
        listeners: Vec<TcpListener>,
        routes: PeerRoutes,
    ) -> Result<Self, PeerError> {
        let identity = Identity {
            me: config.me,
            cluster: config.cluster,
            core: config.core,
            start: config.start,
        };
        let start = |ways| {
            Self(Rc::new(State {
                identity,
                ways: RefCell::new(ways),
                members: RefCell::default(),
                guests: Guests::default(),
                links: RefCell::default(),
                accepted: RefCell::default(),
                accepted_count: Cell::new(0),
                refused_connections: Count::default(),
                strangers_told_ms: Cell::new(0),
                inbox: Inbox::new(config.inbox_bytes_max),
                news: RefCell::default(),
                receive: RefCell::new(vec![0; limits::RECEIVE_BYTES].into_boxed_slice()),
                stopped: Latch::new(),
                is_let_go: Cell::new(false),
                config,
            }))
        };
        let peers = routes.attach(start);
        let acceptors = listeners.into_iter().map(Acceptor::new);
        for acceptor in acceptors.collect::<Result<Vec<_>, _>>()? {
            let peers = peers.clone();
            spawn(async move { accept::accept(&peers, &acceptor).await });
        }
        Ok(peers)
    }

    /// Who belongs to the cluster is what others told, and not what the log says: a list that
    /// [`set_members`](Self::set_members) is about to be given.
    pub fn on_told(&self, members: &BTreeMap<MemberId, Member>) {
        self.0.guests.on_told(self.0.config.me, members);
    }

    /// Who belongs to the cluster now, this member included or not. New members are dialled, those that left are
    /// let go, changed peer URLs are followed. URLs that cannot be dialled are named in the log.
    pub fn set_members(&self, members: &BTreeMap<MemberId, Member>) {
        if self.0.stopped.is_set() {
            return;
        }
        let old = self.0.members.replace(members.clone());
        self.0.guests.on_members(&old, members);
        let left: Vec<Rc<Link>> = {
            let mut links = self.0.links.borrow_mut();
            let (kept, left) = std::mem::take(&mut *links)
                .into_iter()
                .partition(|(id, _)| members.contains_key(id) || self.0.guests.contains(*id));
            *links = kept;
            left.into_values().collect()
        };
        for link in left {
            tracing::info!(member = %hex(link.member), "a member left; its links are closed");
            link.dismiss();
            if let Some(accepted) = self.0.accepted.borrow_mut().remove(&link.member) {
                accepted.dismiss();
            }
        }
        for (&id, member) in members.iter().filter(|(id, _)| **id != self.0.config.me) {
            let known = self.link(id);
            let link = known.unwrap_or_else(|| self.add_link(id));
            link.follow(&member.peer_urls);
        }
    }

    /// Queues an item for the next flush; false when it is dropped, because there is no link or too much waits.
    pub fn send(&self, to: MemberId, shard: ShardId, item: &Item) -> bool {
        let Some(link) = self.link(to) else {
            return false;
        };
        match link.send(shard, item) {
            Ok(()) => true,
            Err(Dropped::NoLink) => false,
            Err(Dropped::Full) => {
                link.lost.set(true);
                self.list_news(&link);
                false
            }
        }
    }

    /// Ends the round: what was queued for a member leaves as one frame, or several if it is much.
    pub fn flush(&self) {
        self.0.links.borrow().values().for_each(|link| link.flush());
    }

    /// The next thing that was heard. News of members come before what they said.
    pub fn take(&self) -> Option<Heard> {
        while let Some(first) = self.first_news() {
            if let Some(link) = self.link(first) {
                if link.lost.take() {
                    return Some(Heard::Unreachable(first));
                }
                if link.found.take() {
                    return Some(Heard::Reachable(first));
                }
                link.is_listed.set(false);
            }
            self.0.news.borrow_mut().pop_front();
        }
        let (heard, has_room_again) = self.0.inbox.take()?;
        if has_room_again {
            let accepted = self.0.accepted.borrow();
            accepted.values().for_each(|accepted| accepted.poke());
        }
        Some(heard)
    }

    /// Notified when [`take`](Self::take) has something.
    #[must_use]
    pub fn event(&self) -> &LocalEvent {
        &self.0.inbox.event
    }

    /// Whether most of the other members have said for a while that this one is no member: it was removed, and was not told
    /// because its links were closed at once.
    #[must_use]
    pub fn is_let_go(&self) -> bool {
        self.0.is_let_go.get()
    }

    /// Ends all links and gives up the listening sockets, within a turn or two. What was taken in can still be
    /// taken.
    pub fn stop(&self) {
        self.0.stopped.set();
        let links = std::mem::take(&mut *self.0.links.borrow_mut());
        links.values().for_each(|link| link.dismiss());
        let accepted = std::mem::take(&mut *self.0.accepted.borrow_mut());
        accepted.values().for_each(|accepted| accepted.dismiss());
    }

    /// Figures of every other member.
    #[must_use]
    pub fn facts(&self) -> Vec<PeerFacts> {
        let links = self.0.links.borrow();
        let accepted = self.0.accepted.borrow();
        let facts = links.values().map(|link| PeerFacts {
            member: link.member,
            connected_since_ms: link.open_since_ms.get(),
            heard_since_ms: accepted.get(&link.member).map(|accepted| accepted.since_ms),
            connect_count: link.opened.get(),
            sent_frame_count: link.sent_frames.get(),
            sent_bytes: link.sent_bytes.get(),
            received_frame_count: link.received_frames.get(),
            received_bytes: link.received_bytes.get(),
            dropped_item_count: link.dropped_items.get(),
            bad_frame_count: link.bad_frames.get(),
            queued_bytes: link.queued_bytes(),
            round_trip_us: link.round_trip_us(),
        });
        facts.collect()
    }

    /// Connections to the peer port that became nothing: strangers, garbage, refused members.
    #[must_use]
    pub fn refused_connection_count(&self) -> u64 {
        self.0.refused_connections.get()
    }

    pub(super) fn state(&self) -> &State {
        &self.0
    }

    pub(super) fn config(&self) -> &PeerConfig {
        &self.0.config
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    pub(super) fn link(&self, member: MemberId) -> Option<Rc<Link>> {
        self.0.links.borrow().get(&member).cloned()
    }

    pub(super) fn members(&self) -> BTreeMap<MemberId, Member> {
        self.0.members.borrow().clone()
    }

    /// Peer URLs of all other members.
    pub(super) fn other_urls(&self) -> Vec<String> {
        let members = self.0.members.borrow();
        let others = members.iter().filter(|(id, _)| **id != self.0.config.me);
        others
            .flat_map(|(_, member)| member.peer_urls.clone())
            .collect()
    }

    pub(super) fn on_open(&self, link: &Link) {
        link.found.set(true);
        self.list_news(link);
    }

    pub(super) fn on_lost(&self, link: &Link) {
        link.found.set(false);
        link.lost.set(true);
        self.list_news(link);
    }

    pub(super) fn count_denials(&self) {
        let links = self.0.links.borrow();
        let long_ms = limits::LET_GO_AFTER.as_millis() as u64;
        let now_ms = monotonic_ms();
        let denies = |link: &&Rc<Link>| {
            let since_ms = link.denied_since_ms.get();
            since_ms.is_some_and(|since_ms| now_ms >= since_ms + long_ms)
        };
        let is_let_go = 2 * links.values().filter(denies).count() > links.len();
        if is_let_go && !self.0.is_let_go.replace(is_let_go) {
            self.0.inbox.event.notify();
        }
    }

    pub(super) fn add_link(&self, id: MemberId) -> Rc<Link> {
        let link = Rc::new(Link::new(id, &self.0.config));
        self.0.links.borrow_mut().insert(id, link.clone());
        let (peers, kept) = (self.clone(), link.clone());
        spawn(async move { kept.keep(&peers).await });
        link
    }

    fn first_news(&self) -> Option<MemberId> {
        self.0.news.borrow().front().copied()
    }

    fn list_news(&self, link: &Link) {
        if !link.is_listed.replace(true) {
            self.0.news.borrow_mut().push_back(link.member);
        }
        self.0.inbox.event.notify();
    }
}
