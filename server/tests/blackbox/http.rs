//! What the client port, and the metrics listener, answer to plain HTTP/1.1.

use std::collections::BTreeMap;

use keelson_proto::health::HealthCheckRequest;
use keelson_proto::health::health_check_response::ServingStatus;
use keelson_proto::health::health_client::HealthClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    Etcdctl, Server, ServerKind, ServerOptions, accepted, eventually, http, ours_only, shapes,
};

/// Every listener that serves health and metrics.
async fn listeners(name: &str) -> (Server, Vec<String>) {
    let server = ServerOptions::new(name)
        .flag("--listen-metrics-urls={metrics}")
        .start()
        .await;
    let addresses = vec![server.address(), server.metrics_address()];
    (server, addresses)
}

#[tokio::test]
async fn health() {
    let (_server, addresses) = listeners("http-health").await;
    for address in addresses {
        for query in ["", "?serializable=true", "?exclude=NOSPACE"] {
            let answer = http::get(&address, &format!("/health{query}"))
                .await
                .unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body, r#"{"health":"true","reason":""}"#);
        }
        let post = http::request(&address, "POST", "/health").await.unwrap();
        assert_eq!(post.status, 405);
        assert_eq!(post.header("allow"), Some("GET"));
    }
}

#[tokio::test]
async fn livez_and_readyz() {
    ours_only!("livez and readyz came with 3.5.11");
    let (_server, addresses) = listeners("http-livez").await;
    let checks: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("/livez", &["serializable_read"][..]),
        (
            "/readyz",
            &[
                "data_corruption",
                "serializable_read",
                "linearizable_read",
                "non_learner",
            ],
        ),
    ]);
    for address in addresses {
        for (path, names) in &checks {
            let answer = http::get(&address, path).await.unwrap();
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (200, "ok\n"),
                "{path}"
            );
            let verbose = http::get(&address, &format!("{path}?verbose"))
                .await
                .unwrap();
            for name in *names {
                let line = format!("[+]{name} ok\n");
                assert!(
                    verbose.body.contains(&line),
                    "{line:?} in {:?}",
                    verbose.body
                );
                let one = http::get(&address, &format!("{path}/{name}"))
                    .await
                    .unwrap();
                assert_eq!(
                    (one.status, one.body.as_str()),
                    (200, "ok\n"),
                    "{path}/{name}"
                );
                let without = format!("{path}?verbose&exclude={name}");
                let without = http::get(&address, &without).await.unwrap();
                assert_eq!(without.status, 200);
                assert!(!without.body.contains(name), "{:?}", without.body);
            }
            assert!(verbose.body.ends_with("ok\n"));
            let post = http::request(&address, "POST", path).await.unwrap();
            assert_eq!(post.status, 405);
            let unknown = http::get(&address, &format!("{path}/nothing"))
                .await
                .unwrap();
            assert_eq!(unknown.status, 404);
        }
    }
}

#[tokio::test]
async fn version() {
    let server = Server::start("http-version").await;
    let clients = server.clients().await;
    let answer = http::get(&server.address(), "/version").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let version: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(version["etcdserver"], clients.status().await.version);
    let cluster = version["etcdcluster"].as_str().unwrap();
    assert!(
        cluster.starts_with("3.") && cluster.ends_with(".0"),
        "{cluster}"
    );
    if server.kind() == ServerKind::Keelson {
        assert!(version["storage"].as_str().unwrap().starts_with("3."));
    }
}

#[tokio::test]
async fn unknown_paths_are_not_found_and_a_connection_serves_many() {
    let server = Server::start("http-paths").await;
    let missing = http::get(&server.address(), "/nothing/here").await.unwrap();
    assert_eq!(missing.status, 404);
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = format!(
        "GET /version HTTP/1.1\r\nHost: {}\r\n\r\n",
        server.address()
    );
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            assert_ne!(
                stream.read_buf(&mut seen).await.unwrap(),
                0,
                "closed after one"
            );
        }
        assert!(seen.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}

#[tokio::test]
async fn grpc_health_serves() {
    let server = Server::start("http-grpc-health").await;
    let mut health = HealthClient::new(server.clients().await.channel);
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let answer = accepted(health.check(request.clone()).await);
    assert_eq!(answer.status(), ServingStatus::Serving);
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().expect("the status now");
    assert_eq!(first.status(), ServingStatus::Serving);
}

