//! The loop that runs an engine on its core: rings in, a step, rings out, sleep.
//!
//! It sleeps on three things at once: the rings of the front cores, the lane's completions, and the time
//! the engine asked for. Whatever wakes it, one turn handles all that has come.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_lite::future::or;
use keelson_storage::ids::MemberId;
use keelson_storage::io::Disk;
use keelson_storage::state::Member;

use super::checkpoint::Discarded;
use super::limits::{HEARD_PER_TURN_MAX, INBOUND_PER_TURN_MAX};
use super::message::{EventBatch, Inbound, Outbound};
use super::shard::{Activity, Engine, EngineError};
use crate::peer::{Heard, Peers};
use crate::runtime::{self, Bell, Clock, Inbox, LocalEvent, Outbox, Watch};

/// One front core's rings, at the engine's end.
pub struct PortRings {
    /// Questions from the core.
    pub inbox: Inbox<Inbound>,
    /// Answers and batches to the core.
    pub outbox: Outbox<Outbound>,
}

/// Runs `engine` until `stopping` is set and everything proposed is done, or until it fails.
///
/// `observe` is called after every turn with the engine, for metrics.
pub async fn run<D: Disk, C: Clock>(
    mut engine: Engine<D>,
    mut ports: Vec<PortRings>,
    peers: Peers,
    clock: C,
    stopping: runtime::Latch,
    mut observe: impl FnMut(&mut Engine<D>),
) -> Result<(), EngineError> {
    let disk_event = watch_disks(&engine)?;
    let bell = Arc::new(Bell::new().map_err(EngineError::DiskEvents)?);
    let rung = disk_event.clone();
    bell.watch(move || rung.notify())
        .map_err(EngineError::DiskEvents)?;
    engine.build_beside(bell);
    let mut known = BTreeMap::new();
    loop {
        if stopping.is_set() {
            engine.stop();
        }
        let mut more = take_inbound(&mut engine, &mut ports);
        more |= take_heard(&mut engine, &peers)?;
        let mut activity = engine.step(&clock)?;
        tell_peers(&mut engine, &peers, &mut known);
        activity.busy |= more | put_outbound(&mut engine, &mut ports)?;
        if engine.was_removed() {
            return Err(EngineError::Removed);
        }
        engine.pump_snapshots()?;
        observe(&mut engine);
        discard(engine.take_discarded());
        if stopping.is_set() && engine.is_drained() {
            peers.stop();
            engine.close()?;
            return Ok(());
        }
        if activity.busy {
            runtime::yield_now().await;
        } else {
            sleep(&ports, &peers, &disk_event, &stopping, activity, &clock).await;
        }
    }
}

/// Takes what other members said, a bounded number of things; whether something is left.
fn take_heard<D: Disk>(engine: &mut Engine<D>, peers: &Peers) -> Result<bool, EngineError> {
    for _ in 0..HEARD_PER_TURN_MAX {
        match peers.take() {
            Some(Heard::Item { from, item, .. }) => engine.on_peer(from, item)?,
            Some(Heard::Unreachable(member)) => engine.on_unreachable(member),
            Some(Heard::Reachable(_)) => {}
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Hands what other members are to be told to their links, and tells the links who the members are.
fn tell_peers<D: Disk>(
    engine: &mut Engine<D>,
    peers: &Peers,
    known: &mut BTreeMap<MemberId, Member>,
) {
    if engine.members_differ_from(known) {
        *known = engine.known_members();
        peers.set_members(known);
    }
    let shard = engine.shard();
    for (to, item) in engine.take_peer_items() {
        // What finds no room is counted there; raft repeats what it needs.
        let _sent = peers.send(to, shard, &item);
    }
    peers.flush();
}

/// Drops what nobody needs, on a thread beside the cores: there may be millions of records in it.
fn discard(discarded: Vec<Discarded>) {
    if discarded.is_empty() {
        return;
    }
    if let Err(error) = runtime::spawn_helper(move || drop(discarded)) {
        tracing::warn!(%error, "no thread to free memory: done here");
    }
}

/// Has the completions of the lane and of the snapshot files notify the returned event.
fn watch_disks<D: Disk>(engine: &Engine<D>) -> Result<LocalEvent, EngineError> {
    let event = LocalEvent::new();
    let disks = [engine.wal().event_fd(), engine.snapshots().event_fd()];
    for fd in disks.into_iter().flatten() {
        // SAFETY: the descriptor belongs to one of the engine's disks, which the engine owns for this whole call;
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
    ports: &[PortRings],
    peers: &Peers,
    disk_event: &LocalEvent,
    stopping: &runtime::Latch,
    activity: Activity,
    clock: &impl Clock,
) {
    let news = poll_fn(|cx| {
        let mut ready = disk_event.poll_wait(cx).is_ready();
        for port in ports {
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
