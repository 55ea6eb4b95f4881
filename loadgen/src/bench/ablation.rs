//! What batched delivery and idle-with-timeout are worth: HTTP throughput with and without each, for few and many VMs.
//!
//! Without batching, a frame that arrives has the core switch to its VM at once, before it looks at the next frame.
//! Without idle-with-timeout, a VM that sleeps until a time runs in its turn to ask again. Both are words on the kernel's
//! command line. Every VM has a connection that is kept, or several if VMs are few, and with it a time at which it
//! would give it up; requests go over a random one. Source of the comparison: Whitaker, Shaw, Gribble, "Scale and Performance in the Denali Isolation
//! Kernel" (2002).

use super::report::{Findings, Measure};
use super::{AT_ONCE, Bench, Scenario, http_arguments};
use crate::driver::Selection;
use crate::fleet::Fleet;
use crate::machine::Failure;
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::json;

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "ablation", about: "what batching and idle-with-timeout are worth", run };

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "2G";

/// Seconds of load at each point, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 2.0];

/// Fewest VMs when less is to be measured.
const LEAST_QUICK: u32 = 100;

/// A kernel: its name, what it is, its options.
struct Variant {
    name: &'static str,
    about: &'static str,
    options: &'static str,
    colour: Colour,
}

const VARIANTS: [Variant; 3] = [
    Variant { name: "whole", about: "as it is", options: "", colour: Colour::Blue },
    Variant { name: "unbatched", about: "without batching", options: "batching=off", colour: Colour::Orange },
    Variant { name: "untimed", about: "without idle-with-timeout", options: "idle-timeout=off", colour: Colour::Green },
];

/// What was measured with one kernel and so many VMs.
#[derive(Serialize)]
struct Sample {
    variant: &'static str,
    vms: u32,
    load: HttpReport,
}

impl Sample {
    fn per_s(&self) -> f64 {
        self.load.requests.per_s
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let memory = options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS));
    let mut samples = Vec::new();
    // Of few VMs little is to be seen.
    for vms in options.sizes().into_iter().filter(|&vms| vms >= options.usual([1, LEAST_QUICK])) {
        for variant in &VARIANTS {
            let kernel_options = variant.options.to_owned();
            let fleet = Fleet { cpus: options.cpus(), kernel_options, ..Fleet::web(vms, memory) };
            let session = bench.boot(&fleet)?;
            bench.driver.say(&format!("{} VM(s), {}", crate::human::count(vms.into()), variant.about));
            let load = bench.load_warm(&session, Selection::all(vms), seconds, &http_arguments("kept"))?;
            session.end()?;
            samples.push(Sample { variant: variant.name, vms, load });
        }
    }
    Ok(Findings {
        configuration: json!({
            "fleet": Fleet { cpus: options.cpus(), ..Fleet::web(options.sizes().last().copied().unwrap_or(1), memory) },
            "kernels": VARIANTS.map(|variant| json!({ "name": variant.name, "options": variant.options })),
            "at_once": AT_ONCE,
        }),
        figures: figures(&samples),
        failures: samples.iter().filter_map(trouble).collect(),
        plot: Some(plot(&samples, options.cpus())),
        table: Vec::new(),
        samples: json!(&samples),
    })
}

/// What did not answer. A kernel that lacks a part may be too slow for a client's patience, which is a result: with 10,000
/// VMs that look at the clock in turn, some connections are not made in time. Answering nothing is not.
fn trouble(sample: &Sample) -> Option<String> {
    let is_whole = sample.variant == VARIANTS[0].name;
    if !is_whole && sample.load.requests.ok > 0 {
        return None;
    }
    sample.load.trouble().map(|trouble| format!("{} VM(s), {}: {trouble}", sample.vms, sample.variant))
}

fn find<'s>(samples: &'s [Sample], variant: &str, vms: u32) -> Option<&'s Sample> {
    samples.iter().find(|sample| sample.variant == variant && sample.vms == vms)
}

fn figures(samples: &[Sample]) -> Vec<Measure> {
    let mut figures = Vec::new();
    for sample in samples {
        let Some(variant) = VARIANTS.iter().find(|variant| variant.name == sample.variant) else { continue };
        let vms = crate::human::count(sample.vms.into());
        let name = format!("{}_{}", sample.variant, sample.vms);
        let about = format!("{vms} VM(s), {}", variant.about);
        figures.push(Measure::new(&format!("{name}_per_s"), &about, "/s", Some(sample.per_s())));
        if sample.load.requests.failed > 0 {
            #[expect(clippy::cast_precision_loss, reason = "counts of a run")]
            let failed = Some(sample.load.requests.failed as f64);
            figures.push(Measure::new(&format!("{name}_failed"), &format!("{about}, failed"), "requests", failed));
        }
        let whole = find(samples, VARIANTS[0].name, sample.vms).filter(|_| sample.variant != VARIANTS[0].name);
        if let Some(whole) = whole {
            let ratio = (whole.per_s() > 0.0).then(|| sample.per_s() / whole.per_s());
            figures.push(Measure::new(&format!("{name}_ratio"), &format!("{about}, of the whole kernel's"), "", ratio));
        }
    }
    figures
}

fn plot(samples: &[Sample], cpus: u32) -> Figure {
    let lines = |of: &dyn Fn(&Sample) -> Option<f64>| -> Vec<Series> {
        let line = |variant: &Variant| {
            Series::line(
                variant.about,
                variant.colour,
                samples
                    .iter()
                    .filter(|sample| sample.variant == variant.name)
                    .filter_map(|sample| Some((f64::from(sample.vms), of(sample)?))),
            )
        };
        VARIANTS.iter().map(line).collect()
    };
    let panel = |title: &str, y_label: &str, y_kind: Kind, series: Vec<Series>| Panel {
        title: title.to_owned(),
        x_label: "VMs".to_owned(),
        x_kind: Kind::Decades,
        y_label: y_label.to_owned(),
        y_kind,
        series,
    };
    let p99 = |sample: &Sample| Some(&sample.load.latency.total).filter(|t| t.count > 0).map(|t| t.p99_us);
    Figure {
        title: "What batching and idle-with-timeout are worth".to_owned(),
        subtitle: format!("Kept connections to random web VMs, {AT_ONCE} requests at once, {cpus} processor(s)"),
        rows: vec![
            vec![panel("Throughput", "requests/s", Kind::Linear, lines(&|sample| Some(sample.per_s())))],
            vec![panel("Latency, p99", "whole request", Kind::Latency, lines(&p99))],
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kernel_is_whole_and_the_others_lack_one_thing_each() {
        assert!(VARIANTS[0].options.is_empty());
        let words: Vec<&str> = VARIANTS[1..].iter().map(|variant| variant.options).collect();
        assert_eq!(words, ["batching=off", "idle-timeout=off"]);
    }
}
