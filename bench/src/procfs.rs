//! What a process has used so far, read from /proc.
//!
//! The figures are the kernel's own accounting, so they cover every thread of a server and nothing
//! of the load generator. Two limits to keep in mind when reading them: CPU time comes in clock
//! ticks (10 ms), and `write_calls` counts write(2) and its kin, sockets included, but not writes
//! submitted through io_uring. `written_bytes` is counted where pages and direct IO are charged to
//! the process, so it holds for both ways.

use std::fs;
use std::ops::{Add, Sub};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// Written to `clear_refs`, it sets the highest resident set back to the present one.
const RESET_PEAK: &str = "5";

/// What one process, or several together, have used since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User plus system time of all threads, ended ones included.
    pub cpu_seconds: f64,
    /// System calls of the write family.
    pub write_calls: u64,
    /// Bytes handed to the storage layer.
    pub written_bytes: u64,
    /// Highest resident set so far, or since [`reset_peak`].
    pub rss_bytes_peak: u64,
    /// Resident set now.
    pub rss_bytes: u64,
}

impl Usage {
    /// Reads the usage of a process we may look into (same user, or root).
    pub fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let ticks = cpu_ticks(&read("stat")?).context("unexpected form of /proc/PID/stat")?;
        let io = read("io")?;
        let status = read("status")?;
        Ok(Self {
            cpu_seconds: ticks as f64 / ticks_per_second,
            write_calls: field(&io, "syscw:").context("no syscw in /proc/PID/io")?,
            written_bytes: field(&io, "write_bytes:").context("no write_bytes in /proc/PID/io")?,
            rss_bytes_peak: 1024
                * field(&status, "VmHWM:").context("no VmHWM in /proc/PID/status")?,
            rss_bytes: 1024 * field(&status, "VmRSS:").context("no VmRSS in /proc/PID/status")?,
        })
    }
}

/// Sums over processes; a sum of peaks is the most that all together can have held.
impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            write_calls: self.write_calls + other.write_calls,
            written_bytes: self.written_bytes + other.written_bytes,
            rss_bytes_peak: self.rss_bytes_peak + other.rss_bytes_peak,
            rss_bytes: self.rss_bytes + other.rss_bytes,
        }
    }
}

/// What was used between two readings; resident sets are the later one's.
impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            write_calls: self.write_calls.saturating_sub(earlier.write_calls),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            ..self
        }
    }
}

/// Lets the highest resident set of a process begin anew. False if the kernel does not let us.
pub fn reset_peak(pid: u32) -> bool {
    fs::write(format!("/proc/{pid}/clear_refs"), RESET_PEAK).is_ok()
}

/// CPU time of this process, exact: for runs in which a clock tick would be much.
pub fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // A process clock starts at 0 and its nanoseconds stay below a second.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// CPU seconds that all CPUs of the machine were busy with anything, kernel threads included.
pub fn machine_busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let ticks = busy_ticks(&stat).context("unexpected form of /proc/stat")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The `cpu` line: user, nice, system, idle, iowait, irq, softirq, and then what other machines on the
/// same host took, and guests, which are in user already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Option<Vec<u64>> = line
        .split_ascii_whitespace()
        .map(|field| field.parse().ok())
        .collect();
    match ticks?[..] {
        [user, nice, system, _idle, _iowait, irq, softirq, ..] => {
            Some(user + nice + system + irq + softirq)
        }
        _ => None,
    }
}

/// `utime + stime` of a stat line. The command name may hold spaces and brackets, so fields are
/// counted from its last closing bracket: state is the first, utime the twelfth.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

/// The number behind `name` on the line that starts with it.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_command_name() {
        let stat = "71 (a) b (c)) S 1 71 71 0 -1 4194304 900 0 3 0 250 75 9 9 20 0 12 0 4242 1 2";
        assert_eq!(cpu_ticks(stat), Some(325));
        assert_eq!(cpu_ticks("71 (etcd) S 1 71"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn busy_time_leaves_out_idle_waiting_and_stolen() {
        let stat = "cpu  100 20 3 9000 800 4 5 700 60 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(132));
        assert_eq!(busy_ticks("cpu0 1 2 3 4 5 6 7"), None);
        assert!(machine_busy_seconds().unwrap() > 0.0);
        assert!(own_cpu_time() > Duration::ZERO);
    }

    #[test]
    fn fields_match_whole_names() {
        let io = "rchar: 10\nwchar: 20\nsyscr: 3\nsyscw: 4\nread_bytes: 0\nwrite_bytes: 8192\ncancelled_write_bytes: 7\n";
        assert_eq!(field(io, "syscw:"), Some(4));
        assert_eq!(field(io, "write_bytes:"), Some(8192));
        assert_eq!(
            field("VmPeak:\t 9 kB\nVmHWM:\t  5120 kB\n", "VmHWM:"),
            Some(5120)
        );
        assert_eq!(field(io, "absent:"), None);
    }

    #[test]
    fn usages_add_up_and_tell_what_a_window_took() {
        let one = Usage {
            cpu_seconds: 1.5,
            write_calls: 10,
            written_bytes: 4096,
            rss_bytes_peak: 300,
            rss_bytes: 200,
        };
        let sum = one + one;
        assert_eq!(
            (sum.cpu_seconds, sum.write_calls, sum.rss_bytes),
            (3.0, 20, 400)
        );
        let window = sum - one;
        assert_eq!((window.cpu_seconds, window.written_bytes), (1.5, 4096));
        assert_eq!((window.rss_bytes_peak, window.rss_bytes), (600, 400));
    }

    #[test]
    fn this_process_has_a_usage() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0);
        assert!(usage.rss_bytes_peak >= usage.rss_bytes);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
