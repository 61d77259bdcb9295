//! After the faults: everything must come right again, and what was recorded is judged.

use crate::check::{LeaseRules, Outcome, Violation, check_all};
use crate::member::Member;
use crate::observe::digest;
use crate::wire::Weather;
use crate::world::World;

/// How long the cluster may take to come right.
const RECOVERY_US_MAX: u64 = 60_000_000;
/// How long what was under way may take to come to its end.
const SETTLE_US: u64 = 1_000_000;
/// How long clients go on without faults.
const CALM_US: u64 = 3_000_000;
/// What a crash gives a lease at most: the interval at which lease time is written down, and that of the checks.
const LEASE_GIVEN_US: u64 = 5_500_000;
/// How long after its time a lease is gone where writes get through: the time for which renewals are written ahead, an
/// interval of the checks, and a write, which may have to be sent again.
const LEASE_LATE_US: u64 = 3_000_000;
/// The longest time to live of a lease, and a little.
const LEASES_US: u64 = 18_000_000;

impl World {
    /// Faults end; all members must serve and become equal, and the history must be right.
    pub(crate) fn finish(&mut self) -> Result<(), Violation> {
        self.calm_down()?;
        self.start_added()?;
        self.until(RECOVERY_US_MAX, "a leader", Self::has_leader)?;
        self.start_added()?;
        self.end_removed();
        self.until(RECOVERY_US_MAX, "a leader that all follow", Self::is_led)?;
        // What faults and changes of the membership have left under way comes to its end.
        self.live(SETTLE_US)?;
        self.until(
            RECOVERY_US_MAX,
            "members of all shards that are those of the first one",
            Self::have_followed,
        )?;
        self.live(SETTLE_US)?;
        self.end_removed();
        self.until(RECOVERY_US_MAX, "a leader that all follow", Self::is_led)?;
        let calm_from_us = self.now_us;
        self.live(CALM_US)?;
        self.is_quiet = true;
        self.until(RECOVERY_US_MAX, "every answer", |world| {
            world.clients.iter().all(|client| client.pending.is_none())
        })?;
        self.check_answered(calm_from_us)?;
        self.live(LEASES_US)?;
        self.until(RECOVERY_US_MAX, "equal members", Self::is_equal)?;
        self.until(RECOVERY_US_MAX, "every event", Self::is_watched)?;
        self.judge()
    }

    fn calm_down(&mut self) -> Result<(), Violation> {
        self.trace.event(self.now_us, format_args!("faults end"));
        self.is_calm = true;
        self.wire.mend();
        self.wire.set_weather(Weather {
            delay_us: 100,
            jitter_us: 500,
            ..Weather::default()
        });
        self.options.disk_us = 200;
        for watcher in &mut self.watchers {
            watcher.hurry();
        }
        for place in 0..self.members.len() {
            // Who was told to stop and has not yet must not be what clients wait for.
            if self.members[place].stop_at_us != u64::MAX {
                self.crash_member(place);
            }
            self.set_accidents(place);
            let member = &self.members[place];
            if member.running.is_none() && !member.is_removed {
                self.start_member(place)?;
            }
        }
        Ok(())
    }

    fn live(&mut self, for_us: u64) -> Result<(), Violation> {
        let until_us = self.now_us + for_us;
        while self.now_us < until_us {
            self.restart_some()?;
            self.step()?;
        }
        Ok(())
    }

