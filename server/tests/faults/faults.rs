//! What befalls a cluster, one thing after the other, drawn from a seed.

use std::time::Duration;

use fastrand::Rng;

use crate::cluster::{Cluster, MEMBERS};
use crate::load;
use crate::network::Weather;
use crate::record::Record;

/// More than the time between two attempts of a log to make its next segment.
const SEGMENT_RETRY: Duration = Duration::from_millis(2500);

/// How faults follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Each kind once and briefly.
    EachOnce,
    /// Any, for so long.
    Random(Duration),
}

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the leader or of a follower, and a start.
    KillLeader,
    /// The same for a follower.
    KillFollower,
    /// kill -9 of all members at once.
    KillAll,
    /// SIGSTOP, and SIGCONT later.
    PauseLeader,
    /// The same for a follower.
    PauseFollower,
    /// A member neither hears nor is heard.
    Isolate,
    /// The leader hears and is not heard.
    MuteLeader,
    /// The leader is heard and does not hear.
    DeafLeader,
    /// Two members do not hear each other; the third one hears both.
    CutPair,
    /// Everything arrives late, and some is lost.
    Delay,
    /// The leadership is handed over, more than once.
    MoveLeader,
    /// Every member is stopped in order and started again, one after the other.
    RollingRestart,
    /// A member loses its disk; another one takes its place.
    Replace,
    /// A member's disk has no room, while much is written.
    FullDisk,
}

const ALL: [Fault; 13] = [
    Fault::Replace,
    Fault::KillLeader,
    Fault::PauseLeader,
    Fault::MuteLeader,
    Fault::KillFollower,
    Fault::DeafLeader,
    Fault::MoveLeader,
    Fault::Isolate,
    Fault::Delay,
    Fault::PauseFollower,
    Fault::CutPair,
    Fault::RollingRestart,
    Fault::KillAll,
];

/// Who carries faults out.
pub struct Fate {
    plan: Plan,
    dice: Rng,
    record: Record,
}

impl Fate {
    /// Out of a seed.
    pub fn new(plan: Plan, seed: u64, record: &Record) -> Fate {
        Fate {
            plan,
            dice: Rng::with_seed(seed),
            record: record.clone(),
        }
    }

    /// Carries the plan out. After each fault the cluster must serve again.
    pub async fn run(&mut self, cluster: &mut Cluster) {
        match self.plan {
            Plan::EachOnce => {
                for fault in ALL {
                    self.befall(fault, cluster).await;
                }
            }
            Plan::Random(length) => {
                let mut faults = ALL.to_vec();
                if !cluster.disks.is_empty() {
                    faults.push(Fault::FullDisk);
                }
                let until_us = self.record.now_us() + length.as_micros() as u64;
                while self.record.now_us() < until_us {
                    let fault = *self.dice.choice(&faults).expect("there are faults");
                    self.befall(fault, cluster).await;
                }
            }
        }
    }

    async fn befall(&mut self, fault: Fault, cluster: &mut Cluster) {
        let leader = cluster.leader().await.unwrap_or(0);
        let other = (leader + self.dice.usize(1..MEMBERS)) % MEMBERS;
        let any = self.dice.usize(0..MEMBERS);
        self.record.note(format!(
            "{fault:?}; n{leader} leads, other n{other}, any n{any}"
        ));
        match fault {
            Fault::KillLeader => self.kill(cluster, leader).await,
            Fault::KillFollower => self.kill(cluster, other).await,
            Fault::KillAll => {
                for member in &mut cluster.members {
                    member.kill();
                }
                for member in &mut cluster.members {
                    member.start();
                }
            }
            Fault::PauseLeader => self.pause(cluster, leader).await,
            Fault::PauseFollower => self.pause(cluster, other).await,
            Fault::Isolate => self.cut(cluster, |from, to| from == any || to == any).await,
            Fault::MuteLeader => self.cut(cluster, |from, _| from == leader).await,
            Fault::DeafLeader => self.cut(cluster, |_, to| to == leader).await,
            Fault::CutPair => {
                let third = 3 - leader - other;
                self.cut(cluster, |from, to| from != third && to != third)
                    .await;
            }
            Fault::Delay => self.delay(cluster).await,
            Fault::MoveLeader => self.move_leader(cluster, other).await,
            Fault::RollingRestart => {
                for index in 0..MEMBERS {
                    cluster.members[index].stop().await;
                    cluster.members[index].start();
                    cluster.all_healthy().await;
                }
            }
            Fault::Replace => cluster.replace(any).await,
            Fault::FullDisk => self.fill_disk(cluster, any).await,
        }
        let served = cluster.serves().await;
        self.record.note(format!(
            "{fault:?} is over; served after {} ms",
            served.as_millis()
        ));
        cluster.all_healthy().await;
        self.wait(300, 800).await;
    }

