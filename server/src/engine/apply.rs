//! Committed entries meet the state machine, and those who wait get their answers.

use std::iter::Peekable;

use keelson_consensus::Entry;
use keelson_consensus::durable::Replay;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::TxnResponse;
use keelson_proto::etcdserverpb::response_op::Response as Done;
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::{LeaseTime, RaftIndex, Revision};
use keelson_storage::io::Disk;
use keelson_storage::mvcc::Record;
use keelson_storage::snapshot::SnapshotError;
use keelson_storage::state::{Position, Request, Response, State, decode_entry};

use super::limits::SCRUB_PAUSE_US;
use super::message::Answer;
use super::persist::to_group;
use super::shard::{Engine, EngineError, EngineFacts, Origin};
use crate::runtime::Clock;

/// An entry whose commands are being applied.
#[derive(Debug)]
pub(super) struct Applying {
    at: Position,
    began_us: u64,
    commands: Peekable<std::vec::IntoIter<(Origin, Request)>>,
}

impl Applying {
    /// What is left of it.
    pub(super) fn into_commands(self) -> impl Iterator<Item = (Origin, Request)> {
        self.commands
    }
}

impl<D: Disk> Engine<D> {
    /// Applies every entry that is committed, up to a command that needs a value from the disk: the rest
    /// waits for it, and so do reads.
    pub(super) fn apply_committed(&mut self, clock: &impl Clock) -> Result<(), EngineError> {
        let mut next = self.applying.take();
        loop {
            if next.is_none() {
                next = self.next_entry(clock)?;
            }
            let Some(mut applying) = next.take() else {
                break;
            };
            if !self.apply_commands(&mut applying, clock)? {
                self.applying = Some(applying);
                return Ok(());
            }
            self.on_applied(applying.at.index);
            self.durations
                .entries
                .push(clock.now_us() - applying.began_us);
        }
        if !self.held_reads.is_empty() {
            self.answer_held_reads();
        }
        Ok(())
    }

    fn next_entry(&mut self, clock: &impl Clock) -> Result<Option<Applying>, EngineError> {
        let Some(entry) = self.node.take_committed() else {
            return Ok(None);
        };
        let is_ours = self.is_ours(&entry);
        let (lease_time, commands) = if is_ours {
            let proposed = self
                .proposed
                .pop_front()
                .expect("the front of the proposals was just seen");
            (proposed.lease_time, proposed.commands)
        } else {
            let (lease_time, requests) = decode(&entry, &self.state)?;
            self.lease_clock.follow(lease_time, self.now_us);
            let requests = requests.into_iter();
            let commands = requests.map(|(request_id, request)| {
                let origin = self.forwarding.take_origin(request_id);
                (origin.unwrap_or(Origin::Engine), request)
            });
            (lease_time, commands.collect())
        };
        let at = Position {
            index: entry.index,
            term: entry.term,
            lease_time,
        };
        self.state.on_entry(at);
        self.state.warm(commands.iter().map(|(_, request)| request));
        Ok(Some(Applying {
            at,
            began_us: clock.now_us(),
            commands: commands.into_iter().peekable(),
        }))
    }

    /// Whether this member proposed an entry, in its present form. Those of its proposals that another
    /// leader's entries took the place of are not heard of any more.
    fn is_ours(&mut self, entry: &Entry) -> bool {
        // Behind an entry of a later term nothing of an earlier one is in the log.
        while let Some(proposed) = self.proposed.front()
            && (proposed.index <= entry.index || proposed.term < entry.term)
        {
            if proposed.index == entry.index && proposed.term == entry.term {
                return true;
            }
            let lost = self.proposed.pop_front().into_iter();
            for (origin, _) in lost.flat_map(|lost| lost.commands) {
                self.reply(origin, Err(ApiError::TimeoutDueToLeaderFail));
            }
        }
        false
    }

    /// Applies what is left of an entry. False if a command needs a value that is not at hand.
    fn apply_commands(
        &mut self,
        applying: &mut Applying,
        clock: &impl Clock,
    ) -> Result<bool, EngineError> {
        let mut began_us = clock.now_us();
        while let Some((_, request)) = applying.commands.peek() {
            let mut cold = self.state.cold_values(request);
            if !cold.is_empty() {
                match self.warm(&mut cold) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(error) if self.is_mended_by_others(&error) => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
                self.state.supply(cold);
            }
            let (origin, request) = applying
                .commands
                .next()
                .expect("the next command was just seen");
            let succeeded = self.apply_command(applying.at, origin, &request);
            let ended_us = clock.now_us();
            let took_us = ended_us - began_us;
            began_us = ended_us;
            self.durations
                .commands
                .push((request.kind(), succeeded, took_us));
        }
        Ok(true)
    }

