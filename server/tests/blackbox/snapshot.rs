//! Backups: `etcdctl snapshot save`, and `keelson snapshot save|status|restore`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use keelson_proto::etcdserverpb as pb;
use serde_json::Value;
use tonic::{Code, Status, Streaming};

use crate::harness::{
    Clients, Etcdctl, Server, ServerKind, ServerOptions, accepted, eventually, ours_only, shapes,
};

/// Runs the program under test with these arguments and waits for its end.
pub(super) fn run(arguments: &[&str]) -> Output {
    Command::new(ServerKind::under_test().program())
        .args(arguments)
        .output()
        .expect("the program runs")
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// What a run that must succeed printed.
#[track_caller]
pub(super) fn ok(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What a run that must fail said.
#[track_caller]
pub(super) fn fails(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

pub(super) fn save(server: &Server, name: &str) -> PathBuf {
    let file = server.folder().join(name);
    let address = server.address();
    let said = ok(&["snapshot", "save", text(&file), "--endpoints", &address]);
    assert!(said.contains("Snapshot saved at"), "{said}");
    file
}

pub(super) fn restore(backup: &Path, data_dir: &Path, more: &[&str]) -> String {
    let (backup, data_dir) = (text(backup), text(data_dir));
    let arguments = ["snapshot", "restore", backup, "--data-dir", data_dir];
    ok(&[&arguments[..], more].concat())
}

async fn start_in(data_dir: &Path, name: &str) -> Server {
    ServerOptions::new(name).data_dir(data_dir).start().await
}

pub(super) async fn hash(clients: &Clients) -> pb::HashKvResponse {
    let request = pb::HashKvRequest { revision: 0 };
    accepted(clients.maintenance.clone().hash_kv(request).await)
}

async fn all(clients: &Clients, revision: i64) -> Vec<keelson_proto::mvccpb::KeyValue> {
    let request = pb::RangeRequest {
        key: shapes::bytes("\0"),
        range_end: shapes::bytes("\0"),
        revision,
        ..Default::default()
    };
    clients.range(request).await.kvs
}

/// So many events of all keys from a revision on.
async fn events_from(
    clients: &Clients,
    start_revision: i64,
    count: usize,
) -> Vec<keelson_proto::mvccpb::Event> {
    let mut session = clients.watch_session();
    let watch = pb::WatchCreateRequest {
        start_revision,
        ..shapes::watch_prefix("")
    };
    let created = session.created(watch).await;
    session.events(created.watch_id, count).await
}

async fn stream(clients: &Clients) -> Result<Streaming<pb::SnapshotResponse>, Status> {
    let mut client = clients.maintenance.clone();
    let answer = client.snapshot(pb::SnapshotRequest {}).await?;
    Ok(answer.into_inner())
}

/// A whole backup; how many bytes came.
pub(super) async fn receive(clients: &Clients) -> Result<usize, Status> {
    let mut stream = stream(clients).await?;
    let mut bytes = 0;
    while let Some(message) = stream.message().await? {
        bytes += message.blob.len();
    }
    Ok(bytes)
}

const LEASE: i64 = 0x77;

/// Keys of all sorts: large and small, changed, deleted, empty, on a lease, compacted.
pub(super) async fn fill(clients: &Clients) -> i64 {
    clients.grant(LEASE, 1000).await;
    for number in 0..60 {
        let value = vec![number; usize::from(number) * 100];
        clients.put_key(format!("r/{number:02}"), value).await;
    }
    clients.put_key("large", vec![b'x'; 1_000_000]).await;
    clients.put_key("empty", "").await;
    clients.put(shapes::put_leased("held", "v", LEASE)).await;
    for number in 0..20 {
        clients.put_key(format!("r/{number:02}"), "again").await;
    }
    let compacted = clients.revision().await - 5;
    clients.compact(compacted).await;
    for number in 10..15 {
        clients
            .delete(shapes::delete(format!("r/{number:02}")))
            .await;
    }
    compacted
}

#[tokio::test]
async fn g_d_7_a_backup_gives_everything_back() {
    ours_only!("the tools are Keelson's");
    let server = Server::start("backup").await;
    let clients = server.clients().await;
    let compacted = fill(&clients).await;
    let by_etcdctl = server.folder().join("etcdctl.db");
    let ctl = Etcdctl::new(server.address());
    let said = ctl.ok(&["snapshot", "save", text(&by_etcdctl)]).await;
    assert_eq!(said, format!("Snapshot saved at {}\n", text(&by_etcdctl)));
    let backup = save(&server, "own.db");
    let bytes = std::fs::read(&backup).unwrap();
    // The integrity check of etcd's tools.
    assert_eq!(bytes.len() % 512, 32);
    // Nothing was written in between, so it is the same file.
    assert!(bytes == std::fs::read(&by_etcdctl).unwrap());

    let revision = clients.revision().await;
    let data_dir = server.folder().join("restored");
    let said = restore(&by_etcdctl, &data_dir, &["--name", "m1"]);
    assert!(
        said.contains(&format!("at revision {revision}\n")),
        "{said}"
    );
    let mut restored = start_in(&data_dir, "backup-restored").await;
    for _ in 0..2 {
        let theirs = restored.clients().await;
        assert_eq!(theirs.revision().await, revision);
        for at in [0, compacted, compacted + 2, revision - 1] {
            assert!(all(&theirs, at).await == all(&clients, at).await, "at {at}");
        }
        let (ours_hash, their_hash) = (hash(&clients).await, hash(&theirs).await);
        assert_eq!(their_hash.hash, ours_hash.hash);
        assert_eq!(their_hash.compact_revision, ours_hash.compact_revision);
        let lease = theirs.time_to_live(LEASE).await;
        assert_eq!(
            (lease.granted_ttl, &lease.keys[..]),
            (1000, &[shapes::bytes("held")][..])
        );
        assert!(lease.ttl > 900, "{lease:?}");
        let history = events_from(&theirs, compacted + 1, 10).await;
        assert!(history == events_from(&clients, compacted + 1, 10).await);
        assert!(restored.stop().await.success());
        restored.restart().await;
    }
    // Another cluster, and it goes on by itself.
    let theirs = restored.clients().await;
    let (a, b) = (clients.status().await, theirs.status().await);
    let id = |status: &pb::StatusResponse| status.header.expect("a header").cluster_id;
    assert_ne!(id(&a), id(&b));
    assert_eq!(theirs.put_key("next", "v").await, revision + 1);
    let ctl = Etcdctl::new(restored.address());
    assert!(ctl.ok(&["member", "list"]).await.contains("started, m1"));
    ctl.ok(&["defrag"]).await;
    assert!(restored.stop().await.success());
    ok(&["inspect", "verify", "--data-dir", text(&data_dir)]);
}

#[tokio::test]
async fn g_d_7_status_has_the_columns_of_etcdutl() {
    ours_only!("the tools are Keelson's");
    let server = Server::start("backup-status").await;
    let clients = server.clients().await;
    clients.put_key("a", "1").await;
    clients.put_key("a", "2").await;
    clients.put_key("b", "1").await;
    let backup = save(&server, "own.db");
    let size = std::fs::metadata(&backup).unwrap().len() - 32;
    let json = ok(&["snapshot", "status", text(&backup), "-w", "json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["revision"], 4);
    assert_eq!(json["totalKey"], 3);
    assert_eq!(json["totalSize"], size);
    assert_eq!(json["version"], "3.6.0");
    let hash = json["hash"].as_u64().expect("a number");
    let simple = ok(&["snapshot", "status", text(&backup)]);
    let columns: Vec<&str> = simple.trim_end().split(", ").collect();
    assert_eq!(columns.len(), 5, "{simple}");
    assert_eq!(columns[..3], [&format!("{hash:x}"), "4", "3"], "{simple}");
    assert!(columns[3].ends_with(" kB"), "{simple}");
    let table = ok(&["snapshot", "status", "--write-out=table", text(&backup)]);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(
        table.contains("| REVISION | TOTAL KEYS | TOTAL SIZE |"),
        "{table}"
    );
}

#[tokio::test]
async fn g_d_7_revisions_never_go_back_if_they_are_bumped() {
    ours_only!("the tools are Keelson's");
    let server = Server::start("backup-bump").await;
    let clients = server.clients().await;
    fill(&clients).await;
    let revision = clients.revision().await;
    let backup = save(&server, "own.db");
    let data_dir = server.folder().join("restored");
    let bump = ["--bump-revision", "1000000", "--mark-compacted"];
    restore(&backup, &data_dir, &bump);
    let mut restored = start_in(&data_dir, "backup-bumped").await;
    let theirs = restored.clients().await;
    let bumped = revision + 1_000_000;
    assert_eq!(theirs.revision().await, bumped);
    assert!(all(&theirs, 0).await == all(&clients, 0).await);
    assert!(all(&theirs, bumped).await == all(&clients, 0).await);
    for at in [revision, bumped - 1] {
        let refused = theirs.kv.clone().range(shapes::get_at("r/01", at)).await;
        assert_eq!(refused.unwrap_err().code(), Code::OutOfRange, "at {at}");
    }
    let mut session = theirs.watch_session();
    let old = pb::WatchCreateRequest {
        start_revision: revision + 1,
        ..shapes::watch_prefix("r/")
    };
    session.created(old).await;
    let canceled = session.next().await;
    assert!(canceled.canceled, "{canceled:?}");
    assert_eq!(canceled.compact_revision, bumped, "{canceled:?}");
    // What compaction leaves out goes with the next checkpoints, and changes no answer.
    let before = hash(&theirs).await;
    let ctl = Etcdctl::new(restored.address());
    ctl.ok(&["defrag"]).await;
    assert_eq!(hash(&theirs).await.hash, before.hash);
    assert!(all(&theirs, 0).await == all(&clients, 0).await);
    assert_eq!(theirs.put_key("next", "v").await, bumped + 1);
    assert!(restored.stop().await.success());
    restored.restart().await;
    assert_eq!(restored.clients().await.revision().await, bumped + 1);
}

/// As with etcd: what raised an alarm is in the backup too.
#[tokio::test]
async fn g_d_7_alarms_come_back_and_can_be_disarmed() {
    ours_only!("the tools are Keelson's");
    let server = Server::start("backup-alarm").await;
    let clients = server.clients().await;
    clients.put_key("a", "1").await;
    let raise = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate.into(),
        member_id: 7,
        alarm: pb::AlarmType::Nospace.into(),
    };
    accepted(clients.maintenance.clone().alarm(raise).await);
    let backup = save(&server, "own.db");
    let data_dir = server.folder().join("restored");
    restore(&backup, &data_dir, &[]);
    let restored = start_in(&data_dir, "backup-alarmed").await;
    let theirs = restored.clients().await;
    let refused = theirs.kv.clone().put(shapes::put("a", "2")).await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    let ctl = Etcdctl::new(restored.address());
    let said = ctl.ok(&["alarm", "disarm"]).await;
    assert!(said.contains("memberID:7 alarm:NOSPACE"), "{said}");
    assert_eq!(theirs.put_key("a", "2").await, 3);
}

/// Every write that was acknowledged before the backup was asked for is in it, and none by half.
#[tokio::test]
async fn g_d_7_a_backup_under_writes_is_one_moment() {
    ours_only!("the tools are Keelson's");
    let server = Server::start("backup-writes").await;
    let clients = server.clients().await;
    let writing = {
        let clients = clients.clone();
        tokio::spawn(async move {
            for round in 0.. {
                let value = format!("{round}");
                let put = |key| pb::request_op::Request::RequestPut(shapes::put(key, &value));
                let both = vec![put("a"), put("b")];
                clients.txn(shapes::txn(Vec::new(), both, Vec::new())).await;
            }
        })
    };
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let acknowledged = clients.revision().await;
        let file = server.folder().join(format!("{round}.db"));
        let ctl = Etcdctl::new(server.address());
        ctl.ok(&["snapshot", "save", text(&file)]).await;
        let data_dir = server.folder().join(format!("restored-{round}"));
        restore(&file, &data_dir, &[]);
        let restored = start_in(&data_dir, "backup-moment").await;
        let theirs = restored.clients().await;
        assert!(theirs.revision().await >= acknowledged);
        let kvs = all(&theirs, 0).await;
        assert_eq!(kvs.len(), 2);
        assert_eq!(kvs[0].value, kvs[1].value);
        assert_eq!(kvs[0].mod_revision, kvs[1].mod_revision);
    }
    writing.abort();
}

/// Files made of a good backup, each with the reason for which it is refused.
fn unsound(good: &[u8]) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let end = good.len() - 32;
    let flip = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x20;
        bytes
    };
    let cut = |bytes: usize| good[..bytes].to_vec();
    let longer = [good, b"more"].concat();
    let no_hash = "snapshot missing hash but --skip-hash-check=false";
    let values = "block of values does not match its checksum. It holds values of the keys from \"";
    let table = "the page table does not match its checksum";
    let head = "byte 0: the first block is not a superblock";
    vec![
        ("cut", cut(good.len() / 2), "was cut short: it has"),
        ("without-hash", cut(end), no_hash),
        ("half-hash", cut(end + 7), "7 bytes behind its end"),
        ("longer", longer, "36 bytes behind its end"),
        ("head", flip(30), head),
        ("values", flip(9000), values),
        ("table", flip(end - 4096), table),
        ("hash", flip(end + 5), "expected sha256"),
        ("text", b"{}".to_vec(), "is not a backup of Keelson"),
        ("empty", Vec::new(), "is empty"),
        ("unfinished", vec![0; 8192], "never finished"),
    ]
}

fn refused_restore(backup: &Path, data_dir: &Path, more: &[&str]) -> String {
    let (backup, data_dir) = (text(backup), text(data_dir));
    let arguments = ["snapshot", "restore", backup, "--data-dir", data_dir];
    fails(&[&arguments[..], more].concat())
}

#[tokio::test]
async fn g_d_7_files_that_are_no_sound_backup_are_refused_with_the_reason() {
    ours_only!("the tools are Keelson's");
    let server = Server::start("backup-damage").await;
    fill(&server.clients().await).await;
    let good = std::fs::read(save(&server, "own.db")).unwrap();
    let target = server.folder().join("target");
    let file = |name: &str| server.folder().join(name);
    for (name, bytes, reason) in unsound(&good) {
        std::fs::write(file(name), bytes).unwrap();
        let said = refused_restore(&file(name), &target, &[]);
        let is_said = said.contains(reason) && said.contains(name);
        assert!(is_said, "{name}: {said}");
        for left in ["target", "target.restoring"] {
            assert!(!file(left).exists(), "{name}: {left}");
        }
        // The status of a file is not told without looking at all of it; a missing hash is no damage.
        let status = run(&["snapshot", "status", text(&file(name))]);
        let is_told = status.status.success();
        assert_eq!(is_told, name == "without-hash", "{name}: {status:?}");
    }
    let said = refused_restore(&file("gone"), &target, &[]);
    assert!(said.contains("No such file"), "{said}");
    // What may be skipped, and what may not.
    for name in ["without-hash", "hash"] {
        let target = file(&format!("skip-{name}"));
        restore(&file(name), &target, &["--skip-hash-check"]);
        ok(&["inspect", "verify", "--data-dir", text(&target)]);
    }
    let said = refused_restore(&file("values"), &target, &["--skip-hash-check"]);
    assert!(said.contains("block of values does not match"), "{said}");
    assert!(!target.exists());
}

#[tokio::test]
async fn g_d_7_a_backup_is_restored_into_a_new_or_empty_directory_only() {
    ours_only!("the tools are Keelson's");
    let server = Server::start("backup-target").await;
    let clients = server.clients().await;
    fill(&clients).await;
    let backup = save(&server, "own.db");
    let target = server.folder().join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("notes"), b"mine").unwrap();
    for taken in [&target, &server.data_dir()] {
        let said = refused_restore(&backup, taken, &[]);
        assert!(said.contains("not empty or could not be read"), "{said}");
    }
    assert_eq!(std::fs::read(target.join("notes")).unwrap(), b"mine");
    std::fs::remove_file(target.join("notes")).unwrap();
    // Nor is what lies where the directory is to be made.
    let left = target.with_file_name("other.restoring");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("notes"), b"mine").unwrap();
    let said = refused_restore(&backup, &target.with_file_name("other"), &[]);
    assert!(
        said.contains("other.restoring") && said.contains("notes"),
        "{said}"
    );
    assert_eq!(std::fs::read(left.join("notes")).unwrap(), b"mine");

    restore(&backup, &target, &[]);
    let names = std::fs::read_dir(&target).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["FORMAT", "LOCK", "member"]);
    let restored = start_in(&target, "backup-empty-dir").await;
    let theirs = restored.clients().await;
    assert!(all(&theirs, 0).await == all(&clients, 0).await);
}

