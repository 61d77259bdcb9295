//! The operator's tools: profiles, `keelson config`, `keelson doctor`, and what systemd is told.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::{Server, ServerKind, ServerOptions, free_port, ours_only};

/// Runs the program under test with these arguments and waits for its end.
fn run(arguments: &[&str]) -> Output {
    Command::new(ServerKind::under_test().program())
        .args(arguments)
        .output()
        .expect("the program runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// A member can go from profile to profile: what one wrote, the next one reads.
#[tokio::test]
async fn a_member_serves_under_every_profile() {
    ours_only!("etcd has no profiles");
    let list = text(&run(&["config", "profiles"]));
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() >= 6, "{list}");
    let first = Server::start("profile-none").await;
    let data_dir = first.data_dir().with_file_name("profiled");
    for (count, name) in names.iter().enumerate() {
        let mut server = ServerOptions::new(&format!("profile-{name}"))
            .data_dir(&data_dir)
            .flag(format!("--profile={name}"))
            .start()
            .await;
        let clients = server.clients().await;
        let before = clients.revision().await;
        assert_eq!(before, count as i64 + 1, "{name}");
        clients.put_key("profile", name).await;
        let said = format!("profile {name} sets ");
        assert!(server.log().contains(&said), "{}", server.log());
        assert!(server.stop().await.success(), "{name}");
    }
}

#[test]
fn config_show_tells_what_counts_and_where_it_comes_from() {
    ours_only!("etcd has no such tool");
    let program = ServerKind::under_test().program();
    let output = Command::new(program)
        .args(["config", "show", "--profile=cloud-disk", "--wal-depth=4"])
        .env("KEELSON_CORES", "1")
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let text = text(&output);
    for (name, value, place) in [
        ("wal-depth", "4", "flag --wal-depth"),
        ("wal-group-delay-us", "250", "profile cloud-disk"),
        ("cores", "1", "environment KEELSON_CORES"),
        ("name", "default", "default"),
    ] {
        let row = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        let words: Vec<&str> = row.expect(name).split_whitespace().collect();
        assert_eq!(words[1], value, "{name}");
        assert_eq!(words[2..].join(" "), place, "{name}");
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let gone = folder.join("no-such-profile.toml");
    let flag = format!("--profile={}", gone.display());
    let refused = run(&["config", "show", &flag]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

/// Runs the doctor for a member with this data directory, on ports that are free.
fn doctor(data_dir: &Path, more: &[&str]) -> Output {
    let client = format!("http://127.0.0.1:{}", free_port());
    let mut arguments = vec![
        "doctor".to_owned(),
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
    ];
    arguments.extend(more.iter().map(ToString::to_string));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(&arguments)
}

/// Where this very test can start members, the doctor says so, and leaves nothing behind.
#[tokio::test]
async fn the_doctor_says_that_a_member_can_start_and_why_a_second_one_cannot() {
    ours_only!("etcd has no such tool");
    let mut server = Server::start("doctor").await;
    let fresh = server.folder().join("fresh");
    let output = doctor(&fresh, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("A member can start here"));
    assert!(!fresh.exists());

    let pid = format!("(process {})", server.pid());
    let output = doctor(&server.data_dir(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains(&pid), "{}", text(&output));
    let url = format!("--listen-client-urls={}", server.endpoint());
    let output = doctor(&fresh, &[&url]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let taken = format!("cannot listen on {}", server.address());
    assert!(text(&output).contains(&taken), "{}", text(&output));

    server.stop().await;
    let output = doctor(&server.data_dir(), &["--profile=kube-large"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(
        text(&output).contains("holds a member"),
        "{}",
        text(&output)
    );
    server.restart().await;
}

#[test]
fn the_doctor_refuses_memory_for_a_disk() {
    ours_only!("etcd has no such tool");
    let memory = Path::new("/dev/shm/keelson-doctor");
    let output = doctor(memory, &["--output=json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["can_start"], false);
    let findings = report["findings"].as_array().expect("a list");
    let filesystem = findings.iter().find(|row| row["about"] == "filesystem");
    let filesystem = filesystem.expect("the filesystem was looked at");
    assert_eq!(filesystem["level"], "fatal");
    let change = filesystem["change"]
        .as_str()
        .expect("it says what to change");
    assert!(change.contains("--data-dir"), "{change}");
    assert!(!memory.exists());

    let careless = doctor(memory, &["--unsafe-no-fsync"]);
    assert_eq!(careless.status.code(), Some(0), "{}", text(&careless));
    let senseless = doctor(memory, &["--wal-depth=deep"]);
    assert_eq!(senseless.status.code(), Some(2), "{senseless:?}");
}

/// Units of etcd have `Type=notify`: systemd waits to be told.
#[tokio::test]
async fn the_supervisor_is_told_of_start_and_stop() {
    ours_only!("etcd's own libraries do that");
    // Not below cargo's folder: the path of a socket must be short.
    let name = format!("keelson-notify-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let supervisor = UnixDatagram::bind(&path).expect("a socket can be made");
    supervisor
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a socket can have a timeout");
    let mut server = ServerOptions::new("notify")
        .environment("NOTIFY_SOCKET", path.to_str().expect("the path is text"))
        .start()
        .await;
    let told = || {
        let mut message = [0; 64];
        let count = supervisor.recv(&mut message).expect("a message comes");
        String::from_utf8_lossy(&message[..count]).into_owned()
    };
    assert_eq!(told(), "READY=1\n");
    assert!(server.stop().await.success());
    assert_eq!(told(), "STOPPING=1\n");
    std::fs::remove_file(&path).expect("the socket was there");
}
