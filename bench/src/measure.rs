//! One round: a job on one running server, measured from its first request to its last answer.
//!
//! ```text
//!   fill, connect | baseline | ramp | window                    | last answers
//!                 ^ memory           ^ CPU, writes   CPU, writes ^
//!                 ^ flushes                                       flushes ^
//! ```
//!
//! What /proc tells is taken at the borders of the window; the flush counter, whose page costs the
//! server some CPU, outside the whole load. Ctrl-C closes the window where it is. A job that settles
//! counts writes until the servers are at rest after the last answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;

use crate::cluster::Cluster;
use crate::interrupt::Interrupt;
use crate::job::{JobSpec, ListMode};
use crate::load::{Load, Tally};
use crate::procfs::{Usage, own_cpu_time};
use crate::report::{CloneRound, PROGRESS_INTERVAL, Round, ServerUse, StepRound, fail_on_errors};
use crate::scrape;
use crate::settle::settled;
use crate::stats::Latency;

/// CPU time is told for this many operations.
const OPERATIONS_UNIT: f64 = 100_000.0;
/// What the progress line gives a job that ends by its size.
const UNTIMED_MILLIS: u64 = 10_000;
const SECOND_NANOS: f64 = 1e9;
const SECOND_SLACK: f64 = 0.01;

/// What is put under load.
pub enum Target {
    /// Servers that this tool started, whose /proc it can read.
    Own(Cluster),
    /// Servers that were there.
    Remote(Vec<SocketAddr>),
}

impl Target {
    fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Own(cluster) => cluster.addresses(),
            Self::Remote(addresses) => addresses.clone(),
        }
    }

    fn usage(&mut self) -> Result<Option<Usage>> {
        match self {
            Self::Own(cluster) => cluster.usage().map(Some),
            Self::Remote(_) => Ok(None),
        }
    }

    fn reset_peaks(&self) -> bool {
        matches!(self, Self::Own(cluster) if cluster.reset_peaks())
    }

    /// The version of the first of them.
    pub async fn version(&self) -> Result<String> {
        let addresses = self.addresses();
        let first = addresses.first().context("no server to ask")?;
        scrape::version(*first).await
    }

    /// The job as it can be put to these servers, and in what that is another job.
    pub async fn suited(&self, job: &JobSpec) -> Result<(JobSpec, Option<String>)> {
        let mut job = job.clone();
        let mut note = None;
        if job.uses_range_stream() {
            let addresses = self.addresses();
            let first = addresses.first().context("no server to ask")?;
            if !scrape::serves_range_stream(*first).await? {
                job.list_mode = ListMode::Full;
                note =
                    Some("has no RangeStream: one Range without a limit in its place".to_owned());
            }
        }
        Ok((job, note))
    }
}

/// The progress of one round on the line that all rounds share.
pub struct Progress<'a> {
    bar: &'a ProgressBar,
    /// Where this round begins on the line.
    from_millis: u64,
    name: String,
}

impl<'a> Progress<'a> {
    /// Takes the next part of the line.
    pub fn new(bar: &'a ProgressBar, from_millis: u64, name: String) -> Self {
        bar.set_position(from_millis);
        Self {
            bar,
            from_millis,
            name,
        }
    }

    /// How much of the line a round of a job takes.
    pub fn millis(job: &JobSpec) -> u64 {
        match job.runtime_ms {
            0 => UNTIMED_MILLIS,
            runtime => job.ramp_time_ms + runtime,
        }
    }

    /// Says what goes on.
    pub fn phase(&self, phase: &str) {
        self.bar.set_message(format!("{} {phase}", self.name));
    }

    fn show(&self, job: &JobSpec, begun: Instant, done: u64) {
        let all = Self::millis(job);
        let timed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let counted = job
            .size
            .map_or(0, |size| (all as f64 * done as f64 / size as f64) as u64);
        let within = if job.runtime_ms == 0 {
            counted
        } else {
            timed.max(counted)
        };
        self.bar.set_position(self.from_millis + within.min(all));
    }
}

/// A point in time with what was used until then.
struct Reading {
    server: Option<Usage>,
    own_cpu_seconds: f64,
}

