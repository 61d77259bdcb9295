//! The state machine itself: one owner, commands in, responses and changes out.
//!
//! The engine calls [`State::on_entry`] once per committed entry and [`State::apply`] for each command
//! in it, reads with the select and hash functions between them, and gives spare time to
//! [`State::scrub`].
//!
//! Invariants:
//! 1. `apply` is total: any decoded request gives a response or an [`ApiError`], and an error leaves
//!    no trace.
//! 2. It is deterministic: the same commands at the same positions give the same responses, changes
//!    and [`State::digest`], whatever was read or scrubbed in between.
//! 3. The lease clock never goes back.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse,
    DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseRevokeResponse, MemberAddResponse, MemberPromoteResponse,
    MemberRemoveResponse, MemberUpdateResponse, PutResponse, RangeRequest, ResponseHeader,
    TxnRequest, TxnResponse,
};

use crate::bugs::{self, Bug};
use crate::ids::{LeaseId, LeaseTime, RaftIndex, Revision, Term};
use crate::mvcc::{
    Change, Digest, Found, HashScan, Layer, MemoryBytes, Record, Select, Selection, Store,
};
use crate::snapshot::{HardState, LeaseMeta, Meta, Snapshot};
use crate::state::alarms::Alarms;
use crate::state::command::Request;
use crate::state::fill;
use crate::state::kv::Keyspace;
use crate::state::leases::{Lease, LeaseRenewMany, Leases, Renewal};
use crate::state::members::Cluster;
use crate::state::txn;

/// Where in the log a command stands, and what the lease clock says there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Index of the entry.
    pub index: RaftIndex,
    /// Term of the entry.
    pub term: Term,
    /// The lease time the entry carries.
    pub lease_time: LeaseTime,
}

/// What a command answers. Headers carry the revision that etcd sets and nothing else; the server
/// adds cluster, member and term.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each holds the message it is named after")]
pub enum Response {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    LeaseKeepAlive(LeaseKeepAliveResponse),
    Alarm(AlarmResponse),
    MemberAdd(MemberAddResponse),
    MemberRemove(MemberRemoveResponse),
    MemberUpdate(MemberUpdateResponse),
    MemberPromote(MemberPromoteResponse),
    /// In the order of the command; it becomes a response for each.
    LeaseRenewMany(Vec<Renewal>),
    /// To commands no client waits for.
    Empty,
}

/// A change that was not looked at yet: cheap to pass over.
#[derive(Clone, Copy, Debug)]
pub struct ChangeRef<'a> {
    store: &'a Store,
    found: Found<'a>,
}

impl ChangeRef<'_> {
    /// The revision it belongs to.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.found.revision()
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Cow<'_, [u8]> {
        self.found.key()
    }

    /// Roughly what its event takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.found.footprint_bytes()
    }

    /// The change, and the version before it. Both may be cold.
    #[must_use]
    pub fn change(&self) -> Change {
        self.store.change_with_prev(self.found)
    }
}

impl Response {
    /// Fills in the values of the records that [`State::take_cold`] told, in their order.
    pub fn fill(&mut self, values: impl IntoIterator<Item = Bytes>) {
        fill::response(self, &mut values.into_iter());
    }

    /// The header of the message.
    pub fn header_mut(&mut self) -> Option<&mut ResponseHeader> {
        match self {
            Self::Put(response) => response.header.as_mut(),
            Self::DeleteRange(response) => response.header.as_mut(),
            Self::Txn(response) => response.header.as_mut(),
            Self::Compact(response) => response.header.as_mut(),
            Self::LeaseGrant(response) => response.header.as_mut(),
            Self::LeaseRevoke(response) => response.header.as_mut(),
            Self::LeaseKeepAlive(response) => response.header.as_mut(),
            Self::Alarm(response) => response.header.as_mut(),
            Self::MemberAdd(response) => response.header.as_mut(),
            Self::MemberRemove(response) => response.header.as_mut(),
            Self::MemberUpdate(response) => response.header.as_mut(),
            Self::MemberPromote(response) => response.header.as_mut(),
            Self::LeaseRenewMany(_) | Self::Empty => None,
        }
    }
}

