//! Strict serializability of what clients were answered, by revisions.
//!
//! 1. Every answer is what the request gives on the state before its revision, if it changed something, else on the
//!    state at it. A change belongs to one request.
//! 2. A change that no answer explains is that of a request whose fate nobody knows, once, or the end of a lease.
//! 3. In real time: what was invoked after a revision was seen has a place behind it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::kv_txn::{Effects, bare, may_write, values_of};
use super::log::{Event, EventLog};
use super::{Call, History, Op, Outcome, Reply, Seen, Violation};

/// What a history held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvCounts {
    /// Writes that were answered.
    pub writes: u64,
    /// Reads that were answered, linearizable or not.
    pub reads: u64,
    /// Writes whose fate nobody was told, and that took effect.
    pub unknown_done: u64,
    /// Writes whose fate nobody was told, and that did not.
    pub unknown_not_done: u64,
}

/// Judges reads and writes of keys.
///
/// # Errors
/// The first answer that cannot be explained.
pub fn check_kv(history: &History) -> Result<KvCounts, Violation> {
    let mut judge = Judge {
        log: &history.log,
        ops: &history.ops,
        authors: BTreeMap::new(),
        places: vec![None; history.ops.len()],
        floor: Floor::of(history),
    };
    for index in 0..judge.ops.len() {
        judge.explain(index)?;
    }
    judge.attribute_puts()?;
    judge.attribute_deletes()?;
    judge.check_real_time()?;
    judge.check_compactions()?;
    Ok(judge.count())
}

/// Where an operation took effect.
#[derive(Clone, Copy, Debug)]
enum Place {
    Write(i64),
    Read(i64),
    /// A serializable read, which may be late.
    Stale,
}

struct Judge<'a> {
    log: &'a EventLog,
    ops: &'a [Op],
    /// Whose a revision is.
    authors: BTreeMap<i64, usize>,
    places: Vec<Option<Place>>,
    floor: Floor,
}

