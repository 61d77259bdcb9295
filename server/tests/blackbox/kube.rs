//! kube-apiserver's exact requests, as its storage layer sends them: the calls that must be right
//! and fast before any other.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::request_op::Request;
use keelson_proto::etcdserverpb::response_op::Response;
use keelson_proto::mvccpb::{KeyValue, event::EventType};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::harness::shapes::{self, bytes, mod_revision_is, version_is};
use crate::harness::{
    Clients, Server, ServerKind, WatchSession, accepted, ours_only, refused, revision_of,
};

const PODS: &str = "/registry/pods/";

fn pod(number: usize) -> String {
    format!("{PODS}default/pod-{number:05}")
}

/// OptimisticPut with revision 0: created only if absent, no answer about what was there.
async fn create(clients: &Clients, key: &str, value: &str, lease: i64) -> pb::TxnResponse {
    let put = Request::RequestPut(shapes::put_leased(key, value, lease));
    let request = shapes::txn(vec![mod_revision_is(key, 0)], vec![put], vec![]);
    clients.txn(request).await
}

/// OptimisticPut: written only at the expected revision, else the current object.
async fn update(clients: &Clients, key: &str, revision: i64, value: &str) -> pb::TxnResponse {
    let put = Request::RequestPut(shapes::put(key, value));
    let get = Request::RequestRange(shapes::get(key));
    let request = shapes::txn(vec![mod_revision_is(key, revision)], vec![put], vec![get]);
    clients.txn(request).await
}

/// OptimisticDelete.
async fn remove(clients: &Clients, key: &str, revision: i64) -> pb::TxnResponse {
    let delete = Request::RequestDeleteRange(shapes::delete(key));
    let get = Request::RequestRange(shapes::get(key));
    let request = shapes::txn(
        vec![mod_revision_is(key, revision)],
        vec![delete],
        vec![get],
    );
    clients.txn(request).await
}

/// Get: one key, limit 1.
async fn get(clients: &Clients, key: &str) -> pb::RangeResponse {
    let request = pb::RangeRequest {
        limit: 1,
        ..shapes::get(key)
    };
    clients.range(request).await
}

fn only_range(response: &pb::TxnResponse) -> &pb::RangeResponse {
    match response.responses.as_slice() {
        [
            pb::ResponseOp {
                response: Some(Response::ResponseRange(range)),
            },
        ] => range,
        other => panic!("want the answer of one range, got {other:?}"),
    }
}

#[tokio::test]
async fn create_update_delete_by_revision() {
    let server = Server::start("kube-objects").await;
    let clients = server.clients().await;
    let key = pod(1);
    let start = clients.revision().await;

    let created = create(&clients, &key, "v1", 0).await;
    assert!(created.succeeded);
    assert_eq!(revision_of(&created.header), start + 1);
    let Some(Response::ResponsePut(put)) = &created.responses[0].response else {
        panic!("want a put answer, got {created:?}");
    };
    assert_eq!(revision_of(&put.header), start + 1);
    let again = create(&clients, &key, "v1", 0).await;
    assert!(!again.succeeded && again.responses.is_empty());
    assert_eq!(
        revision_of(&again.header),
        start + 1,
        "a failed create is no revision"
    );

    let updated = update(&clients, &key, start + 1, "v2").await;
    assert!(updated.succeeded);
    assert_eq!(revision_of(&updated.header), start + 2);
    let stale = update(&clients, &key, start + 1, "v3").await;
    assert!(!stale.succeeded);
    let found = only_range(&stale);
    let wanted = KeyValue {
        key: bytes(&key),
        create_revision: start + 1,
        mod_revision: start + 2,
        version: 2,
        value: bytes("v2"),
        lease: 0,
    };
    assert_eq!(found.kvs, std::slice::from_ref(&wanted));
    assert_eq!((found.count, found.more), (1, false));
    assert_eq!(get(&clients, &key).await.kvs, [wanted]);

    let stale = remove(&clients, &key, start + 1).await;
    assert!(!stale.succeeded);
    assert_eq!(only_range(&stale).kvs.len(), 1);
    let removed = remove(&clients, &key, start + 2).await;
    assert!(removed.succeeded);
    assert_eq!(revision_of(&removed.header), start + 3);
    let gone = remove(&clients, &key, start + 2).await;
    assert!(!gone.succeeded);
    assert_eq!(only_range(&gone).count, 0);
    let absent = get(&clients, &key).await;
    assert_eq!((absent.count, absent.kvs.len()), (0, 0));
    assert_eq!(revision_of(&absent.header), start + 3);
    let created = create(&clients, &key, "v4", 0).await;
    assert!(created.succeeded, "a deleted object can be created again");
    assert_eq!(get(&clients, &key).await.kvs[0].version, 1);
}

