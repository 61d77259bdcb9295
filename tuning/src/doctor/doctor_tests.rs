//! Every finding, on machines made of files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A machine on which everything is in order, as files.
const GOOD: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.12.3-cloud\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/vm/swappiness", "60\n"),
    (
        "proc/self/status",
        "Name:\tkeelson\nSeccomp:\t0\nCapEff:\t0000000000000000\n",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max open files            1024                 524288               files\n\
         Max locked memory         8388608              8388608              bytes\n",
    ),
    ("proc/self/cgroup", "0::/system.slice/keelson.service\n"),
    (
        "proc/self/mountinfo",
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda1 rw\n\
         30 22 0:25 / /tmp rw - tmpfs tmpfs rw\n",
    ),
    (
        "proc/meminfo",
        "MemTotal:        8000000 kB\nMemFree: 1 kB\n",
    ),
    ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
    ("proc/fs/jbd2/vda1-8/info", "1 transactions\n"),
    (
        "sys/devices/vda/queue/scheduler",
        "[none] mq-deadline bfq\n",
    ),
    ("sys/devices/vda/queue/rotational", "0\n"),
    ("sys/devices/vda/queue/write_cache", "write back\n"),
    ("sys/devices/vda/queue/fua", "1\n"),
    ("sys/devices/vda/queue/logical_block_size", "512\n"),
    ("sys/devices/vda/queue/physical_block_size", "512\n"),
    ("sys/devices/vda/vda1/size", "1000000\n"),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always [madvise] never\n",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "performance\n",
    ),
    (
        "sys/devices/system/clocksource/clocksource0/current_clocksource",
        "tsc\n",
    ),
    (
        "sys/devices/system/clocksource/clocksource0/available_clocksource",
        "tsc hpet acpi_pm\n",
    ),
];

const STATUS: &str = "proc/self/status";
const LIMITS: &str = "proc/self/limits";
const MOUNTS: &str = "proc/self/mountinfo";
const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
const CLOCKS: &str = "sys/devices/system/clocksource/clocksource0/available_clocksource";

const RELEASE: &str = "proc/sys/kernel/osrelease";
const DISABLED: &str = "proc/sys/kernel/io_uring_disabled";
const SCHEDULER: &str = "sys/devices/vda/queue/scheduler";
const CPU_MAX: &str = "sys/fs/cgroup/system.slice/keelson.service/cpu.max";
const MEMORY_MAX: &str = "sys/fs/cgroup/system.slice/keelson.service/memory.max";

const FILTERED: Turn = File(STATUS, Some("Seccomp:\t2\nCapEff:\t0\n"));
const EPERM: Turn = Probe(|probes| probes.rings = ring_failure(1));
const ENOSYS: Turn = Probe(|probes| probes.rings = ring_failure(38));
const ON_TMP: Turn = Need(|needs| needs.existing_dir = "/tmp/x".into());

/// Rows of the file of limits: open files, locked memory.
macro_rules! limits {
    ($files:literal, $memory:literal) => {
        concat!(
            "Max open files  1024  ",
            $files,
            "  files\n",
            "Max locked memory  ",
            $memory,
            "  ",
            $memory,
            "  bytes\n",
        )
    };
}

/// One mount: type of filesystem, options.
macro_rules! mounted {
    ($kind:literal, $options:literal) => {
        concat!("22 1 254:0 / / ", $options, " - ", $kind, " /dev/vda1 rw\n")
    };
}

/// A difference from the good machine.
enum Turn {
    /// This file has this text; `None` takes it away.
    File(&'static str, Option<&'static str>),
    /// The member needs something else.
    Need(fn(&mut Needs)),
    /// Something that was tried went otherwise.
    Probe(fn(&mut Probes)),
}
use Level::{Fatal, Note, Warn};
use Turn::{File, Need, Probe};

