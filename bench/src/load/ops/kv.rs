//! The operations on keys: put, txn-update, range, list, delete, and mixtures of them.

use rand::Rng;

use super::super::keys::{KeyChoice, KeyText, value};
use super::super::net::Net;
use super::super::wire::{
    Fields, Malformed, Value, bytes_field, header_revision, number_field, put_bytes, put_number,
};
use super::super::worker::{Shift, Workload};
use super::Share;
use super::listing::Listing;
use super::requests::Requests;
use crate::grpc::{Delivery, Event, Failure, Rpc};
use crate::job::{JobSpec, ListMode, MixPart, Op};

/// Field numbers of answers.
const RANGE_KVS: u32 = 2;
const TXN_SUCCEEDED: u32 = 2;
const TXN_RESPONSES: u32 = 3;
const RESPONSE_RANGE: u32 = 1;
const KV_MOD_REVISION: u32 = 3;
/// Field numbers of RangeRequest.
const REQUEST_KEY: u32 = 1;
const REQUEST_RANGE_END: u32 = 2;
const REQUEST_LIMIT: u32 = 3;
const REQUEST_REVISION: u32 = 4;
const REQUEST_SERIALIZABLE: u32 = 7;

/// The workload of the plain operations.
pub struct Kv {
    parts: Vec<MixPart>,
    weight_sum: u32,
    /// Deletes are among them, so a key may be missing.
    may_miss: bool,
    requests: Requests,
    list: ListPlan,
    choice: KeyChoice,
    /// The mod revision of each key as far as this worker knows it.
    revisions: Vec<i64>,
    places: Vec<Place>,
    first_place: u64,
    places_total: u64,
}

/// How all keys are read.
struct ListPlan {
    mode: ListMode,
    page_limit: u64,
    serializable: bool,
    from: Vec<u8>,
    to: Vec<u8>,
}

/// The operation in one place.
#[derive(Default)]
struct Place {
    part: usize,
    key: u64,
    /// What the message of the answer said; None until it has come.
    answer: Option<Result<Answer, Malformed>>,
    listing: Listing,
    /// The revision that the pages of a listing are read at; 0 before the first.
    pinned: i64,
}

/// What must be known of an answer.
#[derive(Clone, Copy)]
enum Answer {
    /// It is what it should be.
    Good,
    /// There is no such key.
    Missing,
    /// The update took place at this revision.
    Updated(i64),
    /// The update found this mod revision, 0 for none.
    Conflict(i64),
}

