//! Real etcd as the judge: its snapshots and data directories are read, and it opens what was written.
//!
//! `KEELSON_ETCD_BIN_DIR` names the binaries of another 3.5 release to run the same against.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keelson_storage::bbolt::BoltError;
use keelson_storage::etcd::{
    EtcdContents, EtcdDb, EtcdDbError, EtcdDbOptions, EtcdDbWriter, EtcdRevision, EtcdSource,
};
use keelson_storage::ids::Revision;
use keelson_storage::io::{Disk, ReadOnlyDisk};
use keelson_storage::migrate::{
    ExportOptions, ImportOptions, ImportSummary, MigrateProgress, export, import,
};
use keelson_storage::snapshot::{Snapshot, ValueReader};
use keelson_storage::state::State;
use serde_json::Value;

#[path = "../../server/tests/blackbox/harness/etcd.rs"]
mod etcd;
#[path = "../../server/tests/blackbox/harness/ports.rs"]
mod ports;

use etcd::etcd_binaries;
use ports::free_port;

const DEADLINE: Duration = Duration::from_secs(60);
const LOGIN: [&str; 2] = ["--user", "root:secret"];

/// A running etcd. Ports and name stay the same over restarts and restores, so ids do, too.
struct Etcd {
    client: String,
    peer: String,
    data_dir: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    fn start(data_dir: &Path) -> Self {
        let url = || format!("http://127.0.0.1:{}", free_port());
        let mut etcd = Self {
            client: url(),
            peer: url(),
            data_dir: data_dir.to_path_buf(),
            child: None,
        };
        etcd.start_again();
        etcd
    }

