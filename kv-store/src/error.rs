//! Why a command is refused, a read cannot be answered, or an entry cannot be applied.

use kv_codec::DecodeError;
use thiserror::Error;

/// A command was refused. Part of the replicated result: every replica refuses the same command for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Rejection {
    /// `ignore_value` or `ignore_lease` for a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// A lease that was never granted, has expired or was revoked.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The lease is there already.
    #[error("lease already exists")]
    LeaseExists,
    /// A leader that is none any more saw a lease expire.
    #[error("leader changed")]
    OldTerm,
    /// An alarm says that the store is as large as it may be.
    #[error("database space exceeded")]
    NoSpace,
    /// An alarm says that a member differs from the others.
    #[error("corrupt cluster")]
    Corrupt,
    /// A read of a transaction, or a compaction, names a revision that is gone.
    #[error("required revision has been compacted")]
    Compacted,
    /// A read of a transaction, or a compaction, names a revision that is not yet there.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// No such member, or one that was removed.
    #[error("member not found")]
    MemberNotFound,
    /// The id is taken, or belonged to a member that was removed.
    #[error("member ID already exist")]
    MemberIdExists,
    /// Another member has one of the peer URLs.
    #[error("peer URLs already exists")]
    PeerUrlExists,
    /// The cluster has as many learners as it may have.
    #[error("too many learner members in cluster")]
    TooManyLearners,
    /// Only a learner can be promoted.
    #[error("can only promote a learner member")]
    NotLearner,
    /// The change would leave no voter.
    #[error("re-configuration failed due to not enough started members")]
    NotEnoughMembers,
}

/// A read cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The revision is below the compacted one.
    #[error("required revision has been compacted")]
    Compacted {
        /// The oldest revision that can be read.
        compact_revision: i64,
    },
    /// The revision is above the current one.
    #[error("required revision is a future revision")]
    Future {
        /// The current revision.
        revision: i64,
    },
}

impl From<ReadError> for Rejection {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { .. } => Self::Compacted,
            ReadError::Future { .. } => Self::FutureRevision,
        }
    }
}

/// A committed entry cannot be applied. The process must stop: going on would make this replica differ from the others.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// The entry holds what this build cannot read: it was written by a newer one, or is damaged.
    #[error("entry {index} cannot be read: {source}")]
    Decode {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// Entries were skipped or repeated.
    #[error("entry {index} does not follow applied entry {applied}")]
    OutOfOrder {
        /// The entry.
        index: u64,
        /// The last one applied.
        applied: u64,
    },
    /// An entry of one kind carries commands of another.
    #[error("entry {index} carries a command of the wrong kind")]
    WrongKind {
        /// The entry.
        index: u64,
    },
}
