//! The judges judged: a sound history passes, and every kind of lie is found out.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader,
};
use keelson_proto::mvccpb::KeyValue;

use super::{
    Applied, Call, Event, Group, History, LeaseEnd, LeaseRules, Op, Outcome, Reply, Seen, Watch,
    WatchEvent, WatchWanted, check_all,
};

const RULES: LeaseRules = LeaseRules {
    drift_permille: 0,
    late_us: 2_000_000,
    leader_change_us: 5_000_000,
};

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

fn event(revision: i64, value: &str, create_revision: i64, version: i64) -> Event {
    Event {
        revision,
        key: Bytes::from_static(b"k"),
        value: Bytes::from(value.to_owned()),
        create_revision,
        version,
        lease: 0,
        is_delete: value.is_empty(),
    }
}

fn op(times: (u64, u64), call: Call, reply: Reply) -> Op {
    Op {
        client: 0,
        member: 1,
        invoked_us: times.0,
        returned_us: Some(times.1),
        call,
        outcome: Outcome::Done(reply),
    }
}

fn put(times: (u64, u64), value: &str, revision: i64) -> Op {
    let request = PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from(value.to_owned()),
        ..PutRequest::default()
    };
    let response = PutResponse {
        header: header(revision),
        prev_kv: None,
    };
    op(times, Call::Put(request), Reply::Put(response))
}

fn get(times: (u64, u64), found: Option<&Event>, revision: i64) -> Op {
    let request = RangeRequest {
        key: Bytes::from_static(b"k"),
        ..RangeRequest::default()
    };
    let kvs: Vec<KeyValue> = found
        .map(|event| KeyValue {
            key: event.key.clone(),
            create_revision: event.create_revision,
            mod_revision: event.revision,
            version: event.version,
            value: event.value.clone(),
            lease: 0,
        })
        .into_iter()
        .collect();
    let response = RangeResponse {
        header: header(revision),
        count: kvs.len() as i64,
        kvs,
        more: false,
    };
    op(times, Call::Range(request), Reply::Range(response))
}

fn delete(times: (u64, u64), deleted: i64, revision: i64) -> Op {
    let request = DeleteRangeRequest {
        key: Bytes::from_static(b"k"),
        ..DeleteRangeRequest::default()
    };
    let response = DeleteRangeResponse {
        header: header(revision),
        deleted,
        prev_kvs: Vec::new(),
    };
    op(times, Call::Delete(request), Reply::Delete(response))
}

fn unknown(mut op: Op) -> Op {
    op.outcome = Outcome::Unknown;
    op.returned_us = None;
    op
}

/// a at 2, b at 3, deleted at 4, c at 5.
fn sound() -> History {
    let mut history = History::default();
    let (a, b) = (event(2, "a", 2, 1), event(3, "b", 2, 2));
    let (gone, c) = (event(4, "", 0, 0), event(5, "c", 5, 1));
    for event in [&a, &b, &gone, &c] {
        history.log.push(vec![event.clone()]).unwrap();
    }
    history.ops = vec![
        put((10, 20), "a", 2),
        get((12, 22), None, 1),
        get((30, 40), Some(&a), 2),
        put((50, 60), "b", 3),
        delete((70, 80), 1, 4),
        delete((90, 100), 0, 4),
        unknown(put((110, 0), "c", 5)),
        get((120, 130), Some(&c), 5),
    ];
    history
}

fn rule(history: &History) -> &'static str {
    check_all(history, &RULES).map_or_else(|violation| violation.rule, |_| "none")
}

#[test]
fn a_sound_history_passes() {
    let counts = check_all(&sound(), &RULES).unwrap();
    assert_eq!(
        (counts.writes, counts.reads, counts.unknown_done),
        (3, 4, 1)
    );
}

#[test]
fn g_d_1_an_acknowledged_write_that_is_gone() {
    let mut history = sound();
    history.ops.push(put((140, 150), "lost", 6));
    assert_eq!(rule(&history), "G-D-1");
    // Its revision was given to another.
    history.ops.pop();
    history.ops.push(put((140, 150), "lost", 5));
    assert_eq!(rule(&history), "G-D-1");
}

#[test]
fn g_kv_9_a_read_that_is_late() {
    let mut history = sound();
    let a = event(2, "a", 2, 1);
    history.ops.push(get((65, 66), Some(&a), 2));
    assert_eq!(rule(&history), "G-KV-9");
    // At the same time it is none.
    history.ops.pop();
    history.ops.push(get((55, 66), Some(&a), 2));
    assert_eq!(rule(&history), "none");
    // And a serializable one may be.
    let mut stale = get((65, 66), Some(&a), 2);
    if let Call::Range(range) = &mut stale.call {
        range.serializable = true;
    }
    history.ops.push(stale);
    assert_eq!(rule(&history), "none");
}

#[test]
fn g_kv_1_a_read_of_what_never_was() {
    let mut history = sound();
    let wrong = event(3, "a", 2, 2);
    history.ops.push(get((140, 150), Some(&wrong), 5));
    assert_eq!(rule(&history), "G-KV-1");
}

