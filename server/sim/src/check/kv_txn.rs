//! What a request does to a state, and what it should be answered: etcd's semantics once more, as plainly as possible.

use std::collections::BTreeMap;

use bytes::Bytes;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::request_op::Request as Ask;
use keelson_proto::etcdserverpb::response_op::Response as Answer;
use keelson_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};
use keelson_proto::mvccpb::KeyValue;

use super::log::{Event, EventLog, is_in_range};
use super::{Call, Reply};

/// The state at a revision, and what a request has changed about it.
pub(super) struct Effects<'a> {
    log: &'a EventLog,
    base: i64,
    /// What keys are now; `None` for one that is gone.
    changed: BTreeMap<Bytes, Option<Event>>,
    /// Changes in their order.
    pub(super) events: Vec<Event>,
}

impl<'a> Effects<'a> {
    /// Carries a request out on the state at `base`. The answer has no headers.
    pub(super) fn of(log: &'a EventLog, base: i64, call: &Call) -> (Self, Option<Reply>) {
        let mut effects = Self {
            log,
            base,
            changed: BTreeMap::new(),
            events: Vec::new(),
        };
        let reply = match call {
            Call::Put(put) => Some(Reply::Put(effects.put(put))),
            Call::Delete(delete) => Some(Reply::Delete(effects.delete(delete))),
            Call::Range(range) => Some(Reply::Range(effects.range(range))),
            Call::Txn(txn) => Some(Reply::Txn(effects.txn(txn))),
            _ => None,
        };
        (effects, reply)
    }

    fn key(&self, key: &[u8]) -> Option<&Event> {
        match self.changed.get(key) {
            Some(now) => now.as_ref(),
            None => self.log.key_at(key, self.base),
        }
    }

    fn keys(&self, key: &[u8], range_end: &[u8]) -> Vec<Event> {
        let before = self.log.range_at(key, range_end, self.base);
        let mut found: BTreeMap<Bytes, Event> = before
            .map(|event| (event.key.clone(), event.clone()))
            .collect();
        for (changed, now) in &self.changed {
            if !is_in_range(changed, key, range_end) {
                continue;
            }
            match now {
                Some(event) => found.insert(changed.clone(), event.clone()),
                None => found.remove(changed),
            };
        }
        found.into_values().collect()
    }

    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let revision = self.base + 1;
        let before = self.key(&put.key).cloned();
        let event = Event {
            revision,
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: before
                .as_ref()
                .map_or(revision, |before| before.create_revision),
            version: before.as_ref().map_or(1, |before| before.version + 1),
            lease: put.lease,
            is_delete: false,
        };
        self.changed.insert(put.key.clone(), Some(event.clone()));
        self.events.push(event);
        PutResponse {
            header: None,
            prev_kv: before.filter(|_| put.prev_kv).map(|before| kv(&before)),
        }
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let gone = self.keys(&delete.key, &delete.range_end);
        for event in &gone {
            self.changed.insert(event.key.clone(), None);
            self.events.push(Event {
                revision: self.base + 1,
                key: event.key.clone(),
                value: Bytes::new(),
                create_revision: 0,
                version: 0,
                lease: 0,
                is_delete: true,
            });
        }
        DeleteRangeResponse {
            header: None,
            deleted: gone.len() as i64,
            prev_kvs: gone.iter().filter(|_| delete.prev_kv).map(kv).collect(),
        }
    }

    fn range(&self, range: &RangeRequest) -> RangeResponse {
        let found: Vec<Event> = if range.revision > 0 {
            let found = self
                .log
                .range_at(&range.key, &range.range_end, range.revision);
            found.cloned().collect()
        } else {
            self.keys(&range.key, &range.range_end)
        };
        let limit = match range.limit {
            0 => found.len(),
            limit => limit as usize,
        };
        let shown = found.iter().take(limit).filter(|_| !range.count_only);
        let kvs = shown.map(|event| {
            let mut kv = kv(event);
            if range.keys_only {
                kv.value = Bytes::new();
            }
            kv
        });
        RangeResponse {
            header: None,
            kvs: kvs.collect(),
            more: found.len() > limit && !range.count_only,
            count: found.len() as i64,
        }
    }

    fn txn(&mut self, txn: &TxnRequest) -> TxnResponse {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        let responses = branch.iter().map(|op| self.operation(op)).collect();
        TxnResponse {
            header: None,
            succeeded,
            responses,
        }
    }

    fn operation(&mut self, op: &RequestOp) -> ResponseOp {
        let response = op.request.as_ref().map(|request| match request {
            Ask::RequestPut(put) => Answer::ResponsePut(self.put(put)),
            Ask::RequestDeleteRange(delete) => Answer::ResponseDeleteRange(self.delete(delete)),
            Ask::RequestRange(range) => Answer::ResponseRange(self.range(range)),
            Ask::RequestTxn(txn) => Answer::ResponseTxn(self.txn(txn)),
        });
        ResponseOp { response }
    }

    /// Compares of single keys.
    fn holds(&self, compare: &Compare) -> bool {
        let key = self.key(&compare.key);
        let number = |of: fn(&Event) -> i64| key.map_or(0, of);
        let ordering = match &compare.target_union {
            Some(TargetUnion::Version(version)) => number(|key| key.version).cmp(version),
            Some(TargetUnion::CreateRevision(revision)) => {
                number(|key| key.create_revision).cmp(revision)
            }
            Some(TargetUnion::ModRevision(revision)) => number(|key| key.revision).cmp(revision),
            Some(TargetUnion::Lease(lease)) => number(|key| key.lease).cmp(lease),
            Some(TargetUnion::Value(value)) => match key {
                Some(key) => key.value.cmp(value),
                None => return false,
            },
            None => unreachable!(
                "a compare of {:?} has something to compare with",
                CompareTarget::try_from(compare.target)
            ),
        };
        match CompareResult::try_from(compare.result).unwrap_or_default() {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
            CompareResult::NotEqual => ordering.is_ne(),
        }
    }
}

