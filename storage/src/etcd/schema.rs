//! Names of etcd's buckets and of the keys in them.

pub(super) const KEY_BUCKET: &str = "key";
pub(super) const META_BUCKET: &str = "meta";
pub(super) const LEASE_BUCKET: &str = "lease";
pub(super) const ALARM_BUCKET: &str = "alarm";
pub(super) const AUTH_BUCKET: &str = "auth";
pub(super) const AUTH_USERS_BUCKET: &str = "authUsers";
pub(super) const AUTH_ROLES_BUCKET: &str = "authRoles";
pub(super) const MEMBERS_BUCKET: &str = "members";
pub(super) const MEMBERS_REMOVED_BUCKET: &str = "members_removed";
pub(super) const CLUSTER_BUCKET: &str = "cluster";

pub(super) const CONSISTENT_INDEX_KEY: &str = "consistent_index";
pub(super) const TERM_KEY: &str = "term";
pub(super) const SCHEDULED_COMPACT_KEY: &str = "scheduledCompactRev";
pub(super) const FINISHED_COMPACT_KEY: &str = "finishedCompactRev";
pub(super) const CONF_STATE_KEY: &str = "confState";
pub(super) const STORAGE_VERSION_KEY: &str = "storageVersion";
pub(super) const AUTH_ENABLED_KEY: &str = "authEnabled";
pub(super) const AUTH_REVISION_KEY: &str = "authRevision";
pub(super) const CLUSTER_VERSION_KEY: &str = "clusterVersion";
pub(super) const DOWNGRADE_KEY: &str = "downgrade";

/// What etcd stores for a member that was removed.
pub(super) const REMOVED_VALUE: &str = "removed";
