//! One step of a run, and what a server answered to it.

use futures_util::stream;
use keelson_proto::etcdserverpb as pb;
use tonic::Status;

use crate::harness::{Clients, Failure, failure};

/// One thing done to both servers.
#[derive(Debug, Clone)]
pub enum Step {
    /// A single call with a single answer.
    Call(Call),
    /// Ask stream `stream` for a watch.
    WatchCreate {
        /// Which of the run's watch streams.
        stream: usize,
        /// What is asked.
        request: pb::WatchCreateRequest,
    },
    /// End a watch, or one that does not exist.
    WatchCancel {
        /// Which of the run's watch streams.
        stream: usize,
        /// The id, given or assigned.
        watch_id: i64,
    },
    /// Ask stream `stream` how far it is.
    WatchProgress {
        /// Which of the run's watch streams.
        stream: usize,
    },
    /// Wait until every watch has seen all there is, and compare.
    Barrier,
}

/// A request with one answer.
#[derive(Debug, Clone)]
pub enum Call {
    /// KV.Range.
    Range(pb::RangeRequest),
    /// KV.Put.
    Put(pb::PutRequest),
    /// KV.DeleteRange.
    Delete(pb::DeleteRangeRequest),
    /// KV.Txn.
    Txn(pb::TxnRequest),
    /// KV.Compact.
    Compact(pb::CompactionRequest),
    /// Lease.LeaseGrant.
    LeaseGrant(pb::LeaseGrantRequest),
    /// Lease.LeaseRevoke.
    LeaseRevoke(pb::LeaseRevokeRequest),
    /// Lease.LeaseKeepAlive, a stream of one request.
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    /// Lease.LeaseTimeToLive.
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    /// Lease.LeaseLeases.
    LeaseLeases(pb::LeaseLeasesRequest),
    /// Maintenance.HashKV.
    HashKv(pb::HashKvRequest),
}

/// The answer to a `Call`.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// KV.Range.
    Range(pb::RangeResponse),
    /// KV.Put.
    Put(pb::PutResponse),
    /// KV.DeleteRange.
    Delete(pb::DeleteRangeResponse),
    /// KV.Txn.
    Txn(pb::TxnResponse),
    /// KV.Compact.
    Compact(pb::CompactionResponse),
    /// Lease.LeaseGrant.
    LeaseGrant(pb::LeaseGrantResponse),
    /// Lease.LeaseRevoke.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// Lease.LeaseKeepAlive.
    LeaseKeepAlive(pb::LeaseKeepAliveResponse),
    /// Lease.LeaseTimeToLive.
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    /// Lease.LeaseLeases.
    LeaseLeases(pb::LeaseLeasesResponse),
    /// Maintenance.HashKV.
    HashKv(pb::HashKvResponse),
    /// Any of them, refused.
    Failed(Failure),
}

impl Call {
    /// Sends the request and waits for the answer.
    pub async fn perform(&self, clients: &Clients) -> Outcome {
        let mut kv = clients.kv.clone();
        let mut lease = clients.lease.clone();
        match self.clone() {
            Call::Range(request) => answer(kv.range(request).await, Outcome::Range),
            Call::Put(request) => answer(kv.put(request).await, Outcome::Put),
            Call::Delete(request) => answer(kv.delete_range(request).await, Outcome::Delete),
            Call::Txn(request) => answer(kv.txn(request).await, Outcome::Txn),
            Call::Compact(request) => answer(kv.compact(request).await, Outcome::Compact),
            Call::LeaseGrant(request) => {
                answer(lease.lease_grant(request).await, Outcome::LeaseGrant)
            }
            Call::LeaseRevoke(request) => {
                answer(lease.lease_revoke(request).await, Outcome::LeaseRevoke)
            }
            Call::LeaseKeepAlive(request) => keep_alive(&mut lease, request).await,
            Call::LeaseTimeToLive(request) => answer(
                lease.lease_time_to_live(request).await,
                Outcome::LeaseTimeToLive,
            ),
            Call::LeaseLeases(request) => {
                answer(lease.lease_leases(request).await, Outcome::LeaseLeases)
            }
            Call::HashKv(request) => {
                let mut maintenance = clients.maintenance.clone();
                answer(maintenance.hash_kv(request).await, Outcome::HashKv)
            }
        }
    }
}

impl Outcome {
    /// The header of an answer that was not refused.
    pub fn header_mut(&mut self) -> Option<&mut Option<pb::ResponseHeader>> {
        Some(match self {
            Outcome::Range(response) => &mut response.header,
            Outcome::Put(response) => &mut response.header,
            Outcome::Delete(response) => &mut response.header,
            Outcome::Txn(response) => &mut response.header,
            Outcome::Compact(response) => &mut response.header,
            Outcome::LeaseGrant(response) => &mut response.header,
            Outcome::LeaseRevoke(response) => &mut response.header,
            Outcome::LeaseKeepAlive(response) => &mut response.header,
            Outcome::LeaseTimeToLive(response) => &mut response.header,
            Outcome::LeaseLeases(response) => &mut response.header,
            Outcome::HashKv(response) => &mut response.header,
            Outcome::Failed(_) => return None,
        })
    }

    /// The store revision that an answer reports.
    pub fn revision(&self) -> Option<i64> {
        let mut copy = self.clone();
        let header = copy.header_mut()?.as_ref()?;
        Some(header.revision)
    }
}

fn answer<T>(result: Result<tonic::Response<T>, Status>, wrap: fn(T) -> Outcome) -> Outcome {
    match result {
        Ok(response) => wrap(response.into_inner()),
        Err(status) => Outcome::Failed(failure(&status)),
    }
}

async fn keep_alive(
    lease: &mut pb::lease_client::LeaseClient<tonic::transport::Channel>,
    request: pb::LeaseKeepAliveRequest,
) -> Outcome {
    let mut responses = match lease.lease_keep_alive(stream::iter([request])).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return Outcome::Failed(failure(&status)),
    };
    match responses.message().await {
        Ok(Some(response)) => Outcome::LeaseKeepAlive(response),
        Ok(None) => panic!("a keep-alive request got no answer"),
        Err(status) => Outcome::Failed(failure(&status)),
    }
}
