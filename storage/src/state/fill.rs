//! Filling values into a response that was made while they were on the disk.
//!
//! Such a response has a mark in the place of each of these values; see
//! [`Record::key_value`](crate::mvcc::Record::key_value).

use bytes::Bytes;
use keelson_proto::etcdserverpb::TxnResponse;
use keelson_proto::etcdserverpb::response_op::Response as Outcome;
use keelson_proto::mvccpb::KeyValue;

use crate::mvcc::is_absent;
use crate::state::machine::Response;

/// Replaces every mark by the next value, in the order in which the response was made.
pub(super) fn response(response: &mut Response, values: &mut dyn Iterator<Item = Bytes>) {
    match response {
        Response::Put(put) => put.prev_kv.iter_mut().for_each(|kv| key_value(kv, values)),
        Response::DeleteRange(delete) => {
            delete
                .prev_kvs
                .iter_mut()
                .for_each(|kv| key_value(kv, values));
        }
        Response::Txn(response) => txn(response, values),
        _ => {}
    }
    assert!(values.next().is_none(), "there is a place for every value");
}

fn txn(response: &mut TxnResponse, values: &mut dyn Iterator<Item = Bytes>) {
    for outcome in &mut response.responses {
        match &mut outcome.response {
            Some(Outcome::ResponseRange(range)) => {
                range.kvs.iter_mut().for_each(|kv| key_value(kv, values));
            }
            Some(Outcome::ResponsePut(put)) => {
                put.prev_kv.iter_mut().for_each(|kv| key_value(kv, values));
            }
            Some(Outcome::ResponseDeleteRange(delete)) => {
                delete
                    .prev_kvs
                    .iter_mut()
                    .for_each(|kv| key_value(kv, values));
            }
            Some(Outcome::ResponseTxn(nested)) => txn(nested, values),
            None => {}
        }
    }
}

fn key_value(kv: &mut KeyValue, values: &mut dyn Iterator<Item = Bytes>) {
    if is_absent(&kv.value) {
        kv.value = values.next().expect("there is a value for every mark");
    }
}
