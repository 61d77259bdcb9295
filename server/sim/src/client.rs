//! Clients of keys and of leases: one operation at a time each, on a member of their own or on any.

use bytes::Bytes;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::request_op::Request as Op;
use keelson_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    MemberPromoteRequest, MemberRemoveRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader,
    TxnRequest,
};
use keelson_server::engine::message::{Answer, Ask, Token};
use keelson_storage::ids::{LeaseId, MemberId};
use keelson_storage::mvcc::{Record, Selection};
use keelson_storage::state::{MemberAdd, Renewal, Request, Response, is_read_only};

use crate::check::{Call, EventLog, MembersChange, Reply};
use crate::dice::Dice;
use crate::member::joining;
use crate::options::Options;

/// A client.
#[derive(Debug)]
pub struct Client {
    /// The member that it asks, if it is always the same.
    pub home: Option<MemberId>,
    /// When it next asks.
    pub next_us: u64,
    /// What it waits for.
    pub pending: Option<Pending>,
    /// What it is for.
    pub kind: Kind,
}

/// What a client is for.
#[derive(Debug)]
pub enum Kind {
    /// Reads and writes keys.
    Keys,
    /// Grants leases and keeps them alive: their ids and times to live.
    Leases(Vec<(i64, i64)>),
    /// Changes the membership.
    Operator,
}

/// An operation on its way.
#[derive(Debug)]
pub struct Pending {
    /// Which, in the history.
    pub op: usize,
    /// What the member calls it.
    pub token: Token,
    /// The member, and its core.
    pub member: MemberId,
    /// See `member`.
    pub port: usize,
    /// When the client gives up.
    pub deadline_us: u64,
    /// An answer some of whose values are being read.
    pub half: Option<Half>,
}

/// An answer without its values.
#[derive(Debug)]
pub enum Half {
    /// A range, some of whose records are cold.
    Range(ResponseHeader, Selection),
    /// A response with gaps.
    Response(Box<Response>),
}

/// What an answer comes to.
#[derive(Debug)]
pub enum Came {
    /// The answer.
    Whole(Reply),
    /// These records are needed first.
    Needs(Half, Vec<Record>),
}

/// Draws the next operation of a client.
pub fn draw(
    client: &Kind,
    number: usize,
    log: &EventLog,
    options: &Options,
    dice: &mut Dice,
) -> Call {
    match client {
        Kind::Keys => draw_keys(number, log, options, dice),
        Kind::Leases(leases) => draw_leases(leases, number, options, dice),
        Kind::Operator => unreachable!("an operator looks at the cluster first"),
    }
}

fn draw_keys(number: usize, log: &EventLog, options: &Options, dice: &mut Dice) -> Call {
    match dice.below(100) {
        0..34 => Call::Put(PutRequest {
            prev_kv: dice.chance(300),
            ..put(number, 0, options, dice)
        }),
        34..44 => {
            let (key, range_end) = draw_range(options, dice);
            Call::Delete(DeleteRangeRequest {
                key,
                range_end,
                prev_kv: dice.chance(300),
            })
        }
        44..66 => Call::Txn(draw_txn(number, log, options, dice)),
        66..98 => Call::Range(draw_read(log, options, dice)),
        _ => Call::Compact {
            revision: (log.revision() + 2 - dice.below(30) as i64).max(1),
        },
    }
}

fn draw_leases(leases: &[(i64, i64)], number: usize, options: &Options, dice: &mut Dice) -> Call {
    if leases.is_empty() || (leases.len() < 4 && dice.chance(200)) {
        return Call::LeaseGrant {
            id: number as i64 + 1,
            ttl_seconds: dice.between(2, 15) as i64,
        };
    }
    let (id, _) = *dice.pick(leases);
    match dice.below(100) {
        0..40 => Call::Put(PutRequest {
            lease: id,
            ..put(number, 0, options, dice)
        }),
        40..80 => Call::KeepAlive { id },
        80..94 => Call::TimeToLive { id },
        _ => Call::LeaseRevoke { id },
    }
}

fn key(options: &Options, dice: &mut Dice) -> Bytes {
    Bytes::from(format!("k{:02}", dice.below(options.keys)))
}

