//! Every key of a job, once: its words, what it allows, its default, and what it is for.
//!
//! The parser, its error messages, the options of the command line, `keelson-bench jobs --keys` and
//! the table in `bench/README.md` all come from [`KEYS`].

use std::fmt::Write as _;

use super::spec::Op;
use super::value::Kind;

/// One key.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// fio's word, where ours is another.
    pub alias: Option<&'static str>,
    pub kind: Kind,
    /// As it would be written; empty if the key has no value then.
    pub default: &'static str,
    /// The operations that look at it.
    pub ops: &'static [Op],
    /// Where the value stands in a spec's JSON; empty for `inflight`, which sets `iodepth`.
    pub field: &'static [&'static str],
    pub help: &'static str,
}

const ALL: &[Op] = &Op::ALL;
/// Those that drive a server.
const SERVED: &[Op] = &[
    Op::Put,
    Op::TxnUpdate,
    Op::Range,
    Op::List,
    Op::Delete,
    Op::Watch,
    Op::WatchLatency,
    Op::LeaseKeepalive,
    Op::Mixed,
    Op::KubeNodeLeases,
    Op::KubePodChurn,
    Op::Kube1kNodes,
];
/// Clients that ask again when they are answered.
const CLOSED: &[Op] = &[
    Op::Put,
    Op::TxnUpdate,
    Op::Range,
    Op::List,
    Op::Delete,
    Op::Watch,
    Op::LeaseKeepalive,
    Op::Mixed,
];
/// Those that a rate can drive.
const RATED: &[Op] = &[
    Op::Put,
    Op::TxnUpdate,
    Op::Range,
    Op::List,
    Op::Delete,
    Op::Watch,
    Op::WatchLatency,
    Op::LeaseKeepalive,
    Op::Mixed,
];
/// Those that touch the job's own keys.
const KEYED: &[Op] = &[
    Op::Put,
    Op::TxnUpdate,
    Op::Range,
    Op::List,
    Op::Delete,
    Op::Watch,
    Op::WatchLatency,
    Op::Mixed,
];
const VALUED: &[Op] = &[
    Op::Put,
    Op::TxnUpdate,
    Op::Range,
    Op::List,
    Op::Watch,
    Op::WatchLatency,
    Op::Mixed,
    Op::KubeNodeLeases,
    Op::KubePodChurn,
    Op::Kube1kNodes,
];
const POINTED: &[Op] = &[
    Op::Put,
    Op::TxnUpdate,
    Op::Range,
    Op::Delete,
    Op::Watch,
    Op::WatchLatency,
    Op::Mixed,
];
const WRITING: &[Op] = &[Op::Put, Op::TxnUpdate, Op::Delete, Op::Mixed];
const LISTING: &[Op] = &[Op::List, Op::Mixed];
const READING: &[Op] = &[Op::Range, Op::List, Op::Mixed];
const FANNING: &[Op] = &[Op::Watch, Op::WatchLatency];
const WATCHING: &[Op] = &[
    Op::Watch,
    Op::WatchLatency,
    Op::KubePodChurn,
    Op::Kube1kNodes,
];
const SIZED: &[Op] = &[
    Op::Put,
    Op::TxnUpdate,
    Op::Range,
    Op::List,
    Op::Delete,
    Op::LeaseKeepalive,
    Op::Mixed,
];
const NODES: &[Op] = &[Op::KubeNodeLeases, Op::KubePodChurn, Op::Kube1kNodes];
const RENEWING: &[Op] = &[Op::KubeNodeLeases, Op::Kube1kNodes];
const PODS: &[Op] = &[Op::KubePodChurn, Op::Kube1kNodes];
const DISK: &[Op] = &[Op::Disk];

const HOUR_MS: u64 = 3_600_000;

