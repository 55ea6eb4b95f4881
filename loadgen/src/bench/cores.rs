//! What a second processor is worth: computing inside VMs, HTTP over new connections and over kept ones, on machines
//! with one and with two.
//!
//! The load generator shares the host's processors with the machine: computing, which needs nobody outside, shows what
//! a second processor is worth; HTTP shows less of it on a host that has no more than two.

use super::report::{Findings, Measure};
use super::{AT_ONCE, Bench, HTTP_MODES, Scenario, http_arguments};
use crate::driver::Selection;
use crate::fleet::{Fleet, Neighbours};
use crate::machine::{Failure, counter};
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "cores", about: "what a second processor is worth, for computing and for HTTP", run };

/// Memory of the machine, and its VMs, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "1G";
const DEFAULT_VMS: u32 = 100;

/// Seconds of each measurement, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 2.0];

/// VMs that compute.
const WORKERS: u32 = 8;

/// What two processors are to do of what one does.
const TWICE: f64 = 1.8;

/// HTTP on one machine.
#[derive(Serialize)]
struct Sample {
    cpus: u32,
    mode: &'static str,
    load: HttpReport,
}

/// Computing on one machine.
#[derive(Clone, Copy, Debug, Serialize)]
struct Work {
    cpus: u32,
    /// Pieces of work that all VMs did in a second.
    pieces_per_s: f64,
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let memory = options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let vms = options.vms.unwrap_or(DEFAULT_VMS);
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS));
    let (mut samples, mut works) = (Vec::new(), Vec::new());
    for cpus in options.cpu_counts() {
        works.push(compute(bench, &Fleet { cpus, ..Fleet::web(1, memory) }, seconds)?);
        let session = bench.boot(&Fleet { cpus, ..Fleet::web(vms, memory) })?;
        for (mode, about) in HTTP_MODES {
            bench.driver.say(&format!("{} VM(s), {cpus} processor(s), {about}", crate::human::count(vms.into())));
            let load = bench.load_warm(&session, Selection::all(vms), seconds, &http_arguments(mode))?;
            samples.push(Sample { cpus, mode, load });
        }
        session.end()?;
    }
    let trouble = |sample: &Sample| {
        let Sample { cpus, mode, load } = sample;
        load.trouble().map(|trouble| format!("{cpus} processor(s), {mode}: {trouble}"))
    };
    Ok(Findings {
        configuration: json!({ "memory": memory, "vms": vms, "at_once": AT_ONCE, "workers": WORKERS }),
        figures: figures(vms, &samples, &works),
        failures: samples.iter().filter_map(trouble).collect(),
        plot: None,
        table: Vec::new(),
        samples: json!({ "http": &samples, "work": &works }),
    })
}

/// How much VMs compute that have nothing else to do.
fn compute(bench: &Bench<'_>, fleet: &Fleet, seconds: f64) -> Result<Work, Failure> {
    let workers = Neighbours::new("work", "attack", WORKERS, "mode=work");
    let session = bench.boot(&Fleet { neighbours: vec![workers], ..fleet.clone() })?;
    bench.driver.say(&format!("{WORKERS} VMs that compute, {} processor(s)", fleet.cpus));
    // Each virtual instruction is a piece of work.
    let look = |vm: u32| -> Result<(Instant, f64), Failure> {
        let done = counter(&session.inspect(vm)?, "instructions");
        Ok((Instant::now(), done.ok_or_else(|| Failure::failed("firn inspect does not say what a VM has done"))?))
    };
    let all = || (2..WORKERS + 2).map(look).collect::<Result<Vec<_>, _>>();
    let before = all()?;
    bench.driver.firn.pause(Duration::from_secs_f64(seconds))?;
    let after = all()?;
    session.end()?;
    let rate = |(before, after): (&(Instant, f64), &(Instant, f64))| {
        (after.1 - before.1) / after.0.duration_since(before.0).as_secs_f64()
    };
    Ok(Work { cpus: fleet.cpus, pieces_per_s: before.iter().zip(&after).map(rate).sum() })
}

/// A part of a whole, if there is one.
fn ratio(part: f64, whole: Option<f64>) -> Option<f64> {
    whole.filter(|whole| *whole > 0.0).map(|whole| part / whole)
}

fn figures(vms: u32, samples: &[Sample], works: &[Work]) -> Vec<Measure> {
    let mut figures = Vec::new();
    for sample in samples {
        let Sample { cpus, mode, load } = sample;
        let per_s = load.requests.per_s;
        let about = HTTP_MODES.iter().find(|(name, _)| name == mode).map_or("", |(_, about)| about);
        let about = format!("{} VM(s), {cpus} processor(s), {about}", crate::human::count(vms.into()));
        figures.push(Measure::new(&format!("{mode}_cpus{cpus}_per_s"), &about, "/s", Some(per_s)));
        if *cpus == 2 {
            let one = samples.iter().find(|one| one.cpus == 1 && one.mode == *mode).map(|one| one.load.requests.per_s);
            figures.push(Measure::new(
                &format!("{mode}_gain"),
                &format!("{about}, of that on one"),
                "",
                ratio(per_s, one),
            ));
        }
    }
    for &Work { cpus, pieces_per_s } in works {
        let about = format!("computing in {WORKERS} VMs, {cpus} processor(s)");
        figures.push(Measure::new(&format!("work_cpus{cpus}"), &about, "pieces/s", Some(pieces_per_s)));
        if cpus == 2 {
            let one = works.iter().find(|work| work.cpus == 1).map(|work| work.pieces_per_s);
            let about = format!("{about}, of that on one");
            figures.push(Measure::new("work_gain", &about, "", ratio(pieces_per_s, one)).at_least(TWICE));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processors_are_compared_with_one() {
        let works = [(1, 100.0), (2, 190.0)].map(|(cpus, pieces_per_s)| Work { cpus, pieces_per_s });
        let figures = figures(1, &[], &works);
        let gain = figures.iter().find(|figure| figure.name == "work_gain").unwrap();
        assert_eq!((gain.value, gain.is_kept()), (Some(1.9), Some(true)));
        let alone = super::figures(1, &[], &works[1..]);
        assert_eq!(alone.iter().find(|figure| figure.name == "work_gain").unwrap().is_kept(), None);
        assert_eq!(ratio(1.0, Some(0.0)), None);
    }
}
