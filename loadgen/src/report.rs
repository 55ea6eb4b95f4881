//! A run as figures that a program can read: the JSON of `loadgen http`.

use crate::http::error::ErrorKind;
use crate::http::identity::IdentityReport;
use crate::http::record::{Latencies, STEP_MS};
use crate::http::{Config, Limit, Mode, Outcome};
use crate::human;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, UNIX_EPOCH};

/// Names the form of the report. Changes when a field changes its meaning or goes.
pub const SCHEMA: &str = "firn/loadgen-http/1";

/// Addresses that a report lists of targets that never answered.
const MAX_LISTED: usize = 20;

/// A run of `loadgen http`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program.
    pub version: String,
    /// What was asked for.
    pub config: ConfigReport,
    /// When the first request began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// Seconds to establish the connections to be kept, before the first request.
    pub setup_s: Option<f64>,
    /// Seconds in which requests were begun; if their number was given, until the last was answered.
    pub window_s: f64,
    /// Seconds from the first request to the end of the last.
    pub elapsed_s: f64,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// Requests.
    pub requests: RequestsReport,
    /// Failures by kind; all kinds are listed.
    pub errors: BTreeMap<String, u64>,
    /// Connections.
    pub connections: ConnectionsReport,
    /// How the requests spread over the targets.
    pub targets: TargetsReport,
    /// Latencies.
    pub latency: LatencyReport,
    /// Answers over time.
    pub timeline: Timeline,
    /// A sweep's own figures.
    pub sweep: Option<SweepReport>,
    /// What the load generator itself took.
    pub loadgen: SelfReport,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named like the arguments")]
pub struct ConfigReport {
    pub first: Ipv4Addr,
    pub count: u32,
    pub stride: u32,
    pub port: u16,
    pub path: String,
    /// `random`, `zipf`, `all`, `kept` or `sweep`.
    pub targets: String,
    pub keep_alive: bool,
    pub connections: u32,
    pub duration_s: Option<f64>,
    pub requests: Option<u64>,
    pub wait_s: Option<f64>,
    /// `closed`: a request begins when another has ended, so that a slow server is asked less often and latencies
    /// leave out the requests that would have waited; `open`: at a fixed rate.
    pub r#loop: String,
    pub rate: Option<f64>,
    pub timeout_ms: u64,
    pub seed: u64,
}

/// Requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestsReport {
    /// Begun. In a sweep that retries: attempts.
    pub begun: u64,
    /// Answered with success.
    pub ok: u64,
    /// Failed. In a sweep that retries: targets that never answered.
    pub failed: u64,
    /// In a sweep that retries: attempts that failed.
    pub retried: u64,
    /// The same by kind.
    pub retried_by_kind: BTreeMap<String, u64>,
    /// Sent again because the server had closed a kept connection meanwhile.
    pub resent: u64,
    /// Wanted by the rate before the end and not begun, for want of a free connection.
    pub behind: u64,
    /// Answered within the window, per second of it.
    pub per_s: f64,
    /// Body bytes received.
    pub body_bytes: u64,
}

/// Connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionsReport {
    /// Opened.
    pub opened: u64,
    /// Established.
    pub established: u64,
    /// Not closed by the server in time although it was asked to.
    pub not_closed: u64,
}

/// How the requests spread over the targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetsReport {
    /// How many.
    pub count: u32,
    /// How many were asked at least once.
    pub asked: u32,
    /// Fewest answers of a target that was asked.
    pub answers_min: u32,
    /// Most answers of a target.
    pub answers_max: u32,
    /// How many were asked and never answered with success.
    pub never_answered: u32,
    /// The first of these.
    pub never_answered_first: Vec<Ipv4Addr>,
}

/// Latencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// From the beginning of a request, connecting included, to the end of its response.
    pub total: Summary,
    /// Establishing a connection.
    pub connect: Summary,
    /// From the request written to the end of its response.
    pub response: Summary,
    /// From when the rate wanted the request to begin: corrected for coordinated omission.
    pub corrected: Option<Summary>,
}

/// A histogram and its best-known figures, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "their names say it")]
pub struct Summary {
    pub count: u64,
    pub min_us: f64,
    pub mean_us: f64,
    pub stdev_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// All of it: highest value of each filled bucket, and how often.
    pub buckets: Vec<(f64, u64)>,
}

