//! `taskos`, an operating system as a guest: it runs its programs, says of each how it ended, and survives them all.

mod common;

use common::Bench;
use std::time::{Duration, Instant};

/// Programs of its list, and how each must end.
const ENDS: [(&str, &str); 30] = [
    ("hello", "exited with 0"),
    ("vectors", "exited with 0"),
    ("sleeper", "exited with 0"),
    ("keeper", "exited with 0"),
    ("pipe", "exited with 0"),
    ("shared", "exited with 0"),
    ("bomb", "exited with 0"),
    ("calls", "exited with 0"),
    ("read-kernel", "killed: read of 0x20000: nothing is there"),
    ("write-kernel", "killed: write to 0x20000: nothing is there"),
    ("read-neighbour", "killed: read of 0x10000000: nothing is there"),
    ("read-null", "killed: read of 0x0: nothing is there"),
    ("read-registers", "killed: read of 0x10000: nothing is there"),
    ("write-control", "killed: write to 0x11000: nothing is there"),
    ("read-isolation-kernel", "killed: read of 0xffffffff80000000: nothing is there"),
    ("read-non-canonical", "killed: exception: general protection"),
    ("write-text", "killed: write to 0x400000: not allowed there"),
    ("jump-to-data", "killed: execution of 0x40"),
    ("jump-to-stack", "killed: execution of 0x7fff"),
    ("terminate", "killed: virtual instruction Terminate"),
    ("tlb-write", "killed: virtual instruction TlbWrite"),
    ("halt", "killed: exception: general protection"),
    ("undefined", "killed: exception: illegal instruction"),
    ("divide", "killed: exception: divide error"),
    ("breakpoint", "killed: exception: breakpoint"),
    ("single-step", "killed: exception: debug"),
    ("overflow-stack", "killed: write to 0x7ffe"),
    ("spin", "killed: it has had all its turns"),
    ("eat-memory", "killed: write to 0x10"),
    ("wait-for-ever", "killed: it waits for what nobody can send"),
];

/// Boots a machine of `taskos` VMs and one bystander, and waits until all of the former have ended. The log.
fn run(cpus: u32, nr_vms: u32, arguments: &str, patience: Duration) -> String {
    let bench = Bench::new();
    let fleet = format!(
        "[machine]\nmemory = \"1G\"\ncpus = {cpus}\n\
         [[service]]\nname = \"os\"\nimage = \"taskos\"\ncount = {nr_vms}\nmemory = \"8M\"\nargs = {arguments:?}\n\
         [[service]]\nname = \"bystander\"\nimage = \"web\"\ncount = 1\nmemory = \"2M\"\n"
    );
    bench.up(&bench.fleet(&fleet), &[]);
    let end = Instant::now() + patience;
    let log = loop {
        let log = bench.firn(["logs", "--no-follow"]).expect(0).out;
        if (1..=nr_vms).all(|vm| log.contains(&format!("vm {vm} ended: "))) || Instant::now() > end {
            break log;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    for vm in 1..=nr_vms {
        assert!(log.contains(&format!("vm {vm} ended: terminated with status 0")), "{vm}\n{log}");
    }
    assert!(!log.contains("FAILURE") && !log.contains("] error"), "{log}");
    let url = format!("http://10.65.0.{}/", nr_vms + 1);
    assert_eq!(bench.fetch("default", &url).len(), 128, "the bystander answers");
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
    log
}

/// The numbers of the summary of each VM that must be the same in each run: programs that failed, that were killed for
/// memory, limit, exceptions, calls, time, waiting. How many succeed is up to how many the program `bomb` starts.
fn tallies(log: &str) -> Vec<Vec<u32>> {
    let number = |word: &str| word.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    let tally = |line: &str| -> Option<Vec<u32>> {
        let (_, rest) = line.split_once("taskos: ")?.1.split_once("well,")?;
        Some(rest.split_once("; turns")?.0.split_ascii_whitespace().filter_map(number).collect())
    };
    log.lines().filter_map(tally).collect()
}

#[test]
fn each_program_ends_as_it_must_and_the_system_survives() {
    for cpus in [1, 2] {
        let log = run(cpus, 1, "say=all", Duration::from_secs(30));
        for (program, end) in ENDS {
            let found = log.lines().any(|line| line.contains(&format!(" {program}: {end}")));
            assert!(found, "{program}: {end}\n{log}");
        }
        assert!(log.lines().any(|line| line.ends_with(" hello| hello")), "{log}");
        // The writing end of the pipe and the other one that counts have exited with statuses of their own.
        assert_eq!(tallies(&log), [[2, 11, 1, 6, 2, 1, 1]], "{log}");
    }
}

/// 100 programs in each of 20 VMs. At full size, which the machine has memory for:
/// `FIRN_TASKOS_VMS=100 cargo nextest run -p firn --test taskos`.
#[test]
fn a_hundred_programs_in_each_of_many_vms() {
    let nr_vms = std::env::var("FIRN_TASKOS_VMS").map_or(20, |text| text.parse().expect("FIRN_TASKOS_VMS is a number"));
    let log = run(2, nr_vms, "say=summary programs=100", Duration::from_secs(60 + 2 * u64::from(nr_vms)));
    let tallies = tallies(&log);
    assert_eq!(tallies.len(), nr_vms as usize, "{log}");
    // Three times the list, and its first ten once more.
    assert!(tallies.iter().all(|tally| *tally == [8, 35, 3, 18, 6, 3, 3]), "{tallies:?}");
}

#[test]
fn bad_arguments_are_named() {
    let bench = Bench::new();
    let service = |name: &str, arguments: &str| {
        format!("[[service]]\nname = {name:?}\nimage = \"taskos\"\ncount = 1\nmemory = \"4M\"\nargs = {arguments:?}\n")
    };
    let services = [service("a", "run=nothing"), service("b", "programs=many"), service("c", "programs=1000")];
    bench.up(&bench.fleet(&format!("[machine]\nmemory = \"256M\"\n{}", services.concat())), &[]);
    let end = Instant::now() + Duration::from_secs(20);
    let log = loop {
        let log = bench.firn(["logs", "--no-follow"]).expect(0).out;
        if log.matches(" ended: ").count() == 3 || Instant::now() > end {
            break log;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    for (vm, name, message) in [(1, "a-1 ", "run=nothing"), (2, "b-2 ", "programs=many"), (3, "c-3 ", "too many tasks")]
    {
        assert!(log.contains(&format!("vm {vm} ended: terminated with status 1")), "{vm}\n{log}");
        let is_said = |line: &str| line.starts_with(name) && line.contains("error main: ") && line.contains(message);
        assert!(log.lines().any(is_said), "{log}");
    }
}