impl Reading {
    fn take(target: &mut Target) -> Result<Self> {
        Ok(Self {
            server: target.usage()?,
            own_cpu_seconds: own_cpu_time().as_secs_f64(),
        })
    }
}

/// Why the load is no longer watched.
enum Seen {
    /// The time has come.
    Due,
    /// All workers have ended before.
    Ended(Box<Tally>),
    Interrupted,
}

/// A load that is watched while it runs.
struct Watched<'a> {
    target: &'a mut Target,
    job: &'a JobSpec,
    load: Load,
    begun: Instant,
    /// Highest sum of resident sets that was seen.
    rss_bytes_seen: u64,
}

/// A measured window.
struct Window {
    tally: Tally,
    start: Reading,
    end: Reading,
    cut_short: bool,
}

/// Puts a server under a job. None if Ctrl-C came before anything was measured.
pub async fn measure(
    target: &mut Target,
    job: &JobSpec,
    progress: &Progress<'_>,
    interrupt: &Interrupt,
) -> Result<Option<Round>> {
    let addresses = target.addresses();
    progress.phase("prepares");
    let Some(load) = interrupt.or(Load::connect(job, &addresses)).await else {
        return Ok(None);
    };
    let load = load?;
    let flushes_before = flush_count(&addresses).await;
    let baseline = target.usage()?;
    let is_reset = target.reset_peaks();
    let mut watched = Watched {
        target,
        job,
        load,
        begun: Instant::now(),
        rss_bytes_seen: 0,
    };
    progress.phase("runs");
    let Some(mut window) = watched.window(progress, interrupt).await? else {
        return Ok(None);
    };
    let clones = watched.clones(seconds(&window.tally));
    let rss_bytes_seen = watched.rss_bytes_seen;
    let mut at_rest = None;
    if let Target::Own(cluster) = &mut *target
        && job.settle
    {
        progress.phase("comes to rest");
        at_rest = interrupt
            .or(settled(|| cluster.usage()))
            .await
            .transpose()?;
        window.cut_short |= at_rest.is_none();
    }
    let flushes = flushes_before
        .zip(flush_count(&addresses).await)
        .map(|(before, after)| after - before);
    let usages = [
        baseline,
        window.start.server,
        window.end.server,
        target.usage()?,
    ];
    let server = match usages {
        [Some(baseline), Some(start), Some(end), Some(last)] => {
            let peak = if is_reset {
                last.rss_bytes_peak
            } else {
                rss_bytes_seen
            };
            Some(server_use(
                &window.tally,
                baseline,
                Usage {
                    written_bytes: at_rest.unwrap_or(end).written_bytes - start.written_bytes,
                    ..end - start
                },
                peak,
                flushes,
            ))
        }
        _ => None,
    };
    Ok(Some(round(window, server, clones)))
}

impl Watched<'_> {
    /// Lets the load go and measures. None if Ctrl-C came before its first answer.
    async fn window(
        &mut self,
        progress: &Progress<'_>,
        interrupt: &Interrupt,
    ) -> Result<Option<Window>> {
        let name = &self.job.name;
        let time = self.load.begin();
        match self.until(time.start, progress, interrupt).await? {
            Seen::Due => {}
            Seen::Interrupted => return Ok(None),
            Seen::Ended(tally) => {
                fail_on_errors(name, &tally.errors, tally.first_error.as_deref())?;
                bail!("{name} was done before its measured time began: its size is too small");
            }
        }
        let start = Reading::take(self.target)?;
        let seen = self.until(time.end, progress, interrupt).await?;
        let end = Reading::take(self.target)?;
        let cut_short = matches!(seen, Seen::Interrupted);
        let tally = match seen {
            Seen::Ended(tally) => *tally,
            Seen::Due => self.load.finish().await?,
            Seen::Interrupted => {
                self.load.stop();
                self.load.finish().await?
            }
        };
        if tally.operations > 0 {
            return Ok(Some(Window {
                tally,
                start,
                end,
                cut_short,
            }));
        }
        fail_on_errors(name, &tally.errors, tally.first_error.as_deref())?;
        ensure!(cut_short, "{name}: no answer came inside the measured time");
        Ok(None)
    }

    /// Watches the load until a time comes, the load ends, or Ctrl-C comes.
    async fn until(
        &mut self,
        time: Instant,
        progress: &Progress<'_>,
        interrupt: &Interrupt,
    ) -> Result<Seen> {
        loop {
            let left = time.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Ok(Seen::Due);
            }
            tokio::select! {
                tally = self.load.finish() => return Ok(Seen::Ended(Box::new(tally?))),
                () = interrupt.first() => return Ok(Seen::Interrupted),
                () = tokio::time::sleep(left.min(PROGRESS_INTERVAL)) => {}
            }
            progress.show(self.job, self.begun, self.load.done());
            if let Some(usage) = self.target.usage()? {
                self.rss_bytes_seen = self.rss_bytes_seen.max(usage.rss_bytes);
            }
        }
    }

    /// Each clone by itself, if the job asks for it.
    fn clones(&self, seconds: f64) -> Vec<CloneRound> {
        if self.job.group_reporting {
            return Vec::new();
        }
        self.load
            .clones()
            .map(|tally| clone_round(tally, seconds))
            .collect()
    }
}

