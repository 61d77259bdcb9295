//! Starting, reaching and joining the cores.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use keelson_storage::ids::CoreId;

use super::core::Core;
use super::eventfd;
use super::placement::CoreLoad;
use super::time::monotonic_ms;
use super::watchdog::Watchdog;

/// Entries of glommio's rings (main, latency, polling), which carry nothing but its timer.
pub const EXECUTOR_RINGS: [u32; 3] = [32; 3];

/// Memory glommio registers with each of its rings for file IO. Nothing here does IO through glommio, and registered
/// memory counts against RLIMIT_MEMLOCK, so this is glommio's minimum.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// How executors are built. The defaults fit a server under a memlock limit of 8 MB.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Submission entries of a core's own ring.
    pub ring_entries: u32,
    /// How often glommio looks at its own rings, where only wakes from the watchdog come. Long, because a
    /// preemption that hits before the first task of a turn is what makes glommio sleep on runnable tasks (fault 1).
    pub preempt_after: Duration,
    /// The longest sleep of a core, and so the time between heartbeats of one that is idle.
    pub heartbeat: Duration,
    /// A core whose last heartbeat is older than this is reported as stalled.
    pub stall_after: Duration,
    /// Pin each core's thread to its CPU.
    pub pin: bool,
}

impl Default for RuntimeConfig {
    fn default() -> RuntimeConfig {
        RuntimeConfig {
            ring_entries: 1024,
            preempt_after: Duration::from_secs(1),
            heartbeat: Duration::from_millis(100),
            stall_after: Duration::from_secs(1),
            pin: true,
        }
    }
}

/// Why the cores did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The list of cores is empty: fix the configuration.
    #[error("no cores to run on")]
    NoCores,
    /// A core's executor could not be made: the machine lacks io_uring, locked memory or that CPU.
    #[error("core {core} cannot start: {reason}")]
    Start {
        /// The CPU.
        core: CoreId,
        /// What the system answered.
        reason: String,
    },
    /// The system refused a descriptor or a thread.
    #[error("starting the cores: {0}")]
    System(#[from] io::Error),
    /// A core's thread panicked.
    #[error("core {0} panicked")]
    Panicked(CoreId),
}

/// The CPUs this process may run on.
///
/// # Errors
/// The system call fails.
pub fn available_cores() -> io::Result<Vec<CoreId>> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set, and the call writes at most its size into it.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        set
    };
    let cpu_count = libc::CPU_SETSIZE as usize;
    // SAFETY: every index is below CPU_SETSIZE.
    Ok((0..cpu_count)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .map(|cpu| CoreId(cpu as u16))
        .collect())
}

/// Starts one executor per entry of `cores` and runs `main` on each, with its seat.
///
/// `seats` makes one value per core from the links of all cores; it is the place to make the rings between
/// them. No main future runs before every core could be started.
///
/// # Errors
/// See [`RuntimeError`]. When one core cannot start, none runs.
pub fn start<S, F>(
    cores: &[CoreId],
    config: &RuntimeConfig,
    seats: impl FnOnce(&[CoreLink]) -> Vec<S>,
    main: impl Fn(Core, S) -> F + Clone + Send + 'static,
) -> Result<Cores, RuntimeError>
where
    S: Send + 'static,
    F: Future<Output = ()> + 'static,
{
    if cores.is_empty() {
        return Err(RuntimeError::NoCores);
    }
    // The clock starts before any core reads it.
    let _ = monotonic_ms();
    let links: Vec<CoreLink> = cores
        .iter()
        .enumerate()
        .map(|(index, &id)| CoreLink::new(index, id))
        .collect::<io::Result<_>>()?;
    let links: Arc<[CoreLink]> = links.into();
    let seats = seats(&links);
    assert_eq!(seats.len(), cores.len(), "one seat per core");

    let (made, outcomes) = mpsc::channel();
    let mut threads = Vec::with_capacity(cores.len());
    let mut starters = Vec::with_capacity(cores.len());
    for (index, seat) in seats.into_iter().enumerate() {
        let (starter, start_signal) = mpsc::channel::<()>();
        let (links, config, main, made) =
            (links.clone(), config.clone(), main.clone(), made.clone());
        let thread = thread::Builder::new()
            .name(format!("keelson-core-{index}"))
            .spawn(move || {
                let executor = make_executor(&links[index], &config);
                let outcome = executor.as_ref().map(|_| ()).map_err(Clone::clone);
                // The starter waits for this message; if it is gone, the wait below ends this thread.
                let _ = made.send((index, outcome));
                drop(made);
                if let (Ok(executor), Ok(())) = (executor, start_signal.recv()) {
                    run_core(&executor, links, index, &config, main, seat);
                }
            })?;
        threads.push(thread);
        starters.push(starter);
    }
    drop(made);
    // When this fails, dropping the starters ends the threads that wait for their signal.
    await_executors(cores, &outcomes)?;
    for starter in starters {
        // A thread that is gone has panicked; `join` reports it.
        let _ = starter.send(());
    }
    let watchdog = Watchdog::start(links.clone(), config.stall_after)?;
    Ok(Cores {
        links,
        threads,
        watchdog,
    })
}

