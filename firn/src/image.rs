//! Writes the flat image of a guest, as [`virtual_isa::image`] lays it out.

use crate::elf::{Guest, Segment};
use crate::error::{Error, Result};
use crate::symbols::Symbols;
use std::fs;
use std::path::{Path, PathBuf};
use virtual_isa::PAGE_SIZE;
use virtual_isa::image::{HEADER_BYTES, Image, ImageError, RUN_BYTES, Rights, Run, checksum, encode_header};

/// Encodes a guest. What it returns has passed [`Image::check`].
///
/// # Errors
/// What `Image::check` finds, which would be a defect of [`crate::elf::read`].
pub fn encode(guest: &Guest) -> std::result::Result<Vec<u8>, ImageError> {
    let mut at = (HEADER_BYTES + guest.segments.len() * RUN_BYTES).next_multiple_of(PAGE_SIZE);
    let mut runs = Vec::with_capacity(guest.segments.len());
    for segment in &guest.segments {
        let content_pages = stored(segment).len().div_ceil(PAGE_SIZE);
        runs.push(Run {
            first_page: segment.first_page,
            nr_pages: segment.nr_pages,
            rights: segment.rights,
            content_at: if content_pages == 0 { 0 } else { number(at)? },
            content_pages: number(content_pages)?,
        });
        at += content_pages * PAGE_SIZE;
    }
    let mut body = Vec::with_capacity(at);
    encode_header(guest.entry, at as u64, 0, &runs, |bytes| body.extend_from_slice(bytes));
    for (segment, run) in guest.segments.iter().zip(&runs) {
        if run.content_pages > 0 {
            body.resize(run.content_at as usize, 0);
            body.extend_from_slice(stored(segment));
        }
    }
    body.resize(at, 0);
    let mut file = Vec::with_capacity(at);
    encode_header(guest.entry, at as u64, checksum(&body[HEADER_BYTES..]), &runs, |bytes| {
        file.extend_from_slice(bytes)
    });
    file.extend_from_slice(&body[file.len()..]);
    Image::check(&file)?;
    Ok(file)
}

/// The contents that must be in the file: zeros at the end of data need not.
fn stored(segment: &Segment) -> &[u8] {
    let used = match segment.rights {
        Rights::ReadWrite => segment.content.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1),
        Rights::Read | Rights::ReadExecute => segment.content.len(),
    };
    &segment.content[..used]
}

fn number(n: usize) -> std::result::Result<u32, ImageError> {
    u32::try_from(n).map_err(|_| ImageError::Truncated)
}

/// What [`convert`] wrote.
#[derive(Clone, Debug)]
pub struct Written {
    /// The image.
    pub image: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Pages it takes in a VM.
    pub pages: u32,
    /// The names of its functions.
    pub symbols: PathBuf,
    /// The program it was made of, for debuggers.
    pub program: PathBuf,
}

/// Turns an ELF file into an image, with a file of symbols and the ELF file itself beside it.
///
/// # Errors
/// `Elf` if the file is not a guest, `Io`.
pub fn convert(elf: &Path, image: &Path) -> Result<Written> {
    let bytes = fs::read(elf).map_err(Error::io("read", elf))?;
    let guest = crate::elf::read(&bytes).map_err(|error| Error::Elf { file: elf.to_path_buf(), error })?;
    let encoded = encode(&guest).map_err(|error| Error::Image { file: image.to_path_buf(), error })?;
    if let Some(folder) = image.parent() {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    let symbols = image.with_extension("sym");
    replace(&symbols, Symbols::of_elf(&bytes).to_text().as_bytes())?;
    let program = image.with_extension("elf");
    if program != elf {
        replace(&program, &bytes)?;
    }
    replace(image, &encoded)?;
    let pages = guest.segments.last().map_or(0, |s| s.first_page + s.nr_pages);
    Ok(Written { image: image.to_path_buf(), bytes: encoded.len() as u64, pages, symbols, program })
}

/// Writes a file so that a reader sees the old one or the new one, never a part.
///
/// # Errors
/// `Io`.
pub fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let new = file.with_file_name(name);
    fs::write(&new, bytes).map_err(Error::io("write", &new))?;
    fs::rename(&new, file).map_err(Error::io("replace", file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::craft::{good, load};

    #[test]
    fn an_image_holds_what_the_elf_file_loads() {
        let guest = crate::elf::read(&good().bytes()).unwrap();
        let file = encode(&guest).unwrap();
        let image = Image::check(&file).unwrap();
        let runs: Vec<_> = image.runs().collect();
        assert_eq!(image.entry(), 0x20_010);
        assert_eq!(runs.len(), 3);
        assert_eq!((runs[2].nr_pages, runs[2].content_pages), (5, 2));
        assert_eq!(image.content(&runs[0], 0x20).unwrap()[..4], [0x90; 4]);
        assert_eq!(&image.content(&runs[1], 0x21).unwrap()[..10], b"constants\0");
        assert_eq!(image.content(&runs[2], 0x23).unwrap()[..5], [1, 1, 1, 1, 0]);
        assert!(image.content(&runs[2], 0x24).is_none());
    }

    #[test]
    fn zeros_of_data_are_not_stored() {
        let mut elf = good();
        elf.programs[2] = load(6, 0x22_000, &[0; 0x4000], 0x5000);
        let file = encode(&crate::elf::read(&elf.bytes()).unwrap()).unwrap();
        assert_eq!(file.len(), 3 * PAGE_SIZE);
        let image = Image::check(&file).unwrap();
        assert_eq!(image.end_page(), 0x27);
    }

    #[test]
    fn converting_names_the_file_that_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let elf = folder.path().join("bad.elf");
        fs::write(&elf, &good().bytes()[..80]).unwrap();
        let image = folder.path().join("out/bad.img");
        let message = convert(&elf, &image).unwrap_err().to_string();
        assert!(message.contains("bad.elf") && message.contains("truncated") && message.contains("help:"), "{message}");
        assert!(!image.exists());
        fs::write(&elf, good().bytes()).unwrap();
        let written = convert(&elf, &image).unwrap();
        assert_eq!(written.pages, 0x27);
        assert!(image.exists() && written.symbols.exists() && fs::read(written.program).unwrap() == good().bytes());
    }
}
