//! The state of a machine that is up: a folder with what it boots from, its sockets, its log, and records of who
//! it is and how it ended.

use crate::error::{Error, Result};
use crate::net::{Mode, Published};
use crate::project::Project;
use crate::swap::SwapDisk;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use virtual_isa::bundle::{MAX_STATUS, PANIC_VALUE, debug_exit_value};
use virtual_isa::network::Network;

/// Name of a machine when none is given.
pub const DEFAULT_NAME: &str = "default";

/// Files in a machine's folder.
pub mod files {
    /// [`super::Record`], as JSON.
    pub const RECORD: &str = "machine.json";
    /// [`super::Ending`], as JSON, once the emulator has ended.
    pub const ENDING: &str = "ended.json";
    /// What the machine wrote to its serial line.
    pub const SERIAL_LOG: &str = "serial.log";
    /// The serial line's two pipes, as the emulator names them: this with `.in` and `.out`.
    pub const SERIAL_PIPES: &str = "serial";
    /// The pipe of what is typed.
    pub const SERIAL_IN: &str = "serial.in";
    /// The pipe of what is printed, which the holder empties into the log.
    pub const SERIAL_OUT: &str = "serial.out";
    /// The emulator's control socket.
    pub const QMP_SOCKET: &str = "qmp.sock";
    /// What the emulator itself printed.
    pub const EMULATOR_LOG: &str = "qemu.log";
    /// What the holder printed.
    pub const HOLDER_LOG: &str = "holder.log";
    /// The kernel it boots.
    pub const KERNEL: &str = "kernel";
    /// The bundle it boots with.
    pub const BUNDLE: &str = "bundle";
    /// The swap disk.
    pub const SWAP: &str = "swap";
    /// What leads gdb to it, if it may.
    pub const GDB_SCRIPT: &str = "debug.gdb";
    /// Held by whoever talks to the serial line.
    pub const SERIAL_LOCK: &str = "serial.lock";
}

/// A process, named so that another one with a recycled number is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl Process {
    /// The process that has this number now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self { pid, start_ticks: start_of(pid)? })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.start_ticks)
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        if self.is_alive() {
            // It may end in between; then there is nothing left to do.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
        }
    }
}

/// When a process started; `None` if it is gone or only waits to be collected.
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; after it come state (field 3) and start time (field 22).
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(start)
}

/// A service of a machine that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Its name.
    pub name: String,
    /// Its image's file.
    pub image: PathBuf,
    /// VMs.
    pub count: u32,
    /// Number of its first VM.
    pub first_vm: u32,
    /// Address of its first VM.
    pub first_ipv4: std::net::Ipv4Addr,
    /// Memory of each in bytes.
    pub memory_bytes: u64,
    /// What of it is kept for each, in bytes.
    #[serde(default)]
    pub minimum_bytes: u64,
    /// Weight of each.
    pub shares: u32,
    /// The name of their group.
    #[serde(default)]
    pub group: String,
    /// Processor time that is kept for each, in millionths of one processor.
    #[serde(default)]
    pub reservation_ppm: u32,
    /// Processor time each has at most; 0 for no limit.
    #[serde(default)]
    pub limit_ppm: u32,
    /// Frames each may send in a second; 0 for no limit.
    #[serde(default)]
    pub frames_per_s: u32,
    /// Bytes of frames each may send in a second; 0 for no limit.
    #[serde(default)]
    pub bytes_per_s: u32,
    /// The VM through which all their frames go, if there is one.
    #[serde(default)]
    pub gateway: Option<u32>,
    /// Arguments of each.
    pub arguments: String,
}

/// Who a machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its fleet file.
    pub fleet: PathBuf,
    /// The emulator's machine.
    pub machine: String,
    /// The accelerator.
    pub accel: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Whether its time counts its instructions.
    #[serde(default)]
    pub is_counted: bool,
    /// Its swap disk, if it has one.
    #[serde(default)]
    pub swap: Option<SwapDisk>,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: u64,
    /// The process that holds its network namespace and waits for the emulator.
    pub holder: Process,
    /// The emulator.
    pub qemu: Process,
    /// Whether the network namespace lies in a user namespace of its own.
    pub user_namespace: bool,
    /// How its VMs are reached.
    #[serde(default)]
    pub net: Mode,
    /// Ports of this host that lead to VMs.
    #[serde(default)]
    pub published: Vec<Published>,
    /// Port of this host at which a debugger finds it.
    #[serde(default)]
    pub gdb: Option<u16>,
    /// The addresses.
    pub network: Network,
    /// VMs, without the supervisor.
    pub vms: u32,
    /// The services.
    pub services: Vec<ServiceRecord>,
}

/// How the emulator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Its exit status, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
}

/// What an [`Ending`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The machine powered itself off with this status; 0 is success.
    PoweredOff(u8),
    /// The kernel panicked.
    Panicked,
    /// The machine was reset, or the emulator was told to quit.
    Reset,
    /// The emulator failed with this status.
    EmulatorFailed(i32),
    /// The emulator was ended by this signal.
    Killed(i32),
    /// Nobody was there to see it.
    Unknown,
}

