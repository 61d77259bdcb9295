//! Cores, their clock and their clock source.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Finding, Probes, TMPFILES_FILE};
use crate::machine::Root;

/// Clock sources that are read without a system call.
const FAST_CLOCKS: [&str; 5] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
    "riscv_clocksource",
];
/// Clock sources that are read from a slow device.
const SLOW_CLOCKS: [&str; 4] = ["hpet", "acpi_pm", "jiffies", "refined-jiffies"];

pub(super) fn look(root: &Root, probes: &Probes, out: &mut Vec<Finding>) {
    out.push(cores(root, probes));
    out.extend(governor(root));
    out.extend(clock_source(root));
}

fn cores(root: &Root, probes: &Probes) -> Finding {
    const ABOUT: &str = "cores";
    let cores = match &probes.cores {
        Ok(cores) => cores,
        Err(why) => return Finding::fatal(ABOUT, why.clone(), "choose others with --cores"),
    };
    let listed: Vec<String> = cores.iter().map(ToString::to_string).collect();
    let says = format!("{} for this member: {}", cores.len(), listed.join(","));
    match cpu_quota(root) {
        Some(quota) if quota < cores.len() as f64 => {
            let says = format!(
                "{says}, but the control group grants {quota:.1} CPUs: when they are used up, all cores stand still"
            );
            let fitting = (quota as usize).max(1);
            let change = format!("start with --cores={fitting}, or raise the limit of CPU");
            Finding::warn(ABOUT, says, change)
        }
        _ => Finding::ok(ABOUT, says),
    }
}

/// CPUs that the control group or one above it grants (version 2).
fn cpu_quota(root: &Root) -> Option<f64> {
    let files = control_group_files(root, "cpu.max");
    let quotas = files.iter().filter_map(|text| {
        let (quota, period) = text.split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    quotas.reduce(f64::min)
}

/// A file of this process's control group and of all above it.
pub(super) fn control_group_files(root: &Root, name: &str) -> Vec<String> {
    let groups = root.read("/proc/self/cgroup").unwrap_or_default();
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Vec::new();
    };
    let below = Path::new(group.trim_start_matches('/'));
    let paths = below
        .ancestors()
        .map(|path| Path::new("/sys/fs/cgroup").join(path).join(name));
    paths.filter_map(|path| root.read(path)).collect()
}

fn governor(root: &Root) -> Option<Finding> {
    const ABOUT: &str = "CPU governor";
    let cpus = fs::read_dir(root.path("/sys/devices/system/cpu")).ok()?;
    let governors: BTreeSet<String> = cpus
        .filter_map(|cpu| Root::at(&cpu.ok()?.path()).read("cpufreq/scaling_governor"))
        .collect();
    let all: Vec<&str> = governors.iter().map(String::as_str).collect();
    match *all {
        [] => Some(Finding::ok(
            ABOUT,
            "not visible here, as in most virtual machines",
        )),
        ["performance"] => Some(Finding::ok(ABOUT, "performance")),
        _ => Some(
            Finding::note(
                ABOUT,
                format!(
                    "{}: cores that sleep between requests wake up slow",
                    all.join(", ")
                ),
                "keep the clock up, where power is no concern",
            )
            .command("cpupower frequency-set -g performance")
            .file(TMPFILES_FILE),
        ),
    }
}

fn clock_source(root: &Root) -> Option<Finding> {
    const ABOUT: &str = "clock source";
    const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";
    let source = root.read(format!("{FOLDER}/current_clocksource"))?;
    if FAST_CLOCKS.contains(&&*source) {
        return Some(Finding::ok(ABOUT, source));
    }
    let available = root
        .read(format!("{FOLDER}/available_clocksource"))
        .unwrap_or_default();
    let better = available
        .split_whitespace()
        .find(|source| FAST_CLOCKS.contains(source));
    let says = format!("{source}: every look at the clock is a slow one");
    let finding = match better {
        Some(better) => Finding::warn(ABOUT, says, format!("{better} is there; choose it, and find out from the kernel's log why it was not chosen"))
            .command(format!("echo {better} > {FOLDER}/current_clocksource")),
        None if SLOW_CLOCKS.contains(&&*source) => {
            Finding::warn(ABOUT, says, "look in the kernel's log for why tsc was given up, and in the settings of the host")
        }
        None => Finding::note(ABOUT, format!("{source}, which this program knows nothing about"), "prefer tsc, or the host's own clock, where there is a choice"),
    };
    Some(finding)
}
