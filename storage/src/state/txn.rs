//! Transactions: compare, check, execute.
//!
//! The branch of every transaction, nested ones included, is decided from the state before the first
//! operation. Then everything that could fail in the chosen branches is checked, so that execution
//! cannot fail half way: first all puts (a missing key for `ignore_value`/`ignore_lease`, then the
//! lease), then the revisions of all ranges. Execution sees its own changes.

use std::cmp::Ordering;

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::range_request::SortTarget;
use keelson_proto::etcdserverpb::request_op::Request as Operation;
use keelson_proto::etcdserverpb::response_op::Response as Outcome;
use keelson_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
};

use crate::ids::LeaseId;
use crate::mvcc::{Record, Span, Store};
use crate::state::kv::Keyspace;

/// Whether a transaction can be answered without the log: etcd's rule, by which a nested transaction
/// counts as a write even if it only reads.
#[must_use]
pub fn is_read_only(txn: &TxnRequest) -> bool {
    operations(txn).all(|operation| matches!(operation, Some(Operation::RequestRange(_))))
}

/// Whether every operation is a serializable range.
#[must_use]
pub fn is_serializable(txn: &TxnRequest) -> bool {
    operations(txn).all(|operation| match operation {
        Some(Operation::RequestRange(range)) => range.serializable,
        _ => false,
    })
}

/// Whether any branch, at any depth, puts a key.
pub(crate) fn has_put(txn: &TxnRequest) -> bool {
    operations(txn).any(|operation| match operation {
        Some(Operation::RequestPut(_)) => true,
        Some(Operation::RequestTxn(nested)) => has_put(nested),
        _ => false,
    })
}

/// Adds the cold records whose values must be supplied before a transaction is decided and executed:
/// those that are compared or sorted by value, and those whose value a put keeps. Both branches are
/// looked at.
pub(crate) fn cold_values(store: &Store, txn: &TxnRequest, out: &mut Vec<Record>) {
    let compared = txn.compare.iter();
    for compare in compared.filter(|compare| compare.target == CompareTarget::Value as i32) {
        let span = Span::new(&compare.key, &compare.range_end);
        out.extend(
            store
                .walk_live(&span)
                .filter(|record| record.place().is_some()),
        );
    }
    for operation in operations(txn).flatten() {
        match operation {
            Operation::RequestPut(put) => cold_value(store, put, out),
            Operation::RequestTxn(nested) => cold_values(store, nested, out),
            Operation::RequestRange(range) if range.sort_target == SortTarget::Value as i32 => {
                out.extend(store.cold_to_sort(range));
            }
            _ => {}
        }
    }
}

/// The same for a put.
pub(crate) fn cold_value(store: &Store, put: &PutRequest, out: &mut Vec<Record>) {
    if put.ignore_value {
        let kept = Span::Key(put.key.clone());
        out.extend(
            store
                .walk_live(&kept)
                .filter(|record| record.place().is_some()),
        );
    }
}

/// The operations of both branches.
fn operations(txn: &TxnRequest) -> impl Iterator<Item = Option<&Operation>> {
    txn.success
        .iter()
        .chain(&txn.failure)
        .map(|operation| operation.request.as_ref())
}

/// Which way a transaction and the nested ones of its branch go.
struct Decision {
    succeeded: bool,
    /// In the order of the nested transactions of the chosen branch.
    nested: Vec<Decision>,
}

/// Executes a transaction whole.
pub(crate) fn apply(keyspace: &mut Keyspace, txn: &TxnRequest) -> Result<TxnResponse, ApiError> {
    let decision = decide(&keyspace.store, txn);
    check_puts(keyspace, txn, &decision)?;
    check_ranges(&keyspace.store, txn, &decision)?;
    let mut response = execute(keyspace, txn, &decision);
    keyspace.store.commit();
    response.header = Some(header(keyspace.store.revision().0));
    Ok(response)
}

/// Answers a transaction that [`is_read_only`]. Records whose values have to be filled in are added to
/// `cold`, in the order of the response.
pub(crate) fn read(
    store: &Store,
    txn: &TxnRequest,
    cold: &mut Vec<Record>,
) -> Result<TxnResponse, ApiError> {
    assert!(
        is_read_only(txn),
        "only a read-only transaction is answered without the log"
    );
    let decision = decide(store, txn);
    check_ranges(store, txn, &decision)?;
    let responses = branch(txn, &decision)
        .iter()
        .map(|operation| match &operation.request {
            Some(Operation::RequestRange(range)) => range_outcome(store, range, cold),
            _ => unreachable!("a read-only transaction has nothing but ranges"),
        });
    Ok(TxnResponse {
        header: Some(header(store.revision().0)),
        succeeded: decision.succeeded,
        responses: responses
            .map(|outcome| ResponseOp {
                response: Some(outcome),
            })
            .collect(),
    })
}

fn branch<'a>(txn: &'a TxnRequest, decision: &Decision) -> &'a [RequestOp] {
    if decision.succeeded {
        &txn.success
    } else {
        &txn.failure
    }
}

/// The nested transactions of the chosen branch, each with its decision.
fn nested<'a>(
    txn: &'a TxnRequest,
    decision: &'a Decision,
) -> impl Iterator<Item = (&'a Operation, Option<&'a Decision>)> {
    let mut decisions = decision.nested.iter();
    branch(txn, decision)
        .iter()
        .filter_map(|operation| operation.request.as_ref())
        .map(move |operation| match operation {
            Operation::RequestTxn(_) => (operation, decisions.next()),
            _ => (operation, None),
        })
}

