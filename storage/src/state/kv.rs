//! Puts and deletes: the keys together with the leases they hang on.

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, ResponseHeader,
};

use crate::ids::LeaseId;
use crate::mvcc::{Record, Span, Store};
use crate::state::leases::Leases;

/// The keys and the leases, which change together.
#[derive(Debug)]
pub(crate) struct Keyspace {
    pub(crate) store: Store,
    pub(crate) leases: Leases,
    /// The records of the last response whose values have to be filled in, in its order.
    pub(crate) cold: Vec<Record>,
}

impl Keyspace {
    pub(crate) fn new() -> Self {
        Self {
            store: Store::new(),
            leases: Leases::default(),
            cold: Vec::new(),
        }
    }

    /// Refuses a lease that does not exist; 0 means none and is always fine.
    pub(crate) fn check_lease(&self, lease: LeaseId) -> Result<(), ApiError> {
        let exists = lease == LeaseId(0) || self.leases.get(lease).is_some();
        if exists {
            Ok(())
        } else {
            Err(ApiError::LeaseNotFound)
        }
    }

    /// A put on its own: checked, executed, committed.
    pub(crate) fn apply_put(&mut self, put: &PutRequest) -> Result<PutResponse, ApiError> {
        self.check_lease(LeaseId(put.lease))?;
        if (put.ignore_value || put.ignore_lease) && !self.store.contains(&put.key) {
            return Err(ApiError::KeyNotFound);
        }
        let response = self.put(put);
        self.store.commit();
        Ok(response)
    }

    /// A delete on its own: executed and committed.
    pub(crate) fn apply_delete_range(
        &mut self,
        delete: &DeleteRangeRequest,
    ) -> DeleteRangeResponse {
        let response = self.delete_range(delete);
        self.store.commit();
        response
    }

    /// Removes a lease and, in one revision, the keys that hang on it.
    pub(crate) fn apply_revoke(&mut self, id: LeaseId) -> Result<(), ApiError> {
        let keys = self.leases.revoke(id).ok_or(ApiError::LeaseNotFound)?;
        for key in keys {
            let deleted = self.store.delete(&key);
            assert!(deleted.is_some(), "a key that hangs on a lease exists");
        }
        self.store.commit();
        Ok(())
    }

    /// Executes a checked put within a transaction.
    pub(crate) fn put(&mut self, put: &PutRequest) -> PutResponse {
        let value = (!put.ignore_value).then_some(&put.value[..]);
        let lease = (!put.ignore_lease).then_some(LeaseId(put.lease));
        let written = self.store.put(&put.key, value, lease);
        self.leases.on_put(written.old.as_ref(), &written.record);
        let prev_kv = written
            .old
            .filter(|_| put.prev_kv)
            .map(|old| old.key_value_or_cold(&mut self.cold));
        PutResponse {
            header: self.header(),
            prev_kv,
        }
    }

    /// Executes a delete within a transaction.
    pub(crate) fn delete_range(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let span = Span::new(&delete.key, &delete.range_end);
        let deleted = match &span {
            Span::Key(key) => self.delete(key).into_iter().collect(),
            Span::Range { .. } => self.delete_live(&span),
        };
        let prev_kvs = deleted
            .iter()
            .filter(|_| delete.prev_kv)
            .map(|old| old.key_value_or_cold(&mut self.cold));
        let prev_kvs = prev_kvs.collect();
        DeleteRangeResponse {
            header: self.header(),
            deleted: deleted.len() as i64,
            prev_kvs,
        }
    }

    fn delete(&mut self, key: &Bytes) -> Option<Record> {
        let old = self.store.delete(key)?;
        self.leases.on_delete(&old);
        Some(old)
    }

    fn delete_live(&mut self, span: &Span) -> Vec<Record> {
        let live = self.store.live(span);
        for old in &live {
            self.store.delete(old.key());
            self.leases.on_delete(old);
        }
        live
    }

    /// The header as the running transaction sees it: it counts once it changed something.
    fn header(&self) -> Option<ResponseHeader> {
        let revision = self.store.read_revision().0;
        Some(ResponseHeader {
            revision,
            ..ResponseHeader::default()
        })
    }
}
