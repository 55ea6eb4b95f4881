//! Benchmarks: each scenario boots machines, measures, and leaves a JSON file with its raw samples, its configuration
//! and its figures, each beside the budget it has to keep.
//!
//! A scenario is a file of this folder with a `SCENARIO`, listed in [`SCENARIOS`]. [`report`] is what it hands in and
//! what is written of it, [`spread`] how far several runs lie apart; machine and load are [`crate::driver`]'s. [`suite`]
//! runs scenarios, and [`page`] and [`publish`] show what came of them. [`baseline`] keeps instruction counts, and compares with them.
//!
//! | scenario | what |
//! |---|---|
//! | [`ablation`] | what batching and idle-with-timeout are worth |
//! | [`arena`] | how even the ticks of game servers are |
//! | [`blocks`] | what it is worth to write more to the swap disk at once |
//! | [`clients`] | what other people's clients get, beside Debian's servers |
//! | [`clone`](mod@clone) | how fast VMs are created from a template |
//! | [`cores`] | what a second processor is worth |
//! | [`cost`] | whether a VM costs the same beside few and beside many |
//! | [`density`] | what a VM costs parked and resident, and what waking it takes |
//! | [`documents`] | throughput by the size of what is asked for |
//! | [`fairness`] | whether VMs get processor time by their shares |
//! | [`isolation`] | what a VM loses by neighbours that take all they can |
//! | [`memory`] | whether VMs get memory by their shares |
//! | [`overcommit`] | throughput when more is asked for than fits into memory |
//! | [`packets`] | what a packet takes, by layer |
//! | [`scale`] | throughput with few and with many VMs |
//! | [`services`] | what a service costs and serves, beside processes and containers of Linux |
//! | [`switch`] | what the kernel's shortest paths take |
//! | [`tax`] | what isolation costs, beside the same server without it |
//! | [`tlb`] | what address spaces of a VM's own take |
//! | [`wake`] | what waking a VM takes, from each tier |

pub mod ablation;
pub mod arena;
pub mod baseline;
pub mod blocks;
pub mod churn;
pub mod clients;
pub mod clone;
pub mod cores;
pub mod cost;
pub mod density;
pub mod documents;
pub mod fairness;
pub mod isolation;
pub mod memory;
pub mod overcommit;
pub mod packets;
pub mod page;
pub mod publish;
pub mod report;
pub mod scale;
pub mod services;
pub mod spread;
pub mod suite;
pub mod switch;
pub mod tax;
pub mod tlb;
pub mod wake;
pub mod wakes;

use crate::driver::{Driver, Selection, Session};
use crate::fleet::Fleet;
use crate::machine::Failure;
use crate::peer::Peer;
use crate::report::HttpReport;
use report::Findings;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// All scenarios, by name.
pub const SCENARIOS: &[Scenario] = &[
    ablation::SCENARIO, //
    arena::SCENARIO,
    blocks::SCENARIO,
    clients::SCENARIO,
    clone::SCENARIO,
    cores::SCENARIO,
    cost::SCENARIO,
    density::SCENARIO,
    documents::SCENARIO,
    fairness::SCENARIO,
    isolation::SCENARIO,
    memory::SCENARIO,
    overcommit::SCENARIO,
    packets::SCENARIO,
    scale::SCENARIO,
    services::SCENARIO,
    switch::SCENARIO,
    tax::SCENARIO,
    tlb::SCENARIO,
    wake::SCENARIO,
];

/// Name of the machines.
pub const NAME: &str = "bench";

/// A benchmark.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Measures once. What is in the options and of no use to it, it does not look at.
    pub run: fn(&Bench<'_>) -> Result<Findings, Failure>,
}

/// What to measure with, checked. What is not given is the scenario's to choose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How many VMs.
    pub vms: Option<u32>,
    /// Processors of the machine.
    pub cpus: Option<u32>,
    /// What it is measured beside.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Whether less is to be measured.
    pub quick: bool,
    /// Memory of the machine.
    pub memory: Option<String>,
    /// Size of its swap disk.
    pub swap: Option<String>,
    /// Most reads and writes of it in a second.
    pub swap_iops: Option<u32>,
    /// Seconds of load at each point.
    pub seconds: Option<f64>,
    /// Where random choices start.
    pub seed: u64,
    /// How often the whole scenario is measured.
    pub runs: u32,
    /// TCP port of the VMs.
    pub port: u16,
    /// Where reports go.
    pub folder: PathBuf,
    /// Whether to show no progress.
    pub quiet: bool,
}