#[tokio::test]
async fn g_kv_7_pages_at_a_pinned_revision_are_the_list_of_that_moment() {
    const COUNT: usize = 1_050;
    const PAGE: i64 = 100;
    let server = Server::start("kube-pages").await;
    let clients = server.clients().await;
    for chunk in (0..COUNT).collect::<Vec<_>>().chunks(100) {
        let puts = chunk
            .iter()
            .map(|&n| Request::RequestPut(shapes::put(pod(n), "v")));
        clients
            .txn(shapes::txn(vec![], puts.collect(), vec![]))
            .await;
    }
    clients
        .put_key("/registry/podtemplates/x", "not a pod")
        .await;
    let whole = clients.range(shapes::list(PODS)).await;
    assert_eq!(whole.kvs.len(), COUNT);

    let mut listed: Vec<KeyValue> = Vec::new();
    let mut from = bytes(PODS);
    let mut pinned = 0;
    loop {
        let page = pb::RangeRequest {
            key: from.clone(),
            limit: PAGE,
            revision: pinned,
            ..shapes::list(PODS)
        };
        let page = clients.range(page).await;
        let left = COUNT - listed.len();
        assert_eq!(page.count, left as i64, "the count is exact on every page");
        assert_eq!(page.more, left > PAGE as usize);
        if pinned == 0 {
            pinned = revision_of(&page.header);
        }
        listed.extend(page.kvs);
        if !page.more {
            break;
        }
        // Writers do not rest between two pages.
        let n = listed.len();
        clients.put_key(pod(n + 1), "changed").await;
        clients.put_key(format!("{}-new", pod(n + 2)), "new").await;
        clients.delete(shapes::delete(pod(n + 5))).await;
        let last = &listed.last().expect("a page with more is not empty").key;
        from = bytes([last, &b"\0"[..]].concat());
    }
    assert_eq!(listed, whole.kvs);
}

#[tokio::test]
async fn g_kv_7_count_and_keys_only_agree_with_the_list() {
    let server = Server::start("kube-count").await;
    let clients = server.clients().await;
    for number in 0..30 {
        create(&clients, &pod(number), "a value of some length", 0).await;
    }
    remove(
        &clients,
        &pod(3),
        get(&clients, &pod(3)).await.kvs[0].mod_revision,
    )
    .await;
    let whole = clients.range(shapes::list(PODS)).await;
    let count = pb::RangeRequest {
        count_only: true,
        ..shapes::list(PODS)
    };
    let count = clients.range(count).await;
    assert_eq!((count.count, count.kvs.len(), count.more), (29, 0, false));
    assert_eq!(revision_of(&count.header), revision_of(&whole.header));
    let keys = pb::RangeRequest {
        keys_only: true,
        ..shapes::list(PODS)
    };
    let keys = clients.range(keys).await;
    assert_eq!(keys.count, 29);
    let bare: Vec<KeyValue> = whole
        .kvs
        .into_iter()
        .map(|kv| KeyValue {
            value: Bytes::new(),
            ..kv
        })
        .collect();
    assert_eq!(keys.kvs, bare);
    // "What is the current revision": limit 1 on the resource's prefix.
    let current = pb::RangeRequest {
        limit: 1,
        ..shapes::list(PODS)
    };
    let current = clients.range(current).await;
    assert_eq!(
        (current.kvs.len(), current.count, current.more),
        (1, 29, true)
    );
    assert_eq!(revision_of(&current.header), clients.revision().await);
}

/// One resource's watch cache: list, watch from there, progress requests every 100 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watch_cache_follows_and_its_bookmarks_are_never_early() {
    let server = Server::start("kube-watch-cache").await;
    let clients = server.clients().await;
    for number in 0..20 {
        create(&clients, &pod(number), "0", 0).await;
    }
    let listed = clients.range(shapes::list(PODS)).await;
    let from = revision_of(&listed.header);
    let pairs = listed.kvs.into_iter().map(|kv| (kv.key.clone(), kv));
    let mut cache = WatchCache {
        objects: pairs.collect(),
        seen: from,
        bookmark: 0,
        // etcd 3.5.1 answers progress requests past the queue of events (issue 15220).
        is_strict: server.kind() == ServerKind::Keelson,
    };
    let metadata = [("hasleader", "true")];
    let mut session = WatchSession::open(clients.watch.clone(), &metadata);
    let request = pb::WatchCreateRequest {
        start_revision: from + 1,
        prev_kv: true,
        progress_notify: true,
        ..shapes::watch_prefix(PODS)
    };
    let id = session.created(request).await.watch_id;
    let mut writer = Some(tokio::spawn(write_pods(clients.clone())));
    let mut end = None;
    while end.is_none_or(|end| cache.seen < end) {
        if writer.as_ref().is_some_and(JoinHandle::is_finished) {
            let writer = writer.take().expect("checked above");
            end = Some(writer.await.expect("the writer does not fail"));
        }
        session.request_progress();
        while let Some(response) = session.next_within(Duration::from_millis(100)).await {
            assert!([id, -1].contains(&response.watch_id), "{response:?}");
            let is_bookmark = response.events.is_empty();
            cache.take(response);
            if is_bookmark {
                break;
            }
        }
    }
    assert!(cache.bookmark > 0, "progress was reported");
    let now = clients.range(shapes::list(PODS)).await.kvs;
    assert_eq!(cache.objects.into_values().collect::<Vec<_>>(), now);
}

