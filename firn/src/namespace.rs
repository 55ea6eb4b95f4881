//! The network namespace of a machine: made by its holder, entered by commands that talk to its VMs.
//!
//! Inside it the machine's interface is [`TAP`], with the host's address. Only the switch is on the link; all else
//! of the subnet is routed through it, so that the neighbour table does not grow with the number of VMs. Nothing
//! in the namespace leads outside: all traffic stays on this machine.

use crate::error::{Error, Result};
use crate::host;
use crate::machine::Process;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use virtual_isa::network::{IPV6_PREFIX_BITS, Network, ipv6_of};

/// The machine's network interface inside its namespace.
pub const TAP: &str = "firn0";

/// Moves this process into a network namespace of its own; without root's rights, into a user namespace as well,
/// in which it has them. Says whether it took the latter.
///
/// The process must have one thread.
///
/// # Errors
/// `Missing`: which right is lacking.
pub fn create() -> Result<bool> {
    if host::is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(false);
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|error| Error::Missing {
        what: format!("cannot make a network namespace: {error}"),
        remedy: host::namespace_remedy(),
    })?;
    // A group can be mapped only by who has given up changing its groups.
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(file, text).map_err(|error| Error::Missing {
            what: format!("cannot map this user into a user namespace ({file}): {error}"),
            remedy: host::namespace_remedy(),
        })?;
    }
    Ok(true)
}

/// Makes the interfaces and routes of a machine in the namespace this process is in.
///
/// # Errors
/// `Missing` without `ip`, `Failed` if it refuses.
pub fn set_up(network: &Network) -> Result<()> {
    // By itself the kernel would announce itself on the wire.
    set("net/ipv6/conf/default/disable_ipv6", "1");
    run_ip(&script(network))?;
    for (parameter, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("disable_ipv6", "0")] {
        set(&format!("net/ipv6/conf/{TAP}/{parameter}"), value);
    }
    // A host without IPv6 reaches its VMs all the same.
    let _ = run_ip(&ipv6_script(network));
    // Load generators open many connections from one address.
    set("net/ipv4/ip_local_port_range", "1024 65535");
    set("net/ipv4/tcp_tw_reuse", "1");
    set("net/ipv4/tcp_max_tw_buckets", "262144");
    Ok(())
}

/// Sets a parameter of the namespace. Some kernels lack some, or do not allow them here: they help, no more.
fn set(name: &str, value: &str) {
    let _ = fs::write(Path::new("/proc/sys").join(name), value);
}

/// The commands for `ip -batch`. The switch's address is told, not asked for: who asks before the machine has booted
/// asks again only a second later.
fn script(network: &Network) -> String {
    let [host, switch, subnet] = [network.host_ipv4, network.switch_ipv4, network.subnet].map(Ipv4Addr::from);
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    format!(
        "link set lo up\n\
         tuntap add dev {TAP} mode tap\n\
         link set dev {TAP} address {} txqueuelen 10000\n\
         link set dev {TAP} up\n\
         addr add {host}/32 dev {TAP}\n\
         neigh replace {switch} lladdr {} nud permanent dev {TAP}\n\
         route add {switch}/32 dev {TAP} src {host}\n\
         route add {subnet}/{} via {switch} dev {TAP} src {host}\n",
        mac(network.host_mac),
        mac(Network::SWITCH_MAC),
        network.prefix_bits,
    )
}

/// The same for IPv6.
fn ipv6_script(network: &Network) -> String {
    let [host, switch, prefix] =
        [network.host_ipv4, network.switch_ipv4, [0; 4]].map(|ipv4| Ipv6Addr::from(ipv6_of(ipv4)));
    let mac = Network::SWITCH_MAC.map(|byte| format!("{byte:02x}")).join(":");
    format!(
        "addr add {host}/128 dev {TAP} nodad\n\
         neigh replace {switch} lladdr {mac} nud permanent dev {TAP}\n\
         route add {switch}/128 dev {TAP} src {host}\n\
         route add {prefix}/{IPV6_PREFIX_BITS} via {switch} dev {TAP} src {host}\n"
    )
}

fn run_ip(script: &str) -> Result<()> {
    let failed = |why: String| Error::failed(format!("cannot set up the machine's network interface: {why}"), "");
    let mut command = Command::new(host::iproute()?);
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // If it has ended already, its status tells.
        let _ = input.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
}

/// Moves this process into the namespaces of a machine's holder.
///
/// The process must have one thread.
///
/// # Errors
/// `Missing` if this user may not.
pub fn enter(holder: Process, user_namespace: bool) -> Result<()> {
    let mut kinds = vec![("net", CloneFlags::CLONE_NEWNET)];
    if user_namespace {
        kinds.insert(0, ("user", CloneFlags::CLONE_NEWUSER));
    }
    for (kind, flag) in kinds {
        let refused = |error: std::io::Error| Error::Missing {
            what: format!("cannot enter the machine's {kind} namespace: {error}"),
            remedy: "run this as the user who started the machine, or as root".into(),
        };
        let file = File::open(format!("/proc/{}/ns/{kind}", holder.pid)).map_err(refused)?;
        setns(file, flag).map_err(|error| refused(error.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_switch_is_on_the_link() {
        let script = script(&Network::default());
        let routes: Vec<_> = script.lines().filter(|line| line.starts_with("route")).collect();
        assert_eq!(
            routes,
            [
                "route add 10.64.0.2/32 dev firn0 src 10.64.0.1",
                "route add 10.64.0.0/10 via 10.64.0.2 dev firn0 src 10.64.0.1",
            ]
        );
        assert!(script.contains("address 02:f1:ff:00:00:01") && script.contains("addr add 10.64.0.1/32"));
        assert!(script.contains("neigh replace 10.64.0.2 lladdr 02:f1:ff:00:00:02 nud permanent"));
        let ipv6 = ipv6_script(&Network::default());
        assert!(ipv6.contains("addr add fd66:6972:6e00::a40:1/128") && ipv6.contains("nodad"), "{ipv6}");
        assert!(ipv6.contains("route add fd66:6972:6e00::/96 via fd66:6972:6e00::a40:2"), "{ipv6}");
    }
}