fn decide(store: &Store, txn: &TxnRequest) -> Decision {
    let succeeded = txn.compare.iter().all(|compare| holds(store, compare));
    let mut decision = Decision {
        succeeded,
        nested: Vec::new(),
    };
    let nested = branch(txn, &decision)
        .iter()
        .filter_map(|operation| match &operation.request {
            Some(Operation::RequestTxn(nested)) => Some(decide(store, nested)),
            _ => None,
        });
    decision.nested = nested.collect();
    decision
}

fn check_puts(keyspace: &Keyspace, txn: &TxnRequest, decision: &Decision) -> Result<(), ApiError> {
    nested(txn, decision).try_for_each(|(operation, decision)| match (operation, decision) {
        (Operation::RequestPut(put), _) => check_put(keyspace, put),
        (Operation::RequestTxn(txn), Some(decision)) => check_puts(keyspace, txn, decision),
        _ => Ok(()),
    })
}

fn check_put(keyspace: &Keyspace, put: &PutRequest) -> Result<(), ApiError> {
    if (put.ignore_value || put.ignore_lease) && !keyspace.store.contains(&put.key) {
        return Err(ApiError::KeyNotFound);
    }
    keyspace.check_lease(LeaseId(put.lease))
}

fn check_ranges(store: &Store, txn: &TxnRequest, decision: &Decision) -> Result<(), ApiError> {
    nested(txn, decision).try_for_each(|(operation, decision)| match (operation, decision) {
        (Operation::RequestRange(range), _) => check_range(store, range),
        (Operation::RequestTxn(txn), Some(decision)) => check_ranges(store, txn, decision),
        _ => Ok(()),
    })
}

/// Unlike in a plain range, a negative revision is one below the compact revision here, which starts
/// at -1.
fn check_range(store: &Store, range: &RangeRequest) -> Result<(), ApiError> {
    if range.revision == 0 {
        Ok(())
    } else if range.revision > store.revision().0 {
        Err(ApiError::FutureRev)
    } else if range.revision < store.compact_revision().0 {
        Err(ApiError::Compacted)
    } else {
        Ok(())
    }
}

/// Runs a checked transaction. Only the outermost response's header gets a revision, and not here:
/// etcd leaves the nested ones empty.
fn execute(keyspace: &mut Keyspace, txn: &TxnRequest, decision: &Decision) -> TxnResponse {
    let mut decisions = decision.nested.iter();
    let mut run = |operation: &RequestOp| match operation.request.as_ref()? {
        Operation::RequestRange(range) => {
            let Keyspace { store, cold, .. } = &mut *keyspace;
            Some(range_outcome(store, range, cold))
        }
        Operation::RequestPut(put) => Some(Outcome::ResponsePut(keyspace.put(put))),
        Operation::RequestDeleteRange(delete) => {
            Some(Outcome::ResponseDeleteRange(keyspace.delete_range(delete)))
        }
        Operation::RequestTxn(txn) => {
            let decision = decisions
                .next()
                .expect("every nested transaction was decided");
            Some(Outcome::ResponseTxn(execute(keyspace, txn, decision)))
        }
    };
    let responses = branch(txn, decision).iter().map(|operation| ResponseOp {
        response: run(operation),
    });
    TxnResponse {
        responses: responses.collect(),
        succeeded: decision.succeeded,
        header: Some(ResponseHeader::default()),
    }
}

fn range_outcome(store: &Store, range: &RangeRequest, cold: &mut Vec<Record>) -> Outcome {
    let selection = store
        .select(range)
        .expect("the revisions of a transaction's ranges were checked");
    Outcome::ResponseRange(selection.into_response(cold))
}

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        revision,
        ..ResponseHeader::default()
    }
}

/// Whether a compare holds for every key it names. Where there is none, a value never compares and
/// everything else is zero.
fn holds(store: &Store, compare: &Compare) -> bool {
    let span = Span::new(&compare.key, &compare.range_end);
    let mut live = store.walk_live(&span).peekable();
    if live.peek().is_some() {
        live.all(|record| holds_for(compare, Some(&record)))
    } else {
        compare.target != CompareTarget::Value as i32 && holds_for(compare, None)
    }
}

/// A target or a result that is not known compares equal or always holds, as in etcd; a missing or
/// mismatched operand is the zero of its target.
fn holds_for(compare: &Compare, record: Option<&Record>) -> bool {
    let operand = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let expected = match operand {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => &[],
            };
            record
                .map_or(&[][..], |record| record.value())
                .cmp(expected)
        }
        Ok(CompareTarget::Create) => {
            let expected = match operand {
                Some(TargetUnion::CreateRevision(revision)) => *revision,
                _ => 0,
            };
            record
                .map_or(0, |record| record.create_revision.0)
                .cmp(&expected)
        }
        Ok(CompareTarget::Mod) => {
            let expected = match operand {
                Some(TargetUnion::ModRevision(revision)) => *revision,
                _ => 0,
            };
            record.map_or(0, |record| record.revision.0).cmp(&expected)
        }
        Ok(CompareTarget::Version) => {
            let expected = match operand {
                Some(TargetUnion::Version(version)) => *version,
                _ => 0,
            };
            record.map_or(0, |record| record.version).cmp(&expected)
        }
        Ok(CompareTarget::Lease) => {
            let expected = match operand {
                Some(TargetUnion::Lease(lease)) => *lease,
                _ => 0,
            };
            record.map_or(0, |record| record.lease.0).cmp(&expected)
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

#[cfg(test)]
#[path = "txn_tests.rs"]
mod tests;
