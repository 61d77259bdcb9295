//! `keelson doctor`: whether a member can start on this machine, and what would help it.
//!
//! The server fills in [`Needs`] from its configuration and [`Probes`] from what it tried; the rest
//! is read below a [`Root`]. [`examine`] makes a list of [`Finding`]s out of that and does nothing
//! else, so every finding has a test with a machine made of files.
//!
//! ```text
//!   config -> Needs --\
//!   io_uring, disk, ports, directory -> Probes --> examine -> findings -> text or JSON, exit code
//!   /proc, /sys -> Root --/
//! ```
//!
//! Invariants:
//! 1. A [`Level::Fatal`] finding means that a member with these needs does not start here, and its
//!    absence that it does, as far as can be told without starting one.
//! 2. Everything that is not in order says what to change (a test looks at every finding).

mod disk;
mod kernel;
mod limits;
mod memory;
mod processor;

use std::path::PathBuf;

use serde::Serialize;

use crate::machine::Root;

/// The files of `tuning/system/` that findings point to.
const SYSCTL_FILE: &str = "tuning/system/90-keelson-sysctl.conf";
/// Limits for members that systemd does not start.
const LIMITS_FILE: &str = "tuning/system/90-keelson-limits.conf";
/// The rules for the disk.
const UDEV_FILE: &str = "tuning/system/90-keelson-disk.rules";
/// What is written below `/sys` at every start.
const TMPFILES_FILE: &str = "tuning/system/90-keelson-tmpfiles.conf";

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// In order.
    Ok,
    /// Could be better, or worth knowing.
    Note,
    /// Costs speed or safety.
    Warn,
    /// The member cannot start.
    Fatal,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, in a word or two.
    pub about: &'static str,
    /// What was found.
    pub says: String,
    /// What to change, in words; `None` only when all is in order.
    pub change: Option<String>,
    /// The command that does it, if one does.
    pub command: Option<String>,
    /// The file that does it for good, as a path in the repository.
    pub file: Option<&'static str>,
}

/// What the member would be.
#[derive(Clone, Debug)]
pub struct Needs {
    /// The data directory, absolute.
    pub data_dir: PathBuf,
    /// The nearest directory above it, or itself, that exists; absolute and without links.
    pub existing_dir: PathBuf,
    /// Whether writes must be durable (not `--unsafe-no-fsync`).
    pub is_durable: bool,
    /// Cores to run on.
    pub core_count: u64,
    /// `runtime.uring_entries`.
    pub uring_entries: u64,
    /// Entries of the log's own ring.
    pub log_ring_entries: u64,
    /// Files that a member has open before its first client: per core, and besides.
    pub files_per_core: u64,
    /// The latter, with the segments of the log that exists.
    pub files_fixed: u64,
    /// The backlog it asks for when it listens.
    pub listen_backlog: u64,
    /// `--quota-backend-bytes`; `None` when switched off.
    pub quota_bytes: Option<u64>,
    /// `wal.segment_bytes`.
    pub segment_bytes: u64,
    /// The largest block of a disk that the log can write.
    pub log_block_bytes: u64,
    /// `wal.unit_bytes`.
    pub log_unit_bytes: u64,
}

/// What was tried, with the reason where it failed.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Whether all of a member's rings could be set up at once.
    pub rings: Result<(), RingFailure>,
    /// Whether the directory is a member's, or can become one; or what is wrong with it.
    pub data_dir: Result<DirState, String>,
    /// A durable write; `None` if it was not tried.
    pub durable_write: Option<Result<(), String>>,
    /// Bytes free to this user on the filesystem of the data directory.
    pub free_bytes: Option<u64>,
    /// The cores of `--cores`, or why they cannot be had.
    pub cores: Result<Vec<u32>, String>,
    /// The addresses to listen on, each with its flag and why it cannot be had.
    pub ports: Vec<PortProbe>,
}

/// Why rings could not be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingFailure {
    /// The system's error number, when it was the system that refused.
    pub errno: Option<i32>,
    /// The sentence.
    pub says: String,
}

/// What a data directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirState {
    /// A member's.
    Created,
    /// Empty, or not there yet.
    New,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortProbe {
    /// As `127.0.0.1:2379`.
    pub address: String,
    /// The flag that names it.
    pub flag: &'static str,
    /// Whether it could be bound.
    pub outcome: Result<(), String>,
}

/// Looks at everything, in the order in which a start would meet it.
#[must_use]
pub fn examine(root: &Root, needs: &Needs, probes: &Probes) -> Vec<Finding> {
    let mut findings = Vec::new();
    kernel::look(root, probes, &mut findings);
    limits::look(root, needs, &mut findings);
    disk::look(root, needs, probes, &mut findings);
    processor::look(root, probes, &mut findings);
    memory::look(root, needs, &mut findings);
    limits::look_at_ports(root, needs, probes, &mut findings);
    findings
}

/// Whether nothing in the list keeps a member from starting.
#[must_use]
pub fn can_start(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level < Level::Fatal)
}

impl Finding {
    fn new(level: Level, about: &'static str, says: impl Into<String>) -> Self {
        Self {
            level,
            about,
            says: says.into(),
            change: None,
            command: None,
            file: None,
        }
    }

    fn ok(about: &'static str, says: impl Into<String>) -> Self {
        Self::new(Level::Ok, about, says)
    }

    fn note(about: &'static str, says: impl Into<String>, change: impl Into<String>) -> Self {
        Self::new(Level::Note, about, says).change(change)
    }

    fn warn(about: &'static str, says: impl Into<String>, change: impl Into<String>) -> Self {
        Self::new(Level::Warn, about, says).change(change)
    }

    fn fatal(about: &'static str, says: impl Into<String>, change: impl Into<String>) -> Self {
        Self::new(Level::Fatal, about, says).change(change)
    }

    fn change(mut self, change: impl Into<String>) -> Self {
        self.change = Some(change.into());
        self
    }

    fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    fn file(mut self, file: &'static str) -> Self {
        self.file = Some(file);
        self
    }
}

/// A number of bytes for people.
fn shown_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod doctor_tests;
