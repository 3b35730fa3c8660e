//! The one place where errors become gRPC statuses.
//!
//! Clients know an error by its message, some by its code too, so that both are copied to the
//! letter from etcd. The service logic speaks [`ApiError`]; only the gRPC skin and the JSON gateway
//! turn it into a [`tonic::Status`].

use tonic::{Code, Status};

/// Declares the errors that have nothing but a code and a message, each once.
macro_rules! api_errors {
    ($($variant:ident $code:ident $text:literal)*) => {
        /// Why a call was refused or failed, as its caller is told.
        ///
        /// Each variant is documented by the message it puts on the wire.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum ApiError {
            $(
                #[doc = concat!("`", $text, "`")]
                #[error($text)]
                $variant,
            )*
        }

        impl ApiError {
            /// Every error with a fixed message.
            pub const ALL: &[ApiError] = &[$(ApiError::$variant),*];

            /// The gRPC code that goes with the message.
            pub fn code(&self) -> Code {
                match self {
                    $(ApiError::$variant => Code::$code,)*
                }
            }
        }
    };
}

api_errors! {
    EmptyKey InvalidArgument "etcdserver: key is not provided"
    KeyNotFound InvalidArgument "etcdserver: key not found"
    ValueProvided InvalidArgument "etcdserver: value is provided"
    LeaseProvided InvalidArgument "etcdserver: lease is provided"
    TooManyOps InvalidArgument "etcdserver: too many operations in txn request"
    DuplicateKey InvalidArgument "etcdserver: duplicate key given in txn request"
    InvalidClientApiVersion InvalidArgument "etcdserver: invalid client api version"
    InvalidSortOption InvalidArgument "etcdserver: invalid sort option"
    MemberBadUrls InvalidArgument "etcdserver: given member URLs are invalid"
    RequestTooLarge InvalidArgument "etcdserver: request is too large"
    UserEmpty InvalidArgument "etcdserver: user name is empty"
    RoleEmpty InvalidArgument "etcdserver: role name is empty"
    AuthFailed InvalidArgument "etcdserver: authentication failed, invalid user ID or password"
    PermissionNotGiven InvalidArgument "etcdserver: permission not given"
    InvalidAuthManagement InvalidArgument "etcdserver: invalid auth management"
    AuthOldRevision InvalidArgument "etcdserver: revision of auth store is old"
    WrongDowngradeVersionFormat InvalidArgument "etcdserver: wrong downgrade target version format"
    InvalidDowngradeTargetVersion InvalidArgument "etcdserver: invalid downgrade target version"

    Compacted OutOfRange "etcdserver: mvcc: required revision has been compacted"
    FutureRevision OutOfRange "etcdserver: mvcc: required revision is a future revision"
    LeaseTtlTooLarge OutOfRange "etcdserver: too large lease TTL"

    NoSpace ResourceExhausted "etcdserver: mvcc: database space exceeded"

    LeaseNotFound NotFound "etcdserver: requested lease not found"
    MemberNotFound NotFound "etcdserver: member not found"

    LeaseExists FailedPrecondition "etcdserver: lease already exists"
    MemberExists FailedPrecondition "etcdserver: member ID already exist"
    PeerUrlExists FailedPrecondition "etcdserver: Peer URLs already exists"
    MemberNotLearner FailedPrecondition "etcdserver: can only promote a learner member"
    LearnerNotReady FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader"
    TooManyLearners FailedPrecondition "etcdserver: too many learner members in cluster"
    ClusterIdMismatch FailedPrecondition "etcdserver: cluster ID mismatch"
    RootUserNotFound FailedPrecondition "etcdserver: root user does not exist"
    RootRoleNotFound FailedPrecondition "etcdserver: root user does not have root role"
    UserExists FailedPrecondition "etcdserver: user name already exists"
    UserNotFound FailedPrecondition "etcdserver: user name not found"
    RoleExists FailedPrecondition "etcdserver: role name already exists"
    RoleNotFound FailedPrecondition "etcdserver: role name not found"
    RoleNotGranted FailedPrecondition "etcdserver: role is not granted to the user"
    PermissionNotGranted FailedPrecondition "etcdserver: permission is not granted to the role"
    AuthNotEnabled FailedPrecondition "etcdserver: authentication is not enabled"
    NotLeader FailedPrecondition "etcdserver: not leader"
    NotCapable FailedPrecondition "etcdserver: not capable"
    NotSupportedForLearner FailedPrecondition "etcdserver: rpc not supported for learner"
    BadLeaderTransferee FailedPrecondition "etcdserver: bad leader transferee"
    ClusterVersionUnavailable FailedPrecondition "etcdserver: cluster version not found during downgrade"
    DowngradeInProcess FailedPrecondition "etcdserver: cluster has a downgrade job in progress"
    NoInflightDowngrade FailedPrecondition "etcdserver: no inflight downgrade job"

    PermissionDenied PermissionDenied "etcdserver: permission denied"

    InvalidAuthToken Unauthenticated "etcdserver: invalid auth token"

    NoLeader Unavailable "etcdserver: no leader"
    LeaderChanged Unavailable "etcdserver: leader changed"
    Stopped Unavailable "etcdserver: server stopped"
    Timeout Unavailable "etcdserver: request timed out"
    TimeoutLeaderFailure Unavailable "etcdserver: request timed out, possibly due to previous leader failure"
    TimeoutConnectionLost Unavailable "etcdserver: request timed out, possibly due to connection lost"
    TimeoutWaitApplied Unavailable "etcdserver: request timed out, waiting for the applied index took too long"
    Unhealthy Unavailable "etcdserver: unhealthy cluster"

    Corrupt DataLoss "etcdserver: corrupt cluster"

    WatchCanceled Cancelled "etcdserver: watch canceled"
    RequestCanceled Cancelled "etcdserver: request canceled"

    DeadlineExceeded DeadlineExceeded "etcdserver: context deadline exceeded"

    RangeStreamSort Unimplemented "RangeStream does not support custom sort orders"
    RangeStreamFilter Unimplemented "RangeStream does not support revision filters"

    // etcd has codes for these two, but puts Unknown on the wire.
    TooManyRequests Unknown "etcdserver: too many requests"
    MemberNotEnoughStarted Unknown "etcdserver: re-configuration failed due to not enough started members"

    // etcd has no code for these, and clients compare the bare text.
    NoPasswordUser Unknown "auth: authentication failed, password was given for no password user"
    TimeoutLeaderTransfer Unknown "etcdserver: request timed out, leader transfer took too long"
    NotPrimaryLessor Unknown "not a primary lessor"
    ElectionNoLeader Unknown "election: no leader"
    ElectionNotLeader Unknown "election: not leader"
    SessionExpired Unknown "mutex: session is expired"
    UnknownMethod Unknown "etcdserver: unknown method"
    LeaderFieldMissing Unknown "\"leader\" field must be provided"
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        Status::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// etcd's table, by code; messages that begin with `!` stand without the usual prefix.
    const TABLE: &[(Code, &[&str])] = &[
        (
            Code::InvalidArgument,
            &[
                "key is not provided",
                "key not found",
                "value is provided",
                "lease is provided",
                "too many operations in txn request",
                "duplicate key given in txn request",
                "invalid client api version",
                "invalid sort option",
                "given member URLs are invalid",
                "request is too large",
                "user name is empty",
                "role name is empty",
                "authentication failed, invalid user ID or password",
                "permission not given",
                "invalid auth management",
                "revision of auth store is old",
                "wrong downgrade target version format",
                "invalid downgrade target version",
            ],
        ),
        (
            Code::OutOfRange,
            &[
                "mvcc: required revision has been compacted",
                "mvcc: required revision is a future revision",
                "too large lease TTL",
            ],
        ),
        (Code::ResourceExhausted, &["mvcc: database space exceeded"]),
        (Code::NotFound, &["requested lease not found", "member not found"]),
        (
            Code::FailedPrecondition,
            &[
                "lease already exists",
                "member ID already exist",
                "Peer URLs already exists",
                "can only promote a learner member",
                "can only promote a learner member which is in sync with leader",
                "too many learner members in cluster",
                "cluster ID mismatch",
                "root user does not exist",
                "root user does not have root role",
                "user name already exists",
                "user name not found",
                "role name already exists",
                "role name not found",
                "role is not granted to the user",
                "permission is not granted to the role",
                "authentication is not enabled",
                "not leader",
                "not capable",
                "rpc not supported for learner",
                "bad leader transferee",
                "cluster version not found during downgrade",
                "cluster has a downgrade job in progress",
                "no inflight downgrade job",
            ],
        ),
        (Code::PermissionDenied, &["permission denied"]),
        (Code::Unauthenticated, &["invalid auth token"]),
        (
            Code::Unavailable,
            &[
                "no leader",
                "leader changed",
                "server stopped",
                "request timed out",
                "request timed out, possibly due to previous leader failure",
                "request timed out, possibly due to connection lost",
                "request timed out, waiting for the applied index took too long",
                "unhealthy cluster",
            ],
        ),
        (Code::DataLoss, &["corrupt cluster"]),
        (Code::Cancelled, &["watch canceled", "request canceled"]),
        (Code::DeadlineExceeded, &["context deadline exceeded"]),
        (
            Code::Unimplemented,
            &["!RangeStream does not support custom sort orders", "!RangeStream does not support revision filters"],
        ),
        (
            Code::Unknown,
            &[
                "too many requests",
                "unknown method",
                "re-configuration failed due to not enough started members",
                "request timed out, leader transfer took too long",
                "!auth: authentication failed, password was given for no password user",
                "!not a primary lessor",
                "!election: no leader",
                "!election: not leader",
                "!mutex: session is expired",
                "!\"leader\" field must be provided",
            ],
        ),
    ];

    #[test]
    fn codes_and_messages_are_those_of_etcd() {
        let expected: BTreeSet<(i32, String)> = TABLE
            .iter()
            .flat_map(|(code, texts)| texts.iter().map(move |text| (*code as i32, text)))
            .map(|(code, text)| match text.strip_prefix('!') {
                Some(bare) => (code, bare.to_owned()),
                None => (code, format!("etcdserver: {text}")),
            })
            .collect();
        let actual: BTreeSet<(i32, String)> = ApiError::ALL
            .iter()
            .map(|error| Status::from(error.clone()))
            .map(|status| (status.code() as i32, status.message().to_owned()))
            .collect();
        assert_eq!(actual, expected);
        assert_eq!(actual.len(), ApiError::ALL.len(), "two errors cannot be told apart");
    }
}
