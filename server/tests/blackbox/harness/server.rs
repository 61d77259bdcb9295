//! One server process: started with etcd's flags on free ports, stopped, killed, started again.
//!
//! The data directory lies under cargo's scratch folder, which is on a real disk. When a test
//! panics, the end of the server's log is printed and the directory is kept for reading; otherwise
//! it is removed with the `Server`.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::clients::Clients;
use super::etcd::etcd_binaries;
use super::http;
use super::launch;
use super::ports::free_port;
use super::wait::DEADLINE;

const LOG_TAIL_BYTES: usize = 6_000;
const START_TRIES: u32 = 5;

/// Which program a `Server` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// The binary of this build.
    Keelson,
    /// Real etcd 3.5.1.
    Etcd,
}

impl ServerKind {
    /// The program that the environment asks to be tested.
    pub fn under_test() -> ServerKind {
        match std::env::var("KEELSON_TEST_SERVER").as_deref() {
            Ok("etcd") => ServerKind::Etcd,
            Ok("keelson") | Err(_) => ServerKind::Keelson,
            Ok(other) => panic!("KEELSON_TEST_SERVER is {other:?}, want keelson or etcd"),
        }
    }

    /// The path of the program.
    pub fn program(self) -> PathBuf {
        match self {
            ServerKind::Keelson => PathBuf::from(env!("CARGO_BIN_EXE_keelson")),
            ServerKind::Etcd => etcd_binaries().etcd.clone(),
        }
    }

    /// etcd before 3.6 calls this flag experimental.
    fn progress_flag(self) -> &'static str {
        match self {
            ServerKind::Keelson => "--watch-progress-notify-interval",
            ServerKind::Etcd => "--experimental-watch-progress-notify-interval",
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    name: String,
    kind: ServerKind,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    only_own_flags: bool,
    config_file: Option<String>,
    data_dir: Option<PathBuf>,
}

impl ServerOptions {
    /// The server under test with etcd's defaults; `name` is the test's and names the folder.
    pub fn new(name: &str) -> ServerOptions {
        ServerOptions {
            name: name.to_owned(),
            kind: ServerKind::under_test(),
            flags: Vec::new(),
            environment: Vec::new(),
            only_own_flags: false,
            config_file: None,
            data_dir: None,
        }
    }

    /// Runs this program, whatever the environment asks for.
    pub fn kind(mut self, kind: ServerKind) -> ServerOptions {
        self.kind = kind;
        self
    }

    /// One more command-line flag, `--name=value`. `{client}`, `{peer}` and `{metrics}` stand for
    /// the server's URLs, `{data}` for its data directory.
    pub fn flag(mut self, flag: impl Into<String>) -> ServerOptions {
        self.flags.push(flag.into());
        self
    }

    /// Leaves out the flags that begin like this.
    pub fn without_flag(mut self, begin: &str) -> ServerOptions {
        self.flags.retain(|flag| !flag.starts_with(begin));
        self
    }

    /// Sets how often an idle watch with `progress_notify` hears of progress.
    pub fn progress_interval(self, interval: &str) -> ServerOptions {
        let flag = format!("{}={interval}", self.kind.progress_flag());
        self.flag(flag)
    }

    /// Makes checkpoints all the time, with a cache of values that is soon full. Nothing, for etcd.
    pub fn many_checkpoints(self) -> ServerOptions {
        match self.kind {
            ServerKind::Etcd => self,
            ServerKind::Keelson => self
                .flag("--snapshot-count=50")
                .flag("--checkpoint-log-bytes-min=32768")
                .flag("--wal-unit-bytes=512")
                .flag("--storage-memory-budget-bytes=1048576"),
        }
    }

    /// One more environment variable, filled in likewise.
    pub fn environment(mut self, name: &str, value: &str) -> ServerOptions {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A configuration file in place of all flags, filled in likewise.
    pub fn config_file(mut self, text: &str) -> ServerOptions {
        self.config_file = Some(text.to_owned());
        self.only_own_flags()
            .flag("--config-file={folder}/config.yaml")
    }

    /// Leaves out the flags that every server gets; the test gives them in another way.
    pub fn only_own_flags(mut self) -> ServerOptions {
        self.only_own_flags = true;
        self
    }

    /// Uses this data directory in place of one of the server's own.
    pub fn data_dir(mut self, data_dir: &Path) -> ServerOptions {
        self.data_dir = Some(data_dir.to_owned());
        self
    }

    /// Starts the server and waits until it serves; panics with its log if it does not.
    pub async fn start(self) -> Server {
        for attempt in 1.. {
            let mut server = self.clone().launch();
            match server.ready().await {
                Ok(()) => return server,
                Err(reason) => {
                    let lost_a_port = server.log().contains("address already in use")
                        || server.log().contains("Address already in use");
                    assert!(
                        lost_a_port && attempt < START_TRIES,
                        "{} did not start: {reason}\n{}",
                        server.options.name,
                        server.log_tail(),
                    );
                }
            }
        }
        unreachable!("the loop above returns or panics")
    }

    /// Starts the process without waiting for anything: for servers that ought to refuse.
    pub fn launch(self) -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("blackbox")
            .join(format!("{}-{}-{turn}", self.name, std::process::id()));
        fs::create_dir_all(&folder).expect("a folder under cargo's scratch folder can be made");
        let config = self.config_file.clone();
        let mut server = Server {
            client_port: free_port(),
            peer_port: free_port(),
            metrics_port: free_port(),
            child: None,
            folder,
            options: self,
        };
        if let Some(text) = config {
            let path = server.folder.join("config.yaml");
            fs::write(path, server.fill_in(&text)).expect("the configuration can be written");
        }
        server.spawn();
        server
    }
}

/// A running (or stopped, restartable) server.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    child: Option<Child>,
    folder: PathBuf,
    client_port: u16,
    peer_port: u16,
    metrics_port: u16,
}

