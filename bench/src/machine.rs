//! What the figures were measured on: without it they mean nothing to a reader.

use std::fmt;
use std::path::Path;
use std::process::Command;

pub use keelson_tuning::machine::Filesystem;
use keelson_tuning::machine::{Disk, Root};
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

impl Machine {
    /// Gathers the facts; what the machine does not tell stays empty.
    pub fn facts(data_dir: &Path) -> Self {
        let root = Root::system();
        let memory_kib = root
            .value("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split(' ').next()?.parse().ok());
        let filesystem = Filesystem::of(data_dir);
        Self {
            cpu_model: root
                .value("/proc/cpuinfo", "model name")
                .unwrap_or_else(|| "unknown".to_owned()),
            cpu_count: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_kib.unwrap_or(0_u64) * 1024,
            kernel: root.read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            load_average: root
                .read("/proc/loadavg")
                .and_then(|text| text.split(' ').next().map(str::to_owned))
                .unwrap_or_default(),
            disk: Disk::under(&root, &filesystem),
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

#[cfg(test)]
mod tests {
    use super::*;

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
