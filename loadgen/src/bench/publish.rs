//! The results as a page of the book: all reports of a folder as tables, with their pictures beside it.

use super::page;
use super::report::{BenchReport, Measure, number, with_unit};
use super::{Options, SCENARIOS};
use crate::driver::write;
use crate::machine::Failure;
use std::fmt::Write;
use std::path::Path;

/// Facts of the host and the programs that the page names.
const FACTS: [(&str, &str); 6] = [
    ("commit", "commit"),
    ("qemu", "emulator"),
    ("rustc", "compiler"),
    ("host_cpu", "processor"),
    ("host_cpus", "processors of the host"),
    ("host_memory", "memory of the host"),
];

/// Writes `results.md` and a folder `results` with the pictures into the book's folder. Returns what to say of it.
///
/// # Errors
/// If there is no report, or nothing can be written there.
pub fn publish(book: &Path, options: &Options) -> Result<String, Failure> {
    let reports = page::reports(options);
    if reports.is_empty() {
        let folder = options.folder.display();
        return Err(Failure::BadInput(format!("there is no report in {folder}; `./scripts/bench all` makes them")));
    }
    for (report, svg) in &reports {
        if let Some(svg) = svg {
            write(&book.join("results").join(format!("{}.svg", report.scenario)), svg.as_bytes())?;
        }
    }
    let file = book.join("results.md");
    write(&file, page_of(&reports).as_bytes())?;
    let missing: Vec<&str> = SCENARIOS
        .iter()
        .map(|scenario| scenario.name)
        .filter(|name| !reports.iter().any(|(report, _)| report.scenario == *name))
        .collect();
    let missing = if missing.is_empty() { String::new() } else { format!("; not measured: {}", missing.join(", ")) };
    Ok(format!("{} scenarios in {}{missing}\n", reports.len(), file.display()))
}

/// Text as it may stand in a cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn page_of(reports: &[(BenchReport, Option<String>)]) -> String {
    let days = || reports.iter().filter_map(|(report, _)| report.date.get(..10));
    let (first, last) = (days().min().unwrap_or(""), days().max().unwrap_or(""));
    let when = if first == last { first.to_owned() } else { format!("{first} to {last}") };
    let mut out = format!(
        "# Results\n\nMeasured {when}. [Benchmarks](benchmarks.md) says how each figure is taken, and what emulation \
         distorts.\n\n| | |\n|---|---|\n"
    );
    let versions = reports.iter().max_by_key(|(report, _)| &report.date).map(|(report, _)| &report.versions);
    for (name, about) in FACTS {
        // Writing to a string cannot fail, here and below.
        let fact = versions.and_then(|versions| versions.get(name)).map_or("unknown", String::as_str);
        let _ = writeln!(out, "| {about} | {} |", cell(fact));
    }
    for (report, svg) in reports {
        section(&mut out, report, svg.is_some());
    }
    out
}

fn section(out: &mut String, report: &BenchReport, has_picture: bool) {
    let name = &report.scenario;
    let _ = writeln!(out, "\n## {name}\n\n`{}`, {}", report.options.command(name), report.date);
    for note in report.failures.iter().chain(&report.remarks()) {
        let _ = writeln!(out, "\n*{}*", cell(note));
    }
    if has_picture {
        let _ = writeln!(out, "\n![{}](results/{name}.svg)", cell(&report.about));
    }
    let has_spread = report.figures.iter().any(|figure| figure.spread.is_some());
    let _ = writeln!(out, "\n| figure | value |{} budget | |", if has_spread { " middle half |" } else { "" });
    let _ = writeln!(out, "|---|---:|{}---|---|", if has_spread { "---|" } else { "" });
    for figure in &report.figures {
        row(out, figure, has_spread);
    }
}

fn row(out: &mut String, figure: &Measure, has_spread: bool) {
    let value = figure.value.map_or_else(|| "unknown".to_owned(), |value| with_unit(value, &figure.unit));
    let _ = write!(out, "| {} | {} |", cell(&figure.about), cell(&value));
    if has_spread {
        let half = figure.spread.map_or_else(String::new, |spread| {
            let (low, high) = spread.quartiles;
            format!("{} to {}", number(low), number(high))
        });
        let _ = write!(out, " {half} |");
    }
    let budget = figure.budget.map_or_else(String::new, |budget| budget.text(&figure.unit));
    let verdict = match figure.is_kept() {
        Some(true) => "kept",
        Some(false) => "**missed**",
        None => "",
    };
    let _ = writeln!(out, " {budget} | {verdict} |");
}

#[cfg(test)]
mod tests {
    use super::super::report::Findings;
    use super::super::report::tests::options;
    use super::*;

    #[test]
    fn reports_become_tables_of_the_book() {
        let findings = Findings {
            figures: vec![
                Measure::new("a", "size | of <one>", "bytes", Some(5.0)).at_most(4.0),
                Measure::new("b", "share", "", None),
            ],
            ..Findings::default()
        };
        let report = BenchReport::new(&SCENARIOS[0], &options(), vec![findings]);
        let text = page_of(&[(report, Some(String::new()))]);
        let name = SCENARIOS[0].name;
        for line in [
            "| size \\| of &lt;one> | 5 bytes | at most 4 bytes | **missed** |",
            "| share | unknown |  |  |",
            &format!("## {name}"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(text.contains(&format!("(results/{name}.svg)")), "{text}");
    }
}
