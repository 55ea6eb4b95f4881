//! Linux on the machine that Firn runs on: the same emulator with the same processor, memory, devices and network, loaded
//! in the same way. Only what it boots differs.
//!
//! Its first process (`init.c`, `start.c`, `netlink.c`) speaks on the console as Firn's supervisor does, so that everything
//! else is the same program for both: `firn up`, `firn status`, `firn down`, [`crate::driver`].
//!
//! | module | what |
//! |---|---|
//! | [`image`] | what is booted: Debian's kernel, our first process, the services |
//! | [`packages`] | Debian's packages, fetched and unpacked |
//! | [`programs`] | programs out of packages, with the libraries that they need |
//! | [`cpio`] | the archive that Linux unpacks at its start |

pub mod cpio;
pub mod image;
pub mod packages;
pub mod programs;

use crate::fleet::{Boot, Fleet};
use crate::machine::Failure;
use clap::ValueEnum;
use image::Image;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::Path;
use virtual_isa::bundle::debug_exit_value;
use virtual_isa::network::Network;

/// Where the images are made.
pub const FOLDER: &str = "target/peer";

/// How services run on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// A process each
    Linux,
    /// A process each in its own pid, mount, net, ipc and uts namespaces and control group, as in a container
    LinuxNs,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// What `apps/web` serves, by a small server of our own.
    Web,
    /// Keys and values, by Debian's redis-server.
    Redis,
    /// A page, by Debian's nginx.
    Nginx,
    /// Messages, by Debian's mosquitto.
    Mosquitto,
}

impl Peer {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::LinuxNs => "linux-ns",
        }
    }
}

impl Service {
    /// Its name on the kernel's command line, and its port.
    const fn name_and_port(self) -> (&'static str, u16) {
        match self {
            Self::Web => ("web", 80),
            Self::Redis => ("redis", 6379),
            Self::Nginx => ("nginx", 80),
            Self::Mosquitto => ("mosquitto", 1883),
        }
    }
}

/// Words for the kernel itself. Its defences against speculation are off, as Firn has none to pay for on this processor;
/// so is IPv6, which would cost each container more.
const KERNEL_WORDS: &str = "console=ttyS0 loglevel=4 panic=-1 edd=off mitigations=off tsc=reliable ipv6.disable=1";

/// Words for the first process.
fn words(name: &str, peer: Peer, service: Service, count: u32) -> String {
    let network = Network::default();
    let [host, here, first] = [network.host_ipv4, network.switch_ipv4, network.first_vm].map(Ipv4Addr::from);
    let (service, port) = service.name_and_port();
    let (is_boxed, off) = (u8::from(peer == Peer::LinuxNs), debug_exit_value(0));
    format!(
        "fleet={name} service={service} boxed={is_boxed} count={count} port={port} host={host} here={here} \
         first={first} off={off}"
    )
}

/// The machine of a fleet with Linux in place of Firn. `name` is the machine's name. What the fleet says of VMs is for
/// `firn`, which has to know the services' addresses.
///
/// # Errors
/// If there is no image, and none can be made.
pub fn on(fleet: Fleet, name: &str, peer: Peer, service: Service) -> Result<Fleet, Failure> {
    let Image { kernel, initrd, tsc_khz, .. } = Image::make(Path::new(FOLDER), service)?;
    let words = words(name, peer, service, fleet.vms);
    let kernel_options = format!("{KERNEL_WORDS} possible_cpus={} tsc_early_khz={tsc_khz} {words}", fleet.cpus);
    Ok(Fleet { boot: Some(Boot::Foreign { kernel, initrd }), kernel_options, ..fleet })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_is_told_all() {
        let words = words("bench", Peer::LinuxNs, Service::Redis, 7);
        assert_eq!(
            words,
            "fleet=bench service=redis boxed=1 count=7 port=6379 host=10.64.0.1 here=10.64.0.2 first=10.65.0.0 off=16"
        );
        // As much as the first process reads, and the kernel takes more.
        assert!(KERNEL_WORDS.len() + words.len() < 960);
    }

    #[test]
    fn peers_are_known_by_one_name_everywhere() {
        for peer in Peer::value_variants() {
            assert_eq!(Peer::from_str(peer.name(), false), Ok(*peer));
            assert_eq!(serde_json::to_value(peer).unwrap(), peer.name());
        }
    }
}
