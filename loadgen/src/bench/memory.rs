//! Whether VMs get memory by their shares when all of them want more than there is. Shares are 1:2:4.
//!
//! Each VM writes all that it may have, again and again, and nothing that could be compressed, so that every page it
//! keeps is one that another goes without. What each has is looked at again and again, and compared by Jain's index over
//! its pages for each share. Source of the index: Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and
//! Discrimination" (1984).

use super::report::{Findings, Measure};
use super::{Bench, Scenario};
use crate::fleet::{DEFAULT_SHARES, Fleet, Neighbours};
use crate::machine::{Failure, counter};
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use serde::Serialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "memory", about: "whether VMs get memory by their shares when it is short", run };

/// Memory of the machine, if nothing else is wanted, and of a VM.
const DEFAULT_MEMORY: &str = "96M";
const VM_MEMORY: &str = "64M";

/// Size of its swap disk, and most reads and writes of it in a second, if nothing else is wanted.
const DEFAULT_SWAP: (&str, u32) = ("1G", 5000);

/// VMs of each weight, and the weights as multiples of the least.
const EACH: u32 = 2;
const WEIGHTS: [u32; 3] = [1, 2, 4];

/// Looks, if nothing else is said by the seconds: all, and few. The figures are of the second half of them.
const LOOKS: [f64; 2] = [20.0, 12.0];

/// Time between two looks.
const BETWEEN: Duration = Duration::from_secs(1);

/// Least index.
const BUDGET: f64 = 0.99;

/// What every VM had at a moment.
#[derive(Clone, Debug, Serialize)]
struct Look {
    /// Seconds since the first look.
    at_s: f64,
    /// Pages of each VM's own in memory, those of the least weight first.
    pages: Vec<f64>,
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let hogs = WEIGHTS.map(|weight| Neighbours {
        shares: DEFAULT_SHARES * weight,
        ..Neighbours::new(&format!("hog{weight}"), "attack", EACH, "mode=hog")
    });
    let fleet = Fleet {
        cpus: options.cpus(),
        swap: Some(options.swap.clone().unwrap_or_else(|| DEFAULT_SWAP.0.to_owned())),
        swap_iops: Some(options.swap_iops.unwrap_or(DEFAULT_SWAP.1)),
        vm_memory: VM_MEMORY.to_owned(),
        neighbours: hogs.into(),
        ..Fleet::web(1, options.memory.as_deref().unwrap_or(DEFAULT_MEMORY))
    };
    let session = bench.boot(&fleet)?;
    let nr_looks = options.seconds.unwrap_or(options.usual(LOOKS)).ceil().max(2.0);
    bench.driver.say("VMs of three weights want more memory than there is");
    let began = Instant::now();
    let mut looks: Vec<Look> = Vec::new();
    let nr_vms = EACH * u32::try_from(WEIGHTS.len()).unwrap_or(1);
    while began.elapsed().as_secs_f64() < nr_looks {
        bench.driver.firn.pause(BETWEEN)?;
        let pages = |vm: u32| -> Result<f64, Failure> {
            counter(&session.inspect(vm)?, "private_pages")
                .ok_or_else(|| Failure::failed("firn inspect does not say what memory a VM has"))
        };
        let at_s = began.elapsed().as_secs_f64();
        looks.push(Look { at_s, pages: (2..nr_vms + 2).map(pages).collect::<Result<_, _>>()? });
    }
    let status = session.status()?;
    session.end()?;
    let ended = counter(&status, "ended").filter(|&ended| ended > 0.0).map(|ended| format!("{ended} VMs have ended"));
    let late = &looks[looks.len() / 2..];
    // They write all they have, again and again: pages come and go.
    let has_stopped = late.len() > 2 && late.iter().all(|look| look.pages == late[0].pages);
    let stopped = has_stopped.then(|| "no VM got or lost a page: they stand still".to_owned());
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "weights": WEIGHTS, "of_each": EACH }),
        figures: figures(&looks),
        failures: ended.into_iter().chain(stopped).collect(),
        plot: Some(plot(&looks)),
        table: Vec::new(),
        samples: json!({ "looks": &looks, "status": status }),
    })
}

