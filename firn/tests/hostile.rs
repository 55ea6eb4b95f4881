//! Guests that attack, each beside a bystander: what becomes of the attacker is exact, and the bystander and the
//! kernel are unharmed. What each guest does is described in `apps/hostile`.

mod common;

use common::Bench;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A VM of an attack: its arguments, and what the log must say of its end.
struct Case {
    arguments: String,
    ends: String,
}

fn case(arguments: &str, ends: &str) -> Case {
    Case { arguments: arguments.into(), ends: ends.into() }
}

/// What the log says of a VM that found everything as it must be.
const OK: &str = "terminated with status 0";

/// The machine after an attack.
struct Aftermath {
    bench: Bench,
    log: String,
}

impl Aftermath {
    fn inspect(&self, vm: usize) -> Value {
        self.bench.firn(["inspect", &vm.to_string(), "--format", "json"]).expect(0).json()
    }
}

/// Runs all cases of an attack on a machine with a bystander, which is VM 1; the attackers follow. One machine has one
/// processor, the next has two, which is the one that is returned.
fn attack(image: &str, cases: &[Case]) -> Aftermath {
    drop(attack_on(1, image, cases));
    attack_on(2, image, cases)
}

fn attack_on(cpus: u32, image: &str, cases: &[Case]) -> Aftermath {
    let bench = Bench::new();
    let mut text = format!("[machine]\nmemory = \"256M\"\ncpus = {cpus}\n");
    let mut service = |name: &str, image: &str, arguments: &str| {
        text.push_str(&format!(
            "[[service]]\nname = {name:?}\nimage = {image:?}\ncount = 1\nmemory = \"2M\"\nargs = {arguments:?}\n"
        ));
    };
    service("bystander", "web", "");
    for (n, case) in cases.iter().enumerate() {
        service(&format!("attacker-{n}"), image, &case.arguments);
    }
    bench.up(&bench.fleet(&text), &[]);
    let log = wait_for_ends(&bench, cases.len());
    for (n, case) in cases.iter().enumerate() {
        let vm = n + 2;
        let end = format!("vm {vm} ended: ");
        let line = log.lines().find(|line| line.contains(&end)).unwrap_or_else(|| panic!("{end}\n{log}"));
        assert!(line.contains(&case.ends), "{}: {line}, not {}", case.arguments, case.ends);
        let name = format!("attacker-{n}-{vm} ");
        let said_ok = log.lines().any(|line| line.starts_with(&name) && line.ends_with("] ok"));
        assert_eq!(said_ok, case.ends == OK, "{}\n{log}", case.arguments);
    }
    assert!(!log.contains("FAILURE"), "{log}");
    assert_eq!(bench.fetch("default", "http://10.65.0.1/").len(), 128, "the bystander answers");
    let status = bench.firn(["status", "--format", "json"]).expect(0).json();
    assert_eq!(status["ended"], cases.len(), "{status}");
    Aftermath { bench, log }
}

fn wait_for_ends(bench: &Bench, nr_vms: usize) -> String {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let log = bench.firn(["logs", "--no-follow"]).expect(0).out;
        let has_ended = |vm: usize| log.contains(&format!("vm {vm} ended: "));
        if (2..nr_vms + 2).all(has_ended) || Instant::now() > end {
            return log;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Aftermath {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.bench.firn(["down", "--format", "json"]).json()["clean"], true);
        }
    }
}

#[test]
fn read_kernel_memory() {
    let after = attack(
        "read_kernel_memory",
        &[
            case("", "memory violation: read of 0xffffffff80000000"),
            case("address=ffff800000000000", "memory violation: read of 0xffff800000000000"),
            case("address=ffffffffffffffff", "memory violation: read of 0xffffffffffffffff"),
            case("address=0", "memory violation: read of 0x0"),
            case("address=200000", "memory violation: read of 0x200000"),
            case("address=8000000000000000", "general protection"),
        ],
    );
    let report = after.log.lines().find(|line| line.contains("vm 2   rip")).unwrap_or_default();
    assert!(report.contains('<') && report.contains("+0x"), "the report has names: {report}");
}

#[test]
fn write_text() {
    attack(
        "write_text",
        &[
            case("what=text", "memory violation: write to 0x20000"),
            case("what=rodata", "memory violation: write to 0x2"),
            case("what=registers", "memory violation: write to 0x10000"),
            case("what=null", "memory violation: write to 0x8"),
        ],
    );
}

#[test]
fn execute_data() {
    let cases = ["stack", "heap", "data", "rodata"]
        .map(|what| case(&format!("what={what}"), "memory violation: execution of 0x"));
    attack("execute_data", &cases);
    attack(
        "execute_data",
        &[
            case("what=null", "memory violation: execution of 0x10"),
            case("what=kernel", "memory violation: execution of 0xffffffff80000000"),
        ],
    );
}

#[test]
fn privileged_instruction() {
    let refused = [
        "hlt",
        "cli",
        "sti",
        "in",
        "out",
        "rdmsr",
        "wrmsr",
        "mov_from_cr0",
        "mov_to_cr3",
        "mov_to_cr4",
        "mov_from_dr7",
        "mov_to_dr7",
        "lgdt",
        "lidt",
        "lldt",
        "ltr",
        "lmsw",
        "clts",
        "invlpg",
        "invd",
        "wbinvd",
        "swapgs",
        "rdpmc",
        "sgdt",
        "sidt",
        "sldt",
        "str",
        "smsw",
        "int_0x80",
    ];
    let mut cases = Vec::from(refused.map(|name| case(&format!("name={name}"), "general protection")));
    cases.push(case("name=ud2", "illegal instruction"));
    // Not there outside the kernel, by its manual or by how the emulator has it.
    cases.extend(["sysret", "xsetbv"].map(|name| case(&format!("name={name}"), "exception")));
    let after = attack("privileged_instruction", &cases);
    assert!(!after.log.contains("] error"), "the kernel has nothing to complain of\n{}", after.log);
}

#[test]
fn bad_pointer() {
    attack("bad_pointer", &[case("", OK)]);
}

#[test]
fn address_spaces() {
    attack("address_spaces", &[case("", OK)]);
}

#[test]
fn undefined_instruction() {
    attack("undefined_instruction", &[case("", OK)]);
}

#[test]
fn stack_overflow() {
    attack("stack_overflow", &[case("", "memory violation: write to 0x")]);
}

#[test]
fn corrupt_ring() {
    let dropped = ["length", "short", "long", "spoofed_mac", "spoofed_ip", "unknown", "arp"];
    let mut cases = Vec::from(dropped.map(|how| case(&format!("how={how}"), OK)));
    let corrupt = ["far", "backwards", "misaligned"];
    cases.extend(corrupt.map(|how| case(&format!("how={how}"), "corrupt transmit ring")));
    cases.push(case("how=receive_far", "corrupt receive ring"));
    let after = attack("corrupt_ring", &cases);
    let counters = ["drops_bad_length", "drops_bad_length", "drops_bad_length", "drops_spoofed", "drops_spoofed"];
    for (n, (how, counter)) in dropped.iter().zip(counters).enumerate() {
        let vm = after.inspect(n + 2);
        assert_eq!((&vm["state"], &vm[counter]), (&"ended".into(), &1.into()), "{how}: {vm}");
    }
}
