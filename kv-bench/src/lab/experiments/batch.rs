//! 3: what a commit of many operations costs, and what the batch proposer makes of many clients.

use std::time::Duration;

use anyhow::{Context, Result};
use kv_codec::command::BatchBuilder;

use crate::figures::number;
use crate::lab::clock::ns_per_call;
use crate::lab::engine::{Write, fill};
use crate::lab::load::{Keys, PUT, Role, Target, run as run_clients, value};
use crate::lab::member::Setup;
use crate::lab::path::{Path, Switches};
use crate::lab::report::{Chart, Section, Table, spread};
use crate::lab::rivals::{OURS, Snapshot};
use crate::lab::{Entrant, Lab};

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 256;
/// Operations of one commit.
const BATCHES: [usize; 4] = [1, 10, 100, 1000];
const ROUND: Duration = Duration::from_millis(200);
const QUICK_ROUND: Duration = Duration::from_millis(4);
/// Clients of the pipeline, each with one put in flight.
const CLIENTS: [usize; 4] = [1, 8, 30, 200];
const PIPELINE_ROUND: Duration = Duration::from_secs(2);
const QUICK_PIPELINE_ROUND: Duration = Duration::from_millis(40);

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let how = format!(
        "First the engine alone: a committed batch of n puts, decoded and applied; {KEYS} keys, values of {VALUE_BYTES} bytes. \
         Then ours through raft and log: so many clients, each with one put in flight, with and without the batch proposer."
    );
    let mut section = Section::new("3", "Operations per commit", how);
    commits(lab, &mut section)?;
    pipeline(lab, &mut section)?;
    Ok(section)
}

/// A batch of puts, as a committed entry.
fn batch(
    path: &Path,
    keys: &Keys,
    value: &[u8],
    operations: usize,
    random: &mut fastrand::Rng,
) -> Result<bytes::Bytes> {
    let mut batch = BatchBuilder::default();
    for _ in 0..operations {
        let key = &keys.all()[random.usize(..KEYS)];
        batch.push(&path.encode(0, 0, 0, &Write::Put { key, value, prev_kv: false })?);
    }
    Ok(batch.finish())
}

