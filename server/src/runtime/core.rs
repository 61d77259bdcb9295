//! The core a piece of code runs on.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use keelson_storage::ids::CoreId;

use super::cores::{CoreLink, CoreStats, Stopper};
use super::event::{Latch, LocalEvent};
use super::eventfd::EventFdReader;
use super::poller::Poller;
use super::time::{monotonic_ms, sleep};

thread_local! {
    static THIS_CORE: RefCell<Option<Core>> = const { RefCell::new(None) };
}

/// Number of tasks that, started while the heartbeat is slow, make it fast at once.
const SPAWN_COUNT_WAKING_HEARTBEAT: u32 = 16;

/// Handle to the core that runs the calling thread. Cheap to clone, never leaves the core.
#[derive(Clone)]
pub struct Core(Rc<CoreState>);

struct CoreState {
    links: Arc<[CoreLink]>,
    index: usize,
    stopping: Latch,
    /// Ring ends of this core that want to hear about news from the other side.
    ports: RefCell<Vec<Weak<dyn Port>>>,
    /// Coarse clock: stamped by the heartbeat, so at most one heartbeat old.
    now_ms: Cell<u64>,
    spawned_since_beat: Cell<u32>,
    heartbeat_slow: Cell<bool>,
    work_arrived: LocalEvent,
    next_turn: NextTurn,
    poller: OnceCell<Poller>,
}

/// Tasks that go on after the core has looked at its IO.
#[derive(Default)]
struct NextTurn {
    waiters: RefCell<Vec<Waker>>,
    wanted: LocalEvent,
}

/// The local end of something another core changes.
pub(super) trait Port {
    /// Called after the core was woken: look, and notify whoever waits here.
    fn look(&self);
}

/// The core of the calling thread.
///
/// # Panics
/// On a thread that [`start`](super::start) did not make.
#[must_use]
pub fn this_core() -> Core {
    try_this_core().expect("this code runs on a core's thread only")
}

/// The core of the calling thread, or `None` on a thread that is not a core.
#[must_use]
pub fn try_this_core() -> Option<Core> {
    THIS_CORE.with_borrow(Clone::clone)
}

/// Starts a task on this core. It runs after the current task yields, never inside this call (fault 5), and
/// always runs to its end: there is nothing to cancel it with (fault 2).
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    let queue = glommio::executor().current_task_queue();
    glommio::spawn_local_into(future, queue)
        .expect("the current task queue exists")
        .detach();
    THIS_CORE.with_borrow(|core| {
        if let Some(core) = core {
            core.count_spawn();
        }
    });
}

impl Core {
    pub(super) fn enter(links: Arc<[CoreLink]>, index: usize) -> Core {
        let core = Core(Rc::new(CoreState {
            links,
            index,
            stopping: Latch::new(),
            ports: RefCell::default(),
            now_ms: Cell::new(monotonic_ms()),
            spawned_since_beat: Cell::new(0),
            heartbeat_slow: Cell::new(false),
            work_arrived: LocalEvent::new(),
            next_turn: NextTurn::default(),
            poller: OnceCell::new(),
        }));
        THIS_CORE.with_borrow_mut(|this| *this = Some(core.clone()));
        core
    }

    pub(super) fn leave() {
        THIS_CORE.with_borrow_mut(|this| *this = None);
    }

    /// Position in the list of cores, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The CPU.
    #[must_use]
    pub fn id(&self) -> CoreId {
        self.link().id()
    }

    /// The handle other threads use to reach this core.
    #[must_use]
    pub fn link(&self) -> &CoreLink {
        &self.0.links[self.0.index]
    }

    /// All cores, this one included, by index.
    #[must_use]
    pub fn links(&self) -> &[CoreLink] {
        &self.0.links
    }

    /// Load and other published figures of this core.
    #[must_use]
    pub fn stats(&self) -> CoreStats {
        self.link().stats()
    }

