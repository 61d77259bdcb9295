//! Leases, row by row of etcd's behaviour: grant, revoke, keep-alive, time to live, list, expiry,
//! and what a restart leaves of them.

use std::time::{Duration, Instant};

use futures_util::stream;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::mvccpb::event::EventType;
use tonic::Code;

use crate::harness::shapes::{self, put_leased};
use crate::harness::{Clients, Server, accepted, eventually, ours_only, refused, revision_of};

/// etcd raises shorter leases to this: one and a half election timeouts, rounded up.
const TTL_MIN: i64 = 2;

async fn exists(clients: &Clients, key: &str) -> bool {
    clients.range(shapes::get(key)).await.count == 1
}

async fn listed(clients: &Clients) -> Vec<i64> {
    let request = pb::LeaseLeasesRequest {};
    let leases = accepted(clients.lease.clone().lease_leases(request).await).leases;
    let mut ids: Vec<i64> = leases.into_iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn g_l_4_grant_takes_an_id_or_picks_one() {
    let server = Server::start("lease-grant").await;
    let clients = server.clients().await;
    let revision = clients.revision().await;
    let asked = clients.grant(77, 100).await;
    assert_eq!((asked.id, asked.ttl, asked.error.as_str()), (77, 100, ""));
    assert_eq!(
        revision_of(&asked.header),
        revision,
        "a grant is no revision"
    );
    let first = clients.grant(0, 100).await.id;
    let second = clients.grant(0, 100).await.id;
    assert!(first > 0 && second > 0 && first != second);
    let mut wanted = vec![77, first, second];
    wanted.sort_unstable();
    assert_eq!(listed(&clients).await, wanted);
}

#[tokio::test]
async fn grant_refuses_ids_in_use_and_huge_ttls_and_raises_small_ones() {
    let server = Server::start("lease-grant-refused").await;
    let clients = server.clients().await;
    let mut lease = clients.lease.clone();
    clients.grant(7, 100).await;
    assert_eq!(
        refused(lease.lease_grant(shapes::grant(7, 100)).await),
        (
            Code::FailedPrecondition,
            "etcdserver: lease already exists".to_owned()
        )
    );
    assert_eq!(
        refused(lease.lease_grant(shapes::grant(8, 9_000_000_001)).await),
        (
            Code::OutOfRange,
            "etcdserver: too large lease TTL".to_owned()
        )
    );
    assert_eq!(clients.grant(9, 9_000_000_000).await.ttl, 9_000_000_000);
    for (id, ttl) in [(10, 1), (11, 0), (12, -5)] {
        assert_eq!(clients.grant(id, ttl).await.ttl, TTL_MIN, "asked for {ttl}");
    }
}

#[tokio::test]
async fn g_l_4_revoke_deletes_the_attached_keys_in_one_revision() {
    let server = Server::start("lease-revoke").await;
    let clients = server.clients().await;
    clients.grant(5, 1_000).await;
    for key in ["l/b", "l/c", "l/a"] {
        clients.put(put_leased(key, "v", 5)).await;
    }
    clients.put_key("l/free", "v").await;
    let mut session = clients.watch_session();
    session.created(shapes::watch_prefix("l/")).await;
    let before = clients.revision().await;
    let revoked = clients.revoke(5).await;
    assert_eq!(revision_of(&revoked.header), before + 1);
    let response = session.next().await;
    let seen: Vec<(bool, String, i64)> = response
        .events
        .iter()
        .map(|event| {
            (
                event.r#type() == EventType::Delete,
                event.kv.as_ref().unwrap(),
            )
        })
        .map(|(delete, kv)| {
            (
                delete,
                String::from_utf8_lossy(&kv.key).into(),
                kv.mod_revision,
            )
        })
        .collect();
    let wanted = ["l/a", "l/b", "l/c"].map(|key| (true, key.to_owned(), before + 1));
    assert_eq!(seen, wanted, "deleted in key order");
    assert!(exists(&clients, "l/free").await);
    assert_eq!(
        refused(
            clients
                .lease
                .clone()
                .lease_revoke(pb::LeaseRevokeRequest { id: 5 })
                .await
        ),
        (
            Code::NotFound,
            "etcdserver: requested lease not found".to_owned()
        )
    );
    // A lease without keys leaves the revision alone.
    clients.grant(6, 1_000).await;
    assert_eq!(revision_of(&clients.revoke(6).await.header), before + 1);
}

#[tokio::test]
async fn g_l_2_a_key_belongs_to_its_latest_lease() {
    let server = Server::start("lease-attach").await;
    let clients = server.clients().await;
    for id in [1, 2] {
        clients.grant(id, 1_000).await;
    }
    for key in ["moved", "detached", "deleted", "kept"] {
        clients.put(put_leased(key, "v", 1)).await;
    }
    clients.put(put_leased("moved", "v", 2)).await;
    clients.put_key("detached", "v").await;
    clients.delete(shapes::delete("deleted")).await;
    clients.put_key("deleted", "again").await;
    let ignoring = pb::PutRequest {
        ignore_lease: true,
        ..shapes::put("kept", "other value")
    };
    clients.put(ignoring).await;
    assert_eq!(clients.time_to_live(1).await.keys, ["kept"]);
    assert_eq!(clients.time_to_live(2).await.keys, ["moved"]);
    clients.revoke(1).await;
    for (key, there) in [
        ("moved", true),
        ("detached", true),
        ("deleted", true),
        ("kept", false),
    ] {
        assert_eq!(exists(&clients, key).await, there, "{key}");
    }
    assert_eq!(
        refused(clients.kv.clone().put(put_leased("a", "v", 1)).await),
        (
            Code::NotFound,
            "etcdserver: requested lease not found".to_owned()
        )
    );
}

#[tokio::test]
async fn g_l_4_keep_alive_answers_in_order_and_zero_for_missing() {
    let server = Server::start("lease-keep-alive").await;
    let clients = server.clients().await;
    clients.grant(1, 500).await;
    clients.grant(2, 600).await;
    let ids = [1, 2, 99, 1, 99, 2];
    let requests = ids.map(|id| pb::LeaseKeepAliveRequest { id });
    let mut lease = clients.lease.clone();
    let mut answers = accepted(lease.lease_keep_alive(stream::iter(requests)).await);
    for (id, ttl) in ids.into_iter().zip([500, 600, 0, 500, 0, 600]) {
        let answer = answers.message().await.unwrap().expect("one answer each");
        assert_eq!((answer.id, answer.ttl), (id, ttl));
        assert!(answer.header.is_some());
    }
    assert_eq!(
        answers.message().await.unwrap(),
        None,
        "then the stream ends"
    );
}

/// More than are asked about at once, all of them there before the first is answered.
#[tokio::test]
async fn g_l_4_a_long_queue_of_keep_alives_is_answered_in_order() {
    const COUNT: i64 = 3_000;
    let server = Server::start("lease-queue").await;
    let clients = server.clients().await;
    for id in 1..=5 {
        clients.grant(id, 100 * id).await;
    }
    let wanted = |number: i64| match number % 7 {
        0 | 6 => 0,
        id => 100 * id,
    };
    let requests = (0..COUNT).map(|number| pb::LeaseKeepAliveRequest { id: number % 7 });
    let mut lease = clients.lease.clone();
    let mut answers = accepted(lease.lease_keep_alive(stream::iter(requests)).await);
    for number in 0..COUNT {
        let answer = answers.message().await.unwrap().expect("one answer each");
        assert_eq!((answer.id, answer.ttl), (number % 7, wanted(number)));
    }
    assert_eq!(answers.message().await.unwrap(), None);
}

#[tokio::test]
async fn g_l_4_time_to_live_tells_all_and_minus_one_for_missing() {
    let server = Server::start("lease-ttl").await;
    let clients = server.clients().await;
    clients.grant(3, 400).await;
    clients.put(put_leased("k1", "v", 3)).await;
    clients.put(put_leased("k2", "v", 3)).await;
    let told = clients.time_to_live(3).await;
    assert_eq!((told.id, told.granted_ttl), (3, 400));
    assert!((1..=400).contains(&told.ttl), "remaining {}", told.ttl);
    let mut keys = told.keys;
    keys.sort();
    assert_eq!(keys, ["k1", "k2"]);
    let request = pb::LeaseTimeToLiveRequest { id: 3, keys: false };
    let bare = accepted(clients.lease.clone().lease_time_to_live(request).await);
    assert!(bare.keys.is_empty());
    let missing = clients.time_to_live(4).await;
    assert_eq!((missing.id, missing.ttl, missing.granted_ttl), (4, -1, 0));
    assert!(missing.keys.is_empty());
    assert!(missing.header.is_some());
}

#[tokio::test]
async fn g_l_2_expiry_deletes_all_keys_in_one_revision_and_not_early() {
    const TTL: i64 = 3;
    let server = Server::start("lease-expiry").await;
    let clients = server.clients().await;
    let asked = Instant::now();
    clients.grant(1, TTL).await;
    for key in ["e/2", "e/1", "e/3"] {
        clients.put(put_leased(key, "v", 1)).await;
    }
    clients.put_key("e/free", "v").await;
    let mut session = clients.watch_session();
    session.created(shapes::watch_prefix("e/")).await;
    let before = clients.revision().await;
    let response = session.next().await;
    let lived = asked.elapsed();
    assert!(
        lived >= Duration::from_secs(TTL as u64),
        "expired after {lived:?}"
    );
    let seen: Vec<_> = response
        .events
        .iter()
        .inspect(|event| assert_eq!(event.r#type(), EventType::Delete))
        .map(|event| event.kv.as_ref().unwrap())
        .inspect(|kv| assert_eq!(kv.mod_revision, before + 1))
        .map(|kv| kv.key.clone())
        .collect();
    assert_eq!(seen, ["e/1", "e/2", "e/3"]);
    assert!(exists(&clients, "e/free").await);
    assert_eq!(clients.time_to_live(1).await.ttl, -1);
    assert_eq!(clients.keep_alive(1).await.ttl, 0);
    assert_eq!(listed(&clients).await, [] as [i64; 0]);
}

#[tokio::test]
async fn g_l_1_keep_alive_postpones_expiry() {
    const TTL: u64 = 3;
    let server = Server::start("lease-postponed").await;
    let clients = server.clients().await;
    clients.grant(1, TTL as i64).await;
    clients.put(put_leased("k", "v", 1)).await;
    let granted = Instant::now();
    let mut renewed = Instant::now();
    while granted.elapsed() < Duration::from_secs(2 * TTL) {
        let sent = Instant::now();
        let answer = clients.keep_alive(1).await;
        if answer.ttl == 0 {
            // Only a machine that stood still for a whole TTL may lose the lease here.
            assert!(
                renewed.elapsed() >= Duration::from_secs(TTL),
                "lost while kept alive"
            );
            return;
        }
        renewed = sent;
        assert!(exists(&clients, "k").await || renewed.elapsed() >= Duration::from_secs(TTL));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eventually("the lease expires when nobody renews it", || async {
        (!exists(&clients, "k").await).then_some(())
    })
    .await;
    assert!(
        renewed.elapsed() >= Duration::from_secs(TTL),
        "expired early"
    );
}

/// The last of many keep-alives counts, though the process dies right behind it.
#[tokio::test]
async fn g_l_3_a_keep_alive_outlives_the_process_that_answered_it() {
    const TTL: u64 = 6;
    let mut server = Server::start("lease-killed").await;
    let clients = server.clients().await;
    for (id, key) in [(1, "busy"), (2, "calm")] {
        clients.grant(id, TTL as i64).await;
        clients.put(put_leased(key, "v", id)).await;
    }
    let granted = Instant::now();
    let mut renewed = granted;
    // One lease all the time; the other once, late, when something else has moved the log on.
    while granted.elapsed() < Duration::from_secs(TTL / 2) {
        let sent = Instant::now();
        assert_eq!(clients.keep_alive(1).await.ttl, TTL as i64);
        renewed = sent;
        clients.put_key("other", "v").await;
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    assert_eq!(clients.keep_alive(2).await.ttl, TTL as i64);
    drop(clients);
    server.kill9();
    server.restart().await;
    let clients = server.clients().await;
    for key in ["busy", "calm"] {
        eventually("the lease expires when nobody renews it", || async {
            (!exists(&clients, key).await).then_some(())
        })
        .await;
        assert!(
            renewed.elapsed() >= Duration::from_secs(TTL),
            "{key} expired early"
        );
    }
}

#[tokio::test]
async fn leases_and_their_keys_survive_a_restart() {
    let mut server = Server::start("lease-restart").await;
    let clients = server.clients().await;
    clients.grant(1, 5_000).await;
    clients.grant(2, 5_000).await;
    clients.put(put_leased("k", "v", 1)).await;
    clients.revoke(2).await;
    drop(clients);
    server.stop().await;
    server.restart().await;
    let clients = server.clients().await;
    assert_eq!(listed(&clients).await, [1]);
    let told = clients.time_to_live(1).await;
    assert_eq!(
        (told.granted_ttl, told.keys),
        (5_000, vec![shapes::bytes("k")])
    );
    assert_eq!(clients.range(shapes::get("k")).await.kvs[0].lease, 1);
    clients.revoke(1).await;
    assert!(!exists(&clients, "k").await);
}

#[tokio::test]
async fn g_l_3_the_remaining_ttl_survives_stop_and_kill() {
    ours_only!("etcd starts every lease anew when a leader begins");
    let mut server = Server::start("lease-remaining").await;
    let clients = server.clients().await;
    clients.grant(1, 1_000).await;
    // Let some of the TTL pass, then write, so that the log knows how late it is.
    let passed = eventually("two seconds of the TTL pass", || async {
        let remaining = clients.time_to_live(1).await.ttl;
        (remaining <= 997).then_some(remaining)
    })
    .await;
    clients.put_key("k", "v").await;
    drop(clients);
    server.stop().await;
    server.restart().await;
    let clients = server.clients().await;
    let after_stop = clients.time_to_live(1).await;
    assert_eq!(after_stop.granted_ttl, 1_000);
    assert!(
        after_stop.ttl <= passed,
        "{} after {passed}",
        after_stop.ttl
    );
    clients.put_key("k", "w").await;
    drop(clients);
    server.kill9();
    server.restart().await;
    let clients = server.clients().await;
    let after_kill = clients.time_to_live(1).await.ttl;
    assert!(
        after_kill <= after_stop.ttl,
        "{after_kill} after {}",
        after_stop.ttl
    );
    assert_eq!(
        clients.keep_alive(1).await.ttl,
        1_000,
        "renewal gives all of it"
    );
}
