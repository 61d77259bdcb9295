//! Everything an etcd holds besides its keys, read from the small buckets and written back to them.
//!
//! Reading takes what older versions lack as empty. What is not understood but belongs to etcd alone
//! (the state of a downgrade, the raft configuration) is kept as the text it is.

use std::collections::BTreeMap;

use keelson_proto::etcdserverpb::AlarmMember;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::entry::EtcdRevision;
use super::error::{EtcdDbError, EtcdDbProblem};
use super::schema::{
    ALARM_BUCKET, AUTH_BUCKET, AUTH_ENABLED_KEY, AUTH_REVISION_KEY, AUTH_ROLES_BUCKET,
    AUTH_USERS_BUCKET, CLUSTER_BUCKET, CLUSTER_VERSION_KEY, CONF_STATE_KEY, CONSISTENT_INDEX_KEY,
    DOWNGRADE_KEY, FINISHED_COMPACT_KEY, LEASE_BUCKET, MEMBERS_BUCKET, MEMBERS_REMOVED_BUCKET,
    META_BUCKET, REMOVED_VALUE, SCHEDULED_COMPACT_KEY, STORAGE_VERSION_KEY, TERM_KEY,
};
use crate::bbolt::BoltFile;
use crate::ids::{LeaseId, MemberId, RaftIndex, Revision, Term};

/// The buckets of an etcd database but `key`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EtcdContents {
    /// Positions in the log and in the history.
    pub meta: EtcdMeta,
    /// All leases.
    pub leases: Vec<EtcdLease>,
    /// All active alarms.
    pub alarms: Vec<AlarmMember>,
    /// Users, roles and whether they count.
    pub auth: EtcdAuth,
    /// The members of the cluster. A restore replaces them.
    pub members: Vec<EtcdMember>,
    /// Members that may never come back. A restore forgets them.
    pub members_removed: Vec<MemberId>,
    /// The version the cluster agreed on.
    pub cluster: EtcdCluster,
}

/// The bucket `meta`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdMeta {
    /// The last log entry whose effect is in the database.
    pub consistent_index: Option<RaftIndex>,
    /// Its term; stored since 3.5.
    pub term: Option<Term>,
    /// The compaction asked for last.
    pub scheduled_compact: Option<Revision>,
    /// The compaction carried out last.
    pub finished_compact: Option<Revision>,
    /// The raft configuration as JSON; stored since 3.5.
    pub conf_state: Option<String>,
    /// The version of the schema; stored since 3.6.
    pub storage_version: Option<String>,
}

impl EtcdMeta {
    /// The revision clients may no longer read below. A compaction that was asked for and not carried out
    /// counts: etcd resumes it at its next start, so entries below it may or may not be there.
    #[must_use]
    pub fn compact_revision(&self) -> Option<Revision> {
        self.scheduled_compact.max(self.finished_compact)
    }
}

/// A lease. Which keys it has, the keys say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtcdLease {
    /// Its id.
    pub id: LeaseId,
    /// The TTL it was granted with.
    pub ttl_seconds: i64,
    /// What was left at the last checkpoint; 0 if there never was one, and then all of it counts.
    pub remaining_ttl_seconds: i64,
}

/// The buckets `auth`, `authUsers` and `authRoles`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdAuth {
    /// Whether users and roles count.
    pub is_enabled: bool,
    /// Raised by every change of them; 0 if there never was one.
    pub revision: u64,
    /// By name, `authpb.User`.
    pub users: Vec<NamedMessage>,
    /// By name, `authpb.Role`.
    pub roles: Vec<NamedMessage>,
}

/// An encoded message and the name it is stored under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedMessage {
    /// Never empty.
    pub name: Vec<u8>,
    /// As etcd stored it.
    pub message: Vec<u8>,
}

/// A member as the bucket `members` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty if it never started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty if it never started.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// The bucket `cluster`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdCluster {
    /// The version the members agreed on, such as `3.5.0`.
    pub version: Option<String>,
    /// What is known of a downgrade, as JSON.
    pub downgrade: Option<String>,
}

