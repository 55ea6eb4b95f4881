//! What the fuzzers run, on inputs near the examples: every test run is a short fuzzing.

use parsers::{TARGETS, Target};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// A change to an input.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let interesting = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'0')];
    prop_oneof![
        4 => (any::<Index>(), interesting).prop_map(|(at, byte)| Edit::Set(at, byte)),
        4 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        2 => (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        2 => (any::<Index>(), 1usize..20).prop_map(|(at, length)| Edit::Remove(at, length)),
        1 => (any::<Index>(), 1usize..40).prop_map(|(at, length)| Edit::Repeat(at, length)),
        1 => any::<Index>().prop_map(Edit::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let place = |at: &Index| at.index(bytes.len().max(1)).min(bytes.len());
    match edit {
        Edit::Set(at, byte) => {
            let at = place(at);
            bytes.get_mut(at).into_iter().for_each(|there| *there = *byte);
        }
        Edit::Flip(at, bit) => {
            let at = place(at);
            bytes.get_mut(at).into_iter().for_each(|there| *there ^= 1 << bit);
        }
        Edit::Insert(at, new) => {
            let at = place(at);
            bytes.splice(at..at, new.iter().copied());
        }
        Edit::Remove(at, length) => {
            let at = place(at);
            bytes.drain(at..(at + length).min(bytes.len()));
        }
        Edit::Repeat(at, length) => {
            let at = place(at);
            let again = bytes[at..(at + length).min(bytes.len())].to_vec();
            bytes.splice(at..at, again);
        }
        Edit::Cut(at) => bytes.truncate(place(at)),
    }
}

/// As many inputs as take a moment.
fn cases(target: &Target) -> u32 {
    if target.name == "formats" { 400 } else { 3000 }
}

fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let examples = (target.examples)();
    examples.iter().for_each(|example| (target.run)(example));
    let near = (any::<Index>(), proptest::collection::vec(edit(), 1..12)).prop_map(move |(at, edits)| {
        let mut bytes = at.get(&examples).clone();
        edits.iter().for_each(|edit| apply(&mut bytes, edit));
        bytes
    });
    let inputs = prop_oneof![9 => near, 1 => proptest::collection::vec(any::<u8>(), 0..200)];
    let config = Config { cases: cases(target), failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&inputs, |bytes| {
            (target.run)(&bytes);
            Ok(())
        })
        .unwrap();
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                fuzz(stringify!($name));
            }
        )*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

tests! {
    http_head http_stream http_range proxy_heads proxy_chunks resp dns resolver mqtt arena firewall frames rings formats gate
}

#[test]
fn every_target_is_tested_and_fuzzed() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for name in names {
        let source = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("(\"{name}\")")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}

/// The examples are inputs that are taken: a parser that refuses all would pass everything else.
#[test]
fn examples_go_far() {
    use libos::http::Request;
    let taken = parsers::services::http_examples().iter().filter(|bytes| Request::parse(bytes).is_ok()).count();
    assert!(taken >= 3, "{taken}");
    let image = &parsers::kernel::format_examples()[0];
    let mut sealed = image.clone();
    sealed[24..32].copy_from_slice(&(image.len() as u64).to_le_bytes());
    let sum = virtual_isa::image::checksum(&sealed[40..]).to_le_bytes();
    sealed[32..36].copy_from_slice(&sum);
    assert!(virtual_isa::image::Image::check(&sealed).is_ok());
    assert!(virtual_isa::bundle::Bundle::check(&parsers::kernel::format_examples()[1]).is_ok());
    let answer = &parsers::services::resolver_examples()[0];
    assert_eq!(libos::net::parsers::answer(answer, 7, "www.example.org").map(|found| found.len()), Some(1));
    let network = virtual_isa::network::Network::default();
    let gateways = vm::gateways::Gateways::new();
    for frame in parsers::kernel::frame_examples() {
        let verdict = vm::route::route(&network, &gateways, vm::route::Source::Wire, &frame, frame.len());
        assert!(!matches!(verdict, vm::route::Verdict::Drop(_)), "{verdict:?}");
    }
}
