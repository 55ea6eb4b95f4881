//! What waking a VM takes, from each place where it may be: running, asleep in memory, compressed in memory, on disk; how
//! long an answer takes then, how often the disk is read for it, and what the kernel executes.
//!
//! VMs are asked one after the other, each over a new connection, so that every answer is that of a VM which had been
//! parked there. Instructions are counted on a machine of its own (`cost` compares them beside few and many VMs).

use super::churn::{self, COUNT, Churn};
use super::report::{Findings, Measure};
use super::wakes::Wakes;
use super::{Bench, Scenario};
use crate::driver::Selection;
use crate::fleet::Fleet;
use crate::machine::{Failure, counter};
use crate::plot;
use crate::plot::figure::{Colour, Figure};
use serde_json::json;

/// The scenario.
pub const SCENARIO: Scenario = Scenario { name: "wake", about: "what waking a VM takes, from each tier", run };

/// VMs, if nothing else is wanted: all, and few. Every one of them is asked in each tier.
const DEFAULT_VMS: [u32; 2] = [1000, 200];

/// Memory of the machine, its swap disk, and most reads and writes of it in a second, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "1G";
const DEFAULT_SWAP: (&str, u32) = ("1G", 5000);

/// Where VMs are before they are asked.
const TIERS: [(&str, &str, Colour); 3] = [
    ("resident", "answer of a VM that sleeps in memory", Colour::Blue),
    ("memory", "answer of a VM parked in memory", Colour::Green),
    ("disk", "answer of a VM parked on disk", Colour::Orange),
];

/// VMs of the machine on which instructions are counted, and its memory.
const SMALL: (u32, &str) = (10, "512M");

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let vms = options.vms.unwrap_or(options.usual(DEFAULT_VMS));
    let fleet = Fleet {
        cpus: options.cpus(),
        swap: Some(options.swap.clone().unwrap_or_else(|| DEFAULT_SWAP.0.to_owned())),
        swap_iops: Some(options.swap_iops.unwrap_or(DEFAULT_SWAP.1)),
        ..Fleet::web(vms, options.memory.as_deref().unwrap_or(DEFAULT_MEMORY))
    };
    let (session, first) = bench.boot_and_sweep(&fleet)?;
    let mut failures: Vec<String> = first.trouble().into_iter().collect();
    let mut tiers = Vec::new();
    for (tier, about, _) in TIERS {
        if tier != "resident" {
            bench.driver.say(&format!("parking all VMs: {tier}"));
            session.park(tier)?;
        }
        bench.driver.say(&format!("asking VMs one by one: {about}"));
        let wakes = Wakes::measure(&session, Selection::all(vms))?;
        failures.extend(wakes.sweep.trouble().map(|trouble| format!("{about}: {trouble}")));
        tiers.push(wakes);
    }
    let status = session.status()?;
    failures
        .extend(counter(&status, "swap_errors").filter(|&n| n > 0.0).map(|n| format!("{n} errors of the swap disk")));
    session.end()?;
    let counted = churn::fleet(SMALL.0, SMALL.1);
    let session = bench.boot(&counted)?;
    bench.driver.say(&format!("counting the instructions of {COUNT} VMs"));
    let churn = Churn::of(&session)?;
    session.end()?;
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "counted": &counted, "churned": COUNT }),
        figures: figures(&tiers, &churn),
        failures,
        plot: Some(plot(vms, &tiers)),
        table: Vec::new(),
        samples: json!({ "tiers": &tiers, "churn": churn.sample() }),
    })
}

fn figures(tiers: &[Wakes], churn: &Churn) -> Vec<Measure> {
    let mut figures = Vec::new();
    for (wakes, (tier, about, _)) in tiers.iter().zip(TIERS) {
        figures.extend(wakes.figures(tier, about));
        if tier != "resident" {
            let woken = wakes.grown(&format!("wakes_{tier}"));
            figures.push(Measure::new(&format!("{tier}_wakes"), &format!("VMs woken from {tier}"), "", woken));
        }
        if tier == "disk" {
            let about = "disk reads per wake from disk, as the emulator counts";
            figures.push(Measure::new("disk_reads", about, "", wakes.reads_per_wake()));
        }
    }
    let wake = churn.cost("wake");
    let instructions =
        |name: &str, about: &str, of: fn(churn::Cost) -> f64| Measure::new(name, about, "instructions", wake.map(of));
    figures.extend([
        instructions("instructions", "the kernel's to wake a VM from memory, until it runs", |cost| cost.kernel),
        instructions("exit_instructions", "the kernel's for its exits, until it sleeps", |cost| cost.exits),
        instructions("guest_instructions", "its own, until it sleeps", |cost| cost.guest),
    ]);
    figures
}

fn plot(vms: u32, tiers: &[Wakes]) -> Figure {
    let runs: Vec<_> =
        tiers.iter().zip(TIERS).map(|(wakes, (tier, _, colour))| (tier, colour, &wakes.sweep.latency.total)).collect();
    Figure {
        title: "What an answer takes from each tier".to_owned(),
        subtitle: format!(
            "{} web VMs, asked one after the other over new connections",
            crate::human::count(vms.into())
        ),
        rows: vec![vec![plot::latencies(&runs)]],
    }
}

#[cfg(test)]
mod tests {
    use super::super::density::tests::wakes;
    use super::*;

    #[test]
    fn every_tier_has_its_figures() {
        let churn = Churn::parse(
            "churn {\"count\":10,\"wake_busy_ns\":900,\"wake_supervisor_ns\":100,\"wake_guest_ns\":300,\"wake_kernel_ns\":200}",
        );
        let figures = figures(&[wakes(), wakes(), wakes()], &churn.unwrap());
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap().value;
        assert_eq!((of("memory_wakes"), of("disk_wakes"), of("disk_reads")), (Some(1.0), Some(2.0), Some(2.5)));
        assert_eq!((of("instructions"), of("exit_instructions")), (Some(30.0), Some(20.0)));
        assert!(of("resident_p50_ms").is_some() && of("guest_instructions") == Some(30.0));
    }
}
