//! What the tests of the tool share.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The tool.
pub const BENCH: &str = env!("CARGO_BIN_EXE_keelson-bench");

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
