//! The process that holds a machine, and its network namespace if it has one: it makes the namespace, starts the emulator,
//! waits for its end and writes down how it ended. It is this program itself, started by `firn up` with a hidden
//! command, and lives in the background as long as the machine does.

use crate::error::{Error, Result};
use crate::machine::{Ending, Process, files, write_json};
use crate::{host, namespace, swap};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use virtual_isa::network::Network;

/// Name of the hidden command.
pub const COMMAND: &str = "hold";

/// What the holder is to do: one line of JSON on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// The namespace's addresses, if there is to be one.
    network: Option<Network>,
    arguments: Vec<OsString>,
}

/// What it answers, on its standard output.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Started { qemu: Process, user_namespace: bool },
    Missing { what: String, remedy: String },
    Failed { problem: String, remedy: String },
}

/// A machine that has been started.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// The holder.
    pub holder: Process,
    /// The emulator.
    pub qemu: Process,
    /// Whether there is a user namespace.
    pub user_namespace: bool,
}

/// Starts a holder, and through it the emulator with these arguments, in a machine's folder; in a network namespace if
/// there are addresses for it.
///
/// # Errors
/// `Missing` if this host or user lacks something, `Failed` if the emulator does not start.
pub fn start(folder: &Path, network: Option<&Network>, arguments: Vec<OsString>) -> Result<Started> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Error::failed(format!("{what}: {error}"), "");
    let program = std::env::current_exe().map_err(|e| failed("cannot find this program", &e))?;
    let log = folder.join(files::HOLDER_LOG);
    let log = File::create(&log).map_err(Error::io("create", &log))?;
    let mut command = Command::new(program);
    command.arg(COMMAND).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().map_err(|e| failed("cannot start the machine's holder", &e))?;
    let holder = Process::of(child.id());
    let answer = converse(&mut child, &Order { network: network.copied(), arguments });
    match (answer, holder) {
        (Ok(Answer::Started { qemu, user_namespace }), Some(holder)) => Ok(Started { holder, qemu, user_namespace }),
        (Ok(Answer::Missing { what, remedy }), _) => Err(Error::Missing { what, remedy }),
        (Ok(Answer::Failed { problem, remedy }), _) => Err(Error::Failed { problem, remedy }),
        (Ok(Answer::Started { .. }), None) => Err(Error::failed("the machine's holder ended at once", "")),
        (Err(error), _) => Err(failed("the machine's holder does not answer", &error)),
    }
}

fn converse(child: &mut Child, order: &Order) -> std::io::Result<Answer> {
    if let Some(mut input) = child.stdin.take() {
        serde_json::to_writer(&mut input, order)?;
        input.write_all(b"\n")?;
    }
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    Ok(serde_json::from_str(&line)?)
}

/// The holder's whole life, in the current folder. Returns when the emulator has ended.
///
/// # Errors
/// `Io` if it cannot tell anybody how things went.
pub fn run() -> Result<()> {
    let here = Path::new(".");
    // Of a terminal that is closed, or an interrupt typed there, the machine shall not know. This fails only for
    // the first process of a group, which a child is not.
    let _ = nix::unistd::setsid();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(Error::io("read", Path::new("standard input")))?;
    let order: Order = serde_json::from_str(&line).map_err(|e| Error::Argument {
        argument: COMMAND,
        problem: format!("not an order: {e}"),
        remedy: "this command is for `firn up` only".into(),
    })?;
    match begin(order) {
        Ok((mut qemu, log, answer)) => {
            say(&answer)?;
            let status = qemu.wait().map_err(Error::io("wait for the emulator in", here))?;
            log.finish()?;
            swap::remove(here)?;
            let ending = Ending { code: status.code(), signal: status.signal() };
            write_json(&here.join(files::ENDING), &ending)
        }
        Err(Error::Missing { what, remedy }) => say(&Answer::Missing { what, remedy }),
        Err(Error::Failed { problem, remedy }) => say(&Answer::Failed { problem, remedy }),
        Err(other) => say(&Answer::Failed { problem: other.to_string(), remedy: String::new() }),
    }
}

/// What empties the pipe of the serial line into the log.
///
/// The emulator hands over one byte at a time. A pipe packs them, and somebody is always there to take them, so that
/// it never finds the way blocked: it then would print a byte twice, or lose it.
struct SerialLog {
    copier: JoinHandle<std::io::Result<u64>>,
    /// As long as this is open the pipe has no end.
    writer: File,
}

impl SerialLog {
    /// Makes the pipes, and begins.
    fn start() -> Result<Self> {
        for path in [files::SERIAL_IN, files::SERIAL_OUT].map(Path::new) {
            let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
            nix::unistd::mkfifo(path, mode).map_err(|e| Error::io("create", path)(e.into()))?;
        }
        let path = Path::new(files::SERIAL_OUT);
        let failed = Error::io("open", path);
        // Open for both, so that it waits for nobody; then for each alone.
        let both = File::options().read(true).write(true).open(path);
        let ends = both.and_then(|both| {
            let ends = (File::open(path)?, File::options().write(true).open(path)?);
            drop(both);
            Ok(ends)
        });
        let (mut reader, writer) = ends.map_err(failed)?;
        let log = Path::new(files::SERIAL_LOG);
        let mut log = File::create(log).map_err(Error::io("create", log))?;
        let copier = std::thread::spawn(move || std::io::copy(&mut reader, &mut log));
        Ok(Self { copier, writer })
    }

    /// Waits until all that was printed is in the log. The emulator must have ended.
    fn finish(self) -> Result<()> {
        drop(self.writer);
        let copied = self.copier.join().unwrap_or_else(|_| Err(std::io::Error::other("the copier panicked")));
        copied.map(|_| ()).map_err(Error::io("write", Path::new(files::SERIAL_LOG)))
    }
}

fn begin(order: Order) -> Result<(Child, SerialLog, Answer)> {
    // While there is one thread only.
    let mut user_namespace = false;
    if let Some(network) = &order.network {
        user_namespace = namespace::create()?;
        namespace::set_up(network)?;
    }
    let serial = SerialLog::start()?;
    let log = File::create(files::EMULATOR_LOG).map_err(Error::io("create", Path::new(files::EMULATOR_LOG)))?;
    let errors = log.try_clone().map_err(Error::io("share", Path::new(files::EMULATOR_LOG)))?;
    let mut command = Command::new(host::qemu()?);
    command.args(order.arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = command.spawn().map_err(|e| Error::failed(format!("cannot start {}: {e}", host::QEMU), ""))?;
    let qemu = Process::of(child.id()).ok_or_else(|| Error::failed(format!("{} ended at once", host::QEMU), ""))?;
    Ok((child, serial, Answer::Started { qemu, user_namespace }))
}

fn say(answer: &Answer) -> Result<()> {
    let to = Path::new("standard output");
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer).map_err(|e| Error::io("write", to)(e.into()))?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(Error::io("write", to))
}
