//! Figures of servers side by side: medians of rounds, as a table and as JSON.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::process;
use crate::target::Target;

/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// What a run leaves behind.
#[derive(Debug)]
pub struct Report {
    /// The table, as in [`Self::markdown_path`].
    pub markdown: String,
    /// Where the table lies.
    pub markdown_path: PathBuf,
    /// Where every figure lies.
    pub json_path: PathBuf,
}

/// A median and the extremes around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

/// One figure of one round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    value: Option<f64>,
}

/// Collects the figures of one round of one server and says each as it comes.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    server: &'a str,
    rows: Vec<Row>,
}

/// What a tool measured.
#[derive(Debug)]
pub(crate) struct Results<'a> {
    /// The tool: what its files are called.
    pub(crate) tool: &'static str,
    /// A sentence about what was run.
    pub(crate) about: String,
    /// Of what was random.
    pub(crate) seed: Option<u64>,
    /// Ours first.
    pub(crate) targets: &'a [Target],
    /// For each target the figures of its rounds. A round of ours has every figure.
    pub(crate) rounds: &'a [Vec<Vec<Row>>],
}

impl<'a> Figures<'a> {
    pub(crate) fn of(target: &'a Target) -> Self {
        Self { server: &target.name, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &'static str, unit: &'static str, value: impl Into<Option<f64>>) {
        let value = value.into();
        eprintln!("{:<12} {name}: {} {unit}", self.server, value.map_or_else(nothing, number));
        self.rows.push(Row { name, unit, value });
    }

    pub(crate) fn finish(self) -> Vec<Row> {
        self.rows
    }
}

impl Results<'_> {
    /// Writes the report into the directory `out`.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn write(&self, out: &Path) -> Result<Report> {
        let (markdown, json) = (self.markdown(), format!("{:#}", self.json()));
        let file = |end| out.join(format!("{}.{end}", self.tool));
        let (markdown_path, json_path) = (file("md"), file("json"));
        for (path, text) in [(&markdown_path, &markdown), (&json_path, &json)] {
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(Report { markdown, markdown_path, json_path })
    }

    fn markdown(&self) -> String {
        let names: Vec<&str> = self.targets.iter().map(|target| target.name.as_str()).collect();
        let against: Vec<String> = names.iter().skip(1).map(|name| format!("{} / {name}", names[0])).collect();
        let mut head = vec!["figure", "unit"];
        head.extend(&names);
        head.extend(against.iter().map(String::as_str));
        let ours = self.rounds.first().and_then(|rounds| rounds.first()).map_or(&[][..], Vec::as_slice);
        let rows: Vec<Vec<String>> = ours.iter().map(|row| self.cells(row)).collect();
        let mut text = table(&head, &rows);
        let _ = writeln!(text, "\n* {}", self.about);
        for Target { name, about, .. } in self.targets {
            let _ = writeln!(text, "* {name}: {about}.");
        }
        let rounds = self.rounds.first().map_or(0, Vec::len);
        let spread = if rounds > 1 { "; in brackets the lowest and the highest" } else { "" };
        let (cores, cpu) = (cores(), process::cpu_model());
        let _ = writeln!(
            text,
            "* {rounds} round(s), medians{spread}. One machine, {cores} core(s) of {cpu}, shared by the server and its clients."
        );
        text
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let values = |rounds: &Vec<Vec<Row>>| -> Vec<f64> {
            let rows = rounds.iter().flatten().filter(|other| other.name == row.name);
            rows.filter_map(|row| row.value).collect()
        };
        let figures: Vec<Option<Figure>> = self.rounds.iter().map(|rounds| Figure::of(values(rounds))).collect();
        let shown = |figure: &Figure| {
            if figure.lowest < figure.highest { spread(*figure) } else { number(figure.median) }
        };
        let mut cells = vec![row.name.to_owned(), row.unit.to_owned()];
        cells.extend(figures.iter().map(|figure| figure.as_ref().map_or_else(nothing, shown)));
        cells.extend(figures.iter().skip(1).map(|rival| ratio(figures[0], *rival)));
        cells
    }

    fn json(&self) -> Value {
        let servers = self.targets.iter().zip(self.rounds).map(|(target, rounds)| {
            let figure = |row: &Row| json!({ "figure": row.name, "unit": row.unit, "value": row.value });
            let rounds: Vec<Vec<Value>> = rounds.iter().map(|rows| rows.iter().map(figure).collect()).collect();
            json!({ "server": target.name, "about": target.about, "rounds": rounds })
        });
        json!({
            "tool": self.tool, "about": self.about, "seed": self.seed, "cpu": process::cpu_model(), "cores": cores(),
            "servers": servers.collect::<Vec<_>>(),
        })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// An empty histogram of latencies in nanoseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("up to five digits are allowed")
}

/// Adds one latency.
pub(crate) fn record(latencies: &mut Histogram<u64>, latency: Duration) {
    let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX >> 1);
    latencies.record(ns).expect("it grows to what it is given");
}

/// A percentile in milliseconds; the slowest at 100. Nothing of none.
pub(crate) fn percentile_ms(latencies: &Histogram<u64>, percent: f64) -> Option<f64> {
    (!latencies.is_empty()).then(|| latencies.value_at_percentile(percent) as f64 / 1e6)
}

impl Figure {
    /// The median of the values and their extremes; nothing of no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, lowest, highest })
    }
}

/// A Markdown table, its columns aligned so that it reads well as plain text too.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
    };
    line(&mut head.iter().copied());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&mut rules.iter().map(String::as_str));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

pub(crate) fn nothing() -> String {
    "-".into()
}

pub(crate) fn spread(Figure { median, lowest, highest }: Figure) -> String {
    format!("{} ({}-{})", number(median), number(lowest), number(highest))
}

/// Ours divided by theirs.
pub(crate) fn ratio(ours: Option<Figure>, theirs: Option<Figure>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs.median > 0.0 => format!("{:.2} x", ours.median / theirs.median),
        _ => nothing(),
    }
}

/// About three digits; large numbers whole, with a comma at the thousands.
pub(crate) fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_between_the_extremes() {
        let figure = |values: &[f64]| {
            let Figure { median, lowest, highest } = Figure::of(values.iter().copied()).unwrap();
            [median, lowest, highest]
        };
        assert_eq!(figure(&[3.0, 1.0, 2.0]), [2.0, 1.0, 3.0]);
        assert_eq!(figure(&[100.0, 1.0]), [50.5, 1.0, 100.0]);
        assert_eq!(figure(&[7.0]), [7.0; 3]);
        assert_eq!(Figure::of([]), None);
    }

    #[test]
    fn numbers_have_about_three_digits() {
        let text = [0.0, 0.2604, 9.994, 12.34, 99.94, 100.4, 999.6, 64_700.0, 1_234_567.0].map(number);
        assert_eq!(text, ["0.00", "0.26", "9.99", "12.3", "99.9", "100", "1,000", "64,700", "1,234,567"]);
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = vec![vec!["x".to_owned(), "longer".to_owned()], vec!["yyyy".to_owned(), String::new()]];
        let expect = "| a    | b      |\n| ---- | ------ |\n| x    | longer |\n| yyyy |        |\n";
        assert_eq!(table(&["a", "b"], &rows), expect);
    }
}
