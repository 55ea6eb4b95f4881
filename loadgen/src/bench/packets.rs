//! What a packet takes, by layer: the kernel's part and the guest's, small and large, by UDP and by TCP, to a neighbour
//! and to the card; and how long a request is under way.
//!
//! Instructions are counted on machines whose time they are, with load from within, as the clock of such a machine is
//! not the host's. A `probe` VM sends to its neighbour and gets back what it sent: no card is in that. What the card
//! takes is seen by a VM that sends to the host as fast as it can. Of a guest's part libOS and app are one program;
//! that of `probe` and of the echo beside it is next to nothing but libOS. Latencies are those of a machine that keeps
//! time, with one request at a time over a new connection and over a kept one.

use super::report::{Findings, Measure};
use super::switch::{self, COUNT, Sample};
use super::wakes::grown;
use super::{Bench, Scenario};
use crate::driver::Selection;
use crate::fleet::{Fleet, Neighbours};
use crate::machine::Failure;
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "packets", about: "what a packet takes by layer, in instructions and in time", run };

/// Bytes of datagrams: few, and nearly as many as a frame carries.
const BYTES: [u32; 2] = [100, 1400];

/// Memory of the machines.
const MEMORY: &str = "256M";

/// Seconds of load, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 2.0];

/// What a VM counts until it is looked at, while it sends to the card.
const SENDING: Duration = Duration::from_secs(2);

/// What is sent, how often there and back.
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];

/// Bytes by one protocol, there and back.
#[derive(Serialize)]
struct Trip {
    protocol: &'static str,
    bytes: u32,
    sample: Sample,
}

/// The machine on which they are counted.
fn fleet(protocol: &str, bytes: u32) -> Fleet {
    let fleet = switch::fleet(protocol);
    Fleet { arguments: format!("{} bytes={bytes}", fleet.arguments), ..fleet }
}

/// The machine of which a VM sends to the card.
fn sender() -> Fleet {
    Fleet { icount: true, neighbours: vec![Neighbours::new("send", "attack", 1, "mode=send")], ..Fleet::web(1, MEMORY) }
}

/// What bytes take between two VMs.
fn trips(bench: &Bench<'_>) -> Result<Vec<Trip>, Failure> {
    let mut trips = Vec::new();
    for (protocol, bytes) in PROTOCOLS.into_iter().flat_map(|protocol| BYTES.map(|bytes| (protocol, bytes))) {
        let sample = switch::measure_on(bench, protocol, &fleet(protocol, bytes))?;
        trips.push(Trip { protocol, bytes, sample });
    }
    Ok(trips)
}

/// Only what repeats: bytes between VMs.
pub(super) fn count(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let trips = trips(bench)?;
    Ok(Findings { figures: trip_figures(&trips), samples: json!(&trips), ..Findings::default() })
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let trips = trips(bench)?;
    let sent = send(bench)?;
    let options = bench.options;
    let seconds = options.seconds.unwrap_or(options.usual(DEFAULT_SECONDS));
    let session = bench.boot(&Fleet::web(1, MEMORY))?;
    let ask = |how: &str| {
        bench.driver.say("asking one VM, one request at a time");
        bench.load_warm(&session, Selection::all(1), seconds, &[how, "--path", "/", "--connections", "1"])
    };
    let [kept, new] = [ask("--keep-alive")?, ask("--new-connections")?];
    session.end()?;
    Ok(Findings {
        configuration: json!({
            "probes": PROTOCOLS.map(|protocol| BYTES.map(|bytes| fleet(protocol, bytes))), "count": COUNT,
            "sender": sender(), "web": Fleet::web(1, MEMORY), "seconds": seconds,
        }),
        figures: [trip_figures(&trips), card_figures(&sent), timed_figures(&kept, &new)].concat(),
        failures: [&kept, &new].into_iter().filter_map(HttpReport::trouble).collect(),
        plot: None,
        table: Vec::new(),
        samples: json!({ "trips": &trips, "sent": &sent, "kept": &kept, "new": &new }),
    })
}

/// What a VM counts that sends to the card: before, and after a while.
fn send(bench: &Bench<'_>) -> Result<[Value; 2], Failure> {
    let session = bench.boot(&sender())?;
    bench.driver.say("a VM sends to the card");
    let before = session.inspect(2)?;
    bench.driver.firn.pause(SENDING)?;
    let after = session.inspect(2)?;
    session.end()?;
    Ok([before, after])
}

fn instructions(name: &str, about: &str, value: Option<f64>) -> Measure {
    Measure::new(name, about, "instructions", value)
}

fn trip_figures(trips: &[Trip]) -> Vec<Measure> {
    // Each of the two VMs receives once and sends once.
    let each = 2.0 * f64::from(COUNT);
    let figures = trips.iter().flat_map(|Trip { protocol, bytes, sample }| {
        let about = format!("{bytes} bytes by {} from a neighbour, and back:", protocol.to_uppercase());
        let kernel = sample.in_kernel().map(|all| all / each);
        let guest = sample.sum("guest_ns").map(|all| all / each);
        [
            instructions(&format!("{protocol}{bytes}_kernel"), &format!("{about} kernel"), kernel),
            instructions(&format!("{protocol}{bytes}_guest"), &format!("{about} libOS and app"), guest),
        ]
    });
    figures.collect()
}

fn card_figures([before, after]: &[Value; 2]) -> Vec<Measure> {
    let frames = grown(before, after, "frames_sent").filter(|&frames| frames > 0.0);
    let each = |name: &str| Some(grown(before, after, name)? / frames?);
    let about = |what: &str| format!("1,472 bytes by UDP to the card: {what}");
    vec![
        instructions("card_kernel", &about("kernel"), each("kernel_ns")),
        instructions("card_guest", &about("libOS and app"), each("guest_ns")),
        Measure::new("card_traps", &about("virtual instructions per frame"), "", each("instructions")),
    ]
}

fn timed_figures(kept: &HttpReport, new: &HttpReport) -> Vec<Measure> {
    let us = |name: &str, about: &str, summary: &crate::report::Summary| {
        let value = (summary.count > 0).then_some(summary.p50_us);
        Measure::new(name, &format!("{about}, p50"), "µs", value)
    };
    vec![
        us("latency_kept", "one request at a time over a kept connection", &kept.latency.total),
        us("latency_connect", "beginning a connection", &new.latency.connect),
        us("latency_response", "the answer over it", &new.latency.response),
        us("latency_new", "both", &new.latency.total),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vm_has_half_a_round_trip() {
        let trip = |bytes: u32, total: f64| {
            let vm = json!({ "guest_ns": 2e8 });
            Trip { protocol: "tcp", bytes, sample: Sample { total, vms: [vm.clone(), vm] } }
        };
        let figures = trip_figures(&[trip(100, 1e9), trip(1400, 1.6e9)]);
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap().value;
        assert_eq!((of("tcp100_kernel"), of("tcp100_guest")), (Some(3000.0), Some(2000.0)));
        assert_eq!(of("tcp1400_kernel"), Some(6000.0));
    }

    #[test]
    fn counters_are_divided_by_frames() {
        let status = |n: u32| json!({ "guest_ns": 3 * n, "kernel_ns": 2 * n, "frames_sent": n, "instructions": n / 2 });
        let figures = card_figures(&[status(100), status(300)]);
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap().value;
        assert_eq!((of("card_kernel"), of("card_guest"), of("card_traps")), (Some(2.0), Some(3.0), Some(0.5)));
        assert_eq!(card_figures(&[status(100), status(100)])[0].value, None);
    }
}
