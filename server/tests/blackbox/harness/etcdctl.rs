//! etcdctl 3.5.1 as a child process.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::etcd::etcd_binaries;
use super::wait::DEADLINE;

/// etcdctl pointed at one server.
#[derive(Debug, Clone)]
pub struct Etcdctl {
    endpoint: String,
}

/// What one run printed.
#[derive(Debug, Clone)]
pub struct Printed {
    /// Whether it ended with status 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Etcdctl {
    /// etcdctl for `host:port`.
    pub fn new(endpoint: impl Into<String>) -> Etcdctl {
        Etcdctl {
            endpoint: endpoint.into(),
        }
    }

    /// Runs a command and returns its output; panics if it fails.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments, "").await;
        assert!(printed.ok, "etcdctl {arguments:?}: {printed:?}");
        printed.out
    }

    /// Runs a command that must fail and returns what it said.
    pub async fn fails(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments, "").await;
        assert!(!printed.ok, "etcdctl {arguments:?} succeeded: {printed:?}");
        printed.err + &printed.out
    }

    /// Runs a command with JSON output.
    pub async fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments = [arguments, &["-w", "json"]].concat();
        let text = self.ok(&arguments).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Runs a command with `input` on its standard input.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Printed {
        let mut child = self.start(arguments);
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin
            .write_all(input.as_bytes())
            .await
            .expect("etcdctl reads its input");
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("etcdctl {arguments:?} does not end"))
            .expect("etcdctl can be waited for");
        Printed {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a command that goes on until the returned value is dropped.
    pub fn follow(&self, arguments: &[&str]) -> Following {
        let mut child = self.start(arguments);
        let stdout = child.stdout.take().expect("stdout is a pipe");
        Following {
            lines: BufReader::new(stdout).lines(),
            child,
        }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        Command::new(&etcd_binaries().etcdctl)
            .env("ETCDCTL_API", "3")
            .env_remove("ETCDCTL_ENDPOINTS")
            .arg("--endpoints")
            .arg(&self.endpoint)
            .arg("--command-timeout=30s")
            .arg("--dial-timeout=20s")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("etcdctl can be started")
    }
}

/// A command that goes on printing.
#[derive(Debug)]
pub struct Following {
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Following {
    /// The next line it prints.
    pub async fn line(&mut self) -> String {
        tokio::time::timeout(DEADLINE, self.lines.next_line())
            .await
            .expect("etcdctl had a line to print")
            .expect("etcdctl prints text")
            .expect("etcdctl goes on")
    }

    /// The next lines it prints.
    pub async fn take(&mut self, count: usize) -> Vec<String> {
        let mut taken = Vec::new();
        for _ in 0..count {
            taken.push(self.line().await);
        }
        taken
    }

    /// Writes a line to its input.
    pub async fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is a pipe");
        let text = format!("{line}\n");
        stdin
            .write_all(text.as_bytes())
            .await
            .expect("etcdctl reads its input");
    }
}
