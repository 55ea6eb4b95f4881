//! A debugger's port: a breakpoint in one VM, as the script that `--gdb` writes sets it, spoken in gdb's own protocol; and
//! with gdb, where it is installed.

mod common;

use common::{Bench, Done, built, free_port};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the register page has the number of its VM.
const VM_AT: u64 = 0x1_000c;

/// A connection to the machine's stub.
struct Stub(TcpStream);

impl Stub {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        write!(self.0, "${packet}#{sum:02x}").unwrap();
    }

    /// The next packet; acknowledged, and without its frame.
    fn receive(&mut self) -> String {
        let mut byte = || {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            char::from(byte[0])
        };
        while byte() != '$' {}
        let packet: String = std::iter::from_fn(|| Some(byte()).filter(|c| *c != '#')).collect();
        let _checksum = [byte(), byte()];
        self.0.write_all(b"+").unwrap();
        packet
    }

    /// Asks something that is answered at once. That the machine has stopped is said whenever it does.
    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        loop {
            let answer = self.receive();
            if !answer.starts_with('T') {
                return answer;
            }
        }
    }

    /// Lets the machine go on from a breakpoint until it stops there again.
    fn go_on(&mut self, address: u64) {
        assert_eq!(self.ask(&format!("z0,{address:x},1")), "OK");
        self.resume("s");
        assert_eq!(self.ask(&format!("Z0,{address:x},1")), "OK");
        self.resume("c");
    }

    fn resume(&mut self, how: &str) {
        self.send(how);
        while !self.receive().starts_with('T') {}
    }

    /// A word of the memory that the processor sees now.
    fn word(&mut self, address: u64) -> u32 {
        let hex = self.ask(&format!("m{address:x},4"));
        u32::from_str_radix(&hex, 16).unwrap_or_else(|_| panic!("{hex}")).swap_bytes()
    }
}

/// The address of a function of `web` that every request runs through.
fn write_head() -> u64 {
    let symbols = std::fs::read_to_string(built().image("web").with_extension("sym")).unwrap();
    let line = symbols.lines().find(|line| line.contains("response") && line.contains("write_head")).unwrap();
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
}

/// A machine with a debugger's port and two VMs of `web`, each at a port of this host.
struct Debugged {
    bench: Bench,
    gdb: u16,
    ports: [u16; 2],
    up: Value,
}

impl Debugged {
    fn new() -> Self {
        let bench = Bench::new();
        let service = |name| format!("[[service]]\nname = \"{name}\"\nimage = \"web\"\ncount = 1\nmemory = \"4M\"\n");
        let fleet = bench.fleet(&["a", "b"].map(service).concat());
        let (gdb, ports) = (free_port(), [free_port(), free_port()]);
        let [a, b] = [format!("{}:a:80", ports[0]), format!("{}:b:80", ports[1])];
        let up = bench.up(&fleet, &["--gdb", &gdb.to_string(), "-p", &a, "-p", &b]);
        Self { bench, gdb, ports, up }
    }

    /// A command that asks VM 1 or 2, a while from now: a machine that stands still loses packets.
    fn request(&self, vm: usize) -> String {
        format!("sleep 0.5; curl -sS --max-time 60 http://127.0.0.1:{}/", self.ports[vm - 1])
    }
}

#[test]
fn a_breakpoint_stops_vms_that_their_register_pages_tell_apart() {
    let debugged = Debugged::new();
    let mut stub = Stub::connect(debugged.gdb);
    assert!(stub.ask("qC").starts_with("QC"), "it has stopped, and says in which processor");
    let address = write_head();
    assert_eq!(stub.ask(&format!("Z0,{address:x},1")), "OK");
    let mut waiting = Vec::new();
    for vm in [1, 2] {
        let request = debugged.request(vm as usize);
        waiting.push(Command::new("sh").args(["-c", &request]).stdout(Stdio::piped()).spawn().unwrap());
        // The text is shared, and other images have other text there: only the number says who it is.
        loop {
            stub.go_on(address);
            if stub.word(VM_AT) == vm {
                break;
            }
        }
    }
    assert_eq!(stub.ask(&format!("z0,{address:x},1")), "OK");
    assert_eq!(stub.ask("D"), "OK");
    for curl in waiting {
        assert_eq!(Done::of(curl.wait_with_output().unwrap()).expect(0).out.len(), 128);
    }
    let port = debugged.gdb.to_string();
    let taken = debugged.bench.firn(["run", "web", "--no-build", "--name", "b", "--gdb", &port]).expect(2);
    assert!(taken.err.contains("--gdb: cannot use port"), "{}", taken.err);
}

#[test]
fn gdb_follows_the_script() {
    if firn::host::find_program("gdb").is_none() {
        eprintln!("gdb is not installed: its protocol is tested by the other test");
        return;
    }
    let debugged = Debugged::new();
    let script = debugged.up["gdb_script"].as_str().unwrap();
    let commands = debugged.bench.state().join("commands");
    let address = write_head();
    let curl = [1, 2].map(|vm| format!("({}) >/dev/null &", debugged.request(vm))).join(" ");
    let lines = format!(
        "firn-break 2 *{address:#x}\nshell {curl}\ncontinue\nfirn-vm\ninfo symbol $pc\nfirn-symbols-supervisor\ndetach\n"
    );
    std::fs::write(&commands, lines).unwrap();
    let output =
        Command::new("timeout").args(["100", "gdb", "-q", "-batch", "-x", script, "-x"]).arg(&commands).output();
    let said = Done::of(output.unwrap());
    assert!(said.out.contains("$1 = 2") && said.out.contains("write_head"), "{said:?}");
}
