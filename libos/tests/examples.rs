//! Whatever is public has an example: its name stands in a compiled example of its module. The examples themselves run
//! as documentation's tests do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files whose items nobody outside reaches, or reaches by the same names on the host.
const PRIVATE: [&str; 20] = [
    "gate/guest.rs",
    "gate/host.rs",
    "gate/tickets.rs",
    "guest/",
    "heap.rs",
    "host/mod.rs",
    "line.rs",
    "mmu/asids.rs",
    "mmu/hardware.rs",
    "mmu/ranges.rs",
    "net/checksum.rs",
    "net/device.rs",
    "net/guest.rs",
    "net/host.rs",
    "net/resolver/cache.rs",
    "net/resolver/message.rs",
    "net/stack/",
    "packets/guest.rs",
    "ready_queue.rs",
    "rings.rs",
];

/// What a module has.
#[derive(Default)]
struct Module {
    /// Code of its examples.
    examples: String,
    /// Public items, and where they are.
    items: Vec<(String, String)>,
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The name of the item that a line makes public.
fn public_item(line: &str) -> Option<&str> {
    const KINDS: [&str; 7] = ["fn", "struct", "enum", "trait", "const", "static", "type"];
    let mut rest = words(line.strip_prefix("pub ")?).skip_while(|word| matches!(*word, "async" | "unsafe")).peekable();
    let kind = rest.next()?;
    if kind == "const" && rest.peek() == Some(&"fn") {
        rest.next();
    }
    if KINDS.contains(&kind) { rest.next() } else { None }
}

/// The type whose methods begin at this line.
fn type_of(line: &str) -> Option<&str> {
    let mut rest = line.strip_prefix("impl")?;
    if rest.starts_with('<') {
        rest = &rest[rest.find("> ")? + 1..];
    }
    words(rest).next()
}

fn read(text: &str, name: &str, module: &mut Module) {
    let (mut is_code, mut is_private) = (false, false);
    for line in text.lines() {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            return;
        }
        let trimmed = line.trim();
        if let Some(doc) = trimmed.strip_prefix("///").or_else(|| trimmed.strip_prefix("//!")) {
            if doc.trim().starts_with("```") {
                // Text is no example.
                is_code = !is_code && !doc.contains("text");
            } else if is_code {
                module.examples.push_str(doc);
                module.examples.push('\n');
            }
            continue;
        }
        if let Some(of) = type_of(line) {
            is_private = !text
                .lines()
                .any(|line| ["struct", "enum"].iter().any(|kind| line.starts_with(&format!("pub {kind} {of}"))));
        } else if line == "}" {
            is_private = false;
        }
        if let Some(item) = public_item(trimmed).filter(|_| !is_private) {
            module.items.push((item.to_owned(), name.to_owned()));
        }
    }
}

#[test]
fn every_public_item_is_in_an_example() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    let mut left_out = PRIVATE.to_vec();
    for path in files(&source) {
        let name = path.strip_prefix(&source).unwrap().to_str().unwrap();
        if let Some(private) = PRIVATE.iter().find(|private| name.starts_with(**private)) {
            left_out.retain(|other| other != private);
        } else if !name.contains("tests") && name != "lib.rs" {
            let module = modules.entry(name.split(['/', '.']).next().unwrap().to_owned()).or_default();
            read(&fs::read_to_string(&path).unwrap(), name, module);
        }
    }
    assert!(left_out.is_empty(), "there is nothing of that name any more: {left_out:?}");
    let count: usize = modules.values().map(|module| module.items.len()).sum();
    assert!(count > 150, "only {count} items were found");
    let mut missing = Vec::new();
    for Module { examples, items } in modules.values() {
        missing.extend(items.iter().filter(|(item, _)| !words(examples).any(|word| word == item)));
    }
    assert!(missing.is_empty(), "in no example of their module: {missing:#?}");
}

#[test]
fn what_is_missed_is_found() {
    let text = "//! ```\n//! shown();\n//! ```\npub fn shown() {}\nimpl Hidden {\n    pub fn own() {}\n}\n\
                pub struct Type;\nimpl<T: Copy> Type<T> {\n    pub const fn method() {}\n}\npub(crate) fn inner() {}\n";
    let mut module = Module::default();
    read(text, "a.rs", &mut module);
    let items: Vec<_> = module.items.iter().map(|(item, _)| item.as_str()).collect();
    assert_eq!((items, module.examples.trim()), (vec!["shown", "Type", "method"], "shown();"));
}
