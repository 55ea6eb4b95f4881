//! How fast VMs are cloned from their template: the rate in which a large fleet is created and started, the rate in
//! which its VMs come to answer, and the instructions from a clone's creation to its own first one.
//!
//! The first rate is that of a machine nobody asks anything while its VMs are started, by the times in its log; some of
//! them are then asked one by one, which is their first request: with what creating one took that is the time to the
//! first byte. The second is that of a machine whose VMs are asked from its start on, until all have answered.
//! Instructions are counted on a small machine, whose time is its instructions.

use super::churn::{self, COUNT, Churn};
use super::report::{Findings, Measure};
use super::spread::median;
use super::wakes::drop_what_was_said;
use super::{Bench, NAME, Scenario};
use crate::demo::report::times_in_log;
use crate::driver::{Selection, Session};
use crate::fleet::Fleet;
use crate::machine::{Failure, counter};
use crate::report::{HttpReport, Summary};
use serde_json::{Value, json};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "clone", about: "how fast VMs are created from a template, and what that takes", run };

/// VMs of the large fleets, if nothing else is wanted: all, and few.
const DEFAULT_VMS: [u32; 2] = [10_000, 2000];

/// Memory of their machines.
const DEFAULT_MEMORY: &str = "2G";

/// VMs of the fleet beside which instructions are counted, and the machine's memory.
const SMALL: (u32, &str) = (10, "512M");

/// Machines of each kind that are started, all, and few; the figures are medians.
const MACHINES: [u32; 2] = [3, 1];

/// VMs that are asked one by one.
const FIRST_SAMPLE: u32 = 300;

/// C processes a second that Linux starts on virtual hardware like this, and how many times as fast VMs are to be.
const PROCESSES_PER_S: f64 = 395.0;
const TIMES: f64 = 20.0;

/// Instructions of the kernel from a clone's creation to its first own one.
const BUDGET: f64 = 5000.0;

/// How often instructions are counted on one machine: all, and few.
const CHURNS: [u32; 2] = [3, 1];

/// What a machine's start showed.
#[derive(Clone, Debug, serde::Serialize)]
struct Start {
    /// Second of the machine's own clock in which the kernel was ready.
    ready_s: Option<f64>,
    /// Second of it in which all VMs had been started.
    started_s: Option<f64>,
    /// What VMs answered that had never been asked before, one by one.
    first: Option<HttpReport>,
    /// Seconds from the machine's start until all VMs had answered, if they were asked.
    answered_s: Option<f64>,
    status: Value,
    sweep: Option<HttpReport>,
}

impl Start {
    /// What happened in a second until the moment `end`, of so many VMs.
    fn rate(&self, vms: u32, end: Option<f64>) -> Option<f64> {
        let seconds = end? - self.ready_s?;
        (seconds > 0.0).then(|| f64::from(vms) / seconds)
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let fleet = Fleet {
        cpus: options.cpus(),
        swap: options.swap.clone(),
        swap_iops: options.swap_iops,
        ..Fleet::web(
            options.vms.unwrap_or(options.usual(DEFAULT_VMS)),
            options.memory.as_deref().unwrap_or(DEFAULT_MEMORY),
        )
    };
    let mut failures = Vec::new();
    let (mut quiet, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..options.usual(MACHINES) {
        quiet.push(start(bench, &fleet, &mut failures)?);
        asked.push(start_and_ask(bench, &fleet, &mut failures)?);
    }
    let counted = churn::fleet(SMALL.0, SMALL.1);
    let churns = count(bench, &counted)?;
    let samples: Vec<_> = churns.iter().map(Churn::sample).collect();
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "machines": options.usual(MACHINES), "counted": &counted, "clones": COUNT }),
        figures: figures(fleet.vms, &quiet, &asked, &churns),
        samples: json!({ "started": &quiet, "asked": &asked, "churn": samples }),
        failures,
        plot: None,
        table: Vec::new(),
    })
}

/// Boots a machine, and lets it be until all its VMs have been started.
fn start(bench: &Bench<'_>, fleet: &Fleet, failures: &mut Vec<String>) -> Result<Start, Failure> {
    let session = bench.boot(fleet)?;
    bench.driver.say("asking some VMs for the first time, one by one");
    let mut first = session.sweep(Selection::spread(fleet.vms, FIRST_SAMPLE), 1)?;
    drop_what_was_said(&mut first);
    failures.extend(first.trouble().map(|trouble| format!("when VMs were asked for the first time: {trouble}")));
    Ok(Start { first: Some(first), ..finish(bench, session, None, failures)? })
}

/// Boots a machine, and asks its VMs from then on.
fn start_and_ask(bench: &Bench<'_>, fleet: &Fleet, failures: &mut Vec<String>) -> Result<Start, Failure> {
    let (session, sweep) = bench.boot_and_sweep(fleet)?;
    failures.extend(sweep.trouble().map(|trouble| format!("when VMs were asked as they started: {trouble}")));
    finish(bench, session, Some(sweep), failures)
}

