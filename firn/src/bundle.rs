//! Writes the boot bundle of a fleet, as [`virtual_isa::bundle`] lays it out: what the kernel must know, the
//! launch plan, the supervisor's image, then each image that a service uses, once.

use crate::error::{Error, Result};
use crate::fleet::Fleet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use virtual_isa::PAGE_SIZE;
use virtual_isa::bundle::{Bundle, EntryKind, GroupPlan, MAX_ENTRIES, MachinePlan, Plan, ServicePlan, encode_header};
use virtual_isa::image::Image;

/// Entries before the images: the machine's and the plan.
const FIRST_IMAGE: u32 = 2;

/// Memory of the supervisor VM in pages: its own needs, and a record of each VM.
fn supervisor_pages(nr_vms: u32) -> u32 {
    1024 + nr_vms / 8
}

/// Encodes the bundle of a fleet. `name` is the machine's.
///
/// # Errors
/// `Io` or `Image` if an image cannot be used, `Argument` if there are too many.
pub fn encode(fleet: &Fleet, name: &str, supervisor: &Path) -> Result<Vec<u8>> {
    let mut images: Vec<PathBuf> = vec![supervisor.to_path_buf()];
    let mut entries = Vec::new();
    for service in &fleet.services {
        let known = images.iter().position(|image| *image == service.image);
        let index = known.unwrap_or(images.len());
        if known.is_none() {
            images.push(service.image.clone());
        }
        entries.push(FIRST_IMAGE + u32::try_from(index).unwrap_or(u32::MAX));
    }
    if images.len() + 2 > MAX_ENTRIES as usize {
        return Err(Error::Argument {
            argument: "FLEET",
            problem: format!("{} different images", images.len()),
            remedy: format!("a machine boots with at most {}", MAX_ENTRIES - FIRST_IMAGE),
        });
    }
    let machine = machine_plan(fleet)?;
    let plan = launch_plan(fleet, name, &entries)?;
    let mut contents =
        vec![(EntryKind::Machine, "machine".to_owned(), machine), (EntryKind::Plan, "plan".to_owned(), plan)];
    for image in &images {
        let bytes = std::fs::read(image).map_err(Error::io("read", image))?;
        Image::check(&bytes).map_err(|error| Error::Image { file: image.clone(), error })?;
        contents.push((EntryKind::Image, entry_name(image), bytes));
    }
    write(&contents)
}

/// Lays out entries one after the other. What it returns has passed [`Bundle::check`].
fn write(contents: &[(EntryKind, String, Vec<u8>)]) -> Result<Vec<u8>> {
    let table = contents
        .iter()
        .map(|(kind, name, bytes)| (*kind, name.as_str(), u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
    let mut file = Vec::new();
    let length = encode_header(table, |bytes| file.extend_from_slice(bytes));
    for (_, _, bytes) in contents {
        file.resize(file.len().next_multiple_of(PAGE_SIZE), 0);
        file.extend_from_slice(bytes);
    }
    file.resize(file.len().next_multiple_of(PAGE_SIZE), 0);
    match Bundle::check(&file) {
        Ok(_) if file.len() as u64 == length => Ok(file),
        Ok(_) => Err(Error::failed("the boot bundle has a wrong length", "")),
        Err(error) => Err(Error::failed(format!("the boot bundle is wrong: {error}"), "")),
    }
}

/// An image's name in the bundle: that of its file, as far as it fits.
fn entry_name(image: &Path) -> String {
    let stem = image.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let mut name = String::new();
    for c in stem.chars().filter(|c| *c != '\0') {
        if name.len() + c.len_utf8() > virtual_isa::limits::MAX_NAME_BYTES {
            break;
        }
        name.push(c);
    }
    if name.is_empty() { "image".to_owned() } else { name }
}

fn machine_plan(fleet: &Fleet) -> Result<Vec<u8>> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| Error::failed(format!("the host gives no random bytes: {error}"), ""))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let plan = MachinePlan {
        network: fleet.network,
        seed,
        written_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        supervisor_pages: supervisor_pages(fleet.nr_vms()),
        swap_pages: fleet.swap.map_or(0, |swap| swap.bytes / PAGE_SIZE as u64),
    };
    serialize(&plan)
}

fn launch_plan(fleet: &Fleet, name: &str, entries: &[u32]) -> Result<Vec<u8>> {
    let nr_services = u32::try_from(fleet.services.len()).unwrap_or(u32::MAX);
    let nr_groups = u32::try_from(fleet.groups.len()).unwrap_or(u32::MAX);
    let header = Plan { power_off_when_done: fleet.power_off_when_done, nr_groups, nr_services, name };
    let mut bytes = serialize(&header)?;
    for group in &fleet.groups {
        bytes.extend(serialize(&GroupPlan { name: &group.name, processor: group.processor })?);
    }
    for (service, &entry) in fleet.services.iter().zip(entries) {
        bytes.extend(serialize(&ServicePlan {
            name: &service.name,
            entry,
            first_vm: service.first_vm,
            count: service.count,
            memory_pages: service.memory_pages,
            minimum_pages: service.minimum_pages,
            shares: service.shares,
            terms: service.terms,
            gateway: service.gateway,
            arguments: &service.arguments,
        })?);
    }
    Ok(bytes)
}

