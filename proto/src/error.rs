//! Every error a client can be told: one table of gRPC status codes and texts.
//!
//! Clients branch on both. The Go client finds its error values by comparing the whole text, and
//! kube-apiserver turns some of them into HTTP answers, so a row is wire format: it is etcd's,
//! word for word (`api/v3rpc/rpctypes/error.go`). Variant names are etcd's too, without `ErrGRPC`.
//!
//! 1. A text belongs to exactly one row and begins with `etcdserver: `.
//! 2. An error leaves with the code of its row. etcd sends two of them (too many requests, not
//!    enough started members) with code `Unknown` because they miss a line in its conversion
//!    table; here they carry the code that etcd declares for them.

use std::mem::size_of;

use tonic::{Code, Status};

// Apply results carry one of these for every refused command.
const _: () = assert!(size_of::<Result<(), ApiError>>() == 1);

/// Declares the enum, its codes, its texts and the list of all rows from one table.
macro_rules! api_errors {
    ($($variant:ident => $code:ident, $text:literal;)+) => {
        /// One error of the client API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u8)]
        pub enum ApiError {
            $(
                #[doc = concat!("`", stringify!($code), "`, \"", $text, "\"")]
                #[error($text)]
                $variant,
            )+
        }

        impl ApiError {
            /// All errors, in table order.
            pub const ALL: &[ApiError] = &[$(ApiError::$variant),+];

            /// The gRPC status code it is sent with.
            pub const fn code(self) -> Code {
                match self {
                    $(ApiError::$variant => Code::$code,)+
                }
            }

            /// The text it is sent with.
            pub const fn message(self) -> &'static str {
                match self {
                    $(ApiError::$variant => $text,)+
                }
            }
        }
    };
}

