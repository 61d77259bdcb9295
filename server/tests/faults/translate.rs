//! Between the words of the `etcd-client` crate and those of the checkers.

use bytes::Bytes;
use etcd_client as ec;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::request_op::Request;
use keelson_proto::etcdserverpb::response_op::Response;
use keelson_proto::mvccpb;

use crate::check::{Event, Outcome, Seen, WatchEvent};

fn bytes(slice: &[u8]) -> Bytes {
    Bytes::copy_from_slice(slice)
}

fn header(header: Option<&ec::ResponseHeader>) -> Option<pb::ResponseHeader> {
    header.map(|header| pb::ResponseHeader {
        revision: header.revision(),
        ..pb::ResponseHeader::default()
    })
}

fn key_value(kv: &ec::KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: bytes(kv.key()),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        version: kv.version(),
        value: bytes(kv.value()),
        lease: kv.lease(),
    }
}

/// An answer to a put.
pub fn put(response: &ec::PutResponse) -> pb::PutResponse {
    pb::PutResponse {
        header: header(response.header()),
        prev_kv: response.prev_key().map(key_value),
    }
}

/// An answer to a read.
pub fn range(response: &ec::GetResponse) -> pb::RangeResponse {
    pb::RangeResponse {
        header: header(response.header()),
        kvs: response.kvs().iter().map(key_value).collect(),
        more: response.more(),
        count: response.count(),
    }
}

/// An answer to a delete.
pub fn delete(response: &ec::DeleteResponse) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: header(response.header()),
        deleted: response.deleted(),
        prev_kvs: response.prev_kvs().iter().map(key_value).collect(),
    }
}

/// An answer to a compaction.
pub fn compact(response: &ec::CompactionResponse) -> pb::CompactionResponse {
    pb::CompactionResponse {
        header: header(response.header()),
    }
}

/// An answer to a transaction.
pub fn txn(response: &ec::TxnResponse) -> pb::TxnResponse {
    let responses = response.op_responses().into_iter().map(|op| {
        let response = match &op {
            ec::TxnOpResponse::Put(response) => Response::ResponsePut(put(response)),
            ec::TxnOpResponse::Get(response) => Response::ResponseRange(range(response)),
            ec::TxnOpResponse::Delete(response) => Response::ResponseDeleteRange(delete(response)),
            ec::TxnOpResponse::Txn(response) => Response::ResponseTxn(txn(response)),
        };
        pb::ResponseOp {
            response: Some(response),
        }
    });
    pb::TxnResponse {
        header: header(response.header()),
        succeeded: response.succeeded(),
        responses: responses.collect(),
    }
}

/// What the crate sends for a put.
pub fn put_options(put: &pb::PutRequest) -> ec::PutOptions {
    let options = ec::PutOptions::new().with_lease(put.lease);
    match put.prev_kv {
        true => options.with_prev_key(),
        false => options,
    }
}

/// What the crate sends for a read.
pub fn get_options(range: &pb::RangeRequest) -> ec::GetOptions {
    let mut options = ec::GetOptions::new()
        .with_limit(range.limit)
        .with_revision(range.revision);
    if !range.range_end.is_empty() {
        options = options.with_range(range.range_end.to_vec());
    }
    if range.serializable {
        options = options.with_serializable();
    }
    if range.keys_only {
        options = options.with_keys_only();
    }
    if range.count_only {
        options = options.with_count_only();
    }
    options
}

/// What the crate sends for a delete.
pub fn delete_options(delete: &pb::DeleteRangeRequest) -> ec::DeleteOptions {
    let mut options = ec::DeleteOptions::new();
    if !delete.range_end.is_empty() {
        options = options.with_range(delete.range_end.to_vec());
    }
    match delete.prev_kv {
        true => options.with_prev_key(),
        false => options,
    }
}

/// What the crate sends for a transaction whose conditions are modification revisions.
pub fn txn_request(txn: &pb::TxnRequest) -> ec::Txn {
    let compares = txn.compare.iter().map(|compare| {
        let Some(pb::compare::TargetUnion::ModRevision(revision)) = compare.target_union else {
            unreachable!("clients compare nothing else");
        };
        ec::Compare::mod_revision(compare.key.to_vec(), ec::CompareOp::Equal, revision)
    });
    let ops = |ops: &[pb::RequestOp]| -> Vec<ec::TxnOp> { ops.iter().map(txn_op).collect() };
    ec::Txn::new()
        .when(compares.collect::<Vec<_>>())
        .and_then(ops(&txn.success))
        .or_else(ops(&txn.failure))
}

fn txn_op(op: &pb::RequestOp) -> ec::TxnOp {
    match op.request.as_ref().expect("clients ask for something") {
        Request::RequestPut(put) => {
            ec::TxnOp::put(put.key.to_vec(), put.value.to_vec(), Some(put_options(put)))
        }
        Request::RequestRange(range) => {
            ec::TxnOp::get(range.key.to_vec(), Some(get_options(range)))
        }
        Request::RequestDeleteRange(delete) => {
            ec::TxnOp::delete(delete.key.to_vec(), Some(delete_options(delete)))
        }
        Request::RequestTxn(txn) => ec::TxnOp::txn(txn_request(txn)),
    }
}

/// What an error says about the fate of a request. Only what the server says before it proposes anything, or instead
/// of doing it, makes it certain.
pub fn outcome(error: &ec::Error) -> Outcome {
    const REFUSALS: [&str; 4] = [
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: requested lease not found",
        "etcdserver: mvcc: database space exceeded",
    ];
    let ec::Error::GRpcStatus(status) = error else {
        return Outcome::Unknown;
    };
    match status.message() {
        "etcdserver: mvcc: required revision has been compacted" => Outcome::Compacted,
        text if REFUSALS.contains(&text) => Outcome::Failed(text.to_owned()),
        _ => Outcome::Unknown,
    }
}

/// A response of a watch, which is alone on its stream.
pub fn seen(response: &ec::WatchResponse) -> Seen {
    let revision = response.header().map_or(0, ec::ResponseHeader::revision);
    if response.created() && !response.canceled() {
        return Seen::Created { revision };
    }
    if response.canceled() {
        return Seen::Canceled {
            compact_revision: response.compact_revision(),
        };
    }
    if response.events().is_empty() {
        return Seen::Progress { revision };
    }
    Seen::Events {
        revision,
        // The crate does not tell; nobody asks for fragments.
        fragment: false,
        events: response.events().iter().map(watch_event).collect(),
    }
}

fn watch_event(event: &ec::Event) -> WatchEvent {
    let kv = event.kv().expect("an event has a key");
    WatchEvent {
        key: bytes(kv.key()),
        value: bytes(kv.value()),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
        is_delete: event.event_type() == ec::EventType::Delete,
        prev: event
            .prev_kv()
            .map(|prev| (bytes(prev.value()), prev.mod_revision())),
    }
}

/// A change as the log of all changes holds it.
pub fn change(event: &WatchEvent) -> Event {
    Event {
        revision: event.mod_revision,
        key: event.key.clone(),
        value: event.value.clone(),
        create_revision: event.create_revision,
        version: event.version,
        lease: event.lease,
        is_delete: event.is_delete,
    }
}