/// A lease's stored form, the message `leasepb.Lease`.
#[derive(Clone, PartialEq, Message)]
struct LeaseMessage {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

/// A member's stored form.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MemberText {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "clientURLs", skip_serializing_if = "Option::is_none")]
    client_urls: Option<Vec<String>>,
}

/// A bucket as it is written: keys in order, each once.
pub(super) type SmallBucket = BTreeMap<Vec<u8>, Vec<u8>>;

impl EtcdContents {
    /// Reads all of it.
    pub(super) fn read(file: &BoltFile) -> Result<Self, EtcdDbError> {
        Ok(Self {
            meta: EtcdMeta::read(file)?,
            leases: read_leases(file)?,
            alarms: read_alarms(file)?,
            auth: read_auth(file)?,
            members: read_members(file)?,
            members_removed: read_members_removed(file)?,
            cluster: read_cluster(file)?,
        })
    }

    /// The buckets it is written as, by name.
    pub(super) fn buckets(&self) -> Vec<(&'static str, SmallBucket)> {
        let named = |messages: &[NamedMessage]| {
            let entries = messages.iter();
            collect(entries.map(|entry| (entry.name.clone(), entry.message.clone())))
        };
        let removed = self.members_removed.iter().map(|id| {
            let value = REMOVED_VALUE.as_bytes().to_vec();
            (member_key(*id), value)
        });
        let alarms = self.alarms.iter();
        vec![
            (META_BUCKET, self.meta.bucket()),
            (LEASE_BUCKET, collect(self.leases.iter().map(lease_entry))),
            (
                ALARM_BUCKET,
                collect(alarms.map(|alarm| (alarm.encode_to_vec(), Vec::new()))),
            ),
            (AUTH_BUCKET, self.auth.bucket()),
            (AUTH_USERS_BUCKET, named(&self.auth.users)),
            (AUTH_ROLES_BUCKET, named(&self.auth.roles)),
            (
                MEMBERS_BUCKET,
                collect(self.members.iter().map(member_entry)),
            ),
            (MEMBERS_REMOVED_BUCKET, collect(removed)),
            (CLUSTER_BUCKET, self.cluster.bucket()),
        ]
    }
}

impl EtcdMeta {
    pub(super) fn read(file: &BoltFile) -> Result<Self, EtcdDbError> {
        let number = |key| {
            read_value(file, META_BUCKET, key, |value| {
                let number = value.try_into().map(u64::from_be_bytes);
                number.map_err(|_| EtcdDbProblem::Number)
            })
        };
        let revision = |key| {
            read_value(file, META_BUCKET, key, |value| {
                let decoded = EtcdRevision::decode(value).ok_or(EtcdDbProblem::Revision)?;
                Ok(decoded.0.main)
            })
        };
        let text = |key| read_value(file, META_BUCKET, key, to_text);
        Ok(Self {
            consistent_index: number(CONSISTENT_INDEX_KEY)?.map(RaftIndex),
            term: number(TERM_KEY)?.map(Term),
            scheduled_compact: revision(SCHEDULED_COMPACT_KEY)?,
            finished_compact: revision(FINISHED_COMPACT_KEY)?,
            conf_state: text(CONF_STATE_KEY)?,
            storage_version: text(STORAGE_VERSION_KEY)?,
        })
    }

    fn bucket(&self) -> SmallBucket {
        let number = |number: u64| number.to_be_bytes().to_vec();
        let revision = |main: Revision| EtcdRevision { main, sub: 0 }.encode().to_vec();
        let text = |text: &Option<String>| text.clone().map(String::into_bytes);
        present([
            (
                CONSISTENT_INDEX_KEY,
                self.consistent_index.map(|index| number(index.0)),
            ),
            (TERM_KEY, self.term.map(|term| number(term.0))),
            (SCHEDULED_COMPACT_KEY, self.scheduled_compact.map(revision)),
            (FINISHED_COMPACT_KEY, self.finished_compact.map(revision)),
            (CONF_STATE_KEY, text(&self.conf_state)),
            (STORAGE_VERSION_KEY, text(&self.storage_version)),
        ])
    }
}

