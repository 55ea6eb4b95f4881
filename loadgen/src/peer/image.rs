//! What a Linux machine boots: Debian's kernel, and a file system with our first process, the modules of the machine's
//! devices, and the services.
//!
//! All of it lies in one folder and is made from there again at each use, which takes a second or two; what comes over the
//! network is fetched once. The sources of the C programs are part of this program.

use super::Service;
use super::cpio::Archive;
use super::packages::Packages;
use super::programs::Libraries;
use crate::driver::write;
use crate::machine::Failure;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that stands for the present kernel for virtual machines, and how that one's name begins.
const KERNEL: (&str, &str) = ("linux-image-cloud-amd64", "linux-image-");

/// Modules for the devices of the machine, in the order in which they are loaded.
const MODULES: [&str; 7] = ["virtio_ring", "virtio", "virtio_mmio", "failover", "net_failover", "virtio_net", "veth"];

/// The programs that are built, each from these sources.
const PROGRAMS: [(&str, &[&str]); 3] =
    [("init", &["init.c", "start.c", "netlink.c"]), ("server", &["server.c"]), (TSC, &["tsc.c"])];

/// The one that runs on this host.
const TSC: &str = "tsc";

/// The sources.
const SOURCES: [(&str, &str); 7] = [
    ("init.c", include_str!("init.c")),
    ("init.h", include_str!("init.h")),
    ("netlink.c", include_str!("netlink.c")),
    ("netlink.h", include_str!("netlink.h")),
    ("server.c", include_str!("server.c")),
    ("start.c", include_str!("start.c")),
    ("tsc.c", include_str!("tsc.c")),
];

/// Folders that the first process mounts or writes to, and what Debian's services look for.
const FOLDERS: [&str; 9] = ["dev", "proc", "run", "sys", "tmp", "box", "srv", "var/lib/nginx", "var/log/nginx"];

/// Packages with Debian's services, and those with libraries that they need.
const PACKAGES: [&str; 30] = [
    "redis-tools",
    "nginx",
    "mosquitto",
    "libatomic1",
    "libc6",
    "libcap2",
    "libcom-err2",
    "libcrypt1",
    "libdlt2",
    "libgcc-s1",
    "libgcrypt20",
    "libgpg-error0",
    "libgssapi-krb5-2",
    "libjemalloc2",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "liblz4-1",
    "liblzf1",
    "liblzma5",
    "libnsl2",
    "libpcre2-8-0",
    "libssl3",
    "libstdc++6",
    "libsystemd0",
    "libtirpc3",
    "libwrap0",
    "libzstd1",
    "zlib1g",
];

/// Where a service's program is in its package, and in the machine. Debian's `redis-server` is a link to another program
/// of the same bytes.
const DEBIAN: [(&str, &str, &str); 3] = [
    ("redis-tools", "usr/bin/redis-check-rdb", "usr/bin/redis-server"),
    ("nginx", "usr/sbin/nginx", "usr/sbin/nginx"),
    ("mosquitto", "usr/sbin/mosquitto", "usr/sbin/mosquitto"),
];

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The file system.
    pub initrd: PathBuf,
    /// The kernel's version, as its package is named.
    pub version: String,
    /// The rate of the machine's time-stamp counter, which the kernel is told.
    pub tsc_khz: u64,
}

impl Image {
    /// Makes the image for a service, in a folder.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if the packages cannot be had or this host has no compiler.
    pub fn make(folder: &Path, service: Service) -> Result<Self, Failure> {
        let programs = compile(folder)?;
        let packages = Packages::new(&folder.join("packages"))?;
        let package = packages.stands_for(KERNEL.0, KERNEL.1)?;
        let unpacked = packages.unpacked(&package)?;
        let version = package.trim_start_matches(KERNEL.1).to_owned();
        let mut archive = Archive::default();
        FOLDERS.iter().for_each(|name| archive.folder(name));
        archive.device("dev/console", (5, 1));
        archive.file("etc/passwd", b"root:x:0:0:root:/:/\n", false);
        archive.file("etc/group", b"root:x:0:\n", false);
        archive.file("init", &read(&programs.join("init"))?, true);
        archive.file("box/server", &read(&programs.join("server"))?, true);
        archive.link("server", "box/server");
        archive.file("srv/index.html", &page(), false);
        add_modules(&mut archive, &unpacked.join("lib/modules").join(&version).join("kernel"))?;
        if service != Service::Web {
            add_debian(&mut archive, &packages)?;
        }
        let kind = if service == Service::Web { "web" } else { "debian" };
        let image = Self {
            kernel: unpacked.join("boot").join(format!("vmlinuz-{version}")),
            initrd: folder.join(format!("{kind}.cpio")),
            version,
            tsc_khz: tsc_khz(&programs)?,
        };
        if !image.kernel.is_file() {
            return Err(Failure::failed(format!("package {package} has no {}", image.kernel.display())));
        }
        write(&image.initrd, &archive.finish())?;
        Ok(image)
    }
}

