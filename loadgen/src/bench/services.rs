//! What a service costs and serves, beside processes and containers of Linux on the same virtual machine.
//!
//! For 1 to 10,000 services, each system in turn boots on the same emulated hardware, starts them, is asked who they are
//! until all have answered, and is put under the same load from the same load generator over the same kind of
//! network: new connections to random services, then requests over kept connections, one to each. What a system
//! cannot run is told in the table, with its reason.

use super::report::{Findings, Measure};
use super::{AT_ONCE, Bench, HTTP_MODES, NAME, Scenario, http_arguments};
use crate::demo::report::times_in_log;
use crate::driver::Selection;
use crate::fleet::Fleet;
use crate::human::count;
use crate::machine::{Failure, counter};
use crate::peer::{self, Peer, Service};
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::{Value, json};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "services", about: "what a service costs and serves, beside Linux (--peer linux,linux-ns)", run };

/// Memory of the machine, if nothing else is wanted: what containers need that are as many as VMs.
const DEFAULT_MEMORY: &str = "4G";

/// Seconds of load of each kind, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 2.0];

/// The number of services for which there are budgets.
const JUDGED: u32 = 1000;

/// Containers that Linux makes in reasonable time. What one takes grows with those that are there: 10,000 were not made
/// within 15 minutes.
const MOST_BOXES: u32 = 3000;

/// How many times as fast VMs are to be created, and what part of the memory they are to take.
const CREATED: f64 = 20.0;
const MEMORY: f64 = 0.4;

/// Name of the system that is measured beside the others.
const FIRN: &str = "firn";

/// Bytes of a page.
const PAGE: f64 = 4096.0;

/// What one system did with so many services.
#[derive(Debug, Serialize)]
struct Sample {
    system: &'static str,
    services: u32,
    /// Why there is nothing else.
    failed: Option<String>,
    /// Seconds from the first one's creation until the last one's program ran.
    started_s: Option<f64>,
    /// Bytes of memory that all took when each had answered once.
    taken_bytes: Option<f64>,
    status: Value,
    sweep: Option<HttpReport>,
    loads: Vec<HttpReport>,
}

impl Sample {
    fn nothing(system: &'static str, services: u32, why: String) -> Self {
        let status = Value::Null;
        let (started_s, taken_bytes, sweep, loads) = (None, None, None, Vec::new());
        Self { system, services, failed: Some(why), started_s, taken_bytes, status, sweep, loads }
    }

    fn created_per_s(&self) -> Option<f64> {
        self.started_s.filter(|s| *s > 0.0).map(|s| f64::from(self.services) / s)
    }

    fn kib(&self) -> Option<f64> {
        self.taken_bytes.map(|bytes| bytes / 1024.0 / f64::from(self.services))
    }

    fn per_s(&self, mode: usize) -> Option<f64> {
        self.loads.get(mode).map(|load| load.requests.per_s)
    }

    fn p99_ms(&self, mode: usize) -> Option<f64> {
        let total = &self.loads.get(mode)?.latency.total;
        (total.count > 0).then_some(total.p99_us / 1e3)
    }

