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
    /// Its time has run out, and the asker was woken, but has not looked yet. An answer that comes first counts.
    Expired,
    /// The asker was told "timed out", or is gone; the engine's late answer is dropped.
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
                SlotState::Expired => None,
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
                slot.state = SlotState::Expired;
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
                state @ SlotState::Expired => {
                    *state = SlotState::Abandoned;
                    return Poll::Ready(Err(ApiError::Timeout));
                }
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

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::RangeRequest;
    use keelson_storage::ids::CoreId;

    use super::*;
    use crate::runtime::{CoreLink, RuntimeConfig, ring, start};

    fn look(answering: &mut Answering<'_>) -> Poll<Result<Answer, ApiError>> {
        Pin::new(answering).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn judge(client: &EngineClient) {
        let ask = |now_ms| client.ask(Ask::Range(RangeRequest::default()), now_ms);
        let token = |answering: &Answering<'_>| answering.token.expect("there was room");
        // Its time ran out, and the answer came before it looked; the place must not be another's meanwhile.
        let mut first = ask(0);
        client.expire_before(1);
        client.on_reply(token(&first), Err(ApiError::NoLeader));
        let mut second = ask(5);
        assert!(matches!(
            look(&mut first),
            Poll::Ready(Err(ApiError::NoLeader))
        ));
        assert!(look(&mut second).is_pending());
        client.on_reply(token(&second), Err(ApiError::Compacted));
        assert!(matches!(
            look(&mut second),
            Poll::Ready(Err(ApiError::Compacted))
        ));
        // Its time ran out, it looked, and the answer came after that.
        let mut third = ask(0);
        let late = token(&third);
        client.expire_before(1);
        assert!(matches!(
            look(&mut third),
            Poll::Ready(Err(ApiError::Timeout))
        ));
        assert_eq!(client.waiting_count(), 1);
        client.on_reply(late, Err(ApiError::NoLeader));
        // Its time ran out, and it went away without looking.
        let fourth = ask(0);
        let late = token(&fourth);
        client.expire_before(1);
        drop(fourth);
        client.on_reply(late, Err(ApiError::NoLeader));
        assert_eq!(client.waiting_count(), 0);
        assert_eq!(client.free.borrow().len(), client.slots.borrow().len());
    }

    /// Found with real members: one was stopped for longer than requests may take, and then both came at once.
    #[test]
    fn an_answer_that_comes_when_the_time_is_up_gives_the_place_back_once() {
        let seats = |links: &[CoreLink]| links.iter().map(|_| ()).collect::<Vec<()>>();
        let config = RuntimeConfig {
            pin: false,
            ..RuntimeConfig::default()
        };
        let cores = start(&[CoreId(0)], &config, seats, |core, ()| async move {
            let (sender, _receiver) = ring(8, core.link(), core.link());
            judge(&EngineClient::new(sender.attach()));
        });
        cores.expect("a core starts").join().expect("it ends well");
    }
}
