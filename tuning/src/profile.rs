//! Profiles: named sets of values for a kind of machine or load.
//!
//! A profile is a TOML file. Keelson's own lie in `tuning/profiles/` and are part of the program;
//! an operator's own file has the same keys: the tuning sections, `cores`, and a `summary` in one
//! line. What a profile leaves out keeps its default.
//!
//! ```
//! let text = "[wal]\ndepth = 8\n";
//! let profile = keelson_tuning::Profile::parse("disk.toml", text).expect("this is a profile");
//! let mut tuning = keelson_tuning::Tuning::default();
//! profile.apply(&mut tuning);
//! assert_eq!(tuning.wal.depth, 8);
//! ```
//!
//! Invariant: a key that means nothing is an error with its line, so no value of a profile is
//! silently without effect.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::settings::{SETTINGS, Tuning, setting};
use crate::{Setting, TuningError};

/// The built-in profiles: name and text, in the order in which they are listed.
pub const PROFILES: &[(&str, &str)] = &[
    ("dev", include_str!("../profiles/dev.toml")),
    ("nvme", include_str!("../profiles/nvme.toml")),
    ("cloud-disk", include_str!("../profiles/cloud-disk.toml")),
    ("small-vm", include_str!("../profiles/small-vm.toml")),
    (
        "many-watchers",
        include_str!("../profiles/many-watchers.toml"),
    ),
    ("kube-large", include_str!("../profiles/kube-large.toml")),
];

const CORES: &str = "cores";
const SUMMARY: &str = "summary";

/// A set of values with a name.
#[derive(Clone, Debug)]
pub struct Profile {
    /// A built-in profile's name, or the path of the file.
    pub name: String,
    /// What it is for, in one line; empty when the file does not say.
    pub summary: String,
    /// What it sets, in the order of the file.
    pub values: Vec<ProfileValue>,
}

/// One value of a profile.
#[derive(Clone, Debug)]
pub struct ProfileValue {
    /// What it sets, and to what.
    pub key: ProfileKey,
    /// Where it stands in the file, from 1 on.
    pub line: usize,
}

/// What a profile can set.
#[derive(Clone, Debug)]
pub enum ProfileKey {
    /// The cores to run on, in the spelling of the server's `--cores`.
    Cores(String),
    /// A setting, and a value within its limits.
    Setting(&'static Setting, u64),
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Nothing has that name.
    #[error(
        "there is no profile {name:?}; the profiles are {}, and a file of your own is named by a path with a slash or .toml at its end",
        names()
    )]
    UnknownName {
        /// As given.
        name: String,
    },
    /// The file is not TOML.
    #[error("{file}:{line}: not TOML: {why}")]
    NotToml {
        /// The file.
        file: String,
        /// The line, from 1 on.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// A key or section that nobody knows.
    #[error("{file}:{line}: unknown key {key}; allowed are {allowed}")]
    UnknownKey {
        /// The file.
        file: String,
        /// The line, from 1 on.
        line: usize,
        /// As written, with its section.
        key: String,
        /// The keys that may stand there.
        allowed: String,
    },
    /// A value that its key does not take.
    #[error("{file}:{line}: {why}")]
    BadValue {
        /// The file.
        file: String,
        /// The line, from 1 on.
        line: usize,
        /// The key, the value, and what is allowed.
        why: String,
    },
}

impl Profile {
    /// The built-in profile of that name.
    ///
    /// # Errors
    /// [`ProfileError::UnknownName`], which lists the names.
    pub fn built_in(name: &str) -> Result<Self, ProfileError> {
        let Some((name, text)) = PROFILES.iter().find(|(known, _)| *known == name) else {
            return Err(ProfileError::UnknownName {
                name: name.to_owned(),
            });
        };
        Ok(Self::parse(name, text).expect("a test parses every built-in profile"))
    }

    /// Whether a name means a file and not a built-in profile.
    pub fn is_path(name: &str) -> bool {
        name.contains('/') || name.ends_with(".toml")
    }

    /// Reads the text of a profile; `name` is for messages.
    ///
    /// # Errors
    /// The first thing that is wrong, with file and line.
    pub fn parse(name: &str, text: &str) -> Result<Self, ProfileError> {
        let reader = Reader { file: name, text };
        let table = DeTable::parse(text).map_err(|error| ProfileError::NotToml {
            file: name.to_owned(),
            line: reader.line(error.span().map_or(0, |span| span.start)),
            why: error.message().to_owned(),
        })?;
        let mut profile = Self {
            name: name.to_owned(),
            summary: String::new(),
            values: Vec::new(),
        };
        for (key, value) in table.get_ref() {
            reader.read_top(key, value, &mut profile)?;
        }
        profile.values.sort_by_key(|value| value.line);
        Ok(profile)
    }

