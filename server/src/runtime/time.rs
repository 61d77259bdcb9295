//! Timers of a core.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::core::this_core;
use super::timers;
use futures_lite::future::or;

/// Waits at least `duration`.
pub async fn sleep(duration: Duration) {
    timers::sleep(duration).await;
}

/// Runs `future` for at most `limit`. The future is dropped when time is up, which is safe for futures; tasks
/// are never dropped.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let work = async { Ok(future.await) };
    let alarm = async {
        sleep(limit).await;
        Err(Elapsed)
    };
    or(work, alarm).await
}

/// Lets the other runnable tasks of the core run and the core look at its IO, then goes on. Loops that work in
/// slices call it between two slices.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        this_core().wake_next_turn(cx);
        Poll::Pending
    })
    .await;
}

/// The time limit of [`timeout`] ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("time limit reached")
    }
}

impl std::error::Error for Elapsed {}

/// Milliseconds since the process first asked; the same scale on every thread. Never 0, so that 0 can mean
/// "never" in a stamp.
#[must_use]
pub fn monotonic_ms() -> u64 {
    since_start().as_millis() as u64 + 1
}

/// The same time in microseconds.
pub(super) fn monotonic_us() -> u64 {
    since_start().as_micros() as u64 + 1000
}

fn since_start() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
