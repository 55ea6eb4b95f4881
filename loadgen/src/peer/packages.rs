//! Debian's packages, as they come from where this host's own come from, unpacked and not installed.

use crate::machine::Failure;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder in which packages lie unpacked, each in a folder of its own.
#[derive(Clone, Debug)]
pub struct Packages {
    folder: PathBuf,
}

/// Runs a program. Its output, or why there is none.
fn output(program: &str, arguments: &[&str], folder: &Path) -> Result<Vec<u8>, Failure> {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.map_err(|error| {
        Failure::BadInput(format!("cannot run {program}: {error}; peers are built from Debian's packages, on Debian"))
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why").to_owned();
    Err(Failure::BadInput(format!("{program} {}: {why}", arguments.join(" "))))
}

/// What to do when a package cannot be had.
fn with_remedy(failure: Failure) -> Failure {
    Failure::BadInput(format!(
        "{failure}; see whether Debian's archive can be reached, and bring the list of packages up to date with \
         `apt-get update`"
    ))
}

/// The packages that must be there for one of that name, in what `apt-cache depends` prints.
fn depends(printed: &str) -> impl Iterator<Item = &str> {
    printed.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::trim)
}

impl Packages {
    /// Those below this folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(folder: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::BadInput(format!("cannot make {}: {error}", folder.display())))?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// The package that the one of this name stands for at present, such as a kernel's with its version.
    ///
    /// # Errors
    /// If there is none.
    pub fn stands_for(&self, name: &str, begins: &str) -> Result<String, Failure> {
        let printed = output("apt-cache", &["depends", name], &self.folder).map_err(with_remedy)?;
        let printed = String::from_utf8_lossy(&printed);
        let found = depends(&printed).find(|package| package.starts_with(begins)).map(str::to_owned);
        found.ok_or_else(|| with_remedy(Failure::BadInput(format!("there is no package {name} with a kernel"))))
    }

    /// Where a package lies unpacked; fetches it first if it does not yet.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn unpacked(&self, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.folder.join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        let fetching = self.folder.join(".fetching");
        let io = |error: std::io::Error| Failure::BadInput(format!("cannot unpack {name}: {error}"));
        // Of what was broken off before nothing is left.
        let _ = std::fs::remove_dir_all(&fetching);
        std::fs::create_dir(&fetching).map_err(io)?;
        output("apt-get", &["-q", "-o", "APT::Sandbox::User=root", "download", name], &fetching)
            .map_err(with_remedy)?;
        let mut files = std::fs::read_dir(&fetching).map_err(io)?.flatten().map(|entry| entry.path());
        let package = files.find(|file| file.extension().is_some_and(|extension| extension == "deb"));
        let package = package.ok_or_else(|| Failure::BadInput(format!("apt-get fetched no package {name}")))?;
        let package = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        output("dpkg-deb", &["--extract", &package, "unpacked"], &fetching)?;
        std::fs::rename(fetching.join("unpacked"), &folder).map_err(io)?;
        std::fs::remove_dir_all(&fetching).map_err(io)?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_must_be_there_counts() {
        let printed = "a\n  PreDepends: b\n  Depends: c-1.2\n |Depends: d\n  Recommends: e\n  Depends: f\n";
        assert_eq!(depends(printed).collect::<Vec<_>>(), ["c-1.2", "f"]);
    }

    #[test]
    fn what_lies_there_is_not_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("known")).unwrap();
        let packages = Packages::new(folder.path()).unwrap();
        assert_eq!(packages.unpacked("known").unwrap(), folder.path().join("known"));
    }

    #[test]
    fn a_program_that_fails_says_why() {
        let here = Path::new(".");
        let failure = output("sh", &["-c", "echo one; echo two >&2; exit 3"], here).unwrap_err();
        assert!(failure.to_string().ends_with(": two"), "{failure}");
        let failure = output("no-such-program-of-firn", &[], here).unwrap_err();
        assert!(failure.to_string().contains("no-such-program-of-firn"), "{failure}");
    }
}
