//! The document that `run` and `compare` bring, in memory and as JSON.
//!
//! `bench/README.md` describes the JSON. Fields may be added under one format number; what is there
//! keeps its name, place, unit and meaning, or else the number grows.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::figures::{figures, ratio_spreads};
use crate::disk::DiskResult;
use crate::job::JobSpec;
use crate::machine::Machine;
use crate::stats::{Errors, Latency, Spread};
use crate::upkeep::{BackupResult, MaintainResult, MemoryResult, Stretch};

/// The number of the JSON's format.
const FORMAT: u32 = 1;

/// Everything one call measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    pub format: u32,
    /// Name and version of this tool.
    pub tool: String,
    /// `run`, `compare`, `disk`, `maintain`, `backup` or `memory`.
    pub command: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// True if Ctrl-C ended it early: rounds and jobs may be missing, one round may be shorter.
    pub interrupted: bool,
    pub machine: Machine,
    /// What a reader should know before trusting the figures.
    pub warnings: Vec<String>,
    /// Members of each cluster that was started; 0 if running servers were driven.
    pub members: u32,
    /// Rounds that each server was to have.
    pub rounds: u32,
    /// The disk under the data directories, without any server.
    pub disk_probe: Option<DiskProbe>,
    pub jobs: Vec<JobResult>,
    /// Disk jobs, and what `keelson-bench disk` measured.
    #[serde(default)]
    pub disk: Vec<DiskResult>,
    /// What `maintain`, `backup` and `memory` measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintain: Vec<MaintainResult>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup: Vec<BackupResult>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<MemoryResult>,
}

/// The least that a durable write takes on the disk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DiskProbe {
    pub write_4k_depth1_p50_us: f64,
    pub write_4k_depth1_p99_us: f64,
}

/// One job and what each server made of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobResult {
    pub name: String,
    /// Ratios of the first server's figures over the second's, medians over rounds:
    /// `throughput_ratio`, `cpu_per_op_ratio`, `p99_ratio` and more. None if there is one server.
    #[serde(flatten)]
    pub ratios: BTreeMap<String, f64>,
    /// The same names, with the smallest and largest of the rounds.
    pub ratio_spread: BTreeMap<String, Spread>,
    pub spec: JobSpec,
    /// Keelson first.
    pub servers: Vec<Contender>,
}

/// One server and what its rounds brought.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contender {
    pub name: String,
    pub version: String,
    /// In what the job was another for this server.
    pub note: Option<String>,
    /// Medians over the rounds, by the names of the rounds' figures.
    pub figures: BTreeMap<String, Spread>,
    pub rounds: Vec<Round>,
}

/// The figures of one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// Measured time.
    pub seconds: f64,
    /// True if Ctrl-C ended it early.
    pub cut_short: bool,
    /// Answers inside the measured time.
    pub operations: u64,
    pub operations_per_second: f64,
    /// Answers in each whole second of it.
    pub per_second: Vec<u64>,
    pub latency_us: Latency,
    /// Each kind of operation by itself, if the job has several.
    pub steps: Vec<StepRound>,
    /// Optimistic updates that found another's revision and were tried again.
    pub conflicts: u64,
    /// Bytes of listings, per second.
    pub listed_bytes_per_second: f64,
    /// How late an operation of an open loop began at most.
    pub behind_us_max: f64,
    /// Operations of an open loop that were due and never began.
    pub unsent: u64,
    /// Absent if the server was started by somebody else.
    pub server: Option<ServerUse>,
    /// CPU time of this tool's process, which shares the machine.
    pub generator_cpu_seconds_per_100k: f64,
    /// The same as a part of one core.
    pub generator_cpu_percent: f64,
    /// How often each error came, by gRPC's name for it.
    pub errors: Errors,
    pub first_error: Option<String>,
    /// Each clone by itself, if the job asks for it.
    pub clones: Vec<CloneRound>,
}

/// What a server took for a round; sums over the members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerUse {
    pub cpu_seconds_per_100k: f64,
    /// As a part of one core.
    pub cpu_percent: f64,
    /// Resident set before the load, with everything filled.
    pub rss_bytes_baseline: u64,
    /// Highest resident set from the start of the server to the end of the round.
    pub rss_bytes_peak: u64,
    /// Highest resident set under the load, less the baseline.
    pub rss_bytes_above_baseline: u64,
    pub written_bytes_per_operation: f64,
    /// write(2) and its kin: sockets included, io_uring not.
    pub write_calls_per_operation: f64,
    /// Absent if the server does not count its flushes.
    pub flushes_per_operation: Option<f64>,
}

