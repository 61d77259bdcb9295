//! What the model does not reach: alarms, members, the lease clock, requests no front lets through,
//! and the cost of pages.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use keelson_proto::etcdserverpb::request_op::Request as Operation;
use keelson_proto::etcdserverpb::{
    AlarmType, Compare, DeleteRangeRequest, LeaseRevokeRequest, PutRequest, RequestOp,
};

use super::*;
use crate::ids::{ClusterId, MemberId};
use crate::state::members::{ClusterInit, Member, MemberPublish};

const NONE: i32 = AlarmType::None as i32;
const NOSPACE: i32 = AlarmType::Nospace as i32;
const CORRUPT: i32 = AlarmType::Corrupt as i32;

fn at(lease_time: u64) -> Position {
    Position {
        index: RaftIndex(1),
        term: Term(1),
        lease_time: LeaseTime(lease_time),
    }
}

fn put(key: &str, lease: i64) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        lease,
        ..PutRequest::default()
    }
}

fn apply(state: &mut State, request: Request) -> Result<Response, ApiError> {
    state.apply(at(0), &request)
}

fn alarm(state: &mut State, action: i32, member_id: u64, alarm: i32) -> Vec<(u64, i32)> {
    let request = Request::Alarm(AlarmRequest {
        action,
        member_id,
        alarm,
    });
    let Ok(Response::Alarm(response)) = apply(state, request) else {
        panic!("an alarm request is never refused");
    };
    assert_eq!(response.header.unwrap().revision, state.revision().0);
    response
        .alarms
        .iter()
        .map(|alarm| (alarm.member_id, alarm.alarm))
        .collect()
}

#[test]
fn g_q_1_alarm_requests() {
    let state = &mut State::new();
    let (get, activate, deactivate) = (0, 1, 2);
    let table = [
        (get, 0, NONE, vec![]),
        (activate, 7, NONE, vec![]),
        (activate, 7, NOSPACE, vec![(7, NOSPACE)]),
        (activate, 7, NOSPACE, vec![(7, NOSPACE)]),
        (activate, 3, NOSPACE, vec![(3, NOSPACE)]),
        (activate, 7, CORRUPT, vec![(7, CORRUPT)]),
        (get, 7, NONE, vec![(3, NOSPACE), (7, NOSPACE), (7, CORRUPT)]),
        (get, 7, CORRUPT, vec![(7, CORRUPT)]),
        (get, 7, 99, vec![]),
        (deactivate, 1, NOSPACE, vec![]),
        (deactivate, 7, NONE, vec![]),
        (deactivate, 3, NOSPACE, vec![(3, NOSPACE)]),
        (9, 7, NOSPACE, vec![]),
        (deactivate, 7, CORRUPT, vec![(7, CORRUPT)]),
        (get, 0, NONE, vec![(7, NOSPACE)]),
    ];
    for (action, member_id, of_type, expected) in table {
        assert_eq!(
            alarm(state, action, member_id, of_type),
            expected,
            "{action} {member_id} {of_type}"
        );
    }
    assert_eq!(state.alarms().len(), 1);
}

