//! The metrics page: its form, its names, and that each cell reaches its own line.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::Code;

use super::*;
use crate::observe::{ApplyOp, CheckKind, ClientApiVersion, Method, metric_names};

fn registry() -> Registry {
    Registry::new(
        &[0, 3],
        Facts {
            member_id: 0x8e9e_05c5_2164_694d,
            server_version: "3.6.14",
            cluster_version: "3.6.0",
            keelson_version: "0.1.0",
            quota_backend_bytes: Some(2 << 30),
            features: vec![FeatureFact {
                name: "LeaseCheckpoint",
                stage: "ALPHA",
                enabled: false,
            }],
        },
    )
}

fn page(registry: &Registry) -> String {
    let process = ProcessFacts {
        fds_open: Some(12),
        ..ProcessFacts::default()
    };
    registry.render(&process)
}

/// The lines of one metric.
fn lines(page: &str, name: &str) -> Vec<String> {
    let start = format!("# HELP {name} ");
    let after = page
        .split_once(&start)
        .unwrap_or_else(|| panic!("{name} is missing"))
        .1;
    let body = after
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("# HELP "));
    body.map(ToString::to_string).collect()
}

#[test]
fn names_are_unique_sorted_and_well_formed() {
    let names: Vec<&str> = metric_names().collect();
    for pair in names.windows(2) {
        assert!(pair[0] < pair[1], "{} before {}", pair[0], pair[1]);
    }
    for family in FAMILIES {
        let name = family.name;
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        );
        assert!(family.help.ends_with('.'), "{name}: {}", family.help);
        let own = ["etcd_", "keelson_", "grpc_server_", "os_fd_", "process_"];
        assert!(own.iter().any(|prefix| name.starts_with(prefix)), "{name}");
    }
}

#[test]
fn every_name_that_etcds_alerts_and_dashboards_use_is_there() {
    let names: BTreeSet<&str> = metric_names().collect();
    for name in [
        "etcd_server_has_leader",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_proposals_pending",
        "etcd_server_proposals_failed_total",
        "etcd_server_quota_backend_bytes",
        "etcd_disk_wal_fsync_duration_seconds",
        "etcd_disk_backend_commit_duration_seconds",
        "etcd_disk_backend_defrag_duration_seconds",
        "etcd_disk_backend_snapshot_duration_seconds",
        "etcd_disk_defrag_inflight",
        "etcd_debugging_snap_save_total_duration_seconds",
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "etcd_debugging_mvcc_db_compaction_last",
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_snapshot_send_success",
        "etcd_network_snapshot_send_failures",
        "etcd_network_snapshot_send_inflights_total",
        "etcd_network_snapshot_send_total_duration_seconds",
        "etcd_network_snapshot_receive_success",
        "etcd_network_snapshot_receive_failures",
        "etcd_network_snapshot_receive_inflights_total",
        "etcd_network_snapshot_receive_total_duration_seconds",
        "grpc_server_started_total",
        "grpc_server_handled_total",
        "process_resident_memory_bytes",
    ] {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn the_page_is_well_formed() {
    let registry = registry();
    registry.core(0).server.apply[ApplyOp::Txn as usize][1].observe(5);
    let page = registry.render(&ProcessFacts::read());
    let mut family = String::new();
    let mut samples = BTreeSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split(' ').next().unwrap(), family);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(&family), "{line} under {family}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(series.to_owned()), "{series} twice");
        }
    }
    assert!(page.ends_with('\n'));
}

