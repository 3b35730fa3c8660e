//! The experiments, each a file.

mod ablation;
mod batch;
mod codec;
mod log;
mod mixed;
mod range;
mod scaling;
mod sequence;

use anyhow::Result;

use super::Lab;
use super::report::Section;

pub(crate) use log::RAFT_ENGINE_NOT_BUILT;
pub(crate) use mixed::CLIENTS;

/// An experiment.
pub(crate) struct Experiment {
    /// By which `--only` names it.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) run: fn(&Lab) -> Result<Section>,
}

/// All of them, in the order of the report.
pub(crate) const EXPERIMENTS: &[Experiment] = &[
    Experiment { id: "1a", title: "The analysis's mix, engine alone", run: mixed::alone },
    Experiment { id: "1b", title: "The analysis's mix, through raft and log", run: mixed::through_raft },
    Experiment { id: "1c", title: "The same without a batch proposer", run: mixed::without_proposer },
    Experiment { id: "1d", title: "The harder mix, engine alone", run: mixed::harder_alone },
    Experiment { id: "1e", title: "The harder mix, through raft and log", run: mixed::harder_through_raft },
    Experiment { id: "1f", title: "The harder mix in fixed proportions, engine alone", run: mixed::blend_alone },
    Experiment { id: "1g", title: "The harder mix in fixed proportions, through raft", run: mixed::blend_through_raft },
    Experiment { id: "1h", title: "The harder mix in fixed proportions, 100,000 keys", run: mixed::blend_of_many },
    Experiment { id: "2", title: "Readers beside a writer", run: scaling::run },
    Experiment { id: "3", title: "Operations per commit", run: batch::run },
    Experiment { id: "4", title: "Ten keys of n", run: range::run },
    Experiment { id: "5", title: "Codecs", run: codec::run },
    Experiment { id: "6", title: "Sequence numbers", run: sequence::run },
    Experiment { id: "7", title: "Logs", run: log::run },
    Experiment { id: "8", title: "Ours without one idea at a time", run: ablation::run },
];