/// All keys, in the order in which they are listed.
pub const KEYS: &[Key] = &[
    Key {
        name: "op",
        alias: None,
        kind: Kind::Op,
        default: "",
        ops: ALL,
        field: &["op"],
        help: "What each client does over and over. Every job names one.",
    },
    Key {
        name: "runtime",
        alias: None,
        kind: Kind::Time {
            min_ms: 0,
            max_ms: 24 * HOUR_MS,
        },
        default: "5s",
        ops: ALL,
        field: &["runtime_ms"],
        help: "Measured time. 0: until size operations are done. For disk jobs, the time of each \
               block size and depth.",
    },
    Key {
        name: "ramp_time",
        alias: None,
        kind: Kind::Time {
            min_ms: 0,
            max_ms: HOUR_MS,
        },
        default: "1s",
        ops: SERVED,
        field: &["ramp_time_ms"],
        help: "Time under load before the measured time.",
    },
    Key {
        name: "size",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 1_000_000_000_000,
        },
        default: "",
        ops: SIZED,
        field: &["size"],
        help: "Operations after which the job ends before its time, ramp included.",
    },
    Key {
        name: "settle",
        alias: None,
        kind: Kind::Flag,
        default: "0",
        ops: WRITING,
        field: &["settle"],
        help: "1: bytes written count until the servers have come to rest after the load, so that what \
               they wrote late is theirs too. Wants ramp_time=0.",
    },
    Key {
        name: "numjobs",
        alias: None,
        kind: Kind::Count { min: 1, max: 64 },
        default: "1",
        ops: SERVED,
        field: &["numjobs"],
        help: "Clones of the job, each a thread of the generator.",
    },
    Key {
        name: "iodepth",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 100_000,
        },
        default: "64",
        ops: CLOSED,
        field: &["iodepth"],
        help: "Requests in flight per clone. With a rate: the most that may wait for an answer.",
    },
    Key {
        name: "inflight",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 100_000,
        },
        default: "",
        ops: CLOSED,
        field: &[],
        help: "Requests in flight over all clones, in place of iodepth.",
    },
    Key {
        name: "connections",
        alias: None,
        kind: Kind::Count { min: 1, max: 4_096 },
        default: "8",
        ops: SERVED,
        field: &["connections"],
        help: "TCP connections of the whole job, shared out over clones and endpoints. No fewer \
               than clones; in a closed loop, no more than requests in flight.",
    },
    Key {
        name: "rate",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 10_000_000,
        },
        default: "",
        ops: RATED,
        field: &["rate"],
        help: "Requests per second of the whole job, on schedule whatever the answers (open loop). \
               Latency counts from the scheduled time. Without it, each answer makes room for the \
               next request (closed loop).",
    },
    Key {
        name: "value_bytes",
        alias: Some("bs"),
        kind: Kind::Bytes {
            min: 0,
            max: 1 << 20,
        },
        default: "256",
        ops: VALUED,
        field: &["value_bytes"],
        help: "Bytes in each value, or in each object of the kube jobs.",
    },
    Key {
        name: "key_bytes",
        alias: None,
        kind: Kind::Bytes {
            min: 16,
            max: 1_024,
        },
        default: "16",
        ops: KEYED,
        field: &["key_bytes"],
        help: "Bytes in each key.",
    },
    Key {
        name: "key_count",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 1_000_000_000,
        },
        default: "100k",
        ops: KEYED,
        field: &["key_count"],
        help: "Keys. Reads and updates write all of them before the load begins.",
    },
    Key {
        name: "key_order",
        alias: None,
        kind: Kind::Word(&["seq", "rand"]),
        default: "rand",
        ops: POINTED,
        field: &["key_order"],
        help: "Keys in turn, or any key, each as likely as the other.",
    },
    Key {
        name: "serializable",
        alias: None,
        kind: Kind::Flag,
        default: "0",
        ops: READING,
        field: &["serializable"],
        help: "Reads are answered from local state; otherwise they are linearizable.",
    },
    Key {
        name: "list_mode",
        alias: None,
        kind: Kind::Word(&["paged", "full", "stream"]),
        default: "paged",
        ops: LISTING,
        field: &["list_mode"],
        help: "How all keys are read: in pages at one revision, by one Range without a limit, or by \
               one RangeStream. Of a server without RangeStream, stream is read as full.",
    },
    Key {
        name: "page_limit",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 1_000_000,
        },
        default: "500",
        ops: LISTING,
        field: &["page_limit"],
        help: "Keys in a page; kube-apiserver's clients ask for 500.",
    },
    Key {
        name: "mix",
        alias: None,
        kind: Kind::Mix,
        default: "range:70,put:30",
        ops: &[Op::Mixed],
        field: &["mix"],
        help: "Shares of the operations of a mixed job.",
    },
    Key {
        name: "watchers",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 1_000_000,
        },
        default: "1",
        ops: WATCHING,
        field: &["watchers"],
        help: "Watchers of all keys; in the kube jobs, of each resource.",
    },
    Key {
        name: "watchers_per_stream",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 100_000,
        },
        default: "1",
        ops: FANNING,
        field: &["watchers_per_stream"],
        help: "Watchers that share one gRPC stream.",
    },
    Key {
        name: "nodes",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 100_000,
        },
        default: "100",
        ops: NODES,
        field: &["kube", "nodes"],
        help: "Nodes of the cluster.",
    },
    Key {
        name: "renew_interval",
        alias: None,
        kind: Kind::Time {
            min_ms: 1,
            max_ms: HOUR_MS,
        },
        default: "10s",
        ops: RENEWING,
        field: &["kube", "renew_interval_ms"],
        help: "How often each node renews its Lease object; a kubelet does every 10 s.",
    },
    Key {
        name: "pods_per_second",
        alias: None,
        kind: Kind::Count {
            min: 1,
            max: 100_000,
        },
        default: "20",
        ops: PODS,
        field: &["kube", "pods_per_second"],
        help: "Pods that are created, bound, brought up and deleted.",
    },
    Key {
        name: "events_per_pod",
        alias: None,
        kind: Kind::Count { min: 0, max: 100 },
        default: "5",
        ops: PODS,
        field: &["kube", "events_per_pod"],
        help: "Event objects that are written for each pod.",
    },
    Key {
        name: "event_ttl",
        alias: None,
        kind: Kind::Time {
            min_ms: 1_000,
            max_ms: 24 * HOUR_MS,
        },
        default: "1h",
        ops: PODS,
        field: &["kube", "event_ttl_ms"],
        help: "Life of an Event object; kube-apiserver's --event-ttl.",
    },
    Key {
        name: "block_sizes",
        alias: Some("bs"),
        kind: Kind::BlockList {
            unit: 512,
            max: 16 << 20,
        },
        default: "4k,16k,64k",
        ops: DISK,
        field: &["disk", "block_sizes"],
        help: "Bytes of each write; each size is tried at each depth.",
    },
    Key {
        name: "depths",
        alias: Some("iodepth"),
        kind: Kind::CountList { min: 1, max: 256 },
        default: "1,2,4",
        ops: DISK,
        field: &["disk", "depths"],
        help: "Writes in flight.",
    },
    Key {
        name: "direct",
        alias: None,
        kind: Kind::Direct,
        default: "both",
        ops: DISK,
        field: &["disk", "path"],
        help: "1: O_DIRECT through io_uring and durable at once, as Keelson's log writes; 0: write and \
               fdatasync, as etcd writes; both: one after the other.",
    },
    Key {
        name: "file_bytes",
        alias: Some("size"),
        kind: Kind::Bytes {
            min: 1 << 20,
            max: 16 << 30,
        },
        default: "64m",
        ops: DISK,
        field: &["size"],
        help: "Length of the file that is written over and over.",
    },
    Key {
        name: "directory",
        alias: None,
        kind: Kind::Path,
        default: "",
        ops: DISK,
        field: &["disk", "directory"],
        help: "Where the file is made. The folder of --dir if not given.",
    },
    Key {
        name: "endpoints",
        alias: None,
        kind: Kind::Endpoints,
        default: "",
        ops: SERVED,
        field: &["endpoints"],
        help: "Running servers to drive. Without it the tool starts one itself.",
    },
    Key {
        name: "seed",
        alias: None,
        kind: Kind::Count {
            min: 0,
            max: 1_000_000_000,
        },
        default: "1",
        ops: SERVED,
        field: &["seed"],
        help: "Seed of keys, values and choices.",
    },
    Key {
        name: "cpus_allowed",
        alias: None,
        kind: Kind::Cpus,
        default: "",
        ops: SERVED,
        field: &["cpus_allowed"],
        help: "CPUs that the generator's threads are bound to; any if not given.",
    },
    Key {
        name: "group_reporting",
        alias: None,
        kind: Kind::Flag,
        default: "1",
        ops: SERVED,
        field: &["group_reporting"],
        help: "1: one result for all clones; 0: one for each clone beside it.",
    },
];

