//! Jobs on servers that are started for them: rounds in turns, each on fresh data directories.
//!
//! Each round starts its cluster anew, so that no round inherits the files or the memory of an
//! earlier one, and every second round swaps the order, so that a slow drift of the machine favours
//! no server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::cluster::Cluster;
use crate::interrupt::Interrupt;
use crate::job::JobSpec;
use crate::measure::{Progress, Target, measure};
use crate::report::{Contender, JobResult, PROGRESS_INTERVAL, Round, progress};
use crate::server::Launch;

const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Servers that take turns.
pub struct Contest {
    launches: Vec<Launch>,
    parent: PathBuf,
    members: u32,
    rounds: u32,
    bar: ProgressBar,
    /// How far the progress line is.
    passed_millis: u64,
    interrupt: Interrupt,
}

/// What one server has brought so far.
struct Entry {
    launch: Launch,
    version: String,
    note: Option<String>,
    rounds: Vec<Round>,
}

impl Contest {
    /// A contest over these jobs, which the progress line reaches over.
    pub fn new(
        launches: Vec<Launch>,
        parent: PathBuf,
        (members, rounds): (u32, u32),
        jobs: &[JobSpec],
        interrupt: &Interrupt,
    ) -> Self {
        let rounds_all = u64::from(rounds) * launches.len() as u64;
        let millis: u64 = jobs
            .iter()
            .map(|job| Progress::millis(job) * rounds_all)
            .sum();
        let bar = progress(millis, "{msg:48} {bar:30} {percent:>3}%, {eta} left");
        bar.enable_steady_tick(PROGRESS_INTERVAL);
        Self {
            launches,
            parent,
            members,
            rounds,
            bar,
            passed_millis: 0,
            interrupt: interrupt.clone(),
        }
    }

    /// All rounds of one job, or those before Ctrl-C. None if there is not a single one.
    pub async fn job(&mut self, job: &JobSpec) -> Result<Option<JobResult>> {
        let mut entries: Vec<Entry> = self.launches.iter().map(Entry::new).collect();
        'rounds: for round in 0..self.rounds {
            let mut order: Vec<usize> = (0..entries.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                if self.interrupt.is_set() {
                    break 'rounds;
                }
                let entry = &mut entries[index];
                let name = format!(
                    "{}: {} {}/{}",
                    job.name,
                    entry.launch.name,
                    round + 1,
                    self.rounds
                );
                self.round(job, entry, name).await?;
                self.passed_millis += Progress::millis(job);
            }
        }
        let contenders = entries.into_iter().filter(|entry| !entry.rounds.is_empty());
        let contenders: Vec<Contender> = contenders
            .map(|entry| Contender::new(entry.launch.name, entry.version, entry.note, entry.rounds))
            .collect();
        Ok((!contenders.is_empty()).then(|| JobResult::new(job.clone(), contenders)))
    }

    async fn round(&self, job: &JobSpec, entry: &mut Entry, name: String) -> Result<()> {
        let progress = Progress::new(&self.bar, self.passed_millis, name);
        progress.phase("starts");
        let cluster = Cluster::start(&entry.launch, &self.parent, self.members)?;
        let mut target = Target::Own(cluster);
        let Some(ready) = self.interrupt.or(ready(&mut target)).await else {
            return Ok(());
        };
        ready.with_context(|| format!("cannot start {}", entry.launch.name))?;
        entry.version = target.version().await?;
        let suited;
        (suited, entry.note) = target.suited(job).await?;
        let round = measure(&mut target, &suited, &progress, &self.interrupt).await;
        let round = round.with_context(|| format!("{} on {}", job.name, entry.launch.name))?;
        entry.rounds.extend(round);
        progress.phase("stops");
        match target {
            Target::Own(cluster) => cluster.stop().await,
            Target::Remote(_) => Ok(()),
        }
    }
}

impl Drop for Contest {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Entry {
    fn new(launch: &Launch) -> Self {
        Self {
            launch: launch.clone(),
            version: String::new(),
            note: None,
            rounds: Vec::new(),
        }
    }
}

async fn ready(target: &mut Target) -> Result<()> {
    match target {
        Target::Own(cluster) => cluster.ready(READY_TIMEOUT).await,
        Target::Remote(_) => Ok(()),
    }
}
