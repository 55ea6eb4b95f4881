//! Other people's clients against Firn's services, and against Debian's on Linux on the same virtual machine.
//!
//! | client | against | Debian's |
//! |---|---|---|
//! | `redis-benchmark -P 16` | `kv` | redis-server |
//! | `wrk` | `web` | nginx |
//! | `mosquitto_pub` and `mosquitto_sub`, QoS 1 | `mqtt` | mosquitto |
//! | `dnsperf` | `dns` | none |
//!
//! Each is measured with one service, and with a hundred at the same time, each of which has clients of its own. What is
//! counted is what all clients got done, for each second from the start of the first to the end of the last.

use super::report::{Findings, Measure};
use super::{Bench, NAME, Scenario};
use crate::driver::{Session, write};
use crate::fleet::Fleet;
use crate::human::count;
use crate::machine::{Failure, Task};
use crate::peer::{self, Peer, Service};
use serde::Serialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// The scenario.
pub const SCENARIO: Scenario =
    Scenario { name: "clients", about: "redis-benchmark, wrk, mosquitto_pub, dnsperf; beside Debian's servers", run };

/// Memory of the machine, if nothing else is wanted.
const DEFAULT_MEMORY: &str = "2G";

/// Seconds for which `wrk` and `dnsperf` ask, if nothing else is wanted: all, and few.
const DEFAULT_SECONDS: [f64; 2] = [5.0, 2.0];

/// How many services.
const SIZES: [u32; 2] = [1, 100];

/// Connections of all clients together, where a client has several.
const CONNECTIONS: u32 = 50;

/// Requests to one, and messages through one, if there is only one; with `--quick` a quarter of them.
const REQUESTS: u32 = 200_000;
const MESSAGES: u32 = 8000;

/// Requests that `redis-benchmark` has under way on a connection. It asks for these many at a time; if the number of all
/// is no multiple of that, it may take the end for a failure, or wait for ever.
const PIPELINE: u32 = 16;

/// What runs a client: it may take two minutes, and ends with who waits for it.
const BOUNDS: [&str; 5] = ["timeout", "120", "setpriv", "--pdeathsig", "KILL"];

/// What subscribers get to be there before anybody publishes.
const SUBSCRIBE: Duration = Duration::from_secs(1);

/// Pause before a service that does not answer is asked again, and how often it is. A hundred of Debian's redis-server take
/// two minutes of an emulated processor to start.
const PROBE: (Duration, u32) = (Duration::from_millis(200), 1500);

/// What `dnsperf` asks, again and again: two names with an address, one without, and one that is not there.
const QUERIES: &str = "www.example.org A\nmail.example.org AAAA\nexample.org MX\nnone.example.org A\n";

/// A service of Firn's, what Debian has in its place, and who asks it.
struct Kind {
    image: &'static str,
    /// If it is measured there.
    service: Option<Service>,
    /// A client, and the package that has it.
    client: (&'static str, &'static str),
    /// Measures what all of them get done a second.
    ask: fn(&Bench<'_>, &Session<'_>, &str) -> Result<f64, Failure>,
    /// Asks the service whose address follows once, and succeeds if it answers.
    probe: &'static str,
    /// What is measured: a name, and what it is for people.
    measured: &'static [(&'static str, &'static str)],
}

const KINDS: [Kind; 4] = [
    Kind {
        image: "kv",
        service: Some(Service::Redis),
        client: ("redis-benchmark", "redis-tools"),
        ask: redis,
        probe: "redis-cli -e -h {} ping",
        measured: &[("set", "SET"), ("get", "GET")],
    },
    Kind {
        image: "web",
        service: Some(Service::Nginx),
        client: ("wrk", "wrk"),
        ask: |bench, session, _| wrk(bench, session),
        probe: "curl -s -f -o /dev/null http://{}/",
        measured: &[("get", "GET /")],
    },
    Kind {
        image: "mqtt",
        service: Some(Service::Mosquitto),
        client: ("mosquitto_pub", "mosquitto-clients"),
        ask: |bench, session, _| mosquitto(bench, session),
        probe: "mosquitto_pub -h {} -t probe -m probe",
        measured: &[("qos1", "messages, QoS 1")],
    },
    Kind {
        image: "dns",
        service: None,
        client: ("dnsperf", "dnsperf"),
        ask: |bench, session, _| dnsperf(bench, session),
        probe: "dig +short +tries=1 +time=1 @{} www.example.org",
        measured: &[("udp", "queries, UDP")],
    },
];