    async fn kill(&mut self, cluster: &mut Cluster, index: usize) {
        cluster.members[index].kill();
        self.wait(1500, 3000).await;
        cluster.members[index].start();
    }

    async fn pause(&mut self, cluster: &Cluster, index: usize) {
        cluster.members[index].signal(libc::SIGSTOP);
        match self.plan {
            Plan::EachOnce => self.wait(2500, 4000).await,
            Plan::Random(_) => self.wait(2000, 12_000).await,
        }
        cluster.members[index].signal(libc::SIGCONT);
    }

    async fn cut(&mut self, cluster: &Cluster, is_cut: impl Fn(usize, usize) -> bool) {
        let cut = Weather {
            is_cut: true,
            ..Weather::default()
        };
        self.suffer(cluster, cut, is_cut).await;
    }

    async fn delay(&mut self, cluster: &Cluster) {
        let late = Weather {
            is_cut: false,
            delay: Duration::from_millis(self.dice.u64(5..80)),
            jitter: Duration::from_millis(self.dice.u64(1..60)),
            loss_permille: self.dice.u32(0..20),
        };
        self.suffer(cluster, late, |_, _| true).await;
    }

    async fn suffer(
        &mut self,
        cluster: &Cluster,
        weather: Weather,
        who: impl Fn(usize, usize) -> bool,
    ) {
        for from in 0..MEMBERS {
            for to in 0..MEMBERS {
                if from != to && who(from, to) {
                    cluster.network.set(from, to, weather);
                }
            }
        }
        match self.plan {
            Plan::EachOnce => self.wait(2000, 4000).await,
            Plan::Random(_) => self.wait(500, 12_000).await,
        }
        cluster.network.mend(self.dice.bool());
    }

    async fn move_leader(&mut self, cluster: &Cluster, to: usize) {
        for step in 0..3 {
            let to = (to + step) % MEMBERS;
            if let Err(why) = cluster.move_leader(to).await {
                self.record.note(format!("not moved to n{to}: {why}"));
            }
            self.wait(100, 500).await;
        }
    }

    async fn fill_disk(&mut self, cluster: &mut Cluster, index: usize) {
        cluster.disks[index].fill();
        let writer = (index + 1) % MEMBERS;
        load::write_much(&self.record, cluster, writer).await;
        self.wait(500, 3000).await;
        // The others go on, and nobody has stopped them.
        let accepted = load::write_much(&self.record, cluster, writer).await;
        self.record
            .note(format!("{accepted} writes with a full disk on n{index}"));
        assert!(accepted > 0, "one full disk stops the cluster");
        cluster.has_no_alarm(writer).await;
        cluster.disks[index].relieve();
        if let Some(status) = cluster.members[index].has_exited() {
            self.record
                .note(format!("n{index} ended with {status} for want of room"));
            cluster.members[index].start();
        }
        // A log tries once a second to make its next segment.
        tokio::time::sleep(SEGMENT_RETRY).await;
    }

    async fn wait(&mut self, from_ms: u64, to_ms: u64) {
        let ms = self.dice.u64(from_ms..to_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
