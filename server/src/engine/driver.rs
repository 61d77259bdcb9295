//! The loop that runs the engines of a core: rings in, a step, rings out, sleep.
//!
//! It sleeps on three things at once: the rings of the front cores, the lane's completions, and the time
//! the engine asked for. Whatever wakes it, one turn handles all that has come.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use futures_lite::future::or;
use keelson_storage::dir::MAIN_SHARD_ID;
use keelson_storage::ids::MemberId;
use keelson_storage::io::Disk;
use keelson_storage::state::Member;

use super::checkpoint::Discarded;
use super::limits::{HEARD_PENDING_BYTES_MAX, HEARD_PER_TURN_MAX, INBOUND_PER_TURN_MAX};
use super::message::{EventBatch, Inbound, Outbound};
use super::shard::{Activity, Engine, EngineError};
use super::shards::Shards;
use crate::peer::{Heard, Peers};
use crate::runtime::{self, Bell, Clock, Inbox, LocalEvent, Outbox, Watch};

/// One front core's rings, at the engine's end.
pub struct PortRings {
    /// Questions from the core.
    pub inbox: Inbox<Inbound>,
    /// Answers and batches to the core.
    pub outbox: Outbox<Outbound>,
}

/// Which shards of the process their clusters have let go. A member that was removed is needed as long as one of its shards
/// still counts on it.
#[derive(Clone)]
pub struct Leaving {
    /// By core that runs engines: all of its shards were left.
    cores: Arc<[OnceLock<()>]>,
    /// `main` was.
    main: Arc<OnceLock<()>>,
    core: usize,
}

impl Leaving {
    /// One for each of so many cores.
    #[must_use]
    pub fn of_cores(count: usize) -> Vec<Self> {
        let cores: Arc<[OnceLock<()>]> = (0..count).map(|_| OnceLock::new()).collect();
        let main = Arc::new(OnceLock::new());
        let of_core = |core| Self {
            cores: cores.clone(),
            main: main.clone(),
            core,
        };
        (0..count).map(of_core).collect()
    }

    /// Looks at the shards of this core; true when nobody needs this process any more. A shard is left when it applied
    /// its removal, or when the others have nothing to say to this member any more.
    fn look<D: Disk>(&self, shards: &mut Shards<D>, peers: &Peers) -> bool {
        let is_left = |engine: &Engine<D>| engine.has_left() || peers.is_let_go();
        let main = shards.iter().find(|engine| engine.shard() == MAIN_SHARD_ID);
        if main.is_some_and(is_left) {
            self.main.get_or_init(|| ());
        }
        if self.main.get().is_none() {
            return false;
        }
        if shards.iter().all(is_left) {
            self.cores[self.core].get_or_init(|| ());
        }
        // Who does not belong to `main` any more cannot read there that another shard is to be left, too.
        for place in 0..shards.count() {
            shards.engine(place).step_aside();
        }
        self.cores.iter().all(|core| core.get().is_some())
    }
}

