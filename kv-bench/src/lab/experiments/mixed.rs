//! 1: the mixes of the analysis, in closed loops.

use std::time::Duration;

use anyhow::Result;

use crate::figures::Figure;
use crate::figures::number;
use crate::lab::engine::fill;
use crate::lab::load::{GET, KINDS, Keys, PREFIX, PUT, Role, Sample, Target, run, value};
use crate::lab::member::Setup;
use crate::lab::path::Path;
use crate::lab::report::{Chart, Section, Table, spread, standing};
use crate::lab::rivals::{NO_ENGINE, OURS, Rival};
use crate::lab::{Entrant, Lab};

const KEYS: usize = 10_000;
/// Where it is asked what a prefix costs among many keys.
const MANY_KEYS: usize = 100_000;
const VALUE_BYTES: usize = 256;
/// Of every mix.
pub(crate) const CLIENTS: usize = 30;
/// Untimed load before each round.
const WARM_UP: Duration = Duration::from_millis(200);

/// Why others are faster where a lock is held for a microsecond at most.
const WHY_ALONE: &str = "A get walks three or four nodes of a tree where a hash map computes a place, and a put copies the nodes on its \
                         path, keeps the revision that it replaces and publishes a view, where these designs overwrite one value under \
                         a lock that is held for about a microsecond: with few cores it is rarely waited for. What a longer commit \
                         saves is in 3, what is lost with history and consistent ranges in no figure.";
const WHY_RAFT: &str = "The same fsync is under every design here: what is left is the CPU that clients, raft and engine share, of \
                        which a get and a put of ours take more, for the reasons in 1a; 8 has each idea's share.";
const WHY_KEYS: &str =
    "These clients never pause, and share few cores: each kind of operation takes what the others leave it.";
const WHY_PUTS: &str = "A writer of ours that finds another at work leaves its batch, gives way, then sleeps, and 15 readers that no lock ever \
                        stops use their whole slices of time before it runs again: most puts take microseconds (the last table), and the \
                        few that wait take nearly all of the time. Where readers take a lock they give way as well.";
const WHY_BLEND: &str = "A put of ours costs more than one that overwrites a value and forgets the last one, and in these proportions puts \
                         are as many as gets.";

/// Which operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mix {
    /// Clients of one kind, four gets to a put.
    Analysis,
    /// A client for each kind of operation.
    Harder,
    /// The kinds of the harder mix in its own proportions.
    Blend,
}

/// One of the eight.
struct Part {
    id: &'static str,
    title: &'static str,
    mix: Mix,
    keys: usize,
    raft: Option<Setup>,
}

impl Part {
    const fn new(id: &'static str, title: &'static str, mix: Mix, raft: Option<Setup>) -> Self {
        Self { id, title, mix, keys: KEYS, raft }
    }
}

pub(super) fn alone(lab: &Lab) -> Result<Section> {
    part(lab, &Part::new("1a", "The analysis's mix, engine alone", Mix::Analysis, None))
}

pub(super) fn through_raft(lab: &Lab) -> Result<Section> {
    part(lab, &Part::new("1b", "The analysis's mix, through raft and log", Mix::Analysis, Some(Setup::USUAL)))
}

pub(super) fn without_proposer(lab: &Lab) -> Result<Section> {
    let raft = Some(Setup { proposer: false, ..Setup::USUAL });
    part(lab, &Part::new("1c", "The same without a batch proposer", Mix::Analysis, raft))
}

pub(super) fn harder_alone(lab: &Lab) -> Result<Section> {
    part(lab, &Part::new("1d", "The harder mix, engine alone", Mix::Harder, None))
}

pub(super) fn harder_through_raft(lab: &Lab) -> Result<Section> {
    part(lab, &Part::new("1e", "The harder mix, through raft and log", Mix::Harder, Some(Setup::USUAL)))
}

pub(super) fn blend_alone(lab: &Lab) -> Result<Section> {
    part(lab, &Part::new("1f", "The harder mix in fixed proportions, engine alone", Mix::Blend, None))
}

pub(super) fn blend_through_raft(lab: &Lab) -> Result<Section> {
    let title = "The harder mix in fixed proportions, through raft and log";
    part(lab, &Part::new("1g", title, Mix::Blend, Some(Setup::USUAL)))
}

pub(super) fn blend_of_many(lab: &Lab) -> Result<Section> {
    let title = "The harder mix in fixed proportions, engine alone, with ten times the keys";
    part(lab, &Part { keys: MANY_KEYS, ..Part::new("1h", title, Mix::Blend, None) })
}

fn roles(mix: Mix) -> Vec<Role> {
    match mix {
        Mix::Analysis => vec![Role::Mixed(80); CLIENTS],
        Mix::Blend => vec![Role::Blend; CLIENTS],
        Mix::Harder => {
            let kinds = [(12, Role::Mixed(0)), (12, Role::Mixed(100)), (3, Role::Prefix), (3, Role::Delete)];
            kinds.into_iter().flat_map(|(clients, role)| vec![role; clients]).collect()
        }
    }
}

