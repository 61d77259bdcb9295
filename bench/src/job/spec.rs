//! One job, fully resolved: every key has a value, whoever gave it.
//!
//! A [`JobSpec`] is what the job file, the command line and the defaults come to. The generator and
//! the disk probe work from it alone, and every result carries it, so that a reader can repeat the
//! job. Field names, words of the enums and units are part of the JSON format.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one job does, with what, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The section it came from.
    pub name: String,
    pub op: Op,
    /// Which key the next request touches.
    pub key_order: KeyOrder,
    /// Clones of the job, each a thread of the generator.
    pub numjobs: u32,
    /// Requests in flight per clone.
    pub iodepth: u32,
    /// TCP connections of the whole job, shared out over the clones.
    pub connections: u32,
    pub value_bytes: u64,
    pub key_bytes: u64,
    pub key_count: u64,
    /// Watchers of the whole job.
    pub watchers: u32,
    /// Watchers that share one gRPC stream.
    pub watchers_per_stream: u32,
    /// Shares of the operations of a mixed job.
    pub mix: Vec<MixPart>,
    pub list_mode: ListMode,
    /// Keys in one page of a paged list.
    pub page_limit: u64,
    /// Requests per second of the whole job, sent on schedule whatever the answers (open loop);
    /// None: each answer makes room for the next request (closed loop).
    pub rate: Option<u64>,
    /// Measured time; 0 if `size` alone ends the job.
    pub runtime_ms: u64,
    /// Time under load before it, not measured.
    pub ramp_time_ms: u64,
    /// Operations after which the job ends before its time; bytes of the file for a disk job.
    pub size: Option<u64>,
    /// What servers write after the load counts too, until they have come to rest.
    #[serde(default)]
    pub settle: bool,
    pub seed: u64,
    /// Reads ask for no quorum.
    pub serializable: bool,
    /// CPUs that the generator's threads are bound to; empty: any.
    pub cpus_allowed: Vec<u32>,
    /// One result for all clones; else one for each beside it.
    pub group_reporting: bool,
    /// `host:port` of running servers; empty: the tool starts one itself.
    pub endpoints: Vec<String>,
    pub kube: KubeSpec,
    pub disk: DiskSpec,
}

/// What the kube jobs imitate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KubeSpec {
    /// Nodes that renew their Lease objects.
    pub nodes: u32,
    /// How often each does.
    pub renew_interval_ms: u64,
    /// Pods that are created, bound, brought up and deleted.
    pub pods_per_second: u32,
    /// Events written for each pod.
    pub events_per_pod: u32,
    pub event_ttl_ms: u64,
}

/// What a disk job tries: each block size at each depth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskSpec {
    pub block_sizes: Vec<u64>,
    pub depths: Vec<u32>,
    pub path: WritePath,
    /// Where the file is made; None: the folder that holds the data directories.
    pub directory: Option<PathBuf>,
}

/// What each client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Write one key.
    Put,
    /// Kubernetes' optimistic update: a Txn that writes a key if its mod revision is the one read
    /// last, and reads it otherwise.
    TxnUpdate,
    /// Read one key.
    Range,
    /// Read all keys.
    List,
    /// Delete one key.
    Delete,
    /// Write keys that many watchers see; an operation is one event at one watcher.
    Watch,
    /// Write at a rate, and time each event from its write to its arrival.
    WatchLatency,
    /// Renew the client's own lease on its own stream.
    LeaseKeepalive,
    /// Several of the above in shares.
    Mixed,
    /// Nodes renew their Lease objects.
    KubeNodeLeases,
    /// Pods come and go, with watches on every resource.
    KubePodChurn,
    /// Both at the size of a cluster of a thousand nodes.
    #[serde(rename = "kube-1k-nodes")]
    Kube1kNodes,
    /// Write blocks to a file and make them durable.
    Disk,
}

/// Which key the next request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyOrder {
    /// Keys in turn, over and over.
    Seq,
    /// Any key, each as likely as the other.
    Rand,
}

/// How all keys are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListMode {
    /// Pages of `page_limit` keys at the revision of the first one.
    Paged,
    /// One Range without a limit.
    Full,
    /// One RangeStream, which etcd 3.5 does not have.
    Stream,
}

/// How blocks reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WritePath {
    /// O_DIRECT through io_uring and durable at once, as the log writes.
    Direct,
    /// write and fdatasync, as etcd writes.
    Buffered,
    /// One after the other.
    Both,
}

/// One operation of a mixed job and its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MixPart {
    pub op: Op,
    pub weight: u32,
}

impl JobSpec {
    /// Requests in flight over all clones.
    pub fn in_flight(&self) -> u64 {
        u64::from(self.numjobs) * u64::from(self.iodepth)
    }

    /// Whether it reads by RangeStream.
    pub fn uses_range_stream(&self) -> bool {
        let lists = match self.op {
            Op::List => true,
            Op::Mixed => self.mix.iter().any(|part| part.op == Op::List),
            _ => false,
        };
        lists && self.list_mode == ListMode::Stream
    }

    /// Measured time.
    pub fn runtime(&self) -> Duration {
        Duration::from_millis(self.runtime_ms)
    }

    /// Time under load before it.
    pub fn ramp_time(&self) -> Duration {
        Duration::from_millis(self.ramp_time_ms)
    }
}

impl Op {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 13] = [
        Self::Put,
        Self::TxnUpdate,
        Self::Range,
        Self::List,
        Self::Delete,
        Self::Watch,
        Self::WatchLatency,
        Self::LeaseKeepalive,
        Self::Mixed,
        Self::KubeNodeLeases,
        Self::KubePodChurn,
        Self::Kube1kNodes,
        Self::Disk,
    ];

    /// Its word in job files and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::TxnUpdate => "txn-update",
            Self::Range => "range",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Watch => "watch",
            Self::WatchLatency => "watch-latency",
            Self::LeaseKeepalive => "lease-keepalive",
            Self::Mixed => "mixed",
            Self::KubeNodeLeases => "kube-node-leases",
            Self::KubePodChurn => "kube-pod-churn",
            Self::Kube1kNodes => "kube-1k-nodes",
            Self::Disk => "disk",
        }
    }

    /// The operation of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_has_the_same_word_in_job_files_and_in_json() {
        for op in Op::ALL {
            let json = serde_json::to_string(&op).unwrap();
            assert_eq!(json, format!("\"{op}\""));
            assert_eq!(serde_json::from_str::<Op>(&json).unwrap(), op);
            assert_eq!(Op::named(op.name()), Some(op));
        }
        assert_eq!(Op::named("get"), None);
    }
}