    /// Set when the process is asked to stop. Long-lived tasks wait for it and end.
    #[must_use]
    pub fn stopping(&self) -> &Latch {
        &self.0.stopping
    }

    /// Asks every core to stop, as a signal would.
    pub fn stop_all(&self) {
        Stopper::new(self.0.links.clone()).stop();
    }

    /// Milliseconds on the scale of [`monotonic_ms`], up to one heartbeat old (5 ms with work, 100 ms idle).
    /// Costs one load; made for stamps on the request path.
    #[must_use]
    pub fn coarse_ms(&self) -> u64 {
        self.0.now_ms.get()
    }

    /// The core's sockets.
    pub(super) fn poller(&self) -> &Poller {
        self.0.poller.get().expect("a core starts with it")
    }

    /// Makes the ring for the core's sockets.
    pub(super) fn start_poller(&self) -> std::io::Result<()> {
        let poller = Poller::start()?;
        assert!(self.0.poller.set(poller).is_ok(), "a core starts once");
        Ok(())
    }

    pub(super) fn register(&self, port: &Rc<impl Port + 'static>) {
        let port: Rc<dyn Port> = port.clone();
        let mut ports = self.0.ports.borrow_mut();
        ports.retain(|known| known.strong_count() > 0);
        ports.push(Rc::downgrade(&port));
    }

    /// Reads the core's eventfd for as long as the executor runs.
    pub(super) async fn run_wakes(self, mut reader: EventFdReader) {
        loop {
            if let Err(error) = reader.read().await {
                // The descriptor is ours and open; without it the core would sleep through its work.
                panic!("reading the wake eventfd of core {}: {error}", self.0.index);
            }
            self.link().clear_wake();
            self.deliver();
        }
    }

    /// Looks at everything other cores may have changed.
    pub(super) fn deliver(&self) {
        if self.link().is_stopping() {
            self.0.stopping.set();
        }
        // By index, because a port may be registered by what it notifies.
        let mut index = 0;
        loop {
            let port = match self.0.ports.borrow().get(index) {
                Some(port) => port.upgrade(),
                None => break,
            };
            if let Some(port) = port {
                port.look();
            }
            index += 1;
        }
    }

    /// Wakes the task of `cx` after the core has looked at its IO.
    ///
    /// glommio looks at IO only when no task is runnable (or the preempt timer fires), so a task that wakes itself
    /// keeps every socket waiting. One that has more to do than it should do in a turn calls this instead.
    pub fn wake_next_turn(&self, cx: &Context<'_>) {
        self.0
            .next_turn
            .waiters
            .borrow_mut()
            .push(cx.waker().clone());
        self.0.next_turn.wanted.notify();
    }

    /// Runs as long as the executor does.
    pub(super) async fn run_turns(self) {
        loop {
            self.0.next_turn.wanted.wait().await;
            // A timer fires when the executor looks at its IO, not before.
            sleep(Duration::ZERO).await;
            let waiters = std::mem::take(&mut *self.0.next_turn.waiters.borrow_mut());
            waiters.into_iter().for_each(Waker::wake);
        }
    }

    fn count_spawn(&self) {
        let count = self.0.spawned_since_beat.get() + 1;
        self.0.spawned_since_beat.set(count);
        if count == SPAWN_COUNT_WAKING_HEARTBEAT && self.0.heartbeat_slow.get() {
            self.0.work_arrived.notify();
        }
    }

    /// Called by the heartbeat: stamps the clocks and starts a new count of spawns.
    pub(super) fn on_beat(&self, slow: bool, period: Duration) {
        let now_ms = monotonic_ms();
        self.0.now_ms.set(now_ms);
        self.0.spawned_since_beat.set(0);
        self.0.heartbeat_slow.set(slow);
        self.link().stamp_heartbeat(now_ms, period);
    }

    pub(super) fn work_arrived(&self) -> &LocalEvent {
        &self.0.work_arrived
    }
}
