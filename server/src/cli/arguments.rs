//! Go's way of writing flags, turned into one that clap reads, and clap's reading of it.
//!
//! etcd's flags follow Go's `flag` package: one dash or two, `-flag value` or `-flag=value`,
//! booleans without a value unless it is joined by `=`, the last of repeated flags counts, and a
//! word that is no flag ends them. [`normalize`] rewrites all that to `--flag=value`.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use crate::config::{ConfigError, Given, Kind, Source, all_flags, flag};

use super::tools::Output;

/// What stood on the command line.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    /// `--help` or `-h`.
    pub(super) help: bool,
    /// `--version`.
    pub(super) version: bool,
    /// `--output`, which only the tools have.
    pub(super) output: Output,
    /// All other flags, in their order.
    pub(super) given: Vec<Given>,
}

/// The name of the flag that only the tools have.
const OUTPUT: &str = "output";

/// The ways of writing that a tool has, by their words; `None` for a command without `--output`.
pub(super) type Outputs<'a> = Option<&'a [(&'a str, Output)]>;

/// Splits the words at the beginning, which say what to do, from the flags.
pub(super) fn split_words(arguments: &[String]) -> (&[String], &[String]) {
    let is_flag = |argument: &String| argument.starts_with('-');
    let count = arguments
        .iter()
        .position(is_flag)
        .unwrap_or(arguments.len());
    arguments.split_at(count)
}

/// Reads the flags after the words.
pub(super) fn read(arguments: &[String], outputs: Outputs<'_>) -> Result<Arguments, ConfigError> {
    let mut result = Arguments::default();
    let normalized = normalize(arguments, outputs.is_some())?;
    let matches = command()
        .try_get_matches_from(&normalized)
        .map_err(|error| from_clap(&error))?;
    result.help = matches.get_flag("help");
    result.version = matches.get_flag("version");
    // Walking the arguments keeps their order, which decides between a flag and its older name.
    for argument in &normalized {
        let Some((name, value)) = argument
            .strip_prefix("--")
            .and_then(|argument| argument.split_once('='))
        else {
            continue;
        };
        if let Some(outputs) = outputs.filter(|_| name == OUTPUT) {
            result.output = Output::parse(value, outputs)?;
        } else if let Some(flag) = flag(name) {
            result.given.push(Given {
                flag,
                value: value.to_owned(),
                source: Source::Flag,
            });
        }
    }
    Ok(result)
}

/// The command as clap knows it: every flag takes its value by `=`.
fn command() -> Command {
    let names = all_flags().iter().map(|flag| flag.name);
    let flags = names.chain([OUTPUT]).map(|name| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::Append)
            .require_equals(true)
            .allow_hyphen_values(true)
    });
    Command::new("keelson")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(flags)
        .arg(
            Arg::new("help")
                .long("help")
                .short('h')
                .action(ArgAction::SetTrue),
        )
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::SetTrue),
        )
}

/// Rewrites Go's spellings to `--flag=value`.
fn normalize(arguments: &[String], has_output: bool) -> Result<Vec<String>, ConfigError> {
    let mut normalized = Vec::with_capacity(arguments.len());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let name = argument
            .strip_prefix("--")
            .or_else(|| argument.strip_prefix('-'));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(ConfigError::UnexpectedWord {
                word: argument.clone(),
            });
        };
        let missing = || ConfigError::MissingValue {
            flag: name.to_owned(),
        };
        let is_output = name.split('=').next() == Some(OUTPUT);
        if is_output && !has_output {
            return Err(unknown(OUTPUT));
        }
        if matches!(name, "help" | "h" | "version") {
            normalized.push(format!("--{}", if name == "h" { "help" } else { name }));
        } else if name.contains('=') {
            normalized.push(format!("--{name}"));
        } else if is_output {
            let value = rest.next().ok_or_else(missing)?;
            normalized.push(format!("--{name}={value}"));
        } else {
            match flag(name) {
                Some(flag) if flag.kind == Kind::Bool => normalized.push(format!("--{name}=true")),
                Some(_) => {
                    let value = rest.next().ok_or_else(missing)?;
                    normalized.push(format!("--{name}={value}"));
                }
                None => return Err(unknown(name)),
            }
        }
    }
    Ok(normalized)
}

fn unknown(name: &str) -> ConfigError {
    ConfigError::UnknownFlag {
        flag: name.to_owned(),
        nearest: crate::config::nearest(name),
    }
}

/// What clap has to say, in our words.
fn from_clap(error: &clap::Error) -> ConfigError {
    let subject = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.trim_start_matches('-').to_owned(),
        _ => String::new(),
    };
    let name = subject.split(['=', ' ']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => unknown(name),
        _ => ConfigError::UnexpectedWord { word: subject },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_words(words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let read = read(&words, None).map_err(|error| error.to_string())?;
        Ok(read
            .given
            .iter()
            .map(|given| format!("{}={}", given.flag.name, given.value))
            .collect())
    }

    #[test]
    fn all_of_gos_spellings_mean_the_same() {
        for words in [
            &["--name", "a"][..],
            &["--name=a"],
            &["-name", "a"],
            &["-name=a"],
        ] {
            assert_eq!(read_words(words).unwrap(), ["name=a"]);
        }
        for (words, given) in [
            (&["--pre-vote"][..], "pre-vote=true"),
            (&["-pre-vote=false"], "pre-vote=false"),
            (&["--quota-backend-bytes", "-1"], "quota-backend-bytes=-1"),
            (&["--data-dir="], "data-dir="),
            (
                &["--initial-cluster", "a=http://b:1"],
                "initial-cluster=a=http://b:1",
            ),
            (&["--name", "--odd"], "name=--odd"),
        ] {
            assert_eq!(read_words(words).unwrap(), [given]);
        }
    }

    #[test]
    fn order_and_repeats_are_kept() {
        let given = read_words(&["--name=a", "--pre-vote", "--name", "b"]).unwrap();
        assert_eq!(given, ["name=a", "pre-vote=true", "name=b"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (words, message) in [
            (
                &["--nmae=a"][..],
                "unknown flag --nmae, did you mean --name; --help lists all flags",
            ),
            (
                &["-listen-client-url", "x"],
                "unknown flag --listen-client-url, did you mean --listen-client-urls; --help lists all flags",
            ),
            (
                &["--output=json"],
                "unknown flag --output; --help lists all flags",
            ),
            (
                &["--something-else-entirely"],
                "unknown flag --something-else-entirely; --help lists all flags",
            ),
            (&["--name"], "--name needs a value"),
            (
                &["--pre-vote", "false"],
                "unexpected word \"false\" on the command line; --help shows the usage",
            ),
            (
                &["--name=a", "--"],
                "unexpected word \"--\" on the command line; --help shows the usage",
            ),
            (
                &["--name=a", "-"],
                "unexpected word \"-\" on the command line; --help shows the usage",
            ),
        ] {
            let message_words = words.join(" ");
            match read_words(words) {
                Err(error) => assert_eq!(error, message, "{message_words}"),
                Ok(given) => panic!("{message_words}: {given:?}"),
            }
        }
    }
}
