//! Trials: servers that are started with one set of values each, loaded, and stopped, in turns.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use super::knob::{Candidate, Knob, Setup, Surroundings};
use super::verdict::{LoadFigures, Trial, Verdict, judge};
use crate::cluster::Cluster;
use crate::interrupt::Interrupt;
use crate::job::JobSpec;
use crate::measure::{Progress, Target, measure};
use crate::report::{PROGRESS_INTERVAL, Table, fail_on_errors, number, progress};
use crate::server::Launch;
use crate::stats::Spread;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// What the progress line gives to starting and stopping a server.
const TURN_MILLIS: u64 = 500;

/// What every trial is made of.
pub struct Search<'a> {
    pub launch: Launch,
    /// Where data directories are made; removed by the caller.
    pub folder: &'a Path,
    pub loads: Vec<JobSpec>,
    pub rounds: u32,
    /// What counts as more than noise.
    pub gain_min: f64,
    pub around: Surroundings,
    pub interrupt: &'a Interrupt,
}

/// A search that goes on.
pub struct Walk<'a> {
    search: &'a Search<'a>,
    bar: ProgressBar,
    passed_millis: u64,
    /// The server's version, once one has run.
    pub version: String,
}

/// A question that was settled.
#[derive(Clone, Debug)]
pub struct Settled {
    pub question: &'static str,
    pub labels: Vec<String>,
    pub verdict: Verdict,
}

/// What a search came to.
pub struct Found {
    pub setup: Setup,
    pub settled: Vec<Settled>,
    /// The whole against the defaults; none if they are the same.
    pub check: Option<Settled>,
    pub version: String,
}

impl Search<'_> {
    /// Settles every knob, then the whole against the defaults. None if Ctrl-C came.
    pub async fn run(&self) -> Result<Option<Found>> {
        let mut walk = Walk::new(self);
        let mut setup = Setup::defaults(&self.around);
        let mut settled = Vec::new();
        for (at, knob) in Knob::ALL.into_iter().enumerate() {
            walk.foresee(&Knob::ALL[at..], &setup);
            let candidates = knob.candidates(&setup, &self.around);
            if candidates.len() < 2 {
                continue;
            }
            let Some(outcome) = walk.settle(knob.name(), &candidates).await? else {
                return Ok(None);
            };
            setup = candidates[outcome.verdict.chosen].setup.clone();
            settled.push(outcome);
        }
        let defaults = Setup::defaults(&self.around);
        let mut check = None;
        if setup != defaults {
            walk.foresee(&[], &setup);
            let both = [("the defaults", defaults), ("this profile", setup)];
            let both = both.map(|(label, setup)| Candidate {
                label: label.to_owned(),
                setup,
            });
            let Some(outcome) = walk.settle("all of it", &both).await? else {
                return Ok(None);
            };
            setup = both[outcome.verdict.chosen].setup.clone();
            check = Some(outcome);
        }
        Ok(Some(Found {
            setup,
            settled,
            check,
            version: std::mem::take(&mut walk.version),
        }))
    }

    fn trial_millis(&self) -> u64 {
        let loads: u64 = self.loads.iter().map(Progress::millis).sum();
        loads + TURN_MILLIS
    }
}

impl<'a> Walk<'a> {
    fn new(search: &'a Search<'a>) -> Self {
        let bar = progress(1, "{msg:48} {bar:30} {percent:>3}%, {eta} left");
        bar.enable_steady_tick(PROGRESS_INTERVAL);
        Self {
            search,
            bar,
            passed_millis: 0,
            version: String::new(),
        }
    }

    /// Makes the progress line as long as these knobs, and the check at the end, will take.
    fn foresee(&self, knobs: &[Knob], setup: &Setup) {
        let candidates = |knob: &Knob| knob.candidates(setup, &self.search.around).len();
        let trials: usize = knobs
            .iter()
            .map(candidates)
            .filter(|&count| count > 1)
            .sum();
        let rounds = u64::from(self.search.rounds);
        let millis = (trials as u64 + 2) * rounds * self.search.trial_millis();
        self.bar.set_length(self.passed_millis + millis);
    }

