//! `keelson snapshot ...` and `keelson inspect ...`: their words and flags, which are those of etcdctl and etcdutl.
//!
//! These commands have nothing to do with the settings of a member, so they have flags of their own, and no environment
//! and no config file speaks to them.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use keelson_storage::dir::{MAIN_SHARD, is_shard_name};

use super::migrate::{ExportArguments, FoundingArguments, ImportArguments};
use super::parse::{CliError, Invocation};
use crate::backup::{Restore, Save, SnapshotCommand, Status, StatusOutput};
use crate::config::{HttpUrl, parse_duration};
use crate::inspect::{DumpOutput, Inspect, Task};

/// Reads what follows `snapshot`.
pub(super) fn parse_snapshot(arguments: &[String]) -> Result<Invocation, CliError> {
    match read::<SnapshotArguments>(arguments)? {
        Err(help) => Ok(Invocation::Print(help)),
        Ok(arguments) => Ok(Invocation::Snapshot(Box::new(match arguments.command {
            SnapshotWord::Save(save) => SnapshotCommand::Save(save.check()?),
            SnapshotWord::Status(status) => SnapshotCommand::Status(Status {
                file: status.file,
                output: match status.write_out {
                    StatusWriteOut::Simple => StatusOutput::Simple,
                    StatusWriteOut::Json => StatusOutput::Json,
                    StatusWriteOut::Table => StatusOutput::Table,
                },
            }),
            SnapshotWord::Restore(restore) => SnapshotCommand::Restore(restore.check()?),
            SnapshotWord::Import(import) => SnapshotCommand::Import(import.check()?),
            SnapshotWord::Export(export) => SnapshotCommand::Export(export.check()?),
        }))),
    }
}

/// Reads what follows `inspect`.
pub(super) fn parse_inspect(arguments: &[String]) -> Result<Invocation, CliError> {
    match read::<InspectArguments>(arguments)? {
        Err(help) => Ok(Invocation::Print(help)),
        Ok(arguments) => {
            let (place, shard, task) = match arguments.command {
                InspectWord::Verify(place) => (place, None, Task::Verify),
                InspectWord::DumpWal(place) => (place, None, Task::DumpWal),
                InspectWord::DumpSnapshot(dump) => {
                    let values = dump.values;
                    (dump.place, dump.shard, Task::DumpSnapshot { values })
                }
                InspectWord::Hash(hash) => {
                    let revision = hash.rev;
                    (hash.place, hash.shard, Task::Hash { revision })
                }
            };
            Ok(Invocation::Inspect(Box::new(Inspect {
                data_dir: place.data_dir,
                shard,
                output: match place.write_out {
                    DumpWriteOut::Simple => DumpOutput::Simple,
                    DumpWriteOut::Json => DumpOutput::Json,
                },
                task,
            })))
        }
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "keelson snapshot",
    no_binary_name = true,
    disable_help_subcommand = true,
    about = "Backups: take one, look at one, start a new cluster with one."
)]
struct SnapshotArguments {
    #[command(subcommand)]
    command: SnapshotWord,
}

#[derive(Debug, Subcommand)]
enum SnapshotWord {
    /// Take a backup of a running member.
    Save(SaveArguments),
    /// Verify a backup and show its hash, revision, number of keys and size.
    Status(StatusArguments),
    /// Make the data directory of a new cluster's member from a backup.
    Restore(RestoreArguments),
    /// Make the data directory of a new cluster's member from what an etcd held.
    Import(ImportArguments),
    /// Make a snapshot of etcd's, for `etcdutl snapshot restore`.
    Export(ExportArguments),
}

#[derive(Debug, Args)]
struct SaveArguments {
    /// Where the backup goes. FILE.part is written first.
    file: PathBuf,
    /// The member, as host:port or http://host:port.
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoints: String,
    /// How long to wait for a connection.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    dial_timeout: Duration,
    #[arg(long, hide = true)]
    cacert: Option<String>,
    #[arg(long, hide = true)]
    cert: Option<String>,
    #[arg(long, hide = true)]
    key: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    insecure_skip_tls_verify: Option<String>,
    #[arg(long, hide = true)]
    user: Option<String>,
    #[arg(long, hide = true)]
    password: Option<String>,
}

impl SaveArguments {
    fn check(self) -> Result<Save, CliError> {
        for (flag, value, advice) in [
            ("--cacert", &self.cacert, TLS),
            ("--cert", &self.cert, TLS),
            ("--key", &self.key, TLS),
            (
                "--insecure-skip-tls-verify",
                &self.insecure_skip_tls_verify,
                TLS,
            ),
            ("--user", &self.user, AUTH),
            ("--password", &self.password, AUTH),
        ] {
            if let Some(value) = value {
                return Err(CliError::NotSupported {
                    setting: flag.to_owned(),
                    value: if advice == AUTH { "..." } else { value }.to_owned(),
                    advice: advice.to_owned(),
                });
            }
        }
        if self.endpoints.contains(',') {
            return Err(bad_value(
                "--endpoints",
                &self.endpoints,
                "a backup is one member's: name one of them",
            ));
        }
        let url = match self.endpoints.contains("://") {
            true => self.endpoints.clone(),
            false => format!("http://{}", self.endpoints),
        };
        let endpoint =
            HttpUrl::parse(&url).map_err(|why| bad_value("--endpoints", &self.endpoints, &why))?;
        Ok(Save {
            file: self.file,
            endpoint,
            dial_timeout: self.dial_timeout,
        })
    }
}

