//! What can be said about a request without the state: the checks of etcd's API layer, in its order.
//!
//! The front calls them before it proposes anything. Apply does not repeat them; it is total without.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_proto::etcdserverpb::request_op::Request as Operation;
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use keelson_proto::limits::TXN_OPS_MAX_DEFAULT;

use crate::state::command::Request;

/// The limits a request is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// `--max-txn-ops`: compares, and operations of each branch, over all levels of nesting.
    pub txn_ops_max: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            txn_ops_max: TXN_OPS_MAX_DEFAULT as usize,
        }
    }
}

/// Checks a request before it becomes a command.
///
/// # Errors
/// The error etcd answers.
pub fn validate(request: &Request, limits: &RequestLimits) -> Result<(), ApiError> {
    match request {
        Request::Put(put) => validate_put(put),
        Request::DeleteRange(delete) => validate_delete_range(delete),
        Request::Txn(txn) => validate_txn(txn, limits),
        Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseRenew(_)
        | Request::LeaseRenewMany(_)
        | Request::LeaseExpire(_)
        | Request::Alarm(_)
        | Request::Tick
        | Request::ClusterInit(_)
        | Request::MemberPublish(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberUpdate(_)
        | Request::MemberPromote(_) => Ok(()),
    }
}

/// Checks a Range.
///
/// # Errors
/// [`ApiError::EmptyKey`], [`ApiError::InvalidSortOption`].
pub fn validate_range(range: &RangeRequest) -> Result<(), ApiError> {
    if range.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    let is_known = SortOrder::try_from(range.sort_order).is_ok()
        && SortTarget::try_from(range.sort_target).is_ok();
    if is_known {
        Ok(())
    } else {
        Err(ApiError::InvalidSortOption)
    }
}

/// Checks a Put.
///
/// # Errors
/// [`ApiError::EmptyKey`], [`ApiError::ValueProvided`], [`ApiError::LeaseProvided`].
pub fn validate_put(put: &PutRequest) -> Result<(), ApiError> {
    if put.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(ApiError::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(ApiError::LeaseProvided);
    }
    Ok(())
}

/// Checks a DeleteRange.
///
/// # Errors
/// [`ApiError::EmptyKey`].
pub fn validate_delete_range(delete: &DeleteRangeRequest) -> Result<(), ApiError> {
    if delete.key.is_empty() {
        Err(ApiError::EmptyKey)
    } else {
        Ok(())
    }
}

/// Checks a Txn with everything in it.
///
/// # Errors
/// Those of its operations, [`ApiError::TooManyOps`], [`ApiError::KeyNotFound`] for an empty
/// operation, and [`ApiError::DuplicateKey`] if a branch would change a key twice.
pub fn validate_txn(txn: &TxnRequest, limits: &RequestLimits) -> Result<(), ApiError> {
    validate_operations(txn, limits.txn_ops_max)?;
    validate_branch(&txn.success)?;
    validate_branch(&txn.failure)
}

/// Every level takes its longest list from the budget of the levels below.
fn validate_operations(txn: &TxnRequest, txn_ops_max: usize) -> Result<(), ApiError> {
    let longest = txn
        .compare
        .len()
        .max(txn.success.len())
        .max(txn.failure.len());
    let Some(budget) = txn_ops_max.checked_sub(longest) else {
        return Err(ApiError::TooManyOps);
    };
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(ApiError::EmptyKey);
    }
    txn.success
        .iter()
        .chain(&txn.failure)
        .try_for_each(|operation| match &operation.request {
            Some(Operation::RequestRange(range)) => validate_range(range),
            Some(Operation::RequestPut(put)) => validate_put(put),
            Some(Operation::RequestDeleteRange(delete)) => validate_delete_range(delete),
            Some(Operation::RequestTxn(nested)) => validate_operations(nested, budget),
            None => Err(ApiError::KeyNotFound),
        })
}

/// Refuses a branch that puts a key twice, or puts one that it also deletes.
fn validate_branch(operations: &[RequestOp]) -> Result<(), ApiError> {
    // The common branch has one operation that changes something, which cannot collide with itself.
    let writes = operations
        .iter()
        .filter(|operation| !matches!(operation.request, Some(Operation::RequestRange(_)) | None));
    let mut writes = writes.take(2);
    match (writes.next(), writes.next()) {
        (None, _) => Ok(()),
        (
            Some(RequestOp {
                request: Some(Operation::RequestPut(_) | Operation::RequestDeleteRange(_)),
            }),
            None,
        ) => Ok(()),
        _ => changes_of(operations).map(|_| ()),
    }
}

