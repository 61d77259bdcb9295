//! A member without a vote: what it serves and what it leaves to the voters, call by call as in etcd.

use futures_util::stream::{self, StreamExt};
use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::health::HealthCheckRequest;
use keelson_proto::health::health_client::HealthClient;
use tonic::{Code, Response, Status, Streaming};

use super::cluster::{member, peer_url, ports, put, serves, start_with};
use super::harness::{
    Clients, Server, ServerKind, accepted, eventually, failure, heavy, http, shapes,
};

const REFUSAL: &str = "etcdserver: rpc not supported for learner";

/// What came of a call, and of which.
type Outcome = (&'static str, Result<(), Status>);

fn unary<T>(answer: Result<Response<T>, Status>) -> Result<(), Status> {
    answer.map(|_| ())
}

/// The same for a stream: its first message counts.
async fn first<T>(answer: Result<Response<Streaming<T>>, Status>) -> Result<(), Status> {
    answer?.into_inner().message().await.map(|_| ())
}

async fn of_keys(clients: &Clients) -> Vec<Outcome> {
    let mut kv = clients.kv.clone();
    let read = pb::request_op::Request::RequestRange(shapes::get("k"));
    let write = pb::request_op::Request::RequestPut(shapes::put("k", "v"));
    vec![
        ("range", unary(kv.range(shapes::get("k")).await)),
        ("put", unary(kv.put(shapes::put("k", "v")).await)),
        ("delete", unary(kv.delete_range(shapes::delete("k")).await)),
        (
            "reading txn",
            unary(kv.txn(shapes::txn(vec![], vec![read], vec![])).await),
        ),
        (
            "writing txn",
            unary(kv.txn(shapes::txn(vec![], vec![write], vec![])).await),
        ),
        (
            "compact",
            unary(kv.compact(shapes::compact(2, false)).await),
        ),
    ]
}

async fn of_leases(clients: &Clients) -> Vec<Outcome> {
    let mut lease = clients.lease.clone();
    let alive = stream::iter([pb::LeaseKeepAliveRequest { id: 1 }]);
    let times = pb::LeaseTimeToLiveRequest { id: 1, keys: true };
    vec![
        (
            "grant",
            unary(lease.lease_grant(shapes::grant(0, 60)).await),
        ),
        (
            "revoke",
            unary(lease.lease_revoke(pb::LeaseRevokeRequest { id: 1 }).await),
        ),
        (
            "keep-alive",
            first(lease.lease_keep_alive(alive).await).await,
        ),
        ("time to live", unary(lease.lease_time_to_live(times).await)),
        (
            "leases",
            unary(lease.lease_leases(pb::LeaseLeasesRequest {}).await),
        ),
    ]
}

async fn of_watches(clients: &Clients) -> Vec<Outcome> {
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(shapes::watch("k"))),
    };
    let requests = stream::iter([create]).chain(stream::pending());
    let check = || HealthCheckRequest::default();
    let mut health = HealthClient::new(clients.channel.clone());
    vec![
        (
            "watch",
            first(clients.watch.clone().watch(requests).await).await,
        ),
        ("health check", unary(health.check(check()).await)),
        ("health watch", first(health.watch(check()).await).await),
    ]
}

/// Of changes only such as a voter refuses for another reason.
async fn of_members(clients: &Clients) -> Vec<Outcome> {
    let mut cluster = clients.cluster.clone();
    let add = pb::MemberAddRequest::default();
    let remove = pb::MemberRemoveRequest { id: 1 };
    let update = pb::MemberUpdateRequest {
        id: 1,
        peer_ur_ls: vec![peer_url(1)],
    };
    let promote = pb::MemberPromoteRequest { id: 1 };
    let list = pb::MemberListRequest {
        linearizable: false,
    };
    vec![
        ("member list", unary(cluster.member_list(list).await)),
        ("member add", unary(cluster.member_add(add).await)),
        ("member remove", unary(cluster.member_remove(remove).await)),
        ("member update", unary(cluster.member_update(update).await)),
        (
            "member promote",
            unary(cluster.member_promote(promote).await),
        ),
    ]
}

