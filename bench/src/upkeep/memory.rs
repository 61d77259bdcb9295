//! `memory`: a member whose data is larger than its memory budget.
//!
//! ```text
//!   fill | rest | single keys, any of them | one list of all, in pages | a watch from the first revision
//! ```
//!
//! The peak of the resident set begins anew with every phase, so each shows what it took by itself.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::filling::{fill, set, shipped};
use super::member::{Member, contents, ensure_room, watch_history};
use crate::cli::{MemoryOptions, ServerKind};
use crate::disk;
use crate::interrupt::Interrupt;
use crate::job::JobSpec;
use crate::load::{Load, Tally};
use crate::machine::Machine;
use crate::outcome::{Ending, deliver};
use crate::report::{Document, Table, fail_on_errors, number, progress, spinner};
use crate::server::Launch;
use crate::stats::Latency;

const BUDGET_FLAG: &str = "--storage-memory-budget-bytes";
/// Copies of the data that are there at once: the snapshot and the next one.
const COPIES: u64 = 2;
/// A fresh member is at revision 1, so its first key is at the next.
const FIRST_REVISION: i64 = 2;
const MIB: f64 = (1 << 20) as f64;
const MB: f64 = 1e6;
const SECOND_NANOS: f64 = 1e9;

/// What the command measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryResult {
    pub name: String,
    pub version: String,
    pub key_count: u64,
    pub value_bytes: u64,
    pub memory_budget_bytes: u64,
    pub phases: Vec<MemoryPhase>,
    /// The highest of all phases, and over the budget.
    pub rss_bytes_peak: u64,
    pub budget_ratio: f64,
}

/// One kind of work on all the data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryPhase {
    pub name: String,
    pub seconds: f64,
    /// Keys that were written, read, listed or watched.
    pub keys: u64,
    pub keys_per_second: f64,
    /// Bytes of their values.
    pub bytes_per_second: f64,
    /// Of each request, where there are many.
    pub latency_us: Option<Latency>,
    pub rss_bytes_peak: u64,
    /// At the end of the phase.
    pub rss_bytes: u64,
    /// The peak over the budget.
    pub budget_ratio: f64,
}

/// What a phase brought.
struct Seen {
    keys: u64,
    seconds: f64,
    latency_us: Option<Latency>,
}

/// Runs the command.
pub async fn run(options: &MemoryOptions, interrupt: &Interrupt) -> Result<Ending> {
    let parent = options.start.data_parent()?;
    ensure_room(&parent, COPIES * options.data_bytes)?;
    let mut launch = options.start.launch(ServerKind::Keelson)?;
    let budget = options.memory_budget;
    launch.flags.push(format!("{BUDGET_FLAG}={budget}"));
    let mut document = Document::new("memory", Machine::facts(&parent), 1, 1);
    disk::quote(&mut document, &parent, interrupt).await;
    let mut result = MemoryResult {
        name: launch.name.clone(),
        version: String::new(),
        key_count: (options.data_bytes / options.value_bytes).max(1),
        value_bytes: options.value_bytes,
        memory_budget_bytes: budget,
        phases: Vec::new(),
        rss_bytes_peak: 0,
        budget_ratio: 0.0,
    };
    let work = measure(options, &launch, &parent, &mut result);
    let outcome = interrupt.or(work).await.unwrap_or(Ok(()));
    if !result.phases.is_empty() {
        document.memory.push(result);
    }
    deliver(document, &options.output, outcome, interrupt)
}

/// Reads of single keys, and one list of all.
fn jobs(options: &MemoryOptions, key_count: u64) -> Result<[JobSpec; 2]> {
    let all = |settings: &[(&str, u64)]| {
        let keys = [
            ("key_count", key_count),
            ("value_bytes", options.value_bytes),
        ];
        let settings = keys.iter().chain(settings);
        let settings = settings.map(|(word, value)| set(word, *value));
        settings.collect::<Vec<_>>()
    };
    let reads = JobSpec {
        runtime_ms: u64::try_from(options.runtime.as_millis()).unwrap_or(u64::MAX),
        ..shipped("range-point", &all(&[("iodepth", options.clients)]))?
    };
    let list = all(&[
        ("size", 1),
        ("runtime", 0),
        ("ramp_time", 0),
        ("iodepth", 1),
        ("page_limit", options.page_limit),
    ]);
    Ok([reads, shipped("range-list:range-list", &list)?])
}

