//! `keelson config ...`: what a member would run with, and the profiles there are.

use std::fmt::Write as _;

use keelson_tuning::{PROFILES, Profile, defaults_document};
use serde_json::json;

use crate::config::{Assembled, ConfigError, Effective, GROUPS, Kind, Notice, Standing, Use};
use crate::config::{Flag, effective};

/// What to say when nothing that `config` can do follows it.
pub(super) const CONFIG_USAGE: &str = "say what to do: keelson config show, keelson config profiles, \
     keelson config profile NAME, or keelson config defaults";

/// How a tool writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// As a config file.
    Yaml,
}

impl Output {
    /// Reads the value of `--output`.
    pub(super) fn parse(text: &str, allowed: &[(&str, Self)]) -> Result<Self, ConfigError> {
        match allowed.iter().find(|(word, _)| *word == text) {
            Some((_, output)) => Ok(*output),
            None => Err(ConfigError::BadValue {
                setting: "--output".to_owned(),
                value: text.to_owned(),
                why: format!(
                    "expected one of {}",
                    allowed
                        .iter()
                        .map(|(word, _)| *word)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
                on_command_line: true,
            }),
        }
    }
}

/// The list of profiles.
pub(super) fn profiles() -> String {
    let mut out = String::new();
    for (name, _) in PROFILES {
        let profile = Profile::built_in(name).expect("the list holds built-in profiles");
        let _infallible = writeln!(out, "{name:<14} {}", profile.summary);
    }
    out
}

/// The text of one profile.
pub(super) fn profile(name: &str) -> Result<String, ConfigError> {
    let text = PROFILES.iter().find(|(known, _)| *known == name);
    match text {
        Some((_, text)) => Ok((*text).to_owned()),
        None => Err(Profile::built_in(name)
            .expect_err("the list holds every built-in profile")
            .into()),
    }
}

/// What a profile may hold.
pub(super) fn defaults() -> String {
    defaults_document()
}

/// Every setting with its value and where that comes from.
pub(super) fn show(assembled: &Assembled, notices: &[Notice], output: Output) -> String {
    let settings = effective(assembled);
    match output {
        Output::Text => as_text(&settings, notices),
        Output::Json => as_json(&settings, notices),
        Output::Yaml => as_yaml(&settings, notices),
    }
}

fn as_text(settings: &[Effective], notices: &[Notice]) -> String {
    let width = |of: fn(&Effective) -> usize, max: usize| {
        settings
            .iter()
            .map(of)
            .filter(|width| *width <= max)
            .max()
            .unwrap_or(0)
    };
    let name_width = width(|setting| setting.flag.name.len(), 40);
    let value_width = width(|setting| shown(&setting.value).len(), 24);
    let mut out = String::new();
    for group in GROUPS {
        let mut of_group = settings
            .iter()
            .filter(|setting| setting.flag.group == group)
            .peekable();
        if of_group.peek().is_some() {
            let _infallible = writeln!(out, "{}:", group.heading());
        }
        for setting in of_group {
            let _infallible = writeln!(
                out,
                "  {:<name_width$}  {:<value_width$}  {}{}",
                setting.flag.name,
                shown(&setting.value),
                setting.places.join(", "),
                match setting.effect {
                    Use::Used => "",
                    Use::Idle(_) => "; changes nothing",
                    Use::OnlyDefault(_) => "; nothing else is supported yet",
                }
            );
        }
    }
    for notice in notices {
        let _infallible = writeln!(out, "note: {}", notice.text);
    }
    out
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "\"\"" } else { value }
}

fn as_json(settings: &[Effective], notices: &[Notice]) -> String {
    let settings: Vec<_> = settings
        .iter()
        .map(|setting| {
            let (effect, why) = match setting.effect {
                Use::Used => ("used", None),
                Use::Idle(why) => ("none", Some(why)),
                Use::OnlyDefault(advice) => ("only the default is supported", Some(advice)),
            };
            json!({
                "name": setting.flag.name,
                "value": setting.value,
                "from": setting.places,
                "effect": effect,
                "why": why,
            })
        })
        .collect();
    let notices: Vec<&str> = notices.iter().map(|notice| &*notice.text).collect();
    let document = json!({ "settings": settings, "notices": notices });
    format!("{document:#}\n")
}

/// A config file that makes the same member. What only has a default, and what a config file cannot
/// hold, stands in comments.
fn as_yaml(settings: &[Effective], notices: &[Notice]) -> String {
    let mut out = String::new();
    for notice in notices {
        let _infallible = writeln!(out, "# {}", notice.text);
    }
    let mut section = "";
    for setting in settings {
        let flag = setting.flag;
        let (indent, key) = match flag.standing {
            Standing::Tuning(row) => {
                if section != row.section {
                    section = row.section;
                    let _infallible = writeln!(out, "{section}:");
                }
                ("  ", row.key)
            }
            _ => ("", flag.name),
        };
        let is_comment = flag.name == "config-file"
            || matches!(setting.effect, Use::OnlyDefault(_))
            || setting.value.is_empty();
        let _infallible = writeln!(
            out,
            "{}{indent}{key}: {}  # {}",
            if is_comment { "# " } else { "" },
            yaml_value(flag, &setting.value),
            setting.places.join(", ")
        );
    }
    out
}

fn yaml_value(flag: &Flag, value: &str) -> String {
    match flag.kind {
        Kind::Bool | Kind::Int | Kind::Uint => value.to_owned(),
        Kind::Duration | Kind::Text => serde_yaml_ng::to_string(value)
            .expect("text can be written as YAML")
            .trim_end()
            .to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tools_tests.rs"]
mod tests;
