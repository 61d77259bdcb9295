//! Wake-ups between tasks of one core: an event with one waiter, a latch with many.
//!
//! Neither type crosses threads. Both store at most one waker per waiting task, because glommio counts the
//! wakers of a task in an `i16` and panics past 32,767 (fault 3 of the module story).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// An auto-reset event with one waiter.
///
/// * [`notify`](LocalEvent::notify) is remembered: a wait that starts afterwards returns at once.
/// * Notifications coalesce: any number of them before a wait are one.
/// * A wait that returns resets the event, so check the condition *after* waiting, and wait again only when
///   it does not hold. Spurious returns are possible.
/// * One task waits at a time. When a second one waits, the first is woken by nothing; use [`Latch`] or one
///   event per task instead.
#[derive(Clone, Default)]
pub struct LocalEvent(Rc<EventState>);

#[derive(Default)]
struct EventState {
    notified: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl LocalEvent {
    /// An event that nobody has notified.
    #[must_use]
    pub fn new() -> LocalEvent {
        LocalEvent::default()
    }

    /// Lets the current or the next wait return.
    pub fn notify(&self) {
        self.0.notified.set(true);
        // The waker leaves the cell before it is called, so that waking may re-enter this event.
        let waiter = self.0.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// True when a notification waits to be consumed.
    #[must_use]
    pub fn is_notified(&self) -> bool {
        self.0.notified.get()
    }

    /// Waits for a notification and consumes it.
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| self.poll_wait(cx))
    }

    /// [`wait`](LocalEvent::wait) for hand-written futures.
    pub fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.notified.replace(false) {
            return Poll::Ready(());
        }
        let mut waiter = self.0.waiter.borrow_mut();
        match &*waiter {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waiter = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// A flag that is set once and stays set; any number of tasks may wait for it.
#[derive(Clone, Default)]
pub struct Latch(Rc<LatchState>);

#[derive(Default)]
struct LatchState {
    set: Cell<bool>,
    waiters: RefCell<Waiters>,
}

/// Wakers in reusable places, so that a wait that ends early gives its waker back.
#[derive(Default)]
struct Waiters {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Latch {
    /// A latch that is not set.
    #[must_use]
    pub fn new() -> Latch {
        Latch::default()
    }

    /// Sets the latch and wakes everyone who waits.
    pub fn set(&self) {
        if self.0.set.replace(true) {
            return;
        }
        let waiters = std::mem::take(&mut *self.0.waiters.borrow_mut());
        waiters.places.into_iter().flatten().for_each(Waker::wake);
    }

    /// True once set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.set.get()
    }

    /// Waits until the latch is set. Dropping the future forgets its waker.
    #[must_use]
    pub fn wait(&self) -> LatchWait {
        LatchWait {
            latch: self.clone(),
            place: None,
        }
    }
}

/// Future of [`Latch::wait`].
pub struct LatchWait {
    latch: Latch,
    place: Option<usize>,
}

impl Future for LatchWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.latch.is_set() {
            self.place = None;
            return Poll::Ready(());
        }
        let place = self.place;
        let mut waiters = self.latch.0.waiters.borrow_mut();
        let place = place.unwrap_or_else(|| {
            waiters.free.pop().unwrap_or_else(|| {
                waiters.places.push(None);
                waiters.places.len() - 1
            })
        });
        match &waiters.places[place] {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => waiters.places[place] = Some(cx.waker().clone()),
        }
        drop(waiters);
        self.place = Some(place);
        Poll::Pending
    }
}

impl Drop for LatchWait {
    fn drop(&mut self) {
        // After `set` the places are gone, and with them this one.
        if let (Some(place), false) = (self.place, self.latch.is_set()) {
            let mut waiters = self.latch.0.waiters.borrow_mut();
            waiters.places[place] = None;
            waiters.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn event_remembers_and_coalesces_notifications() {
        block_on(async {
            let event = LocalEvent::new();
            event.notify();
            event.notify();
            event.wait().await;
            assert!(poll_once(event.wait()).await.is_none());
        });
    }

    #[test]
    fn event_keeps_one_waker_however_often_it_is_polled() {
        let event = LocalEvent::new();
        let waker = std::sync::Arc::new(Counter(std::sync::atomic::AtomicUsize::new(0)));
        let task = Waker::from(waker.clone());
        let mut cx = Context::from_waker(&task);
        for _ in 0..100_000 {
            assert!(event.poll_wait(&mut cx).is_pending());
        }
        assert!(std::sync::Arc::strong_count(&waker) <= 3);
        event.notify();
        assert_eq!(waker.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    struct Counter(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Counter {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn latch_wakes_all_and_forgets_abandoned_waits() {
        block_on(async {
            let latch = Latch::new();
            for _ in 0..10 {
                assert!(poll_once(latch.wait()).await.is_none());
            }
            assert_eq!(
                latch.0.waiters.borrow().places.len(),
                1,
                "abandoned waits reuse their place"
            );
            latch.set();
            latch.wait().await;
            assert!(latch.is_set());
        });
    }
}
