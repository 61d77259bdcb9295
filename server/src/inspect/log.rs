//! `keelson inspect dump-wal`: the records of the log, each with what it asks for.

use std::process::ExitCode;

use bytes::Bytes;
use keelson_proto::etcdserverpb as pb;
use keelson_storage::dir::StoppedDir;
use keelson_storage::ids::Lsn;
use keelson_storage::io::ReadOnlyDisk;
use keelson_storage::recovery::{RecoveryReport, TailReport, read_lane};
use keelson_storage::state::{Request, decode_entry};
use keelson_storage::wal::{RecordKind, WalRecord};

use super::line::{Line, Printer};

pub(super) fn dump(dir: &StoppedDir, out: &mut Printer) -> anyhow::Result<ExitCode> {
    for lane in dir.lanes()? {
        out.print(&Line::new("lane").with("lane", lane.0))?;
        let mut disk = ReadOnlyDisk::new(&dir.lane_path(lane));
        let mut printed = Ok(());
        let report = read_lane(&mut disk, lane, |lsn, record| {
            if printed.is_ok() {
                printed = out.print(&line_of(lsn, &record));
            }
        });
        printed?;
        match report {
            Ok(report) => out.print(&end_of(&report))?,
            Err(error) => {
                // What was readable stands before it.
                out.flush()?;
                return Err(error.into());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is to say of a whole lane.
pub(super) fn end_of(report: &RecoveryReport) -> Line {
    let line = Line::new("end")
        .with("segments", report.segments)
        .with("groups", report.groups)
        .with("records", report.records)
        .with("next_lsn", report.next_lsn.0);
    match &report.tail {
        TailReport::New => line.with("tail", "new"),
        TailReport::Clean => line.with("tail", "clean"),
        TailReport::Cut { file, offset, .. } => line
            .with("tail", "interrupted writes, which a start cuts off")
            .with("file", file.as_str())
            .with("offset", *offset),
    }
}

fn line_of(lsn: Lsn, record: &WalRecord) -> Line {
    match record.kind {
        RecordKind::HardState => {
            let line = Line::new("hard_state").with("lsn", lsn.0);
            let line = line
                .with("shard", record.shard.0)
                .with("term", record.term.0);
            let number = |at: usize| {
                let bytes = record.payload.get(at..at + 8)?.first_chunk()?;
                Some(u64::from_le_bytes(*bytes))
            };
            match (number(8), number(16)) {
                (Some(vote), Some(commit)) => line.with("vote", hex(vote)).with("commit", commit),
                (Some(vote), None) => line.with("vote", hex(vote)),
                (None, _) => line.with("error", "too short"),
            }
        }
        RecordKind::LogStart => Line::new("log_start")
            .with("lsn", lsn.0)
            .with("shard", record.shard.0)
            .with("term", record.term.0)
            .with("index", record.index.0),
        RecordKind::Entry | RecordKind::Membership => {
            let name = match record.kind {
                RecordKind::Membership => "membership",
                _ => "entry",
            };
            let line = Line::new(name)
                .with("lsn", lsn.0)
                .with("shard", record.shard.0)
                .with("term", record.term.0)
                .with("index", record.index.0)
                .with("bytes", record.payload.len());
            if record.payload.is_empty() {
                return line.with("opens_term", true);
            }
            match decode_entry(&record.payload) {
                Ok((lease_time, commands)) => {
                    let parts = commands.iter().map(|command| {
                        match Request::decode(command.kind, &command.body) {
                            Ok(request) => describe(&request),
                            Err(error) => Line::new("unreadable").with("error", error.to_string()),
                        }
                    });
                    line.with("lease_time", lease_time.0)
                        .with_parts("commands", parts.collect())
                }
                Err(error) => line.with("error", error.to_string()),
            }
        }
    }
}

fn describe(request: &Request) -> Line {
    match request {
        Request::Put(put) => describe_put(put),
        Request::DeleteRange(delete) => {
            with_range(Line::new("delete_range"), &delete.key, &delete.range_end)
        }
        Request::Txn(txn) => Line::new("txn")
            .with("compares", txn.compare.len())
            .with_parts("operations", operations(txn)),
        Request::Compact(compact) => Line::new("compact")
            .with("revision", compact.revision)
            .with("physical", compact.physical),
        Request::LeaseGrant(grant) => Line::new("lease_grant")
            .with("id", lease(grant.id))
            .with("ttl_seconds", grant.ttl),
        Request::LeaseRevoke(revoke) => Line::new("lease_revoke").with("id", lease(revoke.id)),
        Request::LeaseRenew(renew) => Line::new("lease_renew").with("id", lease(renew.id)),
        Request::LeaseExpire(expire) => Line::new("lease_expire").with("id", lease(expire.id)),
        Request::Alarm(alarm) => Line::new("alarm")
            .with("action", alarm.action().as_str_name())
            .with("alarm", alarm.alarm().as_str_name())
            .with("member", hex(alarm.member_id)),
        Request::Tick => Line::new("tick"),
        Request::ClusterInit(init) => Line::new("cluster_init")
            .with("cluster", hex(init.cluster_id))
            .with("members", init.members.len()),
        Request::MemberPublish(publish) => Line::new("member_publish")
            .with("member", hex(publish.member_id))
            .with_bytes("name", publish.name.as_bytes()),
        Request::MemberAdd(add) => {
            let member = add.member.clone().unwrap_or_default();
            Line::new("member_add")
                .with("member", hex(member.id))
                .with("peer_urls", member.peer_urls)
                .with("learner", member.is_learner)
        }
        Request::MemberRemove(remove) => Line::new("member_remove").with("member", hex(remove.id)),
        Request::MemberUpdate(update) => Line::new("member_update")
            .with("member", hex(update.id))
            .with("peer_urls", update.peer_ur_ls.clone()),
        Request::MemberPromote(promote) => {
            Line::new("member_promote").with("member", hex(promote.id))
        }
        Request::LeaseRenewMany(renew) => {
            let ids: Vec<String> = renew.ids.iter().map(|&id| lease(id)).collect();
            Line::new("lease_renew_many")
                .with("from", renew.from)
                .with("ids", ids)
        }
    }
}

fn describe_put(put: &pb::PutRequest) -> Line {
    Line::new("put")
        .with_bytes("key", &put.key)
        .with("value_bytes", put.value.len())
        .with("lease", lease(put.lease))
}

/// The operations of both branches.
fn operations(txn: &pb::TxnRequest) -> Vec<Line> {
    use pb::request_op::Request as Op;
    let of_branch = |branch: &'static str, operations: &[pb::RequestOp]| -> Vec<Line> {
        let lines = operations.iter().filter_map(|operation| {
            let line = match operation.request.as_ref()? {
                Op::RequestPut(put) => describe_put(put),
                Op::RequestRange(range) => {
                    with_range(Line::new("range"), &range.key, &range.range_end)
                }
                Op::RequestDeleteRange(delete) => {
                    with_range(Line::new("delete_range"), &delete.key, &delete.range_end)
                }
                Op::RequestTxn(txn) => Line::new("txn")
                    .with("compares", txn.compare.len())
                    .with_parts("operations", self::operations(txn)),
            };
            Some(line.with("branch", branch))
        });
        lines.collect()
    };
    let mut lines = of_branch("success", &txn.success);
    lines.extend(of_branch("failure", &txn.failure));
    lines
}

fn with_range(line: Line, key: &Bytes, range_end: &Bytes) -> Line {
    let line = line.with_bytes("key", key);
    if range_end.is_empty() {
        line
    } else {
        line.with_bytes("range_end", range_end)
    }
}

/// A lease id, as etcd's tools write it.
pub(super) fn lease(id: i64) -> String {
    hex(id.cast_unsigned())
}

pub(super) fn hex(number: u64) -> String {
    format!("{number:x}")
}