api_errors! {
    // Keys and transactions.
    EmptyKey => InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound => InvalidArgument, "etcdserver: key not found";
    ValueProvided => InvalidArgument, "etcdserver: value is provided";
    LeaseProvided => InvalidArgument, "etcdserver: lease is provided";
    TooManyOps => InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey => InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion => InvalidArgument, "etcdserver: invalid client api version";
    InvalidSortOption => InvalidArgument, "etcdserver: invalid sort option";
    Compacted => OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRev => OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace => ResourceExhausted, "etcdserver: mvcc: database space exceeded";

    // Leases.
    LeaseNotFound => NotFound, "etcdserver: requested lease not found";
    LeaseExist => FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge => OutOfRange, "etcdserver: too large lease TTL";

    // Watches.
    WatchCanceled => Cancelled, "etcdserver: watch canceled";

    // Membership.
    MemberExist => FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExist => FailedPrecondition, "etcdserver: Peer URLs already exists";
    MemberNotEnoughStarted => FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls => InvalidArgument, "etcdserver: given member URLs are invalid";
    MemberNotFound => NotFound, "etcdserver: member not found";
    MemberNotLearner => FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady => FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners => FailedPrecondition, "etcdserver: too many learner members in cluster";
    ClusterIdMismatch => FailedPrecondition, "etcdserver: cluster ID mismatch";

    // Load.
    RequestTooLarge => InvalidArgument, "etcdserver: request is too large";
    TooManyRequests => ResourceExhausted, "etcdserver: too many requests";

    // Auth.
    RootUserNotExist => FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist => FailedPrecondition, "etcdserver: root user does not have root role";
    UserAlreadyExist => FailedPrecondition, "etcdserver: user name already exists";
    UserEmpty => InvalidArgument, "etcdserver: user name is empty";
    UserNotFound => FailedPrecondition, "etcdserver: user name not found";
    RoleAlreadyExist => FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound => FailedPrecondition, "etcdserver: role name not found";
    RoleEmpty => InvalidArgument, "etcdserver: role name is empty";
    AuthFailed => InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven => InvalidArgument, "etcdserver: permission not given";
    PermissionDenied => PermissionDenied, "etcdserver: permission denied";
    RoleNotGranted => FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted => FailedPrecondition, "etcdserver: permission is not granted to the role";
    AuthNotEnabled => FailedPrecondition, "etcdserver: authentication is not enabled";
    InvalidAuthToken => Unauthenticated, "etcdserver: invalid auth token";
    InvalidAuthMgmt => InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision => InvalidArgument, "etcdserver: revision of auth store is old";

    // Leadership and health.
    NoLeader => Unavailable, "etcdserver: no leader";
    NotLeader => FailedPrecondition, "etcdserver: not leader";
    LeaderChanged => Unavailable, "etcdserver: leader changed";
    NotCapable => FailedPrecondition, "etcdserver: not capable";
    Stopped => Unavailable, "etcdserver: server stopped";
    Timeout => Unavailable, "etcdserver: request timed out";
    TimeoutDueToLeaderFail => Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost => Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex => Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy => Unavailable, "etcdserver: unhealthy cluster";
    Corrupt => DataLoss, "etcdserver: corrupt cluster";
    NotSupportedForLearner => FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee => FailedPrecondition, "etcdserver: bad leader transferee";

    // Downgrade.
    WrongDowngradeVersionFormat => InvalidArgument, "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTargetVersion => InvalidArgument, "etcdserver: invalid downgrade target version";
    ClusterVersionUnavailable => FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess => FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade => FailedPrecondition, "etcdserver: no inflight downgrade job";

    // The client gave up.
    Canceled => Cancelled, "etcdserver: request canceled";
    DeadlineExceeded => DeadlineExceeded, "etcdserver: context deadline exceeded";
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        Status::new(error.code(), error.message())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use tonic::Code::*;

    /// etcd's list, written out a second time so that no edit of the table goes unnoticed.
    const ETCD: [(Code, &str); 63] = [
        (InvalidArgument, "etcdserver: key is not provided"),
        (InvalidArgument, "etcdserver: key not found"),
        (InvalidArgument, "etcdserver: value is provided"),
        (InvalidArgument, "etcdserver: lease is provided"),
        (
            InvalidArgument,
            "etcdserver: too many operations in txn request",
        ),
        (
            InvalidArgument,
            "etcdserver: duplicate key given in txn request",
        ),
        (InvalidArgument, "etcdserver: invalid client api version"),
        (InvalidArgument, "etcdserver: invalid sort option"),
        (
            OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (
            OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (
            ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        ),
        (NotFound, "etcdserver: requested lease not found"),
        (FailedPrecondition, "etcdserver: lease already exists"),
        (OutOfRange, "etcdserver: too large lease TTL"),
        (Cancelled, "etcdserver: watch canceled"),
        (FailedPrecondition, "etcdserver: member ID already exist"),
        (FailedPrecondition, "etcdserver: Peer URLs already exists"),
        (
            FailedPrecondition,
            "etcdserver: re-configuration failed due to not enough started members",
        ),
        (InvalidArgument, "etcdserver: given member URLs are invalid"),
        (NotFound, "etcdserver: member not found"),
        (
            FailedPrecondition,
            "etcdserver: can only promote a learner member",
        ),
        (
            FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        (
            FailedPrecondition,
            "etcdserver: too many learner members in cluster",
        ),
        (FailedPrecondition, "etcdserver: cluster ID mismatch"),
        (InvalidArgument, "etcdserver: request is too large"),
        (ResourceExhausted, "etcdserver: too many requests"),
        (FailedPrecondition, "etcdserver: root user does not exist"),
        (
            FailedPrecondition,
            "etcdserver: root user does not have root role",
        ),
        (FailedPrecondition, "etcdserver: user name already exists"),
        (InvalidArgument, "etcdserver: user name is empty"),
        (FailedPrecondition, "etcdserver: user name not found"),
        (FailedPrecondition, "etcdserver: role name already exists"),
        (FailedPrecondition, "etcdserver: role name not found"),
        (InvalidArgument, "etcdserver: role name is empty"),
        (
            InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        ),
        (InvalidArgument, "etcdserver: permission not given"),
        (PermissionDenied, "etcdserver: permission denied"),
        (
            FailedPrecondition,
            "etcdserver: role is not granted to the user",
        ),
        (
            FailedPrecondition,
            "etcdserver: permission is not granted to the role",
        ),
        (
            FailedPrecondition,
            "etcdserver: authentication is not enabled",
        ),
        (Unauthenticated, "etcdserver: invalid auth token"),
        (InvalidArgument, "etcdserver: invalid auth management"),
        (InvalidArgument, "etcdserver: revision of auth store is old"),
        (Unavailable, "etcdserver: no leader"),
        (FailedPrecondition, "etcdserver: not leader"),
        (Unavailable, "etcdserver: leader changed"),
        (FailedPrecondition, "etcdserver: not capable"),
        (Unavailable, "etcdserver: server stopped"),
        (Unavailable, "etcdserver: request timed out"),
        (
            Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        (
            Unavailable,
            "etcdserver: request timed out, possibly due to connection lost",
        ),
        (
            Unavailable,
            "etcdserver: request timed out, waiting for the applied index took too long",
        ),
        (Unavailable, "etcdserver: unhealthy cluster"),
        (DataLoss, "etcdserver: corrupt cluster"),
        (
            FailedPrecondition,
            "etcdserver: rpc not supported for learner",
        ),
        (FailedPrecondition, "etcdserver: bad leader transferee"),
        (
            InvalidArgument,
            "etcdserver: wrong downgrade target version format",
        ),
        (
            InvalidArgument,
            "etcdserver: invalid downgrade target version",
        ),
        (
            FailedPrecondition,
            "etcdserver: cluster version not found during downgrade",
        ),
        (
            FailedPrecondition,
            "etcdserver: cluster has a downgrade job in progress",
        ),
        (FailedPrecondition, "etcdserver: no inflight downgrade job"),
        (Cancelled, "etcdserver: request canceled"),
        (DeadlineExceeded, "etcdserver: context deadline exceeded"),
    ];

    #[test]
    fn table_is_etcds() {
        let table: Vec<(Code, &str)> = ApiError::ALL
            .iter()
            .map(|error| (error.code(), error.message()))
            .collect();
        assert_eq!(table, ETCD);
    }

    #[test]
    fn every_row_is_unique_prefixed_and_shown_as_sent() {
        let mut texts = HashSet::new();
        let mut variants = HashSet::new();
        for &error in ApiError::ALL {
            let text = error.message();
            let body = text.strip_prefix("etcdserver: ");
            assert!(body.is_some_and(|body| !body.is_empty()), "{text}");
            assert_eq!(text.trim_end(), text);
            assert!(texts.insert(text), "two rows say {text:?}");
            assert!(variants.insert(error), "{error:?} is listed twice");
            assert_eq!(error.to_string(), text);
            assert_ne!(error.code(), Ok);
            assert_ne!(error.code(), Unknown);

            let status = Status::from(error);
            assert_eq!(status.code(), error.code());
            assert_eq!(status.message(), text);
        }
    }

    /// The texts that clients are known to search for.
    #[test]
    fn named_errors_keep_their_rows() {
        assert_eq!(
            ApiError::Compacted.message(),
            "etcdserver: mvcc: required revision has been compacted"
        );
        assert_eq!(ApiError::Compacted.code(), OutOfRange);
        assert_eq!(ApiError::NoLeader.message(), "etcdserver: no leader");
        assert_eq!(ApiError::LeaseNotFound.code(), NotFound);
        assert_eq!(ApiError::TooManyRequests.code(), ResourceExhausted);
        assert_eq!(ApiError::MemberNotEnoughStarted.code(), FailedPrecondition);
        assert_eq!(ApiError::Canceled.code(), Cancelled);
    }
}
