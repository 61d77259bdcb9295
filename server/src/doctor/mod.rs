//! `keelson doctor`: tries on this machine what a member would do at its start, without starting one.
//!
//! The rules are in [`keelson_tuning::doctor`], which knows machines; this room knows the member:
//! what its configuration needs, and how its rings, its disk and its sockets are tried. Nothing it
//! does stays: the block that it writes is removed, and the data directory is not created.

mod probe;
mod report;

use keelson_tuning::doctor::examine;
use keelson_tuning::machine::Root;

pub use report::Report;

use crate::config::Config;

/// Looks at this machine for a member with this configuration.
pub fn look(config: &Config) -> Report {
    let (needs, probes) = probe::probe(config);
    Report {
        findings: examine(&Root::system(), &needs, &probes),
    }
}
