//! Everything of a member's state but the keys, as it switches together with them.

use rkyv::{Archive, Deserialize, Serialize};

use super::format::{FORMAT_VERSION_MIN, FORMAT_VERSION_REMOVED};
use crate::ids::{ClusterId, LeaseId, LeaseTime, MemberId, RaftIndex, Revision, Term};
use crate::state::{Cluster, Member, Position};

/// The state beside the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The last entry whose effect is in the file, and the lease clock there.
    pub applied: Position,
    /// What raft must not forget.
    pub hard_state: HardState,
    /// Revision of the keyspace.
    pub revision: Revision,
    /// Revision of the last compaction; -1 if there was none.
    pub compact_revision: Revision,
    /// What retention was applied at: of each key, the versions from it on are there, and the newest one
    /// below it unless it is a tombstone. -1 if nothing was ever dropped.
    pub horizon: Revision,
    /// Changes before the first one of this file, over the keyspace's whole life.
    pub changes_taken: u64,
    /// All leases, by id. The keys that hang on each follow from the keys.
    pub leases: Vec<LeaseMeta>,
    /// All active alarms, by type and member.
    pub alarms: Vec<AlarmMeta>,
    /// The cluster.
    pub cluster: Cluster,
    /// The auth store.
    pub auth: Vec<u8>,
}

/// A shard's vote and the term it holds in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Newest term seen.
    pub term: Term,
    /// Member voted for in it; 0 for none.
    pub vote: MemberId,
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseMeta {
    /// Its id.
    pub id: LeaseId,
    /// The TTL it was granted.
    pub granted_ttl_seconds: i64,
    /// When it may be expired, on the lease clock.
    pub deadline: LeaseTime,
}

/// An active alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmMeta {
    /// The number of its type.
    pub alarm: i32,
    /// Who raised it.
    pub member: MemberId,
}

/// The meta page, in the order of the archive.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub(super) struct MetaPage {
    applied_index: u64,
    applied_term: u64,
    lease_time: u64,
    hard_term: u64,
    hard_vote: u64,
    revision: i64,
    compact_revision: i64,
    horizon: i64,
    changes_taken: u64,
    cluster_id: u64,
    leases: Vec<LeaseRow>,
    alarms: Vec<AlarmRow>,
    members: Vec<MemberRow>,
    auth: Vec<u8>,
}

#[derive(Debug, Archive, Serialize, Deserialize)]
struct LeaseRow {
    id: i64,
    granted_ttl_seconds: i64,
    deadline: u64,
}

#[derive(Debug, Archive, Serialize, Deserialize)]
struct AlarmRow {
    member: u64,
    alarm: i64,
}

#[derive(Debug, Archive, Serialize, Deserialize)]
struct MemberRow {
    id: u64,
    standing: u64,
    name: Vec<u8>,
    peer_urls: Vec<Vec<u8>>,
    client_urls: Vec<Vec<u8>>,
}

/// What a member row says.
const VOTER: u64 = 0;
const LEARNER: u64 = 1;
/// Was a member once: such a row has only an id. Since format 2.
const REMOVED: u64 = 2;

impl Meta {
    /// The oldest format whose readers understand it.
    pub(super) fn format_version(&self) -> u32 {
        if self.cluster.removed.is_empty() {
            FORMAT_VERSION_MIN
        } else {
            FORMAT_VERSION_REMOVED
        }
    }
}

impl MetaPage {
    pub(super) fn new(meta: &Meta) -> Self {
        Self {
            applied_index: meta.applied.index.0,
            applied_term: meta.applied.term.0,
            lease_time: meta.applied.lease_time.0,
            hard_term: meta.hard_state.term.0,
            hard_vote: meta.hard_state.vote.0,
            revision: meta.revision.0,
            compact_revision: meta.compact_revision.0,
            horizon: meta.horizon.0,
            changes_taken: meta.changes_taken,
            cluster_id: meta.cluster.cluster_id.0,
            leases: meta.leases.iter().map(LeaseRow::new).collect(),
            alarms: meta.alarms.iter().map(AlarmRow::new).collect(),
            members: MemberRow::all(&meta.cluster),
            auth: meta.auth.clone(),
        }
    }

    /// `None` if the content is nothing this code writes.
    pub(super) fn into_meta(self) -> Option<Meta> {
        if self.revision < 0 || self.compact_revision > self.revision {
            return None;
        }
        let mut cluster = Cluster {
            cluster_id: ClusterId(self.cluster_id),
            ..Cluster::default()
        };
        for row in self.members {
            let id = MemberId(row.id);
            if row.standing == REMOVED {
                cluster.removed.insert(id);
            } else {
                cluster.members.insert(id, row.into_member()?);
            }
        }
        let alarms = self.alarms.into_iter().map(AlarmRow::into_alarm);
        Some(Meta {
            applied: Position {
                index: RaftIndex(self.applied_index),
                term: Term(self.applied_term),
                lease_time: LeaseTime(self.lease_time),
            },
            hard_state: HardState {
                term: Term(self.hard_term),
                vote: MemberId(self.hard_vote),
            },
            revision: Revision(self.revision),
            compact_revision: Revision(self.compact_revision),
            horizon: Revision(self.horizon),
            changes_taken: self.changes_taken,
            leases: self.leases.into_iter().map(LeaseRow::into_lease).collect(),
            alarms: alarms.collect::<Option<_>>()?,
            cluster,
            auth: self.auth,
        })
    }
}

impl LeaseRow {
    fn new(lease: &LeaseMeta) -> Self {
        Self {
            id: lease.id.0,
            granted_ttl_seconds: lease.granted_ttl_seconds,
            deadline: lease.deadline.0,
        }
    }

    fn into_lease(self) -> LeaseMeta {
        LeaseMeta {
            id: LeaseId(self.id),
            granted_ttl_seconds: self.granted_ttl_seconds,
            deadline: LeaseTime(self.deadline),
        }
    }
}

impl AlarmRow {
    fn new(alarm: &AlarmMeta) -> Self {
        Self {
            member: alarm.member.0,
            alarm: alarm.alarm.into(),
        }
    }

    fn into_alarm(self) -> Option<AlarmMeta> {
        Some(AlarmMeta {
            alarm: i32::try_from(self.alarm).ok()?,
            member: MemberId(self.member),
        })
    }
}

impl MemberRow {
    /// Members by id, then those who were removed.
    fn all(cluster: &Cluster) -> Vec<Self> {
        let removed = cluster.removed.iter().map(|id| Self {
            id: id.0,
            standing: REMOVED,
            name: Vec::new(),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
        });
        let members = cluster.members.values().map(Self::new);
        members.chain(removed).collect()
    }

    fn new(member: &Member) -> Self {
        let bytes = |urls: &[String]| urls.iter().map(|url| url.clone().into_bytes()).collect();
        Self {
            id: member.id,
            standing: if member.is_learner { LEARNER } else { VOTER },
            name: member.name.clone().into_bytes(),
            peer_urls: bytes(&member.peer_urls),
            client_urls: bytes(&member.client_urls),
        }
    }

    fn into_member(self) -> Option<Member> {
        if self.standing > LEARNER {
            return None;
        }
        let text = |bytes| String::from_utf8(bytes).ok();
        let texts = |urls: Vec<Vec<u8>>| urls.into_iter().map(text).collect::<Option<Vec<_>>>();
        Some(Member {
            id: self.id,
            name: text(self.name)?,
            peer_urls: texts(self.peer_urls)?,
            client_urls: texts(self.client_urls)?,
            is_learner: self.standing == LEARNER,
        })
    }
}
