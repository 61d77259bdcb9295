//! `keelson snapshot export`: a snapshot that stock etcdutl restores, made of a backup or of a stopped member's data.
//!
//! ```text
//!   backup -> every checksum, hash -----\
//!   data directory -> snapshot + log ----> State -> sorted by revision -> FILE.part -> hash -> FILE
//! ```
//!
//! A data directory is locked meanwhile, only read, and its log is replayed in memory. What is written stands at
//! [`keelson_storage::migrate`].

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use keelson_storage::dir::StoppedDir;
use keelson_storage::migrate::{self, ExportOptions, ExportSummary};
use keelson_storage::state::State;

use super::file::{BackupFile, hex};
use super::interrupt::watch_for_interrupts;
use super::migration_bar::MigrationBar;
use super::progress::bytes_bar;
use super::{Export, ExportSource};
use crate::engine::offline;
use crate::inspect::chosen_shard;

/// Writes the file; the text to print.
pub(super) fn export(asked: &Export) -> anyhow::Result<String> {
    if asked.file.is_dir() {
        bail!("{} is a directory: name a file", asked.file.display());
    }
    match &asked.source {
        ExportSource::Backup(path) => {
            let state = state_of_backup(path, asked.skip_hash_check)?;
            write(asked, &state, path)
        }
        ExportSource::DataDir { path, shard } => {
            // Held for its lock.
            let dir = StoppedDir::open(path)?;
            let shard = chosen_shard(&dir, shard.as_deref())?;
            let state = offline::state_of(&dir, &shard)?;
            let text = write(asked, &state, path);
            drop(dir);
            text
        }
    }
}

fn state_of_backup(path: &Path, skip_hash_check: bool) -> anyhow::Result<State> {
    let backup = BackupFile::open(path)?;
    if !skip_hash_check {
        if backup.hash.is_none() {
            bail!(
                "{}: snapshot missing hash but --skip-hash-check=false: its end was cut off, or it was copied from a data \
                 directory. Its pages are verified in any case",
                path.display()
            );
        }
        let bar = bytes_bar("verifying", backup.content_bytes());
        let content = backup.read(&bar, |_| Ok(()))?;
        bar.finish_and_clear();
        backup.check_hash(&content)?;
    }
    Ok(State::from_snapshot(Arc::new(backup.snapshot)))
}

fn write(asked: &Export, state: &State, source: &Path) -> anyhow::Result<String> {
    let source = source.display().to_string();
    let mut bar = MigrationBar::new(watch_for_interrupts()?);
    let options = ExportOptions::default();
    let exported = migrate::export(state, &source, &asked.file, &options, &mut |now| {
        bar.show(now)
    });
    bar.finish();
    Ok(text(asked, &source, &exported?))
}

fn text(asked: &Export, source: &str, summary: &ExportSummary) -> String {
    let compacted = match summary.compact_revision.0 {
        ..0 => String::new(),
        revision => format!(", compacted at {revision}"),
    };
    let others = [
        (summary.leases, "leases"),
        (summary.alarms, "alarms"),
        (summary.users, "users"),
        (summary.roles, "roles"),
    ];
    let others: String = others
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!(", {count} {what}"))
        .collect();
    format!(
        "Exported {source} to {}: {} versions at revision {}{compacted}{others}\nsha256 {}\n",
        asked.file.display(),
        summary.versions,
        summary.revision,
        hex(&summary.sha256)
    )
}
