//! The command line, environment and config file as tables: what goes in, what comes out.

use std::path::PathBuf;
use std::time::Duration;

use keelson_tuning::Profile;

use crate::config::{
    AutoCompaction, ClusterMember, ClusterState, Config, CoreSelection, FeatureGates, HttpUrl,
    LogConfig, LogFormat, LogLevel, LogOutput, ShardConfig, Standing, all_flags, flag,
};

use super::{CliError, Invocation, Serve, parse};

/// What a flag should do to the defaults.
type Change = fn(&mut Config);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn variables(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

fn no_file(path: &str) -> Result<String, String> {
    Err(format!("the test has no file {path}"))
}

fn invoke(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Invocation, CliError> {
    parse(&words(arguments), &variables(environment), no_file)
}

fn serve(invocation: Result<Invocation, CliError>) -> Serve {
    match invocation {
        Ok(Invocation::Serve(serve)) => *serve,
        other => panic!("expected to serve: {other:?}"),
    }
}

fn config(arguments: &[&str]) -> Config {
    serve(invoke(arguments, &[])).config
}

fn error(arguments: &[&str]) -> String {
    match invoke(arguments, &[]) {
        Err(error) => error.to_string(),
        Ok(invocation) => panic!("{arguments:?} should not work: {invocation:?}"),
    }
}

fn from_yaml(yaml: &str) -> Result<Serve, String> {
    let read = |path: &str| {
        assert_eq!(path, "k.yml");
        Ok(yaml.to_owned())
    };
    match parse(&words(&["--config-file", "k.yml"]), &[], read) {
        Ok(invocation) => Ok(serve(Ok(invocation))),
        Err(error) => Err(error.to_string()),
    }
}

fn texts(serve: &Serve) -> Vec<&str> {
    serve
        .notices
        .iter()
        .map(|notice| notice.text.as_str())
        .collect()
}

fn urls(text: &str) -> Vec<HttpUrl> {
    HttpUrl::parse_list(text).unwrap()
}

#[test]
fn without_anything_the_defaults_of_etcd_hold() {
    let Serve { config, notices } = serve(invoke(&[], &[]));
    assert_eq!(notices, []);
    assert_eq!(config, Config::default());
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.keelson"));
    assert_eq!(config.listen_client_urls, urls("http://localhost:2379"));
    assert_eq!(config.client_addresses()[0].to_string(), "127.0.0.1:2379");
    assert_eq!(config.advertise_client_urls, urls("http://localhost:2379"));
    assert!(config.metrics_addresses().is_empty());
    assert_eq!(config.initial_cluster.len(), 1);
    assert_eq!(config.initial_cluster[0].name, "default");
    assert_eq!(
        config.initial_cluster[0].peer_urls,
        urls("http://localhost:2380")
    );
    assert_eq!(config.initial_cluster_state, ClusterState::New);
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!(config.max_txn_ops, 128);
    assert_eq!(config.max_request_bytes, 1_572_864);
    assert_eq!(config.max_receive_bytes(), 1_572_864 + 524_288);
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(
        config.grpc_keepalive_interval,
        Some(Duration::from_secs(7200))
    );
    assert_eq!(config.grpc_keepalive_timeout, Some(Duration::from_secs(20)));
    assert_eq!(
        config.watch_progress_notify_interval,
        Duration::from_secs(600)
    );
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_millis(1000));
    assert_eq!(config.request_timeout(), Duration::from_secs(7));
    assert_eq!(config.log, LogConfig::default());
    assert_eq!(config.feature_gates, FeatureGates::default());
    assert!(!config.unsafe_no_fsync);
    assert_eq!(config.cores, CoreSelection::Auto);
}

/// What kubeadm writes for a cluster of one control-plane node, with the TLS flags taken out.
#[test]
fn the_manifest_of_kubeadm_without_tls_starts() {
    for corrupt_check in [
        "--feature-gates=InitialCorruptCheck=true",
        "--experimental-initial-corrupt-check=true",
    ] {
        for progress in [
            "--watch-progress-notify-interval=5s",
            "--experimental-watch-progress-notify-interval=5s",
        ] {
            let config = config(&[
                "--advertise-client-urls=http://10.0.0.5:2379",
                "--data-dir=/var/lib/etcd",
                corrupt_check,
                progress,
                "--initial-advertise-peer-urls=http://10.0.0.5:2380",
                "--initial-cluster=node-1=http://10.0.0.5:2380",
                "--listen-client-urls=http://127.0.0.1:2379,http://10.0.0.5:2379",
                "--listen-metrics-urls=http://127.0.0.1:2381",
                "--listen-peer-urls=http://10.0.0.5:2380",
                "--name=node-1",
                "--snapshot-count=10000",
            ]);
            assert_eq!(config.name, "node-1");
            assert_eq!(config.data_dir, PathBuf::from("/var/lib/etcd"));
            assert_eq!(config.client_addresses().len(), 2);
            assert_eq!(config.metrics_addresses()[0].to_string(), "127.0.0.1:2381");
            assert_eq!(
                config.watch_progress_notify_interval,
                Duration::from_secs(5)
            );
            assert!(config.feature_gates.enabled("InitialCorruptCheck"));
        }
    }
}

#[test]
fn every_used_flag_changes_its_setting() {
    let advertised = "--advertise-client-urls=http://a:1";
    let changes: &[(&[&str], Change)] = &[
        (&["--name=x"], |c| {
            c.name = "x".into();
            c.data_dir = "x.keelson".into();
            c.initial_cluster[0].name = "x".into();
        }),
        (&["-data-dir", "/d"], |c| c.data_dir = "/d".into()),
        (&["--experimental-snapshot-catchup-entries=7"], |c| {
            c.snapshot_catchup_entries = 7;
        }),
        (&["--experimental-corrupt-check-time=1h"], |c| {
            c.corrupt_check_time = Some(Duration::from_secs(3600));
        }),
        (&["--compact-hash-check-time=5s"], |c| {
            c.compact_hash_check_time = Duration::from_secs(5);
        }),
        (&[advertised], |c| {
            c.advertise_client_urls = urls("http://a:1")
        }),
        (
            &["--listen-client-urls", "http://[::]:5", advertised],
            |c| {
                c.listen_client_urls = urls("http://[::]:5");
                c.advertise_client_urls = urls("http://a:1");
            },
        ),
        (&["--listen-metrics-urls=http://127.0.0.1:9"], |c| {
            c.listen_metrics_urls = urls("http://127.0.0.1:9");
        }),
        (&["--listen-peer-urls="], |c| {
            c.listen_peer_urls = Vec::new()
        }),
        (
            &["--initial-advertise-peer-urls=http://p:1,http://o:1"],
            |c| {
                c.initial_advertise_peer_urls = urls("http://o:1,http://p:1");
                c.initial_cluster[0].peer_urls = urls("http://o:1,http://p:1");
            },
        ),
        (&["--initial-cluster-state=existing"], |c| {
            c.initial_cluster_state = ClusterState::Existing;
        }),
        (
            &["--initial-cluster=b=http://b:1,default=http://localhost:2380,b=http://a:1"],
            |c| {
                let b = ClusterMember {
                    name: "b".into(),
                    peer_urls: urls("http://a:1,http://b:1"),
                };
                c.initial_cluster.insert(0, b);
            },
        ),
        (&["--strict-reconfig-check=false"], |c| {
            c.strict_reconfig_check = false;
        }),
        (
            &[
                "--shards=events=http://127.0.0.1:1",
                "--shards-advertise-client-urls=events=http://e:1",
                "--shards-cores=events=1",
            ],
            |c| {
                c.shards.push(ShardConfig {
                    name: "events".into(),
                    listen_client_urls: urls("http://127.0.0.1:1"),
                    advertise_client_urls: urls("http://e:1"),
                    core: 1,
                });
            },
        ),
        (&["--max-learners=3"], |c| c.max_learners = 3),
        (&["--force-new-cluster"], |c| c.force_new_cluster = true),
        (&["--initial-election-tick-advance=false"], |c| {
            c.initial_election_tick_advance = false;
        }),
        (&["--initial-cluster-token=t"], |c| {
            c.initial_cluster_token = "t".into()
        }),
        (
            &["--heartbeat-interval=50", "--election-timeout", "250"],
            |c| {
                c.heartbeat_interval = Duration::from_millis(50);
                c.election_timeout = Duration::from_millis(250);
            },
        ),
        (&["--quota-backend-bytes", "-1"], |c| {
            c.quota_backend_bytes = None
        }),
        (&["--quota-backend-bytes=1000"], |c| {
            c.quota_backend_bytes = Some(1000)
        }),
        (&["--max-txn-ops=5"], |c| c.max_txn_ops = 5),
        (&["--max-request-bytes=1000"], |c| {
            c.max_request_bytes = 1000
        }),
        (&["--max-concurrent-streams=7"], |c| {
            c.max_concurrent_streams = 7
        }),
        (&["--grpc-keepalive-interval=0"], |c| {
            c.grpc_keepalive_interval = None
        }),
        (&["--grpc-keepalive-timeout=0s"], |c| {
            c.grpc_keepalive_timeout = None
        }),
        (&["--watch-progress-notify-interval=100ms"], |c| {
            c.watch_progress_notify_interval = Duration::from_millis(100);
        }),
        (&["--auto-compaction-retention=2"], |c| {
            c.auto_compaction = AutoCompaction::Periodic {
                retention: Duration::from_secs(7200),
            };
        }),
        (
            &[
                "--auto-compaction-mode=revision",
                "--auto-compaction-retention=1000",
            ],
            |c| {
                c.auto_compaction = AutoCompaction::Revision { retention: 1000 };
            },
        ),
        (&["--warning-apply-duration=1s"], |c| {
            c.warning_apply_duration = Duration::from_secs(1)
        }),
        (
            &[
                "--log-level=warn",
                "--log-format=console",
                "--log-outputs=stdout",
            ],
            |c| {
                c.log = LogConfig {
                    level: LogLevel::Warn,
                    format: LogFormat::Console,
                    output: LogOutput::Stdout,
                };
            },
        ),
        (&["--unsafe-no-fsync"], |c| c.unsafe_no_fsync = true),
        (&["--cores", "1"], |c| c.cores = CoreSelection::Count(1)),
        (&["--profile=small-vm", "--cores=auto"], |c| {
            c.profile = Some("small-vm".into());
            Profile::built_in("small-vm").unwrap().apply(&mut c.tuning);
        }),
        (&["--wal-depth=4", "--runtime-drain-ms", "0"], |c| {
            c.tuning.wal.depth = 4;
            c.tuning.runtime.drain_ms = 0;
        }),
        (&["serve", "--max-txn-ops=6"], |c| c.max_txn_ops = 6),
    ];
    for (arguments, change) in changes {
        let mut expected = Config::default();
        change(&mut expected);
        assert_eq!(config(arguments), expected, "{arguments:?}");
        assert_ne!(
            config(arguments),
            Config::default(),
            "{arguments:?} changes nothing"
        );
    }
}

#[test]
fn what_must_be_mended_is_said_in_one_sentence() {
    for (arguments, message) in [
        (
            &["--name=a,b"][..],
            "invalid value \"a,b\" for --name: a name must not contain commas, equals signs or spaces",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--listen-client-urls is set, so --advertise-client-urls must be set as well: it tells clients how to reach this member",
        ),
        (
            &["--listen-client-urls=https://127.0.0.1:1"],
            "invalid value \"https://127.0.0.1:1\" for --listen-client-urls: \"https://127.0.0.1:1\" asks for TLS, which is not available yet; use http",
        ),
        (
            &["--listen-client-urls=unix:///a"],
            "invalid value \"unix:///a\" for --listen-client-urls: \"unix:///a\" is a unix socket, which is not available yet; use http://host:port",
        ),
        (
            &["--listen-client-urls=http://example.org:1"],
            "invalid value \"http://example.org:1\" for --listen-client-urls: \"http://example.org:1\" must name an IP address or localhost to listen on",
        ),
        (
            &["--listen-client-urls="],
            "invalid value \"\" for --listen-client-urls: it must not be empty: clients need an address",
        ),
        (
            &["--advertise-client-urls=http://:1"],
            "invalid value \"http://:1\" for --advertise-client-urls: \"http://:1\" has no host",
        ),
        (
            &["--initial-cluster=a=http://localhost:2380"],
            "--initial-cluster does not name this member \"default\"; it names a. Make --name and --initial-cluster agree",
        ),
        (
            &["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
            "--initial-cluster has the URL http://localhost:2380 for default and for b; every member needs its own",
        ),
        (
            &["--max-learners=-1"],
            "invalid value \"-1\" for --max-learners: expected a whole number that is not negative",
        ),
        (
            &["--initial-cluster=default=http://b:2380"],
            "--initial-cluster has default=http://b:2380, but --initial-advertise-peer-urls has http://localhost:2380; make them agree",
        ),
        (
            &["--initial-cluster=http://b:2380"],
            "invalid value \"http://b:2380\" for --initial-cluster: \"http://b:2380\" is not of the form name=http://host:port",
        ),
        (
            &["--initial-cluster-state=old"],
            "invalid value \"old\" for --initial-cluster-state: expected one of new, existing",
        ),
        (
            &["--heartbeat-interval=0"],
            "--heartbeat-interval must be more than 0",
        ),
        (
            &["--election-timeout=0"],
            "--election-timeout must be more than 0",
        ),
        (
            &["--election-timeout=499"],
            "--election-timeout=499 must be at least five times --heartbeat-interval=100",
        ),
        (
            &["--election-timeout=50001"],
            "--election-timeout=50001 must be at most 50000",
        ),
        (
            &["--max-txn-ops=x"],
            "invalid value \"x\" for --max-txn-ops: expected a whole number that is not negative",
        ),
        (
            &["--max-txn-ops=-1"],
            "invalid value \"-1\" for --max-txn-ops: expected a whole number that is not negative",
        ),
        (
            &["--max-txn-ops=4294967296"],
            "invalid value \"4294967296\" for --max-txn-ops: at most 4294967295 is allowed",
        ),
        (
            &["--max-request-bytes=0"],
            "invalid value \"0\" for --max-request-bytes: a request needs at least one byte",
        ),
        (
            &["--max-request-bytes=100000000"],
            "invalid value \"100000000\" for --max-request-bytes: at most 15728640 is allowed",
        ),
        (
            &["--wal-segment-bytes=65536"],
            "wal.segment_bytes is 65536, which leaves 57176 bytes for one log entry, but with --max-request-bytes=1572864 an entry may take 1573158; make the segments larger",
        ),
        (
            &["--pre-vote=maybe"],
            "invalid value \"maybe\" for --pre-vote: expected true or false",
        ),
        (
            &["--grpc-keepalive-timeout=20"],
            "invalid value \"20\" for --grpc-keepalive-timeout: missing unit; expected a duration such as 300ms, 10m or 1h30m",
        ),
        (
            &["--auto-compaction-mode=daily"],
            "invalid value \"daily\" for --auto-compaction-mode: expected one of periodic, revision",
        ),
        (
            &[
                "--auto-compaction-mode=revision",
                "--auto-compaction-retention=1h",
            ],
            "invalid value \"1h\" for --auto-compaction-retention: revision mode takes a number of revisions such as 1000",
        ),
        (
            &["--log-level=loud"],
            "invalid value \"loud\" for --log-level: expected one of debug, info, warn, error, panic, fatal",
        ),
        (
            &["--log-outputs=/var/log/etcd.log"],
            "--log-outputs=/var/log/etcd.log is not supported yet: the log goes to stderr or to stdout; choose one and let the supervisor forward it",
        ),
        (
            &["--cores=none"],
            "invalid value \"none\" for --cores: expected auto, all, a count such as 2, or a list such as 0,2-3",
        ),
        (
            &["--wal-depth=0"],
            "wal.depth is 0, but must be between 1 and 16",
        ),
        (
            &["--wal-depth=deep"],
            "invalid value \"deep\" for --wal-depth: expected a whole number that is not negative",
        ),
        (
            &["--feature-gates=Nope=true"],
            "invalid value \"Nope=true\" for --feature-gates: there is no feature gate \"Nope\"; known are CompactHashCheck, FastLeaseKeepAlive, InitialCorruptCheck, LeaseCheckpoint, LeaseCheckpointPersist, PriorityRequest, SetMemberLocalAddr, StopGRPCServiceOnDefrag, TxnModeWriteWithSharedBuffer",
        ),
        (
            &["--cert-file=/etc/server.crt"],
            "--cert-file=/etc/server.crt is not supported yet: TLS is not available yet; leave the flag out and use http URLs, on a network you trust",
        ),
        (
            &["--auth-token=jwt,pub-key=a"],
            "--auth-token=jwt,pub-key=a is not supported yet: users and tokens are not available yet; leave the flag out",
        ),
        (
            &["--experimental-memory-mlock"],
            "--memory-mlock=true is not supported yet: memory is not locked; switch swap off on this machine instead",
        ),
        (
            &["gateway", "start"],
            "unexpected word \"gateway\" on the command line; --help shows the usage",
        ),
        (
            &["gateway"],
            "unexpected word \"gateway\" on the command line; --help shows the usage",
        ),
    ] {
        assert_eq!(error(arguments), message, "{arguments:?}");
    }
}

#[test]
fn exit_codes_tell_the_command_line_from_the_rest() {
    for (arguments, code) in [
        (&["--nope"][..], 2),
        (&["--name"], 2),
        (&["word"], 2),
        (&["--max-txn-ops=x"], 2),
        (&["--cert-file=x"], 1),
        (&["--election-timeout=1"], 1),
        (&["--wal-depth=0"], 1),
        (&["--config-file=x"], 1),
    ] {
        assert_eq!(
            invoke(arguments, &[]).unwrap_err().exit_code(),
            code,
            "{arguments:?}"
        );
    }
    assert_eq!(
        invoke(&[], &[("ETCD_MAX_TXN_OPS", "x")])
            .unwrap_err()
            .exit_code(),
        1
    );
}

#[test]
fn every_flag_accepts_its_own_default_quietly() {
    for flag in all_flags() {
        if flag.name == "data-dir" || matches!(flag.standing, Standing::Ignored) {
            continue;
        }
        let argument = format!("--{}={}", flag.name, flag.default);
        let advertised = "--advertise-client-urls=http://localhost:2379";
        let serve = serve(invoke(&[&argument, advertised], &[]));
        let quiet = match flag.standing {
            Standing::Renamed(_) | Standing::Gate(_) => serve.notices.len() == 1,
            _ => serve.notices.is_empty(),
        };
        assert!(quiet, "{argument}: {:?}", serve.notices);
        assert_eq!(serve.config, Config::default(), "{argument}");
    }
}

#[test]
fn the_flag_table_is_sound() {
    let mut names: Vec<&str> = all_flags().iter().map(|flag| flag.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "a flag stands twice");
    for row in all_flags() {
        if let Standing::Renamed(name) = row.standing {
            let target = flag(name).unwrap();
            assert_eq!(
                (target.kind, target.default),
                (row.kind, row.default),
                "{}",
                row.name
            );
        }
    }
}

#[test]
fn idle_flags_are_accepted_with_a_reason() {
    let serve = serve(invoke(
        &["--downgrade-check-time=1h", "--max-wals=0", "--vv"],
        &[],
    ));
    assert_eq!(serve.config, Config::default());
    assert_eq!(
        texts(&serve),
        [
            "--downgrade-check-time=1h changes nothing: there is no version to go back to",
            "--max-wals=0 changes nothing: the log keeps the segments it needs, and no others",
            "--vv is ignored, as etcd does",
        ]
    );
}

#[test]
fn unusual_values_earn_a_warning() {
    let serve = serve(invoke(
        &[
            "--quota-backend-bytes=9000000000",
            "--max-request-bytes=12000000",
            "--watch-progress-notify-interval=5ms",
        ],
        &[],
    ));
    assert_eq!(serve.config.quota_backend_bytes, Some(9_000_000_000));
    assert_eq!(
        serve.config.watch_progress_notify_interval,
        Duration::from_millis(100)
    );
    assert_eq!(
        texts(&serve),
        [
            "--quota-backend-bytes=9000000000 is more than the 8589934592 bytes that etcd recommends at most",
            "--max-request-bytes=12000000 is more than the 10485760 bytes that etcd recommends at most",
            "--watch-progress-notify-interval=5ms is raised to the minimum of 100ms",
        ]
    );
}

#[test]
fn variables_come_after_flags() {
    let environment = [
        ("ETCD_NAME", "from-env"),
        ("ETCD_MAX_TXN_OPS", "9"),
        ("ETCD_UNSAFE_NO_FSYNC", "true"),
        ("ETCD_DATA_DIR", ""),
        ("KEELSON_CORES", "1"),
        ("KEELSON_WAL_DEPTH", "3"),
        ("ETCD_SERVICE_HOST", "10.0.0.1"),
        ("ETCD_WAL_DEPTH", "3"),
        ("PATH", "/bin"),
    ];
    let serve = serve(invoke(&["--name=from-flag"], &environment));
    assert_eq!(serve.config.name, "from-flag");
    assert_eq!(serve.config.data_dir, PathBuf::from("from-flag.keelson"));
    assert_eq!(serve.config.max_txn_ops, 9);
    assert!(serve.config.unsafe_no_fsync);
    assert_eq!(serve.config.cores, CoreSelection::Count(1));
    assert_eq!(serve.config.tuning.wal.depth, 3);
    assert_eq!(
        texts(&serve),
        [
            "environment variable ETCD_SERVICE_HOST is not known and is left aside",
            "environment variable ETCD_WAL_DEPTH is not known and is left aside",
            "ETCD_NAME is left aside, because --name is given",
            "ETCD_MAX_TXN_OPS=9 is used",
            "ETCD_UNSAFE_NO_FSYNC=true is used",
            "KEELSON_CORES=1 is used",
            "KEELSON_WAL_DEPTH=3 is used",
        ]
    );
    let wrong = invoke(&[], &[("ETCD_MAX_TXN_OPS", "x")]).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "invalid value \"x\" for ETCD_MAX_TXN_OPS: expected a whole number that is not negative"
    );
}

#[test]
fn a_config_file_is_read_in_etcds_layout() {
    let serve = from_yaml(
        "# a comment
name: 'm1'
data-dir: /d
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 1000000
listen-peer-urls: http://localhost:2380
listen-client-urls: http://127.0.0.1:2379,http://127.0.0.2:2379
max-snapshots: 5
cors:
discovery-fallback: 'exit'
initial-cluster: m1=http://localhost:2380
strict-reconfig-check: false
watch-progress-notify-interval: 5000000000
grpc-keepalive-timeout: 30s
auto-compaction-mode: periodic
auto-compaction-retention: \"1\"
client-transport-security:
  cert-file:
  key-file: ''
  client-cert-auth: false
  auto-tls: false
peer-transport-security:
  client-cert-auth: false
  allowed-cn: []
self-signed-cert-validity: 1
log-level: debug
logger: zap
log-outputs: [stderr]
cipher-suites: [A, B]
feature-gates: InitialCorruptCheck=true
cores: 1
wal:
  depth: 4
  group_bytes_max: 2097152
  group-delay-us: 50
",
    )
    .unwrap();
    let config = &serve.config;
    assert_eq!(config.name, "m1");
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    assert_eq!(config.quota_backend_bytes, Some(1_000_000));
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.advertise_client_urls, urls("http://localhost:2379"));
    assert_eq!(
        config.watch_progress_notify_interval,
        Duration::from_secs(5)
    );
    assert_eq!(config.grpc_keepalive_timeout, Some(Duration::from_secs(30)));
    let hour = Duration::from_secs(3600);
    assert_eq!(
        config.auto_compaction,
        AutoCompaction::Periodic { retention: hour }
    );
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.cores, CoreSelection::Count(1));
    assert_eq!(config.tuning.wal.depth, 4);
    assert_eq!(config.tuning.wal.group_bytes_max, 2_097_152);
    assert_eq!(config.tuning.wal.group_delay_us, 50);
    assert_eq!(
        texts(&serve),
        [
            "the configuration comes from k.yml",
            "cipher-suites in k.yml=A,B changes nothing: TLS is not in use",
        ]
    );
}