fn machine(turns: &[Turn]) -> Vec<Finding> {
    let tree = tempfile::tempdir().unwrap();
    let mut needs = Needs {
        data_dir: "/var/lib/keelson".into(),
        existing_dir: "/var/lib".into(),
        is_durable: true,
        core_count: 4,
        uring_entries: 1024,
        log_ring_entries: 64,
        files_per_core: 8,
        files_fixed: 32,
        listen_backlog: 4096,
        quota_bytes: Some(2 << 30),
        segment_bytes: 64 << 20,
        log_block_bytes: 4096,
        log_unit_bytes: 0,
    };
    let mut probes = Probes {
        rings: Ok(()),
        data_dir: Ok(DirState::New),
        durable_write: Some(Ok(())),
        free_bytes: Some(100 << 30),
        cores: Ok(vec![0, 1, 2, 3]),
        ports: vec![PortProbe {
            address: "127.0.0.1:2379".to_owned(),
            flag: "--listen-client-urls",
            outcome: Ok(()),
        }],
    };
    let put = |path: &str, text: &str| {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for (path, text) in GOOD {
        put(path, text);
    }
    fs::create_dir_all(tree.path().join("sys/dev/block")).unwrap();
    symlink(
        "../../devices/vda/vda1",
        tree.path().join("sys/dev/block/254:0"),
    )
    .unwrap();
    for turn in turns {
        match turn {
            File(path, Some(text)) => put(path, text),
            File(path, None) => fs::remove_file(tree.path().join(path)).unwrap(),
            Need(change) => change(&mut needs),
            Probe(change) => change(&mut probes),
        }
    }
    examine(&Root::at(tree.path()), &needs, &probes)
}

fn ring_failure(errno: i32) -> Result<(), RingFailure> {
    Err(RingFailure {
        errno: Some(errno),
        says: "io_uring ring 1: refused".to_owned(),
    })
}

/// A case: what differs; then the one finding that is not in order: its level, subject, a part of
/// what it says, and a part of its command (empty for none).
type Case<'a> = (&'a [Turn], Level, &'static str, &'static str, &'static str);

#[track_caller]
fn each(cases: &[Case<'_>]) {
    for (turns, level, about, says, command) in cases {
        let findings = machine(turns);
        let bad: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.level > Level::Ok)
            .collect();
        assert_eq!(bad.len(), 1, "{about} {says}: {bad:#?}");
        let found = bad[0];
        assert_eq!((found.level, found.about), (*level, *about), "{found:#?}");
        assert!(found.says.contains(says), "{says}: {found:#?}");
        assert!(found.change.is_some(), "{found:#?}");
        match &found.command {
            Some(found) => assert!(!command.is_empty() && found.contains(command), "{found}"),
            None => assert_eq!(*command, "", "{found:#?}"),
        }
        assert_eq!(can_start(&findings), *level < Level::Fatal, "{about}");
        check_file(found);
    }
}

/// A file that a finding points to is there, and where it holds settings it holds this one.
fn check_file(finding: &Finding) {
    let Some(file) = finding.file else { return };
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let command = finding.command.as_deref().unwrap_or_default();
    let setting = command
        .strip_prefix("sysctl -w ")
        .map(|text| text.replace('=', " = "));
    if let Some(setting) = setting {
        let is_there = text.lines().any(|line| line == setting);
        assert!(is_there, "{file} has no line {setting:?}");
    }
}

#[test]
fn every_file_for_the_system_is_described() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("system");
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let files: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    for name in &files {
        assert!(readme.contains(&format!("| `{name}` |")), "{name}");
    }
    for file in [SYSCTL_FILE, LIMITS_FILE, UDEV_FILE, TMPFILES_FILE] {
        let name = file.strip_prefix("tuning/system/").unwrap();
        assert!(files.contains(name), "{file}");
    }
}

#[test]
fn nothing_is_found_on_a_machine_in_order() {
    let findings = machine(&[]);
    let bad: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.level > Level::Ok || finding.change.is_some())
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(can_start(&findings));
    let looked_at: BTreeSet<&str> = findings.iter().map(|finding| finding.about).collect();
    let wanted = [
        "kernel",
        "io_uring",
        "locked memory",
        "open files",
        "data directory",
        "filesystem",
        "journal",
        "durable write",
        "free space",
        "write cache",
        "alignment",
        "scheduler",
        "disk",
        "cores",
        "CPU governor",
        "clock source",
        "memory",
        "huge pages",
        "swap",
        "addresses",
    ];
    assert_eq!(looked_at, BTreeSet::from(wanted));
}

