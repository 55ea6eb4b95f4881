//! Builds the kernel and the guests with cargo, each for its own target with its own flags, and writes images.

use crate::error::{Error, Result};
use crate::image::{Written, convert};
use crate::project::Project;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Target of guests: hardware floats on stable Rust; nothing of Linux or of its C library is linked.
pub const GUEST_TARGET: &str = "x86_64-unknown-linux-musl";

/// Target of the kernel. Its flags are in `.cargo/config.toml`.
pub const KERNEL_TARGET: &str = "x86_64-unknown-none";

/// The app that every machine needs.
pub const SUPERVISOR: &str = "supervisor";

/// Flags of guests, but for the link script.
const GUEST_FLAGS: [&str; 13] = [
    "--cfg=firn_guest",
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

/// The guests of a workspace: each binary of a package under `apps`, by name, with its package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apps(BTreeMap<String, String>);

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Apps {
    /// Asks cargo.
    ///
    /// # Errors
    /// `Missing` without cargo, `Failed`.
    pub fn find(project: &Project) -> Result<Self> {
        let output = cargo(project)
            .args(["metadata", "--no-deps", "--format-version=1"])
            .output()
            .map_err(|error| no_cargo(&error))?;
        let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(|_| {
            Error::failed(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim()), "")
        })?;
        Ok(Self::of(&metadata, &project.root.join("apps")))
    }

    fn of(metadata: &Metadata, folder: &Path) -> Self {
        let mut apps = BTreeMap::new();
        for package in metadata.packages.iter().filter(|p| p.manifest_path.starts_with(folder)) {
            for target in package.targets.iter().filter(|t| t.kind.iter().any(|kind| kind == "bin")) {
                apps.insert(target.name.clone(), package.name.clone());
            }
        }
        Self(apps)
    }

    /// The named apps with the supervisor, or all if none is named.
    ///
    /// # Errors
    /// `Argument` if there is no such app.
    pub fn choose(&self, names: &[String]) -> Result<Self> {
        let mut chosen = BTreeMap::new();
        for name in names.iter().map(String::as_str).chain([SUPERVISOR]) {
            let package = self.0.get(name).ok_or_else(|| Error::Argument {
                argument: "APP",
                problem: format!("there is no app {name:?}"),
                remedy: format!("the apps are: {}", self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
            })?;
            chosen.insert(name.to_owned(), package.clone());
        }
        Ok(if names.is_empty() { self.clone() } else { Self(chosen) })
    }
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

/// Builds the kernel or lints it, and says where it is.
///
/// # Errors
/// `Failed` if it does not build.
pub fn kernel(project: &Project, task: Task) -> Result<PathBuf> {
    let mut command = cargo(project);
    let (verb, last) = task.arguments();
    command.args([verb, "--package", "kernel", "--profile", "kernel", "--target", KERNEL_TARGET]);
    if task == Task::Lint {
        // Built only for this target, so that nobody else looks at it.
        command.args(["--package", "machine"]);
    }
    command.arg("--target-dir").arg(&project.target).args(last);
    run(&mut command, "the kernel")?;
    Ok(project.kernel())
}

/// Builds guests or lints them.
///
/// # Errors
/// `Failed` if they do not build.
pub fn guests(project: &Project, apps: &Apps, task: Task) -> Result<()> {
    let script = project.root.join("libos/guest.ld");
    let mut flags: Vec<String> = GUEST_FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    flags.push(format!("-Clink-arg=-T{}", script.display()));
    let mut command = cargo(project);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let (verb, last) = task.arguments();
    command.args([verb, "--profile", "guest", "--target", GUEST_TARGET, "--target-dir"]).arg(project.guest_target());
    if task == Task::Lint {
        command.args(["--package", "libos", "--lib"]);
    }
    for (app, package) in &apps.0 {
        command.args(["--package", package, "--bin", app]);
    }
    run(command.args(last), "the guests")
}

/// Writes the images of built guests to a folder.
///
/// # Errors
/// `Elf` if one is no guest, `Io`.
pub fn images(project: &Project, apps: &Apps, folder: &Path) -> Result<Vec<Written>> {
    let built = project.guest_target().join(GUEST_TARGET).join("guest");
    apps.0.keys().map(|app| convert(&built.join(app), &folder.join(format!("{app}.img")))).collect()
}

/// Cargo in the workspace. Flags of the caller's own would replace those the kernel and the guests need.
fn cargo(project: &Project) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&project.root).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
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

    fn apps() -> Apps {
        let text = r#"{"packages": [
            {"name": "web", "manifest_path": "/w/apps/web/Cargo.toml", "targets": [{"name": "web", "kind": ["bin"]}, {"name": "x", "kind": ["test"]}]},
            {"name": "supervisor", "manifest_path": "/w/apps/supervisor/Cargo.toml", "targets": [{"name": "supervisor", "kind": ["bin"]}]},
            {"name": "hostile", "manifest_path": "/w/apps/hostile/Cargo.toml", "targets": [{"name": "bad_pointer", "kind": ["bin"]}]},
            {"name": "firn", "manifest_path": "/w/firn/Cargo.toml", "targets": [{"name": "firn", "kind": ["bin"]}]}
        ]}"#;
        Apps::of(&serde_json::from_str(text).unwrap(), Path::new("/w/apps"))
    }

    #[test]
    fn apps_are_the_binaries_under_their_folder() {
        let apps = apps();
        assert_eq!(apps.0.keys().map(String::as_str).collect::<Vec<_>>(), ["bad_pointer", "supervisor", "web"]);
        assert_eq!(apps.0["bad_pointer"], "hostile");
        assert_eq!(apps.choose(&[]).unwrap(), apps);
        let web = apps.choose(&["web".into()]).unwrap();
        assert_eq!(web.0.keys().map(String::as_str).collect::<Vec<_>>(), ["supervisor", "web"]);
    }

    #[test]
    fn unknown_apps_are_named() {
        let message = apps().choose(&["wbe".into()]).unwrap_err().to_string();
        assert!(message.contains("\"wbe\"") && message.contains("bad_pointer, supervisor, web"), "{message}");
    }
}
