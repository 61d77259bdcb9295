//! Real faults: three real members on one machine, clients that never stop, and judges of what the clients saw.
//!
//! ```text
//!   round       a cluster's life: load, faults, recovery, judgement
//!     cluster     three members and the network between them; leaders, joining and leaving
//!       member      one process: started, stopped, killed, paused
//!       disk        a small one that can be full; needs root
//!       network     what each member's words to each other one have to suffer
//!         proxy       carries it out on TCP connections; needs nothing
//!         switch      carries it out on IP packets between network namespaces; needs root
//!     faults      what befalls, by a seed
//!     load        clients of keys, leases and history, through the `etcd-client` crate
//!     watchers    watches that go on elsewhere when a member fails; one of them writes down every change
//!     record      what all of them asked and heard, with times
//!     judgement   what must come right, and the checkers of the simulator over the record
//!   failover    how long no write is accepted after the leader was killed
//! ```
//!
//! The default run has one short round, with proxies. These are asked for by name:
//!
//! ```sh
//! KEELSON_FAULTS_MINUTES=30 cargo test --release -p keelson --test faults -- --ignored --nocapture long
//! cargo test --release -p keelson --test faults -- --ignored --nocapture failover
//! ```
//!
//! Knobs: `KEELSON_FAULTS_SEED`, `KEELSON_FAULTS_MINUTES`, `KEELSON_FAULTS_NET` (`proxies` or `namespaces`; by default
//! the long run takes namespaces where it can), `KEELSON_FAULTS_SERVER` (another build of the server).
//!
//! Invariant: a round never takes more from the cluster than the promises allow for, so a violation is the product's.

#![allow(clippy::unwrap_used)]

#[allow(
    dead_code,
    unused_imports,
    reason = "the judges are the simulator's; not all of what they offer is asked for here"
)]
#[path = "../../sim/src/check/mod.rs"]
mod check;
#[allow(dead_code, reason = "the black-box tests use the rest")]
#[path = "../blackbox/harness/http.rs"]
mod http;
#[allow(dead_code, reason = "the black-box tests use the rest")]
#[path = "../blackbox/harness/launch.rs"]
mod launch;
#[path = "../blackbox/harness/ports.rs"]
mod ports;

mod cluster;
mod disk;
mod failover;
mod faults;
mod judgement;
mod load;
mod member;
mod network;
mod proxy;
mod record;
mod round;
mod switch;
mod translate;
mod watchers;

use std::time::Duration;

use cluster::Ground;
use faults::Plan;
use round::{Round, number};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_d_1_what_was_promised_holds_under_faults() {
    let round = Round {
        seed: number("KEELSON_FAULTS_SEED", 1),
        plan: Plan::EachOnce,
        ground: Ground::Proxies,
    };
    round.run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as long as KEELSON_FAULTS_MINUTES says"]
async fn long() {
    let minutes = number("KEELSON_FAULTS_MINUTES", 30);
    round::many(
        number("KEELSON_FAULTS_SEED", 1),
        Duration::from_secs(60 * minutes),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which wants the machine for itself"]
async fn failover() {
    failover::measure(10).await;
}
