//! After the faults: what must come right, and whether everything that was seen can be explained.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keelson_proto::etcdserverpb as pb;

use crate::check::{
    Call, EventLog, History, KvCounts, LeaseEnd, LeaseRules, Op, Outcome, Reply, Seen, Violation,
    check_all,
};
use crate::cluster::{Cluster, MEMBERS};
use crate::load::{LEASE_TTL_SECONDS_MAX, ask};
use crate::record::{Pages, Record};

/// How long leases may live on when nobody keeps them alive: their time, and what a change of the leader adds.
const LEASES_GONE_MAX: Duration = Duration::from_secs(LEASE_TTL_SECONDS_MAX + 15);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Clocks of one machine hardly run apart.
const RULES: LeaseRules = LeaseRules {
    drift_permille: 10,
    late_us: 0,
    leader_change_us: 0,
};
/// Those who ask for the last reads.
const EXAMINER: u32 = 1000;

/// Waits until nobody has leases any more, which nobody keeps alive.
pub async fn leases_end(cluster: &Cluster, record: &Record) {
    let since_us = record.now_us();
    loop {
        let mut left = BTreeSet::new();
        for index in 0..MEMBERS {
            let mut client = cluster.client(index).await.expect("a member is reached");
            let leases = client.leases().await.expect("leases are listed");
            left.extend(leases.leases().iter().map(|lease| lease.id()));
        }
        if left.is_empty() {
            return;
        }
        if record.now_us() - since_us > LEASES_GONE_MAX.as_micros() as u64 {
            let what = format!("{left:?} live on, although nobody kept them alive");
            record
                .pages()
                .violations
                .push(Violation::new("G-L-1", what));
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reads everything at every member, and compares their hashes; the last revision.
pub async fn examine(cluster: &Cluster, record: &Record) -> i64 {
    let everything = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..pb::RangeRequest::default()
    };
    let mut revision = 0;
    for index in 0..MEMBERS {
        let mut client = cluster.client(index).await.expect("a member is reached");
        let call = Call::Range(everything.clone());
        let number = record.invoke(EXAMINER, index, call.clone());
        let reply = ask(&mut client, &call).await;
        let reply = reply.expect("a read without faults is answered");
        if let Reply::Range(range) = &reply {
            revision = range.header.as_ref().map_or(0, |header| header.revision);
        }
        record.conclude(number, Outcome::Done(reply));
    }
    let mut hashes = Vec::new();
    for index in 0..MEMBERS {
        let mut client = cluster.client(index).await.expect("a member is reached");
        let hash = client.hash_kv(revision).await;
        let hash = hash.expect("a hash without faults is told");
        hashes.push((hash.hash(), hash.compact_version()));
    }
    record.note(format!("revision {revision}, hashes {hashes:?}"));
    if hashes.iter().any(|hash| *hash != hashes[0]) {
        let what = format!("members differ at revision {revision}: {hashes:?}");
        record
            .pages()
            .violations
            .push(Violation::new("G-R-7", what));
    }
    revision
}

/// Judges what was written down; `calm_from_us` is when the last fault had been over for a while.
pub fn judge(record: &Record, calm_from_us: u64) -> Result<(KvCounts, History), Violation> {
    let ended_us = record.now_us();
    let mut pages = record.pages();
    if let Some(violation) = pages.violations.first() {
        return Err(violation.clone());
    }
    let since = pages.ops.iter().filter(|op| op.invoked_us >= calm_from_us);
    if let Some(op) = since.clone().find(|op| op.outcome == Outcome::Unknown) {
        return Err(Violation::new("G-R-2", format!("nobody answered {op:?}")));
    }
    if since.count() == 0 {
        return Err(Violation::new("G-R-2", "nobody asked anything in the end"));
    }
    let Pages {
        ops,
        watches,
        log,
        seen_us,
        ..
    } = std::mem::take(&mut *pages);
    let lease_ends = lease_ends(&log, &seen_us);
    let history = History {
        log,
        ops,
        watches,
        lease_ends,
        clock_jumps: Vec::new(),
        // Nobody knows exactly when somebody was in office; `leases_end` sees to it that leases end.
        offices: Vec::new(),
        standstills: Vec::new(),
        ended_us,
    };
    let counts = check_all(&history, &RULES)?;
    Ok((counts, history))
}

/// Spoils a sound history in several ways, each of which the judges must find.
pub fn spoil(history: &History) {
    let is_write = |op: &&Op| matches!(op.reply(), Some(Reply::Put(_)));
    let last = history.ops.iter().rfind(is_write).and_then(Op::reply);
    let Some(Reply::Put(put)) = last else {
        panic!("nobody put anything");
    };
    let last = put
        .header
        .as_ref()
        .expect("an answer has a header")
        .revision;
    let mut lost = history.clone();
    lost.log = EventLog::default();
    for revision in 2..last {
        let changes = history.log.at(revision).to_vec();
        lost.log.push(changes).expect("it was sound");
    }
    found(&lost, "G-D-1");

    let mut stale = history.clone();
    let is_read = |op: &&mut Op| {
        matches!(&op.call, Call::Range(range) if !range.serializable && range.revision == 0)
            && op.reply().is_some()
    };
    let read = stale.ops.iter_mut().find(is_read).expect("somebody read");
    read.invoked_us = history.ended_us;
    read.returned_us = Some(history.ended_us);
    found(&stale, "G-KV-9");

    let mut missed = history.clone();
    let has_events = |(_, seen): &(u64, Seen)| matches!(seen, Seen::Events { .. });
    let watch = missed
        .watches
        .iter_mut()
        .find(|watch| watch.is_complete && watch.seen.iter().any(has_events))
        .expect("a watch was complete");
    watch
        .seen
        .retain(|seen| matches!(seen, (_, Seen::Created { .. })));
    found(&missed, "G-W-3");
}

#[track_caller]
fn found(history: &History, rule: &str) {
    let found = check_all(history, &RULES).map_err(|violation| violation.rule);
    assert_eq!(found, Err(rule), "the judges find what was spoiled");
}

/// Leases whose keys went by themselves: clients delete none of them.
fn lease_ends(log: &EventLog, seen_us: &[u64]) -> Vec<LeaseEnd> {
    let mut ends = BTreeMap::new();
    for event in log.events() {
        if !event.is_delete || !event.key.starts_with(b"l/") {
            continue;
        }
        let before = log.key_at(&event.key, event.revision - 1);
        let id = before.map_or(0, |before| before.lease);
        let at_us = seen_us[usize::try_from(event.revision - 2).expect("changes begin at 2")];
        ends.entry(id).or_insert(at_us);
    }
    let ends = ends.into_iter().filter(|(id, _)| *id != 0);
    ends.map(|(id, at_us)| LeaseEnd { id, at_us }).collect()
}

/// How many operations of each kind there were, by outcome.
pub fn census(ops: &[Op]) -> String {
    let mut counts = [0; 4];
    for op in ops {
        let place = match op.outcome {
            Outcome::Done(_) => 0,
            Outcome::Failed(_) => 1,
            Outcome::Compacted => 2,
            Outcome::Unknown => 3,
        };
        counts[place] += 1;
    }
    let [done, failed, compacted, unknown] = counts;
    format!("{done} answered, {failed} refused, {compacted} compacted, {unknown} of unknown fate")
}
