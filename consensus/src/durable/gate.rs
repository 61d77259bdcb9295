//! Persist before speaking: which messages may leave now, and which wait for the disk.
//!
//! This file is the whole rule. Everything a node must write comes in numbered readies, in order. A message
//! depends on what was to be written when it was made:
//!
//! | message | must be durable first |
//! |---|---|
//! | accepts entries, asks for votes | everything: the entries it vouches for, and the term |
//! | all others | the newest term and vote |
//!
//! So a leader sends entries while it writes them itself, and a follower whose disk is slow still answers
//! heartbeats and the reads that ride on them. A leader's first messages wait too where nobody else's
//! vote made it leader: the term it speaks in must not be forgotten.
//!
//! Invariants:
//! 1. A message leaves only when the ready it depends on is durable, and all readies before that.
//! 2. A message whose term has passed while it waited never leaves.
//!
//! A crash loses the messages that waited; a network may lose them too.

use std::collections::VecDeque;

use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{MemberId, Term};

use crate::limits::MESSAGES_HELD_MAX;
use crate::node::{Body, Message};

/// Number of something to write; they become durable in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadyNumber(pub u64);

/// A message and who is to have it.
pub type Outgoing = (MemberId, Message);

/// Holds back what depends on the disk.
#[derive(Debug, Default)]
pub struct Gate {
    /// The newest ready that has entries, a term, a vote or a snapshot.
    written: ReadyNumber,
    /// The newest one that has a term or a vote.
    voted: ReadyNumber,
    durable: ReadyNumber,
    term: Term,
    held: VecDeque<(ReadyNumber, Outgoing)>,
    leaving: Vec<Outgoing>,
    /// Messages are let through at once: the bug that the cluster tests must find.
    #[cfg(test)]
    pub(crate) is_broken: bool,
}

impl Gate {
    /// Something is to be written under this number; `votes` if a term or a vote is.
    pub fn on_ready(&mut self, number: ReadyNumber, term: Term, votes: bool) {
        assert!(
            number > self.written,
            "readies are numbered upwards: {number:?} after {:?}",
            self.written
        );
        self.written = number;
        if votes {
            self.voted = number;
            self.term = term;
        }
    }

    /// A message was made, after everything given to [`Gate::on_ready`] so far.
    pub fn on_message(&mut self, message: Outgoing) {
        let needed = match depends_on(&message.1.body) {
            Needs::Everything => self.written,
            Needs::Vote => self.voted,
        };
        let is_free = needed <= self.durable || bugs::is_on(Bug::SpeakBeforePersist);
        #[cfg(test)]
        let is_free = is_free || self.is_broken;
        if is_free {
            self.leaving.push(message);
        } else if self.held.len() < MESSAGES_HELD_MAX {
            self.held.push_back((needed, message));
        }
    }

    /// Everything up to this number is durable.
    pub fn on_durable(&mut self, number: ReadyNumber) {
        assert!(
            number <= self.written,
            "{number:?} was reported durable and is not written yet"
        );
        self.durable = self.durable.max(number);
        let (durable, term) = (self.durable, self.term);
        let leaving = &mut self.leaving;
        self.held.retain_mut(|(needed, (to, message))| {
            let stays = *needed > durable;
            if !stays && message.term >= term {
                let body = std::mem::replace(&mut message.body, Body::TimeoutNow);
                let term = message.term;
                leaving.push((*to, Message { term, body }));
            }
            stays
        });
    }

    /// What may leave.
    pub fn take_leaving(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.leaving)
    }

    /// Whether everything is durable.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.durable == self.written
    }

    /// Whether the newest term and vote are.
    #[must_use]
    pub fn is_vote_durable(&self) -> bool {
        self.voted <= self.durable
    }

    /// The newest ready that is to be written.
    #[must_use]
    pub fn written(&self) -> ReadyNumber {
        self.written
    }

    /// The newest ready that is durable.
    #[must_use]
    pub fn durable(&self) -> ReadyNumber {
        self.durable
    }
}

enum Needs {
    Everything,
    Vote,
}

fn depends_on(body: &Body) -> Needs {
    match body {
        // A candidate counts its own log among the durable ones, and must not forget whom it voted for.
        Body::AppendAccepted { .. } | Body::RequestVote { .. } => Needs::Everything,
        Body::Append { .. }
        | Body::AppendRejected { .. }
        | Body::Heartbeat { .. }
        | Body::HeartbeatAnswer { .. }
        | Body::Vote { .. }
        | Body::Snapshot { .. }
        | Body::TimeoutNow
        | Body::ReadIndex { .. }
        | Body::ReadIndexAnswer { .. } => Needs::Vote,
    }
}
