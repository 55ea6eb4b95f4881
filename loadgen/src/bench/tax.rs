//! What isolation costs: the same web server, from the same image, in ring 0 with the machine to itself, as the one VM of
//! Firn, and as many.
//!
//! Each round boots all three on the same emulated machine and puts them under the same load; who is first changes from
//! round to round, and ratios are of one round's figures. Then the instructions of a request are counted on machines
//! whose time they are. Load from outside is no burden to such a count, as long as the machine's time goes on while it
//! waits: what is done when nobody asks would otherwise be done in an instant, over and over.

use super::report::{Findings, Measure};
use super::{AT_ONCE, Bench, HTTP_MODES, Scenario, http_arguments};
use crate::driver::{Selection, Session};
use crate::fleet::{Boot, Fleet};
use crate::human::count;
use crate::machine::{Failure, counter};
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::{Value, json};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "tax", about: "what isolation costs, beside the same server without it", run };

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "2G";

/// VMs of the machine with many, if nothing else is wanted.
const DEFAULT_VMS: u32 = 1000;

/// Seconds of load of each kind, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 2.0];

/// How often each system is booted and loaded in a run: all, and few.
const ROUNDS: [usize; 2] = [3, 1];

/// Requests of a first counted load, all, and few; a second has three times as many.
const COUNTED: [u32; 2] = [10_000, 3000];

/// What one VM is to serve at least of what the server does alone.
const BUDGET: f64 = 0.8;

/// What runs the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum System {
    /// Nothing.
    Bare,
    /// Firn, with so many VMs.
    Firn(u32),
}

impl System {
    /// All of them; the first is what the others are compared with.
    fn all(vms: u32) -> Vec<Self> {
        let mut all = vec![Self::Bare, Self::Firn(1)];
        if vms > 1 {
            all.push(Self::Firn(vms));
        }
        all
    }

    const fn vms(self) -> u32 {
        match self {
            Self::Bare => 1,
            Self::Firn(vms) => vms,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Bare => "bare".to_owned(),
            Self::Firn(vms) => format!("firn_{vms}"),
        }
    }

    /// It for people.
    fn about(self) -> String {
        match self {
            Self::Bare => "alone in ring 0".to_owned(),
            Self::Firn(vms) => format!("{} VM{}", count(vms.into()), if vms == 1 { "" } else { "s" }),
        }
    }

    fn fleet(self, memory: &str) -> Fleet {
        let boot = (self == Self::Bare).then_some(Boot::Bare);
        Fleet { boot, ..Fleet::web(self.vms(), memory) }
    }
}

/// Load on one of them, in the order of [`HTTP_MODES`].
#[derive(Serialize)]
struct Timed {
    system: System,
    round: usize,
    loads: Vec<HttpReport>,
}

/// Two loads, and the machine's state before them, between and after.
#[derive(Serialize)]
struct Counted {
    system: System,
    mode: &'static str,
    loads: Vec<HttpReport>,
    states: Vec<Value>,
}

impl Counted {
    /// Instructions of a request. What a load takes however many requests it has, such as connections that are made
    /// first, is in both and falls out.
    fn each(&self) -> Option<f64> {
        let [before, between, after] = self.states.as_slice() else { return None };
        let [few, many] = self.loads.as_slice() else { return None };
        let busy = |state: &Value| Some(counter(state, "uptime_ns")? - counter(state, "idle_ns")?);
        #[expect(clippy::cast_precision_loss, reason = "counts of a run")]
        let more = many.requests.ok.checked_sub(few.requests.ok).filter(|&more| more > 0)? as f64;
        Some((busy(after)? - 2.0 * busy(between)? + busy(before)?) / more)
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    if options.cpus() != 1 {
        return Err(Failure::BadInput(format!(
            "--cpus {}: a server that runs alone has one processor",
            options.cpus()
        )));
    }
    let memory = options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS));
    let systems = System::all(options.vms.unwrap_or(DEFAULT_VMS));
    let mut timed = Vec::new();
    for round in 0..options.usual(ROUNDS) {
        for system in in_round(&systems, round) {
            timed.push(time(bench, system, round, (memory, seconds))?);
        }
    }
    let mut counted = Vec::new();
    for &system in &systems {
        counted.extend(count_on(bench, system, memory)?);
    }
    let reports = timed.iter().flat_map(|t| t.loads.iter().map(move |load| (t.system, load)));
    let reports = reports.chain(counted.iter().flat_map(|c| c.loads.iter().map(move |load| (c.system, load))));
    Ok(Findings {
        configuration: json!({
            "memory": memory, "at_once": AT_ONCE, "seconds": seconds, "rounds": options.usual(ROUNDS),
            "systems": &systems, "counted": options.usual(COUNTED),
        }),
        figures: figures(&systems, &timed, &counted),
        failures: reports
            .filter_map(|(system, load)| load.trouble().map(|trouble| format!("{}: {trouble}", system.about())))
            .collect(),
        plot: None,
        table: Vec::new(),
        samples: json!({ "timed": &timed, "counted": &counted }),
    })
}

