//! Memory: enough of it, its pages, and swap.

use super::processor::control_group_files;
use super::{Finding, Needs, SYSCTL_FILE, TMPFILES_FILE, shown_bytes};
use crate::machine::{Root, chosen};

/// Above this the kernel swaps out pages of programs for the sake of files.
const SWAPPINESS_SENSIBLE: u64 = 10;

pub(super) fn look(root: &Root, needs: &Needs, out: &mut Vec<Finding>) {
    out.extend(size(root, needs));
    out.extend(huge_pages(root));
    out.push(swap(root));
}

/// All keys with their history are in memory.
fn size(root: &Root, needs: &Needs) -> Option<Finding> {
    const ABOUT: &str = "memory";
    let total = root.value("/proc/meminfo", "MemTotal")?;
    let total = 1024 * total.strip_suffix(" kB")?.parse::<u64>().ok()?;
    let limits = control_group_files(root, "memory.max");
    let limits = limits.iter().filter_map(|text| text.parse::<u64>().ok());
    let granted = limits.chain([total]).min().unwrap_or(total);
    let says = format!("{} for this process", shown_bytes(granted));
    let Some(quota) = needs.quota_bytes else {
        let says = format!("{says}, and no quota: all keys with their history are in memory");
        let change =
            "set --quota-backend-bytes, so that writes end with an alarm and not with the process";
        return Some(Finding::note(ABOUT, says, change));
    };
    let says = format!("{says}, the quota is {}", shown_bytes(quota));
    if quota > granted {
        let says = format!("{says}: all keys with their history are in memory");
        let change = "lower --quota-backend-bytes, or give the member more memory";
        return Some(Finding::warn(ABOUT, says, change));
    }
    Some(Finding::ok(ABOUT, says))
}

fn huge_pages(root: &Root) -> Option<Finding> {
    const ABOUT: &str = "huge pages";
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let choices = root.read(FILE)?;
    let choice = chosen(&choices)?;
    if choice != "always" {
        return Some(Finding::ok(ABOUT, format!("transparent ones: {choice}")));
    }
    let says = "transparent ones always: memory grows in steps of megabytes, and the kernel stops \
                a core to make room for one";
    Some(
        Finding::note(ABOUT, says, "give them only to programs that ask")
            .command(format!("echo madvise > {FILE}"))
            .file(TMPFILES_FILE),
    )
}

fn swap(root: &Root) -> Finding {
    const ABOUT: &str = "swap";
    let swaps = root.read("/proc/swaps").unwrap_or_default();
    // The first line is a heading.
    let names: Vec<&str> = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if names.is_empty() {
        return Finding::ok(ABOUT, "none");
    }
    let swappiness = root.number("/proc/sys/vm/swappiness").unwrap_or(60);
    let says = format!("{}, and vm.swappiness is {swappiness}", names.join(", "));
    if swappiness <= SWAPPINESS_SENSIBLE {
        let change = "switch swap off on a machine that does nothing else";
        return Finding::note(ABOUT, says, change).command("swapoff -a");
    }
    let says = format!("{says}: a core that waits for a page of its own stops all its clients");
    Finding::warn(
        ABOUT,
        says,
        "let the kernel give up files before programs, or switch swap off",
    )
    .command("sysctl -w vm.swappiness=1")
    .file(SYSCTL_FILE)
}