fn how(part: &Part) -> String {
    let who = match part.mix {
        Mix::Analysis => format!("{CLIENTS} clients, 80 % gets, 20 % puts"),
        Mix::Harder => {
            "12 clients put, 12 get, 3 read a whole prefix of 1,000 keys, 3 delete, each as fast as it is answered"
                .into()
        }
        Mix::Blend => format!(
            "{CLIENTS} clients, each of which puts, gets, reads a whole prefix of 1,000 keys or deletes, 40 to 40 to 10 to 10 of a \
             hundred times: every design does the same work for an operation, and holds four fifths of the keys in the end, or \
             more where it is slow"
        ),
    };
    let keys = part.keys;
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
    let sum = if part.mix == Mix::Harder {
        " The sum of operations tells little: it counts the read of a thousand keys like the get of one, and a design that is slow \
         with one kind does more of the others; where deletes outrun puts, gets and prefixes find less. So each kind stands for \
         itself here, with the keys that were read; 1f to 1h have the sum, in fixed proportions."
    } else {
        ""
    };
    format!(
        "{who}; {keys} keys, values of {VALUE_BYTES} bytes. {path} The first two designs have the analysed pipeline \
         (JSON, numbers from a mutex, a second lock for the answer), the others none of it.{sum}"
    )
}

/// The rounds of one design.
struct Entry {
    rival: &'static Rival,
    rounds: Vec<Sample>,
}

