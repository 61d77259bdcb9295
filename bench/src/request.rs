//! What the clients send: requests prepared ahead, and the keys and values in them.
//!
//! A job repeats one request with ever other keys, so the message is encoded once and only the
//! digits of its key are written for each request.

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};

use crate::grpc::{PREFIX_BYTES, frame};
use crate::load::{Job, Op};

/// All keys start with this; ten decimal digits follow.
const KEY_PREFIX: &[u8] = b"bench/";
const KEY_DIGITS: usize = 10;
pub const KEY_BYTES: usize = KEY_PREFIX.len() + KEY_DIGITS;
/// Where the key starts in a framed message: it is the first field of Put and of Range, behind one
/// byte of tag and one of length.
const KEY_OFFSET: usize = PREFIX_BYTES + 2;
const _: () = assert!(KEY_BYTES < 128, "the key's length takes one byte");

/// A framed message in which only the digits of the key differ from one request to the next.
pub struct Template(Vec<u8>);

impl Template {
    /// The request that a job repeats.
    pub fn new(job: &Job) -> Self {
        let framed = match job.op {
            Op::Put => frame(&put(0, &value(job))),
            Op::Range | Op::Keepalive => frame(&RangeRequest {
                key: key(0),
                ..Default::default()
            }),
        };
        assert_eq!(
            framed[KEY_OFFSET..][..KEY_BYTES],
            key(0),
            "the key is where it is patched"
        );
        Self(framed.to_vec())
    }

    /// The request for one key.
    pub fn message(&self, key: u64) -> Bytes {
        let mut message = BytesMut::with_capacity(self.0.len());
        message.extend_from_slice(&self.0);
        write_digits(
            &mut message[KEY_OFFSET + KEY_PREFIX.len()..][..KEY_DIGITS],
            key,
        );
        message.freeze()
    }
}

/// The put that a job's clients send for a key; random bytes, which no layer can compress.
pub fn put(index: u64, value: &Bytes) -> PutRequest {
    PutRequest {
        key: key(index),
        value: value.clone(),
        ..Default::default()
    }
}

/// The value that a job writes.
pub fn value(job: &Job) -> Bytes {
    let mut value = vec![0; job.value_bytes];
    SmallRng::seed_from_u64(job.seed).fill_bytes(&mut value);
    value.into()
}

/// The half-open range that holds all keys of a job.
pub fn key_range() -> (Bytes, Bytes) {
    let mut end = KEY_PREFIX.to_vec();
    *end.last_mut().expect("the prefix is not empty") += 1;
    (Bytes::from_static(KEY_PREFIX), end.into())
}

fn key(index: u64) -> Bytes {
    let mut key = KEY_PREFIX.to_vec();
    key.resize(KEY_BYTES, b'0');
    write_digits(&mut key[KEY_PREFIX.len()..], index);
    key.into()
}

fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use crate::load::Extent;

    use super::*;

    #[test]
    fn a_patched_message_is_the_request_with_that_key() {
        let job = Job {
            op: Op::Put,
            clients: 1,
            connections: 1,
            threads: 1,
            key_count: 1,
            value_bytes: 300,
            extent: Extent::Counted(1),
            seed: 1,
        };
        let message = Template::new(&job).message(1_234_567_890);
        let request = PutRequest::decode(message.slice(PREFIX_BYTES..)).unwrap();
        assert_eq!(request, put(1_234_567_890, &value(&job)));
        assert_eq!(&request.key[..], b"bench/1234567890");
        assert_eq!(request.value.len(), 300);
        let (from, to) = key_range();
        assert!(request.key >= from && request.key < to);
    }
}
