//! How long a leader may answer reads from its own state without asking anybody.
//!
//! A follower that has heard of its leader votes for nobody else until it has missed it for an election
//! timeout. So when a majority has answered a round that the leader began at some tick, no other leader can
//! be elected until so many ticks later, and the leader knows the newest committed entry. Three things would
//! break that, and are kept from it:
//!
//! - A follower that restarts forgets that it has heard of the leader: it votes for nobody until it has run
//!   for an election timeout.
//! - A leader that hands over has a follower elected at once: it has no lease any more in its term.
//! - Ticks that are late, because the process stood still: who reads must first have given the node all ticks
//!   that are due by a clock which does not stand still.
//!
//! The members' clocks may run at rates that differ by a tenth. All members must be configured alike.

use std::collections::VecDeque;

use keelson_storage::ids::Term;

use super::ready::ReadId;

/// A leader's lease.
#[derive(Debug)]
pub(super) struct Lease {
    /// Ticks since the start.
    now: u64,
    /// Ticks that a round is good for.
    length: u64,
    /// Rounds that nobody has answered yet, and when they began.
    rounds: VecDeque<(ReadId, u64)>,
    term: Term,
    /// The first tick at which it is over.
    until: u64,
    /// Terms up to this one have no lease.
    forfeited: Term,
    election_ticks: u64,
}

impl Lease {
    pub(super) fn new(election_ticks: u64) -> Self {
        Self {
            now: 0,
            // The follower's first tick may come right after the leader's.
            length: (election_ticks - 1).saturating_sub(election_ticks.div_ceil(10)),
            rounds: VecDeque::new(),
            term: Term(0),
            until: 0,
            forfeited: Term(0),
            election_ticks,
        }
    }

    /// A bug that the cluster tests must find.
    #[cfg(test)]
    pub(super) fn stretch(&mut self, factor: u64) {
        self.length *= factor;
    }

    pub(super) fn on_tick(&mut self) {
        self.now += 1;
    }

    /// Whether this member has run long enough to vote.
    pub(super) fn may_vote(&self) -> bool {
        self.now >= self.election_ticks
    }

    /// A round begins.
    pub(super) fn on_round(&mut self, id: ReadId, term: Term) {
        self.enter(term);
        self.rounds.push_back((id, self.now));
        if self.rounds.len() as u64 > self.election_ticks {
            self.rounds.pop_front();
        }
    }

    /// A read was answered; whether it was a round of ours.
    pub(super) fn on_answered(&mut self, id: ReadId, term: Term) -> bool {
        self.enter(term);
        let Some(place) = self.rounds.iter().position(|(round, _)| *round == id) else {
            return false;
        };
        let (_, began) = self.rounds[place];
        self.rounds.drain(..=place);
        self.until = self.until.max(began + self.length);
        true
    }

    /// Somebody else may be elected at any time.
    pub(super) fn forfeit(&mut self, term: Term) {
        self.forfeited = self.forfeited.max(term);
    }

    /// Whether the leader of `term` may answer.
    pub(super) fn is_valid(&self, term: Term) -> bool {
        self.term == term && term > self.forfeited && self.now < self.until
    }

    fn enter(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.until = 0;
            self.rounds.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_the_beginning_of_a_round_that_was_answered() {
        let mut lease = Lease::new(10);
        let term = Term(3);
        assert!(!lease.may_vote());
        lease.on_round(ReadId(1), term);
        assert!(!lease.is_valid(term));
        lease.on_tick();
        lease.on_round(ReadId(2), term);
        lease.on_tick();
        assert!(lease.on_answered(ReadId(2), term));
        assert!(
            !lease.on_answered(ReadId(1), term),
            "an older one adds nothing"
        );
        assert!(!lease.on_answered(ReadId(9), term));
        for _ in 2..9 {
            assert!(lease.is_valid(term));
            assert!(!lease.is_valid(Term(4)));
            lease.on_tick();
        }
        assert!(!lease.is_valid(term));
        lease.on_tick();
        assert!(lease.may_vote());
    }

    #[test]
    fn it_ends_with_the_term_and_with_a_handing_over() {
        let mut lease = Lease::new(10);
        lease.on_round(ReadId(1), Term(3));
        assert!(lease.on_answered(ReadId(1), Term(3)));
        lease.forfeit(Term(3));
        assert!(!lease.is_valid(Term(3)));
        lease.on_round(ReadId(2), Term(3));
        lease.on_round(ReadId(3), Term(5));
        assert!(!lease.on_answered(ReadId(2), Term(5)));
        assert!(lease.on_answered(ReadId(3), Term(5)));
        assert!(lease.is_valid(Term(5)));
    }
}
