//! The generated gRPC clients, all on one HTTP/2 connection, without size limits of their own.

use std::time::Duration;

use futures_util::stream;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::cluster_client::ClusterClient;
use keelson_proto::etcdserverpb::kv_client::KvClient;
use keelson_proto::etcdserverpb::lease_client::LeaseClient;
use keelson_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_proto::etcdserverpb::watch_client::WatchClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::shapes;
use super::wait::DEADLINE;
use super::watch_session::WatchSession;

/// One client of each service.
#[derive(Debug, Clone)]
pub struct Clients {
    /// KV.
    pub kv: KvClient<Channel>,
    /// Watch; `watch_session` is the comfortable way to use it.
    pub watch: WatchClient<Channel>,
    /// Lease.
    pub lease: LeaseClient<Channel>,
    /// Cluster.
    pub cluster: ClusterClient<Channel>,
    /// Maintenance.
    pub maintenance: MaintenanceClient<Channel>,
    /// The connection under them.
    pub channel: Channel,
}

impl Clients {
    /// Connects to `http://host:port`; panics if nobody listens.
    pub async fn connect(endpoint: &str) -> Clients {
        Clients::on(connect(endpoint).await)
    }

    /// Clients on a connection that exists.
    pub fn on(channel: Channel) -> Clients {
        let all = usize::MAX;
        Clients {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(all),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(all),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            channel,
        }
    }

    /// Range; panics if refused. So do the next ones.
    pub async fn range(&self, request: pb::RangeRequest) -> pb::RangeResponse {
        accepted(self.kv.clone().range(request).await)
    }

    /// Put.
    pub async fn put(&self, request: pb::PutRequest) -> pb::PutResponse {
        accepted(self.kv.clone().put(request).await)
    }

    /// Puts one key and returns the revision this made.
    pub async fn put_key(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> i64 {
        let response = self.put(shapes::put(key, value)).await;
        revision_of(&response.header)
    }

    /// DeleteRange.
    pub async fn delete(&self, request: pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        accepted(self.kv.clone().delete_range(request).await)
    }

    /// Txn.
    pub async fn txn(&self, request: pb::TxnRequest) -> pb::TxnResponse {
        accepted(self.kv.clone().txn(request).await)
    }

    /// Compact.
    pub async fn compact(&self, revision: i64) -> pb::CompactionResponse {
        accepted(
            self.kv
                .clone()
                .compact(shapes::compact(revision, true))
                .await,
        )
    }

    /// The store's revision, by a linearizable read.
    pub async fn revision(&self) -> i64 {
        revision_of(&self.range(shapes::get("no such key")).await.header)
    }

    /// LeaseGrant.
    pub async fn grant(&self, id: i64, ttl: i64) -> pb::LeaseGrantResponse {
        accepted(self.lease.clone().lease_grant(shapes::grant(id, ttl)).await)
    }

    /// LeaseRevoke.
    pub async fn revoke(&self, id: i64) -> pb::LeaseRevokeResponse {
        let request = pb::LeaseRevokeRequest { id };
        accepted(self.lease.clone().lease_revoke(request).await)
    }

    /// LeaseTimeToLive, with the attached keys.
    pub async fn time_to_live(&self, id: i64) -> pb::LeaseTimeToLiveResponse {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        accepted(self.lease.clone().lease_time_to_live(request).await)
    }

    /// LeaseKeepAlive, one request on a stream of its own.
    pub async fn keep_alive(&self, id: i64) -> pb::LeaseKeepAliveResponse {
        let requests = stream::iter([pb::LeaseKeepAliveRequest { id }]);
        let mut answers = accepted(self.lease.clone().lease_keep_alive(requests).await);
        let answer = answers.message().await.expect("keep-alive is answered");
        answer.expect("keep-alive is answered before the stream ends")
    }

    /// Status.
    pub async fn status(&self) -> pb::StatusResponse {
        accepted(self.maintenance.clone().status(pb::StatusRequest {}).await)
    }

    /// A new watch stream.
    pub fn watch_session(&self) -> WatchSession {
        WatchSession::open(self.watch.clone(), &[])
    }
}

/// A connection to `http://host:port`.
async fn connect(endpoint: &str) -> Channel {
    Endpoint::from_shared(endpoint.to_owned())
        .expect("an endpoint is a URL")
        .connect_timeout(Duration::from_secs(20))
        .timeout(DEADLINE)
        .connect()
        .await
        .unwrap_or_else(|error| panic!("no connection to {endpoint}: {error:?}"))
}

/// What a client sees of a failed call: code and text.
pub type Failure = (Code, String);

/// Code and text of a status.
pub fn failure(status: &Status) -> Failure {
    (status.code(), status.message().to_owned())
}

/// The answer of a call that must succeed.
#[track_caller]
pub fn accepted<T>(result: Result<tonic::Response<T>, Status>) -> T {
    match result {
        Ok(response) => response.into_inner(),
        Err(status) => panic!("the call failed: {:?} {}", status.code(), status.message()),
    }
}

/// The refusal of a call that must fail.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<tonic::Response<T>, Status>) -> Failure {
    match result {
        Ok(response) => panic!("the call succeeded: {:?}", response.into_inner()),
        Err(status) => failure(&status),
    }
}

/// The revision in an answer's header.
#[track_caller]
pub fn revision_of(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("every answer has a header").revision
}