const KERNEL: &[Case<'_>] = &[
    (
        &[File(RELEASE, Some("5.10.0-28"))],
        Fatal,
        "kernel",
        "5.10.0-28; a member needs 5.13",
        "",
    ),
    (&[File(RELEASE, Some("4.18"))], Fatal, "kernel", "4.18", ""),
    (
        &[File(RELEASE, Some("5.15.0-91-generic"))],
        Note,
        "kernel",
        "5.15.0-91-generic works",
        "",
    ),
    (
        &[File(RELEASE, Some("6.0.1"))],
        Note,
        "kernel",
        "6.0.1 works",
        "",
    ),
    (&[File(RELEASE, None)], Warn, "kernel", "cannot be read", ""),
    (
        &[File(DISABLED, Some("2")), EPERM],
        Fatal,
        "io_uring",
        "kernel.io_uring_disabled is 2",
        "kernel.io_uring_disabled=0",
    ),
    (
        &[File(DISABLED, Some("1")), EPERM],
        Fatal,
        "io_uring",
        "kernel.io_uring_disabled is 1",
        "kernel.io_uring_disabled=0",
    ),
    (
        &[FILTERED, EPERM],
        Fatal,
        "io_uring",
        "a seccomp filter forbids it",
        "",
    ),
    (
        &[FILTERED, File(DISABLED, Some("0")), ENOSYS],
        Fatal,
        "io_uring",
        "a seccomp filter forbids it",
        "",
    ),
    (
        &[File(DISABLED, Some("0")), EPERM],
        Fatal,
        "io_uring",
        "neither the setting",
        "",
    ),
    (&[ENOSYS], Fatal, "io_uring", "built without it", ""),
    (
        &[Probe(|probes| probes.rings = ring_failure(12))],
        Fatal,
        "io_uring",
        "the limit of locked memory",
        "",
    ),
    (
        &[Probe(|probes| {
            let says = "this kernel's io_uring has no unlinkat".to_owned();
            probes.rings = Err(RingFailure { errno: None, says });
        })],
        Fatal,
        "io_uring",
        "has no unlinkat",
        "",
    ),
];

#[test]
fn the_kernel_and_its_rings() {
    each(KERNEL);
}

const LIMITS_CASES: &[Case<'_>] = &[
    (
        &[File(LIMITS, Some(limits!("524288", "65536")))],
        Fatal,
        "locked memory",
        "64 KiB; the executors do not start below 512 KiB",
        "ulimit -l 8192",
    ),
    (
        &[File(LIMITS, Some(limits!("524288", "614400")))],
        Warn,
        "locked memory",
        "600 KiB, and 4 cores need 721.8 KiB",
        "ulimit -l 8192",
    ),
    (
        &[Need(|needs| needs.core_count = 64)],
        Warn,
        "locked memory",
        "8 MiB, and 64 cores need 11.0 MiB",
        "ulimit -l 16384",
    ),
    (
        &[File(LIMITS, Some(limits!("4096", "unlimited")))],
        Warn,
        "open files",
        "4096 at most, 64 of them",
        "ulimit -Hn",
    ),
    (
        &[File(LIMITS, Some(limits!("60", "unlimited")))],
        Fatal,
        "open files",
        "60 at most",
        "ulimit -Hn",
    ),
    (
        &[Need(|needs| needs.files_fixed = 600_000)],
        Fatal,
        "open files",
        "600032 of them",
        "ulimit -Hn",
    ),
    (
        &[File("proc/sys/net/core/somaxconn", Some("128"))],
        Note,
        "backlog",
        "somaxconn is 128",
        "net.core.somaxconn=4096",
    ),
    (
        &[Probe(|probes| {
            probes.ports[0].outcome = Err("Address already in use".to_owned())
        })],
        Fatal,
        "addresses",
        "127.0.0.1:2379: Address already in use",
        "sport = :2379",
    ),
];

#[test]
fn what_the_system_grants() {
    each(LIMITS_CASES);
    for turns in [
        &[File(LIMITS, Some(limits!("unlimited", "unlimited")))][..],
        // CAP_IPC_LOCK.
        &[
            File(LIMITS, Some(limits!("524288", "1048576"))),
            File(STATUS, Some("Seccomp: 0\nCapEff:\t0000000000004000\n")),
        ],
        &[File(LIMITS, None)],
    ] {
        let findings = machine(turns);
        assert!(
            findings.iter().all(|finding| finding.level == Level::Ok),
            "{findings:#?}"
        );
    }
}

