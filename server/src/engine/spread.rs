//! Which member leads a shard, where there are several: the leaders are spread over the members.
//!
//! The n-th shard prefers the n-th voter, in the order of ids, round and round; so the leaders of as many shards as there are
//! voters are on as many members. A leader that is not the preferred member hands over to it when three things hold: it
//! has been in office for a while, the other one answers, and it has caught up. A leader that was *asked* to stand, by an operator or by a
//! member that stopped, stays for much longer before that: what an operator wants is not undone at once, and what a
//! rolling restart leaves is put right in the end.
//!
//! A transfer that fails is given up by raft after an election timeout and tried again later.

use keelson_storage::ids::{MemberId, Term};
use keelson_storage::io::Disk;

use super::limits::{
    SPREAD_ASKED_FOR_US, SPREAD_ASKED_US, SPREAD_BEHIND_MAX, SPREAD_LOOK_US, SPREAD_SETTLED_US,
};
use super::shard::Engine;

/// What was seen of this member's time as the leader.
#[derive(Debug, Default)]
pub(super) struct Spread {
    look_at_us: u64,
    /// When it is next seen to that another member leads, because this one was removed.
    step_aside_at_us: u64,
    /// The term in which it leads, and since when.
    office: Option<(Term, u64)>,
    /// When it was last asked to stand for election.
    asked_at_us: Option<u64>,
    /// Whether it leads because of that.
    was_asked: bool,
}

impl<D: Disk> Engine<D> {
    /// Another member wants this one to lead.
    pub(super) fn on_asked_to_lead(&mut self) {
        self.spread.asked_at_us = Some(self.now_us);
    }

    /// Hands the leadership to the preferred member when it is due.
    pub(super) fn advance_spread(&mut self) {
        let Some(rank) = self.config.group.spread_rank else {
            return;
        };
        if self.now_us < self.spread.look_at_us || self.stopping {
            return;
        }
        self.spread.look_at_us = self.now_us + SPREAD_LOOK_US;
        if !self.is_in_office() {
            self.spread.office = None;
            return;
        }
        let since_us = self.in_office_since_us();
        let patience_us = match self.spread.was_asked {
            true => SPREAD_ASKED_US,
            false => SPREAD_SETTLED_US,
        };
        if self.now_us < since_us + patience_us {
            return;
        }
        let voters = self.node.membership().voters;
        let preferred = voters.iter().nth(rank % voters.len().max(1)).copied();
        if let Some(preferred) = preferred.filter(|id| self.could_lead(*id)) {
            tracing::info!(shard = %self.config.shard, member = %preferred, "the leadership goes to the preferred member");
            self.transfer_to(preferred);
            // Tried again only after a pause.
            self.spread.office = None;
        }
    }

    /// This member was removed from the cluster, and this shard does not know yet: another one must tell it.
    pub fn step_aside(&mut self) {
        let is_early = self.now_us < self.spread.step_aside_at_us;
        if is_early || !self.node.is_leader() || self.was_removed() {
            return;
        }
        self.spread.step_aside_at_us = self.now_us + SPREAD_LOOK_US;
        let peers = self.node.progress();
        let others = peers.iter().filter(|peer| self.could_lead(peer.member));
        if let Some(best) = others.max_by_key(|peer| peer.matched) {
            self.transfer_to(best.member);
        }
    }

    fn in_office_since_us(&mut self) -> u64 {
        let term = self.node.term();
        if let Some((known, since_us)) = self.spread.office
            && known == term
        {
            return since_us;
        }
        let asked_at_us = self.spread.asked_at_us.take();
        self.spread.was_asked =
            asked_at_us.is_some_and(|at_us| self.now_us < at_us + SPREAD_ASKED_FOR_US);
        self.spread.office = Some((term, self.now_us));
        self.now_us
    }

    /// Whether another member answers, has a vote, and is as far as this one.
    fn could_lead(&self, member: MemberId) -> bool {
        let last = self.node.last();
        let peers = self.node.progress();
        peers.iter().any(|peer| {
            let is_near = peer.matched.0 + SPREAD_BEHIND_MAX >= last.0;
            let is_fit = peer.is_active && !peer.is_learner && !self.lacks_room(member);
            peer.member == member && is_fit && is_near
        })
    }

    fn transfer_to(&mut self, member: MemberId) {
        if let Err(error) = self.node.transfer_leader(member) {
            tracing::debug!(%error, "the leadership stays");
        }
    }
}
