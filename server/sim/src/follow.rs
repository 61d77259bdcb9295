//! The members of the other shards follow those of the first one, as in `front/api/membership.rs`: whoever leads a shard compares
//! its members with the first shard's, and proposes what is missing.
//!
//! The liar goes first. What it has lost may be on one disk beside its own, and that one must not go before (`operator.rs`).

use std::collections::BTreeSet;

use keelson_server::engine::message::{Ask, NO_TOKEN};
use keelson_server::front::api::changes_of_main;
use keelson_storage::ids::MemberId;
use keelson_storage::state::Request;

use crate::world::World;

/// How often it is looked.
const LOOK_US: u64 = 300_000;
const LEARNERS_MAX: u32 = 1;

impl World {
    /// When the members of the other shards are next looked at.
    pub(crate) fn next_follow_us(&self) -> Option<u64> {
        let has_company = self.options.changes_members && !self.company.is_empty();
        has_company.then_some(self.follow_us)
    }

    /// Has the other shards do one thing, where something is missing.
    pub(crate) fn follow_first_shard(&mut self) {
        if self
            .next_follow_us()
            .is_none_or(|at_us| self.now_us < at_us)
        {
            return;
        }
        self.follow_us = self.now_us + LOOK_US;
        let Some(first) = self.newest_list(0) else {
            return;
        };
        let liar = self.liar();
        for member in &mut self.members {
            let Some(running) = &mut member.running else {
                continue;
            };
            let engines = running.shards.iter().enumerate().skip(1);
            let missing = engines.filter(|(_, engine)| engine.node().is_leader());
            let missing: Vec<_> = missing
                .map(|(place, engine)| {
                    let own = engine.state().cluster().member_list();
                    (place, changes_of_main(&own, &first, LEARNERS_MAX))
                })
                .filter(|(_, changes)| !changes.is_empty())
                .collect();
            for (place, changes) in missing {
                let goes = |change: &&Request| match change {
                    Request::MemberRemove(remove) => Some(MemberId(remove.id)) == liar,
                    _ => false,
                };
                let next = changes.iter().find(goes).cloned();
                let request = next.unwrap_or_else(|| self.dice.pick(&changes).clone());
                let body = request.encode_body();
                let ask = Ask::Write { request, body };
                running.ask_shard(place, NO_TOKEN, ask, self.now_us);
                self.trace.count("another shard's members follow");
            }
        }
    }

    /// The member whose disks lie.
    pub(crate) fn liar(&self) -> Option<MemberId> {
        let (place, _) = self.options.liar?;
        Some(self.members[place].id)
    }

    /// Whether all shards have the members of the first one.
    pub(crate) fn have_followed(&mut self) -> bool {
        let ids = |place| {
            let list = self.newest_list(place).unwrap_or_default();
            let ids = list.iter().map(|member| (member.id, member.is_learner));
            ids.collect::<BTreeSet<_>>()
        };
        let first = ids(0);
        (1..=self.company.len()).all(|place| ids(place) == first)
    }

    /// Whether somebody who runs knows this member in any of its shards.
    pub(crate) fn is_known_by_others(&self, id: MemberId) -> bool {
        let others = self.members.iter().filter(|member| member.id != id);
        let mut running = others.filter_map(|member| member.running.as_ref());
        running.any(|running| {
            let mut engines = running.shards.iter();
            engines.any(|engine| engine.state().cluster().members.contains_key(&id))
        })
    }

    /// Whether one of the other shards has this member.
    pub(crate) fn belongs_to_company(&self, id: MemberId) -> bool {
        (1..=self.company.len()).any(|place| {
            let list = self.newest_list(place).unwrap_or_default();
            list.iter().any(|member| member.id == id.0)
        })
    }

    /// The member list of a shard as the state has it that is furthest.
    fn newest_list(&self, place: usize) -> Option<Vec<keelson_proto::etcdserverpb::Member>> {
        let running = self.members.iter();
        let running = running.filter_map(|member| member.running.as_ref());
        let states = running.filter_map(|running| running.shards.iter().nth(place));
        let newest = states.max_by_key(|engine| engine.state().applied().index);
        newest.map(|engine| engine.state().cluster().member_list())
    }
}
