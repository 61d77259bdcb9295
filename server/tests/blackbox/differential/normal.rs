//! What may differ between two right servers, taken out of the answers before they are compared;
//! and the few places where real etcd 3.5.1 is known to differ from newer etcd.

use bytes::Bytes;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_proto::etcdserverpb::request_op::Request;
use keelson_proto::etcdserverpb::response_op::Response;
use keelson_proto::mvccpb::{Event, KeyValue, event::EventType};

use super::step::{Call, Outcome};
use super::world::ActiveWatch;

/// Where the comparison with etcd 3.5.1 is not exact: what, why, and which code sees to it.
///
/// The first group is not fixed by etcd at all, the second was changed after 3.5.1.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    // Not fixed by etcd.
    (
        "cluster_id, member_id, raft_term of every header",
        "ids and terms are a server's own",
    ),
    (
        "LeaseTimeToLive.TTL",
        "counts down: only its sign and being at most grantedTTL compared",
    ),
    (
        "LeaseTimeToLive.keys, LeaseLeases.leases",
        "order comes from a Go map, or from expiry",
    ),
    (
        "equal sort keys in a sorted range",
        "Go's sort is not stable: compared as a set",
    ),
    (
        "how watch events are cut into responses",
        "timing: only the sequence of events compared",
    ),
    (
        "the id of a watch that compaction ended",
        "etcd holds it in use until the client cancels the watch too, which no client does; \
         both are made to free it",
    ),
    (
        "HashKV while no key is live",
        "etcd then hashes what is not yet removed physically",
    ),
    // Changed after 3.5.1.
    (
        "KeyValue.lease with keys_only",
        "3.7 answers from the index, which has no lease: 0",
    ),
    ("HashKV.hash_revision", "new in 3.6"),
    (
        "HashKV exactly at the compact revision",
        "3.5.1 refuses it as compacted, 3.6 answers",
    ),
    (
        "a watch from exactly the compact revision",
        "3.5.1 loses deletes there (issue 19179); \
      prev_kv there is beyond etcd's history, ours may still have it",
    ),
    (
        "progress requests on streams with a future watch",
        "3.5.1 answers at once (issues 15220, \
      20221), newer etcd only when every watch of the stream is there: not requested",
    ),
    (
        "progress requests on streams without a watch",
        "3.5.1 answers, newer etcd does not: \
      not requested",
    ),
    (
        "sort_order and sort_target out of range",
        "refused since 3.6: not generated",
    ),
    (
        "start_revision below zero",
        "canceled at once since 3.6: not generated",
    ),
];

/// The answer, as far as it must be equal.
pub fn normal(call: &Call, mut outcome: Outcome) -> Outcome {
    if let Some(header) = outcome.header_mut() {
        strip(header);
    }
    match (call, &mut outcome) {
        (Call::Range(request), Outcome::Range(response)) => normal_range(request, response),
        (Call::Txn(request), Outcome::Txn(response)) => normal_txn(request, response),
        (Call::LeaseTimeToLive(_), Outcome::LeaseTimeToLive(response)) => {
            response.keys.sort();
            if response.ttl > 0 && response.ttl <= response.granted_ttl {
                response.ttl = response.granted_ttl;
            }
        }
        (Call::LeaseLeases(_), Outcome::LeaseLeases(response)) => {
            response.leases.sort_by_key(|lease| lease.id);
        }
        (Call::HashKv(_), Outcome::HashKv(response)) => response.hash_revision = 0,
        _ => {}
    }
    outcome
}

/// The control answers of a watch stream, as far as they must be equal.
pub fn normal_control(mut response: pb::WatchResponse) -> pb::WatchResponse {
    strip(&mut response.header);
    response
}

/// The events of a watch, as far as they must be equal.
pub fn normal_events(watch: &ActiveWatch, mut events: Vec<Event>) -> Vec<Event> {
    if watch.starts_at_compaction {
        let start = watch.request.start_revision;
        let boundary = |event: &Event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision == start);
        events.retain(|event| !(boundary(event) && event.r#type() == EventType::Delete));
        for event in &mut events {
            if boundary(event) {
                event.prev_kv = None;
            }
        }
    }
    events
}

fn strip(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        *header = pb::ResponseHeader {
            revision: header.revision,
            ..Default::default()
        };
    }
}

fn normal_txn(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    strip(&mut response.header);
    let branch = match response.succeeded {
        true => &request.success,
        false => &request.failure,
    };
    for (request, response) in branch.iter().zip(&mut response.responses) {
        match (&request.request, &mut response.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(response))) => {
                strip(&mut response.header);
                normal_range(request, response);
            }
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(response))) => {
                normal_txn(request, response);
            }
            (_, Some(Response::ResponsePut(response))) => strip(&mut response.header),
            (_, Some(Response::ResponseDeleteRange(response))) => strip(&mut response.header),
            _ => {}
        }
    }
}

fn normal_range(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    if request.keys_only {
        for kv in &mut response.kvs {
            kv.lease = 0;
        }
    }
    let target = request.sort_target();
    let sorted = target != SortTarget::Key || request.sort_order() != SortOrder::None;
    if !sorted || target == SortTarget::Key {
        return;
    }
    if target == SortTarget::Value && request.keys_only {
        // What was sorted by is not in the answer, so all of it may be one group of equals.
        if response.more {
            let count = response.kvs.len();
            response.kvs = vec![KeyValue::default(); count];
        } else {
            response.kvs.sort_by(|a, b| a.key.cmp(&b.key));
        }
        return;
    }
    let groups = response
        .kvs
        .chunk_by_mut(|a, b| sort_key(target, a) == sort_key(target, b));
    let mut groups: Vec<&mut [KeyValue]> = groups.collect();
    let last = groups.len().saturating_sub(1);
    for (index, group) in groups.iter_mut().enumerate() {
        group.sort_by(|a, b| a.key.cmp(&b.key));
        if response.more && index == last {
            // The limit cut this group of equals: which of them were kept is not fixed.
            for kv in group.iter_mut() {
                *kv = only_sort_key(target, kv);
            }
        }
    }
}

fn sort_key(target: SortTarget, kv: &KeyValue) -> (i64, Bytes) {
    match target {
        SortTarget::Key => (0, kv.key.clone()),
        SortTarget::Version => (kv.version, Bytes::new()),
        SortTarget::Create => (kv.create_revision, Bytes::new()),
        SortTarget::Mod => (kv.mod_revision, Bytes::new()),
        SortTarget::Value => (0, kv.value.clone()),
    }
}

fn only_sort_key(target: SortTarget, kv: &KeyValue) -> KeyValue {
    let (number, value) = sort_key(target, kv);
    KeyValue {
        version: number,
        value,
        ..Default::default()
    }
}
