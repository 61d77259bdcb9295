//! Go's way of writing flags, turned into one that clap reads, and clap's reading of it.
//!
//! etcd's flags follow Go's `flag` package: one dash or two, `-flag value` or `-flag=value`,
//! booleans without a value unless it is joined by `=`, the last of repeated flags counts, and the
//! first word that is no flag ends them. [`normalize`] rewrites all that to `--flag=value`.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use crate::config::{ConfigError, Given, Kind, Source, all_flags, flag};

/// What stood on the command line.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    /// The first word, if it was not a flag.
    pub(super) word: Option<String>,
    /// `--help` or `-h`.
    pub(super) help: bool,
    /// `--version`.
    pub(super) version: bool,
    /// All other flags, in their order.
    pub(super) given: Vec<Given>,
}

/// Reads the arguments after the program's name.
pub(super) fn read(arguments: &[String]) -> Result<Arguments, ConfigError> {
    let mut result = Arguments::default();
    let mut rest = arguments;
    if let [first, tail @ ..] = rest
        && !first.starts_with('-')
    {
        result.word = Some(first.clone());
        rest = tail;
    }
    let normalized = normalize(rest)?;
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
        if let Some(flag) = flag(name) {
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
    let flags = all_flags().iter().map(|flag| {
        Arg::new(flag.name)
            .long(flag.name)
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
fn normalize(arguments: &[String]) -> Result<Vec<String>, ConfigError> {
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
        if matches!(name, "help" | "h" | "version") {
            normalized.push(format!("--{}", if name == "h" { "help" } else { name }));
        } else if name.contains('=') {
            normalized.push(format!("--{name}"));
        } else {
            match flag(name) {
                Some(flag) if flag.kind == Kind::Bool => normalized.push(format!("--{name}=true")),
                Some(_) => {
                    let missing = || ConfigError::MissingValue {
                        flag: name.to_owned(),
                    };
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
        let read = read(&words).map_err(|error| error.to_string())?;
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
