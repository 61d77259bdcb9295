//! Who the cluster is: its id and its members, as replicated state.
//!
//! The first entry of a new cluster is a [`ClusterInit`]; every member then publishes its name and
//! client URLs with a [`MemberPublish`] whenever it starts.

use std::collections::BTreeMap;

use crate::ids::{ClusterId, MemberId};

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

    /// Takes over what a member says about itself.
    pub(crate) fn publish(&mut self, publish: &MemberPublish) {
        if let Some(member) = self.members.get_mut(&MemberId(publish.member_id)) {
            member.name.clone_from(&publish.name);
            member.client_urls.clone_from(&publish.client_urls);
        }
    }
}
