//! `firn new`: a project for a service, which builds, runs, and has a test.
//!
//! Its code is the app `template` of this workspace, so that it is compiled and tested with everything else.

use crate::error::{Error, Result};
use crate::project::{MANIFEST, Project, check_name};
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the app the project is made of, which gives way to the project's name.
const TEMPLATE: &str = "template";

/// Code, taken as it is but for the name.
const CODE: [(&str, &str); 3] = [
    ("src/lib.rs", include_str!("../../apps/template/src/lib.rs")),
    ("src/main.rs", include_str!("../../apps/template/src/main.rs")),
    ("tests/service.rs", include_str!("../../apps/template/tests/service.rs")),
];

/// Texts with places for what differs between projects.
const TEXTS: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml.in")),
    (MANIFEST, include_str!("../template/firn.toml.in")),
    ("README.md", include_str!("../template/README.md.in")),
    (".gitignore", include_str!("../template/gitignore.in")),
];

/// Files of the checkout that keep the project on the same compiler and the same versions of crates.
const COPIED: [&str; 3] = ["rust-toolchain.toml", "rustfmt.toml", "Cargo.lock"];

/// Names that cannot be a crate's: Rust's words, and crates that the code uses by these names.
const TAKEN: [&str; 54] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "libos",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "supervisor",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "unsafe",
    "use",
    "where",
];

/// Makes a project in a folder that must not exist yet. Its name is that of the folder.
///
/// # Errors
/// `Argument` if it cannot have that name or is there, `Io`. What was written is taken away again.
pub fn create(project: &Project, folder: &Path) -> Result<PathBuf> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    check(&name)?;
    if folder.symlink_metadata().is_ok() {
        return Err(Error::Argument {
            argument: "NAME",
            problem: format!("{} is there already", folder.display()),
            remedy: "choose another name, or remove it".into(),
        });
    }
    let texts = texts(project, &name)?;
    fill(folder, &texts).inspect_err(|_| {
        // Better nothing than a part.
        let _ = fs::remove_dir_all(folder);
    })?;
    Ok(folder.to_path_buf())
}

fn check(name: &str) -> Result<()> {
    let problem = match check_name(name) {
        Err(problem) => problem,
        Ok(()) if !name.starts_with(|c: char| c.is_ascii_alphabetic()) => "does not begin with a letter",
        Ok(()) if TAKEN.contains(&name) => "is a word of Rust, or the name of a crate that every project uses",
        Ok(()) => return Ok(()),
    };
    Err(Error::Argument {
        argument: "NAME",
        problem: format!("{name:?} {problem}"),
        remedy: "a project's name is a letter and up to 31 letters, digits, '-' and '_', and no word of Rust".into(),
    })
}

/// The files of a project of that name.
fn texts(project: &Project, name: &str) -> Result<Vec<(&'static str, String)>> {
    let workspace = workspace_package(project)?;
    let libos = project.root.join("libos");
    let libos = libos.to_string_lossy();
    if libos.contains(['"', '\\', '\n']) {
        return Err(Error::Missing {
            what: format!("the folder {libos} cannot be named in a manifest"),
            remedy: "move Firn's source tree to a folder without quotes and backslashes in its name".into(),
        });
    }
    let places =
        [("name", name), ("libos", &libos), ("edition", &workspace.edition), ("rust-version", &workspace.rust_version)];
    let put = |text: &str| {
        places.iter().fold(text.to_owned(), |text, (place, value)| text.replace(&format!("{{{{{place}}}}}"), value))
    };
    let crate_name = name.replace('-', "_");
    let mut files: Vec<_> = TEXTS.iter().map(|&(file, text)| (file, put(text))).collect();
    files.extend(CODE.iter().map(|&(file, text)| (file, text.replace(TEMPLATE, &crate_name))));
    for file in COPIED {
        let path = project.root.join(file);
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        files.push((file, text));
    }
    Ok(files)
}

/// What the workspace's packages have in common.
#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WorkspacePackage {
    edition: String,
    rust_version: String,
}

fn workspace_package(project: &Project) -> Result<WorkspacePackage> {
    let manifest = project.workspace_manifest()?;
    let package = manifest.get("workspace").and_then(|workspace| workspace.get("package")).cloned();
    package.and_then(|package| package.try_into().ok()).ok_or_else(|| {
        Error::failed("Firn's Cargo.toml does not name an edition and a Rust version", "mend the source tree")
    })
}

fn fill(folder: &Path, texts: &[(&str, String)]) -> Result<()> {
    for (file, text) in texts {
        let path = folder.join(file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> Project {
        Project::find(None).unwrap()
    }

    #[test]
    fn a_project_has_its_own_name_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = create(&project(), &folder.path().join("my-service")).unwrap();
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap();
        assert!(read("src/main.rs").contains("my_service::serve(listener)"));
        assert!(read("Cargo.toml").contains("name = \"my-service\""));
        assert!(read("firn.toml").contains("image = \"my-service\""));
        for file in TEXTS.iter().map(|(file, _)| file).chain(CODE.iter().map(|(file, _)| file)) {
            let text = read(file);
            assert!(!text.contains("{{") && !text.contains(TEMPLATE), "{file}: {text}");
        }
        let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
        let libos = manifest["dependencies"]["libos"]["path"].as_str().unwrap();
        assert!(Path::new(libos).join("Cargo.toml").is_file(), "{libos}");
        assert_eq!(read("Cargo.lock"), fs::read_to_string(project().root.join("Cargo.lock")).unwrap());
    }

    #[test]
    fn names_that_cannot_be_are_refused_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(33);
        for bad in ["fn", "9lives", "-x", "a b", "caf\u{e9}", "std", "libos", "_x", "..", "", long.as_str()] {
            let error = create(&project(), &folder.path().join(bad)).unwrap_err();
            assert_eq!(error.status(), crate::error::STATUS_BAD_INPUT, "{bad}");
            assert!(error.to_string().contains("help: "), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        fs::create_dir(&there).unwrap();
        let message = create(&project(), &there).unwrap_err().to_string();
        assert!(message.contains("is there already") && message.contains("another name"), "{message}");
        assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
    }
}
