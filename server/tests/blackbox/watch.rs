//! Watch, row by row of etcd's behaviour: ids, where a watch starts, what an event carries, how
//! responses are cut, filters, progress, cancel.

use keelson_proto::etcdserverpb as pb;
use keelson_proto::etcdserverpb::request_op::Request;
use keelson_proto::etcdserverpb::watch_create_request::FilterType;
use keelson_proto::mvccpb::{Event, event::EventType};

use crate::harness::shapes::{self, bytes, watch, watch_prefix};
use crate::harness::{
    Server, ServerKind, ServerOptions, WatchSession, eventually, http, ours_only, revision_of,
};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// `PUT key value` or `DELETE key` with the revision.
fn line(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("an event has a kv");
    let key = String::from_utf8_lossy(&kv.key);
    match event.r#type() {
        EventType::Put => {
            let value = String::from_utf8_lossy(&kv.value);
            format!("{} PUT {key} {value}", kv.mod_revision)
        }
        EventType::Delete => format!("{} DELETE {key}", kv.mod_revision),
    }
}

fn lines(events: &[Event]) -> Vec<String> {
    events.iter().map(line).collect()
}

#[tokio::test]
async fn g_w_10_created_comes_first_with_the_current_revision() {
    let server = Server::start("watch-created").await;
    let clients = server.clients().await;
    let before = clients.put_key("a", "1").await;
    let mut session = clients.watch_session();
    let created = session.created(watch("a")).await;
    assert_eq!(revision_of(&created.header), before);
    let header = created.header.expect("a header");
    assert_ne!((header.cluster_id, header.member_id), (0, 0));
    assert!(header.raft_term > 0);
    assert!(!created.canceled);
    let after = clients.put_key("a", "2").await;
    let events = session.events(created.watch_id, 1).await;
    assert_eq!(lines(&events), [format!("{after} PUT a 2")]);
}

#[tokio::test]
async fn ids_count_up_from_zero_and_step_over_taken_ones() {
    let server = Server::start("watch-ids").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    assert_eq!(session.created(watch("a")).await.watch_id, 0);
    let asked = pb::WatchCreateRequest {
        watch_id: 2,
        ..watch("a")
    };
    assert_eq!(session.created(asked).await.watch_id, 2);
    assert_eq!(session.created(watch("a")).await.watch_id, 1);
    assert_eq!(session.created(watch("a")).await.watch_id, 3);
    // Ids belong to a stream.
    let mut other = clients.watch_session();
    assert_eq!(other.created(watch("a")).await.watch_id, 0);
}

