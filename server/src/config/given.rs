//! One value as the operator wrote it.

use super::flags::Flag;

/// Where a value stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// On the command line.
    Flag,
    /// In the environment.
    Environment,
    /// In the config file at this path.
    File(String),
    /// In the profile of this name, or at this path.
    Profile(String),
}

/// A value for a flag, not yet understood.
#[derive(Clone, Debug)]
pub struct Given {
    /// The flag.
    pub flag: &'static Flag,
    /// The value in the spelling of the command line.
    pub value: String,
    /// Where it stood.
    pub source: Source,
}

impl Given {
    /// The setting as the operator wrote it, for messages.
    pub fn setting(&self) -> String {
        match &self.source {
            Source::Flag => format!("--{}", self.flag.name),
            Source::Environment => self.flag.variable(),
            Source::File(path) => format!("{} in {path}", self.flag.name),
            Source::Profile(name) => format!("{} in profile {name}", self.flag.name),
        }
    }

    /// The place it stood in, for a list of settings: `flag --name`, `environment ETCD_NAME`,
    /// `config file k.yml`, `profile nvme`.
    pub fn origin(&self) -> String {
        match &self.source {
            Source::Flag => format!("flag {}", self.setting()),
            Source::Environment => format!("environment {}", self.setting()),
            Source::File(path) => format!("config file {path}"),
            Source::Profile(name) => format!("profile {name}"),
        }
    }

    /// Whether it stood on the command line.
    pub fn is_flag(&self) -> bool {
        self.source == Source::Flag
    }
}
