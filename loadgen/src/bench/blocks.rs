//! What the size of a write to the swap disk is worth: the same load beyond memory, with packs written each by itself, and
//! with more and more of them together.
//!
//! The disk is bounded in reads and writes a second, whatever their size, as disks are. A read is always one whole pack:
//! a VM's head with all it used, or up to 16 cold pages, so that Denali's other half of the question, how much to read
//! at once, is the pack's and not a parameter. Source of the comparison: Whitaker, Shaw, Gribble, "Scale and Performance
//! in the Denali Isolation Kernel" (2002).

use super::report::{Findings, Measure};
use super::wakes::grown;
use super::{Bench, Scenario};
use crate::fleet::Fleet;
use crate::machine::Failure;
use crate::plot::figure::{Colour, Figure, Panel, Series};
use crate::plot::scale::Kind;
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::{Value, json};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "blocks", about: "what it is worth to write more to the swap disk at once", run };

/// Most blocks of a write: all, and few of them.
const SIZES: [&[u32]; 2] = [&[1, 2, 4, 8, 16, 32], &[1, 8, 32]];

/// VMs, and the machine's memory, of which they need about twice as much, if nothing else is wanted.
const DEFAULT_VMS: u32 = 1500;
const DEFAULT_MEMORY: &str = "48M";

/// Size of the swap disk, and most reads and writes of it in a second, if nothing else is wanted: so few that they
/// are what is short.
const DEFAULT_SWAP: (&str, u32) = ("1G", 500);

/// Seconds of load at each point, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [15.0, 5.0];

/// Requests at once.
const AT_ONCE: &str = "16";

/// What was measured with writes of so many blocks.
#[derive(Serialize)]
struct Sample {
    blocks: u32,
    before: Value,
    load: HttpReport,
    after: Value,
}

impl Sample {
    fn rate(&self, counter: &str) -> Option<f64> {
        let seconds = self.load.elapsed_s;
        grown(&self.before, &self.after, counter).filter(|_| seconds > 0.0).map(|n| n / seconds)
    }

    /// Blocks of a write, on the average.
    fn blocks_per_write(&self) -> Option<f64> {
        let writes = grown(&self.before, &self.after, "swap_writes").filter(|&writes| writes > 0.0)?;
        Some(grown(&self.before, &self.after, "swap_written_blocks")? / writes)
    }
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let sizes = options.usual(SIZES);
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS)).to_string();
    let fleet = Fleet {
        cpus: options.cpus(),
        swap: Some(options.swap.clone().unwrap_or_else(|| DEFAULT_SWAP.0.to_owned())),
        swap_iops: Some(options.swap_iops.unwrap_or(DEFAULT_SWAP.1)),
        ..Fleet::web(options.vms.unwrap_or(DEFAULT_VMS), options.memory.as_deref().unwrap_or(DEFAULT_MEMORY))
    };
    let seed = bench.seed().to_string();
    let mut samples = Vec::new();
    for &blocks in sizes {
        let kernel_options = format!("write-blocks={blocks}");
        let (session, _) = bench.boot_and_sweep(&Fleet { kernel_options, ..fleet.clone() })?;
        bench.driver.say(&format!("load beyond memory, at most {blocks} blocks in a write"));
        let before = session.status()?;
        let how = ["--targets", "random", "--new-connections", "--connections", AT_ONCE, "--timeout", "30000"];
        let load = session.load(&[&how[..], &["--path", "/", "--duration", &seconds, "--seed", &seed]].concat())?;
        let after = session.status()?;
        session.end()?;
        samples.push(Sample { blocks, before, load, after });
    }
    let trouble = |sample: &Sample| sample.load.trouble().map(|trouble| format!("{} blocks: {trouble}", sample.blocks));
    Ok(Findings {
        configuration: json!({ "fleet": &fleet, "sizes": sizes, "at_once": AT_ONCE, "seconds": &seconds }),
        figures: figures(&samples),
        failures: samples.iter().filter_map(trouble).collect(),
        plot: Some(plot(&samples)),
        table: Vec::new(),
        samples: json!(&samples),
    })
}

fn figures(samples: &[Sample]) -> Vec<Measure> {
    let figures = samples.iter().flat_map(|sample| {
        let blocks = sample.blocks;
        let name = |what: &str| format!("{what}_{blocks}");
        let about = |what: &str| format!("at most {blocks} block(s) in a write: {what}");
        [
            Measure::new(&name("per_s"), &about("requests answered"), "/s", Some(sample.load.requests.per_s)),
            Measure::new(&name("writes"), &about("disk writes"), "/s", sample.rate("swap_writes")),
            Measure::new(&name("reads"), &about("disk reads"), "/s", sample.rate("swap_reads")),
            Measure::new(&name("blocks"), &about("blocks of one"), "blocks", sample.blocks_per_write()),
        ]
    });
    figures.collect()
}

fn plot(samples: &[Sample]) -> Figure {
    let line = |name: &str, colour: Colour, of: &dyn Fn(&Sample) -> Option<f64>| {
        Series::line(name, colour, samples.iter().filter_map(|sample| Some((f64::from(sample.blocks), of(sample)?))))
    };
    let panel = |title: &str, y_label: &str, series: Vec<Series>| Panel {
        title: title.to_owned(),
        x_label: "most blocks of a write".to_owned(),
        x_kind: Kind::Decades,
        y_label: y_label.to_owned(),
        y_kind: Kind::Linear,
        series,
    };
    let per_s = |sample: &Sample| Some(sample.load.requests.per_s);
    Figure {
        title: "What it is worth to write more at once".to_owned(),
        subtitle: format!("Random web VMs that do not fit into memory, {AT_ONCE} requests at once; a slow swap disk"),
        rows: vec![vec![
            panel("Throughput", "requests/s", vec![line("", Colour::Blue, &per_s)]),
            panel(
                "Swap disk",
                "a second",
                vec![
                    line("reads", Colour::Blue, &|sample| sample.rate("swap_reads")),
                    line("writes", Colour::Orange, &|sample| sample.rate("swap_writes")),
                ],
            ),
        ]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_have_sizes_if_there_are_any() {
        let status = |writes: u32, blocks: u32| json!({ "swap_writes": writes, "swap_written_blocks": blocks });
        let sample = |after: Value| Sample {
            blocks: 8,
            before: status(10, 100),
            load: super::super::density::tests::report(),
            after,
        };
        assert_eq!(sample(status(20, 150)).blocks_per_write(), Some(5.0));
        assert_eq!(sample(status(20, 150)).rate("swap_writes"), Some(10.0));
        assert_eq!(sample(status(10, 100)).blocks_per_write(), None);
    }
}
