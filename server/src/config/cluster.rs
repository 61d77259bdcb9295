//! The cluster that the configuration describes: its members by name, this one among them.

use std::collections::BTreeMap;

use keelson_storage::limits::CLUSTER_MEMBERS_MAX;

use super::error::ConfigError;
use super::url::HttpUrl;

/// Whether a cluster is founded or found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterState {
    /// Found a cluster if the data directory is empty.
    #[default]
    New,
    /// Serve the cluster in the data directory, or, if that is empty, join the one that runs.
    Existing,
}

/// One member as `--initial-cluster` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMember {
    /// The member's name.
    pub name: String,
    /// Its peer URLs, sorted.
    pub peer_urls: Vec<HttpUrl>,
}

/// Reads `name=URL,name=URL`; a name may stand more than once, with a URL each.
///
/// # Errors
/// A phrase about the first pair that is wrong.
pub(crate) fn parse_cluster(text: &str) -> Result<Vec<ClusterMember>, String> {
    let mut members: Vec<ClusterMember> = Vec::new();
    for pair in text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
    {
        let (name, url) = pair
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("{pair:?} is not of the form name=http://host:port"))?;
        let url = HttpUrl::parse(url)?;
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => member.peer_urls.push(url),
            None => members.push(ClusterMember {
                name: name.to_owned(),
                peer_urls: vec![url],
            }),
        }
    }
    for member in &mut members {
        member.peer_urls.sort();
        member.peer_urls.dedup();
    }
    Ok(members)
}

/// Checks that the cluster has this member, under the URLs that it advertises, and nobody twice.
///
/// # Errors
/// A sentence about what does not fit.
pub(crate) fn check_cluster(
    members: &[ClusterMember],
    name: &str,
    advertised: &[HttpUrl],
) -> Result<(), ConfigError> {
    let names = || {
        members
            .iter()
            .map(|member| member.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let Some(own) = members.iter().find(|member| member.name == name) else {
        return Err(ConfigError::Unfit(format!(
            "--initial-cluster does not name this member {name:?}; it names {}. \
             Make --name and --initial-cluster agree",
            if members.is_empty() {
                "nobody".to_owned()
            } else {
                names()
            }
        )));
    };
    if members.len() > CLUSTER_MEMBERS_MAX {
        return Err(ConfigError::Unfit(format!(
            "--initial-cluster names {} members, but a cluster has at most {CLUSTER_MEMBERS_MAX}",
            members.len()
        )));
    }
    let mut owners: BTreeMap<&HttpUrl, &str> = BTreeMap::new();
    for member in members {
        for url in &member.peer_urls {
            if let Some(other) = owners.insert(url, &member.name) {
                return Err(ConfigError::Unfit(format!(
                    "--initial-cluster has the URL {url} for {other} and for {}; every member needs its own",
                    member.name
                )));
            }
        }
    }
    if own.peer_urls != advertised {
        return Err(ConfigError::Unfit(format!(
            "--initial-cluster has {name}={}, but --initial-advertise-peer-urls has {}; \
             make them agree",
            HttpUrl::join(&own.peer_urls),
            HttpUrl::join(advertised)
        )));
    }
    Ok(())
}

/// Checks that the cluster is this member alone, where a data directory is made that only one can have.
///
/// # Errors
/// A sentence about what does not fit.
pub(crate) fn check_alone(members: &[ClusterMember]) -> Result<(), ConfigError> {
    if members.len() > 1 {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        return Err(ConfigError::Unfit(format!(
            "--initial-cluster names {} members ({}), but a restored cluster begins with one; name this member \
             alone, start it, and have the others join with etcdctl member add",
            members.len(),
            names.join(", ")
        )));
    }
    Ok(())
}
