//! Builds the kernel and the guests with cargo, each for its own target with its own flags, and writes images.

use crate::error::{Error, Result};
use crate::image::{Written, convert};
use crate::project::{Own, Project};
use programs::Programs;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

mod programs;

/// Target of guests: hardware floats on stable Rust; nothing of Linux or of its C library is linked.
pub const GUEST_TARGET: &str = "x86_64-unknown-linux-musl";

/// Target of the kernel. Its flags are in `.cargo/config.toml`.
pub const KERNEL_TARGET: &str = "x86_64-unknown-none";

/// The app that every machine needs.
pub const SUPERVISOR: &str = "supervisor";

/// Flags of guests and of their programs, but for what says which it is, and the link script.
const FLAGS: [&str; 12] = [
    "-Clinker=rust-lld",
    "-Clinker-flavor=ld.lld",
    "-Clink-self-contained=no",
    "-Crelocation-model=static",
    "-Ctarget-feature=+crt-static",
    "-Cpanic=abort",
    "-Cforce-unwind-tables=no",
    "-Cforce-frame-pointers=yes",
    "-Clink-arg=-znorelro",
    "-Clink-arg=-zmax-page-size=4096",
    "-Clink-arg=--no-eh-frame-hdr",
    "-Clink-arg=--fatal-warnings",
];

/// Guests of one workspace: binaries by name, each with its package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apps {
    /// Where cargo is run.
    root: PathBuf,
    /// Cargo's target folder of guests, apart from the host's: their flags differ.
    target: PathBuf,
    /// Where their images go.
    images: PathBuf,
    /// Whether the workspace is a service's project, which does not say how guests are compiled.
    is_own: bool,
    packages: BTreeMap<String, String>,
    /// What guests run that are operating systems, by the guest's package.
    programs: BTreeMap<String, Programs>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    #[serde(default)]
    metadata: Option<programs::PackageMetadata>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Apps {
    /// The apps of Firn itself.
    ///
    /// # Errors
    /// `Missing` without cargo, `Failed`.
    pub fn of_firn(project: &Project) -> Result<Self> {
        let apps = Self {
            root: project.root.clone(),
            target: project.target.join("guest"),
            images: project.images(),
            is_own: false,
            packages: BTreeMap::new(),
            programs: BTreeMap::new(),
        };
        let metadata = metadata(&apps.root)?;
        apps.with(&metadata, &project.root.join("apps"))
    }

    /// The programs of a service's project.
    ///
    /// # Errors
    /// `Missing` without cargo, `Failed`.
    pub fn of_own(own: &Own) -> Result<Self> {
        let apps = Self {
            root: own.root.clone(),
            target: own.target.join("guest"),
            images: own.images(),
            is_own: true,
            packages: BTreeMap::new(),
            programs: BTreeMap::new(),
        };
        let metadata = metadata(&apps.root)?;
        apps.with(&metadata, &own.root)
    }

    /// All binaries of packages in a folder, but for those that are programs of a guest.
    fn with(mut self, metadata: &Metadata, folder: &Path) -> Result<Self> {
        let is_guest = |p: &&Package| p.manifest_path.starts_with(folder) && !Programs::are(p, metadata);
        for package in metadata.packages.iter().filter(is_guest) {
            if let Some(programs) = Programs::of(package, metadata)? {
                self.programs.insert(package.name.clone(), programs);
            }
            for target in package.targets.iter().filter(|t| t.kind.iter().any(|kind| kind == "bin")) {
                self.packages.insert(target.name.clone(), package.name.clone());
            }
        }
        Ok(self)
    }

    /// Those of these names.
    fn only(&self, names: &[&str]) -> Self {
        let packages = self.packages.iter().filter(|(name, _)| names.contains(&name.as_str()));
        Self { packages: packages.map(|(name, package)| (name.clone(), package.clone())).collect(), ..self.clone() }
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// Whether they are of a service's project.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.is_own
    }
}

