//! A run of bots as figures that a program can read, the JSON of `loadgen arena`, and as text for people.

use super::{Config, Outcome};
use crate::human::{count, latency, rate};
use crate::report::Summary;
use arena_protocol::{Counter, TICK_MS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::UNIX_EPOCH;

/// Names the form of the report. Changes when a field changes its meaning or goes.
pub const SCHEMA: &str = "firn/loadgen-arena/1";

/// Servers that a report lists of those where something went wrong.
const MAX_LISTED: usize = 20;

/// A run of `loadgen arena`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArenaReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program.
    pub version: String,
    /// What was asked for.
    pub config: ConfigReport,
    /// When it began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// Seconds that the bots played, the time to get in included.
    pub window_s: f64,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// The bots.
    pub bots: BotsReport,
    /// Snapshots.
    pub snapshots: SnapshotsReport,
    /// From one snapshot of a bot to its next one: 50 ms at best.
    pub between: Summary,
    /// How far that was from the distance of their ticks.
    pub jitter: Summary,
    /// From an input to the first snapshot that was made with it.
    pub response: Summary,
    /// How late ticks were, as the servers say.
    pub late: Summary,
    /// What the servers counted, all together; of `latest_us` the highest.
    pub servers: BTreeMap<String, u64>,
    /// Servers that did not say what they counted.
    pub silent: u32,
    /// Some of the servers where not every bot played to the end.
    pub trouble_at: Vec<Ipv4Addr>,
    /// Share of one processor that the load generator took. Near 1 it measures itself.
    pub busy: f64,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named like the arguments")]
pub struct ConfigReport {
    pub first: Ipv4Addr,
    pub count: u32,
    pub stride: u32,
    pub port: u16,
    pub players: u32,
    pub duration_s: f64,
    pub seed: u64,
}

/// The bots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BotsReport {
    /// How many there were.
    pub count: u64,
    /// How many got in.
    pub played: u64,
    /// How many were put out.
    pub put_out: u64,
    /// Inputs they sent.
    pub inputs: u64,
    /// Sends and receives that failed.
    pub errors: u64,
}

/// Snapshots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotsReport {
    /// That came.
    pub received: u64,
    /// That there should have been, from the first to the last tick that each bot has seen.
    pub expected: u64,
    /// That did not come: lost on the way, or never made since the server left ticks out.
    pub lost: u64,
    /// That came twice, or after a later one.
    pub out_of_order: u64,
    /// Datagrams that were no message.
    pub malformed: u64,
    /// That came, per second.
    pub per_s: f64,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl ArenaReport {
    /// The report of a run.
    #[must_use]
    pub fn new(config: &Config, outcome: &Outcome) -> Self {
        let (record, targets) = (&outcome.record, &outcome.targets);
        let window_s = outcome.window.as_secs_f64();
        let per_s = |seconds: f64, of: f64| if of > 0.0 { seconds / of } else { 0.0 };
        let mut servers = BTreeMap::new();
        for counter in Counter::ALL {
            let values = targets.iter().filter_map(|target| target.counters).map(|counters| counters.get(counter));
            let value = if counter == Counter::LatestUs { values.max().unwrap_or(0) } else { values.sum() };
            servers.insert(counter.name().to_owned(), value);
        }
        let in_trouble = targets.iter().filter(|target| target.played < config.players || target.put_out > 0);
        let silent = targets.iter().filter(|target| target.counters.is_none()).count();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let received = record.snapshots as f64;
        Self {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: ConfigReport {
                first: config.targets.address(0),
                count: config.targets.count(),
                stride: config.targets.stride(),
                port: config.port,
                players: config.players,
                duration_s: config.duration.as_secs_f64(),
                seed: config.seed,
            },
            started_unix_ns: outcome
                .started
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0)),
            window_s,
            interrupted: outcome.interrupted,
            bots: BotsReport {
                count: u64::from(config.targets.count()) * u64::from(config.players),
                played: targets.iter().map(|target| u64::from(target.played)).sum(),
                put_out: targets.iter().map(|target| u64::from(target.put_out)).sum(),
                inputs: record.inputs,
                errors: record.errors,
            },
            snapshots: SnapshotsReport {
                received: record.snapshots,
                expected: record.expected,
                lost: record.expected.saturating_sub(record.snapshots),
                out_of_order: record.out_of_order,
                malformed: record.malformed,
                per_s: per_s(received, window_s),
            },
            between: Summary::from(&record.between),
            jitter: Summary::from(&record.jitter),
            response: Summary::from(&record.response),
            late: Summary::from(&record.late),
            servers,
            silent: u32::try_from(silent).unwrap_or(u32::MAX),
            trouble_at: in_trouble.take(MAX_LISTED).map(|target| target.address).collect(),
            busy: per_s(outcome.cpu.as_secs_f64(), window_s),
        }
    }

    /// Whether every bot got in and stayed, saw ticks, and every server told its counters. Lost snapshots are a figure,
    /// not a failure.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.trouble_at.is_empty()
            && self.silent == 0
            && self.between.count > 0
            && self.snapshots.malformed == 0
            && !self.interrupted
    }

    /// The report as text of several lines.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let (config, bots, snapshots) = (&self.config, &self.bots, &self.snapshots);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{} servers from {}:{}, {} players on each, {:.1} s",
            count(config.count.into()),
            config.first,
            config.port,
            config.players,
            self.window_s
        );
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<16}{value}");
        };
        line(
            "players",
            format!("{} of {} got in · {} put out", count(bots.played), count(bots.count), count(bots.put_out)),
        );
        line("snapshots", format!("{} · {} a second", count(snapshots.received), rate(snapshots.per_s)));
        line(
            "lost",
            format!(
                "{} of {} ({:.3} %) · {} out of order",
                count(snapshots.lost),
                count(snapshots.expected),
                100.0 * share(snapshots.lost, snapshots.expected),
                count(snapshots.out_of_order)
            ),
        );
        let figures = |s: &Summary| {
            if s.count == 0 {
                return "none".to_owned();
            }
            let [p50, p99, max] = [s.p50_us, s.p99_us, s.max_us].map(latency);
            format!("p50 {p50} · p99 {p99} · max {max}")
        };
        line("between", format!("{} (a tick is {TICK_MS} ms)", figures(&self.between)));
        line("jitter", figures(&self.jitter));
        line("input to answer", figures(&self.response));
        line("ticks late", format!("{}, as the servers say", figures(&self.late)));
        let counter = |counter: Counter| count(self.servers.get(counter.name()).copied().unwrap_or(0));
        line("ticks", format!("{} · {} left out", counter(Counter::Ticks), counter(Counter::Missed)));
        if self.silent > 0 {
            line("note", format!("{} servers did not say what they counted", count(self.silent.into())));
        }
        if let Some(first) = self.trouble_at.first() {
            line("note", format!("not every player got in and stayed, as at {first}"));
        }
        if self.busy > 0.9 {
            line("note", "the load generator was busy nearly all the time: these may be its own limits".to_owned());
        }
        if self.interrupted {
            line("note", "stopped before its end".to_owned());
        }
        out
    }
}
