//! One member's process, and where it keeps and prints things.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::{http, launch};

/// How long a member may take to stop when it is told to.
const STOP_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A member that runs, or may run again.
#[derive(Debug)]
pub struct Member {
    /// `n0`, `n1`, ...
    pub name: String,
    /// `host:port` that clients use.
    pub client_address: String,
    /// Where its process listens for other members.
    pub peer_listen: String,
    /// Where other members reach it.
    pub peer_url: String,
    /// Everything that the process prints, and what else is its own.
    pub folder: PathBuf,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// What the command begins with, if not with the server itself.
    pub wrapper: Vec<String>,
    /// Flags beside those that every member gets.
    pub flags: Vec<String>,
    /// `--initial-cluster` and `--initial-cluster-state`.
    pub founding: (String, &'static str),
    /// The process, unless it was stopped or killed.
    pub child: Option<Child>,
}

impl Member {
    /// The URL that clients use.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.client_address)
    }

    /// Starts the process, and waits for nothing.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        fs::create_dir_all(&self.folder).expect("a folder can be made");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("server.log"))
            .expect("the log file can be opened");
        let errors = log.try_clone().expect("a file handle can be duplicated");
        let server = std::env::var("KEELSON_FAULTS_SERVER");
        let server = server.unwrap_or_else(|_| env!("CARGO_BIN_EXE_keelson").to_owned());
        let mut words = self.wrapper.iter().cloned().chain([server]);
        let mut command = Command::new(words.next().expect("the server is always there"));
        command
            .args(words)
            .args(self.all_flags())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD_") || text.starts_with("KEELSON_") {
                command.env_remove(name);
            }
        }
        self.child = Some(launch::spawn(command).expect("the server can be started"));
    }

    fn all_flags(&self) -> Vec<String> {
        let (cluster, state) = &self.founding;
        let usual = [
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data_dir.display()),
            format!("--listen-client-urls={}", self.endpoint()),
            format!("--advertise-client-urls={}", self.endpoint()),
            format!("--listen-peer-urls=http://{}", self.peer_listen),
            format!("--initial-advertise-peer-urls={}", self.peer_url),
            format!("--initial-cluster={cluster}"),
            format!("--initial-cluster-state={state}"),
        ];
        usual
            .into_iter()
            .chain(self.flags.iter().cloned())
            .collect()
    }

    /// Whether it answers that it is well.
    pub async fn is_healthy(&self) -> bool {
        let ask = http::get(&self.client_address, "/health");
        let answer = tokio::time::timeout(Duration::from_secs(2), ask).await;
        matches!(answer, Ok(Ok(answer)) if answer.status == 200)
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: i32) {
        let child = self.child.as_ref().expect("the process runs");
        let pid = i32::try_from(child.id()).expect("process ids fit in i32");
        // SAFETY: kill takes two integers; the pid is a child of ours that was not waited for.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "kill: {}", std::io::Error::last_os_error());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours can be killed");
            child.wait().expect("a child of ours can be waited for");
        }
    }

    /// SIGTERM, and waits.
    pub async fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let ended = self.wait_exit(STOP_MAX).await;
        assert!(ended.is_some(), "{} did not stop on SIGTERM", self.name);
    }

    /// How the process ended, if it does so in time.
    pub async fn wait_exit(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(status) = self.has_exited() {
                return Some(status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        None
    }

    /// How the process ended, if it has.
    pub fn has_exited(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = child.try_wait().expect("a child of ours can be asked");
        if status.is_some() {
            self.child = None;
        }
        status
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
