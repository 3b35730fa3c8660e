//! The README's order, links between documents, the list of decisions.

use crate::tidy::tree::File;

/// The sections of the README, in the order a newcomer needs them. A heading may say more after these words.
const README_SECTIONS: [&str; 8] =
    ["What it is", "Run", "Test", "Benchmark", "Embedding", "Compatibility", "Guarantees", "Where to read on"];

/// Where decisions are kept.
const DECISIONS: &str = "docs/adr/";
/// The decision that has a sentence on each dependency.
pub(super) const DEPENDENCIES: &str = "docs/adr/0006-dependencies.md";

/// Sections of the README that are missing or out of order.
pub(super) fn readme_order(readme: &str) -> Vec<String> {
    let headings: Vec<&str> = prose(readme).filter_map(|(_, line)| line.strip_prefix("## ")).collect();
    let mut found = Vec::new();
    let mut after = 0;
    for section in README_SECTIONS {
        let is_section =
            |heading: &&str| heading.get(..section.len()).is_some_and(|start| start.eq_ignore_ascii_case(section));
        match headings.iter().position(is_section) {
            None => found.push(format!("README.md has no section `## {section}`")),
            Some(at) if at < after => found.push(format!(
                "README.md: `## {section}` stands too early: the order is {}",
                README_SECTIONS.join(", ")
            )),
            Some(at) => after = at,
        }
    }
    found
}

/// Relative links in Markdown files that lead nowhere; `exists` says whether a path from the root is there.
pub(super) fn links(files: &[File], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in prose(&file.text) {
            for target in targets(line) {
                let path = resolve(&file.path, target);
                if !path.as_deref().is_some_and(&exists) {
                    found.push(format!("{}:{number}: the link to {target} leads nowhere", file.path));
                }
            }
        }
    }
    found
}

/// Decisions that the list of decisions does not name.
pub(super) fn decisions_listed(files: &[File]) -> Vec<String> {
    let list =
        files.iter().find(|file| file.path == format!("{DECISIONS}README.md")).map_or("", |file| file.text.as_str());
    files
        .iter()
        .filter_map(|file| file.path.strip_prefix(DECISIONS))
        .filter(|name| *name != "README.md" && !list.contains(&format!("]({name})")))
        .map(|name| format!("{DECISIONS}{name} is not listed in {DECISIONS}README.md"))
        .collect()
}

/// Dependencies of the workspace that the decision about dependencies has no word on.
pub(super) fn dependencies_explained(manifest: &str, decision: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let words: Vec<&str> = decision.split(|c| !is_part(c)).collect();
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, value)| !value.contains("path = ") && !words.contains(name))
        .map(|(name, _)| format!("{name} has no sentence in {DEPENDENCIES}: say why it is needed"))
        .collect()
}

/// The lines outside of code blocks, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().zip(1..).filter_map(move |(line, number)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((number, line))
    })
}

/// Link targets within the project: `[text](target)`, without the part after `#`. Code spans are passed over.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    // Every second piece between backticks is code.
    line.split('`')
        .step_by(2)
        .flat_map(|text| text.split("](").skip(1))
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty())
}

/// `target` as seen from the file `from`, as a path from the root; nothing when it leaves the project.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(if parts.is_empty() { ".".into() } else { parts.join("/") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::file;

    fn readme(sections: &[&str]) -> String {
        sections.iter().map(|section| format!("## {section}\ntext\n")).collect()
    }

    #[test]
    fn the_readme_keeps_its_order() {
        assert_eq!(readme_order(&readme(&README_SECTIONS)), Vec::<String>::new());
        let mut sections = README_SECTIONS.map(|section| format!("{section} kv"));
        assert_eq!(readme_order(&readme(&sections.each_ref().map(String::as_str))), Vec::<String>::new());
        sections.swap(2, 3);
        assert_eq!(readme_order(&readme(&sections.each_ref().map(String::as_str))).len(), 1);
        let found = readme_order(&readme(&README_SECTIONS[1..]));
        assert!(found.len() == 1 && found[0].contains("`## What it is`"), "{found:?}");
        assert_eq!(readme_order("").len(), README_SECTIONS.len());
        // A shell comment in a code block is no heading.
        assert_eq!(readme_order("```sh\n## Run\n```\n").len(), README_SECTIONS.len());
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let text = "[a](formats.md#log) [b](../README.md) [c](https://example.org/x) [d](#here)\n`[e](not-a-link)`\n```\n[f](code.md)\n```\n[g](gone.md)\n";
        let exists = |path: &str| ["docs/formats.md", "README.md"].contains(&path);
        let found = links(&[file("docs/a.md", text)], exists);
        assert_eq!(found, ["docs/a.md:6: the link to gone.md leads nowhere"]);
        assert_eq!(links(&[file("README.md", "[up](../../etc/passwd)")], |_| true).len(), 1);
    }

    #[test]
    fn every_decision_is_listed() {
        let mut files = vec![file("docs/adr/0001-a.md", ""), file("docs/adr/README.md", "- [0001](0001-a.md)\n")];
        assert_eq!(decisions_listed(&files), Vec::<String>::new());
        files.push(file("docs/adr/0002-b.md", ""));
        assert_eq!(decisions_listed(&files), ["docs/adr/0002-b.md is not listed in docs/adr/README.md"]);
    }

    #[test]
    fn every_dependency_has_its_sentence() {
        let manifest =
            "[workspace.dependencies]\nkv-a = { path = \"kv-a\" }\nh2 = \"1\"\nh2-more = \"1\"\n[profile.dev]\nx = 1\n";
        assert_eq!(dependencies_explained(manifest, "| h2, h2-more | why |"), Vec::<String>::new());
        let found = dependencies_explained(manifest, "| h2-more | why |");
        assert!(found.len() == 1 && found[0].starts_with("h2 has no sentence"), "{found:?}");
    }
}