#[test]
fn g_kv_10_a_failed_write_that_happened_and_one_that_nobody_asked_for() {
    let mut history = sound();
    history.ops[6].outcome = Outcome::Failed("no leader".to_owned());
    assert_eq!(rule(&history), "G-KV-10");
    history.ops.remove(6);
    assert_eq!(rule(&history), "G-KV-10");
}

#[test]
fn g_kv_10_a_write_that_happened_twice() {
    let mut history = sound();
    history.log.push(vec![event(6, "b", 5, 2)]).unwrap();
    assert_eq!(rule(&history), "G-KV-10");
}

#[test]
fn g_kv_10_deletes_of_unknown_fate_explain_a_revision_each() {
    let mut history = sound();
    history.log.push(vec![event(6, "", 0, 0)]).unwrap();
    assert_eq!(rule(&history), "G-KV-10");
    history.ops.push(unknown(delete((140, 0), 0, 0)));
    assert_eq!(rule(&history), "none");
}

#[test]
fn g_kv_3_fields_follow_from_the_version_before() {
    let mut history = sound();
    assert!(history.log.push(vec![event(6, "d", 5, 3)]).is_err());
    assert!(history.log.push(vec![event(7, "d", 5, 2)]).is_err());
}

#[test]
fn g_kv_2_what_is_seen_early_waits_for_what_is_before_it() {
    let mut log = sound().log;
    let early = vec![event(7, "e", 5, 3)];
    log.push_early(7, early.clone()).unwrap();
    log.push_early(7, early).unwrap();
    let other = log.push_early(7, vec![event(7, "f", 5, 3)]).unwrap_err();
    assert_eq!(other.rule, "G-R-7");
    assert_eq!((log.revision(), log.orphan()), (5, Some(7)));
    log.push(vec![event(6, "d", 5, 2)]).unwrap();
    assert_eq!((log.revision(), log.orphan()), (7, None));

    log.push_early(9, vec![event(9, "h", 5, 6)]).unwrap();
    let unfit = log.push(vec![event(8, "g", 5, 4)]).unwrap_err();
    assert_eq!(unfit.rule, "G-KV-3");
}

fn seen(event: &Event) -> WatchEvent {
    WatchEvent {
        key: event.key.clone(),
        value: event.value.clone(),
        create_revision: event.create_revision,
        mod_revision: event.revision,
        version: event.version,
        lease: 0,
        is_delete: event.is_delete,
        prev: None,
    }
}

/// A watch from revision 3 on that saw some of the changes, one a response.
fn watch(history: &History, revisions: &[i64]) -> Watch {
    let events = revisions.iter().map(|revision| Seen::Events {
        revision: 5,
        fragment: false,
        events: history.log.at(*revision).iter().map(seen).collect(),
    });
    let created = [Seen::Created { revision: 5 }];
    Watch {
        client: 0,
        member: 1,
        wanted: WatchWanted {
            key: Bytes::from_static(b"k"),
            start_revision: 3,
            ..WatchWanted::default()
        },
        seen: created
            .into_iter()
            .chain(events)
            .map(|seen| (200, seen))
            .collect(),
        is_complete: true,
    }
}

fn rule_of(watch: Watch) -> &'static str {
    let mut history = sound();
    history.watches.push(watch);
    rule(&history)
}

#[test]
fn g_w_a_watch_gets_everything_once_and_in_order() {
    let history = sound();
    assert_eq!(rule_of(watch(&history, &[3, 4, 5])), "none");
    for wrong in [
        &[3, 5][..],
        &[4, 5],
        &[3, 3, 4, 5],
        &[4, 3, 5],
        &[2, 3, 4, 5],
        &[3, 4],
    ] {
        assert_eq!(rule_of(watch(&history, wrong)), "G-W-3", "{wrong:?}");
    }
    let mut unfinished = watch(&history, &[3, 4]);
    unfinished.is_complete = false;
    assert_eq!(rule_of(unfinished), "none");
}

#[test]
fn g_w_10_compaction_ends_only_a_watch_that_may_have_fallen_out_of_history() {
    let history = sound();
    let ended_at = |compact_revision, seen: &[i64]| {
        let mut watch = watch(&history, seen);
        watch.wanted.start_revision = 0;
        watch.seen[0].1 = Seen::Created { revision: 2 };
        watch.seen.push((201, Seen::Canceled { compact_revision }));
        rule_of(watch)
    };
    // Told up to 2, it may have missed what was compacted below 4, and cannot have missed anything below 3.
    assert_eq!(ended_at(4, &[]), "none");
    assert_eq!(ended_at(3, &[]), "G-W-10");
    assert_eq!(ended_at(4, &[3]), "G-W-10");
    assert_eq!(ended_at(5, &[3]), "none");
}

