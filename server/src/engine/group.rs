//! This member's part in its raft group: time, messages, the leader's office, and commands on their way to
//! another member.
//!
//! ```text
//!   leads:    queue --> entries --> own log and the others' --> committed --> applied, answered
//!   follows:  queue --> forwarded to the leader .............. committed --> applied, answered by request id
//! ```
//!
//! A member that was elected is *in office* when it has applied the entry that opens its term: then it has
//! applied everything its predecessors committed, and its lease clock goes on from the last of them.
//!
//! Invariants:
//! 1. Only who is in office makes entries, so lease time never goes back along the log.
//! 2. A forwarded command is proposed at most once. Whether it was, its sender learns from the log, from a
//!    refusal, or never; then the front's time limit answers its client.
//! 3. A command of this member's clients that another member proposed is answered where it is applied here.

use std::collections::BTreeMap;

use bytes::Bytes;
use keelson_consensus::limits::ENTRY_COMMANDS_MAX;
use keelson_consensus::node::{Body, Membership, MembershipChange, Message};
use keelson_consensus::replicate::{ForwardRefusal, Item};
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::MemberRemoveRequest;
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{MemberId, ShardId, Term};
use keelson_storage::io::Disk;
use keelson_storage::state::{ClusterInit, Command, Member, MemberChange, MemberPublish, Request};

use super::auto_compact::AutoCompact;
use super::lease_clock::LeaseClock;
use super::limits::{
    BATCH_BYTES_MAX, FORWARDED_FORGOTTEN_AFTER_US, PEER_ITEMS_MAX, PUBLISH_RETRY_US,
    REMOVAL_LINGERS_ELECTIONS, REQUEST_COUNTER_BITS,
};
use super::reconfigure::{self, CONNECTED_AFTER_US, LeaderView};
use super::shard::{Engine, EngineError, Origin, Queued};

/// What the group needs beside its node.
#[derive(Debug)]
pub(super) struct Group {
    /// This member as it describes itself.
    me: Member,
    tick_us: u64,
    next_tick_us: u64,
    /// Whether this member is the only voter.
    is_alone: bool,
    /// Whether nobody else belongs to the group, learners included.
    is_only: bool,
    /// The term in which this member is in office.
    office: Option<Term>,
    /// What other members are to be told, in order. Bounded: raft repeats what is lost.
    outbox: Vec<(MemberId, Item)>,
    /// Commands that were forwarded, by request id, and since when.
    forwarded: BTreeMap<u64, (Origin, u64)>,
    next_request_id: u64,
    /// When this member next tells the cluster about itself, if it has to.
    publish_at_us: u64,
    /// Whether the leadership was offered to another member before the end.
    handed_over: bool,
    /// This member belongs to the group no more.
    was_removed: bool,
    /// When it has left for good, whoever may still need its vote.
    leaves_at_us: u64,
    /// Messages that found no room.
    pub(super) dropped: u64,
}

impl Group {
    /// `seed` differs between members and between starts.
    pub(super) fn new(me: Member, tick_us: u64, seed: u64, now_us: u64) -> Self {
        Self {
            me,
            tick_us,
            next_tick_us: now_us + tick_us,
            is_alone: false,
            is_only: false,
            office: None,
            outbox: Vec::new(),
            forwarded: BTreeMap::new(),
            next_request_id: (seed << REQUEST_COUNTER_BITS) | 1,
            publish_at_us: now_us,
            handed_over: false,
            was_removed: false,
            leaves_at_us: u64::MAX,
            dropped: 0,
        }
    }

    fn send(&mut self, to: MemberId, item: Item) {
        if self.outbox.len() < PEER_ITEMS_MAX {
            self.outbox.push((to, item));
        } else {
            self.dropped += 1;
        }
    }

    /// Who waits for a command of this request id on this member.
    pub(super) fn take_forwarded(&mut self, request_id: u64) -> Option<Origin> {
        self.forwarded.remove(&request_id).map(|(origin, _)| origin)
    }
}

impl<D: Disk> Engine<D> {
    /// Takes what another member says.
    ///
    /// # Errors
    /// The log on the disk is not what the group takes it for.
    pub fn on_peer(&mut self, from: MemberId, item: Item) -> Result<(), EngineError> {
        match item {
            Item::Raft(message) => self.on_raft_message(from, message),
            Item::Forward(commands) => {
                self.on_forward(from, commands);
                Ok(())
            }
            Item::ForwardRefused {
                why, request_ids, ..
            } => {
                self.on_forward_refused(why, &request_ids);
                Ok(())
            }
            Item::SnapshotOffer(offer) => self.on_snapshot_offer(from, offer),
            Item::SnapshotData {
                transfer,
                offset,
                data,
            } => {
                self.on_snapshot_data(from, transfer, offset, &data);
                Ok(())
            }
            Item::SnapshotAck { transfer, ack } => {
                self.on_snapshot_ack(from, transfer, ack);
                Ok(())
            }
            Item::Server { kind, body } => {
                self.on_server_item(from, kind, body);
                Ok(())
            }
        }
    }

