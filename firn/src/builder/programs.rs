//! Programs that a guest has in its image and runs in address spaces of its own: all binaries of a package of its
//! workspace, linked by the `program.ld` there. The guest's manifest names the package:
//!
//! ```toml
//! [package.metadata.firn]
//! programs = "taskos-programs"
//! ```
//!
//! The guest is built with the folder of the linked programs in its environment, as [`FOLDER`].

use super::{Apps, GUEST_TARGET, Metadata, Package, Task, cargo, flags, profile, run};
use crate::error::{Error, Result};
use crate::project::Project;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Variable of a guest's build that names the folder of its programs.
pub const FOLDER: &str = "FIRN_PROGRAMS";

/// The part of `[package.metadata]` that is this tool's.
#[derive(Deserialize, Default)]
pub struct PackageMetadata {
    #[serde(default)]
    firn: FirnMetadata,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FirnMetadata {
    programs: Option<String>,
}

impl Package {
    /// The package that has this one's programs.
    fn programs(&self) -> Option<&str> {
        self.metadata.as_ref()?.firn.programs.as_deref()
    }
}

/// The programs of a guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Programs {
    package: String,
    /// Where its manifest and its link script are.
    folder: PathBuf,
}

impl Programs {
    /// Those of a package, if it has any.
    ///
    /// # Errors
    /// `Argument` if its manifest names a package that there is not.
    pub fn of(guest: &Package, metadata: &Metadata) -> Result<Option<Self>> {
        let Some(name) = guest.programs() else { return Ok(None) };
        let package = metadata.packages.iter().find(|p| p.name == name).ok_or_else(|| Error::Argument {
            argument: "package.metadata.firn.programs",
            problem: format!("{}: there is no package {name:?}", guest.manifest_path.display()),
            remedy: "name a package of the workspace whose binaries are the guest's programs".into(),
        })?;
        let folder = package.manifest_path.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok(Some(Self { package: name.to_owned(), folder }))
    }

    /// Whether a package's binaries are programs of some guest, and no guests.
    pub fn are(package: &Package, metadata: &Metadata) -> bool {
        metadata.packages.iter().any(|other| other.programs() == Some(&package.name))
    }

    /// Builds them. A guest cannot be linted without them either.
    ///
    /// # Errors
    /// `Failed` if they do not build.
    pub fn build(&self, project: &Project, apps: &Apps, task: Task) -> Result<()> {
        let tasks: &[Task] = if task == Task::Lint { &[Task::Build, Task::Lint] } else { &[Task::Build] };
        for task in tasks {
            let mut command = cargo(&apps.root);
            command.env("CARGO_ENCODED_RUSTFLAGS", flags("firn_program", &self.folder.join("program.ld")));
            let (verb, last) = task.arguments();
            command.args([verb, "--profile", "program", "--target", GUEST_TARGET, "--package", &self.package]);
            command.args(["--lib", "--bins", "--target-dir"]).arg(target(apps));
            if apps.is_own {
                command.args(profile("program", &project.workspace_manifest()?));
            }
            run(command.args(last), "a guest's programs")?;
        }
        Ok(())
    }
}

/// Cargo's target folder of programs, apart from that of the guests: their flags differ.
fn target(apps: &Apps) -> PathBuf {
    apps.target.with_file_name("program")
}

/// Where the linked programs are.
pub fn folder(apps: &Apps) -> PathBuf {
    target(apps).join(GUEST_TARGET).join("program")
}
