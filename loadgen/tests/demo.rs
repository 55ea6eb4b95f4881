//! `loadgen demo` end to end, with a script in the place of `firn` and loopback servers in that of VMs: the order
//! of things, what ends the machine, exit statuses, the report.

mod common;

use common::stage::Stage;
use common::{Behaviour, json_in, text};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn vms(count: u32) -> Vec<Behaviour> {
    (1..=count).map(Behaviour::Good).collect()
}

#[test]
fn a_good_run_reports_every_figure_and_ends_the_machine() {
    let stage = Stage::new(&vms(6), &[]);
    let sizes = ["--memory", "512M", "--cpus", "2", "--swap", "1G", "--swap-iops", "3000"];
    let (status, output) = stage.run(&[&["--body", "200"][..], &sizes].concat());
    assert_eq!(status, 0, "{}", text(&output.stderr));
    let wanted = [
        "build", "up", "exec", "exec", "status", "exec", "exec", "status", "ask", "status", "exec", "status", "logs",
        "down",
    ];
    assert_eq!(stage.diary(), wanted);
    let fleet = fs::read_to_string(stage.path("out/fleet.toml")).unwrap();
    for line in [
        "memory = \"512M\"",
        "cpus = 2",
        "count = 6",
        "args = \"body=200\"",
        "image = \"web\"",
        "swap = \"1G\"",
        "swap-iops = 3000",
    ] {
        assert!(fleet.contains(line), "{fleet}");
    }
    let asked = fs::read_to_string(stage.path("asked")).unwrap();
    assert!(asked.starts_with("ask --name demo --timeout ") && asked.ends_with(" park all memory\n"), "{asked}");
    let report: loadgen::demo::report::DemoReport =
        serde_json::from_value(json_in(&stage.path("out/report.json"))).unwrap();
    assert!(report.ok && report.failures.is_empty());
    let figures = &report.figures;
    assert_eq!((figures.vms, figures.vms_answered, figures.errors), (6, 6, 0));
    assert!((figures.vms_started_per_s.unwrap() - 12.0).abs() < 1e-6);
    assert_eq!(figures.memory.guest_bytes_per_vm, Some(7.0 * 4096.0));
    assert_eq!((figures.parked, figures.parked_on_disk, figures.second_answered), (Some(6.0), Some(2.0), 6));
    assert_eq!((figures.kept.compared, figures.kept.intact), (6, 6));
    let all = figures.all_answered_s.unwrap();
    assert!((0.0..5.0).contains(&all), "{all} s");
    assert!(figures.new_connections.requests_per_s > 0.0 && figures.keep_alive.requests_per_s > 0.0);
    assert!(!report.new_connections.config.keep_alive && report.keep_alive.config.keep_alive);
    assert_eq!(report.check_sweep.sweep.as_ref().unwrap().identity.as_ref().unwrap().distinct_random, 6);
    assert!(report.versions.contains_key("qemu") && report.versions.contains_key("commit"));
    let summary = text(&output.stdout);
    for part in [
        "VMs answering",
        "6 of 6",
        "6, 2 of them on disk",
        "6 of 6, 6 with their page intact",
        "VMs started/s",
        "28 KiB",
        "new connections",
        "p99",
        "errors",
        "report.json",
    ] {
        assert!(summary.contains(part), "{part} in {summary}");
    }
    assert!(fs::read_to_string(stage.path("out/plot.svg")).unwrap().contains("VMs answering"));
}

