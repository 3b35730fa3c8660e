//! 6: a sequence number from a mutex, formatted into a string, against one from an atomic.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::figures::number;
use crate::lab::Lab;
use crate::lab::path::Sequence;
use crate::lab::report::{Section, Table, spread};

const THREADS: [usize; 4] = [1, 2, 8, 30];
/// Numbers that all threads of a round draw together.
const DRAWN: usize = 1_200_000;
const QUICK_DRAWN: usize = 12_000;

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let how = "Threads that draw sequence numbers as fast as they can: as the analysed project does (a mutex, then \
               `seq-123`), and from an atomic. Time from the first to the last, divided by the numbers drawn.";
    let mut section = Section::new("6", "Sequence numbers", how.into());
    let bar = lab.bar("6", THREADS.len() * lab.rounds as usize);
    let mut rounds = vec![(Vec::new(), Vec::new()); THREADS.len()];
    for turn in lab.turns(THREADS.len()) {
        let (threads, rounds) = (THREADS[turn], &mut rounds[turn]);
        lab.stop.check()?;
        let each = if lab.quick { QUICK_DRAWN } else { DRAWN } / threads;
        rounds.0.push(time(threads, each, |sequence| drop(black_box(sequence.text()))));
        rounds.1.push(time(threads, each, |sequence| {
            black_box(sequence.number());
        }));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut table = Table::new("Nanoseconds per number", &["threads", "mutex and string", "atomic", "ratio"]);
    for (threads, (text, atomic)) in THREADS.into_iter().zip(&rounds) {
        let text = section.keep(&format!("text.{threads}"), text).context("a round")?;
        let atomic = section.keep(&format!("atomic.{threads}"), atomic).context("a round")?;
        let ratio = format!("{} x", number(text.median / atomic.median));
        table.rows.push(vec![threads.to_string(), spread(text), spread(atomic), ratio]);
    }
    section.tables.push(table);
    Ok(section)
}

/// Nanoseconds of one draw, from when the first thread begins to when the last one ends.
fn time(threads: usize, each: usize, draw: impl Fn(&Sequence) + Sync) -> f64 {
    let (sequence, start) = (Sequence::default(), Barrier::new(threads));
    let drawn = || {
        start.wait();
        let began = Instant::now();
        (0..each).for_each(|_| draw(&sequence));
        (began, Instant::now())
    };
    let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let drawers: Vec<_> = (0..threads).map(|_| scope.spawn(drawn)).collect();
        drawers.into_iter().map(|drawer| drawer.join().expect("drawing a number does not panic")).collect()
    });
    let first = spans.iter().map(|span| span.0).min();
    let last = spans.iter().map(|span| span.1).max();
    let elapsed = last.zip(first).map(|(last, first)| last.duration_since(first)).unwrap_or_default();
    elapsed.as_nanos() as f64 / (threads * each) as f64
}
