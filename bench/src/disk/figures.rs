//! What a run of the probe brought: rates, latencies, and the CPU they took.

use serde::{Deserialize, Serialize};

use super::cell::Cell;
use crate::stats::Latency;

/// The figures of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// What was run.
    #[serde(flatten)]
    pub cell: Cell,
    /// Measured time.
    pub seconds: f64,
    /// Operations that began and ended in it.
    pub operations: u64,
    pub iops: f64,
    pub bytes_per_second: f64,
    /// From handing an operation to the kernel until it is known to be durable (of a read: done).
    pub latency_us: Latency,
    /// User and system time of this process. The kernel's own workers are not in it.
    pub cpu_us_per_operation: f64,
    /// Busy time of all CPUs, kernel workers included, and whatever else ran at the time.
    pub machine_cpu_us_per_operation: f64,
}

/// The figures that are quoted elsewhere, as far as they were measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Headline {
    /// Median latency of a durable 4 KiB write, one in flight.
    pub write_4k_depth1_p50_us: Option<f64>,
    /// Durable writes of 1 MiB, four in flight.
    pub sequential_write_bytes_per_second: Option<f64>,
    /// Reads of 4 MiB, one in flight.
    pub sequential_read_bytes_per_second: Option<f64>,
    /// Copies of 1 MiB, four in flight: a byte that is read and written counts once.
    pub copy_bytes_per_second: Option<f64>,
}

impl Headline {
    /// Picks them out of the runs.
    pub fn of(runs: &[Figures]) -> Self {
        let find = |cell: Cell| runs.iter().find(|run| run.cell == cell);
        Self {
            write_4k_depth1_p50_us: find(Cell::SMALLEST).map(|run| run.latency_us.p50),
            sequential_write_bytes_per_second: find(Cell::SEQUENTIAL_WRITE)
                .map(|run| run.bytes_per_second),
            sequential_read_bytes_per_second: find(Cell::SEQUENTIAL_READ)
                .map(|run| run.bytes_per_second),
            copy_bytes_per_second: find(Cell::SEQUENTIAL_COPY).map(|run| run.bytes_per_second),
        }
    }
}
