//! G-API-1: every error of etcd's table that one member without auth can give, with the code and
//! the text a client compares; and what has no handler yet.

use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::request_op::Request;
use tonic::Code;

use crate::harness::raw::{RawConnection, frame};
use crate::harness::shapes::{self, bytes, delete, get, put, txn};
use crate::harness::{
    Clients, Failure, Server, ServerKind, ServerOptions, accepted, http, ours_only, refused,
};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// A member with history: key `a` at revisions 2, 3, 4 and compacted at 3; lease 1.
async fn start(name: &str) -> (Server, Clients) {
    let server = Server::start(name).await;
    let clients = server.clients().await;
    for value in ["1", "2", "3"] {
        clients.put_key("a", value).await;
    }
    clients.compact(3).await;
    clients.grant(1, 1_000).await;
    (server, clients)
}

async fn refused_range(clients: &Clients, request: pb::RangeRequest) -> Failure {
    refused(clients.kv.clone().range(request).await)
}

async fn refused_put(clients: &Clients, request: pb::PutRequest) -> Failure {
    refused(clients.kv.clone().put(request).await)
}

async fn refused_txn(clients: &Clients, success: Vec<Request>) -> Failure {
    refused(clients.kv.clone().txn(txn(vec![], success, vec![])).await)
}

fn failure(code: Code, text: &str) -> Failure {
    (code, text.to_owned())
}

#[tokio::test]
async fn g_api_1_reads() {
    let (_server, clients) = start("errors-reads").await;
    let empty_key = failure(Code::InvalidArgument, "etcdserver: key is not provided");
    assert_eq!(refused_range(&clients, get("")).await, empty_key);
    let compacted = failure(Code::OutOfRange, COMPACTED);
    let future = failure(Code::OutOfRange, FUTURE);
    assert_eq!(
        refused_range(&clients, shapes::get_at("a", 2)).await,
        compacted
    );
    assert_eq!(
        refused_range(&clients, shapes::get_at("a", 5)).await,
        future
    );
    let serializable = pb::RangeRequest {
        serializable: true,
        ..shapes::get_at("a", 2)
    };
    assert_eq!(refused_range(&clients, serializable).await, compacted);
    let in_txn = |revision| vec![Request::RequestRange(shapes::get_at("a", revision))];
    assert_eq!(refused_txn(&clients, in_txn(2)).await, compacted);
    assert_eq!(refused_txn(&clients, in_txn(5)).await, future);
    let mut maintenance = clients.maintenance.clone();
    let hash = |revision| pb::HashKvRequest { revision };
    assert_eq!(refused(maintenance.hash_kv(hash(2)).await), compacted);
    assert_eq!(refused(maintenance.hash_kv(hash(5)).await), future);
    let mut kv = clients.kv.clone();
    assert_eq!(
        refused(kv.compact(shapes::compact(3, false)).await),
        compacted
    );
    assert_eq!(
        refused(kv.compact(shapes::compact(2, true)).await),
        compacted
    );
    assert_eq!(refused(kv.compact(shapes::compact(5, false)).await), future);
}

#[tokio::test]
async fn g_api_1_sort_options_out_of_range() {
    ours_only!("sort options are checked since 3.6");
    let (_server, clients) = start("errors-sort").await;
    let wanted = failure(Code::InvalidArgument, "etcdserver: invalid sort option");
    let order = pb::RangeRequest {
        sort_order: 3,
        ..get("a")
    };
    let target = pb::RangeRequest {
        sort_target: 5,
        ..get("a")
    };
    for request in [order, target] {
        assert_eq!(refused_range(&clients, request.clone()).await, wanted);
        let nested = vec![Request::RequestRange(request)];
        assert_eq!(refused_txn(&clients, nested).await, wanted);
    }
}

