//! Short ways to write the requests that many tests share.

use bytes::Bytes;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::request_op::Request;
use keelson_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest, WatchCreateRequest,
};

/// Text or bytes as a key or value.
pub fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// The end of the range of all keys that begin with `prefix`.
pub fn prefix_end(prefix: impl AsRef<[u8]>) -> Bytes {
    let mut end = prefix.as_ref().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(b"\0")
}

/// Put one key.
pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

/// Put one key bound to a lease.
pub fn put_leased(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, lease: i64) -> PutRequest {
    PutRequest {
        lease,
        ..put(key, value)
    }
}

/// Read one key.
pub fn get(key: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

/// Read one key as it was.
pub fn get_at(key: impl AsRef<[u8]>, revision: i64) -> RangeRequest {
    RangeRequest {
        revision,
        ..get(key)
    }
}

/// Read all keys with a prefix.
pub fn list(prefix: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest {
        key: bytes(&prefix),
        range_end: prefix_end(prefix),
        ..Default::default()
    }
}

/// Delete one key.
pub fn delete(key: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

/// Delete all keys with a prefix.
pub fn delete_prefix(prefix: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(&prefix),
        range_end: prefix_end(prefix),
        ..Default::default()
    }
}

/// Compact to a revision.
pub fn compact(revision: i64, physical: bool) -> CompactionRequest {
    CompactionRequest { revision, physical }
}

/// Grant a lease with this id (0: the server picks).
pub fn grant(id: i64, ttl: i64) -> LeaseGrantRequest {
    LeaseGrantRequest { ttl, id }
}

/// Watch one key.
pub fn watch(key: impl AsRef<[u8]>) -> WatchCreateRequest {
    WatchCreateRequest {
        key: bytes(key),
        ..Default::default()
    }
}

/// Watch all keys with a prefix.
pub fn watch_prefix(prefix: impl AsRef<[u8]>) -> WatchCreateRequest {
    WatchCreateRequest {
        key: bytes(&prefix),
        range_end: prefix_end(prefix),
        ..Default::default()
    }
}

/// `mod_revision(key) == revision`.
pub fn mod_revision_is(key: impl AsRef<[u8]>, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: bytes(key),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

/// `version(key) == version`.
pub fn version_is(key: impl AsRef<[u8]>, version: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: bytes(key),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::Version(version)),
    }
}

/// A transaction.
pub fn txn(compare: Vec<Compare>, success: Vec<Request>, failure: Vec<Request>) -> TxnRequest {
    TxnRequest {
        compare,
        success: success.into_iter().map(op).collect(),
        failure: failure.into_iter().map(op).collect(),
    }
}

/// One operation of a transaction.
pub fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}