#[tokio::test]
async fn g_d_7_a_backup_of_etcd_is_recognised() {
    ours_only!("the tools are Keelson's");
    let etcd = ServerOptions::new("backup-of-etcd").kind(ServerKind::Etcd);
    let etcd = etcd.start().await;
    etcd.clients().await.put_key("a", "1").await;
    // The client of the call takes it, and the tools for Keelson's files do not.
    let backup = save(&etcd, "etcd.db");
    let target = etcd.folder().join("target");
    for arguments in [
        &[
            "snapshot",
            "restore",
            text(&backup),
            "--data-dir",
            text(&target),
        ][..],
        &["snapshot", "status", text(&backup)],
    ] {
        let said = fails(arguments);
        assert!(said.contains("is a database of etcd"), "{said}");
        assert!(said.contains("keelson snapshot import"), "{said}");
    }
    assert!(!target.exists());
}

/// Paths of files that the server has open although they were removed.
fn removed_and_open(server: &Server) -> Vec<String> {
    let folder = format!("/proc/{}/fd", server.pid());
    let links = std::fs::read_dir(folder).unwrap();
    links
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|path| path.display().to_string())
        .filter(|path| path.contains(".snap") && path.ends_with("(deleted)"))
        .collect()
}

#[tokio::test]
async fn g_d_7_clients_that_go_away_leave_nothing_held() {
    ours_only!("limits and files are Keelson's");
    const BACKUPS_PER_CORE_MAX: usize = 8;
    let server = ServerOptions::new("backup-gone")
        .flag("--cores=1")
        .start()
        .await;
    let clients = server.clients().await;
    for number in 0..40_u32 {
        let value: Vec<u8> = (0..1_000_000_u32)
            .map(|at| ((at * number) >> 3) as u8)
            .collect();
        clients.put_key(format!("{number}"), value).await;
    }
    // Connections of their own, of which nobody takes more than the first message.
    let mut streams = Vec::new();
    for _ in 0..BACKUPS_PER_CORE_MAX {
        let clients = server.clients().await;
        let mut stream = stream(&clients).await.unwrap();
        let first = stream.message().await.unwrap().expect("a message");
        assert!(first.remaining_bytes > 40_000_000 - 1_000_000);
        assert_eq!(first.version, "3.6.0");
        streams.push(stream);
    }
    let refused = receive(&clients).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    // They hold a file that is not current any more and lends no values, and writes go on.
    let ctl = Etcdctl::new(server.address());
    ctl.ok(&["del", "", "--prefix"]).await;
    let revision = clients.put_key("more", "1").await;
    ctl.ok(&["compact", &revision.to_string()]).await;
    ctl.ok(&["defrag"]).await;
    eventually("the old file is removed", || async {
        (removed_and_open(&server).len() >= BACKUPS_PER_CORE_MAX).then_some(())
    })
    .await;
    drop(streams);
    eventually("nobody holds the old file", || async {
        removed_and_open(&server).is_empty().then_some(())
    })
    .await;
    // All places are free again, and two at once get the same.
    let paths = ["x.db", "y.db"].map(|name| server.folder().join(name));
    let saves = paths
        .each_ref()
        .map(|path| ["snapshot", "save", text(path)]);
    let (x, y) = tokio::join!(ctl.ok(&saves[0]), ctl.ok(&saves[1]));
    assert!(x.contains("saved") && y.contains("saved"));
    assert!(std::fs::read(&paths[0]).unwrap() == std::fs::read(&paths[1]).unwrap());
}

#[tokio::test]
async fn saving_says_why_it_cannot() {
    ours_only!("the tools are Keelson's");
    let mut server = Server::start("backup-cannot").await;
    let file = server.folder().join("a.db");
    let address = server.address();
    let nowhere = server.folder().join("no/such/folder/a.db");
    let said = fails(&["snapshot", "save", text(&nowhere), "--endpoints", &address]);
    assert!(said.contains("cannot write"), "{said}");
    assert!(server.stop().await.success());
    let said = fails(&["snapshot", "save", text(&file), "--endpoints", &address]);
    assert!(
        said.contains(&format!("no connection to http://{address}")),
        "{said}"
    );
    assert!(!file.exists() && !file.with_file_name("a.db.part").exists());
}
