//! How throughput holds as VMs become many: HTTP over new connections and over kept ones.
//!
//! With kept connections every VM has one of its own, or several if VMs are few, and requests go over a random one, so
//! that all VMs take turns. What a second processor is worth is [`super::cores`]'s.

use super::report::{Findings, Measure};
use super::{AT_ONCE, Bench, HTTP_MODES, Scenario, http_arguments};
use crate::driver::Selection;
use crate::fleet::Fleet;
use crate::machine::Failure;
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::json;

/// The scenario.
pub const SCENARIO: Scenario = Scenario { name: "scale", about: "throughput with few VMs and with many", run };

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "2G";

/// Seconds of load at each point, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 2.0];

/// The sizes that are compared, and what the larger is to keep of the smaller's throughput.
const COMPARED: (u32, u32) = (100, 10_000);
const KEPT: f64 = 0.9;

/// HTTP with so many VMs.
#[derive(Serialize)]
struct Sample {
    vms: u32,
    mode: &'static str,
    load: HttpReport,
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let memory = options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS));
    let mut samples = Vec::new();
    for vms in options.sizes() {
        let session = bench.boot(&Fleet { cpus: options.cpus(), ..Fleet::web(vms, memory) })?;
        for (mode, about) in HTTP_MODES {
            bench.driver.say(&format!("{} VM(s), {about}", crate::human::count(vms.into())));
            let load = bench.load_warm(&session, Selection::all(vms), seconds, &http_arguments(mode))?;
            samples.push(Sample { vms, mode, load });
        }
        session.end()?;
    }
    let trouble = |sample: &Sample| {
        let Sample { vms, mode, load } = sample;
        load.trouble().map(|trouble| format!("{vms} VM(s), {mode}: {trouble}"))
    };
    Ok(Findings {
        configuration: json!({
            "memory": memory, "cpus": options.cpus(), "at_once": AT_ONCE, "sizes": options.sizes(), "seconds": seconds,
        }),
        figures: figures(&samples),
        failures: samples.iter().filter_map(trouble).collect(),
        plot: Some(plot(&samples, options.cpus())),
        table: Vec::new(),
        samples: json!(&samples),
    })
}

fn figures(samples: &[Sample]) -> Vec<Measure> {
    let mut figures = Vec::new();
    for Sample { vms, mode, load } in samples {
        let per_s = load.requests.per_s;
        let about = HTTP_MODES.iter().find(|(name, _)| name == mode).map_or("", |(_, about)| about);
        let about = format!("{} VM(s), {about}", crate::human::count((*vms).into()));
        figures.push(Measure::new(&format!("{mode}_{vms}_per_s"), &about, "/s", Some(per_s)));
        let p99 = Some(&load.latency.total).filter(|total| total.count > 0).map(|total| total.p99_us / 1e3);
        figures.push(Measure::new(&format!("{mode}_{vms}_p99_ms"), &format!("{about}, p99"), "ms", p99));
        if *vms == COMPARED.1 {
            let few = samples.iter().find(|few| few.vms == COMPARED.0 && few.mode == *mode);
            let few = few.map(|few| few.load.requests.per_s).filter(|&per_s| per_s > 0.0);
            let about = format!("{about}, of that with {}", COMPARED.0);
            let kept = Measure::new(&format!("{mode}_{vms}_kept"), &about, "", few.map(|few| per_s / few));
            figures.push(kept.at_least(KEPT));
        }
    }
    figures
}

fn plot(samples: &[Sample], cpus: u32) -> Figure {
    let lines = |of: &dyn Fn(&Sample) -> f64| -> Vec<Series> {
        let line = |((mode, about), colour): ((&str, &str), Colour)| {
            Series::line(
                about,
                colour,
                samples.iter().filter(|sample| sample.mode == mode).map(|sample| (f64::from(sample.vms), of(sample))),
            )
        };
        HTTP_MODES.into_iter().zip([Colour::Blue, Colour::Orange]).map(line).collect()
    };
    let panel = |title: &str, y_label: &str, y_kind: Kind, series: Vec<Series>| Panel {
        title: title.to_owned(),
        x_label: "VMs".to_owned(),
        x_kind: Kind::Decades,
        y_label: y_label.to_owned(),
        y_kind,
        series,
    };
    Figure {
        title: "Throughput with few and with many VMs".to_owned(),
        subtitle: format!("Random web VMs, {AT_ONCE} requests at once, {cpus} processor(s)"),
        rows: vec![vec![
            panel("Throughput", "requests/s", Kind::Linear, lines(&|sample| sample.load.requests.per_s)),
            panel("Latency, p99", "whole request", Kind::Latency, lines(&|sample| sample.load.latency.total.p99_us)),
        ]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_compared_with_few() {
        let sample = |vms: u32, per_s: f64| {
            let mut load = super::super::density::tests::report();
            load.requests.per_s = per_s;
            Sample { vms, mode: "new", load }
        };
        let figures = figures(&[sample(100, 1000.0), sample(10_000, 850.0)]);
        let kept = figures.iter().find(|figure| figure.name == "new_10000_kept").unwrap();
        assert_eq!((kept.value, kept.is_kept()), (Some(0.85), Some(false)));
        assert!(!figures.iter().any(|figure| figure.name == "new_100_kept"));
    }
}
