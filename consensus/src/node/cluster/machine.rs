//! What the log is for: a digest of everything applied, and who belongs to the group.

use std::collections::BTreeSet;

use bytes::Bytes;
use keelson_storage::ids::{MemberId, RaftIndex};

use crate::node::{Entry, EntryKind, HardState, Mark, Membership, MembershipChange};

/// What an entry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// A client's.
    Put(u64),
    /// The first one: who founds the cluster.
    Found(Membership),
    Change(MembershipChange),
}

impl Command {
    pub(super) fn encode(&self) -> Bytes {
        let ids = |ids: &BTreeSet<MemberId>| {
            let ids: Vec<_> = ids.iter().map(|id| id.0.to_string()).collect();
            ids.join(",")
        };
        Bytes::from(match self {
            Self::Put(number) => format!("put {number}"),
            Self::Found(members) => format!("found {}", ids(&members.voters)),
            Self::Change(MembershipChange::AddVoter(id)) => format!("voter {id}"),
            Self::Change(MembershipChange::AddLearner(id)) => format!("learner {id}"),
            Self::Change(MembershipChange::Remove(id)) => format!("remove {id}"),
        })
    }

    /// `None` for the entry that opens a term.
    pub(super) fn decode(payload: &Bytes) -> Option<Self> {
        let text = std::str::from_utf8(payload).expect("the test wrote it");
        let (word, rest) = text.split_once(' ')?;
        let id = || MemberId(rest.parse().expect("the test wrote it"));
        Some(match word {
            "put" => Self::Put(id().0),
            "found" => {
                let id = |id: &str| MemberId(id.parse().expect("the test wrote it"));
                let ids = rest.split(',').map(id);
                Self::Found(Membership::of_voters(ids))
            }
            "voter" => Self::Change(MembershipChange::AddVoter(id())),
            "learner" => Self::Change(MembershipChange::AddLearner(id())),
            "remove" => Self::Change(MembershipChange::Remove(id())),
            word => panic!("no command {word}"),
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) applied: Mark,
    pub(super) digest: u64,
    /// Known once the cluster is founded.
    pub(super) membership: Option<Membership>,
    /// Before the last change.
    pub(super) before: Option<Membership>,
    /// The entry that changed it.
    pub(super) changed_at: RaftIndex,
    pub(super) removed: BTreeSet<MemberId>,
}

impl Machine {
    /// Applies an entry; what raft has to do about it.
    pub(super) fn apply(&mut self, entry: &Entry) -> Option<Command> {
        assert_eq!(entry.index, self.applied.index.next());
        self.applied = entry.mark();
        for byte in entry.payload.iter().chain(&entry.term.0.to_le_bytes()) {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let command = Command::decode(&entry.payload)?;
        match &command {
            Command::Put(_) => {}
            Command::Found(members) if self.membership.is_none() => {
                self.membership = Some(members.clone());
            }
            Command::Found(_) => return None,
            Command::Change(change) => {
                assert_eq!(entry.kind, EntryKind::Membership);
                let members = self.membership.as_mut()?;
                if members.check(*change).is_err() {
                    return None;
                }
                self.before = Some(members.clone());
                self.changed_at = entry.index;
                match *change {
                    MembershipChange::AddVoter(id) => {
                        members.learners.remove(&id);
                        members.voters.insert(id);
                    }
                    MembershipChange::AddLearner(id) => {
                        members.learners.insert(id);
                    }
                    MembershipChange::Remove(id) => {
                        members.voters.remove(&id);
                        members.learners.remove(&id);
                        self.removed.insert(id);
                    }
                }
            }
        }
        Some(command)
    }
}

/// A snapshot file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) machine: Machine,
    /// That of the member that made it.
    pub(super) hard_state: HardState,
}

impl File {
    pub(super) fn at(&self) -> Mark {
        self.machine.applied
    }
}
