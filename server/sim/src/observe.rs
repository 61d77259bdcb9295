//! What is seen of a member after each of its turns, and judged at once.

use bytes::Bytes;
use keelson_server::engine::Engine;
use keelson_storage::ids::{MemberId, Revision};
use keelson_storage::mvcc::{Change, Record};

use crate::check::{Applied, Event, EventLog, LeaseEnd, Violation};
use crate::client::{Client, Kind};
use crate::disk::SharedDisk;
use crate::member::{Member, first, lease_ids};
use crate::world::World;

/// The state is compared at every entry whose index is a multiple of this.
const DIGEST_EVERY: u64 = 4;

impl World {
    /// Looks at a member after its turn.
    pub(crate) fn observe(&mut self, index: usize) -> Result<(), Violation> {
        let now_us = self.now_us;
        let member = &mut self.members[index];
        let id = member.id.0;
        let Some(running) = &mut member.running else {
            return Ok(());
        };
        let engine = first(&running.shards);
        let last = engine.node().last().0;
        if last < running.last_seen && running.swapped_us != Some(now_us) {
            self.trace.count("log cut off by a new leader");
        }
        running.last_seen = last;
        if engine.node().is_leader() {
            let term = engine.node().term().0;
            if self.group.on_leader(id, term, last)? {
                let mut clients = self.clients.iter();
                let changes = |client: &Client| {
                    matches!(client.kind, Kind::Operator) && client.pending.is_some()
                };
                if clients.any(changes) {
                    self.trace
                        .count("leader change during a change of the members");
                }
                self.trace
                    .event(now_us, format_args!("member {id} leads term {term}"));
            }
        }
        let applied = engine.state().applied();
        if applied.index.0 == running.index_seen {
            self.note_office(index);
            return Ok(());
        }
        let revision = engine.state().revision().0;
        if !engine.is_between_entries() {
            self.trace.count("entry that waits for a value");
            return Ok(());
        }
        running.index_seen = applied.index.0;

        let is_recorded =
            running.revision_seen == revision && revision <= self.history.log.revision();
        let is_due = applied.index.0.is_multiple_of(DIGEST_EVERY) && is_recorded;
        let digest = is_due.then(|| digest(engine, &self.history.log));
        let seen = Applied {
            member: id,
            index: applied.index.0,
            term: applied.term.0,
            revision,
            digest,
        };
        self.trace.number(seen.index << 16 | id);
        self.trace.number(digest.unwrap_or(revision as u64));
        self.group.on_applied(seen)?;
        self.observe_leases(index);
        self.note_office(index);
        Ok(())
    }

    /// Which leases a member has come to know, and which are gone there.
    fn observe_leases(&mut self, index: usize) {
        let now_us = self.now_us;
        let Some(running) = &mut self.members[index].running else {
            return;
        };
        let engine = first(&running.shards);
        let leases = lease_ids(engine);
        let term = engine.node().term().0;
        let applied_term = engine.state().applied().term.0;
        for id in leases.difference(&running.leases) {
            self.lease_terms.entry(*id).or_insert(term);
        }
        for id in running.leases.difference(&leases) {
            let granted = self.lease_terms.remove(id);
            if granted.is_some_and(|granted| granted < applied_term) {
                self.trace.count("lease expired under a new leader");
            }
            self.trace.event(now_us, format_args!("lease {id} is gone"));
            self.history.lease_ends.push(LeaseEnd {
                id: *id,
                at_us: now_us,
            });
        }
        running.leases = leases;
    }

    /// A start may apply what nobody had applied before. Nothing was freed yet.
    pub(crate) fn record_replayed(&mut self, index: usize) -> Result<(), Violation> {
        let Some(running) = &self.members[index].running else {
            return Ok(());
        };
        let from = Revision(self.history.log.revision() + 1);
        let changes = running.engine().state().changes_from(from);
        let changes: Vec<Change> = changes.map(|change| change.change()).collect();
        take_changes(changes.into_iter(), false, &mut self.history.log)
    }

    /// Whoever leads and has applied its term's first entry is in office, until it is seen not to be.
    fn note_office(&mut self, index: usize) {
        let member = &self.members[index];
        let term = member.running.as_ref().and_then(|running| {
            let node = running.engine().node();
            let term = node.term();
            let is_in_office = node.is_leader() && running.engine().state().applied().term == term;
            is_in_office.then_some(term.0)
        });
        self.set_office(index, term);
    }

