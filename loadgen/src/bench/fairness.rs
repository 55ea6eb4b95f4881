//! Whether VMs get by their shares what all of them want: processor time, and frames on the wire. Shares are 1:2:4.
//!
//! The supervisor's `race` command looks at every VM each second, and says how even they are by Jain's index over what
//! each has had for each share. Frames are all of the same size, so they stand for bytes. The wire is bounded to less
//! than the processors can send, or it would not be short: a TAP takes all that comes. One race for time is held by
//! counted instructions: in 5 s a VM of weight 1 of a thousand is due 2 ms, which a single pause of the host outweighs.

use super::report::{Findings, Measure};
use super::{Bench, Scenario};
use crate::fleet::{DEFAULT_SHARES, Fleet, Neighbours};
use crate::machine::Failure;
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "fairness", about: "whether VMs get processor time and wire by their shares", run };

/// VMs that compute, if nothing else is wanted: all, and few.
const DEFAULT_VMS: [u32; 2] = [1000, 100];

/// VMs that send: enough to fill the wire.
const SENDERS: u32 = 30;

/// Bytes in a second that the wire carries for them.
const WIRE_RATE: u32 = 5_000_000;

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "1G";

/// Seconds in which it has to be fair.
const SECONDS: u32 = 5;

/// Seconds that the supervisor may take to say how it was: it competes with all of them.
const PATIENCE: u32 = 600;

/// Weights of the VMs, as multiples of the least.
const WEIGHTS: [u32; 3] = [1, 2, 4];

/// Least index.
const BUDGET: f64 = 0.99;

/// What is raced for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Prize {
    Time,
    Frames,
}

/// What the supervisor says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Race {
    count: u32,
    at_ms: Vec<u64>,
    time_jain_ppm: Vec<u64>,
    frames_jain_ppm: Vec<u64>,
    weights: Vec<Weight>,
}

/// What VMs of a weight had together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Weight {
    shares: u32,
    vms: u32,
    time_ns_per_s: u64,
    frames_per_s: u64,
}

/// What is a nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Clock {
    Wall,
    /// An instruction: a host that takes the emulator's processor away for a while, which is charged to whoever runs,
    /// is no unfairness of the kernel's.
    Instructions,
}

/// A race to be held.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    cpus: u32,
    prize: Prize,
    vms: u32,
    clock: Clock,
}

impl Run {
    fn name(self) -> String {
        let clock = if self.clock == Clock::Instructions { "_counted" } else { "" };
        format!("{}{clock}", self.prize.name())
    }
}

/// One machine's race.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    run: Run,
    race: Race,
}

impl Prize {
    const fn mode(self) -> &'static str {
        match self {
            Self::Time => "spin",
            Self::Frames => "send",
        }
    }

    fn kernel_options(self) -> String {
        match self {
            Self::Time => String::new(),
            Self::Frames => format!("wire-rate={WIRE_RATE}"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Frames => "frames",
        }
    }
}

impl Race {
    fn parse(answer: &str) -> Result<Self, Failure> {
        let race = answer.strip_prefix("race ").and_then(|json| serde_json::from_str::<Self>(json).ok());
        race.ok_or_else(|| Failure::failed(format!("the supervisor answers what is not understood: {answer}")))
    }

    /// The index at the end of each second.
    #[expect(clippy::cast_precision_loss, reason = "millionths, and milliseconds of a run")]
    fn indices(&self, prize: Prize) -> Vec<(f64, f64)> {
        let indices = if prize == Prize::Time { &self.time_jain_ppm } else { &self.frames_jain_ppm };
        self.at_ms.iter().zip(indices).map(|(&ms, &ppm)| (ms as f64 / 1e3, ppm as f64 / 1e6)).collect()
    }

