//! The operations on keys: put, txn-update, range, list, delete, and mixtures of them.

use rand::Rng;

use super::super::flow::Start;
use super::super::keys::{KeyChoice, KeyText, value};
use super::super::net::Net;
use super::super::wire::Malformed;
use super::super::worker::{Shift, Workload};
use super::Share;
use super::answer::Answer;
use super::listing::Listing;
use super::pages::Pages;
use super::requests::{Change, delete, guarded, put, range};
use crate::grpc::{Delivery, Event, Failure, Rpc};
use crate::job::{JobSpec, MixPart, Op};

/// The workload of the plain operations.
pub struct Kv {
    parts: Vec<MixPart>,
    weight_sum: u32,
    /// Deletes are among them, so a key may be missing.
    may_miss: bool,
    keys: KeyText,
    /// The key of the request that is being written.
    key: Vec<u8>,
    value: Vec<u8>,
    serializable: bool,
    pages: Pages,
    key_count: u64,
    choice: KeyChoice,
    /// The mod revision of each key as far as this worker knows it.
    revisions: Vec<i64>,
    places: Vec<Place>,
    first_place: u64,
    places_total: u64,
}

/// The operation in one place.
#[derive(Default)]
struct Place {
    part: usize,
    key: u64,
    /// What the message of the answer said; None until it has come.
    answer: Option<Result<Answer, Malformed>>,
    listing: Listing,
}

impl Kv {
    /// The operations of one worker.
    pub fn new(share: Share<'_>) -> Self {
        let job = share.job;
        let keys = KeyText::of(job);
        let parts = parts(job);
        let places = (0..job.iodepth).map(|_| Place::default()).collect();
        let pages = Pages::new(
            keys.range(),
            job.list_mode,
            job.page_limit,
            job.serializable,
        );
        Self {
            weight_sum: parts.iter().map(|part| part.weight).sum(),
            may_miss: parts.iter().any(|part| part.op == Op::Delete),
            parts,
            key: keys.key(0),
            keys,
            value: value(job.seed, job.value_bytes),
            serializable: job.serializable,
            pages,
            key_count: job.key_count,
            choice: KeyChoice::new(job, share.worker),
            revisions: share.revisions.first().cloned().unwrap_or_default(),
            places,
            first_place: share.first_place(),
            places_total: job.in_flight(),
        }
    }

    /// The names of the kinds of operations, if there are several.
    pub fn steps(job: &JobSpec) -> Vec<(&'static str, bool)> {
        let parts = parts(job);
        match &parts[..] {
            [_] => Vec::new(),
            _ => parts.iter().map(|part| (part.op.name(), true)).collect(),
        }
    }

    fn choose_part(&mut self) -> usize {
        if self.parts.len() == 1 {
            return 0;
        }
        let mut ticket = self.choice.rng().random_range(0..self.weight_sum);
        for (at, part) in self.parts.iter().enumerate() {
            match ticket.checked_sub(part.weight) {
                Some(rest) => ticket = rest,
                None => return at,
            }
        }
        unreachable!("a ticket lies below the sum of the weights");
    }

    /// Sends the request that the place's operation needs now.
    fn send(&mut self, at: u32, net: &mut Net) {
        let place = &mut self.places[at as usize];
        place.answer = None;
        let op = self.parts[place.part].op;
        self.keys.patch(&mut self.key, place.key);
        let (key, value) = (&self.key[..], &self.value[..]);
        let session = net.session(at as usize);
        let whole = Delivery::Unary;
        match op {
            Op::Put => session.call(Rpc::Put, at, whole, |out| put(out, key, value, 0)),
            Op::Range => {
                session.call(Rpc::Range, at, whole, |out| {
                    range(out, key, self.serializable);
                });
            }
            Op::Delete => session.call(Rpc::DeleteRange, at, whole, |out| delete(out, key)),
            Op::TxnUpdate => {
                let known = self.revisions[place.key as usize];
                let change = Change::Put { value, lease: 0 };
                session.call(Rpc::Txn, at, whole, |out| guarded(out, key, known, change));
            }
            Op::List => self.pages.call(&place.listing, session, at),
            op => unreachable!("{op} is no operation on keys"),
        }
    }

