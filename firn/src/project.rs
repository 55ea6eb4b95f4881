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
}

/// A file that only the root of this workspace has.
const LANDMARK: &str = "virtual-isa/Cargo.toml";

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
        Ok(Self { root, target, machines })
    }

    /// Where images are written and looked for.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.target.join("firn/images")
    }

    /// The image of an app of the workspace.
    #[must_use]
    pub fn image(&self, app: &str) -> PathBuf {
        self.images().join(format!("{app}.img"))
    }

    /// The kernel's ELF file.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.target.join("x86_64-unknown-none/kernel/kernel")
    }

    /// Target folder of guest builds, apart from the host's: their flags differ.
    #[must_use]
    pub fn guest_target(&self) -> PathBuf {
        self.target.join("guest")
    }

    /// What the self-test of hardware virtualization found.
    #[must_use]
    pub fn accel_cache(&self) -> PathBuf {
        self.target.join("firn/accel.json")
    }
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
