//! Somebody who changes who belongs to the cluster: adds learners, starts and promotes them, removes members.

use std::collections::BTreeSet;

use keelson_storage::ids::MemberId;
use keelson_storage::state::Member as Description;

use crate::check::{Call, MembersChange, Violation};
use crate::member::Member;
use crate::world::World;

/// Members that a cluster keeps, a learner among them perhaps.
const REMAIN_MIN: usize = 3;
/// Members that a cluster has at most.
const MEMBERS_MAX: usize = 6;

impl World {
    /// The operator does something, or looks on.
    pub(crate) fn operate(&mut self, index: usize) {
        let pause_us = self.dice.between(500_000, 4_000_000);
        self.clients[index].next_us = self.now_us + pause_us;
        if self.is_calm {
            return;
        }
        let known = self.newest_members();
        let learner = known.iter().find(|member| member.is_learner);
        let change = match (self.dice.below(3), learner) {
            (0, None) if known.len() < MEMBERS_MAX => {
                self.next_member += 1;
                MembersChange::AddLearner(self.next_member - 1)
            }
            (1, Some(learner)) => MembersChange::Promote(learner.id),
            // A log that was alone is not kept for others. Who is removed takes a copy away: where one lies, the only other one of
            // some entry may be among them, so the liar has to go before anybody else does.
            (2, _) if known.len() > REMAIN_MIN => {
                let liar = self.liar().map(|id| id.0);
                let liar = liar.filter(|id| known.iter().any(|member| member.id == *id));
                MembersChange::Remove(liar.unwrap_or_else(|| self.dice.pick(&known).id))
            }
            _ => return,
        };
        self.send(index, Call::Members(change));
        self.clients[index].next_us = self.now_us + pause_us;
    }

    /// The members as the state knows them that is furthest.
    pub(crate) fn newest_members(&self) -> Vec<Description> {
        let engines = self
            .members
            .iter()
            .filter_map(|member| member.running.as_ref());
        let states = engines.map(|running| running.engine().state());
        let newest = states.max_by_key(|state| state.applied().index);
        newest.map_or_else(Vec::new, |state| {
            state.cluster().members.values().cloned().collect()
        })
    }

    /// Starts members that were added and are not there yet.
    pub(crate) fn start_added(&mut self) -> Result<(), Violation> {
        let known = self.newest_members();
        for added in &known {
            let id = MemberId(added.id);
            if self.members.iter().any(|member| member.id == id) {
                continue;
            }
            let member = Member {
                peers: known.clone(),
                ..Member::new(id, self.options.shards, &mut self.dice)
            };
            self.members.push(member);
            self.trace.count("member added");
            self.trace
                .event(self.now_us, format_args!("member {id} is new"));
            self.start_member(self.members.len() - 1)?;
        }
        Ok(())
    }

    /// Ends members that were removed and never heard of it.
    pub(crate) fn end_removed(&mut self) {
        let known = self.newest_members();
        let known: BTreeSet<u64> = known.iter().map(|member| member.id).collect();
        for place in 0..self.members.len() {
            let member = &self.members[place];
            // One that a shard still knows is needed there.
            let is_needed = self.belongs_to_company(member.id);
            let is_gone = !known.is_empty() && !known.contains(&member.id.0);
            if is_gone && !is_needed && !member.is_removed {
                self.trace.count("member removed that never heard of it");
                self.crash_member(place);
                self.members[place].is_removed = true;
            }
        }
    }
}