fn commits(lab: &Lab, section: &mut Section) -> Result<()> {
    let (keys, value) = (Keys::new(KEYS), value(VALUE_BYTES));
    let rivals = lab.rivals()?;
    let bar = lab.bar("3 commits", rivals.len() * lab.rounds as usize);
    let mut ns = vec![vec![Vec::new(); BATCHES.len()]; rivals.len()];
    let mut locks = vec![[0.0; BATCHES.len()]; rivals.len()];
    for number in lab.turns(rivals.len()) {
        let rival = rivals[number];
        bar.set_message(rival.name);
        let Some(Entrant { engine, _dir, .. }) = lab.entrant(rival)? else { continue };
        fill(engine.as_ref(), keys.all(), &value)?;
        let path = Path::new(engine, rival.switches);
        let mut random = fastrand::Rng::with_seed(7);
        for (column, operations) in BATCHES.into_iter().enumerate() {
            lab.stop.check()?;
            let batches: Result<Vec<_>> =
                (0..8).map(|_| batch(&path, &keys, &value, operations, &mut random)).collect();
            let batches = batches?;
            let (mut next, mut answers, mut failed) = (0, Vec::new(), None);
            let length = if lab.quick { QUICK_ROUND } else { ROUND };
            let took = ns_per_call(length, || {
                answers.clear();
                match path.apply(&batches[next % batches.len()], &mut answers) {
                    Ok(taken) => locks[number][column] = taken as f64 / operations as f64,
                    Err(error) => failed = Some(error),
                }
                next += 1;
            });
            failed.map_or(Ok(()), Err)?;
            ns[number][column].push(took / operations as f64);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();

    let head: Vec<String> = BATCHES.iter().map(|operations| format!("{operations} a commit")).collect();
    let head: Vec<&str> = std::iter::once("design").chain(head.iter().map(String::as_str)).collect();
    let mut cost = Table::new("Nanoseconds per put", &head);
    let mut taken = Table::new("Locks taken, or views published, per put", &head);
    let mut series = Vec::new();
    for (row, rival) in rivals.iter().enumerate() {
        let (mut cells, mut points) = (vec![rival.name.to_owned()], Vec::new());
        for (column, operations) in BATCHES.into_iter().enumerate() {
            let name = format!("{}.{operations}", rival.name);
            let figure = section.keep(&format!("{name}.ns"), &ns[row][column]).context("at least one round")?;
            section.figures.insert(format!("{name}.locks"), locks[row][column]);
            cells.push(spread(figure));
            points.push((operations as f64, figure.median));
        }
        cost.rows.push(cells);
        let counted = locks[row].iter().map(|locks| format!("{locks:.3}"));
        taken.rows.push(std::iter::once(rival.name.to_owned()).chain(counted).collect());
        series.push((rival.name.to_owned(), points));
    }
    let (title, x, y) = ("Cost of a put by the length of its commit", "puts per commit", "ns per put");
    section.charts.push(Chart::Lines { title: title.into(), x: x.into(), y: y.into(), log: true, series });
    section.tables.extend([cost, taken]);
    let get = |name: &str| section.figures.get(name).copied();
    if let (Some(one), Some(many)) = (get("snapshot.1.ns"), get("snapshot.1000.ns")) {
        section.says.push(format!(
            "A put of ours costs {} ns in a commit of its own and {} ns in one of a thousand. One view is published per commit, \
             whatever its length; what is left is each put's own: the path to its key, copied, and the revision that it \
             replaces, kept.",
            number(one),
            number(many)
        ));
    }
    Ok(())
}

fn pipeline(lab: &Lab, section: &mut Section) -> Result<()> {
    let (keys, value) = (Keys::new(KEYS), value(VALUE_BYTES));
    let length = if lab.quick { QUICK_PIPELINE_ROUND } else { PIPELINE_ROUND };
    let cells: Vec<(usize, bool)> =
        CLIENTS.into_iter().flat_map(|clients| [(clients, true), (clients, false)]).collect();
    let bar = lab.bar("3 pipeline", cells.len() * lab.rounds as usize);
    // Puts per second, puts per entry, entries per second, syncs per second, p50, CPU.
    let mut samples = vec![Vec::<[f64; 6]>::new(); cells.len()];
    for cell in lab.turns(cells.len()) {
        let (clients, proposer) = cells[cell];
        bar.set_message(format!("{clients} client(s)"));
        let engine = Box::new(Snapshot::new(false));
        fill(engine.as_ref(), keys.all(), &value)?;
        let path = Path::new(engine, Switches::LEAN);
        let target = Target::new(path, Some(Setup { proposer, ..Setup::USUAL }), &lab.out)?;
        let Target::Raft(member) = &target else { continue };
        let before = member.status().numbers();
        let sample = run_clients(&target, &keys, &value, &vec![Role::Mixed(0); clients], length, &lab.stop)?;
        let after = member.status().numbers();
        let (entries, commands) = ((after.entries - before.entries) as f64, (after.commands - before.commands) as f64);
        let seconds = commands / sample.per_second;
        let syncs = (after.fsyncs - before.fsyncs) as f64 / seconds;
        let p50 = sample.kinds_us[PUT].map_or(0.0, |us| us[0]);
        samples[cell].push([sample.per_second, commands / entries, entries / seconds, syncs, p50, sample.cpu_us]);
        bar.inc(1);
    }
    bar.finish_and_clear();

    let head = [
        "clients",
        "batch proposer",
        "puts/s",
        "puts per entry",
        "entries/s",
        "fsyncs/s",
        "put p50, us",
        "CPU/put, us",
    ];
    let mut table = Table::new("snapshot through raft and log, puts only", &head);
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for (&(clients, proposer), samples) in cells.iter().zip(&samples) {
        let word = if proposer { "on" } else { "off" };
        let mut row = vec![clients.to_string(), word.to_owned()];
        for (index, what) in ["per_second", "per_entry", "entries", "fsyncs", "p50_us", "cpu_us"].iter().enumerate() {
            let values: Vec<f64> = samples.iter().map(|sample| sample[index]).collect();
            let kept = section.keep(&format!("pipeline.{clients}.{word}.{what}"), &values);
            let figure = kept.context("at least one round")?;
            row.push(if index == 0 { spread(figure) } else { number(figure.median) });
            if index == 0 {
                if proposer { &mut on } else { &mut off }.push((clients as f64, figure.median));
            }
        }
        table.rows.push(row);
    }
    section.tables.push(table);
    let series = vec![(OURS.to_owned(), on), ("no batch proposer".to_owned(), off)];
    let (title, x, y) = ("Puts per second with and without a batch proposer", "clients", "puts/s");
    section.charts.push(Chart::Lines { title: title.into(), x: x.into(), y: y.into(), log: true, series });
    Ok(())
}
