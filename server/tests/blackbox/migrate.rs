//! From etcd to Keelson and back: `keelson snapshot import` and `keelson snapshot export`, with real etcd on both sides.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keelson_proto::etcdserverpb as pb;
use keelson_proto::mvccpb::{Event, KeyValue};

use crate::harness::{
    Clients, Etcdctl, Server, ServerKind, ServerOptions, accepted, etcd_binaries, ours_only, shapes,
};

const LEASE: i64 = 0x77;
const IDLE_LEASE: i64 = 0x78;

fn run(program: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.expect("the program runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// What a run of `keelson snapshot` that must succeed printed.
#[track_caller]
fn ok(arguments: &[&str]) -> String {
    let arguments = [&["snapshot"], arguments].concat();
    let output = run(&ServerKind::Keelson.program(), &arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What a run that must fail said.
#[track_caller]
fn fails(arguments: &[&str]) -> String {
    let arguments = [&["snapshot"], arguments].concat();
    let output = run(&ServerKind::Keelson.program(), &arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn import(source: &Path, data_dir: &Path, more: &[&str]) -> String {
    let arguments = ["import", text(source), "--data-dir", text(data_dir)];
    ok(&[&arguments[..], more].concat())
}

async fn save(server: &Server, name: &str) -> PathBuf {
    let file = server.folder().join(name);
    let ctl = Etcdctl::new(server.address());
    ctl.ok(&["snapshot", "save", text(&file)]).await;
    file
}

async fn start(kind: ServerKind, data_dir: &Path, name: &str) -> Server {
    let options = ServerOptions::new(name).kind(kind).data_dir(data_dir);
    options.start().await
}

/// etcd on a snapshot that stock etcdutl restored.
async fn restored(snapshot: &Path, data_dir: &Path, name: &str) -> Server {
    let place = [
        "snapshot",
        "restore",
        text(snapshot),
        "--data-dir",
        text(data_dir),
    ];
    let who = ["--name=m1", "--initial-cluster=m1=http://localhost:2380"];
    let output = run(&etcd_binaries().etcdutl, &[&place[..], &who].concat());
    assert!(output.status.success(), "{output:?}");
    start(ServerKind::Etcd, data_dir, name).await
}

/// What a client can see of the data.
#[derive(Debug, PartialEq)]
struct Seen {
    /// All keys at each revision, HashKV of each but the compact revision, and its own compact revision.
    keys: Vec<(i64, Vec<KeyValue>)>,
    hashes: Vec<(u32, i64)>,
    /// Every change since the compaction, with what was there before.
    events: Vec<Event>,
    /// Id, granted TTL and keys.
    leases: Vec<(i64, i64, Vec<bytes::Bytes>)>,
}

impl Seen {
    /// Says what differs, and not by printing all of it.
    #[track_caller]
    fn check_equal(&self, wanted: &Self) {
        assert_eq!(self.hashes, wanted.hashes);
        assert_eq!(self.leases, wanted.leases);
        for (found, wanted) in self.keys.iter().zip(&wanted.keys) {
            assert!(found == wanted, "keys at {}", found.0);
        }
        assert!(self.events == wanted.events, "events");
        assert!(self == wanted, "all of it");
    }
}

async fn see(clients: &Clients, compacted: i64, newest: i64) -> Seen {
    assert_eq!(clients.revision().await, newest);
    let (mut keys, mut hashes) = (Vec::new(), Vec::new());
    for revision in compacted..=newest {
        let all = pb::RangeRequest {
            key: shapes::bytes("\0"),
            range_end: shapes::bytes("\0"),
            revision,
            ..Default::default()
        };
        keys.push((revision, clients.range(all).await.kvs));
        if revision > compacted {
            let request = pb::HashKvRequest { revision };
            let hash = accepted(clients.maintenance.clone().hash_kv(request).await);
            hashes.push((hash.hash, hash.compact_revision));
        }
    }
    let below = shapes::get_at("a", compacted - 1);
    assert!(clients.kv.clone().range(below).await.is_err(), "compacted");
    let mut leases = Vec::new();
    for id in [LEASE, IDLE_LEASE] {
        let mut lease = clients.time_to_live(id).await;
        lease.keys.sort();
        assert!(lease.ttl > lease.granted_ttl - 100, "{lease:?}");
        leases.push((id, lease.granted_ttl, lease.keys));
    }
    Seen {
        keys,
        hashes,
        events: events(clients, compacted + 1, newest).await,
        leases,
    }
}

/// Every event of the revisions.
async fn events(clients: &Clients, first: i64, last: i64) -> Vec<Event> {
    let mut session = clients.watch_session();
    let watch = pb::WatchCreateRequest {
        start_revision: first,
        prev_kv: true,
        ..shapes::watch_prefix("")
    };
    let created = session.created(watch).await;
    let mut events: Vec<Event> = Vec::new();
    let revision = |event: &Event| event.kv.as_ref().expect("a key").mod_revision;
    while events.last().is_none_or(|event| revision(event) < last) {
        let answer = session.next().await;
        assert_eq!(answer.watch_id, created.watch_id);
        events.extend(answer.events);
    }
    events
}

/// A txn: one revision, several changes.
async fn txn(clients: &Clients, puts: &[(&str, &str)], gone: &str) {
    use pb::request_op::Request;
    let puts = puts.iter();
    let mut operations: Vec<_> = puts
        .map(|(key, value)| Request::RequestPut(shapes::put(key, value)))
        .collect();
    operations.push(Request::RequestDeleteRange(shapes::delete_prefix(gone)));
    clients
        .txn(shapes::txn(Vec::new(), operations, Vec::new()))
        .await;
}

/// Keys of all sorts; returns the compact revision and the newest one.
async fn fill(server: &Server) -> (i64, i64) {
    let clients = server.clients().await;
    let ctl = Etcdctl::new(server.address());
    clients.grant(LEASE, 36_000).await;
    clients.grant(IDLE_LEASE, 5_000).await;
    for number in 0..40_u8 {
        let value = vec![number; usize::from(number) * 50];
        clients.put_key(format!("r/{number:02}"), value).await;
    }
    clients.put_key("gone", "before the compaction").await;
    clients.delete(shapes::delete("gone")).await;
    clients.put(shapes::put_leased("held", "v", LEASE)).await;
    clients
        .put(shapes::put_leased("held/too", "v", LEASE))
        .await;
    clients.delete(shapes::delete("r/07")).await;
    txn(&clients, &[("x/1", "1"), ("x/2", ""), ("x/3", "3")], "r/1").await;
    clients.put_key("at-the-compaction", "1").await;
    let compacted = clients.put_key("at-the-compaction", "2").await;
    ctl.ok(&["compaction", "--physical", &compacted.to_string()])
        .await;
    clients.put_key("large", vec![b'x'; 1_000_000]).await;
    clients.put_key("empty", "").await;
    clients.put_key("r/07", "again").await;
    clients.put_key("at-the-compaction", "3").await;
    txn(&clients, &[("x/1", "11"), ("new", "n")], "r/2").await;
    clients.delete(shapes::delete("x/3")).await;
    clients.put_key("x/3", "another life").await;
    clients
        .put(shapes::put_leased("x/2", "held now", LEASE))
        .await;
    ctl.ok(&["role", "add", "reader"]).await;
    ctl.ok(&["user", "add", "guest:secret"]).await;
    ctl.ok(&["user", "grant-role", "guest", "reader"]).await;
    (compacted, clients.revision().await)
}

#[tokio::test]
async fn g_d_7_etcd_to_keelson_to_etcd() {
    ours_only!("both are needed");
    let etcd = ServerOptions::new("migrate").kind(ServerKind::Etcd);
    let mut etcd = etcd.start().await;
    let (compacted, newest) = fill(&etcd).await;
    let wanted = see(&etcd.clients().await, compacted, newest).await;
    let saved = save(&etcd, "saved.db").await;
    // etcd ends by the signal itself.
    etcd.stop().await;
    let folder = etcd.folder().to_path_buf();

    // The snapshot and the data directory hold the same.
    let said = import(&saved, &folder.join("ours"), &["--name=m1"]);
    assert!(said.contains(&format!("at revision {newest}")), "{said}");
    assert!(said.contains(", 2 leases, 1 users, 1 roles\n"), "{said}");
    import(&etcd.data_dir(), &folder.join("ours-too"), &[]);
    let ours_too = start(ServerKind::Keelson, &folder.join("ours-too"), "migrate-dir").await;
    see(&ours_too.clients().await, compacted, newest)
        .await
        .check_equal(&wanted);

    let mut ours = start(ServerKind::Keelson, &folder.join("ours"), "migrate-ours").await;
    see(&ours.clients().await, compacted, newest)
        .await
        .check_equal(&wanted);
    // A checkpoint makes another file of it, and the next start reads that.
    ours.clients().await.put_key("after", "the import").await;
    Etcdctl::new(ours.address()).ok(&["defrag"]).await;
    assert!(ours.stop().await.success());
    ours.restart().await;
    let newest = newest + 1;
    let wanted = see(&ours.clients().await, compacted, newest).await;
    let backup = save(&ours, "backup.snap").await;
    // What follows is in the log only.
    let clients = ours.clients().await;
    clients.put_key("r/07", "in the log").await;
    clients.delete(shapes::delete("large")).await;
    let wanted_later = see(&clients, compacted, newest + 2).await;
    assert!(ours.stop().await.success());

    let of_backup = folder.join("of-backup.db");
    ok(&["export", text(&of_backup), "--from", text(&backup)]);
    let of_dir = folder.join("of-dir.db");
    let said = ok(&[
        "export",
        text(&of_dir),
        "--data-dir",
        text(&ours.data_dir()),
    ]);
    assert!(said.contains("1 users, 1 roles"), "{said}");
    for (snapshot, wanted, newest) in [
        (&of_backup, wanted, newest),
        (&of_dir, wanted_later, newest + 2),
    ] {
        let name = snapshot.file_name().expect("a name");
        let data_dir = folder.join(format!("restored-{}", text(Path::new(name))));
        let etcd = restored(snapshot, &data_dir, "migrate-back").await;
        let clients = etcd.clients().await;
        see(&clients, compacted, newest).await.check_equal(&wanted);
        assert_eq!(clients.put_key("on", "it goes").await, newest + 1);
        let ctl = Etcdctl::new(etcd.address());
        let user = ctl.ok(&["user", "get", "guest"]).await;
        assert!(user.contains("Roles: reader"), "{user}");
    }
    // Nobody changed what was exported.
    ours.restart().await;
    assert_eq!(ours.clients().await.revision().await, newest + 2);
}

/// Nothing of a target, nor of what would have become it.
#[track_caller]
fn check_absent(target: &Path) {
    for suffix in ["", ".part", ".restoring"] {
        let mut name = target.as_os_str().to_owned();
        name.push(suffix);
        assert!(!Path::new(&name).exists(), "{}", target.display());
    }
}

#[tokio::test]
async fn g_d_7_what_cannot_be_imported_is_refused_with_the_reason() {
    ours_only!("the tools are Keelson's");
    let etcd = ServerOptions::new("migrate-not").kind(ServerKind::Etcd);
    let etcd = etcd.start().await;
    let clients = etcd.clients().await;
    clients.put_key("a", vec![7; 100_000]).await;
    let folder = etcd.folder().to_path_buf();
    let saved = save(&etcd, "saved.db").await;
    let good = std::fs::read(&saved).unwrap();
    let end = good.len() - 32;
    let mut changed = good.clone();
    changed[end / 2] ^= 1;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let target = folder.join("target");
    std::fs::create_dir(folder.join("nothing")).unwrap();
    let data_dir = etcd.data_dir();
    for (source, reason) in [
        (&write("bare.db", &good[..end]), "snapshot missing hash"),
        (&write("changed.db", &changed), "expected sha256"),
        (&write("cut.db", &good[..end / 2]), "is cut off"),
        (
            &write("text", &[b'x'; 9000]),
            "not an etcd database or snapshot",
        ),
        (&write("empty", b""), "not an etcd database or snapshot"),
        (&folder.join("nothing"), "not etcd's data directory"),
        (&folder.join("gone"), "No such file"),
        (&data_dir, "stop it first, or take a snapshot"),
    ] {
        let said = fails(&["import", text(source), "--data-dir", text(&target)]);
        assert!(said.contains(reason), "{}: {said}", source.display());
        assert!(said.contains(text(source)), "{}: {said}", source.display());
        check_absent(&target);
    }
    let bare = folder.join("bare.db");
    import(&bare, &target, &["--skip-hash-check"]);
    let said = fails(&["import", text(&saved), "--data-dir", text(&target)]);
    assert!(said.contains("not empty"), "{said}");
    // What is ours already.
    let said = fails(&["import", text(&target), "--data-dir", "/nowhere/at/all"]);
    assert!(said.contains("start a member on it"), "{said}");
    let ours = start(ServerKind::Keelson, &target, "migrate-not-ours").await;
    let backup = save(&ours, "backup.snap").await;
    let said = fails(&["import", text(&backup), "--data-dir", "/nowhere/at/all"]);
    assert!(said.contains("keelson snapshot restore"), "{said}");
}

#[tokio::test]
async fn g_d_7_users_that_etcd_checks_are_not_dropped_unasked() {
    ours_only!("the tools are Keelson's");
    let etcd = ServerOptions::new("migrate-auth").kind(ServerKind::Etcd);
    let mut etcd = etcd.start().await;
    let ctl = Etcdctl::new(etcd.address());
    ctl.ok(&["user", "add", "root:secret"]).await;
    ctl.ok(&["user", "grant-role", "root", "root"]).await;
    ctl.ok(&["auth", "enable"]).await;
    // etcd ends by the signal itself.
    etcd.stop().await;
    let data_dir = etcd.data_dir();
    let with_auth = etcd.folder().join("with-auth");
    let said = fails(&["import", text(&data_dir), "--data-dir", text(&with_auth)]);
    assert!(said.contains("--without-auth"), "{said}");
    check_absent(&with_auth);
    let said = import(&data_dir, &with_auth, &["--without-auth"]);
    assert!(
        said.contains("Authentication was enabled, and is off"),
        "{said}"
    );
}

#[tokio::test]
async fn g_d_7_what_cannot_be_exported_is_refused_with_the_reason() {
    ours_only!("the tools are Keelson's");
    let etcd = ServerOptions::new("migrate-export").kind(ServerKind::Etcd);
    let etcd = etcd.start().await;
    let folder = etcd.folder().to_path_buf();
    let (data_dir, target) = (etcd.data_dir(), folder.join("target"));
    let saved = save(&etcd, "saved.db").await;
    std::fs::write(folder.join("text"), [b'x'; 9000]).unwrap();
    import(&saved, &target, &[]);
    let mut ours = start(ServerKind::Keelson, &target, "migrate-export-ours").await;
    let out = folder.join("out.db");
    for (arguments, reason) in [
        (["--data-dir", text(&target)], "in use by another process"),
        (
            ["--data-dir", text(&folder.join("gone"))],
            "no data directory",
        ),
        (["--data-dir", text(&data_dir)], "of an etcd member"),
        (["--from", text(&saved)], "is a database of etcd"),
        (
            ["--from", text(&folder.join("text"))],
            "not a backup of Keelson",
        ),
    ] {
        let said = fails(&[&["export", text(&out)], &arguments[..]].concat());
        assert!(said.contains(reason), "{arguments:?}: {said}");
        check_absent(&out);
    }
    assert!(ours.stop().await.success());
    let said = fails(&["export", text(&folder), "--data-dir", text(&target)]);
    assert!(said.contains("is a directory"), "{said}");
    ok(&["export", text(&out), "--data-dir", text(&target)]);
}
