//! The filesystem that holds a path, and the block devices under it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Root, chosen};
use crate::settings::{WAL_BLOCK_BYTES, WAL_UNIT_BYTES_MIN};

/// Devices under devices (encryption, volumes, RAID) that are followed at most.
const DEVICES_DEEP_MAX: usize = 8;

/// The mount that holds a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Its type, such as `ext4`.
    pub kind: String,
    /// What is mounted, usually a device.
    pub source: String,
    /// Where.
    pub mount_point: PathBuf,
    /// The options of the mount and of the filesystem, separated by commas.
    pub options: String,
    /// The device's number, `major:minor`; of no device if it begins with `0:`.
    #[serde(default)]
    pub device: String,
}

/// A block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name below `/dev`.
    pub name: String,
    /// The name of the device whose queue it has: its own, or a partition's disk's.
    #[serde(default)]
    pub whole_name: String,
    /// The maker's name for it.
    pub model: Option<String>,
    /// Its size, or that of the partition.
    pub size_bytes: Option<u64>,
    /// Whether it says that it has spinning parts.
    pub rotational: Option<bool>,
    /// `write back` needs flushes, `write through` does not.
    pub write_cache: Option<String>,
    /// Whether it can write through its cache.
    pub fua: Option<bool>,
    /// The scheduler in brackets among those there are.
    pub scheduler: Option<String>,
    /// The smallest write it takes.
    #[serde(default)]
    pub logical_block_bytes: Option<u64>,
    /// The smallest write that it does not make by reading and writing back a larger one.
    #[serde(default)]
    pub physical_block_bytes: Option<u64>,
    /// The devices it is made of, if it is encryption, a volume or a RAID.
    #[serde(default)]
    pub made_of: Vec<Disk>,
}

impl Filesystem {
    /// The mount that holds `path` on this machine; of an unknown kind if that cannot be told.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Self::below(&Root::system(), &path).unwrap_or_else(|| Self {
            kind: "unknown".to_owned(),
            ..Self::default()
        })
    }

    /// The mount that holds `path`, which is absolute and without links, on the machine at `root`.
    #[must_use]
    pub fn below(root: &Root, path: &Path) -> Option<Self> {
        Self::find(&root.read("/proc/self/mountinfo")?, path)
    }

    /// True if its contents live in memory.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs" | "devtmpfs")
    }

    /// Whether an option is among the options, with or without a value.
    #[must_use]
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|one| one == option)
    }

    /// `ID PARENT DEV ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE SUPER`; of two mounts on one
    /// point the later line covers the earlier.
    fn find(mountinfo: &str, path: &Path) -> Option<Self> {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ').skip(2);
            let mut tail = tail.split(' ');
            let device = head.next()?.to_owned();
            let mut head = head.skip(1);
            Some(Self {
                mount_point: head.next()?.replace("\\040", " ").into(),
                kind: tail.next()?.to_owned(),
                source: tail.next()?.to_owned(),
                options: format!("{},{}", head.next()?, tail.next()?),
                device,
            })
        });
        mounts
            .filter(|mount| path.starts_with(&mount.mount_point))
            .max_by_key(|mount| mount.mount_point.components().count())
    }
}

impl Disk {
    /// The device under a filesystem, by its number, or by the name of what is mounted where the
    /// filesystem has no number of its own (btrfs).
    #[must_use]
    pub fn under(root: &Root, filesystem: &Filesystem) -> Option<Self> {
        let by_number = root.path("/sys/dev/block").join(&filesystem.device);
        let class = fs::canonicalize(by_number).ok().or_else(|| {
            // Mapped devices are links into /dev.
            let device = fs::canonicalize(root.path(&filesystem.source)).ok()?;
            let name = device.file_name()?.to_owned();
            fs::canonicalize(root.path("/sys/class/block").join(name)).ok()
        })?;
        Self::read(&class, 0)
    }

    /// What groups of the log are filled up to on this disk if `wal.unit_bytes` is `wanted`: that, but nothing
    /// smaller than the disk takes; and if it is 0, what the disk writes in place. Whole blocks where that is unknown.
    #[must_use]
    pub fn log_unit_bytes(disk: Option<&Self>, wanted: u64) -> u64 {
        let largest = |block: fn(&Disk) -> Option<u64>| {
            let blocks: Option<Vec<u64>> = disk?.all().into_iter().map(block).collect();
            blocks?.into_iter().max()
        };
        let bytes = match wanted {
            0 => largest(|disk| disk.physical_block_bytes),
            _ => largest(|disk| disk.logical_block_bytes).map(|least| wanted.max(least)),
        };
        let bytes = bytes.filter(|bytes| bytes.is_power_of_two());
        let bytes = bytes.unwrap_or(WAL_BLOCK_BYTES);
        bytes.clamp(WAL_UNIT_BYTES_MIN, WAL_BLOCK_BYTES)
    }

    /// The scheduler in use.
    #[must_use]
    pub fn scheduler_in_use(&self) -> Option<&str> {
        chosen(self.scheduler.as_deref()?)
    }

    /// This device and all that it is made of.
    #[must_use]
    pub fn all(&self) -> Vec<&Disk> {
        let below = self.made_of.iter().flat_map(Disk::all);
        std::iter::once(self).chain(below).collect()
    }

