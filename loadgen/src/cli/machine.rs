//! The arguments of the subcommands that start machines: `demo` and `bench`.

use super::seconds;
use crate::peer::Peer;
use crate::{bench, demo};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Most processors of a machine.
const MAX_CPUS: u32 = 64;

/// Most VMs of a fleet: one number is the supervisor's.
const MAX_VMS: u32 = virtual_isa::limits::MAX_VMS - 1;

/// Most runs of a benchmark.
const MAX_RUNS: u32 = 1000;

/// Largest body that an answer can be asked to have.
const MAX_BODY_BYTES: u32 = 1 << 20;

/// Arguments of `loadgen demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 if every VM answered and nothing failed, 1 if not, 2 for bad arguments or what \
                        this host lacks, 130 if interrupted."
)]
pub struct DemoArgs {
    /// How many VMs
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub vms: u32,
    /// Seconds of load: half on new connections, half with keep-alive
    #[arg(long, value_name = "S", allow_negative_numbers = true, default_value_t = 10.0)]
    pub seconds: f64,
    /// Processors of the machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub memory: String,
    /// Memory of each VM
    #[arg(long, value_name = "SIZE", default_value = "4M")]
    pub vm_memory: String,
    /// Size of the machine's swap disk [default: none]
    #[arg(long, value_name = "SIZE")]
    pub swap: Option<String>,
    /// Most reads and writes of the swap disk in a second [default: as many as there can be]
    #[arg(long, value_name = "N", requires = "swap")]
    pub swap_iops: Option<u32>,
    /// Bytes of an answer's body
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub body: u32,
    /// Where to write the report; plot.svg goes beside it
    #[arg(long, value_name = "FILE", default_value = "target/demo/report.json")]
    pub report: PathBuf,
    /// Leave the machine up, and say how to reach its VMs
    #[arg(long)]
    pub keep: bool,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
    /// TCP port of the VMs
    #[arg(long, hide = true, default_value_t = 80)]
    pub port: u16,
    /// The program `firn` [default: the one beside this program]
    #[arg(long, hide = true, value_name = "FILE")]
    pub firn: Option<PathBuf>,
}

fn check_count(argument: &str, count: u32, most: u32) -> Result<(), String> {
    if (1..=most).contains(&count) { Ok(()) } else { Err(format!("{argument} {count}: give 1 to {most}")) }
}

/// Checks a size of memory as `firn` takes it. Whether it is a sensible one is `firn`'s to say.
fn check_size(argument: &str, text: &str) -> Result<(), String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let is_positive = digits.bytes().any(|digit| digit != b'0');
    if is_positive && matches!(unit, "K" | "KiB" | "M" | "MiB" | "G" | "GiB") {
        return Ok(());
    }
    Err(format!("{argument} {text:?}: write a whole number and a unit, such as 512M or 2G"))
}

fn check_swap(swap: Option<&str>, iops: Option<u32>) -> Result<(), String> {
    if iops == Some(0) {
        return Err("--swap-iops 0: give at least 1, or leave it out for as many as there can be".to_owned());
    }
    swap.map_or(Ok(()), |swap| check_size("--swap", swap))
}

impl DemoArgs {
    /// The demonstration they ask for.
    ///
    /// # Errors
    /// What is wrong and how to mend it.
    pub fn options(&self) -> Result<demo::Options, String> {
        check_count("--vms", self.vms, MAX_VMS)?;
        check_count("--cpus", self.cpus, MAX_CPUS)?;
        if self.body > MAX_BODY_BYTES {
            return Err(format!("--body {}: give at most {MAX_BODY_BYTES} bytes", self.body));
        }
        seconds("--seconds", self.seconds)?;
        check_size("--memory", &self.memory)?;
        check_size("--vm-memory", &self.vm_memory)?;
        check_swap(self.swap.as_deref(), self.swap_iops)?;
        if self.report.file_name().is_none() {
            return Err(format!("--report {}: name a file, such as target/demo/report.json", self.report.display()));
        }
        Ok(demo::Options {
            vms: self.vms,
            seconds: self.seconds,
            cpus: self.cpus,
            memory: self.memory.clone(),
            vm_memory: self.vm_memory.clone(),
            swap: self.swap.clone(),
            swap_iops: self.swap_iops,
            body: self.body,
            port: self.port,
            report: self.report.clone(),
            keep: self.keep,
            quiet: self.quiet,
        })
    }
}

