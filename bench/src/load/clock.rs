//! Time as the generator counts it: nanoseconds since the load was made.

use std::time::{Duration, Instant};

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds of a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// Where the count begins.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Nanoseconds from the beginning until now.
    pub fn now(self) -> u64 {
        self.nanos(Instant::now())
    }

    /// Nanoseconds from the beginning until then.
    pub fn nanos(self, then: Instant) -> u64 {
        nanos(then.saturating_duration_since(self.origin))
    }
}

/// A duration in nanoseconds; the longest that fits if it is longer than centuries.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
