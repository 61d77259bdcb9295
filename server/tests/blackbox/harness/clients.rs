//! The generated gRPC clients, all on one HTTP/2 connection, without size limits of their own.

use std::time::Duration;

use keelson_proto::etcdserverpb::auth_client::AuthClient;
use keelson_proto::etcdserverpb::cluster_client::ClusterClient;
use keelson_proto::etcdserverpb::kv_client::KvClient;
use keelson_proto::etcdserverpb::lease_client::LeaseClient;
use keelson_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_proto::etcdserverpb::watch_client::WatchClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

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
    /// Auth.
    pub auth: AuthClient<Channel>,
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
            auth: AuthClient::new(channel.clone()),
            channel,
        }
    }

    /// A new watch stream.
    pub fn watch_session(&self) -> WatchSession {
        WatchSession::open(self.watch.clone(), &[])
    }
}

/// A connection to `http://host:port`.
pub async fn connect(endpoint: &str) -> Channel {
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