#[test]
fn g_q_1_alarms_refuse() {
    let state = &mut State::new();
    let grant = |id| Request::LeaseGrant(LeaseGrantRequest { ttl: 5, id });
    apply(state, grant(1)).unwrap();
    apply(state, Request::Put(put("k", 1))).unwrap();
    let operation = |operation| RequestOp {
        request: Some(operation),
    };
    let txn = |success: Vec<RequestOp>, failure| {
        Request::Txn(TxnRequest {
            compare: vec![],
            success,
            failure,
        })
    };
    let put_op = || operation(Operation::RequestPut(put("k", 0)));
    let nested = operation(Operation::RequestTxn(TxnRequest {
        success: vec![put_op()],
        ..TxnRequest::default()
    }));
    let delete = DeleteRangeRequest {
        key: Bytes::from_static(b"none"),
        ..DeleteRangeRequest::default()
    };
    let delete_op = operation(Operation::RequestDeleteRange(delete.clone()));
    let lease = |id| LeaseRevokeRequest { id };
    // (request, what NOSPACE answers, whether CORRUPT refuses it)
    let no_space = Some(ApiError::NoSpace);
    let requests = [
        (Request::Put(put("k", 0)), no_space, true),
        (grant(2), no_space, true),
        (txn(vec![put_op()], vec![]), no_space, true),
        (txn(vec![], vec![put_op()]), no_space, true),
        (txn(vec![nested], vec![]), no_space, true),
        (txn(vec![delete_op], vec![]), None, true),
        (Request::DeleteRange(delete), None, true),
        (
            Request::Compact(CompactionRequest {
                revision: 2,
                physical: false,
            }),
            None,
            true,
        ),
        (
            Request::LeaseRevoke(lease(99)),
            Some(ApiError::LeaseNotFound),
            true,
        ),
        (Request::LeaseExpire(lease(99)), None, true),
        (
            Request::LeaseRenew(LeaseKeepAliveRequest { id: 1 }),
            None,
            false,
        ),
        (
            Request::LeaseRenewMany(LeaseRenewMany {
                from: 0,
                ids: vec![1],
            }),
            None,
            false,
        ),
        (Request::Tick, None, false),
    ];
    alarm(state, 1, 1, NOSPACE);
    for (request, expected, _) in &requests {
        assert_eq!(state.apply(at(0), request).err(), *expected, "{request:?}");
    }
    // CORRUPT is asked first.
    alarm(state, 1, 2, CORRUPT);
    let before = state.digest();
    for (request, _, refused) in &requests {
        let expected = refused.then_some(ApiError::Corrupt);
        assert_eq!(state.apply(at(0), request).err(), expected, "{request:?}");
    }
    assert_eq!(state.digest(), before, "a refused command leaves no trace");
    let all = RangeRequest {
        key: Bytes::from_static(b"k"),
        ..RangeRequest::default()
    };
    assert_eq!(state.select(&all).unwrap().count, 1, "reads go on");
    alarm(state, 2, 2, CORRUPT);
    assert_eq!(
        apply(state, Request::Put(put("k", 0))),
        Err(ApiError::NoSpace)
    );
    alarm(state, 2, 1, NOSPACE);
    apply(state, Request::Put(put("k", 0))).unwrap();
}

#[test]
fn g_l_3_the_lease_clock_never_goes_back() {
    let state = &mut State::new();
    let grant = Request::LeaseGrant(LeaseGrantRequest { ttl: 10, id: 1 });
    state.on_entry(at(50_000));
    state.apply(at(50_000), &grant).unwrap();
    assert_eq!(state.lease(LeaseId(1)).unwrap().deadline, LeaseTime(60_000));
    // An entry of a new leader whose clock is behind.
    state.on_entry(Position {
        index: RaftIndex(2),
        ..at(20_000)
    });
    assert_eq!(state.applied().index, RaftIndex(2));
    assert_eq!(state.applied().lease_time, LeaseTime(50_000));
    state
        .apply(
            at(20_000),
            &Request::LeaseRenew(LeaseKeepAliveRequest { id: 1 }),
        )
        .unwrap();
    assert_eq!(state.lease(LeaseId(1)).unwrap().deadline, LeaseTime(60_000));
    let expire = Request::LeaseExpire(LeaseRevokeRequest { id: 1 });
    state.apply(at(59_999), &expire).unwrap();
    let lease = state.lease(LeaseId(1)).unwrap();
    assert_eq!(lease.remaining_ttl_seconds(LeaseTime(50_001)), 9);
    assert_eq!(lease.remaining_ttl_seconds(LeaseTime(70_000)), 0);
    state.apply(at(60_000), &expire).unwrap();
    assert!(state.lease(LeaseId(1)).is_none());
}

#[test]
fn g_l_1_a_renewal_written_ahead_never_takes_time_away() {
    let state = &mut State::new();
    for (id, ttl) in [(1, 10), (2, 20)] {
        let grant = Request::LeaseGrant(LeaseGrantRequest { ttl, id });
        state.apply(at(1_000), &grant).unwrap();
    }
    let mut renew = |now, from, ids: &[i64]| {
        let ids = ids.to_vec();
        let renew = Request::LeaseRenewMany(LeaseRenewMany { from, ids });
        let Ok(Response::LeaseRenewMany(renewals)) = state.apply(at(now), &renew) else {
            panic!("renewals are never refused");
        };
        let answers = renewals.iter().map(|renewal| renewal.ttl_seconds);
        let deadline = |id| state.lease(LeaseId(id)).unwrap().deadline.0;
        (answers.collect::<Vec<_>>(), deadline(1), deadline(2))
    };
    // In order, the unknown one too, one of them twice.
    assert_eq!(
        renew(2_000, 2_500, &[2, 99, 1, 2]),
        (vec![20, 0, 10, 20], 12_500, 22_500)
    );
    // Counted from earlier than before, and from before its own entry.
    assert_eq!(renew(2_000, 2_200, &[1]), (vec![10], 12_500, 22_500));
    assert_eq!(renew(3_000, 0, &[1]), (vec![10], 13_000, 22_500));
    assert_eq!(renew(3_000, 9_000, &[]), (vec![], 13_000, 22_500));
    assert_eq!(
        renew(3_000, u64::MAX, &[1]),
        (vec![10], u64::MAX, 22_500),
        "total, whatever the leader asks for"
    );
    let lease = state.lease(LeaseId(2)).unwrap();
    let left = |now| lease.remaining_ttl_seconds(LeaseTime(now));
    assert_eq!(
        (left(2_000), left(2_501)),
        (20, 19),
        "never more than was granted"
    );
    let ahead = |now| lease.ahead_of_renewal_ms(LeaseTime(now));
    assert_eq!(
        (ahead(2_200), ahead(2_500), ahead(2_501)),
        (Some(300), Some(0), None)
    );
    let expire = Request::LeaseExpire(LeaseRevokeRequest { id: 2 });
    state.apply(at(22_499), &expire).unwrap();
    assert!(state.lease(LeaseId(2)).is_some());
    state.apply(at(22_500), &expire).unwrap();
    assert!(state.lease(LeaseId(2)).is_none());
}

