//! What a VM costs: parked, resident, recorded on disk, and when it is woken from each place.
//!
//! Two machines are booted, one with ten times the VMs of the other. The difference of what is allocated on them when
//! every VM is parked on disk, divided by the difference of their VMs, is what a parked VM costs the kernel: nothing
//! that a `sizeof` forgets is left out.

use super::report::{Findings, Measure};
use super::wakes::{Wakes, drop_what_was_said};
use super::{Bench, Scenario};
use crate::driver::Selection;
use crate::fleet::Fleet;
use crate::http::identity::{Kept, kept};
use crate::machine::{Failure, counter};
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::{Value, json};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "density", about: "what a VM costs parked and resident, and what waking it takes", run };

/// VMs of the large machine, if nothing else is wanted: all, and few.
const DEFAULT_VMS: [u32; 2] = [100_000, 5000];

/// VMs whose wakes are timed, in each tier.
const WAKE_SAMPLE: u32 = 300;

/// Requests at once when everyone is asked.
const SWEEP_CONNECTIONS: u32 = 64;

/// How many times the VMs of the small machine the large one has.
const RATIO: u32 = 10;

/// Bytes of a page.
const PAGE: f64 = virtual_isa::PAGE_SIZE as f64;

/// What was read of the large machine.
#[derive(Debug, Serialize)]
struct Large {
    vms: u32,
    /// All VMs started and asked once.
    first_sweep: HttpReport,
    served: Value,
    /// All VMs parked in memory.
    parked: Value,
    second_sweep: HttpReport,
    kept: Kept,
    second_served: Value,
    from_memory: Wakes,
    resident: Wakes,
    /// All VMs parked on disk.
    on_disk: Value,
    from_disk: Wakes,
}

/// What was read of the small machine.
#[derive(Debug, Serialize)]
struct Small {
    vms: u32,
    first_sweep: HttpReport,
    served: Value,
    on_disk: Value,
}

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    let vms = options.vms.unwrap_or(options.usual(DEFAULT_VMS));
    if vms < 2 * RATIO {
        return Err(Failure::BadInput(format!(
            "--vms {vms}: machines with all and with a tenth of the VMs are compared; give at least {}",
            2 * RATIO
        )));
    }
    let fleet = Fleet {
        cpus: options.cpus(),
        swap: Some(options.swap.clone().unwrap_or_else(|| "8G".to_owned())),
        swap_iops: Some(options.swap_iops.unwrap_or(2000)),
        ..Fleet::web(vms, options.memory.as_deref().unwrap_or("8G"))
    };
    let mut failures = Vec::new();
    let small = measure_small(bench, &Fleet { vms: vms / RATIO, ..fleet.clone() }, &mut failures)?;
    let large = measure_large(bench, &fleet, &mut failures)?;
    Ok(Findings {
        configuration: json!({ "large": &fleet, "small_vms": small.vms, "wake_sample": WAKE_SAMPLE }),
        figures: figures(&large, &small),
        samples: json!({ "large": large, "small": small }),
        failures,
        plot: None,
        table: Vec::new(),
    })
}

fn measure_small(bench: &Bench<'_>, fleet: &Fleet, failures: &mut Vec<String>) -> Result<Small, Failure> {
    let (session, mut first_sweep) = bench.boot_and_sweep(fleet)?;
    drop_what_was_said(&mut first_sweep);
    note(failures, "when a tenth of the VMs started", first_sweep.trouble());
    let served = session.status()?;
    bench.driver.say("parking all VMs on disk");
    let on_disk = session.park("disk")?;
    note_ended(failures, &on_disk);
    note(failures, "the small machine", session.end().err().map(|failure| failure.to_string()));
    Ok(Small { vms: fleet.vms, first_sweep, served, on_disk })
}

