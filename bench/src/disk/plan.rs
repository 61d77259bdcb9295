//! A probe, fully described: where, over how large a file, which runs, how long each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cell::{Cell, Way};
use crate::job::{JobSpec, WritePath};

/// Bytes of the file that is written over: as many as a segment of the log has.
pub const FILE_BYTES_DEFAULT: u64 = 64 << 20;

/// What a probe does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the result is called.
    pub name: String,
    /// The folder to measure in.
    pub directory: PathBuf,
    /// Bytes of the file that is written over.
    pub file_bytes: u64,
    /// The runs, in their order.
    pub cells: Vec<Cell>,
    /// Measured time of each.
    pub measured: Duration,
}

impl Plan {
    /// What a job with `op=disk` asks for; `data_parent` is measured if it names no directory.
    pub fn of_job(job: &JobSpec, data_parent: &Path) -> Self {
        let ways: &[Way] = match job.disk.path {
            WritePath::Direct => &[Way::Direct],
            WritePath::Buffered => &[Way::Buffered],
            WritePath::Both => &[Way::Direct, Way::Buffered],
        };
        let directory = job.disk.directory.as_deref().unwrap_or(data_parent);
        Self {
            name: job.name.clone(),
            directory: directory.to_path_buf(),
            file_bytes: job.size.unwrap_or(FILE_BYTES_DEFAULT),
            cells: Cell::matrix(ways, &job.disk.block_sizes, &job.disk.depths),
            measured: job.runtime(),
        }
    }
}
