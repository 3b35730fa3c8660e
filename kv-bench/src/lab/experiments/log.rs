//! 7: three logs: how long an append takes, how long recovery takes, and what each makes of a damaged file.

mod bare;
mod damage;
mod ours;
#[cfg(feature = "raft-engine")]
mod tikv;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::figures::Figure;
use crate::figures::number;
use crate::lab::Lab;
use crate::lab::report::{Chart, Section, Table, spread};

/// How a build without it says so.
pub(crate) const RAFT_ENGINE_NOT_BUILT: &str = "raft-engine is not built: `cargo xtask bench lab --features raft-engine`; it needs \
                                                no more than a C compiler, and about 100 packages";

/// Entries of one append.
const APPENDS: [usize; 3] = [1, 10, 100];
const ENTRY_BYTES: usize = 256;
/// Appends that one median is of.
const TIMED: usize = 150;
const QUICK_TIMED: usize = 4;
/// The log that is recovered: entries of 4 KiB, 256 to an append.
const RECOVERED_BYTES: usize = 1 << 30;
const QUICK_RECOVERED_BYTES: usize = 4 << 20;
const RECOVERED_ENTRY_BYTES: usize = 4096;
const RECOVERED_APPEND: usize = 256;

/// A log under test.
trait Log {
    /// Appends entries from `first` on; durable on return where the log was opened so.
    fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<()>;