impl Server {
    /// A server under test with default options.
    pub async fn start(name: &str) -> Server {
        ServerOptions::new(name).start().await
    }

    /// Which program runs.
    pub fn kind(&self) -> ServerKind {
        self.options.kind
    }

    /// `http://127.0.0.1:PORT` of the client listener.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `127.0.0.1:PORT` of the client listener.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// `127.0.0.1:PORT` that `with --listen-metrics-urls` would use; free, not listened on unless
    /// the test passes the flag.
    pub fn metrics_address(&self) -> String {
        format!("127.0.0.1:{}", self.metrics_port)
    }

    /// The URL the server advertises to peers.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// The directory given as `--data-dir`.
    pub fn data_dir(&self) -> PathBuf {
        let own = || self.folder.join("data");
        self.options.data_dir.clone().unwrap_or_else(own)
    }

    /// A folder of the test's own, removed with the server.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// gRPC clients on a connection of their own.
    pub async fn clients(&self) -> Clients {
        Clients::connect(&self.endpoint()).await
    }

    /// Everything the server has printed so far, over all its runs.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Resident memory now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("a running process has a status file");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("the status file gives VmRSS");
        let kib: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("VmRSS is a number of kB");
        kib * 1024
    }

    /// SIGTERM, then waits; SIGKILL and panic if the server does not end by itself.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        match self.wait_exit(DEADLINE).await {
            Some(status) => status,
            None => {
                self.kill9();
                panic!("the server did not stop on SIGTERM\n{}", self.log_tail());
            }
        }
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("process ids fit in i32");
        // SAFETY: kill takes two integers; the pid is a child of ours that was not waited for.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "kill: {}", std::io::Error::last_os_error());
    }

    /// SIGSTOP. When this returns all threads stand still: the signal itself only asks them to.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        let stands = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let after_name = stat.rsplit_once(") ").map_or("", |(_, after)| after);
            after_name.starts_with('T')
        };
        let begun = Instant::now();
        loop {
            let mut threads = std::fs::read_dir(&tasks).expect("the server runs");
            if threads.all(|task| stands(task.expect("a thread's directory"))) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "threads go on after SIGSTOP");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL, as if the power went.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours can be killed");
            child.wait().expect("a child of ours can be waited for");
        }
    }

    /// One more flag for the next start.
    pub fn add_flag(&mut self, flag: &str) {
        self.options.flags.push(flag.to_owned());
    }

    /// Without the flags that begin like this from the next start on.
    pub fn drop_flag(&mut self, begin: &str) {
        self.options = self.options.clone().without_flag(begin);
    }

    /// Starts a stopped or killed server again, and does not wait until it serves.
    pub fn relaunch(&mut self) {
        assert!(self.child.is_none(), "restart needs a stopped server");
        self.spawn();
    }

    /// Starts a stopped or killed server again: same data directory, same ports.
    pub async fn restart(&mut self) {
        self.relaunch();
        if let Err(reason) = self.ready().await {
            panic!("no restart: {reason}\n{}", self.log_tail());
        }
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_exit(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            let child = self.child.as_mut().expect("the server was started");
            if let Some(status) = child.try_wait().expect("a child of ours can be asked") {
                self.child = None;
                return Some(status);
            }
            if start.elapsed() > patience {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn spawn(&mut self) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("server.log"))
            .expect("the log file can be opened");
        let errors: File = log.try_clone().expect("a file handle can be duplicated");
        let mut command = Command::new(self.options.kind.program());
        command
            .args(self.arguments())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        for (name, value) in &self.options.environment {
            command.env(name, self.fill_in(value));
        }
        self.child = Some(launch::spawn(command).expect("the server program can be started"));
    }

    fn arguments(&self) -> Vec<String> {
        let usual: &[&str] = match self.options.only_own_flags {
            true => &[],
            false => &[
                "--name=m1",
                "--data-dir={data}",
                "--listen-client-urls={client}",
                "--advertise-client-urls={client}",
                "--listen-peer-urls={peer}",
                "--initial-advertise-peer-urls={peer}",
                "--initial-cluster=m1={peer}",
            ],
        };
        let own = self.options.flags.iter().map(String::as_str);
        let all = usual.iter().copied().chain(own);
        all.map(|flag| self.fill_in(flag)).collect()
    }

    /// Puts this server's URLs and directories in place of the names in braces.
    pub fn fill_in(&self, text: &str) -> String {
        text.replace("{client}", &self.endpoint())
            .replace("{peer}", &self.peer_url())
            .replace("{metrics}", &format!("http://{}", self.metrics_address()))
            .replace("{data}", &self.data_dir().display().to_string())
            .replace("{folder}", &self.folder.display().to_string())
    }

    async fn ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let child = self.child.as_mut().expect("the server was started");
            if let Some(status) = child.try_wait().expect("a child of ours can be asked") {
                self.child = None;
                return Err(format!("it ended with {status}"));
            }
            if let Ok(answer) = http::get(&self.address(), "/health?exclude=NOSPACE").await
                && answer.status == 200
            {
                return Ok(());
            }
            if start.elapsed() > DEADLINE {
                return Err("it does not answer /health".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let skip = log.len().saturating_sub(LOG_TAIL_BYTES);
        let skip = (skip..log.len()).find(|&at| log.is_char_boundary(at));
        let tail = &log[skip.unwrap_or(log.len())..];
        format!("--- log of {}:\n{tail}", self.folder.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both can only fail if the child is gone already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        } else {
            // A leftover folder harms nothing; `cargo clean` removes it.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
