//! The connection that this member dialled, and the task that keeps it.
//!
//! ```text
//!   dial --> hello, welcome --> open: write what is flushed --> broken --> pause, longer each time --> dial
//! ```

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_lite::future::or;
use keelson_consensus::replicate::{FrameError, Item, Refusal, Welcome};
use keelson_storage::ids::{MemberId, ShardId};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::assemble::Assembler;
use super::error::peer_url;
use super::facts::Count;
use super::hello::advice;
use super::limits::OPENING_FRAME_BYTES_MAX;
use super::outbox::{Dropped, Outbox};
use super::peers::{PeerConfig, Peers};
use crate::config::HttpUrl;
use crate::runtime::{LocalEvent, Socket, monotonic_ms, sleep, spawn_blocking, timeout};

/// Links as one member keeps them with another. Its task ends when the link is dismissed.
pub(super) struct Link {
    pub(super) member: MemberId,
    urls: RefCell<Vec<HttpUrl>>,
    outbox: RefCell<Outbox>,
    socket: RefCell<Option<Rc<Socket>>>,
    /// There are frames to write, or one of the three below is set.
    poke: LocalEvent,
    dismissed: Cell<bool>,
    urls_changed: Cell<bool>,
    hurries: Cell<bool>,
    /// What the engine is still to be told, and whether it is on the list of those with such news.
    pub(super) lost: Cell<bool>,
    pub(super) found: Cell<bool>,
    pub(super) is_listed: Cell<bool>,
    pub(super) open_since_ms: Cell<Option<u64>>,
    /// Since when the member has said, whenever it was asked, that this one is no member.
    pub(super) denied_since_ms: Cell<Option<u64>>,
    pub(super) opened: Count,
    pub(super) sent_frames: Count,
    pub(super) sent_bytes: Count,
    pub(super) received_frames: Count,
    pub(super) received_bytes: Count,
    pub(super) dropped_items: Count,
    pub(super) bad_frames: Count,
}

/// Why a link is not open, or not any more.
enum Broken {
    /// The member is no member any more, or its URLs are others.
    Interrupted,
    NoUrl,
    Resolve(io::Error),
    Socket(io::Error),
    /// No welcome in time, or no byte taken for long.
    Silent,
    /// The other side ended it.
    Closed,
    Frame(FrameError),
    Refused {
        refusal: Refusal,
        is_itself: bool,
    },
}

/// What happened on an open link.
enum Step {
    Poked,
    Wrote(usize),
}

impl Link {
    pub(super) fn new(member: MemberId, config: &PeerConfig) -> Self {
        Self {
            member,
            urls: RefCell::default(),
            outbox: RefCell::new(Outbox::new(config.queue_bytes_max)),
            socket: RefCell::default(),
            poke: LocalEvent::new(),
            dismissed: Cell::new(false),
            urls_changed: Cell::new(false),
            hurries: Cell::new(false),
            lost: Cell::new(false),
            found: Cell::new(false),
            is_listed: Cell::new(false),
            open_since_ms: Cell::new(None),
            denied_since_ms: Cell::new(None),
            opened: Count::default(),
            sent_frames: Count::default(),
            sent_bytes: Count::default(),
            received_frames: Count::default(),
            received_bytes: Count::default(),
            dropped_items: Count::default(),
            bad_frames: Count::default(),
        }
    }

    /// The member is to be reached at these URLs. Other ones than before are dialled at once.
    pub(super) fn follow(&self, texts: &[String]) {
        let mut urls = Vec::with_capacity(texts.len());
        let mut refused = Vec::new();
        for text in texts {
            match peer_url(text) {
                Ok(url) => urls.push(url),
                Err(error) => refused.push(error),
            }
        }
        if *self.urls.borrow() == urls {
            return;
        }
        for error in refused {
            tracing::warn!(member = %hex(self.member), %error, "a peer URL is not dialled");
        }
        self.urls.replace(urls);
        self.urls_changed.set(true);
        self.poke.notify();
    }

    /// The member lives, as its own link to this one shows: the pause before the next attempt ends.
    pub(super) fn hurry(&self) {
        if self.open_since_ms.get().is_none() {
            self.hurries.set(true);
            self.poke.notify();
        }
    }

    /// Ends the link and its task.
    pub(super) fn dismiss(&self) {
        self.dismissed.set(true);
        self.outbox.borrow_mut().close();
        self.poke.notify();
    }

    pub(super) fn send(&self, shard: ShardId, item: &Item) -> Result<(), Dropped> {
        let pushed = self.outbox.borrow_mut().push(shard, item);
        if pushed.is_err() {
            self.dropped_items.add(1);
        }
        pushed
    }

    pub(super) fn flush(&self) {
        if self.outbox.borrow_mut().flush() {
            self.poke.notify();
        }
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.borrow().bytes()
    }

    pub(super) fn round_trip_us(&self) -> Option<u32> {
        self.socket.borrow().as_ref()?.round_trip_us()
    }

