//! One member's part in its group: the `raft` crate's node, driven by the engine.
//!
//! The engine hands in payloads, messages, ticks and reports; it takes what is to be written, what may be
//! sent, and what is committed. Nothing in here waits, reads a clock or draws lots: the one thing that must
//! differ between members, how long they miss a leader before they stand for election, comes from the seed.

use std::collections::VecDeque;

use bytes::Bytes;
use keelson_storage::ids::{MemberId, RaftIndex, Term};
use raft::eraftpb::{EntryType, MessageType};
use raft::{INVALID_ID, ProgressState, RawNode, SnapshotStatus, StateRole};

use super::config::{NodeConfig, Restored};
use super::convert;
use super::entry::{Entry, EntryKind, HardState};
use super::error::NodeError;
use super::inbound;
use super::lease::Lease;
use super::log::{Log, LogKeep, SnapshotMark};
use super::membership::{Membership, MembershipChange, MembershipError};
use super::message::{Body, Message};
use super::outbox;
use super::pump::READ_CONTEXT_BYTES;
use super::ready::{ReadId, ReadState, Ready, Unsent};
use super::timeout;
use crate::durable::{Gate, Outgoing, ReadyNumber};
use crate::limits::{
    ENTRIES_UNCOMMITTED_MAX, ENTRY_PAYLOAD_BYTES_MAX, LOG_HELD_BYTES_MAX, READ_CONTEXT_BYTES_MAX,
    READS_PENDING_MAX,
};

const _: () = assert!(ENTRIES_UNCOMMITTED_MAX > 0);

const _: () = assert!(READ_CONTEXT_BYTES <= READ_CONTEXT_BYTES_MAX);

/// The log of one shard and this member's part in it.
pub struct Node {
    pub(super) raw: RawNode<Log>,
    pub(super) config: NodeConfig,
    pub(super) gate: Gate,
    /// What the next ready will hold.
    pub(super) unsent: Unsent,
    /// The hard state as the disk has it, or will have it.
    recorded: HardState,
    /// A snapshot that is being put in place.
    pub(super) installing: Option<ReadyNumber>,
    /// The commit index is to be written although nothing else is.
    commit_due: bool,
    /// The newest ready that was taken.
    pub(super) issued: ReadyNumber,
    /// Term and vote of the newest ready.
    pub(super) voted: (Term, MemberId),
    /// The newest ready that raft counts as persisted.
    pub(super) settled: u64,
    /// Raft's newest ready.
    pub(super) seen: u64,
    /// The last entry given out as committed.
    pub(super) handed: RaftIndex,
    pub(super) applied: RaftIndex,
    pub(super) read_states: VecDeque<ReadState>,
    reads: u64,
    timeouts: u64,
    /// Members that were sent a snapshot and have not caught up since, while this member leads.
    fed: Vec<MemberId>,
    pub(super) lease: Option<Lease>,
    /// The state is damaged.
    pub(super) wants_snapshot: bool,
}

