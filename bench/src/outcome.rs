//! The end of a command that measures: results out, and what the exit code says.

use std::fs;

use anyhow::{Context, Result};

use crate::cli::{OutputFormat, OutputOptions};
use crate::interrupt::Interrupt;
use crate::report::{Document, fail_on_errors, print_json, text};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    /// By Ctrl-C; what was measured has been shown.
    Interrupted,
}

/// Shows what was measured, whatever ended the measuring, and tells how the command ended. Errors
/// that answers brought are an error of the command.
pub fn deliver(
    mut document: Document,
    options: &OutputOptions,
    outcome: Result<()>,
    interrupt: &Interrupt,
) -> Result<Ending> {
    document.interrupted = interrupt.is_set();
    if outcome.is_ok() || document.has_results() {
        write(&document, options)?;
    }
    outcome?;
    for job in &document.jobs {
        for server in &job.servers {
            for round in &server.rounds {
                let who = format!("{}: {}", job.name, server.name);
                fail_on_errors(&who, &round.errors, round.first_error.as_deref())?;
            }
        }
    }
    for (server, stretch) in document.stretches() {
        let who = format!("{server}: puts, {}", stretch.name);
        fail_on_errors(&who, &stretch.errors, stretch.first_error.as_deref())?;
    }
    Ok(if document.interrupted {
        Ending::Interrupted
    } else {
        Ending::Complete
    })
}

fn write(document: &Document, options: &OutputOptions) -> Result<()> {
    let Some(path) = &options.output else {
        return match options.output_format.unwrap_or(OutputFormat::Text) {
            OutputFormat::Json => print_json(document),
            OutputFormat::Text => {
                print!("{}", text(document));
                Ok(())
            }
        };
    };
    print!("{}", text(document));
    let content = match options.output_format.unwrap_or(OutputFormat::Json) {
        OutputFormat::Json => serde_json::to_string_pretty(document)? + "\n",
        OutputFormat::Text => text(document),
    };
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
