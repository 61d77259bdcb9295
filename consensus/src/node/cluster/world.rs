//! Members, the network between them, and what befalls both.

use std::collections::{BTreeMap, BTreeSet};

use keelson_storage::ids::{MemberId, RaftIndex};

use super::Rng;
use super::machine::{Command, File};
use super::member::{Counts, Member};
use super::truth::Truth;
use crate::durable::Outgoing;
use crate::node::{Body, Feed, Membership, MembershipChange, Message, Role};

/// Steps of the world between two ticks of a member.
const STEPS_PER_TICK: u64 = 4;

/// Steps after the faults within which everything must move again.
const STEPS_TO_RECOVER: u64 = 8_000;

/// What may befall a world, in thousandths for each step.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) members: u64,
    pub(super) steps: u64,
    pub(super) loss: u64,
    pub(super) repeat: u64,
    pub(super) delay_max: u64,
    pub(super) crash: u64,
    pub(super) cut: u64,
    pub(super) change: u64,
    pub(super) transfer: u64,
    pub(super) checkpoint: u64,
    pub(super) slow_disk: u64,
    pub(super) is_broken: bool,
    pub(super) checks_messages: bool,
    /// Prints what happens.
    pub(super) traces: bool,
}

impl Options {
    pub(super) fn swarm(rng: &mut Rng) -> Self {
        let mut pick = |choices: &[u64]| choices[rng.below(choices.len() as u64) as usize];
        Self {
            members: pick(&[1, 3, 3, 3, 5]),
            steps: 1500,
            loss: pick(&[0, 10, 100, 250]),
            repeat: pick(&[0, 50]),
            delay_max: pick(&[1, 3, 12]),
            crash: pick(&[0, 2, 8]),
            cut: pick(&[0, 3, 10]),
            change: pick(&[0, 0, 15]),
            transfer: pick(&[0, 0, 5]),
            checkpoint: pick(&[0, 5, 40]),
            slow_disk: pick(&[900, 500, 100]),
            is_broken: false,
            checks_messages: true,
            traces: false,
        }
    }
}

/// What a run has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) digest: u64,
    pub(super) applied: u64,
    pub(super) terms: u64,
    pub(super) crashes: u64,
    pub(super) changes: u64,
    pub(super) removed: u64,
    pub(super) replaced: u64,
    pub(super) snapshots: u64,
    pub(super) install_crashes: u64,
    pub(super) unpersisted: u64,
    pub(super) reads: u64,
}

#[derive(Debug)]
enum Parcel {
    Message {
        from: MemberId,
        message: Box<Message>,
        file: Option<Box<File>>,
    },
    /// Whether a snapshot has arrived at a member.
    Report { member: MemberId, arrived: bool },
}

