//! Chooses how the machine is executed: hardware virtualization only after the kernel's self-test passed under it,
//! else translation. A device that exists may still not run a kernel.

use crate::error::{Error, Result};
use crate::host;
use crate::machine::write_json;
use crate::project::Project;
use crate::qemu::{Accel, Kind, Setup, arguments};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use virtual_isa::bundle::exit_status;

/// How long the self-test may take. It takes well under a second where it works.
const WATCHDOG: Duration = Duration::from_secs(5);

/// What the emulator says when KVM gives up on the guest.
const INTERNAL_ERROR: &str = "internal error";

/// What the command line asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Wish {
    /// Hardware virtualization if it works, else translation.
    #[default]
    Auto,
    /// Hardware virtualization, untested.
    Kvm,
    /// Translation.
    Tcg,
}

/// What was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// How the machine is executed.
    pub accel: Accel,
    /// Why, to be said in one line.
    pub reason: String,
}

/// A result of the self-test, and for what it holds.
#[derive(Debug, Serialize, Deserialize)]
struct Cached {
    kernel: u32,
    boot: String,
    choice: Choice,
}

/// Chooses for a machine of this kind.
///
/// # Errors
/// `Io` if the kernel cannot be read.
pub fn choose(project: &Project, wish: Wish, kind: Kind) -> Result<Choice> {
    let asked = |accel| Choice { accel, reason: "as asked for".into() };
    match wish {
        Wish::Kvm => Ok(asked(Accel::Kvm)),
        Wish::Tcg => Ok(asked(Accel::Tcg)),
        Wish::Auto => automatic(project, kind),
    }
}

fn automatic(project: &Project, kind: Kind) -> Result<Choice> {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(host::KVM) {
        return Ok(Choice { accel: Accel::Tcg, reason: format!("{} cannot be opened: {error}", host::KVM) });
    }
    let path = project.kernel();
    let kernel = fs::read(&path).map_err(Error::io("read", &path))?;
    let kernel = virtual_isa::image::checksum(&kernel);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let cache = project.accel_cache();
    let cached = fs::read(&cache).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
    if let Some(cached) = cached.filter(|c| c.kernel == kernel && c.boot == boot) {
        return Ok(cached.choice);
    }
    let choice = match self_test(&path, kind, Accel::Kvm) {
        Ok(()) => Choice { accel: Accel::Kvm, reason: "the kernel's self-test passed under it".into() },
        Err(why) => Choice { accel: Accel::Tcg, reason: format!("the kernel's self-test failed under KVM: {why}") },
    };
    // Not being able to remember costs only time.
    let _ = write_json(&cache, &Cached { kernel, boot, choice: choice.clone() });
    Ok(choice)
}

/// Boots the kernel's self-test. Fails with what went wrong.
///
/// # Errors
/// What went wrong, to go into a sentence.
pub fn self_test(kernel: &Path, kind: Kind, accel: Accel) -> std::result::Result<(), String> {
    let program = host::qemu().map_err(|error| error.to_string())?;
    let setup = Setup {
        kind,
        accel,
        cpus: 1,
        counting: None,
        memory_bytes: 128 << 20,
        kernel: kernel.to_path_buf(),
        options: "selftest".into(),
        gdb: None,
    };
    let mut command = Command::new(program);
    command.args(arguments(&setup)).args(["-serial", "stdio", "-monitor", "none"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{} does not start: {e}", host::QEMU))?;
    let (sender, lines) = mpsc::channel();
    follow(child.stdout.take(), sender.clone());
    follow(child.stderr.take(), sender);
    let end = Instant::now() + WATCHDOG;
    let mut said = Vec::new();
    let is_late = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            // The emulator would stop and wait for somebody to look at it.
            Ok(line) if line.contains(INTERNAL_ERROR) => {
                said.push(line);
                break true;
            }
            Ok(line) => said.push(line),
            Err(RecvTimeoutError::Timeout) => break true,
            Err(RecvTimeoutError::Disconnected) => break false,
        }
    };
    if is_late {
        // If it has just ended, so much the better.
        let _ = child.kill();
    }
    let code = child.wait().ok().and_then(|status| status.code()).filter(|_| !is_late);
    if code == Some(i32::from(exit_status(0))) { Ok(()) } else { Err(explain(&said, code)) }
}

/// Sends the lines of an output until it ends.
fn follow(output: Option<impl Read + Send + 'static>, to: Sender<String>) {
    let Some(output) = output else { return };
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines();
        // Whoever no longer listens has heard enough.
        lines.map_while(std::result::Result::ok).take_while(|line| to.send(line.clone()).is_ok()).for_each(drop);
    });
}

/// The line of the output that tells most.
fn explain(said: &[String], code: Option<i32>) -> String {
    let telling = ["selftest failed", "panic:", INTERNAL_ERROR, "error", "qemu-system"];
    let line = telling.iter().find_map(|word| said.iter().find(|line| line.contains(word)));
    match (line, code) {
        (Some(line), _) => line.trim().to_owned(),
        (None, Some(code)) => format!("the emulator ended with status {code}"),
        (None, None) => format!("no end within {} s", WATCHDOG.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_line_is_given() {
        let explain = |said: &str, code| explain(&said.lines().map(str::to_owned).collect::<Vec<_>>(), code);
        let said = "noise\nKVM internal error. Suberror: 1\nmore error\n";
        assert_eq!(explain(said, None), "KVM internal error. Suberror: 1");
        assert_eq!(explain("", Some(1)), "the emulator ended with status 1");
        assert_eq!(explain("[ 0.1] info  firn\n", None), "no end within 5 s");
    }

    #[test]
    fn what_is_asked_for_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project {
            root: folder.path().into(),
            target: folder.path().into(),
            machines: folder.path().into(),
            own: None,
        };
        assert_eq!(choose(&project, Wish::Tcg, Kind::Microvm).unwrap().accel, Accel::Tcg);
        assert_eq!(choose(&project, Wish::Kvm, Kind::Q35).unwrap().accel, Accel::Kvm);
    }
}
