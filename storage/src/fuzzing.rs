//! Every decoder of bytes that we did not just write, as a fuzzer calls it.
//!
//! A target takes any bytes and returns, whatever they are. It panics if a decoder does, and if what was decoded breaks a
//! promise. The package `storage/fuzz` hands the targets to libFuzzer; the tests here run the seeds, and some thousand
//! inputs near them, always.
//!
//! ```text
//!   superblock  the first block of a snapshot file      wal       segments, groups and records of a lane
//!   page        pages of every kind, behind checksums   entry     the commands in a record
//!   import      etcd's database, all the way into       etcd_wal  etcd's log
//!               a snapshot file
//! ```

use std::path::Path;

use crate::{etcd, migrate, snapshot, wal};

/// A decoder, and inputs to begin with.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What the target in `storage/fuzz` is called.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs that lead far.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "superblock",
        run: snapshot::fuzzing::superblock,
        seeds: snapshot::fuzzing::superblock_seeds,
    },
    Target {
        name: "page",
        run: snapshot::fuzzing::page,
        seeds: snapshot::fuzzing::page_seeds,
    },
    Target {
        name: "wal",
        run: wal::fuzzing::lane,
        seeds: wal::fuzzing::lane_seeds,
    },
    Target {
        name: "entry",
        run: wal::fuzzing::entry,
        seeds: wal::fuzzing::entry_seeds,
    },
    Target {
        name: "import",
        run: |input| with_directory(|directory| migrate::fuzzing::database(input, directory)),
        seeds: migrate::fuzzing::database_seeds,
    },
    Target {
        name: "etcd_wal",
        run: |input| with_directory(|directory| etcd::fuzzing::wal(input, directory)),
        seeds: etcd::fuzzing::wal_seeds,
    },
];

/// Runs the target of that name.
///
/// # Panics
/// If a decoder has a fault, or if there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let mut targets = TARGETS.iter();
    let target = targets.find(|target| target.name == name);
    (target.expect("the name is one of the list's").run)(input);
}

/// An empty directory, in memory if there is such a filesystem.
fn with_directory(run: impl FnOnce(&Path)) {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    run(made.expect("a directory can be made").path());
}

#[cfg(test)]
#[path = "fuzzing_tests.rs"]
mod tests;
