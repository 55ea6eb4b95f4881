//! A firewall between VMs and everybody else, on the real kernel.

mod common;

use common::{Bench, Done, free_port};
use serde_json::Value;
use std::process::Command;

const FLEET: &str = r#"
[machine]
memory = "256M"
[[service]]
name = "wall"
image = "firewall"
count = 1
memory = "4M"
args = "allow=80"
[[service]]
name = "web"
image = "web"
count = 2
memory = "4M"
gateway = "wall"
[[service]]
name = "echo"
image = "echo"
count = 1
memory = "4M"
gateway = "wall"
[[service]]
name = "open"
image = "echo"
count = 1
memory = "4M"
"#;

/// What an echo of VM number `vm` answers, if anything can be asked of it.
fn echo(bench: &Bench, vm: u32) -> Done {
    let ask = format!("exec 3<>/dev/tcp/10.65.0.{vm}/7 && echo hello >&3 && head -1 <&3");
    bench.firn(["exec", "--", "timeout", "3", "bash", "-c", &ask])
}

fn inspect(bench: &Bench, vm: &str) -> Value {
    bench.firn(["inspect", vm, "--format", "json"]).expect(0).json()
}

fn a_firewall(cpus: &str) {
    let bench = Bench::new();
    let up = bench.up(&bench.fleet(FLEET), &["--cpus", cpus]);
    assert_eq!((&up["services"][1]["gateway"], &up["services"][3]["gateway"]), (&1.into(), &Value::Null), "{up}");
    for vm in [2, 3] {
        assert_eq!(bench.fetch("default", &format!("http://10.65.0.{vm}/")).len(), 128);
    }
    // By IPv6 as well, and what is not allowed is not by either.
    assert_eq!(bench.fetch("default", "http://[fd66:6972:6e00::10.65.0.2]/").len(), 128);
    let closed = ["exec", "--", "timeout", "3", "bash", "-c", "exec 3<>/dev/tcp/fd66:6972:6e00::10.65.0.4/7"];
    assert_ne!(bench.firn(closed).code, Some(0), "port 7 is not allowed");
    assert_eq!(echo(&bench, 5).expect(0).out, "hello\n", "who is behind no gateway is reached");
    assert_ne!(echo(&bench, 4).code, Some(0), "port 7 is not allowed");
    let log = bench.firn(["logs", "--no-follow", "wall"]).expect(0).out;
    assert!(log.contains("letting through ports [80]") && log.contains("dropped: to port 7"), "{log}");
    let frames = |vm: &str| inspect(&bench, vm)["frames_received"].as_u64().unwrap();
    assert_eq!(frames("4"), 0, "nothing has come to it");
    assert!(frames("1") > frames("2") + frames("3"), "all of theirs and what was dropped went through the wall");

    // A gateway that is parked is woken by what is for those behind it.
    bench.firn(["ask", "park", "all"]).expect(0);
    let is_parked = |vm: &str| inspect(&bench, vm)["state"] == "parked";
    while !is_parked("1") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(bench.fetch("default", "http://10.65.0.2/").len(), 128);
    assert!(inspect(&bench, "1")["parks"].as_u64().unwrap() > 0);
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}

#[test]
fn a_firewall_lets_through_what_it_was_told_to() {
    a_firewall("1");
}

#[test]
fn a_firewall_works_on_another_core() {
    a_firewall("2");
}

#[test]
fn a_service_is_run_behind_a_gateway() {
    let bench = Bench::new();
    let [allowed, refused] = [free_port(), free_port()].map(|port| port.to_string());
    let run = |words: &str| {
        let more = ["--gateway-args", words, "-p", &format!("{allowed}:80"), "--replace"];
        bench
            .firn([&["run", "web", "--no-build", "--accel", "tcg", "--gateway", "firewall"], &more[..]].concat())
            .expect(0);
    };
    let curl = || {
        let url = format!("http://127.0.0.1:{allowed}/healthz");
        Done::of(Command::new("curl").args(["-sS", "--max-time", "3", &url]).output().unwrap())
    };
    run("allow=80");
    curl().expect(0);
    run("allow=81");
    assert_ne!(curl().code, Some(0));
    // A gateway that ends lets nothing through.
    run("nonsense");
    assert_ne!(curl().code, Some(0));
    let gateway =
        bench.firn(["run", "web", "--no-build", "--gateway", "web", "-p", &format!("{refused}:80")]).expect(2);
    assert!(gateway.err.contains("web"), "{gateway:?}");
}