impl Kv {
    /// The operations of one worker.
    pub fn new(share: Share<'_>) -> Self {
        let job = share.job;
        let keys = KeyText::of(job);
        let parts = parts(job);
        let places = (0..job.iodepth).map(|_| Place::default()).collect();
        let range = keys.range();
        Self {
            weight_sum: parts.iter().map(|part| part.weight).sum(),
            may_miss: parts.iter().any(|part| part.op == Op::Delete),
            parts,
            requests: Requests::new(keys, &value(job.seed, job.value_bytes), job.serializable),
            list: ListPlan {
                mode: job.list_mode,
                page_limit: job.page_limit,
                serializable: job.serializable,
                from: range.start,
                to: range.end,
            },
            choice: KeyChoice::new(job, share.worker),
            revisions: share.revisions.to_vec(),
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
        let (key, requests) = (place.key, &self.requests);
        let session = net.session(at as usize);
        match self.parts[place.part].op {
            Op::Put => session.call(Rpc::Put, at, Delivery::Unary, |out| requests.put(key, out)),
            Op::Range => {
                session.call(Rpc::Range, at, Delivery::Unary, |out| {
                    requests.range(key, out)
                });
            }
            Op::Delete => session.call(Rpc::DeleteRange, at, Delivery::Unary, |out| {
                requests.delete(key, out);
            }),
            Op::TxnUpdate => {
                let known = self.revisions[key as usize];
                session.call(Rpc::Txn, at, Delivery::Unary, |out| {
                    requests.update(key, known, out);
                });
            }
            Op::List => {
                let rpc = match self.list.mode {
                    ListMode::Stream => Rpc::RangeStream,
                    ListMode::Paged | ListMode::Full => Rpc::Range,
                };
                let list = &self.list;
                session.call(rpc, at, Delivery::Pieces, |out| {
                    list.write(&place.listing, place.pinned, out);
                });
            }
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
            Answer::Updated(revision) => self.revisions[place.key as usize] = revision,
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
        let expected = self.revisions.len() as u64;
        let place = &mut self.places[at as usize];
        if let Some(Err(Malformed)) = place.answer {
            shift.fail(at, &Failure::Answer("not the expected message"));
            return;
        }
        let listing = &mut place.listing;
        if listing.more {
            place.pinned = listing.revision;
            listing.begin_page();
            shift.go_on(at);
            return;
        }
        if listing.key_count != expected && !self.may_miss {
            shift.fail(at, &Failure::Answer("not all keys are listed"));
            return;
        }
        shift.tally.record_bytes(listing.bytes, shift.now);
        let part = place.part;
        shift.complete(at, part);
    }
}

impl Workload for Kv {
    fn start(&mut self, at: u32, net: &mut Net, _shift: &mut Shift) {
        let part = self.choose_part();
        let key = match self.parts[part].op {
            Op::TxnUpdate => {
                let place = self.first_place + u64::from(at);
                self.choice.next_of(place, self.places_total)
            }
            _ => self.choice.next(),
        };
        let place = &mut self.places[at as usize];
        (place.part, place.key, place.pinned) = (part, key, 0);
        if self.parts[part].op == Op::List {
            place.listing.begin(self.list.mode == ListMode::Stream);
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
                place.answer = Some(Answer::read(self.parts[place.part].op, message));
            }
            Event::Piece { bytes, is_last } => {
                if let Err(malformed) = place.listing.take(bytes, is_last) {
                    place.answer = Some(Err(malformed));
                }
            }
            Event::End(Ok(())) => self.on_answer(at, shift),
            Event::End(Err(failure)) => shift.fail(at, &failure),
        }
    }
}

impl ListPlan {
    /// Appends the RangeRequest for what follows the last key.
    fn write(&self, listing: &Listing, pinned: i64, out: &mut Vec<u8>) {
        if pinned == 0 {
            put_bytes(out, REQUEST_KEY, &self.from);
        } else {
            // The least key behind the last one, as kube-apiserver continues.
            let next = [&listing.last_key[..], b"\0"].concat();
            put_bytes(out, REQUEST_KEY, &next);
        }
        put_bytes(out, REQUEST_RANGE_END, &self.to);
        if self.mode == ListMode::Paged {
            put_number(out, REQUEST_LIMIT, self.page_limit);
        }
        if pinned != 0 {
            put_number(out, REQUEST_REVISION, pinned.cast_unsigned());
        }
        if self.serializable {
            put_number(out, REQUEST_SERIALIZABLE, 1);
        }
    }
}

impl Answer {
    fn read(op: Op, message: &[u8]) -> Result<Self, Malformed> {
        match op {
            Op::Range => {
                header_revision(message)?;
                let pair = bytes_field(message, RANGE_KVS)?;
                Ok(pair.map_or(Self::Missing, |_| Self::Good))
            }
            Op::TxnUpdate => Self::read_update(message),
            _ => header_revision(message).map(|_| Self::Good),
        }
    }

    fn read_update(message: &[u8]) -> Result<Self, Malformed> {
        let revision = header_revision(message)?;
        if number_field(message, TXN_SUCCEEDED)? != 0 {
            return Ok(Self::Updated(revision));
        }
        let mut fields = Fields(message);
        while let Some((field, value)) = fields.next()? {
            if let (TXN_RESPONSES, Value::Bytes(response)) = (field, value) {
                let range = bytes_field(response, RESPONSE_RANGE)?.ok_or(Malformed)?;
                let pair = bytes_field(range, RANGE_KVS)?;
                let found = pair.map_or(Ok(0), |pair| number_field(pair, KV_MOD_REVISION))?;
                return Ok(Self::Conflict(found.cast_signed()));
            }
        }
        Err(Malformed)
    }
}

/// The operations of a job and their weights.
fn parts(job: &JobSpec) -> Vec<MixPart> {
    match job.op {
        Op::Mixed => job.mix.clone(),
        op => vec![MixPart { op, weight: 1 }],
    }
}
