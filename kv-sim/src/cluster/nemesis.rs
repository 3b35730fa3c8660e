//! What goes wrong, beyond what messages and writes suffer one by one.
//!
//! Each strike has a number and draws its randomness whether it is masked or not: leaving one out changes nothing else at its root.

use fastrand::Rng;
use kv_codec::record::fingerprints::Fingerprints;
use kv_codec::record::frame::{BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, SegmentHeader, TAG_BYTES};
use kv_raft::Disk;

use super::{Cluster, Event, Fate};
use crate::disk::{SECTOR_BYTES, SimDisk};

/// Bytes that a full disk still takes.
const ROOM_BYTES_MAX: usize = 20_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    Crash,
    Partition,
    Clog,
    Pause,
    Stall,
    Full,
    Damage,
    Churn,
}

impl Strike {
    const ALL: [Self; 8] =
        [Self::Crash, Self::Partition, Self::Clog, Self::Pause, Self::Stall, Self::Full, Self::Damage, Self::Churn];
}

impl Cluster {
    fn every_ms(&self, strike: Strike) -> u64 {
        match strike {
            Strike::Crash => self.plan.crash_ms,
            Strike::Partition => self.plan.partition_ms,
            Strike::Clog => self.plan.clog_ms,
            Strike::Pause => self.plan.pause_ms,
            Strike::Stall => self.plan.stall_ms,
            Strike::Full => self.plan.full_ms,
            Strike::Damage => self.plan.damage_ms,
            Strike::Churn => self.plan.churn_ms,
        }
    }

    pub(super) fn begin_strikes(&mut self) {
        for strike in Strike::ALL {
            self.schedule_strike(strike);
        }
    }

    fn schedule_strike(&mut self, strike: Strike) {
        let every = self.every_ms(strike);
        let after = self.streams.nemesis.u64(1..=every * 2_000 + 1);
        if every > 0 {
            self.schedule(after, Event::Strike(strike));
        }
    }

    pub(super) fn strike(&mut self, strike: Strike) -> Result<(), String> {
        if !self.chaos {
            return Ok(());
        }
        self.schedule_strike(strike);
        // Everything about this one comes from here.
        let mut rng = self.streams.nemesis.fork();
        self.report.faults += 1;
        let number = self.report.faults;
        if self.options.only.as_ref().is_some_and(|only| !only.contains(&number)) {
            return Ok(());
        }
        let members: Vec<u64> =
            self.hosts.iter().filter(|(_, host)| host.fate != Fate::Removed).map(|(id, _)| *id).collect();
        let one = members[rng.usize(0..members.len())];
        match strike {
            Strike::Crash => self.crash(number, &members, one, &mut rng),
            Strike::Partition if members.len() > 1 => {
                self.network.partition(&mut rng, &members);
                let lasts = rng.u64(100_000..=4_000_000);
                self.schedule(lasts, Event::Mend);
                self.report.counts.partitions += 1;
                self.note(format_args!("fault {number}: partition for {lasts} us"));
            }
            Strike::Clog => {
                let to = members[rng.usize(0..members.len())];
                let lasts = rng.u64(100_000..=4_000_000);
                self.network.clog(one, to, self.now + lasts);
                self.report.counts.clogs += 1;
                self.note(format_args!("fault {number}: link m{one} to m{to} clogged for {lasts} us"));
            }
            Strike::Pause => {
                let longest = if rng.bool() { 500_000 } else { 6_000_000 };
                let lasts = rng.u64(10_000..=longest);
                self.host(one).paused_until = self.now + lasts;
                self.report.counts.pauses += 1;
                self.note(format_args!("fault {number}: m{one} stands still for {lasts} us"));
            }
            Strike::Stall => {
                let lasts = rng.u64(100_000..=6_000_000);
                self.host(one).stalled_until = self.now + lasts;
                self.report.counts.stalls += 1;
                self.note(format_args!("fault {number}: the disk of m{one} stalls for {lasts} us"));
            }
            Strike::Full => {
                let (room, lasts) = (rng.usize(0..ROOM_BYTES_MAX), rng.u64(100_000..=4_000_000));
                let disk = &self.hosts[&one].disk;
                disk.set_space(Some(disk.used_bytes() + room));
                self.schedule(lasts, Event::Room(one));
                self.report.counts.full_disks += 1;
                self.note(format_args!("fault {number}: the disk of m{one} is full for {lasts} us"));
            }
            Strike::Damage => self.damage(number, one, &mut rng),
            Strike::Churn => return self.churn(),
            Strike::Partition => {}
        }
        Ok(())
    }

    fn crash(&mut self, number: u64, members: &[u64], one: u64, rng: &mut Rng) {
        let all = rng.u64(0..1_000) < self.plan.crash_all;
        let power = rng.u64(0..1_000) < self.plan.power_loss;
        // At once, or as soon as it is inside a write.
        let in_write = rng.bool();
        self.note(format_args!(
            "fault {number}: crash of {}{}",
            if all { "all".to_owned() } else { format!("m{one}") },
            if in_write { " in a write" } else { "" }
        ));
        for &member in members {
            if (all || member == one) && self.hosts[&member].life.is_some() {
                if in_write { self.host(member).doomed = Some(power) } else { self.kill(member, power) }
            }
        }
    }

