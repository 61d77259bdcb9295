//! The flags: etcd's, in etcd's spelling and with the defaults of its 3.6 line, and Keelson's own.
//!
//! Every flag that etcd 3.6 has stands in the tables of this folder with what Keelson does about
//! it (its [`Standing`]); names that only other releases have stand in `retired.rs`. The environment and the config file
//! use the same names, so this table is also the list of variables and keys.

mod clustering;
mod member;
mod operation;
mod retired;
mod security;

use std::sync::OnceLock;

use keelson_tuning::SETTINGS;

use clustering::CLUSTERING;
use member::MEMBER;
use operation::OPERATION;
use retired::RETIRED;
use security::SECURITY;

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

/// The groups in the order in which they are shown.
pub const GROUPS: [Group; 10] = [
    Group::Member,
    Group::Clustering,
    Group::Security,
    Group::Auth,
    Group::Monitoring,
    Group::Logging,
    Group::Tracing,
    Group::Features,
    Group::Unsafe,
    Group::Keelson,
];

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
const NO_DISCOVERY: &str =
    "discovery is not available; leave the flag out and name the members in --initial-cluster";
const NO_AUTH: &str = "users and tokens are not available yet; leave the flag out";
const NO_TRACING: &str = "distributed tracing is not available; leave the flag out";
const NO_BACKEND: &str = "there is no database file behind the log whose commits could be tuned";

const OWN: &[Flag] = &[
    row(
        "profile",
        Group::Keelson,
        Kind::Text,
        "",
        Standing::Used,
        "A set of the settings below for a kind of machine, by name or by the path of a file; what is \
         set otherwise comes before it. \"keelson config profiles\" lists them.",
    ),
    row(
        "cores",
        Group::Keelson,
        Kind::Text,
        "auto",
        Standing::Used,
        "Cores to run on: auto (half of them), all, a count such as 2, or a list such as 0,2-3 whose first core is \
         the engine's.",
    ),
    row(
        "shards",
        Group::Keelson,
        Kind::Text,
        "",
        Standing::Used,
        "Further keyspaces, each an etcd of its own, as name=URL pairs; clients of the keyspace are served at its \
         URLs. The one of the usual flags is called main.",
    ),
    row(
        "shards-advertise-client-urls",
        Group::Keelson,
        Kind::Text,
        "",
        Standing::Used,
        "Client URLs of --shards as clients reach them, as name=URL pairs. Left out, they are those of --shards.",
    ),
    row(
        "shards-cores",
        Group::Keelson,
        Kind::Text,
        "",
        Standing::Used,
        "Cores of --shards as name=place pairs, the place counted from 0 in the list of cores. Shards of a core share \
         its log and its flushes; left out, a shard is on the first core, beside main.",
    ),
];

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
        [MEMBER, CLUSTERING, SECURITY, OPERATION, RETIRED, OWN]
            .into_iter()
            .flatten()
            .copied()
            .chain(tuning)
            .collect()
    })
}

/// The flags that the present release of etcd has, and ours.
pub fn current_flags() -> impl Iterator<Item = &'static Flag> {
    let is_retired = |flag: &&Flag| RETIRED.iter().any(|old| old.name == flag.name);
    all_flags().iter().filter(move |flag| !is_retired(flag))
}

/// The flag of that name.
pub fn flag(name: &str) -> Option<&'static Flag> {
    all_flags().iter().find(|flag| flag.name == name)
}