/// Runs the engines of a core until `stopping` is set and everything proposed is done, or until one of them fails.
/// `ports` are the rings of each shard.
///
/// `observe` is called after every turn with the place of a shard and its engine, for metrics.
pub async fn run<D: Disk, C: Clock>(
    mut shards: Shards<D>,
    mut ports: Vec<Vec<PortRings>>,
    (peers, leaving): (Peers, Leaving),
    clock: C,
    stopping: runtime::Latch,
    mut observe: impl FnMut(usize, &mut Engine<D>),
) -> Result<(), EngineError> {
    assert_eq!(ports.len(), shards.count(), "every shard has its rings");
    let disk_event = watch_disks(&mut shards)?;
    let bell = Arc::new(Bell::new().map_err(EngineError::DiskEvents)?);
    let rung = disk_event.clone();
    bell.watch(move || rung.notify())
        .map_err(EngineError::DiskEvents)?;
    for place in 0..shards.count() {
        shards.engine(place).build_beside(bell.clone());
    }
    let mut known = vec![BTreeMap::new(); shards.count()];
    loop {
        let mut more = false;
        for (place, ports) in ports.iter_mut().enumerate() {
            let engine = shards.engine(place);
            if stopping.is_set() {
                engine.stop();
            }
            more |= take_inbound(engine, ports);
        }
        more |= take_heard(&mut shards, &peers)?;
        let mut activity = shards.turn(&clock)?;
        tell_peers(&mut shards, &peers, &mut known);
        for (place, ports) in ports.iter_mut().enumerate() {
            let engine = shards.engine(place);
            activity.busy |= more | put_outbound(engine, ports)?;
            engine.pump_snapshots()?;
            observe(place, engine);
            discard(engine.take_discarded());
        }
        if leaving.look(&mut shards, &peers) {
            return Err(EngineError::Removed);
        }
        if stopping.is_set() && shards.are_drained() {
            peers.stop();
            shards.engine(0).close()?;
            return Ok(());
        }
        if activity.busy {
            runtime::yield_now().await;
        } else {
            sleep(&ports, &peers, &disk_event, &stopping, activity, &clock).await;
        }
    }
}

