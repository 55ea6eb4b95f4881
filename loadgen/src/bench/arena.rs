//! Game servers: how even the ticks are that players see, when many servers tick on one machine.
//!
//! Each `arena` VM ticks 20 times a second for four bots, each of which gets the field as a datagram at every tick and
//! sends an input. All this is due at its time: unlike a load that waits for its answers, it does not slow down with
//! the machine. How late ticks are and how many are left out is what the servers themselves count.

use super::report::{Findings, Measure};
use super::{Bench, Scenario};
use crate::arena::report::ArenaReport;
use crate::fleet::Fleet;
use crate::machine::Failure;
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use arena_protocol::Counter;
use serde::Serialize;
use serde_json::json;

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "arena", about: "how even the ticks of game servers are, with four players on each", run };

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "512M";

/// Servers, if nothing else is wanted: most of all, and of few.
const DEFAULT_VMS: [u32; 2] = [100, 30];

/// Seconds of play at each point, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [10.0, 4.0];

/// Players on each.
const PLAYERS: &str = "4";

/// What was measured with so many servers.
#[derive(Serialize)]
struct Sample {
    vms: u32,
    play: ArenaReport,
}

/// A share of all, in percent; nothing of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts of a run")]
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64 * 100.0)
}

impl Sample {
    /// Ticks that were left out, of all that were due, in percent.
    fn left_out(&self) -> Option<f64> {
        let counter = |counter: Counter| self.play.servers.get(counter.name()).copied().unwrap_or(0);
        let missed = counter(Counter::Missed);
        percent(missed, missed + counter(Counter::Ticks))
    }

    fn trouble(&self) -> Option<String> {
        let bots = &self.play.bots;
        let (vms, lacking) = (self.vms, bots.count - bots.played.min(bots.count));
        let is_well = lacking == 0 && bots.put_out == 0 && self.play.silent == 0;
        (!is_well).then(|| {
            format!(
                "{vms} servers: {lacking} bots did not get in, {} were put out, {} servers did not say what they counted",
                bots.put_out, self.play.silent
            )
        })
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS)).to_string();
    let most = options.vms.unwrap_or(options.usual(DEFAULT_VMS));
    let mut sizes: Vec<u32> = [1, 10].into_iter().filter(|&vms| vms < most).collect();
    sizes.push(most);
    let fleet = |vms: u32| Fleet {
        cpus: options.cpus(),
        image: "arena".to_owned(),
        arguments: String::new(),
        ..Fleet::web(vms, options.memory.as_deref().unwrap_or(DEFAULT_MEMORY))
    };
    let mut samples = Vec::new();
    for &vms in &sizes {
        let session = bench.boot(&fleet(vms))?;
        bench.driver.say(&format!("bots play on {} server(s)", crate::human::count(vms.into())));
        let seed = bench.seed().to_string();
        let play = session.play(&["--players", PLAYERS, "--duration", &seconds, "--seed", &seed])?;
        session.end()?;
        samples.push(Sample { vms, play });
    }
    Ok(Findings {
        configuration: json!({ "fleet": fleet(most), "sizes": &sizes, "players": PLAYERS, "seconds": &seconds }),
        figures: samples.iter().flat_map(figures).collect(),
        failures: samples.iter().filter_map(Sample::trouble).collect(),
        plot: Some(plot(&samples)),
        table: Vec::new(),
        samples: json!(&samples),
    })
}

fn figures(sample: &Sample) -> [Measure; 6] {
    let (vms, play) = (sample.vms, &sample.play);
    let name = |what: &str| format!("{what}_{vms}");
    let about = |what: &str| format!("{} server(s): {what}", crate::human::count(vms.into()));
    let ms = |what: &str, text: &str, us: f64| Measure::new(&name(what), &about(text), "ms", Some(us / 1e3));
    let share = |what: &str, text: &str, value| Measure::new(&name(what), &about(text), "%", value);
    [
        ms("jitter_p50", "jitter between two snapshots, p50", play.jitter.p50_us),
        ms("jitter_p99", "jitter between two snapshots, p99", play.jitter.p99_us),
        ms("late_p99", "ticks late, as the servers say, p99", play.late.p99_us),
        ms("response_p50", "from an input to its snapshot, p50", play.response.p50_us),
        share("left_out", "ticks left out", sample.left_out()),
        share("lost", "snapshots that did not come", percent(play.snapshots.lost, play.snapshots.expected)),
    ]
}

fn plot(samples: &[Sample]) -> Figure {
    let line = |name: &str, colour: Colour, of: &dyn Fn(&ArenaReport) -> f64| {
        Series::line(name, colour, samples.iter().map(|sample| (f64::from(sample.vms), of(&sample.play).max(1.0))))
    };
    let panel = |title: &str, y_label: &str, series: Vec<Series>| Panel {
        title: title.to_owned(),
        x_label: "servers".to_owned(),
        x_kind: Kind::Decades,
        y_label: y_label.to_owned(),
        y_kind: Kind::Latency,
        series,
    };
    Figure {
        title: "How even the ticks of game servers are".to_owned(),
        subtitle: format!("{PLAYERS} players on each, a tick every {} ms", arena_protocol::TICK_MS),
        rows: vec![vec![
            panel(
                "Jitter",
                "off the distance of ticks",
                vec![
                    line("p50", Colour::Blue, &|play| play.jitter.p50_us),
                    line("p99", Colour::Orange, &|play| play.jitter.p99_us),
                ],
            ),
            panel(
                "Lateness",
                "of a tick, as the servers say",
                vec![
                    line("p50", Colour::Blue, &|play| play.late.p50_us),
                    line("p99", Colour::Orange, &|play| play.late.p99_us),
                ],
            ),
        ]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_was_due() {
        assert_eq!(percent(1, 200), Some(0.5));
        assert_eq!(percent(0, 0), None);
    }
}
