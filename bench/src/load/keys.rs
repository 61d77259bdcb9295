//! Keys and values: how they look, and which key comes next.

use std::ops::Range;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::flow::share;
use crate::job::{JobSpec, KeyOrder};

/// All keys start with this; decimal digits follow.
pub const KEY_PREFIX: &[u8] = b"bench/";
/// Fewer digits would not tell a billion keys apart.
const DIGITS_MIN: usize = 10;

/// Keys that differ in their digits.
#[derive(Clone, Debug)]
pub struct KeyText {
    prefix: Vec<u8>,
    digits: usize,
}

impl KeyText {
    /// Keys of a job: the common prefix, filled up with digits to `key_bytes`.
    pub fn of(job: &JobSpec) -> Self {
        Self::new(KEY_PREFIX, usize::try_from(job.key_bytes).unwrap_or(0))
    }

    /// A prefix, filled up with digits to at least `key_bytes`.
    pub fn new(prefix: &[u8], key_bytes: usize) -> Self {
        Self {
            prefix: prefix.to_vec(),
            digits: key_bytes.saturating_sub(prefix.len()).max(DIGITS_MIN),
        }
    }

    /// Length of every key.
    pub fn bytes(&self) -> usize {
        self.prefix.len() + self.digits
    }

    /// Writes the digits of a key over those of another.
    pub fn patch(&self, key: &mut [u8], index: u64) {
        write_digits(&mut key[self.prefix.len()..][..self.digits], index);
    }

    /// A key.
    pub fn key(&self, index: u64) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.resize(self.bytes(), b'0');
        self.patch(&mut key, index);
        key
    }

    /// The half-open range that holds all these keys.
    pub fn range(&self) -> Range<Vec<u8>> {
        let mut end = self.prefix.clone();
        *end.last_mut().expect("the prefix is not empty") += 1;
        self.prefix.clone()..end
    }
}

/// The half-open range that holds all keys of any job of plain keys.
pub fn key_range() -> (Bytes, Bytes) {
    let range = KeyText::new(KEY_PREFIX, 0).range();
    (range.start.into(), range.end.into())
}

/// Random bytes, which no layer can compress; a job writes the same ones all the time.
pub fn value(seed: u64, value_bytes: u64) -> Vec<u8> {
    let mut value = vec![0; usize::try_from(value_bytes).expect("a value fits into memory")];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut value);
    value
}

/// Which key comes next, for one worker.
#[derive(Debug)]
pub struct KeyChoice {
    order: KeyOrder,
    key_count: u64,
    rng: SmallRng,
    next: u64,
}

impl KeyChoice {
    /// In turn, workers begin where the others' shares end: of the operations if they are counted,
    /// so that all together touch each key in turn, else of the keys.
    pub fn new(job: &JobSpec, worker: usize) -> Self {
        let total = job.size.unwrap_or(job.key_count);
        Self {
            order: job.key_order,
            key_count: job.key_count,
            rng: SmallRng::seed_from_u64(job.seed.wrapping_add(worker as u64)),
            next: share(total, worker, job.numjobs as usize).start,
        }
    }

    /// The next key.
    pub fn next(&mut self) -> u64 {
        match self.order {
            KeyOrder::Rand => self.rng.random_range(0..self.key_count),
            KeyOrder::Seq => {
                let key = self.next % self.key_count;
                self.next += 1;
                key
            }
        }
    }

    /// The next key of those that belong to one of `places`: each key belongs to one place, as long
    /// as there are enough keys.
    pub fn next_of(&mut self, place: u64, places: u64) -> u64 {
        let first = place % self.key_count;
        let own = (self.key_count - first).div_ceil(places).max(1);
        let turn = match self.order {
            KeyOrder::Rand => self.rng.random_range(0..own),
            KeyOrder::Seq => {
                self.next += 1;
                // Places take turns, so each goes on by one whenever all have had theirs.
                self.next / places % own
            }
        };
        first + turn * places
    }

    /// Chance, for choices of other kinds.
    pub fn rng(&mut self) -> &mut SmallRng {
        &mut self.rng
    }
}

fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
