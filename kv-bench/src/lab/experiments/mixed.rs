//! 1: the mixes of the analysis. 30 clients, closed loop.

use std::time::Duration;

use anyhow::Result;

use crate::figures::Figure;
use crate::figures::number;
use crate::lab::engine::fill;
use crate::lab::load::{KINDS, Keys, Role, Sample, Target, run, value};
use crate::lab::member::Setup;
use crate::lab::path::Path;
use crate::lab::report::{Chart, Section, Table, spread, standing};
use crate::lab::rivals::{OURS, Rival};
use crate::lab::{Entrant, Lab};

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 256;
const CLIENTS: usize = 30;
/// Untimed load before each round.
const WARM_UP: Duration = Duration::from_millis(200);

/// Why others are faster where a lock is held for a microsecond at most.
const WHY_ALONE: &str = "A get walks three or four nodes of a tree where a hash map computes a place, and a put copies the nodes on its \
                         path, keeps the revision that it replaces and publishes a view for one operation, where these designs \
                         overwrite one value under a lock that is held for about a microsecond: with few cores it is rarely \
                         waited for. What a longer commit saves is in 3, what is lost with history and consistent ranges in no \
                         figure.";
const WHY_RAFT: &str = "The same fsync is under every design here: what is left is the CPU that clients, raft and engine share, of \
                        which a get and a put of ours take more, for the reasons in 1a; 8 has each idea's share.";
const WHY_HARDER: &str = "The sum is nearly all gets, and the more of them the fewer writes get through: where readers hold a lock, the \
                          writers wait, and the cores that they leave go to the getters. Writers of ours take turns too, when there \
                          is no raft to gather them: beside 15 readers that never stop they are one thread.";

/// One of the five.
struct Part {
    id: &'static str,
    title: &'static str,
    harder: bool,
    raft: Option<Setup>,
}

pub(super) fn alone(lab: &Lab) -> Result<Section> {
    part(lab, &Part { id: "1a", title: "The analysis's mix, engine alone", harder: false, raft: None })
}

pub(super) fn through_raft(lab: &Lab) -> Result<Section> {
    let title = "The analysis's mix, through raft and log";
    part(lab, &Part { id: "1b", title, harder: false, raft: Some(Setup::USUAL) })
}

pub(super) fn without_proposer(lab: &Lab) -> Result<Section> {
    let raft = Some(Setup { proposer: false, ..Setup::USUAL });
    part(lab, &Part { id: "1c", title: "The same without a batch proposer", harder: false, raft })
}

pub(super) fn harder_alone(lab: &Lab) -> Result<Section> {
    part(lab, &Part { id: "1d", title: "The harder mix, engine alone", harder: true, raft: None })
}

pub(super) fn harder_through_raft(lab: &Lab) -> Result<Section> {
    let title = "The harder mix, through raft and log";
    part(lab, &Part { id: "1e", title, harder: true, raft: Some(Setup::USUAL) })
}

fn roles(harder: bool) -> Vec<Role> {
    if !harder {
        return vec![Role::Mixed(80); CLIENTS];
    }
    let kinds = [(12, Role::Mixed(0)), (12, Role::Mixed(100)), (3, Role::Prefix), (3, Role::Delete)];
    kinds.into_iter().flat_map(|(clients, role)| vec![role; clients]).collect()
}

fn how(part: &Part) -> String {
    let who = if part.harder {
        "12 clients put, 12 get, 3 read a whole prefix of 1,000 keys, 3 delete"
    } else {
        "30 clients, 80 % gets, 20 % puts"
    };
    let path = match part.raft {
        None => "Engine alone: commands are numbered, encoded, decoded and applied, without raft and log.",
        Some(Setup { proposer: true, .. }) => {
            "Writes go through one raft node and its log, with an fsync; operations that wait at the same time share an \
             entry. Reads go to the engine."
        }
        Some(_) => {
            "Writes go through one raft node and its log, with an fsync; each operation is an entry of its own. (Entries \
             that wait at the same time still share a write of the log, as raft libraries do by themselves.)"
        }
    };
    format!(
        "{who}; {KEYS} keys, values of {VALUE_BYTES} bytes. {path} The first two designs have the analysed pipeline \
         (JSON, numbers from a mutex, a second lock for the answer), the others none of it."
    )
}

