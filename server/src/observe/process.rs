//! Facts about the process, read from `/proc` when a scrape asks for them.
//!
//! Everything is optional: in a container without `/proc` the lines are left out rather than
//! filled with zeros.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// What the kernel says about this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    /// Open file descriptors.
    pub fds_open: Option<u64>,
    /// Most file descriptors that may be open (soft limit).
    pub fds_max: Option<u64>,
    /// CPU time in user and kernel mode, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Address space.
    pub virtual_bytes: Option<u64>,
    /// Unix time of the start, in seconds.
    pub start_seconds: Option<f64>,
}

impl ProcessFacts {
    /// Asks the kernel.
    pub fn read() -> Self {
        let ticks = ticks_per_second();
        let stat = fs::read_to_string("/proc/self/stat")
            .ok()
            .and_then(|text| Stat::parse(&text));
        let booted = fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| boot_seconds(&text));
        Self {
            fds_open: fds_open(),
            fds_max: fds_max(),
            cpu_seconds: stat.as_ref().map(|stat| stat.cpu_ticks as f64 / ticks),
            resident_bytes: stat.as_ref().map(|stat| stat.resident_pages * page_bytes()),
            virtual_bytes: stat.as_ref().map(|stat| stat.virtual_bytes),
            start_seconds: stat
                .as_ref()
                .zip(booted)
                .map(|(stat, booted)| booted as f64 + stat.start_ticks as f64 / ticks),
        }
    }
}

/// The fields of `/proc/self/stat` that are of use (`man 5 proc_pid_stat`).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// Reads the line. The command's name may hold spaces and brackets, so counting starts after
    /// its last bracket, where field 3 follows.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

/// Unix time of the machine's start, from `/proc/stat`.
fn boot_seconds(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

/// Counts the open descriptors. Newer kernels give the count as the directory's size, which spares
/// a busy member the walk over every connection.
fn fds_open() -> Option<u64> {
    let counted = fs::metadata("/proc/self/fd").ok()?.size();
    if counted > 0 {
        return Some(counted);
    }
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    // The walk itself holds one descriptor open.
    Some(entries.saturating_sub(1) as u64)
}

fn fds_max() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live, writable rlimit for the length of the call, which keeps no pointer.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (outcome == 0).then_some(limit.rlim_cur)
}

fn page_bytes() -> u64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_an_odd_command_name() {
        let line = "12 (a (b) c) S 1 12 12 0 -1 4194560 100 0 0 0 70 30 0 0 20 0 3 0 5000 \
                    1048576 256 18446744073709551615 1 1 0";
        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                cpu_ticks: 100,
                start_ticks: 5000,
                virtual_bytes: 1_048_576,
                resident_pages: 256
            })
        );
        assert_eq!(Stat::parse("12 (x) S 1"), None);
        assert_eq!(
            boot_seconds("cpu 1 2\nbtime 1700000000\n"),
            Some(1_700_000_000)
        );
    }

    #[test]
    fn this_process_has_facts() {
        let facts = ProcessFacts::read();
        assert!(facts.fds_open.unwrap() >= 3);
        assert!(facts.fds_max.unwrap() >= facts.fds_open.unwrap());
        assert!(facts.resident_bytes.unwrap() > 100_000);
        assert!(facts.start_seconds.unwrap() > 1.6e9);
    }
}
