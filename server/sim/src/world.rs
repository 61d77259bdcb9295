//! The world of a run: everything that exists in it, and the order in which it happens.
//!
//! Time jumps from one thing to the next: an item arrives, a member has something to do, a client asks or gives up, a
//! fault befalls. What happens at one moment happens in a fixed order, so a run depends on its seed alone.

use std::collections::BTreeMap;

use keelson_server::engine::EngineError;
use keelson_storage::ids::MemberId;

use crate::check::{Group, History, Violation};
use crate::client::{Client, Kind};
use crate::company::Other;
use crate::dice::Dice;
use crate::disk::SharedDisk;
use crate::member::{Member, founder};
use crate::observe::take_changes;
use crate::options::Options;
use crate::trace::Trace;
use crate::watcher::Watcher;
use crate::wire::{Arrival, Sent, Wire};

/// The id of the first founding member.
const FIRST_MEMBER: u64 = 11;

/// Everything in a run.
#[derive(Debug)]
pub struct World {
    pub(crate) options: Options,
    pub(crate) dice: Dice,
    pub(crate) now_us: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) wire: Wire,
    pub(crate) clients: Vec<Client>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) history: History,
    pub(crate) group: Group,
    /// What is known of the other shards.
    pub(crate) company: Vec<Other>,
    pub(crate) trace: Trace,
    /// Which client waits for a token.
    pub(crate) tokens: BTreeMap<u64, usize>,
    pub(crate) next_token: u64,
    pub(crate) next_fault_us: u64,
    /// Faults are over.
    pub(crate) is_calm: bool,
    /// Clients ask no more.
    pub(crate) is_quiet: bool,
    /// The newest term in which somebody was in office, and whether anybody is.
    pub(crate) newest_office: u64,
    /// See `newest_office`.
    pub(crate) is_office_held: bool,
    /// The terms in which leases were granted that nobody has revoked.
    pub(crate) lease_terms: BTreeMap<i64, u64>,
    /// Since when whoever is in office can get nothing done.
    pub(crate) still_since_us: Option<u64>,
    /// The id of the next member that joins.
    pub(crate) next_member: u64,
    /// When the members of the other shards are next looked at.
    pub(crate) follow_us: u64,
}

