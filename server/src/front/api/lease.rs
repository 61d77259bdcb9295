//! `etcdserverpb.Lease`: grants, revocations, keep-alives, and what is left of a lease.
//!
//! Keep-alives are commands in the log like every other change of a lease, gathered into the same group
//! commits; so a lease's deadline is part of the state, and no restart or new leader can get it wrong.

use std::rc::Rc;

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use keelson_proto::limits::LEASE_TTL_SECONDS_MAX;
use keelson_storage::ids::LeaseId;
use keelson_storage::state::{Request, Response};
use prost::Message;
use tonic::Status;

use super::{Api, decode};
use crate::engine::message::{Answer, Ask};
use crate::front::Call;

/// How often an id is drawn anew if the one drawn is taken.
const ID_DRAWS_MAX: usize = 8;

/// Times of a lease that does not exist.
const NO_LEASE_TTL: i64 = -1;

pub(super) async fn grant(api: &Rc<Api>, body: Bytes) -> Result<LeaseGrantResponse, Status> {
    let mut request: LeaseGrantRequest = decode(&body)?;
    if request.ttl > LEASE_TTL_SECONDS_MAX {
        return Err(ApiError::LeaseTtlTooLarge.into());
    }
    request.ttl = request.ttl.max(api.config.lease_ttl_seconds_min);
    let chosen_by_client = request.id != 0;
    for _ in 0..ID_DRAWS_MAX {
        if !chosen_by_client {
            request.id = draw_id(api);
        }
        let body = Bytes::from(request.encode_to_vec());
        match api.write(Request::LeaseGrant(request), body).await {
            Ok(Response::LeaseGrant(response)) => {
                api.metrics.lease.ttl.observe(response.ttl as u64);
                return Ok(response);
            }
            Ok(other) => unreachable!("a grant is answered with its response, not {other:?}"),
            Err(ApiError::LeaseExist) if !chosen_by_client => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::LeaseExist.into())
}

/// A positive id from this core's own sequence.
fn draw_id(api: &Api) -> i64 {
    let mut z = api.lease_ids.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    api.lease_ids.set(z);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 1).max(1) as i64
}

pub(super) async fn revoke(api: &Rc<Api>, body: Bytes) -> Result<LeaseRevokeResponse, Status> {
    let request: LeaseRevokeRequest = decode(&body)?;
    match api.write(Request::LeaseRevoke(request), body).await? {
        Response::LeaseRevoke(response) => Ok(response),
        other => unreachable!("a revoke is answered with its response, not {other:?}"),
    }
}

pub(super) async fn keep_alive(api: &Rc<Api>, mut call: Call) {
    loop {
        let renewed = match call.messages.next().await {
            Ok(Some(body)) => renew(api, body).await,
            Ok(None) => return call.reply.finish(Ok(())),
            Err(status) => Err(status),
        };
        match renewed {
            Ok(response) => {
                if call.reply.send(&response).await.is_err() {
                    return;
                }
            }
            Err(status) => return call.reply.finish(Err(status)),
        }
    }
}

async fn renew(api: &Rc<Api>, body: Bytes) -> Result<LeaseKeepAliveResponse, Status> {
    let request: LeaseKeepAliveRequest = decode(&body)?;
    match api.write(Request::LeaseRenew(request), body).await? {
        Response::LeaseKeepAlive(response) => Ok(response),
        other => unreachable!("a keep-alive is answered with its response, not {other:?}"),
    }
}

pub(super) async fn time_to_live(
    api: &Rc<Api>,
    body: Bytes,
) -> Result<LeaseTimeToLiveResponse, Status> {
    let request: LeaseTimeToLiveRequest = decode(&body)?;
    let ask = Ask::LeaseTimeToLive {
        id: LeaseId(request.id),
        keys: request.keys,
    };
    let Answer::LeaseTimeToLive(header, facts) = api.ask(ask).await? else {
        unreachable!("a time-to-live is answered with a lease's facts");
    };
    let mut response = LeaseTimeToLiveResponse {
        header: Some(header),
        id: request.id,
        ttl: NO_LEASE_TTL,
        ..LeaseTimeToLiveResponse::default()
    };
    if let Some(facts) = facts {
        response.ttl = facts.ttl_seconds;
        response.granted_ttl = facts.granted_ttl_seconds;
        response.keys = facts.keys;
    }
    Ok(response)
}

pub(super) async fn leases(api: &Rc<Api>) -> Result<LeaseLeasesResponse, Status> {
    let Answer::Leases(header, ids) = api.ask(Ask::Leases).await? else {
        unreachable!("leases are answered with their ids");
    };
    Ok(LeaseLeasesResponse {
        header: Some(header),
        leases: ids.into_iter().map(|id| LeaseStatus { id: id.0 }).collect(),
    })
}
