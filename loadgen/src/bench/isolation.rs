//! What a VM loses by neighbours that take all they can get: a web VM is asked one request after the other on new
//! connections, alone and beside each kind of attack.
//!
//! The attackers are guests that do nothing forbidden (`apps/attack`). VM 1 is the victim. All have the same shares:
//! what the victim needs is far less than its part.

use super::report::{Findings, Measure};
use super::{Bench, Scenario};
use crate::fleet::{DEFAULT_SHARES, Fleet, Neighbours};
use crate::machine::Failure;
use crate::report::{HttpReport, Summary};
use serde_json::{Value, json};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "isolation", about: "what a VM loses by neighbours that take all they can", run };

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "2G";

/// Seconds of each measurement, if nothing else is wanted.
const DEFAULT_SECONDS: f64 = 5.0;

/// Of the time at which nothing is measured yet.
const WARM_UP_SECONDS: &str = "1";

/// What the victim's p99 may grow to: so many times what it is alone, and a quantum.
const TIMES: f64 = 1.5;
const QUANTUM_MS: f64 = 4.0;

/// Address of the victim.
const VICTIM: &str = "10.65.0.1";

/// An attack: its name, and the neighbours that make it.
struct Attack {
    name: &'static str,
    about: &'static str,
    modes: &'static [(&'static str, u32)],
}

/// All attacks, the last of them everything at once.
const ATTACKS: [Attack; 9] = [
    Attack { name: "spin", about: "100 VMs that compute", modes: &[("spin", 100)] },
    Attack { name: "wake", about: "10,000 VMs that wake every 100 ms", modes: &[("wake", 10_000)] },
    Attack { name: "storm", about: "10,000 VMs that wake at the same time", modes: &[("storm", 10_000)] },
    Attack { name: "flood", about: "a VM that floods the victim", modes: &[("flood", 1)] },
    Attack { name: "send", about: "a VM that sends as fast as it can", modes: &[("send", 1)] },
    Attack { name: "fault", about: "a VM that faults on every page", modes: &[("fault", 1)] },
    Attack { name: "instruct", about: "a VM that executes virtual instructions", modes: &[("instruct", 1)] },
    Attack { name: "past", about: "a VM whose timers are in the past", modes: &[("past", 1)] },
    Attack {
        name: "all",
        about: "all of these together",
        modes: &[
            ("spin", 100),
            ("wake", 5000),
            ("storm", 5000),
            ("flood", 1),
            ("send", 1),
            ("fault", 1),
            ("instruct", 1),
            ("past", 1),
        ],
    },
];

impl Attack {
    fn neighbours(&self) -> Vec<Neighbours> {
        let arguments = |mode: &str| match mode {
            "flood" => format!("mode={mode} target={VICTIM}"),
            _ => format!("mode={mode}"),
        };
        let neighbours = |&(mode, vms): &(&str, u32)| Neighbours {
            name: mode.to_owned(),
            image: "attack".to_owned(),
            vms,
            shares: DEFAULT_SHARES,
            arguments: arguments(mode),
        };
        self.modes.iter().map(neighbours).collect()
    }
}

/// What the victim did in a measurement.
#[derive(serde::Serialize)]
struct Sample {
    name: &'static str,
    report: HttpReport,
    status: Value,
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let memory = bench.options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let alone = Fleet { cpus: bench.options.cpus, ..Fleet::web(1, memory) };
    let mut samples = vec![measure(bench, "alone", &alone)?];
    for attack in &ATTACKS {
        samples.push(measure(bench, attack.name, &Fleet { neighbours: attack.neighbours(), ..alone.clone() })?);
    }
    let trouble = |sample: &Sample| sample.report.trouble().map(|trouble| format!("{}: {trouble}", sample.name));
    Ok(Findings {
        configuration: json!({ "fleet": &alone, "quantum_ms": QUANTUM_MS }),
        figures: figures(&samples.iter().map(|sample| (sample.name, &sample.report)).collect::<Vec<_>>()),
        failures: samples.iter().filter_map(trouble).collect(),
        samples: json!(&samples),
        plot: None,
    })
}

fn measure(bench: &Bench<'_>, name: &'static str, fleet: &Fleet) -> Result<Sample, Failure> {
    let session = bench.boot(fleet)?;
    let load = |seconds: &str| {
        session.load(&["--path", "/", "--new-connections", "--connections", "1", "--duration", seconds])
    };
    load(WARM_UP_SECONDS)?;
    bench.driver.say(&format!("asking the victim: {name}"));
    let report = load(&bench.options.seconds.unwrap_or(DEFAULT_SECONDS).to_string())?;
    let status = session.status()?;
    session.end()?;
    Ok(Sample { name, report, status })
}

fn figures(samples: &[(&str, &HttpReport)]) -> Vec<Measure> {
    let p99_ms = |report: &HttpReport| report.latency.total.p99_us / 1000.0;
    let Some((_, alone)) = samples.first() else { return Vec::new() };
    let most = p99_ms(alone) * TIMES + QUANTUM_MS;
    let mut figures = Vec::new();
    for (name, report) in samples {
        let about = ATTACKS.iter().find(|attack| attack.name == *name).map_or("alone", |attack| attack.about);
        // Nothing has no latency.
        let total = Some(&report.latency.total).filter(|_| report.requests.ok > 0);
        let ms = |us: fn(&Summary) -> f64| total.map(|total| us(total) / 1000.0);
        let p99 = Measure::new(&format!("{name}_p99_ms"), &format!("{about}, p99"), "ms", ms(|t| t.p99_us));
        figures.extend([
            Measure::new(&format!("{name}_per_s"), about, "/s", Some(report.requests.per_s)),
            Measure::new(&format!("{name}_p50_ms"), &format!("{about}, p50"), "ms", ms(|t| t.p50_us)),
            if *name == "alone" { p99 } else { p99.at_most(most) },
        ]);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attackers_are_numbered_after_the_victim_and_know_it() {
        for attack in &ATTACKS {
            let neighbours = attack.neighbours();
            assert!(neighbours.iter().all(|other| other.image == "attack" && other.vms > 0), "{}", attack.name);
            for other in neighbours.iter().filter(|other| other.name == "flood") {
                assert_eq!(other.arguments, "mode=flood target=10.65.0.1");
            }
        }
        let all = ATTACKS.last().unwrap();
        let modes: Vec<&str> = all.modes.iter().map(|(mode, _)| *mode).collect();
        assert_eq!(modes, ATTACKS[..8].iter().map(|attack| attack.name).collect::<Vec<_>>(), "all is all of them");
    }
}