#[tokio::test]
async fn g_api_1_writes() {
    let (_server, clients) = start("errors-writes").await;
    let invalid = |text| failure(Code::InvalidArgument, text);
    let empty_key = invalid("etcdserver: key is not provided");
    assert_eq!(refused_put(&clients, put("", "v")).await, empty_key);
    assert_eq!(
        refused(clients.kv.clone().delete_range(delete("")).await),
        empty_key
    );
    let ignoring_value = |key: &str, value: &str| pb::PutRequest {
        ignore_value: true,
        ..put(key, value)
    };
    let ignoring_lease = |key: &str, lease| pb::PutRequest {
        ignore_lease: true,
        ..shapes::put_leased(key, "v", lease)
    };
    let not_found = invalid("etcdserver: key not found");
    assert_eq!(
        refused_put(&clients, ignoring_value("a", "v")).await,
        invalid("etcdserver: value is provided")
    );
    assert_eq!(
        refused_put(&clients, ignoring_lease("a", 1)).await,
        invalid("etcdserver: lease is provided")
    );
    assert_eq!(
        refused_put(&clients, ignoring_value("none", "")).await,
        not_found
    );
    assert_eq!(
        refused_put(&clients, ignoring_lease("none", 0)).await,
        not_found
    );
    let no_lease = failure(Code::NotFound, "etcdserver: requested lease not found");
    let leased = shapes::put_leased("a", "v", 2);
    assert_eq!(refused_put(&clients, leased.clone()).await, no_lease);
    assert_eq!(
        refused_txn(&clients, vec![Request::RequestPut(leased)]).await,
        no_lease
    );
    let mut lease = clients.lease.clone();
    let revoke = pb::LeaseRevokeRequest { id: 2 };
    assert_eq!(refused(lease.lease_revoke(revoke).await), no_lease);
    assert_eq!(
        refused(lease.lease_grant(shapes::grant(1, 10)).await),
        failure(Code::FailedPrecondition, "etcdserver: lease already exists")
    );
    assert_eq!(
        refused(lease.lease_grant(shapes::grant(3, 9_000_000_001)).await),
        failure(Code::OutOfRange, "etcdserver: too large lease TTL")
    );
    // Nothing of all this was a write.
    assert_eq!(clients.revision().await, 4);
}

#[tokio::test]
async fn g_api_1_transactions() {
    let (_server, clients) = start("errors-txn").await;
    let invalid = |text| failure(Code::InvalidArgument, text);
    let empty_key = invalid("etcdserver: key is not provided");
    let duplicate = invalid("etcdserver: duplicate key given in txn request");
    let put_a = || Request::RequestPut(put("a", "v"));
    let delete_a = || Request::RequestDeleteRange(delete("a"));
    let nested = |ops| Request::RequestTxn(txn(vec![], ops, vec![]));
    for op in [
        Request::RequestRange(get("")),
        Request::RequestPut(put("", "v")),
        Request::RequestDeleteRange(delete("")),
        nested(vec![Request::RequestRange(get(""))]),
    ] {
        assert_eq!(refused_txn(&clients, vec![op]).await, empty_key);
    }
    let compare = txn(vec![shapes::version_is("", 0)], vec![], vec![]);
    assert_eq!(refused(clients.kv.clone().txn(compare).await), empty_key);
    let prefix = Request::RequestDeleteRange(shapes::delete_prefix("a"));
    for ops in [
        vec![put_a(), put_a()],
        vec![put_a(), delete_a()],
        vec![delete_a(), put_a()],
        vec![prefix, put_a()],
        vec![put_a(), nested(vec![put_a()])],
        vec![nested(vec![put_a()]), nested(vec![put_a()])],
    ] {
        assert_eq!(refused_txn(&clients, ops).await, duplicate);
    }
    // Deletes may overlap, and so may the two branches of one transaction.
    let done = clients.txn(txn(vec![], vec![put_a()], vec![put_a()])).await;
    assert!(done.succeeded);
    clients
        .txn(txn(vec![], vec![delete_a(), delete_a()], vec![]))
        .await;
    clients.put_key("a", "3").await;

    let empty_op = pb::TxnRequest {
        success: vec![pb::RequestOp { request: None }],
        ..Default::default()
    };
    assert_eq!(
        refused(clients.kv.clone().txn(empty_op).await),
        invalid("etcdserver: key not found")
    );
    let reads = |count| vec![Request::RequestRange(get("a")); count];
    let too_many = invalid("etcdserver: too many operations in txn request");
    clients.txn(txn(vec![], reads(128), vec![])).await;
    assert_eq!(refused_txn(&clients, reads(129)).await, too_many);
    let compares = vec![shapes::version_is("a", 0); 129];
    let many_compares = txn(compares, vec![], vec![]);
    assert_eq!(
        refused(clients.kv.clone().txn(many_compares).await),
        too_many
    );
    // A nested transaction has what its parent leaves of the 128.
    let mut parent = reads(99);
    parent.push(nested(reads(28)));
    clients.txn(txn(vec![], parent, vec![])).await;
    let mut parent = reads(99);
    parent.push(nested(reads(29)));
    assert_eq!(refused_txn(&clients, parent).await, too_many);
}