#[test]
fn g_l_2_one_revision_per_lease() {
    let state = &mut State::new();
    apply(
        state,
        Request::LeaseGrant(LeaseGrantRequest { ttl: 1, id: 1 }),
    )
    .unwrap();
    for key in ["c", "a", "b", "d"] {
        apply(state, Request::Put(put(key, 1))).unwrap();
    }
    apply(state, Request::Put(put("d", 0))).unwrap();
    let revision = state.revision();
    state
        .apply(
            at(1_000),
            &Request::LeaseExpire(LeaseRevokeRequest { id: 1 }),
        )
        .unwrap();
    assert_eq!(state.revision(), revision.next());
    let events = state.changes_from(revision.next());
    let events: Vec<_> = events
        .map(|change| (change.key().to_vec(), change.change().record.sub))
        .collect();
    let expected = [("a", 0), ("b", 1), ("c", 2)];
    assert_eq!(events, expected.map(|(key, sub)| (key.into(), sub)));
    // A lease without keys makes no revision.
    apply(
        state,
        Request::LeaseGrant(LeaseGrantRequest { ttl: 1, id: 2 }),
    )
    .unwrap();
    apply(state, Request::LeaseRevoke(LeaseRevokeRequest { id: 2 })).unwrap();
    assert_eq!(state.revision(), revision.next());
}

#[test]
fn members_are_founded_once_and_publish() {
    let state = &mut State::new();
    let member = Member {
        id: 5,
        peer_urls: vec!["http://p".into()],
        ..Member::default()
    };
    let init = |cluster_id| {
        Request::ClusterInit(ClusterInit {
            cluster_id,
            members: vec![member.clone()],
        })
    };
    apply(state, init(9)).unwrap();
    apply(state, init(10)).unwrap();
    for member_id in [5, 6] {
        let publish = MemberPublish {
            member_id,
            name: "n".into(),
            client_urls: vec!["http://c".into()],
        };
        apply(state, Request::MemberPublish(publish)).unwrap();
    }
    assert_eq!(state.cluster().cluster_id, ClusterId(9));
    assert_eq!(state.cluster().members.len(), 1);
    let published = &state.cluster().members[&MemberId(5)];
    assert_eq!(
        (
            &published.name[..],
            &published.peer_urls,
            published.client_urls.len()
        ),
        ("n", &member.peer_urls, 1)
    );
}

