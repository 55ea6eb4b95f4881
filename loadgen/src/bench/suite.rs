//! Runs scenarios one after the other, and leaves of each a JSON file and a picture, and of all of them a page.

use super::page;
use super::report::{BenchReport, Findings};
use super::{Bench, NAME, Options, SCENARIOS, Scenario, find};
use crate::driver::{Driver, write};
use crate::facts::host_busy;
use crate::json;
use crate::machine::{Failure, Firn};
use crate::plot::figure::Figure;
use crate::progress::Steps;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long it is looked what others take of the host's processors, before each run.
const LOOK: Duration = Duration::from_millis(400);

/// What stands for every scenario.
pub const ALL: &str = "all";

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// A report of each scenario.
    pub reports: Vec<BenchReport>,
    /// The page with all reports of the folder.
    pub page: PathBuf,
}

impl Outcome {
    /// Where everything is.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("report: {}\n", self.page.display())
    }

    /// Which scenarios failed.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.reports.iter().filter(|report| !report.ok).map(|report| format!("{} failed", report.scenario)).collect()
    }
}

/// The scenarios of those names, each once; `all` stands for every one.
///
/// # Errors
/// The name that there is not, with those that there are.
pub fn choose(names: &[String]) -> Result<Vec<&'static Scenario>, String> {
    let mut chosen: Vec<&Scenario> = Vec::new();
    for name in names {
        let found: Vec<&Scenario> = if name == ALL { SCENARIOS.iter().collect() } else { vec![find(name)?] };
        for scenario in found {
            if !chosen.iter().any(|other| other.name == scenario.name) {
                chosen.push(scenario);
            }
        }
    }
    Ok(chosen)
}

/// Builds what machines need, and has `driver` show that many steps.
///
/// # Errors
/// If a machine is up already, nothing can be written into the folder, or the build fails.
pub(super) fn prepare<'a>(options: &Options, firn: Firn<'a>, steps: u64) -> Result<Driver<'a>, Failure> {
    let steps = Steps::bar(NAME, steps, options.quiet);
    let firn = Firn { is_silent: steps.is_alone(), ..firn };
    let driver = Driver::new(firn, options.port, steps)?;
    firn.check_is_down()?;
    // That it can be written is known before anything starts.
    page::write(options)?;
    driver.say("building the kernel, the supervisor and the guests");
    firn.run(&["build"])?;
    Ok(driver)
}

/// Runs scenarios as often as wanted. `firn` is the program to use. Of one scenario alone, what keeps it from its end is
/// an error; among several, it is in its report, and the others go on. Each summary is printed as soon as it is there.
///
/// # Errors
/// If nothing could be measured, or all was told to end. What did not answer is in the reports.
pub fn run(scenarios: &[&Scenario], options: &Options, firn: &Path, stop: &AtomicBool) -> Result<Outcome, Failure> {
    let firn = Firn { program: firn, name: NAME, stop, is_silent: false };
    let steps = u64::try_from(scenarios.len()).unwrap_or(1) * u64::from(options.runs);
    let mut driver = prepare(options, firn, steps)?;
    let mut outcome = Outcome { reports: Vec::new(), page: page::file(options) };
    for &scenario in scenarios {
        driver.steps.rename(scenario.name);
        let report = match measure(scenario, options, &driver) {
            Err(Failure::Failed(why) | Failure::BadInput(why)) if scenarios.len() > 1 => {
                let findings = Findings { failures: vec![why], ..Findings::default() };
                let report = BenchReport::new(scenario, options, vec![findings]);
                keep(&report, options)?;
                report
            }
            report => report?,
        };
        driver.steps.print(|| {
            // Nobody may be reading; the exit status tells the result all the same.
            let _ = std::io::stdout().write_all(report.summary().as_bytes());
            report.failures.iter().for_each(|failure| eprintln!("error: {}: {failure}", report.scenario));
        });
        outcome.reports.push(report);
        page::write(options)?;
    }
    Ok(outcome)
}

/// Runs a scenario as often as wanted, and writes its report.
fn measure(scenario: &Scenario, options: &Options, driver: &Driver<'_>) -> Result<BenchReport, Failure> {
    let began = Instant::now();
    let fleet_file = options.folder.join(format!("{}.toml", scenario.name));
    let (mut findings, mut busy) = (Vec::new(), Vec::new());
    for run in 0..options.runs {
        if options.runs > 1 {
            driver.say(&format!("run {} of {}", run + 1, options.runs));
        }
        driver.firn.check_is_down()?;
        busy.extend(host_busy(LOOK));
        let bench = Bench { options, driver, run, fleet_file: fleet_file.clone() };
        match (scenario.run)(&bench) {
            // What was measured before is not lost.
            Err(Failure::Failed(why)) if run > 0 => {
                let failures = vec![format!("run {} of {}: {why}", run + 1, options.runs)];
                findings.push(Findings { failures, ..Findings::default() });
                break;
            }
            found => findings.push(found?),
        }
        driver.steps.advance();
    }
    // The last run's plot stands for all: its samples are in the report beside the others'.
    let plot = findings.iter().rev().find_map(|findings| findings.plot.as_ref()).map(Figure::to_svg);
    let mut report = BenchReport::new(scenario, options, findings);
    report.elapsed_s = began.elapsed().as_secs_f64();
    report.host_busy = busy;
    let file = options.folder.join(format!("{}.svg", scenario.name));
    write(&file, plot.unwrap_or_else(|| report.bars()).as_bytes())?;
    report.plot = Some(file);
    keep(&report, options)?;
    Ok(report)
}

fn keep(report: &BenchReport, options: &Options) -> Result<(), Failure> {
    let text = json::to_text(report).map_err(|error| Failure::failed(error.to_string()))?;
    write(&report.file(options), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_chosen_once_each_in_the_order_wanted() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            choose(&wanted).map(|chosen| chosen.iter().map(|scenario| scenario.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["tlb", "switch", "tlb"]).unwrap(), ["tlb", "switch"]);
        assert_eq!(names(&["tlb", "all"]).unwrap().len(), SCENARIOS.len());
        assert!(names(&["tlb", "nonsense"]).unwrap_err().contains("\"nonsense\""));
    }
}