/// `name{labels}` to value.
async fn metrics(address: &str) -> BTreeMap<String, f64> {
    let answer = http::get(address, "/metrics").await.unwrap();
    assert_eq!(answer.status, 200);
    let content_type = answer.header("content-type").unwrap();
    assert!(
        content_type.starts_with("text/plain; version=0.0.4"),
        "{content_type}"
    );
    let samples = answer
        .body
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let value = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
            (name.to_owned(), value)
        })
        .collect()
}

/// Samples that dashboards and alerts ask for, by the beginning of the line.
const WANTED: &[&str] = &[
    "etcd_cluster_version{cluster_version=\"3.",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_renewed_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_server_lease_expired_total",
    "etcd_disk_backend_commit_duration_seconds_bucket{le=",
    "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"}",
    "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"}",
    "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"}",
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_wal_fsync_duration_seconds_sum",
    "etcd_disk_wal_write_bytes_total",
    "etcd_mvcc_db_open_read_transactions",
    "etcd_debugging_mvcc_db_compaction_keys_total",
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_bucket{le=\"4096\"}",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_bucket{le=\"100\"}",
    "etcd_debugging_snap_save_total_duration_seconds_count",
    "etcd_disk_backend_defrag_duration_seconds_bucket{le=\"409.6\"}",
    "etcd_disk_backend_snapshot_duration_seconds_count",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_hash_rev_duration_seconds_count",
    "etcd_mvcc_put_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_server_apply_duration_seconds_bucket{",
    "etcd_server_client_requests_total{",
    "etcd_server_has_leader",
    "etcd_server_health_failures",
    "etcd_server_health_success",
    "etcd_server_id{server_id=\"",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_version{server_version=\"3.",
    "grpc_server_handled_total{grpc_code=\"OK\",",
    "grpc_server_msg_received_total{grpc_method=\"",
    "grpc_server_msg_sent_total{grpc_method=\"",
    "grpc_server_started_total{grpc_method=\"",
    "os_fd_limit",
    "os_fd_used",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

#[tokio::test]
async fn metrics_have_etcds_names_and_count() {
    let (server, addresses) = listeners("http-metrics").await;
    let clients = server.clients().await;
    for value in ["1", "2", "3"] {
        clients.put_key("a", value).await;
    }
    clients.delete(shapes::delete("a")).await;
    let last = clients.put_key("b", "1").await;
    clients.grant(1, 100).await;
    let mut session = clients.watch_session();
    session.created(shapes::watch("a")).await;
    clients.compact(3).await;
    for address in addresses {
        let found = metrics(&address).await;
        for wanted in WANTED {
            assert!(
                found.keys().any(|name| name.starts_with(wanted)),
                "no {wanted}"
            );
        }
        let value = |name: &str| *found.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(value("etcd_server_has_leader"), 1.0);
        assert_eq!(value("etcd_server_is_leader"), 1.0);
        assert_eq!(value("etcd_server_is_learner"), 0.0);
        assert_eq!(value("etcd_mvcc_put_total"), 4.0);
        assert_eq!(value("etcd_mvcc_delete_total"), 1.0);
        assert_eq!(value("etcd_debugging_mvcc_keys_total"), 1.0);
        assert_eq!(value("etcd_debugging_mvcc_current_revision"), last as f64);
        assert_eq!(value("etcd_debugging_mvcc_compact_revision"), 3.0);
        assert_eq!(value("etcd_debugging_mvcc_watcher_total"), 1.0);
        assert_eq!(value("etcd_debugging_mvcc_watch_stream_total"), 1.0);
        assert_eq!(value("etcd_debugging_lease_granted_total"), 1.0);
        assert_eq!(value("etcd_debugging_lease_ttl_total_count"), 1.0);
        assert_eq!(value("etcd_server_leader_changes_seen_total"), 1.0);
        if server.kind() == ServerKind::Keelson {
            let stalls = "keelson_core_stalls_total{core=";
            assert!(found.keys().any(|name| name.starts_with(stalls)));
        }
        assert!(value("etcd_disk_wal_fsync_duration_seconds_count") >= 4.0);
        assert!(value("etcd_server_proposals_applied_total") >= 7.0);
        assert_eq!(value("etcd_server_proposals_pending"), 0.0);
        assert_eq!(
            value("etcd_server_quota_backend_bytes"),
            (2_u64 << 30) as f64
        );
        let puts = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",\
                    grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
        assert_eq!(value(puts), 4.0);
        let watches = "grpc_server_started_total{grpc_method=\"Watch\",\
                       grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
        assert_eq!(value(watches), 1.0);
    }
}

/// The values of some metrics now.
async fn values<const N: usize>(address: &str, names: [&str; N]) -> [f64; N] {
    let found = metrics(address).await;
    names.map(|name| *found.get(name).unwrap_or_else(|| panic!("no {name}")))
}

#[tokio::test]
async fn checkpoints_and_compactions_are_counted() {
    ours_only!("checkpoints are Keelson's");
    let server = Server::start("http-checkpoints").await;
    let clients = server.clients().await;
    let address = server.address();
    let ctl = Etcdctl::new(server.address());
    let names = [
        "keelson_checkpoint_total",
        "keelson_checkpoint_duration_seconds_count",
        "keelson_checkpoint_bytes_total",
        "keelson_checkpoint_file_bytes",
        "etcd_debugging_snap_save_total_duration_seconds_count",
        "etcd_disk_backend_defrag_duration_seconds_count",
        "keelson_memory_index_bytes",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count",
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count",
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "etcd_debugging_mvcc_db_compaction_last",
    ];
    assert_eq!(values(&address, names).await, [0.0; 11]);
    let mut revision = 0;
    for number in 0..20 {
        clients.put_key(format!("k{number}"), vec![7; 1000]).await;
        revision = clients.put_key(format!("k{number}"), vec![8; 1000]).await;
    }
    let [versions_before] = values(&address, ["keelson_memory_versions_bytes"]).await;
    assert!(versions_before > 40_000.0, "{versions_before}");
    clients.compact(revision).await;
    eventually("the compaction is done", || async {
        let [done] = values(&address, [names[7]]).await;
        (done == 1.0).then_some(())
    })
    .await;
    ctl.ok(&["defrag"]).await;
    let [
        made,
        timed,
        written,
        file,
        saved,
        defrags,
        index,
        _,
        slices,
        found,
        last,
    ] = values(&address, names).await;
    assert_eq!([made, timed, saved, defrags], [1.0; 4]);
    assert!(written >= file && file > 20_000.0, "{written} {file}");
    assert!(index > 0.0 && slices >= 1.0, "{index} {slices}");
    // Of the last key the older version stays: a watch from the compact revision on shows it.
    assert_eq!(found, 19.0);
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs_f64();
    assert!((now - last).abs() < 100.0, "{last}");
    let rest = [
        "keelson_memory_versions_bytes",
        "keelson_checkpoint_failed_total",
        "etcd_disk_defrag_inflight",
    ];
    let [versions, failed, in_flight] = values(&address, rest).await;
    assert!(versions < versions_before / 2.0, "{versions}");
    assert_eq!([failed, in_flight], [0.0; 2]);
}

#[tokio::test]
async fn values_that_are_in_memory_or_not_are_counted() {
    ours_only!("the cache is Keelson's");
    let mut server = Server::start("http-values").await;
    let clients = server.clients().await;
    clients.put_key("a", vec![7; 1000]).await;
    Etcdctl::new(server.address()).ok(&["defrag"]).await;
    assert!(server.stop().await.success());
    server.restart().await;
    let (clients, address) = (server.clients().await, server.address());
    let names = [
        "keelson_value_cache_hits_total",
        "keelson_value_cache_misses_total",
        "keelson_value_cache_bytes",
    ];
    assert_eq!(values(&address, names).await, [0.0; 3]);
    accepted(clients.kv.clone().range(shapes::get("a")).await);
    let [hits, misses, bytes] = values(&address, names).await;
    assert_eq!([hits, misses], [0.0, 1.0], "it was read from the disk");
    assert!(bytes >= 1000.0, "{bytes}");
    // What just came is no hit: whoever waited for it asks again.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    for _ in 0..3 {
        clients.put_key("b", "turns go by").await;
    }
    accepted(clients.kv.clone().range(shapes::get("a")).await);
    let [hits, misses, _] = values(&address, names).await;
    assert_eq!([hits, misses], [1.0, 1.0], "it was in memory");
}
