//! The turns of a core: its tasks, then its news, then the tasks again; and sleep when there is neither.
//!
//! One task, always runnable, is the end of every turn. The executor runs tasks in the order in which they were woken,
//! so when this one is polled and no other was since the last time, none is runnable: then it waits in the core's ring
//! for news or the next timer. The executor itself never sleeps, which is what its faults need (see the module story)
//! and what costs it a dozen system calls.
//!
//! The end of a turn also stamps the core's clock and heartbeat and measures its load.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::core::Core;
use super::time::monotonic_us;

/// The load figure forgets with this time constant.
const LOAD_AVERAGED_OVER: Duration = Duration::from_millis(300);
/// Load is worked out this often, and after every sleep that is longer.
const LOAD_EVERY_US: u64 = 5_000;

/// Runs until the core's main future has ended. `sleep_max` bounds a sleep: an idle core shows that it lives.
pub(super) async fn run(core: Core, sleep_max: Duration) {
    poll_fn(|cx| {
        core.link().leave_waker(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    let mut turns = Turns {
        sleep_max,
        poll_count: 0,
        gauge: Gauge::new(monotonic_us()),
    };
    poll_fn(|cx| turns.end_turn(&core, cx)).await;
}

struct Turns {
    sleep_max: Duration,
    /// Polls of the core's tasks up to the last turn's end.
    poll_count: u64,
    gauge: Gauge,
}

impl Turns {
    fn end_turn(&mut self, core: &Core, cx: &Context<'_>) -> Poll<()> {
        if core.has_ended() {
            return Poll::Ready(());
        }
        let mut now_us = monotonic_us();
        let poll_count = core.poll_count();
        let has_run = std::mem::replace(&mut self.poll_count, poll_count) != poll_count;
        let is_quiet = !core.timers().fire(now_us) && !has_run && !core.is_turn_wanted();
        let limit = is_quiet.then(|| {
            core.timers().next_us().map_or(self.sleep_max, |at_us| {
                Duration::from_micros(at_us - now_us).min(self.sleep_max)
            })
        });
        core.stamp(now_us, limit.unwrap_or_default());
        core.poller().turn(now_us, limit);
        if limit.is_some() {
            let began_us = std::mem::replace(&mut now_us, monotonic_us());
            self.gauge.slept(now_us - began_us);
            core.stamp(now_us, Duration::ZERO);
        }
        core.wake_waiting();
        if let Some(busy_permille) = self.gauge.look(now_us) {
            core.link().publish_busy(busy_permille);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Turns the time slept into load.
struct Gauge {
    at_us: u64,
    slept_us: u64,
    busy: f64,
}

impl Gauge {
    fn new(at_us: u64) -> Gauge {
        Gauge {
            at_us,
            slept_us: 0,
            busy: 0.0,
        }
    }

    fn slept(&mut self, us: u64) {
        self.slept_us += us;
    }

    /// The load in thousandths, when it is time to work it out.
    fn look(&mut self, now_us: u64) -> Option<u32> {
        let wall_us = now_us - self.at_us;
        if wall_us < LOAD_EVERY_US {
            return None;
        }
        let share = 1.0 - self.slept_us as f64 / wall_us as f64;
        let weight = 1.0 - (-(wall_us as f64) / LOAD_AVERAGED_OVER.as_micros() as f64).exp();
        self.busy += (share - self.busy) * weight;
        (self.at_us, self.slept_us) = (now_us, 0);
        Some((self.busy * 1000.0).round() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_follows_within_a_second_and_stays_in_bounds() {
        let mut gauge = Gauge::new(0);
        let mut now_us = 0;
        let mut busy = 0;
        for _ in 0..200 {
            now_us += 5_000;
            assert_eq!(gauge.look(now_us - 1), None);
            busy = gauge.look(now_us).unwrap();
        }
        assert!((950..=1000).contains(&busy), "{busy}");
        for _ in 0..10 {
            gauge.slept(99_000);
            now_us += 100_000;
            busy = gauge.look(now_us).unwrap();
        }
        assert!(busy < 100, "{busy}");
    }
}
