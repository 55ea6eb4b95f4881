//! Parsers of the kernel: frames, rings, the boot bundle, images, the supervisor's requests.

use virtual_isa::bundle::{self, Bundle, EntryKind};
use virtual_isa::gate::{Message, Operation, Request};
use virtual_isa::image::{self, Image, Rights, Run, checksum};
use virtual_isa::network::{MAX_FRAME_BYTES, Network, ipv6_of};
use virtual_isa::ring::{self, Found};
use vm::gateways::Gateways;
use vm::route::{HEAD_BYTES, Source, Verdict, answer, route};

/// IP packets, of both kinds.
#[must_use]
pub fn packet_examples() -> Vec<Vec<u8>> {
    let network = Network::default();
    let (from, to) = (network.host_ipv4, network.ipv4_of(1));
    let tcp = [156, 64, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0];
    let mut four = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    four.extend_from_slice(&from);
    four.extend_from_slice(&to);
    four.extend_from_slice(&tcp);
    let mut six = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    six.extend_from_slice(&ipv6_of(from));
    six.extend_from_slice(&ipv6_of(to));
    six.extend_from_slice(&tcp);
    vec![four, six]
}

/// Frames: packets, and questions for neighbours.
#[must_use]
pub fn frame_examples() -> Vec<Vec<u8>> {
    let network = Network::default();
    let framed = |to: [u8; 6], kind: [u8; 2], content: &[u8]| {
        let mut frame = to.to_vec();
        frame.extend_from_slice(&network.host_mac);
        frame.extend_from_slice(&kind);
        frame.extend_from_slice(content);
        frame
    };
    let kinds = [[8, 0], [0x86, 0xdd]];
    let mut frames: Vec<_> =
        kinds.into_iter().zip(packet_examples()).map(|(kind, it)| framed(Network::mac_of(1), kind, &it)).collect();
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend_from_slice(&network.host_mac);
    arp.extend_from_slice(&network.host_ipv4);
    arp.extend_from_slice(&[0; 6]);
    arp.extend_from_slice(&network.ipv4_of(1));
    frames.push(framed([0xff; 6], [8, 6], &arp));
    let mut asks = vec![0x60, 0, 0, 0, 0, 32, 58, 255];
    asks.extend_from_slice(&ipv6_of(network.host_ipv4));
    asks.extend_from_slice(&ipv6_of(network.ipv4_of(1)));
    asks.extend_from_slice(&[135, 0, 0, 0, 0, 0, 0, 0]);
    asks.extend_from_slice(&ipv6_of(network.ipv4_of(1)));
    asks.extend_from_slice(&[1, 1]);
    asks.extend_from_slice(&network.host_mac);
    frames.push(framed([0x33, 0x33, 0xff, 0, 0, 1], [0x86, 0xdd], &asks));
    frames
}

/// A frame's way is decided by its head alone, goes to nobody who is not there to be had, and a VM speaks for itself only.
///
/// # Panics
/// If it does not.
pub fn frames(bytes: &[u8]) {
    let (network, plain) = (Network::default(), Gateways::new());
    let mut behind = Gateways::new();
    behind.set(1, 2, Some(9)).expect("it is a range");
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    for source in [Source::Wire, Source::Vm(1), Source::Vm(9)] {
        for gateways in [&plain, &behind] {
            let verdict = route(&network, gateways, source, bytes, bytes.len());
            assert_eq!(verdict, route(&network, gateways, source, head, bytes.len()), "its head is enough");
            match verdict {
                // Which may be the one that it comes from: a VM may speak to itself.
                Verdict::ToVm(vm) => assert_eq!(network.vm_at(network.ipv4_of(vm)), Some(vm)),
                Verdict::ToWire => assert_ne!(source, Source::Wire, "what comes from outside does not go back"),
                Verdict::Asks { ipv4, mac, .. } => {
                    let mut out = [0xa5; MAX_FRAME_BYTES];
                    if let Some(length) = answer(bytes, ipv4, mac, &mut out) {
                        assert!((14..=MAX_FRAME_BYTES).contains(&length));
                        assert!(out[length..].iter().all(|&byte| byte == 0xa5), "nothing behind the answer");
                    }
                }
                Verdict::Drop(_) => {}
            }
        }
    }
}

/// Indices, lengths and a word of a ring.
#[must_use]
pub fn ring_examples() -> Vec<Vec<u8>> {
    let words = |words: [u32; 4]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    vec![words([0, 0, 60, 60]), words([4096, 4000, 1514, ring::SKIP]), words([0, u32::MAX - 7, 8, 8])]
}