fn finish(
    bench: &Bench<'_>,
    session: Session<'_>,
    sweep: Option<HttpReport>,
    failures: &mut Vec<String>,
) -> Result<Start, Failure> {
    let status = session.status()?;
    let (ready_s, started_s) = times_in_log(&bench.driver.firn.log(), NAME);
    let all = counter(&status, "started");
    if all != Some(f64::from(session.vms)) {
        failures.push(format!("{} VMs were started of {}", all.unwrap_or(0.0), session.vms));
    }
    #[expect(clippy::cast_precision_loss, reason = "times of day in seconds and milliseconds")]
    let began_s = |sweep: &HttpReport| sweep.started_unix_ns as f64 / 1e9 - session.machine.started_ms as f64 / 1e3;
    let answered_s = sweep.as_ref().and_then(|all| Some(all.sweep.as_ref()?.all_answered_s? + began_s(all)));
    session.end()?;
    Ok(Start { ready_s, started_s, first: None, answered_s, status, sweep })
}

/// Counts instructions on a machine with a small fleet.
fn count(bench: &Bench<'_>, fleet: &Fleet) -> Result<Vec<Churn>, Failure> {
    let session = bench.boot(fleet)?;
    bench.driver.say(&format!("counting the instructions of {COUNT} clones"));
    let churns = (0..bench.options.usual(CHURNS)).map(|_| Churn::of(&session)).collect::<Result<Vec<_>, _>>()?;
    session.end()?;
    Ok(churns)
}

fn figures(vms: u32, quiet: &[Start], asked: &[Start], churns: &[Churn]) -> Vec<Measure> {
    let of = |step: &str, part: fn(churn::Cost) -> f64| median(churns.iter().map(|churn| churn.cost(step).map(part)));
    let create = of("create", |cost| cost.kernel);
    let start = of("start", |cost| cost.kernel);
    let both = create.zip(start).map(|(create, start)| create + start);
    let created = median(quiet.iter().map(|machine| machine.rate(vms, machine.started_s)));
    let answered = median(asked.iter().map(|machine| machine.rate(vms, machine.answered_s)));
    let first = |of: fn(&Summary) -> f64| {
        let ms = |machine: &Start| {
            let total = &machine.first.as_ref()?.latency.total;
            (total.count > 0).then(|| of(total) / 1e3)
        };
        median(quiet.iter().map(ms))
    };
    let [first_p50, first_p99] = [first(|total| total.p50_us), first(|total| total.p99_us)];
    let to_first_byte = created.zip(first_p50).map(|(per_s, ms)| 1e3 / per_s + ms);
    let seconds = median(asked.iter().map(|machine| machine.answered_s));
    vec![
        Measure::new("created_per_s", "VMs created and started in a second", "/s", created)
            .at_least(TIMES * PROCESSES_PER_S),
        Measure::new("first_p50_ms", "first answer of a VM that was never asked, p50", "ms", first_p50),
        Measure::new("first_p99_ms", "first answer of a VM that was never asked, p99", "ms", first_p99),
        Measure::new("first_byte_ms", "creating and starting one, and its first answer", "ms", to_first_byte),
        Measure::new("answered_per_s", "VMs that came to answer in a second", "/s", answered),
        Measure::new("answered_s", "from the machine's start until all answered", "s", seconds),
        Measure::new("instructions", "from creation to a clone's first instruction", "instructions", both)
            .at_most(BUDGET),
        Measure::new("create_instructions", "of these, creating it", "instructions", create),
        Measure::new("start_instructions", "of these, starting and dispatching it", "instructions", start),
        Measure::new(
            "exit_instructions",
            "the kernel's for its exits, until it sleeps",
            "instructions",
            of("start", |cost| cost.exits),
        ),
        Measure::new("guest_instructions", "its own, until it sleeps", "instructions", of("start", |cost| cost.guest)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(started_s: Option<f64>, answered_s: Option<f64>) -> Start {
        Start { ready_s: Some(0.5), started_s, first: None, answered_s, status: Value::Null, sweep: None }
    }

    #[test]
    fn rates_are_those_since_the_kernel_was_ready() {
        assert_eq!(machine(Some(1.5), None).rate(1000, Some(1.5)), Some(1000.0));
        assert_eq!(machine(Some(0.5), None).rate(1000, Some(0.5)), None);
        assert_eq!(machine(None, None).rate(1000, None), None);
    }

    #[test]
    fn figures_are_medians_and_have_their_budgets() {
        let quiet = [1.5, 1.0, 2.5].map(|s| machine(Some(s), None));
        let asked = [Some(2.5), None, Some(2.5)].map(|s| machine(Some(1.0), s));
        let figures = figures(9000, &quiet, &asked, &[]);
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap();
        assert_eq!((of("created_per_s").value, of("created_per_s").is_kept()), (Some(9000.0), Some(true)));
        assert_eq!(of("answered_per_s").value, Some(4500.0));
        assert_eq!(of("first_byte_ms").value, None);
        let mut asked_once = quiet;
        // Answers of 2 and 4 ms.
        asked_once[0].first = Some(super::super::density::tests::report());
        let figures = super::figures(9000, &asked_once, &asked, &[]);
        let first_byte = figures.iter().find(|figure| figure.name == "first_byte_ms").unwrap().value.unwrap();
        assert!((2.1..2.13).contains(&first_byte), "{first_byte}: a ninth of a millisecond to create it, and 2");
        assert_eq!((of("instructions").value, of("instructions").is_kept()), (None, None));
    }
}
