//! Servers as child processes: started on free ports, awaited, measured, stopped by pid.
//!
//! Both servers take etcd's flags, so one [`Launch`] serves for either. A [`Server`] that goes out
//! of scope, by error, by end or by Ctrl-C, stops its process; it is in a process group of its own,
//! so that a terminal's Ctrl-C reaches it through this tool only.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use keelson_proto::etcdserverpb::{RangeRequest, RangeResponse};

use crate::grpc::{Channel, Failure, Rpc};
use crate::procfs::{Usage, reset_peak};

/// How often a starting server is asked, and a stopping one looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How long one question may take before a new connection is tried.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Stopping may have to flush.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a disk is given to discard what was removed.
const DISCARD_TIME: Duration = Duration::from_millis(300);
/// How long an interrupted run waits for its servers.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
/// Both servers take it, and a negative number as no quota.
const QUOTA_FLAG: &str = "--quota-backend-bytes";
const LOG_LINES_SHOWN: usize = 15;

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The name it has in the output.
    pub name: String,
    pub binary: PathBuf,
    /// Flags besides those for names, ports and paths.
    pub flags: Vec<String>,
}

/// What one server keeps over a restart: a folder for its data directory and its log, removed when
/// dropped, and its ports, which its members know each other by.
pub struct Home {
    folder: TempDir,
    /// For clients and for peers.
    ports: [u16; 2],
}

/// A running server.
pub struct Server {
    name: String,
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    /// When it was started.
    pub started: Instant,
}

/// Has the filesystem of a folder be done with files that were removed: where it tells the disk of them (`discard`), the
/// next measurement would pay for it.
pub fn forget_removed(folder: &Path) -> Result<()> {
    let cannot = || format!("cannot sync the disk of {}", folder.display());
    let folder = fs::File::open(folder).with_context(cannot)?;
    rustix::fs::syncfs(&folder).with_context(cannot)?;
    // The disk is told after that.
    thread::sleep(DISCARD_TIME);
    Ok(())
}

impl Home {
    /// A fresh folder inside the given one, and free ports.
    pub fn create(parent: &Path) -> Result<Self> {
        forget_removed(parent)?;
        let builder = tempfile::Builder::new()
            .prefix("keelson-bench-")
            .tempdir_in(parent);
        let folder = builder.with_context(|| format!("cannot use {}", parent.display()))?;
        Ok(Self {
            folder,
            ports: free_ports()?,
        })
    }

    /// The member's name: no other member has its port.
    fn name(&self) -> String {
        format!("bench-{}", self.ports[1])
    }

    /// Where the server keeps its files.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Sum of the lengths of the files in the data directory.
    pub fn data_bytes(&self) -> Result<u64> {
        fn sum(folder: &Path) -> std::io::Result<u64> {
            let mut bytes = 0;
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let meta = entry.metadata()?;
                bytes += if meta.is_dir() {
                    sum(&entry.path())?
                } else {
                    meta.len()
                };
            }
            Ok(bytes)
        }
        Ok(sum(&self.data_dir())?)
    }
}

/// Who is a member, as `--initial-cluster` says it.
pub struct Peers(String);

impl Peers {
    /// The members that have these homes.
    pub fn of<'a>(homes: impl IntoIterator<Item = &'a Home>) -> Self {
        let member = |home: &Home| format!("{}=http://127.0.0.1:{}", home.name(), home.ports[1]);
        let members: Vec<String> = homes.into_iter().map(member).collect();
        Self(members.join(","))
    }
}

impl Launch {
    /// The same without a limit of the data, unless the user has set one.
    pub fn without_quota(&self) -> Self {
        let mut launch = self.clone();
        if !launch.flags.iter().any(|flag| flag.starts_with(QUOTA_FLAG)) {
            launch.flags.push(format!("{QUOTA_FLAG}=-1"));
        }
        launch
    }

