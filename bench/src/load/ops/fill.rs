//! Writes all keys before a job that reads them: many to a transaction, several in flight.

use super::super::flow::{Start, share};
use super::super::keys::KeyText;
use super::super::net::Net;
use super::super::wire::header_revision;
use super::super::worker::{Shift, Workload};
use super::requests::put_operation;
use crate::grpc::{Delivery, Event, Failure, Rpc};

/// etcd takes 128 operations in a transaction, unless it is told otherwise.
const BATCH_KEYS_MAX: u64 = 100;
/// etcd takes requests of 1.5 MiB, unless it is told otherwise.
const BATCH_BYTES_MAX: u64 = 512 << 10;
/// Transactions in flight.
pub const FILL_PLACES: u32 = 8;

/// The workload that fills.
pub struct Fill {
    keys: KeyText,
    key: Vec<u8>,
    value: Vec<u8>,
    key_count: u64,
    batches: u64,
    next_batch: u64,
    /// The batch in each place, and the revision it was written at.
    places: Vec<(u64, Option<i64>)>,
    /// The mod revision of each key.
    pub revisions: Vec<i64>,
}

impl Fill {
    /// Fills with so many keys, all of one value.
    pub fn new(keys: KeyText, key_count: u64, value: Vec<u8>) -> Self {
        let pair_bytes = (keys.bytes() + value.len()) as u64;
        let batch_keys = (BATCH_BYTES_MAX / pair_bytes).clamp(1, BATCH_KEYS_MAX);
        let revisions = usize::try_from(key_count).expect("the keys' revisions fit into memory");
        Self {
            key: keys.key(0),
            keys,
            value,
            key_count,
            batches: key_count.div_ceil(batch_keys),
            next_batch: 0,
            places: vec![(0, None); FILL_PLACES as usize],
            revisions: vec![0; revisions],
        }
    }

    /// Transactions that it takes.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    fn keys_of(&self, batch: u64) -> std::ops::Range<u64> {
        share(self.key_count, batch as usize, self.batches as usize)
    }
}

impl Workload for Fill {
    fn start(&mut self, start: Start, net: &mut Net, _shift: &mut Shift) {
        let at = start.place;
        let batch = self.next_batch;
        self.next_batch += 1;
        self.places[at as usize] = (batch, None);
        let keys = self.keys_of(batch);
        let Self {
            keys: text,
            key,
            value,
            ..
        } = self;
        net.session(at as usize)
            .call(Rpc::Txn, at, Delivery::Unary, |out| {
                for index in keys {
                    text.patch(key, index);
                    put_operation(out, key, value, 0);
                }
            });
    }

    fn go_on(&mut self, _at: u32, _net: &mut Net, _shift: &mut Shift) {
        unreachable!("a batch is one request");
    }

    fn on_event(&mut self, at: u32, event: Event<'_>, shift: &mut Shift) {
        let (batch, revision) = &mut self.places[at as usize];
        match event {
            Event::Message(message) => *revision = header_revision(message).ok(),
            Event::Piece { .. } => unreachable!("whole messages were asked for"),
            Event::End(Err(failure)) => shift.fail(at, &failure),
            Event::End(Ok(())) => match *revision {
                Some(revision) => {
                    let keys = share(self.key_count, *batch as usize, self.batches as usize);
                    self.revisions[keys.start as usize..keys.end as usize].fill(revision);
                    shift.complete(at, 0);
                }
                None => shift.fail(at, &Failure::Answer("not the expected message")),
            },
        }
    }
}