async fn measure(
    options: &MemoryOptions,
    launch: &Launch,
    parent: &Path,
    result: &mut MemoryResult,
) -> Result<()> {
    let key_count = result.key_count;
    let [reads, list] = jobs(options, key_count)?;
    let mut member = Member::start(launch, parent).await?;
    member.version().clone_into(&mut result.version);
    let address = member.address();

    let seconds = fill(member.name(), address, &reads).await?;
    result.phase("fill", &mut member, Seen::all(key_count, seconds))?;
    let found = contents(address).await?.0;
    ensure!(
        found == i64::try_from(key_count)?,
        "{found} keys instead of {key_count} are there after the filling"
    );

    let begun = Instant::now();
    member.settle().await?;
    result.phase(
        "rest",
        &mut member,
        Seen::all(0, begun.elapsed().as_secs_f64()),
    )?;

    let tally = run_load("single keys", &reads, address).await?;
    let seen = Seen {
        latency_us: Some(Latency::from(&tally.latency_ns)),
        ..Seen::all(tally.operations, seconds_of(&tally))
    };
    result.phase("single keys", &mut member, seen)?;

    let tally = run_load("list", &list, address).await?;
    result.phase(
        "list",
        &mut member,
        Seen::all(key_count, seconds_of(&tally)),
    )?;

    let bar = progress(
        key_count,
        "watch {bar:40} {human_pos} of {human_len} events, {per_sec}, {eta} left",
    );
    let begun = Instant::now();
    let tell = |seen| bar.set_position(seen);
    watch_history(address, FIRST_REVISION, key_count, tell).await?;
    bar.finish_and_clear();
    let seen = Seen::all(key_count, begun.elapsed().as_secs_f64());
    result.phase("watch", &mut member, seen)?;
    member.stop().await
}

/// Runs a job on the keys that are there.
async fn run_load(name: &str, job: &JobSpec, address: SocketAddr) -> Result<Tally> {
    let bar = spinner(name.to_owned());
    let mut load = Load::connect_filled(job, &[address]).await?;
    load.begin();
    let tally = load.finish().await?;
    bar.finish_and_clear();
    fail_on_errors(name, &tally.errors, tally.first_error.as_deref())?;
    ensure!(tally.operations > 0, "{name}: no answer came in time");
    Ok(tally)
}

fn seconds_of(tally: &Tally) -> f64 {
    tally.measured_ns as f64 / SECOND_NANOS
}

impl Seen {
    fn all(keys: u64, seconds: f64) -> Self {
        Self {
            keys,
            seconds,
            latency_us: None,
        }
    }
}

impl MemoryResult {
    /// Ends a phase, and begins the next one's peak.
    fn phase(&mut self, name: &str, member: &mut Member, seen: Seen) -> Result<()> {
        let usage = member.usage()?;
        member.reset_peak();
        let of_budget = |bytes: u64| bytes as f64 / self.memory_budget_bytes as f64;
        let keys_per_second = seen.keys as f64 / seen.seconds;
        self.phases.push(MemoryPhase {
            name: name.to_owned(),
            seconds: seen.seconds,
            keys: seen.keys,
            keys_per_second,
            bytes_per_second: keys_per_second * self.value_bytes as f64,
            latency_us: seen.latency_us,
            rss_bytes_peak: usage.rss_bytes_peak,
            rss_bytes: usage.rss_bytes,
            budget_ratio: of_budget(usage.rss_bytes_peak),
        });
        self.rss_bytes_peak = self.rss_bytes_peak.max(usage.rss_bytes_peak);
        self.budget_ratio = of_budget(self.rss_bytes_peak);
        Ok(())
    }

    /// A table of the phases.
    pub fn text(&self) -> String {
        let mib = |bytes: u64| number(bytes as f64 / MIB);
        let mut out = format!(
            "memory: {} {}, {} keys with values of {} bytes, {BUDGET_FLAG}={} ({} MiB)\n\n",
            self.name,
            self.version,
            self.key_count,
            self.value_bytes,
            self.memory_budget_bytes,
            mib(self.memory_budget_bytes)
        );
        let mut table = Table::default();
        let head = [
            "",
            "s",
            "keys/s",
            "MB/s",
            "p50 us",
            "p99 us",
            "peak RSS, MiB",
            "of budget",
            "RSS, MiB",
        ];
        table.row(head.map(str::to_owned));
        for phase in &self.phases {
            let latency = |of: fn(&Latency) -> f64| {
                let us = phase.latency_us.as_ref().map(of);
                us.map_or("-".to_owned(), number)
            };
            table.row([
                format!("    {}", phase.name),
                number(phase.seconds),
                number(phase.keys_per_second),
                number(phase.bytes_per_second / MB),
                latency(|latency| latency.p50),
                latency(|latency| latency.p99),
                mib(phase.rss_bytes_peak),
                number(phase.budget_ratio),
                mib(phase.rss_bytes),
            ]);
        }
        out += &table.render();
        out += &format!("\n    peak RSS / budget: {}\n", number(self.budget_ratio));
        out
    }
}