#[test]
fn a_config_file_that_cannot_be_used_is_explained() {
    for (yaml, message) in [
        (
            "nmae: a",
            "unknown key \"nmae\" in k.yml, did you mean name",
        ),
        (
            "config-file: other",
            "unknown key \"config-file\" in k.yml, did you mean config-file",
        ),
        (
            "wal: {depht: 1}",
            "unknown key \"wal.depht\" in k.yml, did you mean wal-depth",
        ),
        (
            "wal: 3",
            "cannot use config file k.yml: wal must hold keys with values",
        ),
        (
            "[1, 2]",
            "cannot use config file k.yml: expected keys with values at the top level",
        ),
        (
            "name: {a: b}",
            "cannot use config file k.yml: name must be a plain value",
        ),
        (
            "client-transport-security: {cert-file: /a}",
            "cert-file in k.yml=/a is not supported yet: TLS is not available yet; leave the flag out and use http URLs, on a network you trust",
        ),
        (
            "peer-transport-security: {allowed-cn: [a]}",
            "peer-cert-allowed-cn in k.yml=a is not supported yet: TLS is not available yet; leave the flag out and use http URLs, on a network you trust",
        ),
        (
            "max-txn-ops: many",
            "invalid value \"many\" for max-txn-ops in k.yml: expected a whole number that is not negative",
        ),
    ] {
        assert_eq!(from_yaml(yaml).unwrap_err(), message, "{yaml}");
    }
    assert!(
        from_yaml("a: [")
            .unwrap_err()
            .starts_with("cannot use config file k.yml: not YAML: ")
    );
    assert_eq!(
        error(&["--config-file=gone.yml"]),
        "cannot use config file gone.yml: the test has no file gone.yml"
    );
    assert_eq!(from_yaml("").unwrap().config, Config::default());
}

