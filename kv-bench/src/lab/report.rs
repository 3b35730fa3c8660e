//! What an experiment leaves: tables, charts, sentences and figures, which a later run can put beside its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rivals::OURS;
use crate::figures::Figure;
use crate::figures::number;

/// Everything that is known of one machine's runs: what `lab.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Where and with what.
    pub(crate) facts: Vec<(String, String)>,
    /// In the order of their ids.
    pub(crate) sections: Vec<Section>,
}

/// One experiment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Section {
    /// `1a`, `2`, ...
    pub(crate) id: String,
    /// Its title.
    pub(crate) title: String,
    /// What it does, in a sentence or two.
    pub(crate) how: String,
    /// When, at which commit, by which command.
    pub(crate) provenance: String,
    /// Its tables.
    pub(crate) tables: Vec<Table>,
    /// Its charts.
    pub(crate) charts: Vec<Chart>,
    /// What the figures say.
    pub(crate) says: Vec<String>,
    /// Medians by name, for the answers at the top of the report.
    pub(crate) figures: BTreeMap<String, f64>,
    /// Every round, by name.
    pub(crate) rounds: BTreeMap<String, Vec<f64>>,
}

/// A table. The row whose first cell is ours is shown in bold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Table {
    /// What it shows.
    pub(crate) caption: String,
    /// Names of the columns.
    pub(crate) head: Vec<String>,
    /// Its rows.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub(crate) fn new(caption: impl Into<String>, head: &[&str]) -> Self {
        Self { caption: caption.into(), head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }
}

/// A chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Chart {
    /// A bar for each, with its spread.
    Bars {
        /// What is shown.
        title: String,
        /// In which unit.
        unit: String,
        /// Name, median, lowest, highest.
        bars: Vec<(String, f64, f64, f64)>,
    },
    /// A line for each.
    Lines {
        /// What is shown.
        title: String,
        /// What goes to the right.
        x: String,
        /// What goes up.
        y: String,
        /// Whether both go by powers of ten.
        log: bool,
        /// Name and points.
        series: Vec<(String, Vec<(f64, f64)>)>,
    },
}

impl Section {
    /// An experiment without results.
    #[must_use]
    pub(crate) fn new(id: &str, title: &str, how: String) -> Self {
        Self { id: id.into(), title: title.into(), how, ..Self::default() }
    }

    /// Keeps the rounds and the median of something.
    pub(crate) fn keep(&mut self, name: &str, rounds: &[f64]) -> Option<Figure> {
        let figure = Figure::of(rounds.iter().copied())?;
        self.rounds.insert(name.to_owned(), rounds.to_vec());
        self.figures.insert(name.to_owned(), figure.median);
        Some(figure)
    }
}

/// A median with the lowest and the highest round.
#[must_use]
pub(crate) fn spread(figure: Figure) -> String {
    let Figure { median, lowest, highest } = figure;
    if lowest.to_bits() == highest.to_bits() {
        return number(median);
    }
    format!("{} ({}-{})", number(median), number(lowest), number(highest))
}

/// How ours stands among the designs: its place, how far from the next or from the best, and, where it is behind, why.
#[must_use]
pub(crate) fn standing(what: &str, figures: &[(&str, Figure)], more_is_better: bool, why: &str) -> Option<String> {
    let ours = figures.iter().find(|(name, _)| *name == OURS)?.1;
    let better = |a: f64, b: f64| if more_is_better { a > b } else { a < b };
    let best = figures.iter().filter(|(name, _)| *name != OURS);
    let (best, figure) = best.reduce(|best, next| if better(next.1.median, best.1.median) { next } else { best })?;
    let ratio = if more_is_better { ours.median / figure.median } else { figure.median / ours.median };
    let overlap = ours.lowest <= figure.highest && figure.lowest <= ours.highest;
    if ours.lowest.to_bits() == ours.highest.to_bits() {
        let ratio = number(ratio);
        return Some(format!(
            "{what}: snapshot has {ratio} x of the best other, {best}, in one round, whose noise is unknown."
        ));
    }
    Some(if !better(figure.median, ours.median) {
        let noise = if overlap { "; their rounds overlap" } else { "" };
        format!("{what}: snapshot is first, {} x the next best ({best}){noise}.", number(ratio))
    } else if overlap {
        format!(
            "{what}: snapshot is within the noise of the best ({best}): {} x, and their rounds overlap.",
            number(ratio)
        )
    } else {
        format!("{what}: snapshot is behind {best}, at {} x. {why}", number(ratio))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(lowest: f64, median: f64, highest: f64) -> Figure {
        Figure { median, lowest, highest }
    }

    #[test]
    fn ours_is_first_or_near_or_behind_with_a_reason() {
        let check = |ours: Figure, more: bool, says: &str| {
            let figures = [("a", figure(1.0, 2.0, 3.0)), ("b", figure(9.0, 10.0, 11.0)), (OURS, ours)];
            let text = standing("gets", &figures, more, "Because.").expect("ours is among them");
            assert!(text.contains(says), "{text}");
        };
        check(figure(19.0, 20.0, 21.0), true, "is first, 2.00 x the next best (b)");
        check(figure(9.0, 10.5, 12.0), true, "is first, 1.05 x the next best (b); their rounds overlap");
        check(figure(9.0, 9.5, 9.9), true, "within the noise of the best (b): 0.95 x");
        check(figure(4.0, 5.0, 6.0), true, "behind b, at 0.50 x. Because.");
        check(figure(0.4, 0.5, 0.6), false, "is first, 4.00 x the next best (a)");
        check(figure(7.0, 8.0, 9.0), false, "behind a, at 0.25 x");
        check(figure(5.0, 5.0, 5.0), true, "0.50 x of the best other, b, in one round");
        assert_eq!(standing("gets", &[("a", figure(1.0, 1.0, 1.0))], true, ""), None);
    }

    #[test]
    fn a_spread_of_one_round_is_a_number() {
        assert_eq!(spread(figure(5.0, 5.0, 5.0)), "5.00");
        assert_eq!(spread(figure(4.0, 5.0, 1500.0)), "5.00 (4.00-1,500)");
    }

    #[test]
    fn a_section_comes_back_from_json() {
        let mut section = Section::new("2", "Scaling", "How.".into());
        section.keep("snapshot", &[3.0, 1.0, 2.0]);
        section.tables.push(Table::new("a table", &["x"]));
        section.charts.push(Chart::Bars {
            title: "t".into(),
            unit: "u".into(),
            bars: vec![("a".into(), 1.0, 0.5, 2.0)],
        });
        let json = serde_json::to_string(&section).expect("it is plain data");
        assert_eq!(serde_json::from_str::<Section>(&json).expect("it was written above"), section);
        assert_eq!(section.figures["snapshot"].to_bits(), 2.0_f64.to_bits());
    }
}