/// Takes what other members said, a bounded number of things; whether something is left. Nothing while the disk is far
/// behind: then they are not read, and have to wait.
fn take_heard<D: Disk>(shards: &mut Shards<D>, peers: &Peers) -> Result<bool, EngineError> {
    if shards.pending_bytes() > HEARD_PENDING_BYTES_MAX {
        return Ok(false);
    }
    for _ in 0..HEARD_PER_TURN_MAX {
        match peers.take() {
            Some(Heard::Item { from, shard, item }) => match shards.place_of(shard) {
                Some(place) => shards.engine(place).on_peer(from, item)?,
                None => {
                    tracing::debug!(member = %from, %shard, "message to a shard not of this core")
                }
            },
            Some(Heard::Unreachable(member)) => {
                for place in 0..shards.count() {
                    shards.engine(place).on_unreachable(member);
                }
                tell_links(shards, peers);
            }
            Some(Heard::Reachable(_)) => tell_links(shards, peers),
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Tells the shards which links are open, and since when: a change of the membership may hang on it.
fn tell_links<D: Disk>(shards: &mut Shards<D>, peers: &Peers) {
    let facts = peers.facts().into_iter();
    let open = facts.filter_map(|facts| Some((facts.member, facts.connected_since_ms? * 1000)));
    let open: BTreeMap<MemberId, u64> = open.collect();
    for place in 0..shards.count() {
        shards.engine(place).on_links(open.clone());
    }
}

/// Hands what other members are to be told to their links, and tells the links who the members are: everybody whom any
/// shard knows. The first shard, which on its core is `main`, knows best.
fn tell_peers<D: Disk>(
    shards: &mut Shards<D>,
    peers: &Peers,
    known: &mut [BTreeMap<MemberId, Member>],
) {
    let mut is_news = false;
    for (engine, known) in shards.iter().zip(known.iter_mut()) {
        if engine.members_differ_from(known) {
            *known = engine.known_members();
            if engine.state().cluster().members.is_empty() {
                peers.on_told(known);
            }
            is_news = true;
        }
    }
    if is_news {
        let mut all = BTreeMap::new();
        for known in known.iter().rev() {
            all.extend(known.clone());
        }
        peers.set_members(&all);
    }
    for place in 0..shards.count() {
        let engine = shards.engine(place);
        let shard = engine.shard();
        for (to, item) in engine.take_peer_items() {
            // What finds no room is counted there.
            if !peers.send(to, shard, &item) {
                engine.on_unsent(to, &item);
            }
        }
    }
    peers.flush();
}

/// Drops what nobody needs, on a thread beside the cores: there may be millions of records in it.
fn discard(discarded: Vec<Discarded>) {
    if discarded.is_empty() {
        return;
    }
    let let_go = move || discarded.into_iter().for_each(Discarded::let_go);
    if let Err(error) = runtime::spawn_helper(let_go) {
        tracing::warn!(%error, "no thread to free memory: done here");
    }
}

/// Has the completions of the lane and of the snapshot files notify the returned event.
fn watch_disks<D: Disk>(shards: &mut Shards<D>) -> Result<LocalEvent, EngineError> {
    let event = LocalEvent::new();
    let mut disks = vec![shards.engine(0).wal().event_fd()];
    disks.extend(shards.iter().map(|engine| engine.snapshots().event_fd()));
    for fd in disks.into_iter().flatten() {
        // SAFETY: the descriptor belongs to one of the engines' disks, which they own for this whole call;
        // `watch_eventfd` duplicates it before it returns.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let notify = event.clone();
        runtime::watch_eventfd(fd, move |_| {
            notify.notify();
            Watch::Continue
        })
        .map_err(EngineError::DiskEvents)?;
    }
    Ok(event)
}

/// Takes what the cores asked, a bounded number each; whether something is left.
fn take_inbound<D: Disk>(engine: &mut Engine<D>, ports: &mut [PortRings]) -> bool {
    let mut more = false;
    for (index, port) in ports.iter_mut().enumerate() {
        let mut left = INBOUND_PER_TURN_MAX;
        while left > 0 {
            let Some(inbound) = port.inbox.pop() else {
                break;
            };
            engine.on_inbound(index, inbound);
            left -= 1;
        }
        more |= left == 0;
    }
    more
}

/// Moves replies and new batches into the rings; whether a full ring left something behind.
fn put_outbound<D: Disk>(
    engine: &mut Engine<D>,
    ports: &mut [PortRings],
) -> Result<bool, EngineError> {
    let mut more = false;
    // Cores that stand at the same revision share one batch.
    let mut shared: Option<Arc<EventBatch>> = None;
    for (index, port) in ports.iter_mut().enumerate() {
        while let Some(reply) = engine.take_reply(index) {
            if let Err(reply) = port.outbox.push(reply) {
                engine.untake_reply(index, reply);
                more = true;
                break;
            }
        }
        while !more && engine.has_news(index) && port.outbox.vacant_count() > 0 {
            let after = engine.published(index);
            let reuse = shared.take().filter(|batch| Some(batch.after) == after);
            let batch = match reuse {
                Some(batch) => Some(batch),
                None => engine.publish(index)?,
            };
            let Some(batch) = batch else {
                break;
            };
            shared = Some(batch.clone());
            if port.outbox.push(Outbound::Batch(batch.clone())).is_err() {
                more = true;
                break;
            }
            engine.on_published(index, &batch);
        }
        port.outbox.flush();
    }
    Ok(more)
}

/// Sleeps until a ring has news, the disk completed something, the stop latch is set, or the time the
/// engine asked for has come.
async fn sleep(
    ports: &[Vec<PortRings>],
    peers: &Peers,
    disk_event: &LocalEvent,
    stopping: &runtime::Latch,
    activity: Activity,
    clock: &impl Clock,
) {
    let news = poll_fn(|cx| {
        let mut ready = disk_event.poll_wait(cx).is_ready();
        for port in ports.iter().flatten() {
            ready |= port.inbox.event().poll_wait(cx).is_ready();
        }
        ready |= peers.event().poll_wait(cx).is_ready();
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let stop_or_news = async {
        if stopping.is_set() {
            // Already stopping: the lane's completions decide when this ends.
            news.await;
        } else {
            or(news, stopping.wait()).await;
        }
    };
    match activity.wake_at_us {
        None => stop_or_news.await,
        Some(at_us) => {
            let wait_us = at_us.saturating_sub(clock.now_us()).max(1);
            or(stop_or_news, runtime::sleep(Duration::from_micros(wait_us))).await;
        }
    }
}