#[test]
fn an_interrupt_ends_the_machine_whatever_is_going_on() {
    let answering = [Behaviour::Good(1), Behaviour::Good(2)];
    // While it starts, while a VM is waited for, under load.
    for (behaviours, up_takes, after_ms) in [
        (&answering, "sleep 30", 600),
        (&[Behaviour::Good(1), Behaviour::Status(500)], "sleep 0.3", 1500),
        (&answering, "sleep 0.3", 1500),
    ] {
        let stage = Stage::new(behaviours, &[("sleep 0.3", up_takes)]);
        let mut command = stage.command(&["--seconds", "60"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        assert!(child.try_wait().unwrap().is_none(), "it goes on");
        let begun = Instant::now();
        interrupt(child.id());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(stage.diary().last().unwrap(), "down");
        assert!(!stage.path("up").exists());
    }
}

fn interrupt(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn a_wrong_identity_fails_the_run_and_is_told() {
    let stage = Stage::new(&[Behaviour::Good(1), Behaviour::Good(7), Behaviour::Good(3)], &[]);
    let (status, output) = stage.run(&[]);
    assert_eq!(status, 1);
    assert!(text(&output.stderr).contains("1 came from the wrong VM"), "{}", text(&output.stderr));
    let report = json_in(&stage.path("out/report.json"));
    assert_eq!(report["ok"], false);
    assert_eq!(report["figures"]["vms_answered"], 2);
    assert_eq!(stage.diary().last().unwrap(), "down");
}

#[test]
fn a_page_that_is_lost_fails_the_run_and_is_told() {
    let stage = Stage::new(&[Behaviour::Good(1), Behaviour::Forgetful(2), Behaviour::Good(3)], &[]);
    let (status, output) = stage.run(&[]);
    assert_eq!(status, 1);
    let message = text(&output.stderr);
    assert!(message.contains("of 3 VMs that answered twice only 2") && message.contains("target 1"), "{message}");
    let kept = &json_in(&stage.path("out/report.json"))["figures"]["kept"];
    assert_eq!((&kept["intact"], &kept["other_page"]), (&2.into(), &1.into()));
}

#[test]
fn a_machine_that_does_not_start_or_does_not_end_well_fails_the_run() {
    for (settings, wanted, part) in [
        (&[("UP", "2")][..], 2, "firn up refused"),
        (&[("UP", "1")], 1, "firn up failed"),
        (&[("BUILD", "1")], 1, "firn build failed"),
        (&[("DOWN", "1"), ("ENDING", "the kernel panicked")], 1, "the kernel panicked"),
    ] {
        let stage = Stage::new(&vms(2), settings);
        let (status, output) = stage.run(&[]);
        assert_eq!(status, wanted, "{settings:?}");
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        assert!(!stage.path("up").exists(), "{settings:?} leaves a machine up");
    }
}

#[test]
fn a_machine_that_dies_under_load_fails_the_run_at_once() {
    let stage = Stage::new(&vms(2), &[("DIES", "1")]);
    let begun = Instant::now();
    let (status, output) = stage.run(&[]);
    assert_eq!(status, 1);
    assert!(text(&output.stderr).contains("the machine has ended under the load"), "{}", text(&output.stderr));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_kept_machine_stays_up_and_can_be_reached() {
    let stage = Stage::new(&vms(2), &[]);
    let (status, output) = stage.run(&["--keep"]);
    assert_eq!(status, 0);
    assert!(stage.path("up").exists() && !stage.diary().contains(&"down".to_owned()));
    let summary = text(&output.stdout);
    let second = stage.servers.address(1).to_string();
    for part in ["exec --name demo -- curl http://", &second, "down --name demo"] {
        assert!(summary.contains(part), "{summary}");
    }
    // Another one would disturb it.
    let (status, output) = stage.run(&[]);
    assert_eq!(status, 2);
    assert!(text(&output.stderr).contains("is up already"), "{}", text(&output.stderr));
    assert!(stage.path("up").exists());
}

#[test]
fn bad_arguments_name_the_argument_and_the_remedy() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--vms", "0"], &["--vms 0", "give 1 to"]),
        (&["--vms", "1048576"], &["--vms 1048576", "give 1 to 1048575"]),
        (&["--vms", "many"], &["--vms", "many"]),
        (&["--seconds", "0"], &["--seconds 0", "more than 0"]),
        (&["--seconds", "-3"], &["--seconds -3", "more than 0"]),
        (&["--cpus", "0"], &["--cpus 0", "give 1 to"]),
        (&["--memory", "2"], &["--memory \"2\"", "2G"]),
        (&["--memory", "0G"], &["--memory \"0G\"", "2G"]),
        (&["--vm-memory", "4 M"], &["--vm-memory", "2G"]),
        (&["--body", "9999999"], &["--body 9999999", "at most"]),
        (&["--report", "/"], &["--report /", "name a file"]),
        (&["--swap", "4"], &["--swap \"4\"", "2G"]),
        (&["--swap", "1G", "--swap-iops", "0"], &["--swap-iops 0", "at least 1"]),
        (&["--swap-iops", "10"], &["--swap"]),
        (&["--firn", "/nowhere/firn"], &["/nowhere/firn", "cargo build"]),
    ];
    for (arguments, wanted) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("demo").args(*arguments).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        for part in *wanted {
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }
    let stage = Stage::new(&vms(1), &[]);
    let (status, output) = stage.run(&["--report", "/proc/nowhere/report.json"]);
    assert_eq!(status, 2, "{}", text(&output.stderr));
    assert!(!Path::new(&stage.path("up")).exists());
}
