//! The demonstration: a machine with many web VMs is built, booted, asked, loaded, measured and ended.
//!
//! [`crate::driver`] runs machine and load, [`report`] holds the figures.

pub mod report;

use crate::driver::{Driver, Selection, Session, write};
use crate::facts::versions;
use crate::fleet::Fleet;
use crate::http::identity::kept;
use crate::machine::{Failure, Firn, Machine, counter, program};
use crate::progress::Steps;
use crate::report::HttpReport;
use crate::{human, json};
use report::{DemoReport, Figures, LoadFigures, MemoryFigures, SCHEMA, times_in_log};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Name of the machine.
pub const NAME: &str = "demo";

/// Requests at once.
const CONNECTIONS: u32 = 16;

/// Requests at once when everyone is asked.
const SWEEP_CONNECTIONS: u32 = 64;

/// What to demonstrate, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How many VMs.
    pub vms: u32,
    /// Seconds of load, half with new connections and half with kept ones.
    pub seconds: f64,
    /// Processors of the machine.
    pub cpus: u32,
    /// Memory of the machine.
    pub memory: String,
    /// Memory of a VM.
    pub vm_memory: String,
    /// Size of the machine's swap disk.
    pub swap: Option<String>,
    /// Most reads and writes of it in a second.
    pub swap_iops: Option<u32>,
    /// Bytes of an answer's body.
    pub body: u32,
    /// TCP port of the VMs.
    pub port: u16,
    /// Where the report goes; plot and fleet file go beside it.
    pub report: PathBuf,
    /// Whether the machine stays up.
    pub keep: bool,
    /// Whether to show no progress.
    pub quiet: bool,
}

/// Demonstrates. `firn` is the program to use. The report is also written where the options say.
///
/// # Errors
/// If it could not be brought to its end. If VMs did not answer or requests failed, that is in the report.
pub fn run(options: &Options, firn: &Path, stop: &AtomicBool) -> Result<DemoReport, Failure> {
    let firn = Firn { program: firn, name: NAME, stop, is_silent: false };
    let driver = Driver::new(firn, options.port, Steps::lines(firn.name, options.quiet))?;
    firn.check_is_down()?;
    let folder = options.report.parent().unwrap_or(Path::new("")).to_path_buf();
    // That it can be written is known before the machine starts.
    let fleet_file = folder.join("fleet.toml");
    write(&fleet_file, b"")?;
    driver.say("building the kernel, the supervisor and the web service");
    firn.run(&["build", "web", "supervisor"])?;

    driver.say(&format!("starting a machine with {} VMs", human::count(options.vms.into())));
    let (session, start_sweep) = Session::boot_and_sweep(&driver, &fleet(options), &fleet_file)?;
    let mut report = measure(options, &driver, &session, start_sweep)?;
    report.figures = figures(&report, &session.machine, &firn.log());
    report.failures = failures(&report);
    if options.keep {
        session.keep();
    } else {
        report.failures.extend(session.end().err().map(|failure| failure.to_string()));
    }
    report.ok = report.failures.is_empty();
    let json = json::to_text(&report).map_err(|error| Failure::failed(error.to_string()))?;
    write(&options.report, json.as_bytes())?;
    write(&folder.join("plot.svg"), report.figure().to_svg().as_bytes())?;
    Ok(report)
}

/// What is done with the machine: everyone is asked, all are loaded and parked, and everyone is asked again.
fn measure(
    options: &Options,
    driver: &Driver<'_>,
    session: &Session<'_>,
    start_sweep: HttpReport,
) -> Result<DemoReport, Failure> {
    let everyone = Selection::all(options.vms);
    driver.say("asking every VM who it is");
    let mut check_sweep = session.sweep(everyone, SWEEP_CONNECTIONS)?;
    let status_before = session.status()?;
    let seconds = (options.seconds / 2.0).to_string();
    let connections = CONNECTIONS.to_string();
    let load_arguments = ["--path", "/", "--connections", &connections, "--duration", &seconds];
    driver.say(&format!("load on new connections, {seconds} s"));
    let new_connections = session.load(&[&load_arguments[..], &["--new-connections"]].concat())?;
    driver.say(&format!("load with keep-alive, {seconds} s"));
    let keep_alive = session.load(&[&load_arguments[..], &["--targets", "kept"]].concat())?;
    let status_after = session.status()?;
    driver.say("parking every VM that sleeps, then asking every VM once more");
    let status_parked = session.park("memory")?;
    let mut second_sweep = session.sweep(everyone, SWEEP_CONNECTIONS)?;
    let status_end = session.status()?;
    let kept = kept(&mut check_sweep, &mut second_sweep);
    Ok(DemoReport {
        schema: SCHEMA.to_owned(),
        ok: false,
        failures: Vec::new(),
        config: options.clone(),
        versions: versions(),
        figures: Figures { kept, ..Figures::default() },
        machine: session.up.clone(),
        status_before,
        status_after,
        status_parked,
        status_end,
        start_sweep,
        check_sweep,
        new_connections,
        keep_alive,
        second_sweep,
    })
}

