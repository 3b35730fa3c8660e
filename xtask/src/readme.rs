//! `cargo xtask bench readme`: the table of README.md, made from the recorded run in docs/benchmarks.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::Workspace;

/// The run that the table is of: what `cargo xtask bench wire --h2load --rival etcd=...` left, copied by hand.
const RUN: &str = "docs/benchmarks/wire.json";
const BEGIN: &str = "<!-- from docs/benchmarks/wire.json, by `cargo xtask bench readme` -->\n";
const END: &str = "<!-- end -->\n";

/// How a row is called in the run, and in the table.
const ROWS: [(&str, &str); 5] = [
    ("h2load range", "Range, 8 connections x 32 streams"),
    ("h2load put", "Put, 8 connections x 32 streams"),
    ("h2load single put", "one Put at a time"),
    ("mixed", "30 clients, 80 % gets"),
    ("guarded", "256 clients, put if unchanged (Kubernetes), 400 B"),
];

/// Writes the table, or says that it is not what the run gives.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let check = match arguments {
        [] => false,
        [only] if only == "--check" => true,
        _ => bail!("`bench readme` takes nothing but --check"),
    };
    let path = workspace.root.join("README.md");
    let readme = std::fs::read_to_string(&path).context("reading README.md")?;
    let run = std::fs::read_to_string(run_path(&workspace.root)).with_context(|| format!("reading {RUN}"))?;
    let made = made(&readme, &run)?;
    match (made == readme, check) {
        (true, _) => println!("README.md has the figures of {RUN}"),
        (false, false) => std::fs::write(&path, made).context("writing README.md")?,
        (false, true) => bail!("README.md has other figures than {RUN}: `cargo xtask bench readme` writes them"),
    }
    Ok(())
}

/// What tidy has to say about the table.
pub(crate) fn check(readme: &str, run: &str) -> Vec<String> {
    match made(readme, run) {
        Ok(made) if made == readme => Vec::new(),
        Ok(_) => vec![format!("README.md has other figures than {RUN}: `cargo xtask bench readme` writes them")],
        Err(error) => vec![format!("{error:#}")],
    }
}

/// The run's file, from the root.
pub(crate) fn run_path(root: &std::path::Path) -> std::path::PathBuf {
    root.join(RUN)
}

/// The README with the table of this run in it.
fn made(readme: &str, run: &str) -> Result<String> {
    let run: Value = serde_json::from_str(run).with_context(|| format!("{RUN} is no JSON"))?;
    let (before, rest) =
        readme.split_once(BEGIN).with_context(|| format!("README.md has no line {:?}", BEGIN.trim()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("README.md has no line {:?}", END.trim()))?;
    let table = table(&run).with_context(|| format!("{RUN} is not a run of wire beside one rival"))?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

/// The table and what a reader must know to judge it.
fn table(run: &Value) -> Option<String> {
    let servers = run["servers"].as_array()?;
    let rival =
        servers.iter().position(|server| server["name"].as_str().is_some_and(|name| name.starts_with("etcd")))?;
    let name = |server: usize| servers[server]["name"].as_str();
    let mut text = format!("\n| load | {} | {} | ratio |\n| --- | --- | --- | --- |\n", name(0)?, name(rival)?);
    let (mut rounds, mut secs) = (0, 0);
    for (workload, shown) in ROWS {
        let Some(of) = run["runs"].as_array()?.iter().find(|of| of["workload"]["name"] == workload) else { continue };
        (rounds, secs) = (of["results"][0]["rounds"].as_array()?.len(), of["workload"]["secs"].as_u64()?);
        let one_at_a_time = of["workload"]["clients"] == 1;
        let figures = |server: usize| {
            let rounds = of["results"][server]["rounds"].as_array()?;
            let median = |figure: fn(&Value) -> Option<f64>| median(rounds.iter().filter_map(figure).collect());
            if one_at_a_time {
                return Some((median(|round| round["put_us"]["p50"].as_f64())? / 1000.0, 0.0));
            }
            let speed = median(|round| round["operations_per_second"].as_f64())?;
            Some((speed, median(|round| round["cpu_us_per_operation"].as_f64())?))
        };
        let (ours, theirs) = (figures(0)?, figures(rival)?);
        let row = if one_at_a_time {
            format!("| {:.2} ms | {:.2} ms | {:.2} x |\n", ours.0, theirs.0, ours.0 / theirs.0)
        } else {
            let cell = |(speed, cpu): (f64, f64)| format!("{}/s, {cpu:.1} us CPU each", thousands(speed));
            let ratios = format!("{:.1} x, {:.2} x CPU", ours.0 / theirs.0, ours.1 / theirs.1);
            format!("| {} | {} | {ratios} |\n", cell(ours), cell(theirs))
        };
        text += &format!("| {shown} {row}");
    }
    let (cpu, cores) = (run["cpu"].as_str()?, run["cores"].as_u64()?);
    text += &format!(
        "\nMedians of {rounds} interleaved round(s) of {secs} s, values of 256 B where nothing else is said, each with its own defaults for syncing, on one machine: {cores} \
         cores of {cpu}, shared by server and client.\nThe rival is {}: {}.\n\n",
        name(rival)?,
        servers[rival]["about"].as_str()?
    );
    Some(text)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[middle - 1], upper) })
}