/// What is found in a ring, or put there, lies in it and in what is published or free.
///
/// # Panics
/// If it does not.
pub fn rings(bytes: &[u8]) {
    const CAPACITY: u32 = 8192;
    let (words, _) = bytes.as_chunks::<4>();
    let [head, tail, length, word] = *words else { return };
    let [head, tail, length, word] = [head, tail, length, word].map(u32::from_le_bytes);
    match ring::published(CAPACITY, head, tail) {
        Err(_) => {
            assert!(ring::place(CAPACITY, head, tail, length).is_err());
            assert!(ring::read(CAPACITY, head, tail, word).is_err());
        }
        Ok(used) => {
            if let Ok(Some(place)) = ring::place(CAPACITY, head, tail, length) {
                assert!(place.bytes_at + length <= CAPACITY && place.header_at + 8 == place.bytes_at);
                assert!(place.next_head.wrapping_sub(tail) <= CAPACITY);
                assert!(ring::published(CAPACITY, place.next_head, tail).is_ok());
            }
            match ring::read(CAPACITY, head, tail, word) {
                Ok(Found::Record { bytes_at, length, next_tail }) => {
                    assert!(bytes_at + length <= CAPACITY && head.wrapping_sub(next_tail) < used);
                }
                Ok(Found::Skip { next_tail }) => {
                    assert!(head.wrapping_sub(next_tail) <= used && next_tail % CAPACITY == 0)
                }
                Ok(Found::Empty) => assert_eq!(used, 0),
                Ok(Found::Malformed { .. }) => assert!(used > 0),
                Err(corrupt) => panic!("{corrupt:?}"),
            }
        }
    }
}

/// An image, and a bundle with it.
#[must_use]
pub fn format_examples() -> Vec<Vec<u8>> {
    let runs = [
        Run { first_page: 0x20, nr_pages: 1, rights: Rights::ReadExecute, content_at: 4096, content_pages: 1 },
        Run { first_page: 0x21, nr_pages: 3, rights: Rights::ReadWrite, content_at: 8192, content_pages: 1 },
    ];
    let mut image = Vec::new();
    image::encode_header(0x2_0010, 0, 0, &runs, |bytes| image.extend_from_slice(bytes));
    image.resize(3 * 4096, 0x90);
    let entries = [(EntryKind::Plan, "plan", 10), (EntryKind::Image, "web", 5000)];
    let mut bundle = Vec::new();
    let length = bundle::encode_header(entries.into_iter(), |bytes| bundle.extend_from_slice(bytes));
    bundle.resize(usize::try_from(length).expect("it is small"), 0);
    vec![image, bundle]
}

/// Writes a length and a checksum of what follows the header into a copy, so that what is behind them is reached.
fn sealed(bytes: &[u8], length_at: usize, checksum_at: usize, covered: core::ops::Range<usize>) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let length = (bytes.len() as u64).to_le_bytes();
    bytes.get_mut(length_at..length_at + 8)?.copy_from_slice(&length);
    let end = covered.end.min(bytes.len());
    let sum = checksum(bytes.get(covered.start..end)?).to_le_bytes();
    bytes.get_mut(checksum_at..checksum_at + 4)?.copy_from_slice(&sum);
    Some(bytes)
}

fn check_image(bytes: &[u8]) {
    let Ok(image) = Image::check(bytes) else { return };
    let mut free_from = 0;
    for run in image.runs() {
        assert!(run.first_page >= free_from && run.nr_pages > 0 && run.content_pages <= run.nr_pages);
        free_from = run.first_page + run.nr_pages;
        for page in [run.first_page, free_from - 1] {
            assert!(image.content(&run, page).is_none_or(|content| content.len() == 4096));
        }
    }
    assert_eq!(image.end_page(), free_from);
    assert!(image.check_memory(free_from).is_ok() && image.check_memory(free_from - 1).is_err());
}

fn check_bundle(bytes: &[u8]) {
    let Ok(bundle) = Bundle::check(bytes) else { return };
    for entry in bundle.entries() {
        assert!(entry.bytes.len() <= bytes.len() && entry.name.len() <= 32);
    }
}

/// Files that a machine boots with are read as they are, and once more with what guards them made right.
///
/// # Panics
/// If what is in them lies outside, or overlaps.
pub fn formats(bytes: &[u8]) {
    check_image(bytes);
    check_bundle(bytes);
    if let Some(image) = sealed(bytes, 24, 32, 40..usize::MAX) {
        check_image(&image);
    }
    let entries =
        bytes.get(12..16).map_or(0, |count| u32::from_le_bytes([count[0], count[1], count[2], count[3]]) as usize);
    if let Some(bundle) = sealed(bytes, 16, 24, 32..32 + entries.min(1 << 16) * 48) {
        check_bundle(&bundle);
    }
}

/// Requests of the supervisor.
#[must_use]
pub fn gate_examples() -> Vec<Vec<u8>> {
    let operations = [Operation::Inspect { vm: 7 }, Operation::Machine];
    let encoded = |operation| {
        let mut space = [0; 2048];
        postcard::to_slice(&Request { ticket: 1, operation }, &mut space).map(|bytes| bytes.to_vec()).expect("it fits")
    };
    operations.into_iter().map(encoded).collect()
}

/// A request or a message that is read is written in a way that is read as the same.
///
/// # Panics
/// If it is not.
pub fn gate(bytes: &[u8]) {
    let mut space = vec![0; bytes.len() + 4096];
    if let Ok(request) = postcard::from_bytes::<Request<'_>>(bytes) {
        let written = postcard::to_slice(&request, &mut space).expect("it was shorter");
        assert_eq!(postcard::from_bytes::<Request<'_>>(written).as_ref(), Ok(&request));
    }
    if let Ok(message) = postcard::from_bytes::<Message<'_>>(bytes) {
        let written = postcard::to_slice(&message, &mut space).expect("it was shorter");
        assert_eq!(postcard::from_bytes::<Message<'_>>(written).as_ref(), Ok(&message));
    }
}