fn part(lab: &Lab, part: &Part) -> Result<Section> {
    let (keys, value, roles) = (Keys::new(KEYS), value(VALUE_BYTES), roles(part.harder));
    let rivals = lab.rivals()?;
    let bar = lab.bar(part.id, rivals.len() * lab.rounds as usize);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); rivals.len()];
    for _ in 0..lab.rounds {
        for (rival, samples) in rivals.iter().zip(&mut samples) {
            bar.set_message(rival.name);
            let Some(Entrant { engine, _dir, .. }) = lab.entrant(rival)? else { continue };
            fill(engine.as_ref(), keys.all(), &value)?;
            let target = Target::new(Path::new(engine, rival.switches), part.raft, &lab.out)?;
            run(&target, &keys, &value, &roles, WARM_UP.min(lab.round_secs()), &lab.stop)?;
            samples.push(run(&target, &keys, &value, &roles, lab.round_secs(), &lab.stop)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(section(part, &rivals, &samples))
}

fn section(part: &Part, rivals: &[&Rival], samples: &[Vec<Sample>]) -> Section {
    let mut section = Section::new(part.id, part.title, how(part));
    let mut head =
        vec!["design", "operations/s", "CPU/op, us", "get p50 / p99 / p99.9, us", "put p50 / p99, us", "ours is"];
    let kinds = KINDS.map(|kind| format!("{kind}/s"));
    if part.harder {
        head.extend(kinds.iter().map(String::as_str));
    } else {
        head.push("analysis says");
    }
    let mut table = Table::new("Medians; in brackets the lowest and the highest round", &head);
    let mut figures = Vec::new();
    for (rival, rounds) in rivals.iter().zip(samples) {
        let of = |what: fn(&Sample) -> f64| rounds.iter().map(what).collect::<Vec<f64>>();
        section.keep(&format!("{}.cpu_us", rival.name), &of(|sample| sample.cpu_us));
        if let Some(figure) = section.keep(rival.name, &of(|sample| sample.per_second)) {
            figures.push((rival.name, figure));
        }
    }
    let ours = section.figures.get(OURS).copied().unwrap_or_default();
    for (rival, rounds) in rivals.iter().zip(samples) {
        let Some((_, speed)) = figures.iter().find(|(name, _)| *name == rival.name) else { continue };
        let cpu = section.figures.get(&format!("{}.cpu_us", rival.name)).copied().unwrap_or_default();
        let mut row = vec![
            rival.name.to_owned(),
            spread(*speed),
            number(cpu),
            latencies(rounds, |sample| sample.get_us, 3),
            latencies(rounds, |sample| sample.put_us, 2),
            format!("{} x", number(ours / speed.median)),
        ];
        if part.harder {
            for (index, kind) in KINDS.iter().enumerate() {
                let rounds: Vec<f64> = rounds.iter().map(|sample| sample.kinds[index]).collect();
                let kept = section.keep(&format!("{}.{kind}", rival.name), &rounds);
                row.push(kept.map_or_else(|| "-".into(), |figure| number(figure.median)));
            }
        } else {
            row.push(rival.predicted.to_owned());
        }
        table.rows.push(row);
    }
    let bars = figures.iter().map(|(name, figure)| ((*name).to_owned(), figure.median, figure.lowest, figure.highest));
    let title = "Operations per second (longer is better)".to_owned();
    section.charts.push(Chart::Bars { title, unit: "operations/s".into(), bars: bars.collect() });
    section.tables.push(table);
    let why = match (part.harder, part.raft) {
        (true, _) => WHY_HARDER,
        (false, Some(_)) => WHY_RAFT,
        (false, None) => WHY_ALONE,
    };
    section.says.extend(standing("Operations per second", &figures, true, why));
    if part.harder {
        section.says.extend(by_kind(&section));
    }
    section
}

/// In a closed loop a design that is slow with prefixes does more of everything else, so the sum alone tells little.
fn by_kind(section: &Section) -> Option<String> {
    let against = |rival: &str| {
        let ratio = |kind: &&str| {
            let of = |design: &str| section.figures.get(&format!("{design}.{kind}")).copied();
            Some(format!("{} x the {kind}", number(of(OURS)? / of(rival)?)))
        };
        let ratios: Option<Vec<String>> = KINDS.iter().map(ratio).collect();
        Some(format!("{} of {rival}", ratios?.join(", ")))
    };
    let rivals: Vec<String> = ["global-lock", "rocksdb"].into_iter().filter_map(against).collect();
    let none = rivals.is_empty();
    (!none).then(|| {
        format!("Kind by kind, as clients that never pause share the cores: snapshot does {}.", rivals.join("; "))
    })
}

/// Medians of the first `count` percentiles.
fn latencies(rounds: &[Sample], of: fn(&Sample) -> Option<[f64; 3]>, count: usize) -> String {
    let median = |index: usize| Figure::of(rounds.iter().filter_map(of).map(|percentiles| percentiles[index]));
    let texts: Vec<String> = (0..count).filter_map(median).map(|figure| number(figure.median)).collect();
    if texts.is_empty() { "-".into() } else { texts.join(" / ") }
}
