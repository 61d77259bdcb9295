//! What the tests of the tool share.

#![allow(dead_code, reason = "every file of tests uses its part")]

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The tool.
pub const BENCH: &str = env!("CARGO_BIN_EXE_keelson-bench");
/// The disk of the build folder.
pub const DISK: &str = env!("CARGO_TARGET_TMPDIR");

/// The server to measure: the one that `KEELSON_BENCH_SERVER` names, or the `keelson` beside the tool, which a
/// build of the whole workspace makes. Without either it says so on the terminal, past the test harness's capture.
pub fn server() -> Option<PathBuf> {
    if let Some(named) = env::var_os("KEELSON_BENCH_SERVER") {
        return Some(named.into());
    }
    let built = Path::new(BENCH).with_file_name("keelson");
    if built.is_file() {
        return Some(built);
    }
    let mut terminal = std::io::stderr();
    writeln!(
        terminal,
        "NOT RUN: no server at {} nor in KEELSON_BENCH_SERVER",
        built.display()
    )
    .unwrap();
    None
}

/// The tool with a command, the server and a folder.
pub fn command(name: &str, server: &Path, dir: &Path) -> Command {
    let mut command = Command::new(BENCH);
    command
        .args([name, "--keelson-path"])
        .arg(server)
        .arg("--dir")
        .arg(dir);
    command
}

/// A fresh one on the disk.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(DISK).unwrap()
}

/// What a good run printed.
pub fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Bytes of a terminal.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until the tool has made something in its folder.
pub fn wait_until_it_began(dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(dir).unwrap().count() == 0 {
        assert!(Instant::now() < deadline, "no server is being started");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The pid of the one process that the tool has started.
pub fn only_child(tool: &Child) -> u32 {
    let pid = tool.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}