const DIRECTORY: &[Case<'_>] = &[
    (
        &[Probe(|probes| {
            probes.data_dir = Err("/d is in use by another process".to_owned())
        })],
        Fatal,
        "data directory",
        "in use by another process",
        "",
    ),
    (
        &[ON_TMP],
        Fatal,
        "filesystem",
        "tmpfs on /tmp keeps files in memory",
        "",
    ),
    (
        &[File(MOUNTS, Some(mounted!("btrfs", "rw")))],
        Warn,
        "filesystem",
        "btrfs on / writes every block to a new place",
        "",
    ),
    (
        &[File(MOUNTS, Some(mounted!("overlay", "rw")))],
        Warn,
        "filesystem",
        "layer of a container",
        "",
    ),
    (
        &[File(MOUNTS, Some(mounted!("nfs4", "rw")))],
        Warn,
        "filesystem",
        "nfs4 on / is not one that members are tested on",
        "",
    ),
    (
        &[File(MOUNTS, Some(mounted!("ext4", "ro,noatime")))],
        Fatal,
        "mount options",
        "read-only",
        "remount,rw /",
    ),
    (
        &[File(MOUNTS, Some(mounted!("ext4", "rw,nobarrier")))],
        Warn,
        "mount options",
        "nobarrier: ",
        "remount,barrier=1 /",
    ),
    (
        &[File(MOUNTS, Some(mounted!("ext4", "rw,data=journal")))],
        Warn,
        "mount options",
        "written twice",
        "",
    ),
    (
        &[Probe(|probes| {
            probes.durable_write = Some(Err("it refuses O_DIRECT".to_owned()))
        })],
        Fatal,
        "durable write",
        "refuses O_DIRECT",
        "",
    ),
    (
        &[Probe(|probes| probes.durable_write = None)],
        Note,
        "durable write",
        "may be lost",
        "",
    ),
    (
        &[Probe(|probes| probes.free_bytes = Some(1 << 20))],
        Fatal,
        "free space",
        "1 MiB free; the first segment of the log takes 64 MiB",
        "",
    ),
    (
        &[Probe(|probes| {
            (probes.free_bytes, probes.data_dir) = (Some(1 << 20), Ok(DirState::Created))
        })],
        Warn,
        "free space",
        "1 MiB free, less than the quota and two segments, 2.1 GiB",
        "",
    ),
];

#[test]
fn the_data_directory_and_its_filesystem() {
    each(DIRECTORY);
    let in_memory = machine(&[ON_TMP, Need(|needs| needs.is_durable = false)]);
    let filesystem = in_memory
        .iter()
        .find(|finding| finding.about == "filesystem")
        .unwrap();
    assert_eq!(filesystem.level, Note, "{filesystem:#?}");
    let no_journal = machine(&[File("proc/fs/jbd2/vda1-8/info", None)]);
    assert!(can_start(&no_journal));
}

const DISK: &[Case<'_>] = &[
    (
        &[File(SCHEDULER, Some("none mq-deadline [bfq]"))],
        Warn,
        "scheduler",
        "bfq on vda1",
        "echo none > /sys/block/vda/queue/scheduler",
    ),
    (
        &[File("sys/devices/vda/queue/rotational", Some("1"))],
        Note,
        "disk",
        "spinning parts",
        "",
    ),
    (
        &[File("sys/devices/vda/queue/fua", Some("0"))],
        Note,
        "write cache",
        "write back cache and no FUA",
        "",
    ),
    (
        &[File(
            "sys/devices/vda/queue/logical_block_size",
            Some("8192"),
        )],
        Fatal,
        "alignment",
        "blocks of 8192 bytes, and the log is written in blocks of 4096",
        "",
    ),
    (
        &[File(
            "sys/devices/vda/queue/physical_block_size",
            Some("4096"),
        )],
        Note,
        "alignment",
        "writes 4096 in place: the log fills its groups up to 4096",
        "",
    ),
    (
        &[
            File("sys/devices/vda/queue/physical_block_size", Some("4096")),
            Need(|needs| needs.log_unit_bytes = 512),
        ],
        Note,
        "alignment",
        "writes 4096 in place: the log fills its groups up to 512",
        "",
    ),
];

#[test]
fn the_disk() {
    each(DISK);
    let through = machine(&[
        File("sys/devices/vda/queue/fua", Some("0")),
        File("sys/devices/vda/queue/write_cache", Some("write through")),
        File(SCHEDULER, Some("none [mq-deadline]")),
    ]);
    assert!(
        through.iter().all(|finding| finding.level == Level::Ok),
        "{through:#?}"
    );
}