/// One kind of operation of a job that has several.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepRound {
    pub name: String,
    /// Whether it counts among the job's operations; events that come beside them do not.
    pub is_operation: bool,
    pub operations: u64,
    pub latency_us: Latency,
}

/// What one clone of a job saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloneRound {
    pub operations: u64,
    pub operations_per_second: f64,
    pub latency_us: Latency,
    pub errors: Errors,
}

impl Document {
    /// A document without results.
    pub fn new(command: &str, machine: Machine, members: u32, rounds: u32) -> Self {
        Self {
            format: FORMAT,
            tool: format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
            command: command.to_owned(),
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            interrupted: false,
            warnings: machine.warnings(),
            machine,
            members,
            rounds,
            disk_probe: None,
            jobs: Vec::new(),
            disk: Vec::new(),
            maintain: Vec::new(),
            backup: Vec::new(),
            memory: Vec::new(),
        }
    }

    /// Whether anything was measured.
    pub fn has_results(&self) -> bool {
        let Self {
            jobs,
            disk,
            maintain,
            backup,
            memory,
            ..
        } = self;
        !(jobs.is_empty()
            && disk.is_empty()
            && maintain.is_empty()
            && backup.is_empty()
            && memory.is_empty())
    }

    /// Every stretch of puts, with the name of its server.
    pub fn stretches(&self) -> impl Iterator<Item = (&str, &Stretch)> {
        let maintained = self.maintain.iter().flat_map(MaintainResult::stretches);
        maintained.chain(self.backup.iter().flat_map(BackupResult::stretches))
    }

    /// What ratios are of: `keelson over etcd`.
    pub fn contenders(&self) -> String {
        let compared = self.jobs.iter().find(|job| !job.ratios.is_empty());
        let names: Vec<&str> = compared.map_or(Vec::new(), |job| {
            job.servers
                .iter()
                .map(|server| server.name.as_str())
                .collect()
        });
        names.join(" over ")
    }

    /// Reads one from JSON, of this format.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        let format = value["format"].as_u64();
        anyhow::ensure!(
            format == Some(u64::from(FORMAT)) && value["jobs"].is_array(),
            "no result of `keelson-bench run` or `compare` in format {FORMAT}"
        );
        Ok(serde_json::from_value(value)?)
    }
}

impl JobResult {
    /// The kinds of operations that some round has, in order; none if the job is of one kind.
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = Vec::new();
        let rounds = self.servers.iter().flat_map(|server| &server.rounds);
        for step in rounds.flat_map(|round| &round.steps) {
            if step.is_there() && !kinds.contains(&step.name.as_str()) {
                kinds.push(&step.name);
            }
        }
        kinds
    }

    /// The result of a job from the rounds of its servers.
    pub fn new(spec: JobSpec, servers: Vec<Contender>) -> Self {
        let ratio_spread = match &servers[..] {
            [ours, theirs] => ratio_spreads(&ours.rounds, &theirs.rounds),
            _ => BTreeMap::new(),
        };
        Self {
            name: spec.name.clone(),
            ratios: ratio_spread
                .iter()
                .map(|(name, spread)| (name.clone(), spread.median))
                .collect(),
            ratio_spread,
            spec,
            servers,
        }
    }
}

impl StepRound {
    /// Whether the job had any of it.
    pub fn is_there(&self) -> bool {
        self.operations > 0 || self.latency_us.count > 0
    }
}

/// One kind of operation of one server, medians over the rounds.
pub struct Kind {
    pub operations: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Contender {
    /// What the rounds brought for one kind of operation.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        let steps = || {
            let all = self.rounds.iter().flat_map(|round| &round.steps);
            all.filter(|step| step.name == name && step.is_there())
        };
        let median = |of: fn(&StepRound) -> f64| Some(Spread::over(steps().map(of))?.median);
        Some(Kind {
            operations: median(|step| step.operations as f64)?,
            p50_us: median(|step| step.latency_us.p50)?,
            p99_us: median(|step| step.latency_us.p99)?,
        })
    }

    /// A server and its rounds.
    pub fn new(name: String, version: String, note: Option<String>, rounds: Vec<Round>) -> Self {
        Self {
            name,
            version,
            note,
            figures: figures(&rounds),
            rounds,
        }
    }
}
