//! `kv-bench first`: a first look, in about a minute and a half: our server beside the control on the wire, and the engines of the analysis
//! in miniature.
//!
//! It is `wire` and two experiments of `lab`, each with rounds of a second or less: enough to see what is what, too short to compare by. The
//! engines' report has a folder of its own, so that it takes the place of no longer one.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::race::Race;
use crate::{lab, wire};

/// Seconds of a round on the wire.
const SECS: u32 = 1;
/// Rounds of either.
const ROUNDS: u32 = 3;
/// The analysis's mix: engine alone, and through raft and log.
const EXPERIMENTS: [&str; 2] = ["1a", "1b"];
/// Seconds of a design's rounds together.
const ENGINE_SECS: u32 = 1;
/// Where in the report's directory the engines' is.
const ENGINES: &str = "first";

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The binary of kv-server.
    #[arg(long, overrides_with = "server")]
    pub server: PathBuf,
    /// Where the reports go; the servers' data lie there while they run.
    #[arg(long, value_name = "DIR", default_value = "target/bench", overrides_with = "out")]
    pub out: PathBuf,
}

/// Runs both and prints their tables. `kv_bench` is this program, which is the control too.
///
/// # Errors
/// As [`wire::run`] and [`lab::run`].
pub async fn run(options: &Options, kv_bench: &Path) -> Result<()> {
    let Options { server, out } = options.clone();
    let engines = lab::Options {
        quick: true,
        only: EXPERIMENTS.map(str::to_owned).to_vec(),
        rounds: Some(ROUNDS),
        secs: Some(ENGINE_SECS),
        out: out.join(ENGINES),
    };
    let race = Race { server, rival: Vec::new(), out };
    let usual = wire::Options { secs: SECS, rounds: ROUNDS, ..wire::Options::usual(race) };
    let report = wire::run(&usual, kv_bench).await?;
    println!("\n{}", report.markdown);
    let written = lab::run(engines).await?;
    println!("The analysis's engines, in miniature (`cargo xtask bench lab` is the whole of it):\n{}", written.tables);
    println!("To compare with etcd: cargo xtask bench --rival etcd=/path/to/etcd");
    let wire::Report { markdown_path, svg_path, json_path, .. } = &report;
    let paths = [markdown_path, svg_path, json_path, &written.html].map(|path| path.display());
    let [text, chart, rounds, page] = paths;
    println!("Report: {text}, as a chart: {chart}, every round: {rounds}; of the engines: {page}");
    Ok(())
}