/// The systems in the order of a round: each is the first in its turn.
fn in_round(systems: &[System], round: usize) -> impl Iterator<Item = System> + '_ {
    systems.iter().copied().cycle().skip(round).take(systems.len())
}

/// Boots one of them, and loads it in both ways.
fn time(bench: &Bench<'_>, system: System, round: usize, (memory, seconds): (&str, f64)) -> Result<Timed, Failure> {
    let session = bench.boot(&system.fleet(memory))?;
    let loads = HTTP_MODES.iter().map(|(mode, about)| {
        bench.driver.say(&format!("round {}: {}, {about}", round + 1, system.about()));
        bench.load_warm(&session, Selection::all(system.vms()), seconds, &http_arguments(mode))
    });
    let loads = loads.collect::<Result<_, _>>()?;
    session.end()?;
    Ok(Timed { system, round, loads })
}

/// Boots one of them on a machine that counts, and counts both kinds of requests.
fn count_on(bench: &Bench<'_>, system: System, memory: &str) -> Result<Vec<Counted>, Failure> {
    let fleet = Fleet { icount: true, is_asked_from_outside: true, ..system.fleet(memory) };
    let session = bench.boot(&fleet)?;
    let counted = HTTP_MODES.iter().map(|&(mode, about)| {
        bench.driver.say(&format!("counting instructions: {}, {about}", system.about()));
        count_mode(bench, &session, system, mode)
    });
    let counted = counted.collect::<Result<_, _>>()?;
    session.end()?;
    Ok(counted)
}

fn count_mode(
    bench: &Bench<'_>,
    session: &Session<'_>,
    system: System,
    mode: &'static str,
) -> Result<Counted, Failure> {
    let few = bench.options.usual(COUNTED);
    let seed = bench.seed().to_string();
    let mut counted = Counted { system, mode, loads: Vec::new(), states: vec![session.status()?] };
    for requests in [few, 3 * few].map(|n| n.to_string()) {
        let common = ["--seed", &seed, "--timeout", "30000", "--requests", &requests];
        let arguments = [&common[..], &http_arguments(mode)].concat();
        counted.loads.push(session.load_of(Selection::all(system.vms()), &arguments)?);
        counted.states.push(session.status()?);
    }
    Ok(counted)
}

/// What one is of another, if there is another.
fn ratio(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    let whole = whole.filter(|whole| *whole > 0.0)?;
    Some(part? / whole)
}

