//! The cores: one pinned glommio executor per configured CPU, and what they use to talk.
//!
//! ```text
//!   start(cores, seats, main)            one thread each: make executor, pin, run main(core, seat)
//!     |
//!     +-- Core (this_core())             index, load, clock, stop latch, ports
//!     |     +-- wake task                reads the core's eventfd, notifies ports that have news
//!     |     +-- heartbeat task           5 ms with work, 100 ms idle: bounds glommio's hang, measures load
//!     +-- ring(from, to)                 bounded single-producer queue, one eventfd write per batch
//!     +-- watchdog thread                counts and logs cores whose heartbeat stops
//! ```
//!
//! Boot hands this room a list of CPUs and one *seat* (any `Send` value) per core; it hands each core's
//! main future its seat. Everything else on a core is a task started with [`spawn`].
//!
//! # glommio's faults
//!
//! The published glommio 0.9 has five faults that matter here. They are met in this folder and nowhere
//! else, so a fixed glommio is one folder's change:
//!
//! 1. An executor that is preempted before it ran anything in a turn parks although tasks are runnable,
//!    and sleeps until some unrelated event. Cure: exactly one executor per core and a long preempt timer
//!    (`cores.rs`), a heartbeat timer that bounds the sleep (`heartbeat.rs`), and a watchdog (`watchdog.rs`).
//! 2. A task dropped while pending leaks about 100 bytes. Cure: [`spawn`] always detaches, there is no
//!    cancel, and long-lived tasks end by themselves when [`Core::stopping`] is set.
//! 3. A task's wakers are counted in an `i16`. Cure: [`LocalEvent`] keeps one waker and [`Latch`] one per
//!    waiting task; the eventfd reads, whose futures push a waker clone at each poll, have tasks of their own.
//! 4. An executor leaks one eventfd when it ends. Executors end with the process; only tests see it.
//! 5. `spawn_local` polls the new task inside the caller. Cure: [`spawn`] defers, so that all tasks started
//!    in a turn run after the task that started them.
//!
//! # Invariants
//!
//! 1. A value pushed into a ring and flushed is seen by the receiver without any further event.
//! 2. At most one eventfd write is outstanding per core, however many producers flush.
//! 3. Nothing here blocks a core's thread.
//! 4. A core that has gone leaves its sockets' ring behind with the process (only tests see it).

mod clock;
mod core;
mod cores;
mod event;
mod eventfd;
mod heartbeat;
mod huge_pages;
mod open_files;
pub mod placement;
mod poller;
mod ring;
mod time;
mod watchdog;

#[cfg(test)]
mod runtime_tests;

pub use self::core::{Core, spawn, this_core, try_this_core};
pub use clock::{Clock, ManualClock, MonotonicClock};
pub use cores::{
    CoreLink, CoreStats, Cores, RuntimeConfig, RuntimeError, Stopper, available_cores, start,
};
pub use event::{Latch, LatchWait, LocalEvent};
pub use eventfd::{Watch, watch_eventfd};
pub use huge_pages::forbid_huge_pages;
pub use open_files::raise_open_files;
pub use poller::Socket;
pub use ring::{Inbox, Outbox, RingReceiver, RingSender, ring};
pub use time::{Elapsed, monotonic_ms, sleep, spawn_blocking, timeout, yield_now};
