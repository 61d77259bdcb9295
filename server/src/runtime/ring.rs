//! Bounded queues between two cores: one producer, one consumer, one wake-up per batch.
//!
//! ```text
//!   core A                                core B
//!   Outbox::push .. push, flush  ---->    eventfd (first flush of a batch only) -> Inbox::ready, pop .. pop
//!   Outbox::vacant  <----------------     eventfd, only when A waits for room
//! ```
//!
//! The queue is rtrb's lock-free ring; this file adds the wake-ups. The ends are `Send` until they are
//! attached to a core; then they stay there.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use super::core::{Port, this_core, try_this_core};
use super::cores::CoreLink;
use super::event::LocalEvent;

/// Makes a ring for `capacity` values from core `from` to core `to`.
///
/// Any thread may push through an unattached [`RingSender`], as long as it is one thread at a time; then `from`
/// is only told about room if it is a core that waits for it.
#[must_use]
pub fn ring<T: Send + 'static>(
    capacity: usize,
    from: &CoreLink,
    to: &CoreLink,
) -> (RingSender<T>, RingReceiver<T>) {
    assert!(capacity > 0, "a ring holds at least one value");
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    let starved = Arc::new(AtomicBool::new(false));
    let sender = RingSender {
        producer: Some(producer),
        to: to.clone(),
        starved: starved.clone(),
        unflushed: false,
    };
    let receiver = RingReceiver {
        consumer,
        from: from.clone(),
        starved,
    };
    (sender, receiver)
}

/// Sending end, not yet on a core.
pub struct RingSender<T> {
    /// `None` only inside `drop`.
    producer: Option<rtrb::Producer<T>>,
    to: CoreLink,
    /// Set by a sender that waits for room, cleared by the receiver that makes some.
    starved: Arc<AtomicBool>,
    unflushed: bool,
}

impl<T: Send + 'static> RingSender<T> {
    /// Adds a value, or gives it back when the ring is full. The receiver may not see it before
    /// [`flush`](RingSender::flush).
    pub fn push(&mut self, value: T) -> Result<(), T> {
        match self.producer_mut().push(value) {
            Ok(()) => {
                self.unflushed = true;
                Ok(())
            }
            Err(rtrb::PushError::Full(value)) => Err(value),
        }
    }

    /// Wakes the receiver if anything was pushed since the last flush. Call once per batch.
    pub fn flush(&mut self) {
        if !std::mem::take(&mut self.unflushed) {
            return;
        }
        wake_other(&self.to);
    }

    /// Places free right now.
    #[must_use]
    pub fn vacant_count(&self) -> usize {
        self.producer().slots()
    }

    /// True when the receiving end is gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.producer().is_abandoned()
    }

    /// Binds this end to the calling core.
    #[must_use]
    pub fn attach(self) -> Outbox<T> {
        let port = Rc::new(OutboxPort {
            has_news: LocalEvent::new(),
        });
        this_core().register(&port);
        Outbox { sender: self, port }
    }

    fn producer(&self) -> &rtrb::Producer<T> {
        self.producer
            .as_ref()
            .expect("the producer is there until drop")
    }

    fn producer_mut(&mut self) -> &mut rtrb::Producer<T> {
        self.producer
            .as_mut()
            .expect("the producer is there until drop")
    }
}

impl<T> Drop for RingSender<T> {
    fn drop(&mut self) {
        // First mark the ring as abandoned, then wake the receiver, so that it sees the mark when it looks.
        self.producer = None;
        self.to.wake();
    }
}

/// Receiving end, not yet on a core.
pub struct RingReceiver<T> {
    consumer: rtrb::Consumer<T>,
    from: CoreLink,
    starved: Arc<AtomicBool>,
}

impl<T: Send + 'static> RingReceiver<T> {
    /// Binds this end to the calling core, which must be the `to` of [`ring`].
    #[must_use]
    pub fn attach(self) -> Inbox<T> {
        let capacity = self.consumer.buffer().capacity();
        let port = Rc::new(InboxPort {
            consumer: RefCell::new(Some(self.consumer)),
            from: self.from,
            starved: self.starved,
            pops_until_announce: Cell::new(capacity.div_ceil(2)),
            capacity,
            event: LocalEvent::new(),
        });
        this_core().register(&port);
        // What was pushed before now may have been announced to nobody.
        port.look();
        Inbox(port)
    }
}

/// Sending end on its core.
pub struct Outbox<T> {
    sender: RingSender<T>,
    port: Rc<OutboxPort>,
}

