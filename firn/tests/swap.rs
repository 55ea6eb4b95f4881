//! Machines that swap, and machines that cannot although they were to.

mod common;

use common::{Bench, boot_with_disk, bundle, fleet, number};
use firn::qemu::Kind;
use firn::swap::Swap;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use virtual_isa::PAGE_SIZE;
use virtual_isa::bundle::exit_status;

/// VMs of the machine that swaps.
const VMS: usize = 200;

/// Asks every VM who it is. Returns the page that each has kept since it first answered.
fn pages(bench: &Bench) -> BTreeMap<u64, String> {
    let all = format!("http://10.65.0.[1-{VMS}]/id");
    let answers = bench.firn(["exec", "--", "curl", "-sS", "--max-time", "10", &all]).expect(0).out;
    let answers = serde_json::Deserializer::from_str(&answers).into_iter::<Value>();
    let page = |id: Value| (id["vm"].as_u64().unwrap(), id["page"].as_str().unwrap().to_owned());
    answers.map(|id| page(id.unwrap())).collect()
}

fn status(bench: &Bench) -> Value {
    bench.firn(["status", "--format", "json"]).expect(0).json()
}

#[test]
fn vms_come_back_from_the_disk_as_they_were() {
    come_back(1);
}

#[test]
fn vms_come_back_from_the_disk_on_two_processors() {
    come_back(2);
}

fn come_back(cpus: u32) {
    let bench = Bench::new();
    let text = format!(
        "[machine]\nmemory = \"64M\"\ncpus = {cpus}\nswap = \"256M\"\n[[service]]\nname = \"web\"\nimage = \"web\"\n\
         count = {VMS}\nmemory = \"4M\"\n"
    );
    let up = bench.up(&bench.fleet(&text), &[]);
    assert_eq!(up["swap"]["bytes"], 256 << 20, "{up}");
    let before = pages(&bench);
    assert_eq!(before.len(), VMS);

    let parked = bench.firn(["ask", "--timeout", "60", "park", "all", "disk"]).expect(0).out;
    assert_eq!(parked, format!("parked {VMS} VMs\n"));
    let asleep = status(&bench);
    assert!(number(&asleep, "/parked_on_disk") > 0, "{asleep}");
    assert!(number(&asleep, "/swap_device/write_bytes") >= number(&asleep, "/swap_written_blocks") * PAGE_SIZE as u64);

    assert_eq!(pages(&bench), before, "every VM has the page it had");
    let awake = status(&bench);
    assert!(number(&awake, "/swap_device/reads") > 0, "{awake}");
    assert!(number(&awake, "/wakes_disk") > 0, "{awake}");
    assert_eq!((number(&awake, "/swap_errors"), number(&awake, "/ended")), (0, 0), "{awake}");

    let disk = bench.state().join("default/swap");
    assert!(disk.exists());
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
    assert!(!disk.exists(), "nobody can use it any more");
}

/// The map of such a VM grows in steps that are larger than what the kernel's heap has in reserve: they wait for it, and not
/// for ever.
#[test]
fn vms_that_write_all_of_their_memory_go_on_when_it_is_short() {
    let bench = Bench::new();
    let text = "[machine]\nmemory = \"96M\"\nswap = \"1G\"\n[[service]]\nname = \"hog\"\nimage = \"attack\"\ncount = 6\n\
                memory = \"64M\"\nargs = \"mode=hog\"\n";
    bench.up(&bench.fleet(text), &[]);
    let end = Instant::now() + Duration::from_secs(100);
    // Twice what there is of memory has been written.
    while number(&status(&bench), "/swap_written_blocks") < 2 * (96 << 20) / PAGE_SIZE as u64 {
        assert!(Instant::now() < end, "they stand still: {}", status(&bench));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(number(&status(&bench), "/ended"), 0);
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}

/// Boots a machine whose plan has swap of these bytes and whose disk, if there is one, has those. A guest runs on it
/// that ends well; so must the machine. Returns the log.
fn runs_on(planned: u64, disk: Option<u64>) -> String {
    let mut fleet = fleet("bad_pointer", 1);
    fleet.swap = Some(Swap { bytes: planned, iops: None });
    fleet.power_off_when_done = true;
    let (status, log) = boot_with_disk(Kind::Microvm, "", Some(&bundle(&fleet)), disk);
    assert_eq!(status, i32::from(exit_status(0)), "{log}");
    assert!(log.contains("vm 1 ended: terminated with status 0"), "{log}");
    log
}

fn warns(log: &str, words: &[&str]) {
    let warning = log.lines().find(|line| line.contains("] warn  swap: ")).unwrap_or_else(|| panic!("{log}"));
    assert!(words.iter().all(|word| warning.contains(word)), "{words:?}: {warning}");
}

#[test]
fn a_machine_without_its_swap_disk_says_so_and_runs_on() {
    warns(&runs_on(64 << 20, None), &["there is no disk", "runs without swap"]);
}

#[test]
fn a_swap_disk_that_is_too_small_is_said_to_be() {
    warns(&runs_on(64 << 20, Some(16 << 20)), &["16384 blocks were planned", "the disk has 4096", "using those"]);
    warns(&runs_on(64 << 20, Some(64 << 10)), &["16 blocks are less than", "runs without swap"]);
}

#[test]
fn a_swap_disk_that_is_as_planned_is_no_reason_for_a_warning() {
    let log = runs_on(16 << 20, Some(16 << 20));
    assert!(!log.contains("warn  swap"), "{log}");
    let log = runs_on(16 << 20, Some(64 << 20));
    assert!(!log.contains("warn  swap"), "{log}");
}
