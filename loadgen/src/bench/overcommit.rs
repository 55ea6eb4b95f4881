//! Throughput when VMs need more memory than there is, as their popularity follows Zipf's law.
//!
//! How many VMs fit into the machine's memory is measured first; then machines with that many, 2, 4 and 10 times as
//! many are put under the same load. What is overcommitted is the memory of all VMs when each has served a request and
//! is resident: its own pages, its page tables, and its part of the kernel's heap.

use super::report::{Findings, Measure};
use super::{Bench, Scenario};
use crate::driver::Session;
use crate::fleet::Fleet;
use crate::machine::{Failure, counter};
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::{Value, json};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "overcommit", about: "throughput when more memory is needed than there is", run };

/// What is measured: how many times the VMs that fit, and the least share of their throughput.
const FACTORS: [(u32, Option<f64>); 4] = [(1, None), (2, Some(0.7)), (4, None), (10, Some(0.3))];

/// VMs of the machine on which is measured how many fit.
const CALIBRATION_VMS: u32 = 400;

/// VMs at ten times what fits, if neither they nor the memory are given: all, and few.
const DEFAULT_VMS: [u32; 2] = [20_000, 5000];

/// Memory to ask for, for each VM that is to fit, and for everything else; about what is measured then.
const MEMORY_KIB: (u32, u32) = (64, 32 * 1024);

/// Part of a page that a VM takes of the kernel's heap.
const HEAP_PAGES: f64 = 0.5;

/// The part of free memory that VMs are to fill.
const FILL: f64 = 0.95;

/// Requests at once.
const CONNECTIONS: &str = "16";

/// Seconds of load at each point, if nothing else is wanted, and of that before which does not count: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [20.0, 5.0];
const WARM_UP: [&str; 2] = ["3", "1"];

/// What was read with so many times the VMs that fit.
#[derive(Debug, Serialize)]
struct Point {
    factor: u32,
    vms: u32,
    start_sweep: HttpReport,
    warm_up: HttpReport,
    before: Value,
    load: HttpReport,
    after: Value,
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let memory = match (options.vms, &options.memory) {
        (Some(vms), Some(_)) => {
            return Err(Failure::BadInput(format!(
                "--vms {vms} and --memory: how many VMs there are follows from the memory; give one of them"
            )));
        }
        (None, Some(memory)) => memory.clone(),
        (vms, None) => memory_for(vms.unwrap_or(options.usual(DEFAULT_VMS))),
    };
    let fleet = Fleet {
        cpus: options.cpus(),
        swap: Some(options.swap.clone().unwrap_or_else(|| "4G".to_owned())),
        swap_iops: Some(options.swap_iops.unwrap_or(5000)),
        ..Fleet::web(CALIBRATION_VMS, &memory)
    };
    let mut failures = Vec::new();
    let (served, fitting) = calibrate(bench, &fleet, &mut failures)?;
    bench.driver.say(&format!("{fitting} VMs fit into {memory}"));
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS));
    let mut points = Vec::new();
    for (factor, _) in FACTORS {
        let fleet = Fleet { vms: fitting.saturating_mul(factor), ..fleet.clone() };
        match measure(bench, &fleet, factor, seconds, &mut failures) {
            // What was measured before is not lost.
            Err(Failure::Failed(why)) => {
                failures.push(format!("at {factor} times the memory: {why}"));
                break;
            }
            point => points.push(point?),
        }
    }
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "fitting": fitting, "seconds": seconds, "connections": CONNECTIONS }),
        figures: figures(fitting, &points),
        plot: Some(plot(&memory, &points)),
        table: Vec::new(),
        samples: json!({ "calibration": { "vms": fleet.vms, "served": served }, "points": points }),
        failures,
    })
}

/// Memory into which about a tenth of so many VMs fits.
fn memory_for(vms: u32) -> String {
    let (per_vm, fixed) = MEMORY_KIB;
    let kib = u64::from(vms / 10) * u64::from(per_vm) + u64::from(fixed);
    format!("{}M", kib.div_ceil(1024))
}