/// Finds the apps of these names, with the supervisor, by workspace; all of where the user is if none is named. An app
/// of the user's own stands before one of Firn's.
///
/// # Errors
/// `Argument` if there is no such app, and those of [`Apps::of_own`].
pub fn choose(project: &Project, names: &[String]) -> Result<Vec<Apps>> {
    let own = project.own.as_ref().map(Apps::of_own).transpose()?;
    let own = own.as_ref();
    choose_of(own, &Apps::of_firn(project)?, names)
}

fn choose_of(own: Option<&Apps>, firn: &Apps, names: &[String]) -> Result<Vec<Apps>> {
    if names.is_empty() {
        return Ok(match own {
            Some(own) => vec![firn.only(&[SUPERVISOR]), own.clone()],
            None => vec![firn.clone()],
        });
    }
    let has = |apps: &Apps, name: &str| apps.packages.contains_key(name);
    let (of_own, of_firn): (Vec<&str>, Vec<&str>) =
        names.iter().map(String::as_str).chain([SUPERVISOR]).partition(|name| own.is_some_and(|own| has(own, name)));
    if let Some(unknown) = of_firn.iter().find(|name| !has(firn, name)) {
        let all = own.into_iter().chain([firn]).flat_map(|apps| apps.packages.keys().map(String::as_str));
        return Err(Error::Argument {
            argument: "APP",
            problem: format!("there is no app {unknown:?}"),
            remedy: format!("the apps are: {}", all.collect::<Vec<_>>().join(", ")),
        });
    }
    let mut chosen = vec![firn.only(&of_firn)];
    chosen.extend(own.map(|own| own.only(&of_own)).filter(|own| !own.is_empty()));
    Ok(chosen)
}

fn metadata(root: &Path) -> Result<Metadata> {
    let output =
        cargo(root).args(["metadata", "--no-deps", "--format-version=1"]).output().map_err(|error| no_cargo(&error))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        Error::failed(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim()), "")
    })
}

/// What cargo does with the kernel and the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Builds them.
    Build,
    /// Checks them with clippy; a warning is an error.
    Lint,
}

impl Task {
    const fn arguments(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Build => ("build", &[]),
            Self::Lint => ("clippy", &["--", "-Dwarnings"]),
        }
    }
}

/// Builds the kernel or lints it, and says where it is; with it `bare`, which runs a guest in its place.
///
/// # Errors
/// `Failed` if it does not build.
pub fn kernel(project: &Project, task: Task) -> Result<PathBuf> {
    check_target(&project.root, KERNEL_TARGET)?;
    let mut command = cargo(&project.root);
    let (verb, last) = task.arguments();
    command.args([verb, "--package", "kernel", "--package", "bare", "--profile", "kernel", "--target", KERNEL_TARGET]);
    if task == Task::Lint {
        // Built only for this target, so that nobody else looks at it.
        command.args(["--package", "machine"]);
    }
    command.arg("--target-dir").arg(&project.target).args(last);
    run(&mut command, "the kernel")?;
    Ok(project.kernel())
}

/// Builds the guests of a workspace or lints them, after the programs that are part of them.
///
/// # Errors
/// `Missing` without their target, `Failed` if they do not build.
pub fn guests(project: &Project, apps: &Apps, task: Task) -> Result<()> {
    if apps.is_empty() {
        return Ok(());
    }
    check_target(&apps.root, GUEST_TARGET)?;
    let packages: BTreeSet<_> = apps.packages.values().collect();
    for programs in packages.into_iter().filter_map(|package| apps.programs.get(package)) {
        programs.build(project, apps, task)?;
    }
    let mut command = cargo(&apps.root);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags("firn_guest", &project.root.join("libos/guest.ld")));
    command.env(programs::FOLDER, programs::folder(apps));
    let (verb, last) = task.arguments();
    command.args([verb, "--profile", "guest", "--target", GUEST_TARGET, "--target-dir"]).arg(&apps.target);
    if apps.is_own {
        command.args(profile("guest", &project.workspace_manifest()?));
    } else if task == Task::Lint {
        command.args(["--package", "libos", "--lib"]);
    }
    for (app, package) in &apps.packages {
        command.args(["--package", package, "--bin", app]);
    }
    run(command.args(last), "the guests")
}

