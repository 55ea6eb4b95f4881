//! The page with all reports of a folder: one file, with its pictures and its style in it, that needs no network.

use super::report::{BenchReport, Measure, SCHEMA, number, with_unit};
use super::{Options, SCENARIOS};
use crate::driver;
use crate::json;
use crate::machine::Failure;
use crate::plot::figure::{Colour, FAINT_INK, GRID, INK, PAPER, escape};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// How it looks.
const STYLE: &str = include_str!("page.css");

/// Figures beyond so many are shown on demand, if the scenario has a table that says the same.
const MANY: usize = 14;

/// Where it is written.
#[must_use]
pub fn file(options: &Options) -> PathBuf {
    options.folder.join("report.html")
}

/// Whatever reports are in the folder, each with its picture.
#[must_use]
pub fn reports(options: &Options) -> Vec<(BenchReport, Option<String>)> {
    let reports = SCENARIOS.iter().filter_map(|scenario| {
        let text = std::fs::read(options.folder.join(format!("{}.json", scenario.name))).ok()?;
        // What another version has left is not understood, and not shown.
        let report = serde_json::from_slice::<BenchReport>(&text).ok()?;
        let svg = report
            .plot
            .as_deref()
            .map(Path::file_name)
            .and_then(|name| std::fs::read_to_string(options.folder.join(name?)).ok());
        (report.schema == SCHEMA).then_some((report, svg))
    });
    reports.collect()
}

/// Writes it anew with whatever reports are in the folder.
///
/// # Errors
/// If it cannot be written.
pub fn write(options: &Options) -> Result<(), Failure> {
    driver::write(&file(options), page(&reports(options)).as_bytes())
}

/// The page of reports, each with its picture.
fn page(reports: &[(BenchReport, Option<String>)]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Firn: scalability suite</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n\
         <h1>Firn: scalability suite</h1>\n",
        recolour()
    );
    let dates = || reports.iter().map(|(report, _)| report.date.as_str());
    if let (Some(first), Some(last)) = (dates().min(), dates().max()) {
        let when = if first == last { first.to_owned() } else { format!("{first} to {last}") };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "<p class=\"faint\">Measured {}.</p>", escape(&when));
    }
    out.push_str(
        "<p class=\"faint\">Times are those of a machine that is mostly emulated in software: compare them with each \
         other, not with those of other hosts. Instruction counts repeat.</p>\n",
    );
    overview(&mut out, reports);
    for (report, svg) in reports {
        section(&mut out, report, svg.as_deref());
    }
    out.push_str("</body>\n</html>\n");
    out
}

/// Rules that give pictures the page's colours, which follow the reader's light or dark.
fn recolour() -> String {
    let mut rules = String::new();
    let inks = [(INK, "ink"), (FAINT_INK, "faint"), (GRID, "line"), (PAPER, "paper")];
    let names = ["blue", "orange", "green", "red"];
    let colours = Colour::ALL.iter().zip(names).map(|(colour, name)| (colour.hex(), name));
    for (hex, name) in inks.into_iter().chain(colours) {
        let _ = writeln!(
            rules,
            "figure [fill=\"{hex}\"] {{ fill: var(--{name}); }} figure [stroke=\"{hex}\"] {{ stroke: var(--{name}); }}"
        );
    }
    rules
}

/// One line for each scenario.
fn overview(out: &mut String, reports: &[(BenchReport, Option<String>)]) {
    out.push_str(
        "<div class=\"wide\"><table>\n<tr><th>scenario<th>what it measures<th class=\"number\">runs\
         <th class=\"number\">took<th class=\"number\">budgets kept<th>\n",
    );
    for (report, _) in reports {
        let verdicts = || report.figures.iter().filter_map(Measure::is_kept);
        let (kept, all) = (verdicts().filter(|kept| *kept).count(), verdicts().count());
        let budgets = match all {
            0 => String::new(),
            _ if kept == all => format!("<span class=\"kept\">{kept} of {all}</span>"),
            _ => format!("<span class=\"missed\">{kept} of {all}</span>"),
        };
        let state = match (report.ok, report.remarks().is_empty()) {
            (false, _) => "<span class=\"error\">failed</span>",
            (true, false) => "<span class=\"note\">see notes</span>",
            (true, true) => "",
        };
        let _ = writeln!(
            out,
            "<tr><td><a href=\"#{name}\">{name}</a><td>{}<td class=\"number\">{}<td class=\"number\">{:.0} s\
             <td class=\"number\">{budgets}<td>{state}",
            escape(&report.about),
            report.samples.len(),
            report.elapsed_s,
            name = escape(&report.scenario),
        );
    }
    out.push_str("</table></div>\n");
}

