//! The lease table: which leases there are, until when, and which keys hang on each.
//!
//! Time here is the shard's lease clock, which entries of the log carry, so that every member and
//! every replay sees the same deadlines. A deadline that passes does nothing by itself: the engine
//! asks for the leases that are due and proposes a command for each.
//!
//! Invariants:
//! 1. A key hangs on the lease that its live version names, if that lease exists, and on no other.
//! 2. `deadlines` holds exactly one entry for every lease.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::limits::LEASE_TTL_SECONDS_MAX;

use crate::ids::{LeaseId, LeaseTime};
use crate::mvcc::Record;

const MILLISECONDS_PER_SECOND: u64 = 1_000;

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id; never 0.
    pub id: LeaseId,
    /// The TTL it was granted, and gets again with every renewal.
    pub granted_ttl_seconds: i64,
    /// When it may be expired, on the lease clock.
    pub deadline: LeaseTime,
    /// The keys that go with it.
    pub keys: BTreeSet<Bytes>,
}

/// Renews many leases at once.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LeaseRenewMany {
    /// The lease time at which their TTLs begin anew, unless that of the entry is later. It may lie
    /// ahead of the entry: then renewals up to it need no command of their own.
    #[prost(uint64, tag = "1")]
    pub from: u64,
    /// Which leases, in the order in which they are answered. Unknown ones are left out of account.
    #[prost(sfixed64, repeated, tag = "2")]
    pub ids: Vec<i64>,
}

/// One lease of a keep-alive, and what it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Which lease.
    pub id: LeaseId,
    /// The TTL that began anew; 0 if there is no such lease.
    pub ttl_seconds: i64,
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    deadlines: BTreeSet<(LeaseTime, LeaseId)>,
}

impl Lease {
    /// The time left at `now`, in whole seconds as etcd answers it; 0 once the deadline has passed, and
    /// never more than was granted, also where a renewal was written ahead of its time.
    #[must_use]
    pub fn remaining_ttl_seconds(&self, now: LeaseTime) -> i64 {
        let left = self.deadline.0.saturating_sub(now.0) / MILLISECONDS_PER_SECOND;
        i64::try_from(left).map_or(self.granted_ttl_seconds, |left| {
            left.min(self.granted_ttl_seconds)
        })
    }

    /// By how many milliseconds the deadline lies beyond that of a renewal at `now`; `None` if it lies
    /// before it.
    #[must_use]
    pub fn ahead_of_renewal_ms(&self, now: LeaseTime) -> Option<u64> {
        let renewed = deadline(now, self.granted_ttl_seconds);
        self.deadline.0.checked_sub(renewed.0)
    }

    fn attach(&mut self, key: &[u8]) {
        if !self.keys.contains(key) {
            // A slice of the record would keep all of it.
            self.keys.insert(Bytes::copy_from_slice(key));
        }
    }
}

impl Leases {
    /// Adds a lease; returns its TTL.
    pub(crate) fn grant(
        &mut self,
        id: LeaseId,
        ttl_seconds: i64,
        now: LeaseTime,
    ) -> Result<i64, ApiError> {
        if id == LeaseId(0) {
            return Err(ApiError::LeaseNotFound);
        }
        if ttl_seconds > LEASE_TTL_SECONDS_MAX {
            return Err(ApiError::LeaseTtlTooLarge);
        }
        if self.by_id.contains_key(&id) {
            return Err(ApiError::LeaseExist);
        }
        // The proposer raises a TTL to its minimum; this holds for any log.
        let granted_ttl_seconds = ttl_seconds.max(1);
        let deadline = deadline(now, granted_ttl_seconds);
        self.deadlines.insert((deadline, id));
        self.by_id.insert(
            id,
            Lease {
                id,
                granted_ttl_seconds,
                deadline,
                keys: BTreeSet::new(),
            },
        );
        Ok(granted_ttl_seconds)
    }

    /// Starts a lease's TTL anew at `from`, unless its deadline is later already; returns the TTL, or
    /// nothing for an unknown lease.
    pub(crate) fn renew(&mut self, id: LeaseId, from: LeaseTime) -> Option<i64> {
        let lease = self.by_id.get_mut(&id)?;
        let deadline = deadline(from, lease.granted_ttl_seconds);
        if deadline > lease.deadline {
            self.deadlines.remove(&(lease.deadline, id));
            self.deadlines.insert((deadline, id));
            lease.deadline = deadline;
        }
        Some(lease.granted_ttl_seconds)
    }

    /// Removes a lease; returns the keys that go with it, in order.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        let lease = self.by_id.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        Some(lease.keys)
    }

    /// Moves a key from the lease of its old version to that of its new one.
    pub(crate) fn on_put(&mut self, old: Option<&Record>, record: &Record) {
        if let Some(old) = old
            && old.lease != record.lease
        {
            self.on_delete(old);
        }
        if record.lease != LeaseId(0)
            && let Some(lease) = self.by_id.get_mut(&record.lease)
        {
            lease.attach(record.key());
        }
    }

    /// Attaches a key that a snapshot has, if its lease exists.
    pub(crate) fn attach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.attach(key);
        }
    }

    /// Adds a lease of a snapshot, without keys.
    pub(crate) fn restore(&mut self, lease: Lease) {
        self.deadlines.insert((lease.deadline, lease.id));
        self.by_id.insert(lease.id, lease);
    }

    /// Detaches a key whose version `old` is gone.
    pub(crate) fn on_delete(&mut self, old: &Record) {
        if old.lease != LeaseId(0)
            && let Some(lease) = self.by_id.get_mut(&old.lease)
        {
            lease.keys.remove(old.key());
        }
    }

    pub(crate) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    /// All leases by id.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Lease> {
        self.by_id.values()
    }

    /// All leases, the one that is due first first.
    pub(crate) fn by_deadline(&self) -> impl ExactSizeIterator<Item = (LeaseTime, LeaseId)> {
        self.deadlines.iter().copied()
    }

    /// At most `max` leases whose deadline is before `now`. That of one whose deadline is now was cut to whole milliseconds, and
    /// may be later.
    pub(crate) fn due(&self, now: LeaseTime, max: usize) -> Vec<LeaseId> {
        let due = self
            .by_deadline()
            .take_while(|(deadline, _)| *deadline < now);
        due.map(|(_, id)| id).take(max).collect()
    }
}

fn deadline(now: LeaseTime, ttl_seconds: i64) -> LeaseTime {
    let ttl = ttl_seconds
        .cast_unsigned()
        .saturating_mul(MILLISECONDS_PER_SECOND);
    LeaseTime(now.0.saturating_add(ttl))
}