const TLS: &str = "TLS is not available yet; use a member's http URL, on a network you trust";
const AUTH: &str = "users are not available yet, and everybody may take a backup; leave it away";

#[derive(Debug, Args)]
struct StatusArguments {
    /// The backup.
    file: PathBuf,
    /// How to write it.
    #[arg(long, short = 'w', default_value = "simple")]
    write_out: StatusWriteOut,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StatusWriteOut {
    Simple,
    Json,
    Table,
}

#[derive(Debug, Args)]
struct RestoreArguments {
    /// The backup.
    file: PathBuf,
    /// The data directory to make. It must not exist, or be empty.
    #[arg(long)]
    data_dir: PathBuf,
    #[command(flatten)]
    founding: FoundingArguments,
    /// The backup of a further shard, as NAME=FILE, once for each; FILE above is the one of main.
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_shard)]
    shard: Vec<(String, PathBuf)>,
    /// How far to move the revision on, so that clients never see one go back. Needs --mark-compacted.
    #[arg(long, default_value_t = 0)]
    bump_revision: u64,
    /// Compact everything up to the new revision, so that every watch notices. Needs --bump-revision.
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    mark_compacted: bool,
    /// Take a file without the hash at its end, or with a wrong one; its pages are verified all the same.
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    skip_hash_check: bool,
    #[arg(long, hide = true)]
    wal_dir: Option<String>,
    #[arg(long, hide = true)]
    initial_memory_map_size: Option<u64>,
}

impl RestoreArguments {
    fn check(self) -> Result<Restore, CliError> {
        if let Some(value) = self.wal_dir {
            return Err(CliError::NotSupported {
                setting: "--wal-dir".to_owned(),
                value,
                advice: "the log lies in the data directory; leave it away".to_owned(),
            });
        }
        if (self.bump_revision > 0) != self.mark_compacted {
            return Err(CliError::Incomplete(
                "--mark-compacted is required if --bump-revision is above 0, and not allowed otherwise"
                    .to_owned(),
            ));
        }
        Ok(Restore {
            file: self.file,
            data_dir: self.data_dir,
            founding: self.founding.check()?,
            shards: self.shard,
            revision_bump: self.bump_revision,
            skip_hash_check: self.skip_hash_check,
        })
    }
}

fn parse_shard(text: &str) -> Result<(String, PathBuf), String> {
    let pair = text.split_once('=');
    let pair = pair.filter(|(name, _)| is_shard_name(name) && *name != MAIN_SHARD);
    pair.map(|(name, file)| (name.to_owned(), file.into()))
        .ok_or_else(|| "expected the name of a shard other than main, =, and a file".to_owned())
}

#[derive(Debug, Parser)]
#[command(
    name = "keelson inspect",
    no_binary_name = true,
    disable_help_subcommand = true,
    about = "Looks into the data directory of a stopped member, and changes nothing there."
)]
struct InspectArguments {
    #[command(subcommand)]
    command: InspectWord,
}

#[derive(Debug, Subcommand)]
enum InspectWord {
    /// Compare every byte of logs and snapshots, of all shards, with its checksum. Exits with 1 if anything is damaged.
    Verify(Place),
    /// Print the records of all logs, each with the id of its shard.
    DumpWal(Place),
    /// Print the snapshot: what it is, its leases, and all versions of its keys.
    DumpSnapshot(DumpSnapshotArguments),
    /// Print what HashKV of the running member answers.
    Hash(HashArguments),
}

#[derive(Debug, Args)]
struct Place {
    /// The data directory.
    #[arg(long)]
    data_dir: PathBuf,
    /// For people, or JSON for programs.
    #[arg(long, short = 'w', default_value = "simple")]
    write_out: DumpWriteOut,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DumpWriteOut {
    Simple,
    Json,
}

#[derive(Debug, Args)]
struct DumpSnapshotArguments {
    #[command(flatten)]
    place: Place,
    /// Which shard; main by default.
    #[arg(long, value_name = "NAME")]
    shard: Option<String>,
    /// Print values too.
    #[arg(long)]
    values: bool,
}

#[derive(Debug, Args)]
struct HashArguments {
    #[command(flatten)]
    place: Place,
    /// Which shard; main by default.
    #[arg(long, value_name = "NAME")]
    shard: Option<String>,
    /// Revision to hash at; 0 is the newest.
    #[arg(long, default_value_t = 0)]
    rev: i64,
}

/// What was given, or the help text that was asked for.
fn read<P: Parser>(arguments: &[String]) -> Result<Result<P, String>, CliError> {
    match P::try_parse_from(arguments) {
        Ok(parsed) => Ok(Ok(parsed)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp => Ok(Err(error.to_string())),
            // Asked for nothing: the list of what there is, as a mistake.
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Err(CliError::Incomplete(
                error.to_string().trim_end().to_owned(),
            )),
            _ => {
                let text = error.to_string();
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                Err(CliError::Incomplete(text.trim_end().to_owned()))
            }
        },
    }
}

pub(super) fn bad_value(setting: &str, value: &str, why: &str) -> CliError {
    CliError::BadValue {
        setting: setting.to_owned(),
        value: value.to_owned(),
        why: why.to_owned(),
        on_command_line: true,
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
pub(super) mod tests;