impl Key {
    /// The key that a word means in a job of this operation.
    pub fn find(word: &str, op: Op) -> Option<&'static Self> {
        let applies = |key: &&Self| key.ops.contains(&op);
        let mut keys = KEYS.iter().filter(applies);
        keys.find(|key| key.is_called(word))
    }

    /// The first key of that word for any operation.
    pub fn find_any(word: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.is_called(word))
    }

    /// The word that is most like a mistaken one, if any is.
    pub fn nearest(word: &str) -> Option<&'static str> {
        let likeness = |name: &str| strsim::jaro_winkler(word, name);
        let nearest = Self::words().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(nearest) > NEARNESS_MIN).then_some(nearest)
    }

    /// Every word, aliases too; some are two keys'.
    pub fn words() -> impl Iterator<Item = &'static str> {
        KEYS.iter()
            .flat_map(|key| std::iter::once(key.name).chain(key.alias))
    }

    fn is_called(&self, word: &str) -> bool {
        self.name == word || self.alias == Some(word)
    }

    /// The operations that look at it, in words.
    pub fn applies_to(&self) -> String {
        let without: Vec<Op> = Op::ALL
            .into_iter()
            .filter(|op| !self.ops.contains(op))
            .collect();
        let names = |ops: &[Op]| {
            ops.iter()
                .map(|op| op.name())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match without[..] {
            [] => "all".to_owned(),
            [_] | [_, _] => format!("all but {}", names(&without)),
            _ => names(self.ops),
        }
    }
}

