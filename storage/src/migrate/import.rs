//! From an etcd database to a snapshot file, with which a member starts a new cluster.

use std::path::Path;

use super::auth::encode_auth;
use super::error::MigrateError;
use super::retention::first_kept;
use super::row::Row;
use super::sort::{Sorted, Sorter};
use super::{MigrateProgress, MigrateStep, Progress, report};
use crate::etcd::{EtcdAuth, EtcdContents, EtcdDb, EtcdLease, EtcdRevision, KeyEntry};
use crate::ids::{LeaseTime, MemberId, RaftIndex, Revision, SnapshotSeq, Term};
use crate::limits::{MIGRATE_REPORT_EVERY, MIGRATE_SORT_BYTES_DEFAULT};
use crate::snapshot::{
    AlarmMeta, BuilderConfig, BulkFile, HardState, LeaseMeta, Meta, Snapshot, VersionIn,
};
use crate::state::{Cluster, Position};

/// The first file of a directory of snapshots.
const SEQUENCE: SnapshotSeq = SnapshotSeq(1);
/// The log begins anew behind an entry that stands for the data. Its index is not 0: a member that joins
/// with an empty log must be seen to lack something.
const FIRST_ENTRY: (RaftIndex, Term) = (RaftIndex(1), Term(1));
/// What our state says before the first compaction.
const NEVER_COMPACTED: Revision = Revision(-1);
const MILLISECONDS_PER_SECOND: u64 = 1_000;

/// How a database is imported.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The cluster that begins with the data.
    pub cluster: Cluster,
    /// Takes a database in which authentication is enabled, and turns it off.
    pub without_auth: bool,
    /// Memory for sorting.
    pub sort_bytes: usize,
    /// Sizes of the parts of the file.
    pub builder: BuilderConfig,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            cluster: Cluster::default(),
            without_auth: false,
            sort_bytes: MIGRATE_SORT_BYTES_DEFAULT,
            builder: BuilderConfig::default(),
        }
    }
}

/// What was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// Keys in the file, live or not.
    pub keys: u64,
    /// Keys that exist at the revision.
    pub live_keys: u64,
    /// Versions of all keys.
    pub versions: u64,
    /// Versions that a compaction of etcd's had not removed yet.
    pub versions_compacted: u64,
    /// Entries that only raise the revision, of `etcdutl snapshot restore --bump-revision`. They are not
    /// taken over, and HashKV of an etcd that has one above its compact revision is another than ours.
    pub bumps: u64,
    /// The revision.
    pub revision: Revision,
    /// The compact revision; -1 if there was no compaction.
    pub compact_revision: Revision,
    /// Leases.
    pub leases: u64,
    /// Active alarms.
    pub alarms: u64,
    /// Users.
    pub users: u64,
    /// Roles.
    pub roles: u64,
    /// Whether authentication was enabled, and is not any more.
    pub auth_disabled: bool,
    /// Length of the file.
    pub file_bytes: u64,
}

/// Writes everything an etcd held into the first snapshot file of `directory`, which is empty, and blocks.
///
/// # Errors
/// [`MigrateError`]. What there is of the file does not count then.
pub fn import(
    db: &EtcdDb,
    directory: &Path,
    options: &ImportOptions,
    progress: &mut Progress<'_>,
) -> Result<ImportSummary, MigrateError> {
    let contents = db.contents()?;
    if contents.auth.is_enabled && !options.without_auth {
        let file = db.name().to_owned();
        return Err(MigrateError::AuthEnabled { file });
    }
    let revision = db.revision()?;
    let mut summary = ImportSummary::default();
    let sorter = Sorter::new(directory, options.sort_bytes);
    let sorted = read(db, sorter, &mut summary, progress)?;
    let compacted = contents.meta.compact_revision();
    let meta = meta(&contents, revision, &options.cluster);
    let mut file = BulkFile::create(directory, SEQUENCE, options.builder, meta.horizon)?;
    write(sorted, &mut file, compacted, &mut summary, progress)?;
    let snapshot = file.finish(meta)?;
    let auth = &contents.auth;
    Ok(ImportSummary {
        users: auth.users.len() as u64,
        roles: auth.roles.len() as u64,
        auth_disabled: auth.is_enabled,
        ..summary.with_snapshot(&snapshot)
    })
}

impl ImportSummary {
    fn with_snapshot(self, snapshot: &Snapshot) -> Self {
        let meta = snapshot.meta();
        Self {
            keys: snapshot.key_count(),
            live_keys: snapshot.live_count(),
            versions: snapshot.version_count(),
            revision: meta.revision,
            compact_revision: meta.compact_revision,
            leases: meta.leases.len() as u64,
            alarms: meta.alarms.len() as u64,
            file_bytes: snapshot.file_bytes(),
            ..self
        }
    }
}

