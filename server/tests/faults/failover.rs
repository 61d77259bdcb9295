//! How long no write is accepted after the leader was killed under load, with the default timers.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::cluster::{Cluster, Ground, MEMBERS};
use crate::load::{Kind, Worker, connect};
use crate::record::Record;

/// What the median must not exceed.
const GOAL: Duration = Duration::from_millis(1500);
const WRITERS: u32 = 8;
/// How often a new write is tried while none is accepted, each on its own.
const TRY_EVERY: Duration = Duration::from_millis(10);
/// How long everything runs undisturbed between two kills.
const SETTLE: Duration = Duration::from_secs(3);
const GIVE_UP: Duration = Duration::from_secs(30);

/// Kills the leader so many times, and prints how long it took each time.
pub async fn measure(times: usize) {
    let mut cluster = Cluster::start("failover", Ground::Direct, &[]).await;
    let record = Record::new();
    let endpoints = cluster.endpoints();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let pause = Duration::from_millis(5);
            let worker = Worker::new(Kind::Keys, number, &record, &endpoints, 1, pause);
            tokio::spawn(worker.run())
        })
        .collect();
    let mut took = Vec::new();
    for turn in 0..times {
        tokio::time::sleep(SETTLE).await;
        let leader = cluster
            .leader()
            .await
            .expect("a healthy cluster has a leader");
        let survivors: Vec<String> = (0..MEMBERS)
            .filter(|index| *index != leader)
            .map(|index| endpoints[index].clone())
            .collect();
        cluster.members[leader].kill();
        let time = until_accepted(&survivors).await;
        println!(
            "{turn}: n{leader} killed, a write accepted after {} ms",
            time.as_millis()
        );
        took.push(time);
        cluster.members[leader].start();
        cluster.all_healthy().await;
    }
    record.be_quiet();
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
    cluster.stop().await;
    took.sort_unstable();
    let median = (took[(times - 1) / 2] + took[times / 2]) / 2;
    println!(
        "median {} ms, shortest {} ms, longest {} ms",
        median.as_millis(),
        took[0].as_millis(),
        took[times - 1].as_millis()
    );
    assert!(median <= GOAL, "the median is over {GOAL:?}");
}

/// The time until the first write of now or later is accepted.
async fn until_accepted(endpoints: &[String]) -> Duration {
    let start = Instant::now();
    let mut clients = Vec::new();
    for endpoint in endpoints {
        clients.push(connect(endpoint).await.expect("a survivor is reached"));
    }
    let (accepted, mut first) = mpsc::unbounded_channel();
    for client in clients.iter().cycle() {
        let (mut client, accepted) = (client.clone(), accepted.clone());
        tokio::spawn(async move {
            if client.put("failover", "", None).await.is_ok() {
                // Only the first one is waited for.
                let _ = accepted.send(start.elapsed());
            }
        });
        if let Ok(Some(time)) = tokio::time::timeout(TRY_EVERY, first.recv()).await {
            return time;
        }
        assert!(start.elapsed() < GIVE_UP, "no write after {GIVE_UP:?}");
    }
    unreachable!("there are survivors")
}
