//! The flags: etcd's, in etcd's spelling and with the defaults of its 3.6 line, and Keelson's own.
//!
//! Every flag that etcd 3.6 has stands here with what Keelson does about it (its [`Standing`]);
//! names that only other releases have stand in `retired.rs`. The environment and the config file
//! use the same names, so this table is also the list of variables and keys.

use std::sync::OnceLock;

use keelson_tuning::SETTINGS;

use super::retired::RETIRED;

/// The groups of `--help`, in etcd's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The member itself.
    Member,
    /// The cluster and its history.
    Clustering,
    /// TLS and what may come in.
    Security,
    /// Users and tokens.
    Auth,
    /// Metrics and profiles.
    Monitoring,
    /// The log.
    Logging,
    /// Traces.
    Tracing,
    /// Checks and intervals.
    Features,
    /// What can lose data.
    Unsafe,
    /// Keelson's own.
    Keelson,
}

impl Group {
    /// The heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::Clustering => "Clustering",
            Self::Security => "Security",
            Self::Auth => "Auth",
            Self::Monitoring => "Profiling and Monitoring",
            Self::Logging => "Logging",
            Self::Tracing => "Distributed tracing",
            Self::Features => "Features",
            Self::Unsafe => "Unsafe feature",
            Self::Keelson => "Keelson",
        }
    }
}

/// What a flag's value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Go's booleans; the flag alone means true.
    Bool,
    /// A whole number that may be negative.
    Int,
    /// A whole number.
    Uint,
    /// A Go duration; a bare number counts nanoseconds in the config file only.
    Duration,
    /// Any text.
    Text,
}

