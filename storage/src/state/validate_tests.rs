//! The checks of the API layer, as tables.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use keelson_proto::etcdserverpb::Compare;
use proptest::prelude::*;

use super::*;

fn put(key: &str) -> RequestOp {
    let put = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..PutRequest::default()
    };
    RequestOp {
        request: Some(Operation::RequestPut(put)),
    }
}

fn delete(key: &str, range_end: &str) -> RequestOp {
    let delete = DeleteRangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
        prev_kv: false,
    };
    RequestOp {
        request: Some(Operation::RequestDeleteRange(delete)),
    }
}

fn range(key: &str) -> RequestOp {
    let range = RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..RangeRequest::default()
    };
    RequestOp {
        request: Some(Operation::RequestRange(range)),
    }
}

fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare: Vec::new(),
        success,
        failure,
    }
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    RequestOp {
        request: Some(Operation::RequestTxn(txn(success, failure))),
    }
}

fn check(txn: &TxnRequest) -> Result<(), ApiError> {
    validate_txn(txn, &RequestLimits::default())
}

#[test]
fn single_requests() {
    let key = Bytes::from_static(b"k");
    let full = PutRequest {
        key: key.clone(),
        value: key.clone(),
        lease: 1,
        ..PutRequest::default()
    };
    let empty = PutRequest {
        key: Bytes::new(),
        ignore_value: true,
        ..full.clone()
    };
    assert_eq!(validate_put(&full), Ok(()));
    assert_eq!(validate_put(&empty), Err(ApiError::EmptyKey));
    let both = PutRequest {
        ignore_value: true,
        ignore_lease: true,
        ..full.clone()
    };
    assert_eq!(validate_put(&both), Err(ApiError::ValueProvided));
    let lease = PutRequest {
        value: Bytes::new(),
        ..both.clone()
    };
    assert_eq!(validate_put(&lease), Err(ApiError::LeaseProvided));
    assert_eq!(validate_put(&PutRequest { lease: 0, ..lease }), Ok(()));

    let range = RangeRequest {
        key: key.clone(),
        ..RangeRequest::default()
    };
    assert_eq!(validate_range(&range), Ok(()));
    for (order, target) in [(3, 0), (-1, 0), (0, 5), (0, -1)] {
        let odd = RangeRequest {
            sort_order: order,
            sort_target: target,
            ..range.clone()
        };
        assert_eq!(validate_range(&odd), Err(ApiError::InvalidSortOption));
        let empty = RangeRequest {
            key: Bytes::new(),
            ..odd
        };
        assert_eq!(validate_range(&empty), Err(ApiError::EmptyKey));
    }
    assert_eq!(
        validate_delete_range(&DeleteRangeRequest::default()),
        Err(ApiError::EmptyKey)
    );
    assert_eq!(
        validate_delete_range(&DeleteRangeRequest {
            key,
            ..DeleteRangeRequest::default()
        }),
        Ok(())
    );
}

#[test]
fn g_kv_4_operations_are_checked_before_duplicates() {
    let empty_operation = RequestOp { request: None };
    let table = [
        (txn(vec![], vec![]), Ok(())),
        (txn(vec![put("a"), put("b")], vec![put("a")]), Ok(())),
        (
            txn(vec![put("a"), put("a")], vec![empty_operation.clone()]),
            Err(ApiError::KeyNotFound),
        ),
        (
            txn(vec![put("a"), put("a")], vec![]),
            Err(ApiError::DuplicateKey),
        ),
        (
            txn(vec![], vec![put("a"), put("a")]),
            Err(ApiError::DuplicateKey),
        ),
        (txn(vec![put("")], vec![]), Err(ApiError::EmptyKey)),
        (txn(vec![range("")], vec![]), Err(ApiError::EmptyKey)),
        (txn(vec![delete("", "")], vec![]), Err(ApiError::EmptyKey)),
        (
            txn(vec![nested(vec![empty_operation], vec![])], vec![]),
            Err(ApiError::KeyNotFound),
        ),
        (
            TxnRequest {
                compare: vec![Compare::default()],
                ..txn(vec![put("")], vec![])
            },
            Err(ApiError::EmptyKey),
        ),
    ];
    for (txn, expected) in table {
        assert_eq!(check(&txn), expected, "{txn:?}");
        assert_eq!(
            validate(&Request::Txn(txn), &RequestLimits::default()),
            expected
        );
    }
}

