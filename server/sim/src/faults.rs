//! What befalls the members of a run.

use keelson_server::engine::message::{Ask, NO_TOKEN};
use keelson_storage::ids::MemberId;

use crate::check::{ClockJump, Violation};
use crate::world::World;

/// The longest time that a disk is stuck or a process stands still, in microseconds.
pub(crate) const STILL_US_MAX: u64 = 4_000_000;

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
            _ => self.stop_orderly(place),
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
        let member = &mut self.members[place];
        let id = member.id;
        let started = member.start(&self.options, self.now_us, &mut self.dice);
        self.trace
            .event(self.now_us, format_args!("member {id} starts"));
        match started {
            Ok(()) => {
                self.trace.count("start");
                self.record_replayed(place)?;
                self.observe(place)
            }
            Err(error) => self.on_engine_error(place, &error),
        }
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
            running.engine.stop();
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
        let member = &self.members[place];
        member.lane.busy_until(until_us);
        if self.dice.chance(500) {
            member.snapshots.busy_until(until_us);
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

    fn transfer(&mut self, place: usize) {
        let (to, now_us) = (self.members[place].id, self.now_us);
        let runs = self
            .members
            .iter_mut()
            .filter_map(|member| member.running.as_mut());
        for running in runs.filter(|running| running.engine.node().is_leader()) {
            running.ask(0, NO_TOKEN, Ask::MoveLeader(to), now_us);
            self.trace.count("leader transfer");
        }
        self.trace
            .event(now_us, format_args!("leadership is to go to {to}"));
    }

    fn ask_for_checkpoint(&mut self, place: usize) {
        let now_us = self.now_us;
        if let Some(running) = &mut self.members[place].running {
            running.ask(0, NO_TOKEN, Ask::Checkpoint, now_us);
            self.trace.count("checkpoint asked for");
        }
    }
}