    /// Puts the settings into a [`Tuning`]; the cores are the caller's to read.
    pub fn apply(&self, tuning: &mut Tuning) {
        for value in &self.values {
            if let ProfileKey::Setting(setting, number) = &value.key {
                (setting.set)(tuning, *number);
            }
        }
    }
}

impl ProfileValue {
    /// The server's flag for this, without dashes.
    pub fn flag(&self) -> String {
        match &self.key {
            ProfileKey::Cores(_) => CORES.to_owned(),
            ProfileKey::Setting(setting, _) => setting.flag(),
        }
    }

    /// The value in the spelling of the command line.
    pub fn text(&self) -> String {
        match &self.key {
            ProfileKey::Cores(cores) => cores.clone(),
            ProfileKey::Setting(_, number) => number.to_string(),
        }
    }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;

impl Reader<'_> {
    fn read_top(
        &self,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
        profile: &mut Profile,
    ) -> Result<(), ProfileError> {
        let line = self.line(key.span().start);
        match key.get_ref().as_ref() {
            SUMMARY => {
                profile.summary = self.line_of_text(line, value)?;
            }
            CORES => {
                let cores = self.cores(line, value)?;
                let key = ProfileKey::Cores(cores);
                profile.values.push(ProfileValue { key, line });
            }
            section if section_rows(section).is_some() => {
                let table = value.get_ref().as_table().ok_or_else(|| {
                    self.bad(
                        line,
                        format!("{section} is a section, write [{section}] and its keys below"),
                    )
                })?;
                for (key, value) in table {
                    profile.values.push(self.read_setting(section, key, value)?);
                }
            }
            unknown => return Err(self.unknown(line, unknown, top_level_keys())),
        }
        Ok(())
    }

    fn read_setting(
        &self,
        section: &str,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<ProfileValue, ProfileError> {
        let line = self.line(key.span().start);
        let Some(setting) = setting(section, key.get_ref()) else {
            let rows = section_rows(section).expect("the caller found the section");
            let keys: Vec<&str> = rows.iter().map(|row| row.key).collect();
            let name = format!("{section}.{}", key.get_ref());
            return Err(self.unknown(line, &name, keys.join(", ")));
        };
        let name = setting.name();
        let (min, max) = (setting.min, setting.max);
        let whole = || {
            self.bad(
                line,
                format!("{name} must be a whole number between {min} and {max}"),
            )
        };
        let integer = value.get_ref().as_integer().ok_or_else(whole)?;
        let number =
            i128::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| whole())?;
        let value = u64::try_from(number).map_err(|_| whole())?;
        if value < min || value > max {
            let error = TuningError::OutOfLimits {
                name,
                value,
                min,
                max,
            };
            return Err(self.bad(line, error.to_string()));
        }
        let key = ProfileKey::Setting(setting, value);
        Ok(ProfileValue { key, line })
    }

    fn cores(&self, line: usize, value: &Spanned<DeValue<'_>>) -> Result<String, ProfileError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => Ok(number.to_string()),
            _ => Err(self.bad(
                line,
                "cores must be \"auto\", \"all\", a count such as 2, or a list such as \"0,2-3\""
                    .to_owned(),
            )),
        }
    }

    fn line_of_text(
        &self,
        line: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<String, ProfileError> {
        match value.get_ref() {
            DeValue::String(text) if !text.contains('\n') => Ok(text.to_string()),
            _ => Err(self.bad(line, "summary must be one line of text".to_owned())),
        }
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset.min(self.text.len())]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
    }

    fn bad(&self, line: usize, why: String) -> ProfileError {
        ProfileError::BadValue {
            file: self.file.to_owned(),
            line,
            why,
        }
    }

    fn unknown(&self, line: usize, key: &str, allowed: String) -> ProfileError {
        ProfileError::UnknownKey {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
            allowed,
        }
    }
}

fn section_rows(section: &str) -> Option<&'static [Setting]> {
    SETTINGS
        .iter()
        .copied()
        .find(|rows| rows.first().is_some_and(|row| row.section == section))
}

fn top_level_keys() -> String {
    let sections: Vec<String> = SETTINGS
        .iter()
        .filter_map(|rows| Some(format!("[{}]", rows.first()?.section)))
        .collect();
    format!("{SUMMARY}, {CORES}, {}", sections.join(", "))
}

fn names() -> String {
    let names: Vec<&str> = PROFILES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "profile_tests.rs"]
mod tests;
