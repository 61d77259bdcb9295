//! Requests about one key, written straight into the connection's buffer.

use super::super::wire::{bytes_field_bytes, put_bytes, put_bytes_head, put_number, varint_bytes};

/// Field numbers of the KV requests.
mod field {
    pub const PUT_KEY: u32 = 1;
    pub const PUT_VALUE: u32 = 2;
    pub const PUT_LEASE: u32 = 3;
    pub const RANGE_KEY: u32 = 1;
    pub const RANGE_SERIALIZABLE: u32 = 7;
    pub const DELETE_KEY: u32 = 1;
    pub const TXN_COMPARE: u32 = 1;
    pub const TXN_SUCCESS: u32 = 2;
    pub const TXN_FAILURE: u32 = 3;
    pub const OP_RANGE: u32 = 1;
    pub const OP_PUT: u32 = 2;
    pub const OP_DELETE: u32 = 3;
    pub const COMPARE_TARGET: u32 = 2;
    pub const COMPARE_KEY: u32 = 3;
    pub const COMPARE_MOD_REVISION: u32 = 6;
}
/// Compare.CompareTarget.MOD; the relation EQUAL is 0 and goes without saying.
const TARGET_MOD: u64 = 2;

/// What a transaction does if the key is as it was.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Put { value: &'a [u8], lease: u64 },
    Delete,
}

/// Appends a PutRequest.
pub fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8], lease: u64) {
    put_bytes(out, field::PUT_KEY, key);
    put_bytes(out, field::PUT_VALUE, value);
    if lease != 0 {
        put_number(out, field::PUT_LEASE, lease);
    }
}

/// Appends a RangeRequest for the key.
pub fn range(out: &mut Vec<u8>, key: &[u8], serializable: bool) {
    put_bytes(out, field::RANGE_KEY, key);
    if serializable {
        put_number(out, field::RANGE_SERIALIZABLE, 1);
    }
}

/// Appends a DeleteRangeRequest for the key.
pub fn delete(out: &mut Vec<u8>, key: &[u8]) {
    put_bytes(out, field::DELETE_KEY, key);
}

/// Appends the TxnRequest that kube-apiserver sends to change an object: the change if the mod
/// revision is the known one (0: there is no such key), else a read.
pub fn guarded(out: &mut Vec<u8>, key: &[u8], mod_revision: i64, change: Change<'_>) {
    let revision = mod_revision.cast_unsigned();
    let target_bytes = 2;
    // The revision is written even if it is 0: the given side of a comparison is a oneof.
    let compare_bytes = target_bytes + bytes_field_bytes(key.len()) + 1 + varint_bytes(revision);
    put_bytes_head(out, field::TXN_COMPARE, compare_bytes);
    put_number(out, field::COMPARE_TARGET, TARGET_MOD);
    put_bytes(out, field::COMPARE_KEY, key);
    put_number(out, field::COMPARE_MOD_REVISION, revision);
    match change {
        Change::Put { value, lease } => put_operation(out, key, value, lease),
        Change::Delete => {
            let request_bytes = bytes_field_bytes(key.len());
            operation_head(out, field::TXN_SUCCESS, field::OP_DELETE, request_bytes);
            delete(out, key);
        }
    }
    let request_bytes = bytes_field_bytes(key.len());
    operation_head(out, field::TXN_FAILURE, field::OP_RANGE, request_bytes);
    range(out, key, false);
}

/// Appends to a TxnRequest that its success puts a key.
pub fn put_operation(out: &mut Vec<u8>, key: &[u8], value: &[u8], lease: u64) {
    let lease_bytes = match lease {
        0 => 0,
        lease => 1 + varint_bytes(lease),
    };
    let request_bytes = bytes_field_bytes(key.len()) + bytes_field_bytes(value.len()) + lease_bytes;
    operation_head(out, field::TXN_SUCCESS, field::OP_PUT, request_bytes);
    put(out, key, value, lease);
}

/// The heads of a RequestOp and of the request in it.
fn operation_head(out: &mut Vec<u8>, branch: u32, operation: u32, request_bytes: usize) {
    put_bytes_head(out, branch, bytes_field_bytes(request_bytes));
    put_bytes_head(out, operation, request_bytes);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keelson_proto::etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare,
        request_op::Request,
    };
    use prost::Message;

    use super::*;

    const KEY: &[u8] = b"bench/0000000042";

    fn op(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put_request(value: &[u8], lease: i64) -> PutRequest {
        PutRequest {
            key: KEY.into(),
            value: value.to_vec().into(),
            lease,
            ..Default::default()
        }
    }

    fn range_request() -> RangeRequest {
        RangeRequest {
            key: KEY.into(),
            ..Default::default()
        }
    }

    #[test]
    fn requests_are_what_prost_reads() {
        for (value_bytes, lease) in [(0, 0), (300, 1), (70_000, i64::MAX)] {
            let value = vec![7; value_bytes];
            let mut out = Vec::new();
            put(&mut out, KEY, &value, lease.cast_unsigned());
            assert_eq!(
                PutRequest::decode(&out[..]).unwrap(),
                put_request(&value, lease)
            );
        }
        let mut out = Vec::new();
        range(&mut out, KEY, true);
        let decoded = RangeRequest::decode(&out[..]).unwrap();
        assert!(decoded.serializable && decoded.key == KEY);
        out.clear();
        delete(&mut out, KEY);
        assert_eq!(DeleteRangeRequest::decode(&out[..]).unwrap().key, KEY);
    }

    #[test]
    fn a_guarded_change_compares_changes_or_reads() {
        let delete_request = DeleteRangeRequest {
            key: KEY.into(),
            ..Default::default()
        };
        for revision in [0, 5, 300, i64::MAX] {
            for (value_bytes, lease) in [(3, 0), (130, 9_000), (20_000, i64::MAX)] {
                let value = vec![9; value_bytes];
                let put_change = Change::Put {
                    value: &value,
                    lease: lease.cast_unsigned(),
                };
                let changes = [
                    (put_change, Request::RequestPut(put_request(&value, lease))),
                    (
                        Change::Delete,
                        Request::RequestDeleteRange(delete_request.clone()),
                    ),
                ];
                for (change, expected) in changes {
                    let mut out = Vec::new();
                    guarded(&mut out, KEY, revision, change);
                    let expected = TxnRequest {
                        compare: vec![Compare {
                            result: compare::CompareResult::Equal.into(),
                            target: compare::CompareTarget::Mod.into(),
                            key: KEY.into(),
                            target_union: Some(compare::TargetUnion::ModRevision(revision)),
                            ..Default::default()
                        }],
                        success: vec![op(expected)],
                        failure: vec![op(Request::RequestRange(range_request()))],
                    };
                    assert_eq!(TxnRequest::decode(&out[..]).unwrap(), expected);
                }
            }
        }
    }
}
