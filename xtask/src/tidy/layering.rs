//! Which crate may know which.
//!
//! The rules are the table [`RULES`], the facts come from `cargo metadata`. What a crate reaches is walked through
//! normal dependencies; what it names itself is checked for every kind, tests and build scripts included.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::run::Workspace;

/// What one crate of ours may depend on.
struct Rule {
    name: &'static str,
    /// Crates of ours that it may name.
    ours: &'static [&'static str],
    /// Foreign crates that must not be anywhere in its normal dependency tree.
    unreachable: &'static [&'static str],
}

const ASYNC_AND_WIRE: &[&str] = &["tokio", "tonic", "prost", "axum", "hyper", "clap"];
const ASYNC_AND_WIRE_BUT_CLAP: &[&str] = &["tokio", "tonic", "prost", "axum", "hyper"];

/// The layers, lowest first. A crate of the workspace that is not here is a finding.
const RULES: &[Rule] = &[
    Rule { name: "kv-codec", ours: &[], unreachable: ASYNC_AND_WIRE },
    Rule { name: "kv-store", ours: &["kv-codec"], unreachable: ASYNC_AND_WIRE },
    Rule { name: "kv-raft", ours: &["kv-codec"], unreachable: ASYNC_AND_WIRE },
    Rule { name: "kv-server", ours: &["kv-codec", "kv-store", "kv-raft"], unreachable: &[] },
    Rule { name: "kv-sim", ours: &["kv-codec", "kv-store", "kv-raft"], unreachable: ASYNC_AND_WIRE_BUT_CLAP },
    Rule { name: "kv-bench", ours: &["kv-codec", "kv-store", "kv-raft", "kv-server", "kv-sim"], unreachable: &[] },
    Rule { name: "xtask", ours: &[], unreachable: ASYNC_AND_WIRE_BUT_CLAP },
];

/// Foreign crates that one crate of ours alone may name, and why.
const KEPT: &[(&str, &str, &str)] = &[
    ("raft", "kv-raft", "its types stay behind our Node"),
    ("raft-proto", "kv-raft", "its types stay behind our Node"),
    ("protobuf", "kv-raft", "this parser must never see bytes of the network"),
    ("imbl", "kv-store", "the map is a detail of the View"),
    ("dashmap", "kv-bench", "a rival"),
    ("scc", "kv-bench", "a rival"),
    ("rocksdb", "kv-bench", "a rival"),
    ("raft-engine", "kv-bench", "a rival"),
    ("fjall", "kv-bench", "a rival"),
    ("redb", "kv-bench", "a rival"),
    ("sled", "kv-bench", "a rival"),
];

/// The crate whose tree is counted, and how many packages it may reach: a store that anyone can embed stays small.
const SMALL: (&str, usize) = ("kv-store", 25);

/// A package, as far as layering cares. Names stand for packages: two versions of one crate are one node.
#[derive(Debug, Default)]
struct Package {
    ours: bool,
    /// Reached when the crate is used.
    normal: BTreeSet<String>,
    /// Reached by its tests and build scripts only.
    other: BTreeSet<String>,
}

/// Packages by name.
#[derive(Debug, Default)]
pub(super) struct Graph {
    packages: BTreeMap<String, Package>,
}

impl Graph {
    /// Asks cargo, for this machine's platform, without changing the lock file.
    pub(super) fn read(workspace: &Workspace) -> Result<Self> {
        let metadata = MetadataCommand::new()
            .cargo_path(workspace.cargo_path())
            .manifest_path(workspace.root.join("Cargo.toml"))
            .other_options(["--locked".to_string(), "--filter-platform".to_string(), host()?])
            .exec()
            .context("cargo metadata --locked")?;
        let members: BTreeSet<_> = metadata.workspace_members.iter().collect();
        let names: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p.name.to_string())).collect();
        let mut graph = Self::default();
        for node in metadata.resolve.context("cargo metadata gave no dependency graph")?.nodes {
            let package = graph.packages.entry(names[&node.id].clone()).or_default();
            package.ours |= members.contains(&node.id);
            for dependency in &node.deps {
                let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
                let set = if normal { &mut package.normal } else { &mut package.other };
                set.insert(names[&dependency.pkg].clone());
            }
        }
        Ok(graph)
    }

    /// How many packages there are.
    pub(super) fn len(&self) -> usize {
        self.packages.len()
    }

    /// Everything reached from `name` through normal dependencies, each with the package it was first reached from.
    fn reached(&self, name: &str) -> BTreeMap<&str, &str> {
        let mut from = BTreeMap::new();
        let mut queue = VecDeque::new();
        queue.extend(self.packages.get_key_value(name));
        while let Some((name, package)) = queue.pop_front() {
            for dependency in &package.normal {
                if !from.contains_key(dependency.as_str()) {
                    from.insert(dependency.as_str(), name.as_str());
                    queue.extend(self.packages.get_key_value(dependency));
                }
            }
        }
        from
    }
}

/// The triple of this machine, as rustc names it.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc).arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_string()),
        None => bail!("rustc -vV names no host"),
    }
}