    /// What another thread would do in a server; not timed.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What opening a log found.
struct Opened {
    /// The payloads, in order.
    entries: u64,
    /// Of them, those that are not what was written.
    damaged: u64,
    /// What the log itself says that it left out.
    cut: Option<String>,
}

/// Takes the entries of a log as they are read; true when they are as written.
type Check<'a> = &'a mut dyn FnMut(u64, &[u8]) -> bool;

/// A kind of log.
struct Kind {
    name: &'static str,
    create: fn(&Path, bool) -> Result<Box<dyn Log>>,
    open: fn(&Path, Check<'_>) -> Result<Opened>,
}

const OURS: Kind = Kind { name: "ours", create: ours::create, open: ours::open };
const BARE: Kind = Kind { name: "bare fdatasync", create: bare::create, open: bare::open };

/// The logs of this build.
const KINDS: &[Kind] = &[
    OURS,
    #[cfg(feature = "raft-engine")]
    Kind { name: "raft-engine", create: tikv::create, open: tikv::open },
    BARE,
];

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let how = "Ours (a segmented, prefilled log with a checksum chain), raft-engine (TiKV's, with its defaults), and a bare \
               write and fdatasync into a file that was filled before, which is what a disk can do and no log.";
    let mut section = Section::new("7", "Logs", how.into());
    if cfg!(not(feature = "raft-engine")) {
        section.says.push(format!("{RAFT_ENGINE_NOT_BUILT}."));
    }
    latency(lab, &mut section)?;
    recovery(lab, &mut section)?;
    section.tables.push(damage::table(lab)?);
    Ok(section)
}

fn latency(lab: &Lab, section: &mut Section) -> Result<()> {
    let timed = if lab.quick { QUICK_TIMED } else { TIMED };
    let bar = lab.bar("7 latency", KINDS.len() * APPENDS.len() * lab.rounds as usize);
    let mut rounds = vec![vec![(Vec::new(), Vec::new(), Vec::new()); APPENDS.len()]; KINDS.len()];
    for number in lab.turns(KINDS.len()) {
        let kind = &KINDS[number];
        for (entries, rounds) in APPENDS.into_iter().zip(&mut rounds[number]) {
            lab.stop.check()?;
            bar.set_message(kind.name);
            let dir = lab.fresh_dir()?;
            let mut log = (kind.create)(dir.path(), true)?;
            let batch = payloads(entries, ENTRY_BYTES);
            let (before, mut took) = (bytes_given_to_write()?, Vec::new());
            for append in 0..timed {
                let began = Instant::now();
                log.append((append * entries) as u64 + 1, &batch)?;
                took.push(began.elapsed().as_secs_f64() * 1e6);
                log.prepare()?;
            }
            let written = (bytes_given_to_write()? - before) as f64 / (timed * entries) as f64;
            took.sort_by(f64::total_cmp);
            rounds.0.push(took[timed / 2]);
            rounds.1.push(took[timed * 99 / 100]);
            rounds.2.push(written);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let head = ["log", "entries per append", "p50, us", "p99, us", "bytes written per entry"];
    let mut table = Table::new(format!("An append of entries of {ENTRY_BYTES} bytes, durable on return"), &head);
    let mut bars = Vec::new();
    for (kind, rounds) in KINDS.iter().zip(&rounds) {
        for (entries, (p50, p99, written)) in APPENDS.into_iter().zip(rounds) {
            let name = format!("{}.{entries}", kind.name);
            let p50 = section.keep(&format!("{name}.p50_us"), p50).context("a round")?;
            let p99 = section.keep(&format!("{name}.p99_us"), p99).context("a round")?;
            let written = section.keep(&format!("{name}.bytes"), written).context("a round")?;
            let cells =
                [kind.name.into(), entries.to_string(), spread(p50), number(p99.median), number(written.median)];
            table.rows.push(cells.into());
            if entries == 1 {
                bars.push((kind.name.to_owned(), p50.median, p50.lowest, p50.highest));
            }
        }
    }
    section.tables.push(table);
    let title = "An append of one entry, p50 (shorter is better)".into();
    section.charts.push(Chart::Bars { title, unit: "us".into(), bars });
    section.says.push(
        "Bytes written are those given to write calls, what prepares a segment included: ours fills each segment once, so that \
         an fsync later changes no metadata; the short runs here carry a whole first segment."
            .into(),
    );
    Ok(())
}

fn recovery(lab: &Lab, section: &mut Section) -> Result<()> {
    let bytes = if lab.quick { QUICK_RECOVERED_BYTES } else { RECOVERED_BYTES };
    let total = bytes / RECOVERED_ENTRY_BYTES;
    let bar = lab.bar("7 recovery", KINDS.len() * (1 + lab.rounds as usize));
    let mut rounds = vec![Vec::new(); KINDS.len()];
    // One after the other: the log of one kind at a time is on the disk.
    for (kind, rounds) in KINDS.iter().zip(&mut rounds) {
        bar.set_message(format!("{}: writing", kind.name));
        let dir = lab.fresh_dir()?;
        let mut log = (kind.create)(dir.path(), false)?;
        let batch = payloads(RECOVERED_APPEND, RECOVERED_ENTRY_BYTES);
        for append in 0..total / RECOVERED_APPEND {
            lab.stop.check()?;
            log.append((append * RECOVERED_APPEND) as u64 + 1, &batch)?;
            log.prepare()?;
        }
        drop(log);
        bar.inc(1);
        bar.set_message(format!("{}: reading", kind.name));
        for _ in 0..lab.rounds {
            lab.stop.check()?;
            let began = Instant::now();
            let opened = (kind.open)(dir.path(), &mut |_, payload| payload.len() == RECOVERED_ENTRY_BYTES)?;
            rounds.push(began.elapsed().as_secs_f64());
            ensure!(opened.damaged == 0, "{} read {} damaged entries", kind.name, opened.damaged);
            ensure!(opened.entries == total as u64, "{} lost entries: {} of {total}", kind.name, opened.entries);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mib = bytes >> 20;
    let mut table = Table::new(
        format!("To open a log of {mib} MiB and read every entry, from the page cache"),
        &["log", "seconds", "MiB/s"],
    );
    for (kind, rounds) in KINDS.iter().zip(&rounds) {
        let seconds: Figure = section.keep(&format!("{}.recovery_s", kind.name), rounds).context("a round")?;
        table.rows.push(vec![kind.name.into(), spread(seconds), number(mib as f64 / seconds.median)]);
    }
    section.tables.push(table);
    Ok(())
}

/// Entries that no log can make smaller: raft-engine compresses what is long.
fn payloads(entries: usize, bytes: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(5);
    (0..entries).map(|_| std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()).collect()
}

/// Bytes that this process has handed to write calls, on any file.
fn bytes_given_to_write() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io").context("reading /proc/self/io")?;
    let wchar = io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok());
    wchar.context("/proc/self/io has no wchar")
}
