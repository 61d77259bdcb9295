//! A thread that notices a core which stopped beating, logs it and counts it.
//!
//! It acts on nothing: a stalled core is either in a long computation, which is a defect to find with the log
//! line, or starved by the system.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::cores::CoreLink;
use super::time::monotonic_ms;

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
                        report(
                            link,
                            stall.on_look(link.heartbeat_ms(), monotonic_ms(), stall_after),
                        );
                    }
                    thread::park_timeout(stall_after / 2);
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
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Stalled { age_ms: u64 },
    Recovered { lasted_ms: u64 },
}

impl StallState {
    fn on_look(
        &mut self,
        heartbeat_ms: Option<u64>,
        now_ms: u64,
        stall_after: Duration,
    ) -> Option<News> {
        let heartbeat_ms = heartbeat_ms?;
        let age_ms = now_ms.saturating_sub(heartbeat_ms);
        let is_old = u128::from(age_ms) > stall_after.as_millis();
        match (self.stalled_since_ms, is_old) {
            (None, true) => {
                self.stalled_since_ms = Some(heartbeat_ms);
                Some(News::Stalled { age_ms })
            }
            (Some(since_ms), false) => {
                self.stalled_since_ms = None;
                Some(News::Recovered {
                    lasted_ms: heartbeat_ms.saturating_sub(since_ms),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_reported_once_and_its_end_too() {
        let second = Duration::from_secs(1);
        let mut stall = StallState::default();
        assert_eq!(stall.on_look(None, 5000, second), None);
        assert_eq!(stall.on_look(Some(4900), 5000, second), None);
        assert_eq!(
            stall.on_look(Some(4900), 6000, second),
            Some(News::Stalled { age_ms: 1100 })
        );
        assert_eq!(stall.on_look(Some(4900), 7000, second), None);
        assert_eq!(
            stall.on_look(Some(7400), 7500, second),
            Some(News::Recovered { lasted_ms: 2500 })
        );
        assert_eq!(stall.on_look(Some(7400), 7600, second), None);
    }
}