fn measure_large(bench: &Bench<'_>, fleet: &Fleet, failures: &mut Vec<String>) -> Result<Large, Failure> {
    let say = |what: &str| bench.driver.say(what);
    let (session, mut first_sweep) = bench.boot_and_sweep(fleet)?;
    let served = session.status()?;
    say("parking all VMs in memory");
    let parked = session.park("memory")?;
    say("asking every VM once more");
    let mut second_sweep = session.sweep(Selection::all(fleet.vms), SWEEP_CONNECTIONS)?;
    let kept = kept(&mut first_sweep, &mut second_sweep);
    let second_served = session.status()?;
    let sample = Selection::spread(fleet.vms, WAKE_SAMPLE);
    say("parking all VMs in memory, then waking some of them one by one");
    session.park("memory")?;
    let from_memory = Wakes::measure(&session, sample)?;
    let resident = Wakes::measure(&session, sample)?;
    say("parking all VMs on disk, then waking some of them one by one");
    let on_disk = session.park("disk")?;
    let from_disk = Wakes::measure(&session, sample)?;
    for (what, sweep) in [
        ("when all VMs started", &first_sweep),
        ("when every VM was asked once more", &second_sweep),
        ("when some were woken from memory", &from_memory.sweep),
        ("when some were asked again", &resident.sweep),
        ("when some were woken from disk", &from_disk.sweep),
    ] {
        note(failures, what, sweep.trouble());
    }
    note(failures, "after parking", kept.trouble());
    note_ended(failures, &from_disk.after);
    note(failures, "the large machine", session.end().err().map(|failure| failure.to_string()));
    Ok(Large {
        vms: fleet.vms,
        first_sweep,
        served,
        parked,
        second_sweep,
        kept,
        second_served,
        from_memory,
        resident,
        on_disk,
        from_disk,
    })
}

fn note(failures: &mut Vec<String>, what: &str, trouble: Option<String>) {
    failures.extend(trouble.map(|trouble| format!("{what}: {trouble}")));
}

fn note_ended(failures: &mut Vec<String>, status: &Value) {
    let ended = counter(status, "ended").filter(|&ended| ended > 0.0);
    failures.extend(ended.map(|ended| format!("{ended} VMs have ended")));
    let errors = counter(status, "swap_errors").filter(|&errors| errors > 0.0);
    failures.extend(errors.map(|errors| format!("{errors} errors of the swap disk")));
}

/// Bytes of the machine's memory that somebody has taken. Pages kept for the kernel's heap are nobody's yet.
fn taken_bytes(status: &Value) -> Option<f64> {
    let others = counter(status, "free_pages")? + counter(status, "kept_pages")?;
    Some((counter(status, "total_pages")? - others) * PAGE)
}

/// The same with what the kernel's heap has in use instead of what it has taken: it gives nothing back, and has room
/// left from when more VMs were in memory.
fn allocated_bytes(status: &Value) -> Option<f64> {
    Some(taken_bytes(status)? - counter(status, "heap_pages")? * PAGE + counter(status, "heap_bytes")?)
}

/// How much more the large machine has of something, for each VM that it has more.
fn per_vm(large: &Large, small: &Small, of: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
    Some((of(&large.on_disk)? - of(&small.on_disk)?) / f64::from(large.vms - small.vms))
}

fn figures(large: &Large, small: &Small) -> Vec<Measure> {
    let plain = |name: &str, about: &str, value: Option<f64>| Measure::new(name, about, "", value);
    let answered = |sweep: &HttpReport| sweep.sweep.as_ref().map(|sweep| f64::from(sweep.answered));
    let vms = f64::from(large.vms);
    let mut figures = vec![
        plain("answered_first", "VMs that answered", answered(&large.first_sweep)).at_least(vms),
        plain("parked", "VMs parked then", counter(&large.parked, "parked")),
        plain("answered_second", "VMs that answered once more", answered(&large.second_sweep)).at_least(vms),
        plain("intact", "VMs whose page was intact", Some(f64::from(large.kept.intact))).at_least(vms),
    ];
    figures.extend(parked_figures(large, small));
    figures.extend(resident_figures(small));
    figures.extend(tier_figures(large));
    figures.extend(large.resident.figures("wake_resident", "answer of a resident VM"));
    figures.extend(large.from_memory.figures("wake_memory", "answer of a VM parked in memory"));
    figures.extend(large.from_disk.figures("wake_disk", "answer of a VM parked on disk"));
    figures.extend(io_figures(large));
    figures
}

