//! How throughput holds as VMs become many, on one processor and on two: HTTP over new connections and over kept ones,
//! and computing inside VMs.
//!
//! With kept connections every VM has one of its own, or several if VMs are few, and requests go over a random one, so
//! that all VMs take turns. The
//! load generator shares the host's processors with the machine: computing, which needs nobody outside, shows what a
//! second processor is worth.

use super::report::{Findings, Measure};
use super::{AT_ONCE, Bench, Scenario, kept};
use crate::fleet::{DEFAULT_SHARES, Fleet, Neighbours};
use crate::machine::{Failure, counter};
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "scale", about: "throughput with few and with many VMs, on one processor and on two", run };

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "2G";

/// Seconds of load at each point, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 2.0];

/// VMs that compute.
const WORKERS: u32 = 8;

/// The sizes that are compared, and what the larger is to keep of the smaller's throughput.
const COMPARED: (u32, u32) = (100, 10_000);
const KEPT: f64 = 0.9;

/// What two processors are to do of what one does.
const TWICE: f64 = 1.8;

/// How requests come.
const MODES: [(&str, &str); 2] = [("new", "new connections"), ("kept", "kept connections")];

/// HTTP on one machine.
#[derive(Serialize)]
struct Sample {
    cpus: u32,
    vms: u32,
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
    let seconds = options.seconds.unwrap_or(DEFAULT_SECONDS[usize::from(options.quick)]);
    let (duration, seed) = (seconds.to_string(), bench.seed().to_string());
    let (mut samples, mut works) = (Vec::new(), Vec::new());
    for cpus in options.cpu_counts() {
        works.push(compute(bench, &Fleet { cpus, ..Fleet::web(1, memory) }, seconds)?);
        for vms in options.sizes() {
            let session = bench.boot(&Fleet { cpus, ..Fleet::web(vms, memory) })?;
            for (mode, about) in MODES {
                bench.driver.say(&format!("{} VM(s), {cpus} processor(s), {about}", crate::human::count(vms.into())));
                let common = ["--path", "/", "--seed", &seed, "--duration", &duration, "--timeout", "30000"];
                let how = if mode == "kept" {
                    kept(vms)
                } else {
                    ["--new-connections", "--targets", "random", "--connections=64"]
                };
                let load = session.load(&[&common[..], &how].concat())?;
                samples.push(Sample { cpus, vms, mode, load });
            }
            session.end()?;
        }
    }
    let trouble = |sample: &Sample| {
        let Sample { cpus, vms, mode, load } = sample;
        load.trouble().map(|trouble| format!("{vms} VM(s), {cpus} processor(s), {mode}: {trouble}"))
    };
    Ok(Findings {
        configuration: json!({ "memory": memory, "at_once": AT_ONCE, "workers": WORKERS, "sizes": options.sizes() }),
        figures: figures(&samples, &works),
        failures: samples.iter().filter_map(trouble).collect(),
        plot: Some(plot(&samples)),
        table: Vec::new(),
        samples: json!({ "http": &samples, "work": &works }),
    })
}

/// How much VMs compute that have nothing else to do.
fn compute(bench: &Bench<'_>, fleet: &Fleet, seconds: f64) -> Result<Work, Failure> {
    let workers = Neighbours {
        name: "work".to_owned(),
        image: "attack".to_owned(),
        vms: WORKERS,
        shares: DEFAULT_SHARES,
        group: None,
        arguments: "mode=work".to_owned(),
    };
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

fn per_s(samples: &[Sample], cpus: u32, vms: u32, mode: &str) -> Option<f64> {
    let of = |sample: &&Sample| sample.cpus == cpus && sample.vms == vms && sample.mode == mode;
    samples.iter().find(of).map(|sample| sample.load.requests.per_s)
}

/// A part of a whole, if there is one.
fn ratio(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    let whole = whole.filter(|whole| *whole > 0.0)?;
    Some(part? / whole)
}

fn figures(samples: &[Sample], works: &[Work]) -> Vec<Measure> {
    let mut figures = Vec::new();
    for sample in samples {
        let Sample { cpus, vms, mode, load } = sample;
        let about = MODES.iter().find(|(name, _)| name == mode).map_or("", |(_, about)| about);
        let vms_of = crate::human::count((*vms).into());
        let (name, about) =
            (format!("{mode}_cpus{cpus}_{vms}"), format!("{vms_of} VM(s), {cpus} processor(s), {about}"));
        figures.push(Measure::new(&format!("{name}_per_s"), &about, "/s", Some(load.requests.per_s)));
        if *vms == COMPARED.1 {
            let kept = ratio(Some(load.requests.per_s), per_s(samples, *cpus, COMPARED.0, mode));
            let about = format!("{about}, of that with {}", COMPARED.0);
            figures.push(Measure::new(&format!("{name}_kept"), &about, "", kept).at_least(KEPT));
        }
        if *cpus == 2 {
            let gain = ratio(Some(load.requests.per_s), per_s(samples, 1, *vms, mode));
            figures.push(Measure::new(&format!("{name}_gain"), &format!("{about}, of that on one"), "", gain));
        }
    }
    for work in works {
        let Work { cpus, pieces_per_s } = *work;
        let about = format!("computing in {WORKERS} VMs, {cpus} processor(s)");
        figures.push(Measure::new(&format!("work_cpus{cpus}"), &about, "pieces/s", Some(pieces_per_s)));
        if cpus == 2 {
            let one = works.iter().find(|work| work.cpus == 1).map(|work| work.pieces_per_s);
            let about = format!("{about}, of that on one");
            figures.push(Measure::new("work_gain", &about, "", ratio(Some(pieces_per_s), one)).at_least(TWICE));
        }
    }
    figures
}

fn plot(samples: &[Sample]) -> Figure {
    let mut cpus: Vec<u32> = samples.iter().map(|sample| sample.cpus).collect();
    cpus.dedup();
    let panel = |(mode, about): (&str, &str)| Panel {
        title: format!("Throughput, {about}"),
        x_label: "VMs".to_owned(),
        x_kind: Kind::Decades,
        y_label: "requests/s".to_owned(),
        y_kind: Kind::Linear,
        series: cpus
            .iter()
            .zip([Colour::Blue, Colour::Orange])
            .map(|(&cpus, colour)| Series {
                name: format!("{cpus} CPU(s)"),
                colour,
                filled: false,
                points: samples
                    .iter()
                    .filter(|sample| sample.cpus == cpus && sample.mode == mode)
                    .map(|sample| (f64::from(sample.vms), sample.load.requests.per_s))
                    .collect(),
            })
            .collect(),
    };
    Figure {
        title: "Throughput with few and with many VMs".to_owned(),
        subtitle: format!(
            "Random web VMs, {AT_ONCE} requests at once; the load generator shares the host's processors"
        ),
        rows: vec![MODES.map(panel).into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processors_are_compared_with_one() {
        let works = [(1, 100.0), (2, 190.0)].map(|(cpus, pieces_per_s)| Work { cpus, pieces_per_s });
        let figures = figures(&[], &works);
        let gain = figures.iter().find(|figure| figure.name == "work_gain").unwrap();
        assert_eq!((gain.value, gain.is_kept()), (Some(1.9), Some(true)));
        let alone = super::figures(&[], &works[1..]);
        assert_eq!(alone.iter().find(|figure| figure.name == "work_gain").unwrap().is_kept(), None);
        assert_eq!(ratio(Some(1.0), Some(0.0)), None);
    }
}
