//! The tool and the machine together, as a user runs them: up, reach the VMs, look, end.

mod common;

use common::{Bench, Done};
use serde_json::Value;
use std::collections::HashSet;
use std::io::{BufRead, Read};

#[test]
fn a_small_fleet_lives_from_up_to_down() {
    live(1);
}

#[test]
fn a_small_fleet_lives_on_two_processors() {
    live(2);
}

fn live(cpus: u32) {
    let bench = Bench::new();
    let up = bench.up(&bench.web(5), &["--name", "life", "--cpus", &cpus.to_string()]);
    assert_eq!(up["cpus"], cpus);
    assert_eq!((&up["vms"], &up["accel"], &up["state"]), (&5.into(), &"tcg".into(), &"up".into()));
    assert_eq!(up["services"][0]["first_ipv4"], "10.65.0.1");

    let mut random = HashSet::new();
    for vm in 1..=5 {
        let id: Value = serde_json::from_str(&bench.fetch("life", &format!("http://10.65.0.{vm}/id"))).unwrap();
        assert_eq!(id["vm"], vm);
        assert!(random.insert(id["random"].to_string()), "{id}");
    }
    assert_eq!(bench.fetch("life", "http://10.65.0.3/").len(), 128);

    let status = bench.firn(["status", "--name", "life", "--format", "json"]).expect(0).json();
    assert_eq!(status["host"]["name"], "life", "{status}");
    let vm = bench.firn(["inspect", "3", "--name", "life", "--format", "json"]).expect(0).json();
    assert_eq!((&vm["service"], &vm["ipv4"]), (&"web".into(), &"10.65.0.3".into()), "{vm}");
    bench.firn(["inspect", "6", "--name", "life"]).expect(2);

    let log = |more: &[&str]| bench.firn([&["logs", "--no-follow", "--name", "life"], more].concat());
    let all = log(&[]).expect(0).out;
    assert!(all.contains("fleet life: 5 VMs started") && all.starts_with("kernel     | ["), "{all}");
    let of_supervisor = log(&["supervisor"]).expect(0).out;
    assert!(of_supervisor.lines().count() > 0, "{all}");
    assert!(of_supervisor.lines().all(|line| line.starts_with("supervisor | [")), "{of_supervisor}");
    log(&["web-6"]).expect(2);
    // Without --no-follow it goes on until the machine ends.
    let mut following = bench.command(["logs", "--name", "life"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut followed = std::io::BufReader::new(following.stdout.take().unwrap());
    let mut text = String::new();
    assert!(followed.read_line(&mut text).unwrap() > 0, "it has begun before the machine ends");
    assert!(following.try_wait().unwrap().is_none());

    let down = bench.firn(["down", "--name", "life", "--format", "json"]).expect(0).json();
    assert_eq!((&down["clean"], &down["ending"]), (&true.into(), &"powered off cleanly".into()));
    assert!(!bench.state().join("life").exists());
    followed.read_to_string(&mut text).unwrap();
    assert!(following.wait().unwrap().success() && text.contains("5 VMs started"), "{text}");
    let holder = up["holder_pid"].as_i64().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{holder}/ns/net")).exists(), "the namespace is gone");
    assert!(bench.firn(["logs", "--name", "life"]).expect(0).out.contains("5 VMs started"), "the log is kept");
    bench.firn(["down", "--name", "life"]).expect(2);
}

#[test]
fn services_run_on_their_terms() {
    let bench = Bench::new();
    let file = bench.fleet(
        "[[group]]\nname = \"red\"\nshares = 50\nreservation = \"20%\"\nlimit = \"1600%\"\n\
             [[service]]\nname = \"web\"\nimage = \"web\"\ncount = 2\nmemory = \"4M\"\n\
             [[service]]\nname = \"inner\"\nimage = \"web\"\ncount = 1\nmemory = \"4M\"\ngroup = \"red\"\n\
             reservation = \"5%\"\nlimit = \"50%\"\nframes_per_s = 100000\nbytes_per_s = \"100M\"\n",
    );
    let up = bench.up(&file, &[]);
    let [web, inner] = [0, 1].map(|n| &up["services"][n]);
    assert_eq!((&web["group"], &web["limit_ppm"]), (&"default".into(), &0.into()), "{web}");
    assert_eq!((&inner["group"], &inner["reservation_ppm"]), (&"red".into(), &50_000.into()), "{inner}");
    assert_eq!((&inner["limit_ppm"], &inner["bytes_per_s"]), (&500_000.into(), &(100 << 20).into()), "{inner}");
    let terms = |vm: &str| {
        let vm = bench.firn(["inspect", vm, "--format", "json"]).expect(0).json();
        (vm["class"].as_u64().unwrap(), vm["group"].as_str().unwrap().to_owned())
    };
    assert_eq!([terms("0").1, terms("2").1], ["supervisor", "default"]);
    assert_eq!((terms("2").0, terms("3")), (0, (1, "red".to_owned())));
    assert_eq!(bench.fetch("default", "http://10.65.0.3/").len(), 128);
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}

#[test]
fn a_fleet_runs_on_q35_too() {
    let bench = Bench::new();
    bench.up(&bench.web(2), &["--machine", "q35"]);
    assert_eq!(bench.fetch("default", "http://10.65.0.2/").len(), 128);
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}

#[test]
fn two_machines_with_the_same_addresses_do_not_meet() {
    let bench = Bench::new();
    let fleet = bench.web(1);
    bench.up(&fleet, &["--name", "a"]);
    bench.up(&fleet, &["--name", "b", "--set", "web.count=2"]);
    let again = bench.firn(["up", fleet.to_str().unwrap(), "--name", "a"]).expect(2);
    assert!(again.err.contains("firn down --name a"), "{}", again.err);
    let fetch =
        |name| bench.firn(["exec", "--name", name, "--", "curl", "-sS", "--max-time", "3", "http://10.65.0.2/"]);
    fetch("b").expect(0);
    assert_ne!(fetch("a").code, Some(0), "only b has a VM 2");
    let machines = bench.firn(["ps", "--format", "json"]).expect(0).json();
    assert_eq!(machines.as_array().unwrap().len(), 2);
}

#[test]
fn exec_returns_what_the_command_returns() {
    let bench = Bench::new();
    bench.up(&bench.web(1), &[]);
    bench.firn(["exec", "--", "sh", "-c", "exit 7"]).expect(7);
    bench.firn(["exec", "--", "no-such-command"]).expect(2);
    bench.firn(["exec", "--name", "other", "--", "true"]).expect(2);
    let routes = bench.firn(["exec", "--", "sh", "-c", "PATH=$PATH:/usr/sbin:/sbin ip route"]).expect(0).out;
    assert_eq!(routes.lines().count(), 2, "no way leads outside: {routes}");
}

#[test]
fn a_machine_that_was_killed_is_reported_and_cleared_away() {
    let bench = Bench::new();
    let fleet = bench.web(1);
    let up = bench.up(&fleet, &[]);
    let qemu = nix::unistd::Pid::from_raw(i32::try_from(up["qemu_pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(qemu, nix::sys::signal::Signal::SIGKILL).unwrap();
    let down = bench.firn(["down"]).expect(1);
    assert!(down.out.contains("killed by signal 9"), "{}", down.out);
    // A machine that has ended does not keep a new one from taking its name.
    let up = bench.up(&fleet, &[]);
    let qemu = nix::unistd::Pid::from_raw(i32::try_from(up["qemu_pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(qemu, nix::sys::signal::Signal::SIGKILL).unwrap();
    while std::path::Path::new(&format!("/proc/{}", up["holder_pid"])).exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    bench.firn(["status"]).expect(1);
    bench.up(&fleet, &[]);
}

#[test]
fn a_machine_in_the_foreground_ends_when_interrupted() {
    let bench = Bench::new();
    let fleet = bench.web(1);
    let mut command = bench.command(["up", fleet.to_str().unwrap(), "--accel", "tcg", "--foreground"]);
    let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let log = bench.state().join("default/serial.log");
    while !std::fs::read_to_string(&log).is_ok_and(|log| log.contains("1 VM")) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    // Wherever the interrupt finds it, nothing is left.
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let done = Done::of(child.wait_with_output().unwrap());
    assert!(!bench.state().join("default").exists(), "{done:?}");
    assert!(done.code == Some(0) || done.code == Some(1), "{done:?}");
}

#[test]
fn bad_input_starts_nothing() {
    let bench = Bench::new();
    let refuse = |text: &str, words: &[&str]| {
        let fleet = bench.fleet(text);
        let done = bench.firn(["up", fleet.to_str().unwrap()]).expect(2);
        for word in words.iter().chain(&["fleet.toml", "help:"]) {
            assert!(done.err.contains(word), "{word} in {}", done.err);
        }
        assert!(!bench.state().join("default").exists());
    };
    let service = "[[service]]\nname = \"web\"\nimage = \"web\"\nmemory = \"4M\"\n";
    refuse(&format!("{service}count = 0\n"), &["service \"web\": count", "zero VMs"]);
    refuse(&format!("{service}count = 5\ncolour = 1\n"), &["colour", "unknown field"]);
    refuse(&format!("{service}count = 5000000\n"), &["service \"web\": count", "addresses"]);
    refuse("[[service]]\nname = \"x\"\nimage = \"nope\"\ncount = 1\nmemory = \"4M\"\n", &["firn build nope"]);
    bench.firn(["up", "no/such.toml"]).expect(2);
    bench.firn(["up", bench.web(1).to_str().unwrap(), "--name", "a/b"]).expect(2);
}