/// What Keelson does with a flag.
#[derive(Clone, Copy, Debug)]
pub enum Standing {
    /// It is used.
    Used,
    /// It is accepted and changes nothing, for this reason.
    Idle(&'static str),
    /// Only its default (or nothing) is accepted; the text says what to do.
    Later(&'static str),
    /// An older name of another flag.
    Renamed(&'static str),
    /// An older way to set a feature gate.
    Gate(&'static str),
    /// etcd itself accepts and ignores it.
    Ignored,
    /// A setting of the tuning crate.
    Tuning(&'static keelson_tuning::Setting),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The name without dashes.
    pub name: &'static str,
    /// Where `--help` shows it.
    pub group: Group,
    /// What its value is made of.
    pub kind: Kind,
    /// The default as `--help` shows it.
    pub default: &'static str,
    /// What it does, in a sentence or two; empty for flags that `--help` does not describe.
    pub help: &'static str,
    /// What Keelson does with it.
    pub standing: Standing,
}

impl Flag {
    /// The environment variable: `ETCD_NAME` for etcd's flags, `KEELSON_CORES` for our own.
    pub fn variable(&self) -> String {
        let prefix = if self.group == Group::Keelson {
            "KEELSON"
        } else {
            "ETCD"
        };
        format!("{prefix}_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

/// Shorthand for the table.
pub(super) const fn row(
    name: &'static str,
    group: Group,
    kind: Kind,
    default: &'static str,
    standing: Standing,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        group,
        kind,
        default,
        help,
        standing,
    }
}

/// What to do about TLS flags.
pub(super) const NO_TLS: &str =
    "TLS is not available yet; leave the flag out and use http URLs, on a network you trust";
const NO_DISCOVERY: &str = "a cluster of one member needs no discovery; leave the flag out and name the member in --initial-cluster";
const NO_PEERS: &str = "a cluster of one member has no peers";
const NO_AUTH: &str = "users and tokens are not available yet; leave the flag out";
const NO_TRACING: &str = "distributed tracing is not available; leave the flag out";
const NO_BACKEND: &str = "there is no database file behind the log whose commits could be tuned";

const ETCD: &[Flag] = {
    use Group::{
        Auth, Clustering, Features, Logging, Member, Monitoring, Security, Tracing, Unsafe,
    };
    use Kind::{Bool, Duration, Int, Text, Uint};
    use Standing::{Idle, Later, Used};
    &[
        row(
            "name",
            Member,
            Text,
            "default",
            Used,
            "Name of this member.",
        ),
        row(
            "data-dir",
            Member,
            Text,
            "${name}.keelson",
            Used,
            "Directory that holds the member's data.",
        ),
        row(
            "wal-dir",
            Member,
            Text,
            "",
            Later("the log is the data and lives in --data-dir; put that on the fast disk"),
            "",
        ),
        row(
            "snapshot-count",
            Member,
            Uint,
            "10000",
            Used,
            "Accepted, as kubeadm sets it; the log is trimmed by its own rules.",
        ),
        row(
            "heartbeat-interval",
            Member,
            Uint,
            "100",
            Used,
            "Milliseconds between a leader's heartbeats.",
        ),
        row(
            "election-timeout",
            Member,
            Uint,
            "1000",
            Used,
            "Milliseconds without a heartbeat before an election; at least five heartbeats.",
        ),
        row(
            "initial-election-tick-advance",
            Member,
            Bool,
            "true",
            Idle("a single member elects itself at once"),
            "",
        ),
        row(
            "listen-peer-urls",
            Member,
            Text,
            "http://localhost:2380",
            Used,
            "URLs for other members; checked and announced, but a cluster of one listens to no peers.",
        ),
        row(
            "listen-client-urls",
            Member,
            Text,
            "http://localhost:2379",
            Used,
            "URLs to listen on for clients: gRPC, and HTTP for health, version and metrics.",
        ),
        row(
            "listen-client-http-urls",
            Member,
            Text,
            "",
            Later(
                "gRPC and HTTP share --listen-client-urls; for HTTP alone use --listen-metrics-urls",
            ),
            "",
        ),
        row(
            "max-wals",
            Member,
            Uint,
            "5",
            Idle("log segments are recycled as soon as they are not needed"),
            "",
        ),
        row(
            "memory-mlock",
            Member,
            Bool,
            "false",
            Later("memory is not locked; switch swap off on this machine instead"),
            "",
        ),
        row(
            "quota-backend-bytes",
            Member,
            Int,
            "0",
            Used,
            "Bytes that the key space may take before writes are refused with a NOSPACE alarm. \
             0 means 2 GiB, a negative number switches the quota off.",
        ),
        row(
            "backend-bbolt-freelist-type",
            Member,
            Text,
            "map",
            Idle(NO_BACKEND),
            "",
        ),
        row(
            "backend-batch-interval",
            Member,
            Duration,
            "0s",
            Idle(NO_BACKEND),
            "",
        ),
        row(
            "backend-batch-limit",
            Member,
            Int,
            "0",
            Idle(NO_BACKEND),
            "",
        ),
        row(
            "max-txn-ops",
            Member,
            Uint,
            "128",
            Used,
            "Operations that one transaction may hold.",
        ),
        row(
            "max-request-bytes",
            Member,
            Uint,
            "1572864",
            Used,
            "Bytes that one request may hold.",
        ),
        row(
            "max-concurrent-streams",
            Member,
            Uint,
            "4294967295",
            Used,
            "Streams that one connection may have open at a time.",
        ),
        row(
            "grpc-keepalive-min-time",
            Member,
            Duration,
            "5s",
            Used,
            "Shortest pause between a client's pings that is put up with.",
        ),
        row(
            "grpc-keepalive-interval",
            Member,
            Duration,
            "2h",
            Used,
            "Time without traffic after which a client is pinged; 0 never pings.",
        ),
        row(
            "grpc-keepalive-timeout",
            Member,
            Duration,
            "20s",
            Used,
            "Time to wait for the answer to a ping before the connection is closed; 0 waits forever.",
        ),
        row(
            "socket-reuse-port",
            Member,
            Bool,
            "false",
            Later("one process owns its port; leave the flag out"),
            "",
        ),
        row(
            "socket-reuse-address",
            Member,
            Bool,
            "false",
            Idle("listeners always take an address that is still in TIME_WAIT"),
            "",
        ),
        row(
            "enable-grpc-gateway",
            Member,
            Bool,
            "true",
            Idle("the JSON gateway is not available yet, so it is neither on nor off"),
            "",
        ),
        row(
            "raft-read-timeout",
            Member,
            Duration,
            "5s",
            Idle(NO_PEERS),
            "",
        ),
        row(
            "raft-write-timeout",
            Member,
            Duration,
            "5s",
            Idle(NO_PEERS),
            "",
        ),
        row(
            "feature-gates",
            Member,
            Text,
            "",
            Used,
            "Feature gates of etcd as Name=true,Other=false. All but PriorityRequest are accepted; \
             none changes what Keelson does.",
        ),
        row(
            "config-file",
            Member,
            Text,
            "",
            Used,
            "YAML file with these settings. Other flags and the environment are left aside then.",
        ),
        // Clustering.
        row(
            "initial-advertise-peer-urls",
            Clustering,
            Text,
            "http://localhost:2380",
            Used,
            "This member's peer URLs as other members would reach them.",
        ),
        row(
            "initial-cluster",
            Clustering,
            Text,
            "default=http://localhost:2380",
            Used,
            "The cluster as name=URL pairs. One member, this one. Left out, it is --name with \
             --initial-advertise-peer-urls.",
        ),
        row(
            "initial-cluster-state",
            Clustering,
            Text,
            "new",
            Used,
            "new to found a cluster, existing to find one in the data directory.",
        ),
        row(
            "initial-cluster-token",
            Clustering,
            Text,
            "etcd-cluster",
            Used,
            "Word that tells clusters apart; the cluster's id is made from it.",
        ),
        row(
            "advertise-client-urls",
            Clustering,
            Text,
            "http://localhost:2379",
            Used,
            "Client URLs as clients reach them. Must be given when --listen-client-urls is.",
        ),
        row(
            "discovery-token",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-endpoints",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-dial-timeout",
            Clustering,
            Duration,
            "2s",
            Idle("discovery is not in use"),
            "",
        ),
        row(
            "discovery-request-timeout",
            Clustering,
            Duration,
            "5s",
            Idle("discovery is not in use"),
            "",
        ),
        row(
            "discovery-keepalive-time",
            Clustering,
            Duration,
            "2s",
            Idle("discovery is not in use"),
            "",
        ),
        row(
            "discovery-keepalive-timeout",
            Clustering,
            Duration,
            "6s",
            Idle("discovery is not in use"),
            "",
        ),
        row(
            "discovery-insecure-transport",
            Clustering,
            Bool,
            "true",
            Idle("discovery is not in use"),
            "",
        ),
        row(
            "discovery-insecure-skip-tls-verify",
            Clustering,
            Bool,
            "false",
            Idle("discovery is not in use"),
            "",
        ),
        row(
            "discovery-cert",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-key",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-cacert",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-user",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-password",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-srv",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-srv-name",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row("discovery", Clustering, Text, "", Later(NO_DISCOVERY), ""),
        row(
            "discovery-proxy",
            Clustering,
            Text,
            "",
            Later(NO_DISCOVERY),
            "",
        ),
        row(
            "discovery-fallback",
            Clustering,
            Text,
            "exit",
            Idle("discovery is not in use"),
            "",
        ),
        row(
            "strict-reconfig-check",
            Clustering,
            Bool,
            "true",
            Used,
            "Refuse member changes that would cost the cluster its quorum.",
        ),
        row(
            "pre-vote",
            Clustering,
            Bool,
            "true",
            Used,
            "Ask for votes before calling an election; a single member has nobody to ask.",
        ),
        row(
            "auto-compaction-retention",
            Clustering,
            Text,
            "0",
            Used,
            "History to keep when compacting by itself; 0 never compacts by itself.",
        ),
        row(
            "auto-compaction-mode",
            Clustering,
            Text,
            "periodic",
            Used,
            "What the retention counts: periodic counts time (a bare number counts hours), revision \
             counts revisions.",
        ),
        // Security.
        row("cert-file", Security, Text, "", Later(NO_TLS), ""),
        row("key-file", Security, Text, "", Later(NO_TLS), ""),
        row("client-cert-file", Security, Text, "", Later(NO_TLS), ""),
        row("client-key-file", Security, Text, "", Later(NO_TLS), ""),
        row(
            "client-cert-auth",
            Security,
            Bool,
            "false",
            Later(NO_TLS),
            "",
        ),
        row("client-crl-file", Security, Text, "", Later(NO_TLS), ""),
        row(
            "client-cert-allowed-hostname",
            Security,
            Text,
            "",
            Later(NO_TLS),
            "",
        ),
        row("trusted-ca-file", Security, Text, "", Later(NO_TLS), ""),
        row("auto-tls", Security, Bool, "false", Later(NO_TLS), ""),
        row("peer-cert-file", Security, Text, "", Later(NO_TLS), ""),
        row("peer-key-file", Security, Text, "", Later(NO_TLS), ""),
        row(
            "peer-client-cert-file",
            Security,
            Text,
            "",
            Later(NO_TLS),
            "",
        ),
        row(
            "peer-client-key-file",
            Security,
            Text,
            "",
            Later(NO_TLS),
            "",
        ),
        row(
            "peer-client-cert-auth",
            Security,
            Bool,
            "false",
            Later(NO_TLS),
            "",
        ),
        row(
            "peer-trusted-ca-file",
            Security,
            Text,
            "",
            Later(NO_TLS),
            "",
        ),
        row("peer-auto-tls", Security, Bool, "false", Later(NO_TLS), ""),
        row("peer-crl-file", Security, Text, "", Later(NO_TLS), ""),
        row(
            "peer-cert-allowed-cn",
            Security,
            Text,
            "",
            Later(NO_TLS),
            "",
        ),
        row(
            "peer-cert-allowed-hostname",
            Security,
            Text,
            "",
            Later(NO_TLS),
            "",
        ),
        row(
            "peer-skip-client-san-verification",
            Security,
            Bool,
            "false",
            Later(NO_TLS),
            "",
        ),
        row(
            "self-signed-cert-validity",
            Security,
            Uint,
            "1",
            Idle("TLS is not in use"),
            "",
        ),
        row(
            "cipher-suites",
            Security,
            Text,
            "",
            Idle("TLS is not in use"),
            "",
        ),
        row(
            "tls-min-version",
            Security,
            Text,
            "TLS1.2",
            Idle("TLS is not in use"),
            "",
        ),
        row(
            "tls-max-version",
            Security,
            Text,
            "",
            Idle("TLS is not in use"),
            "",
        ),
        row(
            "cors",
            Security,
            Text,
            "*",
            Later(
                "origins are not checked; leave the flag out or keep browsers away by other means",
            ),
            "",
        ),
        row(
            "host-whitelist",
            Security,
            Text,
            "*",
            Later(
                "host names of requests are not checked; leave the flag out or restrict the listen address",
            ),
            "",
        ),
        // Auth.
        row("auth-token", Auth, Text, "simple", Later(NO_AUTH), ""),
        row("bcrypt-cost", Auth, Uint, "10", Later(NO_AUTH), ""),
        row("auth-token-ttl", Auth, Uint, "300", Later(NO_AUTH), ""),
        // Profiling and monitoring.
        row(
            "enable-pprof",
            Monitoring,
            Bool,
            "false",
            Later("there are no Go profiles to serve; leave the flag out and use perf"),
            "",
        ),
        row(
            "metrics",
            Monitoring,
            Text,
            "basic",
            Later("there is one set of metrics; leave the flag out or say basic"),
            "",
        ),
        row(
            "listen-metrics-urls",
            Monitoring,
            Text,
            "",
            Used,
            "Further URLs that serve only metrics and health over HTTP.",
        ),
        // Logging.
        row(
            "logger",
            Logging,
            Text,
            "zap",
            Later("there is one logger; leave the flag out or say zap"),
            "",
        ),
        row(
            "log-outputs",
            Logging,
            Text,
            "default",
            Used,
            "stderr (the default) or stdout.",
        ),
        row(
            "log-level",
            Logging,
            Text,
            "info",
            Used,
            "debug, info, warn, error, panic or fatal; the last two log nothing but the reason of an exit.",
        ),
        row(
            "log-format",
            Logging,
            Text,
            "json",
            Used,
            "json or console.",
        ),
        row(
            "enable-log-rotation",
            Logging,
            Bool,
            "false",
            Later("the log goes to stderr or stdout; let the supervisor rotate it"),
            "",
        ),
        row(
            "log-rotation-config-json",
            Logging,
            Text,
            "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}",
            Idle("log rotation is not in use"),
            "",
        ),
        row(
            "warning-unary-request-duration",
            Logging,
            Duration,
            "300ms",
            Used,
            "A unary request that takes longer is logged.",
        ),
        // Distributed tracing.
        row(
            "enable-distributed-tracing",
            Tracing,
            Bool,
            "false",
            Later(NO_TRACING),
            "",
        ),
        row(
            "distributed-tracing-address",
            Tracing,
            Text,
            "localhost:4317",
            Idle("tracing is not in use"),
            "",
        ),
        row(
            "distributed-tracing-service-name",
            Tracing,
            Text,
            "etcd",
            Idle("tracing is not in use"),
            "",
        ),
        row(
            "distributed-tracing-instance-id",
            Tracing,
            Text,
            "",
            Idle("tracing is not in use"),
            "",
        ),
        row(
            "distributed-tracing-sampling-rate",
            Tracing,
            Int,
            "0",
            Idle("tracing is not in use"),
            "",
        ),
        // Features.
        row(
            "corrupt-check-time",
            Features,
            Duration,
            "0s",
            Idle("a cluster of one member has no other data to compare with"),
            "",
        ),
        row(
            "compact-hash-check-time",
            Features,
            Duration,
            "1m",
            Idle("a cluster of one member has no other hashes to compare with"),
            "",
        ),
        row(
            "compaction-batch-limit",
            Features,
            Int,
            "1000",
            Idle("compaction works in slices between requests; see --engine-scrub-keys-per-turn"),
            "",
        ),
        row(
            "compaction-sleep-interval",
            Features,
            Duration,
            "10ms",
            Idle("compaction works in slices between requests; see --engine-scrub-keys-per-turn"),
            "",
        ),
        row(
            "watch-progress-notify-interval",
            Features,
            Duration,
            "10m",
            Used,
            "Time between progress notifications of watches that ask for them; at least 100ms.",
        ),
        row(
            "warning-apply-duration",
            Features,
            Duration,
            "100ms",
            Used,
            "A batch that takes longer to apply is logged and counted as slow.",
        ),
        row(
            "bootstrap-defrag-threshold-megabytes",
            Features,
            Uint,
            "0",
            Idle("there is nothing to defragment"),
            "",
        ),
        row(
            "max-learners",
            Features,
            Int,
            "1",
            Idle("a cluster of one member has no learners"),
            "",
        ),
        row(
            "downgrade-check-time",
            Features,
            Duration,
            "5s",
            Idle(NO_PEERS),
            "",
        ),
        row(
            "snapshot-catchup-entries",
            Features,
            Uint,
            "5000",
            Idle(NO_PEERS),
            "",
        ),
        row(
            "max-snapshots",
            Features,
            Uint,
            "5",
            Idle("the log is trimmed by its own rules"),
            "",
        ),
        row(
            "v2-deprecation",
            Features,
            Text,
            "write-only",
            Idle("there is no store of version 2 to phase out"),
            "",
        ),
        // Unsafe.
        row(
            "force-new-cluster",
            Unsafe,
            Bool,
            "false",
            Later("a cluster of one member has nobody to drop; leave the flag out"),
            "",
        ),
        row(
            "unsafe-no-fsync",
            Unsafe,
            Bool,
            "false",
            Used,
            "Do not wait for the disk. A power cut loses acknowledged writes; for tests only.",
        ),
    ]
};

const OWN: &[Flag] = &[row(
    "cores",
    Group::Keelson,
    Kind::Text,
    "all",
    Standing::Used,
    "Cores to run on: all, a count such as 2, or a list such as 0,2-3 whose first core is the engine's.",
)];

/// Every flag: etcd's, those that other releases of etcd have, ours, and the tuning settings.
pub fn all_flags() -> &'static [Flag] {
    static ALL: OnceLock<Vec<Flag>> = OnceLock::new();
    ALL.get_or_init(|| {
        let tuning = SETTINGS.iter().copied().flatten().map(|setting| Flag {
            // Once per process, so the leak is bounded by the table.
            name: setting.flag().leak(),
            group: Group::Keelson,
            kind: Kind::Uint,
            default: setting.default.to_string().leak(),
            help: setting.help,
            standing: Standing::Tuning(setting),
        });
        [ETCD, RETIRED, OWN]
            .into_iter()
            .flatten()
            .copied()
            .chain(tuning)
            .collect()
    })
}

/// The flag of that name.
pub fn flag(name: &str) -> Option<&'static Flag> {
    all_flags().iter().find(|flag| flag.name == name)
}
