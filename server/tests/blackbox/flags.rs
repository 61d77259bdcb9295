//! Starting, refusing to start, and stopping: flags, environment, configuration file, data
//! directory, signals.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use keelson_proto::etcdserverpb as pb;
use tonic::Code;

use crate::harness::{
    DEADLINE, Server, ServerKind, ServerOptions, eventually, failure, http, ours_only, shapes,
};

/// A server that must refuse to start, and what it printed.
async fn refusal(options: ServerOptions) -> String {
    let mut server = options.launch();
    match server.wait_exit(DEADLINE).await {
        Some(status) => {
            assert!(!status.success(), "it ended with {status}");
            server.log()
        }
        None => panic!("it did not refuse to start"),
    }
}

#[tokio::test]
async fn a_one_member_manifest_of_etcd_starts() {
    let server = ServerOptions::new("flags-manifest")
        .only_own_flags()
        .flag("--name=control-plane")
        .flag("--data-dir={data}")
        .flag("--listen-client-urls={client}")
        .flag("--advertise-client-urls={client}")
        .flag("--listen-peer-urls={peer}")
        .flag("--initial-advertise-peer-urls={peer}")
        .flag("--initial-cluster=control-plane={peer}")
        .flag("--initial-cluster-state=new")
        .flag("--initial-cluster-token=manifest")
        .flag("--listen-metrics-urls={metrics}")
        .flag("--quota-backend-bytes=4294967296")
        .flag("--max-txn-ops=256")
        .flag("--max-request-bytes=2097152")
        .flag("--auto-compaction-mode=periodic")
        .flag("--auto-compaction-retention=5m")
        .flag("--log-level=info")
        .progress_interval("5s")
        .start()
        .await;
    let clients = server.clients().await;
    let members = clients.cluster.clone();
    let request = pb::MemberListRequest { linearizable: true };
    let members = members
        .clone()
        .member_list(request)
        .await
        .unwrap()
        .into_inner()
        .members;
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].name, "control-plane");
    assert_eq!(members[0].client_ur_ls, [server.endpoint()]);
    assert_eq!(members[0].peer_ur_ls, [server.peer_url()]);
    let large = vec![b'x'; 1_800_000];
    clients.put(shapes::put("large", large)).await;
    assert!(server.log().contains("ready to serve client requests"));
    let health = http::get(&server.metrics_address(), "/health")
        .await
        .unwrap();
    assert_eq!(health.status, 200);
}

