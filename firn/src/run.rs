//! `firn run`: what is booted when no fleet file is named. The fleet is that of the service's project, or one that is
//! written here for an app of Firn's.

use crate::cli::Run;
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Overrides};
use crate::project::{MANIFEST, Project, check_name};
use std::path::PathBuf;

/// Memory of a VM of an app of which nothing is said.
const VM_MEMORY: &str = "4M";

/// A fleet file, found or written.
#[derive(Debug)]
pub struct Source {
    /// Where it is from, for messages.
    file: PathBuf,
    text: String,
    /// The apps whose images it names.
    apps: Vec<String>,
}

impl Source {
    /// Finds what is meant by a service.
    ///
    /// # Errors
    /// `Argument` if it cannot be one, `Io`.
    pub fn find(project: &Project, run: &Run) -> Result<Self> {
        check_name(&run.service).map_err(|problem| Error::Argument {
            argument: "SERVICE",
            problem: format!("{:?} {problem}", run.service),
            remedy: "name a service of this project, a project in this folder, or an app of Firn's such as web".into(),
        })?;
        let mut source = match manifest(project, &run.service)? {
            Some(source) => source,
            None => Self {
                file: format!("firn run {}", run.service).into(),
                text: service(&run.service),
                apps: vec![run.service.clone()],
            },
        };
        if let Some(gateway) = &run.gateway {
            check_name(gateway).map_err(|problem| Error::Argument {
                argument: "--gateway",
                problem: format!("{gateway:?} {problem}"),
                remedy: "name an app, such as firewall".into(),
            })?;
            source.text.push('\n');
            source.text.push_str(&service(gateway));
            source.apps.push(gateway.clone());
        }
        Ok(source)
    }

    /// The apps whose images must be there.
    #[must_use]
    pub fn apps(&self) -> &[String] {
        &self.apps
    }

    /// Checks all of it. The images must be there.
    ///
    /// # Errors
    /// What is wrong with the fleet file.
    pub fn fleet(&self, project: &Project, overrides: &Overrides) -> Result<Fleet> {
        Ok(Fleet::parse(&self.text, &self.file, project, overrides)?)
    }
}

/// The lines of a fleet file for one VM of an app.
fn service(app: &str) -> String {
    format!("[[service]]\nname = \"{app}\"\nimage = \"{app}\"\ncount = 1\nmemory = \"{VM_MEMORY}\"\n")
}

/// The project's own fleet file, if it has that service.
fn manifest(project: &Project, name: &str) -> Result<Option<Source>> {
    let Some(own) = &project.own else { return Ok(None) };
    let file = own.manifest();
    let text = std::fs::read_to_string(&file).map_err(Error::io("read", &file))?;
    let table: toml::Table = text.parse().map_err(|error| {
        Error::failed(format!("{}: {error}", file.display()), format!("{MANIFEST} is a fleet file, in TOML"))
    })?;
    let services = table.get("service").and_then(toml::Value::as_array).into_iter().flatten();
    let words: Vec<_> = services
        .filter_map(|service| {
            Some((service.get("name")?.as_str()?, service.get("image").and_then(toml::Value::as_str)))
        })
        .collect();
    if !words.iter().any(|&(service, _)| service == name) {
        return Ok(None);
    }
    let apps = words.iter().filter_map(|&(_, image)| image.filter(|image| check_name(image).is_ok()));
    let apps = apps.map(str::to_owned).collect();
    Ok(Some(Source { file, text, apps }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::project::Own;
    use clap::Parser;

    fn run(line: &str) -> Run {
        let Command::Run(run) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!("{line}") };
        run
    }

    fn project(manifest: &str) -> (tempfile::TempDir, Project) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        std::fs::write(root.join(MANIFEST), manifest).unwrap();
        let own = Own { root: root.clone(), target: root.join("target") };
        let project = Project { root: root.clone(), target: root.join("t"), machines: root.join("m"), own: Some(own) };
        (folder, project)
    }

    #[test]
    fn a_projects_manifest_is_taken_for_its_services() {
        let text = "[[service]]\nname = \"a\"\nimage = \"x\"\n[[service]]\nname = \"b\"\nimage = \"../y.img\"\n";
        let (_folder, project) = project(text);
        let of = |line| Source::find(&project, &run(line)).unwrap();
        assert_eq!((of("firn run b").text.as_str(), of("firn run a").apps), (text, vec!["x".to_owned()]));
        let web = of("firn run web --gateway wall");
        assert!(web.text.contains("image = \"web\"") && web.text.contains("image = \"wall\""), "{}", web.text);
        assert_eq!((web.apps(), web.file.to_str()), (&["web".to_owned(), "wall".to_owned()][..], Some("firn run web")));
    }

    #[test]
    fn what_cannot_be_a_service_is_refused() {
        let (_folder, project) = project("= nonsense");
        for line in ["firn run a/b", "firn run web --gateway a=b", "firn run web"] {
            let error = Source::find(&project, &run(line)).unwrap_err().to_string();
            assert!(error.contains("help: "), "{error}");
        }
    }
}
