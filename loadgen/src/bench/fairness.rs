//! Whether VMs get processor time by their shares: many that always want to run, with shares 1:2:4.
//!
//! Of each weight some VMs, spread over all, are looked at twice. What each got in between, for each second that
//! passed between its two looks, is compared by Jain's index over time divided by weight: 1 if all got their part,
//! 1/n if one got everything. Source: Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and Discrimination" (1984).

use super::report::{Findings, Measure};
use super::{Bench, NAME, Scenario};
use crate::fleet::{DEFAULT_SHARES, Fleet, Neighbours};
use crate::machine::{Failure, counter};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "fairness", about: "whether VMs get processor time by their shares", run };

/// VMs that compute, if nothing else is wanted.
const DEFAULT_VMS: u32 = 1000;

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "1G";

/// Seconds between the two looks, if nothing else is wanted.
const DEFAULT_SECONDS: f64 = 5.0;

/// Weights of the VMs, as multiples of the least.
const WEIGHTS: [u32; 3] = [1, 2, 4];

/// VMs of each weight that are looked at.
const LOOKED_AT: u32 = 20;

/// Least index.
const BUDGET: f64 = 0.99;

/// A VM that is looked at.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
struct Sample {
    vm: u32,
    weight: u32,
    /// Nanoseconds of processor time it got for each second.
    ns_per_s: f64,
}

/// What a VM had got by a moment.
struct Look {
    at: Instant,
    time_ns: f64,
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let vms = options.vms.unwrap_or(DEFAULT_VMS);
    let least = u32::try_from(WEIGHTS.len()).unwrap_or(u32::MAX);
    if vms < least {
        return Err(Failure::BadInput(format!("--vms {vms}: give {least} or more, one of each weight")));
    }
    let fleet = Fleet {
        cpus: options.cpus,
        neighbours: spinners(vms),
        ..Fleet::web(1, options.memory.as_deref().unwrap_or(DEFAULT_MEMORY))
    };
    let session = bench.boot(&fleet)?;
    bench.driver.say(&format!("looking at {} of {vms} VMs that compute", LOOKED_AT * least));
    let look = |vm: u32| -> Result<Look, Failure> {
        let output = bench.driver.firn.run(&["inspect", &vm.to_string(), "--name", NAME, "--format", "json"])?;
        let status: Value = serde_json::from_slice(&output)
            .map_err(|error| Failure::failed(format!("firn inspect is not understood: {error}")))?;
        let time =
            counter(&status, "guest_ns").zip(counter(&status, "kernel_ns")).map(|(guest, kernel)| guest + kernel);
        time.map(|time_ns| Look { at: Instant::now(), time_ns })
            .ok_or_else(|| Failure::failed("firn inspect does not say a VM's time"))
    };
    let chosen = chosen(vms);
    let before = chosen.iter().map(|&(vm, _)| look(vm)).collect::<Result<Vec<_>, _>>()?;
    bench.driver.firn.pause(Duration::from_secs_f64(options.seconds.unwrap_or(DEFAULT_SECONDS)))?;
    let after = chosen.iter().map(|&(vm, _)| look(vm)).collect::<Result<Vec<_>, _>>()?;
    session.end()?;
    let looks = before.iter().zip(&after);
    let sample = |(&(vm, weight), (before, after)): (&(u32, u32), (&Look, &Look))| {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        Sample { vm, weight, ns_per_s: (after.time_ns - before.time_ns) / seconds }
    };
    let samples: Vec<Sample> = chosen.iter().zip(looks).map(sample).collect();
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "weights": WEIGHTS, "looked_at": chosen.len() }),
        figures: figures(&samples),
        samples: json!(&samples),
        failures: Vec::new(),
        plot: None,
    })
}

/// How many VMs each weight has: as equal as can be.
fn sizes(vms: u32) -> [u32; 3] {
    [vms.div_ceil(3), (vms + 1) / 3, vms / 3]
}

fn spinners(vms: u32) -> Vec<Neighbours> {
    let of = |(weight, vms): (u32, u32)| Neighbours {
        name: format!("spin{weight}"),
        image: "attack".to_owned(),
        vms,
        shares: DEFAULT_SHARES * weight,
        arguments: "mode=spin".to_owned(),
    };
    WEIGHTS.into_iter().zip(sizes(vms)).map(of).collect()
}

/// The VMs that are looked at, and their weights. VM 1 is none of those that compute.
fn chosen(vms: u32) -> Vec<(u32, u32)> {
    let mut first = 2;
    let mut chosen = Vec::new();
    for (weight, count) in WEIGHTS.into_iter().zip(sizes(vms)) {
        let wanted = LOOKED_AT.min(count);
        chosen.extend((0..wanted).map(|n| (first + n * count / wanted, weight)));
        first += count;
    }
    chosen
}

/// Jain's index.
fn jain(values: &[f64]) -> Option<f64> {
    let (sum, squares) = values.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    #[expect(clippy::cast_precision_loss, reason = "a few VMs")]
    let n = values.len() as f64;
    (squares > 0.0).then(|| sum * sum / (n * squares))
}

fn figures(samples: &[Sample]) -> Vec<Measure> {
    let parts: Vec<f64> = samples.iter().map(|sample| sample.ns_per_s / f64::from(sample.weight)).collect();
    let mut figures =
        vec![Measure::new("jain", "Jain's index over time divided by weight", "", jain(&parts)).at_least(BUDGET)];
    for weight in WEIGHTS {
        let of: Vec<f64> = samples.iter().filter(|s| s.weight == weight).map(|s| s.ns_per_s / 1e6).collect();
        #[expect(clippy::cast_precision_loss, reason = "a few VMs")]
        let mean = (!of.is_empty()).then(|| of.iter().sum::<f64>() / of.len() as f64);
        figures.push(Measure::new(
            &format!("time_{weight}"),
            &format!("processor time of a VM of weight {weight}"),
            "ms/s",
            mean,
        ));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_one_if_all_have_their_part_and_small_if_one_has_all() {
        assert_eq!(jain(&[2.0, 2.0, 2.0]), Some(1.0));
        assert_eq!(jain(&[4.0, 0.0, 0.0, 0.0]), Some(0.25));
        assert_eq!((jain(&[]), jain(&[0.0])), (None, None));
        let sample = |weight: u32, ns_per_s| Sample { vm: 2, weight, ns_per_s };
        let fair = figures(&[sample(1, 10e6), sample(2, 20e6), sample(4, 40e6)]);
        assert_eq!((fair[0].value, fair[0].is_kept()), (Some(1.0), Some(true)));
        assert_eq!((fair[1].value, fair[3].value), (Some(10.0), Some(40.0)));
        let equal = figures(&[sample(1, 10e6), sample(2, 10e6), sample(4, 10e6)]);
        assert_eq!(equal[0].is_kept(), Some(false), "{equal:?}");
    }

    #[test]
    fn vms_of_each_weight_are_looked_at() {
        for vms in [3, 10, 1000] {
            let chosen = chosen(vms);
            assert_eq!(spinners(vms).iter().map(|service| service.vms).sum::<u32>(), vms);
            let mut numbers: Vec<u32> = chosen.iter().map(|&(vm, _)| vm).collect();
            numbers.dedup();
            assert_eq!(numbers.len(), chosen.len(), "{chosen:?}");
            assert!(numbers.iter().all(|&vm| (2..vms + 2).contains(&vm)), "{chosen:?}");
            assert!(WEIGHTS.iter().all(|&weight| chosen.iter().any(|&(_, w)| w == weight)), "{chosen:?}");
        }
    }
}