/// Finds out how many VMs that have served fit into memory.
fn calibrate(bench: &Bench<'_>, fleet: &Fleet, failures: &mut Vec<String>) -> Result<(Value, u32), Failure> {
    let (session, sweep) = bench.boot_and_sweep(fleet)?;
    failures.extend(sweep.trouble().map(|trouble| format!("when it was measured how many VMs fit: {trouble}")));
    let status = session.status()?;
    session.end()?;
    if counter(&status, "parked").is_none_or(|parked| parked > 0.0) {
        return Err(too_small(fleet, &format!("not even {} VMs fit", fleet.vms)));
    }
    let fitting = fitting(&status, fleet.vms).ok_or_else(|| {
        Failure::failed("the machine does not say how much memory it has, so that nothing can be said")
    })?;
    let most = virtual_isa::limits::MAX_VMS - 1;
    if fitting > most / 10 {
        return Err(Failure::BadInput(format!(
            "--memory {}: {fitting} VMs fit, and there cannot be ten times as many; give less",
            fleet.memory
        )));
    }
    Ok((status, fitting))
}

fn too_small(fleet: &Fleet, why: &str) -> Failure {
    Failure::BadInput(format!("--memory {}: {why}; give more", fleet.memory))
}

/// How many VMs fit if `vms` take what they do. Pages that reclaim keeps free are nobody's, and a little must be left:
/// the heap grows in steps, and nothing is to be parked when all that fit are under load.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a conversion from f64 saturates")]
fn fitting(status: &Value, vms: u32) -> Option<u32> {
    let count = |name: &str| counter(status, name);
    let per_vm = (count("private_pages")? + count("table_pages")?) / f64::from(vms) + HEAP_PAGES;
    let left = (count("free_pages")? - count("reserve_pages")?).max(0.0);
    Some(vms.saturating_add((left * FILL / per_vm) as u32))
}

fn measure(
    bench: &Bench<'_>,
    fleet: &Fleet,
    factor: u32,
    seconds: f64,
    failures: &mut Vec<String>,
) -> Result<Point, Failure> {
    let (session, start_sweep) = bench.boot_and_sweep(fleet)?;
    bench.driver.say(&format!("load at {factor} times the memory, {seconds} s"));
    let warm_up = load(bench, &session, bench.options.usual(WARM_UP), 1)?;
    let before = session.status()?;
    let load = load(bench, &session, &seconds.to_string(), 2)?;
    let after = session.status()?;
    let ended = session.end().err().map(|failure| failure.to_string());
    let troubles = [("when VMs started", start_sweep.trouble()), ("under load", load.trouble()), ("at the end", ended)];
    let troubles = troubles.into_iter().filter_map(|(when, trouble)| Some((when, trouble?)));
    failures.extend(troubles.map(|(when, trouble)| format!("{when}, at {factor} times the memory: {trouble}")));
    Ok(Point { factor, vms: fleet.vms, start_sweep, warm_up, before, load, after })
}

/// Asks VMs by popularity. Who is popular is the same in all loads of a run; what is drawn is not.
fn load(bench: &Bench<'_>, session: &Session<'_>, seconds: &str, which: u64) -> Result<HttpReport, Failure> {
    let seed = bench.seed();
    let [ranks, draws] = [seed, seed.wrapping_mul(1000).wrapping_add(which)].map(|seed| seed.to_string());
    session.load(&[
        "--targets",
        "zipf",
        "--new-connections",
        "--connections",
        CONNECTIONS,
        "--duration",
        seconds,
        "--timeout",
        "30000",
        "--ranks-seed",
        &ranks,
        "--seed",
        &draws,
    ])
}

impl Point {
    /// By how much a counter grew in a second.
    fn rate(&self, of: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
        let seconds = self.load.elapsed_s;
        let grown = of(&self.after)? - of(&self.before)?;
        (seconds > 0.0).then_some(grown / seconds)
    }