/// The keys that a list of operations may put and the ranges it may delete, whichever way its nested
/// transactions go.
///
/// The order of the checks is etcd's, with its gaps: the deletes of a nested transaction are held
/// against the puts that follow it and those of the outer level, not against the puts of a nested
/// transaction before it; and a range that is empty as it stands, which includes an end of one zero
/// byte, is held against nothing.
fn changes_of(operations: &[RequestOp]) -> Result<(BTreeSet<&[u8]>, Ranges<'_>), ApiError> {
    let requests = || {
        operations
            .iter()
            .filter_map(|operation| operation.request.as_ref())
    };
    let mut puts = BTreeSet::new();
    let mut deletes = Ranges::default();
    for request in requests() {
        if let Operation::RequestDeleteRange(delete) = request {
            deletes.insert(&delete.key, &delete.range_end);
        }
    }
    for request in requests() {
        let Operation::RequestTxn(nested) = request else {
            continue;
        };
        let (success_puts, success_deletes) = changes_of(&nested.success)?;
        let (failure_puts, failure_deletes) = changes_of(&nested.failure)?;
        // Only one of the branches is executed, so they may put the same key.
        let nested_puts: BTreeSet<&[u8]> = success_puts.union(&failure_puts).copied().collect();
        for key in nested_puts {
            insert_put(&mut puts, &deletes, key)?;
        }
        deletes.append(success_deletes);
        deletes.append(failure_deletes);
    }
    for request in requests() {
        if let Operation::RequestPut(put) = request {
            insert_put(&mut puts, &deletes, &put.key)?;
        }
    }
    Ok((puts, deletes))
}

fn insert_put<'a>(
    puts: &mut BTreeSet<&'a [u8]>,
    deletes: &Ranges<'_>,
    key: &'a [u8],
) -> Result<(), ApiError> {
    if deletes.contains(key) || !puts.insert(key) {
        Err(ApiError::DuplicateKey)
    } else {
        Ok(())
    }
}

/// A set of keys made of ranges that are kept apart from each other.
#[derive(Debug, Default)]
struct Ranges<'a> {
    /// Start to end. A single key is a range that includes its end.
    by_start: BTreeMap<&'a [u8], End<'a>>,
}

/// Where a range ends; ordered by how far it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End<'a> {
    key: &'a [u8],
    /// Whether the key itself belongs to the range.
    included: bool,
}

impl<'a> Ranges<'a> {
    fn insert(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        let end = match range_end {
            [] => End {
                key,
                included: true,
            },
            _ if range_end <= key => return,
            _ => End {
                key: range_end,
                included: false,
            },
        };
        self.insert_range(key, end);
    }

    fn append(&mut self, other: Self) {
        for (start, end) in other.by_start {
            self.insert_range(start, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.last_until(key).is_some_and(|(_, end)| {
            end >= End {
                key,
                included: true,
            }
        })
    }

    /// Adds a range and swallows those it touches, so that the last start at or before a key decides.
    fn insert_range(&mut self, start: &'a [u8], end: End<'a>) {
        let (mut start, mut end) = (start, end);
        if let Some((before, before_end)) = self.last_until(start)
            && before_end
                >= (End {
                    key: start,
                    included: false,
                })
        {
            start = before;
            end = end.max(before_end);
        }
        while let Some((next, next_end)) = self.first_from(start)
            && end
                >= (End {
                    key: next,
                    included: false,
                })
        {
            self.by_start.remove(next);
            end = end.max(next_end);
        }
        self.by_start.insert(start, end);
    }

    /// The range that starts last of those that start at `key` or before.
    fn last_until(&self, key: &[u8]) -> Option<(&'a [u8], End<'a>)> {
        let mut range = self
            .by_start
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        range.next_back().map(|(start, end)| (*start, *end))
    }

    /// The range that starts first of those that start at `key` or behind.
    fn first_from(&self, key: &[u8]) -> Option<(&'a [u8], End<'a>)> {
        let mut range = self
            .by_start
            .range::<[u8], _>((Bound::Included(key), Bound::Unbounded));
        range.next().map(|(start, end)| (*start, *end))
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