fn part(lab: &Lab, part: &Part) -> Result<Section> {
    let (keys, value, roles) = (Keys::new(part.keys), value(VALUE_BYTES), roles(part.mix));
    let entry = |rival| Entry { rival, rounds: Vec::new() };
    let mut entries: Vec<Entry> = lab.rivals()?.into_iter().chain([&NO_ENGINE]).map(entry).collect();
    let bar = lab.bar(part.id, entries.len() * lab.rounds as usize);
    for number in lab.turns(entries.len()) {
        let Entry { rival, rounds } = &mut entries[number];
        bar.set_message(rival.name);
        let Some(Entrant { engine, _dir, .. }) = lab.entrant(rival)? else { continue };
        fill(engine.as_ref(), keys.all(), &value)?;
        let target = Target::new(Path::new(engine, rival.switches), part.raft, &lab.out)?;
        run(&target, &keys, &value, &roles, WARM_UP.min(lab.round_secs()), &lab.stop)?;
        rounds.push(run(&target, &keys, &value, &roles, lab.round_secs(), &lab.stop)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut section = Section::new(part.id, part.title, how(part));
    section.keep("cores", &[std::thread::available_parallelism().map_or(1, usize::from) as f64]);
    for Entry { rival, rounds } in &entries {
        let mut keep = |what: &str, of: &dyn Fn(&Sample) -> f64| {
            section.keep(&format!("{}{what}", rival.name), &rounds.iter().map(of).collect::<Vec<f64>>());
        };
        keep("", &|sample| sample.per_second);
        keep(".cpu_us", &|sample| sample.cpu_us);
        keep(".keys", &|sample| sample.keys);
        for (index, kind) in KINDS.iter().enumerate() {
            keep(&format!(".{kind}"), &|sample| sample.kinds[index]);
        }
    }
    if part.mix == Mix::Harder {
        by_kind(&mut section, &entries)
    } else {
        by_sum(&mut section, part, &entries)
    }
    section.says.extend(harness(&section, part));
    Ok(section)
}

/// Median and spread of something for each design.
fn figures(section: &Section, entries: &[Entry], what: &str) -> Vec<(&'static str, Figure)> {
    let rounds = |entry: &Entry| section.rounds.get(&format!("{}{what}", entry.rival.name)).cloned();
    entries.iter().filter_map(|entry| Some((entry.rival.name, Figure::of(rounds(entry)?)?))).collect()
}

/// The designs' figures, without those of no engine.
fn of_designs(mut figures: Vec<(&'static str, Figure)>) -> Vec<(&'static str, Figure)> {
    figures.retain(|(name, _)| *name != NO_ENGINE.name);
    figures
}

fn bars(title: &str, unit: &str, figures: &[(&'static str, Figure)]) -> Chart {
    let bar = |(name, figure): &(&str, Figure)| ((*name).to_owned(), figure.median, figure.lowest, figure.highest);
    Chart::Bars { title: title.to_owned(), unit: unit.into(), bars: figures.iter().map(bar).collect() }
}

/// Where every design does the same work for an operation: how many operations.
fn by_sum(section: &mut Section, part: &Part, entries: &[Entry]) {
    let blend = part.mix == Mix::Blend;
    let mut head = vec!["design", "operations/s", "CPU/op, us", "get p50 / p99 / p99.9, us", "put p50 / p99, us"];
    head.extend(blend.then_some("prefix read p50 / p99, us"));
    head.push("ours is");
    head.extend((!blend).then_some("analysis says"));
    let mut table = Table::new("Medians; in brackets the lowest and the highest round", &head);
    let speeds = figures(section, entries, "");
    let ours = section.figures.get(OURS).copied().unwrap_or_default();
    for (Entry { rival, rounds }, (_, speed)) in entries.iter().zip(&speeds) {
        let cpu = section.figures.get(&format!("{}.cpu_us", rival.name)).copied().unwrap_or_default();
        let mut row = vec![
            rival.name.to_owned(),
            spread(*speed),
            number(cpu),
            latencies(rounds, GET, 3),
            latencies(rounds, PUT, 2),
        ];
        row.extend(blend.then(|| latencies(rounds, PREFIX, 2)));
        row.push(format!("{} x", number(ours / speed.median)));
        row.extend((!blend).then(|| rival.predicted.to_owned()));
        table.rows.push(row);
    }
    section.tables.push(table);
    let speeds = of_designs(speeds);
    section.charts.push(bars("Operations per second (longer is better)", "operations/s", &speeds));
    let why = match (part.mix, part.raft) {
        (_, Some(_)) => WHY_RAFT,
        (Mix::Blend, None) => WHY_BLEND,
        (_, None) => WHY_ALONE,
    };
    section.says.extend(standing("Operations per second", &speeds, true, why));
}

/// Where the work for an operation depends on the design: each kind for itself.
fn by_kind(section: &mut Section, entries: &[Entry]) {
    let mut head = vec!["design".to_owned()];
    head.extend(KINDS.map(|kind| format!("{kind}/s")));
    head.extend(["keys read/s".into(), "all operations/s".into(), "CPU/op, us".into()]);
    let mut speeds = Table::new("Of each kind; medians", &head.iter().map(String::as_str).collect::<Vec<&str>>());
    let head: Vec<String> = KINDS.iter().map(|kind| format!("{kind}, us")).collect();
    let mut head: Vec<&str> = head.iter().map(String::as_str).collect();
    head.insert(0, "design");
    let mut times = Table::new("p50 / p99 of each kind", &head);
    head.extend(["keys read", "all operations"]);
    let mut ratios = Table::new("snapshot does so many times what the design does", &head);
    ratios.head.iter_mut().zip(["design"].into_iter().chain(KINDS)).for_each(|(cell, kind)| kind.clone_into(cell));
    for Entry { rival, rounds } in entries {
        let of =
            |design: &str, what: &str| section.figures.get(&format!("{design}{what}")).copied().unwrap_or_default();
        let kinds = KINDS.map(|kind| format!(".{kind}"));
        let all = || kinds.iter().map(String::as_str).chain([".keys", ""]);
        let row = |cells: Vec<String>| [vec![rival.name.to_owned()], cells].concat();
        speeds.rows.push(row(all().chain([".cpu_us"]).map(|what| number(of(rival.name, what))).collect()));
        times.rows.push(row((0..KINDS.len()).map(|kind| latencies(rounds, kind, 2)).collect()));
        let ratio = |what: &str| format!("{} x", number(of(OURS, what) / of(rival.name, what)));
        ratios.rows.push(row(all().map(ratio).collect()));
    }
    section.tables = vec![speeds, ratios, times];
    let keys = of_designs(figures(section, entries, ".keys"));
    let puts = of_designs(figures(section, entries, ".puts"));
    section.charts.push(bars("Keys read per second (longer is better)", "keys/s", &keys));
    section.charts.push(bars("Puts per second (longer is better)", "puts/s", &puts));
    section.says.extend(standing("Keys read per second", &keys, true, WHY_KEYS));
    section.says.extend(standing("Puts per second", &puts, true, WHY_PUTS));
}

/// What the clients and the codec take of an operation: what no engine can be better than.
fn harness(section: &Section, part: &Part) -> Option<String> {
    let of = |design: &str, what: &str| section.figures.get(&format!("{design}{what}")).copied();
    let (speed, cpu) = (of(NO_ENGINE.name, "")?, of(NO_ENGINE.name, ".cpu_us")?);
    if part.mix == Mix::Harder {
        return None;
    }
    let share = |design: &str| Some(format!("{} % of {design}'s", number(100.0 * cpu / of(design, ".cpu_us")?)));
    let ceiling = |design: &str| Some(format!("{} x {design}", number(speed / of(design, "")?)));
    let list = |texts: [Option<String>; 3]| texts.into_iter().flatten().collect::<Vec<String>>().join(", ");
    let shares = list([share(OURS), share("rocksdb"), share("global-lock")]);
    Some(format!(
        "What is around an engine (the clients' random numbers, commands and clock, {}), with an engine that keeps nothing and hands \
         out one value, does {} operations a second at {} us of CPU each: {shares}. So no design can be more than {} here.",
        if part.raft.is_some() { "codec, raft and log" } else { "and the codec" },
        number(speed),
        number(cpu),
        list([ceiling("rocksdb"), ceiling("global-lock"), None]).replacen(", ", ", or ", 1)
    ))
}

/// Medians of the first `count` percentiles.
fn latencies(rounds: &[Sample], kind: usize, count: usize) -> String {
    let of = |sample: &Sample| sample.kinds_us[kind];
    let median = |index: usize| Figure::of(rounds.iter().filter_map(of).map(|percentiles| percentiles[index]));
    let texts: Vec<String> = (0..count).filter_map(median).map(|figure| number(figure.median)).collect();
    if texts.is_empty() { "-".into() } else { texts.join(" / ") }
}
