//! Identities of a cluster that is started from a static member list.
//!
//! Member and cluster ids are derived as etcd derives them (SHA-1 over the sorted peer URLs and the
//! cluster token, and over the sorted member ids), so that a member that takes an etcd member's place
//! under the same flags also reports the same ids.

use keelson_storage::ids::{ClusterId, MemberId};
use sha1::{Digest, Sha1};

/// The id of a member with these peer URLs in the cluster with this token.
#[must_use]
pub fn member_id(peer_urls: &[String], cluster_token: &str) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url.as_bytes());
    }
    hash.update(cluster_token.as_bytes());
    MemberId(first_u64(&hash.finalize()))
}

/// The id of the cluster formed by these members.
#[must_use]
pub fn cluster_id(members: &[MemberId]) -> ClusterId {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for member in sorted {
        hash.update(member.0.to_be_bytes());
    }
    ClusterId(first_u64(&hash.finalize()))
}

fn first_u64(digest: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_equal_those_of_etcd_with_default_flags() {
        let member = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(member, MemberId(0x8e9e_05c5_2164_694d));
        assert_eq!(cluster_id(&[member]), ClusterId(0xcdf8_1819_4e3a_8c32));
    }
}
