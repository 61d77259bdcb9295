//! Compares as a table, and the order of checks and headers.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use keelson_proto::etcdserverpb::DeleteRangeRequest;

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..PutRequest::default()
    }
}

fn op_put(key: &str, value: &str) -> RequestOp {
    RequestOp {
        request: Some(Operation::RequestPut(put(key, value))),
    }
}

fn op_range(range: RangeRequest) -> RequestOp {
    RequestOp {
        request: Some(Operation::RequestRange(range)),
    }
}

fn op_txn(txn: TxnRequest) -> RequestOp {
    RequestOp {
        request: Some(Operation::RequestTxn(txn)),
    }
}

/// `a` at create 2, mod 3, version 2, value "2", lease 7; `b` at 4, value "b", no lease.
fn keyspace() -> Keyspace {
    let mut keyspace = Keyspace::new();
    keyspace
        .leases
        .grant(LeaseId(7), 60, crate::ids::LeaseTime(0))
        .unwrap();
    keyspace.apply_put(&put("a", "1")).unwrap();
    keyspace
        .apply_put(&PutRequest {
            lease: 7,
            ..put("a", "2")
        })
        .unwrap();
    keyspace.apply_put(&put("b", "b")).unwrap();
    keyspace
}

#[test]
fn g_kv_4_compares() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
    let keyspace = keyspace();
    let holds_for_key =
        |key: &str, range_end: &str, result: i32, target: i32, operand: Option<TargetUnion>| {
            let compare = Compare {
                result,
                target,
                key: bytes(key),
                range_end: bytes(range_end),
                target_union: operand,
            };
            holds(&keyspace.store, &compare)
        };
    // (target, operand, how `a` compares with it, how a missing key does)
    let table = [
        (
            CompareTarget::Version,
            Version(2),
            Ordering::Equal,
            Some(Ordering::Less),
        ),
        (
            CompareTarget::Version,
            Version(0),
            Ordering::Greater,
            Some(Ordering::Equal),
        ),
        (
            CompareTarget::Version,
            Version(3),
            Ordering::Less,
            Some(Ordering::Less),
        ),
        (
            CompareTarget::Create,
            CreateRevision(2),
            Ordering::Equal,
            Some(Ordering::Less),
        ),
        (
            CompareTarget::Create,
            CreateRevision(-1),
            Ordering::Greater,
            Some(Ordering::Greater),
        ),
        (
            CompareTarget::Mod,
            ModRevision(3),
            Ordering::Equal,
            Some(Ordering::Less),
        ),
        (
            CompareTarget::Mod,
            ModRevision(0),
            Ordering::Greater,
            Some(Ordering::Equal),
        ),
        (
            CompareTarget::Lease,
            Lease(7),
            Ordering::Equal,
            Some(Ordering::Less),
        ),
        (
            CompareTarget::Lease,
            Lease(0),
            Ordering::Greater,
            Some(Ordering::Equal),
        ),
        (
            CompareTarget::Value,
            Value(bytes("2")),
            Ordering::Equal,
            None,
        ),
        (
            CompareTarget::Value,
            Value(bytes("")),
            Ordering::Greater,
            None,
        ),
        (
            CompareTarget::Value,
            Value(bytes("20")),
            Ordering::Less,
            None,
        ),
        // An operand of another target is the zero of this one.
        (
            CompareTarget::Version,
            Value(bytes("2")),
            Ordering::Greater,
            Some(Ordering::Equal),
        ),
        (CompareTarget::Value, Version(2), Ordering::Greater, None),
    ];
    for (target, operand, found, missing) in table {
        for result in [Equal, Greater, Less, NotEqual] {
            let satisfies = |ordering: Ordering| match result {
                Equal => ordering.is_eq(),
                Greater => ordering.is_gt(),
                Less => ordering.is_lt(),
                NotEqual => ordering.is_ne(),
            };
            let check = |key: &str, end: &str| {
                holds_for_key(
                    key,
                    end,
                    result as i32,
                    target as i32,
                    Some(operand.clone()),
                )
            };
            let case = format!("{target:?} {operand:?} {result:?}");
            assert_eq!(check("a", ""), satisfies(found), "{case}");
            // A value of a missing key satisfies nothing, not even NOT_EQUAL.
            assert_eq!(
                check("x", ""),
                missing.is_some_and(satisfies),
                "missing: {case}"
            );
            assert_eq!(
                check("x", "z"),
                missing.is_some_and(satisfies),
                "empty range: {case}"
            );
            assert_eq!(
                check("b", "a"),
                missing.is_some_and(satisfies),
                "inverted range: {case}"
            );
        }
    }
    // A range holds if every key does.
    let not_zero = |end: &str, target: CompareTarget, operand: TargetUnion| {
        holds_for_key("a", end, NotEqual as i32, target as i32, Some(operand))
    };
    assert!(not_zero("\0", CompareTarget::Version, Version(0)));
    assert!(
        !not_zero("\0", CompareTarget::Lease, Lease(0)),
        "b has no lease"
    );
    assert!(
        not_zero("b", CompareTarget::Lease, Lease(0)),
        "b is not in the range"
    );
    // What is not known is equal, or holds.
    assert!(holds_for_key("a", "", Equal as i32, 99, None));
    assert!(!holds_for_key("a", "", Less as i32, 99, None));
    assert!(holds_for_key(
        "a",
        "",
        99,
        CompareTarget::Version as i32,
        Some(Version(9))
    ));
}