    /// What did not answer.
    fn troubles(&self) -> impl Iterator<Item = String> {
        let reports = self.sweep.iter().chain(&self.loads);
        reports.filter_map(|report| {
            let Self { system, services, .. } = self;
            report.trouble().map(|trouble| format!("{services} service(s), {system}: {trouble}"))
        })
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let memory = options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let mut samples: Vec<Sample> = Vec::new();
    for services in options.sizes() {
        let fleet = Fleet { cpus: options.cpus(), ..Fleet::web(services, memory) };
        let mut sample = measure(bench, FIRN, &fleet)?;
        sample.taken_bytes = taken_by_firn(samples.first().unwrap_or(&sample), &sample);
        samples.push(sample);
        for &peer in &options.peers {
            if peer == Peer::LinuxNs && services > MOST_BOXES {
                let why = format!("not measured, as making more than {} takes too long", count(MOST_BOXES.into()));
                samples.push(Sample::nothing(peer.name(), services, why));
                continue;
            }
            let machine = peer::on(fleet.clone(), NAME, peer, Service::Web)?;
            samples.push(match measure(bench, peer.name(), &machine) {
                // That Linux does not run so many is a result.
                Err(Failure::Failed(what)) => {
                    Sample::nothing(peer.name(), services, why(&bench.driver.firn.log(), what))
                }
                sample => sample?,
            });
        }
    }
    Ok(Findings {
        configuration: json!({
            "memory": memory, "cpus": options.cpus(), "at_once": AT_ONCE, "sizes": options.sizes(),
            "peers": &options.peers,
        }),
        figures: figures(&samples, &options.peers),
        failures: samples.iter().flat_map(Sample::troubles).collect(),
        plot: Some(plot(&samples, &options.peers)),
        table: table(&samples),
        samples: json!(&samples),
    })
}

fn measure(bench: &Bench<'_>, system: &'static str, fleet: &Fleet) -> Result<Sample, Failure> {
    let services = fleet.vms;
    bench.driver.say(&format!("{} service(s), {system}", count(services.into())));
    let session = bench.boot(fleet)?;
    let sweep = session.sweep(Selection::all(services), AT_ONCE)?;
    let status = session.status()?;
    let started_s = started_s(&status, &bench.driver.firn.log());
    let seconds = bench.options.seconds.unwrap_or(bench.options.usual(DEFAULT_SECONDS));
    let loads = HTTP_MODES.iter().map(|(mode, about)| {
        bench.driver.say(&format!("{} service(s), {system}, {about}", count(services.into())));
        bench.load_warm(&session, Selection::all(services), seconds, &http_arguments(mode))
    });
    let loads = loads.collect::<Result<Vec<_>, _>>()?;
    session.end()?;
    let (sweep, taken_bytes) = (Some(sweep), taken_by_linux(&status));
    Ok(Sample { system, services, failed: None, started_s, taken_bytes, status, sweep, loads })
}

/// Seconds until all had been started: as Linux says, or by the times in Firn's log.
fn started_s(status: &Value, log: &str) -> Option<f64> {
    if let Some(ns) = counter(status, "started_ns") {
        return Some(ns / 1e9);
    }
    let (ready, started) = times_in_log(log, NAME);
    Some(started? - ready?)
}

/// What less memory Linux has for programs than before the first service.
fn taken_by_linux(status: &Value) -> Option<f64> {
    Some(counter(status, "base_available_bytes")? - counter(status, "available_bytes")?)
}

/// Memory that all VMs of a machine took, its kernel's included: what is taken beyond what the smallest machine has
/// taken, and the pages and tables of that one's own VMs.
fn taken_by_firn(one: &Sample, many: &Sample) -> Option<f64> {
    let taken = |sample: &Sample| {
        let pages = |name: &str| counter(&sample.status, name);
        Some(pages("total_pages")? - pages("free_pages")? - pages("kept_pages")?)
    };
    let own = counter(&one.status, "private_pages")? + counter(&one.status, "table_pages")?;
    let pages = if many.services > one.services { taken(many)? - taken(one)? + own } else { own };
    Some(pages * PAGE)
}

/// Why a machine did not come up: what it said last of an error, or what `firn` did.
fn why(log: &str, otherwise: String) -> String {
    let is_reason = |line: &&str| ["error: ", "Kernel panic", "Out of memory"].iter().any(|word| line.contains(word));
    let reason = log.lines().rev().find(is_reason).map(|line| line.rsplit("error: ").next().unwrap_or(line).to_owned());
    reason.unwrap_or(otherwise)
}

fn find<'s>(samples: &'s [Sample], system: &str, services: u32) -> Option<&'s Sample> {
    samples.iter().find(|sample| sample.system == system && sample.services == services)
}

/// A part of a whole, if there is one.
fn ratio(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    let whole = whole.filter(|whole| *whole > 0.0)?;
    Some(part? / whole)
}

