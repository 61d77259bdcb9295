//! `keelson inspect dump-snapshot`: the newest snapshot, from its facts to the last version of the last key.

use std::process::ExitCode;
use std::sync::Arc;

use keelson_storage::dir::{StoppedDir, StoppedShard};
use keelson_storage::snapshot::{KeyRef, Snapshot, ValueReader, VersionRef};

use super::line::{Line, Printer};
use super::log::{hex, lease};
use crate::engine::offline;

pub(super) fn dump(
    (dir, shard): (&StoppedDir, &StoppedShard),
    values: bool,
    out: &mut Printer,
) -> anyhow::Result<ExitCode> {
    let (Some(snapshot), _) = offline::load_newest(dir, shard)? else {
        out.print(&Line::new("no_snapshot"))?;
        return Ok(ExitCode::SUCCESS);
    };
    let snapshot = Arc::new(snapshot);
    out.print(&facts(&snapshot))?;
    for line in state(&snapshot) {
        out.print(&line)?;
    }
    let mut reader = values.then(ValueReader::default);
    let mut cursor = snapshot.cursor(b"");
    while let Some(key) = cursor.current() {
        out.print(&key_line(&snapshot, key, reader.as_mut())?)?;
        cursor.advance();
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(snapshot: &Snapshot) -> Line {
    let meta = snapshot.meta();
    let borrowed = snapshot.lenders().iter().map(|lender| lender.lent_bytes);
    let borrowed: u64 = borrowed.sum();
    Line::new("snapshot")
        .with("file", snapshot.path())
        .with("sequence", snapshot.sequence().0)
        .with("file_bytes", snapshot.file_bytes())
        .with("borrowed_bytes", borrowed)
        .with("index_bytes", snapshot.index_bytes())
        .with("leaves", snapshot.leaf_count())
        .with("keys", snapshot.key_count())
        .with("live_keys", snapshot.live_count())
        .with("versions", snapshot.version_count())
        .with("data_bytes", snapshot.data_bytes())
        .with("changes", snapshot.change_count())
        .with("changes_taken", meta.changes_taken)
        .with("revision", meta.revision.0)
        .with("compact_revision", meta.compact_revision.0)
        .with("horizon", meta.horizon.0)
        .with("applied_index", meta.applied.index.0)
        .with("applied_term", meta.applied.term.0)
        .with("lease_time", meta.applied.lease_time.0)
        .with("term", meta.hard_state.term.0)
        .with("vote", hex(meta.hard_state.vote.0))
        .with("cluster", hex(meta.cluster.cluster_id.0))
        .with("auth_bytes", meta.auth.len())
}

/// Members, alarms and leases.
fn state(snapshot: &Snapshot) -> Vec<Line> {
    let meta = snapshot.meta();
    let members = meta.cluster.members.values().map(|member| {
        Line::new("member")
            .with("id", hex(member.id))
            .with_bytes("name", member.name.as_bytes())
            .with("peer_urls", member.peer_urls.join(","))
            .with("client_urls", member.client_urls.join(","))
            .with("learner", member.is_learner)
    });
    let alarms = meta.alarms.iter().map(|alarm| {
        Line::new("alarm")
            .with("alarm", alarm.alarm)
            .with("member", hex(alarm.member.0))
    });
    let leases = meta.leases.iter().map(|held| {
        Line::new("lease")
            .with("id", lease(held.id.0))
            .with("granted_ttl_seconds", held.granted_ttl_seconds)
            .with("deadline", held.deadline.0)
    });
    members.chain(alarms).chain(leases).collect()
}

fn key_line(
    snapshot: &Arc<Snapshot>,
    key: KeyRef,
    mut reader: Option<&mut ValueReader>,
) -> anyhow::Result<Line> {
    let mut name = Vec::new();
    snapshot.append_key(key, &mut name);
    let mut versions = Vec::new();
    for row in snapshot.rows(key) {
        let at = VersionRef {
            leaf: key.leaf,
            row,
        };
        let version = snapshot.version(at);
        let line = Line::new(if version.tombstone { "delete" } else { "put" })
            .with("revision", version.revision.0)
            .with("sub", version.sub);
        if version.tombstone {
            versions.push(line);
            continue;
        }
        let line = line
            .with("create_revision", version.create_revision.0)
            .with("version", version.version)
            .with("lease", lease(version.lease.0))
            .with("value_bytes", version.value_bytes);
        versions.push(match (&mut reader, &version.place) {
            (Some(reader), Some(place)) => line.with_bytes("value", &reader.read(snapshot, place)?),
            (Some(_), None) => line.with_bytes("value", b""),
            (None, _) => line,
        });
    }
    Ok(Line::new("key")
        .with_bytes("key", &name)
        .with_parts("versions", versions))
}