const CORES: &[Case<'_>] = &[
    (
        &[Probe(|probes| {
            probes.cores = Err("--cores asks for 8 cores".to_owned())
        })],
        Fatal,
        "cores",
        "asks for 8 cores",
        "",
    ),
    (
        &[File(CPU_MAX, Some("150000 100000"))],
        Warn,
        "cores",
        "grants 1.5 CPUs",
        "",
    ),
    (
        &[
            File(CPU_MAX, Some("max 100000")),
            File("sys/fs/cgroup/system.slice/cpu.max", Some("50000 100000")),
        ],
        Warn,
        "cores",
        "grants 0.5 CPUs",
        "",
    ),
    (
        &[File(
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
            Some("powersave"),
        )],
        Note,
        "CPU governor",
        "performance, powersave",
        "cpupower frequency-set",
    ),
    (
        &[File(CLOCK, Some("hpet"))],
        Warn,
        "clock source",
        "hpet: every look",
        "echo tsc > /sys/",
    ),
    (
        &[File(CLOCK, Some("acpi_pm")), File(CLOCKS, Some("acpi_pm"))],
        Warn,
        "clock source",
        "acpi_pm: every look",
        "",
    ),
    (
        &[File(CLOCK, Some("sundial")), File(CLOCKS, None)],
        Note,
        "clock source",
        "sundial, which",
        "",
    ),
    (
        &[Need(|needs| needs.quota_bytes = Some(8 << 30))],
        Warn,
        "memory",
        "7.6 GiB for this process, the quota is 8 GiB",
        "",
    ),
    (
        &[File(MEMORY_MAX, Some("1073741824"))],
        Warn,
        "memory",
        "1 GiB for this process, the quota is 2 GiB",
        "",
    ),
    (
        &[Need(|needs| needs.quota_bytes = None)],
        Note,
        "memory",
        "no quota",
        "",
    ),
    (
        &[File(
            "sys/kernel/mm/transparent_hugepage/enabled",
            Some("[always] madvise never"),
        )],
        Note,
        "huge pages",
        "always",
        "echo madvise > /sys/",
    ),
    (
        &[File(
            "proc/swaps",
            Some("Filename Type\n/dev/zram0 partition 1 0 5"),
        )],
        Warn,
        "swap",
        "/dev/zram0, and vm.swappiness is 60",
        "vm.swappiness=1",
    ),
    (
        &[
            File("proc/swaps", Some("Filename Type\n/swap file 1 0 5")),
            File("proc/sys/vm/swappiness", Some("1")),
        ],
        Note,
        "swap",
        "/swap, and vm.swappiness is 1",
        "swapoff -a",
    ),
];

#[test]
fn cores_clocks_and_memory() {
    each(CORES);
    let unlimited = machine(&[
        File(CPU_MAX, Some("400000 100000")),
        File(MEMORY_MAX, Some("max")),
        File("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", None),
    ]);
    assert!(
        unlimited.iter().all(|finding| finding.level == Level::Ok),
        "{unlimited:#?}"
    );
}

#[test]
fn a_machine_that_tells_nothing_is_examined_too() {
    let tree = tempfile::tempdir().unwrap();
    let findings = machine(&[]);
    assert!(!findings.is_empty());
    let needs_nothing = examine(
        &Root::at(tree.path()),
        &Needs {
            data_dir: "/d".into(),
            existing_dir: "/".into(),
            is_durable: true,
            core_count: 1,
            uring_entries: 1024,
            log_ring_entries: 64,
            files_per_core: 8,
            files_fixed: 32,
            listen_backlog: 4096,
            quota_bytes: Some(1),
            segment_bytes: 1,
            log_block_bytes: 4096,
            log_unit_bytes: 0,
        },
        &Probes {
            rings: Ok(()),
            data_dir: Ok(DirState::Created),
            durable_write: Some(Ok(())),
            free_bytes: None,
            cores: Ok(vec![0]),
            ports: Vec::new(),
        },
    );
    assert!(can_start(&needs_nothing), "{needs_nothing:#?}");
}

#[test]
fn bytes_are_shown_for_people() {
    for (bytes, text) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1 << 20, "1 MiB"),
        (1_572_864, "1.5 MiB"),
        (2 << 30, "2 GiB"),
    ] {
        assert_eq!(shown_bytes(bytes), text);
    }
}