#[test]
fn cores_are_summed_and_labels_written_as_etcd_writes_them() {
    let registry = registry();
    let (first, second) = (registry.core(0), registry.core(1));
    first.mvcc.puts.add(2);
    second.mvcc.puts.add(3);
    first.server.has_leader.set(1);
    first.disk.flushed(Duration::from_micros(1500), 8192, 1, 4);
    second.disk.flushed(Duration::from_micros(500), 4096, 1, 1);
    second.server.alarm_nospace.set(1);
    second.runtime.busy_permille.set(150);
    first.client.connections.add(2);
    first.client.connections.subtract(1);
    let page = page(&registry);
    for (name, expected) in [
        (
            "etcd_mvcc_put_total",
            &[
                "# TYPE etcd_mvcc_put_total counter",
                "etcd_mvcc_put_total 5",
            ][..],
        ),
        (
            "etcd_server_has_leader",
            &[
                "# TYPE etcd_server_has_leader gauge",
                "etcd_server_has_leader 1",
            ],
        ),
        (
            "etcd_server_id",
            &[
                "# TYPE etcd_server_id gauge",
                "etcd_server_id{server_id=\"8e9e05c52164694d\"} 1",
            ],
        ),
        (
            "etcd_server_version",
            &[
                "# TYPE etcd_server_version gauge",
                "etcd_server_version{server_version=\"3.6.14\"} 1",
            ],
        ),
        (
            "etcd_server_quota_backend_bytes",
            &[
                "# TYPE etcd_server_quota_backend_bytes gauge",
                "etcd_server_quota_backend_bytes 2.147483648e+09",
            ],
        ),
        (
            "etcd_disk_wal_write_bytes_total",
            &[
                "# TYPE etcd_disk_wal_write_bytes_total gauge",
                "etcd_disk_wal_write_bytes_total 12288",
            ],
        ),
        (
            "etcd_debugging_server_alarms",
            &[
                "# TYPE etcd_debugging_server_alarms gauge",
                "etcd_debugging_server_alarms{alarm_type=\"CORRUPT\",server_id=\"8e9e05c52164694d\"} 0",
                "etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"8e9e05c52164694d\"} 1",
            ],
        ),
        (
            "etcd_server_feature_enabled",
            &[
                "# TYPE etcd_server_feature_enabled gauge",
                "etcd_server_feature_enabled{name=\"LeaseCheckpoint\",stage=\"ALPHA\"} 0",
            ],
        ),
        (
            "keelson_core_busy_permille",
            &[
                "# TYPE keelson_core_busy_permille gauge",
                "keelson_core_busy_permille{core=\"0\"} 0",
                "keelson_core_busy_permille{core=\"3\"} 150",
            ],
        ),
        (
            "keelson_client_connections",
            &[
                "# TYPE keelson_client_connections gauge",
                "keelson_client_connections{core=\"0\"} 1",
                "keelson_client_connections{core=\"3\"} 0",
            ],
        ),
        ("os_fd_used", &["# TYPE os_fd_used gauge", "os_fd_used 12"]),
    ] {
        assert_eq!(lines(&page, name), expected, "{name}");
    }
    let fsync = lines(&page, "etcd_disk_wal_fsync_duration_seconds");
    assert_eq!(fsync.len(), 1 + 14 + 3);
    assert_eq!(
        fsync[1],
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 1"
    );
    assert_eq!(
        fsync[2],
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 2"
    );
    assert_eq!(
        fsync[14],
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 2"
    );
    assert_eq!(
        fsync[15],
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 2"
    );
    assert_eq!(fsync[16], "etcd_disk_wal_fsync_duration_seconds_sum 0.002");
    assert_eq!(fsync[17], "etcd_disk_wal_fsync_duration_seconds_count 2");
    assert!(
        !page.contains("# HELP process_cpu_seconds_total"),
        "unknown facts are left out"
    );
}

#[test]
fn rpcs_are_there_from_the_start_and_counted_by_method() {
    let registry = registry();
    let core = registry.core(1);
    core.rpc_started(
        Method::KvRange,
        ClientApiVersion::from_metadata(Some(b"3.6")),
    );
    core.rpc_started(Method::WatchWatch, ClientApiVersion::UNKNOWN);
    core.rpc_received(Method::KvRange, 1);
    core.rpc_sent(Method::KvRange, 1);
    core.rpc_handled(Method::KvRange, Code::Ok);
    core.rpc_handled(Method::KvRange, Code::OutOfRange);
    let page = page(&registry);
    let range = "grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    for line in [
        format!("grpc_server_started_total{{{range}}} 1"),
        format!("grpc_server_msg_received_total{{{range}}} 1"),
        format!("grpc_server_msg_sent_total{{{range}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{range}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"OutOfRange\",{range}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"Unauthenticated\",{range}}} 0"),
        "grpc_server_started_total{grpc_method=\"Lock\",grpc_service=\"v3lockpb.Lock\",grpc_type=\"unary\"} 0".to_owned(),
        "etcd_server_client_requests_total{client_api_version=\"3.6\",type=\"unary\"} 1".to_owned(),
        "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"stream\"} 1".to_owned(),
    ] {
        assert!(page.lines().any(|found| found == line), "{line}");
    }
    assert_eq!(
        lines(&page, "grpc_server_handled_total").len(),
        1 + 17 * Method::COUNT
    );
    assert_eq!(
        lines(&page, "etcd_server_client_requests_total").len(),
        1 + 2
    );
}

