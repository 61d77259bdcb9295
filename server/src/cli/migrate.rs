//! The flags of `keelson snapshot import` and `keelson snapshot export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::parse::CliError;
use super::snapshot::bad_value;
use crate::backup::{Export, ExportSource, Founding, Import};
use crate::config::{HttpUrl, check_alone, check_cluster, parse_cluster};

#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// A file of `etcdctl snapshot save`, a database file, or the data directory of a stopped etcd member.
    source: PathBuf,
    /// The data directory to make, whose shard main gets the data. It must not exist, or be empty.
    #[arg(long)]
    data_dir: PathBuf,
    #[command(flatten)]
    founding: FoundingArguments,
    /// Where the log of a data directory is, if etcd ran with --wal-dir.
    #[arg(long)]
    wal_dir: Option<PathBuf>,
    /// Take a file without the hash at its end, or with a wrong one, such as a copy of member/snap/db.
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    skip_hash_check: bool,
    /// Take data for which etcd checks users, though nobody checks them here. They are kept, and off.
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    without_auth: bool,
}

/// Who the member is with which a cluster begins.
#[derive(Debug, Args)]
pub(super) struct FoundingArguments {
    /// Name of the member.
    #[arg(long, default_value = "default")]
    name: String,
    /// The new cluster, as name=URL; by default this member alone.
    #[arg(long)]
    initial_cluster: Option<String>,
    /// Goes into the ids of cluster and member.
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// The member's peer URLs, which go into the ids too.
    #[arg(long, default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
}

#[derive(Debug, Args)]
#[group(id = "data", required = true, args = ["from", "data_dir"])]
pub(super) struct ExportArguments {
    /// Where the snapshot goes. FILE.part is written first.
    file: PathBuf,
    /// Whose format it gets.
    #[arg(long, default_value = "etcd")]
    format: Format,
    /// A backup, as `snapshot save` takes it.
    #[arg(long, value_name = "BACKUP")]
    from: Option<PathBuf>,
    /// The data directory of a stopped member.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Which shard of the data directory; main by default. A backup is of one shard.
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    shard: Option<String>,
    /// Take a backup without the hash at its end, or with a wrong one; its pages are verified all the same.
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    skip_hash_check: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Etcd,
}

impl ImportArguments {
    pub(super) fn check(self) -> Result<Import, CliError> {
        Ok(Import {
            source: self.source,
            data_dir: self.data_dir,
            founding: self.founding.check()?,
            wal_dir: self.wal_dir,
            skip_hash_check: self.skip_hash_check,
            without_auth: self.without_auth,
        })
    }
}

impl FoundingArguments {
    pub(super) fn check(self) -> Result<Founding, CliError> {
        let peer_urls = HttpUrl::parse_list(&self.initial_advertise_peer_urls)
            .and_then(|urls| match urls.is_empty() {
                true => Err("the member's id is made from them".to_owned()),
                false => Ok(urls),
            })
            .map_err(|why| {
                let value = &self.initial_advertise_peer_urls;
                bad_value("--initial-advertise-peer-urls", value, &why)
            })?;
        if let Some(cluster) = &self.initial_cluster {
            let members = parse_cluster(cluster)
                .map_err(|why| bad_value("--initial-cluster", cluster, &why))?;
            check_alone(&members)?;
            check_cluster(&members, &self.name, &peer_urls)?;
        }
        Ok(Founding {
            name: self.name,
            cluster_token: self.initial_cluster_token,
            peer_urls,
        })
    }
}

impl ExportArguments {
    /// What was asked for; clap has seen to it that there is one source.
    pub(super) fn check(self) -> Result<Export, CliError> {
        let Format::Etcd = self.format;
        let source = match (self.from, self.data_dir) {
            (Some(backup), None) => ExportSource::Backup(backup),
            (None, Some(path)) => {
                let shard = self.shard;
                ExportSource::DataDir { path, shard }
            }
            _ => {
                return Err(CliError::Incomplete(
                    "name one source: --from BACKUP, or --data-dir DIR".to_owned(),
                ));
            }
        };
        Ok(Export {
            file: self.file,
            source,
            skip_hash_check: self.skip_hash_check,
        })
    }
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;