#[test]
fn g_kv_4_checks_come_before_execution() {
    let mut keyspace = keyspace();
    let ignores = PutRequest {
        ignore_value: true,
        lease: 99,
        ..put("missing", "")
    };
    let future = RangeRequest {
        key: bytes("a"),
        revision: 5,
        ..RangeRequest::default()
    };
    let txn = |success| TxnRequest {
        success,
        ..TxnRequest::default()
    };
    let nested = |success| op_txn(txn(success));
    let table = [
        (vec![op_put("c", "")], Ok(5)),
        // The revision of a range is held against the state before the transaction.
        (
            vec![
                op_put("c", ""),
                op_range(RangeRequest {
                    revision: 6,
                    ..future.clone()
                }),
            ],
            Err(ApiError::FutureRev),
        ),
        (
            vec![
                op_put("c", ""),
                nested(vec![op_range(RangeRequest {
                    revision: 7,
                    ..future.clone()
                })]),
            ],
            Err(ApiError::FutureRev),
        ),
        (
            vec![op_range(RangeRequest {
                revision: -1,
                ..future.clone()
            })],
            Ok(5),
        ),
        (
            vec![op_range(RangeRequest {
                revision: -2,
                ..future.clone()
            })],
            Err(ApiError::Compacted),
        ),
        // Puts are checked before ranges, a missing key before a missing lease.
        (
            vec![
                op_range(RangeRequest {
                    revision: 9,
                    ..future
                }),
                RequestOp {
                    request: Some(Operation::RequestPut(ignores.clone())),
                },
            ],
            Err(ApiError::KeyNotFound),
        ),
        (
            vec![RequestOp {
                request: Some(Operation::RequestPut(PutRequest {
                    ignore_value: false,
                    ..ignores
                })),
            }],
            Err(ApiError::LeaseNotFound),
        ),
    ];
    for (operations, expected) in table {
        let before = keyspace.store.next_change_ordinal();
        let result = apply(&mut keyspace, &txn(operations.clone()));
        let revision = result.map(|response| response.header.unwrap().revision);
        assert_eq!(revision, expected, "{operations:?}");
        assert!(
            expected.is_ok() || keyspace.store.next_change_ordinal() == before,
            "an error leaves no trace"
        );
    }
}

#[test]
fn g_kv_4_headers_and_reading_own_writes() {
    let mut keyspace = keyspace();
    let get = |key: &str| {
        op_range(RangeRequest {
            key: bytes(key),
            ..RangeRequest::default()
        })
    };
    let delete = DeleteRangeRequest {
        key: bytes("none"),
        ..DeleteRangeRequest::default()
    };
    let delete = RequestOp {
        request: Some(Operation::RequestDeleteRange(delete)),
    };
    let version_is_one = Compare {
        target: CompareTarget::Version as i32,
        key: bytes("new"),
        target_union: Some(TargetUnion::Version(1)),
        ..Compare::default()
    };
    let nested = TxnRequest {
        // Decided before the put: the key is not there yet.
        compare: vec![version_is_one],
        success: vec![],
        failure: vec![get("new")],
    };
    let request = TxnRequest {
        success: vec![
            delete.clone(),
            get("new"),
            op_put("new", "x"),
            op_txn(nested),
            delete,
        ],
        ..TxnRequest::default()
    };
    let response = apply(&mut keyspace, &request).unwrap();
    assert_eq!(response.header.unwrap().revision, 5);
    let revision = |header: &Option<ResponseHeader>| header.as_ref().unwrap().revision;
    let outcomes: Vec<_> = response
        .responses
        .into_iter()
        .map(|op| op.response.unwrap())
        .collect();
    let [
        Outcome::ResponseDeleteRange(nothing),
        Outcome::ResponseRange(before),
        Outcome::ResponsePut(put),
        Outcome::ResponseTxn(nested),
        Outcome::ResponseDeleteRange(nothing_later),
    ] = &outcomes[..]
    else {
        panic!("responses are in the order of the operations: {outcomes:?}");
    };
    assert_eq!((revision(&nothing.header), nothing.deleted), (4, 0));
    assert_eq!((revision(&before.header), before.count), (4, 0));
    assert_eq!(revision(&put.header), 5);
    assert_eq!(nested.header, Some(ResponseHeader::default()));
    assert!(!nested.succeeded);
    let Some(Outcome::ResponseRange(after)) = &nested.responses[0].response else {
        panic!("a range answers a range");
    };
    assert_eq!((revision(&after.header), after.count), (5, 1));
    assert_eq!((after.kvs[0].create_revision, after.kvs[0].version), (5, 1));
    assert_eq!(
        (revision(&nothing_later.header), nothing_later.deleted),
        (5, 0)
    );
}

#[test]
fn read_only_is_what_etcd_says() {
    let range = |serializable| {
        op_range(RangeRequest {
            serializable,
            ..RangeRequest::default()
        })
    };
    let txn = |success, failure| TxnRequest {
        success,
        failure,
        ..TxnRequest::default()
    };
    let table = [
        (txn(vec![], vec![]), true, true),
        (txn(vec![range(true)], vec![range(true)]), true, true),
        (txn(vec![range(true)], vec![range(false)]), true, false),
        (txn(vec![range(true)], vec![op_put("a", "")]), false, false),
        (
            txn(vec![op_txn(txn(vec![range(true)], vec![]))], vec![]),
            false,
            false,
        ),
        (txn(vec![RequestOp { request: None }], vec![]), false, false),
    ];
    for (txn, read_only, serializable) in table {
        assert_eq!(
            (is_read_only(&txn), is_serializable(&txn)),
            (read_only, serializable),
            "{txn:?}"
        );
    }
    let keyspace = keyspace();
    let response = read(
        &keyspace.store,
        &txn(vec![range(false)], vec![]),
        &mut Vec::new(),
    )
    .unwrap();
    assert_eq!(response.header.unwrap().revision, 4);
}
