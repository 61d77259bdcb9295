//! Commands of this member's clients that another member proposes, and commands of others that this one is to
//! propose.
//!
//! ```text
//!   queue --> sent to the leader --> proposed there ........... applied here, answered by request id
//!     ^            |
//!     +------------+  not sent, or refused because that member does not lead, or ends
//! ```
//!
//! A refusal is certain: a refused command is not in the log and never will be by that request id. So one that only met
//! the wrong member goes back into the queue, gets a new request id and goes to the next leader, and a planned change of the leader
//! is no failure to anybody. It waits no longer than a few election timeouts; after that its client is
//! told. What the leader has against the command itself, the client hears in etcd's words.
//!
//! Invariants:
//! 1. A forwarded command is proposed at most once. Whether it was, its sender learns from the log, from a
//!    refusal, or never; then its client is told that nobody knows (`late.rs`).
//! 2. A command of this member's clients that another member proposed is answered where it is applied here.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use keelson_consensus::limits::ENTRY_COMMANDS_MAX;
use keelson_consensus::replicate::{ForwardRefusal, Item};
use keelson_proto::ApiError;
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{MemberId, Term};
use keelson_storage::io::Disk;
use keelson_storage::state::{Command, CommandKind, Request};

use super::limits::{
    BATCH_BYTES_MAX, FORWARDED_FORGOTTEN_AFTER_US, LEADER_AWAITED_ELECTIONS, REQUEST_COUNTER_BITS,
};
use super::shard::{Engine, Origin, Queued};

/// What this member knows of forwarded commands.
#[derive(Debug)]
pub(super) struct Forwarding {
    /// Those on their way, by request id.
    sent: BTreeMap<u64, Forwarded>,
    /// Bytes of their bodies.
    held_bytes: usize,
    /// Older ones hold no body any more.
    held_from: u64,
    next_request_id: u64,
    /// A member that took nothing in this term, and until when it is left alone.
    refused_by: Option<(MemberId, Term, u64)>,
    /// Since when nobody leads.
    leaderless_since_us: Option<u64>,
}

/// A command that was forwarded.
#[derive(Debug)]
struct Forwarded {
    origin: Origin,
    since_us: u64,
    sent_at_us: u64,
    /// Term of the leader it went to.
    term: Term,
    kind: CommandKind,
    /// For another attempt; none when it is too late for one.
    body: Option<Bytes>,
}

impl Forwarding {
    /// `seed` differs between members and between starts.
    pub(super) fn new(seed: u64) -> Self {
        let next_request_id = (seed << REQUEST_COUNTER_BITS) | 1;
        Self {
            sent: BTreeMap::new(),
            held_bytes: 0,
            held_from: next_request_id,
            next_request_id,
            refused_by: None,
            leaderless_since_us: None,
        }
    }

    /// Bytes of commands that are held for another attempt.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Who waits for a command of this request id on this member.
    pub(super) fn take_origin(&mut self, request_id: u64) -> Option<Origin> {
        self.take(request_id).map(|forwarded| forwarded.origin)
    }

    fn take(&mut self, request_id: u64) -> Option<Forwarded> {
        let forwarded = self.sent.remove(&request_id)?;
        self.held_bytes -= forwarded.body.as_ref().map_or(0, Bytes::len);
        Some(forwarded)
    }

    /// Everybody who waits.
    fn take_origins(&mut self) -> impl Iterator<Item = Origin> + use<> {
        self.held_bytes = 0;
        let sent = std::mem::take(&mut self.sent);
        sent.into_values().map(|forwarded| forwarded.origin)
    }

    /// Takes a command as sent, and makes what is sent of it.
    fn send(&mut self, queued: Queued, now_us: u64, term: Term) -> Command {
        let request_id = self.next_request_id;
        self.next_request_id += 1;
        self.held_bytes += queued.body.len();
        let kind = queued.request.kind();
        let forwarded = Forwarded {
            origin: queued.origin,
            since_us: queued.since_us,
            sent_at_us: now_us,
            term,
            kind,
            body: Some(queued.body.clone()),
        };
        self.sent.insert(request_id, forwarded);
        Command::new(kind, request_id, queued.body)
    }
}

impl<D: Disk> Engine<D> {
    /// How long a command waits for somebody who takes it.
    fn leader_awaited_us(&self) -> u64 {
        let group = &self.config.group;
        group.tick_us * group.election_ticks as u64 * LEADER_AWAITED_ELECTIONS
    }

    /// Whether nobody has led for so long that it is of no use to wait.
    pub(super) fn is_without_leader(&self) -> bool {
        let since_us = self.forwarding.leaderless_since_us;
        self.node.leader().is_none()
            && since_us.is_some_and(|since_us| self.now_us >= since_us + self.leader_awaited_us())
    }

    /// Looks who leads, once a turn; after a tick also at what has waited for too long.
    pub(super) fn review_forwarding(&mut self, has_ticked: bool) {
        let since_us = &mut self.forwarding.leaderless_since_us;
        match self.node.leader() {
            Some(_) => *since_us = None,
            None => {
                since_us.get_or_insert(self.now_us);
            }
        }
        self.review_leaders();
        if has_ticked {
            self.give_lost_up();
            self.refuse_overdue();
            self.forget_forwarded();
        }
    }