#[test]
fn g_w_6_progress_comes_behind_events_and_does_not_go_back() {
    let history = sound();
    let progress = |revision, place| {
        let mut watch = watch(&history, &[3, 4, 5]);
        watch.seen.insert(place, (200, Seen::Progress { revision }));
        rule_of(watch)
    };
    assert_eq!(progress(3, 2), "none");
    assert_eq!(progress(4, 2), "G-W-6");
    assert_eq!(progress(5, 3), "G-W-6");
    let mut watch = watch(&history, &[3, 4, 5]);
    watch.seen.push((201, Seen::Progress { revision: 5 }));
    watch.seen.push((202, Seen::Progress { revision: 4 }));
    assert_eq!(rule_of(watch), "G-W-6");
}

#[test]
fn g_w_4_a_revision_is_not_split() {
    let mut history = History::default();
    let mut other = event(2, "y", 2, 1);
    other.key = Bytes::from_static(b"l");
    let both = vec![event(2, "x", 2, 1), other];
    history.log.push(both.clone()).unwrap();
    history.ops.push(unknown(put((1, 0), "x", 0)));
    let halves = both.iter().map(|event| Seen::Events {
        revision: 2,
        fragment: false,
        events: vec![seen(event)],
    });
    let mut split = watch(&history, &[]);
    split.wanted.range_end = Bytes::from_static(b"\0");
    split.wanted.start_revision = 1;
    split.seen.extend(halves.map(|half| (200, half)));
    let violation = super::check_watches(&history.log, &[split]).unwrap_err();
    assert_eq!(violation.rule, "G-W-4");
}

#[test]
fn g_w_9_the_value_before() {
    let history = sound();
    let mut watch = watch(&history, &[3, 4, 5]);
    watch.wanted.prev_kv = true;
    watch.wanted.start_revision = 3;
    if let Seen::Events { events, .. } = &mut watch.seen[1].1 {
        events[0].prev = Some((Bytes::from_static(b"?"), 2));
    }
    assert_eq!(rule_of(watch), "G-W-9");
}

/// A lease of 10 s, granted at 1 s and kept alive at 5 s.
fn leased(ended_us: Option<u64>) -> History {
    let mut history = sound();
    history.ops.push(op(
        (1_000_000, 1_100_000),
        Call::LeaseGrant {
            id: 7,
            ttl_seconds: 10,
        },
        Reply::LeaseGrant,
    ));
    history.ops.push(op(
        (5_000_000, 5_100_000),
        Call::KeepAlive { id: 7 },
        Reply::KeepAlive { ttl_seconds: 10 },
    ));
    history.offices = vec![(0, 60_000_000)];
    history.ended_us = 60_000_000;
    let end = ended_us.map(|at_us| LeaseEnd { id: 7, at_us });
    history.lease_ends.extend(end);
    history
}

#[test]
fn g_l_1_a_lease_ends_in_time() {
    assert_eq!(rule(&leased(Some(15_500_000))), "none");
    assert_eq!(rule(&leased(Some(14_900_000))), "G-L-1");
    assert_eq!(rule(&leased(Some(11_500_000))), "G-L-1");
    assert_eq!(rule(&leased(Some(18_000_000))), "G-L-3");
    assert_eq!(rule(&leased(None)), "G-L-3");
    // Nobody served meanwhile.
    let mut history = leased(Some(30_000_000));
    history.offices = vec![(0, 10_000_000), (25_000_000, 30_000_000)];
    assert_eq!(rule(&history), "none");
    // Somebody was in office, and no disk took a write.
    let mut history = leased(Some(30_000_000));
    history.standstills = vec![(2_000_000, 3_000_000), (10_000_000, 24_500_000)];
    assert_eq!(rule(&history), "none");
    history.standstills = vec![(10_000_000, 20_000_000)];
    assert_eq!(rule(&history), "G-L-3");
}

#[test]
fn g_l_4_a_lease_that_is_gone_is_not_kept_alive() {
    let mut history = leased(Some(15_500_000));
    history.ops.push(op(
        (16_000_000, 16_100_000),
        Call::TimeToLive { id: 7 },
        Reply::TimeToLive { ttl_seconds: 3 },
    ));
    assert_eq!(rule(&history), "G-L-4");
}

#[test]
fn g_r_1_g_r_7_terms_and_indexes_belong_to_one() {
    let mut group = Group::default();
    let applied = |member, index, term, digest| Applied {
        member,
        index,
        term,
        revision: 9,
        digest: Some(digest),
    };
    group.on_leader(1, 2, 10).unwrap();
    group.on_leader(1, 2, 12).unwrap();
    assert_eq!(group.on_leader(2, 2, 12).unwrap_err().rule, "G-R-1");
    group.on_applied(applied(1, 12, 2, 5)).unwrap();
    group.on_applied(applied(2, 12, 2, 5)).unwrap();
    assert_eq!(
        group.on_applied(applied(3, 12, 2, 6)).unwrap_err().rule,
        "G-R-7"
    );
    assert_eq!(
        group.on_applied(applied(3, 12, 3, 5)).unwrap_err().rule,
        "G-R-1"
    );
    // Somebody leads who lacks what was applied.
    assert_eq!(group.on_leader(3, 4, 11).unwrap_err().rule, "G-R-1");
}
