//! Black-box tests: the real server binary, judged by etcd's own clients and by real etcd.
//!
//! Every test starts a server process on free ports with a data directory of its own on a real
//! disk, speaks to it over the wire, and stops it. Nothing here links against the server. The
//! server under test is the `keelson` binary of this build; with `KEELSON_TEST_SERVER=etcd` the
//! same tests run against real etcd 3.5.1, which is how the tests themselves are checked: a test
//! that real etcd fails is a wrong test, unless it is marked as "ours only" with the reason.
//!
//! One binary holds all of them, because linking is the slow part. Tests that need many processes
//! or much memory take the lock of `harness::heavy` and run one after the other.
//!
//! Knobs: `KEELSON_TEST_SERVER=etcd`, `KEELSON_DIFF_SEEDS`, `KEELSON_DIFF_REQUESTS`,
//! `KEELSON_CRASH_ROUNDS`, `KEELSON_WALK` (path of the etcdctl walk script),
//! `KEELSON_ETCD_BIN_DIR` (a folder that already holds etcd, etcdctl and etcdutl 3.5.1).

#![allow(clippy::unwrap_used)]

mod harness;

mod bad_input;
mod client;
mod cluster;
mod crash;
mod differential;
mod errors;
mod etcdctl;
mod flags;
mod forced;
mod http;
mod inspect;
mod interrupted;
mod kube;
mod leader_loss;
mod learner;
mod lease;
mod migrate;
mod rejoin;
mod shards;
mod snapshot;
mod tools;
mod walk;
mod watch;
