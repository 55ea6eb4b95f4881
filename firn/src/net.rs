//! How a machine's VMs are reached: in a network namespace, or through published ports.
//!
//! With `tap` every VM's own address is there, inside a namespace that `firn exec` enters. With `user` the emulator
//! carries the traffic of ports that were published to this host; that needs no rights at all, and nothing else of
//! this host or beyond can be reached from inside.

use crate::error::{Error, Result};
use crate::fleet::Fleet;
use crate::namespace::TAP;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::str::FromStr;
use virtual_isa::network::Network;

/// How VMs are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By their own addresses, in a network namespace: `firn exec`.
    #[default]
    Tap,
    /// By ports of this host that are published.
    User,
}

/// Which packets a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port to be published, as the command line says it: `[ADDRESS:]PORT:[SERVICE:]PORT[/udp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Address of this host; only programs on it can reach the usual one.
    pub address: Ipv4Addr,
    /// Port of this host.
    pub port: u16,
    /// The service whose first VM gets what comes there, if it is said.
    pub service: Option<String>,
    /// Port of that VM.
    pub vm_port: u16,
    /// What comes there.
    pub protocol: Protocol,
}

/// What a published port looks like, for messages.
const REMEDY: &str = "write it as PORT:PORT, such as 8080:80, or as [ADDRESS:]PORT:[SERVICE:]PORT[/udp]";

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(REMEDY.to_owned()),
        };
        let mut words: Vec<&str> = ports.split(':').collect();
        let mut address = Ipv4Addr::LOCALHOST;
        if words.len() > 2
            && let Ok(given) = words[0].parse()
        {
            address = given;
            words.remove(0);
        }
        let (port, service, vm_port) = match words[..] {
            [port, vm_port] => (port, None, vm_port),
            [port, service, vm_port] if !service.is_empty() => (port, Some(service.to_owned()), vm_port),
            _ => return Err(REMEDY.to_owned()),
        };
        let number = |word: &str| word.parse::<u16>().ok().filter(|&port| port > 0).ok_or_else(|| REMEDY.to_owned());
        Ok(Self { address, port: number(port)?, service, vm_port: number(vm_port)?, protocol })
    }
}

/// A port that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Of this host.
    pub from: SocketAddrV4,
    /// Of a VM.
    pub to: SocketAddrV4,
    /// Which VM.
    pub vm: u32,
    /// What comes there.
    pub protocol: Protocol,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} to VM {}, port {}", self.from, self.protocol.name(), self.vm, self.to.port())
    }
}

fn wrong(problem: String, remedy: impl Into<String>) -> Error {
    Error::Argument { argument: "--publish", problem, remedy: remedy.into() }
}

/// Finds the VMs of ports, and checks that this host's are free. `service` is meant where none is said.
///
/// # Errors
/// `Argument`.
pub fn resolve(ports: &[Publish], fleet: &Fleet, service: Option<&str>) -> Result<Vec<Published>> {
    let mut taken = HashSet::new();
    ports.iter().map(|port| resolve_one(port, fleet, service, &mut taken)).collect()
}

fn resolve_one(
    port: &Publish,
    fleet: &Fleet,
    service: Option<&str>,
    taken: &mut HashSet<(SocketAddrV4, Protocol)>,
) -> Result<Published> {
    let names = || fleet.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = match (port.service.as_deref().or(service), fleet.services.as_slice()) {
        (Some(name), services) => services
            .iter()
            .find(|s| s.name == name)
            .ok_or_else(|| wrong(format!("there is no service {name:?}"), format!("the services are: {}", names())))?,
        (None, [only]) => only,
        (None, _) => {
            let remedy = format!("write {}:SERVICE:{}; the services are: {}", port.port, port.vm_port, names());
            return Err(wrong(format!("port {} could be of several services", port.vm_port), remedy));
        }
    };
    let from = SocketAddrV4::new(port.address, port.port);
    if !taken.insert((from, port.protocol)) {
        return Err(wrong(format!("{from} is published twice"), "publish each port of this host once"));
    }
    let bound = match port.protocol {
        Protocol::Tcp => TcpListener::bind(from).map(|_| ()),
        Protocol::Udp => UdpSocket::bind(from).map(|_| ()),
    };
    bound.map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => "choose another port of this host, or end what uses it",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 are for root: choose a higher one, such as 8080",
            _ => "choose an address and a port of this host",
        };
        wrong(format!("cannot publish {from}: {error}"), remedy)
    })?;
    let to = SocketAddrV4::new(fleet.network.ipv4_of(found.first_vm).into(), port.vm_port);
    Ok(Published { from, to, vm: found.first_vm, protocol: port.protocol })
}

/// The Ethernet address of this host, as the emulator has it in `user` mode: it is made of the IP address.
#[must_use]
pub fn user_host_mac(network: &Network) -> [u8; 6] {
    let [a, b, c, d] = network.host_ipv4;
    [0x52, 0x55, a, b, c, d]
}

/// The emulator's option for the machine's wire.
#[must_use]
pub fn netdev(mode: Mode, network: &Network, ports: &[Published]) -> String {
    if mode == Mode::Tap {
        return format!("tap,id=wire,ifname={TAP},script=no,downscript=no,vhost=off");
    }
    let [subnet, host] = [network.subnet, network.host_ipv4].map(Ipv4Addr::from);
    // Restricted: what is not published goes nowhere, neither to this host nor past it.
    let mut option = format!("user,id=wire,net={subnet}/{},host={host},restrict=on,ipv6=off", network.prefix_bits);
    for Published { from, to, protocol, .. } in ports {
        option.push_str(&format!(",hostfwd={}:{from}-{to}", protocol.name()));
    }
    option
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let usual =
            Publish { address: Ipv4Addr::LOCALHOST, port: 8080, service: None, vm_port: 80, protocol: Protocol::Tcp };
        let dns = Publish { port: 5353, vm_port: 53, protocol: Protocol::Udp, ..usual.clone() };
        for (text, port) in [
            ("8080:80", usual.clone()),
            ("8080:80/tcp", usual.clone()),
            ("5353:53/udp", dns.clone()),
            ("0.0.0.0:8080:80", Publish { address: Ipv4Addr::UNSPECIFIED, ..usual.clone() }),
            ("8080:web:80", Publish { service: Some("web".into()), ..usual.clone() }),
            ("127.0.0.1:5353:dns:53/udp", Publish { service: Some("dns".into()), ..dns }),
        ] {
            assert_eq!(text.parse(), Ok(port), "{text}");
        }
        for bad in ["", "80", ":", "8080:", "0:80", "8080:0", "8080:70000", "8080:80/sctp", "8080::80", "1:2:3:4:5"] {
            assert!(bad.parse::<Publish>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_emulator_lets_nothing_else_through() {
        let network = Network::default();
        let port = Published {
            from: "127.0.0.1:8080".parse().unwrap(),
            to: "10.65.0.1:80".parse().unwrap(),
            vm: 1,
            protocol: Protocol::Tcp,
        };
        assert_eq!(
            netdev(Mode::User, &network, &[port]),
            "user,id=wire,net=10.64.0.0/10,host=10.64.0.1,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:8080-10.65.0.1:80"
        );
        assert!(netdev(Mode::Tap, &network, &[]).starts_with("tap,id=wire,ifname=firn0,"));
        assert_eq!(user_host_mac(&network), [0x52, 0x55, 10, 64, 0, 1]);
        assert_eq!(port.to_string(), "127.0.0.1:8080/tcp to VM 1, port 80");
    }
}