/// Arguments of `loadgen bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "What is not given is the scenario's to choose. Exit status: 0 if everything answered, whether or not \
                        budgets are kept, 1 if not, 2 for bad arguments or what this host lacks, 130 if interrupted."
)]
pub struct BenchArgs {
    /// Scenarios; `all` for every one of them, `list` for their names, `baseline` or `compare` for instruction counts,
    /// `publish` for a page of the book
    #[arg(required = true, value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// How many VMs
    #[arg(long, value_name = "N")]
    pub vms: Option<u32>,
    /// Processors of the machine
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// What Linux does on the same machine is measured beside it, in scenarios that can
    #[arg(long, value_name = "PEER,...", value_enum, value_delimiter = ',')]
    pub peer: Vec<Peer>,
    /// Measure less, and with fewer VMs
    #[arg(long)]
    pub quick: bool,
    /// Memory of the machine
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Size of its swap disk
    #[arg(long, value_name = "SIZE")]
    pub swap: Option<String>,
    /// Most reads and writes of the swap disk in a second
    #[arg(long, value_name = "N")]
    pub swap_iops: Option<u32>,
    /// Seconds of load at each point
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub seconds: Option<f64>,
    /// Where random choices start
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How often to measure; the figures are then medians, and 3 or more tell whether they are too noisy
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub runs: u32,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
    /// TCP port of the VMs
    #[arg(long, hide = true, default_value_t = 80)]
    pub port: u16,
    /// The file of `baseline` and `compare`
    #[arg(long, hide = true, value_name = "FILE", default_value = "loadgen/baseline.json")]
    pub baseline: PathBuf,
    /// The folder of the book, for `publish`
    #[arg(long, hide = true, value_name = "FOLDER", default_value = "docs/src")]
    pub book: PathBuf,
    /// Where reports go
    #[arg(long, hide = true, value_name = "FOLDER", default_value = "target/bench")]
    pub folder: PathBuf,
    /// The program `firn` [default: the one beside this program]
    #[arg(long, hide = true, value_name = "FILE")]
    pub firn: Option<PathBuf>,
}

/// What there is to do but to run scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Instruction counts are kept.
    Baseline,
    /// They are compared with those that are kept.
    Compare,
    /// What was measured becomes a page of the book.
    Publish,
}

impl BenchArgs {
    /// What is to be done instead of running scenarios.
    #[must_use]
    pub fn other(&self) -> Option<Other> {
        match self.scenarios.as_slice() {
            [only] if only == "baseline" => Some(Other::Baseline),
            [only] if only == "compare" => Some(Other::Compare),
            [only] if only == "publish" => Some(Other::Publish),
            _ => None,
        }
    }

    /// Each peer once.
    fn peers(&self) -> Vec<Peer> {
        Peer::value_variants().iter().copied().filter(|peer| self.peer.contains(peer)).collect()
    }

    /// The benchmark they ask for.
    ///
    /// # Errors
    /// What is wrong and how to mend it.
    pub fn options(&self) -> Result<bench::Options, String> {
        self.vms.map_or(Ok(()), |vms| check_count("--vms", vms, MAX_VMS))?;
        self.cpus.map_or(Ok(()), |cpus| check_count("--cpus", cpus, MAX_CPUS))?;
        check_count("--runs", self.runs, MAX_RUNS)?;
        self.seconds.map(|s| seconds("--seconds", s)).transpose()?;
        self.memory.as_deref().map_or(Ok(()), |memory| check_size("--memory", memory))?;
        check_swap(self.swap.as_deref(), self.swap_iops)?;
        Ok(bench::Options {
            vms: self.vms,
            cpus: self.cpus,
            peers: self.peers(),
            quick: self.quick,
            memory: self.memory.clone(),
            swap: self.swap.clone(),
            swap_iops: self.swap_iops,
            seconds: self.seconds,
            seed: self.seed,
            runs: self.runs,
            port: self.port,
            folder: self.folder.clone(),
            quiet: self.quiet,
        })
    }
}