impl Judge<'_> {
    /// Finds the place of an operation that was answered.
    fn explain(&mut self, index: usize) -> Result<(), Violation> {
        let op = &self.ops[index];
        let Some(reply) = op.reply() else {
            return Ok(());
        };
        let (reply, Some(revision)) = bare(reply) else {
            return Ok(());
        };
        if matches!(reply, Reply::Compact(_)) {
            return Ok(());
        }
        if revision > self.log.revision() {
            let what = format!(
                "answered at revision {revision}, but there are only {}: {op:?}",
                self.log.revision()
            );
            return Err(Violation::new("G-D-1", what));
        }
        if may_write(&op.call) {
            let (effects, expected) = Effects::of(self.log, revision - 1, &op.call);
            let is_change = !effects.events.is_empty();
            if is_change
                && effects.events == self.log.at(revision)
                && expected.as_ref() == Some(&reply)
            {
                return self.claim(revision, index);
            }
        }
        let (effects, expected) = Effects::of(self.log, revision, &op.call);
        if effects.events.is_empty() && expected.as_ref() == Some(&reply) {
            let is_stale = matches!(&op.call, Call::Range(range) if range.serializable);
            self.places[index] = Some(if is_stale {
                Place::Stale
            } else {
                Place::Read(revision)
            });
            return Ok(());
        }
        let rule = match may_write(&op.call) {
            true => "G-D-1",
            false => "G-KV-1",
        };
        let what = format!(
            "no state explains {op:?}; at revision {revision} there is {:?}; expected {expected:?}",
            self.log.at(revision)
        );
        Err(Violation::new(rule, what))
    }

    fn claim(&mut self, revision: i64, index: usize) -> Result<(), Violation> {
        if let Some(other) = self.authors.insert(revision, index) {
            let what = format!(
                "revision {revision} was given to two: {:?} and {:?}",
                self.ops[other], self.ops[index]
            );
            return Err(Violation::new("G-KV-2", what));
        }
        self.places[index] = Some(Place::Write(revision));
        Ok(())
    }

    fn unauthored(&self) -> Vec<i64> {
        let all = 2..=self.log.revision();
        all.filter(|revision| !self.authors.contains_key(revision))
            .collect()
    }

    /// Finds whose the puts are that nobody was told of.
    fn attribute_puts(&mut self) -> Result<(), Violation> {
        let mut by_value: BTreeMap<Bytes, usize> = BTreeMap::new();
        for (index, op) in self.ops.iter().enumerate() {
            by_value.extend(values_of(&op.call).into_iter().map(|value| (value, index)));
        }
        for revision in self.unauthored() {
            let events = self.log.at(revision);
            let Some(put) = events.iter().find(|event| !event.is_delete) else {
                continue;
            };
            let author = by_value.get(&put.value).copied();
            let Some(index) = author else {
                let what = format!("nobody put {put:?}");
                return Err(Violation::new("G-KV-10", what));
            };
            let op = &self.ops[index];
            if op.outcome != Outcome::Unknown || self.places[index].is_some() {
                let what = format!(
                    "took effect at revision {revision} ({events:?}), which is not what was answered, or once more: \
                     {op:?}, at {:?}",
                    self.places[index]
                );
                return Err(Violation::new("G-KV-10", what));
            }
            let (effects, _) = Effects::of(self.log, revision - 1, &op.call);
            if effects.events != events {
                let what = format!("{op:?} does not make {events:?} at revision {revision}");
                return Err(Violation::new("G-KV-4", what));
            }
            self.claim(revision, index)?;
        }
        Ok(())
    }

    /// Finds for every other change a lease that ended, or a request of its own.
    fn attribute_deletes(&mut self) -> Result<(), Violation> {
        let open = self.unauthored();
        let requests: Vec<Vec<usize>> = open
            .iter()
            .map(|revision| self.deleters(*revision))
            .collect();
        let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, revision) in open.iter().enumerate() {
            if self.is_end_of_lease(*revision) {
                continue;
            }
            if !find_place(index, &requests, &mut taken, &mut Vec::new()) {
                let what = format!(
                    "nobody explains revision {revision}: {:?}",
                    self.log.at(*revision)
                );
                return Err(Violation::new("G-KV-10", what));
            }
        }
        for (op, index) in taken {
            self.claim(open[index], op)?;
        }
        Ok(())
    }

    /// Requests of unknown fate that would have made this change.
    fn deleters(&self, revision: i64) -> Vec<usize> {
        let events = self.log.at(revision);
        let unknown = self.ops.iter().enumerate().filter(|(index, op)| {
            op.outcome == Outcome::Unknown && self.places[*index].is_none() && may_write(&op.call)
        });
        unknown
            .filter(|(_, op)| self.floor.at(op.invoked_us) < revision)
            .filter(|(_, op)| Effects::of(self.log, revision - 1, &op.call).0.events == events)
            .map(|(index, _)| index)
            .collect()
    }

    /// Whether exactly the keys of a lease are gone.
    fn is_end_of_lease(&self, revision: i64) -> bool {
        let gone = self.log.at(revision);
        let Some(lease) = self
            .log
            .key_at(&gone[0].key, revision - 1)
            .map(|key| key.lease)
        else {
            return false;
        };
        let attached = self.log.range_at(b"\0", b"\0", revision - 1);
        let attached = attached
            .filter(|key| key.lease == lease)
            .map(|key| &key.key);
        lease != 0 && gone.iter().map(|event: &Event| &event.key).eq(attached)
    }

    fn check_real_time(&self) -> Result<(), Violation> {
        for (op, place) in self.ops.iter().zip(&self.places) {
            let floor = self.floor.at(op.invoked_us);
            let (is_late, rule) = match place {
                Some(Place::Write(revision)) => (*revision <= floor, "G-KV-1"),
                Some(Place::Read(revision)) => (*revision < floor, "G-KV-9"),
                Some(Place::Stale) | None => continue,
            };
            if is_late {
                let what = format!(
                    "revision {floor} had been seen before it was invoked: {op:?}, at {place:?}"
                );
                return Err(Violation::new(rule, what));
            }
        }
        Ok(())
    }

    /// After a compaction was answered nothing before it can be read; before one was asked for, all can.
    fn check_compactions(&self) -> Result<(), Violation> {
        let compactions = self.ops.iter().filter_map(|op| match op.call {
            Call::Compact { revision } => Some((revision, op)),
            _ => None,
        });
        let compactions: Vec<(i64, &Op)> = compactions.collect();
        for op in self.ops {
            let Call::Range(range) = &op.call else {
                continue;
            };
            let wanted = range.revision;
            let is_gone = compactions.iter().any(|(revision, compaction)| {
                *revision > wanted
                    && compaction.reply().is_some()
                    && compaction.returned_us.is_some_and(|at| at < op.invoked_us)
            });
            // A member that is behind does not know of it yet.
            let reads = wanted > 0 && op.reply().is_some() && !range.serializable;
            let may_be_gone = compactions.iter().any(|(revision, compaction)| {
                *revision > wanted && op.returned_us.is_some_and(|at| compaction.invoked_us <= at)
            });
            let is_wrong = (reads && is_gone) || (op.outcome == Outcome::Compacted && !may_be_gone);
            if is_wrong {
                return Err(Violation::new("G-C-1", format!("{op:?}")));
            }
        }
        Ok(())
    }

    fn count(&self) -> KvCounts {
        let mut counts = KvCounts::default();
        for (op, place) in self.ops.iter().zip(&self.places) {
            match (&op.outcome, place) {
                (Outcome::Done(_), Some(Place::Write(_))) => counts.writes += 1,
                (Outcome::Done(_), Some(_)) => counts.reads += 1,
                (Outcome::Unknown, Some(_)) => counts.unknown_done += 1,
                (Outcome::Unknown, None) if may_write(&op.call) => counts.unknown_not_done += 1,
                _ => {}
            }
        }
        counts
    }
}

/// Finds a request for a revision, and others for those who have to make room (Kuhn's method).
fn find_place(
    revision: usize,
    requests: &[Vec<usize>],
    taken: &mut BTreeMap<usize, usize>,
    tried: &mut Vec<usize>,
) -> bool {
    for op in &requests[revision] {
        if tried.contains(op) {
            continue;
        }
        tried.push(*op);
        let holder = taken.get(op).copied();
        if holder.is_none_or(|holder| find_place(holder, requests, taken, tried)) {
            taken.insert(*op, revision);
            return true;
        }
    }
    false
}

/// The newest revision that somebody had seen at a time.
struct Floor(Vec<(u64, i64)>);

impl Floor {
    fn of(history: &History) -> Self {
        let answers = history.ops.iter().filter_map(|op| {
            let (_, revision) = bare(op.reply()?);
            Some((op.returned_us?, revision?))
        });
        let watched = history.watches.iter().flat_map(|watch| &watch.seen);
        let watched = watched.filter_map(|(at_us, seen)| match seen {
            Seen::Created { revision }
            | Seen::Events { revision, .. }
            | Seen::Progress { revision } => Some((*at_us, *revision)),
            Seen::Canceled { .. } => None,
        });
        let mut seen: Vec<(u64, i64)> = answers.chain(watched).collect();
        seen.sort_unstable();
        let mut newest = 0;
        for (_, revision) in &mut seen {
            newest = newest.max(*revision);
            *revision = newest;
        }
        Self(seen)
    }

    fn at(&self, at_us: u64) -> i64 {
        let before = self.0.partition_point(|(seen_us, _)| *seen_us < at_us);
        before.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}