    /// The answer to the place's request is whole and good as far as gRPC goes.
    fn on_answer(&mut self, at: u32, shift: &mut Shift) {
        let place = &mut self.places[at as usize];
        let op = self.parts[place.part].op;
        if op == Op::List {
            self.on_page(at, shift);
            return;
        }
        let Some(Ok(answer)) = place.answer.take() else {
            shift.fail(at, &Failure::Answer("not the expected message"));
            return;
        };
        match answer {
            Answer::Good => {}
            Answer::Missing if self.may_miss => {}
            Answer::Missing => {
                shift.fail(at, &Failure::Answer("no such key"));
                return;
            }
            Answer::Changed(revision) => self.revisions[place.key as usize] = revision,
            Answer::Conflict(found) => {
                self.revisions[place.key as usize] = found;
                shift.tally.record_conflict(shift.now);
                shift.go_on(at);
                return;
            }
        }
        let part = place.part;
        shift.complete(at, part);
    }

    /// A page, or all, of a listing has come.
    fn on_page(&mut self, at: u32, shift: &mut Shift) {
        let expected = self.key_count;
        let place = &mut self.places[at as usize];
        if let Some(Err(Malformed)) = place.answer {
            shift.fail(at, &Failure::Answer("not the expected message"));
            return;
        }
        let listing = &mut place.listing;
        if listing.more {
            listing.begin_page();
            shift.go_on(at);
            return;
        }
        // Another job may have left more.
        if listing.key_count < expected && !self.may_miss {
            shift.fail(at, &Failure::Answer("not all keys are listed"));
            return;
        }
        shift.tally.record_bytes(listing.bytes, shift.now);
        let part = place.part;
        shift.complete(at, part);
    }
}

impl Workload for Kv {
    fn start(&mut self, start: Start, net: &mut Net, _shift: &mut Shift) {
        let at = start.place;
        let part = self.choose_part();
        let key = match self.parts[part].op {
            Op::TxnUpdate => {
                let place = self.first_place + u64::from(at);
                self.choice.next_of(place, self.places_total)
            }
            _ => self.choice.next(),
        };
        let place = &mut self.places[at as usize];
        (place.part, place.key) = (part, key);
        if self.parts[part].op == Op::List {
            self.pages.begin(&mut place.listing);
        }
        self.send(at, net);
    }

    fn go_on(&mut self, at: u32, net: &mut Net, _shift: &mut Shift) {
        self.send(at, net);
    }

    fn on_event(&mut self, at: u32, event: Event<'_>, shift: &mut Shift) {
        let place = &mut self.places[at as usize];
        match event {
            Event::Message(message) => {
                place.answer = Some(match self.parts[place.part].op {
                    Op::Range => Answer::range(message),
                    Op::TxnUpdate => Answer::guarded(message),
                    _ => Answer::plain(message),
                });
            }
            Event::Piece { bytes, is_last } => {
                if let Err(malformed) = place.listing.take(bytes, is_last) {
                    place.answer = Some(Err(malformed));
                }
            }
            Event::End(Ok(())) => self.on_answer(at, shift),
            Event::End(Err(failure)) => {
                let is_list = self.parts[place.part].op == Op::List;
                if is_list && self.pages.falls_back(&place.listing, &failure) {
                    self.pages.begin(&mut place.listing);
                    shift.go_on(at);
                } else {
                    shift.fail(at, &failure);
                }
            }
        }
    }
}

/// The operations of a job and their weights.
fn parts(job: &JobSpec) -> Vec<MixPart> {
    match job.op {
        Op::Mixed => job.mix.clone(),
        op => vec![MixPart { op, weight: 1 }],
    }
}
