//! What befalls the members of a run.

use keelson_server::engine::Engine;
use keelson_server::engine::message::{Ask, NO_TOKEN};
use keelson_storage::ids::MemberId;
use keelson_storage::recovery::TailReport;

use crate::check::{ClockJump, Violation};
use crate::disk::{Accidents, SharedDisk};
use crate::world::World;

/// The longest time that a disk is stuck or a process stands still, in microseconds.
const STILL_US_MAX: u64 = 4_000_000;

impl World {
    /// Something happens.
    pub(crate) fn befall(&mut self) -> Result<(), Violation> {
        if self.is_calm {
            self.next_fault_us = u64::MAX;
            return Ok(());
        }
        self.next_fault_us = self.now_us + self.dice.between(50_000, 900_000);
        self.restart_some()?;
        self.start_added()?;
        let events = self.options.events;
        let weights = [
            events.crash,
            events.crash_all,
            events.cut,
            events.mend,
            events.stuck_disk,
            events.pause,
            events.clock_jump,
            events.transfer,
            events.checkpoint,
            events.stop,
            events.rot,
        ];
        let mut drawn = self.dice.below(weights.iter().sum());
        let mut chosen = 0;
        while drawn >= weights[chosen] {
            drawn -= weights[chosen];
            chosen += 1;
        }
        let place = self.dice.index(self.members.len());
        match chosen {
            0 => self.crash_one(place),
            1 => (0..self.members.len()).for_each(|place| self.crash_one(place)),
            2 => self.cut(),
            3 => self.wire.mend(),
            4 => self.stick_disk(place),
            5 => self.pause(place),
            6 => self.jump_clock(place),
            7 => self.transfer(place),
            8 => self.ask_for_checkpoint(place),
            9 => self.stop_orderly(place),
            _ => self.rot(),
        }
        Ok(())
    }

    pub(crate) fn restart_some(&mut self) -> Result<(), Violation> {
        for place in 0..self.members.len() {
            let member = &self.members[place];
            let is_due = member.running.is_none() && member.restart_at_us <= self.now_us;
            if is_due && !member.is_removed {
                self.start_member(place)?;
            }
        }
        Ok(())
    }

    /// Starts a member's process.
    pub(crate) fn start_member(&mut self, place: usize) -> Result<(), Violation> {
        if self.members[place].has_forgotten && !self.begin_anew(place) {
            self.members[place].restart_at_us = self.now_us + 200_000;
            return Ok(());
        }
        let member = &mut self.members[place];
        let id = member.id;
        let started = member.start(&self.options, self.now_us, &mut self.dice);
        self.trace
            .event(self.now_us, format_args!("member {id} starts"));
        match started {
            Ok(tail) => {
                self.trace.count("start");
                if matches!(tail, TailReport::Cut { .. }) {
                    self.trace.count("torn end of a log cut off");
                }
                self.record_replayed(place)?;
                self.observe(place)?;
                self.observe_company(place)
            }
            Err(error) => self.on_engine_error(place, &error),
        }
    }

    /// A member whose data is damaged gets empty disks, and is told by another one who belongs to the cluster; false if
    /// none is there. As `boot/rejoin.rs` does it.
    fn begin_anew(&mut self, place: usize) -> bool {
        let id = self.members[place].id;
        let known = self.newest_members();
        let is_told = known.iter().any(|member| member.id == id.0);
        let mut others = known.iter().filter(|member| member.id != id.0);
        if !is_told || others.all(|member| member.is_learner) {
            return false;
        }
        let member = &mut self.members[place];
        member.begin_anew(known, &mut self.dice);
        self.set_accidents(place);
        self.trace.count("member began anew");
        self.trace
            .event(self.now_us, format_args!("member {id} begins anew"));
        true
    }

    /// What may befall a member's disks from now on.
    pub(crate) fn set_accidents(&mut self, place: usize) {
        let accidents = match self.options.liar {
            _ if self.is_calm => Accidents::default(),
            Some((liar, accidents)) if liar == place => accidents,
            _ => self.options.accidents,
        };
        let member = &self.members[place];
        member
            .disks()
            .for_each(|disk| disk.set_accidents(accidents));
    }

    /// The power of a member fails.
    pub(crate) fn crash_member(&mut self, place: usize) {
        self.members[place].crash();
        self.set_office(place, None);
        let wait_us = self.dice.below(3_000_000);
        self.members[place].restart_at_us = self.now_us + wait_us;
        self.drop_connections(place);
    }

    fn crash_one(&mut self, place: usize) {
        if self.members[place].running.is_some() {
            let id = self.members[place].id;
            self.trace
                .event(self.now_us, format_args!("member {id} crashes"));
            self.trace.count("crash");
            self.crash_member(place);
        }
    }

