//! The data directory, its filesystem, and the disk under it.

use super::{DirState, Finding, Needs, Probes, UDEV_FILE, shown_bytes};
use crate::machine::{Disk, Filesystem, Root};

pub(super) fn look(root: &Root, needs: &Needs, probes: &Probes, out: &mut Vec<Finding>) {
    out.push(directory(needs, probes));
    let filesystem = Filesystem::below(root, &needs.existing_dir);
    if let Some(filesystem) = &filesystem {
        out.push(kind(needs, filesystem));
        out.extend(options(needs, filesystem));
    }
    out.push(durable_write(probes));
    out.extend(free_space(needs, probes));
    let under = filesystem.and_then(|filesystem| {
        let disk = Disk::under(root, &filesystem)?;
        Some((filesystem, disk))
    });
    if let Some((filesystem, disk)) = under {
        out.extend(journal(root, &filesystem, &disk));
        out.extend(write_cache(&disk));
        for disk in disk.all() {
            out.extend(block(needs, disk));
            out.extend(scheduler(disk));
            out.extend(rotational(disk));
        }
    }
}

fn directory(needs: &Needs, probes: &Probes) -> Finding {
    const ABOUT: &str = "data directory";
    let path = needs.data_dir.display();
    match &probes.data_dir {
        Ok(DirState::Created) => Finding::ok(ABOUT, format!("{path} holds a member")),
        Ok(DirState::New) => Finding::ok(ABOUT, format!("{path} can become a member's")),
        Err(why) => Finding::fatal(
            ABOUT,
            why.clone(),
            "free the directory, or name another one with --data-dir",
        ),
    }
}

fn kind(needs: &Needs, filesystem: &Filesystem) -> Finding {
    const ABOUT: &str = "filesystem";
    let mount = filesystem.mount_point.display();
    let says = format!("{} on {mount}", filesystem.kind);
    let move_away = "put the data directory on a local disk with ext4 or xfs (--data-dir)";
    if filesystem.is_memory() && needs.is_durable {
        let says =
            format!("{says} keeps files in memory: nothing survives a restart of the machine");
        return Finding::fatal(ABOUT, says, move_away);
    }
    match filesystem.kind.as_str() {
        "ext4" | "xfs" => Finding::ok(ABOUT, says),
        "btrfs" | "zfs" | "bcachefs" | "f2fs" => {
            let says = format!(
                "{says} writes every block to a new place, which a log that is written in place pays for"
            );
            Finding::warn(ABOUT, says, move_away)
        }
        "overlay" => {
            let says = format!("{says} is the layer of a container: it ends with the container");
            Finding::warn(
                ABOUT,
                says,
                "mount a volume and put the data directory there",
            )
        }
        "tmpfs" | "ramfs" | "devtmpfs" => {
            let says = format!("{says} keeps files in memory, as --unsafe-no-fsync allows");
            Finding::note(ABOUT, says, move_away)
        }
        _ => {
            let says = format!("{says} is not one that members are tested on");
            Finding::warn(ABOUT, says, move_away)
        }
    }
}

/// What the mount options say about safety and speed.
fn options(needs: &Needs, filesystem: &Filesystem) -> Option<Finding> {
    const ABOUT: &str = "mount options";
    let mount = filesystem.mount_point.display().to_string();
    let remount = |option: &str| format!("mount -o remount,{option} {mount}");
    if filesystem.has_option("ro") {
        let says = format!("{mount} is mounted read-only");
        return Some(
            Finding::fatal(
                ABOUT,
                says,
                "mount it writable, and look for the reason in the kernel's log",
            )
            .command(remount("rw")),
        );
    }
    let careless = ["nobarrier", "barrier=0"]
        .into_iter()
        .find(|option| filesystem.has_option(option));
    if let Some(option) = careless.filter(|_| needs.is_durable) {
        let says = format!(
            "{option}: the disk is never told to keep what is in its cache, so a power cut loses writes that were acknowledged"
        );
        return Some(
            Finding::warn(
                ABOUT,
                says,
                "mount it with barriers, here and in /etc/fstab",
            )
            .command(remount("barrier=1")),
        );
    }
    if filesystem.has_option("data=journal") {
        return Some(Finding::warn(
            ABOUT,
            "data=journal: every byte of the log is written twice, and not directly",
            "mount it with data=ordered, in /etc/fstab, and restart the machine",
        ));
    }
    None
}

/// ext4 shows its journal in a folder of its own.
fn journal(root: &Root, filesystem: &Filesystem, disk: &Disk) -> Option<Finding> {
    if filesystem.kind != "ext4" {
        return None;
    }
    let folder = std::fs::read_dir(root.path("/proc/fs/jbd2")).ok()?;
    let prefix = format!("{}-", disk.name);
    let is_there = folder
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .any(|name| name.starts_with(&prefix));
    let says = match is_there {
        true => "ext4 has one; the log writes into blocks that exist, past it",
        false => "ext4 without one: quick, but a machine that crashed checks the whole filesystem",
    };
    Some(Finding::ok("journal", says))
}

