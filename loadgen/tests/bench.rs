//! `loadgen bench` end to end, with a script in the place of `firn` and loopback servers in that of VMs.

mod common;

use common::stage::Stage;
use common::{Behaviour, json_in, text};
use std::process::Command;

fn stage(settings: &[(&str, &str)]) -> Stage {
    Stage::new(&(1..=20).map(Behaviour::Good).collect::<Vec<_>>(), &[settings, &[("ON_DISK", "20")]].concat())
}

/// Runs a scenario, and returns exit status, what was printed and what was complained of.
fn run(stage: &Stage, scenario: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = stage.loadgen("bench", &[&[scenario][..], arguments].concat());
    let output = command.arg("--folder").arg(stage.path("out")).output().unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn density_compares_two_machines_and_leaves_its_samples() {
    let stage = stage(&[]);
    let (status, summary, complaints) = run(&stage, "density", &["--vms", "20", "--memory", "1G", "--runs", "2"]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{summary}");
    let small = ["up", "exec", "status", "ask", "status", "down"];
    // Everyone, then in memory, again, on disk: before and after each sample the state is read.
    let large = ["up", "exec", "status", "ask", "status", "exec", "status", "ask", "status"];
    let wakes =
        ["status", "exec", "status", "status", "exec", "status", "ask", "status", "status", "exec", "status", "down"];
    let once = [&small[..], &large, &wakes].concat();
    assert_eq!(stage.diary(), [&["build"], &once[..], &once].concat());
    let report = json_in(&stage.path("out/density.json"));
    assert_eq!((&report["schema"], &report["ok"]), (&"firn/bench/1".into(), &true.into()));
    assert_eq!(report["samples"].as_array().unwrap().len(), 2);
    let sample = &report["samples"][0];
    assert_eq!((&sample["large"]["kept"]["intact"], &sample["small"]["vms"]), (&20.into(), &2.into()));
    assert_eq!(sample["large"]["from_disk"]["sweep"]["config"]["connections"], 1);
    assert!(report["versions"]["host_cpus"].is_string() && report["date"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&report["options"]["seed"], &report["options"]["runs"]), (&1.into(), &2.into()));
    for part in ["budget at most 512 bytes", "answer of a VM parked on disk, p99", "density.json"] {
        assert!(summary.contains(part), "{part} in {summary}");
    }
}

#[test]
fn a_machine_that_does_not_end_well_fails_the_run() {
    let stage = stage(&[("DOWN", "1"), ("ENDING", "the kernel panicked")]);
    let (status, _, complaints) = run(&stage, "density", &["--vms", "20"]);
    assert_eq!(status, 1);
    assert!(complaints.contains("the kernel panicked"), "{complaints}");
    assert_eq!(json_in(&stage.path("out/density.json"))["ok"], false);
}

#[test]
fn scenarios_are_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(["bench", "list"]).output().unwrap();
    assert!(output.status.success());
    let list = text(&output.stdout);
    assert!(list.lines().any(|line| line.starts_with("density ")), "{list}");
    assert!(list.lines().any(|line| line.starts_with("overcommit ")), "{list}");
}

#[test]
fn bad_arguments_name_the_argument_and_the_remedy() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["nonsense"], &["\"nonsense\"", "density", "list"]),
        (&["density", "--vms", "0"], &["--vms 0", "give 1 to 1048575"]),
        (&["density", "--cpus", "65"], &["--cpus 65", "give 1 to 64"]),
        (&["density", "--runs", "0"], &["--runs 0", "give 1 to"]),
        (&["density", "--memory", "8"], &["--memory \"8\"", "2G"]),
        (&["density", "--swap", "x"], &["--swap \"x\"", "2G"]),
        (&["density", "--swap", "1G", "--swap-iops", "0"], &["--swap-iops 0", "at least 1"]),
        (&["overcommit", "--seconds", "-1"], &["--seconds -1", "more than 0"]),
        (&["density", "--firn", "/nowhere/firn"], &["/nowhere/firn", "cargo build"]),
    ];
    for (arguments, wanted) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("bench").args(*arguments).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        for part in *wanted {
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }
    let stage = stage(&[]);
    for (scenario, arguments, part) in [
        ("density", &["--vms", "19"][..], "--vms 19"),
        ("overcommit", &["--vms", "100", "--memory", "64M"], "give one of them"),
    ] {
        let (status, _, message) = run(&stage, scenario, arguments);
        assert!(status == 2 && message.contains(part), "{message}");
    }
    assert!(!stage.path("up").exists());
}
