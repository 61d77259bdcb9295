//! The kernel's version, and whether `io_uring` works.

use super::{Finding, Probes, SYSCTL_FILE};
use crate::machine::Root;

/// The first kernel with every operation that the log and the sockets use (polls that stay armed).
const KERNEL_MIN: (u32, u32) = (5, 13);
/// From here on `io_uring` has had years of repairs in long-term kernels, and runs completions when it is asked to.
const KERNEL_SENSIBLE: (u32, u32) = (6, 1);

const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const ENOSYS: i32 = 38;

pub(super) fn look(root: &Root, probes: &Probes, out: &mut Vec<Finding>) {
    out.push(version(root));
    out.push(rings(root, probes));
}

fn version(root: &Root) -> Finding {
    const ABOUT: &str = "kernel";
    let release = root.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let Some(version) = parse_version(&release) else {
        let says = format!("the kernel's version cannot be read from {release:?}");
        return Finding::warn(ABOUT, says, "make sure that it is Linux 5.13 or later");
    };
    let says = format!("Linux {release}");
    if version < KERNEL_MIN {
        let says = format!("{says}; a member needs 5.13 or later");
        return Finding::fatal(ABOUT, says, "boot a kernel of a long-term line from 6.1 on");
    }
    if version < KERNEL_SENSIBLE {
        let says = format!("{says} works; io_uring has been repaired in many places since");
        return Finding::note(
            ABOUT,
            says,
            "prefer a kernel of a long-term line from 6.1 on",
        );
    }
    Finding::ok(ABOUT, says)
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn rings(root: &Root, probes: &Probes) -> Finding {
    const ABOUT: &str = "io_uring";
    let failure = match &probes.rings {
        Ok(()) => return Finding::ok(ABOUT, "all rings of a member were set up and answer"),
        Err(failure) => failure,
    };
    let fatal =
        |why: &str, change: &str| Finding::fatal(ABOUT, format!("{}: {why}", failure.says), change);
    let disabled = root
        .number("/proc/sys/kernel/io_uring_disabled")
        .unwrap_or(0);
    let is_filtered = root.value("/proc/self/status", "Seccomp").as_deref() == Some("2");
    let filter = "let the seccomp profile of the container or unit allow io_uring_setup, \
                  io_uring_enter and io_uring_register; systemd has them in the set @aio";
    match failure.errno {
        Some(EPERM | EACCES) if disabled > 0 => fatal(
            &format!("the setting kernel.io_uring_disabled is {disabled}"),
            "allow io_uring",
        )
        .command("sysctl -w kernel.io_uring_disabled=0")
        .file(SYSCTL_FILE),
        Some(EPERM | ENOSYS) if is_filtered => {
            fatal("a seccomp filter forbids it to this process", filter)
        }
        Some(EPERM | EACCES) => fatal(
            "neither the setting kernel.io_uring_disabled nor a seccomp filter does it",
            "let the policy of SELinux or AppArmor allow io_uring; the audit log names the rule",
        ),
        Some(ENOSYS) => fatal(
            "the kernel is built without it",
            "boot a kernel with CONFIG_IO_URING=y",
        ),
        Some(ENOMEM) => fatal(
            "the limit of locked memory is too low for the number of cores",
            "raise the limit of locked memory (see locked memory), or take fewer cores",
        ),
        _ => fatal(
            "a member cannot do without",
            "boot a kernel of a long-term line from 6.1 on",
        ),
    }
}
