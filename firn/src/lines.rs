//! Functions and lines for addresses, from the debugging information of a program: also of functions that were inlined,
//! which [`crate::symbols`] cannot know.

use addr2line::Loader;
use std::cell::OnceCell;
use std::fmt;
use std::path::PathBuf;

/// A call that was under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub function: String,
    /// File and line, if they are known.
    pub place: Option<(String, u32)>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        self.place.as_ref().map_or(Ok(()), |(file, line)| write!(f, " at {file}:{line}"))
    }
}

/// The lines of one program, which is read when the first of them is asked for.
pub struct Lines {
    file: PathBuf,
    loader: OnceCell<Option<Loader>>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({})", self.file.display())
    }
}

impl Lines {
    /// Of a program, which need not be there.
    #[must_use]
    pub const fn of(file: PathBuf) -> Self {
        Self { file, loader: OnceCell::new() }
    }

    /// The calls that were under way at an address, the innermost first: several if functions were inlined, none if
    /// nothing is known of it.
    #[must_use]
    pub fn calls(&self, address: u64) -> Vec<Call> {
        let loader = self.loader.get_or_init(|| Loader::new(&self.file).ok());
        loader.as_ref().and_then(|loader| calls(loader, address)).unwrap_or_default()
    }
}

fn calls(loader: &Loader, address: u64) -> Option<Vec<Call>> {
    // The crate adds to it what would overflow.
    address.checked_add(1)?;
    let mut frames = loader.find_frames(address).ok()?;
    let mut calls = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        let name = frame.function.as_ref().and_then(|function| function.demangle().ok());
        let place = frame.location.and_then(|location| Some((short(location.file?).to_owned(), location.line?)));
        // Of a function without inlined ones the name may be left to the symbols.
        let function = name.map_or_else(|| "?".to_owned(), |name| name.into_owned());
        calls.push(Call { function, place });
    }
    Some(calls)
}

/// A file's path without the folders in which compiler and cargo keep other people's code.
fn short(path: &str) -> &str {
    let behind = |marker: &str| path.split_once(marker).map(|(_, rest)| rest);
    let of_crate = behind("/registry/src/").and_then(|rest| rest.split_once('/')).map(|(_, rest)| rest);
    let of_rust =
        behind("/rustlib/src/rust/").or_else(|| path.strip_prefix("/rustc/")?.split_once('/').map(|(_, rest)| rest));
    of_crate.or(of_rust).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_other_peoples_code_are_short() {
        for (path, shortened) in [
            ("/home/me/.cargo/registry/src/index-1949/smoltcp-0.14.0/src/lib.rs", "smoltcp-0.14.0/src/lib.rs"),
            ("/home/me/.rustup/x/lib/rustlib/src/rust/library/core/src/str.rs", "library/core/src/str.rs"),
            ("/rustc/5980/library/core/src/panicking.rs", "library/core/src/panicking.rs"),
            ("/home/me/hello/src/lib.rs", "/home/me/hello/src/lib.rs"),
            ("/rustc/", "/rustc/"),
        ] {
            assert_eq!(short(path), shortened);
        }
    }

    #[inline(never)]
    fn here() -> u64 {
        here as fn() -> u64 as usize as u64
    }

    /// Where this program has been loaded, above where its file says.
    fn base(lines: &Lines) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let first = maps.lines().find(|line| line.ends_with(&lines.file.display().to_string())).unwrap();
        u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap()
    }

    #[test]
    fn this_program_knows_its_own_lines() {
        let lines = Lines::of(std::env::current_exe().unwrap());
        let calls = lines.calls(here() - base(&lines));
        let last = calls.last().unwrap();
        assert!(last.function.ends_with("lines::tests::here"), "{calls:?}");
        let (file, line) = last.place.clone().unwrap();
        assert!(file.ends_with("src/lines.rs") && line > 0, "{calls:?}");
        assert_eq!(last.to_string(), format!("{} at {file}:{line}", last.function));
    }

    #[test]
    fn nothing_is_known_of_what_is_not_there() {
        assert!(Lines::of("/no/such/file".into()).calls(0x2_0000).is_empty());
        assert!(Lines::of(std::env::current_exe().unwrap()).calls(u64::MAX).is_empty());
    }
}