fn section(out: &mut String, report: &BenchReport, svg: Option<&str>) {
    let name = escape(&report.scenario);
    let _ = writeln!(out, "<h2 id=\"{name}\">{name}</h2>\n<p>{}</p>", escape(&report.about));
    let _ = writeln!(
        out,
        "<p class=\"faint\">{} · <code>{}</code></p>",
        escape(&report.date),
        escape(&report.options.command(&report.scenario))
    );
    for failure in &report.failures {
        let _ = writeln!(out, "<p class=\"error\">Failed: {}</p>", escape(failure));
    }
    for remark in report.remarks() {
        let _ = writeln!(out, "<p class=\"note\">Note: {}</p>", escape(&remark));
    }
    if let Some(svg) = svg {
        let _ = writeln!(out, "<figure>\n{svg}</figure>");
    }
    if !report.table.is_empty() {
        table(out, &report.table);
    }
    if !report.figures.is_empty() {
        let hide = !report.table.is_empty() && report.figures.len() > MANY;
        if hide {
            let _ = writeln!(out, "<details><summary>All {} figures</summary>", report.figures.len());
        }
        figures(out, &report.figures);
        out.push_str(if hide { "</details>\n" } else { "" });
    }
    out.push_str("<details><summary>Configuration and host</summary>\n<pre>");
    for (what, is) in &report.versions {
        let _ = writeln!(out, "{}: {}", escape(what), escape(is));
    }
    let _ = writeln!(out, "took: {:.1} s\nseed: {}", report.elapsed_s, report.options.seed);
    if let Some(Ok(text)) = report.configuration.first().map(json::to_text) {
        out.push_str(&escape_lines(&text));
    }
    out.push_str("</pre></details>\n");
}

/// Text of several lines.
fn escape_lines(text: &str) -> String {
    text.lines().map(|line| escape(line) + "\n").collect()
}

fn figures(out: &mut String, figures: &[Measure]) {
    let has_spread = figures.iter().any(|figure| figure.spread.is_some());
    let spread = if has_spread { "<th class=\"number\">middle half<th class=\"number\">least to most" } else { "" };
    let _ = writeln!(
        out,
        "<div class=\"wide\"><table>\n<tr><th>figure<th class=\"number\">value{spread}<th class=\"number\">budget<th>"
    );
    for figure in figures {
        let value = figure.value.map_or_else(|| "unknown".to_owned(), |value| with_unit(value, &figure.unit));
        let _ = write!(out, "<tr><td>{}<td class=\"number\">{}", escape(&figure.about), escape(&value));
        if has_spread {
            let pair = |(low, high): (f64, f64)| format!("{} to {}", number(low), number(high));
            let [half, range] =
                figure.spread.map_or_else(Default::default, |spread| [pair(spread.quartiles), pair(spread.range)]);
            let class = if figure.is_noisy() { "number note" } else { "number" };
            let _ = write!(out, "<td class=\"{class}\">{half}<td class=\"number\">{range}");
        }
        let budget = figure.budget.map_or_else(String::new, |budget| budget.text(&figure.unit));
        let verdict = match figure.is_kept() {
            Some(true) => "<span class=\"kept\">kept</span>",
            Some(false) => "<span class=\"missed\">missed</span>",
            None => "",
        };
        let _ = writeln!(out, "<td class=\"number\">{}<td>{verdict}", escape(&budget));
    }
    out.push_str("</table></div>\n");
}

/// A scenario's own rows: the first the heading, one of a single cell a remark.
fn table(out: &mut String, rows: &[Vec<String>]) {
    let remarks = || rows.iter().filter(|row| row.len() == 1);
    out.push_str("<div class=\"wide\"><table>\n");
    for (n, row) in rows.iter().filter(|row| row.len() > 1).enumerate() {
        let tag = if n == 0 { "th" } else { "td" };
        out.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let class = if column == 0 { "" } else { " class=\"number\"" };
            let missed = if cell.starts_with("MISSED") { " style=\"color:var(--bad)\"" } else { "" };
            let _ = write!(out, "<{tag}{class}{missed}>{}", escape(cell));
        }
        out.push('\n');
    }
    out.push_str("</table></div>\n");
    for cell in remarks().flatten() {
        let _ = writeln!(out, "<p class=\"faint\">{}</p>", escape(cell));
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Findings;
    use super::super::report::tests::options;
    use super::*;

    fn report(values: &[f64]) -> BenchReport {
        let findings = |&value: &f64| Findings {
            figures: vec![
                Measure::new("a", "size of <one>", "bytes", Some(value)).at_most(10.0),
                Measure::new("b", "share", "", Some(0.5)),
            ],
            failures: if value > 90.0 { vec!["something & more".to_owned()] } else { Vec::new() },
            configuration: serde_json::json!({ "vms": 7 }),
            ..Findings::default()
        };
        BenchReport::new(&SCENARIOS[0], &options(), values.iter().map(findings).collect())
    }

    #[test]
    fn the_page_needs_nothing_but_itself() {
        let reports = vec![(report(&[5.0]), Some("<svg fill=\"#1c2430\"></svg>".to_owned()))];
        let html = page(&reports);
        for outside in ["http://", "https://", "<script", "<link", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("size of &lt;one&gt;") && html.contains("<span class=\"kept\">1 of 1</span>"), "{html}");
        assert!(html.contains("figure [fill=\"#1c2430\"]") && html.contains("prefers-color-scheme: dark"));
        assert!(html.contains("&quot;vms&quot;: 7") && html.contains("./scripts/bench"), "{html}");
        assert!(!html.contains("middle half"), "one run has no spread");
    }

    #[test]
    fn what_failed_missed_or_varied_is_said() {
        let html = page(&[(report(&[5.0, 20.0, 99.0]), None)]);
        for part in [
            "<span class=\"error\">failed</span>",
            "Failed: something &amp; more",
            "<span class=\"missed\">0 of 1</span>",
            "too noisy, 1 of 2 figures",
            "5 to 99 ",
        ] {
            assert!(html.replace('<', " <").contains(&part.replace('<', " <")), "{part} in {html}");
        }
    }
}