    /// Keeps the link open until it is dismissed.
    pub(super) async fn keep(&self, peers: &Peers) {
        let config = peers.config();
        let mut pauses = Pauses::new(config, self.member);
        let mut said = None;
        let mut attempt = 0;
        while !self.dismissed.get() {
            self.urls_changed.set(false);
            let dialled = or(self.dial(peers, attempt), async {
                self.interruption().await;
                Err(Broken::Interrupted)
            });
            attempt += 1;
            let (broken, held) = match dialled.await {
                Ok(socket) => {
                    said = None;
                    tracing::info!(member = %hex(self.member), "link to a member opened");
                    peers.on_open(self);
                    let since_ms = monotonic_ms();
                    let broken = self.write_frames(config, &socket).await;
                    self.close();
                    peers.on_lost(self);
                    let held = Duration::from_millis(monotonic_ms() - since_ms);
                    (broken, Some(held))
                }
                Err(broken) => (broken, None),
            };
            if self.dismissed.get() {
                break;
            }
            self.note_denial(&broken);
            peers.count_denials();
            broken.tell(self.member, held.is_some(), &mut said);
            let pause = pauses.next(&broken, held);
            self.hurries.set(false);
            or(sleep(pause), self.summons()).await;
        }
        self.close();
    }

    fn note_denial(&self, broken: &Broken) {
        let is_denied = matches!(
            broken,
            Broken::Refused {
                refusal: Refusal::NotAMember,
                ..
            }
        );
        let since_ms = self.denied_since_ms.get().unwrap_or_else(monotonic_ms);
        self.denied_since_ms.set(is_denied.then_some(since_ms));
    }

    /// Returns when the link is dismissed or has other URLs.
    async fn interruption(&self) {
        while !self.dismissed.get() && !self.urls_changed.get() {
            self.poke.wait().await;
        }
    }

    /// Returns when there is a reason to dial sooner.
    async fn summons(&self) {
        while !self.hurries.get() && !self.dismissed.get() && !self.urls_changed.get() {
            self.poke.wait().await;
        }
    }

    fn close(&self) {
        self.outbox.borrow_mut().close();
        self.socket.replace(None);
        self.open_since_ms.set(None);
    }

    /// Tries one URL, another one each time.
    async fn dial(&self, peers: &Peers, attempt: usize) -> Result<Rc<Socket>, Broken> {
        let url = {
            let urls = self.urls.borrow();
            let place = attempt.checked_rem(urls.len()).ok_or(Broken::NoUrl)?;
            urls[place].clone()
        };
        let url_count = self.urls.borrow().len();
        let addresses = resolve(&url).await.map_err(Broken::Resolve)?;
        let place = (attempt / url_count)
            .checked_rem(addresses.len())
            .ok_or(Broken::NoUrl)?;
        let limit = peers.config().opening_timeout;
        let socket = connect(addresses[place], peers.config()).map_err(Broken::Socket)?;
        let socket = Rc::new(Socket::new(socket));
        match timeout(limit, self.say_hello(peers, &socket)).await {
            Ok(version) => {
                let header = peers.identity().header_to(self.member, version?);
                self.outbox.borrow_mut().open(header);
                self.socket.replace(Some(socket.clone()));
                self.open_since_ms.set(Some(monotonic_ms()));
                self.opened.add(1);
                Ok(socket)
            }
            Err(_elapsed) => Err(Broken::Silent),
        }
    }

    /// Says hello and hears the answer: the version to talk in. A socket that is still connecting takes the hello
    /// once it has, or tells why it cannot.
    async fn say_hello(&self, peers: &Peers, socket: &Socket) -> Result<u16, Broken> {
        let hello = peers.identity().hello(self.member).encode();
        write_all(socket, &hello).await.map_err(Broken::Socket)?;
        let mut assembler = Assembler::new(OPENING_FRAME_BYTES_MAX);
        loop {
            let mut room = [0; OPENING_FRAME_BYTES_MAX];
            let count = poll_fn(|cx| socket.poll_recv(cx, &mut room))
                .await
                .map_err(Broken::Socket)?;
            if count == 0 {
                return Err(Broken::Closed);
            }
            let mut input = &room[..count];
            let Some(frame) = assembler.feed(&mut input).map_err(Broken::Frame)? else {
                continue;
            };
            let welcome = Welcome::decode(frame).map_err(Broken::Frame)?;
            let own = peers.identity();
            return own
                .accept(&welcome, self.member)
                .map_err(|refusal| Broken::Refused {
                    refusal,
                    is_itself: welcome.start == own.start,
                });
        }
    }