fn parked_figures(large: &Large, small: &Small) -> [Measure; 5] {
    let bytes = |name: &str, about: &str, value: Option<f64>| Measure::new(name, about, "bytes", value);
    let on_disk = |status: &Value, vms: u32| counter(status, "parked_on_disk").map(|n| n / f64::from(vms) * 100.0);
    [
        bytes("parked_bytes", "kernel memory per VM parked on disk", per_vm(large, small, allocated_bytes))
            .at_most(512.0),
        bytes("parked_taken_bytes", "with what its heap has taken and does not use", per_vm(large, small, taken_bytes)),
        bytes("parked_heap_bytes", "in use on the kernel's heap", per_vm(large, small, |s| counter(s, "heap_bytes"))),
        bytes(
            "parked_packed_bytes",
            "compressed pages still in memory per VM then",
            per_vm(large, small, |status| Some(counter(status, "packed_pages")? * PAGE)),
        ),
        Measure::new(
            "parked_on_disk_percent",
            "VMs that were on disk then",
            "%",
            on_disk(&large.on_disk, large.vms).zip(on_disk(&small.on_disk, small.vms)).map(|(a, b)| a.min(b)),
        ),
    ]
}

fn resident_figures(small: &Small) -> [Measure; 3] {
    let kib = |name: &str, about: &str, pages: Option<f64>| {
        Measure::new(name, about, "KiB", pages.map(|pages| pages * PAGE / 1024.0 / f64::from(small.vms)))
    };
    let private = counter(&small.served, "private_pages");
    let both = private.zip(counter(&small.served, "table_pages")).map(|(private, tables)| private + tables);
    [
        kib("resident_private_kib", "own pages of a resident VM that has served", private).at_most(48.0),
        kib("resident_kib", "the same with page tables", both).at_most(64.0),
        Measure::new("resident_parked", "VMs of these that were parked", "", counter(&small.served, "parked")),
    ]
}

fn tier_figures(large: &Large) -> [Measure; 4] {
    let mib = |name: &str, about: &str, status: &Value, field: &str| {
        Measure::new(name, about, "MiB", counter(status, field).map(|n| n * PAGE / 1_048_576.0))
    };
    let parks = counter(&large.from_disk.after, "parks").filter(|&parks| parks > 0.0);
    let record =
        counter(&large.from_disk.after, "record_bytes").zip(parks).map(|(bytes, parks)| bytes / parks / 1024.0);
    [
        mib("tier_resident_mib", "all VMs' own pages after the second sweep", &large.second_served, "private_pages"),
        mib("tier_packed_mib", "all VMs compressed in memory", &large.parked, "packed_pages"),
        mib("tier_disk_mib", "all VMs on disk", &large.on_disk, "swap_used_blocks"),
        Measure::new("record_kib", "record of a parked VM", "KiB", record).at_most(16.0),
    ]
}