#[tokio::test]
async fn the_environment_gives_flags_too() {
    let server = ServerOptions::new("flags-environment")
        .only_own_flags()
        .environment("ETCD_NAME", "from-env")
        .environment("ETCD_DATA_DIR", "{data}")
        .environment("ETCD_LISTEN_CLIENT_URLS", "{client}")
        .environment("ETCD_ADVERTISE_CLIENT_URLS", "{client}")
        .environment("ETCD_LISTEN_PEER_URLS", "{peer}")
        .environment("ETCD_INITIAL_ADVERTISE_PEER_URLS", "{peer}")
        .environment("ETCD_INITIAL_CLUSTER", "from-env={peer}")
        .environment("ETCD_MAX_TXN_OPS", "2")
        .start()
        .await;
    let clients = server.clients().await;
    let request = pb::MemberListRequest {
        linearizable: false,
    };
    let members = clients
        .cluster
        .clone()
        .member_list(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(members.members[0].name, "from-env");
    let compares = vec![shapes::version_is("a", 0); 3];
    let refused = clients
        .kv
        .clone()
        .txn(shapes::txn(compares, vec![], vec![]))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_configuration_file_stands_for_all_flags() {
    let server = ServerOptions::new("flags-file")
        .config_file(
            "name: from-file\n\
             data-dir: {data}\n\
             listen-client-urls: {client}\n\
             advertise-client-urls: {client}\n\
             listen-peer-urls: {peer}\n\
             initial-advertise-peer-urls: {peer}\n\
             initial-cluster: from-file={peer}\n\
             initial-cluster-state: new\n\
             quota-backend-bytes: 0\n\
             max-txn-ops: 2\n\
             auto-compaction-mode: revision\n\
             auto-compaction-retention: \"1000\"\n",
        )
        .start()
        .await;
    let clients = server.clients().await;
    let request = pb::MemberListRequest {
        linearizable: false,
    };
    let members = clients
        .cluster
        .clone()
        .member_list(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(members.members[0].name, "from-file");
    let compares = vec![shapes::version_is("a", 0); 3];
    let refused = clients
        .kv
        .clone()
        .txn(shapes::txn(compares, vec![], vec![]))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn unknown_flags_stop_the_start() {
    let log = refusal(ServerOptions::new("flags-unknown").flag("--no-such-flag=1")).await;
    assert!(log.contains("no-such-flag"), "{log}");
}

#[tokio::test]
async fn flags_of_etcd_that_are_not_supported_stop_the_start_with_a_sentence() {
    ours_only!("real etcd supports them");
    for flag in ["discovery-srv=example.com", "auth-token=jwt"] {
        let options = ServerOptions::new("flags-unsupported").flag(format!("--{flag}"));
        let log = refusal(options).await;
        let name = flag.split('=').next().expect("split gives one part");
        assert!(log.contains(&format!("--{name}")), "{log}");
        assert!(log.contains("not supported"), "{log}");
    }
}

#[tokio::test]
async fn bad_values_stop_the_start() {
    for (flag, named) in [
        ("--max-txn-ops=many", "max-txn-ops"),
        ("--quota-backend-bytes=1.5", "quota-backend-bytes"),
        ("--listen-client-urls=not-a-url", "not-a-url"),
        ("--initial-cluster-state=old", "initial-cluster-state"),
        ("--auto-compaction-mode=never", "never"),
    ] {
        let log = refusal(ServerOptions::new("flags-bad-value").flag(flag)).await;
        assert!(log.contains(named), "{flag}: {log}");
    }
}

#[test]
fn version_has_etcds_line() {
    let output = Command::new(ServerKind::under_test().program())
        .arg("--version")
        .output()
        .expect("the program runs");
    assert!(output.status.success());
    let out = String::from_utf8(output.stdout).expect("text");
    let line = out
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    let version = line.expect("a line that begins with etcd Version:");
    assert!(version.starts_with("3."), "{version}");
}

#[tokio::test]
async fn periodic_compaction_keeps_the_retention() {
    let server = ServerOptions::new("flags-auto-compaction")
        .flag("--auto-compaction-mode=periodic")
        .flag("--auto-compaction-retention=2s")
        .start()
        .await;
    let clients = server.clients().await;
    let first = clients.put_key("a", "first").await;
    eventually("the first revision is compacted", || async {
        clients.put_key("a", "next").await;
        let old = clients.kv.clone().range(shapes::get_at("a", first)).await;
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        let status = old.err()?;
        assert_eq!(failure(&status), (Code::OutOfRange, compacted.to_owned()));
        Some(())
    })
    .await;
    assert_eq!(clients.range(shapes::get("a")).await.count, 1);
}

#[tokio::test]
async fn g_d_8_a_data_directory_has_one_owner() {
    ours_only!("real etcd waits for the other one to end");
    let first = Server::start("flags-owner").await;
    let second = ServerOptions::new("flags-second").data_dir(&first.data_dir());
    let log = refusal(second).await;
    let directory = first.data_dir().display().to_string();
    assert!(log.contains(&directory), "{log}");
    assert!(log.contains("use"), "{log}");
    first
        .clients()
        .await
        .put_key("a", "the first one is unharmed")
        .await;
}

#[tokio::test]
async fn a_member_that_is_said_to_exist_must_be_there() {
    ours_only!("real etcd asks its peers first");
    let existing = |name: &str| ServerOptions::new(name).flag("--initial-cluster-state=existing");
    let mut nowhere = existing("flags-existing").launch();
    let status = nowhere.wait_exit(DEADLINE).await.expect("it refuses");
    assert!(!status.success(), "it ended with {status}");
    let log = nowhere.log();
    let directory = nowhere.data_dir();
    assert!(log.contains("--initial-cluster-state"), "{log}");
    assert!(log.contains(&directory.display().to_string()), "{log}");
    assert!(!directory.exists(), "a refused start leaves nothing behind");

    let mut founder = Server::start("flags-founder").await;
    let revision = founder.clients().await.put_key("a", "1").await;
    founder.stop().await;
    let peer = founder.peer_url();
    let found = existing("flags-found")
        .data_dir(&founder.data_dir())
        .flag(format!("--initial-advertise-peer-urls={peer}"))
        .flag(format!("--initial-cluster=m1={peer}"))
        .start()
        .await;
    assert_eq!(found.clients().await.revision().await, revision);
}

/// A directory on tmpfs, removed at the end.
struct MemoryFolder(PathBuf);

impl MemoryFolder {
    fn new() -> Option<MemoryFolder> {
        let folder = PathBuf::from(format!("/dev/shm/keelson-{}", std::process::id()));
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let is_tmpfs = mounts.lines().any(|line| line.contains(" /dev/shm tmpfs "));
        (is_tmpfs && std::fs::create_dir_all(&folder).is_ok()).then(|| MemoryFolder(folder))
    }
}

impl Drop for MemoryFolder {
    fn drop(&mut self) {
        // What cannot be removed stays in memory until the next boot.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_data_directory_in_memory_needs_unsafe_no_fsync() {
    ours_only!("real etcd does not look");
    let Some(folder) = MemoryFolder::new() else {
        println!("no tmpfs on /dev/shm: nothing checked");
        return;
    };
    let data = folder.0.join("data");
    let options = ServerOptions::new("flags-tmpfs").data_dir(&data);
    let log = refusal(options.clone()).await;
    assert!(log.contains("--unsafe-no-fsync"), "{log}");
    let mut server = options.flag("--unsafe-no-fsync").start().await;
    let revision = server.clients().await.put_key("a", "1").await;
    assert!(
        server.log().contains("unsafe-no-fsync"),
        "it says so in its log"
    );
    server.stop().await;
    server.restart().await;
    assert_eq!(server.clients().await.revision().await, revision);
}

#[tokio::test]
async fn terminate_and_interrupt_stop_it_in_order() {
    for (name, signal) in [("term", libc::SIGTERM), ("int", libc::SIGINT)] {
        let mut server = Server::start(&format!("flags-signal-{name}")).await;
        let clients = server.clients().await;
        let revision = clients.put_key("a", "1").await;
        let mut session = clients.watch_session();
        session.created(shapes::watch("a")).await;
        server.signal(signal);
        let status = server.wait_exit(DEADLINE).await.expect("it ends");
        match server.kind() {
            ServerKind::Keelson => assert_eq!(status.code(), Some(0), "SIG{name}"),
            // etcd ends itself with the signal it got.
            ServerKind::Etcd => assert_eq!(status.signal(), Some(signal)),
        }
        server.restart().await;
        assert_eq!(server.clients().await.revision().await, revision);
    }
}
