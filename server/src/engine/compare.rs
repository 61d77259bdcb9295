//! The members compare what they hold: the hash of all keys at the same revision, under the same compact revision.
//!
//! ```text
//!   leader, or a member that starts: ask(round, revision, entry) --> each applies that entry, and hashes at that revision
//!                                                                --> answer --> compare
//! ```
//!
//! The leader does it every `--corrupt-check-time`, and `--compact-hash-check-time` after a compaction if the gate
//! CompactHashCheck is on. Whoever has another hash than the majority of the members is odd: the alarm CORRUPT is raised for
//! it, which refuses all changes, as in etcd, until it is disarmed; and the odd member answers no reads either. Where there
//! is no majority the alarm names nobody. With the gate InitialCorruptCheck a member compares itself after its start, and
//! ends if the majority holds something else.
//!
//! A hash is gathered in slices, as that of a client, and computed on a thread beside the cores. A member that is behind
//! answers when it has got there; who does not answer in time is left out of that round.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use keelson_consensus::replicate::Item;
use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::alarm_request::AlarmAction;
use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType};
use keelson_storage::ids::{MemberId, RaftIndex, Revision};
use keelson_storage::io::Disk;
use keelson_storage::mvcc::{HashKvResult, HashScan};
use keelson_storage::snapshot::{SnapshotError, ValueReader};
use keelson_storage::state::Request;

use super::limits::{COMPARE_ANSWERED_AFTER_US, COMPARE_JOBS_MAX, HASH_RECORDS_PER_TURN};
use super::shard::{Engine, EngineError};
use crate::runtime;

/// Kinds of the server's own items.
pub(super) const COMPARE_ASK: u8 = 66;
pub(super) const COMPARE_ANSWER: u8 = 67;

/// When members compare what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareConfig {
    /// How often the leader does, in microseconds.
    pub interval_us: Option<u64>,
    /// How long after a compaction it does, in microseconds.
    pub after_compaction_us: Option<u64>,
    /// Whether each member does after its start.
    pub at_start: bool,
}

/// What is compared, and who is asked for hashes.
#[derive(Debug, Default)]
pub(super) struct Comparing {
    round: Option<Round>,
    next_round: u64,
    /// Hashes that others, or this member itself, want; one is made at a time.
    jobs: VecDeque<Job>,
    running: Option<(Job, Running)>,
    next_at_us: Option<u64>,
    after_compaction_at_us: Option<u64>,
    /// The compaction after which was compared last.
    compared_after: Revision,
    is_start_due: bool,
    /// The alarm names this member.
    pub(super) is_odd: bool,
}

#[derive(Debug)]
struct Round {
    number: u64,
    revision: Revision,
    is_at_start: bool,
    ends_at_us: u64,
    answers: BTreeMap<MemberId, Hash>,
}

/// What counts of an answer: the compact revision, and the hash, if there is such a revision there.
type Hash = (Revision, Option<u32>);

#[derive(Clone, Copy, Debug)]
struct Job {
    asker: MemberId,
    round: u64,
    revision: Revision,
    /// The asker's last entry: whoever has applied it has the revision, too.
    index: RaftIndex,
    asked_at_us: u64,
}

#[derive(Debug)]
enum Running {
    Gathering(Box<HashScan>),
    Computing(Receiver<Result<HashKvResult, SnapshotError>>),
}

impl Comparing {
    pub(super) fn new(config: CompareConfig, seed: u64, now_us: u64) -> Self {
        Self {
            next_round: seed << 16,
            next_at_us: config.interval_us.map(|interval_us| now_us + interval_us),
            is_start_due: config.at_start,
            ..Self::default()
        }
    }
}

impl<D: Disk> Engine<D> {
    /// Begins a round when one is due, moves the hash on that is being made, and ends the round.
    pub(super) fn advance_comparing(&mut self) -> Result<(), EngineError> {
        self.begin_round();
        self.advance_hash_job();
        self.end_round()
    }

    pub(super) fn comparing_deadline_us(&self) -> Option<u64> {
        let comparing = &self.comparing;
        if comparing.running.is_some() {
            // The next slice, or the thread that rings.
            return None;
        }
        let round = comparing.round.as_ref().map(|round| round.ends_at_us);
        let due = [comparing.next_at_us, comparing.after_compaction_at_us];
        let due = due.into_iter().flatten().filter(|_| self.is_in_office());
        due.chain(round).min()
    }

