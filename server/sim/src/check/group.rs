//! Raft's promises, as far as they show from outside, checked as members are looked at.
//!
//! 1. *Election safety*: a term has one leader.
//! 2. *Leader completeness*: whoever leads a term has every entry that was applied in an earlier one.
//! 3. *State machine safety*: an index is applied once and for all: the same term, the same lease time, the same
//!    revision, the same state on every member that stands there. A member goes back only by starting again.

use std::collections::BTreeMap;

use super::Violation;

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Which member.
    pub member: u64,
    /// The last entry that it has applied.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// Revision of its keyspace.
    pub revision: i64,
    /// A number that is equal for equal states, if it was computed.
    pub digest: Option<u64>,
}

/// What is known of a raft group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    leaders: BTreeMap<u64, u64>,
    applied: BTreeMap<u64, Applied>,
}

impl Group {
    /// A member leads a term, and its log ends with `last`; whether that is news.
    ///
    /// # Errors
    /// Somebody else leads it, or it lacks what was applied before.
    pub fn on_leader(&mut self, member: u64, term: u64, last: u64) -> Result<bool, Violation> {
        match self.leaders.insert(term, member) {
            Some(other) if other != member => {
                let what = format!("{other} and {member} lead term {term}");
                return Err(Violation::new("G-R-1", what));
            }
            Some(_) => return Ok(false),
            None => {}
        }
        let newest = self.applied.values().next_back();
        match newest {
            Some(newest) if newest.term < term && newest.index > last => {
                let what =
                    format!("{member} leads term {term} with a log to {last}, but {newest:?}");
                Err(Violation::new("G-R-1", what))
            }
            _ => Ok(true),
        }
    }

    /// A member stands somewhere else.
    ///
    /// # Errors
    /// Another member, or it itself in an earlier life, was something else there.
    pub fn on_applied(&mut self, applied: Applied) -> Result<(), Violation> {
        let Some(known) = self.applied.get_mut(&applied.index) else {
            self.applied.insert(applied.index, applied);
            return Ok(());
        };
        let is_same_state = match (known.digest, applied.digest) {
            (Some(known), Some(now)) => known == now,
            _ => true,
        };
        if known.term != applied.term || known.revision != applied.revision || !is_same_state {
            let rule = match is_same_state {
                true => "G-R-1",
                false => "G-R-7",
            };
            return Err(Violation::new(rule, format!("{applied:?}, but {known:?}")));
        }
        known.digest = known.digest.or(applied.digest);
        Ok(())
    }

    /// Terms that had a leader.
    #[must_use]
    pub fn terms(&self) -> usize {
        self.leaders.len()
    }

    /// The last entry that anybody has applied.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.applied.keys().next_back().copied().unwrap_or(0)
    }
}
