//! The gRPC methods of the member, as the metrics know them.
//!
//! A method is a small number on the hot path and a row of labels at scrape time. The front looks a
//! path up once per stream in [`METHODS`] and counts by number from then on.

use crate::front::{Method as Row, MethodKind};

/// Declares the methods: variant, service, name on the wire, kind.
macro_rules! methods {
    ($( $variant:ident = $service:literal, $name:literal, $kind:ident; )*) => {
        /// A gRPC method that the member knows by name, whether or not it serves it yet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Method {
            $(
                #[doc = concat!("`/", $service, "/", $name, "`")]
                $variant,
            )*
        }

        impl Method {
            /// Every method, in the order of their numbers.
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The method of that number, as `method as u16` gives it.
            ///
            /// # Panics
            /// If there is no such method.
            #[inline]
            pub fn from_index(index: u16) -> Self {
                Self::ALL[usize::from(index)]
            }

            /// The method as the front knows it: path and kind.
            pub fn row(self) -> &'static Row {
                &METHODS[self as usize]
            }
        }

        /// Every method as the front knows it, in the order of their numbers.
        pub static METHODS: [Row; Method::COUNT] = [
            $( Row::new(
                Method::$variant as u16,
                concat!("/", $service, "/", $name),
                MethodKind::$kind,
            ), )*
        ];
    };
}

methods! {
    KvRange = "etcdserverpb.KV", "Range", Unary;
    KvRangeStream = "etcdserverpb.KV", "RangeStream", ServerStream;
    KvPut = "etcdserverpb.KV", "Put", Unary;
    KvDeleteRange = "etcdserverpb.KV", "DeleteRange", Unary;
    KvTxn = "etcdserverpb.KV", "Txn", Unary;
    KvCompact = "etcdserverpb.KV", "Compact", Unary;
    WatchWatch = "etcdserverpb.Watch", "Watch", Bidi;
    LeaseGrant = "etcdserverpb.Lease", "LeaseGrant", Unary;
    LeaseRevoke = "etcdserverpb.Lease", "LeaseRevoke", Unary;
    LeaseKeepAlive = "etcdserverpb.Lease", "LeaseKeepAlive", Bidi;
    LeaseTimeToLive = "etcdserverpb.Lease", "LeaseTimeToLive", Unary;
    LeaseLeases = "etcdserverpb.Lease", "LeaseLeases", Unary;
    ClusterMemberAdd = "etcdserverpb.Cluster", "MemberAdd", Unary;
    ClusterMemberRemove = "etcdserverpb.Cluster", "MemberRemove", Unary;
    ClusterMemberUpdate = "etcdserverpb.Cluster", "MemberUpdate", Unary;
    ClusterMemberList = "etcdserverpb.Cluster", "MemberList", Unary;
    ClusterMemberPromote = "etcdserverpb.Cluster", "MemberPromote", Unary;
    MaintenanceAlarm = "etcdserverpb.Maintenance", "Alarm", Unary;
    MaintenanceStatus = "etcdserverpb.Maintenance", "Status", Unary;
    MaintenanceDefragment = "etcdserverpb.Maintenance", "Defragment", Unary;
    MaintenanceHash = "etcdserverpb.Maintenance", "Hash", Unary;
    MaintenanceHashKv = "etcdserverpb.Maintenance", "HashKV", Unary;
    MaintenanceSnapshot = "etcdserverpb.Maintenance", "Snapshot", ServerStream;
    MaintenanceMoveLeader = "etcdserverpb.Maintenance", "MoveLeader", Unary;
    MaintenanceDowngrade = "etcdserverpb.Maintenance", "Downgrade", Unary;
    AuthEnable = "etcdserverpb.Auth", "AuthEnable", Unary;
    AuthDisable = "etcdserverpb.Auth", "AuthDisable", Unary;
    AuthStatus = "etcdserverpb.Auth", "AuthStatus", Unary;
    Authenticate = "etcdserverpb.Auth", "Authenticate", Unary;
    AuthUserAdd = "etcdserverpb.Auth", "UserAdd", Unary;
    AuthUserGet = "etcdserverpb.Auth", "UserGet", Unary;
    AuthUserList = "etcdserverpb.Auth", "UserList", Unary;
    AuthUserDelete = "etcdserverpb.Auth", "UserDelete", Unary;
    AuthUserChangePassword = "etcdserverpb.Auth", "UserChangePassword", Unary;
    AuthUserGrantRole = "etcdserverpb.Auth", "UserGrantRole", Unary;
    AuthUserRevokeRole = "etcdserverpb.Auth", "UserRevokeRole", Unary;
    AuthRoleAdd = "etcdserverpb.Auth", "RoleAdd", Unary;
    AuthRoleGet = "etcdserverpb.Auth", "RoleGet", Unary;
    AuthRoleList = "etcdserverpb.Auth", "RoleList", Unary;
    AuthRoleDelete = "etcdserverpb.Auth", "RoleDelete", Unary;
    AuthRoleGrantPermission = "etcdserverpb.Auth", "RoleGrantPermission", Unary;
    AuthRoleRevokePermission = "etcdserverpb.Auth", "RoleRevokePermission", Unary;
    HealthCheck = "grpc.health.v1.Health", "Check", Unary;
    HealthList = "grpc.health.v1.Health", "List", Unary;
    HealthWatch = "grpc.health.v1.Health", "Watch", ServerStream;
    ElectionCampaign = "v3electionpb.Election", "Campaign", Unary;
    ElectionProclaim = "v3electionpb.Election", "Proclaim", Unary;
    ElectionLeader = "v3electionpb.Election", "Leader", Unary;
    ElectionObserve = "v3electionpb.Election", "Observe", ServerStream;
    ElectionResign = "v3electionpb.Election", "Resign", Unary;
    LockLock = "v3lockpb.Lock", "Lock", Unary;
    LockUnlock = "v3lockpb.Lock", "Unlock", Unary;
}

/// The API level that a client claims in its `client-api-version` metadata, as a small number.
///
/// Clients send `major.minor`. Known levels have a series each; anything else shares `unknown`,
/// with the clients that say nothing, so that a client cannot make the metrics grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientApiVersion(u8);

impl ClientApiVersion {
    const LABELS: [&'static str; 11] = [
        "unknown", "3.0", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "3.9",
    ];

    /// How many series there are.
    pub const COUNT: usize = Self::LABELS.len();

    /// No metadata, or a level that is not known.
    pub const UNKNOWN: Self = Self(0);

    /// Every level.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// Reads the metadata's value.
    #[inline]
    pub fn from_metadata(value: Option<&[u8]>) -> Self {
        match value {
            Some([b'3', b'.', minor @ b'0'..=b'9']) => Self(minor - b'0' + 1),
            _ => Self::UNKNOWN,
        }
    }

    /// The label's value.
    pub fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// The number, below [`Self::COUNT`].
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_methods() {
        for method in Method::ALL {
            assert_eq!(Method::from_index(method.row().index), *method);
        }
        assert_eq!(Method::KvRange.row().path, "/etcdserverpb.KV/Range");
    }

    #[test]
    fn client_versions_keep_their_label() {
        for version in ClientApiVersion::all().skip(1) {
            let metadata = Some(version.label().as_bytes());
            assert_eq!(ClientApiVersion::from_metadata(metadata), version);
        }
        for odd in [
            None,
            Some(&b""[..]),
            Some(b"4.0"),
            Some(b"3.10"),
            Some(b"3.x"),
        ] {
            assert_eq!(
                ClientApiVersion::from_metadata(odd),
                ClientApiVersion::UNKNOWN
            );
        }
    }
}
