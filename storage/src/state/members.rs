//! Who the cluster is: its id and its members, as replicated state.
//!
//! The first entry of a new cluster is a [`ClusterInit`]; every member then publishes its name and
//! client URLs with a [`MemberPublish`] whenever it starts.
//!
//! A change is checked here, when it is applied, with etcd's rules in etcd's order, on every member alike.
//! What only the leader can know, who is connected and who lags, it checks before it proposes.
//!
//! Invariants:
//! 1. The members are always ones that a raft group can have: there is a voter once the cluster is founded,
//!    and no id is 0.
//! 2. The id of a removed member never comes back.

use std::collections::{BTreeMap, BTreeSet};

use keelson_proto::ApiError;
use keelson_proto::etcdserverpb::{
    Member as MemberMessage, MemberAddResponse, MemberPromoteRequest, MemberPromoteResponse,
    MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    ResponseHeader,
};

use crate::ids::{ClusterId, MemberId};
use crate::limits::{CLUSTER_MEMBERS_EVER_MAX, CLUSTER_MEMBERS_MAX};
use crate::state::command::Request;

/// Founds the cluster. Only the first one in a log has an effect.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterInit {
    /// The id every response carries.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// The founding members.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

/// A member tells its name and where clients reach it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MemberPublish {
    /// Which member; an unknown one is ignored.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    /// `--name`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// `--advertise-client-urls`.
    #[prost(string, repeated, tag = "3")]
    pub client_urls: Vec<String>,
}

/// A member joins. Its id and the limit are the proposer's choice, and the same for all who apply it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MemberAdd {
    /// The new member, without name and client URLs.
    #[prost(message, optional, tag = "1")]
    pub member: Option<Member>,
    /// `--max-learners` of the proposer.
    #[prost(uint32, tag = "2")]
    pub learners_max: u32,
}

/// What a command changes about who belongs to the raft group, if it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new voter, or a learner that becomes one.
    AddVoter(MemberId),
    /// A new learner.
    AddLearner(MemberId),
    /// A member leaves.
    Remove(MemberId),
}

impl Request {
    /// What the command means to the raft group. Such a command travels alone, in a membership entry.
    #[must_use]
    pub fn member_change(&self) -> Option<MemberChange> {
        match self {
            Self::MemberAdd(MemberAdd { member, .. }) => {
                let member = member.as_ref()?;
                let id = MemberId(member.id);
                Some(if member.is_learner {
                    MemberChange::AddLearner(id)
                } else {
                    MemberChange::AddVoter(id)
                })
            }
            Self::MemberRemove(remove) => Some(MemberChange::Remove(MemberId(remove.id))),
            Self::MemberPromote(promote) => Some(MemberChange::AddVoter(MemberId(promote.id))),
            _ => None,
        }
    }
}

/// One member of the cluster.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Member {
    /// Its id; 0 is nobody's.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// `--name`; empty until the member has started once.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where the other members reach it.
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until the member has started once.
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    /// Whether it only listens and has no vote.
    #[prost(bool, tag = "5")]
    pub is_learner: bool,
}

impl Member {
    /// Whether it has started once: only then it has a name.
    #[must_use]
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }

    /// The same as clients see it.
    #[must_use]
    pub fn to_message(&self) -> MemberMessage {
        MemberMessage {
            id: self.id,
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: self.is_learner,
        }
    }
}

/// The cluster as this state knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// 0 until the cluster is founded.
    pub cluster_id: ClusterId,
    /// All members by id.
    pub members: BTreeMap<MemberId, Member>,
    /// Those who were members once.
    pub removed: BTreeSet<MemberId>,
}

impl Cluster {
    /// All members as clients see them, by id.
    #[must_use]
    pub fn member_list(&self) -> Vec<MemberMessage> {
        self.members.values().map(Member::to_message).collect()
    }

    /// Those who vote, by id.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// Founds the cluster, unless it is founded.
    pub(crate) fn init(&mut self, init: &ClusterInit) {
        if self.cluster_id == ClusterId(0) {
            self.cluster_id = ClusterId(init.cluster_id);
            let members = init.members.iter().cloned();
            self.members = members
                .map(|member| (MemberId(member.id), member))
                .collect();
        }
    }

    /// Takes over what a member says about itself.
    pub(crate) fn publish(&mut self, publish: &MemberPublish) {
        if let Some(member) = self.members.get_mut(&MemberId(publish.member_id)) {
            member.name.clone_from(&publish.name);
            member.client_urls.clone_from(&publish.client_urls);
        }
    }

