//! Instruction counts that are kept in the repository, and how those of now differ from them.
//!
//! Only machines that count instructions are used, with load from within: such counts are no times, and repeat on any
//! host. They follow compiler and emulator, whose versions are kept with them.

use super::report::{Findings, columns, number};
use super::spread::{Spread, median};
use super::{Bench, NAME, Options, cost, packets, suite, switch, tlb};
use crate::driver::write;
use crate::facts::{now, versions};
use crate::json;
use crate::machine::{Failure, Firn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Names the form of the file.
const SCHEMA: &str = "firn/baseline/1";

/// Unit of the figures that are compared.
const UNIT: &str = "instructions";

/// A count may rise by this part of itself.
const MOST_RISE: f64 = 0.1;

/// Versions that counts depend on.
const VERSIONS: [&str; 2] = ["rustc", "qemu"];

/// Counts something.
type Count = fn(&Bench<'_>) -> Result<Findings, Failure>;

/// What is counted: half a minute, all together.
const COUNTED: [(&str, Count); 4] =
    [("switch", switch::run), ("tlb", tlb::run), ("packets", packets::count), ("cost", cost::count_small)];

/// Counts by scenario and name.
type Figures = BTreeMap<String, BTreeMap<String, f64>>;

/// Counts, and with what they were made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// [`SCHEMA`].
    schema: String,
    /// When they were made, in UTC.
    date: String,
    versions: BTreeMap<String, String>,
    figures: Figures,
}

/// How counts differ from those that are kept.
#[derive(Debug)]
pub struct Comparison {
    /// A table for people.
    pub text: String,
    /// Counts that have risen too far, and those that are not there any more.
    pub failures: Vec<String>,
}

/// Counts, and keeps what was counted in a file. Returns what to say of it.
///
/// # Errors
/// If it could not be counted, or the file not be written.
pub fn store(file: &Path, options: &Options, firn: &Path, stop: &AtomicBool) -> Result<String, Failure> {
    let (figures, apart) = count(options, firn, stop)?;
    let kept = versions().into_iter().filter(|(name, _)| VERSIONS.contains(&name.as_str())).collect();
    let baseline = Baseline { schema: SCHEMA.to_owned(), date: now(), versions: kept, figures };
    let text = json::to_text(&baseline).map_err(|error| Failure::failed(error.to_string()))?;
    write(file, text.as_bytes())?;
    let n: usize = baseline.figures.values().map(BTreeMap::len).sum();
    Ok(format!("{n} instruction counts kept in {}{}\n", file.display(), apart_text(apart)))
}

/// Counts, and compares with what a file has.
///
/// # Errors
/// If it could not be counted, or the file is none of these.
pub fn compare(file: &Path, options: &Options, firn: &Path, stop: &AtomicBool) -> Result<Comparison, Failure> {
    let unreadable =
        |why: String| Failure::BadInput(format!("{}: {why}; `./scripts/bench baseline` makes it anew", file.display()));
    let text = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    let baseline: Baseline = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    if baseline.schema != SCHEMA {
        return Err(unreadable(format!("its form is {:?} and not {SCHEMA:?}", baseline.schema)));
    }
    let (figures, apart) = count(options, firn, stop)?;
    let mut comparison = baseline.compare(&figures, &versions());
    if let Some(apart) = apart {
        comparison.text.push_str(&format!("  {}\n", apart_text(Some(apart)).trim_start_matches([';', ' '])));
    }
    Ok(comparison)
}

fn apart_text(apart: Option<f64>) -> String {
    apart.map_or_else(String::new, |part| format!("; the runs lie at most {:.2} % apart", part * 100.0))
}

/// Counts as often as wanted: the medians, and how far runs lie apart at most, as a part of the median.
fn count(options: &Options, firn: &Path, stop: &AtomicBool) -> Result<(Figures, Option<f64>), Failure> {
    let firn = Firn { program: firn, name: NAME, stop, is_silent: false };
    let steps = u64::try_from(COUNTED.len()).unwrap_or(1) * u64::from(options.runs);
    let mut driver = suite::prepare(options, firn, steps)?;
    let mut runs: Vec<BTreeMap<(&str, String), f64>> = Vec::new();
    for run in 0..options.runs {
        let mut counts = BTreeMap::new();
        for (scenario, count) in COUNTED {
            driver.steps.rename(scenario);
            let fleet_file = options.folder.join(format!("{scenario}.toml"));
            let findings = count(&Bench { options, driver: &driver, run, fleet_file })?;
            if let Some(failure) = findings.failures.first() {
                return Err(Failure::failed(format!("{scenario}: {failure}")));
            }
            let of_unit = findings.figures.into_iter().filter(|figure| figure.unit == UNIT);
            counts.extend(of_unit.filter_map(|figure| Some(((scenario, figure.name), figure.value?))));
            driver.steps.advance();
        }
        runs.push(counts);
    }
    let (mut figures, mut apart) = (Figures::new(), None);
    for (scenario, name) in runs.first().into_iter().flat_map(BTreeMap::keys) {
        let values = || runs.iter().map(|run| run.get(&(*scenario, name.clone())).copied());
        let Some(value) = median(values()) else { continue };
        figures.entry((*scenario).to_owned()).or_default().insert(name.clone(), hundredths(value));
        let range = Spread::of(values()).map(|spread| (spread.range.1 - spread.range.0) / value);
        apart = range.into_iter().chain(apart).reduce(f64::max);
    }
    Ok((figures, apart))
}

/// A count with as many digits as repeat.
fn hundredths(count: f64) -> f64 {
    (count * 100.0).round() / 100.0
}

impl Baseline {
    /// A table of what was, what is, and the change.
    fn compare(&self, now: &Figures, versions: &BTreeMap<String, String>) -> Comparison {
        let heading = ["instructions", "baseline", "now", "change", ""];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        let mut failures = Vec::new();
        let names = |figures: &Figures| -> Vec<(String, String)> {
            let of = |(scenario, of): (&String, &BTreeMap<String, f64>)| {
                of.keys().map(|name| (scenario.clone(), name.clone())).collect::<Vec<_>>()
            };
            figures.iter().flat_map(of).collect()
        };
        let mut all = names(&self.figures);
        all.extend(names(now));
        all.sort();
        all.dedup();
        for (scenario, name) in all {
            let find = |figures: &Figures| figures.get(&scenario)?.get(&name).copied();
            let (was, is) = (find(&self.figures), find(now));
            let change = was.zip(is).map(|(was, is)| is / was - 1.0);
            let full = format!("{scenario} {name}");
            let verdict = match (was, is, change) {
                (Some(was), Some(is), Some(change)) if is > was * (1.0 + MOST_RISE) => {
                    failures.push(format!("{full} rose by {:.1} %", change * 100.0));
                    "ROSE"
                }
                (None, ..) => "new",
                (_, None, _) => {
                    failures
                        .push(format!("{full} is not counted any more: `./scripts/bench baseline` if it is to be so"));
                    "GONE"
                }
                _ => "",
            };
            let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
            let change = change.map_or_else(|| "-".to_owned(), |change| format!("{:+.2} %", change * 100.0));
            rows.push(vec![full, text(was), text(is), change, verdict.to_owned()]);
        }
        let mut text = columns(&rows);
        for (name, was) in &self.versions {
            if let Some(is) = versions.get(name).filter(|is| *is != was) {
                text.push_str(&format!("  note: {name} was {was}, and is {is}\n"));
            }
        }
        Comparison { text, failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(values: &[(&str, f64)]) -> Figures {
        let of = values.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        Figures::from([("switch".to_owned(), of)])
    }

    fn baseline(values: &[(&str, f64)]) -> Baseline {
        let versions = BTreeMap::from([("qemu".to_owned(), "7".to_owned())]);
        Baseline { schema: SCHEMA.to_owned(), date: now(), versions, figures: figures(values) }
    }

    #[test]
    fn only_a_rise_beyond_a_tenth_fails() {
        let kept = baseline(&[("a", 100.0), ("b", 100.0), ("c", 1000.0)]);
        let good = kept.compare(&figures(&[("a", 110.0), ("b", 20.0), ("c", 1000.4)]), &kept.versions);
        assert!(good.failures.is_empty(), "{good:?}");
        assert!(good.text.contains("+10.00 %") && good.text.contains("-80.00 %"), "{}", good.text);
        let bad = kept.compare(&figures(&[("a", 110.1), ("b", 100.0), ("c", 1000.0)]), &kept.versions);
        assert_eq!(bad.failures, ["switch a rose by 10.1 %"]);
        assert!(bad.text.contains("ROSE"), "{}", bad.text);
    }

    #[test]
    fn what_comes_and_goes_is_told_apart() {
        let kept = baseline(&[("old", 5.0)]);
        let versions = BTreeMap::from([("qemu".to_owned(), "8".to_owned())]);
        let found = kept.compare(&figures(&[("young", 5.0)]), &versions);
        assert!(found.failures.len() == 1 && found.failures[0].contains("switch old"), "{found:?}");
        assert!(found.text.contains("new") && found.text.contains("qemu was 7, and is 8"), "{}", found.text);
    }

    #[test]
    fn the_file_comes_back_as_it_was_written() {
        let kept = baseline(&[("a", 149.28)]);
        let text = json::to_text(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Baseline>(&text).unwrap(), kept);
    }
}
