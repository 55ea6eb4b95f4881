//! What a scenario hands in, and the report of all its runs: JSON for programs, a table for people.

use super::spread::{NOISY, Spread, median};
use super::{Options, Scenario};
use crate::facts::{now, versions};
use crate::human;
use crate::plot::bars::{self, Bar, Group};
use crate::plot::figure::Figure;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Names the form of the report.
pub const SCHEMA: &str = "firn/bench/1";

/// Others that take more of the host's processors than this are worth a remark.
const BUSY: f64 = 0.1;

/// Units of figures that do not depend on how busy the host is.
const NO_TIMES: [&str; 5] = ["", "instructions", "bytes", "KiB", "MiB"];

/// What one run of a scenario found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What the machines were like, and whatever else is needed to measure the same again.
    pub configuration: Value,
    /// Everything read, as it was read.
    pub samples: Value,
    /// What follows from it. The same ones in the same order each time.
    pub figures: Vec<Measure>,
    /// What did not answer or was lost. A missed budget is none.
    pub failures: Vec<String>,
    /// A plot.
    pub plot: Option<Figure>,
    /// The figures as rows of a table, the first of them the heading, where that is easier to read than a list.
    pub table: Vec<Vec<String>>,
}

/// A figure, and what it is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Its name for programs.
    pub name: String,
    /// What it is, for people.
    pub about: String,
    /// Its unit; empty for a plain number.
    pub unit: String,
    /// The figure: the median, if there were several runs. Nothing if it could not be had.
    pub value: Option<f64>,
    /// How far the runs lie apart, if there were several; or the samples of the one.
    pub spread: Option<Spread>,
    /// What it is to be.
    pub budget: Option<Budget>,
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Measure {
    /// A figure without a budget.
    #[must_use]
    pub fn new(name: &str, about: &str, unit: &str, value: Option<f64>) -> Self {
        let value = value.filter(|value| value.is_finite());
        Self {
            name: name.to_owned(),
            about: about.to_owned(),
            unit: unit.to_owned(),
            value,
            spread: None,
            budget: None,
        }
    }

    /// The same with a budget.
    #[must_use]
    pub fn at_most(self, budget: f64) -> Self {
        Self { budget: Some(Budget::AtMost(budget)), ..self }
    }

    /// The same with a budget.
    #[must_use]
    pub fn at_least(self, budget: f64) -> Self {
        Self { budget: Some(Budget::AtLeast(budget)), ..self }
    }

    /// A figure that was taken several times in one run: the median, with its spread.
    #[must_use]
    pub fn of_samples(name: &str, about: &str, unit: &str, samples: &[Option<f64>]) -> Self {
        let spread = Spread::of(samples.iter().copied());
        Self { spread, ..Self::new(name, about, unit, median(samples.iter().copied())) }
    }

    /// Whether the budget is kept, if there is one and the figure could be had.
    #[must_use]
    pub fn is_kept(&self) -> Option<bool> {
        Some(match (self.value?, self.budget?) {
            (value, Budget::AtMost(budget)) => value <= budget,
            (value, Budget::AtLeast(budget)) => value >= budget,
        })
    }

    /// Whether the runs lie too far apart for the figure to be relied on.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        self.value.zip(self.spread).is_some_and(|(median, spread)| spread.is_noisy(median))
    }

    /// The same figure of several runs as one.
    fn of_runs(runs: &[&Self]) -> Option<Self> {
        let values = || runs.iter().map(|measure| measure.value);
        let (value, spread) = (median(values()), Spread::of(values()));
        runs.first().map(|&first| Self { value, spread: spread.or(first.spread), ..first.clone() })
    }
}

impl Budget {
    /// The least or the most.
    #[must_use]
    pub const fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }

    /// It for people, with the figure's unit.
    #[must_use]
    pub fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("at most {}", with_unit(most, unit)),
            Self::AtLeast(least) => format!("at least {}", with_unit(least, unit)),
        }
    }
}

/// The report of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// The scenario's name.
    pub scenario: String,
    /// What it measures.
    pub about: String,
    /// When it was measured, in UTC.
    pub date: String,
    /// Whether everything answered. Whether budgets are kept, the figures say.
    pub ok: bool,
    /// What failed.
    pub failures: Vec<String>,
    /// What was asked for; the seed is in it.
    pub options: Options,
    /// On what, and with what: versions and host.
    pub versions: BTreeMap<String, String>,
    /// The figures.
    pub figures: Vec<Measure>,
    /// The plot.
    pub plot: Option<PathBuf>,
    /// The last run's figures as rows of a table, if there is one.
    #[serde(default)]
    pub table: Vec<Vec<String>>,
    /// What each run's machines were like.
    pub configuration: Vec<Value>,
    /// Everything each run read.
    pub samples: Vec<Value>,
    /// Seconds that all runs took, machines' starts included.
    #[serde(default)]
    pub elapsed_s: f64,
    /// The part of the host's processors that others had taken just before each run.
    #[serde(default)]
    pub host_busy: Vec<f64>,
}

