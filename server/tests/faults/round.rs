//! A cluster's life: load, faults, recovery, judgement.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::check::KvCounts;
use crate::cluster::{Cluster, Ground};
use crate::faults::{Fate, Plan};
use crate::judgement::{census, examine, judge, leases_end, spoil};
use crate::load::{Kind, PATIENCE, Worker};
use crate::record::Record;
use crate::watchers::Watcher;

const KEY_CLIENTS: u32 = 6;
const LEASE_CLIENTS: u32 = 2;
const WATCHERS: u32 = 6;
/// How long a client thinks between two operations, on average.
const PAUSE: Duration = Duration::from_millis(25);
/// How long a round of a long run has faults.
const ROUND: Duration = Duration::from_secs(240);
/// What a client learns of a fault after it, before everything must be answered; and how long that is then tried.
const SETTLE: Duration = Duration::from_secs(2);
const CALM: Duration = Duration::from_secs(2);
/// Checkpoints all the time, and logs that do not reach back to what a member misses in a second.
const SHORT_LOGS: [&str; 3] = [
    "--snapshot-count=60",
    "--snapshot-catchup-entries=20",
    "--checkpoint-log-bytes-min=32768",
];
/// How long watches may take to deliver everything.
const WATCHES_MAX: Duration = Duration::from_secs(60);

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, want a number")),
        Err(_) => default,
    }
}

/// One round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// What is drawn, is drawn from this.
    pub seed: u64,
    /// What befalls the cluster.
    pub plan: Plan,
    /// What it stands on.
    pub ground: Ground,
}

/// Rounds with one seed after the other.
pub async fn many(seed: u64, length: Duration) {
    let ground = Ground::of_environment();
    let start = Instant::now();
    let mut rounds = 0;
    let mut total = KvCounts::default();
    while start.elapsed() < length {
        let left = length.saturating_sub(start.elapsed());
        let round = Round {
            seed: seed + rounds,
            plan: Plan::Random(ROUND.min(left)),
            ground,
        };
        let counts = round.run().await;
        rounds += 1;
        total.writes += counts.writes;
        total.reads += counts.reads;
        total.unknown_done += counts.unknown_done;
        total.unknown_not_done += counts.unknown_not_done;
        println!(
            "{rounds} rounds, {} s: lost acknowledged writes 0, violations 0; {total:?}",
            start.elapsed().as_secs()
        );
    }
}

impl Round {
    /// Runs it, and panics if a promise was broken.
    pub async fn run(self) -> KvCounts {
        let record = Record::new();
        // Without the catch the time line would not be printed when an expectation fails on the way.
        let result = AssertUnwindSafe(self.live(&record)).catch_unwind().await;
        match result {
            Ok(counts) => counts,
            Err(panic) => {
                eprintln!("{self:?} failed. What befell:");
                for (at_us, what) in &record.pages().timeline {
                    eprintln!("{:9.3} s  {what}", *at_us as f64 / 1e6);
                }
                std::panic::resume_unwind(panic);
            }
        }
    }

    async fn live(self, record: &Record) -> KvCounts {
        // Every other round has members catch up by snapshot files, and watches get their history from them.
        let flags = match self.seed % 2 {
            0 => &[][..],
            _ => &SHORT_LOGS[..],
        };
        let name = format!("seed-{}", self.seed);
        let mut cluster = Cluster::start(&name, self.ground, flags).await;
        record.note(format!("{self:?}, in {}", cluster.folder.display()));
        let clients = self.clients(&cluster, record);
        let watchers = self.watchers(&cluster, record);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Fate::new(self.plan, self.seed, record)
            .run(&mut cluster)
            .await;
        cluster.all_healthy().await;
        tokio::time::sleep(SETTLE).await;
        let calm_from_us = record.now_us();
        record.note("calm");
        tokio::time::sleep(CALM).await;
        record.be_quiet();
        for client in clients {
            client.await.expect("a client does not panic");
        }
        leases_end(&cluster, record).await;
        let revision = examine(&cluster, record).await;
        record.end_watches_at(revision);
        for watcher in watchers {
            let ended = tokio::time::timeout(WATCHES_MAX, watcher).await;
            ended
                .expect("a watch gets everything without faults")
                .expect("a watch does not panic");
        }
        let census = census(&record.pages().ops);
        let watched = record.pages().watches.len();
        match judge(record, calm_from_us) {
            Ok((counts, history)) => {
                if self.plan == Plan::EachOnce {
                    spoil(&history);
                }
                record.note(format!("{census}; {watched} watches; {counts:?}"));
                cluster.stop().await;
                counts
            }
            Err(violation) => panic!("{violation}"),
        }
    }

    fn clients(self, cluster: &Cluster, record: &Record) -> Vec<tokio::task::JoinHandle<()>> {
        let kinds = std::iter::repeat_n(Kind::Keys, KEY_CLIENTS as usize)
            .chain(std::iter::repeat_n(Kind::Leases, LEASE_CLIENTS as usize))
            .chain([Kind::Compactions]);
        let endpoints = cluster.endpoints();
        let workers = (1..).zip(kinds).map(|(number, kind)| {
            let worker = Worker::new(kind, number, record, &endpoints, self.seed, PAUSE);
            tokio::spawn(worker.run())
        });
        workers.collect()
    }

    fn watchers(self, cluster: &Cluster, record: &Record) -> Vec<tokio::task::JoinHandle<()>> {
        let endpoints = cluster.endpoints();
        let scribe = Watcher::scribe(100, record, &endpoints, self.seed);
        let others = (101..=100 + WATCHERS)
            .map(|number| Watcher::any(number, record, &endpoints, self.seed));
        let all = std::iter::once(scribe).chain(others);
        all.map(|watcher| tokio::spawn(watcher.run())).collect()
    }
}

const _: () = assert!(PATIENCE.as_secs() >= SETTLE.as_secs());