/// Three digits, with commas.
fn thousands(value: f64) -> String {
    let step = 10_f64.powf((value.max(1.0).log10().floor() - 2.0).max(0.0));
    let digits = format!("{:.0}", (value / step).round() * step);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = r#"{
        "cpu": "a CPU", "cores": 2,
        "servers": [{"name": "kv 1", "about": "ours"}, {"name": "etcd 3", "about": "release line began in 2021"}, {"name": "control"}],
        "runs": [
            {"workload": {"name": "mixed", "clients": 30, "secs": 3}, "results": [
                {"rounds": [{"operations_per_second": 30000, "cpu_us_per_operation": 10}, {"operations_per_second": 20000, "cpu_us_per_operation": 10},
                            {"operations_per_second": 21234, "cpu_us_per_operation": 30}]},
                {"rounds": [{"operations_per_second": 10000, "cpu_us_per_operation": 20}]}, {"rounds": []}]},
            {"workload": {"name": "h2load single put", "clients": 1, "secs": 3}, "results": [
                {"rounds": [{"put_us": {"p50": 300}}]}, {"rounds": [{"put_us": {"p50": 200}}]}, {"rounds": []}]}
        ]
    }"#;

    #[test]
    fn the_table_is_made_from_the_run_and_from_nothing_else() {
        let readme = format!("# kv\n{BEGIN}old\n{END}rest\n");
        assert_eq!(check(&readme, RECORDED).len(), 1, "other figures");
        let made = made(&readme, RECORDED).expect("it is a run");
        assert_eq!(check(&made, RECORDED), Vec::<String>::new());
        assert!(made.starts_with("# kv\n") && made.ends_with("rest\n") && !made.contains("old"), "{made}");
        for row in [
            "| load | kv 1 | etcd 3 | ratio |",
            "| 30 clients, 80 % gets | 21,200/s, 10.0 us CPU each | 10,000/s, 20.0 us CPU each | 2.1 x, 0.50 x CPU |",
            "| one Put at a time | 0.30 ms | 0.20 ms | 1.50 x |",
            "The rival is etcd 3: release line began in 2021.",
        ] {
            assert!(made.contains(row), "{row} is not in\n{made}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_a_finding() {
        assert_eq!(check("# kv\n", RECORDED).len(), 1);
        assert_eq!(check(&format!("{BEGIN}{END}"), "{}").len(), 1);
        assert_eq!(check(&format!("{BEGIN}{END}"), "none").len(), 1);
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        assert_eq!(
            [0.0, 12.4, 999.9, 75_678.0, 1_234_567.0].map(thousands),
            ["0", "12", "1,000", "75,700", "1,230,000"]
        );
    }
}
