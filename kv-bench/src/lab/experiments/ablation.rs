//! 8: ours without one of its ideas at a time.

use anyhow::{Context, Result};
use kv_raft::SyncMode;

use crate::figures::number;
use crate::lab::Lab;
use crate::lab::engine::{Engine, fill};
use crate::lab::load::{Keys, PUT, Role, Sample, Target, run as run_clients, value};
use crate::lab::member::Setup;
use crate::lab::path::{Path, Switches};
use crate::lab::report::{Chart, Section, Table, spread};
use crate::lab::rivals::{OURS, RIVALS, Snapshot};

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 256;
const CLIENTS: usize = 30;

/// Ours without something.
struct Variant {
    name: &'static str,
    engine: fn() -> Result<Box<dyn Engine>>,
    switches: Switches,
    setup: Setup,
}

fn snapshot() -> Result<Box<dyn Engine>> {
    Ok(Box::new(Snapshot::new(false)))
}

fn publish_each() -> Result<Box<dyn Engine>> {
    Ok(Box::new(Snapshot::new(true)))
}

fn btree() -> Result<Box<dyn Engine>> {
    let rival = RIVALS.iter().find(|rival| rival.name == "btree-lock").context("it is one of the eight")?;
    (rival.build)(std::path::Path::new("")).transpose().context("it needs nothing")?
}

const USUAL: Variant = Variant { name: OURS, engine: snapshot, switches: Switches::LEAN, setup: Setup::USUAL };

const VARIANTS: [Variant; 7] = [
    USUAL,
    Variant { name: "no batch proposer", setup: Setup { proposer: false, ..Setup::USUAL }, ..USUAL },
    Variant { name: "a publish per operation", engine: publish_each, ..USUAL },
    Variant { name: "JSON commands", switches: Switches { json: true, ..Switches::LEAN }, ..USUAL },
    Variant { name: "BTreeMap + RwLock", engine: btree, ..USUAL },
    Variant { name: "read back after commit", switches: Switches { read_back: true, ..Switches::LEAN }, ..USUAL },
    // No idea of ours: the disk's share.
    Variant { name: "(no fsync)", setup: Setup { sync: SyncMode::UnsafeNone, ..Setup::USUAL }, ..USUAL },
];

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let how = format!(
        "snapshot through raft and log, {CLIENTS} clients, and the same without one idea: every row changes one thing. The last \
         row takes away the disk's fsync, to show its share; what it acknowledges, a power loss takes back."
    );
    let mut section = Section::new("8", "Ours without one idea at a time", how);
    for (mix, gets) in [("puts only", 0), ("80 % gets", 80)] {
        one_mix(lab, &mut section, mix, gets)?;
    }
    Ok(section)
}

fn one_mix(lab: &Lab, section: &mut Section, mix: &str, gets: u32) -> Result<()> {
    let (keys, value, roles) = (Keys::new(KEYS), value(VALUE_BYTES), vec![Role::Mixed(gets); CLIENTS]);
    let bar = lab.bar(&format!("8 {mix}"), VARIANTS.len() * lab.rounds as usize);
    let mut samples = vec![Vec::<Sample>::new(); VARIANTS.len()];
    for number in lab.turns(VARIANTS.len()) {
        let variant = &VARIANTS[number];
        bar.set_message(variant.name);
        let engine = (variant.engine)()?;
        fill(engine.as_ref(), keys.all(), &value)?;
        let target = Target::new(Path::new(engine, variant.switches), Some(variant.setup), &lab.out)?;
        // Two mixes share the time.
        samples[number].push(run_clients(&target, &keys, &value, &roles, lab.round_secs() / 4, &lab.stop)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let head = ["without", "operations/s", "of ours", "CPU/op, us", "of ours", "put p50 / p99, us"];
    let mut table = Table::new(format!("{CLIENTS} clients, {mix}"), &head);
    let mut bars = Vec::new();
    for (variant, rounds) in VARIANTS.iter().zip(&samples) {
        let of = |what: fn(&Sample) -> f64| rounds.iter().map(what).collect::<Vec<f64>>();
        let name = format!("{mix}.{}", variant.name);
        let speed = section.keep(&name, &of(|sample| sample.per_second)).context("a round")?;
        let cpu = section.keep(&format!("{name}.cpu_us"), &of(|sample| sample.cpu_us)).context("a round")?;
        let ours = |what: &str| section.figures.get(&format!("{mix}.{OURS}{what}")).copied().unwrap_or(1.0);
        let put = |index: usize| {
            let rounds: Vec<f64> = rounds.iter().filter_map(|sample| Some(sample.kinds_us[PUT]?[index])).collect();
            crate::figures::Figure::of(rounds).map_or_else(|| "-".into(), |figure| number(figure.median))
        };
        table.rows.push(vec![
            variant.name.to_owned(),
            spread(speed),
            format!("{} x", number(speed.median / ours(""))),
            spread(cpu),
            format!("{} x", number(cpu.median / ours(".cpu_us"))),
            format!("{} / {}", put(0), put(1)),
        ]);
        bars.push((variant.name.to_owned(), speed.median, speed.lowest, speed.highest));
    }
    section.tables.push(table);
    section.charts.push(Chart::Bars {
        title: format!("Operations per second, {mix}"),
        unit: "operations/s".into(),
        bars,
    });
    Ok(())
}
