//! `sim`: runs seeds of the simulator, and says what they came to.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use sim::run::{Settings, run_seeds};

#[cfg(feature = "bugs")]
mod prove;

/// Runs whole members in a simulated world that a seed decides.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from the first one on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How many at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print every event.
    #[arg(long)]
    verbose: bool,
    /// Stop at the first seed that fails.
    #[arg(long)]
    first: bool,
    /// A deliberate bug to run with, by its name.
    #[cfg(feature = "bugs")]
    #[arg(long)]
    bug: Option<String>,
    /// Run with every deliberate bug until it is found, and print how many seeds that took.
    #[cfg(feature = "bugs")]
    #[arg(long)]
    prove: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    report_panics();
    #[cfg(feature = "bugs")]
    if arguments.prove {
        return prove::prove();
    }
    run(&arguments)
}

/// Where a panic ends the process at once, it is reported before.
fn report_panics() {
    if cfg!(panic = "abort") {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            report(panic);
            let (seed, events) = sim::run::last_events();
            println!("{}", events.join("\n"));
            println!("seed {seed} violates assertion: {panic}");
            println!("repeat with: cargo run --release -p sim -- --seed {seed}");
            std::process::exit(1);
        }));
    }
}

fn settings(arguments: &Arguments) -> Settings {
    Settings {
        is_told: arguments.verbose,
        #[cfg(feature = "bugs")]
        bug: arguments.bug.as_deref().map(prove::bug_of),
        #[cfg(not(feature = "bugs"))]
        bug: None,
    }
}

fn run(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let mut counts: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    let mut failed = 0;
    let mut done = 0;
    let mut simulated_us = 0;
    let seeds = arguments.seed..arguments.seed + arguments.seeds;
    let jobs = arguments.jobs.max(1);
    let settings = settings(arguments);
    run_seeds(seeds, jobs, settings, |outcome| {
        done += 1;
        simulated_us += outcome.simulated_us;
        for (what, times) in &outcome.counts {
            let (total, runs) = counts.entry(what).or_default();
            *total += times;
            *runs += 1;
        }
        if outcome.failure.is_some() {
            failed += 1;
            println!("{}", outcome.report());
        } else {
            println!("seed {} digest {:016x}", outcome.seed, outcome.digest);
        }
        !(arguments.first && failed > 0)
    });
    let totals = counts.iter().map(|(what, (times, _))| (*what, *times));
    let missed = sim::run::missed(arguments.seeds, &totals.collect());
    if arguments.seeds > 1 {
        println!("{:>12} {:>8}  what happened", "times", "seeds");
        for (what, (times, runs)) in counts {
            println!("{times:>12} {runs:>8}  {what}");
        }
        for what in &missed {
            println!(
                "{:>12} {:>8}  {what}: it never happened, and so many seeds have to reach it",
                0, 0
            );
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{done} seeds, {failed} failed; {:.0} s simulated in {seconds:.1} s, {:.0} seeds a minute",
            simulated_us as f64 / 1e6,
            done as f64 * 60.0 / seconds,
        );
    }
    match (failed, missed.is_empty()) {
        (0, true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
