//! What address spaces of a VM's own take: entering a context and coming back, loading entries, a miss.
//!
//! As in [`super::switch`], the load is inside the machine, which counts instructions, and a `probe` VM takes each path
//! again and again. Its own part is a guest kernel of a few instructions: it copies the context to the control page and
//! back, and knows the page that missed without looking for it.

use super::report::{Findings, Measure};
use super::switch::{COUNT, Sample, fleet, measure};
use super::{Bench, Scenario};
use crate::machine::Failure;
use serde_json::json;

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "tlb", about: "instructions of a miss, of loading entries, of changing the address space", run };

/// Entries that the kernel loads at once in one of the modes.
const MANY: f64 = 64.0;

pub(super) fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let [enter, miss, one, many] = ["enter", "miss", "write1", "write64"].map(|mode| measure(bench, mode));
    let (enter, miss, one, many) = (enter?, miss?, one?, many?);
    Ok(Findings {
        configuration: json!({ "fleet": fleet("MODE"), "count": COUNT }),
        figures: figures(&enter, &miss, &one, &many),
        samples: json!({ "enter": &enter, "miss": &miss, "write1": &one, "write64": &many }),
        failures: Vec::new(),
        plot: None,
        table: Vec::new(),
    })
}

fn figures(enter: &Sample, miss: &Sample, one: &Sample, many: &Sample) -> Vec<Measure> {
    let figure = |name: &str, about: &str, value| Measure::new(name, about, "instructions", value);
    let all = |sample: &Sample| Some(sample.total / f64::from(COUNT));
    let kernel = |sample: &Sample| sample.in_kernel().map(|all| all / f64::from(COUNT));
    vec![
        figure("enter", "entering a context in another address space, and its system call back", all(enter)),
        figure("enter_kernel", "the kernel's part of it", kernel(enter)),
        figure("miss", "a miss: back to the guest kernel, an entry loaded, the page mapped", all(miss)),
        figure("miss_kernel", "the kernel's part of it", kernel(miss)),
        figure("write1", "loading one entry", all(one)),
        figure("write64", "loading 64 entries at once", all(many)),
        figure("write64_each", "for each of them", all(many).map(|all| all / MANY)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_each_time() {
        let sample = |total: f64| {
            let vm = |guest: u32| json!({ "guest_ns": guest });
            Sample { total, vms: [vm(20_000_000), vm(0)] }
        };
        let figures = figures(&sample(1e8), &sample(3e8), &sample(5e7), &sample(6.4e8));
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap().value;
        assert_eq!((of("enter"), of("enter_kernel")), (Some(1000.0), Some(800.0)));
        assert_eq!((of("miss"), of("miss_kernel")), (Some(3000.0), Some(2800.0)));
        assert_eq!((of("write1"), of("write64"), of("write64_each")), (Some(500.0), Some(6400.0), Some(100.0)));
    }
}
