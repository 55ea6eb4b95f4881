//! A machine, through the program `firn`: started, asked, and ended whatever happens.

use serde::Deserialize;
use serde_json::Value;
use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a process or a machine is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How often it is looked whether the machine is still up while it is worked on.
const LOOK: Duration = Duration::from_secs(2);

/// How long a `firn up` that is told to stop may take to get to where its machine can be ended.
const ABORT: Duration = Duration::from_secs(20);

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// Bad input or something that this host lacks; nothing was started.
    BadInput(String),
    /// Something failed.
    Failed(String),
    /// It was told to stop.
    Interrupted,
}

impl Failure {
    /// Something failed.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadInput(what) | Self::Failed(what) => f.write_str(what),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Failure {}

/// The program `firn`, one machine's name, and whether to stop.
#[derive(Clone, Copy)]
pub struct Firn<'a> {
    /// The program.
    pub program: &'a Path,
    /// Name of the machine.
    pub name: &'a str,
    /// Set when all is to end.
    pub stop: &'a AtomicBool,
    /// Whether what it says is kept back unless it fails.
    pub is_silent: bool,
}

/// A process under way whose output is being read.
pub struct Task {
    what: String,
    child: Child,
    output: Option<JoinHandle<Vec<u8>>>,
    /// What it says to people, if that is kept back.
    complaints: Option<JoinHandle<Vec<u8>>>,
}

/// Reads a pipe to its end.
fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// How a process ended, and what it printed.
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: Vec<u8>,
}

/// What `firn` says of a machine that is up.
#[derive(Clone, Debug, Deserialize)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// `up`, or how it ended.
    pub state: String,
    /// When the emulator started, in milliseconds since 1970.
    pub started_ms: u64,
    /// The emulated machine.
    pub machine: String,
    /// The accelerator.
    pub accel: String,
    /// Its services.
    pub services: Vec<Service>,
}

/// A service of a machine.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// Number of its first VM.
    pub first_vm: u32,
    /// Address of its first VM.
    pub first_ipv4: Ipv4Addr,
}

impl Task {
    /// Starts a process in a group of its own: an interrupt typed at the terminal is for this program, which ends
    /// its children in order.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(what: &str, command: &mut Command) -> Result<Self, Failure> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| Failure::failed(format!("cannot run {}: {error}", command.get_program().display())))?;
        let output = child.stdout.take().map(read_all);
        let complaints = child.stderr.take().map(read_all);
        Ok(Self { what: what.to_owned(), child, output, complaints })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, or ends it when all is to end.
    ///
    /// # Errors
    /// [`Failure::Interrupted`].
    pub fn wait(mut self, stop: &AtomicBool) -> Result<Ended, Failure> {
        while !self.has_ended() {
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
            std::thread::sleep(POLL);
        }
        let status = self.child.wait().map_err(|error| Failure::failed(format!("{}: {error}", self.what)))?;
        let output = self.output.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        // Not waited for otherwise: a program that it has left running may hold the other end.
        if let Some(reader) = self.complaints.take().filter(|_| !status.success()) {
            let _ = std::io::stderr().write_all(&reader.join().unwrap_or_default());
        }
        Ok(Ended { status, output })
    }

    /// Waits for its end as long as the machine that it works on is up.
    ///
    /// # Errors
    /// [`Failure::Interrupted`], and if the machine has ended before.
    pub fn wait_with(mut self, firn: &Firn<'_>) -> Result<Ended, Failure> {
        loop {
            let look_again = Instant::now() + LOOK;
            while Instant::now() < look_again {
                if self.has_ended() || firn.stop.load(Ordering::Relaxed) {
                    return self.wait(firn.stop);
                }
                std::thread::sleep(POLL);
            }
            if firn.find()?.is_none() {
                let log = format!("{} logs --name {}", program(firn.program), firn.name);
                return Err(Failure::failed(format!("the machine has ended under {}; {log} shows why", self.what)));
            }
        }
    }

