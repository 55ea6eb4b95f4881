//! The book's examples, as documentation of nothing: `cargo test --doc` compiles and runs them. Its links are checked by
//! the tests below.

#[doc = include_str!("src/first-service.md")]
pub mod first_service {}

#[doc = include_str!("src/api.md")]
pub mod api {}

#[doc = include_str!("src/performance.md")]
pub mod performance {}

#[doc = include_str!("src/debugging.md")]
pub mod debugging {}

#[doc = include_str!("src/gateways.md")]
pub mod gateways {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Component, Path, PathBuf};

    fn source() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
    }

    fn pages(folder: &Path) -> Vec<PathBuf> {
        let mut pages = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pages.extend(self::pages(&path));
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
        pages
    }

    /// What a page links to with `](...)`, outside of code.
    fn links(text: &str) -> Vec<String> {
        let mut is_code = false;
        let mut links = Vec::new();
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            }
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(to, _)| to.to_owned()));
            links.extend(targets.filter(|_| !is_code));
        }
        links
    }

    /// A path without `.` and `..`.
    fn normal(path: &Path) -> PathBuf {
        let mut normal = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => drop(normal.pop()),
                Component::CurDir => {}
                other => normal.push(other),
            }
        }
        normal
    }

    /// How the book's program makes an anchor of a heading.
    fn anchor(heading: &str) -> String {
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    }

    #[test]
    fn every_link_within_the_book_leads_somewhere() {
        for page in pages(&source()) {
            for link in links(&fs::read_to_string(&page).unwrap()) {
                if link.contains("://") {
                    continue;
                }
                let (file, part) = link.split_once('#').unwrap_or((&link, ""));
                let file = if file.is_empty() { page.clone() } else { normal(&page.parent().unwrap().join(file)) };
                assert!(file.is_file(), "{}: {link}", page.display());
                let text = fs::read_to_string(&file).unwrap_or_default();
                let headings =
                    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#')));
                assert!(
                    part.is_empty() || headings.collect::<Vec<_>>().contains(&part.to_owned()),
                    "{}: {link}",
                    page.display()
                );
            }
        }
    }

    #[test]
    fn every_page_is_in_the_summary() {
        let summary = fs::read_to_string(source().join("SUMMARY.md")).unwrap();
        let listed: BTreeSet<_> = links(&summary).into_iter().map(|link| source().join(link)).collect();
        let there: BTreeSet<_> = pages(&source()).into_iter().filter(|page| !page.ends_with("SUMMARY.md")).collect();
        assert_eq!(listed, there);
    }

    #[test]
    fn every_page_with_examples_is_compiled() {
        let compiled = include_str!("book.rs");
        for page in pages(&source()) {
            let text = fs::read_to_string(&page).unwrap();
            let has_examples = text.lines().any(|line| line.starts_with("```rust"));
            let mut opens = text.lines().filter(|line| line.starts_with("```")).step_by(2);
            assert!(opens.all(|line| line != "```"), "{}: code without a language", page.display());
            let name = page.strip_prefix(source()).unwrap().display().to_string();
            let is_compiled = compiled.contains(&format!("include_str!(\"src/{name}\")"));
            assert!(!has_examples || is_compiled, "{name} has examples that nobody compiles");
        }
    }
}
