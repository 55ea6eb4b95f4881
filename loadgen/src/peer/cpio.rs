//! Archives as Linux takes them for its first file system: cpio, "newc" form, not compressed.
//!
//! A header is 110 characters: a magic number and 13 numbers of 8 hexadecimal digits. Name and content follow, each
//! filled up to a multiple of 4. Source: the kernel's documentation, "initramfs buffer format".

use std::collections::BTreeSet;

const MAGIC: &str = "070701";
const END: &str = "TRAILER!!!";

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// An archive that is being written. Folders are made as they are needed; all belongs to root.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// Whether there is something of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Adds a folder and all above it. Names have no `/` at their start.
    pub fn folder(&mut self, name: &str) {
        if name.is_empty() || self.has(name) {
            return;
        }
        self.parents_of(name);
        self.entry(name, FOLDER | 0o755, (0, 0), &[]);
    }

    /// Adds a file, if there is none of that name.
    pub fn file(&mut self, name: &str, content: &[u8], is_program: bool) {
        self.add(name, FILE | if is_program { 0o755 } else { 0o644 }, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.add(name, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device by its numbers.
    pub fn device(&mut self, name: &str, numbers: (u32, u32)) {
        self.add(name, DEVICE | 0o600, numbers, &[]);
    }

    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        if !self.has(name) {
            self.parents_of(name);
            self.entry(name, mode, device, content);
        }
    }

    fn parents_of(&mut self, name: &str) {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.names.insert(name.to_owned());
        let length = |bytes: usize| u32::try_from(bytes).expect("less than 4 GiB");
        let number = length(self.names.len());
        let name_bytes = length(name.len() + 1);
        let fields = [number, mode, 0, 0, 1, 0, length(content.len()), 0, 0, device.0, device.1, name_bytes, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.fill_up();
        self.bytes.extend_from_slice(content);
        self.fill_up();
    }

    fn fill_up(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader finds: names, modes, contents.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[..6], MAGIC.as_bytes());
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, content, name) = (field(1), field(6), field(11));
            let begin = (110 + name).next_multiple_of(4);
            let text = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name - 1], 0);
            if text == END {
                assert_eq!(bytes.len(), begin);
                return found;
            }
            found.push((text, u32::try_from(mode).unwrap(), bytes[begin..begin + content].to_vec()));
            bytes = &bytes[(begin + content).next_multiple_of(4)..];
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.file("a/b/one", b"1", true);
        archive.link("a/two", "b/one");
        archive.folder("a");
        archive.device("dev/console", (5, 1));
        archive.file("a/b/one", b"another", false);
        let found = read(&archive.finish());
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/two", "dev", "dev/console"]);
        assert_eq!((found[2].1, found[2].2.as_slice()), (0o100_755, &b"1"[..]));
        assert_eq!((found[3].1, found[3].2.as_slice()), (0o120_777, &b"b/one"[..]));
        assert_eq!((found[0].1, found[5].1), (0o040_755, 0o020_600));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(files in prop::collection::btree_map("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..40), 0..9)) {
            let mut archive = Archive::default();
            for (name, content) in &files {
                archive.file(name, content, false);
            }
            let expected: Vec<_> = files.into_iter().map(|(name, content)| (name, 0o100_644, content)).collect();
            prop_assert_eq!(read(&archive.finish()), expected);
        }
    }
}
