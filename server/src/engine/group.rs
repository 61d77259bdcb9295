//! This member's part in its raft group: time, messages, and the leader's office. Commands on their way to another
//! member are in `forward.rs`.
//!
//! ```text
//!   leads:    queue --> entries --> own log and the others' --> committed --> applied, answered
//!   follows:  queue --> forwarded to the leader .............. committed --> applied, answered by request id
//! ```
//!
//! A member that was elected is *in office* when it has applied the entry that opens its term: then it has
//! applied everything its predecessors committed, and its lease clock goes on from the last of them.
//!
//! Invariant: only who is in office makes entries, so lease time never goes back along the log.

use std::collections::BTreeMap;

use keelson_consensus::node::{Body, Membership, MembershipChange, Message};
use keelson_consensus::replicate::Item;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{MemberPromoteRequest, MemberRemoveRequest};
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{MemberId, ShardId, Term};
use keelson_storage::io::Disk;
use keelson_storage::state::{ClusterInit, Member, MemberChange, MemberPublish, Request};

use super::auto_compact::AutoCompact;
use super::lease_clock::LeaseClock;
use super::limits::{PEER_ITEMS_MAX, PUBLISH_RETRY_US, REMOVAL_LINGERS_ELECTIONS};
use super::message::Outbound;
use super::reconfigure::{self, CONNECTED_AFTER_US, LeaderView};
use super::shard::{Engine, EngineError};

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
    /// Whether this member has no vote.
    is_learner: bool,
    /// The term in which this member is in office.
    office: Option<Term>,
    /// What other members are to be told, in order. Bounded: raft repeats what is lost.
    outbox: Vec<(MemberId, Item)>,
    /// Since when the links to other members are open, once somebody has told.
    links: Option<BTreeMap<MemberId, u64>>,
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
    pub(super) fn new(me: Member, tick_us: u64, now_us: u64) -> Self {
        Self {
            me,
            tick_us,
            next_tick_us: now_us + tick_us,
            is_alone: false,
            is_only: false,
            is_learner: false,
            office: None,
            outbox: Vec::new(),
            links: None,
            publish_at_us: now_us,
            handed_over: false,
            was_removed: false,
            leaves_at_us: u64::MAX,
            dropped: 0,
        }
    }

    /// Whether the next item for another member is not dropped.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < PEER_ITEMS_MAX
    }

    fn send(&mut self, to: MemberId, item: Item) {
        if self.has_room() {
            self.outbox.push((to, item));
        } else {
            self.dropped += 1;
        }
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
                self.on_forward_refused(from, why, &request_ids);
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
        let is_learner = membership.learners.contains(&self.config.member);
        if is_learner != self.group.is_learner {
            self.group.is_learner = is_learner;
            for port in &mut self.ports {
                port.outbox.push_back(Outbound::Learner(is_learner));
            }
        }
    }

    /// Whether this member has no vote.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.group.is_learner
    }

    /// Ticks, and takes office when it is due.
    pub(super) fn advance_group(&mut self) {
        let has_ticked = self.now_us >= self.group.next_tick_us;
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
        self.review_forwarding(has_ticked);
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
            // Commands may have waited for a leader, and nothing comes before the foundation: not even who joins (the
            // simulator's seeds 2 and 5).
            self.queue_first(Request::ClusterInit(ClusterInit {
                cluster_id: self.config.cluster.0,
                members: self.founding_members(),
            }));
        }
    }

    /// All other members are lost for ever, says the operator. A learner gets its vote first: who leaves last must leave a
    /// voter behind.
    fn drop_others(&mut self) {
        let me = self.config.member.0;
        let members = &self.state.cluster().members;
        let is_learner = members
            .get(&self.config.member)
            .is_some_and(|known| known.is_learner);
        let others: Vec<u64> = members.keys().map(|id| id.0).collect();
        if is_learner {
            self.queue_own(Request::MemberPromote(MemberPromoteRequest { id: me }));
        }
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
            .filter_map(|peer| Some((peer.member, self.connected_us(peer.member)?)))
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

    /// Since when the links to other members are open, on the engine's clock; those whose link is not are not there.
    pub fn on_links(&mut self, open_since_us: BTreeMap<MemberId, u64>) {
        self.group.links = Some(open_since_us);
    }

    /// Whether the link to a member is older than this time, on the engine's clock. To itself it always is.
    pub(super) fn is_connected_since(&self, member: MemberId, since_us: u64) -> bool {
        let links = self.group.links.as_ref();
        let open_us = links.map(|links| links.get(&member));
        let is_older = open_us.is_none_or(|open_us| open_us.is_some_and(|at| *at < since_us));
        member == self.config.member || is_older
    }

    /// For how long the link to another member is open. Where nobody tells of links, as in a simulation, whoever answers
    /// counts as connected for long.
    fn connected_us(&self, member: MemberId) -> Option<u64> {
        let Some(links) = &self.group.links else {
            return Some(CONNECTED_AFTER_US);
        };
        let since_us = links.get(&member)?;
        Some(self.now_us.saturating_sub(*since_us))
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

    /// Has the member that is furthest lead. One without room is of no use.
    pub(super) fn give_office_away(&mut self) {
        let peers = self.node.progress().into_iter();
        let voters = peers.filter(|peer| peer.is_active && !peer.is_learner);
        let fit = voters.filter(|peer| !self.lacks_room(peer.member));
        if let Some(best) = fit.max_by_key(|peer| peer.matched)
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
        if self.concerns_group(change)
            && let Err(error) = self.node.apply_membership(change)
        {
            tracing::error!(%error, ?change, "the group refuses what the state has taken");
        }
        if change == MembershipChange::Remove(self.config.member) {
            self.group.was_removed = true;
            self.group.leaves_at_us = self.now_us + self.removal_lingers_us();
        }
        self.review_membership();
    }

    /// Whether an entry changes the group, and not only the member list. A forced cluster of one is a group of its own from
    /// the start: it drops members, and gives itself the vote, that its group does not have or has already; and a member that the last
    /// entries of the old log bring would only keep it from deciding.
    fn concerns_group(&self, change: MembershipChange) -> bool {
        let group = self.node.membership();
        let is_old = self.config.group.forces_new_cluster && change.member() != self.config.member;
        match change {
            MembershipChange::Remove(id) => group.contains(id),
            MembershipChange::AddVoter(id) => !is_old && !group.voters.contains(&id),
            MembershipChange::AddLearner(_) => !is_old,
        }
    }
}
