//! Committed entries meet the state machine, and those who wait get their answers.

use keelson_consensus::Entry;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::TxnResponse;
use keelson_proto::etcdserverpb::response_op::Response as Done;
use keelson_storage::ids::Revision;
use keelson_storage::io::Disk;
use keelson_storage::state::{Position, Request, Response, State, decode_entry};

use super::message::Answer;
use super::shard::{Engine, EngineError, EngineFacts, Origin};
use crate::runtime::Clock;

impl<D: Disk> Engine<D> {
    /// Applies every entry that is committed.
    pub(super) fn apply_committed(&mut self, clock: &impl Clock) -> Result<(), EngineError> {
        while let Some(entry) = self.node.take_committed() {
            let began_us = clock.now_us();
            self.apply_entry(&entry, clock)?;
            self.durations.entries.push(clock.now_us() - began_us);
        }
        Ok(())
    }

    fn apply_entry(&mut self, entry: &Entry, clock: &impl Clock) -> Result<(), EngineError> {
        let ours = self
            .proposed
            .front()
            .is_some_and(|proposed| proposed.index == entry.index);
        if !ours {
            return replay_entry(&mut self.state, entry, &mut self.facts);
        }
        let proposed = self
            .proposed
            .pop_front()
            .expect("the front of the proposals was just seen");
        let at = Position {
            index: entry.index,
            term: entry.term,
            lease_time: proposed.lease_time,
        };
        self.state.on_entry(at);
        self.state
            .warm(proposed.commands.iter().map(|(_, request)| request));
        let mut began_us = clock.now_us();
        for (origin, request) in proposed.commands {
            let succeeded = self.apply_command(at, origin, &request);
            let ended_us = clock.now_us();
            let took_us = ended_us - began_us;
            began_us = ended_us;
            self.durations
                .commands
                .push((request.kind(), succeeded, took_us));
        }
        Ok(())
    }

    /// Applies one command and answers it; whether it succeeded.
    fn apply_command(&mut self, at: Position, origin: Origin, request: &Request) -> bool {
        let result = self.state.apply(at, request);
        self.facts.commands_applied += 1;
        if let Ok(response) = &result {
            count(&mut self.facts, request, response);
        }
        self.after_apply(request, &result);
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                self.reply(origin, Err(error));
                return false;
            }
        };
        if let Some(header) = response.header_mut() {
            header.cluster_id = self.config.cluster.0;
            header.member_id = self.config.member.0;
            header.raft_term = at.term.0;
        }
        if let Request::Compact(compact) = request {
            self.scrub_pending = true;
            if compact.physical {
                let through = Revision(compact.revision);
                self.awaiting_scrub.push((through, origin, response));
                return true;
            }
        }
        match response {
            Response::LeaseRenewMany(renewals) => self.answer_keep_alive(origin, renewals),
            response => self.reply(origin, Ok(Answer::Response(response))),
        }
        true
    }

    /// Housekeeping that hangs on the outcome of a command.
    fn after_apply(&mut self, request: &Request, result: &Result<Response, ApiError>) {
        match request {
            Request::LeaseExpire(expire) => {
                self.lease_clock.on_expired(expire.id);
            }
            Request::Alarm(_) => self.nospace_proposed = false,
            Request::Compact(_) if result.is_ok() => self
                .auto_compact
                .on_compacted(self.state.compact_revision()),
            _ => {}
        }
    }

    /// Physical compaction, a slice a turn; answers those who wait for it.
    pub(super) fn advance_scrub(&mut self) {
        if !self.scrub_pending {
            return;
        }
        let more_now = self.state.scrub(super::limits::SCRUB_PER_TURN);
        let through = self.state.scrubbed_revision();
        self.scrub_pending = more_now || through < self.state.compact_revision();
        if self.awaiting_scrub.is_empty() || self.awaiting_scrub[0].0 > through {
            return;
        }
        let waiting = std::mem::take(&mut self.awaiting_scrub);
        for (revision, origin, response) in waiting {
            if revision <= through {
                self.reply(origin, Ok(Answer::Response(response)));
            } else {
                self.awaiting_scrub.push((revision, origin, response));
            }
        }
    }
}

/// Applies an entry nobody here waits for: replay, and later entries of other members.
pub(super) fn replay_entry(
    state: &mut State,
    entry: &Entry,
    facts: &mut EngineFacts,
) -> Result<(), EngineError> {
    let mut at = Position {
        index: entry.index,
        term: entry.term,
        lease_time: state.applied().lease_time,
    };
    if entry.payload.is_empty() {
        state.on_entry(at);
        return Ok(());
    }
    let wrong = |source| EngineError::Command {
        index: entry.index,
        source,
    };
    let (lease_time, commands) = decode_entry(&entry.payload).map_err(wrong)?;
    at.lease_time = lease_time;
    state.on_entry(at);
    for command in commands {
        let request = Request::decode(command.kind, &command.body).map_err(wrong)?;
        if let Ok(response) = state.apply(at, &request) {
            count(facts, &request, &response);
        }
    }
    Ok(())
}

fn count(facts: &mut EngineFacts, request: &Request, response: &Response) {
    match (request, response) {
        (Request::Put(put), _) => {
            facts.puts += 1;
            facts.put_bytes += (put.key.len() + put.value.len()) as u64;
        }
        (Request::DeleteRange(_), _) => facts.deletes += 1,
        (Request::Txn(_), Response::Txn(txn)) => count_txn(facts, txn),
        (Request::LeaseGrant(_), _) => facts.leases_granted += 1,
        (Request::LeaseRenew(_), _) => facts.leases_renewed += 1,
        (Request::LeaseRevoke(_), _) => facts.leases_revoked += 1,
        (Request::LeaseExpire(_), _) => {
            facts.leases_revoked += 1;
            facts.leases_expired += 1;
        }
        _ => {}
    }
}

/// Counts a transaction and what the branch it took has done.
fn count_txn(facts: &mut EngineFacts, txn: &TxnResponse) {
    facts.txns += 1;
    for done in &txn.responses {
        match &done.response {
            Some(Done::ResponsePut(_)) => facts.puts += 1,
            Some(Done::ResponseDeleteRange(_)) => facts.deletes += 1,
            Some(Done::ResponseRange(_)) => facts.ranges += 1,
            Some(Done::ResponseTxn(nested)) => count_txn(facts, nested),
            None => {}
        }
    }
}
