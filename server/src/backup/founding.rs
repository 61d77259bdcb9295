//! The cluster of one that begins with data from elsewhere.

use std::collections::BTreeMap;

use keelson_consensus::bootstrap;
use keelson_storage::ids::MemberId;
use keelson_storage::state::{Cluster, Member};

use crate::config::HttpUrl;

/// What a new cluster's only member is called and where its peers would reach it. The ids follow from it, as etcd's do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The member's name.
    pub name: String,
    /// Goes into the ids.
    pub cluster_token: String,
    /// The member's peer URLs, which go into the ids too.
    pub peer_urls: Vec<HttpUrl>,
}

impl Founding {
    /// The cluster.
    pub(super) fn cluster(&self) -> Cluster {
        let peer_urls: Vec<String> = self.peer_urls.iter().map(HttpUrl::to_string).collect();
        let member = bootstrap::member_id(&peer_urls, &self.cluster_token);
        let me = Member {
            id: member.0,
            name: self.name.clone(),
            peer_urls,
            // The member says where clients reach it when it starts.
            client_urls: Vec::new(),
            is_learner: false,
        };
        Cluster {
            cluster_id: bootstrap::cluster_id(&[member]),
            members: BTreeMap::from([(MemberId(me.id), me)]),
            ..Cluster::default()
        }
    }
}
