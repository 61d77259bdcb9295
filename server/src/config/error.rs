//! Why a configuration cannot be used.

use keelson_tuning::{ProfileError, TuningError};

use super::given::Given;

/// What to tell the operator; one sentence each, with the setting's name as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A flag that neither etcd nor Keelson has.
    #[error("unknown flag --{flag}{}; --help lists all flags", nearest_words(.nearest, "--"))]
    UnknownFlag {
        /// As written, without dashes.
        flag: String,
        /// The known flag that it most resembles.
        nearest: Option<String>,
    },
    /// A flag without the value that it needs.
    #[error("--{flag} needs a value")]
    MissingValue {
        /// The flag, without dashes.
        flag: String,
    },
    /// A word on the command line that is neither a flag nor a value.
    #[error("unexpected word {word:?} on the command line; --help shows the usage")]
    UnexpectedWord {
        /// The word.
        word: String,
    },
    /// A word that needs another one behind it; the text says which there are.
    #[error("{0}")]
    Incomplete(String),
    /// A key of the config file that neither etcd nor Keelson has.
    #[error("unknown key {key:?} in {path}{}", nearest_words(.nearest, ""))]
    UnknownKey {
        /// As written.
        key: String,
        /// The file.
        path: String,
        /// The known key that it most resembles.
        nearest: Option<String>,
    },
    /// The config file cannot be read as one.
    #[error("cannot use config file {path}: {why}")]
    BadFile {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A value that its setting does not take.
    #[error("invalid value {value:?} for {setting}: {why}")]
    BadValue {
        /// The setting as the operator wrote it: `--name`, `ETCD_NAME`, or a key with its file.
        setting: String,
        /// The value.
        value: String,
        /// What is wrong and what is allowed.
        why: String,
        /// Whether it stood on the command line.
        on_command_line: bool,
    },
    /// A flag of etcd's that Keelson does not support.
    #[error("{setting}={value} is not supported yet: {advice}")]
    NotSupported {
        /// The setting as the operator wrote it.
        setting: String,
        /// The value.
        value: String,
        /// What to do instead.
        advice: String,
    },
    /// Settings that are fine each but do not fit each other or this machine.
    #[error("{0}")]
    Unfit(String),
    /// A profile that there is not, or whose file is wrong.
    #[error("{0}")]
    Profile(#[from] ProfileError),
    /// A tuning value outside its limits.
    #[error("{0}")]
    Tuning(#[from] TuningError),
}

impl ConfigError {
    /// A value that its setting does not take.
    pub(super) fn bad_value(given: &Given, why: impl Into<String>) -> Self {
        Self::BadValue {
            setting: given.setting(),
            value: given.value.clone(),
            why: why.into(),
            on_command_line: given.is_flag(),
        }
    }

    /// The process's exit code: 2 for a command line that cannot be read, as Go's flag package
    /// and etcd have it, 1 for everything else.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::UnknownFlag { .. }
            | Self::MissingValue { .. }
            | Self::UnexpectedWord { .. }
            | Self::Incomplete(_) => 2,
            Self::BadValue {
                on_command_line, ..
            } => 1 + i32::from(*on_command_line),
            Self::UnknownKey { .. }
            | Self::BadFile { .. }
            | Self::NotSupported { .. }
            | Self::Unfit(_)
            | Self::Profile(_)
            | Self::Tuning(_) => 1,
        }
    }
}

fn nearest_words(nearest: &Option<String>, dashes: &str) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |name| format!(", did you mean {dashes}{name}"))
}
