//! Plots of runs: which panels, and what is in them. [`figure`] draws them, [`scale`] places the figures, [`bars`] draws
//! figures that have no axis in common.

pub mod bars;
pub mod figure;
pub mod scale;

use crate::human;
use crate::report::{HttpReport, Summary, SweepReport, Timeline};
use figure::{Colour, Figure, Panel, Series};
use scale::Kind;

/// Points of a latency curve.
const CURVE_POINTS: u32 = 200;

/// A plot of one run.
#[must_use]
pub fn of_http(report: &HttpReport) -> Figure {
    let config = &report.config;
    let targets = human::count(u64::from(config.count));
    if let Some(sweep) = &report.sweep {
        return Figure {
            title: format!("{} of {targets} targets answered", human::count(u64::from(sweep.answered))),
            subtitle: format!("Every target from {}{} was asked for {}", config.first, port(config.port), config.path),
            rows: vec![vec![answered(&[("", Colour::Blue, sweep, 0.0)])], vec![latencies(&parts(report))]],
        };
    }
    let [p50, p99] = [report.latency.total.p50_us, report.latency.total.p99_us].map(human::latency);
    let how = match (config.targets.as_str(), config.keep_alive) {
        ("kept", _) => "one kept connection to each",
        (_, true) => "kept connections",
        (_, false) => "a new connection for each request",
    };
    let pace = config.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{} wanted/s", human::rate(rate)));
    Figure {
        title: format!("{} requests/s, p50 {p50}, p99 {p99}", human::rate(report.requests.per_s)),
        subtitle: format!(
            "{targets} targets from {}{}, {how}, at most {} requests at once, {pace}",
            config.first,
            port(config.port),
            config.connections,
        ),
        rows: vec![
            vec![throughput(&[("answered", Colour::Blue, &report.timeline, 0.0)])],
            vec![latencies(&parts(report))],
        ],
    }
}

fn port(port: u16) -> String {
    if port == 80 { String::new() } else { format!(":{port}") }
}

/// The latencies of one run that are worth a line each.
fn parts(report: &HttpReport) -> Vec<(&'static str, Colour, &Summary)> {
    let latency = &report.latency;
    let mut parts = vec![("whole request", Colour::Blue, &latency.total)];
    if let Some(corrected) = &latency.corrected {
        parts.insert(0, ("since due", Colour::Orange, corrected));
    } else if !report.config.keep_alive {
        parts.push(("connecting", Colour::Orange, &latency.connect));
        parts.push(("responding", Colour::Green, &latency.response));
    }
    parts
}

/// Answers over time, of one run after the other: each with the second at which it begins.
#[must_use]
pub fn throughput(runs: &[(&str, Colour, &Timeline, f64)]) -> Panel {
    let mut series: Vec<Series> = runs
        .iter()
        .map(|&(name, colour, timeline, from_s)| Series {
            name: name.to_owned(),
            colour,
            filled: true,
            points: rates(&timeline.ok, timeline.ok.len(), timeline.step_ms, from_s),
        })
        .collect();
    let has_failed = |timeline: &Timeline| timeline.failed.iter().any(|&n| n > 0);
    for &(_, _, timeline, from_s) in runs.iter().filter(|run| has_failed(run.2)) {
        let points = rates(&timeline.failed, timeline.ok.len(), timeline.step_ms, from_s);
        series.push(Series::line("failed", Colour::Red, points));
    }
    Panel {
        title: "Throughput".to_owned(),
        x_label: "time, seconds".to_owned(),
        x_kind: Kind::Time,
        y_label: "requests/s".to_owned(),
        y_kind: Kind::Linear,
        series,
    }
}

/// Counts of steps as rates, in the middle of each step. The last step, which is seldom a whole one, is left out
/// unless there is no other.
#[expect(clippy::cast_precision_loss, reason = "coordinates")]
fn rates(counts: &[u32], nr_steps: usize, step_ms: u64, from_s: f64) -> Vec<(f64, f64)> {
    let step_s = step_ms as f64 / 1e3;
    let whole = if nr_steps > 2 { nr_steps - 1 } else { nr_steps };
    let middle = |i: usize| from_s + (i as f64 + 0.5) * step_s;
    counts.iter().take(whole).enumerate().map(|(i, &n)| (middle(i), f64::from(n) / step_s)).collect()
}

/// Latencies by the share of requests that were at least as fast.
#[must_use]
pub fn latencies(runs: &[(&str, Colour, &Summary)]) -> Panel {
    let series = runs
        .iter()
        .filter(|(_, _, summary)| summary.count > 0)
        .map(|&(name, colour, summary)| Series::line(name, colour, curve(summary)));
    Panel {
        title: "Latency".to_owned(),
        x_label: "share of requests that were at least as fast, %".to_owned(),
        x_kind: Kind::Nines,
        y_label: "latency".to_owned(),
        y_kind: Kind::Latency,
        series: series.collect(),
    }
}

/// A histogram as a curve, as far as one request in all.
fn curve(summary: &Summary) -> Vec<(f64, f64)> {
    #[expect(clippy::cast_precision_loss, reason = "coordinates")]
    let most = (summary.count.max(2) as f64).log10();
    let at = |i: u32| 1.0 - 10f64.powf(-most * f64::from(i) / f64::from(CURVE_POINTS));
    let mut points: Vec<(f64, f64)> = (0..=CURVE_POINTS).map(at).map(|q| (q, summary.at_quantile(q))).collect();
    // The least has no share below it.
    if let Some(first) = points.first_mut() {
        first.1 = summary.min_us;
    }
    points
}

/// Targets that had answered, over time: each sweep with the second at which it began.
#[must_use]
pub fn answered(sweeps: &[(&str, Colour, &SweepReport, f64)]) -> Panel {
    let series = sweeps.iter().map(|&(name, colour, sweep, from_s)| {
        let mut times: Vec<u64> = sweep.first_answer_us.iter().flatten().copied().collect();
        times.sort_unstable();
        // As many points as there are pixels.
        let every = (times.len() / 500).max(1);
        let last = times.len().saturating_sub(1);
        #[expect(clippy::cast_precision_loss, reason = "coordinates")]
        let point = |(i, us): (usize, u64)| (from_s + us as f64 / 1e6, (i + 1) as f64);
        let chosen = times.into_iter().enumerate().filter(|&(i, _)| i % every == 0 || i == last);
        let mut points: Vec<(f64, f64)> = chosen.map(point).collect();
        if let Some(&(begin, _)) = points.first() {
            points.insert(0, (begin, 0.0));
        }
        Series { name: name.to_owned(), colour, filled: true, points }
    });
    Panel {
        title: "First answers".to_owned(),
        x_label: "time, seconds".to_owned(),
        x_kind: Kind::Time,
        y_label: "targets that have answered".to_owned(),
        y_kind: Kind::Linear,
        series: series.collect(),
    }
}
