//! Handing the leadership over because somebody asked for it.

use keelson_proto::ApiError;
use keelson_storage::ids::MemberId;
use keelson_storage::io::Disk;

use super::limits::MOVE_LEADER_GIVEN_UP_AFTER_US;
use super::message::Answer;
use super::shard::{Engine, Origin};

/// Who waits for another member to lead.
#[derive(Debug)]
pub(super) struct LeaderMove {
    origin: Origin,
    to: MemberId,
    until_us: u64,
}

impl<D: Disk> Engine<D> {
    /// Hands the leadership to a voter; `origin` is answered when it leads.
    pub(super) fn move_leader(&mut self, origin: Origin, to: MemberId) {
        if !self.node.is_leader() {
            return self.reply(origin, Err(ApiError::NotLeader));
        }
        if to != self.config.member && self.node.transfer_leader(to).is_err() {
            return self.reply(origin, Err(ApiError::BadLeaderTransferee));
        }
        self.leader_moves.push(LeaderMove {
            origin,
            to,
            until_us: self.now_us + MOVE_LEADER_GIVEN_UP_AFTER_US,
        });
    }

    /// Answers those whose member leads, and those who waited too long.
    pub(super) fn advance_leader_moves(&mut self) {
        let leader = self.node.leader();
        let now_us = self.now_us;
        let is_done =
            |waiting: &mut LeaderMove| Some(waiting.to) == leader || now_us >= waiting.until_us;
        for done in self
            .leader_moves
            .extract_if(.., is_done)
            .collect::<Vec<_>>()
        {
            let result = if Some(done.to) == leader {
                Ok(Answer::LeaderMoved(self.header()))
            } else {
                Err(ApiError::Timeout)
            };
            self.reply(done.origin, result);
        }
    }

    /// When somebody has waited too long.
    pub(super) fn leader_moves_deadline_us(&self) -> Option<u64> {
        self.leader_moves
            .iter()
            .map(|waiting| waiting.until_us)
            .min()
    }
}
