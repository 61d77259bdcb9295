//! `keelson-bench`: measures Keelson, and etcd beside it, on the machine at hand.
//!
//! ```text
//!   compare, idle, replay            one file each: what is measured, and how it is shown
//!   disk                             the log's own write path, without a server
//!        |         |
//!      load      server  fetch       the load generator; child processes; etcd by pip
//!        |         |
//!      grpc    procfs  scrape        one connection's HTTP/2; /proc/PID; /metrics
//!
//!   stats, report, machine           medians and ratios; tables and progress; what it ran on
//! ```
//!
//! Everything is measured from outside, over gRPC and /proc, so that both servers are judged by
//! the same means. The generator shares the machine with the server it loads; its own CPU time is
//! part of every result. Any error an answer brings is shown by its code and makes the run fail.

mod cli;
mod compare;
mod disk;
mod fetch;
mod grpc;
mod idle;
mod job;
mod load;
mod machine;
mod procfs;
mod replay;
mod report;
mod scrape;
mod server;
mod stats;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::cli::{Cli, Command};

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
    let outcome = LocalSet::new().block_on(&runtime, async {
        match cli.command {
            Command::Compare(options) => until_interrupted(compare::run(&options)).await,
            Command::Idle(options) => until_interrupted(idle::run(&options)).await,
            Command::Replay(options) => until_interrupted(replay::run(&options)).await,
            Command::Disk(options) => disk::run(&options).await,
        }
    });
    match outcome {
        Ok(Some(())) => ExitCode::SUCCESS,
        Ok(None) => {
            eprintln!("keelson-bench: interrupted");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("keelson-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command until it ends or SIGINT or SIGTERM comes; dropping it stops its servers.
async fn until_interrupted(command: impl Future<Output = Result<()>>) -> Result<Option<()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = command => outcome.map(Some),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    }
}
