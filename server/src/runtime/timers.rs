//! What a core's tasks wait for by the clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::core::{Core, this_core};
use super::time::monotonic_us;

/// Wakers by deadline, and by number where deadlines are equal.
#[derive(Default)]
pub(super) struct Timers {
    waiting: RefCell<BTreeMap<(u64, u64), Waker>>,
    count: Cell<u64>,
}

impl Timers {
    /// Wakes those whose time has come; whether there were any.
    pub(super) fn fire(&self, now_us: u64) -> bool {
        let mut fired = false;
        while self.next_us().is_some_and(|at_us| at_us <= now_us) {
            // The waker leaves the map before it is called.
            let first = self.waiting.borrow_mut().pop_first();
            if let Some((_, waker)) = first {
                waker.wake();
                fired = true;
            }
        }
        fired
    }

    /// The next deadline.
    pub(super) fn next_us(&self) -> Option<u64> {
        let waiting = self.waiting.borrow();
        waiting.first_key_value().map(|(&(at_us, _), _)| at_us)
    }
}

/// Waits until at least `duration` from now on.
pub(super) fn sleep(duration: Duration) -> Sleep {
    let duration_us = duration.as_nanos().div_ceil(1000);
    let duration_us = u64::try_from(duration_us).unwrap_or(u64::MAX);
    Sleep {
        core: this_core(),
        deadline_us: monotonic_us().saturating_add(duration_us),
        number: None,
    }
}

/// Future of [`sleep`]. Dropping it forgets its waker.
pub(super) struct Sleep {
    core: Core,
    deadline_us: u64,
    /// Its place among the waiting, once it waits.
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if monotonic_us() >= self.deadline_us {
            return Poll::Ready(());
        }
        let core = self.core.clone();
        let timers = core.timers();
        let number = *self.number.get_or_insert_with(|| {
            timers.count.set(timers.count.get() + 1);
            timers.count.get()
        });
        let waker = cx.waker().clone();
        let replaced = timers
            .waiting
            .borrow_mut()
            .insert((self.deadline_us, number), waker);
        // What a waker's end may end in turn finds the map free.
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let key = (self.deadline_us, number);
            let removed = self.core.timers().waiting.borrow_mut().remove(&key);
            drop(removed);
        }
    }
}
