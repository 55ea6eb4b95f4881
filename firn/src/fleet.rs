//! Fleet files: which services a machine runs. Reads one and checks everything about it before anything starts.
//!
//! [`Fleet::load`] gives a fleet of which nothing can be wrong any more, but for files that change meanwhile.

use crate::project::{Project, check_name};
use crate::size;
use crate::swap::Swap;
use serde::Deserialize;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use terms::{Group, RawGroup};
use toml::Spanned;
use virtual_isa::gate::ClassTerms;
use virtual_isa::image::Image;
use virtual_isa::limits::{MAX_ARGUMENT_BYTES, MAX_MEMORY_PAGES, MAX_VMS, MIN_MEMORY_PAGES};
use virtual_isa::network::{Network, NetworkError};
use virtual_isa::{PAGE_SIZE, image::ImageError};

mod gateway;
mod machine;
pub mod terms;
#[cfg(test)]
mod tests;

/// Memory of a machine whose fleet file does not say.
pub const DEFAULT_MACHINE_MEMORY: &str = "1G";

/// Least memory the emulated machine can have.
pub const MIN_MACHINE_BYTES: u64 = 32 << 20;

/// Most processors of a machine.
pub const MAX_CPUS: u32 = 64;

/// Weight of a VM whose service does not say.
pub const DEFAULT_SHARES: u32 = 100;

/// A checked fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The file it was read from.
    pub file: PathBuf,
    /// Memory of the machine in bytes.
    pub memory_bytes: u64,
    /// Processors of the machine.
    pub cpus: u32,
    /// Its swap disk, if it has one.
    pub swap: Option<Swap>,
    /// Whether the machine powers off when the last VM has ended.
    pub power_off_when_done: bool,
    /// The addresses.
    pub network: Network,
    /// The groups of services, in order.
    pub groups: Vec<Group>,
    /// The services, in order; VMs are numbered from 1 on through all of them.
    pub services: Vec<Service>,
}

/// A checked service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The file of its image.
    pub image: PathBuf,
    /// Number of its first VM.
    pub first_vm: u32,
    /// How many VMs.
    pub count: u32,
    /// Memory of each in pages.
    pub memory_pages: u32,
    /// Pages of it that are kept for each, whatever the others need.
    pub minimum_pages: u32,
    /// Weight of each.
    pub shares: u32,
    /// On what other terms each shares the machine.
    pub terms: ClassTerms,
    /// The VM through which all their frames go, if there is one.
    pub gateway: Option<u32>,
    /// Arguments of each.
    pub arguments: String,
}

/// What is wrong with a fleet file: where, what, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetError {
    /// The file.
    pub file: PathBuf,
    /// Line in the file, from 1 on; 0 if it concerns all of it.
    pub line: usize,
    /// The field, such as `service "web": count`; may be empty.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for FleetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}\n  help: {}", self.problem, self.remedy)
    }
}

impl std::error::Error for FleetError {}

/// What the command line says instead of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Processors of the machine.
    pub cpus: Option<u32>,
    /// Size of the swap disk in bytes; 0 for none.
    pub swap_bytes: Option<u64>,
    /// Most reads and writes of it in a second; 0 for no limit.
    pub swap_iops: Option<u32>,
    /// VMs of the services of these names.
    pub counts: Vec<(String, u32)>,
    /// Arguments of the VMs of these.
    pub arguments: Vec<(String, String)>,
    /// Services through which the frames of these go.
    pub gateways: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFleet {
    machine: Option<machine::RawMachine>,
    network: Option<RawNetwork>,
    #[serde(default)]
    group: Vec<Spanned<RawGroup>>,
    #[serde(default)]
    service: Vec<Spanned<RawService>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    subnet: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    switch: Option<Spanned<String>>,
    first_vm: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: Spanned<String>,
    image: Spanned<String>,
    count: Spanned<u32>,
    memory: Spanned<String>,
    minimum: Option<Spanned<String>>,
    shares: Option<Spanned<u32>>,
    group: Option<Spanned<String>>,
    reservation: Option<Spanned<String>>,
    limit: Option<Spanned<String>>,
    frames_per_s: Option<u32>,
    bytes_per_s: Option<Spanned<String>>,
    gateway: Option<Spanned<String>>,
    args: Option<Spanned<String>>,
}

/// The file being read, to say where in it something is.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

type Checked<T> = Result<T, FleetError>;

