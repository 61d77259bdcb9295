//! Runs of seeds, one after the other or side by side, and their reports.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::thread;

use keelson_storage::bugs::Bug;

use crate::check::Violation;
use crate::trace;
use crate::world::World;

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// The same for the same seed.
    pub digest: u64,
    /// How often rare things happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How long it lasted by its own clock, in microseconds.
    pub simulated_us: u64,
    /// What was violated, with the last events before it.
    pub failure: Option<Failure>,
}

/// A violation and what led to it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was violated.
    pub violation: Violation,
    /// The last events.
    pub events: Vec<String>,
}

impl Outcome {
    /// The report of a failure: seed, what was violated, the last events, and how to repeat it.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = String::new();
        if let Some(failure) = &self.failure {
            for event in &failure.events {
                let _infallible = writeln!(report, "{event}");
            }
            let seed = self.seed;
            let _infallible = write!(
                report,
                "seed {seed} violates {}\nrepeat with: cargo run --release -p sim -- --seed {seed}",
                failure.violation
            );
        }
        report
    }
}

/// How seeds are run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Every event is printed as it happens.
    pub is_told: bool,
    /// A deliberate bug, which needs the feature `bugs`.
    pub bug: Option<Bug>,
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64, settings: Settings) -> Outcome {
    #[cfg(feature = "bugs")]
    keelson_storage::bugs::select(settings.bug);
    trace::begin(seed);
    let mut world = World::new(seed);
    if settings.is_told {
        world.trace.tell();
    }
    // A broken assertion in a member is a finding like any other, and nothing of the world is used afterwards but its
    // record.
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let what = text.unwrap_or_else(|| "a panic without words".to_owned());
            Some(Violation::new("assertion", what))
        }
    };
    Outcome {
        seed,
        digest: world.trace.digest(),
        counts: world.trace.counts().clone(),
        simulated_us: world.now_us,
        failure: violation.map(|violation| Failure {
            violation,
            events: trace::last().1,
        }),
    }
}

/// The seed that this thread runs, and its last events, for who reports a panic.
#[must_use]
pub fn last_events() -> (u64, Vec<String>) {
    trace::last()
}

/// What of all that is rare did not happen in so many seeds from 1 on, although it had to.
#[must_use]
pub fn missed(seeds: u64, counts: &BTreeMap<&'static str, u64>) -> Vec<&'static str> {
    let due = trace::RARE.iter().filter(|(_, within)| *within <= seeds);
    let missed = due.filter(|(what, _)| !counts.contains_key(what));
    missed.map(|(what, _)| *what).collect()
}

/// Runs seeds side by side; `observe` gets each outcome as it comes, and ends everything when it says false.
pub fn run_seeds(
    seeds: impl Iterator<Item = u64>,
    jobs: usize,
    settings: Settings,
    mut observe: impl FnMut(Outcome) -> bool,
) {
    let seeds: Vec<u64> = seeds.collect();
    let (done, outcomes) = channel();
    thread::scope(|scope| {
        for job in 0..jobs {
            let (seeds, done) = (&seeds, done.clone());
            scope.spawn(move || {
                for seed in seeds.iter().skip(job).step_by(jobs) {
                    if done.send(run_seed(*seed, settings)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let outcomes = outcomes;
        while let Ok(outcome) = outcomes.recv() {
            if !observe(outcome) {
                return;
            }
        }
    });
}

/// How many seeds, from 1 on, find a deliberate bug for certain.
#[must_use]
pub fn seeds_to_find(bug: Bug) -> u64 {
    match bug {
        Bug::SkipVoteRecord
        | Bug::StaleRead
        | Bug::ForwardTwice
        | Bug::ApplyTwiceAfterRestart
        | Bug::ProposeWhileHandingOver
        | Bug::ResumeOneLate
        | Bug::EarlyLeaseExpiry
        | Bug::UncoveredKeepAlive => 20,
        Bug::AckBeforeFlush
        | Bug::SpeakBeforePersist
        | Bug::DropTombstoneAtCompactRevision
        | Bug::LeaseTimeRestarts
        | Bug::LoseLeaseAtCheckpoint
        | Bug::ForgetMembershipChange => 60,
        Bug::ProgressAheadOfEvents | Bug::StaleSlice => 120,
    }
}