    /// Whether another slice of a hash can be gathered at once.
    pub(super) fn is_gathering(&self) -> bool {
        matches!(self.comparing.running, Some((_, Running::Gathering(_))))
    }

    /// Another member wants a hash.
    pub(super) fn on_compare_ask(&mut self, from: MemberId, mut body: Bytes) {
        if body.len() != 24 || self.is_rejoining() {
            return;
        }
        let (round, revision) = (body.get_u64_le(), Revision(body.get_i64_le()));
        let index = RaftIndex(body.get_u64_le());
        self.add_job(from, round, revision, index);
    }

    /// Another member has hashed.
    pub(super) fn on_compare_answer(&mut self, from: MemberId, mut body: Bytes) {
        if body.len() != 24 {
            return;
        }
        let number = body.get_u64_le();
        let compact_revision = Revision(body.get_i64_le());
        let hash = body.get_u32_le();
        let hash = (body.get_u32_le() == 1).then_some(hash);
        let round = self.comparing.round.as_mut();
        if let Some(round) = round.filter(|round| round.number == number) {
            round.answers.insert(from, (compact_revision, hash));
        }
    }

    /// Looks again whether an alarm says that this member is the odd one.
    pub(super) fn review_alarms(&mut self) {
        let me = self.config.member.0;
        let alarms = self.state.alarms();
        self.comparing.is_odd = alarms
            .iter()
            .any(|alarm| alarm.alarm == AlarmType::Corrupt as i32 && alarm.member_id == me);
    }

    fn begin_round(&mut self) {
        let config = self.config.compare;
        let now_us = self.now_us;
        let compacted = self.state.compact_revision();
        let comparing = &mut self.comparing;
        if compacted > comparing.compared_after && comparing.after_compaction_at_us.is_none() {
            let wait_us = config.after_compaction_us;
            comparing.after_compaction_at_us = wait_us.map(|wait_us| now_us + wait_us);
        }
        let is_due = |at_us: Option<u64>| at_us.is_some_and(|at_us| now_us >= at_us);
        let is_late = is_due(comparing.next_at_us) || is_due(comparing.after_compaction_at_us);
        let is_at_start = comparing.is_start_due;
        if comparing.round.is_some() || self.is_alone() || self.is_rejoining() {
            return;
        }
        if is_at_start {
            // Before that it may be behind, and nobody answers.
            let is_settled =
                self.node.leader().is_some() && self.state.applied().index >= self.node.committed();
            if !is_settled {
                return;
            }
        } else if !is_late || !self.is_in_office() {
            return;
        }
        let comparing = &mut self.comparing;
        comparing.is_start_due = false;
        comparing.next_at_us = config.interval_us.map(|interval_us| now_us + interval_us);
        comparing.after_compaction_at_us = None;
        comparing.compared_after = compacted;
        comparing.next_round += 1;
        let (number, revision) = (comparing.next_round, self.state.revision());
        let index = self.state.applied().index;
        comparing.round = Some(Round {
            number,
            revision,
            is_at_start,
            ends_at_us: now_us + COMPARE_ANSWERED_AFTER_US,
            answers: BTreeMap::new(),
        });
        let mut body = BytesMut::with_capacity(24);
        body.put_u64_le(number);
        body.put_i64_le(revision.0);
        body.put_u64_le(index.0);
        let body = body.freeze();
        for to in self.members_to_compare() {
            let (kind, body) = (COMPARE_ASK, body.clone());
            self.group_send(to, Item::Server { kind, body });
        }
        self.add_job(self.config.member, number, revision, index);
    }

    fn members_to_compare(&self) -> Vec<MemberId> {
        let me = self.config.member;
        let membership = self.node.membership();
        let all = membership.voters.iter().chain(&membership.learners);
        all.copied().filter(|id| *id != me).collect()
    }

    fn add_job(&mut self, asker: MemberId, round: u64, revision: Revision, index: RaftIndex) {
        let jobs = &mut self.comparing.jobs;
        // A later question of the same member takes the place of the earlier one.
        jobs.retain(|job| job.asker != asker);
        if jobs.len() < COMPARE_JOBS_MAX {
            jobs.push_back(Job {
                asker,
                round,
                revision,
                index,
                asked_at_us: self.now_us,
            });
        }
    }