/// Everything that is replicated.
#[derive(Debug)]
pub struct State {
    keyspace: Keyspace,
    alarms: Alarms,
    cluster: Cluster,
    /// Users and roles as a snapshot had them; nothing looks at them yet.
    auth: Vec<u8>,
    /// The last entry, and in `lease_time` the highest lease time seen.
    applied: Position,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self {
            keyspace: Keyspace::new(),
            alarms: Alarms::default(),
            cluster: Cluster::default(),
            auth: Vec::new(),
            applied: Position::default(),
        }
    }

    /// The state that a snapshot holds.
    #[must_use]
    pub fn from_snapshot(snapshot: Arc<Snapshot>) -> Self {
        let meta = snapshot.meta();
        let mut leases = Leases::default();
        for lease in &meta.leases {
            leases.restore(Lease {
                id: lease.id,
                granted_ttl_seconds: lease.granted_ttl_seconds,
                deadline: lease.deadline,
                keys: BTreeSet::new(),
            });
        }
        snapshot.visit_leased_keys(|lease, key| leases.attach(lease, key));
        Self {
            alarms: Alarms::restore(&meta.alarms),
            cluster: meta.cluster.clone(),
            auth: meta.auth.clone(),
            applied: meta.applied,
            keyspace: Keyspace {
                leases,
                store: Store::from_snapshot(snapshot),
                cold: Vec::new(),
            },
        }
    }

    /// Ends a layer of the keyspace, for a checkpoint to make a snapshot of it, and tells what the
    /// snapshot holds beside the keys. Changes of `unpublished` and later get into it whatever was
    /// compacted.
    pub fn freeze(&mut self, hard_state: HardState, unpublished: Option<Revision>) -> Meta {
        let store = &mut self.keyspace.store;
        let horizon = store.freeze(unpublished);
        let leases = self.keyspace.leases.iter().map(|lease| LeaseMeta {
            id: lease.id,
            granted_ttl_seconds: lease.granted_ttl_seconds,
            deadline: lease.deadline,
        });
        let lost = usize::from(bugs::is_on(Bug::LoseLeaseAtCheckpoint));
        Meta {
            applied: self.applied,
            hard_state,
            revision: store.revision(),
            compact_revision: store.compact_revision(),
            horizon,
            changes_taken: store.change_ordinal_of(horizon),
            leases: leases.skip(lost).collect(),
            alarms: self.alarms.to_meta(),
            cluster: self.cluster.clone(),
            auth: self.auth.clone(),
        }
    }

    /// Puts the snapshot that was made of it in the place of what was frozen. The layer that is returned
    /// is not needed any more; dropping it takes time.
    pub fn replace_frozen(&mut self, snapshot: Arc<Snapshot>) -> Option<Arc<Layer>> {
        self.keyspace.store.replace_below(snapshot)
    }

    /// The layer of which a checkpoint makes a snapshot.
    #[must_use]
    pub fn frozen(&self) -> Option<&Arc<Layer>> {
        self.store().frozen()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.store().stored()
    }

    /// Moves to an entry: once per entry, before its commands.
    pub fn on_entry(&mut self, at: Position) {
        let lease_time = self.applied.lease_time.max(at.lease_time);
        self.applied = Position { lease_time, ..at };
    }

    /// Executes a command. The quota is not looked at, but an alarm is obeyed.
    ///
    /// # Errors
    /// What etcd answers to the request; the state is unchanged then.
    pub fn apply(&mut self, at: Position, request: &Request) -> Result<Response, ApiError> {
        let result = self.execute(at, request);
        self.supply(None);
        result
    }

    /// The records whose values must be [supplied](State::supply) before a command is applied next.
    #[must_use]
    pub fn cold_values(&self, request: &Request) -> Vec<Record> {
        let mut cold = Vec::new();
        if self.snapshot().is_some() {
            match request {
                Request::Put(put) => txn::cold_value(self.store(), put, &mut cold),
                Request::Txn(txn) => txn::cold_values(self.store(), txn, &mut cold),
                _ => {}
            }
        }
        cold
    }

    /// The same for a transaction that is [read](State::txn_read).
    #[must_use]
    pub fn cold_values_of_txn(&self, txn: &TxnRequest) -> Vec<Record> {
        let mut cold = Vec::new();
        if self.snapshot().is_some() {
            txn::cold_values(self.store(), txn, &mut cold);
        }
        cold
    }

    /// Gives values to the next command that is applied or transaction that is read.
    pub fn supply(&mut self, records: impl IntoIterator<Item = Record>) {
        self.keyspace.store.supply(records);
    }

    /// The records of the last response whose values have to be [filled in](Response::fill).
    pub fn take_cold(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.keyspace.cold)
    }

    fn execute(&mut self, at: Position, request: &Request) -> Result<Response, ApiError> {
        self.keyspace.cold.clear();
        self.alarms.admit(request)?;
        let now = self.applied.lease_time.max(at.lease_time);
        Ok(match request {
            Request::Put(put) => Response::Put(self.keyspace.apply_put(put)?),
            Request::DeleteRange(delete) => {
                Response::DeleteRange(self.keyspace.apply_delete_range(delete))
            }
            Request::Txn(txn) => Response::Txn(txn::apply(&mut self.keyspace, txn)?),
            Request::Compact(compaction) => Response::Compact(self.compact(compaction)?),
            Request::LeaseGrant(grant) => Response::LeaseGrant(self.grant(grant, now)?),
            Request::LeaseRevoke(revoke) => {
                self.keyspace.apply_revoke(LeaseId(revoke.id))?;
                Response::LeaseRevoke(LeaseRevokeResponse {
                    header: self.header(),
                })
            }
            Request::LeaseRenew(renew) => Response::LeaseKeepAlive(self.renew(renew, now)),
            Request::LeaseRenewMany(renew) => Response::LeaseRenewMany(self.renew_many(renew, now)),
            Request::LeaseExpire(expire) => self.expire(LeaseId(expire.id), now)?,
            Request::Alarm(alarm) => Response::Alarm(self.alarm(alarm)),
            Request::Tick => Response::Empty,
            Request::ClusterInit(init) => {
                self.cluster.init(init);
                Response::Empty
            }
            Request::MemberPublish(publish) => {
                self.cluster.publish(publish);
                Response::Empty
            }
            Request::MemberAdd(add) => Response::MemberAdd(self.cluster.add(add)?),
            Request::MemberRemove(remove) => Response::MemberRemove(self.cluster.remove(remove)?),
            Request::MemberUpdate(update) => Response::MemberUpdate(self.cluster.update(update)?),
            Request::MemberPromote(promote) => {
                Response::MemberPromote(self.cluster.promote(promote)?)
            }
        })
    }

    /// Brings what `requests` will touch into the CPU's cache, for those that are about to be applied together.
    pub fn warm<'r>(&self, requests: impl Iterator<Item = &'r Request>) {
        let keys = requests.filter_map(|request| match request {
            Request::Put(put) => Some(&put.key[..]),
            Request::Txn(txn) => txn.compare.first().map(|compare| &compare.key[..]),
            _ => None,
        });
        self.keyspace.store.warm(keys);
    }

    /// The last entry that [`State::on_entry`] was told of; its lease time is the lease clock.
    #[must_use]
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// The revision of the newest change; 1 before the first.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.store().revision()
    }

    /// The revision of the last compaction; -1 before the first, as HashKV reports it.
    #[must_use]
    pub fn compact_revision(&self) -> Revision {
        self.store().compact_revision()
    }

    /// Answers a Range in one go. The values that decide about its order must be in memory.
    ///
    /// # Errors
    /// [`ApiError::FutureRev`], [`ApiError::Compacted`].
    pub fn select(&self, range: &RangeRequest) -> Result<Selection, ApiError> {
        self.store().select(range)
    }

    /// Starts to answer a Range in steps. What it reads is safe from [`State::scrub`] until it is
    /// complete, aborted or dropped; changes and compactions in between do not show.
    ///
    /// # Errors
    /// [`ApiError::FutureRev`], [`ApiError::Compacted`].
    pub fn select_begin(&mut self, range: &RangeRequest) -> Result<Select, ApiError> {
        self.keyspace.store.select_begin(range)
    }

    /// Visits at most `key_budget` keys more; the answer once there are no more to visit and none of its
    /// records is [unsorted](Select::unsorted). After that the select is spent.
    pub fn select_step(&mut self, select: &mut Select, key_budget: usize) -> Option<Selection> {
        select.step(&self.keyspace.store, key_budget)
    }

    /// Gives a select up. Dropping it does the same.
    pub fn select_abort(&mut self, select: Select) {
        drop(select);
    }

    /// Answers a transaction for which [`crate::state::is_read_only`] holds, without the log. The values
    /// of [`State::take_cold`] have to be filled in.
    ///
    /// # Errors
    /// [`ApiError::FutureRev`], [`ApiError::Compacted`].
    pub fn txn_read(&mut self, txn: &TxnRequest) -> Result<Response, ApiError> {
        let Keyspace { store, cold, .. } = &mut self.keyspace;
        cold.clear();
        let result = txn::read(store, txn, cold);
        self.supply(None);
        result.map(Response::Txn)
    }

    /// Every change of `revision` and later, oldest first. Those since the compact revision are there,
    /// and perhaps older ones that are not scrubbed yet.
    pub fn changes_from(&self, revision: Revision) -> impl Iterator<Item = ChangeRef<'_>> {
        let store = self.store();
        let changes = store.changes_from(revision);
        changes.map(|found| ChangeRef { store, found })
    }

    /// Frees what compactions made unreachable, about `budget` versions of it, but no change of
    /// `unpublished` or later. True if there is more to do right now; false also while a running select
    /// or hash, or what is not published, keeps the rest, so call again as long as
    /// [`State::scrubbed_revision`] is behind [`State::compact_revision`].
    pub fn scrub(&mut self, budget: usize, unpublished: Option<Revision>) -> bool {
        self.keyspace.store.scrub(budget, unpublished)
    }

    /// The compact revision up to which everything unreachable was freed.
    #[must_use]
    pub fn scrubbed_revision(&self) -> Revision {
        self.store().scrubbed_revision()
    }

    /// Versions that compactions have found unreachable since the start.
    #[must_use]
    pub fn scrubbed_versions(&self) -> u64 {
        self.store().scrubbed_versions()
    }

    /// A lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.keyspace.leases.get(id)
    }

    /// All leases in the order of their deadlines, as etcd lists them.
    pub fn lease_ids(&self) -> impl ExactSizeIterator<Item = LeaseId> {
        self.keyspace.leases.by_deadline().map(|(_, id)| id)
    }

    /// At most `max` leases that a LeaseExpire at `now` would remove, longest due first.
    #[must_use]
    pub fn lease_expired(&self, now: LeaseTime, max: usize) -> Vec<LeaseId> {
        self.keyspace.leases.due(now, max)
    }

    /// When the next lease is due.
    #[must_use]
    pub fn lease_next_deadline(&self) -> Option<LeaseTime> {
        self.keyspace
            .leases
            .by_deadline()
            .next()
            .map(|(deadline, _)| deadline)
    }

    /// The active alarms, by type and member.
    #[must_use]
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms.all()
    }

    /// The cluster and its members.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Users and roles, in the form of [`Meta::auth`].
    #[must_use]
    pub fn auth(&self) -> &[u8] {
        &self.auth
    }

    /// What Status reports as `dbSize`: the versions in memory, and the snapshot file.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.store().size_bytes()
    }

    /// What Status reports as `dbSizeInUse`, and what the quota is compared with: the versions that the
    /// next snapshot will hold.
    #[must_use]
    pub fn size_in_use_bytes(&self) -> u64 {
        self.store().live_bytes()
    }

    /// What keys and versions take of memory, roughly.
    #[must_use]
    pub fn memory_bytes(&self) -> MemoryBytes {
        self.store().memory_bytes()
    }

    /// The number of keys at the newest revision.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.store().key_count()
    }

    /// Starts to compute HashKV at a revision; 0 means the newest. What it reads is safe from
    /// [`State::scrub`] until it is finished or dropped.
    ///
    /// # Errors
    /// [`ApiError::Compacted`], [`ApiError::FutureRev`].
    pub fn hash_begin(&mut self, revision: i64) -> Result<HashScan, ApiError> {
        HashScan::begin(&mut self.keyspace.store, revision)
    }

    /// Visits at most `budget` keys or changes more; true when it is ready to be finished.
    pub fn hash_step(&self, scan: &mut HashScan, budget: usize) -> bool {
        scan.step(self.store(), budget)
    }

    /// A number that is equal for equal states, also if they were scrubbed differently. It visits
    /// everything.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest_with(&mut |record| {
            assert!(record.place().is_none(), "no value is on the disk");
            record
        })
    }

    /// The same of a state some of whose values are on the disk; `load` gets the whole of a cold record.
    pub fn digest_with(&self, load: &mut dyn FnMut(Record) -> Record) -> u64 {
        let mut digest = Digest::new();
        digest.number(self.applied.index.0);
        digest.number(self.applied.term.0);
        digest.number(self.applied.lease_time.0);
        self.store().digest(&mut digest, load);
        for lease in self.keyspace.leases.iter() {
            digest.signed(lease.id.0);
            digest.signed(lease.granted_ttl_seconds);
            digest.number(lease.deadline.0);
            digest.number(lease.keys.len() as u64);
            lease.keys.iter().for_each(|key| digest.bytes(key));
        }
        for alarm in self.alarms() {
            digest.signed(i64::from(alarm.alarm));
            digest.number(alarm.member_id);
        }
        digest.number(self.cluster.cluster_id.0);
        for member in self.cluster.members.values() {
            digest.bytes(&prost::Message::encode_to_vec(member));
        }
        for removed in &self.cluster.removed {
            digest.number(removed.0);
        }
        digest.bytes(&self.auth);
        digest.finish()
    }

    /// Checks the invariants of the store; a test's tool.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.store().check_invariants();
    }

    fn compact(&mut self, compaction: &CompactionRequest) -> Result<CompactionResponse, ApiError> {
        self.keyspace.store.compact(Revision(compaction.revision))?;
        Ok(CompactionResponse {
            header: self.header(),
        })
    }

    fn grant(
        &mut self,
        grant: &LeaseGrantRequest,
        now: LeaseTime,
    ) -> Result<LeaseGrantResponse, ApiError> {
        let ttl = self
            .keyspace
            .leases
            .grant(LeaseId(grant.id), grant.ttl, now)?;
        Ok(LeaseGrantResponse {
            header: self.header(),
            id: grant.id,
            ttl,
            error: String::new(),
        })
    }

    /// An unknown lease answers a TTL of 0.
    fn renew(&mut self, renew: &LeaseKeepAliveRequest, now: LeaseTime) -> LeaseKeepAliveResponse {
        let ttl = self
            .keyspace
            .leases
            .renew(LeaseId(renew.id), now)
            .unwrap_or(0);
        LeaseKeepAliveResponse {
            header: self.header(),
            id: renew.id,
            ttl,
        }
    }

    /// A command that waited for its entry beyond the time it was meant for counts from the entry.
    fn renew_many(&mut self, renew: &LeaseRenewMany, now: LeaseTime) -> Vec<Renewal> {
        let from = now.max(LeaseTime(renew.from));
        let leases = &mut self.keyspace.leases;
        let ids = renew.ids.iter().map(|id| LeaseId(*id));
        ids.map(|id| Renewal {
            id,
            ttl_seconds: leases.renew(id, from).unwrap_or(0),
        })
        .collect()
    }

    /// Removes a lease that is due. One that was renewed or revoked in the meantime is left alone.
    fn expire(&mut self, id: LeaseId, now: LeaseTime) -> Result<Response, ApiError> {
        let is_due = self.lease(id).is_some_and(|lease| lease.deadline <= now);
        if is_due || bugs::is_on(Bug::EarlyLeaseExpiry) {
            self.keyspace.apply_revoke(id)?;
        }
        Ok(Response::Empty)
    }

    fn alarm(&mut self, request: &AlarmRequest) -> AlarmResponse {
        let alarms = self.alarms.apply(request);
        AlarmResponse {
            header: self.header(),
            alarms,
        }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.revision().0,
            ..ResponseHeader::default()
        })
    }

    /// The keys.
    pub(crate) fn store(&self) -> &Store {
        &self.keyspace.store
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
