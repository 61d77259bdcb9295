//! The process's own arguments, environment and files, handed to [`super::parse`].

use std::ffi::OsString;

use super::parse::{CliError, Invocation, parse};

/// Decides what this process is to do.
///
/// # Errors
/// One sentence about what the operator has to mend.
pub fn from_process() -> Result<Invocation, CliError> {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(text).collect();
    let environment: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    parse(&arguments, &environment, |path| {
        std::fs::read_to_string(path).map_err(|error| error.to_string())
    })
}

/// Text that is not UTF-8 keeps its readable part; the setting it is for then refuses it.
fn text(raw: OsString) -> String {
    raw.into_string()
        .unwrap_or_else(|raw| raw.to_string_lossy().into_owned())
}
