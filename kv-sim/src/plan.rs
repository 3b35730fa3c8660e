//! What a seed stands for: the cluster's shape and which faults strike how often.

use std::fmt;

use fastrand::Rng;

macro_rules! knobs {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// One run's configuration, drawn from its seed. Rates are chances out of 1,000; `_ms` of a fault is the time
        /// between two of them, about, and 0 for none.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Plan {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Plan {
            /// The names of all knobs.
            pub const KNOBS: &'static [&'static str] = &[$(stringify!($name),)+];

            /// The knob of this name.
            pub fn knob(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for Plan {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let knobs = [$((stringify!($name), self.$name),)+];
                for (name, value) in knobs.iter().filter(|(_, value)| *value > 0) {
                    write!(f, "{name}={value} ")?;
                }
                Ok(())
            }
        }
    };
}

knobs! {
    /// Voters at first.
    members,
    /// 1 if there is a learner as well.
    learner,
    /// Virtual milliseconds of faults.
    chaos_ms,
    /// Milliseconds between two client calls, about.
    call_ms,
    /// Ticks without a leader before an election, at least.
    election_ticks,
    /// A message is lost.
    loss,
    /// A message arrives twice.
    duplicate,
    /// A message takes up to five seconds.
    late,
    /// The longest that any other message takes.
    delay_us_max,
    /// The longest a write takes.
    write_us_max,
    /// Crashes.
    crash_ms,
    /// A crash is one of the whole machine: what was not synced may be lost.
    power_loss,
    /// Its disk takes whole pages, not sectors.
    by_pages,
    /// All members go at once.
    crash_all,
    /// A start is cut short.
    recovery_crash,
    /// Partitions: two sides, one way or both, or a ring.
    partition_ms,
    /// A link that holds back all messages for a while.
    clog_ms,
    /// A member that stands still while the others go on.
    pause_ms,
    /// A disk that answers nothing for a while.
    stall_ms,
    /// A disk without room for a while.
    full_ms,
    /// Damage to a disk at rest, wiped disks included.
    damage_ms,
    /// Changes of the membership and of the leader.
    churn_ms,
    /// How much faster or slower a member's clock may go.
    skew,
    /// A write or sync fails, at any one.
    disk_error,
    /// Entries between snapshots.
    snapshot_entries,
    /// The longest that writing a snapshot takes.
    snapshot_ms_max,
    /// Entries kept in memory below the applied one.
    tail_entries,
    /// The longest segments' bytes: those are used again.
    segment_bytes_max,
    /// The first segment's bytes.
    segment_bytes,
    /// A power loss comes while pages are written out and written to: unsynced sectors are torn at words.
    by_words,
}

/// One plan in so many has a log whose segments are soon used again.
const RECYCLING_OF: u8 = 6;

impl Plan {
    /// Draws a plan. Every fault is on in some runs and off in others: a fault that always strikes hides what comes after it.
    pub fn draw(rng: &mut Rng) -> Self {
        let some = |rng: &mut Rng, rate: u64| if rng.bool() { rng.u64(1..=rate) } else { 0 };
        let every = |rng: &mut Rng, of: u8, ms: u64| if rng.u8(0..4) < of { rng.u64(ms / 4..=ms) } else { 0 };
        let members = [1, 3, 3, 3, 3, 5][rng.usize(0..6)];
        // Membership changes and lost disks do not mix: together they can take a quorum away for good.
        let churns = rng.bool();
        let segment_bytes = 4_096 << rng.u32(0..5);
        let plan = Self {
            members,
            learner: u64::from(rng.u8(0..4) == 0),
            chaos_ms: rng.u64(5_000..=20_000),
            call_ms: rng.u64(4..=60),
            election_ticks: rng.u64(5..=15),
            loss: some(rng, 200),
            duplicate: some(rng, 200),
            late: some(rng, 100),
            delay_us_max: if rng.bool() { rng.u64(500..=5_000) } else { rng.u64(500..=80_000) },
            write_us_max: if rng.bool() { rng.u64(100..=5_000) } else { rng.u64(100..=50_000) },
            crash_ms: every(rng, 3, 4_000),
            power_loss: rng.u64(0..=1_000),
            by_pages: some(rng, 1_000),
            crash_all: some(rng, 300),
            recovery_crash: some(rng, 300),
            partition_ms: every(rng, 2, 5_000),
            clog_ms: every(rng, 1, 5_000),
            pause_ms: every(rng, 2, 4_000),
            stall_ms: every(rng, 1, 5_000),
            full_ms: every(rng, 1, 8_000),
            damage_ms: if churns || members == 1 { 0 } else { every(rng, 2, 6_000) },
            churn_ms: if churns { every(rng, 3, 3_000) } else { 0 },
            skew: some(rng, 300),
            disk_error: some(rng, 20),
            snapshot_entries: if rng.bool() { rng.u64(5..=40) } else { rng.u64(40..=400) },
            snapshot_ms_max: rng.u64(1..=400),
            tail_entries: rng.u64(2..=100),
            segment_bytes_max: segment_bytes << rng.u32(0..4),
            segment_bytes,
            by_words: some(rng, 1_000),
        };
        if rng.u8(0..RECYCLING_OF) == 0 { plan.recycling(rng) } else { plan }
    }

    /// The same with segments that are used again after a few writes each, and machines that stop in the midst of those: what can go
    /// wrong there takes long to come about by chance.
    fn recycling(self, rng: &mut Rng) -> Self {
        let segment_bytes = 4_096 << rng.u32(0..2);
        Self {
            call_ms: rng.u64(4..=10),
            write_us_max: rng.u64(100..=5_000),
            crash_ms: rng.u64(1_000..=4_000),
            power_loss: 800,
            by_pages: 0,
            by_words: 800,
            damage_ms: if self.damage_ms > 0 { rng.u64(1_000..=3_000) } else { 0 },
            snapshot_entries: rng.u64(5..=20),
            segment_bytes_max: segment_bytes,
            segment_bytes,
            ..self
        }
    }

    /// Three members and fifty calls a second under every common fault, for measuring speed.
    #[must_use]
    pub fn typical() -> Self {
        Self {
            members: 3,
            chaos_ms: 600_000,
            call_ms: 20,
            election_ticks: 10,
            loss: 10,
            duplicate: 10,
            delay_us_max: 5_000,
            write_us_max: 5_000,
            crash_ms: 5_000,
            power_loss: 500,
            partition_ms: 10_000,
            pause_ms: 10_000,
            snapshot_entries: 200,
            snapshot_ms_max: 100,
            tail_entries: 100,
            segment_bytes_max: 1 << 18,
            segment_bytes: 16_384,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_knob_has_its_name() {
        let mut plan = Plan::default();
        for (value, name) in (1..).zip(Plan::KNOBS) {
            *plan.knob(name).expect("it is one of them") = value;
        }
        assert_eq!((plan.members, plan.by_words), (1, Plan::KNOBS.len() as u64));
        assert!(plan.knob("none").is_none());
    }
}
