//! The demonstration: a machine with many web VMs is built, booted, asked, loaded, measured and ended.
//!
//! [`machine`] runs `firn`, [`report`] holds the figures. The load itself runs in this same program, started again
//! inside the machine's network.

pub mod machine;
pub mod report;

use crate::report::HttpReport;
use crate::{human, json};
use machine::{Firn, Machine, NAME, Running, Task, program};
use report::{DemoReport, Figures, LoadFigures, MemoryFigures, SCHEMA, times_in_log, versions};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Requests at once.
const CONNECTIONS: u32 = 16;

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

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// Bad input or something that this host lacks; nothing was started.
    BadInput(String),
    /// Something failed.
    Failed(String),
    /// It was told to stop.
    Interrupted,
}

impl Failure {
    /// Something failed.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadInput(what) | Self::Failed(what) => f.write_str(what),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Failure {}

/// The demonstration under way.
struct Demo<'a> {
    options: &'a Options,
    firn: Firn<'a>,
    /// This program.
    myself: PathBuf,
}

/// Demonstrates. `firn` is the program to use. The report is also written where the options say.
///
/// # Errors
/// If it could not be brought to its end. If VMs did not answer or requests failed, that is in the report.
pub fn run(options: &Options, firn: &Path, stop: &AtomicBool) -> Result<DemoReport, Failure> {
    let myself =
        std::env::current_exe().map_err(|error| Failure::failed(format!("cannot find this program: {error}")))?;
    Demo { options, firn: Firn { program: firn, stop }, myself }.run()
}

impl Demo<'_> {
    fn say(&self, what: &str) {
        if !self.options.quiet {
            eprintln!("demo: {what}");
        }
    }

    fn run(&self) -> Result<DemoReport, Failure> {
        let options = self.options;
        if self.firn.find()?.is_some() {
            let down = format!("{} down --name {NAME}", program(self.firn.program));
            return Err(Failure::BadInput(format!("a machine {NAME:?} is up already; end it with: {down}")));
        }
        let folder = options.report.parent().unwrap_or(Path::new("")).to_path_buf();
        let fleet = folder.join("fleet.toml");
        write(&fleet, fleet_file(options).as_bytes())?;
        self.say("building the kernel, the supervisor and the web service");
        self.firn.run(&["build", "web", "supervisor"])?;

        self.say(&format!("starting a machine with {} VMs", human::count(options.vms.into())));
        let mut running = Running::start(self.firn, &fleet)?;
        let machine = running.wait_for_emulator()?;
        let first = machine.services.first().map_or(Ipv4Addr::UNSPECIFIED, |service| service.first_ipv4);
        let first_vm = machine.services.first().map_or(0, |service| service.first_vm).to_string();
        let sweep_arguments = ["--sweep", "--path", "/id", "--first-vm", &first_vm];
        let wait = (60.0 + f64::from(options.vms) * 0.1).to_string();
        // The sweep begins with the machine: who answers is seen as it happens.
        let sweep = self.load(first, &[&sweep_arguments[..], &["--wait", &wait]].concat())?;
        let up = running.wait_for_start()?;
        let start_sweep = self.finish(sweep)?;

        self.say("asking every VM who it is");
        let check_sweep = self.finish(self.load(first, &sweep_arguments)?)?;
        let status_before = self.firn.status()?;
        let seconds = (options.seconds / 2.0).to_string();
        let connections = CONNECTIONS.to_string();
        let load_arguments = ["--path", "/", "--connections", &connections, "--duration", &seconds];
        self.say(&format!("load on new connections, {seconds} s"));
        let new_connections = self.load(first, &[&load_arguments[..], &["--new-connections"]].concat())?;
        let new_connections = self.finish(new_connections)?;
        self.say(&format!("load with keep-alive, {seconds} s"));
        let keep_alive = self.load(first, &[&load_arguments[..], &["--targets", "kept"]].concat())?;
        let keep_alive = self.finish(keep_alive)?;
        let status_after = self.firn.status()?;
        let log = self.firn.log();

        let ended = if options.keep {
            running.keep();
            Ok(())
        } else {
            self.say("ending the machine");
            running.end()
        };
        let mut report = DemoReport {
            schema: SCHEMA.to_owned(),
            ok: false,
            failures: Vec::new(),
            config: options.clone(),
            versions: versions(),
            figures: Figures::default(),
            machine: up,
            status_before,
            status_after,
            start_sweep,
            check_sweep,
            new_connections,
            keep_alive,
        };
        report.figures = figures(&report, &machine, &log);
        report.failures = failures(&report);
        report.failures.extend(ended.err().map(|failure| failure.to_string()));
        report.ok = report.failures.is_empty();
        self.write_report(&report, &folder)?;
        Ok(report)
    }

    /// Starts this program with `http` inside the machine's network.
    fn load(&self, first: Ipv4Addr, arguments: &[&str]) -> Result<Task, Failure> {
        let mut command = self.firn.command(&["exec", "--name", NAME, "--"]);
        command.arg(&self.myself).args(["http", "--first", &first.to_string(), "--format", "json"]);
        command.args(["--count", &self.options.vms.to_string(), "--port", &self.options.port.to_string()]);
        if self.options.quiet {
            command.arg("--quiet");
        }
        Task::start("the load", command.args(arguments))
    }

    /// Waits for a load's end.
    fn finish(&self, task: Task) -> Result<HttpReport, Failure> {
        let ended = task.wait(self.firn.stop)?;
        // Exit status 1 means that something did not answer: the report says what.
        if !matches!(ended.status.code(), Some(0 | 1)) || ended.output.is_empty() {
            return Err(Failure::failed(format!("the load could not be driven ({})", ended.status)));
        }
        serde_json::from_slice(&ended.output)
            .map_err(|error| Failure::failed(format!("the load's report is not understood: {error}")))
    }

    fn write_report(&self, report: &DemoReport, folder: &Path) -> Result<(), Failure> {
        let json = json::to_text(report).map_err(|error| Failure::failed(error.to_string()))?;
        write(&self.options.report, json.as_bytes())?;
        write(&folder.join("plot.svg"), report.figure().to_svg().as_bytes())
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(file, bytes)).map_err(|error| {
        Failure::BadInput(format!(
            "--report: cannot write {}: {error}; name a folder that can be written",
            file.display()
        ))
    })
}

