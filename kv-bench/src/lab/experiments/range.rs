//! 4: ten keys wanted of n, limit 5: the analysis's table of steps, in nanoseconds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::figures::number;
use crate::lab::clock::ns_per_call;
use crate::lab::engine::{Found, fill};
use crate::lab::load::{Keys, value};
use crate::lab::report::{Chart, Section, Table, spread, standing};
use crate::lab::{Entrant, Lab};

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const QUICK_SIZES: [usize; 2] = [1_000, 10_000];
const VALUE_BYTES: usize = 64;
/// Keys in the range.
const WANTED: usize = 10;
const LIMIT: usize = 5;
const ROUND: Duration = Duration::from_millis(100);
const QUICK_ROUND: Duration = Duration::from_millis(3);
const WHY: &str = "A BTreeMap's nodes hold keys themselves; ours hold pointers to blocks that views share, a cache miss for each key that \
                   is looked at.";

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let sizes = if lab.quick { &QUICK_SIZES[..] } else { &SIZES[..] };
    let how = format!(
        "A range of {WANTED} keys at a random place among n, limit {LIMIT}; engine alone, nobody writes. A hash map has to \
         look at all n, and sort what it finds; an ordered map descends to the first and walks."
    );
    let mut section = Section::new("4", "Ten keys of n", how);
    let rivals = lab.rivals()?;
    let bar = lab.bar("4", sizes.len() * rivals.len());
    let mut ns = vec![vec![Vec::new(); sizes.len()]; rivals.len()];
    let mut visited = vec![vec![0; sizes.len()]; rivals.len()];
    for (column, size) in sizes.iter().enumerate() {
        let keys = Keys::new(*size);
        let mut entrants: Vec<Entrant> = Vec::new();
        for rival in &rivals {
            bar.set_message(format!("{} of {size}", rival.name));
            lab.stop.check()?;
            let entrant = lab.entrant(rival)?.with_context(|| format!("{} is in this build", rival.name))?;
            fill(entrant.engine.as_ref(), keys.all(), &value(VALUE_BYTES))?;
            entrants.push(entrant);
            bar.inc(1);
        }
        for row in lab.turns(entrants.len()) {
            let Entrant { engine, rival, .. } = &entrants[row];
            lab.stop.check()?;
            let (mut random, mut found, mut short) = (fastrand::Rng::with_seed(11), Found::default(), 0);
            let took = ns_per_call(if lab.quick { QUICK_ROUND } else { ROUND }, || {
                let first = random.usize(..size - WANTED);
                let (from, to) = (&keys.all()[first], &keys.all()[first + WANTED]);
                found.clear();
                visited[row][column] = engine.range(from, to, LIMIT, &mut found);
                short += usize::from(found.len() != LIMIT);
            });
            ensure!(short == 0, "{} found fewer than {LIMIT} keys", rival.name);
            ns[row][column].push(took);
        }
    }
    bar.finish_and_clear();

    let head: Vec<String> = sizes.iter().map(|size| format!("n = {}", number(*size as f64))).collect();
    let head: Vec<&str> = std::iter::once("design").chain(head.iter().map(String::as_str)).collect();
    let mut times = Table::new("Nanoseconds per range", &head);
    let mut looked_at = Table::new("Entries looked at per range", &head);
    let mut series = Vec::new();
    let mut standings = vec![Vec::new(); sizes.len()];
    for (row, rival) in rivals.iter().enumerate() {
        let (mut cells, mut points) = (vec![rival.name.to_owned()], Vec::new());
        for (column, size) in sizes.iter().enumerate() {
            let figure = section.keep(&format!("{}.{size}.ns", rival.name), &ns[row][column]).context("a round")?;
            section.figures.insert(format!("{}.{size}.visited", rival.name), visited[row][column] as f64);
            standings[column].push((rival.name, figure));
            cells.push(spread(figure));
            points.push((*size as f64, figure.median));
        }
        times.rows.push(cells);
        let visited = visited[row].iter().map(|visited| number(*visited as f64));
        looked_at.rows.push(std::iter::once(rival.name.to_owned()).chain(visited).collect());
        series.push((rival.name.to_owned(), points));
    }
    let (title, x, y) = ("Time of a range by the size of the store", "keys", "ns");
    section.charts.push(Chart::Lines { title: title.into(), x: x.into(), y: y.into(), log: true, series });
    section.tables = vec![times, looked_at];
    for (size, figures) in sizes.iter().zip(&standings) {
        section.says.extend(standing(&format!("{} keys", number(*size as f64)), figures, false, WHY));
    }
    Ok(section)
}