impl Source<'_> {
    fn error(&self, at: usize, field: &str, problem: impl fmt::Display, remedy: impl fmt::Display) -> FleetError {
        let line = self.text.get(..at).map_or(0, |before| before.matches('\n').count() + 1);
        FleetError {
            file: self.file.to_path_buf(),
            line,
            field: field.to_owned(),
            problem: problem.to_string(),
            remedy: remedy.to_string(),
        }
    }

    fn whole(&self, field: &str, problem: impl fmt::Display, remedy: impl fmt::Display) -> FleetError {
        FleetError { line: 0, ..self.error(0, field, problem, remedy) }
    }

    /// An error of the TOML reader: the field is the key on the line it points at.
    fn unreadable(&self, error: &toml::de::Error) -> FleetError {
        let at = error.span().map_or(self.text.len(), |span| span.start);
        let start = self.text[..at].rfind('\n').map_or(0, |n| n + 1);
        let line = self.text[start..].lines().next().unwrap_or_default();
        let key = line.split('=').next().unwrap_or_default().trim();
        let message = error.message();
        let remedy = if message.starts_with("unknown field") {
            "correct or remove that key; the keys are described in the user guide, \"Fleet files\"".to_owned()
        } else if message.starts_with("duplicate") {
            "give each key once; `swap-iops` and `swap_iops` are the same".to_owned()
        } else if message.starts_with("missing field") {
            "add that key; a service needs name, image, count and memory, a group a name".to_owned()
        } else {
            "sizes, percentages, addresses and arguments are strings in quotes; counts, shares and frames are whole numbers".to_owned()
        };
        self.error(at, key, message, remedy)
    }
}

impl Fleet {
    /// Reads a fleet file and everything it names.
    ///
    /// # Errors
    /// `FleetError`; nothing has been started or written.
    pub fn load(file: &Path, project: &Project, overrides: &Overrides) -> Checked<Self> {
        let text = std::fs::read_to_string(file).map_err(|error| FleetError {
            file: file.to_path_buf(),
            line: 0,
            field: String::new(),
            problem: format!("cannot be read: {error}"),
            remedy: "give the path of a fleet file; firn/fleets/web.toml is an example".into(),
        })?;
        Self::parse(&text, file, project, overrides)
    }

    /// Reads the text of a fleet file, and everything it names.
    ///
    /// # Errors
    /// As [`Fleet::load`].
    pub fn parse(text: &str, file: &Path, project: &Project, overrides: &Overrides) -> Checked<Self> {
        let source = Source { file, text };
        let raw: RawFleet = toml::from_str(text).map_err(|error| source.unreadable(&error))?;
        let machine = raw.machine.unwrap_or_default();
        let network = read_network(&source, &raw.network.unwrap_or_default())?;
        let mut services = Vec::new();
        if raw.service.is_empty() {
            return Err(source.whole(
                "service",
                "there is no service",
                "add a [[service]] with name, image, count and memory",
            ));
        }
        let groups = terms::read_groups(&source, &raw.group)?;
        let counts = read_counts(&source, &raw.service, &overrides.counts)?;
        check_addresses(&source, &network, &raw.service, &counts)?;
        let mut next_vm = 1;
        for (service, count) in raw.service.iter().zip(counts) {
            let mut service = read_service(&source, project, service.get_ref(), &groups, next_vm..next_vm + count)?;
            if let Some((_, given)) = overrides.arguments.iter().rfind(|(name, _)| *name == service.name) {
                check_arguments(given).map_err(|(problem, remedy)| source.whole("--args", problem, remedy))?;
                service.arguments.clone_from(given);
            }
            if services.iter().any(|s: &Service| s.name == service.name) {
                let at = raw.service[services.len()].get_ref().name.span().start;
                let field = format!("service {:?}: name", service.name);
                return Err(source.error(
                    at,
                    &field,
                    "another service has this name",
                    "give each service its own name",
                ));
            }
            next_vm += service.count;
            services.push(service);
        }
        gateway::set(&source, &raw.service, &overrides.gateways, &mut services)?;
        terms::check_classes(&source, services.iter().map(|service| &service.terms))?;
        Ok(Self {
            file: file.to_path_buf(),
            memory_bytes: machine::read_memory(&source, &machine, overrides)?,
            cpus: machine::read_cpus(&source, &machine, overrides)?,
            swap: machine::read_swap(&source, &machine, overrides)?,
            power_off_when_done: machine.power_off_when_done.unwrap_or(false),
            network,
            groups,
            services,
        })
    }

