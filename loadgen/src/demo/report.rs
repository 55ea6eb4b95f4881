//! The demonstration's report: every figure, how it was measured, and on what.

use super::Options;
use crate::http::identity::Kept;
use crate::human;
use crate::machine::counter;
use crate::plot::figure::{Colour, Figure};
use crate::plot::{answered, latencies, throughput};
use crate::report::HttpReport;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Names the form of the report.
pub const SCHEMA: &str = "firn/demo/1";

/// Bytes of a page.
const PAGE: f64 = virtual_isa::PAGE_SIZE as f64;

/// The demonstration's report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether every VM answered and nothing failed.
    pub ok: bool,
    /// What failed.
    pub failures: Vec<String>,
    /// What was asked for.
    pub config: Options,
    /// On what, and with what.
    pub versions: BTreeMap<String, String>,
    /// The figures.
    pub figures: Figures,
    /// What `firn up` said.
    pub machine: Value,
    /// The machine's state before the load.
    pub status_before: Value,
    /// The machine's state after the load.
    pub status_after: Value,
    /// The machine's state when every VM that slept had been parked.
    pub status_parked: Value,
    /// The machine's state after every VM had been asked once more.
    pub status_end: Value,
    /// Every VM asked for `/id` from the machine's start until it answered.
    pub start_sweep: HttpReport,
    /// Every VM asked for `/id` once more.
    pub check_sweep: HttpReport,
    /// Load with a new connection for each request.
    pub new_connections: HttpReport,
    /// Load over one kept connection to each VM.
    pub keep_alive: HttpReport,
    /// Every VM asked for `/id` once more, after most had been parked.
    pub second_sweep: HttpReport,
}

/// The figures. Times are seconds since the emulator started, unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// VMs that were to be started.
    pub vms: u32,
    /// VMs that answered with their own number.
    pub vms_answered: u32,
    /// When the first VM had answered.
    pub first_answered_s: Option<f64>,
    /// When all had answered.
    pub all_answered_s: Option<f64>,
    /// When the kernel was ready to run VMs, by the machine's own clock.
    pub kernel_ready_s: Option<f64>,
    /// When the supervisor had started all VMs, by the machine's own clock.
    pub all_started_s: Option<f64>,
    /// Seconds from the command to all VMs started, as `firn up` saw it, network and emulator included.
    pub up_s: Option<f64>,
    /// VMs started per second, from the kernel's being ready to the last one.
    pub vms_started_per_s: Option<f64>,
    /// Memory of the VMs after the load.
    pub memory: MemoryFigures,
    /// Load with new connections.
    pub new_connections: LoadFigures,
    /// Load over kept connections.
    pub keep_alive: LoadFigures,
    /// VMs that were parked before everyone was asked once more.
    pub parked: Option<f64>,
    /// Of these, VMs of which nothing was in memory.
    pub parked_on_disk: Option<f64>,
    /// VMs that answered when asked once more.
    pub second_answered: u32,
    /// Whether they still had what they had before.
    pub kept: Kept,
    /// Failures of all kinds, everywhere.
    pub errors: u64,
}

/// Memory for one VM in bytes, after the load, on average.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryFigures {
    /// Pages that are its alone, with those of its page tables.
    pub guest_bytes_per_vm: Option<f64>,
    /// Of these, pages of its own.
    pub private_bytes_per_vm: Option<f64>,
    /// Of these, page tables.
    pub table_bytes_per_vm: Option<f64>,
    /// Everything that is in use in the machine, divided by the VMs: kernel heap and shared images included.
    pub used_bytes_per_vm: Option<f64>,
    /// How much of the machine's free memory the load took, divided by the VMs.
    pub grown_bytes_per_vm: Option<f64>,
}

/// A load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadFigures {
    /// Requests answered per second.
    pub requests_per_s: f64,
    /// Half were answered within that time.
    pub p50_ms: f64,
    /// 99 of 100 were answered within that time.
    pub p99_ms: f64,
    /// Requests answered.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Share of one processor that the load generator took.
    pub loadgen_busy: f64,
}