    /// Whether this member was removed from the cluster: it has nothing to do any more.
    #[must_use]
    pub fn was_removed(&self) -> bool {
        self.group.was_removed
    }

    /// Whether this member was removed so long ago that those who stay have had time for an election. Until then
    /// they may need its vote: that the entry is committed may be known to nobody else yet.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.group.was_removed && self.now_us >= self.group.leaves_at_us
    }

    fn removal_lingers_us(&self) -> u64 {
        let group = &self.config.group;
        group.tick_us * group.election_ticks as u64 * REMOVAL_LINGERS_ELECTIONS
    }

    /// What other members are to be told.
    pub fn take_peer_items(&mut self) -> Vec<(MemberId, Item)> {
        std::mem::take(&mut self.group.outbox)
    }

    /// Which shard this is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.config.shard
    }

    /// The members as the state knows them; before the cluster is founded, its founders.
    #[must_use]
    pub fn known_members(&self) -> BTreeMap<MemberId, Member> {
        let known = &self.state.cluster().members;
        if !known.is_empty() {
            return known.clone();
        }
        // Or those of the cluster that this member joins.
        let group = &self.config.group;
        let told = group.founding.iter().chain(&group.peers);
        told.map(|member| (MemberId(member.id), member.clone()))
            .collect()
    }

    /// Whether these are others than the known members.
    #[must_use]
    pub fn members_differ_from(&self, members: &BTreeMap<MemberId, Member>) -> bool {
        let known = &self.state.cluster().members;
        if known.is_empty() {
            return members.is_empty();
        }
        known != members
    }

    /// A message to this member could not be sent.
    pub fn on_unreachable(&mut self, member: MemberId) {
        self.node.report_unreachable(member);
        self.on_transfer_unreachable(member);
    }

    /// Whether this member makes entries.
    pub(super) fn is_in_office(&self) -> bool {
        self.group.office == Some(self.node.term()) && self.node.is_leader()
    }

    /// Whether it alone decides.
    pub(super) fn is_alone(&self) -> bool {
        self.group.is_alone
    }

    /// Looks again who decides, after anything that may have changed it.
    pub(super) fn review_membership(&mut self) {
        let membership = self.node.membership();
        self.group.is_alone = membership.is_sole_voter(self.config.member);
        self.group.is_only = self.group.is_alone && membership.learners.is_empty();
    }

    /// Ticks, and takes office when it is due.
    pub(super) fn advance_group(&mut self) {
        while self.now_us >= self.group.next_tick_us {
            self.group.next_tick_us += self.group.tick_us;
            // Learners hear of their leader by its ticks alone.
            let has_part = !self.group.is_only || !self.node.is_leader();
            if has_part && !self.is_rejoining() {
                self.node.tick();
            }
        }
        self.take_office();
        self.advance_spread();
        self.publish_self();
        self.forget_forwarded();
    }

    /// When time matters to the group again.
    pub(super) fn group_deadline_us(&self) -> Option<u64> {
        let is_settled = self.group.is_only && self.is_in_office();
        (!is_settled).then_some(self.group.next_tick_us)
    }

    /// Whoever leads and has applied its term's first entry is in office.
    pub(super) fn take_office(&mut self) {
        let term = self.node.term();
        let is_due = self.node.is_leader() && self.state.applied().term == term;
        if !is_due || self.group.office == Some(term) {
            return;
        }
        self.group.office = Some(term);
        let mut lease_time = self.state.applied().lease_time;
        if bugs::is_on(Bug::LeaseTimeRestarts) {
            lease_time.0 = 0;
        }
        self.lease_clock = LeaseClock::resume(lease_time, self.now_us);
        self.auto_compact = AutoCompact::new(self.config.auto_compact, self.now_us);
        self.nospace_proposed = false;
        if std::mem::take(&mut self.config.group.forces_new_cluster) {
            self.drop_others();
        }
        if self.state.cluster().members.is_empty() {
            self.queue_own(Request::ClusterInit(ClusterInit {
                cluster_id: self.config.cluster.0,
                members: self.founding_members(),
            }));
        }
    }

    /// All other members are lost for ever, says the operator.
    fn drop_others(&mut self) {
        let others: Vec<u64> = self.state.cluster().members.keys().map(|id| id.0).collect();
        let me = self.config.member.0;
        for id in others.into_iter().filter(|id| *id != me) {
            self.queue_own(Request::MemberRemove(MemberRemoveRequest { id }));
        }
    }

    /// The founding members; this one says all about itself.
    fn founding_members(&self) -> Vec<Member> {
        let founding = self.config.group.founding.iter();
        founding
            .map(|member| {
                if member.id == self.group.me.id {
                    self.group.me.clone()
                } else {
                    member.clone()
                }
            })
            .collect()
    }

    /// Tells the cluster name and URLs of this member where it does not know them.
    fn publish_self(&mut self) {
        if self.now_us < self.group.publish_at_us || self.node.leader().is_none() || self.stopping {
            return;
        }
        let me = &self.group.me;
        let known = self.state.cluster().members.get(&self.config.member);
        let is_news =
            known.is_some_and(|known| known.name != me.name || known.client_urls != me.client_urls);
        if !is_news {
            return;
        }
        let publish = MemberPublish {
            member_id: self.config.member.0,
            name: me.name.clone(),
            client_urls: me.client_urls.clone(),
        };
        self.group.publish_at_us = self.now_us + PUBLISH_RETRY_US;
        self.queue_own(Request::MemberPublish(publish));
    }

    /// Whether a change of the membership is wise, as far as this member can tell: only the leader knows how
    /// the others are.
    pub(super) fn check_reconfiguration(&self, change: MemberChange) -> Result<(), ApiError> {
        if !self.is_in_office() {
            return Ok(());
        }
        let progress = self.node.progress();
        let matched: Vec<_> = progress
            .iter()
            .map(|peer| (peer.member, peer.matched))
            .collect();
        let active = progress.iter().filter(|peer| peer.is_active);
        let connected: Vec<_> = active
            .map(|peer| (peer.member, CONNECTED_AFTER_US))
            .collect();
        let view = LeaderView {
            me: self.config.member,
            matched: self.node.committed(),
            others_matched: &matched,
            others_connected_us: &connected,
            is_strict: self.config.group.is_strict,
        };
        reconfigure::check(self.state.cluster(), change, &view)
    }

    /// Hands what is queued to the member that leads, if it is another one.
    pub(super) fn forward(&mut self) {
        let leader = self.node.leader().filter(|id| *id != self.config.member);
        let Some(leader) = leader else {
            return;
        };
        let mut commands = Vec::new();
        let mut bytes = 0;
        while let Some(queued) = self.queue.pop_front() {
            self.queued_bytes -= queued.body.len();
            if let Origin::Peer(from) = queued.origin {
                // It came to this member while it led.
                let refusal = Item::ForwardRefused {
                    why: ForwardRefusal::NotLeader,
                    leader,
                    request_ids: vec![queued.request_id],
                };
                self.group.send(from, refusal);
                continue;
            }
            let request_id = self.group.next_request_id;
            self.group.next_request_id += 1;
            self.group
                .forwarded
                .insert(request_id, (queued.origin, self.now_us));
            bytes += queued.body.len();
            commands.push(Command::new(queued.request.kind(), request_id, queued.body));
            if bytes >= BATCH_BYTES_MAX || commands.len() >= ENTRY_COMMANDS_MAX {
                self.group
                    .send(leader, Item::Forward(std::mem::take(&mut commands)));
                bytes = 0;
            }
        }
        if !commands.is_empty() {
            self.group.send(leader, Item::Forward(commands));
        }
    }

    /// Hands what may leave to the links.
    pub(super) fn take_raft_messages(&mut self) {
        for (to, message) in self.node.take_messages() {
            match message.body {
                Body::Snapshot { at, membership } => {
                    self.send_snapshot(to, message.term, at, membership);
                }
                _ => self.group.send(to, Item::Raft(message)),
            }
        }
    }

    /// Tells another member something.
    pub(super) fn group_send(&mut self, to: MemberId, item: Item) {
        self.group.send(to, item);
    }

    /// Those who wait for forwarded commands.
    pub(super) fn take_all_forwarded(&mut self) -> impl Iterator<Item = Origin> + use<D> {
        let forwarded = std::mem::take(&mut self.group.forwarded);
        forwarded.into_values().map(|(origin, _)| origin)
    }

    /// This member was removed while it did not hear of it.
    pub(super) fn on_own_removal(&mut self) {
        self.group.was_removed = true;
    }

    /// The leader hands over before it ends.
    pub(super) fn hand_over(&mut self) {
        if self.group.handed_over || !self.node.is_leader() || self.is_alone() {
            return;
        }
        self.group.handed_over = true;
        self.give_office_away();
    }

    /// Has the member that is furthest lead.
    pub(super) fn give_office_away(&mut self) {
        let peers = self.node.progress().into_iter();
        let voters = peers.filter(|peer| peer.is_active && !peer.is_learner);
        if let Some(best) = voters.max_by_key(|peer| peer.matched)
            && let Err(error) = self.node.transfer_leader(best.member)
        {
            tracing::debug!(%error, "the leadership stays");
        }
    }

    fn on_raft_message(&mut self, from: MemberId, message: Message) -> Result<(), EngineError> {
        // Who begins anew must not vote, accept or confirm anything.
        if self.is_rejoining() {
            return Ok(());
        }
        if message.body == Body::TimeoutNow {
            self.on_asked_to_lead();
        }
        self.node.on_message(from, message)?;
        Ok(())
    }

    fn on_forward(&mut self, from: MemberId, commands: Vec<Command>) {
        let mut refused: BTreeMap<u8, (ForwardRefusal, Vec<u64>)> = BTreeMap::new();
        for command in commands {
            let request_id = command.request_id;
            let why = match Request::decode(command.kind, &command.body) {
                Ok(request) => self.admit_forwarded(from, request_id, request, command.body),
                // It was sound when it was sent; a version that knows more than this one sent it.
                Err(_) => Some(ForwardRefusal::NotLeader),
            };
            if let Some(why) = why {
                let (_, ids) = refused.entry(why as u8).or_insert((why, Vec::new()));
                ids.push(request_id);
            }
        }
        let leader = self.node.leader().unwrap_or_default();
        for (why, request_ids) in refused.into_values() {
            let refusal = Item::ForwardRefused {
                why,
                leader,
                request_ids,
            };
            self.group.send(from, refusal);
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
        match self.refusal(&request, &body) {
            None => {
                if bugs::is_on(Bug::ForwardTwice) {
                    self.queue_own(request.clone());
                }
                self.queued_bytes += body.len();
                self.queue.push_back(Queued {
                    origin: Origin::Peer(from),
                    request_id,
                    request,
                    body,
                });
                None
            }
            Some(ApiError::NoSpace) => Some(ForwardRefusal::NoSpace),
            Some(ApiError::TooManyRequests) => Some(ForwardRefusal::TooManyRequests),
            Some(_) => Some(ForwardRefusal::Stopping),
        }
    }

    fn on_forward_refused(&mut self, why: ForwardRefusal, request_ids: &[u64]) {
        let error = match why {
            ForwardRefusal::NotLeader => ApiError::LeaderChanged,
            ForwardRefusal::TooManyRequests => ApiError::TooManyRequests,
            ForwardRefusal::NoSpace => ApiError::NoSpace,
            ForwardRefusal::Stopping => ApiError::Stopped,
        };
        for request_id in request_ids {
            if let Some(origin) = self.group.take_forwarded(*request_id) {
                self.reply(origin, Err(error));
            }
        }
    }

    /// Commands whose fate nobody tells: their clients were answered by their front's time limit long ago.
    fn forget_forwarded(&mut self) {
        let Some(before_us) = self.now_us.checked_sub(FORWARDED_FORGOTTEN_AFTER_US) else {
            return;
        };
        // Request ids grow with time.
        while let Some(oldest) = self.group.forwarded.first_entry()
            && oldest.get().1 < before_us
        {
            let (origin, _) = oldest.remove();
            self.reply(origin, Err(ApiError::Timeout));
        }
    }

    /// The cluster is founded: a member that joins by reading the log from its beginning learns who belongs
    /// to the group.
    pub(super) fn found_group(&mut self) {
        let members = self.state.cluster().members.values();
        let mut founders = Membership::default();
        for member in members {
            let ids = match member.is_learner {
                true => &mut founders.learners,
                false => &mut founders.voters,
            };
            ids.insert(MemberId(member.id));
        }
        if let Err(error) = self.node.found(&founders) {
            tracing::error!(%error, "the founding members make no group");
        }
        self.review_membership();
    }

    /// An entry changed who belongs to the group.
    pub(super) fn on_membership(&mut self, change: MembershipChange) {
        // A forced cluster of one drops members that its group does not have.
        let is_known = self.node.membership().contains(change.member())
            || !matches!(change, MembershipChange::Remove(_));
        if is_known && let Err(error) = self.node.apply_membership(change) {
            tracing::error!(%error, ?change, "the group refuses what the state has taken");
        }
        if change == MembershipChange::Remove(self.config.member) {
            self.group.was_removed = true;
            self.group.leaves_at_us = self.now_us + self.removal_lingers_us();
        }
        self.review_membership();
    }
}