    /// Writes frames until the link breaks; why it did.
    async fn write_frames(&self, config: &PeerConfig, socket: &Socket) -> Broken {
        let mut waiting_since_ms = None;
        loop {
            if self.dismissed.get() || self.urls_changed.get() {
                socket.shut_down();
                return Broken::Interrupted;
            }
            let step = if self.outbox.borrow().has_frames() {
                let since_ms = *waiting_since_ms.get_or_insert_with(monotonic_ms);
                let waited = Duration::from_millis(monotonic_ms() - since_ms);
                let left = config.write_stalled_max.saturating_sub(waited);
                match timeout(left, self.step(socket)).await {
                    Ok(step) => step,
                    Err(_elapsed) => return Broken::Silent,
                }
            } else {
                waiting_since_ms = None;
                self.step(socket).await
            };
            match step {
                Ok(Step::Poked) => {}
                Ok(Step::Wrote(count)) => {
                    waiting_since_ms = None;
                    self.sent_bytes.add(count as u64);
                    let whole = self.outbox.borrow_mut().on_written(count);
                    self.sent_frames.add(whole);
                }
                Err(broken) => return broken,
            }
        }
    }

    /// Waits for the next thing to happen, and writes if there is something to write.
    async fn step(&self, socket: &Socket) -> Result<Step, Broken> {
        poll_fn(|cx| {
            // The other side has nothing to say here but its end.
            match socket.poll_recv(cx, &mut [0; 64]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Broken::Closed)),
                Poll::Ready(Ok(_)) => {
                    let error = FrameError::Content("frames came where they are written");
                    return Poll::Ready(Err(Broken::Frame(error)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Socket(error))),
                Poll::Pending => {}
            }
            {
                let outbox = self.outbox.borrow();
                let (slices, count) = outbox.slices();
                if count > 0
                    && let Poll::Ready(sent) = socket.poll_send(cx, &slices[..count])
                {
                    return Poll::Ready(sent.map(Step::Wrote).map_err(Broken::Socket));
                }
            }
            self.poke.poll_wait(cx).map(|()| Ok(Step::Poked))
        })
        .await
    }
}

impl Broken {
    /// Tells the log, once for each cause in a row.
    fn tell(&self, member: MemberId, was_open: bool, said: &mut Option<String>) {
        let why = match self {
            Broken::Interrupted => return,
            Broken::NoUrl => "it has no peer URL that can be dialled".to_owned(),
            Broken::Resolve(error) => format!("the host of its peer URL is not found: {error}"),
            Broken::Socket(error) => error.to_string(),
            Broken::Silent => "it does not answer".to_owned(),
            Broken::Closed => "it closed the connection".to_owned(),
            Broken::Frame(error) => format!("what answers at its peer URL is no member: {error}"),
            Broken::Refused { refusal, is_itself } => advice(*refusal, *is_itself).to_owned(),
        };
        if said.as_ref() == Some(&why) {
            return;
        }
        let member = hex(member);
        match self {
            Broken::Refused { .. } => tracing::error!(%member, %why, "a member refuses the link"),
            _ if was_open => tracing::warn!(%member, %why, "link to a member lost"),
            _ => tracing::warn!(%member, %why, "a member is not reached; trying on"),
        }
        *said = Some(why);
    }
}

/// How long to wait before the next attempt.
struct Pauses {
    min: Duration,
    max: Duration,
    refused: Duration,
    next: Duration,
    chance: fastrand::Rng,
}

impl Pauses {
    fn new(config: &PeerConfig, member: MemberId) -> Self {
        Self {
            min: config.backoff_min,
            max: config.backoff_max,
            refused: config.refused_retry,
            next: config.backoff_min,
            chance: fastrand::Rng::with_seed(config.start ^ member.0),
        }
    }

    /// `held` is how long the link was open, if it was. A pause is cut by up to half, so that members do not dial
    /// each other in step.
    fn next(&mut self, broken: &Broken, held: Option<Duration>) -> Duration {
        if held.is_some_and(|held| held >= self.max) {
            self.next = self.min;
        }
        let pause = match broken {
            Broken::Interrupted => return Duration::ZERO,
            Broken::Refused { .. } => self.refused,
            _ => {
                let pause = self.next;
                self.next = (pause * 2).min(self.max);
                pause
            }
        };
        pause.mul_f64(1.0 - self.chance.f64() / 2.0)
    }
}

/// The addresses of a URL. Names are looked up on a helper thread: that may take long.
async fn resolve(url: &HttpUrl) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = url.host().parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, url.port())]);
    }
    let (host, port) = (url.host().to_owned(), url.port());
    spawn_blocking(move || Ok((host.as_str(), port).to_socket_addrs()?.collect())).await?
}

/// Begins to connect.
fn connect(address: SocketAddr, config: &PeerConfig) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    crate::front::set_options(&socket)?;
    let limit_ms = u32::try_from(config.write_stalled_max.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&socket, limit_ms)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Writes all of it.
pub(super) async fn write_all(socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = poll_fn(|cx| socket.poll_send(cx, &[IoSlice::new(bytes)])).await?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// A member's id as etcd's tools write it.
pub(super) fn hex(member: MemberId) -> String {
    format!("{:x}", member.0)
}
