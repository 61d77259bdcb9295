//! What a member without a vote serves.
//!
//! It may be far behind the others, and a client that has the choice shall ask a voter. So, as in etcd 3.6, it tells its own
//! status, answers ranges that need not see the newest, and gives out backups; every other call, whatever its kind, is
//! refused before it is looked at, with an error after which clients ask another endpoint. A stream that was open when the
//! member became a learner, which none does, would stay.
//!
//! HTTP is not asked here, as there: health and metrics are the operator's.

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::RangeRequest;

use super::Api;
use crate::observe::Method;

/// Whether this member serves a method at all.
pub(super) fn admits(api: &Api, method: Method) -> Result<(), ApiError> {
    // Which ranges, the request says.
    let is_served = matches!(
        method,
        Method::MaintenanceStatus | Method::MaintenanceSnapshot | Method::KvRange
    );
    match is_served || !api.is_learner.get() {
        true => Ok(()),
        false => Err(ApiError::NotSupportedForLearner),
    }
}

/// Whether it answers this range.
pub(super) fn admits_range(api: &Api, request: &RangeRequest) -> Result<(), ApiError> {
    match request.serializable || !api.is_learner.get() {
        true => Ok(()),
        false => Err(ApiError::NotSupportedForLearner),
    }
}
