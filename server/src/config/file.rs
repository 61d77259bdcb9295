//! The YAML config file, in etcd's layout.
//!
//! Top-level keys are flag names. etcd nests a few: the two `*-transport-security` maps,
//! `socket-options` and `discovery-config`; Keelson nests its tuning sections and has a list of shards. Durations are
//! nanoseconds as a number, as in etcd, or a Go duration as text.

use serde_yaml_ng::{Mapping, Value};

use super::error::ConfigError;
use super::flags::{Flag, Kind, all_flags, flag};
use super::given::{Given, Source};
use super::shards::flags_of_list;

/// etcd's nested maps and the prefix that makes flag names of their keys.
const NESTED: [(&str, &str); 4] = [
    ("client-transport-security", ""),
    ("peer-transport-security", "peer-"),
    ("socket-options", "socket-"),
    ("discovery-config", "discovery-"),
];

/// Keys of the two security maps that differ from their flag's name.
const ODD_KEYS: [(&str, &str); 2] = [
    ("allowed-cn", "cert-allowed-cn"),
    ("allowed-hostname", "cert-allowed-hostname"),
];

/// Reads the text of a config file; `path` is for messages only.
///
/// # Errors
/// When it is not YAML of the right shape, or has a key that nobody knows.
pub fn read_yaml(path: &str, text: &str) -> Result<Vec<Given>, ConfigError> {
    let bad = |why: String| ConfigError::BadFile {
        path: path.to_owned(),
        why,
    };
    let document: Value =
        serde_yaml_ng::from_str(text).map_err(|error| bad(format!("not YAML: {error}")))?;
    let map = match document {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(map) => map,
        _ => return Err(bad("expected keys with values at the top level".to_owned())),
    };
    let mut reader = Reader {
        path,
        given: Vec::new(),
    };
    for (key, value) in entries(&map, path)? {
        if let Some((_, prefix)) = NESTED.iter().find(|(name, _)| *name == key) {
            reader.read_map(key, value, |inner| nested_name(prefix, inner))?;
        } else if is_section(key) {
            reader.read_map(key, value, |inner| {
                format!("{key}-{}", inner.replace('_', "-"))
            })?;
        } else if let ("shards", Value::Sequence(list)) = (key, value) {
            let flags = flags_of_list(list).map_err(|why| reader.bad(format!("shards {why}")))?;
            for (flag, value) in flags {
                reader.read_value(flag, flag, &Value::String(value))?;
            }
        } else {
            reader.read_value(key, key, value)?;
        }
    }
    Ok(reader.given)
}

struct Reader<'a> {
    path: &'a str,
    given: Vec<Given>,
}

impl Reader<'_> {
    fn read_map(
        &mut self,
        outer: &str,
        value: &Value,
        flag_name: impl Fn(&str) -> String,
    ) -> Result<(), ConfigError> {
        let map = match value {
            Value::Null => return Ok(()),
            Value::Mapping(map) => map,
            _ => return Err(self.bad(format!("{outer} must hold keys with values"))),
        };
        for (key, value) in entries(map, self.path)? {
            self.read_value(&format!("{outer}.{key}"), &flag_name(key), value)?;
        }
        Ok(())
    }

    fn read_value(&mut self, key: &str, name: &str, value: &Value) -> Result<(), ConfigError> {
        let Some(flag) = flag(name).filter(|flag| flag.name != "config-file") else {
            return Err(ConfigError::UnknownKey {
                key: key.to_owned(),
                path: self.path.to_owned(),
                nearest: nearest(name),
            });
        };
        let Some(value) = text_of(flag, value).map_err(|why| self.bad(format!("{key} {why}")))?
        else {
            return Ok(());
        };
        let source = Source::File(self.path.to_owned());
        self.given.push(Given {
            flag,
            value,
            source,
        });
        Ok(())
    }

    fn bad(&self, why: String) -> ConfigError {
        ConfigError::BadFile {
            path: self.path.to_owned(),
            why,
        }
    }
}

fn entries<'a>(map: &'a Mapping, path: &str) -> Result<Vec<(&'a str, &'a Value)>, ConfigError> {
    map.iter()
        .map(|(key, value)| match key.as_str() {
            Some(key) => Ok((key, value)),
            None => Err(ConfigError::BadFile {
                path: path.to_owned(),
                why: format!("{key:?} is not a key"),
            }),
        })
        .collect()
}

/// The flag that a key in one of etcd's nested maps stands for.
fn nested_name(prefix: &str, key: &str) -> String {
    match ODD_KEYS.iter().find(|(name, _)| *name == key) {
        Some((_, name)) if prefix.is_empty() => format!("client-{name}"),
        Some((_, name)) => format!("{prefix}{name}"),
        None => format!("{prefix}{key}"),
    }
}

/// A value in the spelling of the command line; nothing and empty text are not given at all.
fn text_of(flag: &Flag, value: &Value) -> Result<Option<String>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) if flag.kind == Kind::Duration => format!("{number}ns"),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Sequence(items) => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            items.ok_or("must be a list of plain values")?.join(",")
        }
        Value::Mapping(_) | Value::Tagged(_) => return Err("must be a plain value".to_owned()),
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The known flag that a name most resembles, if any comes close.
pub(crate) fn nearest(name: &str) -> Option<String> {
    let limit = (name.len() / 3).max(2);
    all_flags()
        .iter()
        .map(|flag| (distance(name, flag.name), flag.name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name.to_owned())
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (place, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(row[place] + 1).min(row[place + 1] + 1);
        }
    }
    row[right.len()]
}
/// Whether this is one of the tuning sections; a key in one of them makes the flag `section-key`.
fn is_section(key: &str) -> bool {
    let mut settings = keelson_tuning::SETTINGS.iter().copied().flatten();
    settings.any(|setting| setting.section == key)
}