/// Answers over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Milliseconds of one step.
    pub step_ms: u64,
    /// Requests answered in each step.
    pub ok: Vec<u32>,
    /// Requests failed in each step.
    pub failed: Vec<u32>,
}

/// A sweep's own figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepReport {
    /// Targets that answered.
    pub answered: u32,
    /// Seconds until every target had answered, if every one did.
    pub all_answered_s: Option<f64>,
    /// Microseconds until each target first answered, in the order of the targets; `null` if it never did.
    pub first_answer_us: Vec<Option<u64>>,
    /// What the `/id` answers show.
    pub identity: Option<IdentityReport>,
}

/// What the load generator itself took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfReport {
    /// Processor time in seconds.
    pub cpu_s: f64,
    /// The same per request.
    pub cpu_us_per_request: f64,
    /// Share of one processor. Near 1 it measures itself.
    pub busy: f64,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// `part / whole`, or 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per(part: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { part as f64 / seconds } else { 0.0 }
}

impl From<&Latencies> for Summary {
    fn from(latencies: &Latencies) -> Self {
        let h: &Histogram<u64> = latencies.histogram();
        let at = |quantile| micros(h.value_at_quantile(quantile));
        Self {
            count: h.len(),
            min_us: if h.is_empty() { 0.0 } else { micros(h.min()) },
            mean_us: h.mean() / 1e3,
            stdev_us: h.stdev() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(h.max()),
            buckets: h.iter_recorded().map(|v| (micros(v.value_iterated_to()), v.count_at_value())).collect(),
        }
    }
}

impl Summary {
    /// The latency in microseconds that the share `quantile` of all did not exceed, from the buckets.
    #[must_use]
    pub fn at_quantile(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
        let wanted = self.count as f64 * quantile;
        let mut seen = 0u64;
        for &(value, count) in &self.buckets {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
            if seen as f64 >= wanted {
                return value;
            }
        }
        self.max_us
    }
}

fn by_kind(counts: &[u64; ErrorKind::COUNT]) -> BTreeMap<String, u64> {
    ErrorKind::ALL.iter().map(|&kind| (kind.name().to_owned(), counts[kind as usize])).collect()
}

impl ConfigReport {
    fn new(config: &Config) -> Self {
        let is_sweep = matches!(config.mode, Mode::Sweep { .. });
        let (targets, wait) = match config.mode {
            Mode::Random { .. } => ("random", None),
            Mode::Zipf { .. } => ("zipf", None),
            Mode::InTurn { .. } => ("all", None),
            Mode::Kept => ("kept", None),
            Mode::Sweep { wait } => ("sweep", wait),
        };
        let (duration, requests) = match config.limit {
            _ if is_sweep => (None, None),
            Limit::Duration(duration) => (Some(duration), None),
            Limit::Requests(requests) => (None, Some(requests)),
        };
        Self {
            first: config.targets.address(0),
            count: config.targets.count(),
            stride: config.targets.stride(),
            port: config.port,
            path: config.path.clone(),
            targets: targets.to_owned(),
            keep_alive: config.mode.keeps_connections(),
            connections: config.connections,
            duration_s: duration.as_ref().map(Duration::as_secs_f64),
            requests,
            wait_s: wait.as_ref().map(Duration::as_secs_f64),
            r#loop: if config.rate.is_some() { "open" } else { "closed" }.to_owned(),
            rate: config.rate,
            timeout_ms: u64::try_from(config.timeout.as_millis()).unwrap_or(u64::MAX),
            seed: config.seed,
        }
    }
}

impl TargetsReport {
    fn new(config: &Config, asked: &[u32], answered: &[u32]) -> Self {
        let both = || asked.iter().zip(answered).filter(|&(&asked, _)| asked > 0).map(|(_, &answered)| answered);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let silent = (0..config.targets.count()).zip(asked.iter().zip(answered));
        let silent = silent.filter(|&(_, (&asked, &answered))| asked > 0 && answered == 0);
        Self {
            count: config.targets.count(),
            asked: count(both().count()),
            answers_min: both().min().unwrap_or(0),
            answers_max: both().max().unwrap_or(0),
            never_answered: count(both().filter(|&n| n == 0).count()),
            never_answered_first: silent.take(MAX_LISTED).map(|(i, _)| config.targets.address(i)).collect(),
        }
    }
}

