//! What a seed stands for: the cluster's shape and which faults strike how often.

use fastrand::Rng;

/// One run's configuration, drawn from its seed. Rates are chances out of 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// 1 or 3.
    pub members: u64,
    /// Virtual milliseconds of faults.
    pub chaos_ms: u64,
    /// A message is lost.
    pub loss: u32,
    /// A message arrives twice.
    pub duplicate: u32,
    /// The longest a message takes.
    pub delay_us_max: u64,
    /// The longest a write takes.
    pub write_us_max: u64,
    /// Milliseconds between crashes, about; 0 for none.
    pub crash_ms: u64,
    /// A crash is one of the whole machine: what was not synced may be lost.
    pub power_loss: u32,
    /// All members go at once.
    pub crash_all: u32,
    /// Milliseconds between partitions, about; 0 for none.
    pub partition_ms: u64,
    /// A write or sync fails, at any one.
    pub disk_error: u32,
    /// Entries between snapshots.
    pub snapshot_entries: u64,
    /// Entries kept in memory below the applied one.
    pub tail_entries: usize,
    /// The first segment's bytes.
    pub segment_bytes: u64,
    /// Milliseconds between two client calls, about.
    pub call_ms: u64,
}

impl Plan {
    /// Draws a plan. Every fault is on in some runs and off in others: a fault that always strikes hides what comes after it.
    pub fn draw(rng: &mut Rng) -> Self {
        let some = |rng: &mut Rng, rate: u32| if rng.bool() { rng.u32(1..=rate) } else { 0 };
        let every = |rng: &mut Rng, ms: u64| if rng.u8(0..4) > 0 { rng.u64(ms / 4..=ms) } else { 0 };
        Self {
            members: if rng.u8(0..4) == 0 { 1 } else { 3 },
            chaos_ms: rng.u64(5_000..=20_000),
            loss: some(rng, 200),
            duplicate: some(rng, 200),
            delay_us_max: rng.u64(500..=80_000),
            write_us_max: rng.u64(100..=50_000),
            crash_ms: every(rng, 4_000),
            power_loss: rng.u32(0..=1_000),
            crash_all: some(rng, 300),
            partition_ms: every(rng, 5_000),
            disk_error: some(rng, 20),
            snapshot_entries: rng.u64(5..=200),
            tail_entries: rng.usize(2..=100),
            segment_bytes: 4_096 << rng.u32(0..5),
            call_ms: rng.u64(2..=60),
        }
    }
}