#[tokio::test]
async fn max_txn_ops_is_a_flag() {
    let server = ServerOptions::new("errors-max-txn-ops")
        .flag("--max-txn-ops=3")
        .start()
        .await;
    let clients = server.clients().await;
    let reads = |count| vec![Request::RequestRange(get("a")); count];
    clients.txn(txn(vec![], reads(3), vec![])).await;
    let (code, text) = refused_txn(&clients, reads(4)).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(text, "etcdserver: too many operations in txn request");
}

async fn set_alarm(clients: &Clients, alarm: pb::AlarmType, action: i32) -> pb::AlarmResponse {
    let member_id = clients.status().await.leader;
    let request = pb::AlarmRequest {
        action,
        member_id,
        alarm: alarm.into(),
    };
    accepted(clients.maintenance.clone().alarm(request).await)
}

const GET: i32 = 0;
const ACTIVATE: i32 = 1;
const DEACTIVATE: i32 = 2;

/// Fills the store until it refuses; how many writes that took.
async fn fill(clients: &Clients) -> usize {
    let value = vec![b'x'; 1 << 20];
    for turn in 0..64 {
        let request = put(format!("fill/{turn:02}"), &value);
        if let Err(status) = clients.kv.clone().put(request).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(status.message(), NO_SPACE);
            return turn;
        }
    }
    panic!("64 MiB in a store of 16 MiB");
}

async fn refuses_writes(server: &Server) {
    let clients = server.clients().await;
    let no_space = failure(Code::ResourceExhausted, NO_SPACE);
    assert_eq!(refused_put(&clients, put("small", "v")).await, no_space);
    let in_txn = vec![Request::RequestPut(put("small", "v"))];
    assert_eq!(refused_txn(&clients, in_txn).await, no_space);
    let grant = shapes::grant(9, 100);
    let granted = clients.lease.clone().lease_grant(grant).await;
    assert_eq!(refused(granted), no_space);
    let errors = clients.status().await.errors;
    assert!(
        errors.iter().any(|error| error.contains("NOSPACE")),
        "{errors:?}"
    );
    let health = http::get(&server.address(), "/health").await.unwrap();
    assert_eq!(health.status, 503);
    assert!(health.body.contains("ALARM NOSPACE"), "{}", health.body);
    let without = http::get(&server.address(), "/health?exclude=NOSPACE")
        .await
        .unwrap();
    assert_eq!(without.status, 200);
}