impl HttpReport {
    /// The report of a run.
    #[must_use]
    pub fn new(config: &Config, outcome: &Outcome) -> Self {
        let record = &outcome.record;
        let started = outcome.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let window_s = outcome.window.as_secs_f64();
        let cpu_s = outcome.cpu.as_secs_f64();
        let busy_of = outcome.elapsed.as_secs_f64() + outcome.setup.unwrap_or_default().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let begun = record.begun.max(1) as f64;
        Self {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: ConfigReport::new(config),
            started_unix_ns: u64::try_from(started.as_nanos()).unwrap_or(0),
            setup_s: outcome.setup.as_ref().map(Duration::as_secs_f64),
            window_s,
            elapsed_s: outcome.elapsed.as_secs_f64(),
            interrupted: outcome.interrupted,
            requests: RequestsReport {
                begun: record.begun,
                ok: record.ok,
                failed: record.failed(),
                retried: record.retried.iter().sum(),
                retried_by_kind: by_kind(&record.retried),
                resent: record.resent,
                behind: outcome.behind,
                per_s: per(record.ok_in_window, window_s),
                body_bytes: record.body_bytes,
            },
            errors: by_kind(&record.errors),
            connections: ConnectionsReport {
                opened: record.opened,
                established: record.connect.histogram().len(),
                not_closed: record.not_closed,
            },
            targets: TargetsReport::new(config, &record.asked, &record.answered),
            latency: LatencyReport {
                total: Summary::from(&record.total),
                connect: Summary::from(&record.connect),
                response: Summary::from(&record.response),
                corrected: config.rate.map(|_| Summary::from(&record.corrected)),
            },
            timeline: Timeline {
                step_ms: STEP_MS,
                ok: record.steps.iter().map(|step| step.ok).collect(),
                failed: record.steps.iter().map(|step| step.failed).collect(),
            },
            sweep: matches!(config.mode, Mode::Sweep { .. }).then(|| SweepReport::new(outcome)),
            loadgen: SelfReport {
                cpu_s,
                cpu_us_per_request: cpu_s * 1e6 / begun,
                busy: if busy_of > 0.0 { cpu_s / busy_of } else { 0.0 },
            },
        }
    }

    /// Whether every target that was asked answered, nothing failed, and every `/id` was the right one.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let identity = self.sweep.as_ref().and_then(|sweep| sweep.identity.as_ref());
        self.requests.failed == 0
            && self.targets.never_answered == 0
            && self.requests.ok > 0
            && !self.interrupted
            && identity.is_none_or(IdentityReport::is_clean)
    }
}

impl HttpReport {
    /// What went wrong, if anything did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if self.is_clean() {
            return None;
        }
        let mut text = format!("{} requests failed", human::count(self.requests.failed));
        for (kind, n) in self.errors.iter().filter(|&(_, &n)| n > 0) {
            text.push_str(&format!(", {kind} {}", human::count(*n)));
        }
        let targets = &self.targets;
        if targets.never_answered > 0 {
            let first: Vec<String> = targets.never_answered_first.iter().take(5).map(ToString::to_string).collect();
            text.push_str(&format!("; {} VMs never answered, such as {}", targets.never_answered, first.join(", ")));
        }
        let identity = self.sweep.as_ref().and_then(|sweep| sweep.identity.as_ref());
        if let Some(identity) = identity.filter(|identity| !identity.is_clean()) {
            text.push_str(&format!(
                "; of {} answers {} came from the wrong VM, {} VMs and {} random values were different",
                identity.answers, identity.wrong_vm, identity.distinct_vms, identity.distinct_random
            ));
        }
        Some(text)
    }
}

impl SweepReport {
    fn new(outcome: &Outcome) -> Self {
        let first = &outcome.record.first_ns;
        let last_ns = first.iter().copied().collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().max());
        Self {
            answered: u32::try_from(first.iter().flatten().count()).unwrap_or(u32::MAX),
            all_answered_s: last_ns.map(|ns| Duration::from_nanos(ns).as_secs_f64()),
            first_answer_us: first.iter().map(|ns| ns.map(|ns| ns / 1000)).collect(),
            identity: outcome.identity.clone(),
        }
    }
}