    /// Hands what is queued to the member that leads, if it is another one.
    pub(super) fn forward(&mut self) {
        if self.node.is_leader() {
            return;
        }
        self.refuse_strangers();
        let leader = self.node.leader().filter(|id| !self.is_left_alone(*id));
        let Some(leader) = leader else {
            return;
        };
        let mut commands = Vec::new();
        let mut bytes = 0;
        while self.group.has_room()
            && let Some(queued) = self.queue.pop_front()
        {
            self.queued_bytes -= queued.body.len();
            bytes += queued.body.len();
            let term = self.node.term();
            commands.push(self.forwarding.send(queued, self.now_us, term));
            if bytes >= BATCH_BYTES_MAX || commands.len() >= ENTRY_COMMANDS_MAX {
                let item = Item::Forward(std::mem::take(&mut commands));
                self.group_send(leader, item);
                bytes = 0;
            }
        }
        if !commands.is_empty() {
            self.group_send(leader, Item::Forward(commands));
        }
    }

    /// Commands of other members that came while this one led.
    fn refuse_strangers(&mut self) {
        let is_strange = |queued: &Queued| matches!(queued.origin, Origin::Peer(_));
        if !self.queue.iter().any(is_strange) {
            return;
        }
        let (strange, own) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition::<VecDeque<_>, _>(is_strange);
        self.queue = own;
        for queued in strange {
            self.queued_bytes -= queued.body.len();
            self.refuse(queued, ForwardRefusal::NotLeader);
        }
    }

    /// Other members' commands, to be proposed here.
    pub(super) fn on_forward(&mut self, from: MemberId, commands: Vec<Command>) {
        let mut refused: BTreeMap<u8, (ForwardRefusal, Vec<u64>)> = BTreeMap::new();
        for command in commands {
            let request_id = command.request_id;
            let why = match Request::decode(command.kind, &command.body) {
                Ok(request) => self.admit_forwarded(from, request_id, request, command.body),
                // It was sound when it was sent; a version that knows more than this one sent it.
                Err(_) => Some(ForwardRefusal::NotCapable),
            };
            if let Some(why) = why {
                let (_, ids) = refused.entry(why as u8).or_insert((why, Vec::new()));
                ids.push(request_id);
            }
        }
        for (why, request_ids) in refused.into_values() {
            self.send_refusal(from, why, request_ids);
        }
    }

    fn admit_forwarded(
        &mut self,
        from: MemberId,
        request_id: u64,
        request: Request,
        body: Bytes,
    ) -> Option<ForwardRefusal> {
        if !self.node.is_leader() {
            return Some(ForwardRefusal::NotLeader);
        }
        if let Some(error) = self.refusal(&request, &body) {
            return Some(refusal_of(error));
        }
        if bugs::is_on(Bug::ForwardTwice) {
            self.queue_own(request.clone());
        }
        self.enqueue(Queued {
            origin: Origin::Peer(from),
            request_id,
            since_us: self.now_us,
            request,
            body,
        });
        None
    }

    /// Another member did not propose what it was sent.
    pub(super) fn on_forward_refused(
        &mut self,
        from: MemberId,
        why: ForwardRefusal,
        request_ids: &[u64],
    ) {
        match error_of(why) {
            Some(error) => {
                for request_id in request_ids {
                    if let Some(origin) = self.forwarding.take_origin(*request_id) {
                        self.facts.proposals_failed += 1;
                        self.reply(origin, Err(error));
                    }
                }
            }
            None => self.take_back(from, request_ids.iter().copied()),
        }
    }

    /// There was no way to send something to another member. Only commands matter: raft repeats what it needs.
    pub fn on_unsent(&mut self, to: MemberId, item: &Item) {
        if let Item::Forward(commands) = item {
            self.take_back(to, commands.iter().map(|command| command.request_id));
        }
    }

    /// Commands that were certainly not proposed wait for the next leader.
    fn take_back(&mut self, from: MemberId, request_ids: impl Iterator<Item = u64>) {
        let until_us = self.now_us + self.config.group.tick_us;
        self.forwarding.refused_by = Some((from, self.node.term(), until_us));
        for request_id in request_ids {
            let Some(forwarded) = self.forwarding.take(request_id) else {
                continue;
            };
            let Some(body) = forwarded.body else {
                self.reply(forwarded.origin, Err(ApiError::LeaderChanged));
                continue;
            };
            let request = Request::decode(forwarded.kind, &body);
            self.enqueue(Queued {
                origin: forwarded.origin,
                request_id: 0,
                since_us: forwarded.since_us,
                request: request.expect("it was made of the same bytes"),
                body,
            });
        }
    }

    /// Tells whoever sent a command that it is not proposed.
    pub(super) fn refuse(&mut self, queued: Queued, why: ForwardRefusal) {
        match queued.origin {
            Origin::Peer(from) => self.send_refusal(from, why, vec![queued.request_id]),
            origin => {
                let error = error_of(why).unwrap_or(ApiError::LeaderChanged);
                self.reply(origin, Err(error));
            }
        }
    }

