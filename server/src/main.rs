//! The `keelson` process: decides what to do from its command line, and does it.

use std::process::ExitCode;

use keelson_server::cli::{self, Doctor, Invocation};
use keelson_server::{backup, boot, doctor, inspect, observe::log};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let serve = match cli::from_process() {
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Doctor(doctor)) => return look(&doctor),
        Ok(Invocation::Snapshot(command)) => return ended(backup::run(&command)),
        Ok(Invocation::Inspect(inspect)) => return ended(inspect::run(&inspect)),
        Ok(Invocation::Serve(serve)) => serve,
        Err(error) => {
            eprintln!("keelson: {error}");
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    if let Err(error) = log::init(&serve.config.log) {
        eprintln!("keelson: {error}");
        return ExitCode::FAILURE;
    }
    log::notices(&serve.notices);
    match boot::serve(&serve.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("keelson: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn look(asked: &Doctor) -> ExitCode {
    let report = doctor::look(&asked.config);
    print!("{}", report.text(asked.output, &asked.notices));
    ExitCode::from(u8::from(!report.can_start()))
}

/// The end of a tool: what it says of itself, or why it could not do its work.
fn ended(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("keelson: {error:#}");
        ExitCode::FAILURE
    })
}
