//! What a VM loses by neighbours that take all they can get: a web VM is asked at a fixed, modest rate for its latency,
//! and as fast as it answers for its throughput, alone and beside each kind of attack.
//!
//! The attackers are guests that do nothing forbidden (`apps/attack`), and the supervisor, which creates and destroys
//! VMs. VM 1 is the victim. It is in a group of its own, the attackers in another; all groups weigh the same, so the
//! victim's share of the processor is one by the number of groups that are busy.
//!
//! Latencies are those since a request was due, over connections that are kept: a slow machine is not asked less often,
//! and an answer takes the victim one turn. Throughput is that of new connections; beside it stands what part of the
//! processor's time the victim had for it, as the kernel accounts it: that is what the kernel shares out, and what a
//! request costs grows beside others, whose work drives the victim's out of caches.

use super::report::{Findings, Measure};
use super::{Bench, Scenario};
use crate::driver::Session;
use crate::fleet::{DEFAULT_SHARES, Fleet, Neighbours};
use crate::machine::{Failure, counter};
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use crate::report::{HttpReport, Summary};
use serde_json::{Value, json};
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "isolation", about: "what a VM loses by neighbours that take all they can", run };

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "2G";

/// Seconds of each measurement, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 1.5];

/// Of the time at which nothing is measured yet.
const WARM_UP_SECONDS: f64 = 1.0;

/// Requests a second while latency is measured, and connections to send them on: enough for half a second's.
const RATE: &str = "200";
const RATE_CONNECTIONS: &str = "100";

/// Requests at once while throughput is measured.
const AT_ONCE: &str = "16";

/// What the victim's p99 may grow to: so many times what it is alone, and a quantum.
const TIMES: f64 = 1.5;
const QUANTUM_MS: f64 = 4.0;

/// Address of the VM that is flooded: the first of the attackers, which wakes now and then and is no victim.
const FLOODED: &str = "10.65.0.2";

/// Number of the VM that is attacked.
const VICTIM: u32 = 1;

/// VMs that the supervisor creates and destroys at a time.
const STORM: u32 = 200;

/// Seconds in which a machine under attack may take to start a load beyond those that it lasts.
const SLACK_SECONDS: f64 = 60.0;

/// An attack: its name, and the neighbours that make it.
struct Attack {
    name: &'static str,
    about: &'static str,
    /// Attackers by what they do. Those that let others start come first.
    modes: &'static [(&'static str, u32)],
    /// Whether the supervisor creates and destroys VMs.
    has_storm: bool,
}

/// The names of all measurements, as the plot has them.
const NAMES: [&str; 11] =
    ["alone", "spin", "wake", "storm", "flood", "send", "fault", "instruct", "past", "create", "all"];

/// All attacks, the last of them everything at once.
const ATTACKS: [Attack; 10] = [
    Attack { name: "spin", about: "100 VMs that compute", modes: &[("spin", 100)], has_storm: false },
    Attack { name: "wake", about: "{} VMs that wake every 100 ms", modes: &[("wake", 10_000)], has_storm: false },
    Attack { name: "storm", about: "{} VMs that wake in one instant", modes: &[("storm", 10_000)], has_storm: false },
    Attack {
        name: "flood",
        about: "a VM that floods a neighbour",
        modes: &[("wake", 1), ("flood", 1)],
        has_storm: false,
    },
    Attack { name: "send", about: "a VM that sends as fast as it can", modes: &[("send", 1)], has_storm: false },
    Attack { name: "fault", about: "a VM that faults on every page", modes: &[("fault", 1)], has_storm: false },
    Attack {
        name: "instruct",
        about: "a VM that executes virtual instructions",
        modes: &[("instruct", 1)],
        has_storm: false,
    },
    Attack { name: "past", about: "a VM whose timers are in the past", modes: &[("past", 1)], has_storm: false },
    Attack { name: "create", about: "VMs created and destroyed all the time", modes: &[], has_storm: true },
    Attack {
        name: "all",
        about: "all of these together",
        modes: &[
            ("wake", 5000),
            ("storm", 5000),
            ("flood", 1),
            ("send", 1),
            ("fault", 1),
            ("instruct", 1),
            ("past", 1),
            ("spin", 100),
        ],
        has_storm: true,
    },
];

