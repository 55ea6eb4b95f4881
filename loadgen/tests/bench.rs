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
    for part in ["budget at most 512 bytes", "answer of a VM parked on disk, p99", "out/report.html"] {
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

/// The figure of that name in a report.
fn figure(report: &serde_json::Value, name: &str) -> serde_json::Value {
    let figures = report["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["name"] == name).unwrap_or_else(|| panic!("{name} in {figures:?}")).clone()
}

fn few(vms: u8) -> Stage {
    Stage::new(&(1..=vms).map(|vm| Behaviour::Good(vm.into())).collect::<Vec<_>>(), &[])
}

#[test]
fn isolation_compares_every_attack_with_the_victim_alone() {
    let stage = few(1);
    let (status, summary, complaints) = run(&stage, "isolation", &["--quick", "--seconds", "0.2"]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{summary}");
    let report = json_in(&stage.path("out/isolation.json"));
    let sample = &report["samples"][0];
    assert_eq!(sample.as_array().unwrap().len(), 11);
    assert_eq!(sample[9]["storm"], "storm {\"first\":2,\"count\":200,\"rounds\":7,\"created\":1400}");
    assert_eq!(
        (&sample[0]["paced"]["config"]["rate"], &sample[0]["pushed"]["config"]["loop"]),
        (&200.0.into(), &"closed".into())
    );
    let alone = figure(&report, "alone_p99_ms")["value"].as_f64().unwrap();
    let budget = figure(&report, "all_p99_ms")["budget"]["at_most"].as_f64().unwrap();
    assert!((budget - (1.5 * alone + 4.0)).abs() < 1e-9, "{budget} of {alone}");
    let per_s = figure(&report, "alone_per_s")["value"].as_f64().unwrap();
    let share = figure(&report, "spin_per_s")["budget"]["at_least"].as_f64().unwrap();
    assert!((share - per_s / 2.0).abs() < 1e-9, "{share} of {per_s}");
    assert!(summary.lines().any(|line| line.trim().starts_with("1,000 VMs that wake every 100 ms ")), "{summary}");
    let fleet = std::fs::read_to_string(stage.path("out/isolation.toml")).unwrap();
    assert!(fleet.contains("name = \"victim\"") && fleet.contains("group = \"attackers\""), "{fleet}");
    let svg = std::fs::read_to_string(stage.path("out/isolation.svg")).unwrap();
    assert!(svg.contains(">instruct<") && svg.contains(">p99 budget<"), "the attacks have names");
}

#[test]
fn fairness_races_on_one_processor_and_on_two() {
    let stage = few(1);
    let (status, summary, complaints) = run(&stage, "fairness", &["--vms", "3"]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{summary}");
    let report = json_in(&stage.path("out/fairness.json"));
    for name in ["jain_time_cpus1_1s", "jain_frames_cpus1_1s", "jain_time_cpus2_1s", "jain_frames_cpus2_1s"] {
        assert_eq!(figure(&report, name)["value"], 0.995, "{name}");
    }
    assert_eq!(figure(&report, "time_cpus1_weight1")["value"], 3.0);
    assert!(!summary.contains("MISSED"), "{summary}");
    let asked: Vec<_> = stage.whole_diary().into_iter().filter(|line| line.contains(" race ")).collect();
    // Two on each, and one on a machine that counts its instructions.
    assert!(asked.len() == 5 && asked[0].ends_with("race 2-4 5"), "{asked:?}");
    let (status, _, complaints) = run(&stage, "fairness", &["--vms", "2"]);
    assert!(status == 2 && complaints.contains("give 3 or more"), "{complaints}");
}

#[test]
fn ablation_boots_each_kernel_with_its_words() {
    let stage = few(3);
    let (status, summary, complaints) = run(&stage, "ablation", &["--vms", "3", "--seconds", "0.2"]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{summary}");
    let ups: Vec<_> = stage.whole_diary().into_iter().filter(|line| line.starts_with("up ")).collect();
    let with = |word: &str| ups.iter().filter(|up| up.ends_with(&format!("--kernel-options {word}"))).count();
    assert_eq!((ups.len(), with("batching=off"), with("idle-timeout=off")), (6, 2, 2), "{ups:?}");
    let report = json_in(&stage.path("out/ablation.json"));
    let [whole, without] =
        ["whole_3_per_s", "unbatched_3_per_s"].map(|n| figure(&report, n)["value"].as_f64().unwrap());
    let ratio = figure(&report, "unbatched_3_ratio")["value"].as_f64().unwrap();
    assert!((ratio - without / whole).abs() < 1e-9 && whole > 0.0, "{ratio}");
    assert!(stage.path("out/ablation.svg").exists());
}

#[test]
fn scale_measures_new_and_kept_connections_for_each_number_of_vms() {
    let stage = few(3);
    let (status, summary, complaints) = run(&stage, "scale", &["--vms", "3", "--seconds", "0.2"]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{summary}");
    let report = json_in(&stage.path("out/scale.json"));
    for name in ["new_1_per_s", "new_3_per_s", "kept_1_per_s", "kept_3_per_s", "kept_3_p99_ms"] {
        assert!(figure(&report, name)["value"].as_f64().unwrap() > 0.0, "{name}");
    }
    // Each load is warmed up by one that does not count.
    let loads = stage.whole_diary().iter().filter(|line| line.starts_with("exec ")).count();
    assert_eq!(loads, 8);
    let svg = std::fs::read_to_string(stage.path("out/scale.svg")).unwrap();
    assert!(svg.contains(">kept connections<"));
}

#[test]
fn tax_boots_the_server_alone_and_as_vms() {
    let stage = few(3);
    let (status, summary, complaints) = run(&stage, "tax", &["--vms", "3", "--seconds", "0.2", "--quick"]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{summary}");
    let ups: Vec<_> = stage.whole_diary().into_iter().filter(|line| line.starts_with("up ")).collect();
    let is_bare: Vec<bool> = ups.iter().map(|up| up.ends_with(" --bare")).collect();
    assert_eq!(is_bare, [true, false, false, true, false, false], "a round, and the counts: {ups:?}");
    let counting = ups.iter().map(|up| up.contains("--icount=wait"));
    assert_eq!(counting.collect::<Vec<_>>(), [false, false, false, true, true, true]);
    let report = json_in(&stage.path("out/tax.json"));
    for mode in ["new", "kept"] {
        assert_eq!(figure(&report, &format!("{mode}_firn_1_ratio"))["budget"]["at_least"], 0.8);
        for name in ["bare_per_s", "firn_3_ratio", "bare_instructions", "firn_3_instructions_ratio"] {
            assert!(figure(&report, &format!("{mode}_{name}"))["value"].as_f64().is_some(), "{mode}_{name}");
        }
    }
    assert!(summary.contains("budget at least 0.80") && stage.path("out/tax.svg").exists(), "{summary}");
    let (status, _, complaints) = run(&stage, "tax", &["--cpus", "2"]);
    assert!(status == 2 && complaints.contains("has one processor"), "{complaints}");
}

#[test]
fn cores_compares_work_and_requests_on_one_processor_and_on_two() {
    let stage = few(3);
    let (status, summary, complaints) = run(&stage, "cores", &["--vms", "3", "--seconds", "0.2"]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{summary}");
    let report = json_in(&stage.path("out/cores.json"));
    for mode in ["new", "kept"] {
        let [one, two] =
            [1, 2].map(|cpus| figure(&report, &format!("{mode}_cpus{cpus}_per_s"))["value"].as_f64().unwrap());
        let gain = figure(&report, &format!("{mode}_gain"))["value"].as_f64().unwrap();
        assert!(one > 0.0 && (gain - two / one).abs() < 1e-9, "{gain}");
    }
    // The stage's VMs do a piece of work each millisecond, eight of them.
    let work = figure(&report, "work_cpus1")["value"].as_f64().unwrap();
    assert!((4000.0..16_000.0).contains(&work), "{work}");
    assert_eq!(figure(&report, "work_gain")["budget"]["at_least"], 1.8);
    assert!(stage.path("out/cores.svg").exists(), "bars stand in for a plot");
}

#[test]
fn documents_are_asked_of_a_vm_for_each_size() {
    let stage = few(7);
    let (status, summary, complaints) = run(&stage, "documents", &["--seconds", "0.2"]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{summary}");
    let fleet = std::fs::read_to_string(stage.path("out/documents.toml")).unwrap();
    assert_eq!(fleet.matches("[[service]]").count(), 7, "{fleet}");
    assert!(fleet.contains("args = \"body=1048576\""), "{fleet}");
    let report = json_in(&stage.path("out/documents.json"));
    let samples = report["samples"][0].as_array().unwrap();
    assert_eq!(samples.len(), 14);
    assert_ne!(samples[0]["load"]["config"]["first"], samples[13]["load"]["config"]["first"]);
    assert!(figure(&report, "kept_4096_per_s")["value"].as_f64().unwrap() > 0.0);
}

#[test]
fn one_scenario_that_cannot_be_does_not_keep_others_from_their_run() {
    let stage = few(1);
    let (status, summary, complaints) = run(&stage, "density", &["fairness", "--vms", "10", "--runs", "3"]);
    assert_eq!(status, 1, "{summary}");
    assert!(complaints.contains("density: --vms 10") && complaints.contains("error: density failed"), "{complaints}");
    assert_eq!(json_in(&stage.path("out/density.json"))["ok"], false);
    let report = json_in(&stage.path("out/fairness.json"));
    assert_eq!((&report["ok"], report["samples"].as_array().unwrap().len()), (&true.into(), 3));
    assert_eq!(figure(&report, "jain_time_cpus1_1s")["spread"]["runs"], 3);
    let busy = report["host_busy"].as_array().unwrap();
    assert!(busy.len() == 3 && report["elapsed_s"].as_f64().unwrap() > 0.0, "{busy:?}");
    let html = std::fs::read_to_string(stage.path("out/report.html")).unwrap();
    assert!(html.contains("<h2 id=\"fairness\">") && html.contains("Failed: --vms 10"), "{html}");
    assert!(html.contains("Whether VMs get their shares</title>"), "the picture is in it");
    assert!(summary.ends_with(&format!("report: {}\n", stage.path("out/report.html").display())), "{summary}");
    // What is there becomes a page of the book.
    let book = stage.path("book");
    let (status, said, complaints) = run(&stage, "publish", &["--book", book.to_str().unwrap()]);
    assert_eq!((status, complaints.as_str()), (0, ""), "{said}");
    assert!(said.contains("not measured: ") && !said.contains("fairness"), "{said}");
    assert!(std::fs::read_to_string(book.join("results.md")).unwrap().contains("(results/fairness.svg)"));
    assert!(book.join("results/fairness.svg").exists());
    // A later run of another scenario leaves that one's section alone.
    assert_eq!(run(&stage, "ablation", &["--vms", "1", "--seconds", "0.1"]).0, 0);
    assert!(std::fs::read_to_string(stage.path("out/report.html")).unwrap().contains("<h2 id=\"fairness\">"));
}

#[test]
fn scenarios_are_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(["bench", "list"]).output().unwrap();
    assert!(output.status.success());
    let list = text(&output.stdout);
    assert!(list.lines().any(|line| line.starts_with("density ")), "{list}");
    assert!(list.lines().any(|line| line.starts_with("overcommit ")), "{list}");
    for name in [
        "services",
        "clients",
        "arena",
        "blocks",
        "cores",
        "documents",
        "memory",
        "packets",
        "scale",
        "tax",
        "wake",
        "all",
        "compare",
    ] {
        assert!(list.lines().any(|line| line.starts_with(name)), "{name} in {list}");
    }
}

#[test]
fn bad_arguments_name_the_argument_and_the_remedy() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["nonsense"], &["\"nonsense\"", "density", "list"]),
        (&["density", "--vms", "0"], &["--vms 0", "give 1 to 1048575"]),
        (&["density", "--cpus", "65"], &["--cpus 65", "give 1 to 64"]),
        (&["density", "--runs", "0"], &["--runs 0", "give 1 to"]),
        (&["density", "--memory", "8"], &["--memory \"8\"", "2G"]),
        (&["services", "--peer", "windows"], &["windows", "linux-ns"]),
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