    /// VMs of all services, without the supervisor.
    #[must_use]
    pub fn nr_vms(&self) -> u32 {
        self.services.iter().map(|s| s.count).sum()
    }
}

fn read_network(source: &Source<'_>, raw: &RawNetwork) -> Checked<Network> {
    let mut network = Network::default();
    if let Some(subnet) = &raw.subnet {
        let (address, bits) = subnet.get_ref().split_once('/').unwrap_or_default();
        let parsed = address.parse::<Ipv4Addr>().ok().zip(bits.parse().ok());
        let (address, bits) = parsed.ok_or_else(|| {
            let problem = format!("{:?} is not a subnet", subnet.get_ref());
            source.error(subnet.span().start, "network: subnet", problem, "write it as \"10.64.0.0/10\"")
        })?;
        network.subnet = address.octets();
        network.prefix_bits = bits;
    }
    let fields = [
        (&raw.host, "network: host", &mut network.host_ipv4),
        (&raw.switch, "network: switch", &mut network.switch_ipv4),
        (&raw.first_vm, "network: first_vm", &mut network.first_vm),
    ];
    for (raw, field, address) in fields {
        let Some(raw) = raw else { continue };
        let parsed: Result<Ipv4Addr, _> = raw.get_ref().parse();
        *address = parsed.map(|a| a.octets()).map_err(|_| {
            let problem = format!("{:?} is not an IPv4 address", raw.get_ref());
            source.error(raw.span().start, field, problem, "write it as \"10.64.0.1\"")
        })?;
    }
    Ok(network)
}

/// The count of each service, the command line's where it says.
fn read_counts(source: &Source<'_>, raw: &[Spanned<RawService>], given: &[(String, u32)]) -> Checked<Vec<u32>> {
    for (name, _) in given {
        if !raw.iter().any(|s| s.get_ref().name.get_ref() == name) {
            let names: Vec<_> = raw.iter().map(|s| s.get_ref().name.get_ref().as_str()).collect();
            let problem = format!("there is no service {name:?}, which --set names");
            return Err(source.whole("service", problem, format!("the services are: {}", names.join(", "))));
        }
    }
    let mut counts = Vec::new();
    for service in raw {
        let service = service.get_ref();
        let name = service.name.get_ref();
        let count = given.iter().rfind(|(n, _)| n == name).map_or(*service.count.get_ref(), |(_, count)| *count);
        if count == 0 {
            let field = format!("service {name:?}: count");
            let remedy = "give a count of 1 or more, or remove the service";
            return Err(source.error(service.count.span().start, &field, "zero VMs", remedy));
        }
        counts.push(count);
    }
    Ok(counts)
}

fn check_addresses(source: &Source<'_>, network: &Network, raw: &[Spanned<RawService>], counts: &[u32]) -> Checked<()> {
    let mut taken = 1u64;
    for (service, &count) in raw.iter().zip(counts) {
        taken += u64::from(count);
        let wanted = u32::try_from(taken).unwrap_or(u32::MAX);
        let Err(error) = network.check(wanted) else { continue };
        let service = service.get_ref();
        return Err(match error {
            NetworkError::TooManyVms { available, .. } => source.error(
                service.count.span().start,
                &format!("service {:?}: count", service.name.get_ref()),
                format!("up to here the fleet has {taken} VMs, the supervisor included; the subnet has {available} addresses"),
                format!("lower the count, or give a larger subnet in [network]; a machine has at most {MAX_VMS} VMs"),
            ),
            error => source.whole("network", error, "correct subnet, host, switch and first_vm in [network]"),
        });
    }
    Ok(())
}