/// Waits until every core has its executor.
fn await_executors(
    cores: &[CoreId],
    outcomes: &mpsc::Receiver<(usize, Result<(), String>)>,
) -> Result<(), RuntimeError> {
    for _ in cores {
        match outcomes.recv() {
            Ok((_, Ok(()))) => {}
            Ok((index, Err(reason))) => {
                return Err(RuntimeError::Start {
                    core: cores[index],
                    reason,
                });
            }
            Err(mpsc::RecvError) => return Err(RuntimeError::Panicked(cores[0])),
        }
    }
    Ok(())
}

fn make_executor(link: &CoreLink, config: &RuntimeConfig) -> Result<LocalExecutor, String> {
    let placement = if config.pin {
        Placement::Fixed(usize::from(link.id().0))
    } else {
        Placement::Unbound
    };
    // One executor per core and no spinning: with several executors on a CPU they preempt each other all the
    // time and fault 1 becomes certain; a spinning core would starve the WAL's kernel threads.
    LocalExecutorBuilder::new(placement)
        .name("keelson-core")
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(EXECUTOR_RINGS[0] as usize)
        .preempt_timer(config.preempt_after)
        .spin_before_park(Duration::ZERO)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()
        .map_err(|error| error.to_string())
}

fn run_core<S, F>(
    executor: &LocalExecutor,
    links: Arc<[CoreLink]>,
    index: usize,
    config: &RuntimeConfig,
    main: impl Fn(Core, S) -> F,
    seat: S,
) where
    F: Future<Output = ()> + 'static,
{
    executor.run(async {
        let core = Core::enter(links, index, config.ring_entries, config.heartbeat)
            .expect("a ring like those of the executor and the log can be made");
        core.counted(main(core.clone(), seat)).await;
        core.link().retire();
        core.end();
    });
}

/// The running cores.
pub struct Cores {
    links: Arc<[CoreLink]>,
    threads: Vec<thread::JoinHandle<()>>,
    watchdog: Watchdog,
}

impl Cores {
    /// The cores' links, by index.
    #[must_use]
    pub fn links(&self) -> &[CoreLink] {
        &self.links
    }

    /// A handle that asks all cores to stop, for a signal thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.links.clone())
    }

    /// Waits until every core's main future has ended.
    ///
    /// # Errors
    /// A core panicked.
    pub fn join(self) -> Result<(), RuntimeError> {
        let mut outcome = Ok(());
        for (index, thread) in self.threads.into_iter().enumerate() {
            if thread.join().is_err() && outcome.is_ok() {
                outcome = Err(RuntimeError::Panicked(self.links[index].id()));
                // The others cannot do their work without it.
                Stopper(self.links.clone()).stop();
            }
        }
        self.watchdog.stop();
        outcome
    }
}

/// Asks all cores to stop.
#[derive(Clone)]
pub struct Stopper(Arc<[CoreLink]>);

impl Stopper {
    pub(super) fn new(links: Arc<[CoreLink]>) -> Stopper {
        Stopper(links)
    }

    /// Sets [`Core::stopping`] on every core. Returns at once; [`Cores::join`] waits.
    pub fn stop(&self) {
        for link in self.0.iter() {
            link.0.stopping.store(true, Ordering::Release);
            link.wake();
        }
    }
}

/// Handle to a core for other threads.
#[derive(Clone)]
pub struct CoreLink(Arc<LinkState>);

struct LinkState {
    index: usize,
    id: CoreId,
    eventfd: OwnedFd,
    /// True from the first wake of a batch until the core has begun to look: later producers skip the write.
    wake_pending: AtomicBool,
    stopping: AtomicBool,
    retired: AtomicBool,
    heartbeat_ms: AtomicU64,
    /// Time until the next beat.
    heartbeat_period_ms: AtomicU64,
    /// Waker of the task that ends the turns, for the watchdog.
    turns_waker: OnceLock<Waker>,
    busy_permille: AtomicU32,
    connection_count: AtomicU32,
    stall_count: AtomicU64,
    poke_count: AtomicU64,
    wake_count: AtomicU64,
}

/// A beat as the watchdog sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    pub(super) at_ms: u64,
    pub(super) period_ms: u64,
}