#[tokio::test]
async fn g_q_1_a_full_store_refuses_writes_until_disarmed() {
    let mut server = ServerOptions::new("errors-quota")
        .flag("--quota-backend-bytes=16777216")
        .start()
        .await;
    let clients = server.clients().await;
    let leader = clients.status().await.leader;
    assert!(fill(&clients).await >= 4);
    let raised = set_alarm(&clients, pb::AlarmType::None, GET).await.alarms;
    let nospace = pb::AlarmMember {
        member_id: leader,
        alarm: pb::AlarmType::Nospace.into(),
    };
    assert_eq!(raised, [nospace]);
    refuses_writes(&server).await;
    // The alarm is part of the state.
    server.stop().await;
    server.restart().await;
    refuses_writes(&server).await;
    let clients = server.clients().await;
    // Reading and deleting still work, and make room.
    let filled = clients.range(shapes::list("fill/")).await.count;
    let deleted = clients.delete(shapes::delete_prefix("fill/")).await.deleted;
    assert_eq!(deleted, filled);
    let now = clients.revision().await;
    clients.compact(now).await;
    accepted(
        clients
            .maintenance
            .clone()
            .defragment(pb::DefragmentRequest {})
            .await,
    );
    set_alarm(&clients, pb::AlarmType::Nospace, DEACTIVATE).await;
    clients.put_key("small", "v").await;
    assert!(
        set_alarm(&clients, pb::AlarmType::None, GET)
            .await
            .alarms
            .is_empty()
    );
    assert_eq!(
        http::get(&server.address(), "/health")
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn a_corrupt_cluster_refuses_writes() {
    let server = Server::start("errors-corrupt").await;
    let clients = server.clients().await;
    clients.put_key("a", "1").await;
    let raised = set_alarm(&clients, pb::AlarmType::Corrupt, ACTIVATE)
        .await
        .alarms;
    assert_eq!(raised.len(), 1);
    let corrupt = failure(Code::DataLoss, "etcdserver: corrupt cluster");
    assert_eq!(refused_put(&clients, put("a", "2")).await, corrupt);
    assert_eq!(
        refused(clients.kv.clone().delete_range(delete("a")).await),
        corrupt
    );
    assert_eq!(
        refused_txn(&clients, vec![Request::RequestPut(put("a", "2"))]).await,
        corrupt
    );
    assert_eq!(
        refused(clients.kv.clone().compact(shapes::compact(2, false)).await),
        corrupt
    );
    let grant = shapes::grant(1, 100);
    assert_eq!(
        refused(clients.lease.clone().lease_grant(grant).await),
        corrupt
    );
    set_alarm(&clients, pb::AlarmType::Corrupt, DEACTIVATE).await;
    assert_eq!(clients.put_key("a", "2").await, 3);
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    let server = Server::start("errors-unknown-method").await;
    let connection = RawConnection::open(&server.address()).await;
    for path in [
        "/etcdserverpb.KV/Nothing",
        "/etcdserverpb.Nothing/Range",
        "/nothing.Nothing/Nothing",
    ] {
        let answer = connection.call(path, frame(b"")).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(
            answer.code,
            Some(Code::Unimplemented as i32),
            "{path}: {answer:?}"
        );
    }
    // The connection is none the worse for it.
    let answer = connection
        .call("/etcdserverpb.Maintenance/Status", frame(b""))
        .await
        .unwrap();
    assert_eq!(answer.code, Some(0));
}

/// Methods that wait for later work. One that is implemented has to leave the table.
const LATER: &[&str] = &[
    "etcdserverpb.Auth/AuthDisable",
    "etcdserverpb.Auth/AuthEnable",
    "etcdserverpb.Auth/AuthStatus",
    "etcdserverpb.Auth/Authenticate",
    "etcdserverpb.Auth/RoleAdd",
    "etcdserverpb.Auth/RoleDelete",
    "etcdserverpb.Auth/RoleGet",
    "etcdserverpb.Auth/RoleGrantPermission",
    "etcdserverpb.Auth/RoleList",
    "etcdserverpb.Auth/RoleRevokePermission",
    "etcdserverpb.Auth/UserAdd",
    "etcdserverpb.Auth/UserChangePassword",
    "etcdserverpb.Auth/UserDelete",
    "etcdserverpb.Auth/UserGet",
    "etcdserverpb.Auth/UserGrantRole",
    "etcdserverpb.Auth/UserList",
    "etcdserverpb.Auth/UserRevokeRole",
    "etcdserverpb.Maintenance/Downgrade",
    "v3electionpb.Election/Campaign",
    "v3electionpb.Election/Leader",
    "v3electionpb.Election/Observe",
    "v3electionpb.Election/Proclaim",
    "v3electionpb.Election/Resign",
    "v3lockpb.Lock/Lock",
    "v3lockpb.Lock/Unlock",
];

#[tokio::test]
async fn methods_that_wait_for_later_work_are_unimplemented() {
    ours_only!("real etcd implements them");
    let server = Server::start("errors-later").await;
    let connection = RawConnection::open(&server.address()).await;
    for method in LATER {
        let answer = connection
            .call(&format!("/{method}"), frame(b""))
            .await
            .unwrap();
        assert_eq!(
            answer.code,
            Some(Code::Unimplemented as i32),
            "{method}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let server = Server::start("errors-unknown-fields").await;
    let clients = server.clients().await;
    clients.put_key("a", "1").await;
    let connection = RawConnection::open(&server.address()).await;
    // RangeRequest { key: "a" } and field 1000 = 7, which no version of it has.
    let mut message = prost::Message::encode_to_vec(&get("a"));
    message.extend_from_slice(&[0xc0, 0x3e, 7]);
    let answer = connection
        .call("/etcdserverpb.KV/Range", frame(&message))
        .await
        .unwrap();
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let found: pb::RangeResponse = prost::Message::decode(&answer.body[5..]).unwrap();
    assert_eq!(found.kvs[0].value, bytes("1"));
    if server.kind() == ServerKind::Keelson {
        let garbage = connection
            .call("/etcdserverpb.KV/Range", frame(&[0xff; 8]))
            .await
            .unwrap();
        assert!(garbage.code.is_some_and(|code| code != 0), "{garbage:?}");
    }
}
