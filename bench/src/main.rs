//! `keelson-bench`: measures Keelson, and etcd beside it, on the machine at hand.
//!
//! ```text
//!   run, compare, idle, replay       one file each: what is measured
//!   upkeep                           what maintenance, backups and little memory cost
//!   disk, tune                       the log's own write path; which settings suit this machine
//!   pages                            jobs and report: what is there, shown
//!     |    |        |
//!     |  contest  outcome            rounds in turns; results out, exit code
//!     |    |
//!    measure                         one round: a job on a running server
//!     |    |       \
//!   load   job    cluster            the generator; job files; members started together
//!     |              |
//!   grpc           server  fetch     HTTP/2; child processes; etcd by pip
//!
//!   procfs, scrape, machine          /proc/PID; what a server tells; what it ran on
//!   settle                           waits until nothing more is written
//!   stats, report, interrupt         percentiles, medians; text, JSON, HTML; Ctrl-C
//! ```
//!
//! Everything is measured from outside, over gRPC and /proc, so that both servers are judged by
//! the same means. The generator shares the machine with the server it loads; its own CPU time is
//! part of every result. Any error an answer brings is shown by its code and makes the run fail.

mod checkpoint;
mod cli;
mod cluster;
mod compare;
mod contest;
mod disk;
mod fetch;
mod grpc;
mod idle;
mod interrupt;
mod job;
mod load;
mod machine;
mod measure;
mod outcome;
mod pages;
mod procfs;
mod replay;
mod report;
mod run;
mod scrape;
mod server;
mod settle;
mod stats;
mod tune;
mod upkeep;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio::task::LocalSet;

use crate::cli::{Cli, Command};
use crate::interrupt::Interrupt;
use crate::outcome::Ending;

/// Shells report 128 + SIGINT for an interrupted command.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("keelson-bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    match LocalSet::new().block_on(&runtime, command(cli.command)) {
        Ok(Ending::Complete) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => {
            eprintln!("keelson-bench: interrupted");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("keelson-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command. The first Ctrl-C drops `idle` and `replay`, which stops the servers; it lets the others end
/// with what they have, and a second one drops these too.
async fn command(command: Command) -> Result<Ending> {
    let interrupt = Interrupt::install()?;
    let complete = |()| Ending::Complete;
    let dropped = || Ok(Ending::Interrupted);
    match &command {
        Command::Run(options) => until(run::run(options, &interrupt), interrupt.second())
            .await
            .unwrap_or_else(dropped),
        Command::Compare(options) => until(compare::run(options, &interrupt), interrupt.second())
            .await
            .unwrap_or_else(dropped),
        Command::Idle(options) => until(idle::run(options), interrupt.first())
            .await
            .map_or_else(dropped, |outcome| outcome.map(complete)),
        Command::Replay(options) => until(replay::run(options), interrupt.first())
            .await
            .map_or_else(dropped, |outcome| outcome.map(complete)),
        Command::Maintain(options) => {
            until(upkeep::maintain(options, &interrupt), interrupt.second())
                .await
                .unwrap_or_else(dropped)
        }
        Command::Backup(options) => until(upkeep::backup(options, &interrupt), interrupt.second())
            .await
            .unwrap_or_else(dropped),
        Command::Memory(options) => until(upkeep::memory(options, &interrupt), interrupt.second())
            .await
            .unwrap_or_else(dropped),
        Command::Disk(options) => until(disk::run(options, &interrupt), interrupt.second())
            .await
            .unwrap_or_else(dropped),
        Command::Tune(options) => until(tune::run(options, &interrupt), interrupt.second())
            .await
            .unwrap_or_else(dropped),
        Command::Jobs(options) => pages::jobs(options).map(complete),
        Command::Report(options) => pages::report(options).map(complete),
    }
}

/// Some work until it ends; None if the signal comes first.
async fn until<T>(work: impl Future<Output = T>, signal: impl Future<Output = ()>) -> Option<T> {
    tokio::select! {
        outcome = work => Some(outcome),
        () = signal => None,
    }
}