fn io_figures(large: &Large) -> [Measure; 4] {
    let from_disk = &large.from_disk;
    let plain = |name: &str, about: &str, value: Option<f64>| Measure::new(name, about, "", value);
    [
        plain("resident_wakes", "wakes while resident VMs were asked", large.resident.grown("wakes_memory")),
        plain("memory_wakes", "wakes from memory timed", large.from_memory.grown("wakes_memory")),
        plain("disk_wakes", "wakes from disk timed", from_disk.grown("wakes_disk")),
        plain("ios_per_disk_wake", "disk reads per wake from disk, as the emulator counts", from_disk.reads_per_wake()),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn report() -> HttpReport {
        use crate::http::record::Record;
        use crate::http::{Config, Limit, Mode, Outcome};
        use crate::targets::Targets;
        use std::time::{Duration, SystemTime};
        let config = Config {
            targets: Targets::new(std::net::Ipv4Addr::LOCALHOST, 2, 1).unwrap(),
            port: 80,
            path: "/id".to_owned(),
            mode: Mode::Sweep { wait: None },
            connections: 1,
            limit: Limit::Requests(2),
            timeout: Duration::from_secs(1),
            rate: None,
            seed: 1,
            ranks_seed: 1,
            identity_of_first: None,
        };
        let mut record = Record::new(2, true);
        for (target, ms) in [(0, 2), (1, 4)] {
            record.begin(target);
            record.total.record(ms * 1_000_000);
            record.succeed(target, ms * 1_000_000);
        }
        let time = Duration::from_secs(1);
        let outcome = Outcome {
            started: SystemTime::UNIX_EPOCH,
            setup: None,
            window: time,
            elapsed: time,
            record,
            identity: None,
            behind: 0,
            interrupted: false,
            cpu: time,
        };
        HttpReport::new(&config, &outcome)
    }

    fn status(free: u32, heap: u32, parked: u32) -> Value {
        json!({
            "total_pages": 1000, "free_pages": free, "private_pages": 20, "table_pages": 10, "packed_pages": 5,
            "template_pages": 40, "heap_bytes": heap, "heap_pages": 40, "kept_pages": 7, "parked": parked, "parked_on_disk": parked, "parks": 10,
            "record_bytes": 81_920, "swap_used_blocks": 512, "wakes_memory": 3, "wakes_disk": 7,
            "swap_device": { "reads": 50 },
        })
    }

    pub fn wakes() -> Wakes {
        let after = json!({ "wakes_memory": 4, "wakes_disk": 9, "swap_device": { "reads": 55 },
                            "parks": 10, "record_bytes": 81_920 });
        Wakes { before: status(0, 0, 0), sweep: report(), after }
    }

    fn of(name: &str) -> Option<f64> {
        let large = Large {
            vms: 100,
            first_sweep: report(),
            served: Value::Null,
            parked: status(0, 0, 90),
            second_sweep: report(),
            kept: Kept { intact: 99, ..Kept::default() },
            second_served: status(0, 0, 0),
            from_memory: wakes(),
            resident: wakes(),
            on_disk: status(880, 50_000, 100),
            from_disk: wakes(),
        };
        let small = Small { vms: 10, first_sweep: report(), served: status(0, 0, 0), on_disk: status(889, 14_000, 9) };
        let figures = figures(&large, &small);
        figures.iter().find(|measure| measure.name == name).unwrap_or_else(|| panic!("no {name}")).value
    }

    #[test]
    fn figures_are_differences_divided_by_vms() {
        for (name, value) in [
            ("answered_first", 2.0),
            ("parked", 90.0),
            ("intact", 99.0),
            ("parked_bytes", 9.0 * 4096.0 / 90.0 + 400.0),
            ("parked_taken_bytes", 9.0 * 4096.0 / 90.0),
            ("parked_heap_bytes", 400.0),
            ("parked_packed_bytes", 0.0),
            ("parked_on_disk_percent", 90.0),
            ("resident_private_kib", 8.0),
            ("resident_kib", 12.0),
            ("tier_disk_mib", 2.0),
            ("record_kib", 8.0),
            ("memory_wakes", 1.0),
            ("disk_wakes", 2.0),
            ("ios_per_disk_wake", 2.5),
        ] {
            assert_eq!(of(name), Some(value), "{name}");
        }
        let p99 = of("wake_disk_p99_ms").unwrap();
        assert!((3.99..4.01).contains(&p99), "{p99}");
    }

    #[test]
    fn what_the_machine_does_not_say_is_unknown() {
        assert_eq!(taken_bytes(&json!({ "total_pages": 5, "free_pages": 1 })), None);
        assert_eq!(taken_bytes(&json!({ "total_pages": 5, "free_pages": 1, "kept_pages": 1 })), Some(3.0 * PAGE));
        assert_eq!(allocated_bytes(&json!({ "total_pages": 5, "free_pages": 1, "kept_pages": 1 })), None);
        assert_eq!(crate::bench::wakes::grown(&json!({}), &json!({ "a": 1 }), "a"), None);
        let mut failures = Vec::new();
        note_ended(&mut failures, &json!({ "ended": 2, "swap_errors": 0 }));
        note(&mut failures, "there", Some("bad".to_owned()));
        assert_eq!(failures, ["2 VMs have ended", "there: bad"]);
    }
}
