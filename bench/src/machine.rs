//! What the figures were measured on: without it they mean nothing to a reader.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// A load average above this part of the CPUs is worth a warning.
const BUSY_LOAD_PER_CPU: f64 = 0.25;

/// Facts about this machine and the disk that holds the data directories.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu_model: String,
    pub cpu_count: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Load over the last minute when the run began: a busy machine explains a wide spread.
    pub load_average: String,
    pub filesystem: Filesystem,
    pub disk: Option<Disk>,
    /// The commit of the checkout the tool was called in, `-dirty` behind it if files differ.
    pub commit: Option<String>,
}

/// The mount that holds a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    pub kind: String,
    pub source: String,
    pub mount_point: PathBuf,
    pub options: String,
}

/// The block device under it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    pub name: String,
    pub model: Option<String>,
    pub size_bytes: Option<u64>,
    pub rotational: Option<bool>,
    /// `write back` needs flushes, `write through` does not.
    pub write_cache: Option<String>,
    pub fua: Option<bool>,
    pub scheduler: Option<String>,
}

impl Machine {
    /// Gathers the facts; what the machine does not tell stays empty.
    pub fn facts(data_dir: &Path) -> Self {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let memory_kib =
            value_of(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
        let filesystem = Filesystem::of(data_dir);
        Self {
            cpu_model: value_of(&cpuinfo, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            cpu_count: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_kib.unwrap_or(0_u64) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            load_average: read("/proc/loadavg")
                .and_then(|text| text.split(' ').next().map(str::to_owned))
                .unwrap_or_default(),
            disk: Disk::of(&filesystem.source),
            filesystem,
            commit: commit(),
        }
    }
}

impl Machine {
    /// What on this machine makes figures doubtful.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let load: f64 = self.load_average.parse().unwrap_or(0.0);
        if load > BUSY_LOAD_PER_CPU * self.cpu_count as f64 {
            warnings.push(format!(
                "the machine was busy before anything began (load {}): figures will spread",
                self.load_average
            ));
        }
        if self.filesystem.is_memory() {
            warnings.push(format!(
                "the data directories are in memory ({}): no write is durable",
                self.filesystem.kind
            ));
        }
        warnings
    }
}

impl Filesystem {
    /// The mount whose mount point is the longest prefix of the path.
    pub fn of(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mounts = read("/proc/self/mountinfo").unwrap_or_default();
        Self::find(&mounts, &path).unwrap_or_else(|| Self {
            kind: "unknown".to_owned(),
            source: String::new(),
            mount_point: PathBuf::new(),
            options: String::new(),
        })
    }

    /// True if its contents live in memory.
    pub fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs" | "devtmpfs")
    }

    /// `ID PARENT DEV ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE SUPER`; of two mounts on one
    /// point the later line covers the earlier.
    fn find(mountinfo: &str, path: &Path) -> Option<Self> {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ').skip(4);
            let mut tail = tail.split(' ');
            Some(Self {
                mount_point: head.next()?.replace("\\040", " ").into(),
                kind: tail.next()?.to_owned(),
                source: tail.next()?.to_owned(),
                options: format!("{},{}", head.next()?, tail.next()?),
            })
        });
        mounts
            .filter(|mount| path.starts_with(&mount.mount_point))
            .max_by_key(|mount| mount.mount_point.components().count())
    }
}

impl Disk {
    fn of(source: &str) -> Option<Self> {
        // Mapped devices are links into /dev.
        let device = fs::canonicalize(source).ok()?;
        let name = device.strip_prefix("/dev").ok()?.to_str()?.to_owned();
        let class = fs::canonicalize(Path::new("/sys/class/block").join(&name)).ok()?;
        // A partition's queue is its parent's.
        let whole = if class.join("queue").exists() {
            class.clone()
        } else {
            class.parent()?.into()
        };
        let fact = |path: &str| read(whole.join(path)).filter(|text| !text.is_empty());
        Some(Self {
            name,
            model: fact("device/model"),
            size_bytes: read(class.join("size"))
                .and_then(|text| Some(512 * text.parse::<u64>().ok()?)),
            rotational: fact("queue/rotational").map(|text| text == "1"),
            write_cache: fact("queue/write_cache"),
            fua: fact("queue/fua").map(|text| text == "1"),
            scheduler: fact("queue/scheduler"),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GIB: f64 = (1_u64 << 30) as f64;
        let memory = self.memory_bytes as f64 / GIB;
        writeln!(
            out,
            "machine  {} x {}, {memory:.1} GiB, Linux {}, load {}",
            self.cpu_count, self.cpu_model, self.kernel, self.load_average
        )?;
        let Filesystem {
            kind,
            source,
            options,
            ..
        } = &self.filesystem;
        write!(out, "disk     {kind} ({options}) on {source}")?;
        if let Some(disk) = &self.disk {
            let size = disk.size_bytes.unwrap_or(0) as f64 / GIB;
            let cache = disk.write_cache.as_deref().unwrap_or("unknown cache");
            let fua = if disk.fua == Some(true) {
                "FUA"
            } else {
                "no FUA"
            };
            write!(out, ", {size:.0} GiB, {cache}, {fua}")?;
        }
        let commit = self.commit.as_deref().unwrap_or("not in a git checkout");
        write!(out, "\ncommit   {commit}")
    }
}

fn commit() -> Option<String> {
    let describe = [
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ];
    let output = Command::new("git").args(describe).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The value on the first `name : value` line.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 22 0:25 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1g
31 22 259:1 / /mnt/my\\040disk rw - xfs /dev/nvme0n1p1 rw,attr2
";

    #[test]
    fn the_longest_mount_point_wins() {
        let kind = |path: &str| Filesystem::find(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(kind("/var/lib").source, "/dev/vda");
        assert!(kind("/tmp/x").is_memory());
        assert!(!kind("/tmpx").is_memory());
        let named = kind("/mnt/my disk/data");
        assert_eq!(
            (named.kind.as_str(), named.options.as_str()),
            ("xfs", "rw,rw,attr2")
        );
    }

    #[test]
    fn proc_values_are_trimmed() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU\n";
        assert_eq!(value_of(cpuinfo, "model name"), Some("Some CPU"));
        assert_eq!(value_of(cpuinfo, "model"), None);
    }

    #[test]
    fn this_machine_has_facts() {
        let machine = Machine::facts(Path::new("/"));
        assert!(machine.cpu_count > 0);
        assert!(machine.memory_bytes > 0);
        assert!(machine.to_string().contains(&machine.kernel));

        let busy = Machine {
            load_average: format!("{}.5", machine.cpu_count),
            ..machine
        };
        assert!(busy.warnings()[0].contains("busy"), "{:?}", busy.warnings());
    }
}
