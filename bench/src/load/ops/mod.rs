//! What the jobs ask, and what an answer must hold.
//!
//! ```text
//!   kv         put, txn-update, range, list, delete, and any mixture of them
//!   requests   the messages of these, prepared ahead
//!   listing    reads the answers of list in pieces
//!   keepalive  lease-keepalive
//!   fill       writes all keys before a job that reads them
//! ```

mod fill;
mod keepalive;
mod kv;
mod listing;
mod requests;

pub use fill::{FILL_PLACES, Fill};
pub use keepalive::Keepalive;
pub use kv::Kv;

use crate::job::{JobSpec, Op};

/// What every worker of a job knows.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    pub job: &'a JobSpec,
    pub worker: usize,
    /// The mod revision of each key, 0 for those that were not written.
    pub revisions: &'a [i64],
}

impl Share<'_> {
    /// This worker's first place among those of all workers.
    pub fn first_place(&self) -> u64 {
        self.worker as u64 * u64::from(self.job.iodepth)
    }
}

/// Whether all keys must be there before the job begins.
pub fn needs_keys(job: &JobSpec) -> bool {
    let reads = |op: Op| matches!(op, Op::Range | Op::List | Op::TxnUpdate);
    reads(job.op) || (job.op == Op::Mixed && job.mix.iter().any(|part| reads(part.op)))
}
