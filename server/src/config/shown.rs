//! Every setting with the value that counts and the place it comes from, for `keelson config show`.
//!
//! Values of settings that are used are written from the [`Config`], not from what was given, so
//! that what is shown is what a member runs with. Invariant: given back as flags, they make the
//! same [`Config`] (a test does that).

use super::assemble::Assembled;
use super::cluster::ClusterState;
use super::compaction::AutoCompaction;
use super::flags::{Flag, Standing, current_flags};
use super::settings::{Config, LogFormat, LogLevel, LogOutput};
use super::shards::{SHARD_FLAGS, show_shards};
use super::spelling::format_duration;
use super::url::HttpUrl;

/// The place of a value that nobody gave.
const DEFAULT: &str = "default";

/// One setting.
#[derive(Clone, Debug)]
pub struct Effective {
    /// Its flag.
    pub flag: &'static Flag,
    /// The value in the spelling of the command line.
    pub value: String,
    /// Where it comes from, in words; several for feature gates, which add up.
    pub places: Vec<String>,
    /// What the value does.
    pub effect: Use,
}

/// What a value does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The member uses it.
    Used,
    /// It changes nothing, for this reason.
    Idle(&'static str),
    /// Only this value, the default, is accepted; the text says what to do.
    OnlyDefault(&'static str),
}

/// Every setting in the order of the flag table.
pub fn effective(assembled: &Assembled) -> Vec<Effective> {
    current_flags()
        .map(|flag| {
            let origin = assembled.origins.get(flag.name);
            let given = origin.map_or(flag.default, |origin| &origin.value).trim();
            let (value, effect) = match flag.standing {
                Standing::Tuning(row) => {
                    ((row.get)(&assembled.config.tuning).to_string(), Use::Used)
                }
                Standing::Idle(why) => (given.to_owned(), Use::Idle(why)),
                Standing::Later(advice) => (flag.default.to_owned(), Use::OnlyDefault(advice)),
                _ if flag.name == "config-file" => (given.to_owned(), Use::Used),
                _ => {
                    let value = used_value(&assembled.config, flag.name);
                    (
                        value.expect("a test looks at every flag that is used"),
                        Use::Used,
                    )
                }
            };
            // An empty value leaves most settings at their default.
            let places = origin
                .filter(|origin| !origin.value.trim().is_empty() || value.is_empty())
                .map_or_else(|| vec![DEFAULT.to_owned()], |origin| origin.places.clone());
            Effective {
                flag,
                value,
                places,
                effect,
            }
        })
        .collect()
}

fn used_value(config: &Config, name: &str) -> Option<String> {
    member_value(config, name)
        .or_else(|| cluster_value(config, name))
        .or_else(|| operation_value(config, name))
}

fn member_value(config: &Config, name: &str) -> Option<String> {
    Some(match name {
        "name" => config.name.clone(),
        "data-dir" => config.data_dir.display().to_string(),
        "initial-election-tick-advance" => config.initial_election_tick_advance.to_string(),
        "heartbeat-interval" => config.heartbeat_interval.as_millis().to_string(),
        "election-timeout" => config.election_timeout.as_millis().to_string(),
        "listen-peer-urls" => HttpUrl::join(&config.listen_peer_urls),
        "listen-client-urls" => HttpUrl::join(&config.listen_client_urls),
        "quota-backend-bytes" => config
            .quota_backend_bytes
            .map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string()),
        "snapshot-count" => config.snapshot_count.to_string(),
        "snapshot-catchup-entries" => config.snapshot_catchup_entries.to_string(),
        "corrupt-check-time" => format_duration(config.corrupt_check_time.unwrap_or_default()),
        "compact-hash-check-time" => format_duration(config.compact_hash_check_time),
        "max-txn-ops" => config.max_txn_ops.to_string(),
        "max-request-bytes" => config.max_request_bytes.to_string(),
        "max-concurrent-streams" => config.max_concurrent_streams.to_string(),
        "grpc-keepalive-interval" => {
            format_duration(config.grpc_keepalive_interval.unwrap_or_default())
        }
        "grpc-keepalive-timeout" => {
            format_duration(config.grpc_keepalive_timeout.unwrap_or_default())
        }
        "feature-gates" => {
            let gates: Vec<String> = config
                .feature_gates
                .iter()
                .map(|(feature, enabled)| format!("{}={enabled}", feature.name))
                .collect();
            gates.join(",")
        }
        "profile" => config.profile.clone().unwrap_or_default(),
        "cores" => config.cores.to_string(),
        shards if shards.starts_with("shards") => {
            let field = SHARD_FLAGS.iter().position(|(_, flag)| *flag == shards)?;
            show_shards(&config.shards)[field].clone()
        }
        _ => return None,
    })
}

fn cluster_value(config: &Config, name: &str) -> Option<String> {
    Some(match name {
        "initial-advertise-peer-urls" => HttpUrl::join(&config.initial_advertise_peer_urls),
        "initial-cluster" => {
            let members = config.initial_cluster.iter();
            let pairs: Vec<String> = members
                .flat_map(|member| {
                    let urls = member.peer_urls.iter();
                    urls.map(|url| format!("{}={url}", member.name))
                })
                .collect();
            pairs.join(",")
        }
        "initial-cluster-state" => match config.initial_cluster_state {
            ClusterState::New => "new".to_owned(),
            ClusterState::Existing => "existing".to_owned(),
        },
        "strict-reconfig-check" => config.strict_reconfig_check.to_string(),
        "initial-cluster-token" => config.initial_cluster_token.clone(),
        "advertise-client-urls" => HttpUrl::join(&config.advertise_client_urls),
        "auto-compaction-mode" => match config.auto_compaction {
            AutoCompaction::Off | AutoCompaction::Periodic { .. } => "periodic".to_owned(),
            AutoCompaction::Revision { .. } => "revision".to_owned(),
        },
        "auto-compaction-retention" => match config.auto_compaction {
            AutoCompaction::Off => "0".to_owned(),
            AutoCompaction::Periodic { retention } => format_duration(retention),
            AutoCompaction::Revision { retention } => retention.to_string(),
        },
        _ => return None,
    })
}

fn operation_value(config: &Config, name: &str) -> Option<String> {
    let word = match name {
        "listen-metrics-urls" => return Some(HttpUrl::join(&config.listen_metrics_urls)),
        "watch-progress-notify-interval" => {
            return Some(format_duration(config.watch_progress_notify_interval));
        }
        "warning-apply-duration" => return Some(format_duration(config.warning_apply_duration)),
        "force-new-cluster" => return Some(config.force_new_cluster.to_string()),
        "max-learners" => return Some(config.max_learners.to_string()),
        "unsafe-no-fsync" => return Some(config.unsafe_no_fsync.to_string()),
        "log-level" => match config.log.level {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Panic => "panic",
            LogLevel::Fatal => "fatal",
        },
        "log-format" => match config.log.format {
            LogFormat::Json => "json",
            LogFormat::Console => "console",
        },
        "log-outputs" => match config.log.output {
            LogOutput::Stderr => "stderr",
            LogOutput::Stdout => "stdout",
        },
        _ => return None,
    };
    Some(word.to_owned())
}
