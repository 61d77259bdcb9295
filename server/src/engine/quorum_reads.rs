//! Reads that must see every write acknowledged before they came: they wait for an index.
//!
//! Where this member alone decides, the index is what is committed, and all of that is applied before a turn
//! looks at reads: they are answered at once. Otherwise all reads of a turn ask together which entry they must have
//! seen: the leader by a round of heartbeats, a follower by a question to the leader. They are answered when
//! that entry is applied here. A question that gets no answer, because the leader changed or a message was lost,
//! is asked again; for as long as etcd asks, and then the read timed out.
//!
//! With leases (`raft.lease_reads`) a leader that has one knows the index without asking.
//!
//! Reads that need not see the newest are answered at once, but never from a state in which this member has not
//! started ([`Engine::knows_itself`]).
//!
//! Invariant: a read is answered from a state that holds every entry that was committed when it came.

use std::collections::VecDeque;

use keelson_consensus::node::{NodeError, ReadId};
use keelson_proto::ApiError;
use keelson_storage::bugs::{self, Bug};
use keelson_storage::ids::RaftIndex;
use keelson_storage::io::Disk;

use super::limits::{READ_INDEX_RETRY_US, READ_INDEX_WAITS_ELECTIONS, READ_INDEX_WAITS_US};
use super::message::Ask;
use super::shard::{Engine, Origin};

/// Reads that wait for their index or for its entry.
#[derive(Debug, Default)]
pub(super) struct QuorumReads {
    /// Not asked for yet. Bounded like all questions.
    fresh: Vec<Waiting>,
    /// Asked, in order.
    asked: VecDeque<Asked>,
    /// When those that have waited for too long are looked for again.
    look_at_us: u64,
}

#[derive(Debug)]
struct Waiting {
    origin: Origin,
    ask: Ask,
    /// When it came.
    since_us: u64,
}

#[derive(Debug)]
struct Asked {
    id: ReadId,
    at_us: u64,
    /// What must be applied first, once it is known.
    index: Option<RaftIndex>,
    reads: Vec<Waiting>,
}

impl QuorumReads {
    pub(super) fn count(&self) -> usize {
        let asked = self.asked.iter().map(|asked| asked.reads.len());
        self.fresh.len() + asked.sum::<usize>()
    }
}

/// Whether a read must see every write acknowledged before it.
fn is_linearizable(ask: &Ask) -> bool {
    match ask {
        Ask::Range(range) => !range.serializable,
        Ask::Members { linearizable } => *linearizable,
        Ask::ReadTxn(_) | Ask::Leases | Ask::LeaseTimeToLive { .. } => true,
        _ => false,
    }
}

/// Whether a read tells more than how this member itself is.
fn needs_state(ask: &Ask) -> bool {
    !matches!(ask, Ask::Status | Ask::Health | Ask::Hash { .. })
}

/// Whether the answer comes from the state at all.
fn tells_state(ask: &Ask) -> bool {
    !matches!(ask, Ask::Status | Ask::Health)
}

impl<D: Disk> Engine<D> {
    /// Answers a read, or has it wait for its index.
    pub(super) fn take_read(&mut self, origin: Origin, ask: Ask) {
        if self.is_rejoining() && needs_state(&ask) {
            return self.reply(origin, Err(ApiError::NoLeader));
        }
        if !is_linearizable(&ask) && tells_state(&ask) && !self.knows_itself() {
            return self.reply(origin, Err(ApiError::NoLeader));
        }
        if self.comparing.is_odd && needs_state(&ask) {
            return self.reply(origin, Err(ApiError::Corrupt));
        }
        if !is_linearizable(&ask) || bugs::is_on(Bug::StaleRead) {
            return self.read(origin, ask);
        }
        match self.node.read_index_alone() {
            Some(must_reach) if self.is_alone() => {
                let applied = self.state.applied().index;
                assert!(
                    applied >= must_reach,
                    "a turn applies what is committed before it reads: applied {applied} < {must_reach}"
                );
                self.read(origin, ask);
            }
            // A lease is looked at in a turn, which has looked at the clock.
            _ => self.quorum_reads.fresh.push(Waiting {
                origin,
                ask,
                since_us: self.now_us,
            }),
        }
    }