#[test]
fn g_kv_4_duplicate_keys() {
    let duplicate = Err(ApiError::DuplicateKey);
    let table = [
        // One level: a put and a delete of the same key, in either order.
        (vec![put("b"), delete("b", "")], duplicate),
        (vec![delete("b", ""), put("b")], duplicate),
        (vec![delete("a", "c"), put("b")], duplicate),
        (vec![delete("a", "b"), put("b")], Ok(())),
        (vec![delete("b", "c"), put("b")], duplicate),
        (vec![delete("b", "c"), put("a")], Ok(())),
        (vec![delete("a", "c"), delete("b", "d"), range("b")], Ok(())),
        (
            vec![delete("a", "c"), delete("b", "d"), put("c")],
            duplicate,
        ),
        // A range that is empty as it stands overlaps with nothing, and so does one without end.
        (vec![delete("c", "a"), put("b")], Ok(())),
        (vec![delete("a", "\0"), put("b")], Ok(())),
        // Nested transactions.
        (vec![nested(vec![put("a")], vec![put("a")])], Ok(())),
        (vec![nested(vec![put("a")], vec![]), put("a")], duplicate),
        (vec![put("a"), nested(vec![], vec![put("a")])], duplicate),
        (
            vec![
                nested(vec![put("a")], vec![]),
                nested(vec![put("a")], vec![]),
            ],
            duplicate,
        ),
        (
            vec![
                nested(vec![put("a")], vec![]),
                nested(vec![], vec![put("a")]),
            ],
            duplicate,
        ),
        (
            vec![nested(vec![put("a")], vec![]), delete("a", "")],
            duplicate,
        ),
        (
            vec![nested(vec![delete("a", "")], vec![]), put("a")],
            duplicate,
        ),
        (
            vec![
                nested(vec![delete("a", "")], vec![]),
                nested(vec![put("a")], vec![]),
            ],
            duplicate,
        ),
        (vec![nested(vec![put("a")], vec![delete("a", "")])], Ok(())),
        // etcd's gap: puts of a nested transaction before the deletes of the next.
        (
            vec![
                nested(vec![put("a")], vec![]),
                nested(vec![delete("a", "")], vec![]),
            ],
            Ok(()),
        ),
        (vec![nested(vec![put("a"), put("a")], vec![])], duplicate),
        (
            vec![
                nested(vec![nested(vec![put("a")], vec![])], vec![]),
                put("a"),
            ],
            duplicate,
        ),
    ];
    for (operations, expected) in table {
        assert_eq!(
            check(&txn(operations.clone(), vec![])),
            expected,
            "{operations:?}"
        );
        assert_eq!(check(&txn(vec![], operations)), expected);
    }
}

#[test]
fn g_api_1_operations_have_a_budget() {
    let limits = RequestLimits { txn_ops_max: 4 };
    let puts = |count: usize| {
        (0..count)
            .map(|n| put(&format!("k{n}")))
            .collect::<Vec<_>>()
    };
    let check = |txn: &TxnRequest| validate_txn(txn, &limits);
    assert_eq!(check(&txn(puts(4), puts(4))), Ok(()));
    assert_eq!(check(&txn(puts(5), vec![])), Err(ApiError::TooManyOps));
    assert_eq!(check(&txn(vec![], puts(5))), Err(ApiError::TooManyOps));
    let compare = Compare {
        key: Bytes::from_static(b"k"),
        ..Compare::default()
    };
    let compares = TxnRequest {
        compare: vec![compare; 5],
        ..TxnRequest::default()
    };
    assert_eq!(check(&compares), Err(ApiError::TooManyOps));
    // The longest list of a level is taken from what the levels below may use.
    assert_eq!(check(&txn(vec![nested(puts(3), vec![])], vec![])), Ok(()));
    assert_eq!(
        check(&txn(vec![nested(puts(4), vec![])], vec![])),
        Err(ApiError::TooManyOps)
    );
    assert_eq!(
        check(&txn(vec![nested(puts(3), vec![])], puts(2))),
        Err(ApiError::TooManyOps)
    );
    let deep = nested(vec![nested(vec![nested(puts(1), vec![])], vec![])], vec![]);
    assert_eq!(check(&txn(vec![deep.clone()], vec![])), Ok(()));
    assert_eq!(
        check(&txn(vec![nested(vec![deep], vec![])], vec![])),
        Err(ApiError::TooManyOps)
    );
    let nothing = nested(vec![nested(vec![], vec![])], vec![]);
    assert_eq!(
        validate_txn(
            &txn(vec![nothing], vec![]),
            &RequestLimits { txn_ops_max: 2 }
        ),
        Ok(())
    );
}

proptest! {
    /// The merged ranges contain what any of the inserted ones contains.
    #[test]
    fn ranges_are_the_union(
        inserted in proptest::collection::vec(
            (proptest::collection::vec(0u8..3, 1..3), proptest::collection::vec(0u8..3, 0..3)), 0..12),
        probes in proptest::collection::vec(proptest::collection::vec(0u8..3, 1..4), 1..30),
    ) {
        let mut ranges = Ranges::default();
        for (key, range_end) in &inserted {
            ranges.insert(key, range_end);
        }
        for probe in &probes {
            let expected = inserted.iter().any(|(key, range_end)| match &range_end[..] {
                [] => probe == key,
                end => key <= probe && probe.as_slice() < end,
            });
            prop_assert_eq!(ranges.contains(probe), expected, "{:?} {:?}", probe, ranges);
        }
    }
}