    /// It hands over and closes its log before it ends.
    fn stop_orderly(&mut self, place: usize) {
        let id = self.members[place].id;
        if let Some(running) = &mut self.members[place].running {
            running.stop();
            // What it has to say before its end is said in its next turns, if there are any.
            running.wake_us = self.now_us;
            let wait_us = self.dice.below(400_000);
            self.members[place].stop_at_us = self.now_us + wait_us;
            self.trace
                .event(self.now_us, format_args!("member {id} is told to stop"));
            self.trace.count("orderly stop");
        }
    }

    fn cut(&mut self) {
        let ids: Vec<MemberId> = self.members.iter().map(|member| member.id).collect();
        let one = *self.dice.pick(&ids);
        let other = *self.dice.pick(&ids);
        match self.dice.below(4) {
            0 => {
                self.trace.count("cut one way");
                self.wire.cut(one, other);
            }
            1 => {
                self.trace.count("cut both ways");
                self.wire.cut(one, other);
                self.wire.cut(other, one);
            }
            2 => {
                self.trace.count("member isolated");
                for id in ids {
                    self.wire.cut(one, id);
                    self.wire.cut(id, one);
                }
            }
            _ => {
                self.trace.count("cut in halves");
                for from in &ids {
                    for to in &ids {
                        if (*from <= one) != (*to <= one) {
                            self.wire.cut(*from, *to);
                        }
                    }
                }
            }
        }
        self.trace
            .event(self.now_us, format_args!("cut around {one} and {other}"));
    }

    fn stick_disk(&mut self, place: usize) {
        let until_us = self.now_us + self.dice.between(100_000, STILL_US_MAX);
        let member = &mut self.members[place];
        member.lane.busy_until(until_us);
        member.stuck_until_us = member.stuck_until_us.max(until_us);
        if self.dice.chance(500) {
            member.disks().for_each(|disk| disk.busy_until(until_us));
        }
        let id = member.id;
        self.trace.event(
            self.now_us,
            format_args!("the disk of {id} is stuck until {until_us} us"),
        );
        self.trace.count("disk stuck");
    }

    /// A process stands still, and time goes on.
    fn pause(&mut self, place: usize) {
        let until_us = self.now_us + self.dice.between(100_000, STILL_US_MAX);
        let member = &mut self.members[place];
        member.paused_until_us = until_us;
        let id = member.id;
        self.trace.event(
            self.now_us,
            format_args!("{id} stands still until {until_us} us"),
        );
        self.trace.count("process stands still");
    }

    fn jump_clock(&mut self, place: usize) {
        let by_us = self.dice.between(100_000, 10_000_000);
        let member = &mut self.members[place];
        let id = member.id;
        if let Some(running) = &mut member.running {
            running.jump_clock(by_us);
            running.wake_us = self.now_us;
            let at_us = self.now_us;
            self.history.clock_jumps.push(ClockJump { at_us, by_us });
            self.trace
                .event(at_us, format_args!("the clock of {id} jumps by {by_us} us"));
            self.trace.count("clock jump");
        }
    }

    /// Something that the liar's disks hold is not what it was.
    fn rot(&mut self) {
        let Some((place, _)) = self.options.liar else {
            return;
        };
        let member = &self.members[place];
        let disk = match self.dice.chance(500) {
            true => &member.lane,
            false => self.dice.pick(&member.snapshots),
        };
        let id = member.id;
        if disk.rot() {
            self.trace
                .event(self.now_us, format_args!("a disk of {id} rots"));
            self.trace.count("bit rot");
        }
    }

    fn transfer(&mut self, place: usize) {
        let (to, now_us) = (self.members[place].id, self.now_us);
        let runs = self
            .members
            .iter_mut()
            .filter_map(|member| member.running.as_mut());
        for running in runs {
            let leads = |engine: &Engine<SharedDisk>| engine.node().is_leader();
            let led: Vec<bool> = running.shards.iter().map(leads).collect();
            for place in (0..led.len()).filter(|place| led[*place]) {
                running.ask_shard(place, NO_TOKEN, Ask::MoveLeader(to), now_us);
                self.trace.count("leader transfer");
            }
        }
        self.trace
            .event(now_us, format_args!("leadership is to go to {to}"));
    }

    fn ask_for_checkpoint(&mut self, place: usize) {
        let now_us = self.now_us;
        let shard = self.dice.index(self.options.shards);
        if let Some(running) = &mut self.members[place].running {
            running.ask_shard(shard, NO_TOKEN, Ask::Checkpoint, now_us);
            self.trace.count("checkpoint asked for");
        }
    }
}
