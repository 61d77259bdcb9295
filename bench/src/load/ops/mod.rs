//! What the jobs ask, and what an answer must hold.
//!
//! ```text
//!   kv         put, txn-update, range, list, delete, and any mixture of them
//!   requests   the messages of these; answer: what their answers said
//!   pages      a listing's requests; listing: its answers, read in pieces
//!   keepalive  lease-keepalive
//!   watch      watch and watch-latency
//!   watchers   watch streams; stamp: values by which their events are known again
//!   kube       a cluster's life; event_lease: the lease of its Event objects
//!   fill       writes all keys before a job that reads them
//! ```

mod answer;
mod event_lease;
mod fill;
mod keepalive;
mod kube;
mod kv;
mod listing;
mod pages;
mod requests;
mod stamp;
mod watch;
mod watchers;

pub use fill::{FILL_PLACES, Fill};
pub use keepalive::Keepalive;
pub use kube::Kube;
pub use kv::Kv;
pub use stamp::{WatchAnswer, read_watch};
pub use watch::Watch;

use super::keys::{KeyText, value};
use crate::job::{JobSpec, Op};

/// What every worker of a job knows.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    pub job: &'a JobSpec,
    pub worker: usize,
    /// A number that no other load has.
    pub run: u32,
    /// The mod revision of each key of each fill.
    pub revisions: &'a [Vec<i64>],
}

impl Share<'_> {
    /// This worker's first place among those of all workers.
    fn first_place(&self) -> u64 {
        self.worker as u64 * u64::from(self.job.iodepth)
    }

    /// The mark of what this worker writes.
    fn writer(&self) -> u64 {
        u64::from(self.run) << 32 | self.worker as u64
    }
}

/// What must be there before the job begins.
pub fn fills(job: &JobSpec) -> Vec<Fill> {
    if matches!(
        job.op,
        Op::KubeNodeLeases | Op::KubePodChurn | Op::Kube1kNodes
    ) {
        return Kube::fills(job);
    }
    let reads = |op: Op| matches!(op, Op::Range | Op::List | Op::TxnUpdate);
    if reads(job.op) || (job.op == Op::Mixed && job.mix.iter().any(|part| reads(part.op))) {
        let value = value(job.seed, job.value_bytes);
        return vec![Fill::new(KeyText::of(job), job.key_count, value)];
    }
    Vec::new()
}
