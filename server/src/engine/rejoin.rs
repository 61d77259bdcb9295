//! A member whose data was damaged gets all of it from the others, without an operator.
//!
//! It keeps its name, and it may have forgotten votes and entries that it had accepted. So it takes no part in the group
//! until it has a snapshot that holds everything it can ever have vouched for. The rules are those of
//! `consensus/PROTOCOL.md`, section 10:
//!
//! ```text
//!   ask everybody --> all voters have answered, and one of them leads in the newest term of all answers
//!                 --> ask that one for a snapshot up to its last entry --> install it --> a follower like any other
//! ```
//!
//! Meanwhile it has no state: it answers no read, and like any newcomer it opens no watch. A crash begins all of it anew, for
//! `member/REJOIN` stays until the snapshot counts.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use keelson_consensus::limits::MEMBERS_MAX;
use keelson_consensus::node::rejoin_request;
use keelson_consensus::replicate::{Item, SnapshotOffer};
use keelson_storage::ids::{MemberId, RaftIndex, Term};
use keelson_storage::io::Disk;

use super::compare::{COMPARE_ANSWER, COMPARE_ASK};
use super::limits::REJOIN_REPEAT_US;
use super::room::ROOM;
use super::shard::Engine;

/// Kinds of the server's own items.
pub(super) const REJOIN_ASK: u8 = 64;
pub(super) const REJOIN_ANSWER: u8 = 65;

/// What a member knows that begins anew.
#[derive(Debug)]
pub(super) struct Rejoin {
    /// Names this start: answers to an earlier one may be too old.
    nonce: u64,
    answers: BTreeMap<MemberId, Standing>,
    ask_at_us: u64,
}

/// How another member stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    term: Term,
    last: RaftIndex,
    leads: bool,
    voters: BTreeSet<MemberId>,
}

/// What a snapshot must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Goal {
    leader: MemberId,
    term: Term,
    last: RaftIndex,
}

impl Rejoin {
    pub(super) fn new(nonce: u64, now_us: u64) -> Self {
        Self {
            nonce,
            answers: BTreeMap::new(),
            ask_at_us: now_us,
        }
    }

    /// Once every voter that anybody knows of has answered, and one of them leads in a term that none is beyond.
    fn goal(&self, me: MemberId) -> Option<Goal> {
        let mut voters = self.answers.values().flat_map(|answer| &answer.voters);
        let has_answered = |voter: &MemberId| *voter == me || self.answers.contains_key(voter);
        if self.answers.is_empty() || !voters.all(has_answered) {
            return None;
        }
        let newest = self.answers.values().map(|answer| answer.term).max()?;
        let mut answers = self.answers.iter();
        let (leader, answer) = answers.find(|(_, answer)| answer.leads && answer.term == newest)?;
        Some(Goal {
            leader: *leader,
            term: answer.term,
            last: answer.last,
        })
    }

    fn everybody(&self) -> impl Iterator<Item = MemberId> + '_ {
        let voters = self.answers.values().flat_map(|answer| &answer.voters);
        voters.copied()
    }
}

impl<D: Disk> Engine<D> {
    /// Whether it has nothing yet that counts.
    #[must_use]
    pub fn is_rejoining(&self) -> bool {
        self.rejoin.is_some()
    }

    /// Whether it has become whole since this was last asked.
    pub fn take_rejoined(&mut self) -> bool {
        std::mem::take(&mut self.has_rejoined)
    }

    /// Another member says something that only the servers understand.
    pub(super) fn on_server_item(&mut self, from: MemberId, kind: u8, body: Bytes) {
        match kind {
            REJOIN_ASK => self.on_rejoin_ask(from, &body),
            REJOIN_ANSWER => self.on_rejoin_answer(from, body),
            COMPARE_ASK => self.on_compare_ask(from, body),
            ROOM => self.on_room(from, &body),
            COMPARE_ANSWER => self.on_compare_answer(from, body),
            kind => tracing::debug!(member = %from, kind, "message of a later version"),
        }
    }

    /// Asks again when it is time to.
    pub(super) fn advance_rejoin(&mut self) {
        let me = self.config.member;
        let Some(rejoin) = &mut self.rejoin else {
            return;
        };
        if self.now_us < rejoin.ask_at_us {
            return;
        }
        rejoin.ask_at_us = self.now_us + REJOIN_REPEAT_US;
        let told = self.config.group.peers.iter();
        let mut others: BTreeSet<MemberId> = told.map(|peer| MemberId(peer.id)).collect();
        others.extend(rejoin.everybody());
        others.remove(&me);
        let nonce = Bytes::copy_from_slice(&rejoin.nonce.to_le_bytes());
        let goal = rejoin.goal(me);
        for to in others {
            let body = nonce.clone();
            let kind = REJOIN_ASK;
            self.group_send(to, Item::Server { kind, body });
        }
        if let Some(goal) = goal
            && self.receiving.is_none()
        {
            let request = rejoin_request(goal.term, goal.last);
            self.group_send(goal.leader, Item::Raft(request));
        }
    }

