//! Chooses how the machine is executed: hardware virtualization only after the kernel's self-test passed under it,
//! else translation. A device that exists may still not run a kernel.

use crate::error::{Error, Result};
use crate::host;
use crate::machine::write_json;
use crate::project::Project;
use crate::qemu::{Accel, Kind, Setup, arguments};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use virtual_isa::bundle::exit_status;

/// How long the self-test may take. It takes well under a second where it works.
const WATCHDOG: Duration = Duration::from_secs(5);

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
        memory_bytes: 128 << 20,
        kernel: kernel.to_path_buf(),
        options: "selftest".into(),
    };
    let mut command = Command::new(program);
    command.args(arguments(&setup)).args(["-serial", "stdio", "-monitor", "none"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{} does not start: {e}", host::QEMU))?;
    let end = Instant::now() + WATCHDOG;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                // It is gone already, or it goes now.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let mut said = String::new();
    // What it said is short enough to have waited in the pipes.
    let _ = child.stdout.take().map(|mut out| out.read_to_string(&mut said));
    let _ = child.stderr.take().map(|mut err| err.read_to_string(&mut said));
    match status.and_then(|s| s.code()) {
        Some(code) if code == i32::from(exit_status(0)) => Ok(()),
        code => Err(explain(&said, code)),
    }
}

/// The line of the output that tells most.
fn explain(said: &str, code: Option<i32>) -> String {
    let telling = ["selftest failed", "panic:", "internal error", "error", "qemu-system"];
    let line = telling.iter().find_map(|word| said.lines().find(|line| line.contains(word)));
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
        assert_eq!(
            explain("noise\nKVM internal error. Suberror: 1\nmore error\n", None),
            "KVM internal error. Suberror: 1"
        );
        assert_eq!(explain("", Some(1)), "the emulator ended with status 1");
        assert_eq!(explain("[ 0.1] info  firn\n", None), "no end within 5 s");
    }

    #[test]
    fn what_is_asked_for_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let project =
            Project { root: folder.path().into(), target: folder.path().into(), machines: folder.path().into() };
        assert_eq!(choose(&project, Wish::Tcg, Kind::Microvm).unwrap().accel, Accel::Tcg);
        assert_eq!(choose(&project, Wish::Kvm, Kind::Q35).unwrap().accel, Accel::Kvm);
    }
}