#[test]
fn a_config_file_puts_flags_and_variables_aside() {
    let environment = variables(&[("ETCD_CONFIG_FILE", "e.yml"), ("ETCD_NAME", "env")]);
    let read = |path: &str| Ok(format!("name: {}", path.trim_end_matches(".yml")));
    let served = serve(parse(&words(&["--max-txn-ops=5"]), &environment, read));
    assert_eq!(served.config.name, "e");
    assert_eq!(served.config.max_txn_ops, 128);
    assert_eq!(
        texts(&served),
        [
            "the configuration comes from e.yml",
            "a config file is given, so these are left aside: --max-txn-ops, ETCD_NAME",
        ]
    );
    let read = |path: &str| Ok(format!("name: {}", path.trim_end_matches(".yml")));
    let served = serve(parse(&words(&["--config-file=f.yml"]), &environment, read));
    assert_eq!(served.config.name, "f");
}

#[test]
fn help_and_version_are_printed() {
    for arguments in [
        &["--version"][..],
        &["-version"],
        &["version"],
        &["--version", "--name=a"],
    ] {
        let Ok(Invocation::Print(text)) = invoke(arguments, &[]) else {
            panic!("{arguments:?} prints");
        };
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            concat!("keelson Version: ", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(lines[1], "etcd Version: 3.6.14");
        assert!(lines[2].starts_with("Git SHA: "));
        assert!(lines[4].starts_with("OS/Arch: linux/"));
    }
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["-help"],
        &["help"],
        &["serve", "--help"],
    ] {
        let Ok(Invocation::Print(text)) = invoke(arguments, &[]) else {
            panic!("{arguments:?} prints");
        };
        assert!(text.starts_with("Usage:\n\n  keelson [flags]\n"));
    }
}