    fn start_again(&mut self) {
        let child = Command::new(&etcd_binaries().etcd)
            .args(["--name", "m", "--data-dir"])
            .arg(&self.data_dir)
            .args(["--listen-client-urls", &self.client])
            .args(["--advertise-client-urls", &self.client])
            .args(["--listen-peer-urls", &self.peer])
            .args(["--initial-advertise-peer-urls", &self.peer])
            .args(["--initial-cluster", &format!("m={}", self.peer)])
            .args(["--quota-backend-bytes", "16777216"])
            .stdout(Stdio::null())
            .stderr(File::create(self.log_file()).unwrap())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let start = Instant::now();
        while !self.answers() {
            let exited = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                exited.is_none() && start.elapsed() < DEADLINE,
                "etcd does not answer ({exited:?}); its log:\n{}",
                std::fs::read_to_string(self.log_file()).unwrap()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log_file(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    /// Whether it answers, be its users counted or not.
    fn answers(&self) -> bool {
        let status = ["endpoint", "status", "--command-timeout=3s"];
        let run = |login: &[&str]| self.run(&[&status, login].concat(), "").status.success();
        run(&[]) || run(&LOGIN)
    }

    /// Starts from a snapshot in a new data directory.
    fn restore(&mut self, snapshot: &Path, data_dir: &Path) {
        self.data_dir = data_dir.to_path_buf();
        let restore = ["snapshot", "restore", "--name", "m", "--data-dir"];
        let cluster = format!("m={}", self.peer);
        let place = [data_dir.to_str().unwrap(), "--initial-cluster", &cluster];
        let peer = ["--initial-advertise-peer-urls", &self.peer];
        etcdutl(&[&restore[..], &place, &peer].concat(), snapshot);
        self.start_again();
    }

    /// Ends it as an administrator does.
    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let status = Command::new("kill").arg(child.id().to_string()).status();
        assert!(status.unwrap().success());
        child.wait().unwrap();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(&etcd_binaries().etcdctl)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.client, "--command-timeout=30s"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &LOGIN, &["-w", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// HashKV at each of the revisions.
    fn hashes(&self, revisions: &[i64]) -> Vec<u32> {
        let hash = |revision: &i64| {
            let at = format!("--rev={revision}");
            let hash = self.json(&["endpoint", "hashkv", &at])[0]["HashKV"]["hash"].clone();
            hash.as_u64().unwrap() as u32
        };
        revisions.iter().map(hash).collect()
    }

    /// What a client can see, without what a restore changes.
    fn visible(&self, revisions: &[i64]) -> Vec<Value> {
        let mut seen = Vec::new();
        for revision in revisions {
            let at = format!("--rev={revision}");
            let all = self.json(&["get", "", "--from-key", &at]);
            seen.push(all["kvs"].clone());
            seen.push(all["header"]["revision"].clone());
        }
        let hash = &self.json(&["endpoint", "hashkv"])[0]["HashKV"];
        seen.push(hash["hash"].clone());
        seen.push(hash["compact_revision"].clone());
        let leases = self.json(&["lease", "list"])["leases"].clone();
        for lease in leases.as_array().unwrap() {
            let id = format!("{:x}", lease["id"].as_i64().unwrap());
            let lease = self.json(&["lease", "timetolive", &id, "--keys"]);
            seen.push(lease["granted-ttl"].clone());
            // They come in no order.
            let mut keys = lease["keys"].as_array().cloned().unwrap_or_default();
            keys.sort_by_key(Value::to_string);
            seen.push(keys.into());
        }
        seen.push(leases);
        seen.push(self.json(&["alarm", "list"])["alarms"].clone());
        for arguments in [&["user", "list"][..], &["role", "get", "reader"]] {
            let mut answer = self.json(arguments);
            answer.as_object_mut().unwrap().remove("header");
            seen.push(answer);
        }
        seen
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder on the disk of the target folder, not in memory.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Puts in a txn: one revision, many changes.
fn put_many(etcd: &Etcd, keys: std::ops::Range<u32>, value: &str) {
    let keys: Vec<u32> = keys.collect();
    for some in keys.chunks(100) {
        let puts: String = some
            .iter()
            .map(|number| format!("put key-{number:05} {value}-{number}\n"))
            .collect();
        etcd.ok_with(&["txn"], &format!("mod(\"none\") = \"0\"\n\n{puts}\n\n\n"));
    }
}

/// A history with everything in it that a database can hold; returns a revision in the middle of it.
fn fill(etcd: &Etcd) -> i64 {
    put_many(etcd, 0..800, &"v".repeat(200));
    put_many(etcd, 100..300, "second");
    etcd.ok(&["del", "key-00150"]);
    etcd.ok(&["del", "key-002", "--prefix"]);
    etcd.ok(&["put", "key-00201", "born again"]);
    etcd.ok(&["put", "empty", ""]);
    let lease = etcd.ok(&["lease", "grant", "36000"]);
    let lease = lease.split(' ').nth(1).unwrap();
    let with_lease = format!("--lease={lease}");
    etcd.ok(&["put", "leased", "1", &with_lease]);
    etcd.ok(&["put", "leased-too", "2", &with_lease]);
    etcd.ok(&["lease", "grant", "5000"]);
    let revision = etcd.json(&["get", "empty"])["header"]["revision"].clone();
    etcd.ok(&["compaction", "--physical", &revision.to_string()]);
    etcd.ok_with(&["put", "large"], &"x".repeat(1_000_000));
    put_many(etcd, 300..420, "third");
    etcd.ok(&["del", "key-004", "--prefix"]);
    etcd.ok(&["role", "add", "reader"]);
    etcd.ok(&["role", "grant-permission", "reader", "read", "key", "kez"]);
    etcd.ok(&["user", "add", "root:secret"]);
    etcd.ok(&["user", "grant-role", "root", "root"]);
    etcd.ok(&["user", "add", "guest:guest"]);
    etcd.ok(&["user", "grant-role", "guest", "reader"]);
    etcd.ok(&["auth", "enable"]);
    revision.as_i64().unwrap()
}

/// Puts until etcd has no space and says so in an alarm.
fn fill_up(etcd: &Etcd) {
    let value = "y".repeat(1_400_000);
    for number in 0..30 {
        let key = format!("bulk-{number}");
        let output = etcd.run(&[&["put", &key][..], &LOGIN].concat(), &value);
        if !output.status.success() {
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(text.contains("database space exceeded"), "{text}");
            return;
        }
    }
    panic!("the quota was never reached");
}

fn open(path: &Path) -> Result<EtcdDb, EtcdDbError> {
    EtcdDb::open(path, &EtcdDbOptions::default(), &mut |_| {})
}

/// Writes everything that one database holds into another.
fn copy(from: &EtcdDb, to: &Path) -> EtcdContents {
    let mut writer = EtcdDbWriter::create(to).unwrap();
    let mut entries = from.entries().unwrap();
    while let Some(entry) = entries.next_entry().unwrap() {
        let change = entry.change.unwrap();
        if entry.is_tombstone {
            writer.delete(entry.revision, change.key).unwrap();
        } else {
            writer.put(entry.revision, &change).unwrap();
        }
    }
    let contents = from.contents().unwrap();
    writer.finish(&contents, &mut |_| {}).unwrap();
    contents
}

fn etcdutl(arguments: &[&str], path: &Path) -> String {
    let mut command = Command::new(&etcd_binaries().etcdutl);
    let output = command.args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn check_equal(found: &[Value], wanted: &[Value]) {
    assert_eq!(found.len(), wanted.len());
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let start = |value: &Value| value.to_string().chars().take(2000).collect::<String>();
        assert_eq!(start(found), start(wanted), "the start of part {at}");
        assert!(found == wanted, "part {at}");
    }
}

fn go_on(_: MigrateProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Imports a database with so little memory that the scratch file is used, and loads what was made of it.
fn import_state(from: &EtcdDb, directory: &Path) -> (State, ImportSummary) {
    std::fs::create_dir(directory).unwrap();
    let options = ImportOptions {
        sort_bytes: 100_000,
        ..ImportOptions::default()
    };
    let summary = import(from, directory, &options, &mut go_on).unwrap();
    let mut disk = ReadOnlyDisk::new(directory);
    let (file, entry) = Snapshot::newest_in(&mut disk).unwrap().unwrap();
    assert_eq!(disk.list().unwrap().len(), 1);
    let snapshot = Snapshot::load(&mut disk, file, &entry).unwrap();
    (State::from_snapshot(Arc::new(snapshot)), summary)
}

fn hashes_of(state: &mut State, revisions: &[i64]) -> Vec<u32> {
    let hash = |revision: &i64| {
        let mut scan = state.hash_begin(*revision).unwrap();
        while !state.hash_step(&mut scan, 100) {}
        let mut values = ValueReader::default();
        let result = scan.finish(|snapshot, place| values.read(snapshot, place));
        result.unwrap().hash
    };
    revisions.iter().map(hash).collect()
}

#[test]
fn g_d_7_from_etcd_to_keelson_and_back() {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let mut etcd = Etcd::start(&path("data"));
    let compacted = fill(&etcd);
    etcd.ok(&[&["auth", "disable"][..], &LOGIN].concat());
    let saved = path("saved.db");
    etcd.ok(&["snapshot", "save", saved.to_str().unwrap()]);
    let newest = open(&saved).unwrap().revision().unwrap().0;
    let revisions: Vec<i64> = (compacted..=newest).collect();
    // This etcd has no hash at the compact revision itself.
    let hashed = &revisions[1..];
    let (wanted, hashes) = (etcd.visible(&revisions), etcd.hashes(hashed));
    etcd.stop();

    let (mut state, summary) = import_state(&open(&saved).unwrap(), &path("ours"));
    assert_eq!(summary.revision, Revision(newest));
    assert_eq!(summary.compact_revision, Revision(compacted));
    assert_eq!((summary.leases, summary.users, summary.roles), (2, 2, 1));
    assert_eq!(hashes_of(&mut state, hashed), hashes);
    // The data directory of the member, stopped, is the same.
    let (_, of_directory) = import_state(&open(&path("data")).unwrap(), &path("ours-too"));
    assert_eq!(of_directory, summary);

    let options = ExportOptions {
        sort_bytes: 100_000,
    };
    export(&state, "ours", &path("exported.db"), &options, &mut go_on).unwrap();
    etcd.restore(&path("exported.db"), &path("restored"));
    assert_eq!(etcd.hashes(hashed), hashes);
    check_equal(&etcd.visible(&revisions), &wanted);
    etcd.ok(&["put", "after", "1"]);
}

#[test]
fn etcd_restores_what_was_read_from_it_and_written_again() {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let mut etcd = Etcd::start(&path("data"));
    let compacted = fill(&etcd);
    fill_up(&etcd);
    let saved = path("saved.db");
    let save = ["snapshot", "save", saved.to_str().unwrap()];
    etcd.ok(&[&save[..], &LOGIN].concat());
    let revision = open(&saved).unwrap().revision().unwrap().0;
    let revisions = [compacted, compacted + 1, revision - 5, revision];
    let wanted = etcd.visible(&revisions);
    etcd.stop();

    let db = open(&saved).unwrap();
    assert_eq!(db.source(), EtcdSource::Snapshot);
    let contents = copy(&db, &path("written.db"));
    assert_eq!(contents.meta.compact_revision(), Some(Revision(compacted)));
    assert_eq!(contents.leases.len(), 2);
    assert_eq!(contents.alarms.len(), 1);
    assert!(contents.auth.is_enabled);
    assert_eq!(contents.auth.users.len(), 2);
    // The same content in other pages: etcdutl checks the structure and hashes all buckets.
    let status = |file: &Path| {
        let text = etcdutl(&["snapshot", "status", "-w", "json"], file);
        let mut status: Value = serde_json::from_str(&text).unwrap();
        status.as_object_mut().unwrap().remove("totalSize");
        status
    };
    assert_eq!(status(&path("written.db")), status(&saved));

    etcd.restore(&path("written.db"), &path("restored"));
    check_equal(&etcd.visible(&revisions), &wanted);
    let output = etcd.run(&["get", "empty"], "");
    assert!(!output.status.success(), "users and roles count again");
    // It goes on from there: the quota is lifted by a compaction, a defragmentation and a disarm.
    let now = etcd.json(&["get", "empty"])["header"]["revision"].to_string();
    etcd.ok(&[&["del", "bulk", "--prefix"][..], &LOGIN].concat());
    etcd.ok(&[&["compaction", "--physical", &now][..], &LOGIN].concat());
    etcd.ok(&[&["defrag"][..], &LOGIN].concat());
    etcd.ok(&[&["alarm", "disarm"][..], &LOGIN].concat());
    etcd.ok(&[&["put", "after", "1"][..], &LOGIN].concat());
    etcd.stop();
    etcd.start_again();
    let found = etcd.ok(&[&["get", "after", "--print-value-only"][..], &LOGIN].concat());
    assert_eq!(found, "1\n");
}

#[test]
fn a_data_directory_is_read_once_its_etcd_is_stopped_and_complete() {
    let scratch = scratch();
    let data_dir = scratch.path().join("data");
    let mut etcd = Etcd::start(&data_dir);
    put_many(&etcd, 0..500, "value");
    let error = open(&data_dir).unwrap_err();
    let is_locked = matches!(error, EtcdDbError::Bolt(BoltError::Locked { .. }));
    assert!(is_locked, "{error}");

    // The database follows within 100 ms; after a kill the log alone has the last put. The kill is
    // sometimes too late for that.
    let is_behind = |attempt: i32| {
        let data_dir = scratch.path().join(format!("killed-{attempt}"));
        let mut etcd = Etcd::start(&data_dir);
        etcd.ok(&["put", "last", "acknowledged"]);
        etcd.kill();
        matches!(open(&data_dir), Err(EtcdDbError::BehindWal { .. }))
    };
    assert!((0..20).any(is_behind), "never behind its log");

    etcd.ok(&["put", "last", "acknowledged"]);
    etcd.stop();
    let db = open(&data_dir).unwrap();
    assert_eq!(db.source(), EtcdSource::DataDir);
    let mut entries = db.entries().unwrap();
    let mut last = (EtcdRevision::default(), Vec::new());
    while let Some(entry) = entries.next_entry().unwrap() {
        last = (entry.revision, entry.change.unwrap().key.to_vec());
    }
    assert_eq!(last.1, b"last");
    assert_eq!(last.0.main, db.revision().unwrap());

    // A log elsewhere must be named.
    let wal_dir = scratch.path().join("wal");
    std::fs::rename(data_dir.join("member/wal"), &wal_dir).unwrap();
    let error = open(&data_dir).unwrap_err();
    assert!(matches!(error, EtcdDbError::NoWal { .. }), "{error}");
    let options = EtcdDbOptions {
        wal_dir: Some(wal_dir),
        ..EtcdDbOptions::default()
    };
    EtcdDb::open(&data_dir, &options, &mut |_| {}).unwrap();
}
