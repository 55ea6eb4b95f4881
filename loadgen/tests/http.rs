//! `loadgen http` end to end, against servers that behave well and badly: counts, exit statuses, reports.

mod common;

use common::{Behaviour, Servers, json_in};
use serde_json::Value;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn good(count: u32) -> Vec<Behaviour> {
    (0..count).map(|i| Behaviour::Good(100 + i)).collect()
}

fn errors(report: &Value) -> Vec<(String, u64)> {
    let errors = report["errors"].as_object().unwrap();
    errors.iter().map(|(kind, n)| (kind.clone(), n.as_u64().unwrap())).filter(|&(_, n)| n > 0).collect()
}

#[test]
fn new_connections_to_random_targets_are_one_for_each_request() {
    let servers = Servers::start(&good(5));
    let (status, report) = servers.report(&["--requests", "300", "--seed", "7"]);
    assert_eq!((status, errors(&report)), (0, vec![]));
    assert_eq!(report["requests"]["ok"], 300);
    assert_eq!(report["requests"]["begun"], 300);
    assert_eq!(report["requests"]["body_bytes"], 300 * 128);
    assert_eq!(report["connections"]["opened"], 300);
    assert_eq!(servers.accepted.load(Ordering::Relaxed), 300);
    assert_eq!(report["targets"]["asked"], 5);
    assert_eq!(report["latency"]["total"]["count"], 300);
    assert_eq!(report["latency"]["connect"]["count"], 300);
    let answers: u64 = report["timeline"]["ok"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(answers, 300);
    let buckets = report["latency"]["total"]["buckets"].as_array().unwrap();
    assert_eq!(buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum::<u64>(), 300);
}

#[test]
fn all_targets_in_turn_get_the_same_number() {
    let servers = Servers::start(&good(4));
    let (status, report) = servers.report(&["--requests", "40", "--targets", "all", "--new-connections"]);
    assert_eq!(status, 0);
    assert_eq!((&report["targets"]["answers_min"], &report["targets"]["answers_max"]), (&10.into(), &10.into()));
}

#[test]
fn kept_connections_are_one_to_each_target() {
    let servers = Servers::start(&good(6));
    let (status, report) = servers.report(&["--requests", "500", "--targets", "kept", "--connections", "3"]);
    assert_eq!((status, errors(&report)), (0, vec![]));
    assert_eq!(report["requests"]["ok"], 500);
    assert_eq!(report["connections"]["opened"], 6);
    assert_eq!(servers.accepted.load(Ordering::Relaxed), 6);
    assert!(report["setup_s"].as_f64().unwrap() > 0.0);
    // Where targets are fewer than requests at once, each has as many as these need.
    let servers = Servers::start(&good(2));
    let (status, report) = servers.report(&["--requests", "500", "--targets", "kept", "--connections", "5"]);
    assert_eq!((status, errors(&report)), (0, vec![]));
    assert_eq!((&report["requests"]["ok"], &report["connections"]["opened"]), (&500.into(), &6.into()));
}

#[test]
fn a_pool_of_kept_connections_is_reused_and_bounded() {
    let servers = Servers::start(&good(1));
    let (status, report) = servers.report(&["--requests", "400", "--keep-alive", "--connections", "8"]);
    assert_eq!((status, errors(&report)), (0, vec![]));
    assert_eq!(report["requests"]["ok"], 400);
    let opened = report["connections"]["opened"].as_u64().unwrap();
    assert!((1..=8).contains(&opened), "{opened} connections for 8 requests at once to 1 target");
    // More targets than the pool holds: connections make room for others.
    let servers = Servers::start(&good(10));
    let (status, report) = servers.report(&["--requests", "200", "--keep-alive", "--connections", "2"]);
    assert_eq!((status, errors(&report)), (0, vec![]));
    assert!(report["connections"]["opened"].as_u64().unwrap() > 50);
}

#[test]
fn each_kind_of_failure_is_counted_as_such() {
    for (behaviour, kind) in [
        (Behaviour::Refuses, "connect_refused"),
        (Behaviour::Resets, "reset"),
        (Behaviour::Closes, "no_response"),
        (Behaviour::Status(503), "bad_status"),
        (Behaviour::Short, "short_body"),
        (Behaviour::Nonsense, "bad_response"),
        (Behaviour::Silent, "timed_out"),
    ] {
        let servers = Servers::start(&[behaviour]);
        for connections in [&["--new-connections"][..], &["--keep-alive"]] {
            let arguments = [&["--requests", "6", "--timeout", "200", "--connections", "3"], connections].concat();
            let (status, report) = servers.report(&arguments);
            let mut found = errors(&report);
            if behaviour == Behaviour::Closes {
                // The close may cross the request on its way: then it is a reset.
                found.iter_mut().filter(|(kind, _)| kind == "reset").for_each(|found| found.0 = kind.to_owned());
                assert_eq!(found.iter().map(|(_, n)| n).sum::<u64>(), 6);
                found = vec![(kind.to_owned(), 6)];
            }
            assert_eq!((status, found), (1, vec![(kind.to_owned(), 6)]), "{behaviour:?} {connections:?}");
            assert_eq!(report["requests"]["failed"], 6);
            assert_eq!(report["targets"]["never_answered"], 1, "{behaviour:?}");
            assert_eq!(report["targets"]["never_answered_first"][0], servers.first.to_string());
        }
    }
}

#[test]
fn one_bad_target_among_good_ones_is_found() {
    let servers = Servers::start(&[Behaviour::Good(0), Behaviour::Refuses, Behaviour::Good(2)]);
    for (connections, tries) in [(&["--new-connections", "--targets", "all"][..], 10), (&["--targets", "kept"], 1)] {
        let (status, report) = servers.report(&[&["--requests", "30"], connections].concat());
        assert_eq!(status, 1);
        assert_eq!(report["targets"]["never_answered"], 1);
        assert_eq!(report["targets"]["never_answered_first"][0], servers.address(1).to_string());
        assert!(report["errors"]["connect_refused"].as_u64().unwrap() >= tries);
    }
    let text = String::from_utf8(servers.load(&["--requests", "30", "--targets", "all"]).stdout).unwrap();
    assert!(text.contains("1 never answered") && text.contains(&servers.address(1).to_string()), "{text}");
}

#[test]
fn slow_answers_and_answers_in_pieces_are_good_ones() {
    let servers = Servers::start(&[Behaviour::Slow(Duration::from_millis(150)), Behaviour::InPieces]);
    for connections in [&["--new-connections"][..], &["--keep-alive"]] {
        let (status, report) = servers.report(&[&["--requests", "8", "--targets", "all"], connections].concat());
        assert_eq!((status, errors(&report)), (0, vec![]));
        let latency = &report["latency"]["total"];
        assert!(latency["max_us"].as_f64().unwrap() >= 150_000.0, "{latency}");
        assert!(latency["min_us"].as_f64().unwrap() >= 40_000.0, "{latency}");
    }
}

#[test]
fn a_server_that_keeps_open_is_noted_and_its_answer_counts() {
    let servers = Servers::start(&[Behaviour::KeepsOpen]);
    let (status, report) = servers.report(&["--requests", "2", "--connections", "2"]);
    assert_eq!(status, 0);
    assert_eq!(report["requests"]["ok"], 2);
    assert_eq!(report["connections"]["not_closed"], 2);
}

#[test]
fn a_request_that_meets_a_closed_kept_connection_is_sent_again() {
    let servers = Servers::start(&[Behaviour::ClosesAfter(3)]);
    let (status, report) = servers.report(&["--requests", "30", "--targets", "kept", "--connections", "1"]);
    assert_eq!((status, errors(&report)), (0, vec![]));
    assert_eq!(report["requests"]["ok"], 30);
    assert_eq!(servers.accepted.load(Ordering::Relaxed), 10);
}

#[test]
fn a_duration_ends_and_a_rate_is_kept() {
    let servers = Servers::start(&good(3));
    let (status, report) = servers.report(&["--duration", "1", "--rate", "200", "--targets", "kept"]);
    assert_eq!(status, 0);
    let ok = report["requests"]["ok"].as_u64().unwrap();
    assert!((150..=200).contains(&ok), "{ok} requests");
    assert_eq!(report["config"]["loop"], "open");
    assert_eq!(report["latency"]["corrected"]["count"], ok);
    let elapsed = report["window_s"].as_f64().unwrap();
    assert!((0.9..1.5).contains(&elapsed), "{elapsed} s");
}

#[test]
fn a_rate_that_the_server_cannot_keep_shows_in_the_corrected_latency() {
    let servers = Servers::start(&[Behaviour::Slow(Duration::from_millis(50))]);
    let arguments = ["--duration", "1", "--rate", "100", "--connections", "1", "--targets", "kept"];
    let (status, report) = servers.report(&arguments);
    assert_eq!(status, 0);
    let behind = report["requests"]["behind"].as_u64().unwrap();
    assert!((60..=99).contains(&behind), "{behind} of 100 at 20 a second");
    let total = report["latency"]["total"]["p50_us"].as_f64().unwrap();
    let corrected = report["latency"]["corrected"]["p50_us"].as_f64().unwrap();
    assert!(corrected > total * 3.0, "{corrected} and {total}");
}

#[test]
fn a_sweep_checks_that_each_answer_comes_from_its_own_vm() {
    let servers = Servers::start(&good(20));
    let (status, report) = servers.report(&["--sweep", "--first-vm", "100"]);
    assert_eq!((status, errors(&report)), (0, vec![]));
    let identity = &report["sweep"]["identity"];
    for (field, wanted) in [("answers", 20), ("distinct_vms", 20), ("distinct_random", 20), ("wrong_vm", 0)] {
        assert_eq!(identity[field], wanted, "{field}");
    }
    assert_eq!(report["sweep"]["answered"], 20);
    let first = report["sweep"]["first_answer_us"].as_array().unwrap();
    assert_eq!(first.len(), 20);
    let last = first.iter().map(|us| us.as_u64().unwrap()).max().unwrap() as f64 / 1e6;
    assert!((report["sweep"]["all_answered_s"].as_f64().unwrap() - last).abs() < 1e-4);

    let (status, report) = servers.report(&["--sweep", "--first-vm", "99"]);
    assert_eq!(status, 1);
    assert_eq!(report["sweep"]["identity"]["wrong_vm"], 20);
    let wrong = &report["sweep"]["identity"]["wrong_vm_first"][0];
    assert_eq!(wrong["expected"].as_u64().unwrap() + 1, wrong["answered"].as_u64().unwrap());
    assert_eq!(wrong["target"].as_u64().unwrap() + 100, wrong["answered"].as_u64().unwrap());
}

#[test]
fn a_sweep_finds_repeated_random_values_and_what_is_no_identity() {
    let servers = Servers::start(&[Behaviour::NotRandom(0), Behaviour::NotRandom(1)]);
    let (status, report) = servers.report(&["--sweep", "--first-vm", "0"]);
    assert_eq!(status, 1);
    assert_eq!(report["sweep"]["identity"]["distinct_random"], 1);
    let servers = Servers::start(&[Behaviour::Status(200)]);
    let (status, report) = servers.report(&["--sweep", "--first-vm", "0"]);
    assert_eq!((status, errors(&report)), (1, vec![("bad_response".to_owned(), 1)]));
}

#[test]
fn a_sweep_waits_for_those_that_come_late() {
    let late = |ms, vm| Behaviour::UpAfter(Duration::from_millis(ms), vm);
    let servers = Servers::start(&[late(2000, 0), Behaviour::Good(1), late(2600, 2), Behaviour::Good(3)]);
    let (status, report) = servers.report(&["--sweep", "--first-vm", "0"]);
    assert_eq!((status, errors(&report)), (1, vec![("connect_refused".to_owned(), 2)]));
    let (status, report) = servers.report(&["--sweep", "--first-vm", "0", "--wait", "20"]);
    assert_eq!((status, errors(&report)), (0, vec![]));
    assert!(report["requests"]["retried"].as_u64().unwrap() >= 4);
    assert_eq!(report["sweep"]["identity"]["answers"], 4);
    let all = report["sweep"]["all_answered_s"].as_f64().unwrap();
    assert!((0.3..10.0).contains(&all), "{all} s");
}

#[test]
fn a_sweep_gives_up_when_its_time_is_out() {
    let servers = Servers::start(&[Behaviour::Good(0), Behaviour::Refuses, Behaviour::Silent]);
    let begun = std::time::Instant::now();
    let (status, report) = servers.report(&["--sweep", "--first-vm", "0", "--wait", "0.7"]);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(status, 1);
    assert_eq!(errors(&report), [("connect_refused".to_owned(), 1), ("timed_out".to_owned(), 1)]);
    assert_eq!(report["targets"]["never_answered"], 2);
    assert!(report["sweep"]["all_answered_s"].is_null());
    assert!(report["sweep"]["first_answer_us"][1].is_null());
}

#[test]
fn files_are_written_and_are_what_they_should_be() {
    let servers = Servers::start(&good(2));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, svg) = (file("report.json"), file("plot.svg"));
    let output = servers.load(&["--requests", "50", "--json", &json, "--svg", &svg]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "quiet means quiet");
    let report: loadgen::report::HttpReport = serde_json::from_value(json_in(json.as_ref())).unwrap();
    assert_eq!(report.schema, loadgen::report::SCHEMA);
    assert_eq!(report.requests.ok, 50);
    assert!(report.is_clean());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("50 answered · 0 failed"), "{text}");
    assert!(std::fs::read_to_string(svg).unwrap().ends_with("</svg>\n"));
}

