//! Whether a VM costs the same however many there are: instructions of the kernel to create, start, park, wake and
//! destroy one, on a machine with few VMs and on one with many.
//!
//! Both machines have the same memory and count their instructions. All of a step counts, until the machine is at
//! rest again: also memory that is freed after the supervisor was answered.

use super::churn::{self, COUNT, Churn};
use super::report::{Findings, Measure};
use super::spread::median;
use super::{Bench, Scenario};
use crate::fleet::Fleet;
use crate::machine::Failure;
use serde_json::json;

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "cost", about: "what a VM costs the kernel beside few VMs and beside many", run };

/// VMs of the machine with few.
const FEW: u32 = 1000;

/// VMs of the machine with many, if nothing else is wanted: all, and few.
const DEFAULT_VMS: [u32; 2] = [100_000, 10_000];

/// Memory of both machines.
const DEFAULT_MEMORY: &str = "8G";

/// VMs of the smallest machine on which is counted, and its memory.
const SMALL: (u32, &str) = (10, "512M");

/// How often is counted on each machine, all, and few; the figures are medians.
const CHURNS: [u32; 2] = [3, 1];

/// Most that many VMs may make one dearer.
const BUDGET: f64 = 1.1;

/// What is done to a VM, for people, in the supervisor's steps.
const STEPS: [(&str, &str, &[&str]); 5] = [
    ("create", "creating a VM", &["create"]),
    ("start", "starting it, until it sleeps", &["start"]),
    ("park", "parking it in memory", &["park"]),
    ("wake", "waking it from memory, until it sleeps", &["wake"]),
    ("destroy", "stopping and destroying it", &["stop", "destroy"]),
];

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let vms = options.vms.unwrap_or(options.usual(DEFAULT_VMS));
    if vms <= FEW {
        return Err(Failure::BadInput(format!("--vms {vms}: compared is with {FEW} VMs; give more than those")));
    }
    let fleet = churn::fleet(FEW, options.memory.as_deref().unwrap_or(DEFAULT_MEMORY));
    let few = measure(bench, &fleet)?;
    let many = measure(bench, &Fleet { vms, ..fleet.clone() })?;
    let samples = |churns: &[Churn]| churns.iter().map(|churn| churn.sample().clone()).collect::<Vec<_>>();
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "few": FEW, "many": vms, "churned": COUNT, "times": options.usual(CHURNS) }),
        figures: figures(vms, &few, &many),
        samples: json!({ "few": samples(&few), "many": samples(&many) }),
        failures: Vec::new(),
        plot: None,
        table: Vec::new(),
    })
}

fn measure(bench: &Bench<'_>, fleet: &Fleet) -> Result<Vec<Churn>, Failure> {
    let session = bench.boot(fleet)?;
    let times = bench.options.usual(CHURNS);
    bench.driver.say(&format!("counting the instructions of {COUNT} VMs, {times} times"));
    let churns = (0..times).map(|_| Churn::of(&session)).collect::<Result<Vec<_>, _>>()?;
    session.end()?;
    Ok(churns)
}

/// What a VM costs on a small machine, counted once: enough to see whether it changes.
pub(super) fn count_small(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let fleet = churn::fleet(SMALL.0, SMALL.1);
    let session = bench.boot(&fleet)?;
    bench.driver.say(&format!("counting the instructions of {COUNT} VMs"));
    let churn = [Churn::of(&session)?];
    session.end()?;
    let figure = |&(name, about, steps): &(&str, &str, &[&str])| {
        Measure::new(name, about, "instructions", instructions(&churn, steps))
    };
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "churned": COUNT }),
        figures: STEPS.iter().map(figure).collect(),
        samples: churn[0].sample().clone(),
        ..Findings::default()
    })
}

/// What steps take of the kernel, all together: the median.
fn instructions(churns: &[Churn], steps: &[&str]) -> Option<f64> {
    let all = |churn: &Churn| steps.iter().map(|step| churn.cost(step).map(churn::Cost::in_kernel)).sum();
    median(churns.iter().map(all))
}

fn figures(vms: u32, few: &[Churn], many: &[Churn]) -> Vec<Measure> {
    let mut figures = Vec::new();
    for (name, about, steps) in STEPS {
        let (few, many) = (instructions(few, steps), instructions(many, steps));
        let ratio = few.zip(many).map(|(few, many)| many / few);
        let measure = |name: &str, about: String, value| Measure::new(name, &about, "instructions", value);
        figures.extend([
            measure(&format!("{name}_few"), format!("{about}, beside {FEW}"), few),
            measure(&format!("{name}_many"), format!("{about}, beside {vms}"), many),
            Measure::new(&format!("{name}_ratio"), &format!("{about}: how many times as much"), "", ratio)
                .at_most(BUDGET),
        ]);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it would say if each step cost as much more per VM.
    fn churn(more: u32) -> Churn {
        let step =
            |step: &str, ns: u32| format!("\"{step}_busy_ns\":{},\"{step}_supervisor_ns\":1000", ns * 1000 + 1000);
        let steps =
            [("create", 300), ("start", 400), ("park", 500), ("wake", 600 + more), ("stop", 20), ("destroy", 30)];
        let steps = steps.map(|(name, ns)| step(name, ns)).join(",");
        Churn::parse(&format!("churn {{\"count\":1000,\"start_guest_ns\":100000,\"start_kernel_ns\":200000,{steps}}}"))
            .unwrap()
    }

    #[test]
    fn each_step_has_its_ratio() {
        let figures = figures(5000, &[churn(0), churn(0)], &[churn(60), churn(180), churn(120)]);
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap();
        assert_eq!((of("create_few").value, of("create_ratio").value), (Some(300.0), Some(1.0)));
        assert_eq!(of("start_many").value, Some(300.0), "what the guest executes is not the kernel's");
        assert_eq!((of("destroy_few").value, of("destroy_ratio").is_kept()), (Some(50.0), Some(true)));
        assert_eq!((of("wake_ratio").value, of("wake_ratio").is_kept()), (Some(1.2), Some(false)));
    }
}
