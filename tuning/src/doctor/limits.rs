//! What the system grants a process: locked memory, open files, addresses.

use super::{Finding, LIMITS_FILE, Needs, Probes, SYSCTL_FILE, shown_bytes};
use crate::machine::Root;

/// The executor refuses to start below this, whoever asks.
const MEMLOCK_FLOOR_BYTES: u64 = 512 << 10;

/// The rings of one executor, of 32 entries each.
const EXECUTOR_BYTES: u64 = 3 * (32 * RING_ENTRY_BYTES + RING_OVERHEAD_BYTES);

/// Bytes of a ring's entry: 64 in the submission queue, 4 in its index, at most four of 16 in the
/// completion queue.
const RING_ENTRY_BYTES: u64 = 132;
/// What the two parts of a ring are rounded up by at most, with their heads.
const RING_OVERHEAD_BYTES: u64 = 8 << 10;

/// Open files that leave room for the clients of a small cluster.
const FILES_SENSIBLE: u64 = 8_192;

/// `CAP_IPC_LOCK`: locked memory without limit.
const CAP_IPC_LOCK: u32 = 14;

/// A limit; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    soft: Option<u64>,
    hard: Option<u64>,
}

pub(super) fn look(root: &Root, needs: &Needs, out: &mut Vec<Finding>) {
    out.extend(locked_memory(root, needs));
    out.extend(open_files(root, needs));
}

fn locked_memory(root: &Root, needs: &Needs) -> Option<Finding> {
    const ABOUT: &str = "locked memory";
    let limit = limit(root, "Max locked memory")?;
    let ring = |entries: u64| entries * RING_ENTRY_BYTES + RING_OVERHEAD_BYTES;
    let rings = needs.core_count * (ring(needs.uring_entries) + EXECUTOR_BYTES)
        + ring(needs.log_ring_entries);
    let needed = rings.max(MEMLOCK_FLOOR_BYTES);
    let wanted_kib = needed.next_power_of_two().max(8 << 20) >> 10;
    let Some(soft) = limit.soft else {
        return Some(Finding::ok(ABOUT, "no limit"));
    };
    let says = format!("the limit is {}", shown_bytes(soft));
    let change = format!(
        "raise it to {}: LimitMEMLOCK= in a unit, --ulimit memlock= of a container, or this file",
        shown_bytes(wanted_kib << 10)
    );
    let command = format!("ulimit -l {wanted_kib}");
    if soft < MEMLOCK_FLOOR_BYTES {
        let floor = shown_bytes(MEMLOCK_FLOOR_BYTES);
        let says = format!("{says}; the executors do not start below {floor}");
        return Some(
            Finding::fatal(ABOUT, says, change)
                .command(command)
                .file(LIMITS_FILE),
        );
    }
    let is_exempt = has_capability(root, CAP_IPC_LOCK);
    let says = format!(
        "{says}, and {} cores need {}",
        needs.core_count,
        shown_bytes(needed)
    );
    if soft < needed && !is_exempt {
        let says = format!("{says} where the kernel counts rings, as 5.11 and recent ones do");
        return Some(
            Finding::warn(ABOUT, says, change)
                .command(command)
                .file(LIMITS_FILE),
        );
    }
    Some(Finding::ok(ABOUT, says))
}

fn open_files(root: &Root, needs: &Needs) -> Option<Finding> {
    const ABOUT: &str = "open files";
    let limit = limit(root, "Max open files")?;
    let needed = needs.core_count * needs.files_per_core + needs.files_fixed;
    let Some(hard) = limit.hard else {
        return Some(Finding::ok(ABOUT, "no limit"));
    };
    let says = format!("{hard} at most, {needed} of them for the member itself");
    let change = "raise the hard limit to 1048576, which a member takes for itself: LimitNOFILE= in \
                  a unit, --ulimit nofile= of a container, or this file";
    let command = "ulimit -Hn 1048576";
    let finding = if hard < needed {
        Finding::fatal(ABOUT, says, change)
    } else if hard < needed + FILES_SENSIBLE {
        let says = format!("{says}; every connection takes one");
        Finding::warn(ABOUT, says, change)
    } else {
        return Some(Finding::ok(ABOUT, says));
    };
    Some(finding.command(command).file(LIMITS_FILE))
}

pub(super) fn look_at_ports(root: &Root, needs: &Needs, probes: &Probes, out: &mut Vec<Finding>) {
    const ABOUT: &str = "addresses";
    for port in &probes.ports {
        if let Err(why) = &port.outcome {
            let says = format!("cannot listen on {}: {why}", port.address);
            let number = port.address.rsplit(':').next().unwrap_or_default();
            let change = format!("stop what uses it, or change {}", port.flag);
            let command = format!("ss -ltnp 'sport = :{number}'");
            out.push(Finding::fatal(ABOUT, says, change).command(command));
        }
    }
    if probes.ports.iter().all(|port| port.outcome.is_ok()) {
        let all: Vec<&str> = probes.ports.iter().map(|port| &*port.address).collect();
        out.push(Finding::ok(
            ABOUT,
            format!("{} can be listened on", all.join(", ")),
        ));
    }
    if let Some(max) = root.number("/proc/sys/net/core/somaxconn")
        && max < needs.listen_backlog
    {
        let says = format!(
            "net.core.somaxconn is {max}: when many clients come back at once, some are told to wait"
        );
        let change = format!("raise it to {}", needs.listen_backlog);
        let command = format!("sysctl -w net.core.somaxconn={}", needs.listen_backlog);
        out.push(
            Finding::note("backlog", says, change)
                .command(command)
                .file(SYSCTL_FILE),
        );
    }
}

/// A row of `/proc/self/limits`: the name, then soft and hard limit in columns.
fn limit(root: &Root, name: &str) -> Option<Limit> {
    let text = root.read("/proc/self/limits")?;
    let row = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut columns = row.split_whitespace();
    let mut column = || match columns.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Limit {
        soft: column()?,
        hard: column()?,
    })
}

fn has_capability(root: &Root, number: u32) -> bool {
    let mask = root.value("/proc/self/status", "CapEff");
    mask.and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .is_some_and(|mask| mask >> number & 1 == 1)
}