    fn send_refusal(&mut self, to: MemberId, why: ForwardRefusal, request_ids: Vec<u64>) {
        let leader = self.node.leader().unwrap_or_default();
        let refusal = Item::ForwardRefused {
            why,
            leader,
            request_ids,
        };
        self.group_send(to, refusal);
    }

    /// Whether a member has just said that it takes nothing. Until the next tick it is not asked again, or for as long as it
    /// is not known as the leader of another term.
    fn is_left_alone(&self, member: MemberId) -> bool {
        self.forwarding
            .refused_by
            .is_some_and(|(by, term, until_us)| {
                by == member && term == self.node.term() && self.now_us < until_us
            })
    }

    /// Commands that found nobody in time who takes them.
    fn refuse_overdue(&mut self) {
        if self.node.is_leader() {
            return;
        }
        let awaited_us = self.leader_awaited_us();
        let now_us = self.now_us;
        let is_overdue = |queued: &Queued| now_us >= queued.since_us + awaited_us;
        if !self.queue.iter().any(is_overdue) {
            return;
        }
        let error = match self.node.leader() {
            None => ApiError::NoLeader,
            Some(_) => ApiError::LeaderChanged,
        };
        for queued in std::mem::take(&mut self.queue) {
            if !is_overdue(&queued) {
                self.queue.push_back(queued);
                continue;
            }
            self.queued_bytes -= queued.body.len();
            if let Origin::Engine = queued.origin {
                // If it was the alarm, it is still due.
                self.nospace_proposed = false;
            }
            self.facts.proposals_failed += 1;
            self.reply(queued.origin, Err(error));
        }
    }

    /// Commands whose fate nobody tells: their clients were answered by their front's time limit long ago. Before that their
    /// bodies go, when it is too late for another attempt.
    fn forget_forwarded(&mut self) {
        let awaited_us = self.leader_awaited_us();
        let forwarding = &mut self.forwarding;
        // Request ids grow with time.
        for (request_id, forwarded) in forwarding.sent.range_mut(forwarding.held_from..) {
            if self.now_us < forwarded.sent_at_us + awaited_us {
                break;
            }
            forwarding.held_bytes -= forwarded.body.take().map_or(0, |body| body.len());
            forwarding.held_from = request_id + 1;
        }
        let Some(before_us) = self.now_us.checked_sub(FORWARDED_FORGOTTEN_AFTER_US) else {
            return;
        };
        while let Some(oldest) = self.forwarding.sent.first_entry()
            && oldest.get().sent_at_us < before_us
        {
            let (_, forwarded) = oldest.remove_entry();
            self.reply(forwarded.origin, Err(ApiError::Timeout));
        }
    }

    /// Those who wait for commands that went to leaders of earlier terms.
    pub(super) fn take_forwarded_before(&mut self, term: Term) -> Vec<Origin> {
        let sent = &self.forwarding.sent;
        // Terms grow with time, as request ids do.
        let earlier = sent
            .iter()
            .take_while(|(_, forwarded)| forwarded.term < term);
        let ids: Vec<u64> = earlier.map(|(request_id, _)| *request_id).collect();
        let origins = ids.into_iter().map(|id| self.forwarding.take_origin(id));
        origins.flatten().collect()
    }

    /// Those who wait for forwarded commands.
    pub(super) fn take_all_forwarded(&mut self) -> impl Iterator<Item = Origin> + use<D> {
        self.forwarding.take_origins()
    }
}

/// Why a leader does not propose a command, for the member that sent it.
fn refusal_of(error: ApiError) -> ForwardRefusal {
    match error {
        ApiError::NoLeader => ForwardRefusal::NotLeader,
        ApiError::Stopped => ForwardRefusal::Stopping,
        ApiError::TooManyRequests => ForwardRefusal::TooManyRequests,
        ApiError::NoSpace => ForwardRefusal::NoSpace,
        ApiError::Unhealthy => ForwardRefusal::Unhealthy,
        ApiError::MemberNotEnoughStarted => ForwardRefusal::NotEnoughStarted,
        ApiError::LearnerNotReady => ForwardRefusal::LearnerNotReady,
        // Nothing else is looked at before the log.
        _ => ForwardRefusal::NotCapable,
    }
}

/// What the client of a refused command hears; nothing if another member may take it.
fn error_of(why: ForwardRefusal) -> Option<ApiError> {
    match why {
        ForwardRefusal::NotLeader | ForwardRefusal::Stopping => None,
        ForwardRefusal::TooManyRequests => Some(ApiError::TooManyRequests),
        ForwardRefusal::NoSpace => Some(ApiError::NoSpace),
        ForwardRefusal::Unhealthy => Some(ApiError::Unhealthy),
        ForwardRefusal::NotEnoughStarted => Some(ApiError::MemberNotEnoughStarted),
        ForwardRefusal::LearnerNotReady => Some(ApiError::LearnerNotReady),
        ForwardRefusal::NotCapable => Some(ApiError::NotCapable),
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
