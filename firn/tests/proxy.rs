//! A proxy in a VM, before others that serve, one of which is stopped for a while.

mod common;

use common::Bench;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const FLEET: &str = r#"
[machine]
memory = "256M"
[[service]]
name = "web"
image = "web"
count = 3
memory = "4M"
args = "body=300000"
[[service]]
name = "proxy"
image = "proxy"
count = 1
memory = "4M"
args = "backends=10.65.0.1,10.65.0.2,10.65.0.3 check=/healthz check_ms=200 check_most_ms=1000 fall=2 connect_timeout_ms=500 response_timeout_ms=1000"
"#;

/// Asks through the proxy for `/id`, so many times, each over a connection of its own. Returns who answered; `None`:
/// the proxy, with an error.
fn ids(bench: &Bench, times: usize) -> Vec<Option<Value>> {
    let url = "http://10.65.0.4/id?[1-N]".replace('N', &times.to_string());
    let command =
        ["exec", "--", "curl", "-sS", "--max-time", "10", "-H", "Connection: close", "-w", "%{http_code}\n", &url];
    let out = bench.firn(command).expect(0).out;
    // Each answer is a line, and a line with its status.
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2 * times, "{out}");
    lines.chunks(2).map(|pair| (pair[1] == "200").then(|| serde_json::from_str(pair[0]).unwrap())).collect()
}

fn vms(answers: &[Option<Value>]) -> BTreeSet<u64> {
    answers.iter().flatten().map(|id| id["vm"].as_u64().unwrap()).collect()
}

/// Asks until all of some answers come from these VMs.
fn until_only(bench: &Bench, wanted: &[u64]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answers = ids(bench, 6);
        if answers.iter().all(Option::is_some) && vms(&answers) == wanted.iter().copied().collect() {
            return;
        }
        assert!(Instant::now() < deadline, "{answers:?}");
    }
}

#[test]
fn a_proxy_passes_over_a_vm_that_is_stopped_and_finds_it_again() {
    let bench = Bench::new();
    bench.up(&bench.fleet(FLEET), &[]);
    until_only(&bench, &[1, 2, 3]);
    let before = ids(&bench, 9);
    let page = |vm: u64, ids: &[Option<Value>]| ids.iter().flatten().find(|id| id["vm"] == vm).unwrap()["page"].clone();
    for vm in [1, 2, 3] {
        assert_eq!(before.iter().flatten().filter(|id| id["vm"] == vm).count(), 3, "each in turn: {before:?}");
    }
    assert_eq!(bench.fetch("default", "http://10.65.0.4/").len(), 300_000);

    assert_eq!(bench.firn(["ask", "--timeout", "30", "pause", "2"]).expect(0).out, "paused vm 2\n");
    until_only(&bench, &[1, 3]);
    let answers = ids(&bench, 30);
    assert!(answers.iter().all(Option::is_some), "no client notices: {answers:?}");
    assert_eq!(vms(&answers), BTreeSet::from([1, 3]));
    let log = bench.firn(["logs", "--no-follow", "proxy"]).expect(0).out;
    assert!(log.contains("10.65.0.2:80 is down, 2 of 3 are up"), "{log}");

    assert_eq!(bench.firn(["ask", "--timeout", "30", "start", "2"]).expect(0).out, "started vm 2\n");
    until_only(&bench, &[1, 2, 3]);
    let after = ids(&bench, 9);
    assert_eq!(page(2, &after), page(2, &before), "the same VM");

    // All stopped: the proxy says so itself.
    for vm in ["1", "2", "3"] {
        bench.firn(["ask", "--timeout", "30", "pause", vm]).expect(0);
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = || {
        let command = ["exec", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://10.65.0.4/id"];
        bench.firn(command).expect(0).out
    };
    while status() != "503" {
        assert!(Instant::now() < deadline, "{}", status());
    }
    let inspect = bench.firn(["inspect", "4", "--format", "json"]).expect(0).json();
    eprintln!("private pages of the proxy: {}", inspect["private_pages"]);
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}