impl BenchReport {
    /// The report of a scenario's runs.
    #[must_use]
    pub fn new(scenario: &Scenario, options: &Options, runs: Vec<Findings>) -> Self {
        let nr_figures = runs.iter().map(|run| run.figures.len()).max().unwrap_or(0);
        let of_all = |i: usize| runs.iter().filter_map(|run| run.figures.get(i)).collect::<Vec<_>>();
        let figures = (0..nr_figures).filter_map(|i| Measure::of_runs(&of_all(i))).collect();
        let failures: Vec<String> = runs.iter().flat_map(|run| run.failures.clone()).collect();
        let table = runs.last().map(|run| run.table.clone()).unwrap_or_default();
        let (configuration, samples) = runs.into_iter().map(|run| (run.configuration, run.samples)).unzip();
        Self {
            schema: SCHEMA.to_owned(),
            scenario: scenario.name.to_owned(),
            about: scenario.about.to_owned(),
            date: now(),
            ok: failures.is_empty(),
            failures,
            options: options.clone(),
            versions: versions(),
            figures,
            plot: None,
            table,
            configuration,
            samples,
            elapsed_s: 0.0,
            host_busy: Vec::new(),
        }
    }

    /// What speaks against relying on it: others on the host, figures that lie too far apart.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let has_times = self.figures.iter().any(|figure| !NO_TIMES.contains(&figure.unit.as_str()));
        let busiest = self.host_busy.iter().copied().fold(0.0, f64::max);
        if has_times && busiest > BUSY {
            remarks.push(format!(
                "others took {:.0} % of the host's processors before a run: times are theirs, too",
                busiest * 100.0
            ));
        }
        let noisy: Vec<&str> =
            self.figures.iter().filter(|figure| figure.is_noisy()).map(|figure| figure.about.as_str()).collect();
        if !noisy.is_empty() {
            let (n, all) = (noisy.len(), self.figures.len());
            let first = noisy.iter().take(3).copied().collect::<Vec<_>>().join("; ");
            let more = if n > 3 { "; ..." } else { "" };
            remarks.push(format!(
                "too noisy, {n} of {all} figures: the middle half of their runs is wider than {:.0} % of the median: \
                 {first}{more}",
                NOISY * 100.0
            ));
        }
        remarks
    }

    /// Where it is written.
    #[must_use]
    pub fn file(&self, options: &Options) -> PathBuf {
        options.folder.join(format!("{}.json", self.scenario))
    }

    /// The figures as a picture, for a scenario that has no plot of its own.
    #[must_use]
    pub fn bars(&self) -> String {
        let mut groups: Vec<Group> = Vec::new();
        for figure in &self.figures {
            let Some(value) = figure.value else { continue };
            let title = if figure.unit.is_empty() { "numbers" } else { &figure.unit };
            let bar = Bar {
                name: figure.about.clone(),
                value,
                text: number(value),
                range: figure.spread.map(|spread| spread.range),
                budget: figure.budget.map(Budget::value).zip(figure.is_kept()),
            };
            match groups.iter_mut().find(|group| group.title == title) {
                Some(group) => group.bars.push(bar),
                None => groups.push(Group { title: title.to_owned(), bars: vec![bar] }),
            }
        }
        let subtitle = "Red marks are budgets; a bar that misses its own is of another colour";
        let has_budget = groups.iter().flat_map(|group| &group.bars).any(|bar| bar.budget.is_some());
        let mut title = self.about.clone();
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        bars::to_svg(&title, if has_budget { subtitle } else { "" }, &groups)
    }

    /// The figures for people, with the budget beside each.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = format!("{}: {}\n", self.scenario, self.about);
        out.push_str(&if self.table.is_empty() { self.list() } else { columns(&self.table) });
        for remark in self.remarks() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "  note: {remark}");
        }
        out
    }

    /// The figures, a line each.
    fn list(&self) -> String {
        let mut out = String::new();
        let width = self.figures.iter().map(|measure| measure.about.chars().count()).max().unwrap_or(0) + 2;
        for measure in &self.figures {
            let value = measure.value.map_or_else(|| "unknown".to_owned(), |value| with_unit(value, &measure.unit));
            let budget =
                measure.budget.map_or_else(String::new, |budget| format!("budget {}", budget.text(&measure.unit)));
            let missed = if measure.is_kept() == Some(false) { ", MISSED" } else { "" };
            let range = measure.spread.map_or_else(String::new, |Spread { range: (least, most), .. }| {
                format!("  ({} to {})", number(least), number(most))
            });
            let line = format!("  {:<width$}{value:<15} {budget}{missed}{range}", measure.about);
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }
}

