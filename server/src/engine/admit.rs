//! Admission: what may go into the log, and what is refused before it gets there.

use bytes::Bytes;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::alarm_request::AlarmAction;
use keelson_proto::etcdserverpb::request_op::Request as Op;
use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, RequestOp, TxnRequest};
use keelson_storage::io::{Disk, DiskError};
use keelson_storage::state::Request;

use super::limits::QUEUED_BYTES_MAX;
use super::shard::{Engine, Origin, Queued};

/// What etcd charges a put beyond its key and value.
const PUT_OVERHEAD_BYTES: u64 = 256;

/// What etcd charges a lease.
const LEASE_BYTES: u64 = 64;

impl<D: Disk> Engine<D> {
    /// Admits a write or answers why not.
    pub(super) fn admit(&mut self, origin: Origin, request: Request, body: Bytes) {
        match self.refusal(&request, &body) {
            None => self.enqueue(Queued::new(origin, request, body, self.now_us)),
            Some(error) => {
                self.facts.proposals_failed += 1;
                self.reply(origin, Err(error));
            }
        }
    }

    /// Queues a command of the engine's own. It has no size worth limiting and nobody waits for it.
    pub(super) fn queue_own(&mut self, request: Request) {
        let body = request.encode_body();
        self.enqueue(Queued::new(Origin::Engine, request, body, self.now_us));
    }

    pub(super) fn enqueue(&mut self, queued: Queued) {
        self.queued_bytes += queued.body.len();
        self.queue.push_back(queued);
    }

    pub(super) fn refusal(&mut self, request: &Request, body: &Bytes) -> Option<ApiError> {
        if self.stopping {
            return Some(ApiError::Stopped);
        }
        if self.is_without_leader() {
            return Some(ApiError::NoLeader);
        }
        if self.is_alone() && self.wal.is_out_of_room() {
            return Some(ApiError::NoSpace);
        }
        let waiting_bytes = self.queued_bytes + self.forwarding.held_bytes();
        if waiting_bytes + body.len() > QUEUED_BYTES_MAX {
            return Some(ApiError::TooManyRequests);
        }
        if let Some(change) = request.member_change()
            && let Err(error) = self.check_reconfiguration(change)
        {
            return Some(error);
        }
        let cost = cost_bytes(request);
        if cost == 0 || !self.is_short_of_space(cost) {
            return None;
        }
        self.raise_nospace();
        Some(ApiError::NoSpace)
    }

    /// Whether `cost` more bytes pass the quota, or the disk had no room for the lane's next segment: then
    /// what is left of the present one is kept for deletes and compactions.
    fn is_short_of_space(&self, cost: u64) -> bool {
        let over_quota = self
            .config
            .quota_bytes
            .is_some_and(|quota| self.state.size_in_use_bytes() + cost > quota);
        let disk_full = matches!(self.wal.prepare_failure(), Some(DiskError::NoSpace { .. }));
        over_quota || disk_full
    }

    /// Proposes the NOSPACE alarm, once until it is applied.
    fn raise_nospace(&mut self) {
        let raised = self
            .state
            .alarms()
            .iter()
            .any(|alarm| alarm.alarm == AlarmType::Nospace as i32);
        if raised || self.nospace_proposed {
            return;
        }
        self.nospace_proposed = true;
        self.queue_own(Request::Alarm(AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: self.config.member.0,
            alarm: AlarmType::Nospace as i32,
        }));
    }
}

/// What a request may add to the database, by etcd's cost model. 0 means it is never refused.
fn cost_bytes(request: &Request) -> u64 {
    match request {
        Request::Put(put) => put_cost(put.key.len(), put.value.len()),
        Request::Txn(txn) => txn_cost(txn),
        Request::LeaseGrant(_) => LEASE_BYTES,
        _ => 0,
    }
}

fn put_cost(key_bytes: usize, value_bytes: usize) -> u64 {
    (key_bytes + value_bytes) as u64 + PUT_OVERHEAD_BYTES
}

fn txn_cost(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(op_cost).sum::<u64>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn op_cost(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Op::RequestPut(put)) => put_cost(put.key.len(), put.value.len()),
        Some(Op::RequestTxn(txn)) => txn_cost(txn),
        _ => 0,
    }
}
