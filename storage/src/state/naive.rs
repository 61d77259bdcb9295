//! The keyspace as a list of all versions ever written, and etcd's rules spelled out over it with no
//! regard to cost: what the real one is compared with.

use std::collections::BTreeMap;

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::request_op::Request as Operation;
use keelson_proto::etcdserverpb::response_op::Response as Outcome;
use keelson_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, compare,
};
use keelson_proto::mvccpb::KeyValue;

/// One version. A tombstone has nothing but its key and mod revision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Version {
    pub(crate) kv: KeyValue,
    pub(crate) tombstone: bool,
}

/// A change with what stood there at the revision before, as a watch reports it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) version: Version,
    pub(crate) prev: Option<KeyValue>,
}

#[derive(Clone, Debug)]
pub(crate) struct Naive {
    versions: Vec<Version>,
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
    /// Lease to (TTL, deadline).
    pub(crate) leases: BTreeMap<i64, (i64, u64)>,
    changed: bool,
}

impl Naive {
    pub(crate) fn new() -> Self {
        Self {
            versions: Vec::new(),
            revision: 1,
            compact_revision: -1,
            leases: BTreeMap::new(),
            changed: false,
        }
    }

    fn now(&self) -> i64 {
        self.revision + i64::from(self.changed)
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.now(),
            ..ResponseHeader::default()
        })
    }

    fn get(&self, key: &[u8], at: i64) -> Option<&KeyValue> {
        let mut versions = self.versions.iter().rev();
        let newest =
            versions.find(|version| version.kv.key == key && version.kv.mod_revision <= at)?;
        (!newest.tombstone).then_some(&newest.kv)
    }

    /// What exists at a revision in a span, in key order.
    pub(crate) fn live(&self, key: &[u8], range_end: &[u8], at: i64) -> Vec<KeyValue> {
        let within = |other: &[u8]| match range_end {
            [] => other == key,
            [0] => other >= key,
            end => other >= key && other < end,
        };
        let keys = self
            .versions
            .iter()
            .map(|version| &version.kv.key)
            .filter(|key| within(key));
        let keys: std::collections::BTreeSet<&Bytes> = keys.collect();
        keys.into_iter()
            .filter_map(|key| self.get(key, at))
            .cloned()
            .collect()
    }

    /// All changes from a revision on.
    pub(crate) fn events(&self, from: i64) -> Vec<Event> {
        let changes = self
            .versions
            .iter()
            .filter(|version| version.kv.mod_revision >= from);
        let event = |version: &Version| {
            let is_create =
                !version.tombstone && version.kv.create_revision == version.kv.mod_revision;
            let prev = self
                .get(&version.kv.key, version.kv.mod_revision - 1)
                .cloned();
            Event {
                version: version.clone(),
                prev: prev.filter(|_| !is_create),
            }
        };
        changes.map(event).collect()
    }

    pub(crate) fn commit(&mut self) {
        self.revision = self.now();
        self.changed = false;
    }

    pub(crate) fn range(&self, r: &RangeRequest) -> Result<RangeResponse, ApiError> {
        if r.revision > self.now() {
            return Err(ApiError::FutureRev);
        }
        let at = if r.revision <= 0 {
            self.now()
        } else {
            r.revision
        };
        if at < self.compact_revision {
            return Err(ApiError::Compacted);
        }
        let mut kvs = self.live(&r.key, &r.range_end, at);
        let count = kvs.len() as i64;
        if r.count_only {
            kvs.clear();
        }
        let filters = [
            r.min_mod_revision,
            r.max_mod_revision,
            r.min_create_revision,
            r.max_create_revision,
        ];
        if r.sort_order == 0 && filters == [0; 4] && r.limit > 0 {
            kvs.truncate(r.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (filters[0] == 0 || kv.mod_revision >= filters[0])
                && (filters[1] == 0 || kv.mod_revision <= filters[1])
                && (filters[2] == 0 || kv.create_revision >= filters[2])
                && (filters[3] == 0 || kv.create_revision <= filters[3])
        });
        if r.sort_order != 0 || r.sort_target != 0 {
            kvs.sort_by(|a, b| {
                let (a, b) = if r.sort_order == 2 { (b, a) } else { (a, b) };
                match r.sort_target {
                    0 => a.key.cmp(&b.key),
                    1 => a.version.cmp(&b.version),
                    2 => a.create_revision.cmp(&b.create_revision),
                    3 => a.mod_revision.cmp(&b.mod_revision),
                    _ => a.value.cmp(&b.value),
                }
            });
        }
        let more = r.limit > 0 && kvs.len() > r.limit as usize;
        if more {
            kvs.truncate(r.limit as usize);
        }
        if r.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResponse {
            header: self.header(),
            kvs,
            more,
            count,
        })
    }

    fn check_put(&self, put: &PutRequest, key_first: bool) -> Result<(), ApiError> {
        let needs_key = put.ignore_value || put.ignore_lease;
        let no_key = needs_key && self.get(&put.key, self.now()).is_none();
        let no_lease = put.lease != 0 && !self.leases.contains_key(&put.lease);
        match (no_key, no_lease) {
            (true, true) if key_first => Err(ApiError::KeyNotFound),
            (_, true) => Err(ApiError::LeaseNotFound),
            (true, false) => Err(ApiError::KeyNotFound),
            (false, false) => Ok(()),
        }
    }

    pub(crate) fn put(&mut self, put: &PutRequest) -> Result<PutResponse, ApiError> {
        self.check_put(put, false)?;
        let response = self.run_put(put);
        self.commit();
        Ok(response)
    }

    fn run_put(&mut self, put: &PutRequest) -> PutResponse {
        let old = self.get(&put.key, self.now()).cloned();
        let kept = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old
                .as_ref()
                .map_or(self.revision + 1, |old| old.create_revision),
            mod_revision: self.revision + 1,
            version: kept.version + 1,
            value: if put.ignore_value {
                kept.value
            } else {
                put.value.clone()
            },
            lease: if put.ignore_lease {
                kept.lease
            } else {
                put.lease
            },
        };
        self.versions.push(Version {
            kv,
            tombstone: false,
        });
        self.changed = true;
        PutResponse {
            header: self.header(),
            prev_kv: old.filter(|_| put.prev_kv),
        }
    }

    pub(crate) fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let response = self.run_delete(delete);
        self.commit();
        response
    }

    fn run_delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let deleted = self.live(&delete.key, &delete.range_end, self.now());
        for old in &deleted {
            let kv = KeyValue {
                key: old.key.clone(),
                mod_revision: self.revision + 1,
                ..KeyValue::default()
            };
            self.versions.push(Version {
                kv,
                tombstone: true,
            });
            self.changed = true;
        }
        DeleteRangeResponse {
            header: self.header(),
            deleted: deleted.len() as i64,
            prev_kvs: if delete.prev_kv { deleted } else { Vec::new() },
        }
    }

    pub(crate) fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, ApiError> {
        let before = self.clone();
        before.check(txn, &|naive, operation| match operation {
            Operation::RequestPut(put) => naive.check_put(put, true),
            _ => Ok(()),
        })?;
        before.check(txn, &|naive, operation| match operation {
            Operation::RequestRange(r) if r.revision > naive.revision => Err(ApiError::FutureRev),
            Operation::RequestRange(r)
                if r.revision != 0 && r.revision < naive.compact_revision =>
            {
                Err(ApiError::Compacted)
            }
            _ => Ok(()),
        })?;
        let mut response = self.run_txn(txn, &before);
        self.commit();
        response.header = self.header();
        Ok(response)
    }

    fn branch<'a>(&self, txn: &'a TxnRequest) -> (bool, &'a [RequestOp]) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        (
            succeeded,
            if succeeded {
                &txn.success
            } else {
                &txn.failure
            },
        )
    }

    fn check(
        &self,
        txn: &TxnRequest,
        check: &impl Fn(&Self, &Operation) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        for operation in self
            .branch(txn)
            .1
            .iter()
            .filter_map(|operation| operation.request.as_ref())
        {
            match operation {
                Operation::RequestTxn(nested) => self.check(nested, check)?,
                other => check(self, other)?,
            }
        }
        Ok(())
    }

    fn run_txn(&mut self, txn: &TxnRequest, before: &Self) -> TxnResponse {
        let (succeeded, operations) = before.branch(txn);
        let mut run = |operation: &RequestOp| match operation.request.as_ref()? {
            Operation::RequestRange(range) => Some(Outcome::ResponseRange(
                self.range(range).expect("was checked"),
            )),
            Operation::RequestPut(put) => Some(Outcome::ResponsePut(self.run_put(put))),
            Operation::RequestDeleteRange(delete) => {
                Some(Outcome::ResponseDeleteRange(self.run_delete(delete)))
            }
            Operation::RequestTxn(nested) => {
                Some(Outcome::ResponseTxn(self.run_txn(nested, before)))
            }
        };
        let responses = operations.iter().map(|operation| ResponseOp {
            response: run(operation),
        });
        TxnResponse {
            responses: responses.collect(),
            succeeded,
            header: Some(ResponseHeader::default()),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut kvs = self.live(&compare.key, &compare.range_end, self.now());
        if kvs.is_empty() {
            if compare.target == compare::CompareTarget::Value as i32 {
                return false;
            }
            kvs.push(KeyValue::default());
        }
        kvs.iter().all(|kv| {
            use compare::TargetUnion;
            let ordering = match &compare.target_union {
                Some(TargetUnion::Version(operand)) => kv.version.cmp(operand),
                Some(TargetUnion::CreateRevision(operand)) => kv.create_revision.cmp(operand),
                Some(TargetUnion::ModRevision(operand)) => kv.mod_revision.cmp(operand),
                Some(TargetUnion::Value(operand)) => kv.value.cmp(operand),
                Some(TargetUnion::Lease(operand)) => kv.lease.cmp(operand),
                None => unreachable!("the generator always gives an operand"),
            };
            match compare.result {
                0 => ordering.is_eq(),
                1 => ordering.is_gt(),
                2 => ordering.is_lt(),
                _ => ordering.is_ne(),
            }
        })
    }

    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), ApiError> {
        if revision <= self.compact_revision {
            return Err(ApiError::Compacted);
        }
        if revision > self.revision {
            return Err(ApiError::FutureRev);
        }
        self.compact_revision = revision;
        Ok(())
    }

    pub(crate) fn grant(&mut self, id: i64, ttl: i64, now: u64) -> Result<(), ApiError> {
        if id == 0 {
            return Err(ApiError::LeaseNotFound);
        }
        if ttl > 9_000_000_000 {
            return Err(ApiError::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(ApiError::LeaseExist);
        }
        self.leases.insert(id, (ttl, now + ttl as u64 * 1_000));
        Ok(())
    }

    pub(crate) fn renew(&mut self, id: i64, from: u64) -> i64 {
        let Some((ttl, deadline)) = self.leases.get_mut(&id) else {
            return 0;
        };
        *deadline = (*deadline).max(from.saturating_add(*ttl as u64 * 1_000));
        *ttl
    }

    pub(crate) fn revoke(&mut self, id: i64) -> Result<(), ApiError> {
        self.leases.remove(&id).ok_or(ApiError::LeaseNotFound)?;
        for key in self.attached(id) {
            self.run_delete(&DeleteRangeRequest {
                key,
                ..DeleteRangeRequest::default()
            });
        }
        self.commit();
        Ok(())
    }

    /// The keys whose live version names the lease.
    pub(crate) fn attached(&self, id: i64) -> Vec<Bytes> {
        let live = self.live(&[], &[0], self.now());
        live.into_iter()
            .filter(|kv| kv.lease == id)
            .map(|kv| kv.key)
            .collect()
    }
}