fn figures(samples: &[Sample], peers: &[Peer]) -> Vec<Measure> {
    let mut figures = Vec::new();
    for sample in samples {
        let Sample { system, services, .. } = sample;
        let about = format!("{} service(s), {system}", count((*services).into()));
        let mut add = |name: &str, what: &str, unit: &str, value: Option<f64>| {
            figures.push(Measure::new(
                &format!("{system}_{services}_{name}"),
                &format!("{about}, {what}"),
                unit,
                value,
            ));
        };
        add("created_per_s", "created and started", "/s", sample.created_per_s());
        add("kib", "memory of each", "KiB", sample.kib());
        for (n, (mode, what)) in HTTP_MODES.iter().enumerate() {
            add(&format!("{mode}_per_s"), what, "/s", sample.per_s(n));
            add(&format!("{mode}_p99_ms"), &format!("{what}, p99"), "ms", sample.p99_ms(n));
        }
    }
    for &peer in peers {
        let firn = samples.iter().filter(|sample| sample.system == FIRN);
        figures.extend(firn.flat_map(|firn| ratios(firn, find(samples, peer.name(), firn.services), peer)));
    }
    figures
}

/// Requests/s that VMs are to serve for each that a peer does.
const fn served_budget(peer: Peer) -> f64 {
    match peer {
        Peer::Linux => 2.0,
        Peer::LinuxNs => 3.0,
    }
}

/// Firn's figures for each of a peer's, with budgets where there are any.
fn ratios(firn: &Sample, other: Option<&Sample>, peer: Peer) -> Vec<Measure> {
    let (services, name) = (firn.services, peer.name());
    let of = |what: &str, about: &str, part: fn(&Sample) -> Option<f64>| {
        let about = format!("{} service(s), {about}, Firn's for each of {name}'s", count(services.into()));
        Measure::new(&format!("{name}_{services}_{what}_ratio"), &about, "", ratio(part(firn), other.and_then(part)))
    };
    let served = served_budget(peer);
    let judged = |measure: Measure, judge: &dyn Fn(Measure) -> Measure| {
        if services == JUDGED { judge(measure) } else { measure }
    };
    vec![
        judged(of("created", "creations", Sample::created_per_s), &|measure| measure.at_least(CREATED)),
        judged(of("memory", "memory", Sample::kib), &|measure| measure.at_most(MEMORY)),
        judged(of("new", HTTP_MODES[0].1, |sample| sample.per_s(0)), &|measure| measure.at_least(served)),
        judged(of("kept", HTTP_MODES[1].1, |sample| sample.per_s(1)), &|measure| measure.at_least(served)),
        of("new_p99", "p99 of new connections", |sample| sample.p99_ms(0)),
        of("kept_p99", "p99 of kept connections", |sample| sample.p99_ms(1)),
    ]
}

