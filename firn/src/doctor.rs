//! `firn doctor`: what this host lacks, each with the command that mends it.

use crate::error::Error;
use crate::project::Project;
use crate::qemu::Accel;
use crate::{accel, builder, host, qemu};
use serde::Serialize;
use std::process::Command;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is there.
    pub is_there: bool,
    /// Whether Firn works without it.
    pub is_optional: bool,
    /// What was found.
    pub found: String,
    /// How to get it; empty if it is there.
    pub remedy: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, is_there: true, is_optional: false, found: found.into(), remedy: String::new() }
    }

    fn lacks(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, is_there: false, is_optional: false, found: found.into(), remedy: remedy.into() }
    }

    fn of(name: &'static str, result: Result<String, Error>) -> Self {
        match result {
            Ok(found) => Self::ok(name, found),
            Err(Error::Missing { what, remedy }) => Self::lacks(name, what, remedy),
            Err(other) => Self::lacks(name, other.to_string(), ""),
        }
    }
}

/// Looks at everything.
#[must_use]
pub fn examine(project: &Project) -> Vec<Check> {
    let toolchain = toolchain(project);
    let mut checks = vec![
        Check::of("emulator", host::qemu().map(|file| first_line(Command::new(file).arg("--version")))),
        user_network(),
        Check::of("iproute2", host::iproute().map(|file| file.display().to_string())),
        Check::of("tun", host::tun().map(|()| format!("{} can be opened", host::TUN))),
        namespaces(),
        c_linker(),
    ];
    checks.extend(toolchain);
    checks.push(virtualization(project));
    checks
}

/// Whether nothing is lacking that is needed.
#[must_use]
pub fn is_healthy(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.is_there || check.is_optional)
}

/// For people.
#[must_use]
pub fn text(checks: &[Check]) -> String {
    let mut rows = Vec::new();
    for check in checks {
        let mark = match (check.is_there, check.is_optional) {
            (true, _) => "ok",
            (false, true) => "no",
            (false, false) => "LACKS",
        };
        rows.push(vec![mark.to_owned(), check.name.to_owned(), check.found.clone()]);
        if !check.remedy.is_empty() {
            rows.push(vec![String::new(), String::new(), format!("mend: {}", check.remedy)]);
        }
    }
    crate::table::columns(&rows)
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|out| out.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("it does not run").to_owned()
}

/// Asks the emulator whether it can publish ports.
fn user_network() -> Check {
    let name = "user-network";
    let Ok(qemu) = host::qemu() else { return Check::lacks(name, "there is no emulator", "") };
    let kinds = Command::new(qemu).args(["-netdev", "help"]).output().map(|output| output.stdout).unwrap_or_default();
    if String::from_utf8_lossy(&kinds).lines().any(|line| line.trim() == "user") {
        Check::ok(name, "the emulator can publish ports")
    } else {
        Check::lacks(
            name,
            "this emulator was built without libslirp and cannot publish ports",
            host::install("qemu-system-x86"),
        )
    }
}

/// Tries what a machine's holder will do, in a process of its own.
fn namespaces() -> Check {
    let name = "namespaces";
    let Some(unshare) = host::find_program("unshare") else {
        return Check::lacks(name, "`unshare` is not installed", host::install("util-linux"));
    };
    let works = |arguments: &[&str]| {
        Command::new(&unshare).args(arguments).arg("true").output().is_ok_and(|output| output.status.success())
    };
    if host::is_root() && works(&["--net"]) {
        Check::ok(name, "network namespaces, as root")
    } else if works(&["--user", "--map-root-user", "--net"]) {
        Check::ok(name, "network namespaces, through user namespaces")
    } else {
        Check::lacks(name, "network namespaces are refused", host::namespace_remedy())
    }
}

fn c_linker() -> Check {
    match host::find_program("cc") {
        Some(file) => Check::ok("linker", file.display().to_string()),
        None => {
            Check::lacks("linker", "`cc`, which links host programs, is not installed", host::install("gcc libc6-dev"))
        }
    }
}

fn toolchain(project: &Project) -> Vec<Check> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(&project.root);
    let Ok(output) = rustc.args(["--version"]).output() else {
        return vec![Check::lacks("rust", "`rustc` is not installed", "install rustup, as https://rustup.rs says")];
    };
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return vec![Check::lacks("rust", said, "rustup toolchain install")];
    }
    let mut checks = vec![Check::ok("rust", version)];
    for target in [builder::KERNEL_TARGET, builder::GUEST_TARGET] {
        let mut rustc = Command::new("rustc");
        rustc.current_dir(&project.root).args(["--print", "target-libdir", "--target", target]);
        let folder = first_line(&mut rustc);
        checks.push(if std::path::Path::new(&folder).is_dir() {
            Check::ok("target", target)
        } else {
            Check::lacks("target", format!("{target} is not installed"), format!("rustup target add {target}"))
        });
    }
    checks
}

fn virtualization(project: &Project) -> Check {
    let name = "kvm";
    let choice = accel::choose(project, accel::Wish::Auto, qemu::Kind::Microvm);
    let (found, remedy) = match choice {
        Ok(choice) if choice.accel == Accel::Kvm => return Check::ok(name, choice.reason),
        Ok(choice) if choice.reason.contains("self-test") => (choice.reason, String::new()),
        Ok(choice) => (choice.reason, "optional; on a host that has it, join the group `kvm`".to_owned()),
        Err(_) => ("not tested: the kernel has not been built".to_owned(), "firn build".to_owned()),
    };
    let found = format!("{found}: machines will be emulated in software");
    Check { name, is_there: false, is_optional: true, found, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_counts() {
        let optional = Check { is_optional: true, ..Check::lacks("kvm", "none", "") };
        assert!(is_healthy(&[Check::ok("a", ""), optional.clone()]));
        assert!(!is_healthy(&[optional.clone(), Check::lacks("tun", "none", "modprobe tun")]));
        let text = text(&[Check::lacks("tun", "none", "modprobe tun"), optional]);
        assert_eq!(text, "LACKS  tun  none\n            mend: modprobe tun\nno     kvm  none\n");
    }
}
