//! 2: does a writer hold readers up?

use std::time::Duration;

use anyhow::Result;

use crate::figures::number;
use crate::lab::engine::fill;
use crate::lab::load::{GET, Keys, Role, Sample, Target, run as run_clients, value};
use crate::lab::path::{Path, Switches};
use crate::lab::report::{Chart, Section, Table, spread, standing};
use crate::lab::{Entrant, Lab};

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 256;
const ROUND: Duration = Duration::from_millis(400);
const QUICK_ROUND: Duration = Duration::from_millis(15);
const WHY: &str = "A hash map computes where a key is, an ordered map walks to it; and a lock that is held for less than a microsecond is \
                   rarely waited for with few cores.";

/// Readers of one column: powers of two, up to twice the cores, so that readers wait for a core as well.
fn readers(cores: usize) -> Vec<usize> {
    std::iter::successors(Some(1), |readers| Some(readers * 2)).take_while(|readers| *readers <= 2 * cores).collect()
}

fn round(target: &Target, keys: &Keys, lab: &Lab, readers: usize, writers: usize) -> Result<Sample> {
    let mut roles = vec![Role::Mixed(100); readers];
    roles.extend(vec![Role::Mixed(0); writers]);
    let length = if lab.quick { QUICK_ROUND } else { ROUND };
    run_clients(target, keys, &value(VALUE_BYTES), &roles, length, &lab.stop)
}

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let keys = Keys::new(KEYS);
    let cells: Vec<(usize, usize)> =
        readers(cores).into_iter().flat_map(|readers| [(readers, 0), (readers, 1)]).collect();
    let rivals = lab.rivals()?;
    let bar = lab.bar("2", rivals.len() * lab.rounds as usize);
    // Gets per second and p99.9, by design and cell.
    let mut samples: Vec<Vec<Vec<Sample>>> = vec![vec![Vec::new(); cells.len()]; rivals.len()];
    for number in lab.turns(rivals.len()) {
        let rival = rivals[number];
        bar.set_message(rival.name);
        let Some(Entrant { engine, _dir, .. }) = lab.entrant(rival)? else { continue };
        fill(engine.as_ref(), keys.all(), &value(VALUE_BYTES))?;
        // The engine is what is looked at: none has the analysed pipeline here.
        let target = Target::Alone(Path::new(engine, Switches::LEAN));
        for (&(readers, writers), samples) in cells.iter().zip(&mut samples[number]) {
            samples.push(round(&target, &keys, lab, readers, writers)?);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();

    let how = format!(
        "Threads that get random keys of {KEYS}, without a writer and beside one that puts as fast as it can; engine alone, \
         no design has the analysed pipeline. This machine has {cores} core(s): where readers and writer are more than \
         cores, they share them, and a share is lost to the writer in any design. What shows a lock is the slowest of a \
         thousand gets."
    );
    let mut section = Section::new("2", "Readers beside a writer", how);
    let mut head = vec!["design".to_owned()];
    for (readers, writers) in &cells {
        head.push(format!("{readers} reader(s), {writers} writer(s)"));
    }
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut speeds = Table::new("Gets per second, all readers together", &head);
    let mut slowest = Table::new("p99.9 of a get, microseconds", &head);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut last = Vec::new();
    for (rival, samples) in rivals.iter().zip(&samples) {
        let mut rows = (vec![rival.name.to_owned()], vec![rival.name.to_owned()]);
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for ((readers, writers), samples) in cells.iter().zip(samples) {
            let gets: Vec<f64> = samples.iter().map(|sample| sample.kinds[GET]).collect();
            let name = format!("{}.{readers}r{writers}w", rival.name);
            let Some(figure) = section.keep(&name, &gets) else { continue };
            let p999: Vec<f64> = samples.iter().filter_map(|sample| Some(sample.kinds_us[GET]?[2])).collect();
            let p999 = section.keep(&format!("{name}.p999_us"), &p999);
            rows.0.push(spread(figure));
            rows.1.push(p999.map_or_else(|| "-".into(), |p999| number(p999.median)));
            let line = if *writers == 0 { &mut without } else { &mut with };
            line.push((*readers as f64, figure.median));
            if (*readers, *writers) == (cores, 1) {
                last.push((rival.name, figure));
            }
        }
        speeds.rows.push(rows.0);
        slowest.rows.push(rows.1);
        alone.push((rival.name.to_owned(), without));
        beside.push((rival.name.to_owned(), with));
    }
    for (title, series) in [("Gets per second without a writer", alone), ("Gets per second beside a writer", beside)] {
        let (title, x, y) = (title.to_owned(), "readers".to_owned(), "gets/s".to_owned());
        section.charts.push(Chart::Lines { title, x, y, log: false, series });
    }
    section.tables = vec![speeds, slowest];
    section.says.extend(standing(&format!("{cores} reader(s) beside a writer"), &last, true, WHY));
    section.says.extend(one_reader(&section));
    Ok(section)
}

/// What a writer takes from one reader, where there is a core for each.
fn one_reader(section: &Section) -> Option<String> {
    let get = |name: &str| section.figures.get(name).copied();
    let kept = |design: &str| Some(get(&format!("{design}.1r1w"))? / get(&format!("{design}.1r0w"))?);
    let (ours, locked) = (kept("snapshot")?, kept("btree-lock")?);
    Some(format!(
        "One reader beside one writer keeps {} % of the speed it has alone with snapshot, {} % with btree-lock. A writer here \
         publishes after every put, hundreds of thousands of times a second, and each view has a new root and new nodes, which \
         the reader fetches from the writer's core; through raft it is one view per entry (3).",
        number(100.0 * ours),
        number(100.0 * locked)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_go_up_to_twice_the_cores() {
        assert_eq!(readers(1), [1, 2]);
        assert_eq!(readers(2), [1, 2, 4]);
        assert_eq!(readers(6), [1, 2, 4, 8]);
    }

    #[test]
    fn a_share_needs_both_figures() {
        let mut section = Section::new("2", "", String::new());
        assert_eq!(one_reader(&section), None);
        for (name, value) in
            [("snapshot.1r0w", 100.0), ("snapshot.1r1w", 90.0), ("btree-lock.1r0w", 100.0), ("btree-lock.1r1w", 12.5)]
        {
            section.keep(name, &[value]);
        }
        let text = one_reader(&section).unwrap_or_default();
        assert!(text.contains("keeps 90.0 %") && text.contains("12.5 % with btree-lock"), "{text}");
    }
}
