//! `keelson inspect` on stopped members, sound and damaged.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use keelson_proto::etcdserverpb as pb;
use serde_json::Value;
use tonic::Code;

use crate::harness::{Clients, Etcdctl, Server, ServerOptions, accepted, free_port, ours_only};
use crate::snapshot::{fails, fill, hash, ok, receive, run, save, text};

/// Changes a byte of a file in place.
fn damage(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

fn newest_snapshot(data_dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(data_dir.join("member/snap-0000")).unwrap();
    let newest = files.map(|entry| entry.unwrap().path()).max();
    newest.expect("there is a snapshot")
}

#[tokio::test]
async fn g_d_7_a_damaged_snapshot_is_never_passed_off_as_a_backup() {
    ours_only!("the files are Keelson's");
    let mut server = Server::start("backup-rot").await;
    let clients = server.clients().await;
    fill(&clients).await;
    save(&server, "good.db");
    let snapshot = newest_snapshot(&server.data_dir());
    // Two blocks of values.
    damage(&snapshot, 4096 + 10);
    damage(&snapshot, 900_000);
    let ended = receive(&clients).await.unwrap_err();
    assert_eq!(ended.code(), Code::DataLoss, "{ended:?}");
    assert!(ended.message().contains("byte 4096"), "{ended:?}");
    let file = server.folder().join("bad.db");
    let address = server.address();
    let said = fails(&["snapshot", "save", text(&file), "--endpoints", &address]);
    assert!(
        said.contains("is damaged") && said.contains("DataLoss"),
        "{said}"
    );
    assert!(!file.exists() && !file.with_file_name("bad.db.part").exists());
    let ctl = Etcdctl::new(server.address());
    ctl.fails(&["snapshot", "save", text(&file)]).await;
    assert!(!file.exists());

    let data_dir = server.data_dir();
    let verify = ["inspect", "verify", "--data-dir", text(&data_dir)];
    let said = fails(&verify);
    assert!(said.contains("in use by another process"), "{said}");
    assert!(
        said.contains(&format!("(process {})", server.pid())),
        "{said}"
    );
    assert!(server.stop().await.success());
    let output = run(&[&verify[..], &["-w", "json"]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = json_lines(&output.stdout);
    let damages: Vec<&Value> = lines
        .iter()
        .filter(|line| line["what"] == "damage")
        .collect();
    assert_eq!(damages.len(), 2, "{lines:#?}");
    for (damage, place) in damages.iter().zip(["byte 4096:", "byte "]) {
        let says = damage["says"].as_str().expect("text");
        assert!(says.contains(place), "{says}");
        assert!(says.contains("values of the keys from"), "{says}");
    }
    assert_eq!(lines.last().expect("an end")["damages"], 2);
}

fn json_lines(output: &[u8]) -> Vec<Value> {
    let text = String::from_utf8(output.to_vec()).expect("text");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// What a tool printed of a data directory.
fn inspect(data_dir: &Path, arguments: &[&str]) -> String {
    let place = ["--data-dir", text(data_dir)];
    ok(&[&["inspect"], arguments, &place[..]].concat())
}

fn listing(data_dir: &Path) -> Vec<PathBuf> {
    let folders = ["member/wal-0000", "member/snap-0000"].map(|folder| data_dir.join(folder));
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A server with a part of its data in the snapshot and a part in the log only.
async fn start(name: &str) -> Server {
    let server = Server::start(name).await;
    let clients = server.clients().await;
    fill(&clients).await;
    Etcdctl::new(server.address()).ok(&["defrag"]).await;
    clients.put_key("behind", "the snapshot").await;
    clients.put_key("r/01", "again and again").await;
    server
}

#[tokio::test]
async fn inspect_verifies_and_hashes_what_a_stopped_member_holds() {
    ours_only!("the tools are Keelson's");
    let mut server = start("inspect-hash").await;
    let clients = server.clients().await;
    let wanted = hash(&clients).await;
    let revision = clients.revision().await;
    let older = pb::HashKvRequest {
        revision: revision - 1,
    };
    let older = accepted(clients.maintenance.clone().hash_kv(older).await);
    assert!(server.stop().await.success());
    let data_dir = server.data_dir();
    let before = listing(&data_dir);
    let verified = inspect(&data_dir, &["verify"]);
    assert!(verified.contains("end damages=0"), "{verified}");
    let (hash_now, compacted) = (wanted.hash, wanted.compact_revision);
    let simple = format!("{hash_now}, {revision}, {compacted}, {revision}\n");
    assert_eq!(inspect(&data_dir, &["hash"]), simple);
    let json = inspect(&data_dir, &["hash", "-w", "json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["hash"], hash_now);
    assert_eq!(json["revision"], revision);
    let at = inspect(&data_dir, &["hash", &format!("--rev={}", revision - 1)]);
    let wanted = format!("{}, {}, ", older.hash, revision - 1);
    assert!(at.starts_with(&wanted), "{at}");
    // Nothing was changed, and the member starts as if nobody had looked.
    assert_eq!(before, listing(&data_dir));
    server.restart().await;
    assert_eq!(hash(&server.clients().await).await.hash, hash_now);
}

#[tokio::test]
async fn inspect_looks_at_every_shard() {
    ours_only!("etcd has one keyspace");
    let address = format!("127.0.0.1:{}", free_port());
    let mut server = ServerOptions::new("inspect-shards")
        .flag(format!("--shards=events=http://{address}"))
        .start()
        .await;
    let events = Clients::connect(&format!("http://{address}")).await;
    let main = server.clients().await;
    main.put_key("here", "x").await;
    events.put_key("there", "y").await;
    Etcdctl::new(address.clone()).ok(&["defrag"]).await;
    events.put_key("later", "z").await;
    let wanted = [hash(&main).await.hash, hash(&events).await.hash];
    assert_ne!(wanted[0], wanted[1]);
    assert!(server.stop().await.success());
    let data_dir = server.data_dir();
    for (shard, wanted) in ["main", "events"].iter().zip(wanted) {
        let said = inspect(&data_dir, &["hash", &format!("--shard={shard}")]);
        assert!(said.starts_with(&format!("{wanted}, ")), "{said}");
    }
    let place = ["--data-dir", text(&data_dir)];
    let unnamed = run(&[&["inspect", "hash"], &place[..]].concat());
    let says = String::from_utf8_lossy(&unnamed.stderr);
    assert!(says.contains("also has events"), "{says}");
    let unknown = [&["inspect", "hash", "--shard=leases"], &place[..]].concat();
    let says = fails(&unknown);
    assert!(
        says.contains("has no shard leases: it has main, events"),
        "{says}"
    );
    let dump = inspect(&data_dir, &["dump-snapshot", "--shard=events"]);
    assert!(dump.contains("key=\"there\""), "{dump}");
    let export = server.folder().join("events.db");
    let asked = ["snapshot", "export", text(&export), "--shard=events"];
    ok(&[&asked[..], &place[..]].concat());
    let imported = server.folder().join("imported");
    let asked = ["snapshot", "import", text(&export), "--data-dir"];
    ok(&[&asked[..], &[text(&imported)]].concat());
    let same = inspect(&imported, &["hash"]);
    assert!(same.starts_with(&format!("{}, ", wanted[1])), "{same}");

    let verified = inspect(&data_dir, &["verify"]);
    assert!(verified.contains("end damages=0"), "{verified}");
    assert!(verified.contains("about=\"events/"), "{verified}");
    let folders = std::fs::read_dir(data_dir.join("member")).unwrap();
    let mut folders = folders.map(|entry| entry.unwrap().path());
    let its = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("snap-") && name != "snap-0000"
    };
    let folder = folders.find(its).expect("it has a snapshot");
    let newest = std::fs::read_dir(folder).unwrap();
    let newest = newest.map(|entry| entry.unwrap().path()).max().unwrap();
    damage(&newest, 4096 + 1);
    let output = run(&[&["inspect", "verify"], &place[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("end damages=1"), "{said}");
    assert!(said.contains("damage about=\"events/"), "{said}");
}

#[tokio::test]
async fn inspect_prints_log_and_snapshot() {
    ours_only!("the tools are Keelson's");
    let mut server = start("inspect-dump").await;
    let revision = server.clients().await.revision().await;
    assert!(server.stop().await.success());
    let data_dir = server.data_dir();
    let log = inspect(&data_dir, &["dump-wal", "-w", "json"]);
    let log = json_lines(log.as_bytes());
    let commands = log
        .iter()
        .filter_map(|record| record["commands"].as_array());
    let last_put = commands.flatten().rfind(|command| command["what"] == "put");
    assert_eq!(last_put.expect("a put")["key"], "r/01");
    assert_eq!(log.last().expect("an end")["tail"], "clean");
    let dump = inspect(&data_dir, &["dump-snapshot", "--values", "-w", "json"]);
    let dump = json_lines(dump.as_bytes());
    assert_eq!(dump[0]["what"], "snapshot");
    assert_eq!(dump[0]["revision"], revision - 2);
    let key = |name: &str| dump.iter().find(|line| line["key"] == name);
    assert!(key("behind").is_none());
    let versions = key("r/12").expect("a deleted key")["versions"].clone();
    assert_eq!(versions[1]["what"], "delete");
    assert_eq!(key("held").expect("a key")["versions"][0]["lease"], "77");
    assert_eq!(key("empty").expect("a key")["versions"][0]["value"], "");
    let lease = dump.iter().find(|line| line["what"] == "lease");
    assert_eq!(lease.expect("a lease")["granted_ttl_seconds"], 1000);
    let simple = inspect(&data_dir, &["dump-snapshot"]);
    assert!(simple.contains("key key=\"r/12\"\n"), "{simple}");
}
