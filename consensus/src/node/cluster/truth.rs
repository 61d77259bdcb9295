//! What must be true, seen from above.

use std::collections::BTreeMap;

use bytes::Bytes;
use keelson_storage::ids::{MemberId, RaftIndex, Term};

use super::machine::Machine;
use super::member::Member;
use crate::node::{Body, Entry, Mark, Message, Node, Role};

#[derive(Debug, Default)]
pub(super) struct Truth {
    leaders: BTreeMap<Term, MemberId>,
    /// Every entry that was ever in a log: its payload and the term before it.
    entries: BTreeMap<Mark, (Bytes, Option<Term>)>,
    /// What was applied first at each index, and the state after it.
    pub(super) applied: BTreeMap<RaftIndex, (Term, u64)>,
    /// Applied for the first time, and not yet looked at.
    fresh: Vec<Mark>,
    pub(super) reads: u64,
    /// Whether the messages that leave are compared with the disk.
    pub(super) checks_messages: bool,
    pub(super) digest: u64,
    pub(super) traces: bool,
}

impl Truth {
    /// Says what happens, if somebody wants to know.
    pub(super) fn trace(&self, line: impl FnOnce() -> String) {
        if self.traces {
            println!("{}", line());
        }
    }

    /// Terms that had a leader.
    pub(super) fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Election safety and leader completeness.
    pub(super) fn on_role(&mut self, node: &Node) -> Result<(), String> {
        if node.role() != Role::Leader {
            return Ok(());
        }
        let (term, me) = (node.term(), node.member());
        match self.leaders.get(&term) {
            Some(other) if *other == me => return Ok(()),
            Some(other) => return Err(format!("{other} and {me} lead in term {term}")),
            None => {}
        }
        self.leaders.insert(term, me);
        for (index, (committed, _)) in self.applied.range(node.log().start().index..) {
            if node.log().term_at(*index) != Some(*committed) {
                return Err(format!(
                    "{me} leads in term {term} without entry {index} of term {committed}"
                ));
            }
        }
        Ok(())
    }

    /// Log matching: an entry is the same everywhere, and what is before it has the same term.
    pub(super) fn on_appended(
        &mut self,
        member: MemberId,
        before: Option<Term>,
        entries: &[Entry],
    ) -> Result<(), String> {
        let mut before = before;
        for entry in entries {
            let (payload, known) = self
                .entries
                .entry(entry.mark())
                .or_insert_with(|| (entry.payload.clone(), before));
            let same_before = known.is_none() || before.is_none() || *known == before;
            if *payload != entry.payload || !same_before {
                return Err(format!(
                    "{member}: two entries are {:?}: {known:?} {payload:?}, and {before:?} {:?}",
                    entry.mark(),
                    entry.payload
                ));
            }
            *known = known.or(before);
            before = Some(entry.term);
        }
        Ok(())
    }

    /// State machine safety.
    pub(super) fn on_applied(
        &mut self,
        member: MemberId,
        entry: &Entry,
        machine: &Machine,
    ) -> Result<(), String> {
        let here = (entry.term, machine.digest);
        self.trace(|| format!("{member} applies {:?}", entry.mark()));
        match self.applied.get(&entry.index) {
            Some(known) if *known == here => {}
            Some(known) => {
                return Err(format!(
                    "{member} applies {here:?} at {}, another applied {known:?}",
                    entry.index
                ));
            }
            None => {
                self.applied.insert(entry.index, here);
                self.fresh.push(entry.mark());
            }
        }
        Ok(())
    }

    /// What is applied is durable on a majority, of the present members or of those before the last change.
    pub(super) fn check_fresh(
        &mut self,
        members: &BTreeMap<MemberId, Member>,
    ) -> Result<(), String> {
        for mark in std::mem::take(&mut self.fresh) {
            let holds = |id: &MemberId| {
                members
                    .get(id)
                    .is_some_and(|member| member.disk.holds(mark))
            };
            let by_majority = members.values().any(|member| {
                let machine = &member.machine;
                let now = Some(member.membership());
                [now, machine.before.as_ref()]
                    .into_iter()
                    .flatten()
                    .any(|members| {
                        let count = members.voters.iter().filter(|id| holds(id)).count();
                        count * 2 > members.voters.len()
                    })
            });
            if !by_majority {
                return Err(format!("{mark:?} is applied and not durable on a majority"));
            }
        }
        Ok(())
    }

    /// Persist before speaking.
    pub(super) fn on_sending(
        &mut self,
        member: &Member,
        to: MemberId,
        message: &Message,
    ) -> Result<(), String> {
        self.trace(|| format!("{} to {to}: {message:?}", member.id));
        for part in [member.id.0, to.0, message.term.0, kind_of(&message.body)] {
            self.digest = (self.digest ^ part).wrapping_mul(0x0100_0000_01b3);
        }
        if let Body::Append {
            previous, entries, ..
        } = &message.body
        {
            self.on_appended(member.id, Some(previous.term), entries)?;
        }
        if !self.checks_messages {
            return Ok(());
        }
        let (term, vote) = member.disk.hard_state();
        let asks_ahead = matches!(
            message.body,
            Body::RequestVote { pre: true, .. }
                | Body::Vote {
                    pre: true,
                    granted: true,
                    ..
                }
        );
        let knows_term = message.term <= term || asks_ahead;
        let keeps_word = match &message.body {
            Body::Vote {
                pre: false,
                granted: true,
                ..
            } => term > message.term || vote == to,
            Body::RequestVote { pre: false, .. } | Body::Append { .. } | Body::Heartbeat { .. } => {
                term > message.term || vote == member.id
            }
            Body::AppendAccepted { index, .. } => member.disk.last() >= *index,
            _ => true,
        };
        if knows_term && keeps_word {
            return Ok(());
        }
        Err(format!(
            "{} says {message:?} to {to}; on its disk is term {term}, vote {vote}, log to {}",
            member.id,
            member.disk.last()
        ))
    }
}

fn kind_of(body: &Body) -> u64 {
    match body {
        Body::Append {
            previous, entries, ..
        } => previous.index.0 * 1000 + entries.len() as u64,
        Body::AppendAccepted { index, .. } => 1 << 40 | index.0,
        Body::AppendRejected { index, .. } => 2 << 40 | index.0,
        Body::Heartbeat { .. } => 3 << 40,
        Body::HeartbeatAnswer { .. } => 4 << 40,
        Body::RequestVote { .. } => 5 << 40,
        Body::Vote { granted, .. } => 6 << 40 | u64::from(*granted),
        Body::Snapshot { at, .. } => 7 << 40 | at.index.0,
        Body::TimeoutNow => 8 << 40,
        Body::ReadIndex { .. } => 9 << 40,
        Body::ReadIndexAnswer { index, .. } => 10 << 40 | index.0,
    }
}
