//! From values as they were written to a configuration that can be used.
//!
//! The walk: every value is checked for its kind and for what Keelson does with its flag; those
//! that are used are then read by name, with the flag table's defaults where nothing was given; and
//! last come the rules between settings. What an operator should know, but need not mend, becomes
//! a [`Notice`], to be logged once the log is set up.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_storage::wal::WalConfig;
use keelson_tuning::Tuning;

use super::cluster::{ClusterState, check_cluster, parse_cluster};
use super::compaction::AutoCompaction;
use super::cores::CoreSelection;
use super::error::ConfigError;
use super::features::FeatureGates;
use super::flags::{Flag, Kind, Standing, flag};
use super::given::{Given, Source};
use super::settings::{
    Config, ELECTION_TIMEOUT_MS_MAX, LogConfig, LogFormat, LogLevel, LogOutput,
    PROGRESS_INTERVAL_MIN, QUOTA_BYTES_DEFAULT, QUOTA_BYTES_SENSIBLE, REQUEST_BYTES_MAX,
    REQUEST_BYTES_SENSIBLE,
};
use super::shards::{SHARD_FLAGS, ShardConfig, parse_shards};
use super::spelling::{format_duration, parse_bool, parse_duration};
use super::url::HttpUrl;
use crate::engine::limits::entry_payload_bytes_max;

/// How important a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeLevel {
    /// Good to know.
    Info,
    /// Worth a look.
    Warn,
}

/// Something to log once the log is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How important it is.
    pub level: NoticeLevel,
    /// The sentence.
    pub text: String,
}

impl Notice {
    pub(crate) fn info(text: impl Into<String>) -> Self {
        Self {
            level: NoticeLevel::Info,
            text: text.into(),
        }
    }

    pub(crate) fn warn(text: impl Into<String>) -> Self {
        Self {
            level: NoticeLevel::Warn,
            text: text.into(),
        }
    }
}

/// A checked configuration and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The configuration.
    pub config: Config,
    /// What to log.
    pub notices: Vec<Notice>,
    /// What was given for each flag, by the name that the flag has today.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// What was given for a flag, and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The value that counts, as it was written.
    pub value: String,
    /// The place in words; several for feature gates, which add up.
    pub places: Vec<String>,
}

/// Builds the configuration. Of several values for one flag the last one counts.
///
/// # Errors
/// The first thing that the operator has to mend.
pub fn assemble(given: &[Given]) -> Result<Assembled, ConfigError> {
    let mut values = Values::default();
    for value in given {
        values.admit(value)?;
    }
    let config = values.build()?;
    Ok(Assembled {
        config,
        notices: values.notices,
        origins: values.origins,
    })
}

