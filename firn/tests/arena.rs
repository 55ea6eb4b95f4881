//! Game servers in VMs, and bots that play on all of them at once.

mod common;

use common::Bench;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const FLEET: &str = r#"
[machine]
memory = "256M"
[[service]]
name = "arena"
image = "arena"
count = 4
memory = "2M"
args = "silence_ms=1000"
"#;

/// The program `loadgen`, which is built beside `firn`.
fn loadgen() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_firn")).with_file_name("loadgen");
    if !program.is_file() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--package", "loadgen"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success());
    }
    program
}

/// Lets bots play on the machine's servers. Returns the exit status and the report.
fn play(bench: &Bench, count: &str, players: &str, seconds: &str) -> (Option<i32>, Value) {
    let program = loadgen();
    let words =
        ["arena", "--quiet", "--format", "json", "--first", "10.65.0.1", "--count", count, "--players", players];
    let command = [&["exec", "--", program.to_str().unwrap()][..], &words, &["--seconds", seconds]].concat();
    let done = bench.firn(command);
    (done.code, done.json())
}

#[test]
fn bots_play_on_several_vms_at_once() {
    let bench = Bench::new();
    bench.up(&bench.fleet(FLEET), &[]);
    let (status, report) = play(&bench, "4", "8", "4");
    assert_eq!((status, &report["bots"]["played"]), (Some(0), &32.into()), "{report}");
    assert_eq!((&report["servers"]["joined"], &report["servers"]["left"]), (&32.into(), &32.into()), "{report}");
    let number =
        |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {report}"));
    // Whatever the emulator is busy with, half of all ticks come through, and at their distance.
    assert!(number("/snapshots/received") > 4.0 * 20.0 * 32.0 / 2.0, "{report}");
    assert!((40_000.0..60_000.0).contains(&number("/between/p50_us")), "{report}");
    assert_eq!(number("/servers/malformed") + number("/servers/bad_keys") + number("/servers/bad_tokens"), 0.0);
    eprintln!(
        "between {} {} {} us, jitter p99 {} us, lost {} of {}, ticks late p99 {} us",
        report["between"]["p50_us"],
        report["between"]["p99_us"],
        report["between"]["max_us"],
        report["jitter"]["p99_us"],
        report["snapshots"]["lost"],
        report["snapshots"]["expected"],
        report["late"]["p99_us"],
    );

    // Nobody plays: the VMs sleep, can be parked, and the next player wakes one.
    bench.firn(["ask", "park", "all"]).expect(0);
    let (status, report) = play(&bench, "1", "32", "2");
    assert_eq!((status, &report["bots"]["played"]), (Some(0), &32.into()), "{report}");
    let inspect = bench.firn(["inspect", "1", "--format", "json"]).expect(0).json();
    eprintln!("private pages of a server that has served 32 players: {}", inspect["private_pages"]);
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}
