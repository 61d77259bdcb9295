//! Keep-alives: answered from memory wherever the log covers them already.
//!
//! A keep-alive promises its lease the whole TTL from now on, and a promise must survive a crash. Instead
//! of writing each of them, the engine writes ahead: a renewal goes into the log as if it came
//! [`LEASE_RENEW_AHEAD_MS`] later. Until that time has come, every further keep-alive of the lease promises
//! no more than the applied state holds, and is answered at once. A lease that is kept alive all the time
//! is written again before the time is up, together with all others like it, and nobody waits for that.
//!
//! ```text
//!   deadline in the log   R + ttl + ahead        R: a renewal that was written
//!   keep-alive at t       promises t + ttl       at once while t <= R + ahead; noted from R + ahead - low on
//!   else                  a command; answered when it is applied
//! ```
//!
//! Invariants:
//! 1. No answer promises more than the applied state's deadline. So nothing is lost with the process, and an
//!    expiry, which is proposed only when the deadline has passed, cannot be on its way to a lease that was
//!    just said to be alive.
//! 2. A deadline lies at most the TTL and [`LEASE_RENEW_AHEAD_MS`] after the last keep-alive, or the TTL after
//!    the entry that carried it.

use std::collections::BTreeSet;

use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{LeaseId, LeaseTime};
use keelson_storage::io::Disk;
use keelson_storage::state::{LeaseRenewMany, Renewal, Request};

use super::limits::{
    LEASE_RENEW_AHEAD_LOW_MS, LEASE_RENEW_AHEAD_MS, LEASE_RENEW_GATHER_US,
    LEASE_RENEWALS_PER_COMMAND_MAX,
};
use super::message::Answer;
use super::shard::{Engine, Origin};

/// Keep-alives on their way through a turn, and leases the log must be told of.
#[derive(Debug, Default)]
pub(super) struct KeepAlives {
    /// Asked since the last turn, whose clock is too old for them. Bounded like all questions.
    asked: Vec<(Origin, Vec<Renewal>)>,
    /// Leases whose advance runs low. No more than there are leases.
    noted: BTreeSet<LeaseId>,
    /// Lease time of the first note: no renewal of a noted lease is older.
    noted_since: LeaseTime,
    /// When the noted ones go into the log; `None` while there are none.
    log_at_us: Option<u64>,
}

impl KeepAlives {
    pub(super) fn on_asked(&mut self, origin: Origin, renewals: Vec<Renewal>) {
        self.asked.push((origin, renewals));
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.log_at_us
    }
}

impl<D: Disk> Engine<D> {
    /// Answers what was asked since the last turn, or hands it to the log.
    pub(super) fn answer_keep_alives(&mut self) {
        let mut asked = std::mem::take(&mut self.keep_alives.asked);
        for (origin, mut renewals) in asked.drain(..) {
            let serves = !self.stopping && self.is_in_office();
            if serves && self.is_covered(&mut renewals) {
                self.answer_keep_alive(origin, renewals);
            } else {
                // Only the leader's clock counts: a follower has a lease renewed as of the entry.
                let from = if self.is_in_office() {
                    self.lease_clock.now().0 + LEASE_RENEW_AHEAD_MS
                } else {
                    0
                };
                let request = renewal_of(&renewals, from);
                let body = request.encode_body();
                self.admit(origin, request, body);
            }
        }
        self.keep_alives.asked = asked;
    }

    /// Tells a client what became of its keep-alives.
    pub(super) fn answer_keep_alive(&mut self, origin: Origin, renewals: Vec<Renewal>) {
        if let Origin::Front { .. } = origin {
            let renewed = renewals.iter().filter(|renewal| renewal.ttl_seconds > 0);
            self.facts.leases_renewed += renewed.count() as u64;
            let answer = Answer::LeaseKeepAlive(self.header(), renewals);
            self.reply(origin, Ok(answer));
        }
    }

    /// Writes the leases that were noted, when they have gathered for long enough.
    pub(super) fn log_keep_alives(&mut self) {
        if self
            .keep_alives
            .log_at_us
            .is_none_or(|at_us| self.now_us < at_us)
        {
            return;
        }
        self.keep_alives.log_at_us = None;
        let now = self.lease_clock.now();
        let since = self.keep_alives.noted_since;
        let noted = std::mem::take(&mut self.keep_alives.noted);
        let still_low = |id: &LeaseId| {
            // Noted once more while its command was on the way, or gone.
            let lease = self.state.lease(*id);
            lease.is_some_and(|lease| {
                let ahead_ms = lease.ahead_of_renewal_ms(now);
                ahead_ms.is_none_or(|ahead_ms| ahead_ms < LEASE_RENEW_AHEAD_LOW_MS)
            })
        };
        let low = noted.into_iter().filter(still_low);
        let low: Vec<Renewal> = low.map(|id| Renewal { id, ttl_seconds: 0 }).collect();
        for renewals in low.chunks(LEASE_RENEWALS_PER_COMMAND_MAX) {
            self.queue_own(renewal_of(renewals, since.0 + LEASE_RENEW_AHEAD_MS));
        }
    }

    /// Fills in the TTLs. False if the log must be asked, because it does not cover one of them.
    fn is_covered(&mut self, renewals: &mut [Renewal]) -> bool {
        let now = self.lease_clock.now();
        for renewal in renewals {
            let Some(lease) = self.state.lease(renewal.id) else {
                // Another member may lead by now, and have granted it.
                if !self.is_alone() {
                    return false;
                }
                renewal.ttl_seconds = 0;
                continue;
            };
            let ahead_ms = lease.ahead_of_renewal_ms(now);
            let ahead_ms = match bugs::is_on(Bug::UncoveredKeepAlive) {
                true => Some(LEASE_RENEW_AHEAD_MS),
                false => ahead_ms,
            };
            let Some(ahead_ms) = ahead_ms else {
                return false;
            };
            renewal.ttl_seconds = lease.granted_ttl_seconds;
            if ahead_ms < LEASE_RENEW_AHEAD_LOW_MS {
                let keep_alives = &mut self.keep_alives;
                if keep_alives.log_at_us.is_none() {
                    keep_alives.log_at_us = Some(self.now_us + LEASE_RENEW_GATHER_US);
                    keep_alives.noted_since = now;
                }
                keep_alives.noted.insert(renewal.id);
            }
        }
        true
    }
}

/// The command that renews leases as if at the lease time `from`.
fn renewal_of(renewals: &[Renewal], from: u64) -> Request {
    Request::LeaseRenewMany(LeaseRenewMany {
        from,
        ids: renewals.iter().map(|renewal| renewal.id.0).collect(),
    })
}
