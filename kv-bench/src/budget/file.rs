//! `docs/benchmarks/budget.toml`: what operations may cost, and what they cost now beside it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A figure may be so much higher than its budget.
const TOLERANCE: f64 = 0.03;

/// Under so little nothing is a change. Whether a thread still runs when the next work comes, and need not be woken, is chance on a
/// busy machine: a wake more per operation is found, a part of one is not.
fn slack(figure: &str) -> f64 {
    match figure {
        "wakes" => 0.6,
        "syscalls" | "driver_wakes" => 0.3,
        _ => 0.02,
    }
}

/// What was counted, per operation and by its name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Budget {
    /// The compiler, on which the instructions depend.
    pub(super) rustc: String,
    /// Operation, figure, value.
    #[serde(flatten)]
    pub(super) operations: BTreeMap<String, BTreeMap<String, f64>>,
}

/// The name of the figure that depends on the compiler.
pub(super) const INSTRUCTIONS: &str = "instructions";

impl Budget {
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("the budget is not as `--write` leaves it")
    }

    pub(super) fn text(&self) -> Result<String> {
        let head = "# What one operation costs the server: `cargo xtask budget --write` counts, `--check` compares. See README.md here.\n";
        Ok(format!("{head}{}", toml::to_string(self).context("the budget as TOML")?))
    }

    /// Adds a figure; of several the lowest stays.
    pub(super) fn add_lowest(&mut self, operation: &str, figure: &str, value: f64) {
        // Two digits after the point are what repeats.
        let value = if figure == INSTRUCTIONS { value.round() } else { (value * 100.0).round() / 100.0 };
        let figures = self.operations.entry(operation.into()).or_default();
        figures.entry(figure.into()).and_modify(|lowest| *lowest = value.min(*lowest)).or_insert(value);
    }

    /// Takes over what was not counted now.
    pub(super) fn keep(&mut self, before: &Self) {
        for (operation, figures) in &before.operations {
            let now = self.operations.entry(operation.clone()).or_default();
            for (figure, value) in figures {
                now.entry(figure.clone()).or_insert(*value);
            }
        }
    }

    /// What costs more than `budget` says, a sentence each; and what was not compared.
    pub(super) fn compare(&self, budget: &Self) -> Compared {
        let mut compared = Compared::default();
        let same_compiler = self.rustc == budget.rustc;
        if !same_compiler {
            compared.skipped.push(format!(
                "instructions are not compared: the budget is of {}, this is {}",
                budget.rustc, self.rustc
            ));
        }
        for (operation, figures) in &self.operations {
            for (figure, now) in figures {
                if figure == INSTRUCTIONS && !same_compiler {
                    continue;
                }
                let Some(allowed) = budget.operations.get(operation).and_then(|figures| figures.get(figure)) else {
                    compared.over.push(format!("{operation}: {figure}: {now}, and no budget for it"));
                    continue;
                };
                let slack = slack(figure);
                let change = (now - allowed) / allowed.max(slack) * 100.0;
                if *now > allowed * (1.0 + TOLERANCE) + slack {
                    compared.over.push(format!("{operation}: {figure}: {now} of {allowed}, {change:+.1} %"));
                } else if *now < allowed * (1.0 - TOLERANCE) - slack {
                    compared.under.push(format!("{operation}: {figure}: {now} of {allowed}, {change:+.1} %"));
                }
            }
        }
        compared
    }
}

/// How figures and budget differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Compared {
    /// Too much: a failure.
    pub(super) over: Vec<String>,
    /// Less: the budget can be lowered.
    pub(super) under: Vec<String>,
    pub(super) skipped: Vec<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn budget(rustc: &str, figures: &[(&str, f64)]) -> Budget {
        let mut budget = Budget { rustc: rustc.into(), ..Budget::default() };
        figures.iter().for_each(|(figure, value)| budget.add_lowest("put", figure, *value));
        budget
    }

    #[test]
    fn it_comes_back_from_its_text() {
        let budget = budget("rustc 1", &[(INSTRUCTIONS, 12_345.4), ("wakes", 2.999)]);
        let text = budget.text().unwrap();
        assert_eq!(Budget::parse(&text).unwrap(), budget, "{text}");
        assert!(Budget::parse("rustc = 1").is_err());
    }

    #[test]
    fn past_three_percent_is_too_much() {
        let allowed = budget("r", &[("allocations", 100.0), ("wakes", 0.0)]);
        let over = |figures: &[(&str, f64)]| budget("r", figures).compare(&allowed).over.len();
        assert_eq!(over(&[("allocations", 103.0)]), 0);
        assert_eq!(over(&[("allocations", 103.2)]), 1);
        assert_eq!(over(&[("wakes", 0.5)]), 0, "chance");
        assert_eq!(over(&[("wakes", 1.0)]), 1, "a wake more");
        assert_eq!(over(&[("syscalls", 1.0)]), 1, "what has no budget is none within it");
        assert_eq!(budget("r", &[("allocations", 90.0)]).compare(&allowed).under.len(), 1);
    }

    #[test]
    fn another_compiler_is_said_and_compared_in_all_else() {
        let allowed = budget("one", &[(INSTRUCTIONS, 100.0), ("allocations", 10.0)]);
        let compared = budget("two", &[(INSTRUCTIONS, 200.0), ("allocations", 20.0)]).compare(&allowed);
        assert_eq!((compared.over.len(), compared.skipped.len()), (1, 1), "{compared:?}");
    }

    #[test]
    fn what_was_not_counted_stays() {
        let mut now = budget("r", &[("allocations", 1.0)]);
        now.keep(&budget("r", &[("allocations", 2.0), (INSTRUCTIONS, 3.0)]));
        assert_eq!(now, budget("r", &[("allocations", 1.0), (INSTRUCTIONS, 3.0)]));
    }
}
