//! Judges of recorded histories. They know nothing of simulated members: a harness of real processes records the
//! same things and asks the same questions.
//!
//! ```text
//!   History   what clients asked and heard, with times; every change in revision order; every watch
//!     kv      strict serializability, exact fields, no acknowledged write lost, nothing twice
//!     watch   the nine properties of a watch
//!     lease   no lease ends early; none lives for ever
//!   Group     what members' raft groups look like from outside, checked as it happens
//! ```
//!
//! Every change of the keyspace has a revision, and every answer names one. So the order in which things took effect
//! need not be searched for, as a checker for registers has to (Wing and Gong's, or porcupine): it is there to be
//! checked. An operation's place is its revision, writes before reads of the same revision; what is left to show is
//! that this order explains every answer, and that it never contradicts real time. Both are exact, and take no more
//! than sorting.

mod group;
mod history;
mod kv;
mod kv_txn;
mod lease;
mod log;
mod watch;

#[cfg(test)]
mod check_tests;

pub use group::{Applied, Group};
pub use history::{
    Call, ClockJump, History, LeaseEnd, MembersChange, Op, Outcome, Reply, Seen, Watch, WatchEvent,
    WatchWanted,
};
pub use kv::{KvCounts, check_kv};
pub use lease::{LeaseRules, check_leases};
pub use log::{Event, EventLog};
pub use watch::check_watches;

/// A promise that was broken: which, by its id in the guarantees, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// The id of the promise.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// A broken promise.
    pub fn new(rule: &'static str, what: impl Into<String>) -> Self {
        Self {
            rule,
            what: what.into(),
        }
    }
}

/// Judges everything in a history.
///
/// # Errors
/// The first promise that it shows to be broken.
pub fn check_all(history: &History, rules: &LeaseRules) -> Result<KvCounts, Violation> {
    let counts = check_kv(history)?;
    check_watches(&history.log, &history.watches)?;
    check_leases(history, rules)?;
    Ok(counts)
}