    fn advance_hash_job(&mut self) {
        let Some((job, running)) = self.comparing.running.take() else {
            return self.begin_hash_job();
        };
        match running {
            Running::Gathering(mut scan) => {
                let running = if self.state.hash_step(&mut scan, HASH_RECORDS_PER_TURN) {
                    self.compute(scan)
                } else {
                    Running::Gathering(scan)
                };
                self.comparing.running = Some((job, running));
            }
            Running::Computing(result) => match result.try_recv() {
                Ok(Ok(hash)) => {
                    self.answer_compared(job, hash.compact_revision, Some(hash.hash));
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "this member's data cannot be hashed");
                    self.is_mended_by_others(&error);
                }
                Err(TryRecvError::Empty) => {
                    self.comparing.running = Some((job, Running::Computing(result)));
                }
                Err(TryRecvError::Disconnected) => {
                    unreachable!("the thread that hashes ends after it said the hash")
                }
            },
        }
    }

    fn begin_hash_job(&mut self) {
        let Some(job) = self.comparing.jobs.front().copied() else {
            return;
        };
        let is_over = self.now_us >= job.asked_at_us + COMPARE_ANSWERED_AFTER_US;
        let is_behind = self.state.applied().index < job.index || self.applying.is_some();
        if !is_over && is_behind {
            return;
        }
        self.comparing.jobs.pop_front();
        if is_over {
            return;
        }
        match self.state.hash_begin(job.revision.0) {
            Ok(scan) => {
                let running = Running::Gathering(Box::new(scan));
                self.comparing.running = Some((job, running));
            }
            // The same entries have led to fewer revisions here.
            Err(ApiError::FutureRev) => {
                let compact_revision = self.state.compact_revision();
                self.answer_compared(job, compact_revision, None);
            }
            // Compacted meanwhile: this round has no answer of this member.
            Err(_) => {}
        }
    }

    /// Has the hash computed, beside the cores where that can be.
    fn compute(&mut self, scan: Box<HashScan>) -> Running {
        let (out, result) = sync_channel(1);
        let bell = self.bell();
        let has_bell = bell.is_some();
        let work = move || {
            let mut values = ValueReader::default();
            let hash = scan.finish(|snapshot, place| values.read(snapshot, place));
            // An engine that is gone does not want to know.
            let _ = out.send(hash);
            if let Some(bell) = bell {
                bell.ring();
            }
        };
        if has_bell {
            if let Err(error) = runtime::spawn_helper(work) {
                tracing::warn!(%error, "no thread to hash; this round goes without");
                let (out, result) = sync_channel(1);
                let _ = out.send(Err(SnapshotError::Unfinished {
                    file: String::new(),
                }));
                return Running::Computing(result);
            }
        } else {
            work();
        }
        Running::Computing(result)
    }

    fn answer_compared(&mut self, job: Job, compact_revision: Revision, hash: Option<u32>) {
        let mut body = BytesMut::with_capacity(24);
        body.put_u64_le(job.round);
        body.put_i64_le(compact_revision.0);
        body.put_u32_le(hash.unwrap_or_default());
        body.put_u32_le(u32::from(hash.is_some()));
        let body = body.freeze();
        if job.asker == self.config.member {
            self.on_compare_answer(job.asker, body);
        } else {
            let kind = COMPARE_ANSWER;
            self.group_send(job.asker, Item::Server { kind, body });
        }
    }

    fn end_round(&mut self) -> Result<(), EngineError> {
        let members = self.members_to_compare().len() + 1;
        let Some(round) = &self.comparing.round else {
            return Ok(());
        };
        if round.answers.len() < members && self.now_us < round.ends_at_us {
            return Ok(());
        }
        let Some(round) = self.comparing.round.take() else {
            return Ok(());
        };
        let me = self.config.member;
        let Some(verdict) = judge(&round.answers, me, members) else {
            return Ok(());
        };
        match verdict {
            Verdict::Same(count) => {
                tracing::debug!(count, revision = round.revision.0, "members hold the same");
            }
            Verdict::Odd(odd) if round.is_at_start => {
                if odd.contains(&me) {
                    return Err(EngineError::Inconsistent {
                        revision: round.revision,
                    });
                }
            }
            Verdict::Odd(odd) => {
                for member in odd {
                    tracing::error!(%member, revision = round.revision.0, "a member holds other data");
                    self.raise_corrupt(member);
                }
            }
            Verdict::NoMajority if round.is_at_start => {}
            Verdict::NoMajority => {
                tracing::error!(revision = round.revision.0, "members hold different data");
                self.raise_corrupt(MemberId(0));
            }
        }
        Ok(())
    }

    fn raise_corrupt(&mut self, member: MemberId) {
        let alarm = AlarmType::Corrupt as i32;
        let mut raised = self.state.alarms().into_iter();
        if raised.any(|raised| (raised.alarm, raised.member_id) == (alarm, member.0)) {
            return;
        }
        self.queue_own(Request::Alarm(AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: member.0,
            alarm,
        }));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// So many hold the same.
    Same(usize),
    Odd(Vec<MemberId>),
    NoMajority,
}