    /// Ends a member's process and changes what its disk holds. Never for so many that a quorum could be gone for good.
    fn damage(&mut self, number: u64, member: u64, rng: &mut Rng) {
        let members = self.membership();
        let voters = &members.voters;
        let bearable = voters.len() > 2 * (self.doubtful(voters) + 1);
        // Who has not heard of the last change counts other voters.
        let knows = |id: &u64| self.hosts[id].life.as_ref().is_some_and(|life| life.node.membership() == members);
        let agreed = voters.iter().filter(|id| !self.is_doubtful(**id)).all(knows);
        if !bearable || !agreed || self.is_doubtful(member) || !voters.contains(&member) {
            return;
        }
        // Not with the power: what was not synced may be gone then, a lost statement among it.
        self.kill(member, false);
        self.report.counts.damage += 1;
        let wiped = rng.u8(0..6) == 0;
        let fate = if wiped { Fate::Lost } else { Fate::Damaged };
        let host = self.hosts.get_mut(&member).expect("it is there");
        host.fate = fate;
        let what = if wiped { Some("is lost".to_owned()) } else { change_something(&host.disk, rng) };
        self.report.counts.disks_lost += u64::from(wiped);
        let what = what.unwrap_or_else(|| "has nothing to damage".into());
        self.note(format_args!("fault {number}: the disk of m{member} {what}"));
    }
}

/// Whether the last thing in a segment is the statement that all before it is durable.
fn says_all_is_durable(last: &[u8], tag: &[u8]) -> bool {
    let (Ok(last), Ok(tag)) = (last.try_into(), tag.try_into()) else { return false };
    BatchHeader::decode(last, tag)
        .is_ok_and(|header| header.payload_bytes == 0 && header.watermark + 1 == header.ordinal)
}

/// Where the batches of a segment end: behind the last unit that is neither its tag nor in a sector of its former life.
fn written_bytes(content: &[u8]) -> Option<usize> {
    let header = SegmentHeader::decode(content.get(..SEGMENT_HEADER_BYTES)?.try_into().ok()?).ok()?;
    let table = content.get(SEGMENT_HEADER_BYTES..usize::try_from(header.batches_at()).ok()?)?;
    let old = header.fingerprints.and_then(|checksum| Fingerprints::decode(table.to_vec(), checksum).ok());
    let is_old = |(sector, content): &(u64, &[u8])| old.as_ref().is_some_and(|old| old.is_old(*sector, content));
    let (sector, last) = (0..)
        .zip(content.chunks(SECTOR_BYTES))
        .filter(|sector| !is_old(sector))
        .filter_map(|(sector, content)| {
            Some((usize::try_from(sector).ok()?, content.chunks(TAG_BYTES).rposition(|unit| unit != header.tag)?))
        })
        .last()?;
    Some(sector * SECTOR_BYTES + (last + 1) * TAG_BYTES)
}

/// Changes something at rest that no crash can change; what it did.
fn change_something(disk: &SimDisk, rng: &mut Rng) -> Option<String> {
    let files = |dir: &str, ending: &str| -> Vec<String> {
        let names = disk.list(dir).unwrap_or_default();
        names.into_iter().filter(|name| name.ends_with(ending)).map(|name| format!("{dir}/{name}")).collect()
    };
    let (segments, snapshots) = (files("log", ".log"), files("snap", ".snap"));
    let path = match rng.u8(0..4) {
        0 if !snapshots.is_empty() => &snapshots[rng.usize(0..snapshots.len())],
        1..=2 => segments.last()?,
        _ if !segments.is_empty() => &segments[rng.usize(0..segments.len())],
        _ => return None,
    };
    let content = disk.content(path)?;
    // What is written, so that most of the damage meets something.
    let tag = content.get(16..32)?.to_vec();
    let used = if path.ends_with(".log") { written_bytes(&content)? } else { content.len() };
    let sectors = used / SECTOR_BYTES;
    let kind = rng.u8(0..5);
    // All sectors but the one that the last batch ends in.
    let before_last = (used - 1) / SECTOR_BYTES;
    let last = used.next_multiple_of(BATCH_HEADER_BYTES);
    let last = content.get(last - BATCH_HEADER_BYTES..last).unwrap_or_default();
    if kind == 0 && path.ends_with(".log") && before_last > 1 && says_all_is_durable(last, &tag) {
        // A write that was reported and is not there: known by the statement behind it.
        let at = rng.usize(1..before_last) * SECTOR_BYTES;
        disk.damage(path, |content| content[at..at + SECTOR_BYTES].copy_from_slice(&tag.repeat(SECTOR_BYTES / 16)));
        return Some(format!("lost the sector at {at} of {path}"));
    }
    if kind == 1 && sectors > 1 {
        let at = rng.usize(0..sectors) * SECTOR_BYTES;
        disk.damage(path, |content| content[at..at + SECTOR_BYTES].fill(0));
        return Some(format!("has zeroes at {at} of {path}"));
    }
    if kind == 2 && sectors > 1 {
        let (from, to) = (rng.usize(0..sectors) * SECTOR_BYTES, rng.usize(0..sectors) * SECTOR_BYTES);
        let moved = content[from..from + SECTOR_BYTES].to_vec();
        // With the tag in it, it would be what a torn write leaves.
        if !moved.chunks(16).any(|unit| unit == tag) {
            disk.damage(path, |content| content[to..to + SECTOR_BYTES].copy_from_slice(&moved));
            return Some(format!("wrote {from} of {path} at {to}"));
        }
    }
    let bit = rng.usize(0..used * 8);
    disk.damage(path, |content| content[bit / 8] ^= 1 << (bit % 8));
    Some(format!("flipped bit {bit} of {path}"))
}