/// Published figures of a core, all of them a moment old.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreStats {
    /// Share of wall time the core was busy, averaged over a few hundred milliseconds.
    pub busy_permille: u32,
    /// Connections the core serves.
    pub connection_count: u32,
    /// Times the watchdog found the core stalled.
    pub stall_count: u64,
    /// Times the watchdog found a heartbeat late and woke the core.
    pub poke_count: u64,
    /// Times another thread had to wake the core through the kernel.
    pub wake_count: u64,
    /// Age of the last heartbeat.
    pub heartbeat_age_ms: u64,
}

impl CoreLink {
    fn new(index: usize, id: CoreId) -> io::Result<CoreLink> {
        Ok(CoreLink(Arc::new(LinkState {
            index,
            id,
            eventfd: eventfd::create()?,
            wake_pending: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            heartbeat_ms: AtomicU64::new(0),
            heartbeat_period_ms: AtomicU64::new(0),
            turns_waker: OnceLock::new(),
            busy_permille: AtomicU32::new(0),
            connection_count: AtomicU32::new(0),
            stall_count: AtomicU64::new(0),
            poke_count: AtomicU64::new(0),
            wake_count: AtomicU64::new(0),
        })))
    }

    /// Position in the list of cores.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The CPU.
    #[must_use]
    pub fn id(&self) -> CoreId {
        self.0.id
    }

    /// The published figures.
    #[must_use]
    pub fn stats(&self) -> CoreStats {
        let state = &*self.0;
        let heartbeat_ms = state.heartbeat_ms.load(Ordering::Relaxed);
        CoreStats {
            busy_permille: state.busy_permille.load(Ordering::Relaxed),
            connection_count: state.connection_count.load(Ordering::Relaxed),
            stall_count: state.stall_count.load(Ordering::Relaxed),
            poke_count: state.poke_count.load(Ordering::Relaxed),
            wake_count: state.wake_count.load(Ordering::Relaxed),
            heartbeat_age_ms: monotonic_ms().saturating_sub(heartbeat_ms),
        }
    }

    /// What the placement rule wants to know, without connections that are too fresh to show.
    #[must_use]
    pub fn load(&self) -> CoreLoad {
        let stats = self.stats();
        CoreLoad {
            busy_permille: stats.busy_permille,
            connection_count: stats.connection_count,
            fresh_count: 0,
        }
    }

    /// Publishes how many connections the core serves.
    pub fn publish_connection_count(&self, count: u32) {
        self.0.connection_count.store(count, Ordering::Relaxed);
    }

    /// Makes the core look at its rings soon. Only the first call of a batch enters the kernel.
    pub(super) fn wake(&self) {
        // AcqRel pairs with `clear_wake`: when this swap finds `true`, the core's clear comes later and then
        // sees what was pushed before this call.
        if !self.0.wake_pending.swap(true, Ordering::AcqRel) {
            self.0.wake_count.fetch_add(1, Ordering::Relaxed);
            eventfd::signal(&self.0.eventfd);
        }
    }

    /// Called by the core before it looks, so that what is pushed after the look writes again.
    pub(super) fn clear_wake(&self) {
        self.0.wake_pending.swap(false, Ordering::AcqRel);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    pub(super) fn is_same(&self, other: &CoreLink) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn eventfd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }

    pub(super) fn stamp_heartbeat(&self, now_ms: u64, period: Duration) {
        self.0
            .heartbeat_period_ms
            .store(period.as_millis() as u64, Ordering::Relaxed);
        self.0.heartbeat_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn leave_waker(&self, waker: Waker) {
        // Set once per core: one task ends its turns.
        let _ = self.0.turns_waker.set(waker);
    }

    /// Makes the core's turns go on, from another thread. Goes through glommio's own notifier, which is armed
    /// whenever the executor sleeps.
    pub(super) fn poke(&self) {
        if let Some(waker) = self.0.turns_waker.get() {
            self.0.poke_count.fetch_add(1, Ordering::Relaxed);
            waker.wake_by_ref();
        }
    }

    /// The last heartbeat; `None` before the first one and after the core's main future has ended.
    pub(super) fn heartbeat(&self) -> Option<Heartbeat> {
        let at_ms = self.0.heartbeat_ms.load(Ordering::Relaxed);
        let period_ms = self.0.heartbeat_period_ms.load(Ordering::Relaxed);
        let retired = self.0.retired.load(Ordering::Relaxed);
        (at_ms != 0 && !retired).then_some(Heartbeat { at_ms, period_ms })
    }

    pub(super) fn publish_busy(&self, busy_permille: u32) {
        self.0.busy_permille.store(busy_permille, Ordering::Relaxed);
    }

    pub(super) fn count_stall(&self) {
        self.0.stall_count.fetch_add(1, Ordering::Relaxed);
    }

    fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }
}