/// Creates, updates and deletes pods; the revision of the last change.
async fn write_pods(clients: Clients) -> i64 {
    const WRITES: usize = 400;
    for turn in 0..WRITES {
        let key = pod(turn * 7 % 23);
        match get(&clients, &key).await.kvs.first() {
            None => drop(create(&clients, &key, "new", 0).await),
            Some(kv) if turn % 9 == 0 => {
                drop(remove(&clients, &key, kv.mod_revision).await);
            }
            Some(kv) => {
                drop(update(&clients, &key, kv.mod_revision, &turn.to_string()).await);
            }
        }
        // Other resources move the revision too.
        clients
            .put_key("/registry/leases/x", turn.to_string())
            .await;
    }
    revision_of(&create(&clients, &pod(99_999), "end", 0).await.header)
}

/// What an API server holds of one resource.
struct WatchCache {
    objects: BTreeMap<Bytes, KeyValue>,
    seen: i64,
    bookmark: i64,
    is_strict: bool,
}

impl WatchCache {
    fn take(&mut self, response: pb::WatchResponse) {
        let header = revision_of(&response.header);
        if response.events.is_empty() {
            let is_late = header >= self.bookmark.max(self.seen);
            assert!(
                !self.is_strict || is_late,
                "a bookmark went back to {header}"
            );
            self.bookmark = header;
        }
        for event in response.events {
            let revision = event.kv.as_ref().expect("an event has a kv").mod_revision;
            assert!(self.seen <= revision && revision <= header);
            let is_new = revision > self.bookmark;
            assert!(
                !self.is_strict || is_new,
                "{revision} after {}",
                self.bookmark
            );
            self.seen = revision;
            self.apply(event);
        }
    }

    /// With the checks of the API server's decoder.
    fn apply(&mut self, event: keelson_proto::mvccpb::Event) {
        let is_put = event.r#type() == EventType::Put;
        let kv = event.kv.expect("an event has a kv");
        let is_create = is_put && kv.create_revision == kv.mod_revision;
        let known = match is_put {
            true => self.objects.insert(kv.key.clone(), kv),
            false => self.objects.remove(&kv.key),
        };
        assert_eq!(is_create, known.is_none(), "create is told from update");
        assert_eq!(event.prev_kv, known, "prev_kv is what the cache held");
    }
}

#[tokio::test]
async fn compaction_is_led_by_compact_rev_key() {
    const KEY: &str = "compact_rev_key";
    let server = Server::start("kube-compaction").await;
    let clients = server.clients().await;
    let rivals = server.clients().await;
    let turn = |clients: Clients, version: i64, revision: i64| async move {
        let put = Request::RequestPut(shapes::put(KEY, revision.to_string()));
        let get = Request::RequestRange(shapes::get(KEY));
        clients
            .txn(shapes::txn(
                vec![version_is(KEY, version)],
                vec![put],
                vec![get],
            ))
            .await
    };
    let mut session = clients.watch_session();
    let watched = session.created(shapes::watch(KEY)).await.watch_id;
    let mut old = 0;
    for version in 0..5 {
        for number in 0..10 {
            clients.put_key(pod(number), version.to_string()).await;
        }
        let won = turn(clients.clone(), version, old).await;
        assert!(won.succeeded);
        let lost = turn(rivals.clone(), version, old).await;
        assert!(!lost.succeeded);
        let seen = &only_range(&lost).kvs[0];
        assert_eq!(
            (seen.version, &seen.value),
            (version + 1, &bytes(old.to_string()))
        );
        assert_eq!(session.events(watched, 1).await[0].kv.as_ref(), Some(seen));
        if old > 0 {
            clients
                .kv
                .clone()
                .compact(shapes::compact(old, false))
                .await
                .unwrap();
            let (code, text) = refused(
                clients
                    .kv
                    .clone()
                    .range(pb::RangeRequest {
                        revision: old - 1,
                        limit: 500,
                        ..shapes::list(PODS)
                    })
                    .await,
            );
            assert_eq!(code, Code::OutOfRange);
            assert_eq!(
                text,
                "etcdserver: mvcc: required revision has been compacted"
            );
            let at = clients.range(shapes::get_at(pod(1), old)).await;
            assert_eq!(at.count, 1, "the compact revision itself can be read");
        }
        old = revision_of(&won.header);
    }
}