    fn on_applied(&mut self, index: RaftIndex) {
        self.node.on_applied(index);
        while let Some((logged, lsn)) = self.logged.front().copied()
            && logged <= index
        {
            self.applied_lsn = lsn;
            self.logged.pop_front();
        }
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
            self.compacting_since_us.get_or_insert(self.now_us);
            if compact.physical {
                let through = Revision(compact.revision);
                self.awaiting_scrub.push((through, origin, response));
                return true;
            }
        }
        match response {
            Response::LeaseRenewMany(renewals) => self.answer_keep_alive(origin, renewals),
            response => {
                let answer = self.answer_with_cold(response);
                self.reply(origin, Ok(answer));
            }
        }
        true
    }

    /// Housekeeping that hangs on the outcome of a command.
    fn after_apply(&mut self, request: &Request, result: &Result<Response, ApiError>) {
        match request {
            Request::LeaseExpire(expire) => {
                self.lease_clock.on_expired(expire.id);
            }
            Request::Alarm(_) => {
                self.nospace_proposed = false;
                self.review_alarms();
            }
            Request::ClusterInit(_) => {
                self.found_group();
                // Who watches a cluster from its beginning is told all of it.
                self.review_newcomer();
            }
            Request::Compact(_) if result.is_ok() => self
                .auto_compact
                .on_compacted(self.state.compact_revision()),
            request if result.is_ok() => {
                if let Some(change) = request.member_change() {
                    self.on_membership(to_group(change));
                }
            }
            _ => {}
        }
    }

    /// Whether physical compaction has something to do, and its pause is over.
    pub(super) fn is_scrub_due(&self) -> bool {
        self.scrub_pending && self.now_us >= self.scrub_at_us
    }

    /// When it goes on.
    pub(super) fn scrub_deadline_us(&self) -> Option<u64> {
        self.scrub_pending.then_some(self.scrub_at_us)
    }

    /// Physical compaction, a slice a turn; answers those who wait for it.
    pub(super) fn advance_scrub(&mut self, clock: &impl Clock) {
        if !self.is_scrub_due() {
            return;
        }
        let unpublished = self.unpublished();
        let (budget, pause_us) = if self.is_serving() {
            (self.config.slices.scrub, SCRUB_PAUSE_US)
        } else {
            (self.config.slices.scrub_idle, 0)
        };
        let began_us = clock.now_us();
        let more_now = self.state.scrub(budget, unpublished);
        let ended_us = clock.now_us();
        self.scrub_at_us = ended_us + pause_us;
        self.durations.scrub_slices.push(ended_us - began_us);
        let through = self.state.scrubbed_revision();
        self.scrub_pending = more_now || through < self.state.compact_revision();
        if !self.scrub_pending
            && let Some(since_us) = self.compacting_since_us.take()
        {
            self.durations.compactions.push(ended_us - since_us);
        }
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

/// Applies what a log that is being read has committed. `load` reads the values of cold records. Where this
/// member alone decides, everything that is on its disk is committed; `decides_alone` says so of a state.
pub(super) fn replay_committed(
    replay: &mut Replay,
    state: &mut State,
    decides_alone: impl Fn(&State) -> bool,
    mut load: impl FnMut(Record) -> Result<Record, SnapshotError>,
) -> Result<(), EngineError> {
    loop {
        while let Some(entry) = replay.take_committed() {
            replay_entry(state, &entry, &mut load)?;
        }
        if !decides_alone(state) || !replay.commit_as_sole_voter() {
            return Ok(());
        }
    }
}

/// Applies an entry of the log while the member starts.
fn replay_entry(
    state: &mut State,
    entry: &Entry,
    mut load: impl FnMut(Record) -> Result<Record, SnapshotError>,
) -> Result<(), EngineError> {
    let (lease_time, requests) = decode(entry, state)?;
    let at = Position {
        index: entry.index,
        term: entry.term,
        lease_time,
    };
    state.on_entry(at);
    for (_, request) in requests {
        let cold = state.cold_values(&request);
        let whole: Result<Vec<_>, _> = cold.into_iter().map(&mut load).collect();
        state.supply(whole?);
        // What a command was answered is of no interest any more, an error included.
        let _answered = state.apply(at, &request);
        if bugs::is_on(Bug::ApplyTwiceAfterRestart) && entry.index.0.is_multiple_of(8) {
            let _answered = state.apply(at, &request);
        }
    }
    Ok(())
}

/// The lease time and the commands of an entry, with their request ids. The one that opens a term has none.
fn decode(entry: &Entry, state: &State) -> Result<(LeaseTime, Vec<(u64, Request)>), EngineError> {
    if entry.payload.is_empty() {
        return Ok((state.applied().lease_time, Vec::new()));
    }
    let wrong = |source| EngineError::Command {
        index: entry.index,
        source,
    };
    let (lease_time, commands) = decode_entry(&entry.payload).map_err(wrong)?;
    let requests = commands.into_iter().map(|command| {
        let request = Request::decode(command.kind, &command.body).map_err(wrong)?;
        Ok::<_, EngineError>((command.request_id, request))
    });
    Ok((lease_time, requests.collect::<Result<_, _>>()?))
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
