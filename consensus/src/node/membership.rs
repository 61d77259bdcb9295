//! Who belongs to the group.

use std::collections::BTreeSet;

use keelson_storage::ids::MemberId;
use keelson_storage::limits::CLUSTER_MEMBERS_MAX;
use thiserror::Error;

use crate::limits::MEMBERS_MAX;

const _: () = assert!(CLUSTER_MEMBERS_MAX <= MEMBERS_MAX);

/// The members of the group as of some entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those whose disks count.
    pub voters: BTreeSet<MemberId>,
    /// Those who only listen.
    pub learners: BTreeSet<MemberId>,
}

/// One step from a membership to the next. At most one voter comes or goes, so that any majority before
/// and any after have a member in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new voter, or a learner that becomes one.
    AddVoter(MemberId),
    /// A new learner.
    AddLearner(MemberId),
    /// A member leaves.
    Remove(MemberId),
}

impl Membership {
    /// A group of voters.
    pub fn of_voters(voters: impl IntoIterator<Item = MemberId>) -> Self {
        Self {
            voters: voters.into_iter().collect(),
            learners: BTreeSet::new(),
        }
    }

    /// Whether `member` belongs to it.
    #[must_use]
    pub fn contains(&self, member: MemberId) -> bool {
        self.voters.contains(&member) || self.learners.contains(&member)
    }

    /// Whether `member` alone decides.
    #[must_use]
    pub fn is_sole_voter(&self, member: MemberId) -> bool {
        self.voters.len() == 1 && self.voters.contains(&member)
    }

    /// Whether a change may follow.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, change: MembershipChange) -> Result<(), MembershipError> {
        let member = change.member();
        match change {
            _ if member == MemberId(0) => Err(MembershipError::NoId),
            MembershipChange::AddVoter(_) if self.voters.contains(&member) => {
                Err(MembershipError::Known(member))
            }
            MembershipChange::AddLearner(_) if self.contains(member) => {
                Err(MembershipError::Known(member))
            }
            MembershipChange::AddVoter(_) | MembershipChange::AddLearner(_)
                if !self.contains(member) && self.len() >= MEMBERS_MAX =>
            {
                Err(MembershipError::TooMany)
            }
            MembershipChange::Remove(_) if !self.contains(member) => {
                Err(MembershipError::Unknown(member))
            }
            MembershipChange::Remove(_) if self.is_sole_voter(member) => {
                Err(MembershipError::LastVoter)
            }
            _ => Ok(()),
        }
    }

    /// Whether a peer may have sent it.
    pub(crate) fn is_sound(&self) -> bool {
        !self.voters.is_empty()
            && self.len() <= MEMBERS_MAX
            && !self.contains(MemberId(0))
            && self.voters.is_disjoint(&self.learners)
    }

    fn len(&self) -> usize {
        self.voters.len() + self.learners.len()
    }
}

impl MembershipChange {
    /// Whom it is about.
    #[must_use]
    pub fn member(self) -> MemberId {
        match self {
            Self::AddVoter(member) | Self::AddLearner(member) | Self::Remove(member) => member,
        }
    }
}

/// Why a change of the membership is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MembershipError {
    /// Member 0 is nobody.
    #[error("a member has no id")]
    NoId,
    /// It belongs to the group already.
    #[error("member {0} belongs to the group already")]
    Known(MemberId),
    /// It does not belong to the group.
    #[error("member {0} does not belong to the group")]
    Unknown(MemberId),
    /// The group would have nobody who decides.
    #[error("the last voter cannot leave")]
    LastVoter,
    /// The group is as large as it may be.
    #[error("the group has {MEMBERS_MAX} members already")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_makes_no_sense_is_refused() {
        use MembershipChange::{AddLearner, AddVoter, Remove};
        let group = Membership {
            voters: [MemberId(1)].into(),
            learners: [MemberId(2)].into(),
        };
        let full = Membership::of_voters((1..=MEMBERS_MAX as u64).map(MemberId));
        let id = MemberId;
        for (members, change, refused) in [
            (&group, AddVoter(id(0)), MembershipError::NoId),
            (&group, AddVoter(id(1)), MembershipError::Known(id(1))),
            (&group, AddLearner(id(2)), MembershipError::Known(id(2))),
            (&group, AddLearner(id(1)), MembershipError::Known(id(1))),
            (&group, Remove(id(3)), MembershipError::Unknown(id(3))),
            (&group, Remove(id(1)), MembershipError::LastVoter),
            (&full, AddLearner(id(99)), MembershipError::TooMany),
        ] {
            assert_eq!(members.check(change), Err(refused));
        }
        for change in [AddVoter(id(2)), AddVoter(id(3)), Remove(id(2))] {
            assert_eq!(group.check(change), Ok(()));
        }
    }
}