    /// What a VM of that weight got, in milliseconds or frames each second.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn mean(&self, prize: Prize, shares: u32) -> Option<f64> {
        let weight = self.weights.iter().find(|weight| weight.shares == shares)?;
        let had = match prize {
            Prize::Time => weight.time_ns_per_s as f64 / 1e6,
            Prize::Frames => weight.frames_per_s as f64,
        };
        Some(had / f64::from(weight.vms))
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let vms = options.vms.unwrap_or(options.usual(DEFAULT_VMS));
    let least = u32::try_from(WEIGHTS.len()).unwrap_or(u32::MAX);
    if vms < least {
        return Err(Failure::BadInput(format!("--vms {vms}: give {least} or more, one of each weight")));
    }
    let races = options.cpu_counts().into_iter().flat_map(|cpus| {
        let race = |prize, vms| Run { cpus, prize, vms, clock: Clock::Wall };
        [race(Prize::Time, vms), race(Prize::Frames, vms.min(SENDERS))]
    });
    let counted = Run { cpus: 1, prize: Prize::Time, vms, clock: Clock::Instructions };
    let races = races.chain([counted]).collect::<Vec<_>>();
    let samples = races.into_iter().map(|run| race(bench, run)).collect::<Result<Vec<_>, _>>()?;
    Ok(Findings {
        configuration: json!({ "vms": vms, "senders": SENDERS, "wire_bytes_per_s": WIRE_RATE, "weights": WEIGHTS, "seconds": SECONDS }),
        figures: samples.iter().flat_map(figures).collect(),
        plot: Some(plot(&samples)),
        table: Vec::new(),
        samples: json!(&samples),
        failures: Vec::new(),
    })
}

/// Boots a machine and has its VMs race.
fn race(bench: &Bench<'_>, run: Run) -> Result<Sample, Failure> {
    let Run { cpus, prize, vms, clock } = run;
    let fleet = Fleet {
        cpus,
        icount: clock == Clock::Instructions,
        neighbours: racers(prize, vms),
        kernel_options: prize.kernel_options(),
        ..Fleet::web(1, bench.options.memory.as_deref().unwrap_or(DEFAULT_MEMORY))
    };
    let session = bench.boot(&fleet)?;
    bench.driver.say(&format!("a race of {vms} VMs for {} on {cpus} processor(s)", run.name()));
    let words = ["race", &format!("2-{}", vms + 1), &SECONDS.to_string()];
    let answer = session.ask_meanwhile(&words, PATIENCE)?.succeed(bench.driver.firn.stop)?;
    session.end()?;
    Ok(Sample { run, race: Race::parse(String::from_utf8_lossy(&answer).trim())? })
}

/// How many VMs each weight has: as equal as can be.
fn sizes(vms: u32) -> [u32; 3] {
    [vms.div_ceil(3), (vms + 1) / 3, vms / 3]
}

fn racers(prize: Prize, vms: u32) -> Vec<Neighbours> {
    let of = |(weight, vms): (u32, u32)| Neighbours {
        name: format!("{}{weight}", prize.mode()),
        image: "attack".to_owned(),
        vms,
        shares: DEFAULT_SHARES * weight,
        group: None,
        arguments: format!("mode={}", prize.mode()),
    };
    WEIGHTS.into_iter().zip(sizes(vms)).map(of).collect()
}

fn figures(sample: &Sample) -> Vec<Measure> {
    let Sample { run, race } = sample;
    let (Run { cpus, prize, clock, .. }, name) = (*run, run.name());
    let unit = if clock == Clock::Instructions { ", in instructions" } else { "" };
    let what = format!("{}{unit}, {} VMs, {cpus} processor(s)", prize.name(), race.count);
    let indices = race.indices(prize);
    let mut figures = Vec::new();
    for (second, &(_, index)) in (1..).zip(&indices) {
        let about = format!("{what}: Jain's index after {second} s");
        let measure = Measure::new(&format!("jain_{name}_cpus{cpus}_{second}s"), &about, "", Some(index));
        figures.push(if second == indices.len() { measure.at_least(BUDGET) } else { measure });
    }
    let unit = if prize == Prize::Time { "ms/s" } else { "frames/s" };
    for weight in WEIGHTS {
        figures.push(Measure::new(
            &format!("{name}_cpus{cpus}_weight{weight}"),
            &format!("{what}: a VM of weight {weight}"),
            unit,
            race.mean(prize, DEFAULT_SHARES * weight),
        ));
    }
    figures
}