fn kv(event: &Event) -> KeyValue {
    KeyValue {
        key: event.key.clone(),
        create_revision: event.create_revision,
        mod_revision: event.revision,
        version: event.version,
        value: event.value.clone(),
        lease: event.lease,
    }
}

/// An answer without its headers, and the revision that its own header tells.
pub(super) fn bare(reply: &Reply) -> (Reply, Option<i64>) {
    let mut reply = reply.clone();
    let header = match &mut reply {
        Reply::Put(put) => put.header.take(),
        Reply::Delete(delete) => delete.header.take(),
        Reply::Range(range) => range.header.take(),
        Reply::Compact(compact) => compact.header.take(),
        Reply::Txn(txn) => {
            strip(txn);
            txn.header.take()
        }
        _ => None,
    };
    (reply, header.map(|header| header.revision))
}

fn strip(txn: &mut TxnResponse) {
    for response in &mut txn.responses {
        match &mut response.response {
            Some(Answer::ResponsePut(put)) => put.header = None,
            Some(Answer::ResponseDeleteRange(delete)) => delete.header = None,
            Some(Answer::ResponseRange(range)) => range.header = None,
            Some(Answer::ResponseTxn(nested)) => {
                nested.header = None;
                strip(nested);
            }
            None => {}
        }
    }
}

/// Whether a request can change anything.
pub(super) fn may_write(call: &Call) -> bool {
    match call {
        Call::Put(_) | Call::Delete(_) => true,
        Call::Txn(txn) => {
            let mut ops = txn.success.iter().chain(&txn.failure);
            ops.any(|op| !matches!(op.request, Some(Ask::RequestRange(_))))
        }
        _ => false,
    }
}

/// Values that a request may put.
pub(super) fn values_of(call: &Call) -> Vec<Bytes> {
    match call {
        Call::Put(put) => vec![put.value.clone()],
        Call::Txn(txn) => values_of_txn(txn),
        _ => Vec::new(),
    }
}

fn values_of_txn(txn: &TxnRequest) -> Vec<Bytes> {
    let ops = txn.success.iter().chain(&txn.failure);
    let values = ops.flat_map(|op| match &op.request {
        Some(Ask::RequestPut(put)) => vec![put.value.clone()],
        Some(Ask::RequestTxn(nested)) => values_of_txn(nested),
        _ => Vec::new(),
    });
    values.collect()
}