#[test]
fn code_labels_follow_the_codes() {
    let registry = registry();
    for number in 0..17 {
        let code = Code::from_i32(number);
        for _ in 0..=number {
            registry.core(0).rpc_handled(Method::KvPut, code);
        }
    }
    let page = page(&registry);
    for number in 0..17 {
        let label = match Code::from_i32(number) {
            Code::Ok => "OK".to_owned(),
            Code::Cancelled => "Canceled".to_owned(),
            code => format!("{code:?}"),
        };
        let line = format!(
            "grpc_server_handled_total{{grpc_code=\"{label}\",grpc_method=\"Put\",\
             grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}} {}",
            number + 1
        );
        assert!(page.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn the_newest_check_on_any_core_is_shown() {
    let registry = registry();
    registry
        .core(0)
        .health
        .checked(CheckKind::Readyz, 3, false, 1000);
    registry
        .core(1)
        .health
        .checked(CheckKind::Readyz, 3, true, 2000);
    registry
        .core(1)
        .health
        .checked(CheckKind::Livez, 1, true, 3000);
    registry
        .core(0)
        .health
        .checked(CheckKind::Livez, 1, false, 4000);
    assert_eq!(
        lines(&page(&registry), "etcd_server_healthcheck"),
        [
            "# TYPE etcd_server_healthcheck gauge",
            "etcd_server_healthcheck{name=\"serializable_read\",type=\"livez\"} 0",
            "etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 1",
        ]
    );
    assert_eq!(
        lines(&page(&registry), "etcd_server_healthchecks_total"),
        [
            "# TYPE etcd_server_healthchecks_total counter",
            "etcd_server_healthchecks_total{name=\"serializable_read\",status=\"error\",type=\"livez\"} 1",
            "etcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"livez\"} 1",
            "etcd_server_healthchecks_total{name=\"non_learner\",status=\"error\",type=\"readyz\"} 1",
            "etcd_server_healthchecks_total{name=\"non_learner\",status=\"success\",type=\"readyz\"} 1",
        ]
    );
}

#[test]
fn applied_commands_appear_with_their_first_count() {
    let registry = registry();
    assert_eq!(
        lines(&page(&registry), "etcd_server_apply_duration_seconds").len(),
        1
    );
    registry
        .core(0)
        .applied(ApplyOp::Put, true, Duration::from_micros(150));
    let found = lines(&page(&registry), "etcd_server_apply_duration_seconds");
    assert_eq!(found.len(), 1 + 20 + 3);
    let labels = "op=\"Put\",success=\"true\",version=\"v3\"";
    assert_eq!(
        found[1],
        format!("etcd_server_apply_duration_seconds_bucket{{{labels},le=\"0.0001\"}} 0")
    );
    assert_eq!(
        found[2],
        format!("etcd_server_apply_duration_seconds_bucket{{{labels},le=\"0.0002\"}} 1")
    );
}

/// Only the core that has the shard's engine counts transfers: what it counted is not multiplied by the number of cores.
#[test]
fn a_transfer_is_shown_once_whatever_the_number_of_cores() {
    let registry = registry();
    let member = keelson_storage::ids::MemberId(0xabc);
    let cells = registry.core(0).transfers.sent_to(member).unwrap();
    cells.ended(true, Duration::from_secs(2));
    let page = page(&registry);
    let duration = lines(&page, "etcd_network_snapshot_send_total_duration_seconds");
    let count = "etcd_network_snapshot_send_total_duration_seconds_count{To=\"abc\"} 1";
    assert!(duration.iter().any(|line| line == count), "{duration:#?}");
    let sum = "etcd_network_snapshot_send_total_duration_seconds_sum{To=\"abc\"} 2";
    assert!(duration.iter().any(|line| line == sum), "{duration:#?}");
    let success = lines(&page, "etcd_network_snapshot_send_success");
    assert!(success.contains(&"etcd_network_snapshot_send_success{To=\"abc\"} 1".to_owned()));
}
