//! The kernel on emulated machines, without VMs or with a bundle it must refuse.

mod common;

use common::{boot, boot_on, boot_with_disk, built, web_bundle};
use firn::logs::Symbolizer;
use firn::qemu::Kind;
use virtual_isa::bundle::{ENTRY_BYTES, HEADER_BYTES, exit_status};
use virtual_isa::image::checksum;

const CLEAN: i32 = exit_status(0) as i32;
const REFUSED: i32 = exit_status(1) as i32;
const PANICKED: i32 = 255;

#[test]
fn the_self_test_passes_on_microvm() {
    let (status, log) = boot(Kind::Microvm, "selftest", None);
    assert!(status == CLEAN && log.contains("selftest passed"), "{status}\n{log}");
}

#[test]
fn the_self_test_passes_on_q35() {
    let (status, log) = boot(Kind::Q35, "selftest", None);
    assert!(status == CLEAN && log.contains("selftest passed"), "{status}\n{log}");
}

#[test]
fn the_self_test_passes_on_many_processors() {
    for (kind, cpus) in [(Kind::Microvm, 2), (Kind::Q35, 2), (Kind::Microvm, 4), (Kind::Q35, 4)] {
        let (status, log) = boot_on(kind, cpus, "selftest", None, None);
        assert!(status == CLEAN && log.contains("selftest passed"), "{kind:?}, {cpus}: {status}\n{log}");
        // So that it is not one on the first alone that passed.
        assert!(log.contains(&format!("{cpus} processor(s), {cpus} running")), "{log}");
    }
}

#[test]
fn the_self_test_passes_with_a_disk() {
    for kind in [Kind::Microvm, Kind::Q35] {
        let (status, log) = boot_with_disk(kind, "selftest", None, Some(64 << 20));
        assert!(status == CLEAN && log.contains("selftest passed"), "{kind:?}: {status}\n{log}");
        // So that it is not one without a disk that passed.
        assert!(log.contains("disk 64 MiB"), "{log}");
    }
}

#[test]
fn a_panic_ends_the_emulator_with_a_backtrace_that_has_names() {
    let (status, log) = boot(Kind::Microvm, "panic", None);
    assert_eq!(status, PANICKED, "{log}");
    let symbolizer = Symbolizer::of_kernel(&std::fs::read(built().kernel()).unwrap());
    let line = log.lines().find(|line| line.contains("backtrace")).unwrap_or_else(|| panic!("{log}"));
    let named = symbolizer.name(line);
    assert!(named.contains("kernel_main+0x"), "{named}");
    assert!(log.contains("panic: asked for on the command line"), "{log}");
}

#[test]
fn unknown_options_are_named() {
    let (status, log) = boot(Kind::Microvm, "selftset log=error", None);
    assert!(status == REFUSED && log.contains("selftset"), "{status}\n{log}");
}

/// Checks that the kernel refuses a bundle with an error that has these words, and a plain status.
fn refuses(bundle: Option<&[u8]>, words: &str) {
    let (status, log) = boot(Kind::Microvm, "", bundle);
    let error = log.lines().find(|line| line.contains("] error ") && line.contains(words));
    assert!(status == REFUSED && error.is_some(), "{words}: {status}\n{log}");
}

#[test]
fn a_missing_bundle_is_refused() {
    refuses(None, "no boot bundle");
}

#[test]
fn bundles_cut_in_the_middle_are_refused() {
    let bundle = web_bundle();
    for length in [16, HEADER_BYTES + ENTRY_BYTES, bundle.len() / 2, bundle.len() - 4096] {
        refuses(Some(&bundle[..length]), "cut short");
    }
}

#[test]
fn bundles_with_a_bad_header_are_refused() {
    let bundle = web_bundle();
    let with = |at: usize, value: u8| {
        let mut bundle = bundle.clone();
        bundle[at] = value;
        bundle
    };
    refuses(Some(&with(0, b'F')), "not a Firn boot bundle");
    refuses(Some(&with(8, 77)), "bundle version 77");
    refuses(Some(&with(23, 1)), "cut short");
    refuses(Some(&with(HEADER_BYTES + 20, b'x')), "table is damaged");
}

#[test]
fn bundles_that_point_outside_are_refused() {
    let mut bundle = web_bundle();
    bundle[HEADER_BYTES + 8 + 6] = 1;
    let sum = checksum(&bundle[HEADER_BYTES..HEADER_BYTES + 4 * ENTRY_BYTES]);
    bundle[24..28].copy_from_slice(&sum.to_le_bytes());
    refuses(Some(&bundle), "lies outside the bundle");
}

#[test]
fn a_damaged_supervisor_image_is_refused() {
    let mut bundle = web_bundle();
    let entry = HEADER_BYTES + 2 * ENTRY_BYTES;
    let offset = u64::from_le_bytes(bundle[entry + 8..entry + 16].try_into().unwrap());
    bundle[usize::try_from(offset).unwrap() + 5000] ^= 1;
    refuses(Some(&bundle), "damaged");
}