fn serialize<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| Error::failed(format!("the plan cannot be encoded: {error}"), ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Service;
    use crate::fleet::terms::Group;
    use crate::swap::Swap;
    use virtual_isa::gate::{ClassTerms, ProcessorTerms};
    use virtual_isa::network::Network;

    const BUSY: ProcessorTerms = ProcessorTerms { shares: 7, reservation_ppm: 250_000, limit_ppm: 1_500_000 };

    fn service(name: &str, image: &Path, first_vm: u32) -> Service {
        Service {
            name: name.into(),
            image: image.into(),
            first_vm,
            count: 10,
            memory_pages: 1024,
            minimum_pages: first_vm,
            shares: 100,
            terms: ClassTerms { frames_per_s: first_vm, ..ClassTerms::DEFAULT },
            gateway: Some(21).filter(|&vm| vm != first_vm),
            arguments: "body=1".into(),
        }
    }

    #[test]
    fn a_bundle_holds_the_plan_and_each_image_once() {
        let folder = tempfile::tempdir().unwrap();
        let guest = crate::elf::read(&crate::elf::craft::good().bytes()).unwrap();
        let image = crate::image::encode(&guest).unwrap();
        let [supervisor, web, echo] = ["supervisor", "web", "echo"].map(|name| {
            let file = folder.path().join(format!("{name}.img"));
            std::fs::write(&file, &image).unwrap();
            file
        });
        let fleet = Fleet {
            file: "fleet.toml".into(),
            memory_bytes: 1 << 30,
            cpus: 1,
            swap: Some(Swap { bytes: 4 << 30, iops: None }),
            power_off_when_done: true,
            network: Network::default(),
            groups: ["red", "blue"].map(|name| Group { name: name.into(), processor: BUSY }).into(),
            services: vec![service("a", &web, 1), service("b", &echo, 11), service("c", &web, 21)],
        };
        let bytes = encode(&fleet, "demo", &supervisor).unwrap();
        let bundle = Bundle::check(&bytes).unwrap();
        let shape: Vec<_> = bundle.entries().map(|e| (e.kind, e.name)).collect();
        assert_eq!(
            shape,
            [
                (EntryKind::Machine, "machine"),
                (EntryKind::Plan, "plan"),
                (EntryKind::Image, "supervisor"),
                (EntryKind::Image, "web"),
                (EntryKind::Image, "echo"),
            ]
        );
        let machine: MachinePlan = postcard::from_bytes(bundle.entry(0).unwrap().bytes).unwrap();
        assert_eq!(machine.network, Network::default());
        assert_eq!((machine.supervisor_pages, machine.swap_pages), (1024 + 30 / 8, 1 << 20));
        assert!(machine.seed != [0; 32] && machine.written_ns > 1_700_000_000_000_000_000);
        let (plan, mut rest) = postcard::take_from_bytes::<Plan<'_>>(bundle.entry(1).unwrap().bytes).unwrap();
        assert_eq!(plan, Plan { power_off_when_done: true, nr_groups: 2, nr_services: 3, name: "demo" });
        for name in ["red", "blue"] {
            let (group, next) = postcard::take_from_bytes::<GroupPlan<'_>>(rest).unwrap();
            assert_eq!(group, GroupPlan { name, processor: BUSY });
            rest = next;
        }
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (service, next) = postcard::take_from_bytes::<ServicePlan<'_>>(rest).unwrap();
            found.push((service.name, service.entry, service.first_vm, service.terms.frames_per_s, service.gateway));
            rest = next;
        }
        assert_eq!(found, [("a", 3, 1, 1, Some(21)), ("b", 4, 11, 11, Some(21)), ("c", 3, 21, 21, None)]);
        for n in 2..5 {
            assert!(Image::check(bundle.entry(n).unwrap().bytes).is_ok());
        }
    }

    #[test]
    fn an_image_that_was_damaged_meanwhile_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("supervisor.img");
        std::fs::write(&file, b"firnimg1").unwrap();
        let fleet = Fleet {
            file: "fleet.toml".into(),
            memory_bytes: 1 << 30,
            cpus: 1,
            swap: None,
            power_off_when_done: false,
            network: Network::default(),
            groups: Vec::new(),
            services: vec![service("a", &file, 1)],
        };
        let message = encode(&fleet, "demo", &file).unwrap_err().to_string();
        assert!(message.contains("supervisor.img") && message.contains("cut short"), "{message}");
    }

    #[test]
    fn long_image_names_are_cut_at_a_character() {
        assert_eq!(entry_name(Path::new("/x/web.img")), "web");
        let long = format!("{}{}", "x".repeat(31), "\u{e9}\u{e9}");
        assert_eq!(entry_name(Path::new(&long)), "x".repeat(31));
    }
}