impl Attack {
    /// How many VMs do something, when less is to be measured or all.
    fn vms(vms: u32, is_quick: bool) -> u32 {
        if is_quick && vms >= 1000 { vms / 10 } else { vms }
    }

    fn neighbours(&self, is_quick: bool) -> Vec<Neighbours> {
        let arguments = |mode: &str| match mode {
            "flood" => format!("mode={mode} target={FLOODED}"),
            _ => format!("mode={mode}"),
        };
        let neighbours = |&(mode, vms): &(&str, u32)| Neighbours {
            name: mode.to_owned(),
            image: "attack".to_owned(),
            vms: Self::vms(vms, is_quick),
            shares: DEFAULT_SHARES,
            group: Some("attackers".to_owned()),
            arguments: arguments(mode),
        };
        self.modes.iter().map(neighbours).collect()
    }

    fn about(&self, is_quick: bool) -> String {
        let vms = self.modes.first().map_or(0, |&(_, vms)| Self::vms(vms, is_quick));
        self.about.replace("{}", &crate::human::count(vms.into()))
    }

    /// Groups that want the processor: the victim's, the attackers', and the supervisor's with that of the VMs it
    /// creates.
    fn busy_groups(&self) -> u32 {
        1 + u32::from(!self.modes.is_empty()) + if self.has_storm { 2 } else { 0 }
    }
}

/// What the victim did in a measurement.
#[derive(serde::Serialize)]
struct Sample {
    name: &'static str,
    /// At a fixed rate.
    paced: HttpReport,
    /// As fast as it answers.
    pushed: HttpReport,
    /// What part of the processor was used by the victim and for it meanwhile. Not known while the supervisor is busy
    /// with its storm.
    processor: Option<f64>,
    /// What the supervisor said of its storm.
    storm: Option<String>,
    /// VMs that had ended by then.
    ended: Option<f64>,
    status: Value,
}

