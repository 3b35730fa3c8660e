//! Bugs planted on purpose, so that tests can be tested: a simulator that does not find them would not find real ones either.
//!
//! Without the feature `planted-bugs` [`is_planted`] is a constant `false` and nothing of them is compiled in; `kv-server` does not
//! build with it. With it, `plant` picks at most one for the calling thread.

macro_rules! bugs {
    ($($(#[doc = $story:literal])+ $bug:ident = $name:literal,)+) => {
        /// A bug that can be planted. Its documentation is the mistake, as one could make it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $story])+ $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)+];

            /// The name to pick it by.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)+
                }
            }

            /// The mistake in a line.
            #[must_use]
            pub const fn story(self) -> &'static str {
                match self {
                    $(Self::$bug => concat!($($story),+),)+
                }
            }
        }
    };
}

bugs! {
    /// An append returns before its write is synced.
    AnswerBeforeSync = "answer-before-sync",
    /// Messages that wait for a write leave before it.
    SendBeforePersisted = "send-before-persisted",
    /// A granted vote leaves before it is durable.
    VoteBeforeDurable = "vote-before-durable",
    /// A leader's messages do not wait for its own new term to be durable.
    NoHoldOnTermChange = "no-hold-on-term-change",
    /// A vote that changes no term is not written down.
    ForgetVote = "forget-vote",
    /// A segment gets its name, and the directory is not synced.
    SkipLogDirSync = "skip-log-dir-sync",
    /// A snapshot gets its name, and the directory is not synced.
    SkipSnapshotDirSync = "skip-snapshot-dir-sync",
    /// A snapshot gets its name before its content is synced.
    SkipSnapshotSync = "skip-snapshot-sync",
    /// A start takes what it reads for durable, and does not write it again.
    NoTailRewrite = "no-tail-rewrite",
    /// A start cuts the log at the first batch that fails its checksum.
    CutAtBadChecksum = "cut-at-bad-checksum",
    /// A start cuts the log below what a watermark says was synced.
    IgnoreWatermark = "ignore-watermark",
    /// A batch says of itself that it is synced.
    WatermarkTooHigh = "watermark-too-high",
    /// A torn write at the end is not cut: the member does not start again.
    TornTailNotCut = "torn-tail-not-cut",
    /// A batch is taken without looking at its checksum.
    NoBatchChecksum = "no-batch-checksum",
    /// A release drops a segment that holds the entry after the snapshot.
    ReleaseTooMuch = "release-too-much",
    /// No segment is ever released.
    NeverReleases = "never-releases",
    /// Segments are removed without a sync of the directory in between.
    ReleaseWithoutSync = "release-without-sync",
    /// A segment is used again with no fingerprints of what it holds.
    NoFingerprints = "no-fingerprints",
    /// In a segment that is used again, every sector counts as one that was not written since.
    AllSectorsOld = "all-sectors-old",
    /// Old content stays behind the last batch, in a page that was written.
    NoPageFill = "no-page-fill",
    /// Two runs of a member have the same epoch.
    EpochNotRaised = "epoch-not-raised",
    /// A read round uses the context of an earlier one.
    ReuseReadContext = "reuse-read-context",
    /// A read joins a round that was sent before the read began.
    JoinSentRound = "join-sent-round",
    /// Raft is not told at a start what is applied already.
    StartFromIndexZero = "start-from-index-zero",
    /// Raft's members come from the snapshot, the state machine's from the log as well.
    DoubleMembership = "double-membership",
    /// Entries are applied while a snapshot waits to be installed.
    ApplyDuringInstall = "apply-during-install",
    /// A snapshot is installed before the log says that it counts.
    InstallBeforePersisted = "install-before-persisted",
    /// Entries behind a membership change are handed over before it is applied.
    NoConfGate = "no-conf-gate",
    /// A forwarded batch is proposed as often as it arrives.
    ForwardTwice = "forward-twice",
    /// A forwarded batch that comes again when its leader leads no more is given back, though it was taken when it came first.
    GiveBackTaken = "give-back-taken",
    /// A leader of many serves reads without asking them.
    StaleLeaderRead = "stale-leader-read",
    /// A lone leader serves reads before it has applied what was committed before its term.
    EarlyLoneLeader = "early-lone-leader",
    /// A snapshot file is read without looking at its checksums.
    NoSnapshotChecksum = "no-snapshot-checksum",
    /// A snapshot stands for the log before its file is in place.
    MarkBeforeSnapshot = "mark-before-snapshot",
    /// A purge drops the revision that the oldest readable one shows.
    PurgeVisible = "purge-visible",
    /// What was compacted when a snapshot was taken can be read again after its install.
    InstallForgetsCompaction = "install-forgets-compaction",
    /// A condition on a key that is not there always holds.
    GuardIgnored = "guard-ignored",
    /// A leader counts its own log towards a commit before it is durable.
    CommitUnpersisted = "commit-unpersisted",
    /// A membership change is applied before the log says that it is committed.
    ConfChangeNotSynced = "conf-change-not-synced",
    /// A leader that is to be removed hands over to nobody, and goes on leading.
    RemovedLeads = "removed-leads",
    /// A read round that got lost is not asked again.
    LostRoundForgotten = "lost-round-forgotten",
    /// What a transaction may read depends on what its member has purged.
    PurgeDecides = "purge-decides",
    /// A purge drops a deletion at the compacted revision itself.
    DeletionPurgedEarly = "deletion-purged-early",
    /// A transaction that is refused takes a revision.
    RefusedTakesRevision = "refused-takes-revision",
    /// A read in a transaction sees nothing of what the transaction did before.
    ReadsBeforeWrites = "reads-before-writes",
}

impl Bug {
    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// Whether bugs can be planted in this build.
pub const COMPILED_IN: bool = cfg!(feature = "planted-bugs");

#[cfg(feature = "planted-bugs")]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug`, and no other, for what this thread does from here on.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether `bug` is planted.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether `bug` is planted: no.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
#[must_use]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_one_bug() {
        for bug in Bug::ALL {
            assert_eq!(Bug::named(bug.name()), Some(*bug));
            assert!(!is_planted(*bug), "{}", bug.name());
        }
        assert_eq!(Bug::named("none"), None);
    }
}