    pub(super) fn rejoin_deadline_us(&self) -> Option<u64> {
        self.rejoin.as_ref().map(|rejoin| rejoin.ask_at_us)
    }

    /// Whether a snapshot is one with which this member may begin; any, if it does not begin anew.
    pub(super) fn may_begin_with(&self, offer: &SnapshotOffer) -> bool {
        let Some(rejoin) = &self.rejoin else {
            return true;
        };
        let goal = rejoin.goal(self.config.member);
        goal.is_some_and(|goal| offer.term >= goal.term && offer.at.index >= goal.last)
    }

    /// The state is whole.
    pub(super) fn end_rejoin(&mut self) {
        if self.rejoin.take().is_none() {
            return;
        }
        tracing::info!("this member has everything again and takes part in its cluster");
        self.has_rejoined = true;
    }

    fn on_rejoin_ask(&mut self, from: MemberId, body: &Bytes) {
        // Who has forgotten its own term has nothing to say.
        if self.rejoin.is_some() || body.len() != 8 {
            return;
        }
        let standing = Standing {
            term: self.node.term(),
            last: self.node.last(),
            leads: self.node.is_leader(),
            voters: self.node.membership().voters,
        };
        let body = standing.encode(body);
        let kind = REJOIN_ANSWER;
        self.group_send(from, Item::Server { kind, body });
    }

    fn on_rejoin_answer(&mut self, from: MemberId, body: Bytes) {
        let Some(rejoin) = &mut self.rejoin else {
            return;
        };
        if let Some((nonce, standing)) = Standing::decode(body)
            && nonce == rejoin.nonce
        {
            rejoin.answers.insert(from, standing);
        }
    }
}

impl Standing {
    fn encode(&self, nonce: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(nonce);
        out.put_u64_le(self.term.0);
        out.put_u64_le(self.last.0);
        out.put_u32_le(u32::from(self.leads));
        out.put_u32_le(self.voters.len() as u32);
        self.voters.iter().for_each(|id| out.put_u64_le(id.0));
        out.freeze()
    }

    /// The nonce that was asked with, and the answer; `None` for anything else.
    fn decode(mut body: Bytes) -> Option<(u64, Self)> {
        if body.len() < 32 {
            return None;
        }
        let nonce = body.get_u64_le();
        let term = Term(body.get_u64_le());
        let last = RaftIndex(body.get_u64_le());
        let leads = body.get_u32_le() == 1;
        let count = body.get_u32_le() as usize;
        if count > MEMBERS_MAX || body.len() != count * 8 {
            return None;
        }
        let voters = (0..count).map(|_| MemberId(body.get_u64_le())).collect();
        let standing = Self {
            term,
            last,
            leads,
            voters,
        };
        Some((nonce, standing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(term: u64, last: u64, leads: bool) -> Standing {
        Standing {
            term: Term(term),
            last: RaftIndex(last),
            leads,
            voters: [1, 2, 3].map(MemberId).into(),
        }
    }

    #[test]
    fn answers_come_back_as_they_were_said() {
        let said = standing(4, 9, true);
        let bytes = said.encode(&7_u64.to_le_bytes());
        assert_eq!(Standing::decode(bytes.clone()), Some((7, said)));
        for cut in 0..bytes.len() {
            assert_eq!(Standing::decode(bytes.slice(..cut)), None);
        }
    }

    #[test]
    fn a_goal_needs_all_voters_and_a_leader_that_nobody_is_beyond() {
        let me = MemberId(3);
        let mut rejoin = Rejoin::new(7, 0);
        assert_eq!(rejoin.goal(me), None);
        rejoin.answers.insert(MemberId(1), standing(4, 9, true));
        assert_eq!(rejoin.goal(me), None, "one is missing");
        rejoin.answers.insert(MemberId(2), standing(5, 8, false));
        assert_eq!(rejoin.goal(me), None, "one is in a later term");
        rejoin.answers.insert(MemberId(2), standing(4, 8, false));
        let goal = Goal {
            leader: MemberId(1),
            term: Term(4),
            last: RaftIndex(9),
        };
        assert_eq!(rejoin.goal(me), Some(goal));
    }
}
