//! `kv` in a VM, spoken to by Redis' own clients.

mod common;

use common::Bench;

const FLEET: &str = r#"
[machine]
memory = "256M"
[[service]]
name = "kv"
image = "kv"
count = 1
memory = "4M"
"#;

struct Kv(Bench);

impl Kv {
    fn new() -> Self {
        let bench = Bench::new();
        bench.up(&bench.fleet(FLEET), &[]);
        Self(bench)
    }

    /// What a client in the machine's network prints.
    fn client(&self, program: &str, words: &[&str]) -> String {
        let command = ["exec", "--", "timeout", "120", program, "-h", "10.65.0.1"];
        self.0.firn([&command, words].concat()).expect(0).out
    }

    fn cli(&self, words: &[&str]) -> String {
        self.client("redis-cli", words)
    }

    fn info(&self, name: &str) -> u64 {
        let info = self.cli(&["INFO"]);
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name}: {info}")).trim().parse().unwrap()
    }
}

#[test]
fn redis_cli_sets_gets_scans_and_sees_keys_expire() {
    let kv = Kv::new();
    assert_eq!(kv.cli(&["PING"]), "PONG\n");
    assert_eq!(kv.cli(&["SET", "greeting", "hello world", "PX", "1500"]), "OK\n");
    assert_eq!(kv.cli(&["GET", "greeting"]), "hello world\n");
    assert_eq!(kv.cli(&["MSET", "a:1", "1", "a:2", "2", "b", "3"]), "OK\n");
    assert_eq!(kv.cli(&["INCRBY", "b", "39"]), "42\n");
    let scanned = kv.cli(&["--scan", "--pattern", "a:*"]);
    let mut scanned: Vec<_> = scanned.lines().collect();
    scanned.sort_unstable();
    assert_eq!(scanned, ["a:1", "a:2"]);
    while kv.cli(&["EXISTS", "greeting"]) == "1\n" {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(kv.cli(&["DBSIZE"]), "3\n");
}

#[test]
fn redis_benchmark_gets_an_answer_to_everything_it_asks() {
    let kv = Kv::new();
    let text = kv.client(
        "redis-benchmark",
        &["-t", "set,get,incr,mset", "-c", "50", "-P", "16", "-n", "10000", "-r", "1000", "--csv"],
    );
    for test in ["SET", "GET", "INCR", "MSET (10 keys)"] {
        let line = text.lines().find(|line| line.starts_with(&format!("\"{test}\"")));
        let rate = line.unwrap_or_else(|| panic!("{text}")).split(',').nth(1).unwrap().trim_matches('"');
        assert!(rate.parse::<f64>().unwrap() > 0.0, "{text}");
    }
    assert!(kv.info("total_commands_processed") >= 40_000);
    assert_eq!(kv.info("connected_clients"), 1);
}

/// The limit of data is what fits: neither many small values nor few large ones end the VM, also not beside as many
/// clients as there may be.
#[test]
fn a_store_that_is_full_says_so_and_lives() {
    let kv = Kv::new();
    let limit = kv.info("maxmemory");
    // Each of them more than fits. Values that are large are so for all clients together.
    for (size, number, clients) in [("3", "20000", "50"), ("1000", "4000", "50"), ("100000", "100", "1")] {
        let full = kv.0.firn([
            "exec",
            "--",
            "timeout",
            "120",
            "redis-benchmark",
            "-h",
            "10.65.0.1",
            "-t",
            "set",
            "-d",
            size,
            "-n",
            number,
            "-r",
            "1000000",
            "-c",
            clients,
            "-q",
        ]);
        assert!(format!("{}{}", full.out, full.err).contains("OOM command not allowed"), "{full:?}");
        let used = kv.info("used_memory");
        assert!(used <= limit && used > limit / 2, "{used} of {limit}");
        assert_eq!(kv.cli(&["FLUSHALL"]), "OK\n");
        assert_eq!(kv.info("used_memory"), 0);
    }
    assert_eq!(kv.cli(&["SET", "a", "1"]), "OK\n");
    assert_eq!(kv.0.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}
