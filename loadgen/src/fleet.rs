//! The fleet file of a machine that is to be measured.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::PathBuf;

/// A machine with one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    /// How many VMs.
    pub vms: u32,
    /// Processors of the machine.
    pub cpus: u32,
    /// Memory of the machine, such as `512M`.
    pub memory: String,
    /// Size of its swap disk.
    pub swap: Option<String>,
    /// Most reads and writes of it in a second.
    pub swap_iops: Option<u32>,
    /// The image of the VMs, which is the service's name too.
    pub image: String,
    /// Memory of a VM.
    pub vm_memory: String,
    /// Whether the machine is to count instructions: a nanosecond of its time is one of them.
    #[serde(default)]
    pub icount: bool,
    /// Whether such a machine is asked from outside: its time then goes on while it has nothing to execute.
    #[serde(default)]
    pub is_asked_from_outside: bool,
    /// What the VMs are given as arguments.
    pub arguments: String,
    /// The group they are in. Groups have equal weights.
    #[serde(default)]
    pub group: Option<String>,
    /// Options of the kernel.
    #[serde(default)]
    pub kernel_options: String,
    /// Other VMs on the machine, numbered after those.
    #[serde(default)]
    pub neighbours: Vec<Neighbours>,
    /// What the machine boots instead of Firn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
}

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// Another kernel.
    Foreign {
        /// The kernel.
        kernel: PathBuf,
        /// What it is given.
        initrd: PathBuf,
    },
    /// The one VM itself, in ring 0.
    Bare,
}

/// VMs that are there besides those that are measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Name of their service.
    pub name: String,
    /// Their image.
    pub image: String,
    /// How many.
    pub vms: u32,
    /// Weight of each.
    pub shares: u32,
    /// The group they are in.
    #[serde(default)]
    pub group: Option<String>,
    /// Their arguments.
    pub arguments: String,
}

impl Neighbours {
    /// So many of an image, in no group, with the usual weight.
    #[must_use]
    pub fn new(name: &str, image: &str, vms: u32, arguments: &str) -> Self {
        Self {
            name: name.to_owned(),
            image: image.to_owned(),
            vms,
            shares: DEFAULT_SHARES,
            group: None,
            arguments: arguments.to_owned(),
        }
    }
}

/// Weight of a VM of which nothing else is said.
pub const DEFAULT_SHARES: u32 = 100;

impl Fleet {
    /// A machine with web VMs: no swap disk, one processor, VMs of 4 MiB.
    #[must_use]
    pub fn web(vms: u32, memory: &str) -> Self {
        Self {
            vms,
            cpus: 1,
            memory: memory.to_owned(),
            swap: None,
            swap_iops: None,
            image: "web".to_owned(),
            vm_memory: "4M".to_owned(),
            icount: false,
            is_asked_from_outside: false,
            arguments: "body=128".to_owned(),
            group: None,
            kernel_options: String::new(),
            neighbours: Vec::new(),
            boot: None,
        }
    }

    /// The fleet file. `writer` is who says that it wrote it.
    #[must_use]
    pub fn to_toml(&self, writer: &str) -> String {
        let Self { vms, cpus, memory, image, vm_memory, arguments, .. } = self;
        let mut text = format!("# Written by `{writer}`.\n[machine]\nmemory = \"{memory}\"\ncpus = {cpus}\n");
        // Writing to a string cannot fail.
        if let Some(swap) = &self.swap {
            let _ = writeln!(text, "swap = \"{swap}\"");
        }
        if let Some(iops) = self.swap_iops {
            let _ = writeln!(text, "swap-iops = {iops}");
        }
        let mut groups: Vec<&str> = Vec::new();
        for group in core::iter::once(&self.group).chain(self.neighbours.iter().map(|other| &other.group)).flatten() {
            if !groups.contains(&group.as_str()) {
                groups.push(group);
                let _ = write!(text, "\n[[group]]\nname = \"{group}\"\n");
            }
        }
        let mut service = |name: &str, image: &str, vms: u32, shares: u32, group: Option<&str>, arguments: &str| {
            let _ = write!(
                text,
                "\n[[service]]\nname = \"{name}\"\nimage = \"{image}\"\ncount = {vms}\nmemory = \"{vm_memory}\"\n\
                 shares = {shares}\nargs = \"{arguments}\"\n"
            );
            if let Some(group) = group {
                let _ = writeln!(text, "group = \"{group}\"");
            }
        };
        service(image, image, *vms, DEFAULT_SHARES, self.group.as_deref(), arguments);
        for other in &self.neighbours {
            service(&other.name, &other.image, other.vms, other.shares, other.group.as_deref(), &other.arguments);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_is_in_the_file() {
        let mut fleet = Fleet::web(7, "512M");
        let text = fleet.to_toml("loadgen demo");
        for line in ["memory = \"512M\"", "cpus = 1", "count = 7", "args = \"body=128\"", "image = \"web\""] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(!text.contains("swap"));
        let neighbours = |name: &str, vms| Neighbours {
            name: name.to_owned(),
            image: "attack".to_owned(),
            vms,
            shares: 7,
            group: Some("red".to_owned()),
            arguments: "mode=spin".to_owned(),
        };
        fleet.neighbours = vec![neighbours("one", 3), neighbours("two", 4)];
        let text = fleet.to_toml("loadgen bench");
        let services: Vec<&str> = text.split("[[service]]").skip(1).collect();
        assert_eq!(services.len(), 3, "{text}");
        assert!(services[2].contains("group = \"red\"") && !services[0].contains("group"), "{text}");
        assert_eq!(text.matches("[[group]]\nname = \"red\"\n").count(), 1, "{text}");
        assert!(services[0].contains("count = 7") && services[2].contains("name = \"two\""), "{text}");
        assert!(
            services[2].contains("image = \"attack\"\ncount = 4\n") && services[2].contains("shares = 7\n"),
            "{text}"
        );
        fleet.swap = Some("1G".to_owned());
        fleet.swap_iops = Some(2000);
        let text = fleet.to_toml("loadgen demo");
        let machine = text.split("[[service]]").next().unwrap();
        assert!(machine.contains("swap = \"1G\"\nswap-iops = 2000\n"), "{text}");
    }
}
