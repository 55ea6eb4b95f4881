//! `mqtt` in a VM, spoken to by Mosquitto's clients.

mod common;

use common::{Bench, Done};
use std::process::{Child, Stdio};

const FLEET: &str = r#"
[machine]
memory = "256M"
[[service]]
name = "mqtt"
image = "mqtt"
count = 1
memory = "4M"
"#;

struct Broker(Bench);

impl Broker {
    fn new() -> Self {
        let bench = Bench::new();
        bench.up(&bench.fleet(FLEET), &[]);
        Self(bench)
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        let (program, words) = words.split_first().unwrap();
        // What a client says is to be seen at once.
        let start = ["exec", "--", "timeout", "60", "stdbuf", "-oL", program, "-h", "10.65.0.1"];
        self.0.command([&start, words].concat())
    }

    fn publish(&self, words: &[&str]) {
        Done::of(self.command(&[&["mosquitto_pub"], words].concat()).output().unwrap()).expect(0);
    }

    /// Begins to subscribe, and waits until that is so. What comes is read by `Subscriber::rest`.
    fn subscribe(&self, words: &[&str]) -> Subscriber {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = self.command(&[&["mosquitto_sub", "-d"], words].concat());
        command.stdout(file.reopen().unwrap()).stderr(Stdio::inherit());
        let subscriber = Subscriber { child: command.spawn().unwrap(), file };
        while !subscriber.text().contains("received SUBACK") {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        subscriber
    }
}

struct Subscriber {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Subscriber {
    fn text(&self) -> String {
        std::fs::read_to_string(self.file.path()).unwrap()
    }

    /// Waits for its end. Returns what it got, without what it says about itself.
    fn rest(mut self) -> Vec<String> {
        assert!(self.child.wait().unwrap().success(), "{}", self.text());
        let of_itself = |line: &&str| !line.starts_with("Client ") && !line.starts_with("Subscribed ");
        self.text().lines().filter(of_itself).map(str::to_owned).collect()
    }
}

#[test]
fn mosquitto_publishes_and_subscribes() {
    let broker = Broker::new();
    broker.publish(&["-t", "home/cellar/temp", "-m", "9", "-r", "-q", "1"]);
    let wild = broker.subscribe(&["-t", "home/+/temp", "-q", "1", "-C", "3", "-F", "%t %p %q %r"]);
    let all = broker.subscribe(&["-t", "#", "-C", "4", "-F", "%t %p %q"]);
    broker.publish(&["-t", "home/attic/temp", "-m", "21", "-q", "1"]);
    broker.publish(&["-t", "home/attic/light", "-m", "on"]);
    broker.publish(&["-t", "home/attic/temp", "-m", "22", "-q", "0"]);
    assert_eq!(wild.rest(), ["home/cellar/temp 9 1 1", "home/attic/temp 21 1 0", "home/attic/temp 22 0 0"]);
    assert_eq!(
        all.rest(),
        ["home/cellar/temp 9 0", "home/attic/temp 21 0", "home/attic/light on 0", "home/attic/temp 22 0"]
    );
    assert_eq!(broker.0.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}

#[test]
fn a_kept_session_gets_what_came_while_it_was_away_and_a_lost_client_has_a_last_will() {
    let broker = Broker::new();
    let kept = ["-t", "t", "-q", "1", "-c", "-i", "me"];
    let mut first = broker.subscribe(&[&kept[..], &["-C", "1"]].concat());
    broker.publish(&["-t", "t", "-m", "1", "-q", "1"]);
    assert!(first.child.wait().unwrap().success());
    let lines: String = (2..100).map(|n| format!("{n}\n")).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let mut many = broker.command(&["mosquitto_pub", "-t", "t", "-q", "1", "-l"]);
    Done::of(many.stdin(file.reopen().unwrap()).output().unwrap()).expect(0);
    // The queue of one who is away has a bound: 64.
    let second = broker.subscribe(&[&kept[..], &["-C", "64"]].concat());
    assert_eq!(second.rest(), (2..66).map(|n: u32| n.to_string()).collect::<Vec<_>>());

    let watcher = broker.subscribe(&["-t", "will", "-C", "1"]);
    // Ended from outside, so that it cannot say good-bye.
    let lost = ["-h", "10.65.0.1", "-t", "x", "--will-topic", "will", "--will-payload", "gone"];
    let killed = broker.0.firn([&["exec", "--", "timeout", "-s", "KILL", "1", "mosquitto_sub"], &lost[..]].concat());
    assert_ne!(killed.code, Some(0));
    assert_eq!(watcher.rest(), ["gone"]);
}

/// Messages for a client that is away fill what there is for them. Then the next one is not acknowledged; what needs no
/// memory goes on, and all of it comes back.
#[test]
fn a_broker_whose_memory_is_full_does_not_acknowledge_and_lives() {
    let broker = Broker::new();
    let me = |more: &[&str]| {
        let words = [&["mosquitto_sub", "-t", "big", "-q", "1", "-i", "me", "-E"], more].concat();
        Done::of(broker.command(&words).output().unwrap()).expect(0);
    };
    me(&["-c"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [7; 100_000]).unwrap();
    let path = file.path().to_str().unwrap();
    let big = || {
        let command =
            ["exec", "--", "timeout", "5", "mosquitto_pub", "-h", "10.65.0.1", "-t", "big", "-q", "1", "-f", path];
        broker.0.firn(command).code == Some(0)
    };
    let taken = (0..30).take_while(|_| big()).count();
    assert!((6..12).contains(&taken), "{taken} of 100,000 bytes, of 1,179,648");
    let small = broker.subscribe(&["-t", "small", "-C", "1", "-q", "1"]);
    broker.publish(&["-t", "small", "-m", "here", "-q", "1"]);
    assert_eq!(small.rest(), ["here"]);
    // A clean session of the same client forgets what waited for it.
    me(&[]);
    me(&["-c"]);
    assert!(big());
    assert_eq!(broker.0.firn(["down", "--format", "json"]).expect(0).json()["clean"], true);
}