impl World {
    /// A cluster that is about to be founded.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let options = Options::draw(&mut dice);
        let ids = (0..options.members as u64).map(|index| MemberId(FIRST_MEMBER + index));
        let founding: Vec<_> = ids.clone().map(founder).collect();
        let members = ids.map(|id| Member {
            founding: founding.clone(),
            ..Member::new(id, options.shards, &mut dice)
        });
        let members: Vec<Member> = members.collect();
        let mut wire = Wire::default();
        wire.set_weather(options.weather);
        let operators = usize::from(options.changes_members);
        let count = options.clients + options.lease_clients + operators;
        let clients = (0..count).map(|number| Client {
            home: dice.chance(700).then(|| members[number % members.len()].id),
            next_us: 0,
            pending: None,
            kind: if number < options.clients {
                Kind::Keys
            } else if number < options.clients + options.lease_clients {
                Kind::Leases(Vec::new())
            } else {
                Kind::Operator
            },
        });
        let clients: Vec<Client> = clients.collect();
        let watchers =
            (0..options.watchers as u32).map(|number| Watcher::new(number, &options, &mut dice));
        let watchers: Vec<Watcher> = watchers.collect();
        Self {
            follow_us: 0,
            next_member: FIRST_MEMBER + options.members as u64,
            company: (1..options.shards).map(|_| Other::default()).collect(),
            options,
            dice,
            now_us: 0,
            members,
            wire,
            clients,
            watchers,
            history: History::default(),
            group: Group::default(),
            trace: Trace::default(),
            tokens: BTreeMap::new(),
            next_token: 0,
            next_fault_us: 1_000_000,
            is_calm: false,
            is_quiet: false,
            newest_office: 0,
            is_office_held: false,
            lease_terms: BTreeMap::new(),
            still_since_us: None,
        }
    }

    /// Lives through the faults and what comes after them.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn run(&mut self) -> Result<(), Violation> {
        for index in 0..self.members.len() {
            self.start_member(index)?;
            self.set_accidents(index);
        }
        while self.now_us < self.options.fault_us {
            self.step()?;
        }
        self.finish()
    }

    /// Goes to the next moment at which something happens.
    pub(crate) fn step(&mut self) -> Result<(), Violation> {
        self.note_standstill(self.stands_still());
        self.now_us = self.now_us.max(self.next_moment_us());
        while let Some(arrival) = self.wire.take(self.now_us) {
            self.on_arrival(arrival);
        }
        for index in 0..self.members.len() {
            if self.members[index]
                .next_us()
                .is_some_and(|at_us| at_us <= self.now_us)
            {
                self.member_turn(index)?;
            }
        }
        self.act_clients();
        self.ask_company();
        self.follow_first_shard();
        for watcher in &mut self.watchers {
            if watcher.next_us <= self.now_us {
                watcher.act(
                    self.now_us,
                    &mut self.members,
                    &mut self.history.watches,
                    &mut self.trace,
                    &mut self.dice,
                );
            }
        }
        if self.next_fault_us <= self.now_us {
            self.befall()?;
        }
        Ok(())
    }

    fn next_moment_us(&self) -> u64 {
        let members = self.members.iter().filter_map(Member::next_us);
        let clients = self
            .clients
            .iter()
            .filter_map(|client| match &client.pending {
                Some(pending) => Some(pending.deadline_us),
                None => (!self.is_quiet).then_some(client.next_us),
            });
        let company = self.company.iter().filter(|_| !self.is_quiet);
        let company = company.map(|other| other.next_us);
        let watchers = self.watchers.iter().map(|watcher| watcher.next_us);
        let all = members
            .chain(clients)
            .chain(company)
            .chain(watchers)
            .chain(self.wire.next_us())
            .chain(self.next_follow_us());
        all.chain([self.next_fault_us])
            .min()
            .expect("there is always a next fault, or calm")
    }

    fn on_arrival(&mut self, arrival: Arrival) {
        let now_us = self.now_us;
        let Some(member) = self.member_mut(arrival.to) else {
            return;
        };
        let is_same = member.starts == arrival.start;
        let Some(running) = member.running.as_mut().filter(|_| is_same) else {
            return self.on_unreachable(arrival.shard, arrival.from, arrival.to);
        };
        // A member takes no link from one that none of its shards knows.
        let mut engines = running.shards.iter();
        let knows_it = engines.any(|engine| {
            let members = &engine.state().cluster().members;
            members.is_empty() || members.contains_key(&arrival.from)
        });
        if !knows_it {
            return;
        }
        let heard = (arrival.shard, arrival.from, arrival.item);
        running.heard.push(heard);
        running.wake_us = running.wake_us.min(now_us);
    }

    /// A link tells its sender that nothing gets through, sooner or later or never.
    fn on_unreachable(&mut self, shard: usize, from: MemberId, to: MemberId) {
        if !self.dice.chance(500) {
            return;
        }
        if let Some(sender) = self.member_mut(from)
            && let Some(running) = &mut sender.running
        {
            running.shards.engine(shard).on_unreachable(to);
        }
    }

    /// A turn of a member, and what follows from it.
    fn member_turn(&mut self, index: usize) -> Result<(), Violation> {
        let now_us = self.now_us;
        let member = &mut self.members[index];
        member.disks().for_each(|disk| disk.set_time(now_us));
        let id = member.id;
        let Some(running) = &mut member.running else {
            return Ok(());
        };
        let turn = running.turn(now_us, &mut self.dice);
        if running.take_rejoined() {
            // Now and then it ends before that is noted.
            member.has_forgotten = self.dice.chance(100);
            self.trace.count("damage repaired: member whole again");
            self.trace
                .event(now_us, format_args!("{id} has everything again"));
        }
        let has_leapt = running.swapped_us.is_some();
        if running.swapped_us == Some(now_us) {
            self.trace.count("snapshot received");
            if running.is_mended {
                self.trace.count("damage repaired: snapshot replaced");
            }
            self.trace
                .event(now_us, format_args!("{id} has another member's snapshot"));
        }
        for disk in member.disks() {
            if disk.pending().is_some_and(|ready_us| ready_us <= now_us) {
                disk.busy_until(now_us + 1 + self.dice.below(self.options.disk_us));
            }
        }
        let result = match turn {
            Ok(result) => result,
            Err(error) => return self.on_engine_error(index, &error),
        };
        let changes = result.changes.into_iter();
        take_changes(changes, has_leapt, &mut self.history.log)?;
        self.observe(index)?;
        self.observe_company(index)?;
        for (shard, to, item) in result.items {
            let start = self.member_mut(to).map_or(0, |member| member.starts);
            let arrival = Arrival {
                from: id,
                to,
                shard,
                start,
                item,
            };
            match self.wire.send(now_us, arrival, &mut self.dice) {
                Sent::Going => {}
                Sent::Twice => self.trace.count("message twice"),
                Sent::Lost => {
                    self.trace.count("message lost");
                    self.on_unreachable(shard, id, to);
                }
            }
        }
        for (token, answer) in result.replies {
            self.on_reply(index, token, answer);
        }
        for (place, token, answer) in result.company_replies {
            self.on_company_reply(place, token, answer)?;
        }
        self.serve_watchers(index);
        self.end_if_told(index)
    }

    /// A process that was removed ends, and so does one that was told to stop.
    fn end_if_told(&mut self, index: usize) -> Result<(), Violation> {
        let has_company = !self.company.is_empty();
        let is_let_go = has_company && !self.is_known_by_others(self.members[index].id);
        let member = &mut self.members[index];
        let Some(running) = &mut member.running else {
            return Ok(());
        };
        // As `engine/driver.rs` does it.
        let has_left_first = running.engine().has_left();
        if has_left_first {
            for place in 1..running.shards.count() {
                running.shards.engine(place).step_aside();
            }
        }
        let mut engines = running.shards.iter();
        let is_left = engines.all(|engine| engine.has_left() || is_let_go);
        drop(engines);
        if has_left_first && is_left {
            member.is_removed = true;
            self.trace.count("member removed");
            self.crash_member(index);
        } else if member.stop_at_us <= self.now_us && running.shards.are_drained() {
            if let Err(error) = running.shards.engine(0).close() {
                return self.on_engine_error(index, &error);
            }
            self.crash_member(index);
        }
        Ok(())
    }

    fn serve_watchers(&mut self, index: usize) {
        let now_us = self.now_us;
        let member = &mut self.members[index];
        if let Some(running) = &mut member.running
            && running.notify_at_us <= now_us
        {
            running.notify_at_us = now_us + 300_000;
            for core in &mut running.cores {
                core.fanout.on_progress_interval();
            }
        }
        for watcher in &mut self.watchers {
            if watcher.member() == Some(member.id) {
                let watches = &mut self.history.watches;
                watcher.read_soon(now_us, member, watches, &mut self.trace);
            }
        }
    }

    /// A process ends with an error: with reason, or not.
    pub(crate) fn on_engine_error(
        &mut self,
        index: usize,
        error: &EngineError,
    ) -> Result<(), Violation> {
        let member = &self.members[index];
        let has_lied = member.disks().any(SharedDisk::has_lied);
        let has_reason = member.disks().any(|disk| disk.happened().is_any());
        let id = member.id;
        self.trace
            .event(self.now_us, format_args!("member {id} ends: {error}"));
        let is_found = has_lied && error.is_damage();
        if !has_reason && !is_found {
            let what = format!("member {id} ended: {error}");
            return Err(Violation::new("G-D-1", what));
        }
        self.trace.count(match is_found {
            true => "damage found",
            false => "member ended by its disk",
        });
        self.crash_member(index);
        self.members[index].has_forgotten |= is_found;
        Ok(())
    }

    pub(crate) fn member_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }
}
