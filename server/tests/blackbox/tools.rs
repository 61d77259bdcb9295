//! The operator's tools: profiles, and `keelson config`.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Server, ServerKind, ServerOptions, ours_only};

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