/// Flushes of all servers together; None if one does not tell.
async fn flush_count(addresses: &[SocketAddr]) -> Option<f64> {
    let mut sum = 0.0;
    for address in addresses {
        sum += scrape::flush_count(*address).await?;
    }
    Some(sum)
}

fn seconds(tally: &Tally) -> f64 {
    tally.measured_ns as f64 / SECOND_NANOS
}

fn server_use(
    tally: &Tally,
    baseline: Usage,
    used: Usage,
    rss_bytes_peak: u64,
    flushes: Option<f64>,
) -> ServerUse {
    let operations = tally.operations as f64;
    ServerUse {
        cpu_seconds_per_100k: used.cpu_seconds * OPERATIONS_UNIT / operations,
        cpu_percent: 100.0 * used.cpu_seconds / seconds(tally),
        rss_bytes_baseline: baseline.rss_bytes,
        rss_bytes_peak: rss_bytes_peak.max(baseline.rss_bytes_peak),
        rss_bytes_above_baseline: rss_bytes_peak.saturating_sub(baseline.rss_bytes),
        written_bytes_per_operation: used.written_bytes as f64 / operations,
        write_calls_per_operation: used.write_calls as f64 / operations,
        // The counter covers ramp and end too.
        flushes_per_operation: flushes.map(|count| count / tally.operations_total as f64),
    }
}

fn clone_round(tally: &Tally, seconds: f64) -> CloneRound {
    CloneRound {
        operations: tally.operations,
        operations_per_second: tally.operations as f64 / seconds,
        latency_us: Latency::from(&tally.latency_ns),
        errors: tally.errors.clone(),
    }
}

fn round(window: Window, server: Option<ServerUse>, clones: Vec<CloneRound>) -> Round {
    let tally = window.tally;
    let seconds = seconds(&tally);
    let operations = tally.operations as f64;
    let own_cpu_seconds = window.end.own_cpu_seconds - window.start.own_cpu_seconds;
    // The last second counts if it was one but for the clock's last digits.
    let whole_seconds = (seconds + SECOND_SLACK).floor() as usize;
    let steps = tally.steps.iter().map(|step| StepRound {
        name: step.name.to_owned(),
        is_operation: step.is_operation,
        operations: step.operations,
        latency_us: Latency::from(&step.latency_ns),
    });
    let mut per_second: Vec<u64> = tally
        .seconds
        .iter()
        .map(|second| second.operations)
        .collect();
    // Seconds without an answer at the end are seconds too.
    per_second.resize(whole_seconds, 0);
    Round {
        seconds,
        cut_short: window.cut_short,
        operations: tally.operations,
        operations_per_second: operations / seconds,
        per_second,
        latency_us: Latency::from(&tally.latency_ns),
        steps: steps.collect(),
        conflicts: tally.conflicts,
        listed_bytes_per_second: tally.bytes as f64 / seconds,
        behind_us_max: tally.behind_ns_max as f64 / 1_000.0,
        unsent: tally.unsent,
        server,
        generator_cpu_seconds_per_100k: own_cpu_seconds * OPERATIONS_UNIT / operations,
        generator_cpu_percent: 100.0 * own_cpu_seconds / seconds,
        errors: tally.errors,
        first_error: tally.first_error,
        clones,
    }
}
