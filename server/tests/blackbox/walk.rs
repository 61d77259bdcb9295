//! The ready-made walk through all of etcdctl (`shared/conformance/etcdctl-walk.sh`), which lies
//! beside the repository where continuous integration runs; elsewhere `KEELSON_WALK` may name it.
//! Where it is not to be found the test says so; `etcdctl.rs` holds our own assertions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::harness::{Server, ServerKind, etcd_binaries};

/// Steps that wait for later work, by the beginning of their names. A beginning none of whose
/// steps fails any more has to leave the table.
const WAITING: &[(&str, &str)] = &[
    ("auth-", "users, roles and permissions"),
    ("role-", "users, roles and permissions"),
    ("snapshot-restore", "backups in etcd's own format"),
    ("snapshot-status", "backups in etcd's own format"),
    ("user-", "users, roles and permissions"),
];

/// Programs the script itself calls.
const NEEDED: &[&str] = &["bash", "jq", "perl", "xxd", "strings", "timeout"];

fn find_walk() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("KEELSON_WALK") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "KEELSON_WALK: no file {}", path.display());
        return Some(path);
    }
    let beside =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/etcdctl-walk.sh");
    beside.is_file().then_some(beside)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[tokio::test]
async fn the_etcdctl_walk_passes() {
    let Some(walk) = find_walk() else {
        println!("etcdctl walk: script not found (KEELSON_WALK), nothing checked here");
        return;
    };
    if let Some(missing) = NEEDED.iter().find(|program| !is_installed(program)) {
        println!("etcdctl walk: the script needs {missing}, nothing checked here");
        return;
    }
    let server = start().await;
    let output = Command::new("bash")
        .arg(walk)
        .arg(server.address())
        .env("ETCDCTL", &etcd_binaries().etcdctl)
        .env("ETCDUTL", &etcd_binaries().etcdutl)
        .env("SKIP_PERF", "1")
        .env("TMPDIR", server.folder())
        .env_remove("ETCDCTL_ENDPOINTS")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("bash can be started");
    judge(&String::from_utf8_lossy(&output.stdout));
}

/// A server whose cluster id has sixteen digits. etcdctl fills a shorter one up with spaces, and the script counts on one
/// space before it; the id comes from the ports.
async fn start() -> Server {
    loop {
        let server = Server::start("walk").await;
        let status = server.clients().await.status().await;
        let header = status.header.expect("a header");
        if header.cluster_id >> 60 != 0 {
            return server;
        }
    }
}

fn judge(out: &str) {
    let mut passed = 0;
    let mut failed = Vec::new();
    let mut waiting: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in out.lines() {
        if line.starts_with("PASS ") {
            passed += 1;
        } else if let Some(step) = line.strip_prefix("FAIL ") {
            match WAITING.iter().find(|(start, _)| step.starts_with(start)) {
                Some((start, _)) => waiting.entry(start).or_default().push(step),
                None => failed.push(step),
            }
        }
    }
    println!("etcdctl walk: {passed} steps passed");
    for (start, steps) in &waiting {
        println!("  waiting ({start}): {}", steps.join(" "));
    }
    assert!(
        out.contains(" passed, "),
        "the walk did not reach its end:\n{out}"
    );
    assert!(failed.is_empty(), "the walk failed at {failed:?}:\n{out}");
    assert!(passed > 100, "only {passed} steps:\n{out}");
    if ServerKind::under_test() == ServerKind::Etcd {
        assert!(waiting.is_empty(), "real etcd passes all: {waiting:?}");
        return;
    }
    for (start, wait_for) in WAITING {
        assert!(
            waiting.contains_key(start),
            "steps {start}... all pass: take them off the table ({wait_for})"
        );
    }
}