    /// Lets candidates take turns, and judges. None if Ctrl-C came.
    async fn settle(
        &mut self,
        question: &'static str,
        candidates: &[Candidate],
    ) -> Result<Option<Settled>> {
        let mut rounds = Vec::new();
        for round in 0..self.search.rounds {
            let mut order: Vec<usize> = (0..candidates.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let mut trials: Vec<Trial> = vec![Trial::new(); candidates.len()];
            for index in order {
                let candidate = &candidates[index];
                let name = format!("{question} = {}, round {}", candidate.label, round + 1);
                let Some(trial) = self.trial(candidate, name).await? else {
                    return Ok(None);
                };
                trials[index] = trial;
            }
            rounds.push(trials);
        }
        let settled = Settled {
            question,
            labels: candidates.iter().map(|one| one.label.clone()).collect(),
            verdict: judge(&rounds, self.search.gain_min),
        };
        self.bar.suspend(|| eprintln!("{}", settled.text()));
        Ok(Some(settled))
    }

    /// One member with one set of values, under each load in turn.
    async fn trial(&mut self, candidate: &Candidate, name: String) -> Result<Option<Trial>> {
        let search = self.search;
        let from_millis = self.passed_millis;
        self.passed_millis += search.trial_millis();
        let mut launch = search.launch.clone();
        launch.flags.extend(candidate.setup.flags(&search.around));
        self.bar.set_message(name.clone());
        let mut cluster = Cluster::start(&launch, search.folder, 1)?;
        let Some(ready) = search.interrupt.or(cluster.ready(READY_TIMEOUT)).await else {
            return Ok(None);
        };
        ready.context("cannot start keelson")?;
        let mut target = Target::Own(cluster);
        if self.version.is_empty() {
            self.version = target.version().await?;
        }
        let mut trial = Trial::new();
        let mut at_millis = from_millis;
        for load in &search.loads {
            let progress = Progress::new(&self.bar, at_millis, name.clone());
            at_millis += Progress::millis(load);
            let round = measure(&mut target, load, &progress, search.interrupt).await?;
            let Some(round) = round.filter(|round| !round.cut_short) else {
                return Ok(None);
            };
            fail_on_errors(&load.name, &round.errors, round.first_error.as_deref())?;
            let server = round.server.context("the server has no figures in /proc")?;
            trial.push(LoadFigures {
                operations_per_second: round.operations_per_second,
                p50_us: round.latency_us.p50,
                p99_us: round.latency_us.p99,
                // Seconds for 100,000 operations are tens of microseconds for one.
                server_cpu_us_per_operation: server.cpu_seconds_per_100k * 10.0,
            });
        }
        if let Target::Own(cluster) = target {
            cluster.stop().await?;
        }
        Ok(Some(trial))
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A ratio to the first value as a gain: `+3.1 % (+1.0 .. +5.2)`.
fn gain(ratio: Spread) -> String {
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let Spread { median, min, max } = ratio;
    format!(
        "{:+.1} % ({:+.1} .. {:+.1})",
        percent(median),
        percent(min),
        percent(max)
    )
}

impl Settled {
    /// A line for each value and one for the outcome.
    pub fn text(&self) -> String {
        let mut table = Table::default();
        let head = [self.question, "puts/s", "gain", "p99 us", "CPU us/put"];
        table.row(head.map(str::to_owned));
        for (label, standing) in self.labels.iter().zip(&self.verdict.standings) {
            table.row([
                format!("  {label}"),
                number(standing.operations_per_second),
                gain(standing.gain),
                number(standing.p99_us),
                number(standing.server_cpu_us_per_operation),
            ]);
        }
        let mut text = table.render();
        write!(text, "  {}", self.outcome()).expect("writing to a string does not fail");
        text
    }

    fn outcome(&self) -> String {
        let Verdict {
            chosen, fastest, ..
        } = self.verdict;
        let label = |at: usize| &self.labels[at];
        match fastest {
            None => format!(
                "{}: no other was better by more than the noise",
                label(chosen)
            ),
            Some(fastest) if fastest == chosen => {
                format!("{}: better by more than the noise", label(chosen))
            }
            Some(fastest) => format!(
                "{}: better by more than the noise, and {} not clearly better than that",
                label(chosen),
                label(fastest)
            ),
        }
    }
}