    /// Notes that a member is in office in a term, or not.
    pub(crate) fn set_office(&mut self, index: usize, term: Option<u64>) {
        let member = &mut self.members[index];
        if member.office == term {
            return;
        }
        if term.is_none() && member.running.is_some() {
            self.trace.count("leader steps down");
        }
        let member = &mut self.members[index];
        member.office = term;
        let offices = &mut self.history.offices;
        let is_newest = term.is_some_and(|term| term > self.newest_office);
        let is_vacant = self.members.iter().all(|member| member.office.is_none());
        if is_newest || is_vacant {
            if let Some((_, until_us)) = offices.last_mut().filter(|_| self.is_office_held) {
                *until_us = self.now_us;
            }
            self.is_office_held = false;
        }
        if let Some(term) = term.filter(|_| is_newest) {
            self.newest_office = term;
            self.is_office_held = true;
            offices.push((self.now_us, u64::MAX));
        }
    }
}

impl World {
    /// Whether whoever is in office gets nothing done: its process stands still, or it has no quorum of voters that can
    /// write and that it can talk to.
    pub(crate) fn stands_still(&self) -> bool {
        let in_office = self
            .members
            .iter()
            .filter_map(|member| Some((member.office?, member)));
        let Some((_, holder)) = in_office.max_by_key(|(term, _)| *term) else {
            return false;
        };
        let Some(running) = &holder.running else {
            return false;
        };
        let is_awake = |member: &Member| member.paused_until_us <= self.now_us;
        let can_write = |id: &MemberId| {
            let member = self.members.iter().find(|member| member.id == *id);
            member.is_some_and(|member| {
                let is_free = member.stuck_until_us <= self.now_us;
                let is_near = !self.wire.is_cut_between(holder.id, *id);
                member.running.is_some() && is_awake(member) && is_free && is_near
            })
        };
        let voters = running.engine().node().membership().voters;
        let able = voters.iter().filter(|id| can_write(id)).count();
        !is_awake(holder) || able * 2 <= voters.len()
    }

    /// Notes from when until when that is so.
    pub(crate) fn note_standstill(&mut self, is_still: bool) {
        match (is_still, self.still_since_us) {
            (true, None) => self.still_since_us = Some(self.now_us),
            (false, Some(since_us)) => {
                self.history.standstills.push((since_us, self.now_us));
                self.still_since_us = None;
            }
            _ => {}
        }
    }
}

/// Records changes that nobody has seen before, and compares the others. What a member tells may begin after a gap if it has
/// got a snapshot.
pub(crate) fn take_changes(
    changes: impl Iterator<Item = Change>,
    has_leapt: bool,
    log: &mut EventLog,
) -> Result<(), Violation> {
    let mut events: Vec<Event> = Vec::new();
    for change in changes {
        let revision = change.record.revision.0;
        if events.last().is_some_and(|last| last.revision < revision) {
            take_revision(std::mem::take(&mut events), has_leapt, log)?;
        }
        events.push(event(&change));
    }
    match events.is_empty() {
        true => Ok(()),
        false => take_revision(events, has_leapt, log),
    }
}

fn take_revision(events: Vec<Event>, has_leapt: bool, log: &mut EventLog) -> Result<(), Violation> {
    let revision = events[0].revision;
    if has_leapt && revision > log.revision() + 1 {
        return log.push_early(revision, events);
    }
    if revision > log.revision() {
        return log.push(events);
    }
    if events != log.at(revision) {
        let what = format!(
            "revision {revision} is {events:?} on one member, {:?} on another",
            log.at(revision)
        );
        return Err(Violation::new("G-R-7", what));
    }
    Ok(())
}

fn event(change: &Change) -> Event {
    let record = &change.record;
    Event {
        revision: record.revision.0,
        key: Bytes::copy_from_slice(record.key()),
        value: Bytes::copy_from_slice(record.value()),
        create_revision: record.create_revision.0,
        version: record.version,
        lease: record.lease.0,
        is_delete: record.tombstone,
    }
}

/// The digest of a member's state. What it has on the disk only is taken from the record of all changes.
pub(crate) fn digest(engine: &Engine<SharedDisk>, log: &EventLog) -> u64 {
    engine.state().digest_with(&mut |record: Record| {
        if record.place().is_none() {
            return record;
        }
        let events = log.at(record.revision.0);
        let event = events.iter().find(|event| event.key == record.key());
        let event = event.expect("what a member has was recorded");
        record.with_value(&event.value)
    })
}