/// The values that are used, by flag name, and what admitting all of them led to.
#[derive(Default)]
struct Values {
    used: BTreeMap<&'static str, Given>,
    gates: FeatureGates,
    tuning: Tuning,
    notices: Vec<Notice>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Values {
    fn admit(&mut self, given: &Given) -> Result<(), ConfigError> {
        check_kind(given)?;
        let setting = given.setting();
        let value = &given.value;
        self.note_origin(given.flag.name, given);
        match given.flag.standing {
            Standing::Used => {
                self.used.insert(given.flag.name, given.clone());
            }
            Standing::Tuning(row) => {
                let number = value
                    .parse()
                    .map_err(|_| ConfigError::bad_value(given, WHOLE))?;
                (row.set)(&mut self.tuning, number);
            }
            Standing::Idle(why) => {
                if !is_default(given.flag, value) {
                    let text = format!("{setting}={value} changes nothing: {why}");
                    self.notices.push(Notice::info(text));
                }
            }
            Standing::Later(advice) => {
                if !is_default(given.flag, value) {
                    return Err(ConfigError::NotSupported {
                        setting,
                        value: value.clone(),
                        advice: advice.to_owned(),
                    });
                }
            }
            Standing::Renamed(name) => {
                self.notices
                    .push(Notice::info(format!("{setting} is now called --{name}")));
                let flag = flag(name).expect("a renamed flag leads to one in the table");
                self.admit(&Given {
                    flag,
                    ..given.clone()
                })?;
                self.note_origin(name, given);
            }
            Standing::Gate(gate) => {
                let text = format!("{gate}={value}");
                self.notices.push(Notice::info(format!(
                    "{setting} is now called --feature-gates={text}"
                )));
                self.note_origin("feature-gates", given);
                self.admit_gates(given, &text)?;
            }
            Standing::Ignored => {
                self.notices
                    .push(Notice::warn(format!("{setting} is ignored, as etcd does")));
            }
        }
        Ok(())
    }

    /// The last one counts, except that gates add up.
    fn note_origin(&mut self, name: &'static str, given: &Given) {
        let before = self.origins.remove(name).map(|origin| origin.places);
        let mut places = before
            .filter(|_| name == "feature-gates")
            .unwrap_or_default();
        places.push(given.origin());
        let value = given.value.clone();
        self.origins.insert(name, Origin { value, places });
    }

    fn admit_gates(&mut self, given: &Given, text: &str) -> Result<(), ConfigError> {
        let notes = self
            .gates
            .apply(text)
            .map_err(|why| ConfigError::bad_value(given, why))?;
        self.notices.extend(notes.into_iter().map(Notice::info));
        Ok(())
    }

    fn build(&mut self) -> Result<Config, ConfigError> {
        if let Some(gates) = self.used.get("feature-gates").cloned() {
            self.admit_gates(&gates, &gates.value)?;
        }
        let name = self.name()?;
        let initial_advertise_peer_urls = self.urls_required(
            "initial-advertise-peer-urls",
            "the member's id is made from them",
        )?;
        let heartbeat_ms = self.uint("heartbeat-interval", u64::MAX)?;
        let election_ms = self.uint("election-timeout", u64::MAX)?;
        check_timing(heartbeat_ms, election_ms)?;
        let config = Config {
            data_dir: self.data_dir(&name),
            listen_client_urls: self.listen_urls("listen-client-urls", true)?,
            advertise_client_urls: self.advertise_client_urls()?,
            listen_metrics_urls: self.listen_urls("listen-metrics-urls", false)?,
            listen_peer_urls: self.listen_urls("listen-peer-urls", false)?,
            initial_cluster: self.initial_cluster(&name, &initial_advertise_peer_urls)?,
            initial_advertise_peer_urls,
            initial_cluster_state: self.cluster_state()?,
            initial_cluster_token: self.text("initial-cluster-token").to_owned(),
            strict_reconfig_check: self.bool("strict-reconfig-check"),
            max_learners: self.max_learners()?,
            force_new_cluster: self.bool("force-new-cluster"),
            initial_election_tick_advance: self.bool("initial-election-tick-advance"),
            heartbeat_interval: Duration::from_millis(heartbeat_ms),
            election_timeout: Duration::from_millis(election_ms),
            quota_backend_bytes: self.quota()?,
            snapshot_count: self.uint("snapshot-count", u64::MAX)?,
            snapshot_catchup_entries: self.uint("snapshot-catchup-entries", u64::MAX)?,
            corrupt_check_time: non_zero(self.duration("corrupt-check-time")),
            compact_hash_check_time: self.duration("compact-hash-check-time"),
            max_txn_ops: self.uint("max-txn-ops", u64::from(u32::MAX))? as u32,
            max_request_bytes: self.max_request_bytes()?,
            max_concurrent_streams: self.uint("max-concurrent-streams", u64::from(u32::MAX))?
                as u32,
            grpc_keepalive_interval: non_zero(self.duration("grpc-keepalive-interval")),
            grpc_keepalive_timeout: non_zero(self.duration("grpc-keepalive-timeout")),
            watch_progress_notify_interval: self.progress_interval(),
            auto_compaction: self.auto_compaction()?,
            warning_apply_duration: self.duration("warning-apply-duration"),
            feature_gates: self.gates.clone(),
            log: self.log()?,
            unsafe_no_fsync: self.bool("unsafe-no-fsync"),
            profile: self.given_text("profile").map(str::to_owned),
            cores: self.cores()?,
            shards: Vec::new(),
            tuning: self.tuning.clone(),
            name,
        };
        let config = Config {
            shards: self.shards(&config)?,
            ..config
        };
        self.check_tuning(&config)?;
        Ok(config)
    }

    fn name(&mut self) -> Result<String, ConfigError> {
        let name = self.text("name").to_owned();
        if name.contains([',', '=']) || name.contains(char::is_whitespace) {
            let given = self
                .used
                .get("name")
                .expect("the default name has none of these");
            return Err(ConfigError::bad_value(
                given,
                "a name must not contain commas, equals signs or spaces",
            ));
        }
        Ok(name)
    }

    fn data_dir(&self, name: &str) -> std::path::PathBuf {
        match self.given_text("data-dir") {
            Some(directory) => directory.into(),
            None => format!("{name}.keelson").into(),
        }
    }

    fn listen_urls(&self, flag: &str, required: bool) -> Result<Vec<HttpUrl>, ConfigError> {
        let urls = if required {
            self.urls_required(flag, "clients need an address")?
        } else {
            self.urls(flag)?
        };
        for url in &urls {
            if let Err(why) = url.listen_address() {
                let given = self
                    .used
                    .get(flag)
                    .expect("the default URLs can be listened on");
                return Err(ConfigError::bad_value(given, why));
            }
        }
        Ok(urls)
    }

    /// The advertised URLs. Whoever chooses the listening URLs on the command line or in the
    /// environment must say what to advertise, since the default would then be a wrong guess; in a
    /// config file etcd lets the default stand.
    fn advertise_client_urls(&self) -> Result<Vec<HttpUrl>, ConfigError> {
        let listen = self.used.get("listen-client-urls");
        let chosen = listen.is_some_and(|given| !matches!(given.source, Source::File(_)));
        if chosen && !self.used.contains_key("advertise-client-urls") {
            return Err(ConfigError::Unfit(
                "--listen-client-urls is set, so --advertise-client-urls must be set as well: \
                 it tells clients how to reach this member"
                    .to_owned(),
            ));
        }
        let urls = self.urls_required("advertise-client-urls", "clients are told them")?;
        if let Some(url) = urls.iter().find(|url| url.host().is_empty()) {
            let given = self
                .used
                .get("advertise-client-urls")
                .expect("the default has a host");
            return Err(ConfigError::bad_value(
                given,
                format!("\"{url}\" has no host"),
            ));
        }
        Ok(urls)
    }

    fn initial_cluster(
        &self,
        name: &str,
        advertised: &[HttpUrl],
    ) -> Result<Vec<super::ClusterMember>, ConfigError> {
        let Some(text) = self.given_text("initial-cluster") else {
            let peer_urls = advertised.to_vec();
            return Ok(vec![super::ClusterMember {
                name: name.to_owned(),
                peer_urls,
            }]);
        };
        let given = &self.used["initial-cluster"];
        let members = parse_cluster(text).map_err(|why| ConfigError::bad_value(given, why))?;
        check_cluster(&members, name, advertised)?;
        Ok(members)
    }

    fn max_learners(&self) -> Result<u32, ConfigError> {
        let text = self.text("max-learners");
        text.parse().map_err(|_| {
            let given = &self.used["max-learners"];
            ConfigError::bad_value(given, WHOLE)
        })
    }

    fn cluster_state(&self) -> Result<ClusterState, ConfigError> {
        let states = [
            ("new", ClusterState::New),
            ("existing", ClusterState::Existing),
        ];
        self.choice("initial-cluster-state", &states)
    }

    fn quota(&mut self) -> Result<Option<u64>, ConfigError> {
        let text = self.text("quota-backend-bytes");
        let number: i64 = text
            .parse()
            .expect("its kind was checked when it was admitted");
        let bytes = match number {
            ..0 => return Ok(None),
            0 => QUOTA_BYTES_DEFAULT,
            bytes => bytes.unsigned_abs(),
        };
        if bytes > QUOTA_BYTES_SENSIBLE {
            self.notices.push(Notice::warn(format!(
                "--quota-backend-bytes={bytes} is more than the {QUOTA_BYTES_SENSIBLE} bytes that \
                 etcd recommends at most"
            )));
        }
        Ok(Some(bytes))
    }

    fn max_request_bytes(&mut self) -> Result<u32, ConfigError> {
        let bytes = self.uint("max-request-bytes", REQUEST_BYTES_MAX)?;
        if bytes == 0 {
            let given = &self.used["max-request-bytes"];
            return Err(ConfigError::bad_value(
                given,
                "a request needs at least one byte",
            ));
        }
        if bytes > REQUEST_BYTES_SENSIBLE {
            self.notices.push(Notice::warn(format!(
                "--max-request-bytes={bytes} is more than the {REQUEST_BYTES_SENSIBLE} bytes that \
                 etcd recommends at most"
            )));
        }
        Ok(bytes as u32)
    }

    fn progress_interval(&mut self) -> Duration {
        let interval = self.duration("watch-progress-notify-interval");
        if interval.is_zero() {
            return flag_duration("watch-progress-notify-interval");
        }
        if interval < PROGRESS_INTERVAL_MIN {
            self.notices.push(Notice::warn(format!(
                "--watch-progress-notify-interval={} is raised to the minimum of {}",
                format_duration(interval),
                format_duration(PROGRESS_INTERVAL_MIN)
            )));
        }
        interval.max(PROGRESS_INTERVAL_MIN)
    }

    fn auto_compaction(&self) -> Result<AutoCompaction, ConfigError> {
        let modes = [("periodic", "periodic"), ("revision", "revision")];
        let mode = self.choice("auto-compaction-mode", &modes)?;
        AutoCompaction::parse(mode, self.text("auto-compaction-retention")).map_err(|why| {
            let given = self.used.get("auto-compaction-retention");
            ConfigError::bad_value(given.expect("the default is right in both modes"), why)
        })
    }

    fn log(&self) -> Result<LogConfig, ConfigError> {
        let level = self.choice(
            "log-level",
            &[
                ("debug", LogLevel::Debug),
                ("info", LogLevel::Info),
                ("warn", LogLevel::Warn),
                ("error", LogLevel::Error),
                ("panic", LogLevel::Panic),
                ("fatal", LogLevel::Fatal),
            ],
        )?;
        let formats = [("json", LogFormat::Json), ("console", LogFormat::Console)];
        let format = self.choice("log-format", &formats)?;
        let outputs = [
            ("default", LogOutput::Stderr),
            ("stderr", LogOutput::Stderr),
            ("stdout", LogOutput::Stdout),
        ];
        let output = self
            .choice("log-outputs", &outputs)
            .map_err(|error| match error {
                ConfigError::BadValue { setting, value, .. } => ConfigError::NotSupported {
                    setting,
                    value,
                    advice:
                        "the log goes to stderr or to stdout; choose one and let the supervisor \
                         forward it"
                            .to_owned(),
                },
                other => other,
            })?;
        Ok(LogConfig {
            level,
            format,
            output,
        })
    }

    fn cores(&self) -> Result<CoreSelection, ConfigError> {
        CoreSelection::parse(self.text("cores")).map_err(|why| {
            let given = self.used.get("cores").expect("the default is a selection");
            ConfigError::bad_value(given, why)
        })
    }

    fn shards(&self, config: &Config) -> Result<Vec<ShardConfig>, ConfigError> {
        let values = SHARD_FLAGS.map(|(_, flag)| self.text(flag));
        let mut taken = config.client_addresses();
        taken.extend(config.metrics_addresses());
        parse_shards(values, &taken).map_err(|(flag, why)| match self.used.get(flag) {
            Some(given) => ConfigError::bad_value(given, why),
            None => ConfigError::Unfit(format!("--{flag} is not set: {why}")),
        })
    }

    fn check_tuning(&self, config: &Config) -> Result<(), ConfigError> {
        config.tuning.check()?;
        let wal = WalConfig {
            segment_bytes: config.tuning.wal.segment_bytes,
            ..WalConfig::default()
        };
        let needed = entry_payload_bytes_max(config.max_request_bytes as usize) as u64;
        let room = wal.payload_bytes_max();
        if needed <= room {
            return Ok(());
        }
        Err(ConfigError::Unfit(format!(
            "wal.segment_bytes is {}, which leaves {room} bytes for one log entry, but with \
             --max-request-bytes={} an entry may take {needed}; make the segments larger",
            wal.segment_bytes, config.max_request_bytes
        )))
    }

    /// The text given for a flag, if any and not empty.
    fn given_text(&self, name: &str) -> Option<&str> {
        self.used
            .get(name)
            .map(|given| given.value.trim())
            .filter(|text| !text.is_empty())
    }

    /// The text given for a flag, or its default.
    fn text(&self, name: &str) -> &str {
        self.given_text(name).unwrap_or_else(|| default_of(name))
    }

    fn bool(&self, name: &str) -> bool {
        parse_bool(self.text(name)).expect("its kind was checked when it was admitted")
    }

    fn duration(&self, name: &str) -> Duration {
        parse_duration(self.text(name)).expect("its kind was checked when it was admitted")
    }

    fn uint(&self, name: &str, max: u64) -> Result<u64, ConfigError> {
        let number = self
            .text(name)
            .parse()
            .expect("its kind was checked when it was admitted");
        if number > max {
            let given = self
                .used
                .get(name)
                .expect("the default is within its limit");
            return Err(ConfigError::bad_value(
                given,
                format!("at most {max} is allowed"),
            ));
        }
        Ok(number)
    }

    /// URLs; a flag that was given empty is an empty list.
    fn urls(&self, name: &str) -> Result<Vec<HttpUrl>, ConfigError> {
        let Some(given) = self.used.get(name) else {
            return Ok(HttpUrl::parse_list(default_of(name)).expect("default URLs are right"));
        };
        HttpUrl::parse_list(&given.value).map_err(|why| ConfigError::bad_value(given, why))
    }

    fn urls_required(&self, name: &str, why: &str) -> Result<Vec<HttpUrl>, ConfigError> {
        let urls = self.urls(name)?;
        if urls.is_empty() {
            let given = self.used.get(name).expect("this default has a URL");
            return Err(ConfigError::bad_value(
                given,
                format!("it must not be empty: {why}"),
            ));
        }
        Ok(urls)
    }

    fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let text = self.text(name);
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let given = self
            .used
            .get(name)
            .expect("a default is one of its choices");
        Err(ConfigError::bad_value(
            given,
            format!("expected one of {}", words.join(", ")),
        ))
    }
}