/// Flags of the compiler, as cargo wants them in its environment.
fn flags(cfg: &str, script: &Path) -> String {
    let mut flags = vec![format!("--cfg={cfg}"), format!("-Clink-arg=-T{}", script.display())];
    flags.extend(FLAGS.iter().map(|flag| (*flag).to_owned()));
    flags.join("\u{1f}")
}

/// A profile of guests, for a workspace whose manifest does not have it: Firn's.
fn profile(name: &str, manifest: &toml::Table) -> Vec<String> {
    let mut options = Vec::new();
    if let Some(profile) = manifest.get("profile").and_then(|profiles| profiles.get(name)) {
        settings(&format!("profile.{name}"), profile, &mut options);
    }
    options.into_iter().flat_map(|option| ["--config".to_owned(), option]).collect()
}

/// What a part of a manifest says, each value with its whole path: cargo takes no tables by `--config`.
fn settings(path: &str, value: &toml::Value, found: &mut Vec<String>) {
    let Some(table) = value.as_table() else { return found.push(format!("{path}={value}")) };
    for (key, value) in table {
        let is_bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let key = if is_bare { key.clone() } else { format!("{key:?}") };
        settings(&format!("{path}.{key}"), value, found);
    }
}

/// Writes the images of built guests.
///
/// # Errors
/// `Elf` if one is no guest, `Io`.
pub fn images(apps: &Apps, folder: Option<&Path>) -> Result<Vec<Written>> {
    let built = apps.target.join(GUEST_TARGET).join("guest");
    let folder = folder.unwrap_or(&apps.images);
    apps.packages.keys().map(|app| convert(&built.join(app), &folder.join(format!("{app}.img")))).collect()
}

/// Checks that the compiler has a target, before cargo says it in many words.
fn check_target(root: &Path, target: &str) -> Result<()> {
    let output =
        Command::new("rustc").current_dir(root).args(["--print", "target-libdir", "--target", target]).output();
    let output = output.map_err(|error| Error::Missing {
        what: format!("cannot run rustc: {error}"),
        remedy: "install Rust with rustup".into(),
    })?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&folder).is_dir() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Missing {
        what: if said.is_empty() { format!("Rust's target {target} is not installed") } else { said },
        remedy: format!("rustup target add {target}, in {}", root.display()),
    })
}

/// Cargo in a workspace. Flags of the caller's own would replace those the kernel and the guests need.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env_remove("CARGO_BUILD_TARGET").env_remove("CARGO_TARGET_DIR");
    command
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    // What cargo and the linker print goes to standard error: results of `firn` are on standard output.
    let status = command.status().map_err(|error| no_cargo(&error))?;
    if status.success() {
        return Ok(());
    }
    let remedy = "mend what cargo says above; `firn doctor` says whether a tool is missing";
    Err(Error::failed(format!("cargo did not succeed with {what}"), remedy))
}

