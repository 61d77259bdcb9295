//! `run`: jobs against servers that are there, or against one that is started for each job.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::RunOptions;
use crate::contest::Contest;
use crate::disk;
use crate::interrupt::Interrupt;
use crate::job::{JobSpec, Op, jobs};
use crate::machine::Machine;
use crate::measure::{Progress, Target, measure};
use crate::outcome::{Ending, deliver};
use crate::report::{Contender, Document, JobResult, PROGRESS_INTERVAL, progress};

/// Runs the command.
pub async fn run(options: &RunOptions, interrupt: &Interrupt) -> Result<Ending> {
    let jobs = jobs(&options.jobs, options.overrides.settings())?;
    let starts_servers = jobs
        .iter()
        .any(|job| job.op != Op::Disk && job.endpoints.is_empty());
    let parent = options.start.data_parent()?;
    let members = if starts_servers { options.members } else { 0 };
    let mut document = Document::new("run", Machine::facts(&parent), members, 1);
    if starts_servers {
        disk::quote(&mut document, &parent, interrupt).await;
    }
    let mut outcome = Ok(());
    for job in &jobs {
        if job.op == Op::Disk {
            let plan = disk::Plan::of_job(job, &parent);
            match disk::measure(&plan, interrupt).await {
                Ok(result) => document.disk.extend(result),
                Err(error) => outcome = Err(error.context(job.name.clone())),
            }
        } else {
            match one(options, job, &parent, interrupt).await {
                Ok(result) => document.jobs.extend(result),
                Err(error) => outcome = Err(error),
            }
        }
        if outcome.is_err() || interrupt.is_set() {
            break;
        }
    }
    deliver(document, &options.output, outcome, interrupt)
}

/// One job; None if Ctrl-C came before anything was measured.
async fn one(
    options: &RunOptions,
    job: &JobSpec,
    parent: &Path,
    interrupt: &Interrupt,
) -> Result<Option<JobResult>> {
    if !job.endpoints.is_empty() {
        return remote(job, interrupt).await;
    }
    let launches = vec![options.start.launch(options.server)?];
    let sizes = (options.members, 1);
    let mut contest = Contest::new(
        launches,
        parent.to_owned(),
        sizes,
        std::slice::from_ref(job),
        interrupt,
    );
    contest.job(job).await
}

async fn remote(job: &JobSpec, interrupt: &Interrupt) -> Result<Option<JobResult>> {
    let mut target = Target::Remote(addresses(&job.endpoints)?);
    let version = target
        .version()
        .await
        .with_context(|| format!("{}: no server answers", job.name))?;
    let (suited, note) = target.suited(job).await?;
    let bar = progress(
        Progress::millis(job),
        "{msg:48} {bar:30} {percent:>3}%, {eta} left",
    );
    bar.enable_steady_tick(PROGRESS_INTERVAL);
    let line = Progress::new(&bar, 0, job.name.clone());
    let round = measure(&mut target, &suited, &line, interrupt).await;
    bar.finish_and_clear();
    Ok(round?.map(|round| {
        let name = job.endpoints.join(",");
        JobResult::new(
            job.clone(),
            vec![Contender::new(name, version, note, vec![round])],
        )
    }))
}

/// The first address of each endpoint.
fn addresses(endpoints: &[String]) -> Result<Vec<SocketAddr>> {
    let address = |endpoint: &String| {
        let found = endpoint
            .to_socket_addrs()
            .with_context(|| format!("cannot resolve {endpoint}"))?
            .next();
        found.with_context(|| format!("{endpoint} has no address"))
    };
    endpoints.iter().map(address).collect()
}