impl EtcdAuth {
    fn bucket(&self) -> SmallBucket {
        let revision = self.revision.to_be_bytes().to_vec();
        present([
            // etcd stores a 0 only after it was enabled once; it reads nothing as 0.
            (AUTH_ENABLED_KEY, self.is_enabled.then(|| vec![1])),
            (
                AUTH_REVISION_KEY,
                Some(revision).filter(|_| self.revision > 0),
            ),
        ])
    }
}

impl EtcdCluster {
    fn bucket(&self) -> SmallBucket {
        let text = |text: &Option<String>| text.clone().map(String::into_bytes);
        present([
            (CLUSTER_VERSION_KEY, text(&self.version)),
            (DOWNGRADE_KEY, text(&self.downgrade)),
        ])
    }
}

fn read_leases(file: &BoltFile) -> Result<Vec<EtcdLease>, EtcdDbError> {
    read_entries(file, LEASE_BUCKET, |key, value| {
        let lease = LeaseMessage::decode(value).map_err(|_| EtcdDbProblem::Message)?;
        if key != lease.id.to_be_bytes() {
            return Err(EtcdDbProblem::OtherLease);
        }
        Ok(EtcdLease {
            id: LeaseId(lease.id),
            ttl_seconds: lease.ttl,
            remaining_ttl_seconds: lease.remaining_ttl,
        })
    })
}

fn lease_entry(lease: &EtcdLease) -> (Vec<u8>, Vec<u8>) {
    let message = LeaseMessage {
        id: lease.id.0,
        ttl: lease.ttl_seconds,
        remaining_ttl: lease.remaining_ttl_seconds,
    };
    (lease.id.0.to_be_bytes().to_vec(), message.encode_to_vec())
}

fn read_alarms(file: &BoltFile) -> Result<Vec<AlarmMember>, EtcdDbError> {
    read_entries(file, ALARM_BUCKET, |key, _| {
        AlarmMember::decode(key).map_err(|_| EtcdDbProblem::Message)
    })
}

fn read_auth(file: &BoltFile) -> Result<EtcdAuth, EtcdDbError> {
    let named = |bucket| {
        read_entries(file, bucket, |name, message| {
            Ok(NamedMessage {
                name: name.to_vec(),
                message: message.to_vec(),
            })
        })
    };
    let is_enabled = read_value(
        file,
        AUTH_BUCKET,
        AUTH_ENABLED_KEY,
        |value| Ok(value == [1]),
    )?;
    let revision = read_value(file, AUTH_BUCKET, AUTH_REVISION_KEY, |value| {
        let number = value.try_into().map(u64::from_be_bytes);
        number.map_err(|_| EtcdDbProblem::Number)
    })?;
    Ok(EtcdAuth {
        is_enabled: is_enabled.unwrap_or(false),
        revision: revision.unwrap_or(0),
        users: named(AUTH_USERS_BUCKET)?,
        roles: named(AUTH_ROLES_BUCKET)?,
    })
}

fn read_members(file: &BoltFile) -> Result<Vec<EtcdMember>, EtcdDbError> {
    read_entries(file, MEMBERS_BUCKET, |key, value| {
        let id = member_id(key)?;
        let member: MemberText = serde_json::from_slice(value).map_err(|_| EtcdDbProblem::Text)?;
        Ok(EtcdMember {
            id,
            name: member.name,
            peer_urls: member.peer_urls.unwrap_or_default(),
            client_urls: member.client_urls.unwrap_or_default(),
            is_learner: member.is_learner,
        })
    })
}