/// What is wrong with the layers of `graph`.
pub(super) fn check(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (name, package) in graph.packages.iter().filter(|(_, package)| package.ours) {
        match RULES.iter().find(|rule| rule.name == name) {
            Some(rule) => check_rule(graph, rule, package, &mut found),
            None => found.push(format!("{name} has no rule: add it to the table in xtask/src/tidy/layering.rs")),
        }
        for (kept, keeper, why) in KEPT {
            if name != keeper && names(package).any(|dependency| dependency == *kept) {
                found.push(format!("{name} depends on {kept}, which only {keeper} may: {why}"));
            }
        }
    }
    let (small, limit) = SMALL;
    let count = graph.reached(small).len();
    if count > limit {
        found.push(format!("{small} reaches {count} packages; the limit is {limit}"));
    }
    found
}

fn check_rule(graph: &Graph, rule: &Rule, package: &Package, found: &mut Vec<String>) {
    let Rule { name, ours, unreachable } = rule;
    for dependency in names(package) {
        let is_ours = graph.packages.get(dependency).is_some_and(|package| package.ours);
        if is_ours && !ours.contains(&dependency) {
            let allowed = if ours.is_empty() { "none of our crates".into() } else { ours.join(", ") };
            found.push(format!("{name} depends on {dependency}: it may know {allowed}"));
        }
    }
    let reached = graph.reached(name);
    for foreign in *unreachable {
        if reached.contains_key(foreign) {
            found.push(format!("{name} must not reach {foreign}, and does: {}", path(&reached, foreign)));
        } else if package.other.contains(*foreign) {
            found.push(format!("{name} must not name {foreign}, not even for its tests or build script"));
        }
    }
}

fn names(package: &Package) -> impl Iterator<Item = &str> {
    package.normal.union(&package.other).map(String::as_str)
}

/// How `to` was reached, as `a -> b -> to`.
fn path(reached: &BTreeMap<&str, &str>, to: &str) -> String {
    let mut steps = vec![to];
    while let Some(from) = steps.last().and_then(|step| reached.get(step)) {
        if steps.contains(from) {
            break;
        }
        steps.push(from);
    }
    steps.reverse();
    steps.join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph in which every crate of ours uses exactly what it may, with `extra` edges added. `(dev)` before the
    /// dependency makes it one of the tests only.
    fn graph(extra: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for rule in RULES {
            let package = graph.packages.entry(rule.name.into()).or_default();
            package.ours = true;
            package.normal.extend(rule.ours.iter().map(|name| (*name).into()));
        }
        for (from, to) in extra {
            let name = to.trim_start_matches("(dev)");
            graph.packages.entry(name.into()).or_default();
            let package = graph.packages.entry((*from).into()).or_default();
            let set = if name == *to { &mut package.normal } else { &mut package.other };
            set.insert(name.into());
        }
        graph
    }

    fn only_finding(extra: &[(&str, &str)]) -> String {
        let found = check(&graph(extra));
        assert_eq!(found.len(), 1, "{found:?}");
        found.concat()
    }

    #[test]
    fn the_layers_as_drawn_are_fine() {
        let good = [
            ("kv-server", "tokio"),
            ("kv-raft", "raft"),
            ("raft", "protobuf"),
            ("kv-bench", "redb"),
            ("kv-sim", "clap"),
        ];
        assert_eq!(check(&graph(&good)), Vec::<String>::new());
    }

    #[test]
    fn a_layer_that_looks_up_or_sideways_is_found() {
        assert_eq!(
            only_finding(&[("kv-codec", "kv-store")]),
            "kv-codec depends on kv-store: it may know none of our crates"
        );
        assert!(only_finding(&[("kv-store", "kv-raft")]).starts_with("kv-store depends on kv-raft"));
        assert!(only_finding(&[("kv-raft", "(dev)kv-store")]).starts_with("kv-raft depends on kv-store"));
        assert!(only_finding(&[("xtask", "kv-sim")]).starts_with("xtask depends on kv-sim"));
    }

    #[test]
    fn a_runtime_below_the_server_is_found_with_its_path() {
        let message = only_finding(&[("kv-sim", "helper"), ("helper", "tokio")]);
        assert_eq!(message, "kv-sim must not reach tokio, and does: kv-sim -> helper -> tokio");
        assert!(only_finding(&[("kv-codec", "(dev)prost")]).contains("must not name prost"));
        assert!(only_finding(&[("kv-raft", "clap")]).contains("kv-raft -> clap"));
    }

    #[test]
    fn crates_kept_in_one_place_are_found_elsewhere() {
        assert!(only_finding(&[("kv-server", "raft")]).contains("only kv-raft may"));
        assert!(only_finding(&[("kv-sim", "(dev)protobuf")]).contains("only kv-raft may"));
        assert!(only_finding(&[("kv-server", "redb")]).contains("only kv-bench may"));
    }

    #[test]
    fn a_store_with_a_large_tree_is_found() {
        let names: Vec<String> = (0..SMALL.1).map(|n| format!("dependency-{n}")).collect();
        let edges: Vec<(&str, &str)> = names.iter().map(|name| (SMALL.0, name.as_str())).collect();
        // Together with kv-codec that is one too many.
        assert!(only_finding(&edges).contains("kv-store reaches 26 packages"));
        assert_eq!(check(&graph(&edges[1..])), Vec::<String>::new());
    }

    #[test]
    fn a_crate_without_a_rule_is_found() {
        let mut graph = graph(&[]);
        graph.packages.insert("kv-new".into(), Package { ours: true, ..Package::default() });
        let found = check(&graph);
        assert!(found.len() == 1 && found[0].starts_with("kv-new has no rule"), "{found:?}");
    }
}
