//! Reads of the applied state: at once when small, a slice a turn when large.
//!
//! What gets here may be answered from the state as it is: a linearizable read has waited for its index
//! (`super::quorum_reads`).

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{RangeRequest, ResponseHeader, StatusResponse, TxnRequest};
use keelson_storage::ids::LeaseId;
use keelson_storage::io::Disk;
use keelson_storage::mvcc::HashScan;
use keelson_storage::mvcc::Select;
use keelson_storage::snapshot::PinnedFile;
use keelson_storage::state::Response;

use super::limits::{HASH_RECORDS_PER_TURN, SELECTS_PER_TURN_MAX};
use super::message::{Answer, Ask, LeaseFacts};
use super::shard::{Engine, Origin};

/// Unit in which the size of the database is told.
const DB_BLOCK_BYTES: u64 = 4096;

/// A range read that did not finish in its first turn.
pub(super) struct RunningSelect {
    origin: Origin,
    header: ResponseHeader,
    request: RangeRequest,
    select: Select,
}

/// A hash whose records are being gathered.
pub(super) struct RunningHash {
    origin: Origin,
    header: ResponseHeader,
    /// As it was asked.
    revision: i64,
    scan: Box<HashScan>,
}

impl<D: Disk> Engine<D> {
    /// Answers a read now, or starts it.
    pub(super) fn read(&mut self, origin: Origin, ask: Ask) {
        let result = match ask {
            Ask::Range(request) => return self.range(origin, request),
            Ask::Hash { revision } => return self.hash(origin, revision),
            Ask::ReadTxn(txn) => return self.read_txn(origin, txn),
            Ask::Status => Ok(Answer::Status(Box::new(self.status()))),
            Ask::Leases => Ok(Answer::Leases(
                self.header(),
                self.state.lease_ids().collect(),
            )),
            Ask::LeaseTimeToLive { id, keys } => Ok(Answer::LeaseTimeToLive(
                self.header(),
                self.lease_facts(id, keys),
            )),
            Ask::Members { .. } => {
                let members = self.state.cluster().member_list();
                Ok(Answer::Members(self.header(), members))
            }
            Ask::Health => Ok(Answer::Health {
                has_leader: self.node.leader().is_some(),
                alarms: self.state.alarms(),
            }),
            Ask::PinSnapshot => Ok(self.pin_snapshot()),
            other => unreachable!("{other:?} is handled before reads"),
        };
        self.reply(origin, result);
    }

    /// Advances range reads and hashes that take more than one turn.
    pub(super) fn advance_reads(&mut self) {
        for _ in 0..self.selects.len().min(SELECTS_PER_TURN_MAX) {
            let Some(running) = self.selects.pop_front() else {
                break;
            };
            self.advance_select(running);
        }
        if let Some(running) = self.hashes.pop_front() {
            self.advance_hash(running);
        }
    }

    /// Reads that waited for everything committed here to be applied; others may have committed more (the simulator's seed
    /// 1434).
    pub(super) fn answer_held_reads(&mut self) {
        for (origin, ask) in std::mem::take(&mut self.held_reads) {
            self.take_read(origin, ask);
        }
    }

    /// The state is another one: what was read of it so far is of no use.
    pub(super) fn begin_reads_again(&mut self) {
        for running in std::mem::take(&mut self.selects) {
            self.range(running.origin, running.request);
        }
        for running in std::mem::take(&mut self.hashes) {
            self.hash(running.origin, running.revision);
        }
    }

    fn range(&mut self, origin: Origin, request: RangeRequest) {
        self.facts.ranges += 1;
        let header = self.header();
        match self.state.select_begin(&request) {
            Err(error) => self.reply(origin, Err(error)),
            Ok(select) => self.advance_select(RunningSelect {
                origin,
                header,
                request,
                select,
            }),
        }
    }

    fn advance_select(&mut self, mut running: RunningSelect) {
        match self
            .state
            .select_step(&mut running.select, self.config.slices.select_keys)
        {
            Some(selection) => {
                self.reply(running.origin, Ok(Answer::Range(running.header, selection)));
            }
            None => match self.warm(running.select.unsorted().into_iter().flatten()) {
                Ok(_) => self.selects.push_back(running),
                Err(error) => self.refuse_unreadable(running.origin, ApiError::Corrupt, &error),
            },
        }
    }

    /// Reads a transaction; the values it compares are there.
    pub(super) fn txn(&mut self, txn: &TxnRequest) -> Result<Answer, ApiError> {
        let mut response = self.state.txn_read(txn)?;
        if let Some(header) = response.header_mut() {
            *header = self.header();
        }
        self.facts.txns += 1;
        Ok(self.answer_with_cold(response))
    }

