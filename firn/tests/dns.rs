//! `dns` in a VM, asked by `dig`.

mod common;

use common::Bench;

const FLEET: &str = r#"
[machine]
memory = "256M"
[[service]]
name = "own"
image = "dns"
count = 1
memory = "2M"
[[service]]
name = "given"
image = "dns"
count = 1
memory = "2M"
args = "zone=test.example ttl=60 | @ SOA ns admin 1 3600 600 86400 60 | @ NS ns | ns A 10.65.0.2 | big TXT BIG"
"#;

/// What `dig` prints of a query to a VM.
fn dig(bench: &Bench, vm: u32, words: &[&str]) -> String {
    let server = format!("@10.65.0.{vm}");
    let command = ["exec", "--", "timeout", "30", "dig", &server, "+tries=2", "+time=5"];
    bench.firn([&command, words].concat()).expect(0).out
}

fn short(bench: &Bench, vm: u32, words: &[&str]) -> Vec<String> {
    let text = dig(bench, vm, &[words, &["+short"]].concat());
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn dig_gets_answers_over_datagrams_and_streams() {
    let bench = Bench::new();
    // A set of records that needs more than a datagram.
    let big: String = (0..8).map(|n| format!("{n}{}", "x".repeat(89))).collect::<Vec<_>>().join(" | big TXT ");
    bench.up(&bench.fleet(&FLEET.replace("BIG", &big)), &[]);

    assert_eq!(short(&bench, 1, &["www.example.org"]), ["10.65.0.3", "10.65.0.4", "web.example.org."]);
    assert_eq!(short(&bench, 1, &["mail.example.org", "AAAA", "+tcp"]), ["fd00::2"]);
    assert_eq!(short(&bench, 1, &["example.org", "MX"]), ["10 mail.example.org."]);
    assert_eq!(short(&bench, 1, &["example.org", "NS"]), ["ns1.example.org."]);
    assert_eq!(short(&bench, 1, &["example.org", "TXT"]), ["\"v=spf1 mx -all\""]);
    assert_eq!(short(&bench, 1, &["x.dyn.example.org"]), ["10.65.0.5"]);
    assert!(
        short(&bench, 1, &["example.org", "SOA"])[0].starts_with("ns1.example.org. hostmaster.example.org. 1 3600")
    );

    let none = dig(&bench, 1, &["none.example.org"]);
    assert!(none.contains("status: NXDOMAIN") && none.contains("flags: qr aa rd;"), "{none}");
    assert!(none.contains("AUTHORITY: 1") && none.contains("EDNS: version: 0, flags:; udp: 1232"), "{none}");
    let no_data = dig(&bench, 1, &["web.example.org", "TXT"]);
    assert!(no_data.contains("status: NOERROR") && no_data.contains("ANSWER: 0, AUTHORITY: 1"), "{no_data}");
    assert!(dig(&bench, 1, &["example.com"]).contains("status: REFUSED"));
    assert!(dig(&bench, 1, &["example.org", "+edns=7", "+noednsneg"]).contains("status: BADVERS"));

    // By IPv6, over datagrams and streams.
    let v6 = ["exec", "--", "timeout", "30", "dig", "@fd66:6972:6e00::10.65.0.1", "+short", "mail.example.org", "AAAA"];
    for more in [&[][..], &["+tcp"]] {
        assert_eq!(bench.firn([&v6, more].concat()).expect(0).out, "fd00::2\n");
    }

    // The other VM of the same image has another zone.
    assert_eq!(short(&bench, 2, &["ns.test.example"]), ["10.65.0.2"]);
    assert!(dig(&bench, 2, &["example.org"]).contains("status: REFUSED"));
    let cut = dig(&bench, 2, &["big.test.example", "TXT", "+notcp", "+ignore", "+bufsize=512"]);
    assert!(cut.contains("flags: qr aa tc rd;"), "{cut}");
    assert_eq!(short(&bench, 2, &["big.test.example", "TXT", "+bufsize=512"]).len(), 8, "comes again over TCP");
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}

#[test]
fn a_zone_that_is_none_is_said_to_be() {
    let bench = Bench::new();
    let fleet = FLEET.replace("@ NS ns |", "@ NS |").replace("BIG", "x");
    bench.up(&bench.fleet(&fleet), &[]);
    // The machine is up when its VMs were started; what they say comes a moment later.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let log = bench.firn(["logs", "--no-follow", "given"]).expect(0).out;
        if log.contains("zone test.example: line 2: something is missing at the end") {
            break;
        }
        assert!(std::time::Instant::now() < end, "{log}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// A tool of somebody else's that asks as fast as it is answered.
#[test]
fn dnsperf_gets_an_answer_to_every_query() {
    if std::process::Command::new("dnsperf").arg("-h").output().is_err() {
        eprintln!("skipped: dnsperf is not installed");
        return;
    }
    let bench = Bench::new();
    bench.up(&bench.fleet(&FLEET.replace("BIG", "x")), &[]);
    let queries = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&queries, "www.example.org A\nmail.example.org AAAA\nexample.org MX\nnone.example.org A\n").unwrap();
    let file = queries.path().to_str().unwrap();
    for mode in ["udp", "tcp"] {
        let ask = ["exec", "--", "dnsperf", "-s", "10.65.0.1", "-m", mode, "-d", file, "-l", "3", "-q", "20"];
        let said = bench.firn(ask).expect(0).out;
        let value = |name: &str| {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse::<f64>().ok())
        };
        assert!(value("Queries completed:").is_some_and(|completed| completed > 100.0), "{said}");
        assert_eq!(value("Queries lost:"), Some(0.0), "{said}");
        assert!(said.contains("NOERROR") && said.contains("NXDOMAIN") && !said.contains("SERVFAIL"), "{said}");
        eprintln!("{mode}: {:?} queries a second", value("Queries per second:"));
    }
    assert_eq!(bench.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}