impl Options {
    /// Processors of the machine.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus.unwrap_or(1)
    }

    /// Processors of each machine of a scenario that compares one with two.
    #[must_use]
    pub fn cpu_counts(&self) -> Vec<u32> {
        self.cpus.map_or_else(|| vec![1, 2], |cpus| vec![cpus])
    }

    /// The command that asks for the same.
    #[must_use]
    pub fn command(&self, scenario: &str) -> String {
        let mut words = format!("./scripts/bench {scenario}");
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                words.push_str(&format!(" --{name} {value}"));
            }
        };
        add("vms", self.vms.map(|n| n.to_string()));
        add("cpus", self.cpus.map(|n| n.to_string()));
        let peers: Vec<&str> = self.peers.iter().map(|peer| peer.name()).collect();
        add("peer", Some(peers.join(",")).filter(|peers| !peers.is_empty()));
        add("memory", self.memory.clone());
        add("swap", self.swap.clone());
        add("swap-iops", self.swap_iops.map(|n| n.to_string()));
        add("seconds", self.seconds.map(|s| s.to_string()));
        add("seed", Some(self.seed).filter(|seed| *seed != 1).map(|n| n.to_string()));
        add("runs", Some(self.runs).filter(|runs| *runs > 1).map(|n| n.to_string()));
        let peers: Vec<&str> = self.peers.iter().map(|peer| peer.name()).collect();
        add("peer", Some(peers.join(",")).filter(|peers| !peers.is_empty()));
        words.push_str(if self.quick { " --quick" } else { "" });
        words
    }

    /// What is to be measured when nothing else is wanted: the first of these, or the second if less is.
    #[must_use]
    pub const fn usual<T: Copy>(&self, all_or_few: [T; 2]) -> T {
        all_or_few[self.quick as usize]
    }

    /// The numbers of VMs of a scenario that looks how something grows with them: powers of ten, and what was asked for
    /// as the last.
    #[must_use]
    pub fn sizes(&self) -> Vec<u32> {
        let most = self.vms.unwrap_or(self.usual([10_000, 1000]));
        let mut sizes: Vec<u32> = [1, 10, 100, 1000, 10_000].into_iter().filter(|&vms| vms < most).collect();
        sizes.push(most);
        sizes
    }
}

/// Requests at once, where VMs are many or few.
pub const AT_ONCE: u32 = 64;

/// Arguments of a load over kept connections: one to each VM, or as many to each as requests at once need if VMs are
/// fewer. Requests go over random ones.
pub const KEPT: [&str; 3] = ["--targets", "kept", "--connections=64"];

/// Arguments of a load over new ones.
const NEW: [&str; 4] = ["--new-connections", "--targets", "random", "--connections=64"];

/// How requests come, where both ways are compared.
pub const HTTP_MODES: [(&str, &str); 2] = [("new", "new connections"), ("kept", "kept connections")];

/// Seconds of load that do not count before those that do, at most: the emulator has then translated what runs.
const WARM_UP_SECONDS: f64 = 1.0;

/// Arguments of a load in one of [`HTTP_MODES`].
#[must_use]
pub fn http_arguments(mode: &str) -> Vec<&'static str> {
    let how = if mode == "kept" { &KEPT[..] } else { &NEW };
    [&["--path", "/"][..], how].concat()
}

/// A scenario under way: what it was asked, and its way to machines.
pub struct Bench<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// Starts machines and load.
    pub driver: &'a Driver<'a>,
    /// Number of this run, from 0 on.
    pub run: u32,
    fleet_file: PathBuf,
}

impl Bench<'_> {
    /// Boots a machine, and waits until all its VMs have been started.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn boot(&self, fleet: &Fleet) -> Result<Session<'_>, Failure> {
        self.driver.say(&format!("starting a machine with {} VMs", crate::human::count(fleet.vms.into())));
        Session::boot(self.driver, fleet, &self.fleet_file)
    }

    /// Boots a machine with web VMs, and asks each who it is until it has answered.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn boot_and_sweep(&self, fleet: &Fleet) -> Result<(Session<'_>, HttpReport), Failure> {
        self.driver.say(&format!("starting a machine with {} VMs", crate::human::count(fleet.vms.into())));
        Session::boot_and_sweep(self.driver, fleet, &self.fleet_file)
    }

    /// Drives load for so many seconds over some VMs, with these further arguments of `loadgen http`, after as much as
    /// a second of the same that does not count.
    ///
    /// # Errors
    /// If it cannot be driven. Requests that fail are in the report.
    pub fn load_warm(
        &self,
        session: &Session<'_>,
        of: Selection,
        seconds: f64,
        arguments: &[&str],
    ) -> Result<HttpReport, Failure> {
        let seed = self.seed().to_string();
        let load = |seconds: f64| {
            let duration = seconds.to_string();
            let common = ["--seed", &seed, "--timeout", "30000", "--duration", &duration];
            session.load_of(of, &[&common[..], arguments].concat())
        };
        load(seconds.min(WARM_UP_SECONDS))?;
        load(seconds)
    }

    /// Where random choices of this run start.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.options.seed.wrapping_add(self.run.into())
    }
}

/// The scenario of that name.
///
/// # Errors
/// With the names there are.
pub fn find(name: &str) -> Result<&'static Scenario, String> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
        let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        format!(
            "there is no scenario {name:?}: give one of {}, all, list, baseline, compare or publish",
            names.join(", ")
        )
    })
}

/// All scenarios, a line each.
#[must_use]
pub fn list() -> String {
    let others = [
        ("all", "all of these"),
        ("baseline", "keeps instruction counts of the shortest of them in loadgen/baseline.json"),
        ("compare", "counts again and compares: fails if a count rose by more than 10 %"),
        ("publish", "writes what is in target/bench as a page of the book"),
    ];
    let scenarios = SCENARIOS.iter().map(|scenario| (scenario.name, scenario.about));
    scenarios.chain(others).map(|(name, about)| format!("{name:<12}{about}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_by_names_that_differ() {
        for scenario in SCENARIOS {
            let found = SCENARIOS.iter().filter(|other| other.name == scenario.name).count();
            assert_eq!((find(scenario.name).unwrap().about, found), (scenario.about, 1));
            assert!(
                !["list", "all", "baseline", "compare", "publish"].contains(&scenario.name)
                    && scenario.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            );
            assert!(list().contains(scenario.about));
        }
        let error = find("nonsense").err().unwrap();
        assert!(error.contains("density") && error.contains("list"), "{error}");
    }
}
