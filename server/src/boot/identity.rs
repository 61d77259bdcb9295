//! Which member of which cluster this process is, and with whom it begins.
//!
//! ```text
//!   the data directory says it                         it is that one, whatever the flags say now
//!   the directory is of an older version, or restored  the only member of its state is the one
//!   it is empty, --initial-cluster-state=new           the flags found a cluster; ids are made from them
//!   it is empty, --initial-cluster-state=existing      the running cluster says who has these peer URLs
//! ```
//!
//! Where a cluster that runs says that the member has started once already, it must have had another data directory. Its
//! vote and all that it acknowledged are lost with that, so it must not come back as the same member: the
//! start is refused.

use std::time::Duration;

use anyhow::{Context, bail};
use keelson_consensus::bootstrap;
use keelson_storage::dir::{self, DataDir};
use keelson_storage::ids::{ClusterId, MemberId};
use keelson_storage::io::Disk;
use keelson_storage::state::Member;

use crate::config::{ClusterMember, ClusterState, Config, HttpUrl};
use crate::engine::Engine;
use crate::peer;

/// How long a member of a running cluster may take to say who belongs to it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for members of a cluster that may not run yet.
const FOUND_TIMEOUT: Duration = Duration::from_secs(1);

const NOBODY_ANSWERS: &str = "--initial-cluster-state is existing, but no other member of --initial-cluster says who \
                              belongs to it";

/// Who this member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) member: MemberId,
    pub(super) cluster: ClusterId,
    /// This member as it describes itself.
    pub(super) me: Member,
    /// The founding members, this one among them. Empty unless the cluster is new.
    pub(super) founding: Vec<Member>,
    /// The members of the cluster that this one joins.
    pub(super) peers: Vec<Member>,
    /// Whether the ids are certain: written in the directory, or its first ones.
    pub(super) is_certain: bool,
    /// Whether the member begins anew, because its data was damaged.
    pub(super) rejoins: bool,
}

/// What a running cluster says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) cluster: ClusterId,
    pub(super) members: Vec<Member>,
}

impl Identity {
    /// Finds it out before anything is created, so that a refused start leaves nothing behind. `fetch` asks the
    /// members at these peer URLs.
    pub(super) fn determine(
        config: &Config,
        fetch: impl Fn(&[String], Duration) -> anyhow::Result<Running>,
    ) -> anyhow::Result<Self> {
        let by_flags = Self::founded_by(config);
        let others = urls_of_others(config);
        if DataDir::holds_member(&config.data_dir)? {
            return Ok(by_flags);
        }
        if config.initial_cluster_state == ClusterState::New {
            if !others.is_empty()
                && let Ok(running) = fetch(&others, FOUND_TIMEOUT)
            {
                running.check_never_started(by_flags.member, &config.name)?;
            }
            return Ok(Self {
                is_certain: true,
                ..by_flags
            });
        }
        if others.is_empty() {
            bail!(
                "--initial-cluster-state is existing, but there is no member in {}, and --initial-cluster names no \
                 other member to join: name the data directory of the member with --data-dir, or all members with \
                 --initial-cluster, or set --initial-cluster-state=new to found a cluster",
                super::absolute(&config.data_dir)
            );
        }
        let running = fetch(&others, JOIN_TIMEOUT).context(NOBODY_ANSWERS)?;
        by_flags.joining(config, running)
    }

    /// What the directory says about it counts. One that says nothing yet is told, before the first record.
    pub(super) fn settle(mut self, dir: &DataDir) -> anyhow::Result<Self> {
        if let Some(known) = dir.identity()? {
            if (known.member, known.cluster) != (self.member, self.cluster) {
                self.founding.clear();
            }
            (self.member, self.cluster) = (known.member, known.cluster);
            self.me.id = known.member.0;
            self.is_certain = true;
        } else if self.is_certain {
            self.write_to(dir)?;
        }
        Ok(self)
    }

    /// The identity that counts: that of the data directory, if it had one.
    pub(super) fn found_in<D: Disk>(
        mut self,
        engine: &Engine<D>,
        dir: &DataDir,
        config: &Config,
    ) -> anyhow::Result<Self> {
        (self.member, self.cluster) = engine.identity();
        if !self.is_certain {
            self.write_to(dir)?;
        }
        let by_flags = Self::founded_by(config);
        if (self.member, self.cluster) != (by_flags.member, by_flags.cluster)
            && self.peers.is_empty()
        {
            tracing::info!(
                "the data directory holds a member already; the --initial-* flags are not looked at"
            );
        }
        Ok(self)
    }