/// One key, a few, or all of them.
fn draw_range(options: &Options, dice: &mut Dice) -> (Bytes, Bytes) {
    let from = key(options, dice);
    match dice.below(10) {
        0..7 => (from, Bytes::new()),
        7 | 8 => (from, key(options, dice)),
        _ => (from, Bytes::from_static(b"\0")),
    }
}

fn put(number: usize, part: usize, options: &Options, dice: &mut Dice) -> PutRequest {
    let padding = match dice.below(20) {
        0 => 3_000,
        _ => dice.below(60) as usize,
    };
    PutRequest {
        key: key(options, dice),
        value: Bytes::from(format!("{number}.{part}{}", "-".repeat(padding))),
        ..PutRequest::default()
    }
}

fn draw_read(log: &EventLog, options: &Options, dice: &mut Dice) -> RangeRequest {
    let (key, range_end) = draw_range(options, dice);
    let revision = match dice.chance(150) {
        true => (log.revision() - dice.below(40) as i64).max(1),
        false => 0,
    };
    RangeRequest {
        key,
        range_end,
        revision,
        limit: if dice.chance(200) { 2 } else { 0 },
        serializable: dice.chance(250),
        keys_only: dice.chance(100),
        count_only: dice.chance(50),
        ..RangeRequest::default()
    }
}

fn draw_txn(number: usize, log: &EventLog, options: &Options, dice: &mut Dice) -> TxnRequest {
    let compare = (0..dice.below(3)).map(|_| draw_compare(log, options, dice));
    let compare = compare.collect();
    let success = draw_branch(number, 0, options, dice);
    let failure = draw_branch(number, 10, options, dice);
    TxnRequest {
        compare,
        success,
        failure,
    }
}

fn draw_compare(log: &EventLog, options: &Options, dice: &mut Dice) -> Compare {
    let key = key(options, dice);
    let known = log.key_at(&key, log.revision());
    let (target, union) = match dice.below(4) {
        0 => {
            let version = known.map_or(0, |known| known.version);
            (CompareTarget::Version, TargetUnion::Version(version))
        }
        1 => {
            let revision = known.map_or(0, |known| known.create_revision);
            (CompareTarget::Create, TargetUnion::CreateRevision(revision))
        }
        2 => {
            let value = known.map_or(Bytes::from_static(b"?"), |known| known.value.clone());
            (CompareTarget::Value, TargetUnion::Value(value))
        }
        _ => {
            let revision = known.map_or(0, |known| known.revision);
            (CompareTarget::Mod, TargetUnion::ModRevision(revision))
        }
    };
    let result = match dice.below(6) {
        0 => CompareResult::Greater,
        1 => CompareResult::Less,
        2 => CompareResult::NotEqual,
        _ => CompareResult::Equal,
    };
    Compare {
        result: result as i32,
        target: target as i32,
        key,
        target_union: Some(union),
        ..Compare::default()
    }
}

/// Operations of which no two write the same key.
fn draw_branch(number: usize, part: usize, options: &Options, dice: &mut Dice) -> Vec<RequestOp> {
    let mut written: Vec<Bytes> = Vec::new();
    let mut ops = Vec::new();
    for index in 0..dice.below(4) as usize {
        let op = match dice.below(4) {
            0 => {
                let (key, range_end) = draw_range(options, dice);
                Op::RequestRange(RangeRequest {
                    key,
                    range_end,
                    ..RangeRequest::default()
                })
            }
            1 => {
                let key = key(options, dice);
                if written.contains(&key) {
                    continue;
                }
                written.push(key.clone());
                Op::RequestDeleteRange(DeleteRangeRequest {
                    key,
                    prev_kv: dice.chance(300),
                    ..DeleteRangeRequest::default()
                })
            }
            _ => {
                let put = put(number, part + index, options, dice);
                if written.contains(&put.key) {
                    continue;
                }
                written.push(put.key.clone());
                Op::RequestPut(put)
            }
        };
        ops.push(RequestOp { request: Some(op) });
    }
    ops
}