/// Who is odd among `members` members, of which those in `answers` have hashed, `me` for the others to compare with;
/// `None` if nothing can be compared. Hashes under different compact revisions say nothing about each other. Who has no
/// such revision disagrees with `me`, and with nobody else: those that have gone on since may have it by now.
fn judge(answers: &BTreeMap<MemberId, Hash>, me: MemberId, members: usize) -> Option<Verdict> {
    let mine = answers.get(&me)?;
    let comparable = answers.iter().filter(|(_, hash)| hash.0 == mine.0);
    let comparable: Vec<(MemberId, Option<u32>)> =
        comparable.map(|(member, hash)| (*member, hash.1)).collect();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    let mut lacking = 0;
    for (_, hash) in &comparable {
        match hash {
            Some(hash) => *counts.entry(*hash).or_default() += 1,
            None => lacking += 1,
        }
    }
    let agreed = counts.remove(&mine.1?).unwrap_or_default();
    let rival = counts.iter().max_by_key(|(_, count)| **count);
    let against = lacking + rival.map_or(0, |(_, count)| *count);
    if against == 0 {
        return Some(Verdict::Same(agreed));
    }
    let odd: Vec<MemberId> = if agreed * 2 > members {
        let others = comparable.iter().filter(|(_, hash)| *hash != mine.1);
        others.map(|(member, _)| *member).collect()
    } else if against * 2 > members {
        let right = rival.map(|(hash, _)| *hash);
        let is_odd = |hash: &Option<u32>| hash.is_some() && *hash != right;
        let others = comparable.iter().filter(|(_, hash)| is_odd(hash));
        others.map(|(member, _)| *member).collect()
    } else {
        return Some(Verdict::NoMajority);
    };
    Some(Verdict::Odd(odd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_of_the_members_decides_who_is_odd() {
        let judged = |answers: &[(u64, i64, u32)], members| {
            let answers = answers.iter().map(|(member, compact_revision, hash)| {
                let hash = (*hash != 0).then_some(*hash);
                (MemberId(*member), (Revision(*compact_revision), hash))
            });
            judge(&answers.collect(), MemberId(1), members)
        };
        let odd = |members: &[u64]| {
            let members = members.iter().copied().map(MemberId);
            Some(Verdict::Odd(members.collect()))
        };
        assert_eq!(
            judged(&[(1, 5, 7), (2, 5, 7), (3, 5, 7)], 3),
            Some(Verdict::Same(3))
        );
        assert_eq!(judged(&[(1, 5, 7), (2, 5, 7), (3, 5, 8)], 3), odd(&[3]));
        assert_eq!(judged(&[(1, 5, 8), (2, 5, 7), (3, 5, 7)], 3), odd(&[1]));
        assert_eq!(
            judged(&[(1, 5, 8), (2, 5, 7)], 3),
            Some(Verdict::NoMajority)
        );
        assert_eq!(
            judged(&[(1, 5, 8), (2, 5, 7), (3, 5, 6)], 3),
            Some(Verdict::NoMajority)
        );
        assert_eq!(
            judged(&[(1, 5, 7), (2, 4, 8), (3, 4, 8)], 3),
            Some(Verdict::Same(1))
        );
        assert_eq!(judged(&[(2, 4, 8), (3, 4, 7)], 3), None);
        // 0 stands for a member without that revision.
        assert_eq!(judged(&[(1, 5, 7), (2, 5, 0), (3, 5, 0)], 3), odd(&[1]));
        assert_eq!(judged(&[(1, 5, 7), (2, 5, 0), (3, 5, 9)], 3), odd(&[1]));
        assert_eq!(judged(&[(1, 5, 7), (2, 5, 0), (3, 5, 7)], 3), odd(&[2]));
    }
}
