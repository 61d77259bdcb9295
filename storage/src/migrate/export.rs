//! From a member's state to a snapshot that stock etcdutl restores.

use std::path::Path;

use super::auth::decode_auth;
use super::error::MigrateError;
use super::retention::first_kept;
use super::row::Row;
use super::sort::{Sorted, Sorter};
use super::{MigrateProgress, MigrateStep, Progress, report};
use crate::etcd::{
    EtcdCluster, EtcdContents, EtcdDbWriter, EtcdLease, EtcdMember, EtcdMeta, EtcdRevision,
    KeyValueRef,
};
use crate::ids::{LeaseTime, MemberId, Revision};
use crate::limits::{MIGRATE_REPORT_EVERY, MIGRATE_SORT_BYTES_DEFAULT};
use crate::mvcc::Found;
use crate::snapshot::ValueReader;
use crate::state::{Member, State};

/// How a state is exported.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// Memory for sorting.
    pub sort_bytes: usize,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            sort_bytes: MIGRATE_SORT_BYTES_DEFAULT,
        }
    }
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportSummary {
    /// Versions of all keys.
    pub versions: u64,
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
    /// Length of the file.
    pub file_bytes: u64,
    /// The hash at its end.
    pub sha256: [u8; 32],
}

/// Writes a state as a snapshot of etcd's to `path`, replacing what is there, and blocks. `source` is what
/// the state came from, for messages.
///
/// # Errors
/// [`MigrateError`]. Whatever was at `path` is still there then.
pub fn export(
    state: &State,
    source: &str,
    path: &Path,
    options: &ExportOptions,
    progress: &mut Progress<'_>,
) -> Result<ExportSummary, MigrateError> {
    let contents = contents(state, source)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Made first: where nothing can be written, nothing need be read.
    let mut writer = EtcdDbWriter::create(path)?;
    let sorter = Sorter::new(directory, options.sort_bytes);
    let sorted = read(state, sorter, &contents.meta, progress)?;
    write(sorted, &mut writer, progress)?;
    // So near the end it is not stopped any more.
    let written = writer.finish(&contents, &mut |hashed| {
        let _goes_on = progress(MigrateProgress {
            step: MigrateStep::Hash,
            done_bytes: hashed.done_bytes,
            total_bytes: hashed.total_bytes,
        });
    })?;
    Ok(ExportSummary {
        versions: written.entry_count,
        revision: state.revision(),
        compact_revision: state.compact_revision(),
        leases: contents.leases.len() as u64,
        alarms: contents.alarms.len() as u64,
        users: contents.auth.users.len() as u64,
        roles: contents.auth.roles.len() as u64,
        file_bytes: written.file_bytes,
        sha256: written.sha256,
    })
}

/// Everything but the keys, in etcd's terms. A restore makes members, cluster and raft's part of it anew.
fn contents(state: &State, source: &str) -> Result<EtcdContents, MigrateError> {
    let auth = decode_auth(state.auth()).ok_or_else(|| MigrateError::Auth {
        file: source.to_owned(),
    })?;
    let applied = state.applied();
    let compacted = Some(state.compact_revision()).filter(|revision| revision.0 >= 0);
    let lease_ids = state.lease_ids();
    let leases = lease_ids.filter_map(|id| {
        let lease = state.lease(id)?;
        Some(EtcdLease {
            id,
            ttl_seconds: lease.granted_ttl_seconds,
            remaining_ttl_seconds: left_seconds(
                lease.deadline,
                applied.lease_time,
                lease.granted_ttl_seconds,
            ),
        })
    });
    Ok(EtcdContents {
        meta: EtcdMeta {
            consistent_index: Some(applied.index),
            term: Some(applied.term),
            scheduled_compact: compacted,
            finished_compact: compacted,
            conf_state: None,
            storage_version: None,
        },
        leases: leases.collect(),
        alarms: state.alarms(),
        auth,
        members: state.cluster().members.values().map(member).collect(),
        members_removed: state.cluster().removed.iter().copied().collect(),
        cluster: EtcdCluster::default(),
    })
}

/// What is left of a lease in whole seconds, begun ones counted; 0 says all of it, as etcd writes it. A
/// lease that is due has a second more.
fn left_seconds(deadline: LeaseTime, now: LeaseTime, granted_ttl_seconds: i64) -> i64 {
    let left = deadline.0.saturating_sub(now.0).div_ceil(1_000).max(1);
    match i64::try_from(left) {
        Ok(left) if left < granted_ttl_seconds => left,
        _ => 0,
    }
}

fn member(member: &Member) -> EtcdMember {
    EtcdMember {
        id: MemberId(member.id),
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

/// Reads key after key and gives what etcd would keep of each to the sorter.
fn read(
    state: &State,
    mut sorter: Sorter,
    meta: &EtcdMeta,
    progress: &mut Progress<'_>,
) -> Result<Sorted, MigrateError> {
    let store = state.store();
    let total_bytes = store.size_bytes();
    let (mut done_bytes, mut count) = (0, 0_u64);
    let mut values = ValueReader::default();
    let mut walk = store.walk(&[], None);
    let mut versions = Vec::new();
    while let Some((key, found)) = walk.next() {
        versions.clear();
        versions.extend(found.iter());
        let of = |version: &Found<'_>| (version.revision(), version.is_tombstone());
        let kept = first_kept(&versions, meta.compact_revision(), of);
        for version in &versions[kept..] {
            push(&mut sorter, key, *version, &mut values)?;
        }
        let footprints = versions.iter().map(|version| version.footprint_bytes());
        done_bytes += footprints.sum::<u64>();
        count += 1;
        if count.is_multiple_of(MIGRATE_REPORT_EVERY) {
            let now = MigrateProgress {
                step: MigrateStep::Read,
                done_bytes,
                total_bytes,
            };
            report(progress, now)?;
        }
    }
    Ok(sorter.finish()?)
}

fn push(
    sorter: &mut Sorter,
    key: &[u8],
    version: Found<'_>,
    values: &mut ValueReader,
) -> Result<(), MigrateError> {
    let record = version.record();
    let stored;
    let value = match (record.place(), record.snapshot()) {
        (Some(place), Some(snapshot)) => {
            stored = values.read(snapshot, place)?;
            &stored
        }
        _ => record.value(),
    };
    let row = Row {
        revision: record.revision,
        sub: record.sub,
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
        tombstone: record.tombstone,
        key,
        value,
    };
    let mut position = [0; 12];
    position[..8].copy_from_slice(&row.revision.0.to_be_bytes());
    position[8..].copy_from_slice(&row.sub.to_be_bytes());
    sorter.push(&position, &[&row.head(), row.key, row.value])?;
    Ok(())
}

/// Gives the file change after change.
fn write(
    mut sorted: Sorted,
    writer: &mut EtcdDbWriter,
    progress: &mut Progress<'_>,
) -> Result<(), MigrateError> {
    let total_bytes = sorted.payload_bytes;
    let (mut done_bytes, mut count) = (0, 0_u64);
    let mut payload = Vec::new();
    while sorted.peek().is_some() {
        payload.clear();
        sorted.take(&mut payload)?;
        let row = Row::decode(&payload);
        let at = EtcdRevision {
            main: row.revision,
            sub: i64::from(row.sub),
        };
        if row.tombstone {
            writer.delete(at, row.key)?;
        } else {
            let change = KeyValueRef {
                key: row.key,
                create_revision: row.create_revision,
                mod_revision: row.revision,
                version: row.version,
                value: row.value,
                lease: row.lease,
            };
            writer.put(at, &change)?;
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
