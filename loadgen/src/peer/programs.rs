//! Programs out of unpacked packages, with the libraries that they need and nothing else.

use super::cpio::Archive;
use crate::machine::Failure;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};
use object::{Endianness, StringTable};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The dynamic linker: every program needs it, though none names it as a library.
const LINKER: &str = "ld-linux-x86-64.so.2";

/// Folder of the libraries in an archive, and the linker's, which is part of each program.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LINKER_FOLDER: &str = "lib64";

/// Names of the libraries that a program or a library needs.
pub(super) fn needed(bytes: &[u8]) -> object::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let Some((entries, strings)) = sections.dynamic(endian, bytes)? else { return Ok(Vec::new()) };
    let strings: StringTable<'_> = sections.strings(endian, bytes, strings)?;
    let needed = entries.iter().filter(|entry| entry.tag32(endian) == Some(DT_NEEDED));
    needed.map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned())).collect()
}

/// All shared libraries in some folders, by name.
#[derive(Debug, Default)]
pub struct Libraries(BTreeMap<String, PathBuf>);

impl Libraries {
    /// Those below these folders.
    #[must_use]
    pub fn below(folders: &[PathBuf]) -> Self {
        let mut libraries = Self::default();
        folders.iter().for_each(|folder| libraries.look_into(folder));
        libraries
    }

    fn look_into(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.look_into(&path);
            } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && name.contains(".so")
                && path.is_file()
            {
                self.0.insert(name.to_owned(), path);
            }
        }
    }

    /// Puts a program into an archive as `name`, and all libraries that it needs.
    ///
    /// # Errors
    /// If one of them is nowhere, or a file is not understood.
    pub fn add_program(&self, archive: &mut Archive, name: &str, file: &Path) -> Result<(), Failure> {
        let mut waiting = vec![(name.to_owned(), file.to_path_buf())];
        let linker = self.find(LINKER, file)?;
        archive.file(&format!("{LINKER_FOLDER}/{LINKER}"), &read(&linker)?, true);
        while let Some((name, file)) = waiting.pop() {
            let bytes = read(&file)?;
            let needed = needed(&bytes)
                .map_err(|error| Failure::failed(format!("{} is not understood: {error}", file.display())))?;
            archive.file(&name, &bytes, true);
            for library in needed.iter().filter(|library| *library != LINKER) {
                let name = format!("{LIBRARIES}/{library}");
                if !archive.has(&name) {
                    waiting.push((name, self.find(library, &file)?));
                }
            }
        }
        Ok(())
    }

    fn find(&self, library: &str, user: &Path) -> Result<PathBuf, Failure> {
        let found = self.0.get(library).cloned();
        found.ok_or_else(|| Failure::failed(format!("no package has {library}, which {} needs", user.display())))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test itself is a program that needs libraries.
    fn myself() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    #[test]
    fn a_programs_libraries_are_known() {
        let needed = needed(&read(&myself()).unwrap()).unwrap();
        assert!(needed.iter().any(|library| library == "libc.so.6"), "{needed:?}");
        assert!(super::needed(b"no program").is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_path_buf()];
        std::fs::write(folder.path().join(LINKER), b"").unwrap();
        let mut archive = Archive::default();
        let failure = Libraries::below(&folders).add_program(&mut archive, "bin/me", &myself()).unwrap_err();
        assert!(failure.to_string().contains(".so."), "{failure}");
    }

    #[test]
    fn libraries_of_libraries_come_along() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("deep");
        std::fs::create_dir(&deep).unwrap();
        // Whatever this test needs, its own bytes stand for it: the closure ends all the same.
        for library in needed(&read(&myself()).unwrap()).unwrap().iter().map(String::as_str).chain([LINKER]) {
            std::fs::copy(myself(), deep.join(library)).unwrap();
        }
        let mut archive = Archive::default();
        Libraries::below(&[folder.path().to_path_buf()]).add_program(&mut archive, "bin/me", &myself()).unwrap();
        assert!(archive.has("bin/me") && archive.has("lib64/ld-linux-x86-64.so.2"));
        assert!(archive.has("usr/lib/x86_64-linux-gnu/libc.so.6"));
    }
}
