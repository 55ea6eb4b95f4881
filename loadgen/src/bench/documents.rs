//! Throughput by the size of what is asked for: small documents show what a request takes, large ones what TCP carries.
//!
//! One machine has a `web` VM for each size. With a new connection for each request TCP begins anew each time; over
//! kept connections large documents are a stream, whose rate is TCP's own.

use super::report::{Findings, Measure};
use super::{Bench, Scenario};
use crate::driver::Selection;
use crate::fleet::{Fleet, Neighbours};
use crate::machine::Failure;
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::json;

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "documents", about: "HTTP and TCP throughput by the size of the document", run };

/// Sizes in bytes: all, and few.
const SIZES: [&[u32]; 2] = [&[128, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576], &[128, 4096, 65_536, 1_048_576]];

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "512M";

/// Seconds of load at each point, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 1.5];

/// Requests at once.
const AT_ONCE: &str = "16";

/// How requests come.
const MODES: [(&str, &str, &str, Colour); 2] = [
    ("new", "a new connection each", "--new-connections", Colour::Blue),
    ("kept", "kept connections", "--keep-alive", Colour::Orange),
];

const MIB: f64 = 1_048_576.0;

/// What was measured of one size.
#[derive(Serialize)]
struct Sample {
    bytes: u32,
    mode: &'static str,
    load: HttpReport,
}

impl Sample {
    fn mib_per_s(&self) -> f64 {
        self.load.requests.per_s * f64::from(self.bytes) / MIB
    }
}

/// A machine with a VM for each size.
fn fleet(bench: &Bench<'_>, sizes: &[u32]) -> Fleet {
    let options = bench.options;
    let service = |bytes: &u32| Neighbours::new(&format!("web{bytes}"), "web", 1, &format!("body={bytes}"));
    let (first, others) = sizes.split_first().map_or((0, &[][..]), |(first, others)| (*first, others));
    Fleet {
        cpus: options.cpus(),
        arguments: format!("body={first}"),
        neighbours: others.iter().map(service).collect(),
        ..Fleet::web(1, options.memory.as_deref().unwrap_or(DEFAULT_MEMORY))
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let sizes = options.usual(SIZES);
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS));
    let fleet = fleet(bench, sizes);
    let session = bench.boot(&fleet)?;
    let mut samples = Vec::new();
    for (skip, &bytes) in (0..).zip(sizes) {
        for (mode, about, how, _) in MODES {
            bench.driver.say(&format!("documents of {} bytes, {about}", crate::human::count(bytes.into())));
            let of = Selection { skip, count: 1, stride: 1 };
            let load = bench.load_warm(&session, of, seconds, &[how, "--path", "/", "--connections", AT_ONCE])?;
            samples.push(Sample { bytes, mode, load });
        }
    }
    session.end()?;
    let trouble = |sample: &Sample| {
        sample.load.trouble().map(|trouble| format!("{} bytes, {}: {trouble}", sample.bytes, sample.mode))
    };
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "sizes": sizes, "at_once": AT_ONCE, "seconds": seconds }),
        figures: figures(&samples),
        failures: samples.iter().filter_map(trouble).collect(),
        plot: Some(plot(&samples)),
        table: Vec::new(),
        samples: json!(&samples),
    })
}

fn figures(samples: &[Sample]) -> Vec<Measure> {
    let figures = samples.iter().flat_map(|sample| {
        let about = MODES.iter().find(|(name, ..)| *name == sample.mode).map_or("", |mode| mode.1);
        let about = format!("{} bytes, {about}", crate::human::count(sample.bytes.into()));
        let name = |what: &str| format!("{}_{}_{what}", sample.mode, sample.bytes);
        [
            Measure::new(&name("per_s"), &about, "/s", Some(sample.load.requests.per_s)),
            Measure::new(&name("mib_per_s"), &about, "MiB/s", Some(sample.mib_per_s())),
        ]
    });
    figures.collect()
}

fn plot(samples: &[Sample]) -> Figure {
    let panel = |title: &str, y_label: &str, of: fn(&Sample) -> f64| Panel {
        title: title.to_owned(),
        x_label: "bytes of a document".to_owned(),
        x_kind: Kind::Decades,
        y_label: y_label.to_owned(),
        y_kind: Kind::Linear,
        series: MODES
            .iter()
            .map(|&(mode, about, _, colour)| {
                Series::line(
                    about,
                    colour,
                    samples
                        .iter()
                        .filter(|sample| sample.mode == mode)
                        .map(|sample| (f64::from(sample.bytes), of(sample))),
                )
            })
            .collect(),
    };
    Figure {
        title: "Throughput by the size of a document".to_owned(),
        subtitle: format!("A web VM for each size, {AT_ONCE} requests at once"),
        rows: vec![vec![
            panel("Requests", "requests/s", |sample| sample.load.requests.per_s),
            panel("Bytes", "MiB/s", Sample::mib_per_s),
        ]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_and_the_few_are_among_all() {
        assert!(SIZES.iter().all(|sizes| sizes.is_sorted()));
        assert!(SIZES[1].iter().all(|bytes| SIZES[0].contains(bytes)));
    }

    #[test]
    fn bytes_follow_from_requests() {
        let load = super::super::density::tests::report();
        let sample = Sample { bytes: 1_048_576, mode: "new", load };
        let figures = figures(std::slice::from_ref(&sample));
        assert_eq!(figures[0].value, figures[1].value, "a MiB each");
        assert_eq!(figures[1].unit, "MiB/s");
    }
}