    /// Starts the server on its home, as the only member.
    pub fn start(&self, home: &Home) -> Result<Server> {
        self.start_as(home, &Peers::of([home]))
    }

    /// Starts the server as one of several. Settings in the environment are for other servers.
    pub fn start_as(&self, home: &Home, peers: &Peers) -> Result<Server> {
        let [client, peer] = home.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let log_path = home.folder.path().join("server.log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut command = Command::new(&self.binary);
        command
            .args(["--name", &home.name(), "--data-dir"])
            .arg(home.data_dir())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &peers.0])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        for (name, _) in env::vars_os() {
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(b"ETCD_") || bytes.starts_with(b"KEELSON_") {
                command.env_remove(name);
            }
        }
        let started = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.name, self.binary.display()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, home.ports[0]));
        Ok(Server {
            name: self.name.clone(),
            child,
            address,
            log: log_path,
            started,
        })
    }
}

impl Server {
    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the process has used so far; an error if it is gone.
    pub fn usage(&mut self) -> Result<Usage> {
        self.check_running()?;
        Usage::of(self.child.id())
    }

    /// Lets the peak of its memory begin anew. False if that is not possible.
    pub fn reset_peak(&self) -> bool {
        reset_peak(self.child.id())
    }

    /// Waits until the server answers a linearizable Range, and tells how long after its start.
    pub async fn ready(&mut self, timeout: Duration) -> Result<Duration> {
        loop {
            let mut last = "no answer".to_owned();
            match tokio::time::timeout(QUESTION_TIMEOUT, ask(self.address)).await {
                Ok(Ok(())) => return Ok(self.started.elapsed()),
                Ok(Err(failure)) => last = failure.to_string(),
                Err(_) => {}
            }
            self.check_running()?;
            if self.started.elapsed() > timeout {
                let waited = timeout.as_secs();
                bail!(
                    "{} is not ready after {waited} s: {last}\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops the server with SIGTERM and waits until it has ended well.
    pub async fn stop(mut self) -> Result<()> {
        self.check_running()?;
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                if !is_good_end(status) {
                    bail!(
                        "{} was stopped and ended with {status}\n{}",
                        self.name,
                        self.log_tail()
                    );
                }
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        bail!(
            "{} does not stop on SIGTERM\n{}",
            self.name,
            self.log_tail()
        )
    }

    fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!(
                "{} ended by itself: {status}\n{}",
                self.name,
                self.log_tail()
            ),
            None => Ok(()),
        }
    }

    /// Has Keelson make a checkpoint. It would end etcd.
    pub fn request_checkpoint(&self) {
        self.signal(Signal::USR1);
    }

    fn signal(&self, signal: Signal) {
        // The child is not reaped yet, so the pid is its own; failing means that it has ended.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// The last lines of what the server wrote.
    fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        lines[from..]
            .iter()
            .map(|line| format!("  {}: {line}\n", self.name))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if ended(&mut self.child) {
            return;
        }
        self.signal(Signal::TERM);
        let deadline = Instant::now() + DROP_TIMEOUT;
        while Instant::now() < deadline {
            if ended(&mut self.child) {
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.signal(Signal::KILL);
        // Killed processes end; there is nobody left to tell if waiting fails.
        let _ = self.child.wait();
    }
}

/// etcd cleans up and then lets the signal end it; Keelson exits with 0.
fn is_good_end(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::TERM.as_raw())
}

async fn ask(address: SocketAddr) -> Result<(), Failure> {
    let mut channel = Channel::connect(address).await?;
    let request = RangeRequest {
        key: "ready".into(),
        ..Default::default()
    };
    let _: RangeResponse = channel.call(Rpc::Range, &request).await?;
    Ok(())
}

/// Two ports nobody listens on right now; both are held until both are known.
fn free_ports() -> Result<[u16; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port");
    let listeners = [bind()?, bind()?];
    Ok([
        listeners[0].local_addr()?.port(),
        listeners[1].local_addr()?.port(),
    ])
}