#[tokio::test]
async fn an_id_in_use_is_refused_with_etcds_reason() {
    let server = Server::start("watch-duplicate-id").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    let asked = pb::WatchCreateRequest {
        watch_id: 7,
        ..watch("a")
    };
    session.created(asked.clone()).await;
    let refused = session.created(asked).await;
    assert!(refused.canceled);
    assert_eq!(refused.watch_id, -1);
    assert_eq!(
        refused.cancel_reason,
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    // The first one lives on.
    let revision = clients.put_key("a", "1").await;
    let events = session.events(7, 1).await;
    assert_eq!(lines(&events), [format!("{revision} PUT a 1")]);
}

#[tokio::test]
async fn an_empty_range_is_refused_with_etcds_reason() {
    let server = Server::start("watch-empty-range").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    for end in ["a", "b"] {
        let request = pb::WatchCreateRequest {
            range_end: bytes(end),
            ..watch("b")
        };
        let refused = session.created(request).await;
        assert!(refused.canceled, "b..{end}");
        assert_eq!(refused.watch_id, -1);
        assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");
    }
}

#[tokio::test]
async fn g_w_10_a_negative_start_is_canceled_at_once() {
    ours_only!("etcd refuses a negative start since 3.6");
    let server = Server::start("watch-negative-start").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    let request = pb::WatchCreateRequest {
        start_revision: -1,
        ..watch("a")
    };
    let refused = session.created(request).await;
    assert!(refused.canceled);
    assert_eq!(refused.watch_id, -1);
    assert_eq!(refused.cancel_reason, COMPACTED);
}

#[tokio::test]
async fn an_empty_key_stands_for_the_first_key() {
    let server = Server::start("watch-empty-key").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    let everything = pb::WatchCreateRequest {
        range_end: bytes("\0"),
        ..watch("")
    };
    let all = session.created(everything).await.watch_id;
    let first = clients.put_key("\0", "x").await;
    let second = clients.put_key("z", "y").await;
    let events = session.events(all, 2).await;
    assert_eq!(
        lines(&events),
        [format!("{first} PUT \0 x"), format!("{second} PUT z y")]
    );
}

#[tokio::test]
async fn g_w_10_a_past_start_replays_history_and_goes_on() {
    let server = Server::start("watch-past").await;
    let clients = server.clients().await;
    let first = clients.put_key("p/a", "1").await;
    clients.put_key("other", "x").await;
    clients.put_key("p/b", "2").await;
    clients.delete(shapes::delete("p/a")).await;
    let mut all = vec![
        (first, "PUT p/a 1"),
        (first + 2, "PUT p/b 2"),
        (first + 3, "DELETE p/a"),
    ];
    for skip in 0..4 {
        let mut session = clients.watch_session();
        let request = pb::WatchCreateRequest {
            start_revision: first + skip,
            ..watch_prefix("p/")
        };
        let id = session.created(request).await.watch_id;
        let wanted: Vec<String> = all
            .iter()
            .filter(|(revision, _)| *revision >= first + skip)
            .map(|(revision, text)| format!("{revision} {text}"))
            .collect();
        let events = session.events(id, wanted.len()).await;
        assert_eq!(lines(&events), wanted, "from {}", first + skip);
        let live = clients.put_key("p/live", "x").await;
        let events = session.events(id, 1).await;
        assert_eq!(lines(&events), [format!("{live} PUT p/live x")]);
        all.push((live, "PUT p/live x"));
    }
}

#[tokio::test]
async fn g_w_10_a_compacted_start_is_canceled_with_the_compact_revision() {
    let server = Server::start("watch-compacted").await;
    let clients = server.clients().await;
    for value in 0..5 {
        clients.put_key("a", value.to_string()).await;
    }
    let compacted = clients.revision().await - 1;
    clients.compact(compacted).await;
    let mut session = clients.watch_session();
    let request = pb::WatchCreateRequest {
        start_revision: compacted - 1,
        ..watch("a")
    };
    let created = session.created(request).await;
    assert!(!created.canceled);
    let canceled = session.next().await;
    assert!(canceled.canceled && !canceled.created);
    assert_eq!(canceled.watch_id, created.watch_id);
    assert_eq!(canceled.compact_revision, compacted);
    assert!(canceled.events.is_empty());
    // The stream serves others.
    let id = session.created(watch("a")).await.watch_id;
    let revision = clients.put_key("a", "x").await;
    let events = session.events(id, 1).await;
    assert_eq!(lines(&events), [format!("{revision} PUT a x")]);
}

#[tokio::test]
async fn g_w_10_a_start_at_the_compact_revision_sees_its_delete() {
    ours_only!("etcd 3.5.1 drops deletes at the compact revision (issues 18089, 19179)");
    let server = Server::start("watch-at-compaction").await;
    let clients = server.clients().await;
    clients.put_key("a", "1").await;
    clients.put_key("b", "1").await;
    let deleted = clients.delete(shapes::delete("a")).await;
    let at = revision_of(&deleted.header);
    let after = clients.put_key("b", "2").await;
    clients.compact(at).await;
    let mut session = clients.watch_session();
    let request = pb::WatchCreateRequest {
        start_revision: at,
        range_end: bytes("\0"),
        ..watch("\0")
    };
    let id = session.created(request).await.watch_id;
    let events = session.events(id, 2).await;
    assert_eq!(
        lines(&events),
        [format!("{at} DELETE a"), format!("{after} PUT b 2")]
    );
}

#[tokio::test]
async fn g_w_10_a_future_start_is_silent_until_it_is_reached() {
    let server = ServerOptions::new("watch-future")
        .progress_interval("100ms")
        .start()
        .await;
    let clients = server.clients().await;
    let now = clients.put_key("a", "0").await;
    let mut session = clients.watch_session();
    let request = pb::WatchCreateRequest {
        start_revision: now + 4,
        ..watch("a")
    };
    let id = session.created(request).await.watch_id;
    for value in 1..=3 {
        clients.put_key("a", value.to_string()).await;
        if server.kind() == ServerKind::Keelson {
            // etcd before 3.5.20 answers although the watch has not begun (issue 20221).
            session.request_progress();
        }
    }
    clients.put_key("a", "4").await;
    // Anything sent too early would come before this event.
    let events = session.events(id, 1).await;
    assert_eq!(lines(&events), [format!("{} PUT a 4", now + 4)]);
    let progress = session.progress().await;
    assert_eq!(progress.watch_id, -1);
    assert_eq!(revision_of(&progress.header), now + 4);
}

#[tokio::test]
async fn g_w_14_prev_kv_is_on_every_update_and_delete() {
    let server = Server::start("watch-prev-kv").await;
    let clients = server.clients().await;
    let start = clients.revision().await + 1;
    let request = pb::WatchCreateRequest {
        prev_kv: true,
        start_revision: start,
        ..watch("a")
    };
    let mut live = clients.watch_session();
    let id = live.created(request.clone()).await.watch_id;
    clients.put_key("a", "1").await;
    clients.put_key("a", "2").await;
    clients.delete(shapes::delete("a")).await;
    clients.put_key("a", "3").await;
    let mut late = clients.watch_session();
    let late_id = late.created(request).await.watch_id;
    for (session, id) in [(&mut live, id), (&mut late, late_id)] {
        let events = session.events(id, 4).await;
        let prev: Vec<Option<String>> = events
            .iter()
            .map(|event| event.prev_kv.as_ref())
            .map(|kv| kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(prev, [None, text("1"), text("2"), None]);
        let kv = events[2].kv.as_ref().expect("an event has a kv");
        let bare = keelson_proto::mvccpb::KeyValue {
            key: bytes("a"),
            mod_revision: start + 2,
            ..Default::default()
        };
        assert_eq!(*kv, bare, "a delete carries key and revision only");
        let create = events[3].kv.as_ref().expect("an event has a kv");
        assert_eq!((create.create_revision, create.version), (start + 3, 1));
        let prev = events[1].prev_kv.as_ref().expect("checked above");
        assert_eq!((prev.mod_revision, prev.version), (start, 1));
    }
}

#[tokio::test]
async fn g_w_14_prev_kv_is_there_right_after_compaction() {
    let server = Server::start("watch-prev-kv-compaction").await;
    let clients = server.clients().await;
    let first = clients.put_key("a", "1").await;
    let second = clients.put_key("a", "2").await;
    clients.delete(shapes::delete("a")).await;
    clients.compact(first).await;
    let mut session = clients.watch_session();
    let request = pb::WatchCreateRequest {
        prev_kv: true,
        start_revision: second,
        ..watch("a")
    };
    let id = session.created(request).await.watch_id;
    let events = session.events(id, 2).await;
    let prev = |event: &Event| event.prev_kv.as_ref().map(|kv| kv.value.clone());
    assert_eq!(prev(&events[0]), Some(bytes("1")));
    assert_eq!(prev(&events[1]), Some(bytes("2")));
}

#[tokio::test]
async fn g_w_4_one_revision_is_one_response() {
    let server = Server::start("watch-atomic").await;
    let clients = server.clients().await;
    let mut live = clients.watch_session();
    live.created(watch_prefix("t/")).await;
    let puts = (0..100).map(|n| Request::RequestPut(shapes::put(format!("t/{n:03}"), "x")));
    let done = clients
        .txn(shapes::txn(vec![], puts.collect(), vec![]))
        .await;
    let at = revision_of(&done.header);
    let mut late = clients.watch_session();
    let from_history = pb::WatchCreateRequest {
        start_revision: at,
        ..watch_prefix("t/")
    };
    late.created(from_history).await;
    for session in [&mut live, &mut late] {
        let response = session.next().await;
        assert_eq!(response.events.len(), 100);
        assert!(!response.fragment);
        assert!(revision_of(&response.header) >= at);
        let keys: Vec<_> = response
            .events
            .iter()
            .map(|event| event.kv.as_ref().expect("an event has a kv"))
            .inspect(|kv| assert_eq!(kv.mod_revision, at))
            .map(|kv| kv.key.clone())
            .collect();
        assert!(keys.is_sorted(), "events of a txn come in its order");
    }
}

#[tokio::test]
async fn g_w_13_fragments_put_together_are_the_whole() {
    const VALUE_BYTES: usize = 480 << 10;
    let server = Server::start("watch-fragment").await;
    let clients = server.clients().await;
    let write = |fill: u8| {
        let value = vec![fill; VALUE_BYTES];
        let puts = (0..3).map(|n| Request::RequestPut(shapes::put(format!("f/{n}"), &value)));
        clients.txn(shapes::txn(vec![], puts.collect(), vec![]))
    };
    write(b'a').await;
    let request = pb::WatchCreateRequest {
        prev_kv: true,
        ..watch_prefix("f/")
    };
    let mut whole = clients.watch_session();
    whole.created(request.clone()).await;
    let mut cut = clients.watch_session();
    let fragmented = pb::WatchCreateRequest {
        fragment: true,
        ..request
    };
    cut.created(fragmented).await;
    // Three values and their predecessors are more than the request limit and its overhead.
    write(b'b').await;

    let one = whole.next().await;
    assert!(!one.fragment, "fragments only if asked for");
    assert_eq!(one.events.len(), 3);
    let mut parts = vec![cut.next().await];
    while parts.last().expect("not empty").fragment {
        parts.push(cut.next().await);
    }
    assert!(parts.len() > 1, "2.8 MiB must be cut");
    let joined: Vec<Event> = parts.into_iter().flat_map(|part| part.events).collect();
    assert_eq!(joined, one.events);
}

#[tokio::test]
async fn g_w_7_filters_leave_out_puts_or_deletes() {
    let server = Server::start("watch-filters").await;
    let clients = server.clients().await;
    let filtered = |filters: &[FilterType]| pb::WatchCreateRequest {
        filters: filters.iter().map(|&filter| filter.into()).collect(),
        ..watch("a")
    };
    let mut session = clients.watch_session();
    let no_put = session
        .created(filtered(&[FilterType::Noput]))
        .await
        .watch_id;
    let no_delete = session
        .created(filtered(&[FilterType::Nodelete]))
        .await
        .watch_id;
    let both = [FilterType::Noput, FilterType::Nodelete];
    let nothing = session.created(filtered(&both)).await.watch_id;
    let first = clients.put_key("a", "1").await;
    clients.delete(shapes::delete("a")).await;
    clients.put_key("a", "2").await;
    clients.delete(shapes::delete("a")).await;
    let mut seen = std::collections::BTreeMap::<i64, Vec<String>>::new();
    while seen.values().map(Vec::len).sum::<usize>() < 4 {
        let response = session.next().await;
        assert!(!response.events.is_empty(), "a response that says nothing");
        seen.entry(response.watch_id)
            .or_default()
            .extend(lines(&response.events));
    }
    assert_eq!(
        seen[&no_put],
        [
            format!("{} DELETE a", first + 1),
            format!("{} DELETE a", first + 3)
        ]
    );
    assert_eq!(
        seen[&no_delete],
        [format!("{first} PUT a 1"), format!("{} PUT a 2", first + 2)]
    );
    assert!(!seen.contains_key(&nothing));
}

#[tokio::test]
async fn g_w_6_progress_on_request_follows_the_events() {
    let server = Server::start("watch-progress").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    let watched = session.created(watch("a")).await.watch_id;
    session.created(watch("never written")).await;
    for turn in 0..50 {
        let written = clients.put_key("a", turn.to_string()).await;
        if server.kind() == ServerKind::Etcd {
            // 3.5.1 lets the answer overtake events (issue 15220).
            session.events(watched, 1).await;
        }
        session.request_progress();
        let mut delivered = server.kind() == ServerKind::Etcd;
        loop {
            let response = session.next().await;
            if response.watch_id == -1 {
                let reported = revision_of(&response.header);
                assert!(
                    delivered || reported < written,
                    "progress overtook {written}"
                );
                if reported == written {
                    break;
                }
                session.request_progress();
                continue;
            }
            assert_eq!(response.watch_id, watched);
            delivered = true;
        }
    }
}

#[tokio::test]
async fn g_w_6_periodic_progress_reports_idle_watches() {
    let server = ServerOptions::new("watch-periodic-progress")
        .progress_interval("100ms")
        .start()
        .await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    session.created(watch("a")).await;
    let notified = pb::WatchCreateRequest {
        progress_notify: true,
        ..watch("b")
    };
    let id = session.created(notified).await.watch_id;
    let revision = clients.put_key("other", "x").await;
    let mut last = 0;
    // Only the watch that asked hears of it, and the report catches up with the store.
    for _ in 0..100 {
        let response = session.next().await;
        assert_eq!(response.watch_id, id, "{response:?}");
        assert!(response.events.is_empty());
        let reported = revision_of(&response.header);
        assert!(last <= reported && reported <= revision);
        last = reported;
        if last == revision {
            break;
        }
    }
    assert_eq!(last, revision);
    let written = clients.put_key("b", "1").await;
    let mut seen = false;
    while last < written {
        let response = session.next().await;
        assert_eq!(response.watch_id, id);
        seen |= !response.events.is_empty();
        last = revision_of(&response.header);
    }
    assert!(seen, "a report of {written} before its event");
}

#[tokio::test]
async fn cancel_ends_one_watch_and_frees_its_id() {
    let server = Server::start("watch-cancel").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    let kept = session.created(watch("a")).await.watch_id;
    let ended = session.created(watch("a")).await.watch_id;
    // Unknown ids are ignored.
    session.cancel(99);
    session.cancel(ended);
    let answer = session.next().await;
    assert!(answer.canceled && !answer.created, "{answer:?}");
    assert_eq!(answer.watch_id, ended);
    assert_eq!(
        (answer.compact_revision, answer.cancel_reason.as_str()),
        (0, "")
    );
    let revision = clients.put_key("a", "1").await;
    let events = session.events(kept, 1).await;
    assert_eq!(lines(&events), [format!("{revision} PUT a 1")]);
    let again = pb::WatchCreateRequest {
        watch_id: ended,
        ..watch("a")
    };
    assert_eq!(session.created(again).await.watch_id, ended);
}

#[tokio::test]
async fn a_half_closed_stream_goes_on_delivering() {
    let server = Server::start("watch-half-closed").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    let id = session.created(watch("a")).await.watch_id;
    session.half_close();
    for turn in 0..5 {
        let revision = clients.put_key("a", turn.to_string()).await;
        let events = session.events(id, 1).await;
        assert_eq!(lines(&events), [format!("{revision} PUT a {turn}")]);
    }
}

#[tokio::test]
async fn a_stream_that_requires_a_leader_works_while_there_is_one() {
    let server = Server::start("watch-hasleader").await;
    let clients = server.clients().await;
    let metadata = [("hasleader", "true")];
    let mut session = WatchSession::open(clients.watch.clone(), &metadata);
    let id = session.created(watch("a")).await.watch_id;
    clients.put_key("a", "1").await;
    session.events(id, 1).await;
}

#[tokio::test]
async fn a_thousand_watches_on_a_stream_all_hear_of_it_and_leave_no_trace() {
    const COUNT: i64 = 1_000;
    let server = Server::start("watch-thousand").await;
    let clients = server.clients().await;
    let mut session = clients.watch_session();
    for id in 0..COUNT {
        let request = match id % 2 {
            0 => watch("a"),
            _ => watch_prefix("a"),
        };
        assert_eq!(session.created(request).await.watch_id, id);
    }
    let revision = clients.put_key("a", "1").await;
    let mut silent: std::collections::BTreeSet<i64> = (0..COUNT).collect();
    while !silent.is_empty() {
        let response = session.next().await;
        assert_eq!(lines(&response.events), [format!("{revision} PUT a 1")]);
        assert!(silent.remove(&response.watch_id), "told twice");
    }
    drop(session);
    eventually("the watches of a closed stream are gone", || async {
        let metrics = http::get(&server.address(), "/metrics").await.ok()?;
        let gone = metrics
            .body
            .lines()
            .any(|line| line == "etcd_debugging_mvcc_watcher_total 0");
        gone.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_kv_8_a_list_and_a_watch_from_its_revision_miss_nothing() {
    const WRITERS: usize = 4;
    const WRITES: usize = 150;
    let server = Server::start("watch-list-watch").await;
    let clients = server.clients().await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let clients = clients.clone();
            tokio::spawn(async move {
                for turn in 0..WRITES {
                    let key = format!("l/{}", (writer * 7 + turn * 3) % 11);
                    match turn % 5 {
                        0 => drop(clients.delete(shapes::delete(&key)).await),
                        _ => drop(clients.put_key(&key, format!("{writer}.{turn}")).await),
                    }
                }
            })
        })
        .collect();
    let mut pairs = Vec::new();
    for _ in 0..20 {
        let listed = clients.range(shapes::list("l/")).await;
        let from = revision_of(&listed.header);
        assert!(listed.kvs.iter().all(|kv| kv.mod_revision <= from));
        let mut session = clients.watch_session();
        let request = pb::WatchCreateRequest {
            start_revision: from + 1,
            ..watch_prefix("l/")
        };
        session.created(request).await;
        pairs.push((listed.kvs, session));
    }
    for writer in writers {
        writer.await.expect("writers do not fail");
    }
    let last = clients.put_key("l/end", "").await;
    let wanted = clients.range(shapes::list("l/")).await.kvs;
    for (listed, mut session) in pairs {
        let mut state: std::collections::BTreeMap<_, _> =
            listed.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let mut reached = 0;
        while reached < last {
            for event in session.next().await.events {
                let is_put = event.r#type() == EventType::Put;
                let kv = event.kv.expect("an event has a kv");
                reached = kv.mod_revision;
                match is_put {
                    true => drop(state.insert(kv.key.clone(), kv)),
                    false => drop(state.remove(&kv.key)),
                }
            }
        }
        assert_eq!(state.into_values().collect::<Vec<_>>(), wanted);
    }
}