/// How like a known word a mistaken one must be to be taken for it.
const NEARNESS_MIN: f64 = 0.8;

/// The table of all keys for a README.
pub fn markdown() -> String {
    let mut out =
        "| Key | Allowed | Default | Of ops | What it is |\n|---|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let alias = key
            .alias
            .map_or(String::new(), |alias| format!(", `{alias}`"));
        let default = match key.default {
            "" => "-".to_owned(),
            text => format!("`{text}`"),
        };
        writeln!(
            out,
            "| `{}`{alias} | {} | {default} | {} | {} |",
            key.name,
            key.kind,
            key.applies_to(),
            key.help
        )
        .expect("a string takes any text");
    }
    out
}

/// The same for a terminal.
pub fn listing() -> String {
    let mut out = String::new();
    for key in KEYS {
        let alias = key
            .alias
            .map_or(String::new(), |alias| format!(", {alias}"));
        let default = match key.default {
            "" => String::new(),
            text => format!(" [{text}]"),
        };
        writeln!(
            out,
            "{}{alias}{default}\n    {}\n    allowed: {}; of: {}",
            key.name,
            key.help,
            key.kind,
            key.applies_to()
        )
        .expect("a string takes any text");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_one_key_for_each_op() {
        for op in Op::ALL {
            for word in Key::words() {
                let of_op = |key: &&Key| key.ops.contains(&op) && key.is_called(word);
                assert!(KEYS.iter().filter(of_op).count() <= 1, "{word} of {op}");
            }
        }
        assert_eq!(Key::find("bs", Op::Put).unwrap().name, "value_bytes");
        assert_eq!(Key::find("bs", Op::Disk).unwrap().name, "block_sizes");
        assert_eq!(Key::nearest("runtim"), Some("runtime"));
        assert_eq!(Key::nearest("xyzzy"), None);
    }

    #[test]
    fn the_table_in_the_readme_is_this_one() {
        let readme = include_str!("../../README.md");
        let (begin, end) = ("<!-- keys: begin -->\n", "<!-- keys: end -->");
        let table = readme
            .split_once(begin)
            .and_then(|(_, rest)| rest.split_once(end))
            .map(|(table, _)| table.trim());
        let expected = markdown();
        assert_eq!(
            table,
            Some(expected.trim()),
            "bench/README.md differs from `keelson-bench jobs --markdown`"
        );
    }
}