fn member_entry(member: &EtcdMember) -> (Vec<u8>, Vec<u8>) {
    let text = MemberText {
        id: member.id.0,
        peer_urls: Some(member.peer_urls.clone()),
        is_learner: member.is_learner,
        name: member.name.clone(),
        client_urls: Some(member.client_urls.clone()).filter(|urls| !urls.is_empty()),
    };
    let value = serde_json::to_vec(&text).expect("text and numbers become JSON");
    (member_key(member.id), value)
}

fn read_members_removed(file: &BoltFile) -> Result<Vec<MemberId>, EtcdDbError> {
    read_entries(file, MEMBERS_REMOVED_BUCKET, |key, _| member_id(key))
}

fn read_cluster(file: &BoltFile) -> Result<EtcdCluster, EtcdDbError> {
    let text = |key| read_value(file, CLUSTER_BUCKET, key, to_text);
    Ok(EtcdCluster {
        version: text(CLUSTER_VERSION_KEY)?,
        downgrade: text(DOWNGRADE_KEY)?,
    })
}

fn member_key(id: MemberId) -> Vec<u8> {
    format!("{:x}", id.0).into_bytes()
}

fn member_id(key: &[u8]) -> Result<MemberId, EtcdDbProblem> {
    let digits = std::str::from_utf8(key).map_err(|_| EtcdDbProblem::MemberId)?;
    let id = u64::from_str_radix(digits, 16).map_err(|_| EtcdDbProblem::MemberId)?;
    Ok(MemberId(id))
}

fn to_text(value: &[u8]) -> Result<String, EtcdDbProblem> {
    let text = std::str::from_utf8(value).map_err(|_| EtcdDbProblem::Text)?;
    Ok(text.to_owned())
}

/// Reads one value of a bucket; `None` if the bucket or the key is not there.
fn read_value<T>(
    file: &BoltFile,
    bucket: &'static str,
    key: &'static str,
    decode: impl FnOnce(&[u8]) -> Result<T, EtcdDbProblem>,
) -> Result<Option<T>, EtcdDbError> {
    let Some(found) = file.root().bucket(bucket.as_bytes())? else {
        return Ok(None);
    };
    let Some(value) = found.get(key.as_bytes())? else {
        return Ok(None);
    };
    let decoded = decode(&value);
    decoded
        .map(Some)
        .map_err(|problem| entry_error(file, bucket, key.as_bytes(), problem))
}

/// Reads all entries of a bucket; nothing if there is no such bucket.
fn read_entries<T>(
    file: &BoltFile,
    bucket: &'static str,
    mut decode: impl FnMut(&[u8], &[u8]) -> Result<T, EtcdDbProblem>,
) -> Result<Vec<T>, EtcdDbError> {
    let mut entries = Vec::new();
    let Some(found) = file.root().bucket(bucket.as_bytes())? else {
        return Ok(entries);
    };
    let mut cursor = found.cursor();
    while let Some(entry) = cursor.peek()? {
        let decoded = decode(entry.key, entry.value);
        entries.push(decoded.map_err(|problem| entry_error(file, bucket, entry.key, problem))?);
        cursor.advance();
    }
    Ok(entries)
}

pub(super) fn entry_error(
    file: &BoltFile,
    bucket: &'static str,
    key: &[u8],
    problem: EtcdDbProblem,
) -> EtcdDbError {
    EtcdDbError::Entry {
        file: file.name().to_owned(),
        bucket,
        key: key.escape_ascii().to_string(),
        problem,
    }
}

/// The entries that have a value.
fn present<const N: usize>(entries: [(&str, Option<Vec<u8>>); N]) -> SmallBucket {
    collect(
        entries
            .into_iter()
            .filter_map(|(key, value)| Some((key.as_bytes().to_vec(), value?))),
    )
}

/// Puts entries in order. Two with one key are a mistake of whoever made them.
fn collect(entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> SmallBucket {
    let mut bucket = SmallBucket::new();
    for (key, value) in entries {
        let before = bucket.insert(key, value);
        assert!(before.is_none(), "every key comes once in a bucket");
    }
    bucket
}