pub(super) struct World {
    rng: Rng,
    seed: u64,
    options: Options,
    now: u64,
    members: BTreeMap<MemberId, Member>,
    flying: Vec<(u64, MemberId, Parcel)>,
    /// From whom to whom nothing arrives.
    cuts: BTreeSet<(MemberId, MemberId)>,
    truth: Truth,
    next_number: u64,
    next_member: u64,
    summary: Summary,
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        let ids = 1..=options.members;
        let founders = Membership::of_voters(ids.clone().map(MemberId));
        let members = ids
            .map(MemberId)
            .map(|id| {
                let mut member = Member::new(id, founders.clone());
                member.is_broken = options.is_broken;
                (id, member)
            })
            .collect();
        let mut truth = Truth::default();
        truth.checks_messages = options.checks_messages;
        truth.traces = options.traces;
        Self {
            rng: Rng(seed),
            seed,
            next_member: options.members + 1,
            options,
            now: 0,
            members,
            flying: Vec::new(),
            cuts: BTreeSet::new(),
            truth,
            next_number: 1,
            summary: Summary::default(),
        }
    }

    /// Faults, and then none.
    pub(super) fn run(mut self) -> Result<Summary, String> {
        self.start_all()?;
        while self.now < self.options.steps {
            self.befall()?;
            self.step()?;
        }
        self.heal()?;
        let healed_at = self.now;
        let mut goal = None;
        while !self.has_recovered(&mut goal) {
            if self.now > healed_at + STEPS_TO_RECOVER {
                return Err(format!("nothing moves: {}", self.describe()));
            }
            self.step()?;
        }
        Ok(self.sum_up())
    }

    fn start_all(&mut self) -> Result<(), String> {
        for member in self.members.values_mut() {
            if member.node.is_none() && !member.is_stopped {
                member.start(self.seed, &mut self.truth)?;
            }
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), String> {
        self.cuts.clear();
        self.options = Options {
            loss: 0,
            repeat: 0,
            delay_max: 2,
            crash: 0,
            slow_disk: 900,
            ..self.options.clone()
        };
        self.start_all()
    }

    /// Something happens, or not.
    fn befall(&mut self) -> Result<(), String> {
        let Options {
            crash,
            cut,
            change,
            transfer,
            ..
        } = self.options;
        if self.rng.chance(crash) {
            let id = self.any_member();
            let member = self.members.get_mut(&id).expect("it was drawn from them");
            if member.node.is_some() {
                member.crash(&mut self.rng);
                self.summary.crashes += 1;
            }
        }
        for id in self.ids() {
            let member = self.members.get_mut(&id).expect("it is one of them");
            if member.node.is_none() && !member.is_stopped && self.rng.chance(20) {
                member.start(self.seed, &mut self.truth)?;
            }
        }
        if self.rng.chance(cut) {
            self.cut_or_mend();
        }
        if self.rng.chance(change) {
            self.change_membership()?;
        }
        if self.rng.chance(transfer)
            && let Some(leader) = self.any_leader()
        {
            let to = self.any_member();
            let node = self.members.get_mut(&leader).and_then(|m| m.node.as_mut());
            // It may be no voter, or the leader itself.
            let _refused = node.expect("a leader runs").transfer_leader(to);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += 1;
        for id in self.ids() {
            let ticks = (self.now + id.0).is_multiple_of(STEPS_PER_TICK) && !self.rng.chance(50);
            if ticks && let Some(node) = &mut self.member(id).node {
                node.tick();
            }
        }
        self.deliver();
        self.propose();
        self.read();
        for id in self.ids() {
            self.disk_turn(id);
            let sent = {
                let member = self.members.get_mut(&id).expect("it is one of them");
                member.turn(&mut self.truth)?
            };
            self.truth.check_fresh(&self.members)?;
            for outgoing in sent {
                self.send(id, outgoing);
            }
            self.stop_removed(id);
        }
        Ok(())
    }

    /// A member that was removed stops when those who stay know it for good: until then they may need its vote.
    fn stop_removed(&mut self, id: MemberId) {
        let member = &self.members[&id];
        if member.node.is_none() || !member.is_removed() {
            return;
        }
        let removed_at = member.machine.changed_at;
        let stay = &member.membership().voters;
        if stay
            .iter()
            .all(|voter| self.members[voter].disk.knows_committed(removed_at))
        {
            let member = self.member(id);
            member.stop();
            member.is_stopped = true;
            self.summary.removed += 1;
        }
    }

    fn disk_turn(&mut self, id: MemberId) {
        let (speed, checkpoint) = (self.options.slow_disk, self.options.checkpoint);
        let writes = self.rng.chance(speed);
        let member = self.members.get_mut(&id).expect("it is one of them");
        if writes {
            member.disk_step();
        }
        let wanted = member
            .node
            .as_ref()
            .is_some_and(|node| node.wants_snapshot_file());
        if self.rng.chance(if wanted { 300 } else { checkpoint }) {
            member.checkpoint(&mut self.rng);
        }
    }

    fn propose(&mut self) {
        if !self.rng.chance(300) {
            return;
        }
        let Some(leader) = self.any_leader() else {
            return;
        };
        let number = self.next_number;
        let member = self
            .members
            .get_mut(&leader)
            .expect("a leader is one of them");
        let command = match &member.machine.membership {
            Some(_) => Command::Put(number),
            None => Command::Found(member.membership().clone()),
        };
        let node = member.node.as_mut().expect("a leader runs");
        if node.has_room() && node.propose(command.encode()).is_ok() {
            self.next_number += 1;
        }
    }

    fn read(&mut self) {
        if !self.rng.chance(100) {
            return;
        }
        let acknowledged = self.applied();
        let id = self.any_member();
        let member = self.member(id);
        if let Some(node) = &mut member.node
            && let Ok(read) = node.read_index()
        {
            member.reads.insert(read, acknowledged);
        }
    }

    fn change_membership(&mut self) -> Result<(), String> {
        let Some(leader) = self.any_leader() else {
            return Ok(());
        };
        let choice = self.rng.below(3);
        let drawn = self.any_member();
        let new = MemberId(self.next_member);
        let member = self
            .members
            .get_mut(&leader)
            .expect("a leader is one of them");
        let members = member.membership().clone();
        let node = member.node.as_mut().expect("a leader runs");
        let ready = node.progress().into_iter().find(|peer| {
            peer.is_learner && peer.feed == Feed::Replicate && peer.matched.0 + 3 >= node.last().0
        });
        let change = match (choice, ready) {
            (0, _) if members.voters.len() + members.learners.len() < 6 => {
                MembershipChange::AddLearner(new)
            }
            (1, Some(peer)) => MembershipChange::AddVoter(peer.member),
            (2, _) => MembershipChange::Remove(drawn),
            _ => return Ok(()),
        };
        // Before the cluster is founded nobody is known.
        if member.machine.membership.is_none() {
            return Ok(());
        }
        let payload = Command::Change(change).encode();
        if node.propose_membership(payload, change).is_ok() {
            self.summary.changes += 1;
            if change == MembershipChange::AddLearner(new) {
                self.next_member += 1;
                let mut member = Member::new(new, Membership::default());
                member.is_broken = self.options.is_broken;
                member.start(self.seed, &mut self.truth)?;
                self.members.insert(new, member);
            }
        }
        Ok(())
    }

    fn cut_or_mend(&mut self) {
        if self.rng.chance(500) {
            self.cuts.clear();
            return;
        }
        let (one, other) = (self.any_member(), self.any_member());
        match self.rng.below(3) {
            // One way.
            0 => {
                self.cuts.insert((one, other));
            }
            // From everybody.
            1 => {
                for id in self.ids() {
                    self.cuts.insert((one, id));
                    self.cuts.insert((id, one));
                }
            }
            // In halves.
            _ => {
                for from in self.ids() {
                    for to in self.ids() {
                        if (from <= one) != (to <= one) {
                            self.cuts.insert((from, to));
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, from: MemberId, (to, message): Outgoing) {
        let mut file = None;
        if let Body::Snapshot { at, .. } = &message.body {
            let sender = self.member(from);
            let made = sender.disk.file.clone();
            file = made.filter(|file| file.at() == *at).map(Box::new);
            if file.is_none() {
                self.report(from, to, false);
                return;
            }
        }
        let copies = 1 + u64::from(self.rng.chance(self.options.repeat));
        for _ in 0..copies {
            if self.rng.chance(self.options.loss) {
                if file.is_some() {
                    self.report(from, to, false);
                }
                continue;
            }
            let patience = if file.is_some() { 10 } else { 1 };
            let delay = 1 + self.rng.below(self.options.delay_max * patience);
            let parcel = Parcel::Message {
                from,
                message: Box::new(message.clone()),
                file: file.clone(),
            };
            self.flying.push((self.now + delay, to, parcel));
        }
    }

    fn report(&mut self, to: MemberId, member: MemberId, arrived: bool) {
        let at = self.now + 1 + self.rng.below(self.options.delay_max);
        self.flying
            .push((at, to, Parcel::Report { member, arrived }));
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, flying) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|(at, _, _)| *at <= now);
        self.flying = flying;
        for (_, to, parcel) in due {
            let runs = self.members.get(&to).is_some_and(|m| m.node.is_some());
            match parcel {
                Parcel::Report { member, arrived } => {
                    if let Some(node) = self.members.get_mut(&to).and_then(|m| m.node.as_mut()) {
                        node.report_snapshot(member, arrived);
                    }
                }
                Parcel::Message {
                    from,
                    message,
                    file,
                } => {
                    let arrives = runs && !self.cuts.contains(&(from, to));
                    if file.is_some() {
                        self.report(from, to, arrives);
                    }
                    if arrives {
                        self.member(to)
                            .receive(from, *message, file.map(|file| *file));
                    }
                }
            }
        }
    }

    /// Whether a proposal made since the end of the faults has been applied by every member.
    fn has_recovered(&self, goal: &mut Option<RaftIndex>) -> bool {
        let leads = |member: &&Member| {
            let node = member.node.as_ref();
            node.is_some_and(|node| node.role() == Role::Leader)
        };
        let newest = self
            .members
            .values()
            .filter(leads)
            .max_by_key(|member| member.node.as_ref().map(|node| node.term()));
        let Some(leader) = newest else {
            return false;
        };
        let goal = *goal.get_or_insert(RaftIndex(self.applied().0 + 5));
        let members = leader.membership();
        members
            .voters
            .iter()
            .chain(&members.learners)
            .all(|id| self.members[id].machine.applied.index >= goal)
    }

    fn sum_up(self) -> Summary {
        let mut summary = self.summary;
        summary.digest = self.truth.digest;
        summary.applied = self.applied().0;
        summary.reads = self.truth.reads;
        for member in self.members.values() {
            let Counts {
                replaced,
                installed,
                install_crashes,
                applied_unpersisted,
            } = member.counts;
            summary.replaced += replaced;
            summary.snapshots += installed;
            summary.install_crashes += install_crashes;
            summary.unpersisted += applied_unpersisted;
        }
        summary.terms = self.truth.terms();
        summary
    }

    fn describe(&self) -> String {
        let members = self.members.values().map(|member| {
            format!(
                "\n  {}: applied {:?} of {:?}, {:?} {:?}",
                member.id,
                member.machine.applied,
                member.membership(),
                member.node,
                member.node.as_ref().map(|node| node.progress()),
            )
        });
        members.collect()
    }

    /// The last entry that anybody has applied, and so may have acknowledged.
    fn applied(&self) -> RaftIndex {
        let last = self.truth.applied.last_key_value();
        last.map(|(index, _)| *index).unwrap_or_default()
    }

    fn ids(&self) -> Vec<MemberId> {
        self.members.keys().copied().collect()
    }

    fn member(&mut self, id: MemberId) -> &mut Member {
        self.members.get_mut(&id).expect("it is one of them")
    }

    fn any_member(&mut self) -> MemberId {
        let ids = self.ids();
        ids[self.rng.below(ids.len() as u64) as usize]
    }

    fn any_leader(&mut self) -> Option<MemberId> {
        let leaders: Vec<_> = self
            .members
            .values()
            .filter(|member| member.node.as_ref().is_some_and(|node| node.is_leader()))
            .map(|member| member.id)
            .collect();
        let drawn = self.rng.below(leaders.len() as u64) as usize;
        leaders.get(drawn).copied()
    }
}
