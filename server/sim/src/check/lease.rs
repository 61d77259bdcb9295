//! Leases: none ends before its time since the last renewal that somebody was told of, and none lives for ever.
//!
//! A lease's time runs while a member is in office, by that member's clock. So its end is compared with the time since
//! the renewal was *asked for*, less what clocks jumped forward meanwhile; and in the other direction with the time in
//! which somebody was in office since anybody last asked for a renewal. A lease ends by a command that has to be
//! written, and its time is kept by commands too: while no quorum of disks takes a write, which may be half a minute
//! (seed 1030), no lease can end, and whoever leads next knows nothing of that time. So it does not count.

use std::collections::BTreeMap;

use super::{Call, History, Op, Outcome, Reply, Violation};

/// What clocks and the interval of checks may add or take.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRules {
    /// How far clocks run apart: thousandths of the time that passes.
    pub drift_permille: u64,
    /// A lease is gone so long after its time at the latest, in microseconds.
    pub late_us: u64,
    /// A change of the leader may give it so much more.
    pub leader_change_us: u64,
}

/// What is known of one lease.
#[derive(Debug, Default)]
struct Lease {
    ttl_us: u64,
    /// When renewals were asked for that somebody was told of, the grant among them.
    renewed_us: Vec<u64>,
    /// When the last answer to a request for one came; `u64::MAX` if one never did.
    last_asked_us: u64,
    was_granted: bool,
    was_revoked: bool,
}

/// Judges the ends of leases.
///
/// # Errors
/// The first lease that ended too early or too late, or an answer that tells something impossible.
pub fn check_leases(history: &History, rules: &LeaseRules) -> Result<(), Violation> {
    let leases = gather(history);
    let mut ends: BTreeMap<i64, u64> = BTreeMap::new();
    for end in &history.lease_ends {
        let first = ends.entry(end.id).or_insert(end.at_us);
        *first = end.at_us.min(*first);
    }
    for (id, lease) in &leases {
        let ended_us = ends.get(id).copied();
        if lease.was_revoked {
            continue;
        }
        if let Some(ended_us) = ended_us {
            check_not_early(history, rules, *id, lease, ended_us)?;
        }
        check_not_late(history, rules, *id, lease, ended_us)?;
    }
    check_answers(history, rules, &leases, &ends)
}

fn gather(history: &History) -> BTreeMap<i64, Lease> {
    let mut leases: BTreeMap<i64, Lease> = BTreeMap::new();
    for op in &history.ops {
        let is_failed = matches!(op.outcome, Outcome::Failed(_));
        let (id, is_renewed) = match (&op.call, &op.outcome) {
            (Call::LeaseGrant { id, ttl_seconds }, outcome) => {
                let lease = leases.entry(*id).or_default();
                lease.ttl_us = *ttl_seconds as u64 * 1_000_000;
                let is_granted = matches!(outcome, Outcome::Done(_));
                lease.was_granted |= is_granted;
                (*id, is_granted)
            }
            (Call::KeepAlive { id }, Outcome::Done(Reply::KeepAlive { ttl_seconds })) => {
                (*id, *ttl_seconds > 0)
            }
            (Call::KeepAlive { id }, _) => (*id, false),
            (Call::LeaseRevoke { id }, _) => {
                leases.entry(*id).or_default().was_revoked |= !is_failed;
                continue;
            }
            _ => continue,
        };
        let lease = leases.entry(id).or_default();
        if is_renewed {
            lease.renewed_us.push(op.invoked_us);
        }
        if !is_failed {
            let is_answered = matches!(op.outcome, Outcome::Done(_));
            let at_us = op.returned_us.filter(|_| is_answered);
            lease.last_asked_us = lease.last_asked_us.max(at_us.unwrap_or(u64::MAX));
        }
    }
    leases
}

/// G-L-1, G-L-3: not before its time by the clock of whoever was in office.
fn check_not_early(
    history: &History,
    rules: &LeaseRules,
    id: i64,
    lease: &Lease,
    ended_us: u64,
) -> Result<(), Violation> {
    let renewals = lease.renewed_us.iter().filter(|at_us| **at_us < ended_us);
    for renewed_us in renewals {
        let jumped_us = jumped_us(history, *renewed_us, ended_us);
        let drift_us = lease.ttl_us * rules.drift_permille / 1000;
        let may_end_us = (renewed_us + lease.ttl_us).saturating_sub(jumped_us + drift_us);
        if ended_us < may_end_us {
            let what = format!(
                "lease {id} of {} s was renewed at {renewed_us} us and gone at {ended_us} us, {} ms too early",
                lease.ttl_us / 1_000_000,
                (may_end_us - ended_us) / 1000
            );
            return Err(Violation::new("G-L-1", what));
        }
    }
    Ok(())
}

