//! What README and the book tell people to type and to follow is there: links, scripts, commands and their options.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let at_root = ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md", "CHANGELOG.md", "firn/template/README.md.in"];
    let mut found: Vec<_> = at_root.iter().map(|name| root().join(name)).collect();
    below(&root().join("docs/src"), &mut found);
    found
}

/// The lines of a page's shell examples, without comments.
fn shell(text: &str) -> Vec<&str> {
    let (mut is_shell, mut lines) = (false, Vec::new());
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            is_shell = !is_shell && language == "sh";
        } else if is_shell {
            lines.push(line.split(" #").next().unwrap_or(line).trim());
        }
    }
    lines
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !text.starts_with('-')
}

/// Calls of `firn` in a line: the subcommand, and the long options that are its own.
fn calls(line: &str) -> Vec<(String, Vec<String>)> {
    let mut calls = Vec::new();
    for command in line.split(['|', '&', ';']) {
        let mut words = command.split_whitespace();
        if !words.next().is_some_and(|program| program == "firn" || program == "./scripts/firn") {
            continue;
        }
        let Some(name) = words.next().filter(|word| is_word(word)) else { continue };
        // Behind `--` is somebody else's command.
        let own = words.take_while(|word| *word != "--").filter_map(|word| word.strip_prefix("--"));
        calls.push((name.to_owned(), own.map(|word| word.split('=').next().unwrap_or(word).to_owned()).collect()));
    }
    calls
}

fn firn(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_firn")).args(arguments).output().unwrap();
    assert!(output.status.success(), "firn {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn commands_and_options_that_are_shown_exist() {
    let help = firn(&["--help"]);
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut nr_options = 0;
    for page in pages() {
        for line in shell(&fs::read_to_string(&page).unwrap()) {
            for (name, options) in calls(line) {
                let is_there = help.lines().any(|line| line.split_whitespace().next() == Some(name.as_str()));
                assert!(is_there, "{}: there is no firn {name}: {line}", page.display());
                let own = helps.entry(name.clone()).or_insert_with(|| firn(&[&name, "--help"]));
                for option in options {
                    let has =
                        own.split(|c: char| !c.is_alphanumeric() && c != '-').any(|word| word == format!("--{option}"));
                    assert!(has, "{}: firn {name} has no --{option}: {line}", page.display());
                    nr_options += 1;
                }
            }
        }
    }
    assert!(helps.len() >= 10 && nr_options >= 10, "only {:?} and {nr_options} options were found", helps.keys());
}

#[test]
fn scripts_that_are_named_exist() {
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for rest in text.split("./scripts/").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            assert!(root().join("scripts").join(&name).is_file(), "{}: ./scripts/{name}", page.display());
            count += 1;
        }
    }
    assert!(count > 20, "only {count} were found");
}

/// Those of the book are tested where the book is.
#[test]
fn links_outside_of_the_book_lead_somewhere() {
    let mut count = 0;
    for page in pages().iter().filter(|page| !page.components().any(|part| part.as_os_str() == "src")) {
        for rest in fs::read_to_string(page).unwrap().split("](").skip(1) {
            let Some((link, _)) = rest.split_once(')') else { continue };
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            let file = link.split('#').next().unwrap_or(link);
            assert!(page.parent().unwrap().join(file).exists(), "{}: {link}", page.display());
            count += 1;
        }
    }
    assert!(count > 10, "only {count} were found");
}

#[test]
fn calls_are_found_in_a_line() {
    let found = calls("cd x && firn run web --count 3 -p 1:2 | ./scripts/firn exec --name=a -- curl --silent");
    let expected = [("run", vec!["count"]), ("exec", vec!["name"])];
    assert_eq!(found.len(), 2);
    for ((name, options), (expected, its_options)) in found.iter().zip(expected) {
        assert_eq!((name.as_str(), options.iter().map(String::as_str).collect::<Vec<_>>()), (expected, its_options));
    }
    assert!(calls("alias firn=x").is_empty() && calls("firn --help").is_empty());
}
