//! The nine properties of a watch, by the list of all changes.
//!
//! With every change known there is one list that a watch must deliver, filtered from its start. *Ordered, unique,
//! reliable, resumable, filter*: what it received is the beginning of that list. *Atomic*: no response ends within a
//! revision. *Bookmarkable*: progress at R comes behind everything up to R, and does not go back. *Is-create and
//! prev-kv*: the fields of each event.

use super::log::{Event, EventLog, is_in_range};
use super::{Seen, Violation, Watch, WatchEvent};

/// Judges every watch.
///
/// # Errors
/// The first property that does not hold.
pub fn check_watches(log: &EventLog, watches: &[Watch]) -> Result<(), Violation> {
    for watch in watches {
        check_watch(log, watch)?;
    }
    Ok(())
}

struct Course<'a> {
    watch: &'a Watch,
    wanted: Vec<&'a Event>,
    log: &'a EventLog,
    received: usize,
    progress: i64,
    /// The revision up to which it was told everything.
    told: i64,
    is_within_fragments: bool,
    is_over: bool,
}

fn check_watch(log: &EventLog, watch: &Watch) -> Result<(), Violation> {
    let Some((_, Seen::Created { revision })) = watch.seen.first() else {
        return match watch.seen.first() {
            None => Ok(()),
            Some(first) => Err(broken(watch, "G-W-1", format!("it began with {first:?}"))),
        };
    };
    let start = match watch.wanted.start_revision {
        0 => revision + 1,
        start => start,
    };
    let wanted = log
        .events()
        .iter()
        .filter(|event| wants(watch, start, event));
    let mut course = Course {
        watch,
        wanted: wanted.collect(),
        log,
        received: 0,
        progress: 0,
        told: *revision,
        is_within_fragments: false,
        is_over: false,
    };
    for (_, seen) in &watch.seen[1..] {
        course.see(seen)?;
    }
    if watch.is_complete && !course.is_over && course.received < course.wanted.len() {
        let missing = course.wanted[course.received];
        return Err(broken(watch, "G-W-3", format!("it never got {missing:?}")));
    }
    Ok(())
}

fn wants(watch: &Watch, start: i64, event: &Event) -> bool {
    let wanted = &watch.wanted;
    let is_filtered = if event.is_delete {
        wanted.no_delete
    } else {
        wanted.no_put
    };
    event.revision >= start
        && !is_filtered
        && is_in_range(&event.key, &wanted.key, &wanted.range_end)
}

impl Course<'_> {
    fn see(&mut self, seen: &Seen) -> Result<(), Violation> {
        if self.is_over {
            return Err(self.broken("G-W-1", format!("after its end came {seen:?}")));
        }
        match seen {
            Seen::Created { .. } => Err(self.broken("G-W-1", "it was created twice")),
            Seen::Events {
                revision,
                fragment,
                events,
            } => self.see_events(*revision, *fragment, events),
            Seen::Progress { revision } => self.see_progress(*revision),
            Seen::Canceled { compact_revision } => {
                self.is_over = true;
                // Behind what it was told it may have fallen out of history: nobody knows any more whether there was
                // something that it wanted.
                let is_behind =
                    self.told + 1 < *compact_revision || self.received == self.wanted.len();
                if *compact_revision > 0 && !is_behind && self.watch.wanted.start_revision == 0 {
                    return Err(self.broken("G-W-10", format!("cancelled at {compact_revision}")));
                }
                Ok(())
            }
        }
    }

    fn see_events(
        &mut self,
        revision: i64,
        fragment: bool,
        events: &[WatchEvent],
    ) -> Result<(), Violation> {
        for event in events {
            let Some(wanted) = self.wanted.get(self.received).copied() else {
                return Err(self.broken("G-W-2", format!("{event:?} is no change that it wants")));
            };
            self.check_event(event, wanted)?;
            if event.mod_revision > revision {
                let what = format!("{event:?} is newer than its header's {revision}");
                return Err(self.broken("G-W-1", what));
            }
            if event.mod_revision <= self.progress {
                let what = format!("{event:?} came behind progress {}", self.progress);
                return Err(self.broken("G-W-6", what));
            }
            self.received += 1;
        }
        self.is_within_fragments = fragment;
        let last = events.last().map(|event| event.mod_revision);
        self.told = self.told.max(last.unwrap_or(0));
        let next = self.wanted.get(self.received).map(|event| event.revision);
        if !fragment && last.is_some() && last == next {
            let what = format!("revision {last:?} is split");
            return Err(self.broken("G-W-4", what));
        }
        Ok(())
    }

    fn check_event(&self, event: &WatchEvent, wanted: &Event) -> Result<(), Violation> {
        let is_place = event.key == wanted.key && event.mod_revision == wanted.revision;
        if !is_place || event.is_delete != wanted.is_delete {
            // A gap, a repetition or a wrong order: the next one was to be another.
            return Err(self.broken("G-W-3", format!("{event:?} came where {wanted:?} was next")));
        }
        let is_same = event.value == wanted.value
            && event.create_revision == wanted.create_revision
            && event.version == wanted.version
            && event.lease == wanted.lease;
        if !is_same {
            return Err(self.broken("G-W-8", format!("{event:?} was {wanted:?}")));
        }
        let before = self.log.key_at(&wanted.key, wanted.revision - 1);
        let before = before.filter(|_| self.watch.wanted.prev_kv);
        let is_prev = match (&event.prev, before) {
            (None, None) => true,
            (Some((value, revision)), Some(before)) => {
                *value == before.value && *revision == before.revision
            }
            (Some(_), None) => false,
            // Only compaction may take it, and only from a watch of the past (the stricter rule of Kubernetes).
            (None, Some(_)) => self.watch.wanted.start_revision > 0,
        };
        if !is_prev {
            return Err(self.broken("G-W-9", format!("{event:?} replaced {before:?}")));
        }
        Ok(())
    }

    fn see_progress(&mut self, revision: i64) -> Result<(), Violation> {
        if self.is_within_fragments {
            return Err(self.broken("G-W-4", "progress between fragments"));
        }
        if revision < self.progress {
            let what = format!("progress {revision} after {}", self.progress);
            return Err(self.broken("G-W-6", what));
        }
        if let Some(next) = self.wanted.get(self.received)
            && next.revision <= revision
        {
            let what = format!("progress {revision} came ahead of {next:?}");
            return Err(self.broken("G-W-6", what));
        }
        self.progress = revision;
        self.told = self.told.max(revision);
        Ok(())
    }

    fn broken(&self, rule: &'static str, what: impl Into<String>) -> Violation {
        broken(self.watch, rule, what)
    }
}

fn broken(watch: &Watch, rule: &'static str, what: impl Into<String>) -> Violation {
    let what = format!(
        "{}; watch of client {} on member {}: {:?}",
        what.into(),
        watch.client,
        watch.member,
        watch.wanted
    );
    Violation::new(rule, what)
}