/// How far clocks jumped within a time.
fn jumped_us(history: &History, from_us: u64, until_us: u64) -> u64 {
    let jumps = history.clock_jumps.iter();
    let within = jumps.filter(|jump| (from_us..=until_us).contains(&jump.at_us));
    within.map(|jump| jump.by_us).sum()
}

/// G-L-1, G-L-3: not long after it either, however often the leader changes.
fn check_not_late(
    history: &History,
    rules: &LeaseRules,
    id: i64,
    lease: &Lease,
    ended_us: Option<u64>,
) -> Result<(), Violation> {
    if !lease.was_granted || lease.last_asked_us == u64::MAX {
        return Ok(());
    }
    let until_us = ended_us.unwrap_or(history.ended_us);
    let since_us = lease.last_asked_us;
    let mut served_us = 0;
    let mut changes = 0;
    for (from_us, to_us) in &history.offices {
        let (begin_us, end_us) = ((*from_us).max(since_us), (*to_us).min(until_us));
        let stood_us = overlap_us(&history.standstills, begin_us, end_us);
        served_us += end_us.saturating_sub(begin_us + stood_us);
        changes += u64::from((since_us..until_us).contains(from_us));
    }
    let drift_us = lease.ttl_us * rules.drift_permille / 1000;
    let jumped_us = jumped_us(history, since_us, until_us);
    let allowed_us =
        lease.ttl_us + drift_us + jumped_us + rules.late_us + changes * rules.leader_change_us;
    if served_us > allowed_us {
        let what = format!(
            "lease {id} of {} s lived on for {} ms with a leader in office ({changes} changes) after {since_us} us, \
             until {ended_us:?}",
            lease.ttl_us / 1_000_000,
            served_us / 1000,
        );
        return Err(Violation::new("G-L-3", what));
    }
    Ok(())
}

/// How much of a time lies within spans that do not overlap each other.
fn overlap_us(spans: &[(u64, u64)], from_us: u64, until_us: u64) -> u64 {
    let overlaps = spans.iter().map(|(begin_us, end_us)| {
        (*end_us)
            .min(until_us)
            .saturating_sub((*begin_us).max(from_us))
    });
    overlaps.sum()
}

/// Whether an answer says that there is no such lease.
fn reply_denies(reply: Option<&Reply>) -> bool {
    matches!(
        reply,
        Some(Reply::KeepAlive { ttl_seconds: 0 } | Reply::TimeToLive { ttl_seconds: -1 })
    )
}

/// Whether a lease cannot have ended by itself when an operation was answered.
fn must_live(history: &History, rules: &LeaseRules, lease: &Lease, op: &Op) -> bool {
    let returned_us = op.returned_us.unwrap_or(u64::MAX);
    let drift_us = lease.ttl_us * rules.drift_permille / 1000;
    !lease.was_revoked
        && lease.renewed_us.iter().any(|renewed_us| {
            let jumped_us = jumped_us(history, *renewed_us, returned_us);
            *renewed_us < op.invoked_us
                && returned_us < (renewed_us + lease.ttl_us).saturating_sub(jumped_us + drift_us)
        })
}

/// G-L-4: no answer tells more than was granted, or of a lease that is gone.
fn check_answers(
    history: &History,
    rules: &LeaseRules,
    leases: &BTreeMap<i64, Lease>,
    ends: &BTreeMap<i64, u64>,
) -> Result<(), Violation> {
    for op in &history.ops {
        let (id, ttl_seconds) = match (&op.call, op.reply()) {
            (Call::KeepAlive { id }, Some(Reply::KeepAlive { ttl_seconds }))
            | (Call::TimeToLive { id }, Some(Reply::TimeToLive { ttl_seconds })) => {
                (id, *ttl_seconds)
            }
            _ => continue,
        };
        let granted_us = leases.get(id).map_or(0, |lease| lease.ttl_us);
        let is_too_much = ttl_seconds > 0 && ttl_seconds as u64 * 1_000_000 > granted_us;
        let is_gone = ends
            .get(id)
            .is_some_and(|ended_us| *ended_us < op.invoked_us);
        let is_denied = match reply_denies(op.reply()) {
            true => leases
                .get(id)
                .is_some_and(|lease| must_live(history, rules, lease, op)),
            false => false,
        };
        if is_denied {
            let what = format!("a lease that was to live is none any more: {op:?}");
            return Err(Violation::new("G-L-1", what));
        }
        if is_too_much || (is_gone && ttl_seconds > 0) {
            let what = format!(
                "a lease of {granted_us} us, gone at {:?}, was told {ttl_seconds} s: {op:?}",
                ends.get(id)
            );
            return Err(Violation::new("G-L-4", what));
        }
    }
    Ok(())
}
