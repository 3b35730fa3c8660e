//! The report as Markdown: what the page says, without the charts.

use std::fmt::Write;

use super::answers::Answer;
use super::report::{Report, Section};
use crate::figures::table;

/// The text.
#[must_use]
pub(crate) fn text(report: &Report, answers: &[Answer]) -> String {
    let mut out = String::from("# kv: the lab\n\n");
    for (name, value) in &report.facts {
        let _ = writeln!(out, "* {name}: {value}");
    }
    out.push_str("\n## The six bottlenecks\n");
    for Answer { bottleneck, text } in answers {
        let _ = writeln!(out, "\n**{bottleneck}** {text}");
    }
    for section in &report.sections {
        let _ = writeln!(out, "\n## {} {}\n\n{}", section.id, section.title, section.how);
        for says in &section.says {
            let _ = writeln!(out, "\n{says}");
        }
        out.push_str(&tables(section));
        let _ = writeln!(out, "\n{}", section.provenance);
    }
    out
}

/// An experiment's tables, and nothing else.
#[must_use]
pub(crate) fn tables(section: &Section) -> String {
    let mut out = String::new();
    for one in &section.tables {
        let head: Vec<&str> = one.head.iter().map(String::as_str).collect();
        let _ = writeln!(out, "\n{}:\n\n{}", one.caption, table(&head, &one.rows).trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::report::Table;
    use super::*;

    #[test]
    fn every_part_is_there() {
        let mut section = Section::new("6", "Sequence", "How.".into());
        section.says.push("It says.".into());
        section.tables.push(Table { rows: vec![vec!["atomic".into()]], ..Table::new("ns", &["kind"]) });
        let report = Report { facts: vec![("commit".into(), "abc".into())], sections: vec![section] };
        let text = text(&report, &[Answer { bottleneck: "2 Numbers.".into(), text: "They are.".into() }]);
        for part in ["* commit: abc", "**2 Numbers.** They are.", "## 6 Sequence", "It says.", "ns:", "| atomic |"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