/// Requests that validation refuses still have an answer here.
#[test]
fn apply_is_total() {
    let state = &mut State::new();
    let hostile_range = RangeRequest {
        sort_order: 77,
        sort_target: -4,
        limit: i64::MIN,
        ..RangeRequest::default()
    };
    let ignores = PutRequest {
        ignore_value: true,
        ignore_lease: true,
        ..put("b", 0)
    };
    let operations = [
        None,
        Some(Operation::RequestRange(hostile_range.clone())),
        Some(Operation::RequestPut(PutRequest::default())),
        Some(Operation::RequestPut(put("b", 0))),
        // The key exists before the transaction and is gone when the put is executed.
        Some(Operation::RequestDeleteRange(DeleteRangeRequest {
            key: Bytes::new(),
            range_end: Bytes::from_static(b"\0"),
            prev_kv: true,
        })),
        Some(Operation::RequestPut(ignores.clone())),
        Some(Operation::RequestPut(ignores)),
    ];
    apply(state, Request::Put(put("b", 0))).unwrap();
    let txn = TxnRequest {
        compare: vec![Compare {
            result: -1,
            target: 50,
            ..Compare::default()
        }],
        success: operations
            .into_iter()
            .map(|request| RequestOp { request })
            .collect(),
        failure: vec![],
    };
    let Response::Txn(response) = apply(state, Request::Txn(txn)).unwrap() else {
        panic!()
    };
    assert_eq!(response.responses.len(), 7);
    assert_eq!(response.responses[0].response, None);
    assert_eq!(state.key_count(), 1);
    state.select(&hostile_range).unwrap();
    let grant = |id, ttl| Request::LeaseGrant(LeaseGrantRequest { ttl, id });
    assert_eq!(apply(state, grant(0, 5)), Err(ApiError::LeaseNotFound));
    assert_eq!(
        apply(state, grant(1, i64::MAX)),
        Err(ApiError::LeaseTtlTooLarge)
    );
    apply(state, grant(1, i64::MIN)).unwrap();
    let late = Position {
        lease_time: LeaseTime(u64::MAX),
        ..at(0)
    };
    state.apply(late, &grant(2, 9_000_000_000)).unwrap();
    for revision in [i64::MIN, i64::MAX] {
        apply(
            state,
            Request::Compact(CompactionRequest {
                revision,
                physical: true,
            }),
        )
        .unwrap_err();
        assert!(state.hash_begin(revision).is_err() || revision < 0);
    }
    state.check_invariants();
}

/// A page at an old revision visits about as many keys as it has, and its count undoes the changes
/// since then, not the range.
#[test]
fn g_kv_7_pages_at_a_pinned_revision() {
    let state = &mut State::new();
    let key = |n: u32| format!("/registry/pods/{n:06}");
    for n in 0..5_000 {
        apply(state, Request::Put(put(&key(n), 0))).unwrap();
    }
    let pinned = state.revision().0;
    for n in 0..20 {
        let delete = DeleteRangeRequest {
            key: key(n * 7).into(),
            ..DeleteRangeRequest::default()
        };
        apply(state, Request::DeleteRange(delete)).unwrap();
        apply(state, Request::Put(put(&key(10_000 + n), 0))).unwrap();
    }
    let mut listed = Vec::new();
    let mut start = Bytes::from_static(b"/registry/pods/");
    loop {
        let page = RangeRequest {
            key: start.clone(),
            range_end: Bytes::from_static(b"/registry/pods0"),
            limit: 500,
            revision: pinned,
            ..RangeRequest::default()
        };
        let mut select = state.select_begin(&page).unwrap();
        let mut visited = 0;
        let selection = loop {
            visited += 100;
            if let Some(selection) = state.select_step(&mut select, 100) {
                break selection;
            }
        };
        assert!(
            visited <= 700,
            "a page of 500 visited {visited} keys and changes"
        );
        assert_eq!(selection.count as usize, 5_000 - listed.len());
        assert_eq!(selection.revision, state.revision());
        listed.extend(selection.records.iter().map(|record| record.key_bytes()));
        if !selection.more {
            break;
        }
        start = [listed.last().unwrap(), &b"\0"[..]].concat().into();
    }
    let expected: Vec<Bytes> = (0..5_000).map(|n| Bytes::from(key(n))).collect();
    assert_eq!(listed, expected);
}

/// Whatever is not dropped would keep garbage alive.
#[test]
fn g_c_1_selects_hold_scrubbing_back() {
    let state = &mut State::new();
    for n in 0..100 {
        apply(state, Request::Put(put(&format!("k{}", n % 10), 0))).unwrap();
    }
    let old = RangeRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        revision: 50,
        ..RangeRequest::default()
    };
    let select = state.select_begin(&old).unwrap();
    apply(
        state,
        Request::Compact(CompactionRequest {
            revision: 90,
            physical: true,
        }),
    )
    .unwrap();
    assert_eq!(state.select(&old).unwrap_err(), ApiError::Compacted);
    while state.scrub(3, None) {}
    assert_eq!(state.scrubbed_revision(), Revision(50));
    state.select_abort(select);
    let full = state.size_bytes();
    while state.scrub(3, None) {}
    assert_eq!(state.scrubbed_revision(), Revision(90));
    let oldest = state.changes_from(Revision(i64::MIN)).next();
    assert_eq!(oldest.unwrap().revision(), Revision(90));
    assert!(state.size_bytes() < full);
    state.check_invariants();
}
