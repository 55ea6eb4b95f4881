//! Where things lie: the source tree, what was built from it, and the state of machines.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The paths that every command needs.
#[derive(Clone, Debug)]
pub struct Project {
    /// The workspace.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// Where the state of machines is kept.
    pub machines: PathBuf,
    /// The service's project that the user is in, if it is one.
    pub own: Option<Own>,
}

/// A project that `firn new` made, or one like it: a cargo workspace with a [`MANIFEST`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its folder.
    pub root: PathBuf,
    /// Cargo's target folder there.
    pub target: PathBuf,
}

/// A file that only the root of this workspace has.
const LANDMARK: &str = "virtual-isa/Cargo.toml";

/// The fleet file of a service's project, by which the project is known.
pub const MANIFEST: &str = "firn.toml";

impl Project {
    /// Finds the workspace from the current folder upwards, else where this program was built.
    ///
    /// # Errors
    /// `Missing` if neither has it.
    pub fn find(state: Option<PathBuf>) -> Result<Self> {
        let here = std::env::current_dir().map_err(Error::io("find", Path::new(".")))?;
        let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here
            .ancestors()
            .chain(built_from.ancestors())
            .find(|folder| folder.join(LANDMARK).is_file())
            .ok_or_else(|| Error::Missing {
                what: "cannot find the Firn source tree".into(),
                remedy: "run firn from inside it".into(),
            })?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => here.join(folder),
            None => root.join("target"),
        };
        let machines = match state {
            Some(folder) => here.join(folder),
            None => target.join("firn/machines"),
        };
        let own = here.ancestors().find(|folder| folder.join(MANIFEST).is_file()).map(Own::of);
        Ok(Self { root, target, machines, own })
    }

    /// The same project, for a user who is above a service's project, and names it.
    #[must_use]
    pub fn with_own(self, name: &str) -> Self {
        let folder = std::env::current_dir().unwrap_or_default().join(name);
        let is_named = self.own.is_none() && check_name(name).is_ok() && folder.join(MANIFEST).is_file();
        if is_named { Self { own: Some(Own::of(&folder)), ..self } } else { self }
    }

    /// The workspace's `Cargo.toml`.
    ///
    /// # Errors
    /// `Io`, `Failed` if it is not TOML.
    pub fn workspace_manifest(&self) -> Result<toml::Table> {
        let file = self.root.join("Cargo.toml");
        let text = std::fs::read_to_string(&file).map_err(Error::io("read", &file))?;
        text.parse().map_err(|error| Error::failed(format!("{}: {error}", file.display()), ""))
    }

    /// Where images of the workspace's apps are written and looked for.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        images_in(&self.target)
    }

    /// The image of an app: the user's own, if there is one of that name, else the workspace's.
    #[must_use]
    pub fn image(&self, app: &str) -> PathBuf {
        let file = format!("{app}.img");
        let own = self.own.as_ref().map(|own| own.images().join(&file)).filter(|own| own.is_file());
        own.unwrap_or_else(|| self.images().join(file))
    }

    /// The kernel's ELF file.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.target.join("x86_64-unknown-none/kernel/kernel")
    }

    /// The ELF file that runs one guest without isolation.
    #[must_use]
    pub fn bare(&self) -> PathBuf {
        self.kernel().with_file_name("bare")
    }

    /// What the self-test of hardware virtualization found.
    #[must_use]
    pub fn accel_cache(&self) -> PathBuf {
        self.target.join("firn/accel.json")
    }
}

impl Own {
    fn of(folder: &Path) -> Self {
        let given =
            std::env::var_os("CARGO_TARGET_DIR").map(|given| std::env::current_dir().unwrap_or_default().join(given));
        Self { root: folder.to_path_buf(), target: given.unwrap_or_else(|| folder.join("target")) }
    }

    /// Where images of its programs are written and looked for.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        images_in(&self.target)
    }

    /// What is booted if nothing else is said.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.root.join(MANIFEST)
    }
}

fn images_in(target: &Path) -> PathBuf {
    target.join("firn/images")
}

/// Checks the name of a machine or a service: it becomes a folder, a log line and a field of the bundle.
///
/// # Errors
/// What is wrong with it, to go after the name.
pub fn check_name(name: &str) -> std::result::Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() {
        Err("is empty")
    } else if name.len() > virtual_isa::limits::MAX_NAME_BYTES {
        Err("is longer than 32 bytes")
    } else if !name.chars().all(is_plain) || name.starts_with('-') {
        Err("has characters other than letters, digits, '-' and '_', or starts with '-'")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_folders_are_refused() {
        let longest = "x".repeat(32);
        for good in ["web", "web-2", "a_b", longest.as_str()] {
            assert_eq!(check_name(good), Ok(()));
        }
        let too_long = "x".repeat(33);
        for bad in ["", "../x", "a b", "a/b", "-x", "caf\u{e9}", too_long.as_str()] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
