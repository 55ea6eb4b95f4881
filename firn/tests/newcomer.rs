//! What a newcomer does: makes a project, builds it, runs it, asks it, tests it, changes it.

mod common;

use common::{Bench, Done, free_port};
use std::path::Path;
use std::process::Command;

/// A newcomer's terminal: `firn` in a folder.
struct Newcomer<'a> {
    bench: &'a Bench,
    folder: &'a Path,
}

impl Newcomer<'_> {
    fn firn(&self, arguments: &[&str]) -> Done {
        // Whatever runs this test has its own.
        let mut command = self.bench.command(arguments);
        command.current_dir(self.folder).env_remove("CARGO_TARGET_DIR");
        Done::of(command.output().unwrap())
    }

    fn curl(&self, port: u16) -> String {
        let url = format!("http://localhost:{port}/");
        Done::of(Command::new("curl").args(["-sS", "--max-time", "10", &url]).output().unwrap()).expect(0).out
    }
}

#[test]
fn from_nothing_to_an_answered_request() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let outside = Newcomer { bench: &bench, folder: folder.path() };
    outside.firn(&["new", "hello"]).expect(0);
    assert!(outside.firn(&["new", "hello"]).expect(2).err.contains("is there already"));
    let hello = folder.path().join("hello");
    let inside = Newcomer { bench: &bench, folder: &hello };
    assert!(inside.firn(&["run", "hello", "--no-build"]).expect(2).err.contains("firn build hello"));

    let built = inside.firn(&["build"]).expect(0).out;
    assert!(built.contains("hello/target/firn/images/hello.img: "), "{built}");
    let port = free_port();
    let publish = format!("{port}:80");
    let ran = inside.firn(&["run", "hello", "-p", &publish]).expect(0).out;
    assert!(ran.contains("1 VM started") && ran.contains(&format!("curl http://127.0.0.1:{port}/")), "{ran}");
    assert_eq!(inside.curl(port), "hello you from a VM of my own\n");

    // The same again is refused, and what would be done about it is said.
    assert!(inside.firn(&["run", "hello", "-p", &publish]).expect(2).err.contains("--replace"));
    assert!(inside.firn(&["exec", "--", "true"]).expect(2).err.contains("published ports"));
    let log = outside.firn(&["logs", "--no-follow", "hello"]).expect(0).out;
    assert!(log.lines().all(|line| line.starts_with("hello-1 ")) && log.contains("serving port 80"), "{log}");

    // A change, put in the old one's place from above the project.
    let source = hello.join("src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    let changed = text
        .replace("from a VM of my own", "from a better VM")
        .replace(r#"request.parameter("name").unwrap_or("you")"#, r#"request.parameter("name").map_or("you", fail)"#)
        + "\n#[inline(never)]\nfn fail(name: &str) -> &str {\n    panic!(\"{name} is not here\")\n}\n";
    std::fs::write(&source, changed).unwrap();
    outside.firn(&["run", "hello", "-p", &publish, "--replace"]).expect(0);
    assert_eq!(outside.curl(port), "hello you from a better VM\n");

    // It crashes, and says where.
    let bad = format!("http://localhost:{port}/hello/nobody");
    Command::new("curl").args(["-sS", "--max-time", "2", &bad]).output().unwrap();
    let log = outside.firn(&["logs", "--no-follow", "hello-1"]).expect(0).out;
    assert!(log.contains("nobody is not here") && log.contains("vm 1 ended: terminated with status 101"), "{log}");
    let call = log.lines().find(|line| line.contains(" hello::fail at ")).unwrap_or_else(|| panic!("{log}"));
    assert!(call.starts_with("hello-1 ") && call.contains("src/lib.rs:"), "{call}");
    assert!(outside.firn(&["down"]).expect(0).out.contains("powered off cleanly"));
}

#[test]
fn a_new_project_passes_its_own_test() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    Newcomer { bench: &bench, folder: folder.path() }.firn(&["new", "my-service"]).expect(0);
    // What this workspace has compiled, in its way, is not compiled again.
    let target = common::built().target;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["test", "--quiet"])
        .current_dir(folder.path().join("my-service"))
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    let tested = Done::of(cargo.output().unwrap()).expect(0);
    assert!(tested.out.contains("2 passed"), "{tested:?}");
}

#[test]
fn what_cannot_be_published_is_refused_before_anything_starts() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("{}:80", taken.local_addr().unwrap().port());
    let run = |more: &[&str]| bench.firn([&["run", "web", "--no-build"], more].concat()).expect(2).err;
    assert!(run(&["-p", &taken]).contains("choose another port"));
    assert!(run(&["-p", "8080:wbe:80"]).contains("the services are: web"));
    assert!(run(&["-p", "8081:80", "-p", "8081:81"]).contains("published twice"));
    assert!(run(&["-p", "8080:80", "--net", "tap"]).contains("--net tap"));
    assert!(run(&["-p", "8080"]).contains("8080:80"));
    assert!(run(&["--args", &"x".repeat(5000)]).contains("bytes of arguments"));
    assert!(bench.firn(["run", "no-such-app", "--no-build"]).expect(2).err.contains("firn build no-such-app"));
    assert!(bench.firn(["run", "no-such-app"]).expect(2).err.contains("the apps are: "));
    assert!(!bench.state().join("default").exists());
}