/// The page that a web server of Debian's gives out: as long as that of `apps/web`.
fn page() -> Vec<u8> {
    let line = b"firn is snow packed grain on grain until it bears its own weigh\n";
    line.repeat(2)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))
}

/// Builds the programs. Returns their folder.
fn compile(folder: &Path) -> Result<PathBuf, Failure> {
    let sources = folder.join("src");
    for (name, text) in SOURCES {
        write(&sources.join(name), text.as_bytes())?;
    }
    for (program, files) in PROGRAMS {
        let mut command = Command::new("gcc");
        command.args(["-static", "-O2", "-Wall", "-Wextra", "-o", program]).args(files).current_dir(&sources);
        let output = command.output().map_err(|error| {
            let remedy = "install it with `apt-get install gcc libc6-dev`";
            Failure::BadInput(format!("cannot run gcc, which builds the peers: {error}; {remedy}"))
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::failed(format!("gcc does not build {program}:\n{said}")));
        }
    }
    Ok(sources)
}

/// Measures the rate of this host's time-stamp counter, by the program for that.
fn tsc_khz(programs: &Path) -> Result<u64, Failure> {
    let output = Command::new(programs.join(TSC)).output();
    let khz = output.ok().and_then(|output| String::from_utf8_lossy(&output.stdout).trim().parse().ok());
    khz.filter(|&khz| khz > 0)
        .ok_or_else(|| Failure::failed("cannot measure the rate of this host's time-stamp counter"))
}

/// Adds the modules, and the list of them.
fn add_modules(archive: &mut Archive, kernel: &Path) -> Result<(), Failure> {
    let mut list = String::new();
    for module in MODULES {
        let file = format!("{module}.ko");
        let found = find(kernel, &file)
            .ok_or_else(|| Failure::failed(format!("there is no module {file} in {}", kernel.display())))?;
        archive.file(&format!("modules/{file}"), &read(&found)?, false);
        list.push_str(&file);
        list.push('\n');
    }
    archive.file("modules/list", list.as_bytes(), false);
    Ok(())
}

/// A file of that name, somewhere below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.iter().find(|path| path.file_name().is_some_and(|file| file == name)).cloned().or_else(|| {
        let mut folders = entries.iter().filter(|path| path.is_dir());
        folders.find_map(|folder| find(folder, name))
    })
}

/// Adds Debian's services.
fn add_debian(archive: &mut Archive, packages: &Packages) -> Result<(), Failure> {
    let folders = PACKAGES.iter().map(|name| packages.unpacked(name)).collect::<Result<Vec<_>, _>>()?;
    let libraries = Libraries::below(&folders);
    for (package, file, name) in DEBIAN {
        libraries.add_program(archive, name, &packages.unpacked(package)?.join(file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::programs::needed;
    use super::*;

    #[test]
    fn every_source_is_there_and_compiles() {
        let folder = tempfile::tempdir().unwrap();
        let programs = compile(folder.path()).unwrap();
        for (program, _) in PROGRAMS {
            // Nothing is there that it could be linked with when it runs.
            assert_eq!(needed(&read(&programs.join(program)).unwrap()).unwrap(), Vec::<String>::new(), "{program}");
        }
        assert!((100_000..100_000_000).contains(&tsc_khz(&programs).unwrap()));
    }

    #[test]
    fn modules_are_found_wherever_they_are_and_listed_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for (n, module) in MODULES.iter().enumerate() {
            let deep = folder.path().join(format!("drivers/{n}"));
            std::fs::create_dir_all(&deep).unwrap();
            std::fs::write(deep.join(format!("{module}.ko")), module).unwrap();
        }
        let mut archive = Archive::default();
        add_modules(&mut archive, folder.path()).unwrap();
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert!(text.contains("virtio_ring.ko\nvirtio.ko\nvirtio_mmio.ko\n"), "{text}");
        std::fs::remove_dir_all(folder.path().join("drivers/6")).unwrap();
        let failure = add_modules(&mut Archive::default(), folder.path()).unwrap_err();
        assert!(failure.to_string().contains("veth.ko"), "{failure}");
    }

    #[test]
    fn the_page_is_as_long_as_that_of_web() {
        assert_eq!(page().len(), 128);
    }
}
