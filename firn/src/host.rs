//! What this host offers: programs, the TUN device, namespaces. Each lack comes with the command that mends it.

use crate::error::{Error, Result};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// The device that makes network interfaces.
pub const TUN: &str = "/dev/net/tun";

/// The device of hardware virtualization.
pub const KVM: &str = "/dev/kvm";

/// Finds a program in the search path, or where administrators' programs lie, which users' paths often leave out.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let admin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(admin).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The command that installs a Debian package, as this user would have to give it.
#[must_use]
pub fn install(package: &str) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install --no-install-recommends {package}")
}

/// Whether this process has root's user number.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The emulator's program.
///
/// # Errors
/// `Missing`.
pub fn qemu() -> Result<PathBuf> {
    find_program(QEMU)
        .ok_or_else(|| Error::Missing { what: format!("{QEMU} is not installed"), remedy: install("qemu-system-x86") })
}

/// The program that sets up network interfaces.
///
/// # Errors
/// `Missing`.
pub fn iproute() -> Result<PathBuf> {
    find_program("ip")
        .ok_or_else(|| Error::Missing { what: "`ip` is not installed".into(), remedy: install("iproute2") })
}

/// Checks that network interfaces can be made.
///
/// # Errors
/// `Missing`.
pub fn tun() -> Result<()> {
    use std::io::ErrorKind;
    let Err(error) = OpenOptions::new().read(true).write(true).open(TUN) else { return Ok(()) };
    let sudo = if is_root() { "" } else { "sudo " };
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("allow users to open it, as Debian does (sudo chmod 0666 {TUN}), or run firn as root")
        }
        ErrorKind::NotFound => {
            format!("load the driver ({sudo}modprobe tun); in a container, pass the device in (--device {TUN})")
        }
        _ => format!("load the driver ({sudo}modprobe tun)"),
    };
    Err(Error::Missing {
        what: format!("cannot open {TUN}, which makes the machine's network interface: {error}"),
        remedy,
    })
}

/// What to do when namespaces are refused.
#[must_use]
pub fn namespace_remedy() -> String {
    let read = |file: &str| std::fs::read_to_string(file).map(|text| text.trim().to_owned()).unwrap_or_default();
    if is_root() {
        "give this container the right to make network namespaces (CAP_SYS_ADMIN and CAP_NET_ADMIN)".into()
    } else if read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        "allow user namespaces (sudo sysctl kernel.unprivileged_userns_clone=1), or run firn as root".into()
    } else if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "allow user namespaces (sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0), or run firn as root".into()
    } else if read("/proc/sys/user/max_user_namespaces") == "0" {
        "allow user namespaces (sudo sysctl user.max_user_namespaces=10000), or run firn as root".into()
    } else {
        "run firn as root, or where user namespaces are allowed (containers often forbid them)".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_path_only_if_they_can_run() {
        assert!(find_program("sh").is_some_and(|file| file.ends_with("sh")));
        assert_eq!(find_program("no-such-program-of-firn"), None);
        assert!(!is_executable(Path::new("/etc/passwd")) && !is_executable(Path::new("/etc")));
    }
}
