//! What a run records: histograms, counts by target, errors by kind, throughput over time.

use super::error::ErrorKind;
use hdrhistogram::Histogram;

/// Width of one step of the throughput over time.
pub const STEP_MS: u64 = 100;

/// Latencies from 1 us to 10 minutes, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// An empty record.
    #[must_use]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("constant bounds, which the crate allows"))
    }

    /// Records one latency.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// The histogram, in nanoseconds.
    #[must_use]
    pub const fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// All that a run records. Times are nanoseconds of the run's clock.
#[derive(Debug)]
pub struct Record {
    /// From the beginning of a request, connecting included, to the end of its response.
    pub total: Latencies,
    /// The same from when the schedule wanted the request to begin. Only filled if a rate is kept.
    pub corrected: Latencies,
    /// Establishing a connection.
    pub connect: Latencies,
    /// From the request written to the end of its response.
    pub response: Latencies,
    /// Requests begun.
    pub begun: u64,
    /// Requests answered well.
    pub ok: u64,
    /// Of these, answered within the window in which requests were begun.
    pub ok_in_window: u64,
    /// Body bytes received.
    pub body_bytes: u64,
    /// Failures by kind.
    pub errors: [u64; ErrorKind::COUNT],
    /// In a sweep that retries: attempts that were not the last word, by kind.
    pub retried: [u64; ErrorKind::COUNT],
    /// Connections opened.
    pub opened: u64,
    /// Requests sent again because the server had closed a kept connection.
    pub resent: u64,
    /// Connections that the server did not close in time although it was asked to.
    pub not_closed: u64,
    /// Requests begun, by target.
    pub asked: Vec<u32>,
    /// Requests answered well, by target.
    pub answered: Vec<u32>,
    /// When each target first answered, for a sweep.
    pub first_ns: Vec<Option<u64>>,
    /// Answers and failures per step of [`STEP_MS`].
    pub steps: Vec<Step>,
}

/// One step of the throughput over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Requests answered well.
    pub ok: u32,
    /// Requests that failed.
    pub failed: u32,
}

impl Record {
    /// An empty record for that many targets.
    #[must_use]
    pub fn new(count: u32, is_sweep: bool) -> Self {
        let count = count as usize;
        Self {
            total: Latencies::new(),
            corrected: Latencies::new(),
            connect: Latencies::new(),
            response: Latencies::new(),
            begun: 0,
            ok: 0,
            ok_in_window: 0,
            body_bytes: 0,
            errors: [0; ErrorKind::COUNT],
            retried: [0; ErrorKind::COUNT],
            opened: 0,
            resent: 0,
            not_closed: 0,
            asked: vec![0; count],
            answered: vec![0; count],
            first_ns: vec![None; if is_sweep { count } else { 0 }],
            steps: Vec::with_capacity(1024),
        }
    }

    /// Failures of all kinds.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.iter().sum()
    }

    /// A request of that target begins.
    pub fn begin(&mut self, target: u32) {
        self.begun += 1;
        self.asked[target as usize] += 1;
    }

    /// A request of that target was answered well, `at_ns` after the run began.
    pub fn succeed(&mut self, target: u32, at_ns: u64) {
        self.ok += 1;
        self.answered[target as usize] += 1;
        if let Some(first) = self.first_ns.get_mut(target as usize) {
            first.get_or_insert(at_ns);
        }
        self.step(at_ns).ok += 1;
    }

    /// A request failed, `at_ns` after the run began.
    pub fn fail(&mut self, kind: ErrorKind, at_ns: u64) {
        self.errors[kind as usize] += 1;
        self.step(at_ns).failed += 1;
    }

    fn step(&mut self, at_ns: u64) -> &mut Step {
        let step = usize::try_from(at_ns / (STEP_MS * 1_000_000)).unwrap_or(0);
        if step >= self.steps.len() {
            self.steps.resize(step + 1, Step::default());
        }
        &mut self.steps[step]
    }
}
