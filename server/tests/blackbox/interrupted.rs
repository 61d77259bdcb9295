//! `keelson snapshot` interrupted and killed: an interrupt leaves nothing, and what a kill leaves is in nobody's way.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Server, ServerKind, ours_only};
use crate::snapshot::{fails, fill, ok, restore, save, text};

/// The program, begun.
fn begin(arguments: &[&str]) -> Child {
    Command::new(ServerKind::under_test().program())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs")
}

fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("process ids are small");
    // SAFETY: `kill` takes two numbers; the process is a child that was not waited for.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

fn wait_for(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A save of a server that does not answer, ended by a signal when its file is there.
fn save_ended_by(server: &Server, number: i32) -> Output {
    let file = server.folder().join("a.db");
    server.pause();
    let address = server.address();
    let saving = begin(&["snapshot", "save", text(&file), "--endpoints", &address]);
    wait_for(&file.with_file_name("a.db.part"));
    // Long enough to be at work, and another one is told so.
    std::thread::sleep(Duration::from_millis(300));
    let said = fails(&["snapshot", "save", text(&file), "--endpoints", &address]);
    assert!(
        said.contains("a.db.part is being written by another"),
        "{said}"
    );
    signal(saving.id(), number);
    let output = saving.wait_with_output().expect("it ends");
    server.signal(libc::SIGCONT);
    output
}

#[tokio::test]
async fn g_d_7_a_save_that_is_interrupted_leaves_nothing_and_one_that_is_killed_no_obstacle() {
    ours_only!("the tools are Keelson's");
    let server = Server::start("backup-interrupted").await;
    fill(&server.clients().await).await;
    let part = server.folder().join("a.db.part");
    for number in [libc::SIGINT, libc::SIGTERM] {
        let output = save_ended_by(&server, number);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("interrupted"), "{said}");
        assert!(!part.exists());
    }
    let output = save_ended_by(&server, libc::SIGKILL);
    assert_eq!(output.status.signal(), Some(libc::SIGKILL));
    assert!(part.exists(), "a kill leaves it");
    let backup = save(&server, "a.db");
    assert!(!part.exists());
    ok(&["snapshot", "status", text(&backup)]);
    // What is not a backup's is not overwritten.
    std::fs::write(&part, b"mine").unwrap();
    let address = server.address();
    let said = fails(&["snapshot", "save", text(&backup), "--endpoints", &address]);
    assert!(said.contains("a.db.part is in the way"), "{said}");
    assert_eq!(std::fs::read(&part).unwrap(), b"mine");
}

/// Begins a tool and kills it a little later; whether it left something.
fn kill_at_work(arguments: &[&str], target: &Path, draft: &Path, round: u64) -> bool {
    if target.is_dir() {
        std::fs::remove_dir_all(target).unwrap();
    }
    let running = begin(arguments);
    let begun = Instant::now();
    let wanted = Duration::from_millis(round * 3);
    while begun.elapsed() < wanted || (round > 0 && !draft.exists() && !target.is_dir()) {
        std::thread::sleep(Duration::from_micros(200));
        if begun.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    signal(running.id(), libc::SIGKILL);
    running.wait_with_output().expect("it ends");
    draft.exists()
}

/// Killed at any moment, a restore, an import or an export leaves what the next one takes over.
#[tokio::test]
async fn g_d_7_what_a_killed_tool_left_is_taken_over() {
    ours_only!("the tools are Keelson's");
    let mut server = Server::start("backup-killed").await;
    let clients = server.clients().await;
    fill(&clients).await;
    for number in 0..8 {
        clients
            .put_key(format!("big/{number}"), vec![number; 1_000_000])
            .await;
    }
    let backup = save(&server, "own.db");
    assert!(server.stop().await.success());
    let exported = server.folder().join("etcd.db");
    let export = [
        "snapshot",
        "export",
        text(&exported),
        "--from",
        text(&backup),
    ];
    ok(&export);
    let (restored, imported) = (
        server.folder().join("restored"),
        server.folder().join("imported"),
    );
    let restoring = [
        "snapshot",
        "restore",
        text(&backup),
        "--data-dir",
        text(&restored),
    ];
    let importing = [
        "snapshot",
        "import",
        text(&exported),
        "--data-dir",
        text(&imported),
    ];
    let mut left = 0;
    for (arguments, target, draft) in [
        (&restoring[..], &restored, "restored.restoring"),
        (&importing[..], &imported, "imported.restoring"),
        (&export[..], &exported, "etcd.db.part"),
    ] {
        let draft = target.with_file_name(draft);
        for round in 0..12 {
            left += u32::from(kill_at_work(arguments, target, &draft, round));
        }
        if target.is_dir() {
            std::fs::remove_dir_all(target).unwrap();
        }
        ok(arguments);
        assert!(target.exists() && !draft.exists(), "{}", draft.display());
    }
    assert!(left > 0, "some were killed at work");
    ok(&["inspect", "verify", "--data-dir", text(&restored)]);
    ok(&["inspect", "verify", "--data-dir", text(&imported)]);
    let again = server.folder().join("again");
    restore(&backup, &again, &[]);
}
