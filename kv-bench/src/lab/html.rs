//! The report as one page: no file beside it, no script, dark and light, phone and desk.

use std::fmt::Write;

use anyhow::Result;

use super::answers::Answer;
use super::chart::{colour_of, svg};
use super::report::{Chart, Report, Section, Table};
use super::rivals::{OURS, RIVALS};

/// A cell of so many characters is a sentence, and may be broken.
const WORDS_LONG: usize = 44;
/// The page's style sheet.
const STYLE: &str = include_str!("report.css");

/// The page.
///
/// # Errors
/// When a chart cannot be drawn.
pub(crate) fn page(report: &Report, answers: &[Answer]) -> Result<String> {
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>kv: the lab</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n<h1>kv: the lab</h1>\n<p>Eight designs of a key-value engine under one raft log, and \
         six bottlenecks, measured by one command. The designs and the predictions are those of the analysis that kv \
         answers; the figures are this machine's.</p>\n"
    );
    facts(&mut out, report);
    out.push_str("<nav><h2>Contents</h2><ul>\n<li><a href=\"#answers\">The six bottlenecks</a></li>\n");
    out.push_str("<li><a href=\"#designs\">The eight designs</a></li>\n");
    for section in &report.sections {
        let _ = writeln!(out, "<li><a href=\"#s{0}\">{0} {1}</a></li>", section.id, escape(&section.title));
    }
    out.push_str("</ul></nav>\n<h2 id=\"answers\">The six bottlenecks</h2>\n");
    for Answer { bottleneck, text } in answers {
        let _ = writeln!(out, "<h3>{}</h3>\n<p>{}</p>", escape(bottleneck), escape(text));
    }
    out.push_str("<h2 id=\"designs\">The eight designs</h2>\n<dl>\n");
    for rival in &RIVALS {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}.</dd>", rival.name, escape(rival.about));
    }
    out.push_str("</dl>\n");
    for one in &report.sections {
        section(&mut out, one)?;
    }
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(out)
}

fn facts(out: &mut String, report: &Report) {
    out.push_str("<table class=\"facts\"><tbody>\n");
    for (name, value) in &report.facts {
        let _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    out.push_str("</tbody></table>\n");
}

fn section(out: &mut String, section: &Section) -> Result<()> {
    let Section { id, title, how, provenance, tables, charts, says, .. } = section;
    let _ = writeln!(out, "<section>\n<h2 id=\"s{id}\">{id} {}</h2>\n<p>{}</p>", escape(title), escape(how));
    for one in says {
        let _ = writeln!(out, "<p class=\"says\">{}</p>", escape(one));
    }
    for one in charts {
        chart(out, one)?;
    }
    for one in tables {
        table(out, one);
    }
    let _ = writeln!(out, "<p class=\"small\">{}</p>\n</section>", escape(provenance));
    Ok(())
}

fn chart(out: &mut String, chart: &Chart) -> Result<()> {
    let (Chart::Bars { title, .. } | Chart::Lines { title, .. }) = chart;
    let _ = writeln!(out, "<figure>\n<figcaption>{}</figcaption>", escape(title));
    // A picture for those who see, a name for those who listen; the table below says the same.
    let label = format!("<svg role=\"img\" aria-label=\"{}\"", escape(title));
    out.push_str(&svg(chart)?.replacen("<svg", &label, 1));
    if let Chart::Lines { series, .. } = chart {
        out.push_str("<ul class=\"legend\">");
        for (index, (name, _)) in series.iter().enumerate() {
            let colour = colour_of(name, index);
            let _ = write!(out, "<li><span style=\"background:{colour}\"></span>{}</li>", escape(name));
        }
        out.push_str("</ul>");
    }
    out.push_str("</figure>\n");
    Ok(())
}

fn table(out: &mut String, table: &Table) {
    let _ = writeln!(out, "<div class=\"wide\"><table>\n<caption>{}</caption>\n<thead><tr>", escape(&table.caption));
    for cell in &table.head {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(cell));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        let ours = row.first().is_some_and(|name| name.starts_with(OURS));
        out.push_str(if ours { "<tr class=\"ours\">" } else { "<tr>" });
        for (index, cell) in row.iter().enumerate() {
            let tag = match index {
                0 => "th scope=\"row\"",
                _ if cell.chars().count() > WORDS_LONG => "td class=\"words\"",
                _ => "td",
            };
            let _ = write!(out, "<{tag}>{}</{}>", escape(cell), if index == 0 { "th" } else { "td" });
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_stands_alone_and_escapes() {
        let mut one = Section::new("4", "Ranges <and> more", "How.".into());
        let rows = vec![vec![OURS.to_owned(), "a & b".to_owned()]];
        one.tables.push(Table { rows, ..Table::new("t", &["design", "x"]) });
        let bars = vec![(OURS.to_owned(), 1.0, 1.0, 1.0)];
        one.charts.push(Chart::Bars { title: "c".into(), unit: "u".into(), bars });
        let facts = vec![("command".to_owned(), "cargo xtask bench lab".to_owned())];
        let report = Report { facts, sections: vec![one] };
        let answers = [Answer { bottleneck: "1".into(), text: "because".into() }];
        let page = page(&report, &answers).expect("it can be drawn");
        for part in ["Ranges &lt;and&gt; more", "a &amp; b", "class=\"ours\"", "<svg role=", "cargo xtask bench lab"] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        // Nothing is fetched: the one address is the namespace of SVG.
        assert_eq!(page.matches("://").count(), page.matches("http://www.w3.org/2000/svg").count(), "{page}");
        assert!(!page.contains("<script") && !page.contains("<link"), "{page}");
    }
}
