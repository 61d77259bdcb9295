//! From arguments, environment and file to what the process is to do.

use crate::backup::SnapshotCommand;
use crate::config::{
    self, Assembled, Config, ConfigError, Given, Notice, Source, all_flags, version,
};
use crate::inspect::Inspect;

use super::arguments::{self, Arguments};
use super::help;
use super::snapshot;
use super::tools::{self, Output};

/// What the process is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// Print the text on standard output and exit with 0.
    Print(String),
    /// Serve.
    Serve(Box<Serve>),
    /// Look at the machine.
    Doctor(Box<Doctor>),
    /// Take, look at, or restore a backup.
    Snapshot(Box<SnapshotCommand>),
    /// Look into the data directory of a stopped member.
    Inspect(Box<Inspect>),
}

/// A member to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Serve {
    /// Its configuration.
    pub config: Config,
    /// What to log once the log is set up, in this order.
    pub notices: Vec<Notice>,
}

/// A machine to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Doctor {
    /// What a member would run with.
    pub config: Config,
    /// What it would log about that.
    pub notices: Vec<Notice>,
    /// How to write what is found.
    pub output: Output,
}

/// Why there is nothing to do. Printed on standard error; [`ConfigError::exit_code`] is the
/// process's.
pub type CliError = ConfigError;

/// Decides what to do.
///
/// `arguments` come without the program's name, `environment` as names with values; `read_file`
/// returns the text of a config file or profile, or why it cannot be read.
///
/// # Errors
/// One sentence about what the operator has to mend.
pub fn parse(
    arguments: &[String],
    environment: &[(String, String)],
    read_file: impl Fn(&str) -> Result<String, String>,
) -> Result<Invocation, CliError> {
    match arguments {
        [word, rest @ ..] if word == "snapshot" => return snapshot::parse_snapshot(rest),
        [word, rest @ ..] if word == "inspect" => return snapshot::parse_inspect(rest),
        _ => {}
    }
    let (words, arguments) = arguments::split_words(arguments);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let unexpected = |word: &str| ConfigError::UnexpectedWord {
        word: word.to_owned(),
    };
    let text = match *words {
        [] | ["serve"] => return serve(arguments, environment, &read_file),
        ["config", "show"] => return show(arguments, environment, &read_file),
        ["doctor"] => return doctor(arguments, environment, &read_file),
        ["version"] => version::text(),
        ["help"] => help::text(),
        ["config", "profiles"] => tools::profiles(),
        ["config", "profile", name] => tools::profile(name)?,
        ["config", "defaults"] => tools::defaults(),
        ["serve" | "doctor" | "version" | "help", word, ..]
        | ["config", "show" | "profiles" | "defaults", word, ..]
        | ["config", "profile", _, word, ..] => return Err(unexpected(word)),
        ["config", ..] => return Err(ConfigError::Incomplete(tools::CONFIG_USAGE.to_owned())),
        [word, ..] => return Err(unexpected(word)),
    };
    // Flags that a word does not need are still checked.
    arguments::read(arguments, None)?;
    Ok(Invocation::Print(text))
}

/// `keelson [flags]`.
fn serve(
    arguments: &[String],
    environment: &[(String, String)],
    read_file: &impl Fn(&str) -> Result<String, String>,
) -> Result<Invocation, CliError> {
    let arguments = arguments::read(arguments, None)?;
    if let Some(text) = asked_for(&arguments) {
        return Ok(Invocation::Print(text));
    }
    let (assembled, notices) = configure(arguments.given, environment, read_file)?;
    Ok(Invocation::Serve(Box::new(Serve {
        config: assembled.config,
        notices,
    })))
}

/// `keelson config show [flags]`.
fn show(
    arguments: &[String],
    environment: &[(String, String)],
    read_file: &impl Fn(&str) -> Result<String, String>,
) -> Result<Invocation, CliError> {
    let outputs = [
        ("text", Output::Text),
        ("json", Output::Json),
        ("yaml", Output::Yaml),
    ];
    let arguments = arguments::read(arguments, Some(&outputs))?;
    if let Some(text) = asked_for(&arguments) {
        return Ok(Invocation::Print(text));
    }
    let (assembled, notices) = configure(arguments.given, environment, read_file)?;
    let text = tools::show(&assembled, &notices, arguments.output);
    Ok(Invocation::Print(text))
}