    fn counter_rate(&self, name: &str) -> Option<f64> {
        self.rate(|status| counter(status, name))
    }

    /// I/Os of the swap disk in a second, as the emulator counts them.
    fn disk_rate(&self, name: &str) -> Option<f64> {
        self.rate(|status| status.get("swap_device")?.get(name)?.as_f64())
    }

    /// Share of the machine's time in which it had nothing to run.
    fn idle(&self) -> Option<f64> {
        let grown = |name: &str| Some(counter(&self.after, name)? - counter(&self.before, name)?);
        let time = grown("uptime_ns")? * counter(&self.after, "cpus")?;
        (time > 0.0).then_some(grown("idle_ns")? / time)
    }

    fn per_s(&self) -> f64 {
        self.load.requests.per_s
    }
}

fn figures(fitting: u32, points: &[Point]) -> Vec<Measure> {
    let in_core = points.first().map(Point::per_s).filter(|&per_s| per_s > 0.0);
    let mut figures = vec![Measure::new("fitting", "VMs that fit into memory", "", Some(f64::from(fitting)))];
    for (point, (factor, budget)) in points.iter().zip(FACTORS) {
        let name = |what: &str| format!("{what}_{factor}x");
        let about = |what: &str| format!("{factor}x: {what}");
        let figure =
            |n: &str, what: &str, unit: &str, value: Option<f64>| Measure::new(&name(n), &about(what), unit, value);
        let total = &point.load.latency.total;
        let time = |us: f64| (total.count > 0).then_some(us / 1e3);
        figures.push(figure("requests_per_s", "requests answered", "/s", Some(point.per_s())));
        let ratio = in_core.map(|in_core| point.per_s() / in_core);
        let ratio = figure("ratio", "share of what fits", "", ratio);
        figures.extend(
            (factor > 1).then(|| budget.map_or_else(|| ratio.clone(), |budget| ratio.clone().at_least(budget))),
        );
        figures.extend([
            figure("p50_ms", "p50", "ms", time(total.p50_us)),
            figure("p99_ms", "p99", "ms", time(total.p99_us)),
            figure("parks_per_s", "parks", "/s", point.counter_rate("parks")),
            figure("wakes_memory_per_s", "wakes from memory", "/s", point.counter_rate("wakes_memory")),
            figure("wakes_disk_per_s", "wakes from disk", "/s", point.counter_rate("wakes_disk")),
            figure("disk_reads_per_s", "disk reads", "/s", point.disk_rate("reads")),
            figure("disk_writes_per_s", "disk writes", "/s", point.disk_rate("writes")),
            figure("idle", "share of time with nothing to run", "", point.idle()),
        ]);
    }
    figures
}