fn plot(samples: &[Sample]) -> Figure {
    let colours = [Colour::Blue, Colour::Orange, Colour::Green];
    let panel = |prize: Prize, title: &str| {
        let of_prize = samples.iter().filter(|sample| sample.run.prize == prize);
        let mut series: Vec<Series> = of_prize
            .zip(colours)
            .map(|(sample, colour)| {
                Series::line(
                    match sample.run.clock {
                        Clock::Wall => format!("{} CPU(s)", sample.run.cpus),
                        Clock::Instructions => "1 CPU, in instructions".to_owned(),
                    },
                    colour,
                    sample.race.indices(prize),
                )
            })
            .collect();
        let last = series.iter().flat_map(|line| &line.points).map(|&(at, _)| at).fold(1.0, f64::max);
        series.push(Series::line("budget", Colour::Red, [(0.0, BUDGET), (last, BUDGET)]));
        Panel {
            title: title.to_owned(),
            x_label: "time, seconds".to_owned(),
            x_kind: Kind::Time,
            y_label: "Jain's index".to_owned(),
            y_kind: Kind::Linear,
            series,
        }
    };
    let vms = samples.iter().map(|sample| sample.race.count).max().unwrap_or(0);
    Figure {
        title: "Whether VMs get their shares".to_owned(),
        subtitle: format!("{vms} VMs that compute, {SENDERS} at most that send, shares 1:2:4; 1 is perfectly even"),
        rows: vec![vec![panel(Prize::Time, "Processor time"), panel(Prize::Frames, "Frames sent")]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        let answer = "race {\"first\":2,\"count\":3,\"at_ms\":[1010,2020],\"time_jain_ppm\":[985000,995000],\
                      \"frames_jain_ppm\":[0,0],\"weights\":[{\"shares\":100,\"vms\":1,\"time_ns_per_s\":142000000,\
                      \"frames_per_s\":0},{\"shares\":400,\"vms\":2,\"time_ns_per_s\":856000000,\"frames_per_s\":10}]}";
        let run = Run { cpus: 1, prize: Prize::Time, vms: 3, clock: Clock::Wall };
        Sample { run, race: Race::parse(answer).unwrap() }
    }

    #[test]
    fn the_last_second_has_to_be_fair() {
        let figures = figures(&sample());
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap();
        assert_eq!((of("jain_time_cpus1_1s").value, of("jain_time_cpus1_1s").is_kept()), (Some(0.985), None));
        assert_eq!(of("jain_time_cpus1_2s").is_kept(), Some(true));
        assert_eq!((of("time_cpus1_weight1").value, of("time_cpus1_weight4").value), (Some(142.0), Some(428.0)));
        assert_eq!(of("time_cpus1_weight2").value, None);
    }

    #[test]
    fn other_answers_are_refused() {
        for answer in ["", "race", "race {}", "race []", "churn {\"count\":1}"] {
            assert!(Race::parse(answer).unwrap_err().to_string().contains("not understood"), "{answer}");
        }
    }

    #[test]
    fn there_are_as_many_racers_as_asked_for() {
        for (prize, vms) in [(Prize::Time, 3), (Prize::Frames, 10), (Prize::Time, 1000)] {
            let racers = racers(prize, vms);
            assert_eq!(racers.iter().map(|service| service.vms).sum::<u32>(), vms);
            assert_eq!(racers.iter().map(|service| service.shares).collect::<Vec<_>>(), [100, 200, 400]);
            assert!(racers.iter().all(|service| service.vms > 0));
        }
    }
}