impl Ending {
    /// What it means.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        let Some(code) = self.code else { return self.signal.map_or(Meaning::Unknown, Meaning::Killed) };
        let value = u8::try_from(code >> 1).ok().filter(|_| code & 1 == 1);
        match value {
            _ if code == 0 => Meaning::Reset,
            Some(PANIC_VALUE) => Meaning::Panicked,
            Some(v) if (debug_exit_value(0)..=debug_exit_value(MAX_STATUS)).contains(&v) => {
                Meaning::PoweredOff(v - debug_exit_value(0))
            }
            _ => Meaning::EmulatorFailed(code),
        }
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff(0) => f.write_str("powered off cleanly"),
            Self::PoweredOff(status) => write!(f, "powered off with status {status}"),
            Self::Panicked => f.write_str("the kernel panicked"),
            Self::Reset => f.write_str("was reset (a triple fault, or the emulator was told to quit)"),
            Self::EmulatorFailed(status) => write!(f, "the emulator failed with status {status}"),
            Self::Killed(signal) => write!(f, "the emulator was killed by signal {signal}"),
            Self::Unknown => f.write_str("ended, nobody saw how"),
        }
    }
}

/// A machine's folder and who it is.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The folder.
    pub folder: PathBuf,
    /// Who it is.
    pub record: Record,
}

impl Machine {
    /// The machine of that name, up or ended but not yet cleared away.
    ///
    /// # Errors
    /// `NoMachine`.
    pub fn open(project: &Project, name: &str) -> Result<Self> {
        let folder = project.machines.join(name);
        let record = read_json(&folder.join(files::RECORD)).filter(|_| crate::project::check_name(name).is_ok());
        record.map(|record| Self { folder, record }).ok_or_else(|| Error::NoMachine { name: name.to_owned() })
    }

    /// The machine of that name, if it is up.
    ///
    /// # Errors
    /// `NoMachine`, or `Failed` if it has ended.
    pub fn open_alive(project: &Project, name: &str) -> Result<Self> {
        let machine = Self::open(project, name)?;
        if machine.is_alive() {
            return Ok(machine);
        }
        let problem = format!("machine {name:?} has ended: {}", machine.meaning());
        Err(Error::failed(
            problem,
            format!("`firn logs --name {name}` shows why, `firn down --name {name}` clears it away"),
        ))
    }

    /// All machines, by name.
    #[must_use]
    pub fn all(project: &Project) -> Vec<Self> {
        let folders = fs::read_dir(&project.machines).into_iter().flatten().flatten();
        let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
        let mut machines: Vec<_> = names.filter_map(|name| Self::open(project, &name).ok()).collect();
        machines.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        machines
    }

    /// Whether its emulator runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.record.qemu.is_alive()
    }

    /// How it ended, as far as anybody saw. Meaningless while it is alive.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        ending(&self.folder).map_or(Meaning::Unknown, |e| e.meaning())
    }

    /// A file of its folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// How the machine of a folder ended, once it has.
#[must_use]
pub fn ending(folder: &Path) -> Option<Ending> {
    read_json(&folder.join(files::ENDING))
}

/// The log of the last machine of that name, kept when its folder is cleared away.
#[must_use]
pub fn kept_log(project: &Project, name: &str) -> PathBuf {
    project.machines.join(format!(".last-{name}.log"))
}

/// Removes a machine's folder but keeps its log.
///
/// # Errors
/// `Io`.
pub fn clear_away(project: &Project, name: &str) -> Result<()> {
    let folder = project.machines.join(name);
    // There may be no log, and an older one is better than none.
    let _ = fs::rename(folder.join(files::SERIAL_LOG), kept_log(project, name));
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &folder)(error)),
        _ => Ok(()),
    }
}

/// Keeps others from starting or ending a machine of that name, as long as the result lives.
///
/// # Errors
/// `Io`, `Failed` if another command is at it.
pub fn lock(project: &Project, name: &str) -> Result<File> {
    fs::create_dir_all(&project.machines).map_err(Error::io("create", &project.machines))?;
    let path = project.machines.join(format!(".{name}.lock"));
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    file.try_lock().map_err(|_| {
        Error::failed(format!("another firn command is starting or ending machine {name:?}"), "wait until it is done")
    })?;
    Ok(file)
}

fn read_json<T: for<'a> Deserialize<'a>>(file: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// Writes a record as JSON, in one step.
///
/// # Errors
/// `Io`.
pub fn write_json<T: Serialize>(file: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| Error::io("encode", file)(e.into()))?;
    crate::image::replace(file, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtual_isa::bundle::exit_status;

    #[test]
    fn exit_statuses_have_meanings() {
        let of = |code| Ending { code: Some(code), signal: None }.meaning();
        assert_eq!(of(i32::from(exit_status(0))), Meaning::PoweredOff(0));
        assert_eq!(of(i32::from(exit_status(62))), Meaning::PoweredOff(62));
        assert_eq!(of(255), Meaning::Panicked);
        assert_eq!(of(0), Meaning::Reset);
        assert_eq!(of(1), Meaning::EmulatorFailed(1));
        assert_eq!(of(34), Meaning::EmulatorFailed(34));
        assert_eq!(Ending { code: None, signal: Some(9) }.meaning(), Meaning::Killed(9));
    }

    #[test]
    fn a_recycled_number_is_another_process() {
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!Process { start_ticks: me.start_ticks + 1, ..me }.is_alive());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive());
        process.signal(nix::sys::signal::Signal::SIGKILL);
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn names_do_not_lead_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project {
            root: folder.path().into(),
            target: folder.path().into(),
            machines: folder.path().join("m"),
            own: None,
        };
        assert!(matches!(Machine::open(&project, "../x"), Err(Error::NoMachine { .. })));
        let held = lock(&project, "a").unwrap();
        assert!(lock(&project, "a").is_err());
        drop(held);
        assert!(lock(&project, "a").is_ok());
    }
}
