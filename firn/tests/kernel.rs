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
fn cores_share_a_disk_and_lose_no_wake_up() {
    for (kind, cpus) in [(Kind::Microvm, 2), (Kind::Q35, 2), (Kind::Microvm, 4), (Kind::Q35, 4)] {
        let options = if cpus == 2 { "selftest=long" } else { "selftest" };
        let (status, log) = boot_on(kind, cpus, options, None, Some(64 << 20));
        assert!(status == CLEAN && log.contains("selftest passed"), "{kind:?}, {cpus}: {status}\n{log}");
        assert!(log.contains(&format!("{cpus} running")) && log.contains("disk 64 MiB"), "{log}");
        let last = format!("for a wake-up of core {}", cpus - 1);
        assert!(log.contains(&last), "{log}");
    }
}

#[test]
fn a_machine_has_64_processors_at_most() {
    let (status, log) = boot_on(Kind::Microvm, 66, "", None, None);
    assert!(status == REFUSED && log.contains("no boot bundle"), "{status}\n{log}");
    assert!(log.contains("more than 64 processors") && log.contains("66 processor(s), 64 running"), "{log}");
}

/// The machine goes on with the processors that start, and says which do not.
#[test]
fn processors_that_do_not_start_are_left_out() {
    let cases = [
        ("cpu-fault=missing", 3, "processor 254 does not start", "4 processor(s), 3 running"),
        ("cpu-fault=page", 3, "no memory below 1 MiB", "3 processor(s), 1 running"),
        ("cpus=2", 3, "more than 2 processors", "3 processor(s), 2 running"),
        ("cpus=1", 2, "1 running", "2 processor(s), 1 running"),
    ];
    for kind in [Kind::Microvm, Kind::Q35] {
        for (option, cpus, warning, running) in cases {
            let (status, log) = boot_on(kind, cpus, &format!("selftest {option}"), None, None);
            assert!(status == CLEAN && log.contains("selftest passed"), "{kind:?}, {option}: {status}\n{log}");
            assert!(log.contains(warning) && log.contains(running), "{kind:?}, {option}:\n{log}");
        }
    }
}

#[test]
fn a_panic_on_any_processor_stops_all_and_says_which_it_was() {
    for (kind, cpus) in [(Kind::Microvm, 2), (Kind::Q35, 3)] {
        let (status, log) = boot_on(kind, cpus, "panic=other", None, None);
        assert_eq!(status, PANICKED, "{log}");
        let report: Vec<&str> = log.lines().skip_while(|line| !line.contains("panic: asked for")).collect();
        assert!(report[1].contains(&format!("on processor {} of {cpus}", cpus - 1)), "{log}");
        // The others print until they are stopped, and not into the report.
        assert!(report.last().is_some_and(|line| line.contains("backtrace 0x")), "{log}");
        assert!(!report.iter().any(|line| line.contains("goes on")), "{log}");
        let symbolizer = Symbolizer::of_kernel(&std::fs::read(built().kernel()).unwrap());
        let named = symbolizer.name(report[report.len() - 1]);
        assert!(named.contains("panic_elsewhere"), "{named}\n{log}");
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
