//! `etcdserverpb.Lease`: grants, revocations, keep-alives, and what is left of a lease.
//!
//! A client that keeps many leases alive sends one request behind the other. Those that are there are asked
//! about together, and their answers leave in one piece.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes};
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, ResponseHeader,
};
use keelson_proto::limits::LEASE_TTL_SECONDS_MAX;
use keelson_storage::ids::LeaseId;
use keelson_storage::state::{Renewal, Request, Response};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, int64};
use tonic::Status;

use super::{Api, decode};
use crate::engine::limits::LEASE_RENEWALS_PER_COMMAND_MAX;
use crate::engine::message::{Answer, Ask};
use crate::front::{Call, Messages, PREFIX_BYTES};

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
    let mut renewals = Vec::new();
    loop {
        let ended = gather(&mut call.messages, &mut renewals).await;
        if !renewals.is_empty() {
            let header;
            (header, renewals) = match api.ask(Ask::LeaseKeepAlive(renewals)).await {
                Ok(Answer::LeaseKeepAlive(header, renewals)) => (header, renewals),
                Ok(other) => unreachable!("keep-alives are answered with theirs, not {other:?}"),
                Err(error) => return call.reply.finish(Err(error.into())),
            };
            let framed = frame_alive(&header, &renewals);
            if call.reply.send_many(framed, renewals.len()).await.is_err() {
                return;
            }
            renewals.clear();
        }
        if let Some(result) = ended {
            return call.reply.finish(result);
        }
    }
}

/// Waits for a request and takes those that have come with it. How the stream ended, if it did behind them.
async fn gather(
    messages: &mut Messages,
    renewals: &mut Vec<Renewal>,
) -> Option<Result<(), Status>> {
    let mut next = messages.next().await;
    loop {
        let body = match next {
            Ok(Some(body)) => body,
            Ok(None) => return Some(Ok(())),
            Err(status) => return Some(Err(status)),
        };
        let id = match decode::<LeaseKeepAliveRequest>(&body) {
            Ok(request) => LeaseId(request.id),
            Err(status) => return Some(Err(status)),
        };
        renewals.push(Renewal { id, ttl_seconds: 0 });
        if renewals.len() == LEASE_RENEWALS_PER_COMMAND_MAX {
            return None;
        }
        // Nobody is woken for what comes later: the next call asks for it.
        next = match messages.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => next,
            Poll::Pending => return None,
        };
    }
}

/// `LeaseKeepAliveResponse`s, framed, one behind the other. They differ in two numbers.
fn frame_alive(header: &ResponseHeader, renewals: &[Renewal]) -> Bytes {
    const HEADER: u32 = 1;
    const ID: u32 = 2;
    const TTL: u32 = 3;
    /// A field number and the longest number.
    const NUMBER_BYTES_MAX: usize = 11;
    let mut head = Vec::new();
    encode_key(HEADER, WireType::LengthDelimited, &mut head);
    encode_varint(header.encoded_len() as u64, &mut head);
    header.encode_raw(&mut head);
    let one_bytes_max = PREFIX_BYTES + head.len() + 2 * NUMBER_BYTES_MAX;
    let mut framed = Vec::with_capacity(renewals.len() * one_bytes_max);
    for renewal in renewals {
        let (id, ttl) = (renewal.id.0, renewal.ttl_seconds);
        let begin = framed.len();
        framed.put_bytes(0, PREFIX_BYTES);
        framed.put_slice(&head);
        // A number that is 0 is not sent.
        if id != 0 {
            int64::encode(ID, &id, &mut framed);
        }
        if ttl != 0 {
            int64::encode(TTL, &ttl, &mut framed);
        }
        let message_bytes = (framed.len() - begin - PREFIX_BYTES) as u32;
        framed[begin + 1..][..4].copy_from_slice(&message_bytes.to_be_bytes());
    }
    Bytes::from(framed)
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

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::LeaseKeepAliveResponse;

    use super::*;
    use crate::front::encode_message;

    #[test]
    fn answers_are_framed_as_if_one_by_one() {
        let header = ResponseHeader {
            cluster_id: u64::MAX,
            member_id: 7,
            revision: 1,
            raft_term: 0,
        };
        let numbers = [
            (1, 500),
            (i64::MAX, 9_000_000_000),
            (-5, 0),
            (0, 0),
            (300, 1),
        ];
        let renewals = numbers.map(|(id, ttl_seconds)| Renewal {
            id: LeaseId(id),
            ttl_seconds,
        });
        for header in [header, ResponseHeader::default()] {
            let one_by_one = numbers.map(|(id, ttl)| {
                encode_message(&LeaseKeepAliveResponse {
                    header: Some(header),
                    id,
                    ttl,
                })
            });
            assert_eq!(frame_alive(&header, &renewals), one_by_one.concat());
        }
        assert_eq!(frame_alive(&header, &[]), Bytes::new());
    }
}
