//! A `web` VM that is reached by IPv6, and one that strangers mean no good.

mod common;

use common::Bench;

/// Opens connections that say a part of a request and then nothing, and others that are reset by their client with the
/// answer unread; looks whether others are served meanwhile.
const STORM: &str = r#"
set -u
address=10.65.0.1
slow=()
for n in $(seq 400); do
    exec {fd}<>/dev/tcp/$address/80 || exit 10
    printf 'GET / HTTP/1.1\r\nX-Slow: ' >&$fd
    slow+=($fd)
done
for n in $(seq 200); do
    exec {fd}<>/dev/tcp/$address/80 || exit 11
    printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n' >&$fd
    exec {fd}>&-
done
curl --silent --fail --max-time 10 http://$address/healthz || exit 12
"#;

/// Storms in a row, unless `FIRN_STORMS` says how many.
const STORMS: usize = 2;

/// Pages that a VM may have when a storm is over.
const MOST_LEFT: u64 = 24;

#[test]
fn slow_and_rude_clients_keep_nobody_out_and_their_memory_comes_back() {
    let bench = Bench::new();
    let file = bench.fleet(
        "[[service]]\nname = \"web\"\nimage = \"web\"\ncount = 1\nmemory = \"32M\"\nargs = \"head_timeout_ms=3000\"\n",
    );
    bench.up(&file, &["--name", "crowd"]);
    let pages = || {
        let vm = bench.firn(["inspect", "1", "--name", "crowd", "--format", "json"]).expect(0).json();
        assert_ne!(vm["state"], "ended", "{vm}");
        vm["private_pages"].as_u64().unwrap()
    };
    assert_eq!(bench.fetch("crowd", "http://10.65.0.1/").len(), 128);
    let before = pages();
    assert!(before <= 12, "{before} pages after a request");
    let storms = std::env::var("FIRN_STORMS").ok().and_then(|text| text.parse().ok()).unwrap_or(STORMS);
    for storm in 1..=storms {
        let outcome = bench.firn(["exec", "--name", "crowd", "--", "bash", "-c", STORM]).expect(0);
        assert_eq!(outcome.out, "ok\n");
        assert_eq!(bench.fetch("crowd", "http://[fd66:6972:6e00::10.65.0.1]/").len(), 128);
        // The slow ones are cut off after three seconds, and a second later what is free is given back.
        let begun = std::time::Instant::now();
        let after = loop {
            let after = pages();
            if after <= MOST_LEFT || begun.elapsed().as_secs() > 60 {
                break after;
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        };
        println!("storm {storm}: {before} pages before, {after} after {} s", begun.elapsed().as_secs());
        assert!(after <= MOST_LEFT, "storm {storm}: {before} pages before, {after} after");
    }
    bench.firn(["down", "--name", "crowd"]).expect(0);
}

/// A client of somebody else's, if it is here.
fn has_wrk() -> bool {
    let found = std::process::Command::new("wrk").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: wrk is not installed");
    }
    found
}

#[test]
fn two_crowds_of_a_thousand_connections_are_served() {
    if !has_wrk() {
        return;
    }
    let bench = Bench::new();
    let file = bench.fleet("[[service]]\nname = \"web\"\nimage = \"web\"\ncount = 1\nmemory = \"32M\"\n");
    bench.up(&file, &["--name", "thousand"]);
    for _ in 0..2 {
        let ask =
            ["exec", "--name", "thousand", "--", "wrk", "-t1", "-c1000", "-d4", "--timeout", "10", "http://10.65.0.1/"];
        let said = bench.firn(ask).expect(0).out;
        let requests = said.split(" requests in ").next().and_then(|text| text.split_whitespace().last());
        let requests: u64 = requests.unwrap().parse().unwrap();
        assert!(requests >= 1000, "{said}");
        // Refused, reset or not answered: none of 1,000, twice.
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    }
    bench.firn(["down", "--name", "thousand"]).expect(0);
}