#[tokio::test]
async fn one_lease_serves_many_events() {
    const EVENTS: usize = 300;
    let server = Server::start("kube-lease").await;
    let clients = server.clients().await;
    let lease = clients.grant(0, 3_660).await;
    assert_eq!(lease.ttl, 3_660);
    let event = |number: usize| format!("/registry/events/default/event-{number:04}");
    for number in 0..EVENTS {
        let created = create(&clients, &event(number), "happened", lease.id).await;
        assert!(created.succeeded);
    }
    let listed = clients.range(shapes::list("/registry/events/")).await;
    assert_eq!(listed.count, EVENTS as i64);
    assert!(listed.kvs.iter().all(|kv| kv.lease == lease.id));
    let attached = clients.time_to_live(lease.id).await;
    assert_eq!(attached.keys.len(), EVENTS);
    // The master lease: short, renewed by writing with a new lease.
    let key = "/registry/masterleases/10.0.0.1";
    let first = clients.grant(0, 15).await.id;
    create(&clients, key, "10.0.0.1", first).await;
    let second = clients.grant(0, 15).await.id;
    clients
        .put(shapes::put_leased(key, "10.0.0.1", second))
        .await;
    assert!(clients.time_to_live(first).await.keys.is_empty());
    clients.revoke(first).await;
    assert_eq!(get(&clients, key).await.kvs[0].lease, second);
    let before = clients.revision().await;
    clients.revoke(lease.id).await;
    assert_eq!(clients.revision().await, before + 1);
    assert_eq!(
        clients.range(shapes::list("/registry/events/")).await.count,
        0
    );
}

/// The chunks of a RangeStream merged into one answer, and how many they were.
async fn merged_stream(clients: &Clients, request: pb::RangeRequest) -> (pb::RangeResponse, usize) {
    let mut chunks = accepted(clients.kv.clone().range_stream(request).await);
    let mut merged = pb::RangeResponse::default();
    let mut count = 0;
    while let Some(chunk) = chunks.message().await.unwrap() {
        let chunk = chunk.range_response.expect("a chunk is a range response");
        assert!(
            merged.header.is_none(),
            "only the last chunk has the header"
        );
        merged.kvs.extend(chunk.kvs);
        merged.header = chunk.header;
        merged.more |= chunk.more;
        merged.count += chunk.count;
        count += 1;
    }
    (merged, count)
}

#[tokio::test]
async fn g_kv_7_range_stream_put_together_is_the_range() {
    ours_only!("RangeStream is new in 3.7");
    const COUNT: usize = 500;
    let server = Server::start("kube-range-stream").await;
    let clients = server.clients().await;
    let value = "x".repeat(8 << 10);
    for number in 0..COUNT {
        clients.put_key(pod(number), &value).await;
    }
    let pods = |change: fn(&mut pb::RangeRequest)| {
        let mut request = shapes::list(PODS);
        change(&mut request);
        request
    };
    let requests = [
        pods(|_| ()),
        pods(|request| request.limit = 37),
        pods(|request| request.count_only = true),
        pods(|request| request.keys_only = true),
        pods(|request| request.revision = 100),
        shapes::list("/registry/nothing/"),
        shapes::get(pod(3)),
    ];
    for request in requests {
        let whole = clients.range(request.clone()).await;
        let (merged, chunks) = merged_stream(&clients, request.clone()).await;
        assert_eq!(merged, whole, "{request:?}");
        let bytes: usize = whole.kvs.iter().map(|kv| kv.value.len()).sum();
        assert!(
            bytes < 3 << 20 || chunks > 1,
            "{bytes} bytes in one message"
        );
    }
    let unsupported = [
        pods(|request| request.sort_order = 2),
        pods(|request| request.min_mod_revision = 5),
    ];
    for request in unsupported {
        let answer = clients.kv.clone().range_stream(request).await;
        let status = answer.expect_err("neither sorts nor filters");
        assert_eq!(status.code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn the_version_turns_on_consistent_reads_from_the_cache() {
    let server = Server::start("kube-version").await;
    let clients = server.clients().await;
    let status = clients.status().await;
    let parts: Vec<u32> = status
        .version
        .split('.')
        .map(|part| part.parse().expect("a version is three numbers"))
        .collect();
    let [major, minor, patch] = parts[..] else {
        panic!("version {:?}", status.version);
    };
    assert!(status.db_size > 0);
    if server.kind() == ServerKind::Keelson {
        assert!(
            (major, minor, patch) >= (3, 6, 0),
            "version {}",
            status.version
        );
        assert!(!status.storage_version.is_empty());
        assert!(status.db_size_quota > 0);
    }
    // The health check of the API server.
    assert_eq!(get(&clients, "/registry/health").await.count, 0);
}
