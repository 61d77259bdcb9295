//! The Clock seam: monotonic time, real or set by hand.

use std::cell::Cell;
use std::rc::Rc;

use super::time::monotonic_us;

/// Monotonic time in microseconds from an arbitrary start.
pub trait Clock {
    /// Now. Never less than an earlier answer.
    fn now_us(&self) -> u64;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now_us(&self) -> u64 {
        monotonic_us()
    }
}

/// A clock that stands still until it is set: for simulations.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Rc<Cell<u64>>);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance_us(&self, us: u64) {
        self.0.set(self.0.get() + us);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> u64 {
        self.0.get()
    }
}