    /// A response, with the records whose values its front has to fill in.
    pub(super) fn answer_with_cold(&mut self, response: Response) -> Answer {
        let cold = self.state.take_cold();
        if cold.is_empty() {
            Answer::Response(response)
        } else {
            Answer::Cold(Box::new((response, cold)))
        }
    }

    fn hash(&mut self, origin: Origin, revision: i64) {
        let header = self.header();
        match self.state.hash_begin(revision) {
            Err(error) => self.reply(origin, Err(error)),
            Ok(scan) => self.advance_hash(RunningHash {
                origin,
                header,
                revision,
                scan: Box::new(scan),
            }),
        }
    }

    fn advance_hash(&mut self, mut running: RunningHash) {
        if self
            .state
            .hash_step(&mut running.scan, HASH_RECORDS_PER_TURN)
        {
            let answer = Answer::Hash(running.header, running.scan);
            self.reply(running.origin, Ok(answer));
        } else {
            self.hashes.push_back(running);
        }
    }

    fn pin_snapshot(&self) -> Answer {
        let file = self.snapshots.pin();
        let applied = self.state.applied().index;
        let is_complete = |file: &PinnedFile| file.snapshot.meta().applied.index == applied;
        let is_complete = file.as_ref().is_some_and(is_complete);
        Answer::Pinned(file, is_complete)
    }

    /// Reads that took more than a turn and hold their revision.
    #[must_use]
    pub fn open_reads_count(&self) -> usize {
        self.selects.len() + self.hashes.len() + self.quorum_reads.count()
    }

    /// Bytes of the database that hold something: keys, history, and the member list.
    #[must_use]
    pub fn db_in_use_bytes(&self) -> u64 {
        let members = self.state.cluster().members.values();
        let members_bytes: usize = members.map(prost::Message::encoded_len).sum();
        self.state.size_in_use_bytes() + members_bytes as u64
    }

    /// Bytes of the database, in whole blocks: what holds something, what the next checkpoint will leave out, and what
    /// is useless in the snapshot files.
    #[must_use]
    pub fn db_bytes(&self) -> u64 {
        let garbage = self.state.size_bytes() - self.state.size_in_use_bytes();
        let needed = self.snapshots.current();
        let needed = needed.map_or(0, |current| current.image_bytes());
        let useless = self.snapshots.file_bytes().saturating_sub(needed);
        (self.db_in_use_bytes() + garbage + useless).next_multiple_of(DB_BLOCK_BYTES)
    }

    fn lease_facts(&self, id: LeaseId, with_keys: bool) -> Option<LeaseFacts> {
        let lease = self.state.lease(id)?;
        let now = self.lease_clock.now();
        if lease.deadline <= now {
            return None;
        }
        let keys: Vec<Bytes> = if with_keys {
            lease.keys.iter().cloned().collect()
        } else {
            Vec::new()
        };
        Some(LeaseFacts {
            ttl_seconds: lease.remaining_ttl_seconds(now),
            granted_ttl_seconds: lease.granted_ttl_seconds,
            keys,
        })
    }

    fn status(&self) -> StatusResponse {
        StatusResponse {
            header: Some(self.header()),
            version: self.config.api_version.clone(),
            db_size: self.db_bytes() as i64,
            leader: self.node.leader().map_or(0, |member| member.0),
            raft_index: self.node.committed().0,
            raft_term: self.node.term().0,
            raft_applied_index: self.state.applied().index.0,
            errors: self.status_errors(),
            db_size_in_use: self.db_in_use_bytes() as i64,
            is_learner: self.is_learner(),
            storage_version: self.config.storage_version.clone(),
            db_size_quota: self.config.quota_bytes.map_or(0, |quota| quota as i64),
            ..StatusResponse::default()
        }
    }

    /// What `Status.errors` lists: a missing leader and each active alarm, as etcd words them, and whose disk is full.
    fn status_errors(&self) -> Vec<String> {
        let mut errors = Vec::new();
        if self.node.leader().is_none() {
            errors.push(ApiError::NoLeader.message().to_owned());
        }
        for alarm in self.state.alarms() {
            errors.push(format!(
                "memberID:{} alarm:{} ",
                alarm.member_id,
                alarm.alarm().as_str_name()
            ));
        }
        let lacking = self.lacking_room();
        errors.extend(lacking.map(|member| format!("memberID:{} disk full ", member.0)));
        errors
    }
}
