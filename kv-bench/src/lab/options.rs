//! The command line of the lab.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use super::experiments::{EXPERIMENTS, Experiment};

/// Rounds of each experiment.
const ROUNDS_MAX: u32 = 100;
/// Seconds of one design's rounds together.
const SECS_MAX: u32 = 600;

/// What to run.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// About a minute in all: short rounds, small stores.
    #[arg(long)]
    pub quick: bool,
    /// These experiments only, as `1a` or `1` for all of its parts; several with commas. The others stay as an earlier run left them.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Rounds; the designs take turns. [default: 3, quick: 1]
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Seconds of a design's rounds together, where an experiment runs for a given time. [default: 20, quick: 0.3]
    #[arg(long)]
    pub secs: Option<u32>,
    /// Where the report goes; engines' files lie there while they run.
    #[arg(long, value_name = "DIR", default_value = "target/bench/lab", overrides_with = "out")]
    pub out: PathBuf,
}

impl Options {
    /// The experiments asked for, in order.
    ///
    /// # Errors
    /// An unknown one, or a number that makes no sense, with a sentence.
    pub(crate) fn experiments(&self) -> Result<Vec<&'static Experiment>> {
        let rounds = self.rounds();
        ensure!((1..=ROUNDS_MAX).contains(&rounds), "--rounds is from 1 to {ROUNDS_MAX}, not {rounds}");
        if let Some(secs) = self.secs {
            ensure!((1..=SECS_MAX).contains(&secs), "--secs is from 1 to {SECS_MAX}, not {secs}");
        }
        let means = |given: &str, id: &str| id == given || id.trim_end_matches(char::is_alphabetic) == given;
        for given in &self.only {
            if !EXPERIMENTS.iter().any(|experiment| means(given, experiment.id)) {
                let known: Vec<&str> = EXPERIMENTS.iter().map(|experiment| experiment.id).collect();
                bail!("unknown experiment {given:?}: there are {}", known.join(", "));
            }
        }
        let chosen = |experiment: &&Experiment| {
            self.only.is_empty() || self.only.iter().any(|given| means(given, experiment.id))
        };
        Ok(EXPERIMENTS.iter().filter(chosen).collect())
    }

    /// How many rounds.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// Seconds of a design's rounds together.
    pub(crate) fn secs(&self) -> f64 {
        self.secs.map_or(if self.quick { 0.3 } else { 20.0 }, f64::from)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ids(only: &[&str]) -> Vec<&'static str> {
        let only = only.iter().map(ToString::to_string).collect();
        let chosen = Options { only, ..Options::default() }.experiments().unwrap();
        chosen.iter().map(|experiment| experiment.id).collect()
    }

    #[test]
    fn experiments_are_chosen_by_id_or_number() {
        assert_eq!(ids(&["4", "1b"]), ["1b", "4"]);
        assert_eq!(ids(&["1"]), ["1a", "1b", "1c", "1d", "1e", "1f", "1g", "1h"]);
        assert_eq!(ids(&[]).len(), EXPERIMENTS.len());
    }

    #[test]
    fn mistakes_are_one_sentence() {
        let check = |options: Options, says: &str| {
            let error = options.experiments().err().unwrap().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        };
        let only = vec!["9".to_owned()];
        check(Options { only, ..Options::default() }, "unknown experiment \"9\": there are 1a, ");
        check(Options { rounds: Some(0), ..Options::default() }, "--rounds is from 1 to 100, not 0");
        check(Options { secs: Some(0), ..Options::default() }, "--secs is from 1 to 600, not 0");
    }
}
