//! The keys as options of the command line: `--value_bytes=1k` overrides what job files say.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use super::file::Setting;
use super::keys::{KEYS, Key};
use super::value::Kind;

const HEADING: &str = "Job keys, which override those of the job files";

/// What the command line sets, in the order of the keys' table.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<Setting>);

impl Overrides {
    /// The settings.
    pub fn settings(&self) -> &[Setting] {
        &self.0
    }
}

/// Each word once, although some are words of two keys.
fn words() -> Vec<&'static str> {
    let mut words: Vec<&'static str> = Vec::new();
    for word in Key::words() {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

fn option(word: &'static str) -> Arg {
    let named = KEYS.iter().find(|key| key.name == word);
    let aliased: Vec<&str> = KEYS
        .iter()
        .filter(|key| key.alias == Some(word))
        .map(|key| key.name)
        .collect();
    let mut help = named.map_or(String::new(), |key| key.help.to_owned());
    if let Some(key) = named {
        help += &format!(" Allowed: {}.", key.kind);
    }
    if !aliased.is_empty() {
        let also = if named.is_some() {
            " Of disk jobs, the same as "
        } else {
            "The same as "
        };
        help += &format!("{also}{}.", aliased.join(" or "));
    }
    let kind = named
        .or_else(|| Key::find_any(word))
        .map_or(Kind::Path, |key| key.kind);
    let option = Arg::new(word)
        .long(word)
        .value_name(kind.value_word())
        .help(help)
        .help_heading(HEADING)
        .hide_short_help(true)
        .require_equals(false);
    match kind {
        // As in a job file, a flag alone is set.
        Kind::Flag => option
            .num_args(0..=1)
            .default_missing_value("1")
            .require_equals(true),
        _ => option,
    }
}

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        words()
            .into_iter()
            .fold(command, |command, word| command.arg(option(word)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let setting = |word: &'static str| {
            Some(Setting {
                word: word.to_owned(),
                value: matches.get_one::<String>(word)?.clone(),
                line: None,
            })
        };
        Ok(Self(words().into_iter().filter_map(setting).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