/// What was measured.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    image: &'static str,
    system: &'static str,
    services: u32,
    what: &'static str,
    per_s: f64,
}

const FIRN: &str = "firn";

fn run(bench: &Bench<'_>) -> Result<Findings, Failure> {
    let options = bench.options;
    if options.peers.contains(&Peer::LinuxNs) {
        return Err(Failure::BadInput(
            "--peer linux-ns: Debian's servers are measured as processes; give linux".into(),
        ));
    }
    KINDS.iter().try_for_each(find_client)?;
    let memory = options.memory.as_deref().unwrap_or(DEFAULT_MEMORY);
    let mut samples = Vec::new();
    for kind in &KINDS {
        for services in SIZES {
            let fleet = Fleet {
                cpus: options.cpus(),
                image: kind.image.to_owned(),
                arguments: String::new(),
                ..Fleet::web(services, memory)
            };
            measure(bench, kind, FIRN, &fleet, &mut samples)?;
            let Some(service) = kind.service else { continue };
            for &peer in &options.peers {
                let fleet = peer::on(fleet.clone(), NAME, peer, service)?;
                measure(bench, kind, peer.name(), &fleet, &mut samples)?;
            }
        }
    }
    Ok(Findings {
        configuration: json!({ "memory": memory, "cpus": options.cpus(), "connections": CONNECTIONS }),
        figures: figures(&samples),
        failures: Vec::new(),
        plot: None,
        table: table(&samples),
        samples: json!(&samples),
    })
}

/// Checks that the client is installed.
fn find_client(kind: &Kind) -> Result<(), Failure> {
    let (program, package) = kind.client;
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        return Ok(());
    }
    Err(Failure::BadInput(format!("{program} is not installed; install it with: apt-get install {package}")))
}

fn measure(
    bench: &Bench<'_>,
    kind: &Kind,
    system: &'static str,
    fleet: &Fleet,
    samples: &mut Vec<Sample>,
) -> Result<(), Failure> {
    let session = bench.boot(fleet)?;
    wait_for_all(bench, kind, &session)?;
    for (what, about) in kind.measured {
        bench.driver.say(&format!("{} of {} {}, {system}", about, count(fleet.vms.into()), kind.image));
        let per_s = (kind.ask)(bench, &session, what)?;
        samples.push(Sample { image: kind.image, system, services: fleet.vms, what, per_s });
    }
    session.end()
}

/// Waits until every service answers: one that has been started may not listen yet.
fn wait_for_all(bench: &Bench<'_>, kind: &Kind, session: &Session<'_>) -> Result<(), Failure> {
    let (pause, times) = PROBE;
    for address in (0..session.vms).map(|n| session.address(n).to_string()) {
        let line = format!("exec {} 2>/dev/null", kind.probe.replace("{}", &address));
        let mut tries = 0;
        while !session.client(&["sh", "-c", &line])?.wait(bench.driver.firn.stop)?.status.success() {
            tries += 1;
            if tries == times {
                return Err(Failure::failed(format!("{} at {address} does not answer", kind.image)));
            }
            bench.driver.firn.pause(pause)?;
        }
    }
    Ok(())
}

/// So many of something for each service, of as many as one would get.
fn part(bench: &Bench<'_>, all: u32, services: u32) -> u32 {
    let all = if bench.options.quick { all / 4 } else { all };
    (all / services).max(1)
}

/// Starts a client for each service.
fn start(session: &Session<'_>, words: impl Fn(&str) -> Vec<String>) -> Result<Vec<Task>, Failure> {
    let clients = (0..session.vms).map(|n| {
        let words = words(&session.address(n).to_string());
        let words: Vec<&str> = BOUNDS.into_iter().chain(words.iter().map(String::as_str)).collect();
        session.client(&words)
    });
    clients.collect()
}