fn table(samples: &[Sample]) -> Vec<Vec<String>> {
    let heading = ["services", "created/s", "KiB each", "new/s", "p99 ms", "kept/s", "p99 ms"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for sample in samples {
        let name = format!("{} {}", count(sample.services.into()), sample.system);
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        let firn = find(samples, FIRN, sample.services).filter(|firn| firn.system != sample.system);
        if let Some(why) = &sample.failed {
            rows.push(vec![format!("{name}: {why}")]);
            continue;
        }
        let parts: [fn(&Sample) -> Option<f64>; 6] = [
            Sample::created_per_s,
            Sample::kib,
            |sample| sample.per_s(0),
            |sample| sample.p99_ms(0),
            |sample| sample.per_s(1),
            |sample| sample.p99_ms(1),
        ];
        rows.push([name].into_iter().chain(parts.iter().map(|part| cell(part(sample)))).collect());
        if let Some(firn) = firn {
            let times = |part: &fn(&Sample) -> Option<f64>| {
                ratio(part(firn), part(sample)).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x"))
            };
            rows.push(["  Firn's for each of these".to_owned()].into_iter().chain(parts.iter().map(times)).collect());
        }
    }
    rows
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { crate::human::whole(value) }
}

fn plot(samples: &[Sample], peers: &[Peer]) -> Figure {
    let colours = [Colour::Blue, Colour::Orange, Colour::Green];
    let systems = [FIRN].into_iter().chain(peers.iter().map(|peer| peer.name()));
    let systems: Vec<(&str, Colour)> = systems.zip(colours).collect();
    let panel = |title: &str, y_label: &str, of: &dyn Fn(&Sample) -> Option<f64>| Panel {
        title: title.to_owned(),
        x_label: "services".to_owned(),
        x_kind: Kind::Decades,
        y_label: y_label.to_owned(),
        y_kind: Kind::Linear,
        series: systems
            .iter()
            .map(|&(system, colour)| {
                Series::line(
                    system,
                    colour,
                    samples
                        .iter()
                        .filter(|sample| sample.system == system)
                        .filter_map(|sample| Some((f64::from(sample.services), of(sample)?))),
                )
            })
            .collect(),
    };
    Figure {
        title: "Services as VMs, as processes and as containers".to_owned(),
        subtitle: format!("The same virtual machine; {AT_ONCE} requests at once to random services"),
        rows: vec![
            vec![
                panel("Throughput, new connections", "requests/s", &|sample| sample.per_s(0)),
                panel("Throughput, kept connections", "requests/s", &|sample| sample.per_s(1)),
            ],
            vec![
                panel("Creation", "services/s", &Sample::created_per_s),
                panel("Memory", "KiB of each service", &Sample::kib),
            ],
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(system: &'static str, services: u32, started_s: f64, taken_bytes: f64) -> Sample {
        let nothing = Sample::nothing(system, services, String::new());
        Sample { failed: None, started_s: Some(started_s), taken_bytes: Some(taken_bytes), ..nothing }
    }

    #[test]
    fn budgets_are_for_a_thousand_services() {
        let samples = [100, 1000].map(|n| {
            let (firn, linux) = (f64::from(n) * 50.0, f64::from(n) * 130.0);
            [sample(FIRN, n, 0.1, firn * 1024.0), sample("linux", n, 2.1, linux * 1024.0)]
        });
        let samples: Vec<Sample> = samples.into_iter().flatten().collect();
        let figures = figures(&samples, &[Peer::Linux]);
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap();
        assert_eq!(of("firn_1000_created_per_s").value, Some(10_000.0));
        assert_eq!(of("linux_1000_created_ratio").is_kept(), Some(true));
        assert_eq!(of("linux_1000_memory_ratio").value, Some(50.0 / 130.0));
        assert_eq!(of("linux_1000_memory_ratio").is_kept(), Some(true));
        assert!(of("linux_100_memory_ratio").budget.is_none());
        assert_eq!((of("linux_1000_new_ratio").value, of("linux_1000_new_ratio").is_kept()), (None, None));
        assert!(figures.iter().all(|figure| !figure.name.starts_with("linux-ns")));
    }

    #[test]
    fn what_cannot_run_has_its_reason_in_the_table() {
        let samples = [sample(FIRN, 10, 1.0, 1.0), Sample::nothing("linux-ns", 10, "no room".to_owned())];
        let table = table(&samples);
        assert_eq!(table.last().unwrap(), &["10 linux-ns: no room".to_owned()]);
        let log =
            "kernel | [ 1.0] x\nsupervisor | [ 2.0] error: service 7 of 9: clone3: Cannot allocate memory\n[ 3.0] y";
        assert_eq!(why(log, String::new()), "service 7 of 9: clone3: Cannot allocate memory");
        assert_eq!(why("", "firn up failed".to_owned()), "firn up failed");
    }

    #[test]
    fn memory_is_what_a_machine_has_less_of() {
        let status = |free: u32| json!({ "total_pages": 1000, "free_pages": free, "kept_pages": 10, "private_pages": 6, "table_pages": 4 });
        let one = Sample { status: status(900), ..sample(FIRN, 1, 1.0, 0.0) };
        let many = Sample { status: status(810), ..sample(FIRN, 10, 1.0, 0.0) };
        assert_eq!(taken_by_firn(&one, &one), Some(10.0 * PAGE));
        assert_eq!(taken_by_firn(&one, &many), Some(100.0 * PAGE));
        let linux = json!({ "base_available_bytes": 5000, "available_bytes": 3000 });
        assert_eq!((taken_by_linux(&linux), taken_by_linux(&Value::Null)), (Some(2000.0), None));
        assert_eq!(started_s(&json!({ "started_ns": 1_500_000_000 }), ""), Some(1.5));
    }
}