/// What a member is asked.
#[must_use]
pub fn ask_of(call: &Call) -> Ask {
    match call {
        Call::Range(range) => Ask::Range(range.clone()),
        Call::Txn(txn) if is_read_only(txn) => Ask::ReadTxn(txn.clone()),
        Call::Put(put) => write(Request::Put(put.clone())),
        Call::Delete(delete) => write(Request::DeleteRange(delete.clone())),
        Call::Txn(txn) => write(Request::Txn(txn.clone())),
        Call::Compact { revision } => write(Request::Compact(CompactionRequest {
            revision: *revision,
            physical: false,
        })),
        Call::LeaseGrant { id, ttl_seconds } => write(Request::LeaseGrant(LeaseGrantRequest {
            id: *id,
            ttl: *ttl_seconds,
        })),
        Call::LeaseRevoke { id } => write(Request::LeaseRevoke(LeaseRevokeRequest { id: *id })),
        Call::KeepAlive { id } => Ask::LeaseKeepAlive(vec![Renewal {
            id: LeaseId(*id),
            ttl_seconds: 0,
        }]),
        Call::TimeToLive { id } => Ask::LeaseTimeToLive {
            id: LeaseId(*id),
            keys: false,
        },
        Call::Members(change) => write(members_request(change)),
    }
}

fn members_request(change: &MembersChange) -> Request {
    match *change {
        MembersChange::AddLearner(id) => Request::MemberAdd(MemberAdd {
            member: Some(joining(MemberId(id))),
            learners_max: 1,
        }),
        MembersChange::Promote(id) => Request::MemberPromote(MemberPromoteRequest { id }),
        MembersChange::Remove(id) => Request::MemberRemove(MemberRemoveRequest { id }),
    }
}

fn write(request: Request) -> Ask {
    let body = request.encode_body();
    Ask::Write { request, body }
}

/// Makes of a member's answer what a client gets.
#[must_use]
pub fn come(half: Option<Half>, answer: Answer) -> Came {
    Came::Whole(match answer {
        Answer::Range(header, selection) => {
            let cold = selection.records.iter();
            let cold: Vec<_> = cold
                .filter(|record| record.place().is_some())
                .cloned()
                .collect();
            if !cold.is_empty() && !selection.keys_only {
                return Came::Needs(Half::Range(header, selection), cold);
            }
            range_reply(header, selection)
        }
        Answer::Cold(cold) => {
            let (response, records) = *cold;
            return Came::Needs(Half::Response(Box::new(response)), records);
        }
        Answer::Loaded(records) => fill(half, records),
        Answer::Response(response) => reply_of(response),
        Answer::LeaseKeepAlive(_, renewals) => Reply::KeepAlive {
            ttl_seconds: renewals[0].ttl_seconds,
        },
        Answer::LeaseTimeToLive(_, facts) => Reply::TimeToLive {
            ttl_seconds: facts.map_or(-1, |facts| facts.ttl_seconds),
        },
        other => unreachable!("no client asked for {other:?}"),
    })
}

fn fill(half: Option<Half>, records: Vec<Record>) -> Reply {
    match half {
        Some(Half::Range(header, mut selection)) => {
            let mut whole = records.into_iter();
            for record in &mut selection.records {
                if record.place().is_some() {
                    *record = whole.next().expect("every record that was asked for came");
                }
            }
            range_reply(header, selection)
        }
        Some(Half::Response(mut response)) => {
            let values = records.iter();
            response.fill(values.map(|record| Bytes::copy_from_slice(record.value())));
            reply_of(*response)
        }
        None => unreachable!("records are asked for when an answer lacks them"),
    }
}

fn range_reply(header: ResponseHeader, selection: Selection) -> Reply {
    let mut response = selection.into_response(&mut Vec::new());
    response.header = Some(header);
    Reply::Range(response)
}

fn reply_of(response: Response) -> Reply {
    match response {
        Response::Put(put) => Reply::Put(put),
        Response::DeleteRange(delete) => Reply::Delete(delete),
        Response::Txn(txn) => Reply::Txn(txn),
        Response::Compact(compact) => Reply::Compact(compact),
        Response::LeaseGrant(_) => Reply::LeaseGrant,
        Response::LeaseRevoke(_) => Reply::LeaseRevoke,
        Response::MemberAdd(_) | Response::MemberRemove(_) | Response::MemberPromote(_) => {
            Reply::Members
        }
        other => unreachable!("no client asked for {other:?}"),
    }
}