/// Waits for all of them. Returns what each printed.
fn finish(session: &Session<'_>, clients: Vec<Task>) -> Result<Vec<String>, Failure> {
    clients.into_iter().map(|client| session.finish_client(client)).collect()
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn redis(bench: &Bench<'_>, session: &Session<'_>, what: &str) -> Result<f64, Failure> {
    let requests = part(bench, REQUESTS, session.vms).next_multiple_of(PIPELINE);
    let connections = (CONNECTIONS / session.vms).max(1);
    let begun = Instant::now();
    let clients = start(session, |address| {
        words(&format!("redis-benchmark -h {address} -t {what} -c {connections} -P {PIPELINE} -n {requests} -q"))
    })?;
    finish(session, clients)?;
    Ok(f64::from(requests * session.vms) / begun.elapsed().as_secs_f64())
}

/// For how long those ask that are told a time: whole seconds.
fn seconds(bench: &Bench<'_>) -> f64 {
    bench.options.seconds.unwrap_or(bench.options.usual(DEFAULT_SECONDS)).ceil()
}

fn wrk(bench: &Bench<'_>, session: &Session<'_>) -> Result<f64, Failure> {
    let seconds = seconds(bench);
    let connections = (CONNECTIONS / session.vms).max(1);
    let begun = Instant::now();
    let clients = start(session, |address| words(&format!("wrk -t1 -c{connections} -d{seconds}s http://{address}/")))?;
    let said = finish(session, clients)?;
    let answered = said.iter().map(|said| answered(said)).collect::<Result<Vec<_>, _>>()?;
    Ok(answered.iter().sum::<f64>() / begun.elapsed().as_secs_f64())
}

/// How many requests `wrk` says were answered.
fn answered(said: &str) -> Result<f64, Failure> {
    let trouble = said.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    if let Some(trouble) = trouble {
        return Err(Failure::failed(format!("wrk: {}", trouble.trim())));
    }
    let count = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    count.ok_or_else(|| Failure::failed("wrk does not say how many requests were answered"))
}

fn dnsperf(bench: &Bench<'_>, session: &Session<'_>) -> Result<f64, Failure> {
    let file = bench.options.folder.join("queries.txt");
    write(&file, QUERIES.as_bytes())?;
    let (file, seconds) = (file.display(), seconds(bench));
    let at_once = (CONNECTIONS / session.vms).max(1);
    let begun = Instant::now();
    let clients =
        start(session, |address| words(&format!("dnsperf -s {address} -d {file} -l {seconds} -q {at_once}")))?;
    let said = finish(session, clients)?;
    let completed = said.iter().map(|said| completed(said)).collect::<Result<Vec<_>, _>>()?;
    Ok(completed.iter().sum::<f64>() / begun.elapsed().as_secs_f64())
}

/// How many queries `dnsperf` says were answered.
fn completed(said: &str) -> Result<f64, Failure> {
    let value = |name: &str| {
        let rest = said.lines().find_map(|line| line.trim().strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    match (value("Queries completed:"), value("Queries lost:")) {
        (Some(completed), Some(0.0)) => Ok(completed),
        (Some(_), Some(lost)) => Err(Failure::failed(format!("dnsperf: {lost} queries were not answered"))),
        _ => Err(Failure::failed("dnsperf does not say how many queries were answered")),
    }
}

fn mosquitto(bench: &Bench<'_>, session: &Session<'_>) -> Result<f64, Failure> {
    let messages = part(bench, MESSAGES, session.vms);
    let subscribers =
        start(session, |address| words(&format!("mosquitto_sub -h {address} -t t -q 1 -C {messages} -F %l")))?;
    bench.driver.firn.pause(SUBSCRIBE)?;
    let begun = Instant::now();
    let message = "m".repeat(32);
    let publishers = start(session, |address| {
        words(&format!("mosquitto_pub -h {address} -t t -q 1 -m {message} --repeat {messages}"))
    })?;
    finish(session, publishers)?;
    let said = finish(session, subscribers)?;
    let elapsed = begun.elapsed();
    if let Some(said) = said.iter().find(|said| said.lines().count() != messages as usize) {
        return Err(Failure::failed(format!("{} of {messages} messages came", said.lines().count())));
    }
    Ok(f64::from(messages * session.vms) / elapsed.as_secs_f64())
}

/// The same on another system.
fn beside<'s>(samples: &'s [Sample], of: &Sample, system: &str) -> Option<&'s Sample> {
    samples.iter().find(|sample| {
        sample.system == system && (sample.image, sample.services, sample.what) == (of.image, of.services, of.what)
    })
}

fn about(sample: &Sample) -> String {
    let kind = KINDS.iter().find(|kind| kind.image == sample.image);
    let what = kind.and_then(|kind| kind.measured.iter().find(|(what, _)| *what == sample.what));
    let services = count(sample.services.into());
    format!("{services} {}, {}", sample.image, what.map_or(sample.what, |(_, about)| about))
}

fn figures(samples: &[Sample]) -> Vec<Measure> {
    let mut figures = Vec::new();
    for sample in samples {
        let Sample { image, system, services, what, per_s } = sample;
        let (name, about) = (format!("{image}_{services}_{what}_{system}"), about(sample));
        figures.push(Measure::new(&format!("{name}_per_s"), &format!("{about}, {system}"), "/s", Some(*per_s)));
        let firn = beside(samples, sample, FIRN).filter(|_| *system != FIRN && *per_s > 0.0);
        if let Some(firn) = firn {
            let about = format!("{about}, Firn's for each of {system}'s");
            figures.push(Measure::new(&format!("{name}_ratio"), &about, "", Some(firn.per_s / per_s)));
        }
    }
    figures
}

fn table(samples: &[Sample]) -> Vec<Vec<String>> {
    let mut systems: Vec<&str> = Vec::new();
    for sample in samples {
        if !systems.contains(&sample.system) {
            systems.push(sample.system);
        }
    }
    let heading = ["a second"].into_iter().chain(systems.iter().copied()).map(str::to_owned).collect();
    let mut rows: Vec<Vec<String>> = vec![heading];
    for firn in samples.iter().filter(|sample| sample.system == FIRN) {
        let cell = |system: &&str| {
            beside(samples, firn, system).map_or_else(|| "-".to_owned(), |sample| crate::human::whole(sample.per_s))
        };
        rows.push([about(firn)].into_iter().chain(systems.iter().map(cell)).collect());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_says_how_many_were_answered_and_what_went_wrong() {
        let said = "Running 5s test @ http://10.65.0.1/\n  1 threads and 50 connections\n  12345 requests in 5.00s, \
                    2.1MB read\nRequests/sec:   2469.00\n";
        assert_eq!(answered(said).unwrap(), 12345.0);
        for wrong in ["  Socket errors: connect 0, read 1, write 0, timeout 0", "  Non-2xx or 3xx responses: 7"] {
            let failure = answered(&format!("{said}{wrong}\n")).unwrap_err();
            assert!(failure.to_string().contains(wrong.trim()), "{failure}");
        }
        assert!(answered("").is_err());
    }

    #[test]
    fn dnsperf_says_how_many_were_answered_and_how_many_not() {
        let said = |lost: u32| {
            format!(
                "Statistics:\n\n  Queries sent:         700\n  Queries completed:    697 (99.57%)\n  Queries lost:         {lost} (0.43%)\n"
            )
        };
        assert_eq!(completed(&said(0)).unwrap(), 697.0);
        assert!(completed(&said(3)).unwrap_err().to_string().contains("3 queries"));
        assert!(completed("").is_err());
    }

    #[test]
    fn debians_stand_beside_ours() {
        let sample = |system, services, per_s| Sample { image: "kv", system, services, what: "set", per_s };
        let samples = [sample(FIRN, 1, 30.0), sample("linux", 1, 10.0), sample(FIRN, 100, 20.0)];
        let figures = figures(&samples);
        assert_eq!(figures.len(), 4);
        assert_eq!((figures[2].name.as_str(), figures[2].value), ("kv_1_set_linux_ratio", Some(3.0)));
        let table = table(&samples);
        assert_eq!(table[0], ["a second", FIRN, "linux"]);
        assert_eq!(table[1], ["1 kv, SET", "30", "10"]);
        assert_eq!(table[2], ["100 kv, SET", "20", "-"]);
    }
}