fn plot(memory: &str, points: &[Point]) -> Figure {
    let line = |name: &str, colour: Colour, of: &dyn Fn(&Point) -> Option<f64>| {
        Series::line(name, colour, points.iter().filter_map(|point| Some((f64::from(point.factor), of(point)?))))
    };
    let in_core = points.first().map_or(0.0, Point::per_s);
    let budget = FACTORS.iter().filter_map(|&(factor, share)| Some((f64::from(factor), share? * in_core)));
    let budget = Series::line("budget", Colour::Red, budget);
    let panel = |title: &str, y_label: &str, y_kind: Kind, series: Vec<Series>| Panel {
        title: title.to_owned(),
        x_label: "memory that all VMs need, as multiples of what there is".to_owned(),
        x_kind: Kind::Linear,
        y_label: y_label.to_owned(),
        y_kind,
        series,
    };
    let p50 = |point: &Point| (point.load.latency.total.count > 0).then_some(point.load.latency.total.p50_us);
    let p99 = |point: &Point| (point.load.latency.total.count > 0).then_some(point.load.latency.total.p99_us);
    let vms = points.first().map_or(0, |point| point.vms);
    Figure {
        title: "Throughput when more memory is needed than there is".to_owned(),
        subtitle: format!(
            "Machine of {memory}, into which {vms} web VMs fit; targets by Zipf's law, {CONNECTIONS} requests at once"
        ),
        rows: vec![
            vec![panel(
                "Throughput",
                "requests/s",
                Kind::Linear,
                vec![line("measured", Colour::Blue, &|point| Some(point.per_s())), budget],
            )],
            vec![
                panel(
                    "Latency",
                    "whole request",
                    Kind::Latency,
                    vec![line("p50", Colour::Blue, &p50), line("p99", Colour::Orange, &p99)],
                ),
                panel(
                    "Wakes",
                    "per second",
                    Kind::Linear,
                    vec![
                        line("from memory", Colour::Blue, &|point| point.counter_rate("wakes_memory")),
                        line("from disk", Colour::Orange, &|point| point.counter_rate("wakes_disk")),
                        line("disk reads", Colour::Green, &|point| point.disk_rate("reads")),
                    ],
                ),
            ],
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::density::tests::report;

    fn point(factor: u32, per_s: f64) -> Point {
        let status = |at: u64| {
            json!({
                "uptime_ns": at * 1_000_000_000, "idle_ns": at * 250_000_000, "cpus": 2, "parks": at * 10,
                "wakes_memory": at * 8, "wakes_disk": at * 2, "swap_device": { "reads": at * 3, "writes": at },
            })
        };
        let mut load = report();
        load.requests.per_s = per_s;
        load.elapsed_s = 20.0;
        let vms = factor * 100;
        Point { factor, vms, start_sweep: report(), warm_up: report(), before: status(5), load, after: status(25) }
    }

    fn points() -> Vec<Point> {
        [(1, 1000.0), (2, 750.0), (4, 500.0), (10, 200.0)].map(|(factor, per_s)| point(factor, per_s)).into()
    }

    #[test]
    fn vms_fit_until_the_reserve_is_reached() {
        let status = json!({ "private_pages": 1200, "table_pages": 350, "free_pages": 10_000, "reserve_pages": 2000 });
        // 15.5 pages each and half a page of heap: 500 more would fill it.
        assert_eq!(fitting(&status, 100), Some(575));
        let full = json!({ "private_pages": 1200, "table_pages": 350, "free_pages": 10, "reserve_pages": 2000 });
        assert_eq!(fitting(&full, 100), Some(100));
        assert_eq!(fitting(&json!({}), 100), None);
        assert_eq!(memory_for(20_000), "157M");
    }

    #[test]
    fn figures_are_rates_and_shares() {
        let figures = figures(100, &points());
        let of =
            |name: &str| figures.iter().find(|measure| measure.name == name).unwrap_or_else(|| panic!("no {name}"));
        assert!(!figures.iter().any(|measure| measure.name == "ratio_1x"));
        for (name, value) in [
            ("fitting", 100.0),
            ("requests_per_s_4x", 500.0),
            ("ratio_2x", 0.75),
            ("ratio_10x", 0.2),
            ("parks_per_s_1x", 10.0),
            ("wakes_memory_per_s_10x", 8.0),
            ("disk_reads_per_s_2x", 3.0),
            ("idle_2x", 0.125),
        ] {
            assert_eq!(of(name).value, Some(value), "{name}");
        }
        assert_eq!((of("ratio_2x").is_kept(), of("ratio_10x").is_kept()), (Some(true), Some(false)));
        assert_eq!(of("ratio_4x").is_kept(), None);
    }

    #[test]
    fn the_curve_has_a_point_for_each_factor() {
        let figure = plot("256M", &points());
        let throughput = &figure.rows[0][0];
        assert_eq!(throughput.series[0].points, [(1.0, 1000.0), (2.0, 750.0), (4.0, 500.0), (10.0, 200.0)]);
        assert_eq!(throughput.series[1].points, [(2.0, 700.0), (10.0, 300.0)]);
        assert!(figure.to_svg().contains("100 web VMs fit"));
    }
}