fn read_service(
    source: &Source<'_>,
    project: &Project,
    raw: &RawService,
    groups: &[Group],
    vms: Range<u32>,
) -> Checked<Service> {
    let name = raw.name.get_ref();
    let field = |key: &str| format!("service {name:?}: {key}");
    check_name(name).map_err(|problem| {
        let remedy = "a name is 1 to 32 letters, digits, '-' and '_'";
        source.error(raw.name.span().start, &field("name"), format!("the name {problem}"), remedy)
    })?;
    let memory_pages = read_memory(source, &raw.memory, &field("memory"))?;
    let minimum_pages = read_minimum(source, raw.minimum.as_ref(), memory_pages, &field("minimum"))?;
    let image = read_image(source, project, raw, memory_pages)?;
    let shares = terms::read_shares(source, raw.shares.as_ref(), &field("shares"))?;
    let terms = terms::read_terms(source, raw, groups)?;
    let arguments = raw.args.as_ref().map_or("", |a| a.get_ref().as_str());
    check_arguments(arguments).map_err(|(problem, remedy)| {
        source.error(raw.args.as_ref().map_or(0, |a| a.span().start), &field("args"), problem, remedy)
    })?;
    let arguments = arguments.to_owned();
    let (first_vm, count) = (vms.start, vms.end - vms.start);
    Ok(Service {
        name: name.clone(),
        image,
        first_vm,
        count,
        memory_pages,
        minimum_pages,
        shares,
        terms,
        gateway: None,
        arguments,
    })
}

/// Problem and remedy, if arguments are too long.
fn check_arguments(arguments: &str) -> Result<(), (String, String)> {
    if arguments.len() <= MAX_ARGUMENT_BYTES {
        return Ok(());
    }
    let problem = format!("{} bytes of arguments", arguments.len());
    Err((problem, format!("at most {MAX_ARGUMENT_BYTES} are allowed")))
}

fn read_memory(source: &Source<'_>, raw: &Spanned<String>, field: &str) -> Checked<u32> {
    let (text, at) = (raw.get_ref(), raw.span().start);
    let bytes = size::parse(text).map_err(|e| source.error(at, field, format!("{text:?} {e}"), size::REMEDY))?;
    let pages = u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX);
    let in_bytes = |pages: u32| size::format(u64::from(pages) * PAGE_SIZE as u64);
    if (MIN_MEMORY_PAGES..=MAX_MEMORY_PAGES).contains(&pages) {
        return Ok(pages);
    }
    let remedy = format!("give a VM {} to {}", in_bytes(MIN_MEMORY_PAGES), in_bytes(MAX_MEMORY_PAGES));
    Err(source.error(at, field, format!("{text:?} is outside what a VM can have"), remedy))
}

/// The least memory of a VM in pages, rounded up.
fn read_minimum(source: &Source<'_>, raw: Option<&Spanned<String>>, memory_pages: u32, field: &str) -> Checked<u32> {
    let Some(raw) = raw else { return Ok(0) };
    let (text, at) = (raw.get_ref(), raw.span().start);
    let bytes = size::parse_any(text).map_err(|e| source.error(at, field, format!("{text:?} {e}"), size::REMEDY))?;
    let pages = bytes.div_ceil(PAGE_SIZE as u64);
    u32::try_from(pages).ok().filter(|pages| *pages <= memory_pages).ok_or_else(|| {
        let memory = size::format(u64::from(memory_pages) * PAGE_SIZE as u64);
        let remedy = format!("keep at most its memory for a VM, {memory}, or give it more memory");
        source.error(at, field, format!("{text:?} is more than the VM's memory"), remedy)
    })
}

/// Finds a service's image, checks it, and that it fits the memory.
fn read_image(source: &Source<'_>, project: &Project, raw: &RawService, memory_pages: u32) -> Checked<PathBuf> {
    let (name, text, at) = (raw.name.get_ref(), raw.image.get_ref(), raw.image.span().start);
    let field = format!("service {name:?}: image");
    let is_app = check_name(text).is_ok();
    let (file, remedy) = if is_app {
        (project.image(text), format!("build it with `firn build {text}`"))
    } else {
        let folder = source.file.parent().unwrap_or(Path::new(""));
        (folder.join(text), "give the name of an app, or the path of an image relative to the fleet file".to_owned())
    };
    let bytes = std::fs::read(&file).map_err(|error| {
        let problem = match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no image {}", file.display()),
            _ => format!("cannot read {}: {error}", file.display()),
        };
        source.error(at, &field, problem, &remedy)
    })?;
    let refused = |error: ImageError| source.error(at, &field, format!("{}: {error}", file.display()), &remedy);
    let image = Image::check(&bytes).map_err(refused)?;
    image.check_memory(memory_pages).map_err(|error| {
        let least = size::format(u64::from(image.end_page()) * PAGE_SIZE as u64);
        let field = format!("service {name:?}: memory");
        source.error(raw.memory.span().start, &field, error, format!("give it more than {least}, and room for a heap"))
    })?;
    Ok(std::fs::canonicalize(&file).unwrap_or(file))
}