    /// Takes a member in.
    ///
    /// # Errors
    /// [`ApiError::MemberNotFound`] if it was removed, as etcd says it; [`ApiError::MemberExist`],
    /// [`ApiError::PeerUrlExist`], [`ApiError::TooManyLearners`]; [`ApiError::MemberBadUrls`] if there is no
    /// member in the command; [`ApiError::TooManyRequests`] if the cluster is as large as it may be.
    pub(crate) fn add(&mut self, add: &MemberAdd) -> Result<MemberAddResponse, ApiError> {
        let Some(member) = add.member.as_ref().filter(|member| member.id != 0) else {
            return Err(ApiError::MemberBadUrls);
        };
        let id = MemberId(member.id);
        if self.removed.contains(&id) {
            return Err(ApiError::MemberNotFound);
        }
        if self.members.contains_key(&id) {
            return Err(ApiError::MemberExist);
        }
        self.check_peer_urls(id, &member.peer_urls)?;
        let learners_count = self.members.len() - self.voters().count();
        if member.is_learner && learners_count >= add.learners_max as usize {
            return Err(ApiError::TooManyLearners);
        }
        let ever_count = self.members.len() + self.removed.len();
        if self.members.len() >= CLUSTER_MEMBERS_MAX || ever_count >= CLUSTER_MEMBERS_EVER_MAX {
            return Err(ApiError::TooManyRequests);
        }
        let member = Member {
            name: String::new(),
            client_urls: Vec::new(),
            ..member.clone()
        };
        let added = member.to_message();
        self.members.insert(id, member);
        Ok(MemberAddResponse {
            header: header(),
            member: Some(added),
            members: self.member_list(),
        })
    }

    /// Lets a member go, for ever.
    ///
    /// # Errors
    /// [`ApiError::MemberNotFound`]; [`ApiError::MemberNotEnoughStarted`] if nobody would vote then.
    pub(crate) fn remove(
        &mut self,
        remove: &MemberRemoveRequest,
    ) -> Result<MemberRemoveResponse, ApiError> {
        let id = MemberId(remove.id);
        let member = self.members.get(&id).ok_or(ApiError::MemberNotFound)?;
        if !member.is_learner && self.voters().count() == 1 {
            return Err(ApiError::MemberNotEnoughStarted);
        }
        self.members.remove(&id);
        self.removed.insert(id);
        Ok(MemberRemoveResponse {
            header: header(),
            members: self.member_list(),
        })
    }

    /// Changes where a member is reached by the others.
    ///
    /// # Errors
    /// [`ApiError::MemberNotFound`], [`ApiError::PeerUrlExist`].
    pub(crate) fn update(
        &mut self,
        update: &MemberUpdateRequest,
    ) -> Result<MemberUpdateResponse, ApiError> {
        let id = MemberId(update.id);
        if !self.members.contains_key(&id) {
            return Err(ApiError::MemberNotFound);
        }
        self.check_peer_urls(id, &update.peer_ur_ls)?;
        if let Some(member) = self.members.get_mut(&id) {
            member.peer_urls.clone_from(&update.peer_ur_ls);
        }
        Ok(MemberUpdateResponse {
            header: header(),
            members: self.member_list(),
        })
    }

    /// Gives a learner a vote.
    ///
    /// # Errors
    /// [`ApiError::MemberNotFound`], [`ApiError::MemberNotLearner`].
    pub(crate) fn promote(
        &mut self,
        promote: &MemberPromoteRequest,
    ) -> Result<MemberPromoteResponse, ApiError> {
        let id = MemberId(promote.id);
        let member = self.members.get_mut(&id).ok_or(ApiError::MemberNotFound)?;
        if !member.is_learner {
            return Err(ApiError::MemberNotLearner);
        }
        member.is_learner = false;
        Ok(MemberPromoteResponse {
            header: header(),
            members: self.member_list(),
        })
    }

    /// No peer URL may be another member's.
    fn check_peer_urls(&self, id: MemberId, urls: &[String]) -> Result<(), ApiError> {
        let others = self.members.iter().filter(|(other, _)| **other != id);
        let taken = others.flat_map(|(_, other)| &other.peer_urls);
        if taken.into_iter().any(|url| urls.contains(url)) {
            return Err(ApiError::PeerUrlExist);
        }
        Ok(())
    }
}

/// etcd tells no revision here.
fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader::default())
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