impl Sample {
    /// What did not answer. Being slow under attack is no failure; what takes more than the patience with a request is
    /// counted in the figures.
    fn trouble(&self) -> Option<String> {
        let sides = [("at a fixed rate", &self.paced), ("as fast as it answers", &self.pushed)];
        let silent = sides.iter().find(|(_, report)| report.requests.ok == 0);
        match silent {
            Some((how, report)) => Some(format!("{}, {how}: nothing was answered: {:?}", self.name, report.trouble())),
            None if self.name == "alone" => {
                sides.iter().find_map(|(how, report)| Some(format!("alone, {how}: {}", report.trouble()?)))
            }
            None => self.ended.filter(|&ended| ended > 0.0).map(|ended| format!("{}: {ended} VMs ended", self.name)),
        }
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let memory = options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let alone = Fleet { cpus: options.cpus(), group: Some("victim".to_owned()), ..Fleet::web(1, memory) };
    let mut samples = vec![measure(bench, None, &alone)?];
    for attack in &ATTACKS {
        let fleet = Fleet { neighbours: attack.neighbours(options.quick), ..alone.clone() };
        samples.push(measure(bench, Some(attack), &fleet)?);
    }
    Ok(Findings {
        configuration: json!({
            "fleet": &alone, "quantum_ms": QUANTUM_MS, "rate": RATE, "at_once": AT_ONCE, "storm": STORM,
        }),
        figures: figures(&samples, options.quick),
        failures: samples.iter().filter_map(Sample::trouble).collect(),
        plot: Some(plot(&samples, options.cpus())),
        table: table(&samples, options.quick),
        samples: json!(&samples),
    })
}

fn measure(bench: &Bench<'_>, attack: Option<&Attack>, fleet: &Fleet) -> Result<Sample, Failure> {
    let name = attack.map_or("alone", |attack| attack.name);
    let session = bench.boot(fleet)?;
    let seconds = bench.options.seconds.unwrap_or(bench.options.usual(DEFAULT_SECONDS));
    let duration = seconds.to_string();
    let seed = bench.seed().to_string();
    let load = |seconds: &str, how: &[&str]| {
        session.load(&[&["--path", "/", "--seed", &seed, "--duration", seconds][..], how].concat())
    };
    let paced = ["--keep-alive", "--connections", RATE_CONNECTIONS, "--rate", RATE];
    let pushed = ["--new-connections", "--connections", AT_ONCE];
    load(&WARM_UP_SECONDS.min(seconds).to_string(), &pushed)?;
    bench.driver.say(&format!("asking the victim: {name}"));
    let mut storm = None;
    if attack.is_some_and(|attack| attack.has_storm) {
        let first = fleet.neighbours.iter().map(|other| other.vms).sum::<u32>() + fleet.vms + 1;
        // As long as both loads take, and nothing that is said of it is lost.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds were checked")]
        let [lasts, patience] = [2.0 * seconds + 3.0, 2.0 * seconds + SLACK_SECONDS].map(|s| s.ceil() as u32);
        let words = ["storm", &first.to_string(), &STORM.to_string(), &lasts.to_string()];
        storm = Some(session.ask_meanwhile(&words, patience)?);
        // All other attackers have been at it since the machine is up. What is new to an emulator takes it its time.
        bench.driver.firn.pause(Duration::from_secs_f64(WARM_UP_SECONDS))?;
    }
    let paced = load(&duration, &paced)?;
    let mut processor = None;
    let pushed = if storm.is_some() {
        load(&duration, &pushed)?
    } else {
        let [used, elapsed] = processor_time(&session)?;
        let pushed = load(&duration, &pushed)?;
        let after = processor_time(&session)?;
        processor = Some((after[0] - used) / (after[1] - elapsed));
        pushed
    };
    let storm = storm.map(|storm| storm.succeed(bench.driver.firn.stop)).transpose()?;
    let storm = storm.map(|said| String::from_utf8_lossy(&said).trim().to_owned());
    let status = session.status()?;
    session.end()?;
    Ok(Sample { name, paced, pushed, processor, storm, ended: counter(&status, "ended"), status })
}

/// Time that the victim has used, and that the machine has been up, in nanoseconds.
fn processor_time(session: &Session<'_>) -> Result<[f64; 2], Failure> {
    let (victim, status) = (session.inspect(VICTIM)?, session.status()?);
    let sum = || {
        let used = counter(&victim, "guest_ns")? + counter(&victim, "kernel_ns")?;
        Some([used, counter(&status, "uptime_ns")?])
    };
    sum().ok_or_else(|| Failure::failed("firn does not say what time a VM has used"))
}

/// Latencies since requests were due, if anything was answered.
fn since_due(sample: &Sample) -> Option<&Summary> {
    sample.paced.latency.corrected.as_ref().filter(|summary| summary.count > 0)
}

/// Most that the victim's p99 may be.
fn most_ms(alone: &Sample) -> Option<f64> {
    since_due(alone).map(|summary| summary.p99_us / 1000.0 * TIMES + QUANTUM_MS)
}

/// The victim's share of what it answers alone.
fn least_per_s(alone: &Sample, attack: &Attack) -> f64 {
    alone.pushed.requests.per_s / f64::from(attack.busy_groups())
}

fn figures(samples: &[Sample], is_quick: bool) -> Vec<Measure> {
    let Some(alone) = samples.first() else { return Vec::new() };
    let mut figures = Vec::new();
    for sample in samples {
        let name = sample.name;
        let attack = ATTACKS.iter().find(|attack| attack.name == name);
        let about = attack.map_or_else(|| "alone".to_owned(), |attack| attack.about(is_quick));
        let ms = |us: fn(&Summary) -> f64| since_due(sample).map(|summary| us(summary) / 1000.0);
        let p99 = Measure::new(&format!("{name}_p99_ms"), &format!("{about}, p99"), "ms", ms(|t| t.p99_us));
        let per_s = Measure::new(
            &format!("{name}_per_s"),
            &format!("{about}, throughput"),
            "/s",
            Some(sample.pushed.requests.per_s),
        );
        figures.push(Measure::new(&format!("{name}_p50_ms"), &format!("{about}, p50"), "ms", ms(|t| t.p50_us)));
        let part = sample.processor.map(|part| part * 100.0);
        figures.push(Measure::new(&format!("{name}_processor"), &format!("{about}, part of the processor"), "%", part));
        let Some(attack) = attack else {
            figures.extend([p99, per_s]);
            continue;
        };
        let ratio = ms(|t| t.p99_us).zip(since_due(alone)).map(|(ms, alone)| ms * 1000.0 / alone.p99_us);
        let lost = sample.paced.requests.failed + sample.paced.requests.behind;
        #[expect(clippy::cast_precision_loss, reason = "counts of a run")]
        let lost = Measure::new(
            &format!("{name}_lost"),
            &format!("{about}, unanswered at {RATE}/s"),
            "requests",
            Some(lost as f64),
        );
        figures.extend([
            most_ms(alone).map_or_else(|| p99.clone(), |most| p99.clone().at_most(most)),
            Measure::new(&format!("{name}_ratio"), &format!("{about}, p99 by that alone"), "times", ratio),
            lost.at_most(0.0),
            per_s.at_least(least_per_s(alone, attack)),
        ]);
    }
    figures
}

/// What the victim did alone and under each attack, in rows.
fn table(samples: &[Sample], is_quick: bool) -> Vec<Vec<String>> {
    let heading =
        ["victim beside", "p50", "p99", "times alone", "unanswered", "throughput", "its share", "processor", "verdict"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let Some(alone) = samples.first() else { return rows };
    for sample in samples {
        let attack = ATTACKS.iter().find(|attack| attack.name == sample.name);
        let due = since_due(sample);
        let latency = |us: fn(&Summary) -> f64| due.map_or("none".to_owned(), |due| crate::human::latency(us(due)));
        let times = due
            .zip(since_due(alone))
            .map_or("none".to_owned(), |(due, alone)| format!("{:.2}", due.p99_us / alone.p99_us));
        let lost = sample.paced.requests.failed + sample.paced.requests.behind;
        let per_s = sample.pushed.requests.per_s;
        let share = attack.map(|attack| least_per_s(alone, attack));
        let is_prompt = due.zip(most_ms(alone)).is_some_and(|(due, most)| due.p99_us / 1000.0 <= most) && lost == 0;
        let verdict = match share {
            None => "",
            Some(share) if is_prompt && per_s >= share => "kept",
            Some(_) if is_prompt => "MISSED: throughput",
            Some(share) if per_s >= share => "MISSED: latency",
            Some(_) => "MISSED: both",
        };
        rows.push(vec![
            attack.map_or_else(|| "nobody".to_owned(), |attack| attack.about(is_quick)),
            latency(|due| due.p50_us),
            latency(|due| due.p99_us),
            times,
            lost.to_string(),
            format!("{}/s", crate::human::rate(per_s)),
            share.map_or_else(String::new, |share| format!("{}/s", crate::human::rate(share))),
            sample.processor.map_or_else(String::new, |part| format!("{:.0} %", part * 100.0)),
            verdict.to_owned(),
        ]);
    }
    if let Some(most) = most_ms(alone) {
        let budget = format!("p99 at most {most:.1} ms ({TIMES} times alone and {QUANTUM_MS} ms), nothing unanswered");
        rows.push(vec![format!("budget: {budget}, throughput at least its share")]);
    }
    rows
}

fn plot(samples: &[Sample], cpus: u32) -> Figure {
    let points = |of: &dyn Fn(&Sample) -> Option<f64>| {
        let point = |sample: &Sample| Some((place(sample.name)?, of(sample)?));
        samples.iter().filter_map(point).collect::<Vec<_>>()
    };
    let series = |name: &str, colour: Colour, is_budget: bool, points| Series {
        name: name.to_owned(),
        colour,
        filled: is_budget,
        points,
    };
    let panel = |title: &str, y_label: &str, y_kind: Kind, series: Vec<Series>| Panel {
        title: title.to_owned(),
        x_label: "attack".to_owned(),
        x_kind: Kind::Names(&NAMES),
        y_label: y_label.to_owned(),
        y_kind,
        series,
    };
    let attack = |sample: &Sample| ATTACKS.iter().find(|attack| attack.name == sample.name);
    let alone = samples.first();
    let budget_us = |sample: &Sample| attack(sample).and_then(|_| Some(most_ms(alone?)? * 1000.0));
    let share = |sample: &Sample| Some(least_per_s(alone?, attack(sample)?));
    Figure {
        title: "What a web VM loses by its neighbours".to_owned(),
        subtitle: format!(
            "One VM asked {RATE} times a second (latency), then {AT_ONCE} at once (throughput); {cpus} processor(s)"
        ),
        rows: vec![
            vec![panel(
                "Latency",
                "since the request was due",
                Kind::Latency,
                vec![
                    series("p99 budget", Colour::Red, true, points(&budget_us)),
                    series("p50", Colour::Blue, false, points(&|s| since_due(s).map(|summary| summary.p50_us))),
                    series("p99", Colour::Orange, false, points(&|s| since_due(s).map(|summary| summary.p99_us))),
                ],
            )],
            vec![panel(
                "Throughput",
                "requests/s",
                Kind::Linear,
                vec![
                    series("its share", Colour::Red, true, points(&share)),
                    series("answered", Colour::Blue, false, points(&|s| Some(s.pushed.requests.per_s))),
                ],
            )],
        ],
    }
}

/// Where a measurement stands in the plot.
#[expect(clippy::cast_precision_loss, reason = "a few names")]
fn place(name: &str) -> Option<f64> {
    NAMES.iter().position(|known| *known == name).map(|place| place as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attackers_are_numbered_after_the_victim_and_know_it() {
        for attack in &ATTACKS {
            let neighbours = attack.neighbours(false);
            assert!(neighbours.iter().all(|other| other.image == "attack" && other.vms > 0), "{}", attack.name);
            assert!(neighbours.iter().all(|other| other.group.as_deref() == Some("attackers")), "{}", attack.name);
            assert_eq!(neighbours.is_empty(), attack.name == "create");
            for other in neighbours.iter().filter(|other| other.name == "flood") {
                assert_eq!(other.arguments, "mode=flood target=10.65.0.2");
            }
        }
        let all = ATTACKS.last().unwrap();
        let mut modes: Vec<&str> = all.modes.iter().map(|(mode, _)| *mode).collect();
        let mut attacks: Vec<&str> = ATTACKS[..8].iter().map(|attack| attack.name).collect();
        modes.sort_unstable();
        attacks.sort_unstable();
        assert_eq!(modes, attacks, "all is all of them");
        assert!(all.has_storm);
    }

    #[test]
    fn less_is_measured_with_a_tenth_of_the_many() {
        let vms = |name: &str, is_quick| {
            let attack = ATTACKS.iter().find(|attack| attack.name == name).unwrap();
            (attack.neighbours(is_quick)[0].vms, attack.about(is_quick))
        };
        assert_eq!(vms("wake", false), (10_000, "10,000 VMs that wake every 100 ms".to_owned()));
        assert_eq!(vms("storm", true), (1000, "1,000 VMs that wake in one instant".to_owned()));
        assert_eq!(vms("spin", true).0, 100);
    }

    #[test]
    fn every_measurement_has_a_place_and_a_share() {
        assert_eq!(place("alone"), Some(0.0));
        assert!(ATTACKS.iter().all(|attack| place(attack.name).is_some()) && NAMES.len() == ATTACKS.len() + 1);
        let groups = |name: &str| ATTACKS.iter().find(|attack| attack.name == name).unwrap().busy_groups();
        assert_eq!((groups("spin"), groups("create"), groups("all")), (2, 3, 4));
    }
}
