//! What a run exercised, counted: a simulation that finds nothing proves as much as it tried.

use std::fmt;

macro_rules! counts {
    ($($(#[doc = $doc:literal])+ $name:ident = $words:literal,)+) => {
        /// Counts of what happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counts {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counts {
            /// Adds another run's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }

            /// What never happened, in words.
            #[must_use]
            pub fn never(&self) -> Vec<&'static str> {
                [$((self.$name, $words),)+].into_iter().filter(|(count, _)| *count == 0).map(|(_, words)| words).collect()
            }
        }

        impl fmt::Display for Counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "  {:>12}  {}", self.$name, $words)?;)+
                Ok(())
            }
        }
    };
}

counts! {
    /// Virtual milliseconds.
    virtual_ms = "virtual milliseconds",
    /// Calls whose whole answer was checked.
    checked = "calls whose whole answer was checked",
    /// Writes that were answered.
    acked = "writes answered",
    /// Calls whose outcome nobody learned.
    unknown = "calls of unknown outcome",
    /// Linearizable reads that were answered.
    reads = "linearizable reads answered",
    /// Of those, by a lone leader without a round.
    lone_reads = "of them by a lone leader, without a round",
    /// Compactions.
    compactions = "compactions",
    /// Keys whose calls were searched for an order without looking at revisions.
    blind_keys = "keys judged without revisions",
    /// Searches that were given up.
    blind_undecided = "of them undecided within the search's bound",
    /// Terms that had a leader.
    terms = "terms with a leader",
    /// Changes of leader while writes were in flight.
    elections_in_flight = "elections with writes in flight",
    /// Leadership handed over on request.
    transfers = "leadership transfers asked for",
    /// Processes that died.
    crashes = "processes that died",
    /// Of those, with the machine.
    power_losses = "of them with the machine's power",
    /// Of those, inside a write.
    mid_write = "of them inside a write",
    /// Disk errors met.
    disk_errors = "of them by an error of the disk",
    /// Starts that were cut short.
    recoveries_cut = "starts that were cut short themselves",
    /// Recoveries that cut a torn write.
    torn_cut = "torn writes cut",
    /// Log segments that were used again.
    segments_reused = "log segments used again",
    /// Snapshots that were taken.
    snapshots = "snapshots taken",
    /// Snapshots that were sent and installed.
    installs = "snapshots installed from a leader",
    /// Snapshots received while another one was not finished.
    overlapping = "snapshots that met another one under way",
    /// Partitions.
    partitions = "partitions",
    /// Clogged links.
    clogs = "clogged links",
    /// Pauses.
    pauses = "pauses",
    /// Stalled disks.
    stalls = "stalled disks",
    /// Full disks.
    full_disks = "full disks",
    /// Damage done to disks at rest.
    damage = "disks damaged at rest",
    /// Of those, refused at the start.
    damage_refused = "of them refused at the start",
    /// Disks wiped or given up; their members come back as new ones.
    disks_lost = "disks lost for good",
    /// Membership changes applied.
    conf_changes = "membership changes applied",
    /// Of those, learners promoted.
    promotions = "of them learners promoted",
    /// Clusters that went on with a quorum alone.
    quorums = "clusters that went on with a quorum alone",
}

/// What one run came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// A hash over every step: two runs of one seed have the same.
    pub trace_hash: u32,
    /// Faults that struck, masked ones included.
    pub faults: u64,
    /// What was exercised.
    pub counts: Counts,
}

/// A guarantee that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// When, in virtual microseconds.
    pub at_us: u64,
    /// Which, and by whom.
    pub why: String,
    /// Faults that had struck by then, masked ones included.
    pub faults: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} us, after {} faults: {}", self.at_us, self.faults, self.why)
    }
}