    /// Answers the reads of this turn if this member need not ask for their index: it has a lease.
    fn answer_by_lease(&mut self) {
        let applied = self.state.applied().index;
        let may_answer = self.applying.is_none()
            && self
                .node
                .read_index_alone()
                .is_some_and(|must_reach| must_reach <= applied);
        if may_answer {
            for read in std::mem::take(&mut self.quorum_reads.fresh) {
                self.read(read.origin, read.ask);
            }
        }
    }

    /// Asks for the reads of this turn, and answers those whose entry is applied.
    pub(super) fn advance_quorum_reads(&mut self) {
        self.refuse_overdue_reads();
        self.ask_again();
        self.answer_by_lease();
        self.ask_fresh();
        while let Some(state) = self.node.take_read_state() {
            let asked = self.quorum_reads.asked.iter_mut();
            for asked in asked.take_while(|asked| asked.id <= state.id) {
                asked.index.get_or_insert(state.index);
            }
        }
        // What is being applied holds reads back anyway.
        if self.applying.is_some() {
            return;
        }
        let applied = self.state.applied().index;
        while let Some(asked) = self.quorum_reads.asked.front()
            && asked.index.is_some_and(|index| index <= applied)
        {
            let asked = self.quorum_reads.asked.pop_front();
            for read in asked.into_iter().flat_map(|asked| asked.reads) {
                self.read(read.origin, read.ask);
            }
        }
    }

    /// When an unanswered question is asked again.
    pub(super) fn quorum_reads_deadline_us(&self) -> Option<u64> {
        let mut asked = self.quorum_reads.asked.iter();
        let oldest = asked.find(|asked| asked.index.is_none());
        oldest.map(|asked| asked.at_us + READ_INDEX_RETRY_US)
    }

    /// Ends the wait of reads whose index nobody tells.
    fn refuse_overdue_reads(&mut self) {
        let reads = &mut self.quorum_reads;
        if self.now_us < reads.look_at_us {
            return;
        }
        reads.look_at_us = self.now_us + READ_INDEX_RETRY_US;
        let group = &self.config.group;
        let election_us = group.tick_us * group.election_ticks as u64;
        let waits_us = READ_INDEX_WAITS_US + READ_INDEX_WAITS_ELECTIONS * election_us;
        let now_us = self.now_us;
        let is_overdue = |read: &mut Waiting| now_us >= read.since_us + waits_us;
        let mut overdue: Vec<Waiting> = reads.fresh.extract_if(.., is_overdue).collect();
        let unanswered = reads.asked.iter_mut().filter(|asked| asked.index.is_none());
        for asked in unanswered {
            overdue.extend(asked.reads.extract_if(.., is_overdue));
        }
        for read in overdue {
            self.reply(read.origin, Err(ApiError::Timeout));
        }
        // Where the log is stuck the entry does not come; elsewhere it does.
        if self.wal.is_out_of_room() {
            let asked = self.quorum_reads.asked.iter_mut();
            let reads = asked.flat_map(|asked| asked.reads.extract_if(.., is_overdue));
            for read in reads.collect::<Vec<_>>() {
                self.reply(read.origin, Err(ApiError::TimeoutWaitAppliedIndex));
            }
        }
    }

    fn ask_again(&mut self) {
        let now_us = self.now_us;
        let is_lost =
            |asked: &Asked| asked.index.is_none() && now_us >= asked.at_us + READ_INDEX_RETRY_US;
        if !self.quorum_reads.asked.iter().any(is_lost) {
            return;
        }
        let asked = std::mem::take(&mut self.quorum_reads.asked);
        for asked in asked {
            if is_lost(&asked) {
                self.quorum_reads.fresh.extend(asked.reads);
            } else {
                self.quorum_reads.asked.push_back(asked);
            }
        }
    }

    fn ask_fresh(&mut self) {
        if self.quorum_reads.fresh.is_empty() {
            return;
        }
        let id = match self.node.read_index() {
            Ok(id) => id,
            // They stay for a later turn; a front's time limit bounds how long.
            Err(NodeError::NoLeader | NodeError::NotReady | NodeError::TooManyReads) => return,
            Err(error) => unreachable!("a read is asked for or waits: {error}"),
        };
        self.quorum_reads.asked.push_back(Asked {
            id,
            at_us: self.now_us,
            index: None,
            reads: std::mem::take(&mut self.quorum_reads.fresh),
        });
    }
}