fn figures(systems: &[System], timed: &[Timed], counted: &[Counted]) -> Vec<Measure> {
    let mut figures = Vec::new();
    let rounds = timed.iter().map(|sample| sample.round + 1).max().unwrap_or(0);
    for (n, (mode, how)) in HTTP_MODES.into_iter().enumerate() {
        let per_s = |system: System, round: usize| {
            let sample = timed.iter().find(|sample| sample.system == system && sample.round == round)?;
            sample.loads.get(n).map(|load| load.requests.per_s)
        };
        let each =
            |system: System| counted.iter().find(|c| c.system == system && c.mode == mode).and_then(Counted::each);
        for &system in systems {
            let (name, about) = (format!("{mode}_{}", system.name()), format!("{}, {how}", system.about()));
            let of_rounds = |of: &dyn Fn(usize) -> Option<f64>| (0..rounds).map(of).collect::<Vec<_>>();
            let served = of_rounds(&|round| per_s(system, round));
            figures.push(Measure::of_samples(&format!("{name}_per_s"), &about, "/s", &served));
            figures.push(Measure::new(
                &format!("{name}_instructions"),
                &format!("{about}, all that is executed for a request"),
                "instructions",
                each(system),
            ));
            if system == System::Bare {
                continue;
            }
            let parts = of_rounds(&|round| ratio(per_s(system, round), per_s(System::Bare, round)));
            let part = Measure::of_samples(&format!("{name}_ratio"), &format!("{about}, of that alone"), "", &parts);
            figures.push(if system == System::Firn(1) { part.at_least(BUDGET) } else { part });
            figures.push(Measure::new(
                &format!("{name}_instructions_ratio"),
                &format!("{about}: instructions alone of these"),
                "",
                ratio(each(System::Bare), each(system)),
            ));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(per_s: f64, ok: u64) -> HttpReport {
        let mut load = super::super::density::tests::report();
        load.requests.per_s = per_s;
        load.requests.ok = ok;
        load
    }

    fn timed(system: System, round: usize, new: f64, kept: f64) -> Timed {
        Timed { system, round, loads: vec![load(new, 1), load(kept, 1)] }
    }

    /// A machine that executes so much for itself, for each load, and for each request.
    fn counted(system: System, mode: &'static str, each: u32) -> Counted {
        let state = |requests: u32, loads: u32| {
            let busy = 5000 + loads * 70_000 + requests * each;
            json!({ "uptime_ns": 1_000_000_000 + busy, "idle_ns": 1_000_000_000 })
        };
        let states = vec![state(0, 0), state(100, 1), state(400, 2)];
        Counted { system, mode, loads: vec![load(1.0, 100), load(1.0, 300)], states }
    }

    fn of<'f>(figures: &'f [Measure], name: &str) -> &'f Measure {
        figures.iter().find(|figure| figure.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn each_system_is_compared_with_the_server_alone_by_rounds() {
        let systems = System::all(1000);
        let mut samples = Vec::new();
        for (round, factor) in [1.0, 0.5, 2.0].into_iter().enumerate() {
            samples.push(timed(System::Bare, round, 100.0 * factor, 1000.0 * factor));
            samples.push(timed(System::Firn(1), round, 90.0 * factor, 700.0 * factor));
            samples.push(timed(System::Firn(1000), round, 60.0 * factor, 400.0 * factor));
        }
        let figures = figures(&systems, &samples, &[]);
        assert_eq!(of(&figures, "new_bare_per_s").value, Some(100.0));
        assert_eq!(of(&figures, "new_bare_per_s").spread.map(|spread| spread.range), Some((50.0, 200.0)));
        // However much slower the host was in a round, the parts are the same.
        let part = of(&figures, "new_firn_1_ratio");
        assert_eq!((part.value, part.spread.map(|spread| spread.range)), (Some(0.9), Some((0.9, 0.9))));
        assert_eq!((part.is_kept(), of(&figures, "kept_firn_1_ratio").is_kept()), (Some(true), Some(false)));
        assert_eq!(of(&figures, "kept_firn_1000_ratio").budget, None);
        assert_eq!(of(&figures, "new_firn_1_instructions").value, None);
    }

    #[test]
    fn each_system_is_the_first_in_its_turn() {
        let systems = System::all(5);
        let order = |round| in_round(&systems, round).collect::<Vec<_>>();
        assert_eq!(order(0), [System::Bare, System::Firn(1), System::Firn(5)]);
        assert_eq!(order(1), [System::Firn(1), System::Firn(5), System::Bare]);
        assert_eq!((order(2)[0], order(3)), (System::Firn(5), order(0)));
    }

    #[test]
    fn what_a_load_takes_by_itself_is_no_requests() {
        let counts = [counted(System::Bare, "kept", 800), counted(System::Firn(1), "kept", 1000)];
        let figures = figures(&System::all(1), &[], &counts);
        assert_eq!(of(&figures, "kept_bare_instructions").value, Some(800.0));
        assert_eq!(of(&figures, "kept_firn_1_instructions_ratio").value, Some(0.8));
        assert_eq!(of(&figures, "new_firn_1_instructions_ratio").value, None);
    }

    #[test]
    fn only_the_server_alone_is_booted_otherwise() {
        assert_eq!(System::all(1), [System::Bare, System::Firn(1)]);
        assert_eq!(System::Bare.fleet("2G").boot, Some(Boot::Bare));
        assert_eq!(System::Firn(7).fleet("2G"), Fleet::web(7, "2G"));
        assert_eq!(Fleet { boot: None, ..System::Bare.fleet("2G") }, Fleet::web(1, "2G"));
    }
}
