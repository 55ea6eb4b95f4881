//! One guest in ring 0 with the machine to itself: what isolation is compared with.

mod common;

use common::{Bench, boot_bare, bundle, fleet, number};
use firn::fleet::Fleet;
use firn::qemu::Kind;
use virtual_isa::bundle::exit_status;

const CLEAN: i32 = exit_status(0) as i32;
const REFUSED: i32 = exit_status(1) as i32;
const PANICKED: i32 = 255;

#[test]
fn a_web_server_alone_answers_and_ends_when_it_is_told_to() {
    for kind in ["microvm", "q35"] {
        let bench = Bench::new();
        bench.up(&bench.web(1), &["--bare", "--machine", kind]);
        for _ in 0..3 {
            assert_eq!(bench.fetch("default", "http://10.65.0.1/").len(), 128, "{kind}");
        }
        let id = bench.fetch("default", "http://10.65.0.1/id");
        assert!(id.starts_with("{\"vm\":1,\"generation\":1,"), "{id}");
        // Both kinds of addresses are answered for, and the machine looks after its clock.
        let by_ipv6 = bench.fetch("default", "http://[fd66:6972:6e00::a41:1]/healthz");
        assert_eq!(by_ipv6.trim(), "ok", "{kind}");
        let status = bench.firn(["status", "--format", "json"]).expect(0).json();
        let [uptime, idle] = ["/uptime_ns", "/idle_ns"].map(|name| number(&status, name));
        assert!(idle > 0 && idle < uptime && number(&status, "/free_pages") > 0, "{status}");
        let refused = bench.firn(["ask", "park", "all"]).expect(1);
        assert!(refused.err.contains("no supervisor"), "{}", refused.err);
        let ended = bench.firn(["down"]).expect(0);
        assert!(ended.out.contains("powered off cleanly"), "{}", ended.out);
    }
}

#[test]
fn large_answers_pass_through_the_rings() {
    let bench = Bench::new();
    let text = "[machine]\nmemory = \"256M\"\n[[service]]\nname = \"web\"\nimage = \"web\"\ncount = 1\nmemory = \"8M\"\n\
        args = \"body=1000000\"\n";
    bench.up(&bench.fleet(text), &["--bare"]);
    let body = bench.fetch("default", "http://10.65.0.1/");
    assert_eq!(body.len(), 1_000_000);
    let line = body.lines().next().unwrap();
    assert!(!line.is_empty() && body.lines().take(1000).all(|other| other == line), "{line}");
    bench.firn(["down"]).expect(0);
}

#[test]
fn only_a_fleet_that_can_run_alone_is_run_alone() {
    let bench = Bench::new();
    let web = |count: u32| bench.web(count).to_str().unwrap().to_owned();
    for (count, more, words) in [
        (2, &[][..], "the fleet has 2 VMs"),
        (1, &["--cpus", "2"], "one processor, and not 2"),
        (1, &["--swap", "64M"], "no use for a swap disk"),
    ] {
        let refused = bench.firn([&["up", &web(count), "--bare"], more].concat()).expect(2);
        assert!(refused.err.contains(words), "{}", refused.err);
    }
}

/// A fleet of one VM of this app.
fn one(app: &str, arguments: &str) -> Fleet {
    let mut fleet = fleet(app, 1);
    fleet.services[0].arguments = arguments.into();
    fleet
}

/// Checks that a machine ends so, with a line that has these words.
fn ends(bundle: Option<&[u8]>, expected: i32, words: &str) -> String {
    let (status, log) = boot_bare(Kind::Microvm, bundle);
    assert!(status == expected && log.lines().any(|line| line.contains(words)), "{words}: {status}\n{log}");
    log
}

#[test]
fn bundles_that_nothing_can_run_of_are_refused() {
    let two = bundle(&fleet("web", 2));
    ends(None, REFUSED, "error cannot run: no boot bundle");
    ends(Some(&two), REFUSED, "2 VMs, and only one can run alone");
    ends(Some(&two[..two.len() / 2]), REFUSED, "cut short");
    let mut large = one("web", "");
    large.services[0].memory_pages = 1 << 20;
    ends(Some(&bundle(&large)), REFUSED, "too little memory for the VM");
}

#[test]
fn a_program_that_crashes_ends_the_machine_with_a_report() {
    for (app, arguments, words) in [
        ("stack_overflow", "", "panic: double fault in the program, code 0"),
        ("write_text", "what=registers", "panic: page fault in the program at 0x10000, code 0x3"),
    ] {
        let log = ends(Some(&bundle(&one(app, arguments))), PANICKED, words);
        assert!(log.contains("rip 0x") && log.contains("cr3 0x"), "{log}");
        assert!(!log.contains("FAILURE"), "{log}");
    }
}

#[test]
fn a_program_that_ends_powers_the_machine_off_with_its_status() {
    // It asks for everything that is not an instruction, and is content with the answers.
    let log = ends(Some(&bundle(&one("undefined_instruction", ""))), CLEAN, "vm 1 ended: terminated with status 0");
    assert!(log.contains("vm 1| ok"), "{log}");
}