/// The machine of a demonstration.
#[must_use]
pub fn fleet(options: &Options) -> Fleet {
    Fleet {
        cpus: options.cpus,
        swap: options.swap.clone(),
        swap_iops: options.swap_iops,
        vm_memory: options.vm_memory.clone(),
        arguments: format!("body={}", options.body),
        ..Fleet::web(options.vms, &options.memory)
    }
}

fn figures(report: &DemoReport, machine: &Machine, log: &str) -> Figures {
    let vms = report.config.vms;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let began_s = report.start_sweep.started_unix_ns as f64 / 1e9 - machine.started_ms as f64 / 1e3;
    let sweep = report.start_sweep.sweep.as_ref();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let first_s = sweep.and_then(|s| s.first_answer_us.iter().flatten().min()).map(|&us| us as f64 / 1e6);
    let (kernel_ready_s, all_started_s) = times_in_log(log, NAME);
    let creating_s = kernel_ready_s.zip(all_started_s).map(|(began, ended)| ended - began);
    let runs =
        [&report.start_sweep, &report.check_sweep, &report.new_connections, &report.keep_alive, &report.second_sweep];
    let identity = report.check_sweep.sweep.as_ref().and_then(|sweep| sweep.identity.as_ref());
    Figures {
        vms,
        vms_answered: identity.map_or(0, |identity| identity.distinct_vms.min(identity.answers - identity.wrong_vm)),
        first_answered_s: first_s.map(|s| s + began_s),
        all_answered_s: sweep.and_then(|sweep| sweep.all_answered_s).map(|s| s + began_s),
        kernel_ready_s,
        all_started_s,
        up_s: report.machine["started_seconds"].as_f64(),
        vms_started_per_s: creating_s.filter(|&s| s > 0.0).map(|s| f64::from(vms) / s),
        memory: MemoryFigures::of(&report.status_before, &report.status_after, vms),
        new_connections: LoadFigures::of(&report.new_connections),
        keep_alive: LoadFigures::of(&report.keep_alive),
        parked: counter(&report.status_parked, "parked"),
        parked_on_disk: counter(&report.status_parked, "parked_on_disk"),
        second_answered: report.second_sweep.sweep.as_ref().map_or(0, |sweep| sweep.answered),
        kept: report.figures.kept.clone(),
        errors: runs.iter().map(|run| run.requests.failed).sum(),
    }
}

/// What kept the demonstration from being a success.
fn failures(report: &DemoReport) -> Vec<String> {
    let mut failures = Vec::new();
    for (what, run) in [
        ("while the machine started", &report.start_sweep),
        ("when every VM was asked who it is", &report.check_sweep),
        ("under load on new connections", &report.new_connections),
        ("under load with keep-alive", &report.keep_alive),
        ("when every VM was asked once more", &report.second_sweep),
    ] {
        failures.extend(run.trouble().map(|trouble| format!("{what}: {trouble}")));
    }
    failures.extend(report.figures.kept.trouble());
    if let Some(ended) = counter(&report.status_end, "ended").filter(|&ended| ended > 0.0) {
        failures.push(format!("{ended} VMs have ended"));
    }
    failures
}

/// How to reach the VMs of a machine that stays up, and how to end it.
#[must_use]
pub fn how_to_reach(report: &DemoReport, firn: &Path) -> String {
    let firn = program(firn);
    let seventh = 7.min(report.config.vms);
    let first = report.start_sweep.config.first;
    let address = Ipv4Addr::from(u32::from(first).saturating_add(seventh.saturating_sub(1)));
    format!(
        "The machine stays up.\n  a VM:    {firn} exec --name {NAME} -- curl http://{address}/\n  \
         its log: {firn} logs --name {NAME} {seventh}\n  to end:  {firn} down --name {NAME}\n"
    )
}
