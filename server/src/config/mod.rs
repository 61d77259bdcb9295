//! What the operator decided, as one checked value.
//!
//! Three sources speak etcd's names: flags, environment, and a YAML file. Each is turned into the
//! same thing, a list of [`Given`] values by flag name, so that a value means the same wherever it
//! stands; [`assemble`] turns the list into a [`Config`] or into one sentence that says what to
//! mend. The table of every flag that any etcd of the 3.5 and 3.6 lines knows, and what Keelson
//! does with it, is in `flags/`.
//!
//! Precedence: flags, then environment, then the profile, then defaults. A config file stands alone:
//! with it, other flags and the environment are left aside, as in etcd, and a notice says so; what it
//! says comes before the profile that it names. A [`profile`] speaks by flag names too.
//!
//! Invariants:
//! 1. No setting is silently ignored: it is used, or a notice says why it changes nothing, or the
//!    start is refused.
//! 2. Assembling reads no clock, file or environment; the same input gives the same answer.

mod assemble;
mod cluster;
mod compaction;
mod cores;
mod error;
mod features;
mod file;
mod flags;
mod given;
mod profile;
mod settings;
mod shards;
mod shown;
mod spelling;
mod url;
pub mod version;

pub use assemble::{Assembled, Notice, NoticeLevel, assemble};
pub use cluster::{ClusterMember, ClusterState};
pub(crate) use cluster::{check_alone, check_cluster, parse_cluster};
pub use compaction::AutoCompaction;
pub use cores::CoreSelection;
pub use error::ConfigError;
pub use features::{Effect, FEATURES, Feature, FeatureGates};
pub(crate) use file::nearest;
pub use file::read_yaml;
pub use flags::{Flag, GROUPS, Group, Kind, Standing, all_flags, current_flags, flag};
pub use given::{Given, Source};
pub use profile::over_profile;
pub use settings::{Config, LogConfig, LogFormat, LogLevel, LogOutput};
pub use shards::ShardConfig;
pub use shown::{Effective, Use, effective};
pub use spelling::{format_duration, parse_duration};
pub use url::HttpUrl;