    /// Waits for its end, which must be a good one.
    ///
    /// # Errors
    /// With its exit status if it is 2 (bad input), else 1; it has said why itself.
    pub fn succeed(self, stop: &AtomicBool) -> Result<Vec<u8>, Failure> {
        let what = self.what.clone();
        let Ended { status, output } = self.wait(stop)?;
        match status.code() {
            Some(0) => Ok(output),
            Some(2) => Err(Failure::BadInput(format!("{what} refused"))),
            _ => Err(Failure::failed(format!("{what} failed ({status})"))),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.has_ended() {
            // It may end by itself at this moment; then there is nothing to kill.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl<'a> Firn<'a> {
    /// `firn` with these arguments, to be started.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(self.program);
        command.args(arguments);
        if self.is_silent {
            command.stderr(Stdio::piped());
        }
        command
    }

    /// Runs `firn` with these arguments and returns what it printed.
    ///
    /// # Errors
    /// As [`Task::succeed`].
    pub fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, Failure> {
        let what = format!("firn {}", arguments.first().unwrap_or(&""));
        Task::start(&what, &mut self.command(arguments))?.succeed(self.stop)
    }

    /// The machine, if it is up.
    ///
    /// # Errors
    /// If `firn` does not say.
    pub fn find(&self) -> Result<Option<Machine>, Failure> {
        // To be asked also when all is to end.
        let never = AtomicBool::new(false);
        let output = Task::start("firn ps", &mut self.command(&["ps", "--format", "json"]))?.succeed(&never)?;
        let machines: Vec<Machine> = serde_json::from_slice(&output)
            .map_err(|error| Failure::failed(format!("firn ps answers what is not understood: {error}")))?;
        Ok(machines.into_iter().find(|machine| machine.name == self.name && machine.state == "up"))
    }

    /// State and counters of the machine, as the supervisor sees them.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> Result<Value, Failure> {
        let output = self.run(&["status", "--name", self.name, "--format", "json"])?;
        serde_json::from_slice(&output)
            .map_err(|error| Failure::failed(format!("firn status answers what is not understood: {error}")))
    }

    /// Gives the supervisor a command, and returns what it answers.
    ///
    /// # Errors
    /// If it refuses, or does not answer in time.
    pub fn ask(&self, words: &[&str], timeout: Duration) -> Result<String, Failure> {
        let timeout = timeout.as_secs().max(1).to_string();
        let output = self.run(&[&["ask", "--name", self.name, "--timeout", &timeout], words].concat())?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    /// Waits.
    ///
    /// # Errors
    /// [`Failure::Interrupted`].
    pub fn pause(&self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
            std::thread::sleep(POLL.min(time));
        }
        Ok(())
    }

    /// Checks that no machine of that name is up: another one would disturb it.
    ///
    /// # Errors
    /// If there is one, with how to end it.
    pub fn check_is_down(&self) -> Result<(), Failure> {
        if self.find()?.is_none() {
            return Ok(());
        }
        let down = format!("{} down --name {}", program(self.program), self.name);
        Err(Failure::BadInput(format!("a machine {:?} is up already; end it with: {down}", self.name)))
    }

    /// The machine's log, or nothing.
    #[must_use]
    pub fn log(&self) -> String {
        let output = self.run(&["logs", "--no-follow", "--name", self.name]).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }
}

/// The machine while it is being started and as long as it is up: ends it when dropped.
pub struct Running<'a> {
    firn: Firn<'a>,
    up: Option<Task>,
    is_up: bool,
}

impl<'a> Running<'a> {
    /// Starts it, with further options of `firn up`.
    ///
    /// # Errors
    /// If `firn up` cannot be started.
    pub fn start(firn: Firn<'a>, fleet: &Path, options: &[&str]) -> Result<Self, Failure> {
        let mut command = firn.command(&["up"]);
        command.arg(fleet).args(["--name", firn.name, "--format", "json"]).args(options);
        Ok(Self { firn, up: Some(Task::start("firn up", &mut command)?), is_up: true })
    }

    /// Waits until the emulator runs. The VMs may not have been started yet.
    ///
    /// # Errors
    /// If `firn up` fails before.
    pub fn wait_for_emulator(&mut self) -> Result<Machine, Failure> {
        loop {
            if self.firn.stop.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
            if let Some(machine) = self.firn.find()? {
                return Ok(machine);
            }
            if self.up.as_mut().is_none_or(Task::has_ended) {
                self.wait_for_start()?;
                return Err(Failure::failed("the machine ended as soon as its VMs had been started"));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until all VMs have been started. Returns what `firn up` says of them.
    ///
    /// # Errors
    /// If `firn up` fails; then nothing is left running.
    pub fn wait_for_start(&mut self) -> Result<Value, Failure> {
        let Some(up) = self.up.take() else { return Ok(Value::Null) };
        let what = up.what.clone();
        // If all is to end, dropping the task kills `firn up`, and what it has started is ended with the machine.
        let output = up.succeed(self.firn.stop).inspect_err(|failure| {
            self.is_up = matches!(failure, Failure::Interrupted);
        })?;
        serde_json::from_slice(&output)
            .map_err(|error| Failure::failed(format!("{what} answers what is not understood: {error}")))
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it does not power itself off cleanly.
    pub fn end(mut self) -> Result<(), Failure> {
        self.is_up = false;
        // Its end is to be seen also when all is to end.
        let never = AtomicBool::new(false);
        let mut command = self.firn.command(&["down", "--name", self.firn.name, "--format", "json"]);
        let ended = Task::start("firn down", &mut command)?.wait(&never)?;
        if ended.status.success() {
            return Ok(());
        }
        let answer: Value = serde_json::from_slice(&ended.output).unwrap_or_default();
        Err(Failure::failed(format!("the machine did not end cleanly: {}", answer["ending"].as_str().unwrap_or("?"))))
    }

    /// Leaves it running.
    pub fn keep(mut self) {
        self.is_up = false;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.is_up {
            return;
        }
        // `firn up` must not be ended between starting the emulator and writing down that it has.
        let end = Instant::now() + ABORT;
        while let Some(up) = &mut self.up {
            if up.has_ended() || matches!(self.firn.find(), Ok(Some(_))) || Instant::now() >= end {
                self.up = None;
            } else {
                std::thread::sleep(POLL);
            }
        }
        let mut command = self.firn.command(&["down", "--name", self.firn.name]);
        let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).status();
        if !ended.is_ok_and(|status| matches!(status.code(), Some(0..=2))) {
            eprintln!(
                "warning: the machine may still be up; end it with: {} down --name {}",
                program(self.firn.program),
                self.firn.name
            );
        }
    }
}

/// A count of the machine's state, wherever in it.
#[must_use]
pub fn counter(status: &Value, name: &str) -> Option<f64> {
    match status {
        Value::Object(fields) => match fields.get(name) {
            Some(value) => value.as_f64(),
            None => fields.values().find_map(|value| counter(value, name)),
        },
        _ => None,
    }
}

/// How to call a program, for people.
#[must_use]
pub fn program(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let short: PathBuf = path.strip_prefix(here).map_or_else(|_| path.to_path_buf(), |rest| Path::new(".").join(rest));
    short.display().to_string()
}
