//! `keelson snapshot import`: the data directory of a new cluster's only member, made of what an etcd held.
//!
//! ```text
//!   SOURCE -> hash compared -> sorted by key -> DIR.restoring/member/snap-0000/00000001.snap -> rename to DIR
//! ```
//!
//! SOURCE is only read, and locked meanwhile: an etcd that runs on it is refused, and none can start. What is taken
//! over, and what not, stands at [`keelson_storage::migrate`]. As after a restore, the log is left to the member's first
//! start, and a crash leaves what it leaves there.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use keelson_storage::dir::DataDir;
use keelson_storage::etcd::{EtcdDb, EtcdDbOptions};
use keelson_storage::limits::SNAPSHOT_BLOCK_BYTES;
use keelson_storage::migrate::{self, ImportOptions, ImportSummary};
use keelson_storage::snapshot::FileKind;
use keelson_storage::state::Cluster;

use super::Import;
use super::draft::{Draft, check_vacant};
use super::interrupt::watch_for_interrupts;
use super::migration_bar::MigrationBar;
use super::progress::bytes_bar;

/// Makes the directory; the text to print.
pub(super) fn import(asked: &Import) -> anyhow::Result<String> {
    check_vacant(&asked.data_dir)?;
    check_not_ours(&asked.source)?;
    let db = open(asked)?;
    let options = ImportOptions {
        cluster: asked.founding.cluster(),
        without_auth: asked.without_auth,
        ..ImportOptions::default()
    };
    let mut bar = MigrationBar::new(watch_for_interrupts()?);
    let draft = Draft::create(&asked.data_dir)?;
    let snapshots = draft.snapshots();
    let imported = migrate::import(&db, snapshots, &options, &mut |now| bar.show(now));
    bar.finish();
    let summary = imported?;
    draft.complete(&asked.data_dir)?;
    Ok(text(asked, &options.cluster, &summary))
}

fn open(asked: &Import) -> anyhow::Result<EtcdDb> {
    let options = EtcdDbOptions {
        skip_hash_check: asked.skip_hash_check,
        wal_dir: asked.wal_dir.clone(),
    };
    let bar = bytes_bar("verifying", 0);
    let opened = EtcdDb::open(&asked.source, &options, &mut |hashed| {
        bar.set_length(hashed.total_bytes);
        bar.set_position(hashed.done_bytes);
    });
    bar.finish_and_clear();
    Ok(opened?)
}

/// What is ours already needs no import, and there is a better word for it than that it is not etcd's.
fn check_not_ours(source: &Path) -> anyhow::Result<()> {
    let shown = source.display();
    if source.is_dir() {
        if DataDir::is_created(source).unwrap_or(false) {
            bail!(
                "{shown} is a data directory of Keelson: start a member on it with --data-dir={shown}"
            );
        }
        return Ok(());
    }
    let mut first = Vec::new();
    let file = File::open(source).with_context(|| format!("cannot open {shown}"))?;
    file.take(SNAPSHOT_BLOCK_BYTES as u64)
        .read_to_end(&mut first)
        .with_context(|| format!("cannot read {shown}"))?;
    if FileKind::of(&first) == FileKind::Snapshot {
        bail!(
            "{shown} is a backup of Keelson: make a data directory of it with `keelson snapshot restore`"
        );
    }
    Ok(())
}

fn text(asked: &Import, cluster: &Cluster, summary: &ImportSummary) -> String {
    let mut text = format!(
        "Imported {} to {}: {} keys in {} versions at revision {}",
        asked.source.display(),
        asked.data_dir.display(),
        summary.live_keys,
        summary.versions,
        summary.revision
    );
    if summary.compact_revision.0 >= 0 {
        let _infallible = write!(text, ", compacted at {}", summary.compact_revision);
    }
    for (count, what) in [
        (summary.leases, "leases"),
        (summary.alarms, "alarms"),
        (summary.users, "users"),
        (summary.roles, "roles"),
    ] {
        if count > 0 {
            let _infallible = write!(text, ", {count} {what}");
        }
    }
    text.push('\n');
    for member in cluster.members.values() {
        let _infallible = writeln!(
            text,
            "Cluster {:x}, member {:x} ({})",
            cluster.cluster_id.0, member.id, member.name
        );
    }
    if summary.auth_disabled {
        text.push_str(
            "Authentication was enabled, and is off: everybody who can connect may do everything\n",
        );
    }
    if summary.bumps > 0 {
        text.push_str(
            "The revision was raised by a restore of etcd's, which left an entry that is no key and is not taken over; if \
             no compaction removed it there, HashKV of that etcd is another than here\n",
        );
    }
    text
}
