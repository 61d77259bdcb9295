//! Identities of a cluster that is started from a static member list, and of members that join it later.
//!
//! Member and cluster ids are derived as etcd derives them (SHA-1 over the sorted peer URLs and the
//! cluster token, and over the sorted member ids), so that a member that takes an etcd member's place
//! under the same flags also reports the same ids.

use keelson_storage::ids::{ClusterId, MemberId};
use sha1::{Digest, Sha1};

/// The id of a member with these peer URLs in the cluster with this token.
#[must_use]
pub fn member_id(peer_urls: &[String], cluster_token: &str) -> MemberId {
    digest(peer_urls, cluster_token)
}

/// The id of a member that is added with these peer URLs at this time. Whoever proposes it chooses the time;
/// it sets the member apart from one that had the same URLs and was removed.
#[must_use]
pub fn added_member_id(peer_urls: &[String], unix_seconds: u64) -> MemberId {
    digest(peer_urls, &unix_seconds.to_string())
}

fn digest(peer_urls: &[String], salt: &str) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url.as_bytes());
    }
    hash.update(salt.as_bytes());
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

    /// As etcd 3.5.1 has them, which was started three times with these URLs and this token.
    #[test]
    fn ids_of_three_members_equal_those_of_etcd() {
        let urls = [4180, 4280, 4380].map(|port| vec![format!("http://127.0.0.1:{port}")]);
        let members = urls.map(|urls| member_id(&urls, "three"));
        let expected = [
            463_569_201_414_696_438,
            18_056_597_031_651_119_961,
            9_068_708_677_163_647_514,
        ];
        assert_eq!(members, expected.map(MemberId));
        assert_eq!(cluster_id(&members), ClusterId(5_020_265_899_664_547_647));
    }

    /// As etcd 3.5.1 gave it at that second.
    #[test]
    fn the_id_of_an_added_member_equals_etcds() {
        let urls = ["http://127.0.0.1:4480".to_owned()];
        let member = added_member_id(&urls, 1_795_808_924);
        assert_eq!(member, MemberId(423_717_993_100_463_479));
        assert_ne!(member, added_member_id(&urls, 1_795_808_925));
    }
}