#[test]
fn bad_arguments_name_the_argument_and_the_remedy() {
    let range = ["--first", "127.0.0.1", "--count", "1"];
    let cases: &[(&[&str], &[&str])] = &[
        (&["--first", "127.0.0.1", "--count", "0"], &["--count 0", "give 1 to"]),
        (&["--first", "223.255.255.255", "--count", "2"], &["--first", "224.0.0.0"]),
        (&["--first", "elsewhere", "--count", "2"], &["--first", "elsewhere"]),
        (&["--count", "2"], &["--first"]),
        (&["--path", "id"], &["--path", "starts with `/`"]),
        (&["--path", "/a b"], &["--path", "%20"]),
        (&["--port", "0"], &["--port 0", "65535"]),
        (&["--connections", "0"], &["--connections 0", "give 1"]),
        (&["--duration", "0"], &["--duration 0", "more than 0"]),
        (&["--duration", "NaN"], &["--duration NaN", "more than 0"]),
        (&["--requests", "0"], &["--requests 0", "at least 1"]),
        (&["--rate", "-1"], &["--rate"]),
        (&["--rate", "0"], &["--rate 0", "more than 0"]),
        (&["--timeout", "0"], &["--timeout 0", "milliseconds"]),
        (&["--wait", "1"], &["--sweep"]),
        (&["--sweep", "--wait", "0", "--first-vm", "1"], &["--wait 0", "more than 0"]),
        (&["--sweep"], &["--first 127.0.0.1", "--first-vm"]),
        (&["--sweep", "--requests", "1"], &["--sweep", "--requests"]),
        (&["--keep-alive", "--new-connections"], &["--keep-alive", "--new-connections"]),
        (&["--targets", "kept", "--new-connections"], &["--targets kept", "leave out"]),
        (&["--json", "/nowhere/at/all.json"], &["--json /nowhere/at/all.json", "can be written"]),
    ];
    for (arguments, wanted) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.arg("http");
        if !arguments.contains(&"--count") {
            command.args(range);
        }
        let output = command.args(*arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        for part in *wanted {
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_interrupt_ends_the_run_with_what_there_is() {
    let servers = Servers::start(&good(1));
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["http", "--first", &servers.first.to_string(), "--count", "1", "--duration", "60"]);
    command.args(["--port", &servers.port.to_string(), "--format", "json", "--rate", "50"]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(report["requests"]["ok"].as_u64().unwrap() > 0);
    assert!(report["window_s"].as_f64().unwrap() < 30.0);
}
