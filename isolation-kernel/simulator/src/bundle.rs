//! Boot bundles for tests: the images hold no code, as programs are the test's own.

use virtual_isa::bundle::{EntryKind, MachinePlan, encode_header};
use virtual_isa::image::{self, Rights, Run, checksum};
use virtual_isa::network::Network;

/// First page of the test image's text (two pages), constants (one) and data (one page of contents, two of zeros).
pub const TEXT: u32 = 0x20;
/// See [`TEXT`].
pub const CONSTANTS: u32 = 0x22;
/// See [`TEXT`].
pub const DATA: u32 = 0x23;
/// First page after the image.
pub const END: u32 = 0x26;

/// The byte that fills a page of the image's contents.
#[must_use]
pub fn fill_of(page: u32) -> u8 {
    u8::try_from(page & 0xff).expect("one byte")
}

/// First instruction of the test image. The supervisor's begins elsewhere, to be told apart.
pub const ENTRY: u64 = TEXT as u64 * 4096;

/// A test image.
#[must_use]
pub fn test_image() -> Vec<u8> {
    image_with_entry(ENTRY)
}

/// A test image for the supervisor.
#[must_use]
pub fn supervisor_image() -> Vec<u8> {
    image_with_entry(ENTRY + 4096)
}

fn image_with_entry(entry: u64) -> Vec<u8> {
    let runs = [
        Run { first_page: TEXT, nr_pages: 2, rights: Rights::ReadExecute, content_at: 4096, content_pages: 2 },
        Run { first_page: CONSTANTS, nr_pages: 1, rights: Rights::Read, content_at: 3 * 4096, content_pages: 1 },
        Run { first_page: DATA, nr_pages: 3, rights: Rights::ReadWrite, content_at: 4 * 4096, content_pages: 1 },
    ];
    let file_bytes = 5 * 4096u64;
    let encode = |sum: u32| {
        let mut bytes = Vec::new();
        image::encode_header(entry, file_bytes, sum, &runs, |b| bytes.extend_from_slice(b));
        bytes.resize(4096, 0);
        for page in [TEXT, TEXT + 1, CONSTANTS, DATA] {
            bytes.extend(std::iter::repeat_n(fill_of(page), 4096));
        }
        bytes
    };
    let sum = checksum(&encode(0)[image::HEADER_BYTES..]);
    encode(sum)
}

/// A bundle with a machine plan without swap and these images, the first of them the supervisor's.
///
/// # Panics
/// If the images are too large for a bundle.
#[must_use]
pub fn bundle(images: &[Vec<u8>]) -> Vec<u8> {
    bundle_with_swap(images, 0)
}

/// A bundle with a machine plan and these images, the first of them the supervisor's.
///
/// # Panics
/// If the images are too large for a bundle.
#[must_use]
pub fn bundle_with_swap(images: &[Vec<u8>], swap_pages: u64) -> Vec<u8> {
    let network = Network::default();
    let plan = MachinePlan { network, seed: [7; 32], written_ns: 0, supervisor_pages: 512, swap_pages };
    let plan = postcard::to_stdvec(&plan).expect("a plan can be encoded");
    let mut entries = vec![(EntryKind::Machine, "machine", &plan)];
    entries.extend(images.iter().map(|image| (EntryKind::Image, "image", image)));
    let mut bytes = Vec::new();
    let table = entries.iter().map(|&(kind, name, content)| (kind, name, u32::try_from(content.len()).expect("small")));
    let length = encode_header(table, |b| bytes.extend_from_slice(b));
    for (_, _, content) in &entries {
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes.extend_from_slice(content);
    }
    bytes.resize(usize::try_from(length).expect("small"), 0);
    bytes
}