impl LoadFigures {
    /// Those of a run.
    #[must_use]
    pub fn of(report: &HttpReport) -> Self {
        Self {
            requests_per_s: report.requests.per_s,
            p50_ms: report.latency.total.p50_us / 1e3,
            p99_ms: report.latency.total.p99_us / 1e3,
            ok: report.requests.ok,
            failed: report.requests.failed,
            loadgen_busy: report.loadgen.busy,
        }
    }
}

impl MemoryFigures {
    /// From the machine's state before and after the load.
    #[must_use]
    pub fn of(before: &Value, after: &Value, vms: u32) -> Self {
        let per_vm = |pages: f64| pages * PAGE / f64::from(vms.max(1));
        let both = |a: &str, b: &str| counter(after, a).zip(counter(after, b));
        let free = counter(before, "free_pages").zip(counter(after, "free_pages"));
        Self {
            guest_bytes_per_vm: both("private_pages", "table_pages").map(|(a, b)| per_vm(a + b)),
            private_bytes_per_vm: counter(after, "private_pages").map(per_vm),
            table_bytes_per_vm: counter(after, "table_pages").map(per_vm),
            used_bytes_per_vm: both("total_pages", "free_pages").map(|(total, free)| per_vm(total - free)),
            grown_bytes_per_vm: free.map(|(before, after)| per_vm(before - after)),
        }
    }
}

/// Times of the machine's own clock: when the kernel wrote its first line, which it does when it is ready, and when
/// the supervisor said that all VMs were started.
#[must_use]
pub fn times_in_log(log: &str, machine: &str) -> (Option<f64>, Option<f64>) {
    let started = format!("] fleet {machine}: ");
    let time = |line: &str| line.split_once(" | [")?.1.split_once(']')?.0.trim().parse::<f64>().ok();
    let mut of_supervisor = log.lines().filter(|line| line.starts_with("supervisor "));
    let last = of_supervisor.find(|line| line.contains(&started) && line.ends_with(" started"));
    (log.lines().find_map(time), last.and_then(time))
}

fn kib(bytes: Option<f64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.0} KiB", bytes / 1024.0))
}

fn seconds(s: Option<f64>) -> String {
    s.map_or_else(|| "never".to_owned(), |s| format!("{s:.2} s"))
}