/// The fleet file of a demonstration.
#[must_use]
pub fn fleet_file(options: &Options) -> String {
    let Options { vms, cpus, memory, vm_memory, body, .. } = options;
    format!(
        "# Written by `loadgen demo`.\n\
         [machine]\nmemory = \"{memory}\"\ncpus = {cpus}\n\n\
         [[service]]\nname = \"web\"\nimage = \"web\"\ncount = {vms}\nmemory = \"{vm_memory}\"\nargs = \"body={body}\"\n"
    )
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
    let runs = [&report.start_sweep, &report.check_sweep, &report.new_connections, &report.keep_alive];
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
    ] {
        if run.is_clean() {
            continue;
        }
        let mut text = format!("{what}: {} requests failed", human::count(run.requests.failed));
        for (kind, n) in run.errors.iter().filter(|&(_, &n)| n > 0) {
            text.push_str(&format!(", {kind} {}", human::count(*n)));
        }
        if run.targets.never_answered > 0 {
            let first: Vec<String> = run.targets.never_answered_first.iter().take(5).map(ToString::to_string).collect();
            text.push_str(&format!(
                "; {} VMs never answered, such as {}",
                run.targets.never_answered,
                first.join(", ")
            ));
        }
        if let Some(identity) = run.sweep.as_ref().and_then(|sweep| sweep.identity.as_ref()).filter(|i| !i.is_clean()) {
            text.push_str(&format!(
                "; of {} answers {} came from the wrong VM, {} VMs and {} random values were different",
                identity.answers, identity.wrong_vm, identity.distinct_vms, identity.distinct_random
            ));
        }
        failures.push(text);
    }
    if let Some(ended) = report::counter(&report.status_after, "ended").filter(|&ended| ended > 0.0) {
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