/// `keelson doctor [flags]`.
fn doctor(
    arguments: &[String],
    environment: &[(String, String)],
    read_file: &impl Fn(&str) -> Result<String, String>,
) -> Result<Invocation, CliError> {
    let outputs = [("text", Output::Text), ("json", Output::Json)];
    let arguments = arguments::read(arguments, Some(&outputs))?;
    if let Some(text) = asked_for(&arguments) {
        return Ok(Invocation::Print(text));
    }
    let (assembled, notices) = configure(arguments.given, environment, read_file)?;
    Ok(Invocation::Doctor(Box::new(Doctor {
        config: assembled.config,
        notices,
        output: arguments.output,
    })))
}

/// The text that `--help` or `--version` asks for.
fn asked_for(arguments: &Arguments) -> Option<String> {
    match arguments {
        _ if arguments.help => Some(help::text()),
        _ if arguments.version => Some(version::text()),
        _ => None,
    }
}

/// From all that was given to a configuration, with everything that is to be said about it.
fn configure(
    flags: Vec<Given>,
    environment: &[(String, String)],
    read_file: &impl Fn(&str) -> Result<String, String>,
) -> Result<(Assembled, Vec<Notice>), CliError> {
    let environment = Environment::read(environment);
    let file = config_file(&flags).or_else(|| config_file(&environment.given));
    let (given, mut notices) = match file {
        Some(file) => (
            from_file(file, read_file)?,
            aside(&file.value, &flags, &environment),
        ),
        None => merge(&flags, environment),
    };
    let (given, notice) = config::over_profile(given, read_file)?;
    notices.extend(notice);
    let assembled = config::assemble(&given)?;
    notices.extend(assembled.notices.iter().cloned());
    Ok((assembled, notices))
}

/// The environment's part.
struct Environment {
    given: Vec<Given>,
    notices: Vec<Notice>,
}

impl Environment {
    /// Reads the variables that name a flag; empty ones count as not set.
    fn read(variables: &[(String, String)]) -> Self {
        let mut result = Self {
            given: Vec::new(),
            notices: Vec::new(),
        };
        for (name, value) in variables {
            if !name.starts_with("ETCD_") && !name.starts_with("KEELSON_") {
                continue;
            }
            match all_flags().iter().find(|flag| flag.variable() == *name) {
                Some(_) if value.is_empty() => {}
                Some(flag) => {
                    let source = Source::Environment;
                    result.given.push(Given {
                        flag,
                        value: value.clone(),
                        source,
                    });
                }
                None => {
                    let text =
                        format!("environment variable {name} is not known and is left aside");
                    result.notices.push(Notice::warn(text));
                }
            }
        }
        result
    }
}

/// What names the config file, if something does.
fn config_file(given: &[Given]) -> Option<&Given> {
    given
        .iter()
        .rfind(|given| given.flag.name == "config-file")
        .filter(|given| !given.value.is_empty())
}

fn from_file(
    file: &Given,
    read_file: &impl Fn(&str) -> Result<String, String>,
) -> Result<Vec<Given>, ConfigError> {
    let path = &file.value;
    let text = read_file(path).map_err(|why| ConfigError::BadFile {
        path: path.clone(),
        why,
    })?;
    let mut given = config::read_yaml(path, &text)?;
    given.push(file.clone());
    Ok(given)
}

/// Says which flags and variables a config file puts aside.
fn aside(path: &str, flags: &[Given], environment: &Environment) -> Vec<Notice> {
    let mut notices = vec![Notice::info(format!("the configuration comes from {path}"))];
    let mut names: Vec<String> = flags
        .iter()
        .chain(&environment.given)
        .filter(|given| given.flag.name != "config-file")
        .map(Given::setting)
        .collect();
    names.dedup();
    if !names.is_empty() {
        notices.push(Notice::warn(format!(
            "a config file is given, so these are left aside: {}",
            names.join(", ")
        )));
    }
    notices
}

/// Flags over variables.
fn merge(flags: &[Given], environment: Environment) -> (Vec<Given>, Vec<Notice>) {
    let mut notices = environment.notices;
    let mut given = Vec::new();
    for variable in environment.given {
        if flags
            .iter()
            .any(|given| given.flag.name == variable.flag.name)
        {
            notices.push(Notice::warn(format!(
                "{} is left aside, because --{} is given",
                variable.setting(),
                variable.flag.name
            )));
        } else {
            let value = &variable.value;
            notices.push(Notice::info(format!(
                "{}={value} is used",
                variable.setting()
            )));
            given.push(variable);
        }
    }
    given.extend(flags.iter().cloned());
    (given, notices)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "parse_tests.rs"]
mod tests;