fn durable_write(probes: &Probes) -> Finding {
    const ABOUT: &str = "durable write";
    match &probes.durable_write {
        Some(Ok(())) => Finding::ok(
            ABOUT,
            "one aligned block was written with O_DIRECT and RWF_DSYNC",
        ),
        Some(Err(why)) => Finding::fatal(
            ABOUT,
            why.clone(),
            "mend what it says, or choose another --data-dir",
        ),
        None => Finding::note(
            ABOUT,
            "--unsafe-no-fsync: not tried, and what is acknowledged may be lost",
            "leave --unsafe-no-fsync out for data that matters",
        ),
    }
}

fn free_space(needs: &Needs, probes: &Probes) -> Option<Finding> {
    const ABOUT: &str = "free space";
    let free = probes.free_bytes?;
    let says = format!("{} free", shown_bytes(free));
    let is_new = probes.data_dir == Ok(DirState::New);
    if is_new && free < needs.segment_bytes {
        let says = format!(
            "{says}; the first segment of the log takes {}",
            shown_bytes(needs.segment_bytes)
        );
        return Some(Finding::fatal(
            ABOUT,
            says,
            "free space, or lower --wal-segment-bytes",
        ));
    }
    let quota = needs.quota_bytes.unwrap_or(0);
    // Two segments beyond what is written are prepared at any time.
    let wanted = quota + 2 * needs.segment_bytes;
    if free < wanted {
        let says = format!(
            "{says}, less than the quota and two segments, {}",
            shown_bytes(wanted)
        );
        let change = "give the directory a larger disk, or lower --quota-backend-bytes";
        return Some(Finding::warn(ABOUT, says, change));
    }
    Some(Finding::ok(ABOUT, says))
}

fn write_cache(disk: &Disk) -> Option<Finding> {
    const ABOUT: &str = "write cache";
    let name = &disk.name;
    Some(match (disk.write_cache.as_deref()?, disk.fua) {
        ("write through", _) => Finding::ok(
            ABOUT,
            format!("{name} keeps nothing in a cache that a power cut empties, or says so"),
        ),
        (_, Some(true)) => Finding::ok(
            ABOUT,
            format!("{name} can write through its cache (FUA): a durable write is one command"),
        ),
        (cache, _) => Finding::note(
            ABOUT,
            format!(
                "{name} has a {cache} cache and no FUA: a durable write is a write and a flush of the whole cache"
            ),
            "a disk with power-loss protection, or one that takes FUA, answers sooner; \"keelson-bench disk\" shows what this one can do",
        ),
    })
}

fn block(needs: &Needs, disk: &Disk) -> Option<Finding> {
    let bytes = disk.logical_block_bytes?;
    let says = format!("{} takes blocks of {bytes} bytes", disk.name);
    if bytes <= needs.log_block_bytes {
        return Some(unit(needs, disk, says));
    }
    let says = format!(
        "{says}, and the log is written in blocks of {}",
        needs.log_block_bytes
    );
    Some(Finding::fatal(
        "alignment",
        says,
        "choose another disk, or format this one with blocks of 4096 bytes",
    ))
}

/// Whether the log fills up more than it has to, or writes less than is safe on any disk.
fn unit(needs: &Needs, disk: &Disk, says: String) -> Finding {
    let unit_bytes = Disk::log_unit_bytes(Some(disk), needs.log_unit_bytes);
    let Some(physical) = disk.physical_block_bytes else {
        return Finding::ok("alignment", says);
    };
    let says = format!(
        "{says} and writes {physical} in place: the log fills its groups up to {unit_bytes}"
    );
    if unit_bytes < physical {
        let change = "keep it only if the disk has power-loss protection, else set wal.unit_bytes = 0: a power cut during \
                      a write may damage the rest of the block, which was acknowledged before";
        return Finding::note("alignment", says, change);
    }
    if disk.logical_block_bytes < Some(unit_bytes) {
        let change = "if the disk has power-loss protection, wal.unit_bytes = 512 (as in the profile nvme) writes less to it";
        return Finding::note("alignment", says, change);
    }
    Finding::ok("alignment", says)
}

fn scheduler(disk: &Disk) -> Option<Finding> {
    const ABOUT: &str = "scheduler";
    let name = &disk.name;
    let scheduler = disk.scheduler_in_use()?;
    if matches!(scheduler, "none" | "mq-deadline") {
        return Some(Finding::ok(ABOUT, format!("{scheduler} on {name}")));
    }
    let says =
        format!("{scheduler} on {name} puts writes in an order of its own, and each one later");
    Some(
        Finding::warn(ABOUT, says, "let the disk order its writes itself")
            .command(format!(
                "echo none > /sys/block/{}/queue/scheduler",
                disk.whole_name
            ))
            .file(UDEV_FILE),
    )
}

fn rotational(disk: &Disk) -> Option<Finding> {
    let name = &disk.name;
    match disk.rotational? {
        false => Some(Finding::ok("disk", format!("{name} has no spinning parts"))),
        true if disk.made_of.is_empty() => Some(
            Finding::note(
                "disk",
                format!("{name} says that it has spinning parts, which many virtual disks say wrongly"),
                "if it is true, put the data directory on an SSD; if not, the rule in this file says so to the kernel",
            )
            .file(UDEV_FILE),
        ),
        true => None,
    }
}