impl Node {
    /// A member as it starts. Nobody leads until [`Node::campaign`] or ticks have elected somebody.
    ///
    /// # Panics
    /// If `restored` is not a log: entries with gaps, or more applied than there is.
    #[must_use]
    pub fn restore(config: NodeConfig, restored: Restored) -> Self {
        let Restored {
            mut hard_state,
            start,
            entries,
            applied,
            membership,
            snapshot,
        } = restored;
        let last = entries.last().map_or(start.index, |entry| entry.index);
        assert!(
            start.index <= applied,
            "the state ends at {applied}, the log begins behind {}",
            start.index
        );
        assert!(
            applied <= last,
            "the state is at {applied}, the log ends at {last}"
        );
        // The group commits in groups of records: what was torn off may have been known as committed.
        hard_state.commit = hard_state.commit.max(applied).min(last);
        let log = Log::new(start, entries, snapshot, (hard_state, membership));
        let raft_config = config.to_raft(applied);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, log, &logger)
            .expect("the configuration and the log were checked above");
        let lease = config
            .lease_reads
            .then(|| Lease::new(config.election_ticks as u64));
        let mut node = Self {
            raw,
            config,
            gate: Gate::default(),
            unsent: Unsent::default(),
            recorded: hard_state,
            installing: None,
            commit_due: false,
            issued: ReadyNumber::default(),
            voted: (hard_state.term, hard_state.vote),
            settled: 0,
            seen: 0,
            handed: applied,
            applied,
            read_states: VecDeque::new(),
            reads: 0,
            timeouts: 0,
            fed: Vec::new(),
            lease,
            wants_snapshot: false,
        };
        node.set_timeout();
        node
    }

    /// Time passes.
    pub fn tick(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.on_tick();
        }
        let raft = &self.raw.raft;
        let is_due = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if raft.state != StateRole::Leader && is_due && !self.may_campaign() {
            return;
        }
        self.raw.tick();
        self.raw.mut_store().on_tick();
        if is_due {
            self.timeouts += 1;
        }
        self.set_timeout();
        self.renew_lease();
    }

    /// Stands for election now. The only voter wins at once; it may propose, and reads, and whatever it
    /// sends, wait for its disk.
    pub fn campaign(&mut self) {
        if self.may_campaign() {
            // The only error is that of a message for somebody else.
            self.raw
                .campaign()
                .expect("a node may tell itself to campaign");
            self.set_timeout();
        }
    }

    /// Appends an entry to the log. It is not committed, and must not be answered, until
    /// [`Node::take_committed`] returns it.
    pub fn propose(&mut self, payload: Bytes) -> Result<RaftIndex, NodeError> {
        self.check_proposal(&payload)?;
        let mut message = raft::eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.config.member.0;
        message.set_entries(vec![convert::entry_of(payload)].into());
        self.raw
            .raft
            .step(message)
            .expect("what makes a leader drop a proposal was checked");
        Ok(RaftIndex(self.raw.raft.raft_log.last_index()))
    }

    /// Appends an entry that changes the membership. It takes effect when it is applied, by
    /// [`Node::apply_membership`]. One may be on its way at a time.
    pub fn propose_membership(
        &mut self,
        payload: Bytes,
        change: MembershipChange,
    ) -> Result<RaftIndex, NodeError> {
        self.check_proposal(&payload)?;
        if self.raw.raft.has_pending_conf() {
            return Err(NodeError::MembershipPending);
        }
        self.membership().check(change)?;
        // Not through `RawNode`, which would parse the payload as a message of its own.
        let mut entry = convert::entry_of(payload);
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        let raft = &mut self.raw.raft;
        let appended = raft.append_entry(&mut [entry]);
        assert!(appended, "raft has no limit for what is not committed");
        let index = raft.raft_log.last_index();
        raft.pending_conf_index = index;
        raft.bcast_append();
        Ok(RaftIndex(index))
    }

    /// Takes a message of another member. A snapshot is handed in only when its file has arrived.
    pub fn on_message(&mut self, from: MemberId, mut message: Message) -> Result<(), NodeError> {
        inbound::check(from, self.config.member, &message)?;
        let is_dropped = match message.body {
            Body::TimeoutNow => !self.may_campaign(),
            Body::RequestVote { transfer, .. } => !transfer && !self.may_vote(),
            _ => false,
        };
        if is_dropped {
            return Ok(());
        }
        if !inbound::admit(&mut self.raw, from, &mut message)? {
            return Ok(());
        }
        self.keep_up_with(&message);
        self.accept_nothing_new(&mut message);
        let is_snapshot = matches!(message.body, Body::Snapshot { .. });
        let message = convert::message_to_raft(from, self.config.member, message);
        match self.raw.step(message) {
            // Answers of who is no member any more.
            Ok(()) | Err(raft::Error::StepPeerNotFound) => {}
            Err(error) => unreachable!("raft refuses only its own proposals: {error}"),
        }
        if is_snapshot {
            // It becomes durable before what comes behind it, so it has a number of its own.
            self.pump();
        }
        self.set_timeout();
        Ok(())
    }

    /// What must be made durable now, if anything.
    #[must_use]
    pub fn take_ready(&mut self) -> Option<Ready> {
        self.pump();
        self.commit_due &= self.committed() > self.recorded.commit;
        let is_due = self.gate.written() > self.issued || self.commit_due;
        if !is_due || self.installing.is_some() {
            return None;
        }
        self.commit_due = false;
        let mut state = self.hard_state();
        let (number, snapshot, entries) = match self.unsent.snapshot.take() {
            Some((number, snapshot)) => {
                self.installing = Some(number);
                // Until the snapshot is in place the log on disk is the old one, which may differ below the
                // new commit index. What came behind the snapshot waits for it.
                state.commit = self.recorded.commit;
                (number, Some(snapshot), Vec::new())
            }
            None => {
                let entries = std::mem::take(&mut self.unsent.entries);
                if let Some(first) = entries.first() {
                    // It is written before the entries, which may replace others: it speaks of what is there.
                    let before = RaftIndex(first.index.0 - 1);
                    state.commit = state.commit.min(before).max(self.recorded.commit);
                }
                (self.gate.written(), None, entries)
            }
        };
        self.issued = number;
        let hard_state = (state != self.recorded || snapshot.is_some()).then_some(state);
        self.recorded = state;
        Some(Ready {
            number,
            snapshot,
            hard_state,
            entries,
        })
    }

    /// A ready is durable, and so are all before it.
    pub fn on_persisted(&mut self, number: ReadyNumber) {
        self.gate.on_durable(number);
        if self.installing.is_some_and(|waited| waited <= number) {
            self.installing = None;
        }
        self.pump();
    }

    /// Messages that may leave, each with its receiver.
    #[must_use]
    pub fn take_messages(&mut self) -> Vec<Outgoing> {
        self.pump();
        outbox::thin_out(self.gate.take_leaving())
    }

    /// The next committed entry, in index order. It need not be durable here: enough others have it.
    #[must_use]
    pub fn take_committed(&mut self) -> Option<Entry> {
        self.pump();
        if self.unsent.snapshot.is_some() || self.installing.is_some() {
            return None;
        }
        let next = self.handed.next();
        if next > self.committed() {
            return None;
        }
        let entry = self.log().get(next).cloned();
        let entry = entry.expect("what is not handed out stays in the log");
        self.handed = next;
        // The one commit index that is written for its own sake: a member that was removed stops, and those
        // who stay must not need its vote after a restart to know that it has left.
        self.commit_due |= entry.kind == EntryKind::Membership;
        Some(entry)
    }

    /// Everything up to `index` is applied. Entries that nobody is likely to need are forgotten.
    pub fn on_applied(&mut self, index: RaftIndex) {
        assert!(
            index <= self.handed,
            "entry {index} was applied before it was handed out"
        );
        self.applied = self.applied.max(index);
        self.pump();
        let floor = RaftIndex(self.raw.raft.raft_log.applied);
        let (keep, needed) = (self.keep(), self.needed());
        self.raw.mut_store().compact(floor, keep, needed);
    }

    /// A change of the membership is applied, in the place of its entry.
    ///
    /// # Errors
    /// It makes no sense. Every member refuses it alike.
    pub fn apply_membership(&mut self, change: MembershipChange) -> Result<Membership, NodeError> {
        self.membership().check(change)?;
        let me = self.config.member;
        let hands_over =
            self.raw.raft.state == StateRole::Leader && change == MembershipChange::Remove(me);
        if hands_over {
            self.call_successor();
        }
        let state = self
            .raw
            .apply_conf_change(&convert::change_to_raft(change))
            .expect("a single change that was checked");
        // Raft takes for granted that who leads or stands for election belongs to the group.
        if !state.voters.contains(&me.0) && self.raw.raft.state != StateRole::Follower {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, INVALID_ID);
        }
        self.set_timeout();
        Ok(convert::membership_from_raft(&state))
    }

    /// The entry that founds the cluster is applied by a member that did not know who belongs to it.
    /// Without effect on one that does.
    pub fn found(&mut self, members: &Membership) -> Result<Membership, NodeError> {
        if self.membership() == Membership::default() {
            let voters = members.voters.iter().copied();
            let learners = members.learners.iter().copied();
            let changes = voters
                .map(MembershipChange::AddVoter)
                .chain(learners.map(MembershipChange::AddLearner));
            for change in changes {
                self.apply_membership(change)?;
            }
        }
        Ok(self.membership())
    }

    /// Asks which entry must be applied before a read that arrives now may be answered from the state. The
    /// answer comes with [`Node::take_read_states`]; or never, if the leader changes: ask again in time.
    pub fn read_index(&mut self) -> Result<ReadId, NodeError> {
        let raft = &self.raw.raft;
        if raft.leader_id == INVALID_ID {
            return Err(NodeError::NoLeader);
        }
        if raft.state == StateRole::Leader && !raft.commit_to_current_term() {
            return Err(NodeError::NotReady);
        }
        if raft.pending_read_count() >= READS_PENDING_MAX {
            return Err(NodeError::TooManyReads);
        }
        Ok(self.ask_read())
    }

    /// Answers to [`Node::read_index`]; an answer to one read is good for all that were asked before it.
    #[must_use]
    pub fn take_read_state(&mut self) -> Option<ReadState> {
        self.pump();
        self.read_states.pop_front()
    }

    /// Like [`Node::read_index`] where nobody needs to be asked: this member leads, and alone decides or has a
    /// lease. With leases, all ticks that are due must have been given.
    #[must_use]
    pub fn read_index_alone(&self) -> Option<RaftIndex> {
        let raft = &self.raw.raft;
        let lease = self.lease.as_ref();
        let is_alone =
            raft.prs().is_singleton() || lease.is_some_and(|lease| lease.is_valid(self.term()));
        let answers = is_alone && self.is_leader() && raft.commit_to_current_term();
        answers.then(|| self.committed())
    }

    /// Hands the leadership over. It is done when [`Node::leader`] says so, and given up after an election
    /// timeout.
    pub fn transfer_leader(&mut self, to: MemberId) -> Result<(), NodeError> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(NodeError::NotLeader);
        }
        if !self.membership().voters.contains(&to) {
            return Err(MembershipError::Unknown(to).into());
        }
        self.forfeit_lease();
        self.raw.transfer_leader(to.0);
        Ok(())
    }

    /// A message to this member could not be sent.
    pub fn report_unreachable(&mut self, member: MemberId) {
        self.raw.report_unreachable(member.0);
    }

    /// The snapshot that a [`Body::Snapshot`] announced has arrived there, or has not.
    pub fn report_snapshot(&mut self, member: MemberId, arrived: bool) {
        let status = if arrived {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.fed.push(member);
        self.raw.report_snapshot(member.0, status);
    }

    /// A snapshot file is durable, and may be sent to members that lag.
    pub fn on_snapshot_file(&mut self, snapshot: SnapshotMark) {
        self.raw.mut_store().on_snapshot_file(snapshot);
    }

    /// Whether a member needs a newer snapshot file than there is.
    #[must_use]
    pub fn wants_snapshot_file(&self) -> bool {
        self.log().wants_snapshot_file()
    }

    /// How much of what may be kept behind a snapshot for the member that gets it has come since: 1 is all. When more comes
    /// before the member has it, that was for nothing, and it gets another one.
    #[must_use]
    pub fn held_share(&self, snapshot: RaftIndex) -> f64 {
        self.log().bytes_behind(snapshot) as f64 / LOG_HELD_BYTES_MAX as f64
    }

    pub(super) fn log(&self) -> &Log {
        self.raw.store()
    }

    fn check_proposal(&self, payload: &Bytes) -> Result<(), NodeError> {
        if payload.len() > ENTRY_PAYLOAD_BYTES_MAX {
            return Err(NodeError::EntryTooLarge {
                payload_bytes: payload.len(),
            });
        }
        if self.raw.raft.state != StateRole::Leader {
            return Err(NodeError::NotLeader);
        }
        if self.raw.raft.lead_transferee.is_some() {
            return Err(NodeError::Transferring);
        }
        Ok(())
    }

    /// Raft panics when it stands for election between two states: while a snapshot is being put in place,
    /// and, where its own vote is enough, while entries are being written.
    fn may_campaign(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let is_whole = log.applied >= self.log().start().index.0 && self.installing.is_none();
        let is_quiet = log.persisted == log.last_index() && self.gate.is_settled();
        is_whole && (is_quiet || !self.raw.raft.prs().is_singleton())
    }

    fn ask_read(&mut self) -> ReadId {
        self.reads += 1;
        let id = ReadId(self.reads);
        self.raw.read_index(self.read_context(id).to_vec());
        id
    }

    /// A leader asks at every tick whether it is followed.
    fn renew_lease(&mut self) {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader && raft.commit_to_current_term();
        if self.lease.is_none() || !leads || raft.prs().is_singleton() {
            return;
        }
        let id = self.ask_read();
        let term = self.term();
        if let Some(lease) = &mut self.lease {
            lease.on_round(id, term);
        }
    }

    fn forfeit_lease(&mut self) {
        let term = self.term();
        if let Some(lease) = &mut self.lease {
            lease.forfeit(term);
        }
    }

    /// A member that has just started may have promised a leader not to vote.
    fn may_vote(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::may_vote)
    }

    /// Who was removed cannot be elected, but those who stay may not know yet that it was and need its vote. It
    /// may have to refuse, for its log may be longer. Its refusal tells them what is committed, its removal
    /// among it; but they listen only if it is of their term, and a question ahead of an election does not
    /// teach it the term.
    fn keep_up_with(&mut self, message: &Message) {
        let asks_ahead = matches!(message.body, Body::RequestVote { pre: true, .. });
        if !asks_ahead || self.membership().contains(self.config.member) {
            return;
        }
        let asked_in = message.term.0 - 1;
        if asked_in > self.raw.raft.term {
            self.raw.raft.become_follower(asked_in, INVALID_ID);
        }
    }

    /// A leader that leaves has the member that is furthest stand for election.
    fn call_successor(&mut self) {
        let successor = self
            .progress()
            .into_iter()
            .filter(|peer| !peer.is_learner && peer.is_active)
            .max_by_key(|peer| (peer.matched, std::cmp::Reverse(peer.member)));
        if let Some(peer) = successor {
            self.forfeit_lease();
            self.raw.raft.send_timeout_now(peer.member.0);
        }
    }

    fn keep(&self) -> LogKeep {
        let others = self.raw.raft.prs().iter().count() > 1;
        if !others {
            return LogKeep {
                entries: 0,
                bytes: 0,
            };
        }
        self.config.keep
    }

    /// What a leader keeps its log behind for members that get a snapshot: they will need what is behind that, until they
    /// have so much of it that the rest is kept anyway.
    fn needed(&mut self) -> Option<RaftIndex> {
        if self.raw.raft.state != StateRole::Leader {
            self.fed.clear();
            return None;
        }
        let log = self.log();
        let start = log.start().index;
        let mut needed = log.awaits_snapshot().then_some(start);
        let mut fed = Vec::new();
        for (member, progress) in self.raw.raft.prs().iter() {
            let member = MemberId(*member);
            let has = RaftIndex(match progress.state {
                ProgressState::Snapshot => progress.pending_snapshot,
                _ if !self.fed.contains(&member) => continue,
                // It has said nothing yet since the snapshot arrived.
                ProgressState::Probe if progress.matched < start.0 => progress.next_idx - 1,
                _ => progress.matched,
            });
            if has >= start && !log.is_near(has, self.config.keep) {
                fed.push(member);
                needed = Some(needed.map_or(has, |other| other.min(has)));
            }
        }
        self.fed = fed;
        needed
    }

    fn set_timeout(&mut self) {
        let spread = timeout::draw(
            self.config.seed,
            self.config.member,
            self.raw.raft.term,
            self.timeouts,
        ) % self.config.election_ticks as u64;
        let ticks = self.config.election_ticks + spread as usize;
        self.raw.raft.set_randomized_election_timeout(ticks);
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