/// The weight of the VM in that place.
fn weight(place: usize) -> f64 {
    WEIGHTS.get(place / EACH as usize).copied().map_or(1.0, f64::from)
}

/// Jain's index of what each has for its weight.
fn jain(pages: &[f64]) -> Option<f64> {
    let parts: Vec<f64> = pages.iter().enumerate().map(|(place, pages)| pages / weight(place)).collect();
    let (sum, squares) = parts.iter().fold((0.0, 0.0), |(sum, squares), part| (sum + part, squares + part * part));
    #[expect(clippy::cast_precision_loss, reason = "a few VMs")]
    let all = squares * parts.len() as f64;
    (all > 0.0).then(|| sum * sum / all)
}

/// What a VM has in the second half of the looks, on the average.
fn means(looks: &[Look]) -> Vec<f64> {
    let late = &looks[looks.len() / 2..];
    let nr_vms = late.first().map_or(0, |look| look.pages.len());
    #[expect(clippy::cast_precision_loss, reason = "a few looks")]
    let mean = |vm: usize| late.iter().filter_map(|look| look.pages.get(vm)).sum::<f64>() / late.len() as f64;
    (0..nr_vms).map(mean).collect()
}

fn mib(pages: f64) -> f64 {
    pages * virtual_isa::PAGE_SIZE as f64 / 1_048_576.0
}

/// What a VM of that weight has, of what each has.
fn of_weight(pages: &[f64], wanted: u32) -> Option<f64> {
    let of = pages.iter().enumerate().filter(|(place, _)| weight(*place) == f64::from(wanted));
    let (count, sum) = of.fold((0.0, 0.0), |(count, sum), (_, pages)| (count + 1.0, sum + pages));
    (count > 0.0).then(|| mib(sum / count))
}

fn figures(looks: &[Look]) -> Vec<Measure> {
    let means = means(looks);
    let index = Measure::new("jain", "Jain's index of memory for each share", "", jain(&means)).at_least(BUDGET);
    let of = |weight: u32| {
        let about = format!("own memory of a VM of weight {weight}");
        Measure::new(&format!("weight{weight}"), &about, "MiB", of_weight(&means, weight))
    };
    std::iter::once(index).chain(WEIGHTS.map(of)).collect()
}

fn plot(looks: &[Look]) -> Figure {
    let colours = [Colour::Blue, Colour::Orange, Colour::Green];
    let line = |(weight, colour): (u32, Colour)| {
        Series::line(
            format!("weight {weight}"),
            colour,
            looks.iter().filter_map(|look| Some((look.at_s, of_weight(&look.pages, weight)?))),
        )
    };
    Figure {
        title: "Whether VMs get memory by their shares".to_owned(),
        subtitle: format!("{EACH} VMs of each weight, each of which wants {VM_MEMORY}"),
        rows: vec![vec![Panel {
            title: "Own memory of a VM".to_owned(),
            x_label: "time, seconds".to_owned(),
            x_kind: Kind::Time,
            y_label: "MiB".to_owned(),
            y_kind: Kind::Linear,
            series: WEIGHTS.into_iter().zip(colours).map(line).collect(),
        }]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_by_shares_has_evenly() {
        assert_eq!(jain(&[100.0, 100.0, 200.0, 200.0, 400.0, 400.0]), Some(1.0));
        let alike = jain(&[100.0; 6]).unwrap();
        assert!((0.7..0.8).contains(&alike), "{alike}");
        assert_eq!(jain(&[]), None);
    }

    #[test]
    fn only_the_second_half_counts() {
        let look = |at_s: f64, one: f64| Look { at_s, pages: vec![one, one, 2.0 * one, 2.0 * one, 1024.0, 1024.0] };
        let figures = figures(&[look(1.0, 9.0), look(2.0, 9.0), look(3.0, 256.0), look(4.0, 256.0)]);
        assert_eq!((figures[0].value, figures[0].is_kept()), (Some(1.0), Some(true)));
        assert_eq!((figures[1].value, figures[3].value), (Some(1.0), Some(4.0)));
    }
}
