//! A timer per core that bounds how long the core can sleep with work waiting, and measures its load.
//!
//! glommio parks an executor that was preempted before it ran anything in a turn, even when tasks are runnable
//! (fault 1 of the module story). A pending timer ends any sleep, so a timer that is always pending bounds the
//! stall: by the busy period while there is work, by the idle period otherwise. A beat costs tens of
//! microseconds, which is why an idle core beats slowly.
//!
//! The beat's own turn can be preempted too, and then no timer is pending. For that case this task leaves its
//! waker with the core's link: a wake from another thread gets through to a parked executor in any state, and
//! the watchdog sends one when a beat is late.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_lite::future::or;
use glommio::{ExecutorStats, executor};

use super::core::Core;
use super::time::sleep;

/// A core that ran more tasks than this per 100 ms has work. The beat itself, the wake task and the second-wise
/// chores of an idle server stay below it.
const IDLE_TASKS_PER_100_MS_MAX: u64 = 12;

/// The load figure forgets with this time constant.
const LOAD_AVERAGED_OVER: Duration = Duration::from_millis(300);

/// Runs for as long as the executor does.
pub(super) async fn run(core: Core, busy_period: Duration, idle_period: Duration) {
    poll_fn(|cx| {
        core.link().leave_waker(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    let mut gauge = Gauge {
        at: Instant::now(),
        busy: 0.0,
    };
    let mut has_work = true;
    loop {
        let period = if has_work { busy_period } else { idle_period };
        core.on_beat(!has_work, period);
        if has_work {
            sleep(busy_period).await;
        } else {
            // A burst of new tasks need not wait for the slow beat to be noticed.
            or(sleep(idle_period), core.work_arrived().wait()).await;
        }
        let sample = gauge.sample(Instant::now(), executor().executor_stats());
        has_work = sample.has_work;
        core.link().publish_busy(sample.busy_permille);
    }
}

/// Turns executor counters into load.
struct Gauge {
    at: Instant,
    busy: f64,
}

struct Sample {
    busy_permille: u32,
    has_work: bool,
}

impl Gauge {
    /// `stats` counts since the call before: glommio resets its counters when they are read, so this is their
    /// only reader.
    fn sample(&mut self, now: Instant, stats: ExecutorStats) -> Sample {
        let wall = now.duration_since(self.at).max(Duration::from_micros(1));
        let (busy, has_work) = judge(
            self.busy,
            wall,
            stats.total_runtime(),
            stats.tasks_executed(),
        );
        (self.at, self.busy) = (now, busy);
        Sample {
            busy_permille: (busy * 1000.0).round() as u32,
            has_work,
        }
    }
}

/// Exponential average of the busy share, and whether the last period had work.
fn judge(average: f64, wall: Duration, ran: Duration, task_count: u64) -> (f64, bool) {
    let share = (ran.as_secs_f64() / wall.as_secs_f64()).min(1.0);
    let weight = 1.0 - (-wall.as_secs_f64() / LOAD_AVERAGED_OVER.as_secs_f64()).exp();
    let average = average + (share - average) * weight;
    let allowed = (IDLE_TASKS_PER_100_MS_MAX * wall.as_millis() as u64 / 100).max(2);
    (average, task_count > allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_beat_alone_is_no_work() {
        assert!(!judge(0.0, 100 * MS, MS, 2).1);
        assert!(!judge(0.0, 5 * MS, MS / 10, 2).1);
    }

    #[test]
    fn a_few_hundred_requests_a_second_are_work() {
        assert!(judge(0.0, 100 * MS, MS, 60).1);
        assert!(judge(0.0, 5 * MS, MS, 3).1);
    }

    #[test]
    fn load_follows_within_a_second_and_stays_in_bounds() {
        let mut load = 0.0;
        for _ in 0..200 {
            load = judge(load, 5 * MS, 5 * MS, 100).0;
        }
        assert!(load > 0.95 && load <= 1.0, "{load}");
        for _ in 0..10 {
            load = judge(load, 100 * MS, MS, 2).0;
        }
        assert!(load < 0.1, "{load}");
        // A period in which the counters say more than the clock is a full one.
        assert!(judge(1.0, 5 * MS, 50 * MS, 1).0 <= 1.0);
    }
}
