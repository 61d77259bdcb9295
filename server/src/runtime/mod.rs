//! The cores: one pinned glommio executor per configured CPU, and what they use to talk.
//!
//! ```text
//!   start(cores, seats, main)            one thread each: make executor, pin, run main(core, seat)
//!     |
//!     +-- Core (this_core())             index, load, clock, stop latch, ports, timers
//!     |     +-- turns task               after the others: looks at what came, or sleeps until something comes
//!     |     +-- poller                   the core's ring: sockets, the log's eventfd, that of other cores
//!     +-- ring(from, to)                 bounded single-producer queue, one eventfd write per batch
//!     +-- watchdog thread                counts and logs cores whose heartbeat stops
//! ```
//!
//! Boot hands this room a list of CPUs and one *seat* (any `Send` value) per core; it hands each core's
//! main future its seat. Everything else on a core is a task started with [`spawn`].
//!
//! # glommio's faults
//!
//! The published glommio 0.9 has six faults that matter here. They are met in this folder and nowhere
//! else, so a fixed glommio is one folder's change:
//!
//! 1. An executor that is preempted before it ran anything in a turn parks although tasks are runnable,
//!    and sleeps until some unrelated event. Cure: a core sleeps in its own ring and not in the executor
//!    (`turns.rs`), whose preempt timer is long (`cores.rs`), and a watchdog wakes it should it ever park
//!    (`watchdog.rs`).
//! 2. A task dropped while pending leaks about 100 bytes. Cure: [`spawn`] always detaches, there is no
//!    cancel, and long-lived tasks end by themselves when [`Core::stopping`] is set.
//! 3. A task's wakers are counted in an `i16`. Cure: [`LocalEvent`] keeps one waker and [`Latch`] one per
//!    waiting task.
//! 4. An executor leaks one eventfd when it ends. Executors end with the process; only tests see it.
//! 5. `spawn_local` polls the new task inside the caller. Cure: [`spawn`] defers, so that all tasks started
//!    in a turn run after the task that started them.
//! 6. To sleep, an executor makes about eight system calls, twice over per event; sockets it polls one request per
//!    wait. Cure: the same, `turns.rs` and `poller.rs`. glommio makes, pins and runs the tasks of a core; what the
//!    core waits for is the poller's.
//!
//! # Invariants
//!
//! 1. A value pushed into a ring and flushed is seen by the receiver without any further event.
//! 2. At most one eventfd write is outstanding per core, however many producers flush.
//! 3. Nothing blocks a core's thread but the end of a turn, and that only while no task is runnable.
//! 4. A core that has gone leaves its sockets' ring behind with the process (only tests see it).

mod blocking;
mod clock;
mod core;
mod cores;
mod event;
mod eventfd;
mod feed;
mod huge_pages;
mod open_files;
pub mod placement;
mod poller;
mod ring;
mod time;
mod timers;
mod turns;
mod watchdog;

#[cfg(test)]
mod runtime_tests;

pub use self::core::{Core, spawn, this_core, try_this_core};
pub use blocking::{spawn_blocking, spawn_helper, step_back};
pub use clock::{Clock, ManualClock, MonotonicClock};
pub use cores::{
    CoreLink, CoreStats, Cores, EXECUTOR_RINGS, RuntimeConfig, RuntimeError, Stopper,
    available_cores, start,
};
pub use event::{Latch, LatchWait, LocalEvent};
pub use eventfd::{Bell, Watch, watch_eventfd};
pub use feed::{Fed, Feed, Gone, spawn_feeding};
pub use huge_pages::forbid_huge_pages;
pub use open_files::raise_open_files;
pub use poller::{Acceptor, Socket};
pub use ring::{Inbox, Outbox, RingReceiver, RingSender, ring};
pub use time::{Elapsed, monotonic_ms, sleep, timeout, yield_now};