struct OutboxPort {
    has_news: LocalEvent,
}

impl Port for OutboxPort {
    fn look(&self) {
        self.has_news.notify();
    }
}

impl<T: Send + 'static> Outbox<T> {
    /// See [`RingSender::push`].
    pub fn push(&mut self, value: T) -> Result<(), T> {
        self.sender.push(value)
    }

    /// See [`RingSender::flush`].
    pub fn flush(&mut self) {
        self.sender.flush();
    }

    /// See [`RingSender::vacant_count`].
    #[must_use]
    pub fn vacant_count(&self) -> usize {
        self.sender.vacant_count()
    }

    /// See [`RingSender::is_abandoned`].
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.sender.is_abandoned()
    }

    /// Flushes, then waits until there is room for at least one value. Also returns when the receiver is gone.
    pub async fn vacant(&mut self) {
        self.flush();
        loop {
            if self.sender.vacant_count() > 0 || self.is_abandoned() {
                return;
            }
            self.sender.starved.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // Looked again after the flag is up: a receiver that popped before it saw the flag told nobody.
            if self.sender.vacant_count() > 0 {
                return;
            }
            self.port.has_news.wait().await;
        }
    }
}

/// Receiving end on its core.
pub struct Inbox<T>(Rc<InboxPort<T>>);

struct InboxPort<T> {
    /// `None` only inside `drop`.
    consumer: RefCell<Option<rtrb::Consumer<T>>>,
    from: CoreLink,
    starved: Arc<AtomicBool>,
    pops_until_announce: Cell<usize>,
    capacity: usize,
    event: LocalEvent,
}

impl<T> InboxPort<T> {
    fn with_consumer<R>(&self, use_it: impl FnOnce(&mut rtrb::Consumer<T>) -> R) -> R {
        use_it(
            self.consumer
                .borrow_mut()
                .as_mut()
                .expect("the consumer is there until drop"),
        )
    }

    /// Tells a sender that waits for room. Called when the ring is empty or half of it was popped: waking the
    /// other core for every single place would cost more than the place is worth.
    fn announce_room(&self) {
        self.pops_until_announce.set(self.capacity.div_ceil(2));
        // Orders the pops before the look at the flag; `Outbox::vacant` raises the flag before it looks at the
        // places again. One of the two sees the other.
        fence(Ordering::SeqCst);
        if self.starved.load(Ordering::Relaxed) && self.starved.swap(false, Ordering::AcqRel) {
            wake_other(&self.from);
        }
    }
}

impl<T> Port for InboxPort<T> {
    fn look(&self) {
        let has_news =
            self.with_consumer(|consumer| !consumer.is_empty() || consumer.is_abandoned());
        if has_news {
            self.event.notify();
        }
    }
}

impl<T> Drop for InboxPort<T> {
    fn drop(&mut self) {
        *self.consumer.get_mut() = None;
        wake_other(&self.from);
    }
}

impl<T: Send + 'static> Inbox<T> {
    /// Takes the oldest value.
    pub fn pop(&mut self) -> Option<T> {
        let Ok(value) = self.0.with_consumer(rtrb::Consumer::pop) else {
            self.0.announce_room();
            return None;
        };
        let left = self.0.pops_until_announce.get() - 1;
        self.0.pops_until_announce.set(left);
        if left == 0 {
            self.0.announce_room();
        }
        Some(value)
    }

    /// Values that can be popped right now.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        let count = self.0.with_consumer(|consumer| consumer.slots());
        if count == 0 {
            self.0.announce_room();
        }
        count
    }

    /// True when nothing will ever come again.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        // In this order: a sender may push and go between two looks.
        self.0
            .with_consumer(|consumer| consumer.is_abandoned() && consumer.is_empty())
    }

    /// Notified when the ring may have become non-empty. One waiter, see [`LocalEvent`].
    #[must_use]
    pub fn event(&self) -> &LocalEvent {
        &self.0.event
    }

    /// Waits until something can be popped, or the sender is gone ([`is_finished`](Inbox::is_finished)).
    pub async fn ready(&mut self) {
        while self.ready_count() == 0 && !self.is_finished() {
            self.0.event.wait().await;
        }
    }
}

fn wake_other(link: &CoreLink) {
    match try_this_core() {
        // Both ends share a core: no kernel involved.
        Some(core) if core.link().is_same(link) => core.deliver(),
        _ => link.wake(),
    }
}
