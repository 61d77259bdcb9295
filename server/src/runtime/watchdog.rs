//! A thread that wakes cores whose heartbeat is late, and reports cores that stopped beating.
//!
//! A late heartbeat may mean that glommio parked the core with tasks runnable (fault 1 of the module story): a wake
//! from here ends that, at once or at one of the next looks. A core that stays silent is in a long computation, which
//! is a defect to find with the log line, or starved by the system.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::cores::{CoreLink, Heartbeat};
use super::time::monotonic_ms;

/// How often the thread looks. Bounds a sleep through fault 1.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A heartbeat this much later than promised is late.
const LATE_AFTER_MS: u64 = 50;

/// Wakes sent in one stall. Each holds a clone of a waker until glommio looks at its rings, and glommio counts clones
/// in an `i16` (fault 3).
const POKE_COUNT_MAX: u32 = 1000;

/// The watching thread.
pub(super) struct Watchdog {
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Watchdog {
    pub(super) fn start(links: Arc<[CoreLink]>, stall_after: Duration) -> io::Result<Watchdog> {
        let ended = Arc::new(AtomicBool::new(false));
        let flag = ended.clone();
        let thread = thread::Builder::new()
            .name("keelson-watchdog".into())
            .spawn(move || {
                let mut stalls: Vec<StallState> =
                    links.iter().map(|_| StallState::default()).collect();
                while !flag.load(Ordering::Acquire) {
                    for (link, stall) in links.iter().zip(&mut stalls) {
                        let (poke, news) =
                            stall.on_look(link.heartbeat(), monotonic_ms(), stall_after);
                        if poke {
                            link.poke();
                        }
                        report(link, news);
                    }
                    thread::park_timeout(LOOK_EVERY);
                }
            })?;
        Ok(Watchdog { ended, thread })
    }

    pub(super) fn stop(self) {
        self.ended.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // A watchdog that panicked has nothing left to tell.
        let _ = self.thread.join();
    }
}

fn report(link: &CoreLink, news: Option<News>) {
    match news {
        Some(News::Stalled { age_ms }) => {
            link.count_stall();
            tracing::warn!(
                core = link.id().0,
                heartbeat_age_ms = age_ms,
                "core is stalled: no heartbeat"
            );
        }
        Some(News::Recovered { lasted_ms }) => {
            tracing::warn!(
                core = link.id().0,
                lasted_ms,
                "core runs again after a stall"
            );
        }
        None => {}
    }
}

/// What is known about one core.
#[derive(Default)]
struct StallState {
    /// Heartbeat that was too old, while the stall lasts.
    stalled_since_ms: Option<u64>,
    poke_count: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Stalled { age_ms: u64 },
    Recovered { lasted_ms: u64 },
}

impl StallState {
    /// Whether to wake the core, and what to report.
    fn on_look(
        &mut self,
        beat: Option<Heartbeat>,
        now_ms: u64,
        stall_after: Duration,
    ) -> (bool, Option<News>) {
        let Some(beat) = beat else {
            return (false, None);
        };
        let age_ms = now_ms.saturating_sub(beat.at_ms);
        let is_late = age_ms > beat.period_ms + LATE_AFTER_MS;
        self.poke_count = if is_late {
            self.poke_count.saturating_add(1)
        } else {
            0
        };
        let poke = is_late && self.poke_count <= POKE_COUNT_MAX;
        let is_stalled = u128::from(age_ms) > stall_after.as_millis();
        let news = match (self.stalled_since_ms, is_stalled) {
            (None, true) => {
                self.stalled_since_ms = Some(beat.at_ms);
                Some(News::Stalled { age_ms })
            }
            (Some(since_ms), false) => {
                self.stalled_since_ms = None;
                Some(News::Recovered {
                    lasted_ms: beat.at_ms.saturating_sub(since_ms),
                })
            }
            _ => None,
        };
        (poke, news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_reported_once_and_its_end_too() {
        let second = Duration::from_secs(1);
        let mut stall = StallState::default();
        let mut look = |at_ms, now_ms| {
            stall.on_look(
                Some(Heartbeat {
                    at_ms,
                    period_ms: 100,
                }),
                now_ms,
                second,
            )
        };
        assert_eq!(look(4900, 5000), (false, None));
        assert_eq!(look(4900, 5100), (true, None));
        assert_eq!(
            look(4900, 6000),
            (true, Some(News::Stalled { age_ms: 1100 }))
        );
        assert_eq!(look(4900, 7000), (true, None));
        assert_eq!(
            look(7400, 7500),
            (false, Some(News::Recovered { lasted_ms: 2500 }))
        );
        assert_eq!(look(7400, 7550), (false, None));
        assert_eq!(stall.on_look(None, 9000, second), (false, None));
    }

    #[test]
    fn wakes_of_one_stall_are_bounded() {
        let mut stall = StallState::default();
        let beat = Some(Heartbeat {
            at_ms: 1,
            period_ms: 5,
        });
        let pokes = (0..5000)
            .filter(|look| stall.on_look(beat, 1000 + look, Duration::from_secs(1)).0)
            .count();
        assert_eq!(pokes, POKE_COUNT_MAX as usize);
    }
}
