//! Who the cluster is: its id and its members, as replicated state.
//!
//! The first entry of a new cluster is a [`ClusterInit`]; every member then publishes its name and
//! client URLs with a [`MemberPublish`] whenever it starts. Members come and go by entries of their own, one
//! command each, because the raft group has to follow: [`Member`] adds one, [`MemberPromote`] gives a learner
//! its vote, [`MemberRemove`] removes one. A change is applied or refused by every member alike.

use std::collections::{BTreeMap, BTreeSet};

use keelson_proto::ApiError;

use crate::ids::{ClusterId, MemberId};
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

/// A learner gets a vote.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct MemberPromote {
    /// Which member.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
}

/// A member leaves for good.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct MemberRemove {
    /// Which member.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
}

/// The others reach a member elsewhere. The raft group stays as it is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MemberUpdate {
    /// Which member.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    /// Where.
    #[prost(string, repeated, tag = "2")]
    pub peer_urls: Vec<String>,
}

/// One member of the cluster. As a command it adds one.
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

/// The cluster as this state knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// 0 until the cluster is founded.
    pub cluster_id: ClusterId,
    /// All members by id.
    pub members: BTreeMap<MemberId, Member>,
}

impl Cluster {
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

    /// Adds, promotes, removes or moves a member.
    pub(crate) fn change(&mut self, request: &Request) -> Result<(), ApiError> {
        match request {
            Request::MemberAdd(member) => self.add(member),
            Request::MemberPromote(promote) => self.promote(*promote),
            Request::MemberRemove(remove) => self.remove(*remove),
            Request::MemberUpdate(update) => self.update(update),
            _ => Ok(()),
        }
    }

    fn add(&mut self, member: &Member) -> Result<(), ApiError> {
        let id = MemberId(member.id);
        if id == MemberId(0) || self.members.contains_key(&id) {
            return Err(ApiError::MemberExist);
        }
        self.check_peer_urls(id, &member.peer_urls)?;
        self.members.insert(id, member.clone());
        Ok(())
    }

    fn promote(&mut self, promote: MemberPromote) -> Result<(), ApiError> {
        let member = self.member_mut(promote.member_id)?;
        if !member.is_learner {
            return Err(ApiError::MemberNotLearner);
        }
        member.is_learner = false;
        Ok(())
    }

    /// The last one with a vote stays.
    fn remove(&mut self, remove: MemberRemove) -> Result<(), ApiError> {
        let id = MemberId(remove.member_id);
        let member = self.members.get(&id).ok_or(ApiError::MemberNotFound)?;
        let voters = self.members.values().filter(|member| !member.is_learner);
        if !member.is_learner && voters.count() == 1 {
            return Err(ApiError::MemberNotEnoughStarted);
        }
        self.members.remove(&id);
        Ok(())
    }

    fn update(&mut self, update: &MemberUpdate) -> Result<(), ApiError> {
        self.check_peer_urls(MemberId(update.member_id), &update.peer_urls)?;
        let member = self.member_mut(update.member_id)?;
        member.peer_urls.clone_from(&update.peer_urls);
        Ok(())
    }

    fn member_mut(&mut self, id: u64) -> Result<&mut Member, ApiError> {
        self.members
            .get_mut(&MemberId(id))
            .ok_or(ApiError::MemberNotFound)
    }

    /// No two members are reached at the same place.
    fn check_peer_urls(&self, of: MemberId, peer_urls: &[String]) -> Result<(), ApiError> {
        let others = self.members.iter().filter(|(id, _)| **id != of);
        let taken: BTreeSet<&String> = others.flat_map(|(_, member)| &member.peer_urls).collect();
        if peer_urls.iter().any(|url| taken.contains(url)) {
            return Err(ApiError::PeerUrlExist);
        }
        Ok(())
    }

    /// Takes over what a member says about itself.
    pub(crate) fn publish(&mut self, publish: &MemberPublish) {
        if let Some(member) = self.members.get_mut(&MemberId(publish.member_id)) {
            member.name.clone_from(&publish.name);
            member.client_urls.clone_from(&publish.client_urls);
        }
    }
}