fn no_cargo(error: &std::io::Error) -> Error {
    Error::Missing { what: format!("cannot run cargo: {error}"), remedy: "install Rust with rustup".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(root: &str, is_own: bool, packages: &str) -> Apps {
        let apps = Apps {
            root: root.into(),
            target: format!("{root}/target/guest").into(),
            images: format!("{root}/target/firn/images").into(),
            is_own,
            packages: BTreeMap::new(),
            programs: BTreeMap::new(),
        };
        let folder = if is_own { root.to_owned() } else { format!("{root}/apps") };
        apps.with(&serde_json::from_str(packages).unwrap(), Path::new(&folder)).unwrap()
    }

    fn firn() -> Apps {
        let text = r#"{"packages": [
            {"name": "web", "manifest_path": "/w/apps/web/Cargo.toml", "targets": [{"name": "web", "kind": ["bin"]}, {"name": "x", "kind": ["test"]}]},
            {"name": "supervisor", "manifest_path": "/w/apps/supervisor/Cargo.toml", "targets": [{"name": "supervisor", "kind": ["bin"]}]},
            {"name": "hostile", "manifest_path": "/w/apps/hostile/Cargo.toml", "targets": [{"name": "bad_pointer", "kind": ["bin"]}]},
            {"name": "firn", "manifest_path": "/w/firn/Cargo.toml", "targets": [{"name": "firn", "kind": ["bin"]}]}
        ]}"#;
        apps("/w", false, text)
    }

    fn own() -> Apps {
        let text = r#"{"packages": [
            {"name": "hello", "manifest_path": "/home/hello/Cargo.toml", "targets": [{"name": "hello", "kind": ["lib"]}, {"name": "web", "kind": ["bin"]}]}
        ]}"#;
        apps("/home/hello", true, text)
    }

    fn names(apps: &Apps) -> Vec<&str> {
        apps.packages.keys().map(String::as_str).collect()
    }

    fn chosen(own: Option<&Apps>, wanted: &[&str]) -> Vec<(bool, String)> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let chosen = choose_of(own, &firn(), &wanted).unwrap();
        chosen.iter().map(|apps| (apps.is_own, names(apps).join(" "))).collect()
    }

    #[test]
    fn apps_are_the_binaries_under_their_folder() {
        assert_eq!(names(&firn()), ["bad_pointer", "supervisor", "web"]);
        assert_eq!(firn().packages["bad_pointer"], "hostile");
        assert_eq!(chosen(None, &[]), [(false, "bad_pointer supervisor web".to_owned())]);
        assert_eq!(chosen(None, &["web"]), [(false, "supervisor web".to_owned())]);
    }

    #[test]
    fn own_programs_stand_before_firns() {
        let own = own();
        let of = |is_own, names: &str| (is_own, names.to_owned());
        assert_eq!(chosen(Some(&own), &[]), [of(false, "supervisor"), of(true, "web")]);
        assert_eq!(chosen(Some(&own), &["web"]), [of(false, "supervisor"), of(true, "web")]);
        assert_eq!(chosen(Some(&own), &["bad_pointer"]), [of(false, "bad_pointer supervisor")]);
    }

    #[test]
    fn unknown_apps_are_named() {
        let message = choose_of(Some(&own()), &firn(), &["wbe".into()]).unwrap_err().to_string();
        assert!(message.contains("\"wbe\"") && message.contains("bad_pointer, supervisor, web"), "{message}");
    }

    #[test]
    fn the_profile_of_guests_is_handed_on() {
        let manifest = "[profile.guest]\ninherits = \"release\"\nopt-level = 2\n\
            [profile.guest.package.smoltcp]\nopt-level = \"s\"\n[profile.guest.package.\"a:b\"]\ndebug = 1\n";
        let manifest = manifest.parse().unwrap();
        let expected = [
            "profile.guest.inherits=\"release\"",
            "profile.guest.opt-level=2",
            "profile.guest.package.\"a:b\".debug=1",
            "profile.guest.package.smoltcp.opt-level=\"s\"",
        ];
        assert_eq!(profile("guest", &manifest), expected.map(|option| ["--config", option]).concat());
        assert!(profile("program", &manifest).is_empty() && profile("guest", &toml::Table::new()).is_empty());
    }

    /// A guest that is an operating system, with its programs in a package beside it.
    const SYSTEM: &str = r#"{"packages": [
        {"name": "os", "manifest_path": "/w/apps/os/Cargo.toml", "targets": [{"name": "os", "kind": ["bin"]}],
         "metadata": {"firn": {"programs": "os-programs"}}},
        {"name": "os-programs", "manifest_path": "/w/apps/os/programs/Cargo.toml",
         "targets": [{"name": "hello", "kind": ["bin"]}], "metadata": {"other": 1}}
    ]}"#;

    #[test]
    fn programs_of_a_guest_are_no_guests() {
        let apps = apps("/w", false, SYSTEM);
        assert_eq!(names(&apps), ["os"]);
        assert_eq!(apps.programs.keys().collect::<Vec<_>>(), ["os"]);
        assert_eq!(programs::folder(&apps), Path::new("/w/target/program/x86_64-unknown-linux-musl/program"));
    }

    #[test]
    fn programs_that_are_not_there_are_named() {
        let metadata = serde_json::from_str(&SYSTEM.replace("\"os-programs\"}}", "\"nothing\"}}")).unwrap();
        let message = firn().with(&metadata, Path::new("/w/apps")).unwrap_err().to_string();
        assert!(message.contains("/w/apps/os/Cargo.toml") && message.contains("\"nothing\""), "{message}");
    }
}