const WHOLE: &str = "expected a whole number that is not negative";

fn default_of(name: &str) -> &'static str {
    flag(name)
        .expect("settings are read by the names in the flag table")
        .default
}

fn flag_duration(name: &str) -> Duration {
    parse_duration(default_of(name)).expect("defaults in the flag table can be read")
}

fn non_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn check_kind(given: &Given) -> Result<(), ConfigError> {
    let value = given.value.trim();
    if value.is_empty() && !(given.is_flag() && given.flag.kind != Kind::Text) {
        return Ok(());
    }
    let outcome = match given.flag.kind {
        Kind::Bool => parse_bool(value).map(drop),
        Kind::Int => value
            .parse::<i64>()
            .map(drop)
            .map_err(|_| "expected a whole number".into()),
        Kind::Uint => value.parse::<u64>().map(drop).map_err(|_| WHOLE.into()),
        Kind::Duration => parse_duration(value).map(drop),
        Kind::Text => Ok(()),
    };
    outcome.map_err(|why: String| ConfigError::bad_value(given, why))
}

/// Whether a value says the same as the flag's default, or nothing.
fn is_default(flag: &Flag, value: &str) -> bool {
    let value = value.trim();
    if value.is_empty() || value == flag.default {
        return true;
    }
    match flag.kind {
        Kind::Bool => parse_bool(value) == parse_bool(flag.default),
        Kind::Duration => parse_duration(value) == parse_duration(flag.default),
        Kind::Int | Kind::Uint => value.parse::<i128>().ok() == flag.default.parse::<i128>().ok(),
        Kind::Text => false,
    }
}

fn check_timing(heartbeat_ms: u64, election_ms: u64) -> Result<(), ConfigError> {
    let problem = if heartbeat_ms == 0 {
        "--heartbeat-interval must be more than 0".to_owned()
    } else if election_ms == 0 {
        "--election-timeout must be more than 0".to_owned()
    } else if heartbeat_ms.saturating_mul(5) > election_ms {
        format!(
            "--election-timeout={election_ms} must be at least five times \
             --heartbeat-interval={heartbeat_ms}"
        )
    } else if election_ms > ELECTION_TIMEOUT_MS_MAX {
        format!("--election-timeout={election_ms} must be at most {ELECTION_TIMEOUT_MS_MAX}")
    } else {
        return Ok(());
    };
    Err(ConfigError::Unfit(problem))
}