/// Everything but the keys, as the first state of a new cluster.
fn meta(contents: &EtcdContents, revision: Revision, cluster: &Cluster) -> Meta {
    let compacted = contents.meta.compact_revision().unwrap_or(NEVER_COMPACTED);
    let (index, term) = FIRST_ENTRY;
    let lease_time = LeaseTime(0);
    let leases = contents.leases.iter().filter(|lease| lease.id.0 != 0);
    let mut leases: Vec<_> = leases.map(|lease| lease_meta(lease, lease_time)).collect();
    leases.sort_by_key(|lease| lease.id);
    let alarms = contents.alarms.iter().map(|alarm| AlarmMeta {
        alarm: alarm.alarm,
        member: MemberId(alarm.member_id),
    });
    let mut alarms: Vec<_> = alarms.collect();
    alarms.sort_by_key(|alarm| (alarm.alarm, alarm.member));
    Meta {
        applied: Position {
            index,
            term,
            lease_time,
        },
        hard_state: HardState {
            term,
            vote: MemberId(0),
        },
        revision,
        compact_revision: compacted,
        horizon: compacted,
        changes_taken: 0,
        leases,
        alarms,
        cluster: cluster.clone(),
        auth: auth_meta(&contents.auth),
    }
}

/// A lease with what was left of it. etcd's leader, too, counts from the last checkpoint of what was left, or
/// else from the whole TTL, when it takes office.
fn lease_meta(lease: &EtcdLease, now: LeaseTime) -> LeaseMeta {
    let granted_ttl_seconds = lease.ttl_seconds.max(1);
    let left_seconds = match lease.remaining_ttl_seconds {
        left if left > 0 => left.min(granted_ttl_seconds),
        _ => granted_ttl_seconds,
    };
    let left_ms = left_seconds
        .unsigned_abs()
        .saturating_mul(MILLISECONDS_PER_SECOND);
    LeaseMeta {
        id: lease.id,
        granted_ttl_seconds,
        deadline: LeaseTime(now.0.saturating_add(left_ms)),
    }
}

/// Users and roles stay, for when they count again; that they count does not.
fn auth_meta(auth: &EtcdAuth) -> Vec<u8> {
    encode_auth(&EtcdAuth {
        is_enabled: false,
        ..auth.clone()
    })
}

/// Reads all changes, in the order of their revisions, and gives them to the sorter.
fn read(
    db: &EtcdDb,
    mut sorter: Sorter,
    summary: &mut ImportSummary,
    progress: &mut Progress<'_>,
) -> Result<Sorted, MigrateError> {
    let mut entries = db.entries()?;
    let (mut done_bytes, total_bytes) = (0, db.used_bytes());
    let mut count = 0_u64;
    while let Some(entry) = entries.next_entry()? {
        match row(&entry, db)? {
            Some(row) => {
                let head = Row { key: &[], ..row }.head();
                sorter.push(row.key, &[&head, row.value])?;
                done_bytes += (row.key.len() + row.value.len()) as u64;
            }
            None => summary.bumps += 1,
        }
        count += 1;
        if count.is_multiple_of(MIGRATE_REPORT_EVERY) {
            let now = MigrateProgress {
                step: MigrateStep::Read,
                done_bytes: done_bytes.min(total_bytes),
                total_bytes,
            };
            report(progress, now)?;
        }
    }
    Ok(sorter.finish()?)
}

/// A change as a row; `None` if it changes no key.
fn row<'e>(entry: &KeyEntry<'e>, db: &EtcdDb) -> Result<Option<Row<'e>>, MigrateError> {
    let Some(change) = entry.change else {
        return Ok(None);
    };
    let EtcdRevision { main, sub } = entry.revision;
    let sub = u32::try_from(sub).map_err(|_| MigrateError::Sub {
        file: db.name().to_owned(),
        at: entry.revision,
    })?;
    let row = Row {
        revision: main,
        sub,
        tombstone: entry.is_tombstone,
        key: change.key,
        ..Row::default()
    };
    Ok(Some(if entry.is_tombstone {
        row
    } else {
        Row {
            create_revision: change.create_revision,
            version: change.version,
            lease: change.lease,
            value: change.value,
            ..row
        }
    }))
}

/// Gives the file key after key.
fn write(
    mut sorted: Sorted,
    file: &mut BulkFile,
    compacted: Option<Revision>,
    summary: &mut ImportSummary,
    progress: &mut Progress<'_>,
) -> Result<(), MigrateError> {
    let total_bytes = sorted.payload_bytes;
    let (mut done_bytes, mut count) = (0, 0_u64);
    let (mut key, mut payload, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(next) = sorted.peek() {
        key.clear();
        key.extend_from_slice(next);
        payload.clear();
        ends.clear();
        while sorted.peek().is_some_and(|next| next == key) {
            sorted.take(&mut payload)?;
            ends.push(payload.len());
        }
        let starts = [0].into_iter().chain(ends.iter().copied());
        let rows = starts.zip(&ends);
        let rows: Vec<_> = rows
            .map(|(start, end)| Row::decode(&payload[start..*end]))
            .collect();
        let kept = first_kept(&rows, compacted, |row| (row.revision, row.tombstone));
        summary.versions_compacted += kept as u64;
        let versions: Vec<_> = rows[kept..].iter().map(version).collect();
        if !versions.is_empty() {
            file.push_key(&key, &versions)?;
        }
        done_bytes += payload.len() as u64;
        count += 1;
        if count.is_multiple_of(MIGRATE_REPORT_EVERY) {
            let now = MigrateProgress {
                step: MigrateStep::Write,
                done_bytes,
                total_bytes,
            };
            report(progress, now)?;
        }
    }
    Ok(())
}

fn version<'r>(row: &Row<'r>) -> VersionIn<'r> {
    VersionIn {
        revision: row.revision,
        sub: row.sub,
        create_revision: row.create_revision,
        version: row.version,
        lease: row.lease,
        tombstone: row.tombstone,
        value: row.value,
        stays: None,
        origin: None,
    }
}
