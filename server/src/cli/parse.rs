//! From arguments, environment and file to what the process is to do.

use crate::config::{self, Config, ConfigError, Given, Notice, Source, all_flags, version};

use super::{arguments, help};

/// What the process is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// Print the text on standard output and exit with 0.
    Print(String),
    /// Serve.
    Serve(Box<Serve>),
}

/// A member to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Serve {
    /// Its configuration.
    pub config: Config,
    /// What to log once the log is set up, in this order.
    pub notices: Vec<Notice>,
}

/// Why there is nothing to do. Printed on standard error; [`ConfigError::exit_code`] is the
/// process's.
pub type CliError = ConfigError;

/// Decides what to do.
///
/// `arguments` come without the program's name, `environment` as names with values; `read_file`
/// returns the text of the config file or why it cannot be read.
///
/// # Errors
/// One sentence about what the operator has to mend.
pub fn parse(
    arguments: &[String],
    environment: &[(String, String)],
    read_file: impl FnOnce(&str) -> Result<String, String>,
) -> Result<Invocation, CliError> {
    let arguments = arguments::read(arguments)?;
    match arguments.word.as_deref() {
        _ if arguments.help => return Ok(Invocation::Print(help::text())),
        _ if arguments.version => return Ok(Invocation::Print(version::text())),
        None | Some("serve") => {}
        Some("version") => return Ok(Invocation::Print(version::text())),
        Some("help") => return Ok(Invocation::Print(help::text())),
        Some(word) => {
            return Err(ConfigError::UnexpectedWord {
                word: word.to_owned(),
            });
        }
    }
    let environment = Environment::read(environment);
    let file = config_file(&arguments.given).or_else(|| config_file(&environment.given));
    let (given, mut notices) = match file {
        Some(path) => (
            from_file(&path, read_file)?,
            aside(&path, &arguments.given, &environment),
        ),
        None => merge(arguments.given, environment),
    };
    let assembled = config::assemble(&given)?;
    notices.extend(assembled.notices);
    Ok(Invocation::Serve(Box::new(Serve {
        config: assembled.config,
        notices,
    })))
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

/// The path of the config file, if one is given.
fn config_file(given: &[Given]) -> Option<String> {
    let path = given
        .iter()
        .rfind(|given| given.flag.name == "config-file")?
        .value
        .clone();
    Some(path).filter(|path| !path.is_empty())
}

fn from_file(
    path: &str,
    read_file: impl FnOnce(&str) -> Result<String, String>,
) -> Result<Vec<Given>, ConfigError> {
    let text = read_file(path).map_err(|why| ConfigError::BadFile {
        path: path.to_owned(),
        why,
    })?;
    config::read_yaml(path, &text)
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
fn merge(flags: Vec<Given>, environment: Environment) -> (Vec<Given>, Vec<Notice>) {
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
    given.extend(flags);
    (given, notices)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "parse_tests.rs"]
mod tests;
