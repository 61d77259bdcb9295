//! The core's side of the ring from the engine, and its periodic chores.

use std::rc::Rc;
use std::time::Duration;

use keelson_storage::ids::Revision;

use super::Api;
use crate::engine::message::Outbound;
use crate::fanout::OpenedAt;
use crate::runtime::{self, Inbox};

/// Messages handled before other tasks of the core get a turn.
const MESSAGES_PER_TURN_MAX: usize = 1024;

/// How often questions that ran out of time are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Hands everything the engine sends to who waits for it, until the engine is gone.
pub async fn pump(api: Rc<Api>, mut ring: Inbox<Outbound>) {
    while !ring.is_finished() {
        let mut handled = 0;
        while handled < MESSAGES_PER_TURN_MAX
            && let Some(message) = ring.pop()
        {
            api.on_message(message);
            handled += 1;
        }
        api.after_fanout();
        if handled == MESSAGES_PER_TURN_MAX {
            runtime::yield_now().await;
        } else {
            ring.ready().await;
        }
    }
}

/// Tells clients whose request has been out for too long that it timed out, and reports on the core.
pub async fn sweeper(api: Rc<Api>) {
    while !api.core.stopping().is_set() {
        runtime::sleep(SWEEP_INTERVAL).await;
        let now_ms = runtime::monotonic_ms();
        api.engine
            .expire_before(now_ms.saturating_sub(api.config.request_timeout_ms));
        api.report_core();
    }
}

/// Tells idle watchers that asked for it how far they are.
pub async fn progress_notifier(api: Rc<Api>) {
    while !api.core.stopping().is_set() {
        futures_lite::future::or(
            runtime::sleep(api.config.progress_interval),
            api.core.stopping().wait(),
        )
        .await;
        api.fanout.borrow_mut().on_progress_interval();
        api.after_fanout();
    }
}

impl Api {
    fn on_message(&self, message: Outbound) {
        match message {
            Outbound::Reply { token, result } => self.engine.on_reply(token, result),
            Outbound::Batch(batch) => self.fanout.borrow_mut().on_batch(&batch),
            Outbound::WatchOpened {
                revision,
                published,
                compact_revision,
                raft_term,
            } => self.fanout.borrow_mut().on_opened(OpenedAt {
                revision,
                published,
                compact_revision,
                raft_term,
            }),
            Outbound::CatchUp(slice) => self.fanout.borrow_mut().on_caught_up(&slice),
            Outbound::Leap {
                revision,
                raft_term,
            } => self.fanout.borrow_mut().on_leap(revision, raft_term),
            Outbound::Learner(is_learner) => self.is_learner.set(is_learner),
            Outbound::Progress { stream, revision } => {
                self.fanout
                    .borrow_mut()
                    .on_progress(stream, Revision(revision.0));
            }
        }
    }

    /// Wakes the writers of streams that were given responses, and passes the fan-out's questions on.
    pub(super) fn after_fanout(&self) {
        let ready = self.fanout.borrow_mut().take_ready();
        let writers = self.writers.borrow();
        for stream in ready {
            if let Some(writer) = writers.get(&stream) {
                writer.notify();
            }
        }
        drop(writers);
        self.flush_asks();
        self.count_watches();
    }

    /// Sends the fan-out's questions to the engine; those that find the ring full go with the next call.
    pub(super) fn flush_asks(&self) {
        let mut unsent = self.unsent.borrow_mut();
        unsent.extend(self.fanout.borrow_mut().take_asks());
        while let Some(ask) = unsent.pop_front() {
            if let Err(ask) = self.engine.tell(ask) {
                unsent.push_front(ask);
                return;
            }
        }
    }

    fn report_core(&self) {
        self.count_watches();
        let stats = self.core.stats();
        let runtime = &self.metrics.runtime;
        runtime.busy_permille.set(u64::from(stats.busy_permille));
        runtime
            .stalls
            .add(stats.stall_count - runtime.stalls.value());
        runtime
            .wakeups
            .add(stats.wake_count - runtime.wakeups.value());
    }

    fn count_watches(&self) {
        let counts = self.fanout.borrow().counts();
        let watch = &self.metrics.watch;
        watch.streams.set(counts.streams as u64);
        watch.watchers.set(counts.watchers as u64);
        watch.slow_watchers.set(counts.late as u64);
        watch.pending_events.set(counts.events_queued as u64);
        watch.events.add(counts.events_sent - watch.events.value());
    }
}
