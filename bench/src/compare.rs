//! `compare`: the same jobs on Keelson and on etcd, in alternating rounds of one run.

use anyhow::{Result, bail};

use crate::cli::CompareOptions;
use crate::contest::Contest;
use crate::disk;
use crate::interrupt::Interrupt;
use crate::job::{JobSpec, Op, jobs};
use crate::machine::Machine;
use crate::outcome::{Ending, deliver};
use crate::report::Document;

/// Runs the command.
pub async fn run(options: &CompareOptions, interrupt: &Interrupt) -> Result<Ending> {
    let jobs = jobs(&options.jobs, options.overrides.settings())?;
    check(&jobs)?;
    let parent = options.start.data_parent()?;
    let launches = options.start.launches(options.against)?;
    let machine = Machine::facts(&parent);
    let mut document = Document::new("compare", machine, options.members, options.rounds);
    disk::quote(&mut document, &parent, interrupt).await;
    let sizes = (options.members, options.rounds);
    let mut contest = Contest::new(launches, parent, sizes, &jobs, interrupt);
    let mut outcome = Ok(());
    for job in &jobs {
        match contest.job(job).await {
            Ok(result) => document.jobs.extend(result),
            Err(error) => outcome = Err(error),
        }
        if outcome.is_err() || interrupt.is_set() {
            break;
        }
    }
    drop(contest);
    deliver(document, &options.output, outcome, interrupt)
}

fn check(jobs: &[JobSpec]) -> Result<()> {
    for job in jobs {
        if job.op == Op::Disk {
            bail!(
                "{}: a disk job drives no server: `keelson-bench run` takes it",
                job.name
            );
        }
        if !job.endpoints.is_empty() {
            bail!(
                "{}: compare starts its servers itself: endpoints are for `keelson-bench run`",
                job.name
            );
        }
    }
    Ok(())
}