    /// The identity that the flags make.
    fn founded_by(config: &Config) -> Self {
        let founding: Vec<Member> = config
            .initial_cluster
            .iter()
            .map(|member| to_member(member, &config.initial_cluster_token))
            .collect();
        let ids: Vec<MemberId> = founding.iter().map(|member| MemberId(member.id)).collect();
        let known = founding.iter().find(|member| member.name == config.name);
        let me = Member {
            client_urls: texts(&config.advertise_client_urls),
            ..known.expect("--initial-cluster names this member").clone()
        };
        let is_joining = config.initial_cluster_state == ClusterState::Existing;
        Self {
            member: MemberId(me.id),
            cluster: bootstrap::cluster_id(&ids),
            me,
            founding: if is_joining { Vec::new() } else { founding },
            peers: Vec::new(),
            is_certain: false,
            rejoins: false,
        }
    }

    /// The member of a running cluster that has this one's peer URLs.
    fn joining(self, config: &Config, running: Running) -> anyhow::Result<Self> {
        let flags = &config.initial_cluster;
        if flags.len() != running.members.len() {
            bail!(
                "--initial-cluster names {} members, but the running cluster has {}: make them agree; \
                 etcdctl member add prints what to write",
                flags.len(),
                running.members.len()
            );
        }
        for member in flags {
            running.member_at(&texts(&member.peer_urls))?;
        }
        let own = running.member_at(&texts(&config.initial_advertise_peer_urls))?;
        let member = MemberId(own.id);
        running.check_never_started(member, &config.name)?;
        Ok(Self {
            member,
            cluster: running.cluster,
            me: Member {
                id: own.id,
                is_learner: own.is_learner,
                ..self.me
            },
            founding: Vec::new(),
            peers: running.members,
            is_certain: true,
            rejoins: false,
        })
    }

    fn write_to(&self, dir: &DataDir) -> anyhow::Result<()> {
        Ok(dir.set_identity(dir::Identity {
            member: self.member,
            cluster: self.cluster,
        })?)
    }
}

impl Running {
    fn member_at(&self, peer_urls: &[String]) -> anyhow::Result<&Member> {
        let has_them = |member: &&Member| {
            let mut urls = member.peer_urls.clone();
            urls.sort();
            urls == peer_urls
        };
        self.members.iter().find(has_them).with_context(|| {
            let urls = peer_urls.join(",");
            format!(
                "the running cluster has no member with the peer URLs {urls}: add it with etcdctl member add NAME \
                 --peer-urls={urls}, or mend --initial-cluster and --initial-advertise-peer-urls"
            )
        })
    }

    fn check_never_started(&self, id: MemberId, name: &str) -> anyhow::Result<()> {
        let member = self.members.iter().find(|member| member.id == id.0);
        if member.is_some_and(|member| !member.client_urls.is_empty()) {
            bail!(
                "member {name} has already been bootstrapped: the running cluster knows it as {:x}, but --data-dir is \
                 empty. Name the right directory; if that is lost, remove the member with etcdctl member remove {:x}, add \
                 it again, and start it with --initial-cluster-state=existing",
                id.0,
                id.0
            );
        }
        Ok(())
    }
}

/// The members of the cluster that a member joins which was stopped before it heard of them from its leader.
pub(super) fn ask_again(
    config: &Config,
    fetch: impl Fn(&[String], Duration) -> anyhow::Result<Running>,
) -> anyhow::Result<Vec<Member>> {
    let running = fetch(&urls_of_others(config), JOIN_TIMEOUT).context(
        "this member was stopped before it had joined its cluster, and no other member of --initial-cluster says who \
         belongs to it",
    )?;
    Ok(running.members)
}

/// Asks the members at `urls` who belongs to their cluster.
pub(super) fn fetch_running(urls: &[String], limit: Duration) -> anyhow::Result<Running> {
    let found = peer::fetch_members(urls, limit)?;
    Ok(Running {
        cluster: found.cluster,
        members: found.members,
    })
}

pub(super) fn urls_of_others(config: &Config) -> Vec<String> {
    let others = config
        .initial_cluster
        .iter()
        .filter(|member| member.name != config.name);
    others.flat_map(|member| texts(&member.peer_urls)).collect()
}

/// A founding member. It says where clients reach it when it starts.
fn to_member(member: &ClusterMember, cluster_token: &str) -> Member {
    let peer_urls = texts(&member.peer_urls);
    Member {
        id: bootstrap::member_id(&peer_urls, cluster_token).0,
        name: member.name.clone(),
        peer_urls,
        client_urls: Vec::new(),
        is_learner: false,
    }
}

pub(super) fn texts(urls: &[HttpUrl]) -> Vec<String> {
    urls.iter().map(HttpUrl::to_string).collect()
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
