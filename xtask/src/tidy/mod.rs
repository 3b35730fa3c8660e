//! `cargo xtask tidy`: checks of the tree that no compiler makes.
//!
//! Every check is a pure function from text (or from a small graph) to the sentences it has to say; nothing to say is
//! the good answer. This file reads the tree and hands it to them.
//!
//! * [`layering`]: which crate may know which, from `cargo metadata`.
//! * [`lock`]: versions and sources in `Cargo.lock`.
//! * [`source`]: file sizes, words that must not stay, module docs, `unsafe`.
//! * [`docs`]: the README's order, links, the list of decisions.
//! * [`api`]: the public API of each library, as docs/api has it.

mod api;
mod docs;
mod layering;
mod lock;
mod source;
mod tree;

use anyhow::{Context, Result, bail};

use crate::run::Workspace;
use crate::tidy::layering::Graph;
use crate::tidy::tree::Tree;

/// What to do about files that are made from the source.
#[derive(Default, clap::Args)]
pub(crate) struct Options {
    /// Writes docs/api anew instead of comparing: look at the difference before it is committed.
    #[arg(long)]
    bless: bool,
}

/// Runs every check and prints what each has to say; one sentence is a failure.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let tree = Tree::read(&workspace.root).context("reading the tree")?;
    let lock = std::fs::read_to_string(workspace.root.join("Cargo.lock")).context("reading Cargo.lock")?;
    let readme = tree.text("README.md").unwrap_or_default();

    for long in source::long_files(&tree.files) {
        println!("tidy: look twice: {long}");
    }
    let mut findings = 0;
    let mut checks = 0;
    let mut check = |name: &str, found: Vec<String>| {
        for finding in &found {
            println!("tidy: {name}: {finding}");
        }
        findings += found.len();
        checks += 1;
    };
    check("lock file", lock::check(&lock));
    check("toolchain", source::no_toolchain_file(&tree.files));
    check("file sizes", source::oversized_files(&tree.files));
    check("words", source::forbidden_words(&tree.files));
    check("module docs", source::module_docs(&tree.files));
    check("unsafe", source::unsafe_code(&tree.files));
    check("readme", docs::readme_order(readme));
    let recorded = std::fs::read_to_string(crate::readme::run_path(&workspace.root)).unwrap_or_default();
    check("readme's figures", crate::readme::check(readme, &recorded));
    check("links", docs::links(&tree.files, |path| workspace.root.join(path).exists()));
    check("decisions", docs::decisions_listed(&tree.files));
    let explained = docs::dependencies_explained(
        tree.text("Cargo.toml").unwrap_or_default(),
        tree.text(docs::DEPENDENCIES).unwrap_or_default(),
    );
    check("dependencies", explained);
    check("public API", api::check(&workspace.root, options.bless)?);
    // Last, because cargo itself may refuse to answer about a tree that the checks above have something to say on.
    let graph = Graph::read(workspace)?;
    check("layering", layering::check(&graph));
    if findings > 0 {
        bail!("tidy found {findings} thing(s) to mend");
    }
    println!("tidy: {checks} checks on {} files and {} packages, all good", tree.files.len(), graph.len());
    Ok(())
}
