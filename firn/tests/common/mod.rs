//! What the tests that boot machines share.
#![allow(dead_code, reason = "each test program uses its own part of this")]

use firn::fleet::{Fleet, Service};
use firn::project::Project;
use firn::qemu::{Accel, Kind, Setup};
use firn::swap::{self, Swap};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use virtual_isa::gate::ClassTerms;
use virtual_isa::network::Network;

/// How long a machine without VMs may run.
const WATCHDOG: Duration = Duration::from_secs(60);

/// The workspace, with kernel, `supervisor`, `web` and the other guests built: by `scripts/test`, or now.
pub fn built() -> Project {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        if std::env::var_os("FIRN_PREBUILT").is_none() {
            let status = Command::new(env!("CARGO_BIN_EXE_firn")).arg("build").stdout(Stdio::null()).status().unwrap();
            assert!(status.success(), "firn build");
        }
    });
    Project::find(None).unwrap()
}

/// A machine that is not `firn up`'s: no network namespace, no disk.
pub fn boot(kind: Kind, options: &str, bundle: Option<&[u8]>) -> (i32, String) {
    boot_with_disk(kind, options, bundle, None)
}

/// The same with a disk of so many bytes.
pub fn boot_with_disk(kind: Kind, options: &str, bundle: Option<&[u8]>, disk: Option<u64>) -> (i32, String) {
    boot_on(kind, 1, options, bundle, disk)
}

/// The same on so many processors.
pub fn boot_on(kind: Kind, cpus: u32, options: &str, bundle: Option<&[u8]>, disk: Option<u64>) -> (i32, String) {
    boot_kernel(built().kernel(), kind, cpus, options, bundle, disk)
}

/// The VM of a bundle in place of the kernel.
pub fn boot_bare(kind: Kind, bundle: Option<&[u8]>) -> (i32, String) {
    boot_kernel(built().bare(), kind, 1, "", bundle, None)
}

fn boot_kernel(
    kernel: PathBuf,
    kind: Kind,
    cpus: u32,
    options: &str,
    bundle: Option<&[u8]>,
    disk: Option<u64>,
) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup {
        kind,
        accel: Accel::Tcg,
        cpus,
        counting: None,
        memory_bytes: 128 << 20,
        kernel,
        options: options.to_owned(),
        gdb: None,
    };
    let mut command = Command::new(firn::host::qemu().unwrap());
    command.args(firn::qemu::arguments(&setup)).args(["-monitor", "none", "-serial", "file:serial.log"]);
    command.current_dir(folder.path()).stdin(Stdio::null());
    if let Some(bundle) = bundle {
        std::fs::write(folder.path().join("bundle"), bundle).unwrap();
        command.args(["-initrd", "bundle"]);
    }
    if let Some(bytes) = disk {
        let disk = swap::create(folder.path(), Swap { bytes, iops: None }).unwrap();
        command.args(swap::arguments(kind, &disk));
    }
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + WATCHDOG;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("no end: {}", read(&folder.path().join("serial.log")));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    (status.code().unwrap_or(-1), read(&folder.path().join("serial.log")))
}

fn read(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}

/// The bundle of a fleet of one `web` service.
pub fn web_bundle() -> Vec<u8> {
    bundle(&fleet("web", 2))
}

/// A fleet of one service with VMs of this app.
pub fn fleet(app: &str, count: u32) -> Fleet {
    let service = Service {
        name: app.into(),
        image: built().image(app),
        first_vm: 1,
        count,
        memory_pages: 1024,
        minimum_pages: 0,
        shares: 100,
        terms: ClassTerms::DEFAULT,
        gateway: None,
        arguments: String::new(),
    };
    Fleet {
        file: "fleet.toml".into(),
        memory_bytes: 128 << 20,
        cpus: 1,
        swap: None,
        power_off_when_done: false,
        network: Network::default(),
        groups: Vec::new(),
        services: vec![service],
    }
}

/// The bundle of a fleet.
pub fn bundle(fleet: &Fleet) -> Vec<u8> {
    firn::bundle::encode(fleet, "test", &built().image("supervisor")).unwrap()
}

/// A port of this host that nobody uses.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder for the state of one test's machines, which end with it.
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    /// Makes the folder.
    pub fn new() -> Self {
        built();
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Where the state of machines is.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("machines")
    }

    /// Writes a fleet file.
    pub fn fleet(&self, text: &str) -> PathBuf {
        let file = self.folder.path().join("fleet.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Writes a fleet file with that many `web` VMs.
    pub fn web(&self, count: u32) -> PathBuf {
        self.fleet(&format!(
            "[machine]\nmemory = \"256M\"\n[[service]]\nname = \"web\"\nimage = \"web\"\ncount = {count}\nmemory = \"4M\"\n"
        ))
    }

    /// `firn` with this bench's state.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firn"));
        command.env("FIRN_STATE", self.state()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub fn firn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    /// Starts a machine, which must succeed.
    pub fn up(&self, fleet: &Path, more: &[&str]) -> Value {
        let mut arguments = vec!["up", fleet.to_str().unwrap(), "--accel", "tcg", "--format", "json"];
        arguments.extend(more);
        self.firn(arguments).expect(0).json()
    }

    /// Fetches a page from inside the machine's network.
    pub fn fetch(&self, name: &str, url: &str) -> String {
        self.firn(["exec", "--name", name, "--", "curl", "-sS", "--max-time", "10", url]).expect(0).out
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let machines = self.firn(["ps", "--format", "json"]);
        let machines: Value = serde_json::from_str(&machines.out).unwrap_or_default();
        for machine in machines.as_array().into_iter().flatten() {
            self.firn(["down", "--name", machine["name"].as_str().unwrap_or_default()]);
        }
    }
}

/// What a command left.
#[derive(Debug)]
pub struct Done {
    /// Its exit status.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Done {
    /// Of an output.
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Checks the exit status.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    /// Reads the standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err))
    }
}

/// The number at a place of a status.
pub fn number(status: &Value, name: &str) -> u64 {
    let value = status.pointer(name).unwrap_or_else(|| panic!("{name} is missing: {status}"));
    value.as_u64().unwrap_or_else(|| panic!("{name} is {value}"))
}