    /// Reads the device whose folder below `/sys` is `class`.
    fn read(class: &Path, depth: usize) -> Option<Self> {
        // A partition's queue is its parent's.
        let whole = if class.join("queue").exists() {
            class
        } else {
            class.parent()?
        };
        let queue = Root::at(&whole.join("queue"));
        let flag = |name: &str| queue.number(name).map(|number| number == 1);
        let slaves = fs::read_dir(whole.join("slaves"))
            .into_iter()
            .flatten()
            .filter_map(|slave| fs::canonicalize(slave.ok()?.path()).ok())
            .filter(|_| depth < DEVICES_DEEP_MAX)
            .filter_map(|slave| Self::read(&slave, depth + 1));
        let name_of = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        Some(Self {
            name: name_of(class)?,
            whole_name: name_of(whole)?,
            model: Root::at(whole).read("device/model"),
            size_bytes: Root::at(class).number("size").map(|sectors| 512 * sectors),
            rotational: flag("rotational"),
            write_cache: queue.read("write_cache"),
            fua: flag("fua"),
            scheduler: queue.read("scheduler"),
            logical_block_bytes: queue.number("logical_block_size"),
            physical_block_bytes: queue.number("physical_block_size"),
            made_of: slaves.collect(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 22 0:25 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1g
31 22 259:1 / /mnt/my\\040disk rw - xfs /dev/nvme0n1p1 rw,attr2
";

    #[test]
    fn the_longest_mount_point_wins() {
        let find = |path: &str| Filesystem::find(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(find("/var/lib").source, "/dev/vda");
        assert_eq!(find("/var/lib").device, "254:0");
        assert!(find("/tmp/x").is_memory());
        assert!(!find("/tmpx").is_memory());
        let named = find("/mnt/my disk/data");
        assert_eq!(
            (named.kind.as_str(), named.options.as_str()),
            ("xfs", "rw,rw,attr2")
        );
        assert!(named.has_option("attr2"));
        assert!(!named.has_option("attr"));
    }

    #[test]
    fn a_partition_of_an_encrypted_disk_is_followed_down() {
        let tree = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("sys/devices/dm-0/queue/scheduler", "none\n");
        put("sys/devices/dm-0/size", "2000\n");
        put(
            "sys/devices/nvme0n1/queue/scheduler",
            "[mq-deadline] none\n",
        );
        put("sys/devices/nvme0n1/queue/rotational", "0\n");
        put("sys/devices/nvme0n1/queue/fua", "1\n");
        put("sys/devices/nvme0n1/queue/logical_block_size", "512\n");
        put("sys/devices/nvme0n1/device/model", "Some disk  \n");
        put("sys/devices/nvme0n1/nvme0n1p2/size", "4000\n");
        fs::create_dir_all(tree.path().join("sys/devices/dm-0/slaves")).unwrap();
        fs::create_dir_all(tree.path().join("sys/dev/block")).unwrap();
        let link = |to: &str, from: &str| {
            symlink(tree.path().join(to), tree.path().join(from)).unwrap();
        };
        link(
            "sys/devices/nvme0n1/nvme0n1p2",
            "sys/devices/dm-0/slaves/nvme0n1p2",
        );
        link("sys/devices/dm-0", "sys/dev/block/253:0");
        let mapped = Filesystem {
            device: "253:0".to_owned(),
            ..Filesystem::default()
        };
        let disk = Disk::under(&Root::at(tree.path()), &mapped).unwrap();
        let names: Vec<&str> = disk.all().iter().map(|disk| &*disk.name).collect();
        assert_eq!(names, ["dm-0", "nvme0n1p2"]);
        let below = &disk.made_of[0];
        assert_eq!(below.whole_name, "nvme0n1");
        assert_eq!(below.model.as_deref(), Some("Some disk"));
        assert_eq!(below.size_bytes, Some(2_048_000));
        assert_eq!((below.rotational, below.fua), (Some(false), Some(true)));
        assert_eq!(below.scheduler_in_use(), Some("mq-deadline"));
        assert_eq!(below.logical_block_bytes, Some(512));
        assert_eq!(disk.scheduler_in_use(), None);
    }

    #[test]
    fn the_log_fills_up_what_the_disk_writes_in_place() {
        let disk = |logical, physical| Disk {
            logical_block_bytes: logical,
            physical_block_bytes: physical,
            ..Disk::default()
        };
        for (logical, physical, wanted, unit) in [
            (Some(512), Some(512), 0, 512),
            (Some(512), Some(4096), 0, 4096),
            (Some(512), Some(16_384), 0, 4096),
            (Some(512), None, 0, 4096),
            (Some(512), Some(4096), 512, 512),
            (Some(512), Some(512), 2048, 2048),
            (Some(4096), Some(4096), 512, 4096),
            (None, Some(512), 512, 4096),
        ] {
            let disk = disk(logical, physical);
            assert_eq!(Disk::log_unit_bytes(Some(&disk), wanted), unit, "{disk:?}");
        }
        assert_eq!(Disk::log_unit_bytes(None, 0), 4096);
        // What is made of several has the largest block of all.
        let pair = Disk {
            made_of: vec![disk(Some(512), Some(512)), disk(Some(512), Some(4096))],
            ..disk(Some(512), Some(512))
        };
        assert_eq!(Disk::log_unit_bytes(Some(&pair), 0), 4096);
    }

    #[test]
    fn this_machine_has_a_root_filesystem() {
        let root = Root::system();
        let filesystem = Filesystem::of(Path::new("/"));
        assert_eq!(filesystem.mount_point, Path::new("/"));
        assert_ne!(filesystem.kind, "unknown");
        assert!(
            root.value("/proc/meminfo", "MemTotal")
                .unwrap()
                .ends_with(" kB")
        );
    }
}