    fn until(
        &mut self,
        within_us: u64,
        what: &str,
        mut is_reached: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Violation> {
        let until_us = self.now_us + within_us;
        while !is_reached(self) {
            if self.now_us >= until_us {
                let what = format!(
                    "no {what} after {within_us} us without faults; {}",
                    self.describe()
                );
                return Err(Violation::new("G-R-2", what));
            }
            // A member that stopped orderly, or ended because of its disk, is started again.
            self.restart_some()?;
            self.step()?;
        }
        Ok(())
    }

    /// Whether a leader has committed something of its own.
    fn has_leader(&mut self) -> bool {
        self.members.iter().any(|member| member.office.is_some())
    }

    /// Nobody leads those whom another shard still has and the first one does not.
    fn is_led(&mut self) -> bool {
        let known = self.newest_members();
        let belongs = |member: &&Member| known.iter().any(|known| known.id == member.id.0);
        let mut leaders = self.members.iter().filter(belongs).map(|member| {
            let running = member.running.as_ref()?;
            running.engine().node().leader()
        });
        let first = leaders.next().flatten();
        first.is_some() && leaders.all(|leader| leader == first)
    }

    fn is_equal(&mut self) -> bool {
        let engines = self
            .members
            .iter()
            .filter_map(|member| member.running.as_ref());
        let mut applied = engines.map(|running| running.engine().state().applied());
        let first = applied.next();
        applied.all(|applied| Some(applied) == first) && self.is_company_equal()
    }

    fn is_watched(&mut self) -> bool {
        let newest = self.history.log.revision();
        let engines = self
            .members
            .iter()
            .filter_map(|member| member.running.as_ref());
        engines.flat_map(|running| &running.cores).all(|core| {
            let counts = core.fanout.counts();
            counts.watchers == 0
                || (counts.late == 0
                    && core.fanout.revision().0 == newest
                    && counts.events_queued == 0)
        })
    }

    /// Without faults every request is answered.
    fn check_answered(&self, since_us: u64) -> Result<(), Violation> {
        let since = self
            .history
            .ops
            .iter()
            .filter(|op| op.invoked_us >= since_us);
        for op in since {
            // A member that was removed ends when it likes.
            let mut members = self.members.iter();
            let is_gone = members.any(|member| member.id.0 == op.member && member.is_removed);
            // Nor can one know that has got a snapshot meanwhile: the command may be in it.
            let mut members = self.members.iter();
            let has_leapt = members.any(|member| {
                let swapped_us = member.running.as_ref().and_then(|run| run.swapped_us);
                member.id.0 == op.member && swapped_us.is_some_and(|at_us| op.invoked_us <= at_us)
            });
            if op.outcome == Outcome::Unknown && !is_gone && !has_leapt {
                let what = format!("nobody answered {op:?}; {}", self.describe());
                return Err(Violation::new("G-R-2", what));
            }
        }
        Ok(())
    }

    fn judge(&mut self) -> Result<(), Violation> {
        self.history.ended_us = self.now_us;
        self.note_standstill(false);
        if let Some(revision) = self.history.log.orphan() {
            let what = format!("revision {revision} was seen, and one before it never");
            return Err(Violation::new("G-KV-2", what));
        }
        let digests: Vec<(u64, u64)> = self
            .members
            .iter()
            .filter_map(|member| {
                let running = member.running.as_ref()?;
                Some((member.id.0, digest(running.engine(), &self.history.log)))
            })
            .collect();
        if digests.iter().any(|(_, digest)| *digest != digests[0].1) {
            return Err(Violation::new(
                "G-R-7",
                format!("digests differ in the end: {digests:?}"),
            ));
        }
        self.trace
            .number(digests.first().map_or(0, |(_, digest)| *digest));
        self.check_leases_gone()?;
        self.judge_company()?;
        for watcher in &self.watchers {
            watcher.demand_all(&mut self.history.watches);
        }
        let rules = LeaseRules {
            drift_permille: self.options.drift_permille,
            late_us: LEASE_LATE_US,
            leader_change_us: LEASE_GIVEN_US + 40 * self.options.tick_us,
        };
        let counts = check_all(&self.history, &rules)?;
        self.trace.count_many("write acknowledged", counts.writes);
        self.trace.count_many("read checked", counts.reads);
        self.trace
            .count_many("write of unknown fate that happened", counts.unknown_done);
        self.trace.count_many(
            "write of unknown fate that did not",
            counts.unknown_not_done,
        );
        self.trace.count_many("term", self.group.terms() as u64);
        Ok(())
    }

    /// Nobody keeps leases alive any more, so all of them are gone.
    fn check_leases_gone(&self) -> Result<(), Violation> {
        for member in &self.members {
            if let Some(running) = &member.running
                && !running.leases.is_empty()
            {
                let what = format!(
                    "member {} has leases {:?} although nobody kept them alive for {LEASES_US} us",
                    member.id, running.leases
                );
                return Err(Violation::new("G-L-1", what));
            }
        }
        Ok(())
    }

    /// Where everybody stands.
    fn describe(&self) -> String {
        let members = self.members.iter().map(|member| match &member.running {
            None => format!("\n  {} is down", member.id),
            Some(running) => {
                let shards = running.shards.iter().map(|engine| {
                    let node = engine.node();
                    format!(
                        "\n    leader {:?} term {} first {} last {} committed {} applied {:?} pending {} {:?} {:?}",
                        node.leader(),
                        node.term(),
                        node.first(),
                        node.last(),
                        node.committed(),
                        engine.state().applied(),
                        engine.pending_count(),
                        node.membership(),
                        node.progress(),
                    )
                });
                format!("\n  {}:{}", member.id, shards.collect::<String>())
            }
        });
        members.collect()
    }
}