async fn of_maintenance(clients: &Clients) -> Vec<Outcome> {
    let mut maintenance = clients.maintenance.clone();
    let to_nobody = pb::MoveLeaderRequest { target_id: 1 };
    vec![
        (
            "alarm",
            unary(maintenance.alarm(pb::AlarmRequest::default()).await),
        ),
        (
            "defragment",
            unary(maintenance.defragment(pb::DefragmentRequest {}).await),
        ),
        ("hash", unary(maintenance.hash(pb::HashRequest {}).await)),
        (
            "hash of keys",
            unary(maintenance.hash_kv(pb::HashKvRequest::default()).await),
        ),
        (
            "move leader",
            unary(maintenance.move_leader(to_nobody).await),
        ),
    ]
}

async fn outcomes(clients: &Clients) -> Vec<Outcome> {
    let mut all = of_keys(clients).await;
    all.extend(of_leases(clients).await);
    all.extend(of_watches(clients).await);
    all.extend(of_members(clients).await);
    all.extend(of_maintenance(clients).await);
    all
}

async fn metric(server: &Server) -> String {
    let page = http::get(&server.address(), "/metrics")
        .await
        .expect("a page");
    let mut lines = page.body.lines();
    let line = lines.find(|line| line.starts_with("etcd_server_is_learner "));
    line.expect("it is on the page").to_owned()
}

/// A range, the status and a backup.
async fn serves_what_a_learner_does(clients: &Clients, is_learner: bool) {
    let serializable = pb::RangeRequest {
        serializable: true,
        ..shapes::get("before")
    };
    assert_eq!(clients.range(serializable).await.kvs.len(), 1);
    assert_eq!(clients.status().await.is_learner, is_learner);
    let mut maintenance = clients.maintenance.clone();
    let backup = maintenance.snapshot(pb::SnapshotRequest {});
    let piece = accepted(backup.await).message().await;
    assert!(
        piece
            .expect("a backup")
            .is_some_and(|piece| !piece.blob.is_empty())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g_r_3_a_learner_serves_what_etcds_does_and_all_when_it_is_promoted() {
    let _alone = heavy().await;
    let ports = ports();
    let voters = start_with("learner", &ports[..1], &[]).await;
    put(&voters[0], "before").await;
    let voter = voters[0].clients().await;
    let id = eventually("a learner is added", || async {
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec![peer_url(ports[1])],
            is_learner: true,
        };
        let added = voter.cluster.clone().member_add(request).await.ok()?;
        added.into_inner().member.map(|member| member.id)
    })
    .await;
    let options = member("learner", 1, &ports[..2], &[]).flag("--initial-cluster-state=existing");
    let mut learner = options.launch();
    serves(&learner).await;
    let clients = learner.clients().await;
    eventually("it has what was written", || async {
        let request = pb::RangeRequest {
            serializable: true,
            ..shapes::get("before")
        };
        let answer = clients.kv.clone().range(request).await.ok()?;
        (answer.into_inner().count == 1).then_some(())
    })
    .await;

    serves_what_a_learner_does(&clients, true).await;
    // The code is that of etcd 3.6.
    let code = match learner.kind() {
        ServerKind::Keelson => Code::FailedPrecondition,
        ServerKind::Etcd => Code::Unavailable,
    };
    for (call, outcome) in outcomes(&clients).await {
        let status = outcome.expect_err(call);
        assert_eq!(failure(&status), (code, REFUSAL.to_owned()), "{call}");
    }
    assert_eq!(metric(&learner).await, "etcd_server_is_learner 1");
    // It stays so over a restart.
    learner.kill9();
    learner.restart().await;
    let clients = learner.clients().await;
    let status = clients.kv.clone().put(shapes::put("k", "v")).await;
    let status = status.expect_err("it is a learner still");
    assert_eq!(failure(&status), (code, REFUSAL.to_owned()));

    eventually("it is promoted", || async {
        let request = pb::MemberPromoteRequest { id };
        voter.cluster.clone().member_promote(request).await.ok()
    })
    .await;
    eventually("it knows", || async {
        (!clients.status().await.is_learner).then_some(())
    })
    .await;
    for (call, outcome) in outcomes(&clients).await {
        let text = outcome.err().map(|status| status.message().to_owned());
        assert_ne!(text.as_deref(), Some(REFUSAL), "{call}");
    }
    put(&learner, "after").await;
    serves_what_a_learner_does(&clients, false).await;
    assert_eq!(metric(&learner).await, "etcd_server_is_learner 0");
    for mut server in voters.into_iter().chain([learner]) {
        server.stop().await;
    }
}
