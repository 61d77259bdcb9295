//! The core a piece of code runs on.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keelson_storage::ids::CoreId;

use super::cores::{CoreLink, CoreStats, Stopper};
use super::event::Latch;
use super::eventfd::{Watch, watch_eventfd};
use super::poller::Poller;
use super::time::monotonic_ms;
use super::timers::Timers;
use super::turns;

thread_local! {
    static THIS_CORE: RefCell<Option<Core>> = const { RefCell::new(None) };
}

/// Handle to the core that runs the calling thread. Cheap to clone, never leaves the core.
#[derive(Clone)]
pub struct Core(Rc<CoreState>);

struct CoreState {
    links: Arc<[CoreLink]>,
    index: usize,
    stopping: Latch,
    /// Ring ends of this core that want to hear about news from the other side.
    ports: RefCell<Vec<Weak<dyn Port>>>,
    /// Coarse clock: stamped at the end of every turn.
    now_ms: Cell<u64>,
    poller: Poller,
    timers: Timers,
    /// Polls of this core's tasks: while it stands still, none is runnable.
    poll_count: Rc<Cell<u64>>,
    /// Tasks that go on after the core has looked at its news.
    next_turn: RefCell<Vec<Waker>>,
    ended: Cell<bool>,
    /// Of all fronts of the core.
    connection_count: Cell<u32>,
}

/// A future whose polls are counted.
pub(super) struct Counted<F> {
    count: Rc<Cell<u64>>,
    future: F,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.count.set(self.count.get() + 1);
        // SAFETY: the future is pinned with what it is part of, and nothing moves it out.
        let future = unsafe { self.map_unchecked_mut(|counted| &mut counted.future) };
        future.poll(cx)
    }
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
    spawn_uncounted(this_core().counted(future));
}

/// Starts a task whose polls are no work.
fn spawn_uncounted(future: impl Future<Output = ()> + 'static) {
    let queue = glommio::executor().current_task_queue();
    glommio::spawn_local_into(future, queue)
        .expect("the current task queue exists")
        .detach();
}

impl Core {
    /// Makes the calling thread the core at `index`.
    ///
    /// # Errors
    /// There is no ring or no descriptor for it.
    pub(super) fn enter(
        links: Arc<[CoreLink]>,
        index: usize,
        ring_entries: u32,
        sleep_max: Duration,
    ) -> std::io::Result<Core> {
        let core = Core(Rc::new(CoreState {
            links,
            index,
            stopping: Latch::new(),
            ports: RefCell::default(),
            now_ms: Cell::new(monotonic_ms()),
            poller: Poller::new(ring_entries)?,
            timers: Timers::default(),
            poll_count: Rc::default(),
            next_turn: RefCell::default(),
            ended: Cell::new(false),
            connection_count: Cell::new(0),
        }));
        THIS_CORE.with_borrow_mut(|this| *this = Some(core.clone()));
        let woken = core.clone();
        watch_eventfd(core.link().eventfd(), move |_| {
            woken.link().clear_wake();
            woken.deliver();
            Watch::Continue
        })?;
        spawn_uncounted(turns::run(core.clone(), sleep_max));
        Ok(core)
    }

    /// Has the polls of `future` counted as work of this core.
    pub(super) fn counted<F: Future>(&self, future: F) -> Counted<F> {
        Counted {
            count: self.0.poll_count.clone(),
            future,
        }
    }

    /// The end of the core's turns, and with them of its executor.
    pub(super) fn end(&self) {
        self.0.ended.set(true);
        THIS_CORE.with_borrow_mut(|this| *this = None);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.ended.get()
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

    /// A front of this core has one connection more.
    pub fn connection_came(&self) {
        self.publish_connections(self.0.connection_count.get() + 1);
    }

    /// And one less.
    pub fn connection_went(&self) {
        self.publish_connections(self.0.connection_count.get() - 1);
    }

    fn publish_connections(&self, count: u32) {
        self.0.connection_count.set(count);
        self.link().publish_connection_count(count);
    }

    /// Asks every core to stop, as a signal would.
    pub fn stop_all(&self) {
        Stopper::new(self.0.links.clone()).stop();
    }

    /// Milliseconds on the scale of [`monotonic_ms`], one turn old at most. Costs one load; made for stamps on the
    /// request path.
    #[must_use]
    pub fn coarse_ms(&self) -> u64 {
        self.0.now_ms.get()
    }

    /// The core's sockets and eventfds.
    pub(super) fn poller(&self) -> &Poller {
        &self.0.poller
    }

    pub(super) fn timers(&self) -> &Timers {
        &self.0.timers
    }

    pub(super) fn poll_count(&self) -> u64 {
        self.0.poll_count.get()
    }

    pub(super) fn register(&self, port: &Rc<impl Port + 'static>) {
        let port: Rc<dyn Port> = port.clone();
        let mut ports = self.0.ports.borrow_mut();
        ports.retain(|known| known.strong_count() > 0);
        ports.push(Rc::downgrade(&port));
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

    /// Wakes the task of `cx` after the core has looked at its news. A task that has more to do than it should do in a
    /// turn calls this, and so lets others and their sockets have theirs.
    pub fn wake_next_turn(&self, cx: &Context<'_>) {
        self.0.next_turn.borrow_mut().push(cx.waker().clone());
    }

    /// Whether a task waits for the next turn.
    pub(super) fn is_turn_wanted(&self) -> bool {
        !self.0.next_turn.borrow().is_empty()
    }

    /// Begins the next turn of those that wait for it.
    pub(super) fn wake_waiting(&self) {
        let waiting = std::mem::take(&mut *self.0.next_turn.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Stamps the clocks; the next stamp comes within `period`, as far as this core can tell.
    pub(super) fn stamp(&self, now_us: u64, period: Duration) {
        let now_ms = now_us / 1000;
        self.0.now_ms.set(now_ms);
        self.link().stamp_heartbeat(now_ms, period);
    }
}