/// Rows whose columns stand under each other, the first to the left, the others to the right. A row of one cell is a
/// remark.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let nr_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let rows_of_many = || rows.iter().filter(|row| row.len() > 1);
    let width = |column: usize| {
        rows_of_many().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..nr_columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = if n == 0 { write!(line, "  {cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// A figure with its unit, for people.
pub(super) fn with_unit(value: f64, unit: &str) -> String {
    if unit.is_empty() { number(value) } else { format!("{} {unit}", number(value)) }
}

/// A number with as many digits as people want to see.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 && (0.0..1e15).contains(&value) => human::whole(value),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ if (0.0..1e15).contains(&value) => human::whole(value),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub fn options() -> Options {
        Options {
            vms: None,
            cpus: None,
            peers: Vec::new(),
            quick: false,
            memory: None,
            swap: None,
            swap_iops: None,
            seconds: None,
            seed: 1,
            runs: 3,
            port: 80,
            folder: PathBuf::from("folder"),
            quiet: true,
        }
    }

    fn scenario() -> Scenario {
        Scenario { name: "some", about: "something", run: |_| Ok(Findings::default()) }
    }

    #[test]
    fn a_budget_is_kept_up_to_its_very_edge() {
        let measure = |value| Measure::new("a", "b", "c", value);
        for (measure, kept) in [
            (measure(Some(512.0)).at_most(512.0), Some(true)),
            (measure(Some(512.1)).at_most(512.0), Some(false)),
            (measure(Some(0.7)).at_least(0.7), Some(true)),
            (measure(Some(0.69)).at_least(0.7), Some(false)),
            (measure(None).at_least(0.7), None),
            (measure(Some(f64::NAN)).at_least(0.7), None),
            (measure(Some(1.0)), None),
        ] {
            assert_eq!(measure.is_kept(), kept, "{measure:?}");
        }
    }

    #[test]
    fn several_runs_become_medians_and_keep_their_samples() {
        let run = |value: Option<f64>, failures: &[&str]| Findings {
            samples: json!({ "value": value }),
            figures: vec![Measure::new("size", "size of it", "bytes", value).at_most(5.0)],
            failures: failures.iter().map(|&failure| failure.to_owned()).collect(),
            ..Findings::default()
        };
        let runs = vec![run(Some(9.0), &[]), run(Some(4.0), &["x"]), run(Some(6.0), &[])];
        let report = BenchReport::new(&scenario(), &options(), runs);
        assert_eq!(report.figures[0].value, Some(6.0));
        assert_eq!(report.figures[0].spread.map(|spread| spread.range), Some((4.0, 9.0)));
        assert_eq!((report.ok, report.samples.len()), (false, 3));
        assert_eq!(report.figures[0].is_kept(), Some(false));
        let even =
            BenchReport::new(&scenario(), &options(), vec![run(Some(1.0), &[]), run(None, &[]), run(Some(2.0), &[])]);
        assert_eq!(even.figures[0].value, Some(1.5));
        assert!(even.ok);
        assert_eq!(BenchReport::new(&scenario(), &options(), vec![run(None, &[])]).figures[0].value, None);
    }

    #[test]
    fn people_see_the_budget_beside_the_figure() {
        let findings = Findings {
            figures: vec![
                Measure::new("a", "bytes of a parked VM", "bytes", Some(300.25)).at_most(512.0),
                Measure::new("b", "share left", "", Some(0.5)).at_least(0.7),
                Measure::new("c", "something else", "ms", None),
            ],
            ..Findings::default()
        };
        let text = BenchReport::new(&scenario(), &options(), vec![findings]).summary();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "some: something");
        assert_eq!(lines[1], "  bytes of a parked VM  300.2 bytes     budget at most 512 bytes");
        assert_eq!(lines[2], "  share left            0.50            budget at least 0.70, MISSED");
        assert_eq!(lines[3], "  something else        unknown");
    }

    #[test]
    fn a_table_stands_for_the_list() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
        let findings = Findings {
            table: vec![row(&["attack", "p99"]), row(&["none", "12.5 ms"]), row(&["a longer remark"])],
            ..Findings::default()
        };
        let text = BenchReport::new(&scenario(), &options(), vec![findings]).summary();
        assert_eq!(text, "some: something\n  attack      p99\n  none    12.5 ms\n  a longer remark\n");
    }

    #[test]
    fn numbers_have_the_digits_people_want() {
        for (value, text) in
            [(0.0, "0"), (0.123, "0.12"), (48.0, "48"), (48.26, "48.3"), (12345.6, "12,346"), (-3.5, "-3.50")]
        {
            assert_eq!(number(value), text);
        }
    }
}
