//! What the kernel's shortest paths take: a virtual instruction that does nothing, the change from one VM to another,
//! a datagram that a VM receives and answers.
//!
//! The load is inside the machine, which counts instructions: `probe` VMs take each path again and again. Of what
//! passes, what the VMs executed themselves is taken off; it is counted from the moment the kernel has given the
//! processor to the VM until it looks at its clock again, so that entering and leaving the kernel is about half
//! theirs in that account. Only for the first figure, where that would be most of it, the loop's own instructions are
//! taken off instead.

use super::report::{Findings, Measure};
use super::{Bench, Scenario};
use crate::fleet::Fleet;
use crate::machine::{Failure, counter};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "switch", about: "instructions of a virtual instruction, a switch, a datagram", run };

/// How often each path is taken: what is not part of it is then less than an instruction for each time.
pub(super) const COUNT: u32 = 100_000;

/// Instructions of the guest's own loop around a virtual instruction that does nothing.
const LOOP: f64 = 6.0;

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Budgets in instructions.
const NULL_BUDGET: f64 = 100.0;
const SWITCH_BUDGET: f64 = 600.0;
const DATAGRAM_BUDGET: f64 = 3000.0;

/// What a path took.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(super) struct Sample {
    /// Instructions from the first time to the last.
    pub total: f64,
    /// What the supervisor says of the two VMs.
    pub vms: [Value; 2],
}

impl Sample {
    /// What both VMs counted under that name.
    pub fn sum(&self, name: &str) -> Option<f64> {
        Some(counter(&self.vms[0], name)? + counter(&self.vms[1], name)?)
    }

    /// Instructions that are not the VMs' own.
    pub fn in_kernel(&self) -> Option<f64> {
        Some(self.total - self.sum("guest_ns")?)
    }
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let null = measure(bench, "null")?;
    let turns = measure(bench, "yield")?;
    let datagrams = measure(bench, "udp")?;
    Ok(Findings {
        configuration: json!({ "fleet": fleet("MODE"), "count": COUNT, "loop": LOOP }),
        figures: figures(&null, &turns, &datagrams),
        samples: json!({ "null": &null, "yield": &turns, "udp": &datagrams }),
        failures: Vec::new(),
        plot: None,
        table: Vec::new(),
    })
}

pub(super) fn fleet(mode: &str) -> Fleet {
    Fleet {
        image: "probe".to_owned(),
        arguments: format!("mode={mode} count={COUNT}"),
        icount: true,
        ..Fleet::web(2, "256M")
    }
}

pub(super) fn measure(bench: &Bench<'_>, mode: &str) -> Result<Sample, Failure> {
    measure_on(bench, mode, &fleet(mode))
}

/// The same on a machine of its own kind.
pub(super) fn measure_on(bench: &Bench<'_>, mode: &str, fleet: &Fleet) -> Result<Sample, Failure> {
    let session = bench.boot(fleet)?;
    bench.driver.say(&format!("counting instructions: {mode}"));
    let firn = &bench.driver.firn;
    let end = Instant::now() + PATIENCE;
    let total = loop {
        if let Some(total) = result_in(&firn.log(), mode) {
            break total;
        }
        if Instant::now() >= end {
            return Err(Failure::failed(format!("the probe did not say what {mode} takes: {}", firn.log())));
        }
        firn.pause(Duration::from_millis(200))?;
    };
    let inspect = |vm: &str| -> Result<Value, Failure> {
        let output = firn.run(&["inspect", vm, "--name", super::NAME, "--format", "json"])?;
        serde_json::from_slice(&output).map_err(|e| Failure::failed(format!("firn inspect is not understood: {e}")))
    };
    let vms = [inspect("1")?, inspect("2")?];
    session.end()?;
    Ok(Sample { total, vms })
}

/// The result that the probe has written into the log.
fn result_in(log: &str, mode: &str) -> Option<f64> {
    let begin = format!("probe {mode}: {COUNT} in ");
    let rest = log.lines().find_map(|line| line.split_once(&begin))?.1;
    rest.strip_suffix(" ns")?.parse().ok()
}

fn figures(null: &Sample, turns: &Sample, datagrams: &Sample) -> Vec<Measure> {
    let count = f64::from(COUNT);
    let instructions = |name: &str, about: &str, value| Measure::new(name, about, "instructions", value);
    // Each of the two VMs takes a turn, and each receives a datagram and sends one.
    let both = |sample: &Sample| sample.in_kernel().map(|all| all / (2.0 * count));
    let traps = |sample: &Sample| {
        let frames = sample.sum("frames_sent")? + sample.sum("frames_received")?;
        Some(sample.sum("instructions")? / frames)
    };
    vec![
        instructions("null", "a virtual instruction that does nothing", Some(null.total / count - LOOP))
            .at_most(NULL_BUDGET),
        instructions("switch", "sleeping, and changing to a VM whose time has come", both(turns))
            .at_most(SWITCH_BUDGET),
        instructions("datagram", "receiving 100 bytes by UDP and answering, the kernel's part", both(datagrams))
            .at_most(DATAGRAM_BUDGET),
        instructions("round_trip", "all of it, there and back, both VMs included", Some(datagrams.total / count)),
        Measure::new("traps", "virtual instructions per frame", "", traps(datagrams)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(total: f64, guest: u32, frames: u32) -> Sample {
        let vm =
            json!({ "guest_ns": guest, "frames_sent": frames, "frames_received": frames, "instructions": 150_000 });
        Sample { total, vms: [vm.clone(), vm] }
    }

    #[test]
    fn results_are_found_in_the_log() {
        let log = "probe-1    | [    0.026900] info probe: probe null: 100000 in 2880480 ns\nother\n";
        assert_eq!(result_in(log, "null"), Some(2_880_480.0));
        assert_eq!(result_in(log, "udp"), None);
        assert_eq!(result_in("probe null: 100000 in some ns", "null"), None);
        assert_eq!(result_in("probe null: 7 in 5 ns", "null"), None, "another count");
    }

    #[test]
    fn what_the_vms_executed_is_taken_off() {
        let figures = figures(&sample(14e6, 1, 0), &sample(8e7, 20_000_000, 0), &sample(1e9, 200_000_000, 100_000));
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap();
        assert_eq!((of("null").value, of("null").is_kept()), (Some(134.0), Some(false)));
        assert_eq!((of("switch").value, of("switch").is_kept()), (Some(200.0), Some(true)));
        assert_eq!(of("datagram").value, Some(3000.0));
        assert_eq!((of("round_trip").value, of("traps").value), (Some(10_000.0), Some(0.75)));
    }
}
