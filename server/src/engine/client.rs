//! A front core's end of the rings to the engine: ask, and await the answer.
//!
//! One [`EngineClient`] per core. Handlers call [`EngineClient::ask`]; the core's pump (`front/api/pump.rs`)
//! hands every reply from the ring to [`EngineClient::on_reply`]. At most
//! [`REQUESTS_PER_CORE_MAX`] questions are out at a time, which is what keeps the rings from overflowing.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use keelson_proto::ApiError;

use super::limits::REQUESTS_PER_CORE_MAX;
use super::message::{Answer, Ask, Inbound, NO_TOKEN, Token};
use crate::runtime::Outbox;

/// Asks the engine on behalf of this core's handlers.
pub struct EngineClient {
    ring: RefCell<Outbox<Inbound>>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    waiting: Cell<usize>,
}

/// A question that is out, or a free place for one.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    state: SlotState,
    asked_ms: u64,
}

#[derive(Debug, Default)]
enum SlotState {
    #[default]
    Free,
    /// Out; whether its time has run out is looked at only by the sweeper.
    Waiting(Option<Waker>),
    Done(Result<Answer, ApiError>),
    /// The asker was told "timed out"; the engine's late answer is dropped.
    Abandoned,
}

impl EngineClient {
    /// A client over the ring to the engine.
    #[must_use]
    pub fn new(ring: Outbox<Inbound>) -> Self {
        Self {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            free: RefCell::default(),
            waiting: Cell::new(0),
        }
    }

    /// Asks at once; the answer is for waiting. `now_ms` is this core's coarse clock.
    pub fn ask(&self, ask: Ask, now_ms: u64) -> Answering<'_> {
        let mut answering = Answering {
            client: self,
            token: None,
        };
        if self.waiting.get() < REQUESTS_PER_CORE_MAX {
            let token = self.open_slot(now_ms);
            if self.push(Inbound { token, ask }) {
                answering.token = Some(token);
            } else {
                self.close_slot(token);
            }
        }
        answering
    }

    /// Sends a question that is not answered by a reply.
    ///
    /// # Errors
    /// The question itself if the ring is full: send it again later.
    // It goes back into the queue it came from; a box per refusal would cost more.
    #[allow(clippy::result_large_err)]
    pub fn tell(&self, ask: Ask) -> Result<(), Ask> {
        let mut ring = self.ring.borrow_mut();
        let told = ring.push(Inbound {
            token: NO_TOKEN,
            ask,
        });
        ring.flush();
        told.map_err(|inbound| inbound.ask)
    }

    /// Hands a reply to whoever waits for it.
    pub fn on_reply(&self, token: Token, result: Result<Answer, ApiError>) {
        let waker = {
            let mut slots = self.slots.borrow_mut();
            let (slot, generation) = parts(token);
            let held = &mut slots[slot];
            assert_eq!(
                held.generation, generation,
                "the engine answers a token once"
            );
            match std::mem::replace(&mut held.state, SlotState::Done(result)) {
                SlotState::Waiting(waker) => waker,
                SlotState::Abandoned => {
                    drop(slots);
                    self.close_slot(token);
                    None
                }
                other => panic!("the engine answers a token once, and it was {other:?}"),
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the wait of every question asked before `deadline_ms`. The engine may still carry the request
    /// out; the client is told that its outcome is unknown, as etcd does.
    pub fn expire_before(&self, deadline_ms: u64) {
        let mut wakers = Vec::new();
        for slot in self.slots.borrow_mut().iter_mut() {
            if slot.asked_ms < deadline_ms
                && let SlotState::Waiting(waker) = &mut slot.state
            {
                wakers.extend(waker.take());
                slot.state = SlotState::Abandoned;
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Questions that are out.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.get()
    }

    fn push(&self, inbound: Inbound) -> bool {
        let mut ring = self.ring.borrow_mut();
        let pushed = ring.push(inbound).is_ok();
        ring.flush();
        pushed
    }

    /// The asker has gone away before its answer came.
    fn abandon(&self, token: Token) {
        let (slot, _) = parts(token);
        let answered = {
            let held = &mut self.slots.borrow_mut()[slot];
            let answered = matches!(held.state, SlotState::Done(_));
            if !answered {
                held.state = SlotState::Abandoned;
            }
            answered
        };
        if answered {
            self.close_slot(token);
        }
    }

    fn poll_slot(&self, token: Token, waker: &Waker) -> Poll<Result<Answer, ApiError>> {
        let (slot, _) = parts(token);
        let done = {
            let mut slots = self.slots.borrow_mut();
            match &mut slots[slot].state {
                SlotState::Waiting(held) => {
                    *held = Some(waker.clone());
                    return Poll::Pending;
                }
                // The slot stays taken until the late answer comes.
                SlotState::Abandoned => return Poll::Ready(Err(ApiError::Timeout)),
                state => std::mem::take(state),
            }
        };
        self.close_slot(token);
        match done {
            SlotState::Done(result) => Poll::Ready(result),
            other => panic!("a slot is polled by its asker only, and it was {other:?}"),
        }
    }

    fn open_slot(&self, now_ms: u64) -> Token {
        self.waiting.set(self.waiting.get() + 1);
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            u32::try_from(slots.len() - 1).expect("slots are bounded by REQUESTS_PER_CORE_MAX")
        });
        let held = &mut slots[slot as usize];
        held.state = SlotState::Waiting(None);
        held.asked_ms = now_ms;
        Token(u64::from(held.generation) << 32 | u64::from(slot))
    }

    fn close_slot(&self, token: Token) {
        self.waiting.set(self.waiting.get() - 1);
        let (slot, _) = parts(token);
        let held = &mut self.slots.borrow_mut()[slot];
        held.state = SlotState::Free;
        held.generation = held.generation.wrapping_add(1) & (u32::MAX >> 1);
        self.free.borrow_mut().push(slot as u32);
    }
}

/// The answer to a question that is out. Dropped early, it gives its place back once the answer has come.
///
/// A future of two words: the question itself is in the ring already, and not in each future around this one.
pub struct Answering<'a> {
    client: &'a EngineClient,
    /// None once it is answered, and from the beginning if there was no room for the question.
    token: Option<Token>,
}

impl Answering<'_> {
    /// Whether there was no room for the question.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.token.is_none()
    }
}

impl Future for Answering<'_> {
    type Output = Result<Answer, ApiError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(token) = self.token else {
            return Poll::Ready(Err(ApiError::TooManyRequests));
        };
        let answer = self.client.poll_slot(token, cx.waker());
        if answer.is_ready() {
            self.token = None;
        }
        answer
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.token {
            self.client.abandon(token);
        }
    }
}

fn parts(token: Token) -> (usize, u32) {
    (token.0 as u32 as usize, (token.0 >> 32) as u32)
}