impl DemoReport {
    /// The summary for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let f = &self.figures;
        let text = |name: &str| self.machine[name].as_str().unwrap_or("?").to_owned();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{} web VMs on one machine ({}, {}, {} processor(s), {} of memory)",
            human::count(f.vms.into()),
            text("machine"),
            text("accel"),
            self.config.cpus,
            self.config.memory,
        );
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<22}{value}");
        };
        line("VMs answering", format!("{} of {}", human::count(f.vms_answered.into()), human::count(f.vms.into())));
        line("time to all answering", format!("{} from the machine's start", seconds(f.all_answered_s)));
        let rate = f.vms_started_per_s.map_or_else(|| "unknown".to_owned(), human::rate);
        let started = f.all_started_s.map_or_else(String::new, |s| format!(" (all started after {s:.2} s)"));
        line("VMs started/s", format!("{rate}{started}"));
        line(
            "guest memory per VM",
            format!(
                "{} (its own pages {}, page tables {})",
                kib(f.memory.guest_bytes_per_vm),
                kib(f.memory.private_bytes_per_vm),
                kib(f.memory.table_bytes_per_vm)
            ),
        );
        for (name, load) in [("new connections", &f.new_connections), ("keep-alive", &f.keep_alive)] {
            line(
                name,
                format!(
                    "{} requests/s · p50 {} · p99 {}",
                    human::rate(load.requests_per_s),
                    human::latency(load.p50_ms * 1e3),
                    human::latency(load.p99_ms * 1e3)
                ),
            );
        }
        let parked = |n: Option<f64>| n.map_or_else(|| "?".to_owned(), human::whole);
        line("VMs parked then", format!("{}, {} of them on disk", parked(f.parked), parked(f.parked_on_disk)));
        line(
            "answering once more",
            format!(
                "{} of {}, {} with their page intact",
                human::count(f.second_answered.into()),
                human::count(f.vms.into()),
                human::count(f.kept.intact.into())
            ),
        );
        line("errors", human::count(f.errors));
        out
    }

    /// The figures as a plot.
    #[must_use]
    pub fn figure(&self) -> Figure {
        let f = &self.figures;
        let started_s = self.machine["started_ms"].as_f64().unwrap_or(0.0) / 1e3;
        #[expect(clippy::cast_precision_loss, reason = "coordinates")]
        let since = |report: &HttpReport, from_s: f64| report.started_unix_ns as f64 / 1e9 - from_s;
        #[expect(clippy::cast_precision_loss, reason = "coordinates")]
        let load_began_s = self.new_connections.started_unix_ns as f64 / 1e9;
        let mut runs = Vec::new();
        let mut curves = Vec::new();
        for (name, colour, report) in
            [("new connections", Colour::Blue, &self.new_connections), ("keep-alive", Colour::Orange, &self.keep_alive)]
        {
            runs.push((name, colour, &report.timeline, since(report, load_began_s).max(0.0)));
            curves.push((name, colour, &report.latency.total));
        }
        let mut top = Vec::new();
        if let Some(sweep) = &self.start_sweep.sweep {
            let mut panel = answered(&[("", Colour::Green, sweep, since(&self.start_sweep, started_s).max(0.0))]);
            panel.title = "VMs answering".to_owned();
            panel.y_label = "VMs that have answered".to_owned();
            panel.x_label = "seconds since the machine's start".to_owned();
            top.push(panel);
        }
        top.push(latencies(&curves));
        let mut load = throughput(&runs);
        load.x_label = "seconds of load, over all VMs".to_owned();
        Figure {
            title: format!("{} web services, each in its own VM, on one machine", human::count(f.vms.into())),
            subtitle: format!(
                "All answering {} after power-on; {} requests/s on new connections, {} with keep-alive; {} a VM",
                seconds(f.all_answered_s),
                human::rate(f.new_connections.requests_per_s),
                human::rate(f.keep_alive.requests_per_s),
                kib(f.memory.guest_bytes_per_vm),
            ),
            rows: vec![top, vec![load]],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_is_divided_by_the_vms() {
        let before = json!({"machine": {"free_pages": 1000, "total_pages": 2000}});
        let after =
            json!({"machine": {"free_pages": 900, "total_pages": 2000}, "private_pages": 80, "table_pages": 40});
        let memory = MemoryFigures::of(&before, &after, 10);
        assert_eq!(memory.guest_bytes_per_vm, Some(12.0 * 4096.0));
        assert_eq!(memory.private_bytes_per_vm, Some(8.0 * 4096.0));
        assert_eq!(memory.used_bytes_per_vm, Some(110.0 * 4096.0));
        assert_eq!(memory.grown_bytes_per_vm, Some(10.0 * 4096.0));
        assert_eq!(MemoryFigures::of(&Value::Null, &Value::Null, 10), MemoryFigures::default());
    }

    #[test]
    fn the_machines_own_times_are_read_from_its_log() {
        let log = "kernel     | [    0.100000] info  kernel\nsupervisor | [    0.250000] plan of 3 VMs\n\
                   web-1      | [    0.300000] fleet demo: 9 VMs started\n\
                   supervisor | [    0.750000] fleet demo: 3 VMs started\n";
        assert_eq!(times_in_log(log, "demo"), (Some(0.1), Some(0.75)));
        assert_eq!(times_in_log(log, "other"), (Some(0.1), None));
        assert_eq!(times_in_log("nonsense\n", "demo"), (None, None));
    }
}
